//! A kernel in a root filesystem, where its distribution keeps it. It may be hostile.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::dir::Dir;

use super::{Import, ImportError};
use crate::boot::Part;
use crate::digest;
use crate::image;
use crate::manifest::Source;
use crate::modules::ModuleTree;
use crate::name::{compare_versions, is_component};
use crate::os_release;
use crate::rootfs::Image;

/// Greatest size of one of its files, in bytes.
const MAX_FILE: u64 = 256 << 20;

/// Greatest size of all of its modules, in bytes.
const MAX_MODULES: u64 = 4 << 30;

/// Greatest depth of its tree of modules.
const MAX_DEPTH: usize = 16;

/// Stands for the newest `/lib/modules/RELEASE/vmlinuz`.
const WITH_MODULES: &str = "";

/// Where kernels are in images of a distribution, the first choice first.
fn places(distribution: &str) -> &'static [&'static str] {
    match distribution {
        "debian" => &["/vmlinuz", "/boot/vmlinuz"],
        "ubuntu" => &["/boot/vmlinuz", "/vmlinuz"],
        "alpine" | "openwrt" => &["/boot/vmlinuz-virt", "/boot/vmlinuz-lts"],
        "arch" => &["/boot/vmlinuz-linux", WITH_MODULES],
        "ol" | "fedora" | "rhel" | "centos" | "amzn" | "suse" => &["/boot/vmlinuz", WITH_MODULES],
        _ => &[],
    }
}

/// The kernel of an image of these distributions ([`os_release::distributions`]), if it has
/// one where the first of them that we know keeps it.
pub fn find(image: &Image, distributions: &[String]) -> Option<PathBuf> {
    let places = distributions
        .iter()
        .flat_map(|distribution| places(distribution));
    places
        .filter_map(|place| match *place {
            WITH_MODULES => beside_modules(image),
            place => Some(place.into()),
        })
        .find(|path| image.find(path).is_ok_and(|found| found.is_file()))
}

/// `/lib/modules/RELEASE/vmlinuz` of the newest release that has one.
fn beside_modules(image: &Image) -> Option<PathBuf> {
    let mut releases: Vec<_> = list(image, MODULES.as_ref()).ok()?;
    releases.sort_by(|a, b| compare_versions(b, a));
    let paths = releases
        .iter()
        .map(|r| Path::new(MODULES).join(r).join("vmlinuz"));
    paths
        .into_iter()
        .find(|path| image.find(path).is_ok_and(|found| found.is_file()))
}

const MODULES: &str = "/lib/modules";

/// Copies the kernel of the root filesystem at `path` with all of its modules.
pub fn copy(path: &Path, import: &mut Import) -> Result<(), ImportError> {
    let image = Image::open(path).map_err(|e| ImportError::Read(path.into(), e))?;
    let distributions = os_release::distributions(&image);
    import.distribution = distributions.first().cloned();
    let none = || ImportError::NoImage(path.display().to_string());
    let kernel = find(&image, &distributions)
        .or_else(|| anywhere(&image))
        .ok_or_else(none)?;
    let release = copy_kernel(&image, &kernel, import)?;
    let from = Path::new(MODULES).join(&release);
    let mut left = MAX_MODULES;
    copy_tree(&image, &from, &import.tree(), MAX_DEPTH, &mut left)
}

/// A kernel of a distribution that we do not know.
fn anywhere(image: &Image) -> Option<PathBuf> {
    let unknown = ["debian", "alpine", "fedora"].map(String::from);
    find(image, &unknown)
}

