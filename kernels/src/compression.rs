//! Decompression with an upper bound on what comes out.

use std::io::{self, Read};

use flate2::read::GzDecoder;
use liblzma::read::XzDecoder;
use liblzma::stream::Stream;
use ruzstd::decoding::StreamingDecoder;
use thiserror::Error;

/// Memory that an xz decoder may use. The kernel's own images need a dictionary of at most
/// 128 MiB.
const XZ_MEMORY: u64 = 256 << 20;

/// First bytes of LZ4's legacy frame format, the one that kernel images use.
const LZ4_LEGACY: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];

/// A block of that format holds at most this many bytes, decompressed.
const LZ4_LEGACY_BLOCK: usize = 8 << 20;

/// How something is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Gzip,
    Xz,
    Lz4,
    Zstd,
    None,
}

/// Why something could not be decompressed.
#[derive(Debug, Error)]
pub enum DecompressError {
    /// A format that is known, but not supported.
    #[error("it is compressed with {0}; gzip, xz, lz4 and zstd are supported")]
    Unsupported(&'static str),
    /// The data are damaged.
    #[error("its {0} data are damaged")]
    Damaged(&'static str, #[source] io::Error),
    /// More comes out than may.
    #[error("it holds more than {0} bytes")]
    TooLarge(usize),
}

impl Format {
    /// What `bytes` begin with. Whatever is not known counts as not compressed.
    pub(crate) fn detect(bytes: &[u8]) -> Result<Self, DecompressError> {
        let known: [(&[u8], Result<Self, &'static str>); 7] = [
            (&[0x1f, 0x8b], Ok(Self::Gzip)),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], Ok(Self::Xz)),
            (&LZ4_LEGACY, Ok(Self::Lz4)),
            (&[0x28, 0xb5, 0x2f, 0xfd], Ok(Self::Zstd)),
            (b"BZh", Err("bzip2")),
            (&[0x5d, 0, 0], Err("lzma")),
            (&[0x89, b'L', b'Z', b'O'], Err("lzo")),
        ];
        let found = known
            .into_iter()
            .find(|(magic, _)| bytes.starts_with(magic));
        found
            .map_or(Ok(Self::None), |(_, format)| format)
            .map_err(DecompressError::Unsupported)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::None => "uncompressed",
        }
    }

    /// A reader of what `source` holds, not bounded.
    pub(crate) fn reader<'a>(
        self,
        source: impl Read + 'a,
    ) -> Result<Box<dyn Read + 'a>, DecompressError> {
        let damaged = |e| DecompressError::Damaged(self.name(), e);
        Ok(match self {
            Self::Gzip => Box::new(GzDecoder::new(source)),
            Self::Xz => {
                let stream = Stream::new_stream_decoder(XZ_MEMORY, 0)
                    .map_err(|e| damaged(io::Error::from(e)))?;
                Box::new(XzDecoder::new_stream(source, stream))
            }
            Self::Lz4 => return Err(DecompressError::Unsupported("lz4")),
            Self::Zstd => {
                let decoder = StreamingDecoder::new(source)
                    .map_err(|e| damaged(io::Error::other(e.to_string())))?;
                Box::new(decoder)
            }
            Self::None => Box::new(source),
        })
    }

    /// All that `bytes` hold, at most `limit` bytes. What follows the compressed data in
    /// `bytes` is ignored, except with lz4, which does not know its own end.
    pub(crate) fn decompress(self, bytes: &[u8], limit: usize) -> Result<Vec<u8>, DecompressError> {
        if self == Self::Lz4 {
            return lz4_legacy(bytes, limit);
        }
        let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        let mut output = Vec::new();
        self.reader(bytes)?
            .take(bound)
            .read_to_end(&mut output)
            .map_err(|e| DecompressError::Damaged(self.name(), e))?;
        if output.len() > limit {
            return Err(DecompressError::TooLarge(limit));
        }
        Ok(output)
    }
}

/// A magic number, then blocks, each a little-endian length and so many compressed bytes
/// (LZ4 frame format description, "Legacy frame").
fn lz4_legacy(bytes: &[u8], limit: usize) -> Result<Vec<u8>, DecompressError> {
    let damaged = |what: String| DecompressError::Damaged("lz4", io::Error::other(what));
    let cut_short = || damaged("a block is cut short".into());
    let mut rest = bytes.strip_prefix(&LZ4_LEGACY).unwrap_or(bytes);
    let mut output = Vec::new();
    let mut block = vec![0; LZ4_LEGACY_BLOCK];
    while !rest.is_empty() {
        let (len, after) = rest.split_first_chunk::<4>().ok_or_else(cut_short)?;
        if *len == LZ4_LEGACY {
            rest = after;
            continue;
        }
        let len = u32::from_le_bytes(*len) as usize;
        let (compressed, after) = after.split_at_checked(len).ok_or_else(cut_short)?;
        let produced = lz4_flex::block::decompress_into(compressed, &mut block)
            .map_err(|e| damaged(e.to_string()))?;
        if produced > limit - output.len() {
            return Err(DecompressError::TooLarge(limit));
        }
        output.extend_from_slice(&block[..produced]);
        rest = after;
    }
    Ok(output)
}

#[cfg(test)]
#[path = "compression_test.rs"]
pub(crate) mod tests;
