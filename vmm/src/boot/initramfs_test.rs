use std::io::Write;
use std::process::{Command, Stdio};

use runcvm_devices::GuestMemory;

use super::*;

fn file(path: &str, mode: u32, content: &[u8]) -> InitramfsPart {
    InitramfsPart::File {
        path: path.to_owned(),
        mode,
        content: Content::Bytes(content.to_vec()),
    }
}

const SIZE: u64 = 64 << 20;

fn memory() -> GuestMemory {
    memory::create(SIZE).unwrap()
}

/// The initramfs as the guest finds it.
fn composed(parts: &[InitramfsPart]) -> Vec<u8> {
    let memory = memory();
    let (at, len) = load(&memory, SIZE, 0x100_0000, parts).unwrap().unwrap();
    assert_eq!(at.0 % PAGE, 0);
    assert!(at.0 + len <= SIZE);
    let mut bytes = vec![0; usize::try_from(len).unwrap()];
    memory.read_slice(&mut bytes, at).unwrap();
    bytes
}

/// What cpio makes of it, or nothing where there is no cpio.
fn cpio_lists(archive: &[u8]) -> Option<String> {
    let mut cpio = Command::new("cpio")
        .args(["-itv", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    cpio.stdin.take().unwrap().write_all(archive).unwrap();
    let output = cpio.wait_with_output().unwrap();
    assert!(output.status.success());
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn single_files_make_an_archive_with_their_directories() {
    let archive = composed(&[
        file("/init", 0o755, b"#!/bin/sh\n"),
        file("/runcvm/config", 0o600, b"abc"),
        file("/runcvm/more/x", 0o644, b""),
    ]);
    assert!(archive.starts_with(b"070701"));
    assert_eq!(archive.len() % 4, 0);
    let Some(listing) = cpio_lists(&archive) else {
        return;
    };
    let lines: Vec<Vec<&str>> = listing
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let shown: Vec<(&str, &str, &str)> = lines
        .iter()
        .map(|words| (words[0], words[4], *words.last().unwrap()))
        .collect();
    let expected = [
        ("-rwxr-xr-x", "10", "init"),
        ("drwxr-xr-x", "0", "runcvm"),
        ("-rw-------", "3", "runcvm/config"),
        ("drwxr-xr-x", "0", "runcvm/more"),
        ("-rw-r--r--", "0", "runcvm/more/x"),
    ];
    assert_eq!(shown, expected);
}

#[test]
fn archives_begin_aligned_and_after_a_trailer() {
    let mut odd = tempfile::NamedTempFile::new().unwrap();
    odd.write_all(b"\x28\xb5\x2f\xfdzst").unwrap();
    let path = odd.path().to_owned();
    let archive = composed(&[
        InitramfsPart::Archive(path.clone()),
        file("/a", 0o644, b"12345"),
        InitramfsPart::Archive(path),
        file("/b", 0o644, b"b"),
    ]);
    let find = |needle: &[u8]| -> Vec<usize> {
        archive
            .windows(needle.len())
            .enumerate()
            .filter(|(_, window)| *window == needle)
            .map(|(at, _)| at)
            .collect()
    };
    let compressed = find(b"\x28\xb5\x2f\xfdzst");
    let headers = find(b"070701");
    let trailers = find(b"TRAILER!!!\0");
    assert_eq!(compressed.len(), 2);
    assert_eq!(trailers.len(), 2);
    assert!(compressed.iter().chain(&headers).all(|at| at % 4 == 0));
    assert_eq!(headers[0], 8);
    assert!(trailers[0] < compressed[1] && compressed[1] < headers[2]);
}

#[test]
fn contents_of_files_arrive_whole() {
    let content: Vec<u8> = (0..100_001_u32).map(|n| n.to_le_bytes()[0]).collect();
    let mut source = tempfile::NamedTempFile::new().unwrap();
    source.write_all(&content).unwrap();
    let part = InitramfsPart::File {
        path: "/big".to_owned(),
        mode: 0o644,
        content: Content::Path(source.path().to_owned()),
    };
    let archive = composed(&[part]);
    let header = cpio::header("big", Kind::File, 0o644, 100_001);
    assert_eq!(archive[..header.len()], header);
    assert_eq!(archive[header.len()..][..content.len()], content);
}

#[test]
fn no_parts_make_no_initramfs() {
    assert!(load(&memory(), SIZE, 0, &[]).unwrap().is_none());
}

#[test]
fn what_does_not_fit_beside_the_kernel_is_refused() {
    let parts = [file("/big", 0o644, &vec![1; 1 << 20])];
    let end = SIZE - (1 << 20);
    let error = load(&memory(), SIZE, end, &parts).unwrap_err();
    assert!(
        matches!(
            error,
            InitramfsError::TooBig {
                room: 0x10_0000,
                ..
            }
        ),
        "{error}"
    );
    assert!(load(&memory(), SIZE, end - 4096, &parts).unwrap().is_some());
    let error = load(&memory(), SIZE, SIZE + 4096, &parts).unwrap_err();
    assert!(
        matches!(error, InitramfsError::TooBig { room: 0, .. }),
        "{error}"
    );
}

#[test]
fn bad_paths_and_files_are_named() {
    for path in ["", "init", "/", "/a//b", "/a/../b", "/./a", "/a/", "/a\0b"] {
        let error = load(&memory(), SIZE, 0, &[file(path, 0o644, b"")]).unwrap_err();
        assert!(matches!(error, InitramfsError::BadPath { .. }), "{path:?}");
    }
    for path in ["/nonexistent/archive", "/"] {
        let part = InitramfsPart::Archive(path.into());
        let error = load(&memory(), SIZE, 0, &[part]).unwrap_err();
        assert!(error.to_string().contains(path));
    }
}
