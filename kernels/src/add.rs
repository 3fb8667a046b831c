//! Making a bundle of an imported kernel.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::boot::{self, BootError};
use crate::digest;
use crate::features::{self, Config};
use crate::image::{self, ImageError};
use crate::import::{Import, ImportError};
use crate::manifest::{self, Manifest};
use crate::modules::{ModuleError, ModuleTree};
use crate::name::{BadName, BundleName};
use crate::store::{Bundle, Store, StoreError};

/// What became of an addition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Added {
    /// The bundle is new.
    New(BundleName),
    /// It took the place of another of the same name.
    Replaced(BundleName),
    /// The very same was there already.
    Unchanged(BundleName),
}

/// Why no bundle was added.
#[derive(Debug, Error)]
pub enum AddError {
    /// The input could not be taken apart.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The image is of no use.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The modules are of no use.
    #[error(transparent)]
    Modules(#[from] ModuleError),
    /// The initramfs could not be made.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The kernel's release gives no name.
    #[error(transparent)]
    Name(#[from] BadName),
    /// The image is of another kernel than the modules.
    #[error("the kernel image is of release {image}, but the modules are of {modules}")]
    ReleaseMismatch { image: String, modules: String },
    /// The kernel lacks what every machine needs.
    #[error("the kernel {release} cannot be used, because it has no {}", .missing.join(", no "))]
    Incapable {
        release: String,
        missing: Vec<String>,
    },
    /// A file of the bundle could not be read or written.
    #[error("cannot write {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
}

/// Adds a kernel to the store. `unpack` takes its input apart; `name` is what the bundle is
/// called, by default the distribution, as far as it is known, and the kernel's release; `progress` is told
/// each step after that. If anything fails, the store is as before.
pub fn add(
    store: &Store,
    name: Option<&BundleName>,
    unpack: impl FnOnce(&mut Import) -> Result<(), ImportError>,
    progress: &mut dyn FnMut(&str),
) -> Result<Added, AddError> {
    let _lock = store.lock()?;
    let scratch = store.scratch()?;
    let dir = scratch.path().join("bundle");
    fs::create_dir(&dir).map_err(|e| AddError::Write(dir.clone(), e))?;
    let mut import = Import::new(&dir);
    unpack(&mut import)?;
    let release = import.check()?.to_owned();
    let name = match name {
        Some(name) => name.clone(),
        None => {
            let known = import.distribution.as_deref();
            BundleName::new(known.unwrap_or(distribution_of(&release)), &release)?
        }
    };
    let existed = store.path_of(&name).exists();
    if existed
        && let Ok(old) = store.load(&name)
        && is_current(&old)
        && old.manifest.source == import.source
        && store.verify(&old).is_ok()
    {
        return Ok(Added::Unchanged(name));
    }
    make(&import, &release, &name, progress)?;
    store.install(&dir, &name)?;
    Ok(if existed {
        Added::Replaced(name)
    } else {
        Added::New(name)
    })
}

/// A bundle is as this version of runcvm would make it.
pub fn is_current(bundle: &Bundle) -> bool {
    bundle.manifest.format == manifest::FORMAT
}

/// Turns an import into a bundle, in place.
pub(crate) fn make(
    import: &Import,
    release: &str,
    name: &BundleName,
    progress: &mut dyn FnMut(&str),
) -> Result<(), AddError> {
    let dir = &import.dir;
    progress("Extracting vmlinux");
    let image = image::read_image(&import.image())?;
    if let Some(own) = image::release(&image)
        && own != release
    {
        return Err(AddError::ReleaseMismatch {
            image: own.into(),
            modules: release.into(),
        });
    }
    let origin = import.source.first().map_or("", |source| &source.name);
    let vmlinux = image::extract(&image).map_err(image::not_a_kernel(Path::new(origin)))?;
    write(&dir.join("vmlinux"), &vmlinux)?;
    remove(&import.image())?;

    progress("Indexing modules");
    let tree = match import.indexed {
        true => ModuleTree::read_index(import.tree())?,
        false => ModuleTree::index(&import.modules(), release)?,
    };
    let config = match fs::read_to_string(import.config()) {
        Ok(text) => Some(Config::parse(&text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(ImportError::Read(import.config(), e).into()),
    };
    let features = features::assess(config.as_ref(), &tree);
    let missing = features::missing_required(&features);
    if !missing.is_empty() {
        let release = release.into();
        return Err(AddError::Incapable { release, missing });
    }

    progress("Making the initramfs");
    let boot = boot::write_archives(&tree, &features, dir)?;
    let manifest = Manifest {
        format: manifest::FORMAT,
        name: name.distribution.clone(),
        version: name.version.clone(),
        release: release.into(),
        source: import.source.clone(),
        sha256: digests(dir).map_err(|e| AddError::Write(dir.clone(), e))?,
        boot,
        missing: features::missing(&features),
        features,
    };
    let mut json = serde_json::to_vec_pretty(&manifest).expect("all of it is JSON");
    json.push(b'\n');
    write(&dir.join("manifest.json"), &json)
}

/// Digests of all that is in a bundle so far, by name.
fn digests(dir: &Path) -> io::Result<std::collections::BTreeMap<String, String>> {
    let digest = |entry: io::Result<fs::DirEntry>| {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().display().to_string();
        let digest = if path.is_dir() {
            digest::of_tree(&path)?
        } else {
            digest::of_file(&path)?
        };
        Ok((name, digest))
    };
    dir.read_dir()?.map(digest).collect()
}

/// The distribution whose kernels are called like this.
fn distribution_of(release: &str) -> &'static str {
    if release.ends_with("-cloud-amd64") {
        "debian-cloud"
    } else {
        "debian"
    }
}

fn write(path: &Path, content: &[u8]) -> Result<(), AddError> {
    fs::write(path, content).map_err(|e| AddError::Write(path.into(), e))
}

fn remove(path: &Path) -> Result<(), AddError> {
    fs::remove_file(path).map_err(|e| AddError::Write(path.into(), e))
}

#[cfg(test)]
#[path = "add_test.rs"]
pub(crate) mod tests;
