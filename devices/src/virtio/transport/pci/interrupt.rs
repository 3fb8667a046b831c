//! The interrupts of a virtio-pci device: MSI-X, and which vector is whose. There is no INTx.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::hypervisor::IrqRouter;
use crate::pci::{Msix, NO_VECTOR};
use crate::virtio::Interrupt;
use crate::virtio::transport::state::{Signals, TransportInterrupt};

// The ISR status (§4.1.4.5): for drivers that poll, without MSI-X.
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// Vectors and their assignment.
#[derive(Debug)]
pub(super) struct MsixInterrupt {
    vectors: Mutex<Vectors>,
    isr: AtomicU8,
    signals: Signals,
}

#[derive(Debug)]
struct Vectors {
    msix: Msix,
    /// For configuration changes.
    config: u16,
    /// For each queue.
    queues: Vec<u16>,
}

impl MsixInterrupt {
    /// One vector for each queue and one for configuration changes, none assigned.
    pub(super) fn new(router: Arc<dyn IrqRouter>, queues: u16) -> io::Result<Self> {
        Ok(Self {
            vectors: Mutex::new(Vectors {
                msix: Msix::new(router, queues + 1)?,
                config: NO_VECTOR,
                queues: vec![NO_VECTOR; usize::from(queues)],
            }),
            isr: AtomicU8::new(0),
            signals: Signals::default(),
        })
    }

    /// Reads the ISR status, which clears it.
    pub(super) fn take_isr(&self) -> u8 {
        self.isr.swap(0, Ordering::AcqRel)
    }

    pub(super) fn read_table(&self, offset: u16, data: &mut [u8]) {
        self.lock().msix.read_table(offset.into(), data);
    }

    pub(super) fn write_table(&self, offset: u16, data: &[u8]) {
        self.lock().msix.write_table(offset.into(), data);
    }

    pub(super) fn read_pending(&self, offset: u16, data: &mut [u8]) {
        self.lock().msix.read_pending(offset.into(), data);
    }

    /// Takes the message control register of MSI-X as it reads now.
    pub(super) fn set_control(&self, control: u16) {
        self.lock().msix.set_control(control);
    }

    pub(super) fn config_vector(&self) -> u16 {
        self.lock().config
    }

    /// A vector that does not exist reads back as none (§4.1.5.1.2).
    pub(super) fn set_config_vector(&self, vector: u16) {
        let mut vectors = self.lock();
        vectors.config = vectors.existing(vector);
    }

    pub(super) fn queue_vector(&self, queue: u32) -> u16 {
        self.lock().of_queue(queue)
    }

    /// As [`Self::set_config_vector`].
    pub(super) fn set_queue_vector(&self, queue: u32, vector: u16) {
        let mut vectors = self.lock();
        let vector = vectors.existing(vector);
        let index = usize::try_from(queue).unwrap_or(usize::MAX);
        if let Some(of_queue) = vectors.queues.get_mut(index) {
            *of_queue = vector;
        }
    }

    fn raise(&self, reason: u8, vector: impl FnOnce(&Vectors) -> u16) {
        let mut vectors = self.lock();
        if vectors.msix.enabled() {
            let vector = vector(&vectors);
            vectors.msix.signal(vector);
        } else {
            self.isr.fetch_or(reason, Ordering::AcqRel);
        }
    }

    /// Held for moments only, and never while a device is called: devices signal from threads
    /// that a vCPU waits for in a reset.
    fn lock(&self) -> MutexGuard<'_, Vectors> {
        self.vectors.lock().unwrap()
    }
}

impl Vectors {
    fn existing(&self, vector: u16) -> u16 {
        if self.msix.has(vector) {
            vector
        } else {
            NO_VECTOR
        }
    }

    fn of_queue(&self, queue: u32) -> u16 {
        let index = usize::try_from(queue).unwrap_or(usize::MAX);
        self.queues.get(index).copied().unwrap_or(NO_VECTOR)
    }
}

impl Interrupt for MsixInterrupt {
    fn queue_used(&self, index: u16) {
        self.raise(ISR_QUEUE, |vectors| vectors.of_queue(index.into()));
    }

    fn config_changed(&self) {
        self.signals.config_changed();
        self.raise(ISR_CONFIG, |vectors| vectors.config);
    }

    fn needs_reset(&self) {
        self.signals.needs_reset();
        self.raise(ISR_CONFIG, |vectors| vectors.config);
    }

    /// The eventfd of the vector that the queue has; queues that share a vector share it. A
    /// queue without a vector gets one that raises nothing.
    fn call_fd(&self, index: u16) -> io::Result<EventFd> {
        let vectors = self.lock();
        let vector = vectors.of_queue(index.into());
        match vectors.msix.fd(vector) {
            Some(fd) => fd,
            None => EventFd::new(EFD_NONBLOCK),
        }
    }
}

impl TransportInterrupt for MsixInterrupt {
    fn signals(&self) -> &Signals {
        &self.signals
    }

    fn reset(&self) {
        let mut vectors = self.lock();
        vectors.config = NO_VECTOR;
        vectors.queues.fill(NO_VECTOR);
        vectors.msix.clear_pending();
        self.isr.store(0, Ordering::Release);
    }
}
