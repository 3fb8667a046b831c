use std::io::Cursor;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::samples::{config, process, to_guest, to_host};
use crate::{GuestConfig, ToGuest, ToHost};

/// Takes all messages that `decoder` has.
fn drain<T: DeserializeOwned>(decoder: &mut Decoder) -> Result<Vec<T>, FrameError> {
    std::iter::from_fn(|| decoder.next().transpose()).collect()
}

/// Feeds `bytes` in pieces that end at `cuts`.
fn feed_cut<T: DeserializeOwned>(bytes: &[u8], cuts: &[Index]) -> Result<Vec<T>, FrameError> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.sort_unstable();
    cuts.push(bytes.len());
    let mut decoder = Decoder::default();
    let mut messages = Vec::new();
    let mut start = 0;
    for cut in cuts {
        decoder.feed(&bytes[start..cut]);
        start = cut;
        messages.extend(drain(&mut decoder)?);
    }
    Ok(messages)
}

fn frames<T: Serialize>(messages: &[T]) -> Vec<u8> {
    messages
        .iter()
        .flat_map(|message| encode(message).unwrap())
        .collect()
}

/// A reader that gives a few bytes at a time, as sockets may.
struct Trickle<'a>(Cursor<&'a [u8]>, usize);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.1.min(buffer.len());
        self.0.read(&mut buffer[..len])
    }
}

proptest! {
    #[test]
    fn messages_to_the_guest_arrive(messages in vec(to_guest(), 0..6), cuts in any::<Vec<Index>>()) {
        let arrived: Vec<ToGuest> = feed_cut(&frames(&messages), &cuts).unwrap();
        prop_assert_eq!(arrived, messages);
    }

    #[test]
    fn messages_to_the_host_arrive(messages in vec(to_host(), 0..6), cuts in any::<Vec<Index>>()) {
        let arrived: Vec<ToHost> = feed_cut(&frames(&messages), &cuts).unwrap();
        prop_assert_eq!(arrived, messages);
    }

    #[test]
    fn a_blocking_reader_takes_no_byte_of_the_next_frame(
        messages in vec(to_host(), 1..4),
        step in 1..100_usize,
    ) {
        let bytes = frames(&messages);
        let mut stream = Trickle(Cursor::new(&bytes), step);
        for message in &messages {
            let arrived: Option<ToHost> = read(&mut stream).unwrap();
            prop_assert_eq!(arrived.as_ref(), Some(message));
        }
        prop_assert!(read::<ToHost>(&mut stream).unwrap().is_none());
    }

    #[test]
    fn a_truncated_frame_is_no_message(message in to_guest(), cut in any::<Index>()) {
        let bytes = encode(&message).unwrap();
        let cut = cut.index(bytes.len());
        let mut decoder = Decoder::default();
        decoder.feed(&bytes[..cut]);
        prop_assert!(decoder.next::<ToGuest>().unwrap().is_none());
        prop_assert_eq!(decoder.is_empty(), cut == 0);
        let mut stream = Cursor::new(&bytes[..cut]);
        match read::<ToGuest>(&mut stream) {
            Ok(None) => prop_assert_eq!(cut, 0),
            Err(FrameError::Io(e)) => {
                prop_assert_eq!(e.kind(), io::ErrorKind::UnexpectedEof);
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..2000), cuts in any::<Vec<Index>>()) {
        let _ = feed_cut::<ToGuest>(&bytes, &cuts);
        let _ = feed_cut::<ToHost>(&bytes, &cuts);
        let _ = GuestConfig::decode(&bytes);
    }

    #[test]
    fn arbitrary_content_in_a_good_frame_does_no_harm(content in vec(any::<u8>(), 0..300)) {
        let mut bytes = u32::try_from(content.len()).unwrap().to_le_bytes().to_vec();
        bytes.extend_from_slice(&content);
        let mut decoder = Decoder::default();
        decoder.feed(&bytes);
        // Anything but waiting for more.
        prop_assert!(!matches!(decoder.next::<ToHost>(), Ok(None)));
        let mut decoder = Decoder::default();
        decoder.feed(&bytes);
        prop_assert!(!matches!(decoder.next::<ToGuest>(), Ok(None)));
    }

    #[test]
    fn damaged_messages_do_no_harm(message in to_guest(), at in any::<Index>(), byte in any::<u8>()) {
        let mut bytes = encode(&message).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = feed_cut::<ToGuest>(&bytes, &[]);
    }

    #[test]
    fn whole_is_whole_however_it_is_cut(bytes in vec(any::<u8>(), 0..200), cuts in any::<Vec<Index>>()) {
        let whole = feed_cut::<ToGuest>(&bytes, &[]).map_err(|e| e.to_string());
        let cut = feed_cut::<ToGuest>(&bytes, &cuts).map_err(|e| e.to_string());
        prop_assert_eq!(whole, cut);
    }

    #[test]
    fn configurations_arrive(config in config()) {
        prop_assert_eq!(GuestConfig::decode(&config.encode()).unwrap(), config);
    }

    #[test]
    fn truncated_configurations_are_refused(config in config(), cut in any::<Index>()) {
        let bytes = config.encode();
        prop_assert!(GuestConfig::decode(&bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn processes_keep_their_bytes(process in process()) {
        let message = ToGuest::Start(Box::new(process.clone()));
        let arrived: Option<ToGuest> = read(&mut Cursor::new(encode(&message).unwrap())).unwrap();
        prop_assert_eq!(arrived, Some(ToGuest::Start(Box::new(process))));
    }
}

#[test]
fn a_frame_that_is_too_long_is_refused_before_it_arrives() {
    let announced = u32::try_from(MAX_FRAME + 1).unwrap();
    for len in [announced, u32::MAX] {
        let mut decoder = Decoder::default();
        decoder.feed(&len.to_le_bytes());
        let error = decoder.next::<ToHost>().unwrap_err();
        assert!(
            matches!(error, FrameError::TooLong(n) if n == len as usize),
            "{error}"
        );
    }
    let long = ToHost::Output(crate::Output::Stdout, vec![0; MAX_FRAME]);
    assert!(matches!(encode(&long), Err(FrameError::TooLong(_))));
}

#[test]
fn the_longest_frame_passes() {
    // Two bytes of variants and four of the length are left.
    let long = ToHost::Output(crate::Output::Stdout, vec![7; MAX_FRAME - 6]);
    let bytes = encode(&long).unwrap();
    assert_eq!(bytes.len(), 4 + MAX_FRAME);
    let arrived: Option<ToHost> = read(&mut Cursor::new(bytes)).unwrap();
    assert!(arrived == Some(long));
}

#[test]
fn a_length_that_lies_inside_a_message_costs_no_memory() {
    // `Start` with so many arguments, of which none is there, that memory for them cannot be
    // had: asking for it would abort.
    for content in [
        &b"\0\xff\xff\xff\xff\x0f"[..],
        b"\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ] {
        let mut bytes = u32::try_from(content.len()).unwrap().to_le_bytes().to_vec();
        bytes.extend_from_slice(content);
        let mut decoder = Decoder::default();
        decoder.feed(&bytes);
        assert!(matches!(
            decoder.next::<ToGuest>(),
            Err(FrameError::Malformed(_))
        ));
    }
}
