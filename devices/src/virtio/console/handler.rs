//! The thread that moves a console's bytes.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use crate::GuestMemory;
use crate::output::{Output, poll};
use crate::virtio::buffers::{Buffers, split_chain};
use crate::virtio::vring::{Served, Vring};
use crate::virtio::{Activation, ActiveQueue};

/// Bytes that are moved by one read or write.
const CHUNK: usize = 4096;

const RECEIVE_KICK: u32 = 0;
const TRANSMIT_KICK: u32 = 1;
const INPUT: u32 = 2;
const OUTPUT: u32 = 3;

#[derive(Debug)]
pub(super) struct Handler {
    memory: GuestMemory,
    receive: Vring,
    transmit: Vring,
    /// None when it has ended.
    input: Option<Arc<File>>,
    input_watched: bool,
    /// None when it has failed.
    output: Option<Arc<Output>>,
    output_watched: bool,
    /// Bytes of the first available chain that are written already.
    written: u64,
}

/// Why the guest gets no more input for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lacking {
    Buffers,
    Input,
    Everything,
}

impl Handler {
    pub(super) fn new(
        input: Option<Arc<File>>,
        output: Arc<Output>,
        activation: &Activation,
        receive: ActiveQueue,
        transmit: ActiveQueue,
    ) -> Self {
        Self {
            memory: activation.memory.clone(),
            receive: Vring::new(receive, activation.interrupt.clone()),
            transmit: Vring::new(transmit, activation.interrupt.clone()),
            input,
            input_watched: false,
            output: Some(output),
            output_watched: false,
            written: 0,
        }
    }

    /// Gives input to the guest until either side has none, and sees to it that the other's
    /// next move is noticed. Input is watched only while the guest has buffers for it: else
    /// it would be announced over and over.
    fn receive(&mut self, ops: &mut EventOps) {
        let Some(input) = self.input.clone() else {
            return;
        };
        let mut lacking = Lacking::Buffers;
        self.receive.serve(&self.memory, |chain| {
            let Ok((_, mut buffers)) = split_chain(&self.memory, chain) else {
                return Served::Used(0);
            };
            if buffers.is_empty() {
                return Served::Used(0);
            }
            match read(&input, &mut buffers) {
                Ok(Some(len)) => Served::Used(len),
                Ok(None) => {
                    lacking = Lacking::Input;
                    Served::Later
                }
                Err(error) => {
                    log::debug!("console input ended: {error}");
                    lacking = Lacking::Everything;
                    Served::Later
                }
            }
        });
        let watch = lacking == Lacking::Input;
        if watch != self.input_watched {
            let events = Events::with_data(&*input, INPUT, EventSet::IN);
            // A file that cannot be watched can always be read, and is not waited for.
            let done = if watch {
                ops.add(events)
            } else {
                ops.remove(events)
            };
            self.input_watched = watch && done.is_ok();
        }
        if lacking == Lacking::Everything {
            self.input = None;
        }
    }

    /// Writes the guest's output until there is none, or no more is taken.
    fn transmit(&mut self, ops: &mut EventOps) {
        let mut blocked = false;
        self.transmit.serve(&self.memory, |chain| {
            let Ok((mut buffers, _)) = split_chain(&self.memory, chain) else {
                return Served::Used(0);
            };
            buffers.advance(self.written);
            while let Some(output) = &self.output
                && !buffers.is_empty()
            {
                match write(output, &mut buffers) {
                    Ok(len) => self.written += len,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        blocked = true;
                        return Served::Later;
                    }
                    Err(error) => {
                        log::warn!("console output is closed: {error}");
                        if std::mem::take(&mut self.output_watched) {
                            let _ = ops.remove(output_events(output));
                        }
                        self.output = None;
                    }
                }
            }
            self.written = 0;
            Served::Used(0)
        });
        if let Some(output) = &self.output
            && blocked != self.output_watched
        {
            let done = if blocked {
                ops.add(output_events(output))
            } else {
                ops.remove(output_events(output))
            };
            self.output_watched = blocked && done.is_ok();
        }
    }
}

impl MutEventSubscriber for Handler {
    fn init(&mut self, ops: &mut EventOps) {
        self.receive.watch(ops, RECEIVE_KICK);
        self.transmit.watch(ops, TRANSMIT_KICK);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        match events.data() {
            RECEIVE_KICK => {
                self.receive.drain_kick();
                self.receive(ops);
            }
            TRANSMIT_KICK => {
                self.transmit.drain_kick();
                self.transmit(ops);
            }
            INPUT => self.receive(ops),
            _ => self.transmit(ops),
        }
    }
}

fn output_events(output: &Arc<Output>) -> Events {
    Events::with_data(&**output, OUTPUT, EventSet::OUT)
}

/// Reads once into `buffers`. None if there is nothing to be read yet; an error also at the
/// end.
fn read(mut input: &File, buffers: &mut Buffers) -> io::Result<Option<u32>> {
    // The file is someone else's too, and may be in blocking mode.
    if !poll(input.as_fd(), libc::POLLIN, Duration::ZERO) {
        return Ok(None);
    }
    let mut chunk = [0; CHUNK];
    let room = usize::try_from(buffers.len()).map_or(CHUNK, |len| len.min(CHUNK));
    match input.read(&mut chunk[..room]) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(len) => {
            buffers.write(&chunk[..len]);
            Ok(Some(u32::try_from(len).expect("at most a chunk")))
        }
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Writes once from `buffers`, and takes away what was written.
fn write(output: &Output, buffers: &mut Buffers) -> io::Result<u64> {
    let mut chunk = [0; CHUNK];
    let len = buffers.copy_to(&mut chunk);
    let written = output.try_write(&chunk[..len])? as u64;
    buffers.advance(written);
    Ok(written)
}
