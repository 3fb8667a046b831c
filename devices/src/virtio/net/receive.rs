//! Frames from the tap to the guest.
//!
//! A frame is read straight into as many of the guest's buffers as it may need, and into a
//! buffer of our own behind them: what is longer than expected is not cut, but waits until
//! the guest has room for it.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use virtio_queue::Error;
use vm_memory::GuestMemoryMmap;

use super::{HEADER_LEN, MAX_FRAME};
use crate::virtio::buffers::{Buffers, MAX_IOVECS, count, retry, split_chain};
use crate::virtio::vring::Vring;

/// `num_buffers` in the header.
const NUM_BUFFERS_OFFSET: u64 = 10;

/// Why no more frames are received for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lacking {
    /// The guest has no buffers; it kicks when it has.
    Buffers,
    /// The tap may have frames again.
    Frames,
    /// The interface is gone.
    Tap,
}

#[derive(Debug)]
pub(super) struct Receiver {
    vring: Vring,
    /// A frame may take several chains.
    mergeable: bool,
    /// Bytes that a frame usually has at most, its header included.
    usual_frame: usize,
    overflow: Vec<u8>,
    /// A frame that the guest had too few buffers for.
    waiting: Option<Vec<u8>>,
}

/// Chains that were popped and are still unused, in order.
#[derive(Default)]
struct Posted<'m> {
    chains: VecDeque<(u16, Buffers<'m>)>,
    capacity: u64,
    /// No more can be had behind them, however long one waits.
    complete: bool,
}

impl Receiver {
    pub(super) fn new(vring: Vring, mergeable: bool, usual_frame: usize) -> Self {
        Self {
            vring,
            mergeable,
            usual_frame,
            overflow: vec![0; MAX_FRAME],
            waiting: None,
        }
    }

    pub(super) fn vring(&self) -> &Vring {
        &self.vring
    }

    /// Receives frames until something is lacking, or for long enough.
    pub(super) fn receive(&mut self, memory: &GuestMemoryMmap, tap: &File) -> Lacking {
        if self.vring.is_broken() {
            return Lacking::Buffers;
        }
        self.try_receive(memory, tap).unwrap_or_else(|error| {
            self.vring.fail(&error);
            Lacking::Buffers
        })
    }

    fn try_receive(&mut self, memory: &GuestMemoryMmap, tap: &File) -> Result<Lacking, Error> {
        self.vring.ignore_kicks(memory)?;
        let mut posted = Posted::default();
        let lacking = self.receive_into(&mut posted, memory, tap)?;
        // Asked for while the unused chains are out of the queue: the driver, which has told
        // of these, is to tell of those behind them.
        let more = lacking == Lacking::Buffers && self.vring.await_kick(memory)?;
        for _ in &posted.chains {
            self.vring.undo_pop();
        }
        self.vring.notify(memory)?;
        if more {
            // Some came just before a kick was asked for.
            self.vring.kick_self();
        }
        Ok(lacking)
    }

