//! Console device (§5.3) with one port: `hvc0` of the guest.

use std::fs::File;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::worker::Worker;
use super::{ActivateError, Activation, DeviceType, Interrupt, VirtioDevice, copy_config};
use crate::output::Output;
use handler::Handler;

mod handler;

/// `VIRTIO_CONSOLE_F_SIZE` (§5.3.3).
const F_SIZE: u32 = 0;

/// The queues of port 0: to the guest, from the guest.
const QUEUE_SIZES: [u16; 2] = [64, 64];

/// Where a console's bytes come from and go to.
#[derive(Debug)]
pub struct ConsoleSpec {
    /// What the guest reads; nothing if there is none, or when it has ended.
    pub input: Option<File>,
    /// What the guest writes.
    pub output: File,
}

/// A console.
///
/// Output is written in full and in order. While the output takes no more, the guest's
/// buffers stay with the device; while the guest has no buffers, input stays where it is. An
/// output that fails is not written any more, and the guest's output lost.
#[derive(Debug)]
pub struct Console {
    input: Option<Arc<File>>,
    output: Arc<Output>,
    shared: Arc<Shared>,
    worker: Option<Worker<Handler>>,
}

/// Changes the size of a console, from any thread.
#[derive(Clone, Debug)]
pub struct ConsoleHandle(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Columns in the low half, rows in the high one: both change at once.
    size: AtomicU32,
    /// The way to a driver that wants to know of the size.
    interrupt: Mutex<Option<Arc<dyn Interrupt>>>,
}

impl Shared {
    fn set_interrupt(&self, interrupt: Option<Arc<dyn Interrupt>>) {
        *self
            .interrupt
            .lock()
            .expect("no thread panics with the lock held") = interrupt;
    }
}

impl Console {
    /// A console of unknown size, and the means to give it one.
    pub fn new(spec: ConsoleSpec) -> (Self, ConsoleHandle) {
        let shared = Arc::new(Shared::default());
        let console = Self {
            input: spec.input.map(Arc::new),
            output: Arc::new(Output::new(spec.output)),
            shared: shared.clone(),
            worker: None,
        };
        (console, ConsoleHandle(shared))
    }
}

impl ConsoleHandle {
    /// The terminal has this many rows and columns now.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = u32::from(rows) << 16 | u32::from(columns);
        self.0.size.store(size, Ordering::SeqCst);
        // Not under the lock: the transport holds its own when it resets the device, which
        // takes this one.
        let interrupt = self
            .0
            .interrupt
            .lock()
            .expect("no thread panics with the lock held")
            .clone();
        if let Some(interrupt) = interrupt {
            interrupt.config_changed();
        }
    }
}

impl VirtioDevice for Console {
    fn device_type(&self) -> DeviceType {
        DeviceType::Console
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        1 << F_SIZE | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    /// `struct virtio_console_config` (§5.3.4): columns and rows, and then what belongs to
    /// features that are not offered.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let size = self.shared.size.load(Ordering::SeqCst);
        copy_config(&size.to_le_bytes(), offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let [receive, transmit] = activation.take_queues()?;
        let handler = Handler::new(
            self.input.clone(),
            self.output.clone(),
            &activation,
            receive,
            transmit,
        );
        self.worker = Some(Worker::spawn("virtio-console", handler)?);
        if activation.has(F_SIZE) {
            self.shared.set_interrupt(Some(activation.interrupt));
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.shared.set_interrupt(None);
        self.worker.take().map(Worker::stop);
    }
}

#[cfg(test)]
mod tests;
