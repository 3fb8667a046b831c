//! The state that a driver sees of a device whatever the transport: device status (§2.1),
//! features (§2.2), queue configuration (§3.1.1) and what belongs to both.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use thiserror::Error;
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::GuestMemory;
use crate::virtio::{ActivateError, Activation, ActiveQueue, DeviceType, Interrupt, VirtioDevice};

const ACKNOWLEDGE: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE;
const DRIVER: u32 = VIRTIO_CONFIG_S_DRIVER;
const FEATURES_OK: u32 = VIRTIO_CONFIG_S_FEATURES_OK;
const DRIVER_OK: u32 = VIRTIO_CONFIG_S_DRIVER_OK;
const NEEDS_RESET: u32 = VIRTIO_CONFIG_S_NEEDS_RESET;
const FAILED: u32 = VIRTIO_CONFIG_S_FAILED;

/// The steps of initialization, in the one order that they can be taken in (§3.1.1).
const STEPS: [u32; 4] = [ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK];

const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;

/// Bits 24 to 49 say how queues and transports work (§2.2). These are what ours can do:
/// split rings in every layout, and no extension of a transport.
const RESERVED_FEATURES: u64 = (1 << 50) - (1 << 24);
const QUEUE_FEATURES: u64 = 1 << VIRTIO_RING_F_INDIRECT_DESC | EVENT_IDX;

/// What an [`Interrupt`] keeps for the driver to read. Apart from the rest of the state,
/// because devices signal from threads that must not wait for a vCPU's access to end: that
/// access may be the reset that waits for the thread.
#[derive(Debug, Default)]
pub(super) struct Signals {
    needs_reset: AtomicBool,
    config_generation: AtomicU32,
}

impl Signals {
    pub(super) fn config_changed(&self) {
        self.config_generation.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn needs_reset(&self) {
        self.needs_reset.store(true, Ordering::Release);
    }
}

/// The interrupts of a transport.
pub(super) trait TransportInterrupt: Interrupt + 'static {
    fn signals(&self) -> &Signals;

    /// Forgets what was raised for the driver that is gone.
    fn reset(&self);
}

/// One queue as the driver configures it.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueConfig {
    max_size: u16,
    /// Any value that the driver wrote; checked when the device is activated.
    pub(super) size: u16,
    pub(super) enabled: bool,
    /// Guest-physical addresses of the descriptor table, available ring and used ring.
    pub(super) desc: u64,
    pub(super) avail: u64,
    pub(super) used: u64,
}

impl QueueConfig {
    fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: max_size,
            enabled: false,
            desc: 0,
            avail: 0,
            used: 0,
        }
    }

    pub(super) fn max_size(&self) -> u16 {
        self.max_size
    }
}