/// Copies the kernel at `kernel` with only those of its modules that a machine needs at boot,
/// and the index that it has of them.
pub(crate) fn copy_boot(
    image: &Image,
    kernel: &Path,
    import: &mut Import,
) -> Result<(), ImportError> {
    let release = copy_kernel(image, kernel, import)?;
    let from = Path::new(MODULES).join(release);
    let to = import.tree();
    copy_file(image, &from.join("modules.dep"), &to.join("modules.dep"))?;
    // One that was built without modules has none.
    let _ = copy_file(
        image,
        &from.join("modules.builtin"),
        &to.join("modules.builtin"),
    );
    let tree = ModuleTree::read_index(to.clone()).map_err(ImportError::Modules)?;
    let wanted: Vec<_> = Part::ALL
        .iter()
        .flat_map(|part| part.modules())
        .copied()
        .collect();
    for name in tree.load_order(&wanted) {
        let path = tree.path(&name);
        copy_file(image, &from.join(path), &to.join(path))?;
    }
    import.indexed = true;
    Ok(())
}

/// Copies a kernel and its configuration, if that is there. The kernel's release.
fn copy_kernel(image: &Image, kernel: &Path, import: &mut Import) -> Result<String, ImportError> {
    let bytes = read(image, kernel)?;
    let release = image::release(&bytes).filter(|release| is_component(release));
    let release = release
        .map(ToOwned::to_owned)
        .ok_or_else(|| ImportError::NoRelease(kernel.into()))?;
    let target = import.image();
    fs::write(&target, &bytes).map_err(|e| ImportError::Write(target, e))?;
    import.set_release(&release)?;
    import.source.push(Source {
        name: kernel.display().to_string(),
        version: None,
        sha256: digest::of_bytes(&bytes),
    });
    let places = [
        Path::new("/boot").join(format!("config-{release}")),
        Path::new(MODULES).join(&release).join("config"),
    ];
    // Without one, less is known about the kernel.
    let _ = places
        .iter()
        .find(|place| copy_file(image, place, &import.config()).is_ok());
    Ok(release)
}

fn copy_tree(
    image: &Image,
    from: &Path,
    to: &Path,
    depth: usize,
    left: &mut u64,
) -> Result<(), ImportError> {
    for name in list(image, from).map_err(|e| ImportError::Read(from.into(), e))? {
        let (from, to) = (from.join(&name), to.join(&name));
        // Links lead to sources and headers, which a guest does not need.
        if image.is_link(&from) {
            continue;
        }
        let found = image
            .find(&from)
            .map_err(|e| ImportError::Read(from.clone(), e.into()))?;
        if found.is_directory() && depth > 0 {
            copy_tree(image, &from, &to, depth - 1, left)?;
        } else if found.is_file() {
            let size = copy_file(image, &from, &to)?;
            *left = left.checked_sub(size).ok_or_else(|| ImportError::Hostile {
                path: from,
                reason: format!("the modules have more than {MAX_MODULES} bytes"),
            })?;
        }
    }
    Ok(())
}

/// Copies a file; its size.
fn copy_file(image: &Image, from: &Path, to: &Path) -> Result<u64, ImportError> {
    let bytes = read(image, from)?;
    let write = |e| ImportError::Write(to.into(), e);
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(write)?;
    }
    fs::write(to, &bytes).map_err(write)?;
    Ok(bytes.len() as u64)
}

fn read(image: &Image, path: &Path) -> Result<Vec<u8>, ImportError> {
    let failed = |e| ImportError::Read(path.into(), e);
    let bytes = image.read(path, MAX_FILE).ok_or_else(|| {
        failed(io::Error::other(
            "there is no such regular file in the root filesystem",
        ))
    })?;
    if bytes.len() as u64 == MAX_FILE {
        return Err(failed(io::Error::from(io::ErrorKind::FileTooLarge)));
    }
    Ok(bytes)
}

/// Names of what is in a directory.
fn list(image: &Image, path: &Path) -> io::Result<Vec<String>> {
    let fd = image.directory(path)?;
    let dir = Dir::from_fd(fd)?;
    let mut names = Vec::new();
    for entry in dir.into_iter() {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
#[path = "image_test.rs"]
pub(crate) mod tests;
