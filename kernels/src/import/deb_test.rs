use std::fs;

use tar::EntryType;

use super::*;
use crate::compression::Format;
use crate::compression::tests::compress;
use crate::import::package;

/// A package with these control data and these files, of which `data` are compressed like
/// this. The file names are written as they are.
pub(crate) fn package_of(control: &str, files: &[(&str, &[u8])], data: Format) -> Vec<u8> {
    let control = tar_of(&[("./control", control.as_bytes())]);
    let members = [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar.gz", compress(Format::Gzip, &control)),
        ("data.tar.xz", compress(data, &tar_of(files))),
    ];
    let mut builder = ar::Builder::new(Vec::new());
    for (name, content) in members {
        let header = ar::Header::new(name.into(), content.len() as u64);
        builder.append(&header, &content[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        if name.ends_with("build") {
            header.set_entry_type(EntryType::Symlink);
            header.set_link_name("/etc").unwrap();
        }
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) const CONTROL: &str =
    "Package: linux-image-1-amd64\nVersion: 1-2\nArchitecture: amd64\n";

/// Unpacks a package of any format, into a directory that goes with what is returned first.
pub(crate) fn import(bytes: &[u8]) -> (tempfile::TempDir, Result<Import, ImportError>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("package");
    fs::write(&path, bytes).unwrap();
    let target = dir.path().join("target");
    fs::create_dir(&target).unwrap();
    let mut import = Import::new(&target);
    let result = package::unpack(&path, &mut import).map(|()| import);
    (dir, result)
}

#[test]
fn image_configuration_and_modules_are_taken_and_nothing_else() {
    let files: &[(&str, &[u8])] = &[
        ("./boot/vmlinuz-1-amd64", b"kernel"),
        ("./boot/config-1-amd64", b"CONFIG_X=y"),
        ("./boot/System.map-1-amd64", b"map"),
        ("./lib/modules/1-amd64/kernel/a.ko.xz", b"a"),
        ("./usr/lib/modules/1-amd64/kernel/b.ko.xz", b"b"),
        ("./lib/modules/1-amd64/build", b""),
        ("./usr/share/doc/x", b"doc"),
    ];
    for format in [Format::Xz, Format::Zstd, Format::Gzip, Format::None] {
        let (dir, import) = import(&package_of(CONTROL, files, format));
        let import = import.unwrap();
        assert_eq!(import.check().unwrap(), "1-amd64");
        assert_eq!(fs::read(import.image()).unwrap(), b"kernel");
        assert_eq!(fs::read(import.config()).unwrap(), b"CONFIG_X=y");
        let tree = dir.path().join("target/modules/lib/modules/1-amd64");
        assert_eq!(fs::read(tree.join("kernel/a.ko.xz")).unwrap(), b"a");
        assert_eq!(fs::read(tree.join("kernel/b.ko.xz")).unwrap(), b"b");
        assert_eq!(fs::read_dir(tree).unwrap().count(), 1);
        assert_eq!(fs::read_dir(dir.path().join("target")).unwrap().count(), 3);
        let source = &import.source[0];
        assert_eq!(source.name, "linux-image-1-amd64");
        assert_eq!(source.version.as_deref(), Some("1-2"));
    }
}

#[test]
fn nothing_is_written_outside() {
    for name in [
        "../evil",
        "/evil",
        "./lib/modules/1-amd64/../../../../evil",
        "./lib/modules/../evil",
        "./lib/modules/.hidden/evil",
        "./boot/vmlinuz-1..\n",
    ] {
        let (dir, result) = import(&package_of(CONTROL, &[(name, b"x")], Format::Gzip));
        let error = result.unwrap_err();
        assert!(
            matches!(error, ImportError::Hostile { .. }),
            "{name}: {error}"
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "{name}");
        assert_eq!(
            fs::read_dir(dir.path().join("target")).unwrap().count(),
            0,
            "{name}"
        );
    }
}

#[test]
fn what_is_no_kernel_package_is_said() {
    let kernel: &[(&str, &[u8])] = &[("./boot/vmlinuz-1-amd64", b"kernel")];
    let two: &[(&str, &[u8])] = &[
        ("./boot/vmlinuz-1-amd64", b"kernel"),
        ("./lib/modules/2-amd64/kernel/a.ko", b"a"),
    ];
    let arm = CONTROL.replace("Architecture: amd64", "Architecture: arm64");
    for (bytes, expected) in [
        (
            b"hello".to_vec(),
            "is not a package of a distribution: it is neither",
        ),
        (
            Vec::new(),
            "is not a package of a distribution: it is neither",
        ),
        (
            package_of(&arm, kernel, Format::Xz),
            "is for arm64, but must be for x86-64",
        ),
        (
            package_of(CONTROL, two, Format::Xz),
            "files of two kernels, 1-amd64 and 2-amd64",
        ),
        (
            package_of("Architecture: amd64\n", kernel, Format::Xz),
            "have no Package",
        ),
    ] {
        let error = import(&bytes).1.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let check = |files| {
        let (_dir, import) = import(&package_of(CONTROL, files, Format::Xz));
        import.unwrap().check().unwrap_err().to_string()
    };
    assert!(check(&[]).contains("no kernel image"));
    assert!(check(kernel).contains("no modules"));
}

#[test]
fn a_package_that_is_cut_short_is_an_error() {
    let files: &[(&str, &[u8])] = &[("./boot/vmlinuz-1-amd64", &[7; 5000])];
    let whole = package_of(CONTROL, files, Format::Xz);
    for len in (0..whole.len() - 8).step_by(7) {
        assert!(import(&whole[..len]).1.is_err(), "{len} of {}", whole.len());
    }
}
