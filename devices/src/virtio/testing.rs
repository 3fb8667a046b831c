//! A driver for tests: it lays virtqueues out in guest memory and drives a device through
//! them, as well or as badly behaved as the test wants.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Activation, ActiveQueue, Interrupt, VirtioDevice};
use crate::GuestMemory;

/// Bytes of guest memory: all that lies below this address.
pub(crate) const MEMORY_SIZE: u64 = 16 << 20;

/// An address that no guest memory answers at.
pub(crate) const OUTSIDE: u64 = 1 << 40;

/// How long a test waits for what should happen at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

const RING_EVENT_IDX: u32 = 29;

/// One entry of a descriptor table (§2.7.5).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    pub(crate) addr: u64,
    pub(crate) len: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

/// A buffer of a well-formed chain.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Buffer<'a> {
    /// The device reads these bytes.
    Readable(&'a [u8]),
    /// The device writes as many bytes.
    Writable(u32),
    /// A device-readable buffer at a place of the test's choice.
    ReadableAt(u64, u32),
    /// A device-writable buffer at a place of the test's choice.
    WritableAt(u64, u32),
}

/// A chain that was made available: its head, and where its buffers are.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) head: u16,
    pub(crate) buffers: Vec<(u64, u32)>,
}

/// The driver's side of all queues of one device.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) memory: GuestMemory,
    pub(crate) interrupt: Arc<Interrupts>,
    pub(crate) queues: Vec<DriverQueue>,
    features: u64,
}

impl Driver {
    /// Lays out queues of `sizes` entries, and negotiates `features`.
    pub(crate) fn new(sizes: &[u16], features: u64) -> Self {
        let memory = Arc::new(shared_memory());
        let share = ((MEMORY_SIZE - 0x1000) / sizes.len() as u64) & !0xfff;
        let queues = sizes
            .iter()
            .enumerate()
            .map(|(index, &size)| {
                let base = 0x1000 + share * index as u64;
                DriverQueue::new(memory.clone(), size, base, base + share)
            })
            .collect();
        Self {
            memory,
            interrupt: Arc::default(),
            queues,
            features,
        }
    }

    /// A driver for `device` that takes every feature offered.
    pub(crate) fn for_device(device: &impl VirtioDevice) -> Self {
        Self::new(device.queue_max_sizes(), device.features())
    }

    /// What the transport hands to the device at DRIVER_OK.
    pub(crate) fn activation(&self) -> Activation {
        let queues = self.queues.iter().enumerate().map(|(index, queue)| {
            let index = u16::try_from(index).unwrap();
            queue.active(index, self.features & (1 << RING_EVENT_IDX) != 0)
        });
        Activation {
            memory: self.memory.clone(),
            features: self.features,
            queues: queues.collect(),
            interrupt: self.interrupt.clone(),
        }
    }

    /// Reads `len` bytes of guest memory.
    pub(crate) fn read(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.memory
            .read_slice(&mut data, GuestAddress(addr))
            .unwrap();
        data
    }
}

/// Guest memory in a file, so that it can be shared with another process.
fn shared_memory() -> GuestMemoryMmap {
    let file = tempfile::tempfile().unwrap();
    file.set_len(MEMORY_SIZE).unwrap();
    let size = MEMORY_SIZE.try_into().unwrap();
    let file = FileOffset::new(file, 0);
    GuestMemoryMmap::from_ranges_with_files([(GuestAddress(0), size, Some(file))]).unwrap()
}

/// The driver's side of one virtqueue.
#[derive(Debug)]
pub(crate) struct DriverQueue {
    memory: GuestMemory,
    size: u16,
    table: u64,
    avail: u64,
    used: u64,
    /// Next free byte for buffers, and where they start and end.
    data: u64,
    data_start: u64,
    data_end: u64,
    next_descriptor: u16,
    avail_idx: u16,
    used_idx: u16,
    /// Index of the available ring when a kick was last thought of.
    kicked_idx: u16,
    kick: EventFd,
}

impl DriverQueue {
    fn new(memory: GuestMemory, size: u16, base: u64, end: u64) -> Self {
        let entries = u64::from(size);
        let avail = base + 16 * entries;
        let used = (avail + 6 + 2 * entries).next_multiple_of(4);
        let data = (used + 6 + 8 * entries).next_multiple_of(0x1000);
        Self {
            memory,
            size,
            table: base,
            avail,
            used,
            data,
            data_start: data,
            data_end: end,
            next_descriptor: 0,
            avail_idx: 0,
            used_idx: 0,
            kicked_idx: 0,
            kick: EventFd::new(EFD_NONBLOCK).unwrap(),
        }
    }

