use super::*;
use crate::modules::tests::tree;

fn full_config() -> String {
    let options = FEATURES.iter().flat_map(|f| f.options);
    let first = options.map(|o| o.split('|').next().unwrap());
    first.map(|o| format!("CONFIG_{o}=y\n")).collect()
}

#[test]
fn a_kernel_with_everything_built_in_lacks_nothing() {
    let (_dir, tree) = tree(&[], &[]);
    let config = Config::parse(&full_config());
    let features = assess(Some(&config), &tree);
    assert!(features.values().all(|s| *s == Support::BuiltIn));
    assert!(missing(&features).is_empty());
}

#[test]
fn what_is_lacking_is_named() {
    let (_dir, tree) = tree(&[], &[]);
    let config = full_config()
        .replace("CONFIG_VIRTIO_FS=y", "# CONFIG_VIRTIO_FS is not set")
        .replace("CONFIG_FB_EFI=y", "CONFIG_FB_EFI=n")
        .replace("CONFIG_PCI_MSI=y\n", "");
    let features = assess(Some(&Config::parse(&config)), &tree);
    assert_eq!(
        missing(&features),
        ["efi-framebuffer", "virtio-pci", "virtiofs"]
    );
    assert_eq!(missing_required(&features), ["virtiofs"]);
}

#[test]
fn one_of_several_options_is_enough() {
    let (_dir, tree) = tree(&[], &[]);
    let config = full_config().replace("CONFIG_FB_EFI=y", "CONFIG_DRM_SIMPLEDRM=y");
    let features = assess(Some(&Config::parse(&config)), &tree);
    assert_eq!(missing(&features), Vec::<String>::new());
}

#[test]
fn one_transport_is_needed() {
    let (_dir, tree) = tree(&[], &[]);
    let config = full_config()
        .replace("CONFIG_PCI=y\n", "")
        .replace("CONFIG_VIRTIO_MMIO=y\n", "");
    let features = assess(Some(&Config::parse(&config)), &tree);
    assert_eq!(missing_required(&features), ["virtio-pci or virtio-mmio"]);
}

#[test]
fn a_promised_module_must_be_there() {
    let config = full_config().replace("VIRTIO_VSOCKETS=y", "VIRTIO_VSOCKETS=m");
    let config = Config::parse(&config);
    let (_dir, without) = tree(&[], &[]);
    let features = assess(Some(&config), &without);
    assert_eq!(missing_required(&features), ["vsock"]);
    let (_dir, with) = tree(&[("vmw_vsock_virtio_transport", &[])], &[]);
    let features = assess(Some(&config), &with);
    assert_eq!(features["vsock"], Support::Module);
}

#[test]
fn without_a_configuration_the_modules_tell() {
    let (_dir, tree) = tree(
        &[("vmw_vsock_virtio_transport", &[])],
        &["virtiofs", "virtio_mmio"],
    );
    let features = assess(None, &tree);
    assert_eq!(features["virtiofs"], Support::BuiltIn);
    assert_eq!(features["vsock"], Support::Module);
    assert_eq!(features["virtio-blk"], Support::Absent);
    assert_eq!(features["devtmpfs"], Support::Unknown);
    assert!(missing_required(&features).is_empty());
}
