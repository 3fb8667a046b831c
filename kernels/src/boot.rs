//! The initramfs of a bundle: kernel modules that a machine loads before its root filesystem.
//!
//! Every byte and every module costs boot time, so there are several archives, and the
//! machine gets those that its devices need: the base for every machine, and one for each
//! further [`Part`]. Each has the modules that it needs over the base's. All are newc
//! archives, not compressed, whole, and multiples of 4 bytes long, so that further archives
//! can follow.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::cpio;
use crate::features::Support;
use crate::modules::{ModuleError, ModuleTree};
use crate::store::Bundle;

/// A part of the initramfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// virtio-pci, and the devices that every machine has: shares, sockets, consoles and
    /// random numbers.
    Base,
    /// virtio-mmio, for machines with that transport.
    Mmio,
    /// Network interfaces.
    Net,
    /// Disks and, where it is a module, the filesystem ext4.
    Disk,
}

/// A kernel has no drivers for something.
#[derive(Debug, Error)]
#[error("the kernel {kernel} has no driver for {what}")]
pub struct NoDriver {
    kernel: String,
    what: &'static str,
}

/// What a machine's initramfs begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initramfs {
    /// Archives, in this order.
    pub archives: Vec<PathBuf>,
    /// Content of the file `/runcvm/modules` of the initramfs, which is in none of the
    /// archives.
    pub modules: String,
}

impl Part {
    /// All, in the order in which they are loaded.
    pub(crate) const ALL: [Self; 4] = [Self::Base, Self::Mmio, Self::Net, Self::Disk];

    /// The archive's file name in the bundle.
    pub(crate) fn file_name(self) -> &'static str {
        match self {
            Self::Base => "initramfs",
            Self::Mmio => "initramfs.mmio",
            Self::Net => "initramfs.net",
            Self::Disk => "initramfs.disk",
        }
    }

    /// Modules that it is there for, as far as the kernel has them.
    pub(crate) fn modules(self) -> &'static [&'static str] {
        match self {
            Self::Base => &[
                "virtio_pci",
                "virtiofs",
                "vmw_vsock_virtio_transport",
                "virtio_console",
                "virtio_rng",
            ],
            Self::Mmio => &["virtio_mmio"],
            Self::Net => &["virtio_net"],
            // ext4 asks the kernel for crc32c by name, which no dependency shows.
            Self::Disk => &["virtio_blk", "crc32c_generic", "crc32c_intel", "ext4"],
        }
    }

    /// The feature without which it is useless; the base's are required of every kernel.
    pub(crate) fn feature(self) -> Option<&'static str> {
        match self {
            Self::Base => None,
            Self::Mmio => Some("virtio-mmio"),
            Self::Net => Some("virtio-net"),
            Self::Disk => Some("virtio-blk"),
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::Base => "shares and sockets",
            Self::Mmio => "virtio-mmio",
            Self::Net => "network interfaces",
            Self::Disk => "disks",
        }
    }
}

impl Bundle {
    /// The initramfs of a machine that has, besides what every machine has, these parts.
    pub fn initramfs(&self, parts: &[Part]) -> Result<Initramfs, NoDriver> {
        let mut result = Initramfs {
            archives: Vec::new(),
            modules: String::new(),
        };
        for part in Part::ALL {
            if part != Part::Base && !parts.contains(&part) {
                continue;
            }
            let modules = self.manifest.boot.get(&part).ok_or_else(|| NoDriver {
                kernel: format!("{}/{}", self.name, self.version),
                what: part.what(),
            })?;
            if !modules.is_empty() {
                result.archives.push(self.path.join(part.file_name()));
            }
            for module in modules {
                result.modules.push_str(module);
                result.modules.push('\n');
            }
        }
        Ok(result)
    }
}

/// Why the archives could not be made.
#[derive(Debug, Error)]
pub enum BootError {
    /// A module could not be taken from the tree.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// The modules are too large for memory.
    #[error("the modules to be loaded at boot have more than {MAX_ARCHIVE} bytes")]
    TooLarge,
    /// An archive could not be written.
    #[error("cannot write {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
}

/// Greatest size of an archive, in bytes. Debian's have less than 4 MiB; a hostile image's modules may
/// be many and well compressed.
const MAX_ARCHIVE: usize = 256 << 20;

/// Where modules are in the initramfs.
const MODULES_DIR: &str = "/lib/modules";

/// Writes the archives of all parts that a kernel with these features has into `dir`, and
/// says which modules are in which.
pub(crate) fn write_archives(
    tree: &ModuleTree,
    features: &BTreeMap<String, Support>,
    dir: &Path,
) -> Result<BTreeMap<Part, Vec<String>>, BootError> {
    let mut parts = BTreeMap::new();
    let mut in_base = HashSet::new();
    for part in Part::ALL {
        let usable = |feature| features.get(feature) != Some(&Support::Absent);
        if !part.feature().is_none_or(usable) {
            continue;
        }
        let mut modules = tree.load_order(part.modules());
        modules.retain(|module| !in_base.contains(module));
        let archive = archive(tree, &modules, MAX_ARCHIVE)?;
        if !modules.is_empty() {
            let path = dir.join(part.file_name());
            fs::write(&path, archive).map_err(|e| BootError::Write(path.clone(), e))?;
        }
        let paths = modules.iter().map(|module| path_of(module));
        parts.insert(part, paths.collect());
        if part == Part::Base {
            in_base.extend(modules);
        }
    }
    Ok(parts)
}

fn path_of(module: &str) -> String {
    format!("{MODULES_DIR}/{module}.ko")
}

fn archive(tree: &ModuleTree, modules: &[String], mut left: usize) -> Result<Vec<u8>, BootError> {
    let mut archive = cpio::Writer::default();
    archive.directory("lib");
    archive.directory("lib/modules");
    for module in modules {
        let content = tree.read(module)?;
        left = left.checked_sub(content.len()).ok_or(BootError::TooLarge)?;
        archive.file(path_of(module).trim_start_matches('/'), 0o644, &content);
    }
    Ok(archive.finish())
}

#[cfg(test)]
#[path = "boot_test.rs"]
mod tests;
