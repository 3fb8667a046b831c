use super::*;
use crate::manifest::Manifest;
use crate::modules::tests::tree;

fn features(absent: &[&str]) -> BTreeMap<String, Support> {
    let absent = absent
        .iter()
        .map(|name| (name.to_string(), Support::Absent));
    absent.collect()
}

fn bundle(path: &Path, boot: BTreeMap<Part, Vec<String>>) -> Bundle {
    Bundle {
        name: "debian".into(),
        version: "1".into(),
        path: path.into(),
        vmlinux: path.join("vmlinux"),
        modules: path.join("modules"),
        manifest: Manifest {
            format: 0,
            name: "debian".into(),
            version: "1".into(),
            release: "1".into(),
            source: Vec::new(),
            sha256: BTreeMap::new(),
            boot,
            features: BTreeMap::new(),
            missing: Vec::new(),
        },
    }
}

#[test]
fn a_machine_gets_what_its_devices_need() {
    let (_tree, tree) = tree(
        &[
            ("virtio", &[]),
            ("virtio_pci", &["virtio"]),
            ("virtio_net", &["virtio", "failover"]),
            ("failover", &[]),
            ("virtio_blk", &["virtio"]),
            ("ext4", &["jbd2"]),
            ("jbd2", &[]),
        ],
        &["virtiofs", "virtio_mmio"],
    );
    let dir = tempfile::tempdir().unwrap();
    let boot = write_archives(&tree, &features(&[]), dir.path()).unwrap();
    let bundle = bundle(dir.path(), boot);

    let least = bundle.initramfs(&[]).unwrap();
    assert_eq!(least.archives, [dir.path().join("initramfs")]);
    assert_eq!(
        least.modules,
        "/lib/modules/virtio.ko\n/lib/modules/virtio_pci.ko\n"
    );

    let most = bundle
        .initramfs(&[Part::Disk, Part::Net, Part::Mmio])
        .unwrap();
    let names = ["initramfs", "initramfs.net", "initramfs.disk"];
    assert_eq!(most.archives, names.map(|name| dir.path().join(name)));
    let modules = [
        "virtio",
        "virtio_pci",
        "failover",
        "virtio_net",
        "virtio_blk",
        "jbd2",
        "ext4",
    ];
    let modules = modules.map(|name| format!("/lib/modules/{name}.ko\n"));
    assert_eq!(most.modules, modules.concat());

    let archive = fs::read(dir.path().join("initramfs.net")).unwrap();
    assert_eq!(archive.len() % 4, 0);
    let text = String::from_utf8(archive).unwrap();
    assert!(text.starts_with("070701") && text.ends_with("TRAILER!!!\0\0\0\0"));
    assert!(text.contains("lib/modules/virtio_net.ko\0") && !text.contains("virtio_pci"));
    assert!(
        text.contains("\x7fELF virtio_net"),
        "modules are decompressed"
    );
}

#[test]
fn an_archive_has_bounds() {
    let (_dir, tree) = tree(&[("virtio", &[]), ("ext4", &[])], &[]);
    let modules = ["virtio", "ext4"].map(String::from);
    let size: usize = modules.iter().map(|m| tree.read(m).unwrap().len()).sum();
    assert!(archive(&tree, &modules, size).is_ok());
    let error = archive(&tree, &modules, size - 1).unwrap_err().to_string();
    assert!(
        error.contains("to be loaded at boot have more than"),
        "{error}"
    );
}

#[test]
fn a_missing_driver_is_named() {
    let (_tree, tree) = tree(&[], &["virtiofs", "virtio_pci"]);
    let dir = tempfile::tempdir().unwrap();
    let boot = write_archives(&tree, &features(&["virtio-net"]), dir.path()).unwrap();
    let bundle = bundle(dir.path(), boot);
    let nothing = bundle.initramfs(&[Part::Disk]).unwrap();
    assert_eq!((nothing.archives.len(), nothing.modules.as_str()), (0, ""));
    let error = bundle.initramfs(&[Part::Net]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the kernel debian/1 has no driver for network interfaces"
    );
}
