//! What lies in the guest's memory before its first instruction: the kernel, its initramfs
//! and command line, and the zero page that tells of them.

use std::fs::File;
use std::path::{Path, PathBuf};

use thiserror::Error;
use vm_memory::{GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::spec::InitramfsPart;

mod command_line;
mod initramfs;
mod kernel;
mod zero_page;

pub use command_line::{CommandLineError, command_line};
pub use initramfs::InitramfsError;
pub use kernel::{Kernel, KernelError};
pub use zero_page::write_zero_page;

/// Why a machine's images could not be loaded.
#[derive(Debug, Error)]
pub enum BootError {
    #[error("Cannot load the kernel {path}", path = .path.display())]
    Kernel {
        path: PathBuf,
        #[source]
        source: KernelError,
    },
    #[error("Cannot load the initramfs")]
    Initramfs(#[from] InitramfsError),
    #[error("Cannot write the boot data to the guest's memory")]
    Memory(#[from] GuestMemoryError),
}

/// Where the images are in the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Images {
    /// The kernel's 64-bit entry.
    pub entry: GuestAddress,
    /// Address and length of the initramfs, if there is one.
    pub initramfs: Option<(GuestAddress, u64)>,
}

/// Opens the vmlinux at `path`.
pub fn open_kernel(path: &Path) -> Result<Kernel, BootError> {
    File::open(path)
        .map_err(KernelError::Read)
        .and_then(Kernel::new)
        .map_err(|source| kernel_error(path, source))
}

/// Loads `kernel`, which is at `path`, and the initramfs into `memory`, which is `size` bytes
/// of RAM laid out as [`crate::layout`] says.
pub fn load_images(
    memory: &GuestMemoryMmap,
    size: u64,
    kernel: &Kernel,
    path: &Path,
    initramfs: &[InitramfsPart],
) -> Result<Images, BootError> {
    let loaded = kernel.load(memory, size);
    let loaded = loaded.map_err(|source| kernel_error(path, source))?;
    let initramfs = initramfs::load(memory, size, loaded.end, initramfs)?;
    Ok(Images {
        entry: loaded.entry,
        initramfs,
    })
}

fn kernel_error(path: &Path, source: KernelError) -> BootError {
    let path = path.to_owned();
    BootError::Kernel { path, source }
}
