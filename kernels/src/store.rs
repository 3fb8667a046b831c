//! The bundles that are installed.
//!
//! ```text
//! kernels/default                      → debian/latest
//! kernels/debian/latest                → 6.12.117+deb12-amd64
//! kernels/debian/6.12.117+deb12-amd64/
//!     manifest.json                    see [`Manifest`]
//!     vmlinux                          ELF, not compressed
//!     initramfs, initramfs.*           see [`crate::boot`]
//!     config                           the kernel's configuration, if known
//!     modules/lib/modules/RELEASE/     all modules, with what modprobe needs
//! ```

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use thiserror::Error;

use crate::digest;
use crate::manifest::Manifest;
use crate::name::{BundleName, compare_versions, is_component};
use crate::prefix::Prefix;

/// The command that adds a kernel, for messages.
const ADD: &str = "`runcvm-kernels add debian` adds one";

/// The bundles of a prefix.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// An installed kernel with all that it needs.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// Distribution, such as `debian`.
    pub name: String,
    /// Version, such as `6.12.117+deb12-amd64`.
    pub version: String,
    /// The bundle's directory.
    pub path: PathBuf,
    /// The kernel: ELF, not compressed.
    pub vmlinux: PathBuf,
    /// The modules: a directory to be the guest's `/lib/modules/RELEASE`.
    pub modules: PathBuf,
    /// What the bundle says about itself.
    pub manifest: Manifest,
}

/// Why the store could not do as asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Nothing has that name.
    #[error("there is no kernel {wanted:?} ({installed}); {ADD}")]
    NotFound { wanted: String, installed: String },
    /// No default was chosen, or it is gone.
    #[error("no kernel is the default ({installed}); `runcvm-kernels default NAME` chooses one")]
    NoDefault { installed: String },
    /// No kernel is there at all.
    #[error("no kernel is installed; {ADD}")]
    Empty,
    /// A bundle's manifest is damaged.
    #[error("a kernel is damaged: {} cannot be understood", .path.display())]
    Manifest {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// A bundle differs from its manifest.
    #[error("the kernel {name} is damaged: {what} is not what was installed")]
    Damaged { name: String, what: String },
    /// A file of the store could not be read or written.
    #[error("cannot {action} {}", .path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.into();
    move |source| StoreError::Io {
        action,
        path,
        source,
    }
}

impl Bundle {
    /// The bundle in the directory `path`, wherever that is.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let file = path.join("manifest.json");
        let json = fs::read(&file).map_err(failed("read", &file))?;
        let manifest: Manifest = serde_json::from_slice(&json)
            .map_err(|source| StoreError::Manifest { path: file, source })?;
        Ok(Self {
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            vmlinux: path.join("vmlinux"),
            modules: path.join("modules/lib/modules").join(&manifest.release),
            manifest,
            path: path.into(),
        })
    }
}

impl Store {
    /// The store of a prefix.
    pub fn new(prefix: &Prefix) -> Self {
        Self {
            root: prefix.kernels(),
        }
    }

    /// The directory that holds the bundles.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Finds a bundle: `DISTRIBUTION` or `DISTRIBUTION/latest` for its newest,
    /// `DISTRIBUTION/VERSION`, or the default.
    pub fn resolve(&self, name: Option<&str>) -> Result<Bundle, StoreError> {
        let link = match name {
            None => self.root.join("default"),
            Some(name) => match name.split_once('/').unwrap_or((name, "latest")) {
                (d, v) if is_component(d) && (v == "latest" || is_component(v)) => {
                    self.root.join(d).join(v)
                }
                _ => return Err(self.not_found(name)),
            },
        };
        match self.named_by(&link) {
            Some(found) => self.load(&found),
            None => Err(match (name, self.names()?.is_empty()) {
                (_, true) => StoreError::Empty,
                (Some(name), false) => self.not_found(name),
                (None, false) => StoreError::NoDefault {
                    installed: self.installed(),
                },
            }),
        }
    }

