//! The thread that serves one queue of a disk.

use std::io;
use std::sync::Arc;

use event_manager::{EventOps, Events, MutEventSubscriber};
use vm_memory::GuestMemoryMmap;

use super::disk::Disk;
use super::request::{Request, Status, parse};
use crate::GuestMemory;
use crate::virtio::buffers::split_chain;
use crate::virtio::vring::{Chain, Served, Vring};

#[derive(Debug)]
pub(super) struct Handler {
    disk: Arc<Disk>,
    memory: GuestMemory,
    vring: Vring,
    write_through: bool,
}

impl Handler {
    /// Serves `vring`. With `write_through`, a write is durable when it is done.
    pub(super) fn new(
        disk: Arc<Disk>,
        memory: GuestMemory,
        vring: Vring,
        write_through: bool,
    ) -> Self {
        Self {
            disk,
            memory,
            vring,
            write_through,
        }
    }
}

impl MutEventSubscriber for Handler {
    fn init(&mut self, ops: &mut EventOps) {
        self.vring.watch(ops, 0);
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        self.vring.drain_kick();
        let memory = self.memory.as_ref();
        self.vring.serve(memory, |chain| {
            Served::Used(serve(&self.disk, memory, chain, self.write_through))
        });
    }
}

/// Does what `chain` asks and writes its status; returns how many bytes were written.
fn serve<'m>(
    disk: &Disk,
    memory: &'m GuestMemoryMmap,
    chain: Chain<'m>,
    write_through: bool,
) -> u32 {
    let parsed = split_chain(memory, chain)
        .ok()
        .and_then(|(readable, writable)| parse(readable, writable));
    let Some((request, mut status_byte)) = parsed else {
        return 0;
    };
    let done = request.and_then(|request| execute(disk, request, write_through));
    let (status, written) = match done {
        Ok(written) => (Status::Ok, written),
        Err(status) => (status, 0),
    };
    status_byte.write(&[status as u8]);
    // A chain of 4 GiB or more does not exist: its descriptors' lengths add up in 32 bits.
    u32::try_from(written + 1).unwrap_or(u32::MAX)
}

/// Returns how many bytes of data were written to the guest.
fn execute(disk: &Disk, request: Request, write_through: bool) -> Result<u64, Status> {
    let durable = |()| {
        if write_through { disk.flush() } else { Ok(()) }
    };
    let mut written = 0;
    match request {
        Request::Read { sector, data } => {
            written = data.len();
            disk.read(sector, data)
        }
        Request::Write { sector, data } => disk.write(sector, data).and_then(durable),
        Request::Flush => disk.flush(),
        Request::Id { mut data } => {
            written = data.write(disk.id()) as u64;
            Ok(())
        }
        Request::Discard { ranges } => ranges.into_iter().try_for_each(|range| disk.discard(range)),
        Request::WriteZeroes { range, unmap } => disk.write_zeroes(range, unmap).and_then(durable),
    }
    .map_err(|error| status(&error))?;
    Ok(written)
}

fn status(error: &io::Error) -> Status {
    log::debug!("disk request failed: {error}");
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => Status::Unsupported,
        _ => Status::IoError,
    }
}
