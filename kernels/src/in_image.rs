//! Kernels that images bring along.

use std::fs;
use std::path::{Path, PathBuf};

use crate::add::{AddError, make};
use crate::digest;
use crate::import::{Import, image};
use crate::name::BundleName;
use crate::rootfs::Image;

/// Where bundles of such kernels are, in the cache.
const DIRECTORY: &str = "images";

/// A bundle of the kernel at `kernel` in `image` and of those of its modules that a machine
/// needs at boot: a directory in `cache` that is named by their contents, and made if it is
/// not there. It has no tree of modules; the image has.
pub fn bundle(image: &Image, kernel: &Path, cache: &Path) -> Result<PathBuf, AddError> {
    let parent = cache.join(DIRECTORY);
    let write = |e| AddError::Write(parent.clone(), e);
    fs::create_dir_all(&parent).map_err(write)?;
    let scratch = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir_in(&parent)
        .map_err(write)?;
    let dir = scratch.path().join("bundle");
    fs::create_dir(&dir).map_err(write)?;
    let mut import = Import::new(&dir);
    image::copy_boot(image, kernel, &mut import)?;
    let release = import.check()?.to_owned();
    let path = parent.join(digest::of_tree(&dir).map_err(write)?);
    if path.exists() {
        return Ok(path);
    }
    let name = BundleName::new("image", &release)?;
    make(&import, &release, &name, &mut |_| {})?;
    fs::remove_dir_all(import.modules()).map_err(write)?;
    match fs::rename(&dir, &path) {
        // Somebody else was faster.
        Err(_) if path.exists() => Ok(path),
        result => result.map(|()| path).map_err(write),
    }
}

#[cfg(test)]
#[path = "in_image_test.rs"]
mod tests;
