//! The virtio core: what a device is ([`VirtioDevice`]), what it gets when its driver is
//! ready ([`Activation`]), and how it tells the driver that something happened
//! ([`Interrupt`]). Section numbers are those of the virtio specification, version 1.2.

use std::fmt;
use std::io;
use std::sync::Arc;

use thiserror::Error;
use virtio_queue::Queue;
use vmm_sys_util::eventfd::EventFd;

use crate::GuestMemory;

pub mod block;
mod buffers;
pub mod console;
pub mod fs;
pub mod net;
pub mod rng;
#[cfg(test)]
pub(crate) mod testing;
pub mod transport;
mod vring;
pub mod vsock;
pub mod worker;

/// Device types (§5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum DeviceType {
    Net = 1,
    Block = 2,
    Console = 3,
    Entropy = 4,
    Vsock = 19,
    Fs = 26,
}

/// A virtio device without its transport.
///
/// The transport calls every method with its own lock held, from a vCPU thread: none may
/// block for long. Work on the queues is done by a thread that [`Self::activate`] starts
/// ([`worker`]) or by a vhost-user backend.
///
/// Order of calls: any number of `read_config`/`write_config`; `activate` at most once until
/// `reset`; `reset` at any time, also when never activated. After `reset` the device is as
/// new, ready for another driver.
pub trait VirtioDevice: Send {
    /// What kind of device this is.
    fn device_type(&self) -> DeviceType;

    /// The greatest size of each queue; its length is the number of queues.
    fn queue_max_sizes(&self) -> &[u16];

    /// Feature bits that the device offers. The transport adds those that it is itself in
    /// charge of: `VIRTIO_F_VERSION_1`.
    fn features(&self) -> u64;

    /// Fills `data` from the device's configuration space; zeroes past its end.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Takes a driver's write to the device's configuration space. Most devices have nothing
    /// writable there.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// The driver set DRIVER_OK (§3.1.1): start work on the queues.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// The driver wrote 0 to the device status (§2.4), or the machine ends: stop work, and
    /// touch guest memory no more once this returns.
    fn reset(&mut self);
}

/// All that a device needs to serve its driver, from DRIVER_OK until reset.
#[derive(Debug)]
pub struct Activation {
    /// The guest's memory.
    pub memory: GuestMemory,
    /// Negotiated feature bits.
    pub features: u64,
    /// The queues that the driver enabled, in order of index. Checked: sizes are powers of
    /// two within the maximum, and all three rings lie in guest memory.
    pub queues: Vec<ActiveQueue>,
    /// The way back to the driver.
    pub interrupt: Arc<dyn Interrupt>,
}

impl Activation {
    /// Whether the feature bit numbered `bit` was negotiated.
    pub fn has(&self, bit: u32) -> bool {
        self.features & (1 << bit) != 0
    }

    /// Takes the queues of a device that needs exactly `N`, numbered from 0.
    fn take_queues<const N: usize>(&mut self) -> Result<[ActiveQueue; N], ActivateError> {
        let queues = std::mem::take(&mut self.queues);
        for index in 0..N {
            if queues.get(index).map(|queue| usize::from(queue.index)) != Some(index) {
                let missing = u16::try_from(index).expect("devices have few queues");
                return Err(ActivateError::MissingQueue(missing));
            }
        }
        let mut queues = queues.into_iter();
        Ok(std::array::from_fn(|_| {
            queues.next().expect("as many as were found")
        }))
    }
}

/// One virtqueue that the driver enabled.
#[derive(Debug)]
pub struct ActiveQueue {
    /// Its number.
    pub index: u16,
    /// Its rings; event index is already set as negotiated.
    pub queue: Queue,
    /// Signalled when the driver makes buffers available.
    pub kick: EventFd,
}

/// Fills `data` from `config` at `offset`; zeroes past its end.
fn copy_config(config: &[u8], offset: u64, data: &mut [u8]) {
    let rest = usize::try_from(offset)
        .ok()
        .and_then(|offset| config.get(offset..))
        .unwrap_or_default();
    let len = rest.len().min(data.len());
    data[..len].copy_from_slice(&rest[..len]);
    data[len..].fill(0);
}

/// How a device reaches its driver. Callable from any thread, also while the transport waits
/// for [`VirtioDevice::reset`], which may wait for that thread in turn: it takes no lock that
/// the transport holds then.
pub trait Interrupt: Send + Sync + fmt::Debug {
    /// Raises the interrupt of queue `index`: buffers were used.
    fn queue_used(&self, index: u16);

    /// The configuration space changed (§2.5).
    fn config_changed(&self);

    /// The device cannot go on until it is reset (§2.1.2, DEVICE_NEEDS_RESET).
    fn needs_reset(&self);

    /// An eventfd that raises the interrupt of queue `index`, for a vhost-user backend to
    /// signal by itself.
    fn call_fd(&self, index: u16) -> io::Result<EventFd>;
}

/// Why a device did not start.
#[derive(Debug, Error)]
pub enum ActivateError {
    /// The driver left a queue out that the device cannot do without.
    #[error("Queue {0} was not enabled by the driver")]
    MissingQueue(u16),
    /// A thread, eventfd or other resource of the host could not be had.
    #[error("The host refused a resource")]
    Host(#[from] io::Error),
    /// The vhost-user backend did not answer as it should.
    #[error("The vhost-user backend failed")]
    Backend(#[source] vhost::vhost_user::Error),
    /// The vhost-user backend lacks a feature that the driver negotiated.
    #[error("The vhost-user backend lacks features {0:#x}")]
    BackendFeatures(u64),
}
