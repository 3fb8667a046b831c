use std::io::Write;

use proptest::prelude::*;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::*;

/// Compresses `data` as the kernel's build does.
pub(crate) fn compress(format: Format, data: &[u8]) -> Vec<u8> {
    match format {
        Format::Gzip => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Format::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Format::Lz4 => {
            let mut output = LZ4_LEGACY.to_vec();
            for block in data.chunks(LZ4_LEGACY_BLOCK) {
                let compressed = lz4_flex::block::compress(block);
                output.extend(u32::try_from(compressed.len()).unwrap().to_le_bytes());
                output.extend(compressed);
            }
            output
        }
        Format::Zstd => compress_to_vec(data, CompressionLevel::Fastest),
        Format::None => data.to_vec(),
    }
}

const ALL: [Format; 5] = [
    Format::Gzip,
    Format::Xz,
    Format::Lz4,
    Format::Zstd,
    Format::None,
];

#[test]
fn every_format_is_recognised_and_bounded() {
    let data: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    for format in ALL {
        let compressed = compress(format, &data);
        assert_eq!(Format::detect(&compressed).unwrap(), format);
        assert!(format.decompress(&compressed, data.len()).unwrap() == data);
        assert!(matches!(
            format.decompress(&compressed, data.len() - 1),
            Err(DecompressError::TooLarge(_))
        ));
    }
}

#[test]
fn what_follows_the_data_is_ignored() {
    for format in [Format::Gzip, Format::Xz, Format::Zstd] {
        let mut compressed = compress(format, b"hello, world");
        compressed.extend([1, 2, 3, 4]);
        assert_eq!(
            format.decompress(&compressed, 100).unwrap(),
            b"hello, world"
        );
    }
}

#[test]
fn several_lz4_blocks_are_put_together() {
    let data = vec![7; LZ4_LEGACY_BLOCK + 5];
    let compressed = compress(Format::Lz4, &data);
    assert!(Format::Lz4.decompress(&compressed, data.len()).unwrap() == data);
    let cut = &compressed[..compressed.len() - 1];
    assert!(Format::Lz4.decompress(cut, data.len()).is_err());
}

#[test]
fn other_formats_are_named() {
    for (bytes, name) in [
        (&b"BZh91AY"[..], "bzip2"),
        (&[0x5d, 0, 0, 0x80, 0][..], "lzma"),
        (&[0x89, b'L', b'Z', b'O', 0][..], "lzo"),
    ] {
        let error = Format::detect(bytes).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

proptest! {
    #[test]
    fn damaged_data_never_panic(
        data in proptest::collection::vec(any::<u8>(), 0..4096),
        format in proptest::sample::select(&ALL[..4]),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
        keep in any::<proptest::sample::Index>(),
    ) {
        let mut compressed = compress(format, &data);
        for (at, value) in damage {
            let at = at.index(compressed.len());
            compressed[at] = value;
        }
        compressed.truncate(keep.index(compressed.len() + 1));
        if let Ok(output) = format.decompress(&compressed, 1 << 20) {
            prop_assert!(output.len() <= 1 << 20);
        }
    }
}
