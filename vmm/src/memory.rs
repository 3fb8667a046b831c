//! The guest's memory: one memfd, mapped shared, so that vhost-user backends can map it too.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use runcvm_devices::GuestMemory;
use thiserror::Error;
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap, mmap::FromRangesError,
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
    /// The host has not set aside so many huge pages, or others have them.
    #[error(
        "The host has no {pages} huge pages of 2 MiB to spare: its administrator sets them aside \
         with the sysctl vm.nr_hugepages"
    )]
    HugePages {
        pages: u64,
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

/// Refuses a size that no machine can have.
pub fn check_size(size: u64) -> Result<(), MemoryError> {
    if size < layout::MIN_MEMORY || !size.is_multiple_of(4096) {
        return Err(MemoryError::BadSize(size));
    }
    Ok(())
}

/// Makes guest memory of `size` bytes, placed as [`layout::ram`] says. Nothing of it is
/// populated.
pub fn create(size: u64) -> Result<GuestMemory, MemoryError> {
    make(size, MFdFlags::empty())
}

/// As [`create`], of the huge pages that the host's administrator has set aside, all of which
/// are taken at once. The size is rounded up to whole ones.
pub fn create_huge(size: u64) -> Result<GuestMemory, MemoryError> {
    const HUGE_PAGE: u64 = 2 << 20;
    let size = size.checked_next_multiple_of(HUGE_PAGE);
    let size = size.ok_or(MemoryError::BadSize(u64::MAX))?;
    let memory = make(size, MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB)?;
    // One that was missing later would end the process.
    let take = |region: &GuestRegionMmap| {
        let file = region.file_offset().ok_or(io::ErrorKind::InvalidInput)?;
        let (start, len) = (i64_of(file.start())?, i64_of(region.len())?);
        Ok(fallocate(file.file(), FallocateFlags::empty(), start, len)?)
    };
    let taken = memory.iter().try_for_each(take);
    taken.map_err(|source| MemoryError::HugePages {
        pages: size / HUGE_PAGE,
        source,
    })?;
    Ok(memory)
}

fn make(size: u64, flags: MFdFlags) -> Result<GuestMemory, MemoryError> {
    check_size(size)?;
    let memfd = |source| MemoryError::Memfd { size, source };
    let file = Arc::new(sealed_memfd(size, flags).map_err(memfd)?);
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

/// Copies `len` bytes of `file`, from `offset` on, to guest memory at `at`.
///
/// The host moves them from page cache to page cache: a page of guest memory is filled before
/// anything maps it, which takes half the time of reading into the mapping, where each page
/// faults and is cleared first.
///
/// # Errors
///
/// [`io::ErrorKind::UnexpectedEof`] if the file is shorter, [`io::ErrorKind::InvalidInput`] if
/// the range is not in one region of guest memory.
pub fn fill(
    memory: &GuestMemoryMmap,
    at: GuestAddress,
    file: &File,
    offset: u64,
    len: u64,
) -> io::Result<()> {
    let (memfd, mut to) = place(memory, at, len).ok_or(io::ErrorKind::InvalidInput)?;
    let (mut from, mut rest) = (i64_of(offset)?, len);
    while rest > 0 {
        (&*memfd).seek(SeekFrom::Start(to))?;
        let count = usize::try_from(rest).unwrap_or(usize::MAX);
        // SAFETY: `from` is valid for the call, which touches no other memory of ours: guest
        // memory changes as if the guest itself had written it.
        let sent =
            unsafe { libc::sendfile64(memfd.as_raw_fd(), file.as_raw_fd(), &raw mut from, count) };
        match u64::try_from(sent) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(sent) => {
                to += sent;
                rest -= sent;
            }
            Err(_) => {
                let error = io::Error::last_os_error();
                match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // Not every file system can.
                    Some(libc::EINVAL | libc::ENOSYS) => {
                        let done = len - rest;
                        let at = GuestAddress(at.0 + done);
                        return read(memory, at, file, offset + done, rest);
                    }
                    _ => return Err(error),
                }
            }
        }
    }
    Ok(())
}

/// [`fill`] by way of the mapping.
fn read(
    memory: &GuestMemoryMmap,
    at: GuestAddress,
    mut file: &File,
    offset: u64,
    len: u64,
) -> io::Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    let count = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    memory
        .read_exact_volatile_from(at, &mut file, count)
        .map_err(io::Error::other)
}

/// The file behind `len` bytes of guest memory at `at`, and where in it they are.
fn place(memory: &GuestMemoryMmap, at: GuestAddress, len: u64) -> Option<(Arc<File>, u64)> {
    let region = memory.find_region(at)?;
    let within = at.0 - region.start_addr().0;
    if len > region.len() - within {
        return None;
    }
    let file = region.file_offset()?;
    Some((Arc::clone(file.arc()), file.start() + within))
}

fn i64_of(offset: u64) -> io::Result<i64> {
    i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// A memfd that nobody who gets it can shrink (which would kill us with SIGBUS) or grow.
fn sealed_memfd(size: u64, flags: MFdFlags) -> io::Result<File> {
    let flags = flags | MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
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
    use std::io::Write;

    use super::*;

    #[test]
    fn huge_pages_that_are_not_there_are_counted() {
        match create_huge(1 << 40) {
            Err(error @ MemoryError::HugePages { .. }) => {
                assert!(
                    error.to_string().contains("no 524288 huge pages"),
                    "{error}"
                );
            }
            Err(MemoryError::Memfd { .. }) => eprintln!("skipped: this kernel has no huge pages"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn files_are_copied_to_either_side_of_the_hole() {
        let content: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        let memory = create(layout::DEVICE_HOLE + (16 << 20)).unwrap();
        for way in [fill, read] {
            for at in [0x1_0001, layout::HIGH_RAM + 0x123] {
                way(&memory, GuestAddress(at), &file, 1000, 200_000).unwrap();
                let mut copied = vec![0; 200_000];
                memory.read_slice(&mut copied, GuestAddress(at)).unwrap();
                assert_eq!(copied, content[1000..201_000]);
            }
        }
    }

    #[test]
    fn what_is_not_there_is_not_copied() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(100).unwrap();
        let memory = create(layout::DEVICE_HOLE + (16 << 20)).unwrap();
        let copy = |at, offset, len| {
            let result = fill(&memory, GuestAddress(at), &file, offset, len);
            result.map_err(|error| error.kind())
        };
        assert_eq!(copy(0, 0, 100), Ok(()));
        assert_eq!(copy(0, 1, 100), Err(io::ErrorKind::UnexpectedEof));
        let low_end = layout::DEVICE_HOLE;
        for (at, len) in [
            (low_end, 1),
            (low_end - 50, 100),
            (0, u64::MAX),
            (u64::MAX, 1),
        ] {
            assert_eq!(
                copy(at, 0, len),
                Err(io::ErrorKind::InvalidInput),
                "{at:#x}"
            );
        }
        assert_eq!(copy(0, u64::MAX, 1), Err(io::ErrorKind::InvalidInput));
    }

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
