//! virtio-mmio, version 2 (§4.2).

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_DEVICE_FEATURES,
    VIRTIO_MMIO_DEVICE_FEATURES_SEL, VIRTIO_MMIO_DEVICE_ID, VIRTIO_MMIO_DRIVER_FEATURES,
    VIRTIO_MMIO_DRIVER_FEATURES_SEL, VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING,
    VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_MAGIC_VALUE,
    VIRTIO_MMIO_QUEUE_AVAIL_HIGH, VIRTIO_MMIO_QUEUE_AVAIL_LOW, VIRTIO_MMIO_QUEUE_DESC_HIGH,
    VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_NOTIFY, VIRTIO_MMIO_QUEUE_NUM,
    VIRTIO_MMIO_QUEUE_NUM_MAX, VIRTIO_MMIO_QUEUE_READY, VIRTIO_MMIO_QUEUE_SEL,
    VIRTIO_MMIO_QUEUE_USED_HIGH, VIRTIO_MMIO_QUEUE_USED_LOW, VIRTIO_MMIO_SHM_BASE_HIGH,
    VIRTIO_MMIO_SHM_BASE_LOW, VIRTIO_MMIO_SHM_LEN_HIGH, VIRTIO_MMIO_SHM_LEN_LOW,
    VIRTIO_MMIO_STATUS, VIRTIO_MMIO_VENDOR_ID, VIRTIO_MMIO_VERSION,
};
use vmm_sys_util::eventfd::EventFd;

use super::VirtioTransport;
use super::state::{DeviceState, QueueConfig, Signals, TransportInterrupt, set_high, set_low};
use crate::GuestMemory;
use crate::bus::BusDevice;
use crate::hypervisor::{IrqRouter, KickAddress, KickRegistry};
use crate::virtio::{Interrupt, VirtioDevice};

/// Bytes of guest-physical address space that a device takes.
pub const WINDOW_SIZE: u64 = 0x1000;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"rcvm");

/// A device behind a virtio-mmio window.
pub struct VirtioMmio {
    state: Mutex<DeviceState<LineInterrupt>>,
    interrupt: Arc<LineInterrupt>,
}

impl VirtioMmio {
    /// Puts `device` behind the window at guest-physical address `base`, with interrupts on
    /// the I/O APIC pin `gsi`, edge-triggered.
    ///
    /// # Errors
    ///
    /// If an eventfd cannot be had or is refused by the hypervisor, or if a queue of the
    /// device has a size that is no power of two.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        base: u64,
        gsi: u32,
        memory: GuestMemory,
        irq: &dyn IrqRouter,
        kicks: &dyn KickRegistry,
    ) -> io::Result<Arc<Self>> {
        let interrupt = Arc::new(LineInterrupt {
            line: irq.bind_line(gsi)?,
            raised: AtomicU32::new(0),
            external: AtomicBool::new(false),
            signals: Signals::default(),
        });
        let state = DeviceState::new(device, memory, Arc::clone(&interrupt))?;
        let notify = base + u64::from(VIRTIO_MMIO_QUEUE_NOTIFY);
        for (index, kick) in (0..).zip(state.kicks()) {
            kicks.register(KickAddress::Value(notify, index), kick)?;
        }
        Ok(Arc::new(Self {
            state: Mutex::new(state),
            interrupt,
        }))
    }

    fn read_register(&self, register: u32) -> u32 {
        // Drivers read this one in every interrupt: without the lock.
        if register == VIRTIO_MMIO_INTERRUPT_STATUS {
            return self.interrupt.status();
        }
        let state = self.state.lock().unwrap();
        let queue = state.queue();
        match register {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => u32::from(state.device_type() as u16),
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => state.offered_features(),
            VIRTIO_MMIO_QUEUE_NUM_MAX => queue.map_or(0, |q| q.max_size().into()),
            VIRTIO_MMIO_QUEUE_READY => queue.map_or(0, |q| q.enabled.into()),
            VIRTIO_MMIO_STATUS => state.status(),
            VIRTIO_MMIO_CONFIG_GENERATION => state.config_generation(),
            // No shared memory region exists: its length reads -1 (§4.2.2.1).
            VIRTIO_MMIO_SHM_LEN_LOW
            | VIRTIO_MMIO_SHM_LEN_HIGH
            | VIRTIO_MMIO_SHM_BASE_LOW
            | VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            _ => 0,
        }
    }

    fn write_register(&self, register: u32, value: u32) {
        if register == VIRTIO_MMIO_INTERRUPT_ACK {
            return self.interrupt.acknowledge(value);
        }
        let mut state = self.state.lock().unwrap();
        let mut configure = |change: fn(&mut QueueConfig, u32)| {
            state.configure(|queue| change(queue, value));
        };
        match register {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => state.select_offered_page(value),
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => state.select_accepted_page(value),
            VIRTIO_MMIO_DRIVER_FEATURES => state.accept_features(value),
            VIRTIO_MMIO_STATUS => state.set_status(value),
            VIRTIO_MMIO_QUEUE_SEL => state.select_queue(value),
            VIRTIO_MMIO_QUEUE_NOTIFY => state.kick(value.into()),
            VIRTIO_MMIO_QUEUE_READY => state.enable_queue(value & 1 != 0),
            // Zero is as invalid a size as one past 16 bits.
            VIRTIO_MMIO_QUEUE_NUM => configure(|q, v| q.size = v.try_into().unwrap_or(0)),
            VIRTIO_MMIO_QUEUE_DESC_LOW => configure(|q, v| set_low(&mut q.desc, v)),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => configure(|q, v| set_high(&mut q.desc, v)),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => configure(|q, v| set_low(&mut q.avail, v)),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => configure(|q, v| set_high(&mut q.avail, v)),
            VIRTIO_MMIO_QUEUE_USED_LOW => configure(|q, v| set_low(&mut q.used, v)),
            VIRTIO_MMIO_QUEUE_USED_HIGH => configure(|q, v| set_high(&mut q.used, v)),
            _ => {}
        }
    }
}

