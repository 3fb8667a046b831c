//! The buffers of a descriptor chain, checked against guest memory once, and moved to and
//! from files without a copy.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use thiserror::Error;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{GuestMemory, GuestMemoryMmap, Permissions, VolatileSlice};

use super::vring::Chain;

/// The most descriptors that a chain may have. A chain must not be longer than its queue
/// (§2.7.5.3.1), and no queue of ours is larger.
const MAX_DESCRIPTORS: usize = 1024;

/// The most buffers that one system call takes.
pub(crate) const MAX_IOVECS: usize = libc::UIO_MAXIOV as usize;

/// Why a chain cannot be used.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum ChainError {
    /// A buffer is not wholly in guest memory.
    #[error("Buffer {addr:#x}+{len:#x} lies outside guest memory")]
    OutsideMemory { addr: u64, len: u32 },
    /// A device-readable buffer follows a device-writable one (§2.7.4.2).
    #[error("A readable buffer follows a writable one")]
    WrongOrder,
    /// The chain loops, points out of its table or is longer than a chain may be.
    #[error("The chain has no end")]
    NoEnd,
}

/// Buffers of one direction, in order, as one stretch of bytes. What is taken from the front
/// is gone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buffers<'m> {
    slices: VecDeque<VolatileSlice<'m>>,
    len: u64,
}

/// The device-readable and the device-writable buffers of a chain. Each descriptor is read
/// once.
pub(crate) fn split_chain<'m>(
    memory: &'m GuestMemoryMmap,
    chain: Chain<'m>,
) -> Result<(Buffers<'m>, Buffers<'m>), ChainError> {
    let mut readable = Buffers::default();
    let mut writable = Buffers::default();
    let mut descriptors = 0;
    let mut complete = false;
    for descriptor in chain {
        descriptors += 1;
        if descriptors > MAX_DESCRIPTORS {
            return Err(ChainError::NoEnd);
        }
        complete = !descriptor.has_next();
        if descriptor.is_write_only() {
            writable.push(memory, &descriptor, Permissions::Write)?;
        } else if writable.len == 0 {
            readable.push(memory, &descriptor, Permissions::Read)?;
        } else {
            return Err(ChainError::WrongOrder);
        }
    }
    if complete {
        Ok((readable, writable))
    } else {
        Err(ChainError::NoEnd)
    }
}

impl<'m> Buffers<'m> {
    fn push(
        &mut self,
        memory: &'m GuestMemoryMmap,
        descriptor: &Descriptor,
        access: Permissions,
    ) -> Result<(), ChainError> {
        let outside = ChainError::OutsideMemory {
            addr: descriptor.addr().0,
            len: descriptor.len(),
        };
        let len = usize::try_from(descriptor.len()).map_err(|_| outside)?;
        let slices =
            GuestMemory::get_slices(memory, descriptor.addr(), len, access).map_err(|_| outside)?;
        for slice in slices {
            self.slices.push_back(slice.map_err(|_| outside)?);
        }
        self.len += u64::from(descriptor.len());
        Ok(())
    }

    /// How many bytes are left.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Whether no bytes are left.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes the first `count` bytes, or all if there are fewer.
    pub(crate) fn take_front(&mut self, count: u64) -> Self {
        let mut front = Self::default();
        while front.len < count
            && let Some(slice) = self.slices.pop_front()
        {
            let wanted = usize::try_from(count - front.len).unwrap_or(usize::MAX);
            let (first, rest) = slice
                .split_at(wanted.min(slice.len()))
                .expect("the split is within the slice");
            if !rest.is_empty() {
                self.slices.push_front(rest);
            }
            front.len += first.len() as u64;
            self.len -= first.len() as u64;
            front.slices.push_back(first);
        }
        front
    }

    /// Drops the first `count` bytes, or all if there are fewer.
    pub(crate) fn advance(&mut self, count: u64) {
        self.take_front(count);
    }

    /// Takes the first `N` bytes, if there are as many.
    pub(crate) fn read_array<const N: usize>(&mut self) -> Option<[u8; N]> {
        if self.len < N as u64 {
            return None;
        }
        let mut array = [0; N];
        self.take_front(N as u64).copy_to(&mut array);
        Some(array)
    }

