//! What a kernel can do, of what matters to a machine.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::modules::ModuleTree;

/// How a kernel supports a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Support {
    /// It is part of vmlinux.
    BuiltIn,
    /// It is a module.
    Module,
    /// It is not there.
    Absent,
    /// Nothing tells: the kernel's configuration was not given.
    Unknown,
}

/// A feature, and how to tell whether a kernel has it.
struct Feature {
    name: &'static str,
    /// No machine works without it.
    required: bool,
    /// Options of the kernel's configuration, all needed, without `CONFIG_`. Of those with
    /// `|` between them, one is.
    options: &'static [&'static str],
    /// Name of its module, which tells even without a configuration.
    module: Option<&'static str>,
}

const fn feature(
    name: &'static str,
    required: bool,
    options: &'static [&'static str],
    module: Option<&'static str>,
) -> Feature {
    Feature {
        name,
        required,
        options,
        module,
    }
}

const FEATURES: &[Feature] = &[
    feature("64-bit", true, &["X86_64"], None),
    feature("smp", false, &["SMP"], None),
    feature("acpi", true, &["ACPI"], None),
    feature("initramfs", true, &["BLK_DEV_INITRD"], None),
    feature("elf", true, &["BINFMT_ELF"], None),
    feature("devtmpfs", true, &["DEVTMPFS"], None),
    feature("proc", true, &["PROC_FS"], None),
    feature("sysfs", true, &["SYSFS"], None),
    feature("tmpfs", true, &["TMPFS"], None),
    feature("pid-namespaces", true, &["PID_NS"], None),
    feature("pty", true, &["UNIX98_PTYS"], None),
    feature("unix-sockets", true, &["UNIX"], None),
    feature(
        "virtiofs",
        true,
        &["FUSE_FS", "VIRTIO_FS"],
        Some("virtiofs"),
    ),
    feature(
        "vsock",
        true,
        &["VSOCKETS", "VIRTIO_VSOCKETS"],
        Some("vmw_vsock_virtio_transport"),
    ),
    feature(
        "virtio-pci",
        false,
        &["PCI", "PCI_MSI", "PCI_MMCONFIG", "VIRTIO_PCI"],
        Some("virtio_pci"),
    ),
    feature("virtio-mmio", false, &["VIRTIO_MMIO"], Some("virtio_mmio")),
    feature("virtio-blk", false, &["VIRTIO_BLK"], Some("virtio_blk")),
    feature("virtio-net", false, &["VIRTIO_NET"], Some("virtio_net")),
    feature(
        "virtio-console",
        false,
        &["VIRTIO_CONSOLE"],
        Some("virtio_console"),
    ),
    feature(
        "virtio-rng",
        false,
        &["HW_RANDOM", "HW_RANDOM_VIRTIO"],
        Some("virtio_rng"),
    ),
    feature("virtio-gpu", false, &["DRM_VIRTIO_GPU"], Some("virtio_gpu")),
    feature(
        "virtio-input",
        false,
        &["VIRTIO_INPUT"],
        Some("virtio_input"),
    ),
    feature("ext4", false, &["EXT4_FS"], Some("ext4")),
    feature("overlayfs", false, &["OVERLAY_FS"], Some("overlay")),
    feature("ipv6", false, &["IPV6"], Some("ipv6")),
    feature("packet-sockets", false, &["PACKET"], Some("af_packet")),
    feature("kvm-guest", false, &["KVM_GUEST"], None),
    feature("pvh", false, &["PVH"], None),
    feature("serial-console", false, &["SERIAL_8250_CONSOLE"], None),
    feature("efi-framebuffer", false, &["FB_EFI|DRM_SIMPLEDRM"], None),
];

/// A kernel's configuration: options without `CONFIG_` that are `y` or `m`.
#[derive(Debug, Default)]
pub(crate) struct Config {
    built_in: HashSet<String>,
    modules: HashSet<String>,
}

impl Config {
    /// Reads a `.config`.
    pub(crate) fn parse(text: &str) -> Self {
        let mut config = Self::default();
        for line in text.lines() {
            let Some((option, value)) = line
                .strip_prefix("CONFIG_")
                .and_then(|line| line.split_once('='))
            else {
                continue;
            };
            match value {
                "y" => config.built_in.insert(option.into()),
                "m" => config.modules.insert(option.into()),
                _ => false,
            };
        }
        config
    }

    fn support(&self, options: &str) -> Support {
        let mut options = options.split('|');
        if options.clone().any(|option| self.built_in.contains(option)) {
            Support::BuiltIn
        } else if options.any(|option| self.modules.contains(option)) {
            Support::Module
        } else {
            Support::Absent
        }
    }
}

/// Finds out what a kernel can do.
pub(crate) fn assess(config: Option<&Config>, modules: &ModuleTree) -> BTreeMap<String, Support> {
    let assess = |feature: &Feature| {
        let options = feature.options.iter();
        let by_config = config.map(|config| {
            let all = options
                .map(|option| config.support(option))
                .collect::<Vec<_>>();
            let worst = [Support::Absent, Support::Module];
            let worst = worst.into_iter().find(|worst| all.contains(worst));
            worst.unwrap_or(Support::BuiltIn)
        });
        let by_module = feature.module.map(|name| modules.support(name));
        let support = match (by_config, by_module) {
            (Some(Support::Absent), _) => Support::Absent,
            // A configuration can promise a module that its package does not have.
            (_, Some(known)) if known != Support::Absent => known,
            (Some(Support::Module), Some(_)) => Support::Absent,
            (Some(known), _) => known,
            (None, Some(known)) => known,
            (None, None) => Support::Unknown,
        };
        (feature.name.into(), support)
    };
    FEATURES.iter().map(assess).collect()
}

/// Names of the features that a kernel lacks.
pub(crate) fn missing(features: &BTreeMap<String, Support>) -> Vec<String> {
    let absent = features.iter().filter(|(_, s)| **s == Support::Absent);
    absent.map(|(name, _)| name.clone()).collect()
}

/// Names of the features that a kernel lacks and that no machine works without.
pub(crate) fn missing_required(features: &BTreeMap<String, Support>) -> Vec<String> {
    let mut lacking = missing(features);
    let transports = ["virtio-pci", "virtio-mmio"];
    let no_transport = transports
        .iter()
        .all(|transport| lacking.iter().any(|name| name == transport));
    lacking.retain(|name| FEATURES.iter().any(|f| f.required && f.name == name));
    if no_transport {
        lacking.push(transports.join(" or "));
    }
    lacking
}

#[cfg(test)]
#[path = "features_test.rs"]
mod tests;
