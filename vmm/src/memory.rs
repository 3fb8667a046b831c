//! The guest's memory: one memfd, mapped shared, so that vhost-user backends can map it too.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use runcvm_devices::GuestMemory;
use thiserror::Error;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, mmap::FromRangesError,
};

use crate::layout;

/// Name of the memfd; its mappings are told by it in `/proc/self/smaps`.
pub const MEMFD_NAME: &str = "runcvm-guest";

/// Why the guest's memory could not be had.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// The size is not one that a machine can have.
    #[error(
        "A machine cannot have {0} bytes of memory: give a multiple of 4096 of at least {min} MiB",
        min = layout::MIN_MEMORY >> 20
    )]
    BadSize(u64),
    /// The host did not create or seal the memfd.
    #[error("The host refused a memory file of {size} bytes")]
    Memfd {
        size: u64,
        #[source]
        source: io::Error,
    },
    /// The host did not map it.
    #[error("The host refused to map {size} bytes of guest memory")]
    Map {
        size: u64,
        #[source]
        source: FromRangesError,
    },
}

/// Makes guest memory of `size` bytes, placed as [`layout::ram`] says. Nothing of it is
/// populated.
pub fn create(size: u64) -> Result<GuestMemory, MemoryError> {
    if size < layout::MIN_MEMORY || !size.is_multiple_of(4096) {
        return Err(MemoryError::BadSize(size));
    }
    let memfd = |source| MemoryError::Memfd { size, source };
    let file = Arc::new(sealed_memfd(size).map_err(memfd)?);
    let (low, high) = layout::ram(size);
    let mut offset = 0;
    let mut place = |range: Range<u64>| {
        let len = range.end - range.start;
        let file_offset = FileOffset::from_arc(Arc::clone(&file), offset);
        offset += len;
        let len = usize::try_from(len).map_err(|_| MemoryError::BadSize(size))?;
        Ok((GuestAddress(range.start), len, Some(file_offset)))
    };
    let mut ranges = vec![place(low)?];
    if let Some(high) = high {
        ranges.push(place(high)?);
    }
    let memory = GuestMemoryMmap::from_ranges_with_files(ranges)
        .map_err(|source| MemoryError::Map { size, source })?;
    advise(&memory);
    Ok(Arc::new(memory))
}

/// A memfd that nobody who gets it can shrink (which would kill us with SIGBUS) or grow.
fn sealed_memfd(size: u64) -> io::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create(MEMFD_NAME, flags)?);
    file.set_len(size)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file)
}

/// Asks for huge pages, which the host gives where its administrator lets shared memory have
/// them (`shmem_enabled` is `advise`), and keeps guest memory out of core dumps. Both are
/// wishes: a refusal changes nothing else.
fn advise(memory: &GuestMemoryMmap) {
    for region in memory.iter() {
        for advice in [libc::MADV_HUGEPAGE, libc::MADV_DONTDUMP] {
            // SAFETY: The range is exactly the region's own mapping, and neither advice
            // changes what the memory holds.
            unsafe { libc::madvise(region.as_ptr().cast(), region.size(), advice) };
        }
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;

    #[test]
    fn low_and_high_memory_are_one_file() {
        let size = layout::DEVICE_HOLE + (64 << 20);
        let memory = create(size).unwrap();
        assert_eq!(memory.num_regions(), 2);
        memory
            .write_obj(0x1234_u32, GuestAddress(layout::HIGH_RAM))
            .unwrap();
        let offsets: Vec<u64> = memory
            .iter()
            .map(|region| region.file_offset().unwrap().start())
            .collect();
        assert_eq!(offsets, [0, layout::DEVICE_HOLE]);
        assert!(
            memory
                .find_region(GuestAddress(layout::DEVICE_HOLE))
                .is_none()
        );
        assert_eq!(
            memory.last_addr(),
            GuestAddress(layout::HIGH_RAM + (64 << 20) - 1)
        );
    }

    #[test]
    fn the_file_cannot_change_its_size() {
        let memory = create(layout::MIN_MEMORY).unwrap();
        let region = memory.iter().next().unwrap();
        let file = region.file_offset().unwrap().file();
        assert!(file.set_len(0).is_err());
        assert!(file.set_len(layout::MIN_MEMORY * 2).is_err());
    }

    #[test]
    fn bad_sizes_are_refused() {
        for size in [0, 4096, layout::MIN_MEMORY - 4096, layout::MIN_MEMORY + 1] {
            assert!(matches!(create(size), Err(MemoryError::BadSize(s)) if s == size));
        }
    }
}
