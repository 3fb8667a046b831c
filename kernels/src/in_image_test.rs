use std::os::unix::fs::symlink;

use super::*;
use crate::import::image::tests::rootfs;
use crate::{Bundle, Part};

const KERNEL: &str = "/vmlinuz";

#[test]
fn a_kernel_of_an_image_becomes_a_bundle_once() {
    let dir = rootfs("ID=debian", KERNEL, "6.1");
    let cache = tempfile::tempdir().unwrap();
    let image = Image::open(dir.path()).unwrap();
    let make = || super::bundle(&image, KERNEL.as_ref(), cache.path());
    let path = make().unwrap();
    let bundle = Bundle::open(&path).unwrap();
    assert_eq!(
        (bundle.name.as_str(), bundle.version.as_str()),
        ("image", "6.1")
    );
    assert!(bundle.vmlinux.is_file() && !path.join("modules").exists());
    let initramfs = bundle.initramfs(&[Part::Mmio]).unwrap();
    assert_eq!(initramfs.modules, "/lib/modules/virtio_mmio.ko\n");
    let archive = fs::read(&initramfs.archives[0]).unwrap();
    assert!(archive.windows(9).any(|bytes| bytes == b"\x7fELF mmio"));

    let made = fs::metadata(&bundle.vmlinux).unwrap().modified().unwrap();
    assert_eq!(make().unwrap(), path);
    assert_eq!(
        fs::metadata(&bundle.vmlinux).unwrap().modified().unwrap(),
        made
    );
    fs::write(dir.path().join("usr/lib/modules/6.1/kernel/other.ko"), "x").unwrap();
    assert_eq!(make().unwrap(), path, "it is not loaded at boot");
    fs::write(
        dir.path().join("usr/lib/modules/6.1/kernel/virtio_mmio.ko"),
        "\x7fELF new",
    )
    .unwrap();
    assert_ne!(make().unwrap(), path, "it is");
    let entries = cache.path().join(DIRECTORY).read_dir().unwrap().count();
    assert_eq!(entries, 2, "nothing else is left");
}

#[test]
fn those_that_were_used_last_are_kept() {
    let dir = rootfs("ID=debian", KERNEL, "6.1");
    let cache = tempfile::tempdir().unwrap();
    let image = Image::open(dir.path()).unwrap();
    let make = |n: usize| {
        let module = dir.path().join("usr/lib/modules/6.1/kernel/virtio_mmio.ko");
        fs::write(module, format!("\x7fELF {n}")).unwrap();
        super::bundle(&image, KERNEL.as_ref(), cache.path()).unwrap()
    };
    let made: Vec<_> = (0..KEPT).map(make).collect();
    assert_eq!(make(0), made[0], "it is used again");
    make(KEPT);
    let kept = |path: &&PathBuf| path.exists();
    assert!(made[0].exists() && !made[1].exists());
    assert_eq!(made.iter().filter(kept).count(), KEPT - 1);
}

#[test]
fn a_kernel_that_is_of_no_use_leaves_nothing_behind() {
    let cache = tempfile::tempdir().unwrap();
    type Spoil = fn(&Path);
    let spoil: [(Spoil, &str); 6] = [
        (
            |root| fs::write(root.join("vmlinuz"), "x").unwrap(),
            "does not say of which release",
        ),
        (
            |root| fs::remove_file(root.join("usr/lib/modules/6.1/modules.dep")).unwrap(),
            "modules.dep",
        ),
        (
            |root| fs::write(root.join("usr/lib/modules/6.1/kernel/virtio_mmio.ko"), "x").unwrap(),
            "the module virtio_mmio is damaged",
        ),
        (
            |root| {
                let module = root.join("usr/lib/modules/6.1/kernel/virtio_mmio.ko");
                fs::remove_file(&module).unwrap();
                symlink("/../../../../../../etc/hostname", module).unwrap();
            },
            "there is no such regular file",
        ),
        (
            |root| fs::write(root.join("boot/config-6.1"), "CONFIG_X86_64=y\n").unwrap(),
            "the kernel 6.1 cannot be used, because it has no acpi",
        ),
        (
            |root| {
                let image = fs::read(root.join("vmlinuz")).unwrap();
                fs::write(root.join("vmlinuz"), &image[..2200]).unwrap();
            },
            "/vmlinuz is not a Linux kernel: its setup header",
        ),
    ];
    for (spoil, expected) in spoil {
        let dir = rootfs("ID=debian", KERNEL, "6.1");
        spoil(dir.path());
        let image = Image::open(dir.path()).unwrap();
        let error = super::bundle(&image, KERNEL.as_ref(), cache.path()).unwrap_err();
        let error = format!("{:#}", anyhow::Error::from(error));
        assert!(error.contains(expected), "{error}");
        let entries = cache.path().join(DIRECTORY).read_dir().unwrap().count();
        assert_eq!(entries, 0, "{expected}");
    }
}
