//! Which kernel boots, and what its initramfs begins with.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use runcvm_kernels::{Bundle, ImageError, NoDriver, Part, Prefix, Store, StoreError};
use runcvm_protocol::MODULES_PATH;
use thiserror::Error;

use crate::spec::{Content, InitramfsPart};

/// Why there is no kernel to boot.
#[derive(Debug, Error)]
pub enum Error {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    NoDriver(#[from] NoDriver),
    #[error("The kernel's name \"{0}\" is not UTF-8")]
    Name(String),
    #[error("The kernel {}: there is no such file", .0.display())]
    NoFile(PathBuf),
}

/// A kernel to boot.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) vmlinux: PathBuf,
    pub(crate) initramfs: Vec<InitramfsPart>,
}

/// Finds the kernel that a user means: a file or a bundle's directory if it has a slash and is
/// there, else a bundle's name; the default bundle if nothing was said. `parts` are those that
/// the machine needs.
pub(crate) fn resolve(
    prefix: &Prefix,
    wanted: Option<&OsStr>,
    parts: &[Part],
) -> Result<Kernel, Error> {
    if let Some(wanted) = wanted
        && wanted.as_bytes().contains(&b'/')
    {
        let path = Path::new(wanted);
        if path.is_dir() {
            return from_bundle(Bundle::open(path)?, parts);
        }
        if path.exists() {
            return from_image(prefix, path);
        }
        // `debian/6.12.1` is a name; nobody names a bundle `./vmlinuz` or `/boot/vmlinuz`.
        if wanted.as_bytes().starts_with(b".") || path.is_absolute() {
            return Err(Error::NoFile(path.into()));
        }
    }
    let name = wanted
        .map(|w| {
            let name = w.to_str();
            name.ok_or_else(|| Error::Name(w.to_string_lossy().into()))
        })
        .transpose()?;
    from_bundle(Store::new(prefix).resolve(name)?, parts)
}

fn from_bundle(bundle: Bundle, parts: &[Part]) -> Result<Kernel, Error> {
    let initramfs = bundle.initramfs(parts)?;
    let archives = initramfs.archives.into_iter().map(InitramfsPart::Archive);
    let modules = InitramfsPart::File {
        path: MODULES_PATH.into(),
        mode: 0o644,
        content: Content::Bytes(initramfs.modules.into()),
    };
    Ok(Kernel {
        vmlinux: bundle.vmlinux,
        initramfs: archives.chain([modules]).collect(),
    })
}

/// A kernel image by itself, which must have all drivers built in.
fn from_image(prefix: &Prefix, image: &Path) -> Result<Kernel, Error> {
    let vmlinux = runcvm_kernels::vmlinux_of(image, &prefix.cache())?;
    Ok(Kernel {
        vmlinux,
        initramfs: vec![InitramfsPart::File {
            path: MODULES_PATH.into(),
            mode: 0o644,
            content: Content::Bytes(Vec::new()),
        }],
    })
}
