//! What lies in the guest's memory before its first instruction: the kernel, its initramfs
//! and command line, and the zero page that tells of them.

use std::fs::File;
use std::path::PathBuf;

use thiserror::Error;
use vm_memory::{GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::spec::InitramfsPart;

mod command_line;
mod initramfs;
mod kernel;
mod zero_page;

pub use command_line::{CommandLineError, command_line};
pub use initramfs::InitramfsError;
pub use kernel::KernelError;
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

/// Loads the kernel and the initramfs into `memory`, which is `size` bytes of RAM laid out as
/// [`crate::layout`] says.
pub fn load_images(
    memory: &GuestMemoryMmap,
    size: u64,
    kernel: &PathBuf,
    initramfs: &[InitramfsPart],
) -> Result<Images, BootError> {
    let kernel_error = |source| BootError::Kernel {
        path: kernel.clone(),
        source,
    };
    let file = File::open(kernel).map_err(|e| kernel_error(KernelError::Read(e)))?;
    let loaded = kernel::load(memory, size, &file).map_err(kernel_error)?;
    let initramfs = initramfs::load(memory, size, loaded.end, initramfs)?;
    Ok(Images {
        entry: loaded.entry,
        initramfs,
    })
}
