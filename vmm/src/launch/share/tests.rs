//! Shares with a script in virtiofsd's place, which writes down what it finds.

use std::io::{Read, Write};

use super::*;

/// A script that runs `body` and ends; its output goes to the file `out` beside it.
fn daemon(dir: &Path, body: &str) -> PathBuf {
    let path = dir.join("virtiofsd");
    let out = dir.join("out");
    let script = format!("#!/bin/sh\nexec >{}\n{body}\n", out.display());
    // Written by another process: a child that some other test forks while we have the file
    // open for writing would keep it from being executed.
    let write = Command::new("sh")
        .args(["-c", "printf %s \"$1\" >\"$0\" && chmod +x \"$0\""])
        .arg(&path)
        .arg(script)
        .status();
    assert!(write.unwrap().success());
    path
}

/// Runs the script over `opened` and returns what it wrote.
fn output(dir: &Path, body: &str, opened: Opened) -> String {
    let run_dir = RunDir::acquire(&dir.join("run"), "test").unwrap();
    let (mut share, _client) =
        start(&daemon(dir, body), Service::default(), opened, &run_dir, 0).unwrap();
    while share.daemon.ended().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    fs::read_to_string(dir.join("out")).unwrap()
}

#[test]
fn a_directory_is_the_daemon_s_working_directory() {
    let dir = tempfile::tempdir().unwrap();
    let shared = dir.path().join("a \u{e9}");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("inside"), "").unwrap();
    let opened = open_root(&shared, false).unwrap();
    let found = output(dir.path(), "ls; echo \"$@\"", opened);
    let (listing, options) = found.split_once('\n').unwrap();
    assert_eq!(listing, "inside");
    assert!(options.contains("--shared-dir . "), "{options}");
    assert!(!options.contains("--readonly"), "{options}");
}

#[test]
fn of_a_file_nothing_but_the_file_is_seen() {
    if sandbox::strongest() == Sandbox::None {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("one");
    fs::write(&file, "before").unwrap();
    fs::write(dir.path().join("two"), "").unwrap();
    let opened = open_volume(&file, false).unwrap();
    assert!(opened.is_file());
    // What is next to it cannot be made, and it can be written.
    let body = "ls -A; cat file; echo; touch new 2>/dev/null || echo closed; printf after > file";
    let found = output(dir.path(), body, opened);
    assert_eq!(found, "file\nbefore\nclosed\n");
    assert_eq!(fs::read_to_string(&file).unwrap(), "after");
}

#[test]
fn a_read_only_share_is_served_so() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open_volume(dir.path(), true).unwrap();
    assert!(output(dir.path(), "echo \"$@\"", opened).contains(" --readonly"));
}

#[test]
fn signals_reach_the_daemon_and_its_standard_streams_are_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open_volume(dir.path(), false).unwrap();
    let body = "grep SigBlk /proc/self/status; read x && echo read";
    let found = output(dir.path(), body, opened);
    assert_eq!(found, "SigBlk:\t0000000000000000\n");
}

#[test]
fn the_machine_is_connected_before_the_daemon_runs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let (listener, mut client) = connected_listener(&path).unwrap();
    assert!(!path.exists());
    client.write_all(b"x").unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    let mut byte = [0];
    accepted.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");
}