/// Where an access goes: below the configuration space, only whole registers exist.
enum Target {
    Register(u32),
    Config(u64),
    Nothing,
}

impl Target {
    fn of(offset: u64, len: usize) -> Self {
        match offset.checked_sub(VIRTIO_MMIO_CONFIG.into()) {
            Some(offset) => Self::Config(offset),
            None if len == 4 && offset.is_multiple_of(4) => {
                u32::try_from(offset).map_or(Self::Nothing, Self::Register)
            }
            None => Self::Nothing,
        }
    }
}

impl BusDevice for VirtioMmio {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match Target::of(offset, data.len()) {
            Target::Register(register) => {
                data.copy_from_slice(&self.read_register(register).to_le_bytes());
            }
            Target::Config(offset) => self.state.lock().unwrap().read_config(offset, data),
            Target::Nothing => {}
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match Target::of(offset, data.len()) {
            Target::Register(register) => {
                if let Ok(&value) = <&[u8; 4]>::try_from(data) {
                    self.write_register(register, u32::from_le_bytes(value));
                }
            }
            Target::Config(offset) => self.state.lock().unwrap().write_config(offset, data),
            Target::Nothing => {}
        }
    }
}

impl VirtioTransport for VirtioMmio {
    fn shutdown(&self) {
        self.state.lock().unwrap().reset();
    }
}

impl fmt::Debug for VirtioMmio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioMmio")
            .field("interrupt", &self.interrupt)
            .finish_non_exhaustive()
    }
}

/// The one interrupt of a device, with a status that says what it is for.
#[derive(Debug)]
struct LineInterrupt {
    line: EventFd,
    /// The interrupt status register (§4.2.2).
    raised: AtomicU32,
    /// A vhost-user backend signals the line without the status being set by anyone.
    external: AtomicBool,
    signals: Signals,
}

impl LineInterrupt {
    fn raise(&self, reason: u32) {
        self.raised.fetch_or(reason, Ordering::AcqRel);
        // A counter that is full has a signal outstanding already.
        let _ = self.line.write(1);
    }

    /// Drivers ignore an interrupt whose status is 0: with a backend that signals by itself,
    /// used buffers are always possible.
    fn status(&self) -> u32 {
        let external = self.external.load(Ordering::Acquire);
        let used = if external { VIRTIO_MMIO_INT_VRING } else { 0 };
        self.raised.load(Ordering::Acquire) | used
    }

    fn acknowledge(&self, bits: u32) {
        self.raised.fetch_and(!bits, Ordering::AcqRel);
    }
}

impl Interrupt for LineInterrupt {
    fn queue_used(&self, _index: u16) {
        self.raise(VIRTIO_MMIO_INT_VRING);
    }

    fn config_changed(&self) {
        self.signals.config_changed();
        self.raise(VIRTIO_MMIO_INT_CONFIG);
    }

    fn needs_reset(&self) {
        self.signals.needs_reset();
        self.raise(VIRTIO_MMIO_INT_CONFIG);
    }

    fn call_fd(&self, _index: u16) -> io::Result<EventFd> {
        self.external.store(true, Ordering::Release);
        self.line.try_clone()
    }
}

impl TransportInterrupt for LineInterrupt {
    fn signals(&self) -> &Signals {
        &self.signals
    }

    fn reset(&self) {
        self.external.store(false, Ordering::Release);
        self.raised.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
