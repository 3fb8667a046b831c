//! Loading of an uncompressed ELF kernel (vmlinux).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use thiserror::Error;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::layout;
use crate::memory;

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
    #[error("It is cut short")]
    Truncated,
    #[error("Its program headers make no sense")]
    BadHeaders,
    #[error("It needs memory from {start:#x} to {end:#x}, and the machine has {} MiB", .memory >> 20)]
    NoRoom { start: u64, end: u64, memory: u64 },
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

/// A vmlinux that is to be loaded.
#[derive(Debug)]
pub struct Kernel {
    file: File,
    entry: u64,
    segments: Vec<Segment>,
}

impl Kernel {
    /// Reads what `file` says about itself.
    pub(super) fn new(file: File) -> Result<Self, KernelError> {
        let header = Header::read(&file)?;
        let segments = header.segments(&file)?;
        let entry = header.entry;
        Ok(Self {
            file,
            entry,
            segments,
        })
    }

    /// Bytes of its code and constants, which it never gives back to the memory that its
    /// guest can use.
    pub fn code_len(&self) -> u64 {
        let code = self.segments.iter().filter(|segment| !segment.writable);
        code.map(|segment| segment.file_len)
            .fold(0, u64::saturating_add)
    }

    /// Loads it to its own physical addresses in `size` bytes of RAM.
    pub(super) fn load(&self, memory: &GuestMemoryMmap, size: u64) -> Result<Loaded, KernelError> {
        let (low, _) = layout::ram(size);
        let room = layout::KERNEL_MIN..low.end.min(layout::ENTRY_MAPPED);
        let mut end = 0;
        for segment in &self.segments {
            let Some(segment_end) = segment.end().filter(|&end| end <= room.end) else {
                return Err(segment.no_room(size));
            };
            if segment.address < room.start {
                return Err(segment.no_room(size));
            }
            let address = GuestAddress(segment.address);
            memory::fill(
                memory,
                address,
                &self.file,
                segment.offset,
                segment.file_len,
            )
            .map_err(KernelError::reading)?;
            end = end.max(segment_end);
        }
        if !(room.start..end).contains(&self.entry) {
            let entry = self.entry;
            return Err(KernelError::BadEntry { entry });
        }
        let entry = GuestAddress(self.entry);
        Ok(Loaded { entry, end })
    }
}

impl KernelError {
    fn reading(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput => Self::Truncated,
            _ => Self::Read(error),
        }
    }
}

/// What is needed of the ELF header (ELF specification, "ELF Header").
struct Header {
    entry: u64,
    /// Offset, size and number of the program headers.
    table: u64,
    entry_size: u16,
    count: u16,
}

impl Header {
    const LEN: usize = 64;

    fn read(file: &File) -> Result<Self, KernelError> {
        const CLASS_64: u8 = 2;
        const LITTLE_ENDIAN: u8 = 1;
        const X86_64: [u8; 2] = 62_u16.to_le_bytes();
        let start = read_up_to(file, 0, Self::LEN)?;
        if !start.starts_with(b"\x7fELF") {
            // The magic of the boot protocol's setup header.
            return Err(match read_up_to(file, 0x202, 4)?.as_slice() {
                b"HdrS" => KernelError::Compressed,
                _ => KernelError::NotElf,
            });
        }
        if start.get(4..6) != Some(&[CLASS_64, LITTLE_ENDIAN]) || start.get(18..20) != Some(&X86_64)
        {
            return Err(KernelError::WrongMachine);
        }
        if start.len() < Self::LEN {
            return Err(KernelError::Truncated);
        }
        Ok(Self {
            entry: u64_at(&start, 24),
            table: u64_at(&start, 32),
            entry_size: u16_at(&start, 54),
            count: u16_at(&start, 56),
        })
    }

    /// The segments that are loaded ("Program Header").
    fn segments(&self, file: &File) -> Result<Vec<Segment>, KernelError> {
        const ENTRY_SIZE: usize = 56;
        const PT_LOAD: u32 = 1;
        const PF_W: u32 = 1 << 1;
        /// A kernel has about five.
        const MAX_COUNT: u16 = 128;
        if usize::from(self.entry_size) != ENTRY_SIZE || !(1..=MAX_COUNT).contains(&self.count) {
            return Err(KernelError::BadHeaders);
        }
        let mut table = vec![0; ENTRY_SIZE * usize::from(self.count)];
        file.read_exact_at(&mut table, self.table)
            .map_err(KernelError::reading)?;
        let segments = table
            .chunks_exact(ENTRY_SIZE)
            .filter(|entry| u32_at(entry, 0) == PT_LOAD)
            .map(|entry| Segment {
                writable: u32_at(entry, 4) & PF_W != 0,
                offset: u64_at(entry, 8),
                address: u64_at(entry, 24),
                file_len: u64_at(entry, 32),
                memory_len: u64_at(entry, 40),
            });
        let segments: Vec<_> = segments.collect();
        if segments
            .iter()
            .any(|segment| segment.file_len > segment.memory_len)
        {
            return Err(KernelError::BadHeaders);
        }
        Ok(segments)
    }
}

/// A part of the file that is loaded.
#[derive(Debug)]
struct Segment {
    writable: bool,
    offset: u64,
    /// Guest-physical.
    address: u64,
    file_len: u64,
    /// What lies past `file_len` is zero.
    memory_len: u64,
}

impl Segment {
    fn end(&self) -> Option<u64> {
        self.address.checked_add(self.memory_len)
    }

    fn no_room(&self, memory: u64) -> KernelError {
        KernelError::NoRoom {
            start: self.address,
            end: self.end().unwrap_or(u64::MAX),
            memory,
        }
    }
}

/// `len` bytes of `file` from `offset` on, or as many as there are.
fn read_up_to(file: &File, offset: u64, len: usize) -> Result<Vec<u8>, KernelError> {
    let mut bytes = vec![0; len];
    let mut done = 0;
    while done < len {
        match file.read_at(&mut bytes[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(KernelError::Read(e)),
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("headers are read whole")
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

#[cfg(test)]
#[path = "kernel_test.rs"]
mod tests;
