//! A kernel in a root filesystem, where its distribution keeps it. It may be hostile.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::dir::Dir;

use super::{Import, ImportError};
use crate::digest;
use crate::image;
use crate::manifest::Source;
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

pub(super) const MODULES: &str = "/lib/modules";

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

/// Copies a kernel and its configuration, if that is there. The kernel's release.
fn copy_kernel(image: &Image, kernel: &Path, import: &mut Import) -> Result<String, ImportError> {
    let (bytes, release) = read_kernel(image, kernel)?;
    import.set_release(&release)?;
    write(&import.image(), &bytes)?;
    if let Some(config) = read_config(image, &release) {
        write(&import.config(), &config)?;
    }
    import.source.push(Source {
        name: kernel.display().to_string(),
        version: None,
        sha256: digest::of_bytes(&bytes),
    });
    Ok(release)
}

/// A kernel and its release.
pub(super) fn read_kernel(image: &Image, kernel: &Path) -> Result<(Vec<u8>, String), ImportError> {
    let bytes = read(image, kernel)?;
    let release = image::release(&bytes).filter(|release| is_component(release));
    match release.map(ToOwned::to_owned) {
        Some(release) => Ok((bytes, release)),
        None => Err(ImportError::NoRelease(kernel.into())),
    }
}

/// The configuration of the kernel of this release. Without one, less is known about it.
pub(super) fn read_config(image: &Image, release: &str) -> Option<Vec<u8>> {
    let places = [
        Path::new("/boot").join(format!("config-{release}")),
        Path::new(MODULES).join(release).join("config"),
    ];
    places.iter().find_map(|place| read(image, place).ok())
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
    write(to, &bytes)?;
    Ok(bytes.len() as u64)
}

/// Writes a file, and makes the directories above it.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), ImportError> {
    let parent = path.parent().map_or(Ok(()), fs::create_dir_all);
    parent
        .and_then(|()| fs::write(path, bytes))
        .map_err(|e| ImportError::Write(path.into(), e))
}

pub(super) fn read(image: &Image, path: &Path) -> Result<Vec<u8>, ImportError> {
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
