use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;
use crate::add::tests::CONFIG;
use crate::compression::Format;
use crate::image::tests::{bz_image, payload, tiny_elf};

/// A root filesystem with a kernel of this release at `kernel`, its configuration, a module
/// that a machine needs and one that it does not.
pub(crate) fn rootfs(os_release: &str, kernel: &str, release: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, content: &[u8]| {
        let path = dir.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    write("etc/os-release", os_release.as_bytes());
    write(
        kernel,
        &bz_image(&payload(Format::Zstd, &tiny_elf(100)), release),
    );
    write(&format!("boot/config-{release}"), CONFIG.as_bytes());
    let modules = format!("usr/lib/modules/{release}");
    write(
        &format!("{modules}/modules.dep"),
        b"kernel/virtio_mmio.ko:\nkernel/other.ko:\n",
    );
    write(&format!("{modules}/modules.order"), b"");
    write(
        &format!("{modules}/modules.builtin"),
        b"kernel/fs/fuse/virtiofs.ko\n",
    );
    write(&format!("{modules}/kernel/virtio_mmio.ko"), b"\x7fELF mmio");
    write(&format!("{modules}/kernel/other.ko"), b"\x7fELF other");
    symlink("usr/lib", dir.path().join("lib")).unwrap();
    symlink("/usr/src/linux", dir.path().join(modules).join("build")).unwrap();
    dir
}

fn found(dir: &TempDir) -> Option<String> {
    let image = Image::open(dir.path()).unwrap();
    let path = find(&image, &os_release::distributions(&image))?;
    Some(path.to_str().unwrap().to_owned())
}

#[test]
fn kernels_are_found_where_distributions_keep_them() {
    for (os_release, path, expected) in [
        ("ID=debian", "/vmlinuz", true),
        ("ID=debian", "/boot/vmlinuz", true),
        ("ID=kali\nID_LIKE=debian", "/vmlinuz", true),
        ("ID=ubuntu\nID_LIKE=debian", "/boot/vmlinuz", true),
        ("ID=ubuntu\nID_LIKE=debian", "/vmlinuz", true),
        ("ID=alpine", "/boot/vmlinuz-virt", true),
        ("ID=alpine", "/boot/vmlinuz-lts", true),
        ("ID=ol\nID_LIKE=fedora", "/boot/vmlinuz", true),
        ("ID=fedora", "/lib/modules/6.1/vmlinuz", true),
        (
            "ID=rocky\nID_LIKE=\"rhel centos fedora\"",
            "/lib/modules/6.1/vmlinuz",
            true,
        ),
        (
            "ID=opensuse-leap\nID_LIKE=\"suse opensuse\"",
            "/boot/vmlinuz",
            true,
        ),
        ("ID=arch", "/boot/vmlinuz-linux", true),
        ("ID=alpine", "/vmlinuz", false),
        ("ID=debian", "/boot/vmlinuz-virt", false),
        ("ID=wolfi", "/boot/vmlinuz", false),
        ("", "/vmlinuz", false),
    ] {
        let place = path.replace("/lib/", "/usr/lib/");
        let dir = rootfs(os_release, &place, "6.1");
        assert_eq!(
            found(&dir),
            expected.then(|| path.to_owned()),
            "{os_release} {path}"
        );
    }
    let dir = rootfs("ID=fedora", "/usr/lib/modules/6.9/vmlinuz", "6.9");
    fs::create_dir(dir.path().join("usr/lib/modules/6.10")).unwrap();
    fs::write(dir.path().join("usr/lib/modules/6.10/vmlinuz"), "").unwrap();
    assert_eq!(
        found(&dir).unwrap(),
        "/lib/modules/6.10/vmlinuz",
        "the newest"
    );
}

#[test]
fn only_regular_files_inside_are_kernels() {
    let dir = rootfs("ID=debian", "/boot/vmlinuz-6.1", "6.1");
    let link = dir.path().join("vmlinuz");
    for (target, expected) in [
        ("boot/vmlinuz-6.1", Some("/vmlinuz")),
        ("/boot/vmlinuz-6.1", Some("/vmlinuz")),
        ("/dev/zero", None),
        ("../../../../etc/passwd", None),
        ("vmlinuz", None),
        ("boot", None),
    ] {
        symlink(target, &link).unwrap();
        assert_eq!(found(&dir).as_deref(), expected, "{target}");
        fs::remove_file(&link).unwrap();
    }
}

fn import(dir: &TempDir) -> (TempDir, Result<Import, ImportError>) {
    let target = tempfile::tempdir().unwrap();
    let mut import = Import::new(target.path());
    let result = copy(dir.path(), &mut import).map(|()| import);
    (target, result)
}

#[test]
fn a_kernel_comes_with_all_of_its_modules() {
    let dir = rootfs("ID=alpine", "/boot/vmlinuz-virt", "6.6.1-0-virt");
    let (_target, import) = import(&dir);
    let import = import.unwrap();
    assert_eq!(import.check().unwrap(), "6.6.1-0-virt");
    assert_eq!(import.distribution.as_deref(), Some("alpine"));
    assert_eq!(import.source[0].name, "/boot/vmlinuz-virt");
    assert_eq!(fs::read_to_string(import.config()).unwrap(), CONFIG);
    let other = fs::read(import.tree().join("kernel/other.ko")).unwrap();
    assert_eq!(other, b"\x7fELF other");
    assert!(!import.tree().join("build").exists());
}

#[test]
fn what_is_missing_is_said() {
    let dir = rootfs("ID=wolfi", "/somewhere/vmlinuz", "6.1");
    let error = import(&dir).1.unwrap_err().to_string();
    assert!(error.starts_with("no kernel image"), "{error}");
    let dir = rootfs("ID=other", "/vmlinuz", "6.1");
    assert!(import(&dir).1.is_ok(), "a distribution that we do not know");
    fs::remove_dir_all(dir.path().join("usr/lib/modules")).unwrap();
    let error = import(&dir).1.unwrap_err().to_string();
    assert!(error.starts_with("cannot read /lib/modules/6.1"), "{error}");
    let dir = rootfs("ID=debian", "/vmlinuz", ".6.1");
    let error = import(&dir).1.unwrap_err().to_string();
    assert!(error.contains("does not say of which release"), "{error}");
}
