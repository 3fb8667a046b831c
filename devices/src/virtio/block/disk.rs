//! The file or block device behind a disk.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, FileTypeExt};

use super::request::Range;
use super::{BlockError, BlockSpec, ID_LEN, SECTOR};
use crate::virtio::buffers::{Buffers, retry};

/// `BLKSSZGET`, `BLKDISCARD` and `BLKGETSIZE64` of `linux/fs.h`.
const BLKSSZGET: libc::c_ulong = 0x1268;
const BLKDISCARD: libc::c_ulong = 0x1277;
const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;

/// Zeroes that are written where the file system knows no better way.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

#[derive(Debug)]
pub(super) struct Disk {
    file: File,
    is_device: bool,
    read_only: bool,
    sectors: u64,
    block_size: u32,
    can_discard: bool,
    id: [u8; ID_LEN],
}

impl Disk {
    pub(super) fn new(spec: BlockSpec) -> Result<Self, BlockError> {
        let BlockSpec {
            file,
            read_only,
            id,
            ..
        } = spec;
        let examine = |source| BlockError::Examine {
            id: id.clone(),
            source,
        };
        let metadata = file.metadata().map_err(examine)?;
        let is_device = metadata.file_type().is_block_device();
        let (size, block_size) = if is_device {
            device_geometry(&file).map_err(examine)?
        } else if metadata.is_file() {
            (metadata.len(), 512)
        } else {
            return Err(BlockError::NotADisk { id });
        };
        if size == 0 {
            return Err(BlockError::Empty { id });
        }
        if !size.is_multiple_of(SECTOR) {
            return Err(BlockError::PartialSector { id, size });
        }
        if !read_only && !is_writable(&file).map_err(examine)? {
            return Err(BlockError::NotWritable { id });
        }
        Ok(Self {
            can_discard: !read_only && (is_device || can_punch_holes(&file, size)),
            is_device,
            read_only,
            sectors: size / SECTOR,
            block_size,
            id: serial(&id),
            file,
        })
    }

    pub(super) fn read_only(&self) -> bool {
        self.read_only
    }

    pub(super) fn can_discard(&self) -> bool {
        self.can_discard
    }

    /// Capacity in sectors of 512 bytes.
    pub(super) fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Bytes of a logical block.
    pub(super) fn block_size(&self) -> u32 {
        self.block_size
    }

    /// The answer to GET_ID: padded with zeroes.
    pub(super) fn id(&self) -> &[u8; ID_LEN] {
        &self.id
    }

    /// Fills `data` from `sector` on.
    pub(super) fn read(&self, sector: u64, data: Buffers) -> io::Result<()> {
        let offset = self.offset(sector, data.len())?;
        data.read_all_from(self.file.as_fd(), offset)
    }

    /// Writes `data` from `sector` on.
    pub(super) fn write(&self, sector: u64, data: Buffers) -> io::Result<()> {
        self.check_writable()?;
        let offset = self.offset(sector, data.len())?;
        data.write_all_to(self.file.as_fd(), offset)
    }

    /// Makes all that was written durable.
    pub(super) fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Drops the content of `range`.
    pub(super) fn discard(&self, range: Range) -> io::Result<()> {
        self.check_writable()?;
        let (offset, len) = self.extent(range)?;
        if len == 0 {
            return Ok(());
        }
        if !self.is_device {
            return self.fallocate(libc::FALLOC_FL_PUNCH_HOLE, offset, len);
        }
        let extent = [offset, len];
        // SAFETY: BLKDISCARD reads two 64-bit numbers.
        let done = unsafe { libc::ioctl(self.file.as_raw_fd(), BLKDISCARD, extent.as_ptr()) };
        if done == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Makes `range` read as zeroes, and gives its space back if it may `unmap`.
    pub(super) fn write_zeroes(&self, range: Range, unmap: bool) -> io::Result<()> {
        self.check_writable()?;
        let (offset, len) = self.extent(range)?;
        if len == 0 {
            return Ok(());
        }
        let ways = [libc::FALLOC_FL_PUNCH_HOLE, libc::FALLOC_FL_ZERO_RANGE];
        for way in &ways[usize::from(!unmap)..] {
            match self.fallocate(*way, offset, len) {
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                result => return result,
            }
        }
        let (mut offset, end) = (offset, offset + len);
        while offset < end {
            let chunk = (end - offset).min(ZEROES.len() as u64);
            let chunk = usize::try_from(chunk).expect("at most the length of a slice");
            self.file.write_all_at(&ZEROES[..chunk], offset)?;
            offset += chunk as u64;
        }
        Ok(())
    }

    fn fallocate(&self, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
        fallocate(&self.file, mode, offset, len)
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        Ok(())
    }

    /// The first byte and the length of `range`, if it is on the disk.
    fn extent(&self, range: Range) -> io::Result<(u64, u64)> {
        let len = u64::from(range.sectors) * SECTOR;
        Ok((self.offset(range.sector, len)?, len))
    }

    /// The first byte of `sector`, if `len` bytes from there are whole sectors on the disk.
    fn offset(&self, sector: u64, len: u64) -> io::Result<u64> {
        let end = sector.checked_add(len / SECTOR);
        if !len.is_multiple_of(SECTOR) || end.is_none_or(|end| end > self.sectors) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // No overflow: the disk's size in bytes is a u64.
        Ok(sector * SECTOR)
    }
}

fn serial(id: &str) -> [u8; ID_LEN] {
    let mut serial = [0; ID_LEN];
    let len = id.len().min(ID_LEN);
    serial[..len].copy_from_slice(&id.as_bytes()[..len]);
    serial
}

fn fallocate(file: &File, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let offset = libc::off_t::try_from(offset).map_err(invalid)?;
    let len = libc::off_t::try_from(len).map_err(invalid)?;
    let mode = mode | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: touches no memory of this process.
    retry(|| unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) as isize })?;
    Ok(())
}

/// Whether the file system gives space back: tried behind the end, where nothing is lost.
fn can_punch_holes(file: &File, size: u64) -> bool {
    fallocate(file, libc::FALLOC_FL_PUNCH_HOLE, size, SECTOR).is_ok()
}

fn is_writable(file: &File) -> io::Result<bool> {
    // SAFETY: F_GETFL touches no memory.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(flags & libc::O_ACCMODE != libc::O_RDONLY)
}

/// Size and logical block size of a block device, in bytes.
fn device_geometry(file: &File) -> io::Result<(u64, u32)> {
    let mut size = 0u64;
    let mut block_size: libc::c_int = 0;
    // SAFETY: BLKGETSIZE64 writes one 64-bit number.
    if unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64, &raw mut size) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: BLKSSZGET writes one int.
    if unsafe { libc::ioctl(file.as_raw_fd(), BLKSSZGET, &raw mut block_size) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let block_size = u32::try_from(block_size).unwrap_or(0).max(512);
    Ok((size, block_size))
}