    /// Copies `data` to the front, and takes as much away; what does not fit is left out.
    /// Returns how much did.
    pub(crate) fn write(&mut self, data: &[u8]) -> usize {
        self.take_front(data.len() as u64).copy_from(data)
    }

    /// Copies from the front as much as `data` holds, and takes nothing away. Returns how
    /// much there was.
    pub(crate) fn copy_to(&self, data: &mut [u8]) -> usize {
        let mut filled = 0;
        for slice in &self.slices {
            if filled == data.len() {
                break;
            }
            filled += slice.copy_to(&mut data[filled..]);
        }
        filled
    }

    /// Copies as much of `data` to the front as there is room for, and takes nothing away.
    /// Returns how much that was.
    pub(crate) fn copy_from(&self, data: &[u8]) -> usize {
        let mut rest = data;
        for slice in &self.slices {
            slice.copy_from(rest);
            rest = &rest[slice.len().min(rest.len())..];
        }
        data.len() - rest.len()
    }

    /// Adds the first of the buffers to `iovecs`, which grows to no more than `limit`.
    /// Returns how many bytes they hold.
    pub(crate) fn push_iovecs(&self, iovecs: &mut Vec<libc::iovec>, limit: usize) -> usize {
        let room = limit.saturating_sub(iovecs.len());
        let mut len = 0;
        for slice in self.slices.iter().take(room) {
            len += slice.len();
            iovecs.push(libc::iovec {
                iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                iov_len: slice.len(),
            });
        }
        len
    }

    /// Whether one call takes all of the buffers.
    pub(crate) fn fit_one_call(&self) -> bool {
        self.slices.len() <= MAX_IOVECS
    }

    fn iovecs(&self) -> Vec<libc::iovec> {
        let mut iovecs = Vec::with_capacity(self.slices.len().min(MAX_IOVECS));
        self.push_iovecs(&mut iovecs, MAX_IOVECS);
        iovecs
    }

    /// One read into the buffers. Returns how many bytes came; takes nothing away.
    pub(crate) fn read_from(&self, file: BorrowedFd) -> io::Result<usize> {
        let iovecs = self.iovecs();
        // SAFETY: the iovecs are `VolatileSlice`s: memory that stays mapped for `'m` and that
        // Rust holds no references to.
        retry(|| unsafe { libc::readv(file.as_raw_fd(), iovecs.as_ptr(), count(&iovecs)) })
    }

    /// One write of the buffers. Returns how many bytes went; takes nothing away.
    pub(crate) fn write_to(&self, file: BorrowedFd) -> io::Result<usize> {
        let iovecs = self.iovecs();
        // SAFETY: as in `read_from`; here they are only read.
        retry(|| unsafe { libc::writev(file.as_raw_fd(), iovecs.as_ptr(), count(&iovecs)) })
    }

    /// Fills all buffers with what `file` holds from `offset` on.
    pub(crate) fn read_all_from(mut self, file: BorrowedFd, mut offset: u64) -> io::Result<()> {
        while !self.is_empty() {
            let iovecs = self.iovecs();
            let at = file_offset(offset)?;
            // SAFETY: as in `read_from`.
            let read = retry(|| unsafe {
                libc::preadv(file.as_raw_fd(), iovecs.as_ptr(), count(&iovecs), at)
            })?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.advance(read as u64);
            offset += read as u64;
        }
        Ok(())
    }

    /// Writes all buffers to `file` from `offset` on.
    pub(crate) fn write_all_to(mut self, file: BorrowedFd, mut offset: u64) -> io::Result<()> {
        while !self.is_empty() {
            let iovecs = self.iovecs();
            let at = file_offset(offset)?;
            // SAFETY: as in `write_to`.
            let written = retry(|| unsafe {
                libc::pwritev(file.as_raw_fd(), iovecs.as_ptr(), count(&iovecs), at)
            })?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.advance(written as u64);
            offset += written as u64;
        }
        Ok(())
    }
}

fn file_offset(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// The number of `iovecs`, as system calls take it.
pub(crate) fn count(iovecs: &[libc::iovec]) -> libc::c_int {
    libc::c_int::try_from(iovecs.len()).expect("no more than UIO_MAXIOV")
}

/// Makes a system call that returns a length or -1, again for as long as signals interrupt it.
pub(crate) fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(len) => return Ok(len),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
