use proptest::collection::vec;
use proptest::prelude::*;
use virtio_queue::{Queue, QueueOwnedT};

use super::*;
use crate::virtio::buffers::split_chain;
use crate::virtio::testing::{Buffer, Driver};

/// What [`parse`] is to make of a request, without its buffers.
#[derive(Debug, PartialEq, Eq)]
enum Outline {
    Read(u64, u64),
    Write(u64, Vec<u8>),
    Flush,
    Id(u64),
    Discard(Vec<Range>),
    WriteZeroes(Range, bool),
}

fn outline(request: Request) -> Outline {
    match request {
        Request::Read { sector, data } => Outline::Read(sector, data.len()),
        Request::Write { sector, data } => {
            let mut bytes = vec![0; usize::try_from(data.len()).unwrap()];
            data.copy_to(&mut bytes);
            Outline::Write(sector, bytes)
        }
        Request::Flush => Outline::Flush,
        Request::Id { data } => Outline::Id(data.len()),
        Request::Discard { ranges } => Outline::Discard(ranges),
        Request::WriteZeroes { range, unmap } => Outline::WriteZeroes(range, unmap),
    }
}

/// Parses a chain of `buffers`; also checks that the status goes to its very last byte.
fn parse_chain(buffers: &[Buffer]) -> Option<Result<Outline, Status>> {
    let mut driver = Driver::new(&[64], 0);
    let sent = driver.queues[0].add(buffers);
    let mut queue: Queue = driver.activation().queues.remove(0).queue;
    let memory = driver.memory.as_ref();
    let chain = queue.iter(memory).unwrap().next().unwrap();
    let (readable, writable) = split_chain(memory, chain).unwrap();
    let (request, mut status) = parse(readable, writable)?;
    assert_eq!(status.write(&[0xa5]), 1);
    let (addr, len) = *sent.buffers.iter().rfind(|(_, len)| *len > 0).unwrap();
    assert_eq!(driver.read(addr + u64::from(len) - 1, 1), [0xa5]);
    Some(request.map(outline))
}

/// What the specification makes of the bytes of a request.
fn expected(readable: &[u8], writable: u64) -> Option<Result<Outline, Status>> {
    let data = writable.checked_sub(1)?;
    let Some((header, rest)) = readable.split_at_checked(16) else {
        return Some(Err(Status::IoError));
    };
    let kind = u32::from_le_bytes(header[..4].try_into().unwrap());
    let sector = u64::from_le_bytes(header[8..].try_into().unwrap());
    let ranges = || {
        (rest.len() % 16 == 0 && !rest.is_empty()).then(|| {
            rest.chunks(16)
                .map(|raw| {
                    let range = Range {
                        sector: u64::from_le_bytes(raw[..8].try_into().unwrap()),
                        sectors: u32::from_le_bytes(raw[8..12].try_into().unwrap()),
                    };
                    (range, u32::from_le_bytes(raw[12..].try_into().unwrap()))
                })
                .collect::<Vec<_>>()
        })
    };
    Some(match kind {
        0 if rest.is_empty() => Ok(Outline::Read(sector, data)),
        1 if data == 0 => Ok(Outline::Write(sector, rest.to_vec())),
        4 => Ok(Outline::Flush),
        8 if data >= 20 => Ok(Outline::Id(data)),
        0 | 1 | 8 => Err(Status::IoError),
        11 => match ranges() {
            None => Err(Status::IoError),
            Some(ranges) => ranges
                .into_iter()
                .map(|(range, flags)| match (range.sectors, flags) {
                    (0x40_0001.., _) => Err(Status::IoError),
                    (_, 0) => Ok(range),
                    _ => Err(Status::Unsupported),
                })
                .collect::<Result<_, _>>()
                .map(Outline::Discard),
        },
        13 => match ranges().as_deref() {
            Some(&[(range, _)]) if range.sectors > 0x2_0000 => Err(Status::IoError),
            Some(&[(range, flags @ 0..=1)]) => Ok(Outline::WriteZeroes(range, flags == 1)),
            Some(&[_]) => Err(Status::Unsupported),
            _ => Err(Status::IoError),
        },
        _ => Err(Status::Unsupported),
    })
}

/// Cuts `bytes` at `cuts`.
fn pieces<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<Buffer<'a>> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2)
        .map(|ends| Buffer::Readable(&bytes[ends[0]..ends[1]]))
        .collect()
}

fn range_bytes() -> impl Strategy<Value = Vec<u8>> {
    let sectors = prop_oneof![
        0..10u32,
        0x1_ffff..0x2_0002u32,
        0x3f_ffff..0x40_0002u32,
        any::<u32>()
    ];
    let flags = prop_oneof![8 => 0..2u32, 1 => any::<u32>()];
    (any::<u64>(), sectors, flags).prop_map(|(sector, sectors, flags)| {
        let mut raw = sector.to_le_bytes().to_vec();
        raw.extend(sectors.to_le_bytes());
        raw.extend(flags.to_le_bytes());
        raw
    })
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(Vec::new()),
        vec(any::<u8>(), 0..100),
        vec(range_bytes(), 1..4).prop_map(|ranges| ranges.concat()),
    ]
}

proptest! {
    #[test]
    fn requests_are_understood_however_they_are_cut(
        kind in prop_oneof![8 => 0..16u32, 1 => any::<u32>()],
        sector: u64,
        payload in payload(),
        header_len in prop_oneof![9 => Just(16usize), 1 => 0..16usize],
        cuts in vec(any::<prop::sample::Index>(), 0..4),
        writable in vec(0..40u32, 0..4),
    ) {
        let mut readable = kind.to_le_bytes().to_vec();
        readable.extend([0; 4]);
        readable.extend(sector.to_le_bytes());
        if header_len < 16 {
            readable.truncate(header_len);
        } else {
            readable.extend(&payload);
        }
        let mut buffers = pieces(&readable, &cuts);
        buffers.extend(writable.iter().map(|len| Buffer::Writable(*len)));
        let total = writable.iter().copied().map(u64::from).sum();
        prop_assert_eq!(parse_chain(&buffers), expected(&readable, total));
    }
}

#[test]
fn a_discard_has_a_bounded_number_of_ranges() {
    let discard = |ranges: usize| {
        let mut readable = vec![11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        readable.extend(vec![0; 16 * ranges]);
        parse_chain(&[Buffer::Readable(&readable), Buffer::Writable(1)]).unwrap()
    };
    assert!(matches!(discard(64), Ok(Outline::Discard(ranges)) if ranges.len() == 64));
    assert_eq!(discard(65), Err(Status::IoError));
}
