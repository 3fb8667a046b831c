//! Kernels and their modules.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use runcvm_tests::{Bundle, Case, Rootfs, home};

/// Gives the root filesystem this machine's modprobe, and busybox, which has another.
fn install_modprobe(root: &Path) {
    fs::copy("/bin/kmod", root.join("usr/bin/kmod")).unwrap();
    symlink("../bin/kmod", root.join("usr/sbin/modprobe")).unwrap();
    fs::copy("/bin/busybox", root.join("usr/bin/busybox")).unwrap();
    let libraries = Command::new("ldd").arg("/bin/kmod").output().unwrap();
    let libraries = String::from_utf8(libraries.stdout).unwrap();
    for library in libraries.split_whitespace().filter(|w| w.starts_with('/')) {
        let target = root.join(&library[1..]);
        if !target.exists() {
            fs::copy(library, target).unwrap();
        }
    }
}

#[test]
fn modules_of_every_kernel_can_be_loaded() {
    // Some of them are built into some kernels, and nothing may complain about that.
    let script = "set -e
        modprobe wireguard; modprobe -a dummy xt_hl
        busybox modprobe loop; busybox modprobe xt_pkttype
        for m in wireguard loop xt_hl xt_pkttype; do [ -d /sys/module/$m ] || echo no $m; done
        ip link add w0 type wireguard; ip link add d0 type dummy
        # The kernel itself asks modprobe for this one.
        ip link add v0 type vxlan id 1 dstport 4789
        ls -d /sys/class/net/[dvw]0 /lib/modules/$(uname -r)/modules.dep
        modprobe no-such-module 2>/dev/null || echo none";
    for kernel in ["debian", "runcvm"] {
        let installed = home().join("kernels").join(kernel).join("latest");
        // Not everybody has compiled our own.
        if !installed.exists() {
            continue;
        }
        let release = installed.join("modules/lib/modules").read_dir().unwrap();
        let release = release.map(|entry| entry.unwrap().file_name()).next();
        let release = release.unwrap().into_string().unwrap();
        let rootfs = Rootfs::private();
        install_modprobe(rootfs.path());
        let case = Case::sh(script).env("RUNCVM_KERNEL", kernel);
        let output = Bundle::over(&case, &rootfs).run().succeeded();
        let expected = format!(
            "/lib/modules/{release}/modules.dep\n/sys/class/net/d0\n/sys/class/net/v0\n/sys/class/net/w0\nnone\n"
        );
        assert_eq!((output.out(), output.err()), (expected, String::new()));
    }
}

/// Who has built Debian's kernels, by their own words, and who has built the image's.
const BUILDERS: [&[u8; 30]; 2] = [
    b"debian-kernel@lists.debian.org",
    b"the-kernel-of-the-image@my.org",
];

/// Copies Debian's kernel to `root` as Debian does, with the modules that a machine needs at
/// boot and a further one. It says that somebody else has built it.
fn install_kernel(root: &Path) {
    const MODULES: &str = "virtiofs vmw_vsock_virtio_transport virtio_pci virtio_console \
                           virtio_rng virtio_mmio virtio_net virtio_blk ext4 crc32c_generic \
                           crc32c_intel dummy";
    let kernel = home().join("kernels/debian/latest");
    let mut vmlinux = fs::read(kernel.join("vmlinux")).unwrap();
    let places: Vec<_> = (0..vmlinux.len() - BUILDERS[0].len())
        .filter(|&at| vmlinux[at..].starts_with(BUILDERS[0]))
        .collect();
    assert!(!places.is_empty());
    for at in places {
        vmlinux[at..at + BUILDERS[1].len()].copy_from_slice(BUILDERS[1]);
    }
    fs::write(root.join("vmlinuz"), vmlinux).unwrap();
    let trees = kernel.join("modules/lib/modules");
    let tree = trees.read_dir().unwrap().next().unwrap().unwrap().path();
    let target = root.join("usr/lib/modules").join(tree.file_name().unwrap());
    let copy = |path: &str| {
        fs::create_dir_all(target.join(path).parent().unwrap()).unwrap();
        fs::copy(tree.join(path), target.join(path)).unwrap();
    };
    for index in ["dep", "dep.bin", "alias.bin", "builtin", "builtin.bin"] {
        copy(&format!("modules.{index}"));
    }
    let index = fs::read_to_string(tree.join("modules.dep")).unwrap();
    for (path, needed) in index.lines().filter_map(|line| line.split_once(':')) {
        let name = path.rsplit('/').next().unwrap().split('.').next().unwrap();
        let name = name.replace('-', "_");
        if MODULES.split_whitespace().any(|module| module == name) {
            copy(path);
            needed.split_whitespace().for_each(copy);
        }
    }
}

#[test]
fn a_kernel_of_the_image_boots_with_its_own_modules() {
    let rootfs = Rootfs::private();
    let root = rootfs.path();
    install_kernel(root);
    install_modprobe(root);
    let names = || -> Vec<_> {
        let places = ["", "usr/lib", "usr/lib/modules"].map(|place| root.join(place));
        let entries = places.iter().flat_map(|place| place.read_dir().unwrap());
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names
    };
    let before = names();
    // Modules of ours would be mounted there.
    let script = "grep -o -e debian-kernel@ -e the-kernel-of-the-image@ /proc/version
        modprobe dummy && ip link add d0 type dummy && ls -d /sys/module/dummy
        cd /lib/modules/$(uname -r); findmnt -rno TARGET -T .; ls modules.dep";
    let expected = "the-kernel-of-the-image@\n/sys/module/dummy\n/\nmodules.dep\n";
    let bundle = Bundle::over(&Case::sh(script), &rootfs);
    let output = bundle.run().succeeded();
    assert_eq!(
        (output.out().as_str(), output.err().as_str()),
        (expected, "")
    );
    // It is unpacked once.
    assert_eq!(bundle.run().succeeded().out(), expected);
    assert_eq!(names(), before, "something of ours was left in the image");

    fs::write(root.join("vmlinuz"), "damaged").unwrap();
    let output = bundle.run().succeeded();
    let out = output.out();
    assert!(out.starts_with("debian-kernel@\n"), "{out}");
    assert!(out.contains("\n/usr/lib/modules/"), "{out}");
    let warning = "warning: the kernel of the image is not used: the kernel /vmlinuz does not say";
    assert!(output.err().contains(warning), "{}", output.err());
}