/// Why a device was not activated.
#[derive(Debug, Error)]
enum StartError {
    #[error("Queue {index} has a size or address that no queue can have")]
    BadQueue {
        index: u16,
        #[source]
        source: virtio_queue::Error,
    },
    #[error("Queue {0} is not in guest memory")]
    OutsideMemory(u16),
    #[error("A kick eventfd could not be duplicated")]
    Kick(#[source] io::Error),
    #[error("The device did not start")]
    Device(#[from] ActivateError),
}

/// A device and all that its driver negotiated.
pub(super) struct DeviceState<I> {
    device: Box<dyn VirtioDevice>,
    memory: GuestMemory,
    interrupt: Arc<I>,
    status: u32,
    offered: u64,
    accepted: u64,
    offered_page: u32,
    accepted_page: u32,
    selected: u32,
    queues: Vec<QueueConfig>,
    kicks: Vec<EventFd>,
}

impl<I: TransportInterrupt> DeviceState<I> {
    pub(super) fn new(
        device: Box<dyn VirtioDevice>,
        memory: GuestMemory,
        interrupt: Arc<I>,
    ) -> io::Result<Self> {
        let sizes = device.queue_max_sizes();
        for &size in sizes {
            Queue::new(size).map_err(io::Error::other)?;
        }
        let queues: Vec<_> = sizes.iter().copied().map(QueueConfig::new).collect();
        let kicks = sizes
            .iter()
            .map(|_| EventFd::new(EFD_NONBLOCK))
            .collect::<io::Result<_>>()?;
        let offered = device.features() & (!RESERVED_FEATURES | QUEUE_FEATURES) | VERSION_1;
        Ok(Self {
            device,
            memory,
            interrupt,
            status: 0,
            offered,
            accepted: 0,
            offered_page: 0,
            accepted_page: 0,
            selected: 0,
            queues,
            kicks,
        })
    }

    pub(super) fn device_type(&self) -> DeviceType {
        self.device.device_type()
    }

    pub(super) fn status(&self) -> u32 {
        let needs_reset = self.interrupt.signals().needs_reset.load(Ordering::Acquire);
        self.status | if needs_reset { NEEDS_RESET } else { 0 }
    }

    /// Takes a write of the device status. Zero resets. Else bits can only be added, each
    /// after those before it, and not after FAILED; what the device cannot agree to stays 0.
    pub(super) fn set_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        self.status |= value & FAILED;
        for step in STEPS {
            if self.status & step != 0 {
                continue;
            }
            let refused = step == FEATURES_OK && !self.features_agreed();
            if value & step == 0 || self.status & FAILED != 0 || refused {
                break;
            }
            self.status |= step;
            if step == DRIVER_OK {
                self.start();
            }
        }
    }

    /// As new, ready for another driver.
    pub(super) fn reset(&mut self) {
        self.device.reset();
        self.interrupt.reset();
        let signals = self.interrupt.signals();
        signals.needs_reset.store(false, Ordering::Release);
        self.status = 0;
        self.accepted = 0;
        self.offered_page = 0;
        self.accepted_page = 0;
        self.selected = 0;
        for queue in &mut self.queues {
            *queue = QueueConfig::new(queue.max_size);
        }
    }

    pub(super) fn offered_page(&self) -> u32 {
        self.offered_page
    }

    pub(super) fn select_offered_page(&mut self, page: u32) {
        self.offered_page = page;
    }

    /// 32 of the feature bits that the device offers; 0 past the last page.
    pub(super) fn offered_features(&self) -> u32 {
        page_of(self.offered, self.offered_page)
    }

    pub(super) fn accepted_page(&self) -> u32 {
        self.accepted_page
    }

    pub(super) fn select_accepted_page(&mut self, page: u32) {
        self.accepted_page = page;
    }

    /// 32 of the feature bits that the driver accepts; 0 past the last page.
    pub(super) fn accepted_features(&self) -> u32 {
        page_of(self.accepted, self.accepted_page)
    }

    /// The driver accepts these of the selected page: only between DRIVER and FEATURES_OK.
    pub(super) fn accept_features(&mut self, features: u32) {
        if self.status & (DRIVER | FEATURES_OK | FAILED) != DRIVER {
            return;
        }
        match self.accepted_page {
            0 => set_low(&mut self.accepted, features),
            1 => set_high(&mut self.accepted, features),
            _ => {}
        }
    }

    pub(super) fn queue_count(&self) -> u16 {
        u16::try_from(self.queues.len()).unwrap_or(u16::MAX)
    }

    pub(super) fn selected(&self) -> u32 {
        self.selected
    }

    pub(super) fn select_queue(&mut self, index: u32) {
        self.selected = index;
    }

    /// The selected queue, if there is one of that number.
    pub(super) fn queue(&self) -> Option<&QueueConfig> {
        self.queues.get(usize::try_from(self.selected).ok()?)
    }

    /// Whether queues can be configured: only between FEATURES_OK and DRIVER_OK. What the
    /// device was activated with never changes under it.
    pub(super) fn configurable(&self) -> bool {
        self.status & (FEATURES_OK | DRIVER_OK | FAILED) == FEATURES_OK
    }

    /// Changes the selected queue, unless it is enabled or cannot be configured now.
    pub(super) fn configure(&mut self, change: impl FnOnce(&mut QueueConfig)) {
        if let Some(queue) = self.configurable_queue()
            && !queue.enabled
        {
            change(queue);
        }
    }

    /// Enables or disables the selected queue, when it can be configured.
    pub(super) fn enable_queue(&mut self, enabled: bool) {
        if let Some(queue) = self.configurable_queue() {
            queue.enabled = enabled;
        }
    }

    fn configurable_queue(&mut self) -> Option<&mut QueueConfig> {
        if !self.configurable() {
            return None;
        }
        self.queues.get_mut(usize::try_from(self.selected).ok()?)
    }

    /// What the driver signals when it makes buffers of each queue available.
    pub(super) fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    /// Kicks a queue for a guest write that did not reach the hypervisor's ioeventfd: one of
    /// another width, or through the PCI configuration access capability.
    pub(super) fn kick(&self, index: u64) {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        if let Some(kick) = self.kicks.get(index) {
            // A counter that is full has a kick outstanding already.
            let _ = kick.write(1);
        }
    }

    pub(super) fn config_generation(&self) -> u32 {
        let signals = self.interrupt.signals();
        signals.config_generation.load(Ordering::Acquire)
    }

    pub(super) fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.device.read_config(offset, data);
    }

