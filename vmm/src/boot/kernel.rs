//! Loading of an uncompressed ELF kernel (vmlinux).

use std::fs::File;
use std::io::{self, Read, Seek};

use linux_loader::loader::{Elf, KernelLoader};
use thiserror::Error;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::layout;

/// Why a file is not a kernel that a machine can boot.
#[derive(Debug, Error)]
pub enum KernelError {
    #[error("The file cannot be read")]
    Read(#[source] io::Error),
    #[error("It is a compressed kernel (bzImage), and an ELF vmlinux is needed")]
    Compressed,
    #[error("It is not an ELF file")]
    NotElf,
    #[error("It is an ELF file, but not one for 64-bit x86")]
    WrongMachine,
    #[error("It is cut short, or needs more memory than the machine's {} MiB", .memory >> 20)]
    Truncated { memory: u64 },
    #[error("It needs memory up to {end:#x}, and the machine has {} MiB", .memory >> 20)]
    TooBig { end: u64, memory: u64 },
    #[error("Its entry {entry:#x} lies outside of what it loads")]
    BadEntry { entry: u64 },
}

/// A kernel in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loaded {
    pub(super) entry: GuestAddress,
    /// End of the memory that it takes, its BSS included.
    pub(super) end: u64,
}

/// Loads a vmlinux to its own physical addresses.
pub(super) fn load(
    memory: &GuestMemoryMmap,
    size: u64,
    file: &mut File,
) -> Result<Loaded, KernelError> {
    check_header(file)?;
    // What the loader says of it is about its own steps, and helps nobody.
    let loaded =
        Elf::load(memory, None, file, None).map_err(|_| KernelError::Truncated { memory: size })?;
    let entry = loaded.kernel_load;
    let end = loaded.kernel_end;
    let (low, _) = layout::ram(size);
    if end > low.end.min(layout::ENTRY_MAPPED) {
        return Err(KernelError::TooBig { end, memory: size });
    }
    if !(layout::KERNEL_MIN..end).contains(&entry.0) {
        return Err(KernelError::BadEntry { entry: entry.0 });
    }
    Ok(Loaded { entry, end })
}

/// Looks at what the loader does not: the ELF class and machine (ELF specification, "ELF
/// Header"), and the magic of a kernel that is not ELF (boot protocol, offset 0x202).
fn check_header(file: &mut File) -> Result<(), KernelError> {
    const CLASS_64: u8 = 2;
    const X86_64: [u8; 2] = 62_u16.to_le_bytes();
    let mut start = Vec::with_capacity(0x206);
    file.rewind()
        .and_then(|()| file.take(0x206).read_to_end(&mut start))
        .map_err(KernelError::Read)?;
    if !start.starts_with(b"\x7fELF") {
        return Err(match start.get(0x202..) {
            Some(b"HdrS") => KernelError::Compressed,
            _ => KernelError::NotElf,
        });
    }
    if start.get(4) != Some(&CLASS_64) || start.get(18..20) != Some(&X86_64) {
        return Err(KernelError::WrongMachine);
    }
    Ok(())
}

#[cfg(test)]
#[path = "kernel_test.rs"]
mod tests;