    /// All bundles, by distribution, the newest first.
    pub fn list(&self) -> Result<Vec<Bundle>, StoreError> {
        self.names()?.iter().map(|name| self.load(name)).collect()
    }

    /// Names of all bundles, by distribution, the newest first.
    pub fn names(&self) -> Result<Vec<BundleName>, StoreError> {
        let mut names = Vec::new();
        for distribution in directories(&self.root)? {
            for version in directories(&self.root.join(&distribution))? {
                names.extend(BundleName::new(&distribution, &version));
            }
        }
        names.sort_by(|a, b| {
            let newest_first = compare_versions(&b.version, &a.version);
            a.distribution.cmp(&b.distribution).then(newest_first)
        });
        Ok(names)
    }

    /// The name of the default, if there is one.
    pub fn default_name(&self) -> Option<BundleName> {
        self.named_by(&self.root.join("default"))
    }

    /// Makes a bundle the default: `DISTRIBUTION` always its newest, `DISTRIBUTION/VERSION`
    /// this very one.
    pub fn set_default(&self, name: &str) -> Result<Bundle, StoreError> {
        let _lock = self.lock()?;
        let bundle = self.resolve(Some(name))?;
        let target = match name.split_once('/') {
            Some((_, version)) if version != "latest" => format!("{}/{version}", bundle.name),
            _ => format!("{}/latest", bundle.name),
        };
        self.link("default", &target)?;
        Ok(bundle)
    }

