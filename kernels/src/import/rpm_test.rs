use std::fs;
use std::io::Write;

use proptest::prelude::*;

use super::*;
use crate::compression::Format;
use crate::compression::tests::compress;
use crate::import::deb::tests::import;

const FILES: &[(&str, &[u8])] = &[
    ("./lib/modules/5.15.0-300.el9uek.x86_64/vmlinuz", b"kernel"),
    (
        "./lib/modules/5.15.0-300.el9uek.x86_64/config",
        b"CONFIG_X=y",
    ),
    ("./lib/modules/5.15.0-300.el9uek.x86_64/System.map", b"map"),
    (
        "./lib/modules/5.15.0-300.el9uek.x86_64/modules.order",
        b"order",
    ),
    (
        "./lib/modules/5.15.0-300.el9uek.x86_64/kernel/a.ko.xz",
        b"module",
    ),
    ("./etc/other", b"other"),
];

const TAGS: [(Tag, &str); 5] = [
    (Tag::Name, "kernel-uek-core"),
    (Tag::Version, "5.15.0"),
    (Tag::Release, "300.el9uek"),
    (Tag::Vendor, "Oracle America"),
    (Tag::Architecture, "x86_64"),
];

fn header(tags: &[(Tag, &str)]) -> Vec<u8> {
    let (mut index, mut data) = (Vec::new(), Vec::new());
    for (tag, text) in tags {
        for word in [*tag as u32, 6, u32::try_from(data.len()).unwrap(), 1] {
            index.extend(word.to_be_bytes());
        }
        data.extend(text.as_bytes());
        data.push(0);
    }
    let mut header = vec![0x8e, 0xad, 0xe8, 1, 0, 0, 0, 0];
    header.extend(u32::try_from(tags.len()).unwrap().to_be_bytes());
    header.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
    [header, index, data].concat()
}

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in files {
        let mode = if name.ends_with("link") {
            0o120_777
        } else {
            0o100_644
        };
        let size = u32::try_from(content.len()).unwrap();
        let mut writer = newc::Builder::new(name)
            .mode(mode)
            .write(&mut archive, size);
        writer.write_all(content).unwrap();
        writer.finish().unwrap();
    }
    newc::trailer(&mut archive).unwrap();
    archive
}

fn rpm(tags: &[(Tag, &str)], format: Format, files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut rpm = vec![0xed, 0xab, 0xee, 0xdb];
    rpm.resize(96, 0);
    rpm.extend(header(&[(Tag::Name, "not the name")]));
    rpm.resize(rpm.len().next_multiple_of(8), 0);
    rpm.extend(header(tags));
    rpm.extend(compress(format, &archive(files)));
    rpm
}

#[test]
fn image_configuration_and_modules_are_taken_and_nothing_else() {
    for format in [Format::Gzip, Format::Xz, Format::Zstd] {
        let (dir, import) = import(&rpm(&TAGS, format, FILES));
        let import = import.unwrap();
        assert_eq!(import.check().unwrap(), "5.15.0-300.el9uek.x86_64");
        assert_eq!(import.distribution.as_deref(), Some("ol"));
        assert_eq!(fs::read(import.image()).unwrap(), b"kernel");
        assert_eq!(fs::read(import.config()).unwrap(), b"CONFIG_X=y");
        assert_eq!(
            fs::read(import.tree().join("kernel/a.ko.xz")).unwrap(),
            b"module"
        );
        assert_eq!(import.tree().read_dir().unwrap().count(), 2);
        assert_eq!(dir.path().join("target").read_dir().unwrap().count(), 3);
        let source = &import.source[0];
        assert_eq!(source.name, "kernel-uek-core");
        assert_eq!(source.version.as_deref(), Some("5.15.0-300.el9uek"));
    }
}

#[test]
fn what_is_no_such_package_is_said() {
    let mut arm = TAGS;
    arm[4].1 = "aarch64";
    let mut no_header = rpm(&TAGS, Format::Gzip, FILES);
    no_header[96] = 0;
    let mut large = rpm(&TAGS, Format::Gzip, FILES);
    large[96 + 12] = 0xff;
    let evil: &[(&str, &[u8])] = &[("../../evil", b"x")];
    for (bytes, expected) in [
        (no_header, "it has no header where one should be"),
        (large, "it has no header where one should be"),
        (
            rpm(&TAGS[1..], Format::Gzip, FILES),
            "its header has no name",
        ),
        (
            rpm(&arm, Format::Gzip, FILES),
            "is for aarch64, but must be for x86-64",
        ),
        (
            rpm(&TAGS, Format::Gzip, evil),
            "outside of the kernel's directory",
        ),
    ] {
        let (dir, result) = import(&bytes);
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(dir.path().read_dir().unwrap().count(), 2, "{expected}");
    }
    let link: &[(&str, &[u8])] = &[("./lib/modules/5.15/link", b"/etc/passwd")];
    let (dir, result) = import(&rpm(&TAGS, Format::Gzip, link));
    assert!(result.is_ok());
    assert_eq!(
        dir.path().join("target").read_dir().unwrap().count(),
        0,
        "links are left out"
    );
}

#[test]
fn a_package_that_is_cut_short_is_an_error() {
    let whole = rpm(&TAGS, Format::Xz, FILES);
    for len in (0..whole.len() - 8).step_by(7) {
        assert!(import(&whole[..len]).1.is_err(), "{len} of {}", whole.len());
    }
}

proptest! {
    #[test]
    fn arbitrary_changes_never_panic(at in any::<prop::sample::Index>(), value: u8, xz: bool) {
        let format = if xz { Format::Xz } else { Format::Gzip };
        let mut bytes = rpm(&TAGS, format, FILES);
        let at = at.index(bytes.len());
        bytes[at] = value;
        let _ = import(&bytes);
    }
}
