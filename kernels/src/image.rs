//! Kernel images: from what a distribution ships to an ELF vmlinux.
//!
//! A bzImage is a real-mode part with the setup header, then a protected-mode part that
//! holds the compressed vmlinux, whose place and length the header gives. Sources: Linux,
//! `Documentation/arch/x86/boot.rst` (protocol 2.08 and later); `arch/x86/boot/header.S`.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::compression::{DecompressError, Format};
use crate::digest;

/// Greatest size of an image, in bytes: a vmlinux can have debugging symbols.
const MAX_SIZE: usize = 1 << 30;

/// Greatest size of the vmlinux in a bzImage, which has none.
const MAX_PAYLOAD: usize = 256 << 20;

/// Why there is no vmlinux to be had.
#[derive(Debug, Error)]
pub enum ImageError {
    /// The file is no kernel image.
    #[error("{} is not a Linux kernel: {reason}", .path.display())]
    NotAKernel { path: PathBuf, reason: NotAKernel },
    /// The file could not be read.
    #[error("cannot read the kernel {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// The cache could not be written.
    #[error("cannot write {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
}

/// Why bytes are no kernel image.
#[derive(Debug, Error)]
pub enum NotAKernel {
    /// It has neither magic number.
    #[error("it is neither an ELF file nor a bzImage")]
    UnknownFormat,
    /// It is larger than any kernel.
    #[error("it is larger than any kernel")]
    TooLarge,
    /// A bzImage from before 2008.
    #[error("its boot protocol {}.{:02} is older than 2.08", .0 >> 8, .0 & 0xff)]
    OldProtocol(u16),
    /// The setup header points outside of the file.
    #[error("its setup header places the kernel outside of the file")]
    BadPayload,
    /// The compressed kernel could not be decompressed.
    #[error(transparent)]
    Compression(#[from] DecompressError),
    /// Another length came out than the image says.
    #[error("its kernel has {found} bytes but should have {expected}")]
    WrongLength { found: usize, expected: usize },
    /// What is in the bzImage is no ELF file.
    #[error("what its bzImage holds is not an ELF file")]
    NotElf,
    /// It is for 32-bit processors.
    #[error("it is for 32-bit processors, but must be for x86-64")]
    ThirtyTwoBit,
    /// It is for other processors.
    #[error("it is for other processors than x86-64")]
    OtherMachine,
    /// An ELF file, but of something else.
    #[error("it is an ELF file, but not an executable")]
    NotExecutable,
    /// An ELF file that has no segments.
    #[error("its ELF program headers are damaged")]
    BadElf,
    /// A segment is not all there.
    #[error("it is cut short: its segments end at {end}, but it has {len} bytes")]
    CutShort { end: u64, len: u64 },
}

/// The path of an uncompressed ELF vmlinux for `image`, a bzImage or an ELF vmlinux: the file
/// itself, or a file in `cache` that is named by the image's content and made if it is not
/// there.
pub fn vmlinux_of(image: &Path, cache: &Path) -> Result<PathBuf, ImageError> {
    let read = |e| ImageError::Read(image.into(), e);
    let file = File::open(image).map_err(read)?;
    if !file.metadata().map_err(read)?.is_file() {
        return Err(read(io::Error::other("it is not a regular file")));
    }
    let mut magic = Vec::new();
    (&file).take(4).read_to_end(&mut magic).map_err(read)?;
    if magic == ELF_MAGIC {
        let mut head = magic;
        file.take(64 * 1024 - 4)
            .read_to_end(&mut head)
            .map_err(read)?;
        let len = image.metadata().map_err(read)?.len();
        check_elf(&head, len).map_err(not_a_kernel(image))?;
        return Ok(image.into());
    }
    let bytes = read_image(image)?;
    let dir = cache.join("vmlinux");
    let path = dir.join(digest::of_bytes(&bytes));
    if !path.exists() {
        let vmlinux = extract(&bytes).map_err(not_a_kernel(image))?;
        write_atomically(&dir, &path, &vmlinux).map_err(|e| ImageError::Write(path.clone(), e))?;
    }
    Ok(path)
}

/// The content of an image file.
pub(crate) fn read_image(path: &Path) -> Result<Vec<u8>, ImageError> {
    let read = |e| ImageError::Read(path.into(), e);
    let mut bytes = Vec::new();
    let limit = MAX_SIZE as u64 + 1;
    let file = File::open(path).map_err(read)?;
    file.take(limit).read_to_end(&mut bytes).map_err(read)?;
    if bytes.len() > MAX_SIZE {
        return Err(not_a_kernel(path)(NotAKernel::TooLarge));
    }
    Ok(bytes)
}

pub(crate) fn not_a_kernel(path: &Path) -> impl FnOnce(NotAKernel) -> ImageError {
    let path = path.into();
    |reason| ImageError::NotAKernel { path, reason }
}

/// The ELF vmlinux in the image `bytes`.
pub(crate) fn extract(bytes: &[u8]) -> Result<Vec<u8>, NotAKernel> {
    if bytes.starts_with(&ELF_MAGIC) {
        check_elf(bytes, bytes.len() as u64)?;
        let mut vmlinux = bytes.to_vec();
        leave_zeroes_out(&mut vmlinux);
        return Ok(vmlinux);
    }
    let payload = SetupHeader::parse(bytes)?.payload(bytes)?;
    let format = Format::detect(payload)?;
    let mut vmlinux = match format {
        Format::None => payload.to_vec(),
        // The build appends the length that comes out; gzip's own trailer ends with it.
        _ => {
            let (data, len) = payload
                .split_last_chunk::<4>()
                .ok_or(NotAKernel::BadPayload)?;
            let expected = u32::from_le_bytes(*len) as usize;
            if expected > MAX_PAYLOAD {
                return Err(NotAKernel::TooLarge);
            }
            let data = if format == Format::Gzip {
                payload
            } else {
                data
            };
            let vmlinux = format.decompress(data, expected)?;
            let found = vmlinux.len();
            if found != expected {
                return Err(NotAKernel::WrongLength { found, expected });
            }
            vmlinux
        }
    };
    if !vmlinux.starts_with(&ELF_MAGIC) {
        return Err(NotAKernel::NotElf);
    }
    check_elf(&vmlinux, vmlinux.len() as u64)?;
    leave_zeroes_out(&mut vmlinux);
    Ok(vmlinux)
}

/// The release (`uname -r`) that a bzImage or vmlinux says it is.
pub(crate) fn release(bytes: &[u8]) -> Option<&str> {
    let start = if bytes.starts_with(&ELF_MAGIC) {
        // What the kernel logs first.
        const BANNER: &[u8] = b"Linux version ";
        let at = bytes.windows(BANNER.len() + 1).position(|text| {
            text.strip_prefix(BANNER)
                .is_some_and(|rest| rest[0].is_ascii_digit())
        });
        at? + BANNER.len()
    } else {
        let header = SetupHeader::parse(bytes).ok()?;
        usize::from(header.kernel_version).checked_add(0x200)?
    };
    let text = bytes.get(start..bytes.len().min(start + 256))?;
    let end = text.iter().position(|&c| c == b' ' || c == 0)?;
    std::str::from_utf8(&text[..end])
        .ok()
        .filter(|r| !r.is_empty())
}

/// What we need of the setup header.
struct SetupHeader {
    setup_sects: u8,
    kernel_version: u16,
    payload_offset: u32,
    payload_length: u32,
}

impl SetupHeader {
    fn parse(bytes: &[u8]) -> Result<Self, NotAKernel> {
        let half = |at| field(bytes, at).map(u16::from_le_bytes);
        let word = |at| field(bytes, at).map(u32::from_le_bytes);
        // arm64's and RISC-V's (Linux, `Documentation/arch/arm64/booting.rst`).
        if [Some(*b"ARM\x64"), Some(*b"RSC\x05")].contains(&field(bytes, 56)) {
            return Err(NotAKernel::OtherMachine);
        }
        if half(0x1fe) != Some(0xaa55) || field(bytes, 0x202) != Some(*b"HdrS") {
            return Err(NotAKernel::UnknownFormat);
        }
        let version = half(0x206).ok_or(NotAKernel::UnknownFormat)?;
        if version < 0x208 {
            return Err(NotAKernel::OldProtocol(version));
        }
        let read = || {
            Some(Self {
                setup_sects: *bytes.get(0x1f1)?,
                kernel_version: half(0x20e)?,
                payload_offset: word(0x248)?,
                payload_length: word(0x24c)?,
            })
        };
        read().ok_or(NotAKernel::BadPayload)
    }

