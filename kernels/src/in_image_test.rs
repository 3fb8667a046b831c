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
fn a_cached_kernel_is_read_and_nothing_is_written() {
    let dir = rootfs("ID=debian", KERNEL, "6.1");
    let cache = tempfile::tempdir().unwrap();
    let image = Image::open(dir.path()).unwrap();
    let make = || super::bundle(&image, KERNEL.as_ref(), cache.path()).unwrap();
    let path = make();
    let parent = cache.path().join(DIRECTORY);
    let changed = || fs::metadata(&parent).unwrap().modified().unwrap();
    let before = changed();
    assert_eq!(make(), path);
    assert_eq!(changed(), before, "something was made beside it");
    // Where it is read from, and when it was written, tell nothing.
    let file = File::options().write(true).open(dir.path().join("vmlinuz"));
    let file = file.unwrap();
    let then = file.metadata().unwrap().modified().unwrap();
    let mut kernel = fs::read(dir.path().join("vmlinuz")).unwrap();
    *kernel.last_mut().unwrap() ^= 1;
    std::io::Write::write_all(&mut &file, &kernel).unwrap();
    file.set_modified(then).unwrap();
    assert_ne!(make(), path, "another of the same size and time");
}

#[test]
fn what_an_image_needs_at_boot_has_bounds() {
    let chain = |count: usize| -> String {
        (0..count)
            .map(|n| format!("virtio_mmio{n}.ko: virtio_mmio{}.ko\n", n + 1))
            .collect()
    };
    let cases = [
        (
            format!("virtio_mmio.ko: virtio_mmio0.ko\n{}", chain(600)),
            "more than 512 of its modules are needed at boot",
        ),
        (
            "x.ko:\n".repeat(2 << 20),
            "the index of its modules has more than 8388608 bytes",
        ),
        (
            "virtio_mmio.ko: large0.ko\nlarge0.ko: large1.ko\nlarge1.ko:\n".into(),
            "its modules needed at boot have more than 134217728 bytes",
        ),
    ];
    for (index, expected) in cases {
        let dir = rootfs("ID=debian", KERNEL, "6.1");
        let cache = tempfile::tempdir().unwrap();
        let tree = dir.path().join("usr/lib/modules/6.1");
        fs::write(tree.join("modules.dep"), index).unwrap();
        for name in ["large0.ko", "large1.ko"] {
            let file = File::create(tree.join(name)).unwrap();
            file.set_len(100 << 20).unwrap();
        }
        let image = Image::open(dir.path()).unwrap();
        let error = super::bundle(&image, KERNEL.as_ref(), cache.path()).unwrap_err();
        let error = error.to_string();
        assert_eq!(error, format!("/vmlinuz is unacceptable: {expected}"));
    }
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
        let entries = cache.path().join(DIRECTORY).read_dir();
        assert_eq!(entries.map_or(0, Iterator::count), 0, "{expected}");
    }
}
