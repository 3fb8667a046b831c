//! What a driver may ask of a disk (§5.2.6).

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
};

use super::{ID_LEN, MAX_DISCARD_RANGES, MAX_DISCARD_SECTORS, MAX_WRITE_ZEROES_SECTORS};
use crate::virtio::buffers::Buffers;

/// `VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP`.
const FLAG_UNMAP: u32 = 1;

/// The last byte of every chain, for the device to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::cast_possible_truncation, reason = "the values are 0, 1 and 2")]
#[repr(u8)]
pub(super) enum Status {
    Ok = VIRTIO_BLK_S_OK as u8,
    IoError = VIRTIO_BLK_S_IOERR as u8,
    Unsupported = VIRTIO_BLK_S_UNSUPP as u8,
}

/// A range of sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) sector: u64,
    pub(super) sectors: u32,
}

/// A request of good form; whether its sectors exist is for the disk to say.
#[derive(Debug)]
pub(super) enum Request<'m> {
    Read { sector: u64, data: Buffers<'m> },
    Write { sector: u64, data: Buffers<'m> },
    Flush,
    Id { data: Buffers<'m> },
    Discard { ranges: Vec<Range> },
    WriteZeroes { range: Range, unmap: bool },
}

/// Takes a chain apart: a header of 16 bytes and what follows it to be read; data and, last
/// of all, the status byte to be written. How they are spread over descriptors means nothing
/// (§2.7.4.3).
///
/// Returns the request, or the status that it deserves, and where the status goes; nothing if
/// there is no byte for it.
pub(super) fn parse<'m>(
    readable: Buffers<'m>,
    mut writable: Buffers<'m>,
) -> Option<(Result<Request<'m>, Status>, Buffers<'m>)> {
    let data = writable.take_front(writable.len().checked_sub(1)?);
    Some((parse_request(readable, data), writable))
}

fn parse_request<'m>(
    mut readable: Buffers<'m>,
    writable: Buffers<'m>,
) -> Result<Request<'m>, Status> {
    let header: [u8; 16] = readable.read_array().ok_or(Status::IoError)?;
    let kind = u32::from_le_bytes(field(&header, 0));
    let sector = u64::from_le_bytes(field(&header, 8));
    match kind {
        VIRTIO_BLK_T_IN if readable.is_empty() => Ok(Request::Read {
            sector,
            data: writable,
        }),
        VIRTIO_BLK_T_OUT if writable.is_empty() => Ok(Request::Write {
            sector,
            data: readable,
        }),
        VIRTIO_BLK_T_FLUSH => Ok(Request::Flush),
        VIRTIO_BLK_T_GET_ID if writable.len() >= ID_LEN as u64 => {
            Ok(Request::Id { data: writable })
        }
        VIRTIO_BLK_T_DISCARD => parse_discard(readable),
        VIRTIO_BLK_T_WRITE_ZEROES => parse_write_zeroes(readable),
        VIRTIO_BLK_T_IN | VIRTIO_BLK_T_OUT | VIRTIO_BLK_T_GET_ID => Err(Status::IoError),
        _ => Err(Status::Unsupported),
    }
}

fn parse_discard<'m>(mut readable: Buffers) -> Result<Request<'m>, Status> {
    let mut ranges = Vec::new();
    while !readable.is_empty() {
        let (range, flags) = parse_range(&mut readable, MAX_DISCARD_SECTORS)?;
        if ranges.len() >= MAX_DISCARD_RANGES as usize {
            return Err(Status::IoError);
        }
        if flags != 0 {
            return Err(Status::Unsupported);
        }
        ranges.push(range);
    }
    if ranges.is_empty() {
        return Err(Status::IoError);
    }
    Ok(Request::Discard { ranges })
}

fn parse_write_zeroes<'m>(mut readable: Buffers) -> Result<Request<'m>, Status> {
    let (range, flags) = parse_range(&mut readable, MAX_WRITE_ZEROES_SECTORS)?;
    if !readable.is_empty() {
        return Err(Status::IoError);
    }
    if flags & !FLAG_UNMAP != 0 {
        return Err(Status::Unsupported);
    }
    Ok(Request::WriteZeroes {
        range,
        unmap: flags & FLAG_UNMAP != 0,
    })
}

/// `struct virtio_blk_discard_write_zeroes`: a range and its flags.
fn parse_range(readable: &mut Buffers, max_sectors: u32) -> Result<(Range, u32), Status> {
    let raw: [u8; 16] = readable.read_array().ok_or(Status::IoError)?;
    let range = Range {
        sector: u64::from_le_bytes(field(&raw, 0)),
        sectors: u32::from_le_bytes(field(&raw, 8)),
    };
    if range.sectors > max_sectors {
        return Err(Status::IoError);
    }
    Ok((range, u32::from_le_bytes(field(&raw, 12))))
}

fn field<const N: usize>(raw: &[u8; 16], offset: usize) -> [u8; N] {
    std::array::from_fn(|i| raw[offset + i])
}

#[cfg(test)]
mod tests;