    fn payload<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], NotAKernel> {
        // 0 means 4, for the sake of old loaders.
        let sectors = match self.setup_sects {
            0 => 4,
            n => usize::from(n),
        };
        let start = (sectors + 1) * 512 + self.payload_offset as usize;
        let end = start + self.payload_length as usize;
        bytes.get(start..end).ok_or(NotAKernel::BadPayload)
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

const ELF_MAGIC: [u8; 4] = *b"\x7fELF";

/// `bytes` begin an ELF-64 executable for x86-64 of `len` bytes in all, which has all of its
/// segments (System V ABI, "Object Files").
fn check_elf(bytes: &[u8], len: u64) -> Result<(), NotAKernel> {
    let half = |at| field(bytes, at).map(u16::from_le_bytes);
    match (field::<2>(bytes, 4), half(18), half(16)) {
        (Some([1, _]), ..) => return Err(NotAKernel::ThirtyTwoBit),
        (Some([2, 1]), Some(62), Some(2 | 3)) => {}
        (Some([2, 1]), Some(62), _) => return Err(NotAKernel::NotExecutable),
        _ => return Err(NotAKernel::OtherMachine),
    }
    let table = || {
        let start = usize::try_from(u64::from_le_bytes(field(bytes, 32)?)).ok()?;
        let (size, count) = (half(54)?, half(56)?);
        let len = usize::from(size) * usize::from(count);
        (size == 56 && count > 0).then_some(())?;
        bytes.get(start..start.checked_add(len)?)
    };
    for header in table().ok_or(NotAKernel::BadElf)?.chunks_exact(56) {
        let word = |at| field(header, at).map_or(0, u64::from_le_bytes);
        let end = word(8).checked_add(word(32)).ok_or(NotAKernel::BadElf)?;
        if end > len {
            return Err(NotAKernel::CutShort { end, len });
        }
    }
    Ok(())
}

/// Shortens what is loaded of a vmlinux: the end of a segment that is all zeroes need not be
/// read, for memory past the file's part of a segment is zero anyway. The image in a bzImage
/// has its BSS written out, a fifth of all that it loads. `vmlinux` passed [`check_elf`].
fn leave_zeroes_out(vmlinux: &mut [u8]) {
    const PT_LOAD: u32 = 1;
    const FILE_SIZE: usize = 32;
    let word = |bytes: &[u8], at| field(bytes, at).map(u64::from_le_bytes);
    let table = word(vmlinux, 32).and_then(|at| usize::try_from(at).ok());
    let count = field(vmlinux, 56).map(u16::from_le_bytes);
    let (Some(table), Some(count)) = (table, count) else {
        return;
    };
    for header in (table..).step_by(56).take(usize::from(count)) {
        let shortened = || {
            let load = field(vmlinux, header).map(u32::from_le_bytes)? == PT_LOAD;
            let offset = usize::try_from(word(vmlinux, header + 8)?).ok()?;
            let len = usize::try_from(word(vmlinux, header + FILE_SIZE)?).ok()?;
            let content = vmlinux.get(offset..offset.checked_add(len)?)?;
            let last = content.iter().rposition(|&byte| byte != 0);
            load.then(|| last.map_or(0, |last| last as u64 + 1))
        };
        if let Some(len) = shortened() {
            let at = header + FILE_SIZE;
            vmlinux[at..at + 8].copy_from_slice(&len.to_le_bytes());
        }
    }
}

/// Writes a file that is whole as soon as it can be seen.
fn write_atomically(dir: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let mut file = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(dir)?;
    file.write_all(content)?;
    file.as_file().sync_data()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
#[path = "image_test.rs"]
pub(crate) mod tests;

#[cfg(test)]
#[path = "image_fuzz.rs"]
mod fuzz;
