use tempfile::TempDir;

use super::*;
use crate::compression::Format;
use crate::image::tests::{bz_image, payload, tiny_elf};
use crate::import::deb::tests::{CONTROL, package_of};
use crate::import::{files, package};
use crate::manifest::FORMAT;
use crate::prefix::Prefix;

pub(crate) const CONFIG: &str = "CONFIG_X86_64=y\nCONFIG_ACPI=y\nCONFIG_BLK_DEV_INITRD=y\n\
    CONFIG_BINFMT_ELF=y\nCONFIG_DEVTMPFS=y\nCONFIG_PROC_FS=y\nCONFIG_SYSFS=y\nCONFIG_TMPFS=y\n\
    CONFIG_PID_NS=y\nCONFIG_UNIX98_PTYS=y\nCONFIG_UNIX=y\nCONFIG_FUSE_FS=y\n\
    CONFIG_VIRTIO_FS=y\nCONFIG_VSOCKETS=y\nCONFIG_VIRTIO_VSOCKETS=y\nCONFIG_VIRTIO_MMIO=y\n";

struct Fixture {
    dir: TempDir,
    store: Store,
    steps: Vec<String>,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&Prefix::new(dir.path().join("prefix")));
        let steps = Vec::new();
        Self { dir, store, steps }
    }

    fn add(&mut self, release: &str, config: &str) -> Result<Added, AddError> {
        let image = bz_image(&payload(Format::Zstd, &tiny_elf(100)), release);
        self.add_image(&image, config)
    }

    fn add_image(&mut self, image: &[u8], config: &str) -> Result<Added, AddError> {
        let files: &[(&str, &[u8])] = &[
            ("./boot/vmlinuz-1.0-amd64", image),
            ("./boot/config-1.0-amd64", config.as_bytes()),
            ("./lib/modules/1.0-amd64/modules.order", b""),
            ("./lib/modules/1.0-amd64/modules.builtin", b""),
        ];
        let path = self.dir.path().join("p.deb");
        fs::write(&path, package_of(CONTROL, files, Format::Xz)).unwrap();
        let unpack = |import: &mut Import| package::unpack(&path, import);
        let steps = &mut self.steps;
        add(&self.store, None, unpack, &mut |step| {
            steps.push(step.into())
        })
    }

    /// What is in the store, besides its lock.
    fn entries(&self) -> usize {
        self.store.path().read_dir().unwrap().count() - 1
    }
}

#[test]
fn a_package_becomes_a_bundle_once() {
    let mut fixture = Fixture::new();
    let name: BundleName = "debian/1.0-amd64".parse().unwrap();
    assert_eq!(
        fixture.add("1.0-amd64", CONFIG).unwrap(),
        Added::New(name.clone())
    );
    let steps = [
        "Extracting vmlinux",
        "Indexing modules",
        "Making the initramfs",
    ];
    assert_eq!(fixture.steps, steps);

    let bundle = fixture.store.resolve(None).unwrap();
    fixture.store.verify(&bundle).unwrap();
    assert!(fs::read(&bundle.vmlinux).unwrap() == tiny_elf(100));
    assert!(bundle.modules.join("modules.dep").is_file());
    assert!(!bundle.path.join("vmlinuz").exists());
    assert_eq!(bundle.manifest.release, "1.0-amd64");
    assert_eq!(bundle.manifest.source[0].name, "linux-image-1-amd64");
    assert!(bundle.manifest.missing.contains(&"virtio-net".to_owned()));
    assert!(bundle.initramfs(&[crate::Part::Net]).is_err());
    assert!(bundle.initramfs(&[crate::Part::Mmio]).is_ok());

    assert_eq!(
        fixture.add("1.0-amd64", CONFIG).unwrap(),
        Added::Unchanged(name.clone())
    );
    let more = format!("{CONFIG}CONFIG_SMP=y\n");
    assert_eq!(
        fixture.add("1.0-amd64", &more).unwrap(),
        Added::Replaced(name.clone())
    );
    let manifest = bundle.path.join("manifest.json");
    let old = fs::read_to_string(&manifest)
        .unwrap()
        .replace(&format!("\"format\": {FORMAT}"), "\"format\": 0");
    fs::write(&manifest, old).unwrap();
    assert_eq!(
        fixture.add("1.0-amd64", &more).unwrap(),
        Added::Replaced(name.clone())
    );
    fs::write(&bundle.vmlinux, "damaged").unwrap();
    assert_eq!(
        fixture.add("1.0-amd64", &more).unwrap(),
        Added::Replaced(name)
    );
    fixture
        .store
        .verify(&fixture.store.resolve(None).unwrap())
        .unwrap();
    assert_eq!(fixture.entries(), 2, "the distribution and the default");
}

#[test]
fn what_cannot_be_used_leaves_nothing_behind() {
    let mut fixture = Fixture::new();
    let config = CONFIG
        .replace("CONFIG_VIRTIO_FS=y", "")
        .replace("CONFIG_VSOCKETS=y", "");
    assert_eq!(
        fixture.add("1.0-amd64", &config).unwrap_err().to_string(),
        "the kernel 1.0-amd64 cannot be used, because it has no virtiofs, no vsock"
    );
    assert_eq!(
        fixture.add("2.0-amd64", CONFIG).unwrap_err().to_string(),
        "the kernel image is of release 2.0-amd64, but the modules are of 1.0-amd64"
    );
    let error = fixture.add_image(b"hello", CONFIG).unwrap_err().to_string();
    let expected = "linux-image-1-amd64 is not a Linux kernel";
    assert!(error.contains(expected), "{error}");
    assert_eq!(fixture.entries(), 0);
}

#[test]
fn files_of_a_build_become_a_bundle() {
    let fixture = Fixture::new();
    let dir = fixture.dir.path();
    let tree = dir.join("out/lib/modules/1.0");
    fs::create_dir_all(tree.join("kernel")).unwrap();
    std::os::unix::fs::symlink("/etc", tree.join("build")).unwrap();
    fs::write(tree.join("modules.order"), "").unwrap();
    fs::write(tree.join("modules.builtin"), "kernel/fs/fuse/virtiofs.ko\n").unwrap();
    let (vmlinux, config) = (dir.join("vmlinux"), dir.join(".config"));
    fs::write(&vmlinux, tiny_elf(10)).unwrap();
    fs::write(&config, CONFIG).unwrap();
    let name: BundleName = "own/1".parse().unwrap();
    for modules in ["out", "out/lib/modules", "out/lib/modules/1.0"] {
        let copy =
            |import: &mut Import| files::copy(&vmlinux, &dir.join(modules), Some(&config), import);
        let added = add(&fixture.store, Some(&name), copy, &mut |_| {}).unwrap();
        let first = modules == "out";
        let expected = if first { Added::New } else { Added::Unchanged };
        assert_eq!(added, expected(name.clone()), "{modules}");
    }
    let bundle = fixture.store.resolve(Some("own/1")).unwrap();
    assert!(fs::read(&bundle.vmlinux).unwrap() == tiny_elf(10));
    assert!(bundle.modules.ends_with("1.0") && !bundle.modules.join("build").exists());
    assert_eq!(bundle.manifest.source.len(), 3);

    fs::create_dir_all(dir.join("out/lib/modules/2.0/kernel")).unwrap();
    let copy = |import: &mut Import| files::copy(&vmlinux, &dir.join("out"), None, import);
    let error = add(&fixture.store, Some(&name), copy, &mut |_| {}).unwrap_err();
    assert!(
        error.to_string().contains("two kernels, 1.0 and 2.0"),
        "{error}"
    );
}