    pub(super) fn write_config(&mut self, offset: u64, data: &[u8]) {
        self.device.write_config(offset, data);
    }

    fn features_agreed(&self) -> bool {
        self.accepted & !self.offered == 0 && self.accepted & VERSION_1 != 0
    }

    fn start(&mut self) {
        if let Err(error) = self.activate() {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            let source = source.map(|s| format!(": {s}")).unwrap_or_default();
            log::warn!("virtio {:?}: {error}{source}", self.device_type());
            self.interrupt.needs_reset();
        }
    }

    fn activate(&mut self) -> Result<(), StartError> {
        let queues = (0..)
            .zip(self.queues.iter().zip(&self.kicks))
            .filter(|(_, (config, _))| config.enabled)
            .map(|(index, (config, kick))| self.active_queue(index, config, kick))
            .collect::<Result<_, _>>()?;
        let interrupt = Arc::clone(&self.interrupt);
        self.device.activate(Activation {
            memory: Arc::clone(&self.memory),
            features: self.accepted,
            queues,
            interrupt,
        })?;
        Ok(())
    }

    fn active_queue(
        &self,
        index: u16,
        config: &QueueConfig,
        kick: &EventFd,
    ) -> Result<ActiveQueue, StartError> {
        let mut queue = rings(config).map_err(|source| StartError::BadQueue { index, source })?;
        queue.set_event_idx(self.accepted & EVENT_IDX != 0);
        queue.set_ready(true);
        if !queue.is_valid(&*self.memory) {
            return Err(StartError::OutsideMemory(index));
        }
        let kick = kick.try_clone().map_err(StartError::Kick)?;
        Ok(ActiveQueue { index, queue, kick })
    }
}

fn rings(config: &QueueConfig) -> Result<Queue, virtio_queue::Error> {
    let mut queue = Queue::new(config.max_size)?;
    queue.try_set_size(config.size)?;
    queue.try_set_desc_table_address(GuestAddress(config.desc))?;
    queue.try_set_avail_ring_address(GuestAddress(config.avail))?;
    queue.try_set_used_ring_address(GuestAddress(config.used))?;
    Ok(queue)
}

fn page_of(features: u64, page: u32) -> u32 {
    match page {
        0 => low(features),
        1 => low(features >> 32),
        _ => 0,
    }
}

/// The low half of `value`.
pub(super) fn low(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// Replaces the low half of `value`.
pub(super) fn set_low(value: &mut u64, half: u32) {
    *value = *value & !0xffff_ffff | u64::from(half);
}

/// Replaces the high half of `value`.
pub(super) fn set_high(value: &mut u64, half: u32) {
    *value = *value & 0xffff_ffff | u64::from(half) << 32;
}
