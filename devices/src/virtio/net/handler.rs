//! The thread that moves frames between a tap and the guest.

use std::fs::File;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_MRG_RXBUF,
};

use super::receive::{Lacking, Receiver};
use super::transmit::transmit;
use super::{DEFAULT_MTU, FRAME_OVERHEAD, HEADER_LEN, MAX_FRAME};
use crate::GuestMemory;
use crate::virtio::vring::Vring;
use crate::virtio::{ActivateError, Activation};

const RECEIVE_KICK: u32 = 0;
const TRANSMIT_KICK: u32 = 1;
const TAP: u32 = 2;

#[derive(Debug)]
pub(super) struct Handler {
    tap: Arc<File>,
    memory: GuestMemory,
    receiver: Receiver,
    transmit: Vring,
    /// The tap takes no frames for now.
    blocked: bool,
    /// The interface is gone.
    gone: bool,
    /// What the tap is watched for.
    watched: EventSet,
}

impl Handler {
    pub(super) fn new(
        tap: Arc<File>,
        mtu: Option<u16>,
        mut activation: Activation,
    ) -> Result<Self, ActivateError> {
        let [receive, transmit] = activation.take_queues()?;
        let segments =
            activation.has(VIRTIO_NET_F_GUEST_TSO4) || activation.has(VIRTIO_NET_F_GUEST_TSO6);
        let usual_frame = if segments {
            MAX_FRAME
        } else {
            HEADER_LEN + FRAME_OVERHEAD + usize::from(mtu.unwrap_or(DEFAULT_MTU))
        };
        Ok(Self {
            tap,
            receiver: Receiver::new(
                Vring::new(receive, activation.interrupt.clone()),
                activation.has(VIRTIO_NET_F_MRG_RXBUF),
                usual_frame,
            ),
            transmit: Vring::new(transmit, activation.interrupt.clone()),
            memory: activation.memory,
            blocked: false,
            gone: false,
            watched: EventSet::empty(),
        })
    }

    fn receive(&mut self, ops: &mut EventOps) {
        if self.gone {
            return;
        }
        let mut wanted = self.watched & !EventSet::IN;
        match self.receiver.receive(&self.memory, &self.tap) {
            Lacking::Frames => wanted |= EventSet::IN,
            Lacking::Buffers => {}
            Lacking::Tap => self.gone = true,
        }
        self.watch(ops, wanted);
    }

    fn transmit(&mut self, ops: &mut EventOps) {
        self.blocked = transmit(&mut self.transmit, &self.memory, &self.tap);
        let mut wanted = self.watched & !EventSet::OUT;
        wanted.set(EventSet::OUT, self.blocked);
        self.watch(ops, wanted);
    }

    /// Watches the tap for what is `wanted`, and not at all if that is nothing: else the end
    /// of the interface would be announced over and over.
    fn watch(&mut self, ops: &mut EventOps, wanted: EventSet) {
        if wanted == self.watched {
            return;
        }
        let events = Events::with_data(&*self.tap, TAP, wanted);
        let done = if wanted.is_empty() {
            ops.remove(events)
        } else if self.watched.is_empty() {
            ops.add(events)
        } else {
            ops.modify(events)
        };
        match done {
            Ok(()) => self.watched = wanted,
            Err(error) => log::warn!("cannot watch a tap: {error:?}"),
        }
    }
}

impl MutEventSubscriber for Handler {
    fn init(&mut self, ops: &mut EventOps) {
        self.receiver.vring().watch(ops, RECEIVE_KICK);
        self.transmit.watch(ops, TRANSMIT_KICK);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        match events.data() {
            RECEIVE_KICK => {
                self.receiver.vring().drain_kick();
                self.receive(ops);
            }
            TRANSMIT_KICK => {
                self.transmit.drain_kick();
                if !self.blocked {
                    self.transmit(ops);
                }
            }
            _ => {
                // An error is for both to find out about.
                let ready = events.event_set();
                if self.watched.contains(EventSet::IN) && ready != EventSet::OUT {
                    self.receive(ops);
                }
                if self.blocked && ready != EventSet::IN {
                    self.transmit(ops);
                }
            }
        }
    }
}
