//! The thread that serves the queues, the listener and every Unix socket of a device.

use std::io;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::timerfd::TimerFd;

use super::super::buffers::split_chain;
use super::super::vring::{Chain, Served, Vring};
use super::super::{ActivateError, Activation};
use super::packet::Header;
use super::table::{FIRST_ID, Table, Watch};
use crate::GuestMemory;

/// How often what is timed is looked at.
const TICK: Duration = Duration::from_secs(1);

/// How long programs may take to read the rest of what the guest sent, when the device is
/// reset or the machine ends.
const FLUSH_TIME: Duration = Duration::from_secs(3);

const RECEIVE: u32 = 0;
const TRANSMIT: u32 = 1;
const LISTENER: u32 = 2;
const TIMER: u32 = 3;
const _: () = assert!(TIMER < FIRST_ID);

/// All that the thread owns. The event queue is not among it: its one event tells of a
/// migration (§5.10.6.7), which never happens.
#[derive(Debug)]
pub(super) struct Handler {
    memory: GuestMemory,
    receive: Vring,
    transmit: Vring,
    listener: UnixListener,
    timer: TimerFd,
    ticking: bool,
    pub(super) table: Table,
}

impl Handler {
    pub(super) fn new(
        mut activation: Activation,
        listener: UnixListener,
        table: Table,
    ) -> Result<Self, ActivateError> {
        let [receive, transmit, _event] = activation.take_queues()?;
        Ok(Self {
            receive: Vring::new(receive, activation.interrupt.clone()),
            transmit: Vring::new(transmit, activation.interrupt),
            memory: activation.memory,
            listener,
            timer: TimerFd::new().map_err(io::Error::from)?,
            ticking: false,
            table,
        })
    }

    /// Takes all packets that the guest has sent.
    pub(super) fn serve_transmit(&mut self) {
        let memory = self.memory.as_ref();
        let table = &mut self.table;
        self.transmit.serve(memory, |chain| {
            take_packet(memory, chain, table);
            Served::Used(0)
        });
    }

    /// Sends the guest all that there is for it, as far as it has buffers.
    pub(super) fn serve_receive(&mut self, now: Instant) {
        if !self.table.has_packets() {
            return;
        }
        let memory = self.memory.as_ref();
        let table = &mut self.table;
        self.receive
            .serve(memory, |chain| match split_chain(memory, chain) {
                Ok((_, buffer)) => table.fill(buffer, now),
                Err(_) => Served::Used(0),
            });
    }

    #[cfg(test)]
    pub(super) fn on_event(&mut self, id: u32, events: EventSet) {
        self.table.on_event(id, events, Instant::now());
    }

    #[cfg(test)]
    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    fn watch_sockets(&mut self, ops: &mut EventOps, now: Instant) {
        let edges =
            EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        for watch in self.table.take_watches() {
            match watch {
                Watch::Add(id) => {
                    if let Some(socket) = self.table.socket(id)
                        && let Err(error) = ops.add(Events::with_data(socket, id, edges))
                    {
                        log::warn!("vsock: a socket cannot be watched: {error:?}");
                        self.table.give_up(id, now);
                    }
                }
                // Fails for one that was closed before it was ever watched.
                Watch::Close(socket) => drop(ops.remove(Events::empty(&socket))),
            }
        }
    }

    fn start_timer(&mut self) {
        if self.ticking || !self.table.timed {
            return;
        }
        match self.timer.reset(TICK, None) {
            Ok(()) => self.ticking = true,
            Err(error) => log::warn!("vsock: the timer cannot be set: {error}"),
        }
    }

    /// Disarms the timer, and takes back that it expired.
    fn stop_timer(&mut self) {
        self.ticking = false;
        if let Err(error) = self.timer.clear() {
            log::warn!("vsock: the timer cannot be cleared: {error}");
        }
    }

    /// Takes what the guest sent last, and ends all connections.
    pub(super) fn finish(mut self) {
        self.serve_transmit();
        self.table.close_all(Instant::now() + FLUSH_TIME);
    }
}

impl MutEventSubscriber for Handler {
    fn init(&mut self, ops: &mut EventOps) {
        self.receive.watch(ops, RECEIVE);
        self.transmit.watch(ops, TRANSMIT);
        let edges = EventSet::IN | EventSet::EDGE_TRIGGERED;
        for events in [
            Events::with_data(&self.listener, LISTENER, edges),
            Events::with_data(&self.timer, TIMER, EventSet::IN),
        ] {
            ops.add(events).expect("a socket or timer can be watched");
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let now = Instant::now();
        match events.data() {
            RECEIVE => self.receive.drain_kick(),
            TRANSMIT => {
                self.transmit.drain_kick();
                self.serve_transmit();
            }
            LISTENER => self.table.backlog = true,
            TIMER => {
                self.stop_timer();
                self.table.tick(now);
            }
            id => self.table.on_event(id, events.event_set(), now),
        }
        self.table.accept(&self.listener, now);
        self.serve_receive(now);
        self.watch_sockets(ops, now);
        self.start_timer();
    }
}

/// Reads one packet of the guest.
fn take_packet<'m>(memory: &'m GuestMemoryMmap, chain: Chain<'m>, table: &mut Table) {
    let Ok((mut packet, _)) = split_chain(memory, chain) else {
        return;
    };
    let Some(bytes) = packet.read_array() else {
        return;
    };
    let header = Header::from_bytes(&bytes);
    let payload = packet.take_front(header.len.into());
    if payload.len() == u64::from(header.len) {
        table.on_packet(&header, payload, Instant::now());
    } else {
        table.on_short_packet(&header, Instant::now());
    }
}