    fn receive_into<'m>(
        &mut self,
        posted: &mut Posted<'m>,
        memory: &'m GuestMemoryMmap,
        tap: &File,
    ) -> Result<Lacking, Error> {
        for _ in 0..self.vring.size() {
            let needed = self.waiting.as_ref().map_or(self.usual_frame, Vec::len);
            self.gather(posted, memory, needed as u64)?;
            if let Some(frame) = self.waiting.take() {
                if posted.capacity >= frame.len() as u64 {
                    let used = self.fill(posted, &frame);
                    self.vring.add_used_together(memory, &used)?;
                } else if !posted.complete {
                    self.waiting = Some(frame);
                    return Ok(Lacking::Buffers);
                }
                continue;
            }
            if posted.chains.is_empty() {
                return Ok(Lacking::Buffers);
            }
            match self.read_frame(posted, tap) {
                Ok(used) => self.vring.add_used_together(memory, &used)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Lacking::Frames);
                }
                Err(error) => {
                    log::warn!("tap failed: {error}");
                    return Ok(Lacking::Tap);
                }
            }
        }
        Ok(Lacking::Frames)
    }

    /// Pops chains until there is room for `needed` bytes, if there are as many. Without
    /// mergeable buffers, a frame has one chain.
    fn gather<'m>(
        &mut self,
        posted: &mut Posted<'m>,
        memory: &'m GuestMemoryMmap,
        needed: u64,
    ) -> Result<(), Error> {
        posted.complete = false;
        while posted.capacity < needed {
            if !posted.chains.is_empty() && !self.mergeable {
                posted.complete = true;
                break;
            }
            let Some(chain) = self.vring.pop(memory)? else {
                posted.complete = posted.chains.len() == usize::from(self.vring.size());
                break;
            };
            let head = chain.head_index();
            match split_chain(memory, chain) {
                Ok((_, buffers)) if buffers.len() >= HEADER_LEN as u64 => {
                    posted.capacity += buffers.len();
                    posted.chains.push_back((head, buffers));
                }
                // One that no frame fits in goes back, but only in its turn: it must not
                // come between the chains of one frame.
                _ if posted.chains.is_empty() => self.vring.add_used(memory, head, 0)?,
                _ => {
                    self.vring.undo_pop();
                    posted.complete = true;
                    break;
                }
            }
        }
        Ok(())
    }

    /// Reads a frame into the first of the chains. Returns those and how much is in each;
    /// nothing if the frame waits now, or was dropped.
    fn read_frame(&mut self, posted: &mut Posted, tap: &File) -> io::Result<Vec<(u16, u32)>> {
        let mut iovecs = Vec::with_capacity(posted.chains.len() + 1);
        let mut room = 0;
        for (_, buffers) in &posted.chains {
            room += buffers.push_iovecs(&mut iovecs, MAX_IOVECS - 1);
        }
        iovecs.push(libc::iovec {
            iov_base: self.overflow.as_mut_ptr().cast(),
            iov_len: self.overflow.len(),
        });
        // SAFETY: the iovecs are guest memory, which outlives the chains and which Rust holds
        // no references to, and `overflow`, which nothing else uses now.
        let len =
            retry(|| unsafe { libc::readv(tap.as_raw_fd(), iovecs.as_ptr(), count(&iovecs)) })?;
        if len < HEADER_LEN {
            return Ok(Vec::new());
        }
        if len <= room {
            return Ok(self.take_used(posted, len));
        }
        if self.mergeable {
            let mut frame = vec![0; len];
            let mut filled = 0;
            for (_, buffers) in &posted.chains {
                filled += buffers.copy_to(&mut frame[filled..room]);
            }
            let rest = len - room;
            frame[room..].copy_from_slice(&self.overflow[..rest]);
            self.waiting = Some(frame);
        } else {
            log::debug!("frame dropped: {len} bytes, but room for {room}");
        }
        Ok(Vec::new())
    }

    /// Copies `frame` to the first of the chains, which have room for it.
    fn fill(&self, posted: &mut Posted, frame: &[u8]) -> Vec<(u16, u32)> {
        let mut rest = frame;
        for (_, buffers) in &posted.chains {
            rest = &rest[buffers.copy_from(rest)..];
        }
        self.take_used(posted, frame.len())
    }

    /// Takes the chains that hold the first `len` bytes, and completes the header. Returns
    /// them and how much is in each.
    fn take_used(&self, posted: &mut Posted, len: usize) -> Vec<(u16, u32)> {
        let mut used = Vec::new();
        let mut first = None;
        let mut rest = len as u64;
        while rest > 0
            && let Some((head, buffers)) = posted.chains.pop_front()
        {
            posted.capacity -= buffers.len();
            let here = rest.min(buffers.len());
            rest -= here;
            used.push((head, u32::try_from(here).expect("a frame is short")));
            first.get_or_insert(buffers);
        }
        if let Some(mut header) = first {
            let num_buffers = u16::try_from(used.len()).expect("a queue is short");
            header.advance(NUM_BUFFERS_OFFSET);
            header.write(&num_buffers.to_le_bytes());
        }
        used
    }
}
