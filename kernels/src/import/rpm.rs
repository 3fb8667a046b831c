//! RPM packages, version 3 and 4 (RPM's manual, "RPM V4 package format"): a lead, a header
//! with signatures, a header with tags, and a compressed cpio archive. Crates that read all
//! of that bring thirty others for what we do not need.

use std::io::{self, Read};
use std::path::Path;

use cpio::newc;

use super::package::{Description, MAX_UNPACKED, decompress, not_a_package, take};
use super::{Import, ImportError};

const LEAD_SIZE: u64 = 96;

/// Greatest number of tags in a header.
const MAX_TAGS: u32 = 1 << 16;

/// Greatest size of the data of a header's tags, in bytes.
const MAX_DATA: u32 = 64 << 20;

/// A tag whose value is a string.
#[derive(Clone, Copy)]
enum Tag {
    Name = 1000,
    Version = 1001,
    Release = 1002,
    Vendor = 1011,
    Architecture = 1022,
}

/// Words of vendors' names, and the identifiers of their distributions.
const VENDORS: [(&str, &str); 8] = [
    ("fedora", "fedora"),
    ("oracle", "ol"),
    ("rocky", "rocky"),
    ("almalinux", "almalinux"),
    ("centos", "centos"),
    ("red hat", "rhel"),
    ("amazon", "amzn"),
    ("suse", "suse"),
];

/// Takes the package apart that `file` is.
pub(super) fn unpack(
    path: &Path,
    file: &mut impl Read,
    import: &mut Import,
) -> Result<Description, ImportError> {
    let damaged = |e: io::Error| not_a_package(path)(&e.to_string());
    skip(file, LEAD_SIZE).map_err(damaged)?;
    let signatures = Header::read(file).map_err(damaged)?;
    // The next header begins at a multiple of 8.
    skip(file, (signatures.data.len() as u64).wrapping_neg() % 8).map_err(damaged)?;
    let header = Header::read(file).map_err(damaged)?;
    let text = |tag| header.string(tag).unwrap_or_default();
    let vendor = text(Tag::Vendor).to_lowercase();
    let known = VENDORS.into_iter().find(|(word, _)| vendor.contains(word));
    let description = Description {
        name: text(Tag::Name),
        version: format!("{}-{}", text(Tag::Version), text(Tag::Release)),
        architecture: text(Tag::Architecture),
        distribution: known.map(|(_, distribution)| distribution),
    };
    if description.name.is_empty() {
        return Err(not_a_package(path)("its header has no name"));
    }
    let mut archive = decompress(path, file, MAX_UNPACKED)?;
    take_cpio(path, &mut archive, import)?;
    Ok(description)
}

fn take_cpio(path: &Path, archive: &mut impl Read, import: &mut Import) -> Result<(), ImportError> {
    const KIND: u32 = 0o170_000;
    const REGULAR: u32 = 0o100_000;
    let read = |e| ImportError::Read(path.into(), e);
    loop {
        let mut file = newc::Reader::new(&mut *archive).map_err(read)?;
        if file.entry().is_trailer() {
            break;
        }
        let name = file.entry().name().to_owned();
        if file.entry().mode() & KIND == REGULAR {
            take(path, name.as_ref(), &mut file, import)?;
        }
        file.finish().map_err(read)?;
    }
    // The checksums are at the very end.
    io::copy(archive, &mut io::sink()).map_err(read)?;
    Ok(())
}

/// A header: an index of tags, and their data.
struct Header {
    /// Of each tag its number, type, offset and count, all big-endian.
    index: Vec<u8>,
    data: Vec<u8>,
}

impl Header {
    fn read(file: &mut impl Read) -> io::Result<Self> {
        const MAGIC: [u8; 4] = [0x8e, 0xad, 0xe8, 0x01];
        let mut start = [0; 16];
        file.read_exact(&mut start)?;
        let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|i| start[at + i]));
        let (tags, size) = (word(8), word(12));
        if start[..4] != MAGIC || tags > MAX_TAGS || size > MAX_DATA {
            return Err(io::Error::other("it has no header where one should be"));
        }
        Ok(Self {
            index: read(file, u64::from(tags) * 16)?,
            data: read(file, size.into())?,
        })
    }

    fn string(&self, tag: Tag) -> Option<String> {
        const STRING: [u8; 4] = 6_u32.to_be_bytes();
        let number = (tag as u32).to_be_bytes();
        let mut entries = self.index.chunks_exact(16);
        let entry = entries.find(|entry| entry[..4] == number && entry[4..8] == STRING)?;
        let offset = u32::from_be_bytes(*entry[8..].first_chunk()?) as usize;
        let text = self.data.get(offset..)?.split(|&byte| byte == 0).next()?;
        Some(String::from_utf8_lossy(text).into_owned())
    }
}

fn read(file: &mut impl Read, size: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(size).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == size {
        Ok(bytes)
    } else {
        Err(io::Error::other("it is cut short"))
    }
}

fn skip(file: &mut impl Read, size: u64) -> io::Result<()> {
    read(file, size).map(drop)
}

#[cfg(test)]
#[path = "rpm_test.rs"]
mod tests;
