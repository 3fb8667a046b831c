//! One virtqueue as the thread of its device serves it: chains come out, used lengths go
//! back, and each side is told only when the other wants to know.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use event_manager::{EventOps, EventSet, Events};
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{DescriptorChain, Error, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::{ActiveQueue, Interrupt};

/// Bytes of the rings' headers and elements (§2.7.6, §2.7.8).
const AVAIL_HEADER: u64 = 4;
const AVAIL_ELEMENT: u64 = 2;
const USED_HEADER: u64 = 4;
const USED_ELEMENT: u64 = 8;

/// A descriptor chain that the driver made available.
pub(crate) type Chain<'m> = DescriptorChain<&'m GuestMemoryMmap>;

/// What became of one chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// It goes back to the driver, with this many bytes written to it.
    Used(u32),
    /// It cannot be served now: it stays available, and serving ends.
    Later,
}

/// A virtqueue and both its notifications.
#[derive(Debug)]
pub(crate) struct Vring {
    index: u16,
    queue: Queue,
    kick: EventFd,
    interrupt: Arc<dyn Interrupt>,
    /// Index of the used ring when the driver was last told of it.
    told: u16,
    broken: bool,
}

impl Vring {
    pub(crate) fn new(active: ActiveQueue, interrupt: Arc<dyn Interrupt>) -> Self {
        Self {
            told: active.queue.next_used(),
            index: active.index,
            queue: active.queue,
            kick: active.kick,
            interrupt,
            broken: false,
        }
    }

    /// Watches for kicks, as events with `token`. The first comes at once: what the driver
    /// made available before DRIVER_OK is served too, whether or not it kicks again.
    pub(crate) fn watch(&self, ops: &mut EventOps, token: u32) {
        self.kick_self();
        let events = Events::with_data(&self.kick, token, EventSet::IN);
        ops.add(events).expect("an eventfd can be watched");
    }

    /// Takes note of a kick.
    pub(crate) fn drain_kick(&self) {
        // Fails only when there was none, and then there is nothing to drain.
        let _ = self.kick.read();
    }

    /// Hands the available chains to `handle`, one by one, until there are none or one must
    /// wait. A driver that adds chains as fast as they are served does not keep the thread
    /// for ever: after as many as the queue holds, the thread sees to other events first.
    pub(crate) fn serve<'m>(
        &mut self,
        memory: &'m GuestMemoryMmap,
        handle: impl FnMut(Chain<'m>) -> Served,
    ) {
        if self.broken {
            return;
        }
        if let Err(error) = self.try_serve(memory, handle) {
            self.fail(&error);
        }
    }

    fn try_serve<'m>(
        &mut self,
        memory: &'m GuestMemoryMmap,
        mut handle: impl FnMut(Chain<'m>) -> Served,
    ) -> Result<(), Error> {
        let mut budget = self.queue.size();
        self.ignore_kicks(memory)?;
        while budget > 0 {
            budget -= 1;
            if let Some(chain) = self.pop(memory)? {
                let head = chain.head_index();
                match handle(chain) {
                    Served::Used(len) => self.add_used(memory, head, len)?,
                    Served::Later => {
                        self.undo_pop();
                        return self.notify(memory);
                    }
                }
                continue;
            }
            self.notify(memory)?;
            if !self.await_kick(memory)? {
                return Ok(());
            }
            self.ignore_kicks(memory)?;
        }
        self.kick_self();
        self.notify(memory)
    }

    /// Has this queue served once more, after what else there is to do.
    pub(crate) fn kick_self(&self) {
        // Fails only when the counter is full, and then a kick is pending.
        let _ = self.kick.write(1);
    }

