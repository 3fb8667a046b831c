use proptest::prelude::*;

use super::*;
use crate::compression::tests::compress;

/// An ELF header and one program header, then `filler` bytes.
pub(crate) fn tiny_elf(filler: usize) -> Vec<u8> {
    let mut elf = vec![0; 64 + 56 + filler];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[16] = 2;
    elf[18] = 62;
    elf[32] = 64;
    elf[54] = 56;
    elf[56] = 1;
    for (i, byte) in elf[120..].iter_mut().enumerate() {
        *byte = u8::try_from(i % 251).unwrap();
    }
    elf
}

/// A bzImage that holds `payload`.
pub(crate) fn bz_image(payload: &[u8], release: &str) -> Vec<u8> {
    const SETUP_SECTORS: u8 = 3;
    const OFFSET: u32 = 100;
    let mut image = vec![0; (usize::from(SETUP_SECTORS) + 1) * 512];
    image[0x1f1] = SETUP_SECTORS;
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    image[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
    image[0x248..0x24c].copy_from_slice(&OFFSET.to_le_bytes());
    let len = u32::try_from(payload.len()).unwrap();
    image[0x24c..0x250].copy_from_slice(&len.to_le_bytes());
    let text = format!("{release} (builder) #1 SMP");
    image[0x300..0x300 + text.len()].copy_from_slice(text.as_bytes());
    image.resize(image.len() + OFFSET as usize, 0xcc);
    image.extend(payload);
    image.extend([0xcc; 64]);
    image
}

/// What the kernel's build puts into a bzImage.
pub(crate) fn payload(format: Format, vmlinux: &[u8]) -> Vec<u8> {
    let mut payload = compress(format, vmlinux);
    if !matches!(format, Format::Gzip | Format::None) {
        payload.extend(u32::try_from(vmlinux.len()).unwrap().to_le_bytes());
    }
    payload
}

const FORMATS: [Format; 5] = [
    Format::Gzip,
    Format::Xz,
    Format::Lz4,
    Format::Zstd,
    Format::None,
];

#[test]
fn zeroes_at_the_end_of_a_segment_are_not_loaded() {
    let sizes = |elf: &[u8]| -> (u64, u64) {
        let word = |at| u64::from_le_bytes(field(elf, at).unwrap());
        (word(64 + 32), word(64 + 40))
    };
    let elf = |content: &[u8], kind: u8, size: u64| {
        let mut elf = tiny_elf(0);
        elf[64] = kind;
        elf[64 + 8] = 120;
        elf[64 + 32..64 + 40].copy_from_slice(&size.to_le_bytes());
        elf[64 + 40..64 + 48].copy_from_slice(&9_u64.to_le_bytes());
        elf.extend(content);
        elf
    };
    for (content, kind, size, expected) in [
        (&b"ab\0c\0\0"[..], 1, 6, 4),
        (b"abc", 1, 3, 3),
        (b"\0\0\0", 1, 3, 0),
        (b"", 1, 0, 0),
        // Not loaded: left as it is.
        (b"a\0\0", 4, 3, 3),
    ] {
        let extracted = extract(&elf(content, kind, size)).unwrap();
        assert_eq!(
            sizes(&extracted),
            (expected, 9),
            "{content:?} {kind} {size}"
        );
        assert!(extracted.ends_with(content));
    }
}

#[test]
fn every_compression_gives_the_same_vmlinux_back() {
    let elf = tiny_elf(100_000);
    for format in FORMATS {
        let image = bz_image(&payload(format, &elf), "6.12.0-test");
        assert!(extract(&image).unwrap() == elf, "{format:?}");
        assert_eq!(release(&image), Some("6.12.0-test"));
    }
    assert!(extract(&elf).unwrap() == elf);
}

#[test]
fn the_cache_is_filled_once_and_an_elf_file_is_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let elf = tiny_elf(1000);
    let image = dir.path().join("vmlinuz");
    fs::write(&image, bz_image(&payload(Format::Zstd, &elf), "1")).unwrap();
    let first = vmlinux_of(&image, &cache).unwrap();
    assert!(fs::read(&first).unwrap() == elf);
    let made = fs::metadata(&first).unwrap().modified().unwrap();
    assert_eq!(vmlinux_of(&image, &cache).unwrap(), first);
    assert_eq!(fs::metadata(&first).unwrap().modified().unwrap(), made);
    assert_eq!(fs::read_dir(first.parent().unwrap()).unwrap().count(), 1);
    assert_eq!(vmlinux_of(&first, &cache).unwrap(), first);
}