    fn active(&self, index: u16, event_idx: bool) -> ActiveQueue {
        let mut queue = Queue::new(self.size).unwrap();
        queue.set_size(self.size);
        queue
            .try_set_desc_table_address(GuestAddress(self.table))
            .unwrap();
        queue
            .try_set_avail_ring_address(GuestAddress(self.avail))
            .unwrap();
        queue
            .try_set_used_ring_address(GuestAddress(self.used))
            .unwrap();
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        assert!(queue.is_valid(self.memory.as_ref()));
        ActiveQueue {
            index,
            queue,
            kick: self.kick.try_clone().unwrap(),
        }
    }

    /// Forgets all that happened, as a driver does after a reset.
    pub(crate) fn restart(&mut self) {
        let rings = usize::try_from(self.data_start - self.avail).unwrap();
        self.memory
            .write_slice(&vec![0; rings], GuestAddress(self.avail))
            .unwrap();
        self.data = self.data_start;
        self.next_descriptor = 0;
        self.avail_idx = 0;
        self.used_idx = 0;
        self.kicked_idx = 0;
        let _ = self.kick.read();
    }

    /// Sets `len` bytes aside for a buffer.
    pub(crate) fn alloc(&mut self, len: u32) -> u64 {
        if self.data + u64::from(len) > self.data_end {
            self.data = self.data_start;
        }
        let addr = self.data;
        self.data += u64::from(len);
        assert!(self.data <= self.data_end, "a buffer of {len} bytes");
        addr
    }

    /// Makes a well-formed chain of `buffers` available, without a kick.
    pub(crate) fn add(&mut self, buffers: &[Buffer]) -> Sent {
        let descriptors = self.descriptors(buffers, self.next_descriptor, self.size);
        let sent = self.add_raw(&descriptors);
        Sent {
            head: sent,
            buffers: descriptors.iter().map(|d| (d.addr, d.len)).collect(),
        }
    }

    /// As [`Self::add`], with the chain in an indirect table.
    pub(crate) fn add_indirect(&mut self, buffers: &[Buffer]) -> Sent {
        let descriptors = self.descriptors(buffers, 0, u16::MAX);
        let len = u32::try_from(16 * descriptors.len()).unwrap();
        let table = self.alloc(len);
        for (i, descriptor) in descriptors.iter().enumerate() {
            self.write_descriptor(table + 16 * i as u64, descriptor);
        }
        let head = self.add_raw(&[Descriptor {
            addr: table,
            len,
            flags: INDIRECT,
            next: 0,
        }]);
        Sent {
            head,
            buffers: descriptors.iter().map(|d| (d.addr, d.len)).collect(),
        }
    }

    fn descriptors(&mut self, buffers: &[Buffer], first: u16, modulus: u16) -> Vec<Descriptor> {
        let mut descriptors = Vec::new();
        for (i, buffer) in buffers.iter().enumerate() {
            let (addr, len, flags) = match *buffer {
                Buffer::Readable(bytes) => {
                    let len = u32::try_from(bytes.len()).unwrap();
                    let addr = self.alloc(len);
                    self.memory.write_slice(bytes, GuestAddress(addr)).unwrap();
                    (addr, len, 0)
                }
                Buffer::Writable(len) => (self.alloc(len), len, WRITE),
                Buffer::ReadableAt(addr, len) => (addr, len, 0),
                Buffer::WritableAt(addr, len) => (addr, len, WRITE),
            };
            let next = (first + u16::try_from(i).unwrap() + 1) % modulus;
            let more = if i + 1 < buffers.len() { NEXT } else { 0 };
            descriptors.push(Descriptor {
                addr,
                len,
                flags: flags | more,
                next,
            });
        }
        descriptors
    }

    /// Writes `descriptors` to the table as they are, one after the other, and makes the
    /// first available, without a kick. Returns its index.
    pub(crate) fn add_raw(&mut self, descriptors: &[Descriptor]) -> u16 {
        let head = self.next_descriptor;
        for descriptor in descriptors {
            let at = self.table + 16 * u64::from(self.next_descriptor);
            self.write_descriptor(at, descriptor);
            self.next_descriptor = (self.next_descriptor + 1) % self.size;
        }
        self.make_available(head);
        head
    }

    /// Where in the table the next descriptor goes.
    pub(crate) fn next_descriptor(&self) -> u16 {
        self.next_descriptor
    }

    /// Puts `head`, whatever it is, in the available ring.
    pub(crate) fn make_available(&mut self, head: u16) {
        let slot = self.avail + 4 + 2 * u64::from(self.avail_idx % self.size);
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.set_avail_idx(self.avail_idx.wrapping_add(1));
    }

