//! Kernels that images bring along.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::add::{AddError, make};
use crate::import::Import;
use crate::import::boot_files::BootFiles;
use crate::name::BundleName;
use crate::rootfs::Image;

/// Where bundles of such kernels are, in the cache.
const DIRECTORY: &str = "images";

/// As many of them are kept: those that were used last.
const KEPT: usize = 16;

/// A bundle of the kernel at `kernel` in `image` and of those of its modules that a machine
/// needs at boot: a directory in `cache` that is named by their contents, and made if it is
/// not there. It has no tree of modules; the image has.
///
/// Only contents tell kernels of images apart: numbers of devices and inodes come again with the
/// next container, and times are whatever the image says.
pub fn bundle(image: &Image, kernel: &Path, cache: &Path) -> Result<PathBuf, AddError> {
    let parent = cache.join(DIRECTORY);
    let write = |e| AddError::Write(parent.clone(), e);
    let files = BootFiles::read(image, kernel)?;
    let path = parent.join(files.digest());
    match File::open(&path).and_then(|dir| dir.set_modified(SystemTime::now())) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        result => return result.map(|()| path).map_err(write),
    }
    fs::create_dir_all(&parent).map_err(write)?;
    let scratch = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir_in(&parent)
        .map_err(write)?;
    let dir = scratch.path().join("bundle");
    let mut import = Import::new(&dir);
    files.write(&mut import)?;
    let release = import.check()?.to_owned();
    let name = BundleName::new("image", &release)?;
    make(&import, &release, &name, &mut |_| {})?;
    fs::remove_dir_all(import.modules()).map_err(write)?;
    match fs::rename(&dir, &path) {
        // Somebody else was faster.
        Err(_) if path.exists() => {}
        result => result.map_err(write)?,
    }
    drop(scratch);
    prune(&parent).map_err(write)?;
    Ok(path)
}

/// Removes what was not used for longest.
fn prune(parent: &Path) -> io::Result<()> {
    let mut bundles = Vec::new();
    for entry in parent.read_dir()? {
        let path = entry?.path();
        // It may be gone meanwhile, as those do that are being made.
        if let Ok(used) = path
            .join("manifest.json")
            .symlink_metadata()
            .and(path.metadata())
        {
            bundles.push((used.modified()?, path));
        }
    }
    bundles.sort();
    let surplus = bundles.len().saturating_sub(KEPT);
    bundles[..surplus]
        .iter()
        .try_for_each(|(_, path)| match fs::remove_dir_all(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        })
}

#[cfg(test)]
#[path = "in_image_test.rs"]
mod tests;
