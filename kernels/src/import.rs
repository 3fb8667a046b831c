//! Taking apart what a kernel comes in. Each importer brings its input into the same shape,
//! the [`Import`], of which [`crate::add()`] makes a bundle.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::compression::DecompressError;
use crate::manifest::Source;
use crate::modules::ModuleError;
use crate::name::is_component;

pub mod apt;
pub(crate) mod boot_files;
pub(crate) mod deb;
pub mod files;
pub mod image;
pub mod package;
mod pkginfo;
mod rpm;

/// A kernel, taken apart into a directory:
///
/// ```text
/// vmlinuz                        the image as it came
/// config                         its configuration, if known
/// modules/lib/modules/RELEASE/   its modules
/// ```
#[derive(Debug)]
pub struct Import {
    /// The directory.
    pub(crate) dir: PathBuf,
    /// The kernel's release, as in `uname -r`, once known.
    pub(crate) release: Option<String>,
    /// Its distribution by its identifier in os-release(5), if known.
    pub(crate) distribution: Option<String>,
    /// Files or packages that it is from.
    pub(crate) source: Vec<Source>,
    /// The modules have their index already.
    pub(crate) indexed: bool,
}

/// Why an input could not be taken apart.
#[derive(Debug, Error)]
pub enum ImportError {
    /// The package could not be had.
    #[error(transparent)]
    Apt(#[from] apt::AptError),
    /// The input could not be read.
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// What came out could not be written.
    #[error("cannot write {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
    /// The input is no package.
    #[error("{} is not a package of a distribution: {reason}", .path.display())]
    NotAPackage { path: PathBuf, reason: String },
    /// A part of the package could not be decompressed.
    #[error("{} is damaged", .0.display())]
    Compression(PathBuf, #[source] DecompressError),
    /// The package is for other machines.
    #[error("{} is for {architecture}, but must be for x86-64", .path.display())]
    Architecture { path: PathBuf, architecture: String },
    /// The package holds something that no package should.
    #[error("{} is unacceptable: {reason}", .path.display())]
    Hostile { path: PathBuf, reason: String },
    /// There are several kernels.
    #[error("there are files of two kernels, {0} and {1}, where one is needed")]
    TwoKernels(String, String),
    /// There is no kernel image.
    #[error("no kernel image (boot/vmlinuz-RELEASE) is in {0}")]
    NoImage(String),
    /// The kernel image does not say what release it is.
    #[error("the kernel {} does not say of which release it is", .0.display())]
    NoRelease(PathBuf),
    /// The modules are of no use.
    #[error(transparent)]
    Modules(ModuleError),
    /// There are no modules.
    #[error("no modules (lib/modules/RELEASE) are in {0}")]
    NoModules(String),
}

impl Import {
    /// An import into `dir`, an empty directory.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.into(),
            release: None,
            distribution: None,
            source: Vec::new(),
            indexed: false,
        }
    }

    /// The kernel is of this release.
    pub(crate) fn set_release(&mut self, release: &str) -> Result<(), ImportError> {
        match &self.release {
            Some(known) if known != release => {
                Err(ImportError::TwoKernels(known.clone(), release.into()))
            }
            Some(_) => Ok(()),
            None if is_component(release) => {
                self.release = Some(release.into());
                Ok(())
            }
            None => Err(ImportError::Hostile {
                path: self.dir.clone(),
                reason: format!("{release:?} is no kernel's release"),
            }),
        }
    }

    /// Everything is there; the release.
    pub(crate) fn check(&self) -> Result<&str, ImportError> {
        let names = self.source.iter().map(|source| source.name.as_str());
        let names = || names.collect::<Vec<_>>().join(", ");
        if !self.image().is_file() {
            return Err(ImportError::NoImage(names()));
        }
        match &self.release {
            Some(release) if self.tree().is_dir() => Ok(release),
            _ => Err(ImportError::NoModules(names())),
        }
    }

    pub(crate) fn image(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("config")
    }

    pub(crate) fn modules(&self) -> PathBuf {
        self.dir.join("modules")
    }

    /// The tree of the modules, once the release is known.
    pub(crate) fn tree(&self) -> PathBuf {
        let release = self.release.as_deref().unwrap_or_default();
        self.modules().join("lib/modules").join(release)
    }
}
