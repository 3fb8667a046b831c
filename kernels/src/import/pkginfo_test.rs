use std::fs;

use super::*;
use crate::compression::tests::compress;
use crate::import::deb::tests::{import, tar_of};

const INFO: &str = "# Generated\npkgname = linux-virt\npkgver = 6.6.1-r0\narch = x86_64\n";

const FILES: &[(&str, &[u8])] = &[
    ("boot/vmlinuz-virt", b"kernel"),
    ("boot/config-6.6.1-0-virt", b"CONFIG_X=y"),
    ("boot/System.map-6.6.1-0-virt", b"map"),
    ("lib/modules/6.6.1-0-virt/kernel/a.ko.gz", b"a"),
    ("lib/modules/6.6.1-0-virt/modules.order", b""),
];

/// A package of Alpine's: three archives, of which only the last has an end.
fn apk(info: &str, files: &[(&str, &[u8])]) -> Vec<u8> {
    let open = |files: &[(&str, &[u8])]| {
        let mut archive = tar_of(files);
        archive.truncate(archive.len() - 1024);
        archive
    };
    let parts = [
        open(&[(".SIGN.RSA.key.rsa.pub", b"signature")]),
        open(&[(".PKGINFO", info.as_bytes())]),
        tar_of(files),
    ];
    let parts = parts.iter().map(|part| compress(Format::Gzip, part));
    parts.collect::<Vec<_>>().concat()
}

#[test]
fn a_package_of_alpine_is_taken_apart() {
    let (_dir, import) = import(&apk(INFO, FILES));
    let import = import.unwrap();
    assert_eq!(import.check().unwrap(), "6.6.1-0-virt");
    assert_eq!(import.distribution.as_deref(), Some("alpine"));
    assert_eq!(fs::read(import.image()).unwrap(), b"kernel");
    assert_eq!(fs::read(import.config()).unwrap(), b"CONFIG_X=y");
    assert_eq!(
        fs::read(import.tree().join("kernel/a.ko.gz")).unwrap(),
        b"a"
    );
    let source = &import.source[0];
    assert_eq!(
        (source.name.as_str(), source.version.as_deref()),
        ("linux-virt", Some("6.6.1-r0"))
    );
}

#[test]
fn a_package_of_arch_is_taken_apart() {
    let files: &[(&str, &[u8])] = &[
        (".BUILDINFO", b"format = 2\n"),
        (".PKGINFO", INFO.as_bytes()),
        ("usr/lib/modules/6.9.1-arch1-1/vmlinuz", b"kernel"),
        ("usr/lib/modules/6.9.1-arch1-1/pkgbase", b"linux"),
        ("usr/lib/modules/6.9.1-arch1-1/kernel/a.ko.zst", b"a"),
    ];
    for format in [Format::Zstd, Format::Xz] {
        let (_dir, import) = import(&compress(format, &tar_of(files)));
        let import = import.unwrap();
        assert_eq!(import.check().unwrap(), "6.9.1-arch1-1");
        assert_eq!(import.distribution.as_deref(), Some("arch"));
        assert_eq!(fs::read(import.image()).unwrap(), b"kernel");
        assert_eq!(import.tree().read_dir().unwrap().count(), 1, "only kernel/");
    }
}

#[test]
fn what_is_no_such_package_is_said() {
    let arm = INFO.replace("x86_64", "aarch64");
    let evil: &[(&str, &[u8])] = &[("lib/modules/1/../../../evil", b"x")];
    for (bytes, expected) in [
        (compress(Format::Gzip, &tar_of(FILES)), "it has no .PKGINFO"),
        (apk("arch = x86_64\n", FILES), "has no pkgname"),
        (apk(&arm, FILES), "is for aarch64, but must be for x86-64"),
        (apk(INFO, evil), "outside of the kernel's directory"),
    ] {
        let (_dir, result) = import(&bytes);
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let whole = apk(INFO, FILES);
    for len in (0..whole.len() - 8).step_by(7) {
        assert!(import(&whole[..len]).1.is_err(), "{len} of {}", whole.len());
    }
}