    /// The next available chain, if any.
    pub(crate) fn pop<'m>(
        &mut self,
        memory: &'m GuestMemoryMmap,
    ) -> Result<Option<Chain<'m>>, Error> {
        if self.broken {
            return Ok(None);
        }
        Ok(self.queue.iter(memory)?.next())
    }

    /// Makes the chain that was popped last available again.
    pub(crate) fn undo_pop(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Gives the chain at `head` back to the driver, with `len` bytes written to it.
    pub(crate) fn add_used(
        &mut self,
        memory: &GuestMemoryMmap,
        head: u16,
        len: u32,
    ) -> Result<(), Error> {
        self.queue.add_used(memory, head, len)
    }

    /// Gives several chains back at once: the driver sees all of them or none, as it must
    /// where they make up one packet.
    pub(crate) fn add_used_together(
        &mut self,
        memory: &GuestMemoryMmap,
        used: &[(u16, u32)],
    ) -> Result<(), Error> {
        let Some((last, others)) = used.split_last() else {
            return Ok(());
        };
        let mut next = self.queue.next_used();
        for &(head, len) in others {
            if head >= self.queue.size() {
                return Err(Error::InvalidDescriptorIndex);
            }
            let slot = u64::from(next % self.queue.size());
            let element = self.queue.used_ring() + USED_HEADER + slot * USED_ELEMENT;
            let value = u64::from(len) << 32 | u64::from(head);
            memory
                .write_obj(value.to_le(), GuestAddress(element))
                .map_err(Error::GuestMemory)?;
            next = next.wrapping_add(1);
        }
        self.queue.set_next_used(next);
        self.queue.add_used(memory, last.0, last.1)
    }

    /// Interrupts the driver if something was used since it was last told, and it wants to
    /// know (§2.7.7). `Queue` has the like, but counts only what was used one by one, and
    /// interrupts whenever it is asked to if there is no event index.
    pub(crate) fn notify(&mut self, memory: &GuestMemoryMmap) -> Result<(), Error> {
        let used = self.queue.next_used();
        let news = used.wrapping_sub(self.told);
        if news == 0 {
            return Ok(());
        }
        self.told = used;
        // The driver says what it wants and then looks at the used ring; this end has to
        // do it the other way round.
        fence(Ordering::SeqCst);
        let wanted = if self.queue.event_idx_enabled() {
            let entries = AVAIL_ELEMENT * u64::from(self.queue.size());
            let used_event = self.load(memory, self.queue.avail_ring() + AVAIL_HEADER + entries)?;
            used.wrapping_sub(used_event).wrapping_sub(1) < news
        } else {
            let no_interrupt = u16::try_from(VRING_AVAIL_F_NO_INTERRUPT).expect("bit 0");
            self.load(memory, self.queue.avail_ring())? & no_interrupt == 0
        };
        if wanted {
            self.interrupt.queue_used(self.index);
        }
        Ok(())
    }

    fn load(&self, memory: &GuestMemoryMmap, addr: u64) -> Result<u16, Error> {
        memory
            .load(GuestAddress(addr), Ordering::Relaxed)
            .map(u16::from_le)
            .map_err(Error::GuestMemory)
    }

    /// Asks for a kick when chains are made available behind the one that was popped last.
    /// True if there are some already, for which no kick may come.
    pub(crate) fn await_kick(&mut self, memory: &GuestMemoryMmap) -> Result<bool, Error> {
        self.queue.enable_notification(memory)
    }

    /// Asks for no kicks: the device will look by itself.
    pub(crate) fn ignore_kicks(&mut self, memory: &GuestMemoryMmap) -> Result<(), Error> {
        self.queue.disable_notification(memory)
    }

    /// How many chains can be available at once.
    pub(crate) fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Whether [`Self::fail`] was called.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// The driver broke the rings: tells it, and serves this queue no more until reset.
    pub(crate) fn fail(&mut self, error: &Error) {
        if !self.broken {
            log::warn!("virtqueue {} is broken by its driver: {error}", self.index);
            self.broken = true;
            self.interrupt.needs_reset();
        }
    }
}

#[cfg(test)]
mod tests;
