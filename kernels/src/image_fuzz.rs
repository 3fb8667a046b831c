//! The fuzz target of the extractor: kernel images, spoilt field by field and layer by layer, so that
//! the damage gets past the first magic number. `make unit` tries some, `make fuzz` many.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::tests::{bz_image, payload};
use super::*;

/// Offsets and sizes of what an extractor reads of a bzImage.
const BZ_IMAGE: &[(usize, usize)] = &[
    (0x38, 4),
    (0x1f1, 1),
    (0x1fe, 2),
    (0x202, 4),
    (0x206, 2),
    (0x20e, 2),
    (0x248, 4),
    (0x24c, 4),
];

/// Of an ELF file: its header, and the type, offset and sizes in its first two program headers.
const ELF: &[(usize, usize)] = &[
    (0, 4),
    (4, 1),
    (5, 1),
    (16, 2),
    (18, 2),
    (32, 8),
    (54, 2),
    (56, 2),
    (64, 4),
    (72, 8),
    (96, 8),
    (104, 8),
    (120, 4),
    (128, 8),
    (152, 8),
    (160, 8),
];

/// Of a compressed kernel: how it begins.
const PAYLOAD: &[(usize, usize)] = &[(0, 2), (0, 4), (2, 2), (4, 4), (8, 4), (12, 8)];

/// Something that happens to bytes.
#[derive(Clone, Debug)]
enum Damage {
    /// A field has this value.
    Field((usize, usize), u64),
    /// The last four bytes have: the length of what is compressed.
    Length(u32),
    Byte(Index, u8),
    Cut(Index),
    Append(Vec<u8>),
    /// What is between these goes.
    Remove(Index, Index),
    /// What is at the first stands at the second, too.
    Copy(Index, Index, u8),
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let end = bytes.len();
        match self {
            Self::Field((at, size), value) => {
                if let Some(field) = bytes.get_mut(*at..at + size) {
                    field.copy_from_slice(&value.to_le_bytes()[..*size]);
                }
            }
            Self::Length(value) => {
                if let Some(field) = bytes.last_chunk_mut() {
                    *field = value.to_le_bytes();
                }
            }
            Self::Append(more) => bytes.extend(more),
            _ if end == 0 => {}
            Self::Byte(at, value) => bytes[at.index(end)] = *value,
            Self::Cut(at) => bytes.truncate(at.index(end)),
            Self::Remove(one, other) => {
                let (one, other) = (one.index(end), other.index(end));
                bytes.drain(one.min(other)..one.max(other));
            }
            Self::Copy(from, to, len) => {
                let (from, to) = (from.index(end), to.index(end));
                let len = usize::from(*len).min(end - from.max(to));
                bytes.copy_within(from..from + len, to);
            }
        }
    }
}

/// Numbers at which computations with them break, and any others.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => 0..4_u64,
        2 => select(vec![
            0x100,
            0x207,
            0x208,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            1 << 32,
            i64::MAX as u64,
            u64::MAX - 55,
            u64::MAX,
        ]),
        1 => 0..8192_u64,
        1 => any::<u64>(),
    ]
}

/// No damage, or some of these bytes with such fields.
fn damage(fields: &'static [(usize, usize)]) -> impl Strategy<Value = Vec<Damage>> {
    let one = prop_oneof![
        6 => (select(fields), number()).prop_map(|(field, value)| Damage::Field(field, value)),
        1 => (0..8192_u32).prop_map(Damage::Length),
        1 => any::<u32>().prop_map(Damage::Length),
        2 => any::<(Index, u8)>().prop_map(|(at, value)| Damage::Byte(at, value)),
        1 => any::<Index>().prop_map(Damage::Cut),
        1 => vec(any::<u8>(), 1..64).prop_map(Damage::Append),
        1 => any::<(Index, Index)>().prop_map(|(one, other)| Damage::Remove(one, other)),
        1 => any::<(Index, Index, u8)>().prop_map(|(from, to, len)| Damage::Copy(from, to, len)),
    ];
    prop_oneof![3 => Just(Vec::new()), 2 => vec(one, 1..4)]
}

/// An image of a kernel: its vmlinux as it is, or compressed in a bzImage, and spoilt on the way.
fn image() -> impl Strategy<Value = Vec<u8>> {
    let format = prop_oneof![
        5 => select(vec![Format::Gzip, Format::Xz, Format::Lz4, Format::Zstd, Format::None])
            .prop_map(Some),
        1 => Just(None),
    ];
    // Zeroes compress best: those are the bombs.
    let content = prop_oneof![
        vec(any::<u8>(), 0..2000),
        (0..100_000_usize).prop_map(|len| vec![0; len]),
    ];
    let damages = (damage(ELF), damage(PAYLOAD), damage(BZ_IMAGE));
    (format, content, damages).prop_map(|(format, content, (inner, middle, outer))| {
        let mut bytes = elf(&content);
        inner.iter().for_each(|damage| damage.apply(&mut bytes));
        if let Some(format) = format {
            bytes = payload(format, &bytes);
            middle.iter().for_each(|damage| damage.apply(&mut bytes));
            bytes = bz_image(&bytes, "6.12.0-test");
            outer.iter().for_each(|damage| damage.apply(&mut bytes));
        }
        bytes
    })
}

