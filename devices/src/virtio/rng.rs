//! Entropy device (§5.4): the host's random numbers for the guest.

use std::io;

use event_manager::{EventOps, Events, MutEventSubscriber};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::buffers::{retry, split_chain};
use super::vring::{Chain, Served, Vring};
use super::worker::Worker;
use super::{ActivateError, Activation, DeviceType, VirtioDevice};
use crate::GuestMemory;

/// The most bytes that one request gets. A driver that wants more asks again.
const REQUEST_LIMIT: u64 = 64 << 10;

const QUEUE_SIZES: [u16; 1] = [64];

/// An entropy device.
#[derive(Debug, Default)]
pub struct Rng {
    worker: Option<Worker<Handler>>,
}

impl Rng {
    /// An entropy device that draws on `getrandom(2)`.
    pub fn new() -> Self {
        Self::default()
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> DeviceType {
        DeviceType::Entropy
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let [requests] = activation.take_queues()?;
        self.worker = Some(Worker::spawn(
            "virtio-rng",
            Handler {
                requests: Vring::new(requests, activation.interrupt),
                memory: activation.memory,
            },
        )?);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker.take().map(Worker::stop);
    }
}

#[derive(Debug)]
struct Handler {
    requests: Vring,
    memory: GuestMemory,
}

impl MutEventSubscriber for Handler {
    fn init(&mut self, ops: &mut EventOps) {
        self.requests.watch(ops, 0);
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        self.requests.drain_kick();
        let memory = self.memory.as_ref();
        self.requests
            .serve(memory, |chain| Served::Used(fill(memory, chain)));
    }
}

/// Writes random numbers to the writable buffers of `chain`, and returns how many bytes.
fn fill<'m>(memory: &'m vm_memory::GuestMemoryMmap, chain: Chain<'m>) -> u32 {
    let Ok((_, mut buffers)) = split_chain(memory, chain) else {
        return 0;
    };
    let mut filled = 0;
    while filled < REQUEST_LIMIT {
        let mut random = [0; 256];
        let wanted = buffers.len().min(REQUEST_LIMIT - filled).min(256);
        let wanted = usize::try_from(wanted).expect("at most 256");
        if wanted == 0 {
            break;
        }
        let Ok(got) = host_random(&mut random[..wanted]) else {
            break;
        };
        filled += buffers.write(&random[..got]) as u64;
    }
    u32::try_from(filled).expect("at most the limit of a request")
}

fn host_random(data: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most `data.len()` bytes to `data`.
    retry(|| unsafe { libc::getrandom(data.as_mut_ptr().cast(), data.len(), 0) })
}

#[cfg(test)]
mod tests;