#[test]
fn what_is_no_kernel_is_said_in_one_sentence() {
    let elf = tiny_elf(1000);
    let good = bz_image(&payload(Format::Xz, &elf), "1");
    let changed = |change: fn(&mut Vec<u8>)| {
        let mut image = good.clone();
        change(&mut image);
        image
    };
    let mut arm = elf.clone();
    arm[18] = 183;
    let mut small = elf.clone();
    small[4] = 1;
    let mut object = elf.clone();
    object[16] = 1;
    let mut segment = elf.clone();
    segment[64 + 32..64 + 40].copy_from_slice(&5000_u64.to_le_bytes());
    let mut wild = elf.clone();
    wild[64 + 8..64 + 40].fill(0xff);
    let mut image_of_arm = vec![0; 0x300];
    image_of_arm[56..60].copy_from_slice(b"ARM\x64");
    let mut bomb = payload(Format::Xz, &elf);
    let len = bomb.len();
    bomb[len - 4..].fill(0xff);
    let mut long = payload(Format::Xz, &elf);
    let len = long.len();
    long[len - 4..].copy_from_slice(&5000_u32.to_le_bytes());
    let mut short = payload(Format::Xz, &elf);
    short[len - 4..].copy_from_slice(&10_u32.to_le_bytes());
    let cases = [
        (Vec::new(), "neither an ELF file nor a bzImage"),
        (b"#!/bin/sh\n".to_vec(), "neither an ELF file nor a bzImage"),
        (good[..0x203].to_vec(), "neither an ELF file nor a bzImage"),
        (changed(|i| i[0x206] = 6), "boot protocol 2.06 is older"),
        (changed(|i| i[0x24f] = 0xff), "outside of the file"),
        (changed(|i| i.truncate(i.len() - 65)), "outside of the file"),
        (changed(|i| i[2190] ^= 0xff), "xz data are damaged"),
        (bz_image(b"BZh91AY&SY", "1"), "compressed with bzip2"),
        (bz_image(&[0x5d, 0, 0, 0], "1"), "compressed with lzma"),
        (bz_image(b"\x89LZO\x00", "1"), "compressed with lzo"),
        (bz_image(b"hello", "1"), "not an ELF file"),
        (
            bz_image(&payload(Format::Gzip, b"hello"), "1"),
            "not an ELF file",
        ),
        (bz_image(&long, "1"), "has 1120 bytes but should have 5000"),
        (bz_image(&short, "1"), "more than 10 bytes"),
        (bz_image(&bomb, "1"), "it is larger than any kernel"),
        (arm, "for other processors than x86-64"),
        (image_of_arm, "for other processors than x86-64"),
        (
            bz_image(&payload(Format::Zstd, &small), "1"),
            "for 32-bit processors",
        ),
        (small, "for 32-bit processors"),
        (object, "not an executable"),
        (segment, "its segments end at 5000, but it has 1120 bytes"),
        (wild, "program headers are damaged"),
        (elf[..100].to_vec(), "program headers are damaged"),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    for (bytes, expected) in cases {
        fs::write(&path, bytes).unwrap();
        let result = vmlinux_of(&path, dir.path());
        let error = result.expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("image is not a Linux kernel: "), "{error}");
    }
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        1,
        "nothing cached"
    );
    let error = vmlinux_of(dir.path(), dir.path()).unwrap_err();
    assert!(error.to_string().starts_with("cannot read the kernel"));
}

#[test]
fn a_kernel_that_is_cut_short_anywhere_is_said_in_one_sentence() {
    let mut elf = tiny_elf(600);
    elf[64 + 32..64 + 40].copy_from_slice(&720_u64.to_le_bytes());
    let images = FORMATS.map(|format| {
        let mut image = bz_image(&payload(format, &elf), "1");
        image.truncate(image.len() - 64);
        image
    });
    for image in images.iter().chain([&elf]) {
        for len in 0..image.len() {
            let error = extract(&image[..len]).expect_err("cut short").to_string();
            assert!(!error.contains('\n'), "{len} of {}: {error}", image.len());
        }
    }
}

#[test]
fn a_bomb_is_stopped_in_time() {
    let zeroes = vec![0; 2 << 20];
    for format in [Format::Gzip, Format::Xz, Format::Lz4, Format::Zstd] {
        let mut payload = compress(format, &zeroes);
        payload.extend(1000_u32.to_le_bytes());
        let error = extract(&bz_image(&payload, "1")).unwrap_err().to_string();
        assert!(
            error.contains("more than 1000 bytes"),
            "{format:?}: {error}"
        );
    }
}

#[test]
fn a_vmlinux_says_its_release() {
    let mut elf = tiny_elf(100);
    assert_eq!(release(&elf), None);
    elf.extend(b"Linux version %s (%s)\nLinux version 6.12.1-own (me@there) #1\0");
    assert_eq!(release(&elf), Some("6.12.1-own"));
    elf.extend(b"Linux version 7");
    assert_eq!(release(&tiny_elf(0)), None);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        let _ = extract(&bytes);
        let _ = release(&bytes);
    }

    #[test]
    fn arbitrary_headers_and_payloads_never_panic(
        header in proptest::collection::vec(any::<u8>(), 0x60),
        format in proptest::sample::select(&FORMATS[..]),
        filler in 0..2000_usize,
        at in any::<proptest::sample::Index>(),
        value in any::<u8>(),
        keep_header in any::<bool>(),
    ) {
        let mut image = bz_image(&payload(format, &tiny_elf(filler)), "1");
        if !keep_header {
            image[0x208..0x268].copy_from_slice(&header);
        }
        let mut elf = tiny_elf(filler);
        for bytes in [&mut image, &mut elf] {
            let at = at.index(bytes.len());
            bytes[at] = value;
            let _ = extract(bytes);
            let _ = release(bytes);
        }
    }
}