/// An ELF file with two segments that are loaded, as a vmlinux has them, and notes.
fn elf(content: &[u8]) -> Vec<u8> {
    const HEADERS: usize = 64 + 3 * 56;
    let mut elf = vec![0; HEADERS];
    let mut set = |at: usize, bytes: &[u8]| elf[at..at + bytes.len()].copy_from_slice(bytes);
    set(0, b"\x7fELF\x02\x01\x01");
    set(16, &2_u16.to_le_bytes());
    set(18, &62_u16.to_le_bytes());
    set(32, &64_u64.to_le_bytes());
    set(54, &56_u16.to_le_bytes());
    set(56, &3_u16.to_le_bytes());
    let half = content.len() / 2;
    let parts = [
        (1_u32, 0, half),
        (1, half, content.len()),
        (4, 0, half.min(16)),
    ];
    for (n, (kind, from, to)) in parts.into_iter().enumerate() {
        let at = 64 + n * 56;
        set(at, &kind.to_le_bytes());
        set(at + 8, &((HEADERS + from) as u64).to_le_bytes());
        set(at + 32, &((to - from) as u64).to_le_bytes());
        set(at + 40, &((to - from + 100) as u64).to_le_bytes());
    }
    elf.extend(content);
    elf
}

/// What came of an image. It has what every image must have, whatever it is.
fn outcome(image: &[u8]) -> Result<&'static str, TestCaseError> {
    if let Some(release) = release(image) {
        prop_assert!(!release.is_empty() && release.len() <= 256 && !release.contains(' '));
    }
    let error = match extract(image) {
        Ok(vmlinux) => {
            prop_assert!(vmlinux.len() <= MAX_PAYLOAD);
            prop_assert!(vmlinux.starts_with(&ELF_MAGIC));
            let again = extract(&vmlinux);
            let len = again.map(|again| again.len()).map_err(|e| e.to_string());
            prop_assert_eq!(len, Ok(vmlinux.len()), "what comes out is no kernel itself");
            return Ok("a kernel");
        }
        Err(error) => error,
    };
    let text = error.to_string();
    prop_assert!(!text.is_empty() && text.len() < 200, "{text}");
    prop_assert!(!text.contains(char::is_control), "{text:?}");
    Ok(match error {
        NotAKernel::UnknownFormat => "unknown format",
        NotAKernel::TooLarge => "too large",
        NotAKernel::OldProtocol(_) => "old protocol",
        NotAKernel::BadPayload => "bad payload",
        NotAKernel::Compression(DecompressError::Unsupported(_)) => "other compression",
        NotAKernel::Compression(DecompressError::Damaged(..)) => "damaged",
        NotAKernel::Compression(DecompressError::TooLarge(_)) => "more than it says",
        NotAKernel::WrongLength { .. } => "less than it says",
        NotAKernel::NotElf => "not ELF",
        NotAKernel::ThirtyTwoBit => "32 bits",
        NotAKernel::OtherMachine => "other machine",
        NotAKernel::NotExecutable => "not executable",
        NotAKernel::BadElf => "bad ELF",
        NotAKernel::CutShort { .. } => "cut short",
    })
}

proptest! {
    #[test]
    fn any_image_is_a_kernel_or_said_to_be_none(image in image()) {
        outcome(&image)?;
    }
}

/// Were they all turned away at the door, the above would prove nothing.
#[test]
fn every_outcome_is_seen() {
    let mut seen = BTreeSet::new();
    let mut runner = TestRunner::deterministic();
    for _ in 0..3000 {
        let image = image().new_tree(&mut runner).unwrap().current();
        seen.insert(outcome(&image).unwrap());
    }
    // Compressors that are not supported have magic numbers that damage hardly ever makes.
    seen.remove("other compression");
    let expected = BTreeSet::from([
        "32 bits",
        "a kernel",
        "bad ELF",
        "bad payload",
        "cut short",
        "damaged",
        "less than it says",
        "more than it says",
        "not ELF",
        "not executable",
        "old protocol",
        "other machine",
        "too large",
        "unknown format",
    ]);
    assert_eq!(seen, expected);
}