    /// Sets the index of the available ring, whatever it is.
    pub(crate) fn set_avail_idx(&mut self, idx: u16) {
        self.avail_idx = idx;
        self.memory
            .store(
                idx,
                GuestAddress(self.avail + 2),
                std::sync::atomic::Ordering::SeqCst,
            )
            .unwrap();
    }

    fn write_descriptor(&self, at: u64, descriptor: &Descriptor) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&descriptor.addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&descriptor.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&descriptor.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&descriptor.next.to_le_bytes());
        self.memory.write_slice(&bytes, GuestAddress(at)).unwrap();
    }

    /// Tells the device that there are buffers.
    pub(crate) fn kick(&self) {
        self.kick.write(1).unwrap();
    }

    /// As [`Self::kick`], but as a driver with the event index does: only if the device
    /// asked to be told of what became available since this was last called (§2.7.10).
    pub(crate) fn kick_if_wanted(&mut self) {
        let avail_event = self.used + 4 + 8 * u64::from(self.size);
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        let event: u16 = self.memory.read_obj(GuestAddress(avail_event)).unwrap();
        let news = self.avail_idx.wrapping_sub(self.kicked_idx);
        self.kicked_idx = self.avail_idx;
        if self.avail_idx.wrapping_sub(event).wrapping_sub(1) < news {
            self.kick();
        }
    }

    /// The next used chain, if there is one: its head, and how many bytes the device wrote.
    pub(crate) fn try_used(&mut self) -> Option<(u16, u32)> {
        let idx: u16 = self
            .memory
            .load(
                GuestAddress(self.used + 2),
                std::sync::atomic::Ordering::SeqCst,
            )
            .unwrap();
        if idx == self.used_idx {
            return None;
        }
        let slot = self.used + 4 + 8 * u64::from(self.used_idx % self.size);
        let [id, len]: [u32; 2] =
            [0, 4].map(|offset| self.memory.read_obj(GuestAddress(slot + offset)).unwrap());
        self.used_idx = self.used_idx.wrapping_add(1);
        // As a driver does that wants to hear of the next one (§2.7.7).
        let used_event = self.avail + 4 + 2 * u64::from(self.size);
        self.memory
            .write_obj(self.used_idx, GuestAddress(used_event))
            .unwrap();
        Some((u16::try_from(id).unwrap(), len))
    }

    /// The next used chain, as soon as there is one.
    pub(crate) fn wait_used(&mut self) -> (u16, u32) {
        wait_for("a used buffer", || self.try_used())
    }

    /// Makes a chain of `buffers` available, kicks, and waits until it is used. Returns what
    /// was sent and how many bytes the device wrote.
    pub(crate) fn request(&mut self, buffers: &[Buffer]) -> (Sent, u32) {
        let sent = self.add(buffers);
        self.kick();
        let (head, len) = self.wait_used();
        assert_eq!(head, sent.head);
        (sent, len)
    }
}

/// Waits for `poll` to give a value.
pub(crate) fn wait_for<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = poll() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} did not come");
        thread::sleep(Duration::from_micros(200));
    }
}

/// Interrupts that were raised.
#[derive(Debug, Default)]
pub(crate) struct Interrupts {
    raised: Mutex<Raised>,
    changed: Condvar,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Raised {
    pub(crate) queues: BTreeMap<u16, u64>,
    pub(crate) config: u64,
    pub(crate) needs_reset: bool,
}

impl Interrupts {
    /// What was raised until now.
    pub(crate) fn raised(&self) -> Raised {
        self.raised.lock().unwrap().clone()
    }

    /// Waits until `condition` holds of what was raised.
    pub(crate) fn wait(&self, what: &str, mut condition: impl FnMut(&Raised) -> bool) {
        let raised = self.raised.lock().unwrap();
        let (raised, timeout) = self
            .changed
            .wait_timeout_while(raised, PATIENCE, |raised| !condition(raised))
            .unwrap();
        assert!(!timeout.timed_out(), "{what} did not come: {raised:?}");
    }

    fn raise(&self, change: impl FnOnce(&mut Raised)) {
        change(&mut self.raised.lock().unwrap());
        self.changed.notify_all();
    }
}

impl Interrupt for Interrupts {
    fn queue_used(&self, index: u16) {
        self.raise(|raised| *raised.queues.entry(index).or_default() += 1);
    }

    fn config_changed(&self) {
        self.raise(|raised| raised.config += 1);
    }

    fn needs_reset(&self) {
        self.raise(|raised| raised.needs_reset = true);
    }

    fn call_fd(&self, _index: u16) -> io::Result<EventFd> {
        EventFd::new(EFD_NONBLOCK)
    }
}
