//! Framing of messages on a byte stream: a little-endian 32-bit length, then the message in
//! postcard's encoding.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Greatest length of an encoded message. An argv or environment of more does not fit
/// Linux's own limit for one string either.
pub const MAX_FRAME: usize = 4 * 1024 * 1024;

/// Why a frame could not be read or written.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The stream failed.
    #[error("The connection failed")]
    Io(#[from] io::Error),
    /// The peer announced or the caller gave a message of more than [`MAX_FRAME`] bytes.
    #[error("A message of {0} bytes is longer than {MAX_FRAME}")]
    TooLong(usize),
    /// The bytes are no message.
    #[error("The peer sent a malformed message")]
    Malformed(#[source] postcard::Error),
}

/// Encodes `message` with its length in front.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = postcard::to_extend(message, vec![0; 4]).map_err(FrameError::Malformed)?;
    let len = bytes.len() - 4;
    if len > MAX_FRAME {
        return Err(FrameError::TooLong(len));
    }
    let prefix = u32::try_from(len).expect("checked above").to_le_bytes();
    bytes[..4].copy_from_slice(&prefix);
    Ok(bytes)
}

/// Writes `message` as one frame.
pub fn write<T: Serialize>(stream: &mut impl Write, message: &T) -> Result<(), FrameError> {
    Ok(stream.write_all(&encode(message)?)?)
}

/// Reads one frame from a blocking stream; `None` if the stream ended before it.
pub fn read<T: DeserializeOwned>(stream: &mut impl Read) -> Result<Option<T>, FrameError> {
    let mut decoder = Decoder::default();
    let mut buffer = [0; 4096];
    loop {
        if let Some(message) = decoder.next()? {
            return Ok(Some(message));
        }
        let wanted = decoder.missing().min(buffer.len());
        match stream.read(&mut buffer[..wanted]) {
            Ok(0) if decoder.is_empty() => return Ok(None),
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(n) => decoder.feed(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Puts messages together from bytes that arrive in pieces, for streams that do not block.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// Where the messages that were not taken yet begin in `bytes`.
    start: usize,
}

impl Decoder {
    /// Takes bytes that arrived.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` until more bytes arrive.
    #[allow(clippy::should_implement_trait)]
    pub fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some(len) = self.announced()? else {
            return Ok(None);
        };
        let Some(message) = self.pending().get(4..4 + len) else {
            return Ok(None);
        };
        let message = postcard::from_bytes(message).map_err(FrameError::Malformed)?;
        self.start += 4 + len;
        Ok(Some(message))
    }

    /// Nothing of a further message has arrived.
    pub fn is_empty(&self) -> bool {
        self.pending().is_empty()
    }

    fn pending(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Bytes that must still arrive before [`Self::next`] can get on; at least 1.
    fn missing(&self) -> usize {
        let whole = match self.announced() {
            Ok(Some(len)) => 4 + len,
            _ => 4,
        };
        whole.saturating_sub(self.pending().len()).max(1)
    }

    fn announced(&self) -> Result<Option<usize>, FrameError> {
        let Some(prefix) = self.pending().first_chunk::<4>() else {
            return Ok(None);
        };
        let len = u32::from_le_bytes(*prefix) as usize;
        if len > MAX_FRAME {
            return Err(FrameError::TooLong(len));
        }
        Ok(Some(len))
    }
}

#[cfg(test)]
mod tests;
