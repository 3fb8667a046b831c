//! One virtqueue as the thread of its device serves it: chains come out, used lengths go
//! back, and each side is told only when the other wants to know.

use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events};
use virtio_queue::{DescriptorChain, Error, Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::{ActiveQueue, Interrupt};

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
    broken: bool,
}

impl Vring {
    pub(crate) fn new(active: ActiveQueue, interrupt: Arc<dyn Interrupt>) -> Self {
        Self {
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
        // Fails only when the counter is full, and then a kick is pending.
        let _ = self.kick.write(1);
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
        loop {
            self.queue.disable_notification(memory)?;
            while let Some(chain) = self.pop(memory)? {
                if budget == 0 {
                    self.undo_pop();
                    // Fails only when the counter is full, and then a kick is pending.
                    let _ = self.kick.write(1);
                    return self.notify(memory);
                }
                budget -= 1;
                let head = chain.head_index();
                match handle(chain) {
                    Served::Used(len) => self.add_used(memory, head, len)?,
                    Served::Later => {
                        self.undo_pop();
                        return self.notify(memory);
                    }
                }
            }
            self.notify(memory)?;
            if !self.await_kick(memory)? {
                return Ok(());
            }
        }
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

    /// Interrupts the driver if it wants to know of what was used since the last time.
    pub(crate) fn notify(&mut self, memory: &GuestMemoryMmap) -> Result<(), Error> {
        if self.queue.needs_notification(memory)? {
            self.interrupt.queue_used(self.index);
        }
        Ok(())
    }

    /// Asks for a kick when chains are made available. True if there are some already, for
    /// which no kick may come.
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

    /// The driver broke the rings: tells it, and serves this queue no more until reset.
    pub(crate) fn fail(&mut self, error: &Error) {
        if !self.broken {
            log::warn!("virtqueue {} is broken by its driver: {error}", self.index);
            self.broken = true;
            self.interrupt.needs_reset();
        }
    }
}
