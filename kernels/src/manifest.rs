//! What a bundle says about itself: `manifest.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::boot::Part;
use crate::features::Support;

/// Changes whenever a bundle of the same source would be made differently.
pub(crate) const FORMAT: u32 = 2;

/// A bundle's manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the rules by which the bundle was made.
    #[serde(default)]
    pub format: u32,
    /// Distribution: the first part of the bundle's name.
    pub name: String,
    /// Version: the second part of the bundle's name.
    pub version: String,
    /// The kernel's release, as in `uname -r`.
    pub release: String,
    /// Where the kernel is from.
    pub source: Vec<Source>,
    /// SHA-256 of each file of the bundle, and of the module tree as a whole under `modules`.
    pub sha256: BTreeMap<String, String>,
    /// Kernel modules of each part of the initramfs, as paths in it, in the order to load
    /// them. A part that the kernel has no drivers for is not there.
    pub boot: BTreeMap<Part, Vec<String>>,
    /// What the kernel can do.
    pub features: BTreeMap<String, Support>,
    /// Names of the features that it lacks.
    pub missing: Vec<String>,
}

/// A file that a bundle was made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Name of the package, or path of the file.
    pub name: String,
    /// Version of the package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// SHA-256 of the package or file, or of the directory's files.
    pub sha256: String,
}