    /// Removes a bundle. The newest that remains takes its place as `latest`, and the best one as
    /// the default.
    pub fn remove(&self, name: &BundleName) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        let path = self.path_of(name);
        if !path.is_dir() {
            return Err(self.not_found(&name.to_string()));
        }
        let trash = tempfile::Builder::new()
            .prefix(SCRATCH)
            .tempdir_in(&self.root)
            .map_err(failed("write in", &self.root))?;
        fs::rename(&path, trash.path().join("bundle")).map_err(failed("remove", &path))?;
        self.relink(&name.distribution)?;
        trash.close().map_err(failed("remove", &path))
    }

    /// Compares a bundle's files with its manifest.
    pub fn verify(&self, bundle: &Bundle) -> Result<(), StoreError> {
        for (file, expected) in &bundle.manifest.sha256 {
            let path = bundle.path.join(file);
            let found = match file.as_str() {
                "modules" => digest::of_tree(&path),
                _ => digest::of_file(&path),
            };
            if found.map_err(failed("read", &path))? != *expected {
                return Err(StoreError::Damaged {
                    name: format!("{}/{}", bundle.name, bundle.version),
                    what: file.clone(),
                });
            }
        }
        Ok(())
    }

    /// A fresh directory in the store, not seen as a bundle, for [`Self::install`]. What
    /// additions that were killed left behind is removed.
    pub(crate) fn scratch(&self) -> Result<tempfile::TempDir, StoreError> {
        fs::create_dir_all(&self.root).map_err(failed("make", &self.root))?;
        tempfile::Builder::new()
            .prefix(SCRATCH)
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir_in(&self.root)
            .map_err(failed("write in", &self.root))
    }

    /// Keeps other changes out until the lock is dropped, and removes what changes that were
    /// killed left behind.
    pub(crate) fn lock(&self) -> Result<File, StoreError> {
        fs::create_dir_all(&self.root).map_err(failed("make", &self.root))?;
        let path = self.root.join(".lock");
        let open = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let file = open.map_err(failed("open", &path))?;
        file.lock().map_err(failed("lock", &path))?;
        for entry in read_dir(&self.root)? {
            if entry.starts_with(SCRATCH) {
                let path = self.root.join(entry);
                fs::remove_dir_all(&path).map_err(failed("remove", &path))?;
            }
        }
        Ok(file)
    }

    /// Moves a finished bundle into place, over one of the same name if there is one. The
    /// caller holds the lock.
    pub(crate) fn install(&self, made: &Path, name: &BundleName) -> Result<(), StoreError> {
        let parent = self.root.join(&name.distribution);
        fs::create_dir_all(&parent).map_err(failed("make", &parent))?;
        let path = self.path_of(name);
        if path.exists() {
            // The old bundle goes the way of the scratch directory.
            renameat2(
                AT_FDCWD,
                made,
                AT_FDCWD,
                &path,
                RenameFlags::RENAME_EXCHANGE,
            )
            .map_err(|e| failed("replace", &path)(e.into()))?;
        } else {
            fs::rename(made, &path).map_err(failed("make", &path))?;
        }
        self.relink(&name.distribution)
    }

    /// The bundle's directory.
    pub(crate) fn path_of(&self, name: &BundleName) -> PathBuf {
        self.root.join(&name.distribution).join(&name.version)
    }

    /// Loads the manifest of a bundle.
    pub(crate) fn load(&self, name: &BundleName) -> Result<Bundle, StoreError> {
        Ok(Bundle {
            name: name.distribution.clone(),
            version: name.version.clone(),
            ..Bundle::open(&self.path_of(name))?
        })
    }

    /// The bundle that a path of the store leads to.
    fn named_by(&self, link: &Path) -> Option<BundleName> {
        let root = self.root.canonicalize().ok()?;
        let path = link.canonicalize().ok()?;
        let mut parts = path.strip_prefix(root).ok()?.iter();
        let (distribution, version) = (parts.next()?.to_str()?, parts.next()?.to_str()?);
        match parts.next() {
            None => BundleName::new(distribution, version).ok(),
            Some(_) => None,
        }
    }

    /// Makes `latest` of a distribution its newest bundle, and the default some bundle.
    fn relink(&self, distribution: &str) -> Result<(), StoreError> {
        let names = self.names()?;
        let newest = names.iter().find(|n| n.distribution == distribution);
        match newest {
            Some(newest) => self.link(&format!("{distribution}/latest"), &newest.version)?,
            None => {
                let dir = self.root.join(distribution);
                fs::remove_dir_all(&dir).map_err(failed("remove", &dir))?;
            }
        }
        if self.default_name().is_none() {
            let first = |distribution| names.iter().find(|n| n.distribution == distribution);
            let best = PREFERRED.into_iter().find_map(first);
            match best.or(names.first()) {
                Some(name) => self.link("default", &format!("{}/latest", name.distribution))?,
                None => remove_link(&self.root.join("default"))?,
            }
        }
        Ok(())
    }

    fn link(&self, name: &str, target: &str) -> Result<(), StoreError> {
        let path = self.root.join(name);
        let fresh = self.root.join(".link");
        remove_link(&fresh)?;
        symlink(target, &fresh).map_err(failed("make", &fresh))?;
        fs::rename(&fresh, &path).map_err(failed("make", &path))
    }

    fn not_found(&self, wanted: &str) -> StoreError {
        StoreError::NotFound {
            wanted: wanted.into(),
            installed: self.installed(),
        }
    }

    fn installed(&self) -> String {
        let names = self.names().unwrap_or_default();
        match names.iter().map(ToString::to_string).collect::<Vec<_>>() {
            names if names.is_empty() => "none is installed".into(),
            names => format!("installed: {}", names.join(", ")),
        }
    }
}

/// Whose kernels are the default if nobody chose one, the best first.
const PREFERRED: [&str; 3] = ["runcvm", "debian", "debian-cloud"];

/// How names of unfinished directories begin.
const SCRATCH: &str = ".scratch-";

fn remove_link(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Names of what is in a directory, nothing if it is not there.
fn read_dir(path: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match path.read_dir() {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed("read", path)(e)),
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.collect())
}

/// Names of the real directories in a directory that can be part of a bundle's name.
fn directories(path: &Path) -> Result<Vec<String>, StoreError> {
    let mut names = read_dir(path)?;
    names.retain(|name| {
        let metadata = path.join(name).symlink_metadata();
        is_component(name) && metadata.is_ok_and(|m| m.is_dir())
    });
    Ok(names)
}

#[cfg(test)]
#[path = "store_test.rs"]
mod tests;
