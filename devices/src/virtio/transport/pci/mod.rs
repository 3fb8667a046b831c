//! virtio-pci, modern devices only (§4.1).

mod common;
mod identity;
mod interrupt;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use self::identity::Layout;
use self::interrupt::MsixInterrupt;
use super::VirtioTransport;
use super::state::DeviceState;
use crate::GuestMemory;
use crate::bus::BusDevice;
use crate::hypervisor::{IrqRouter, KickAddress, KickRegistry};
use crate::pci::{ConfigSpace, PciFunction};
use crate::virtio::VirtioDevice;

/// Bytes of guest-physical address space that a device takes, and the alignment of its BAR.
pub const BAR_SIZE: u64 = 0x8000;

// The BAR: a page for each structure, so that no page has two purposes.
const COMMON: u32 = 0x0000;
const ISR: u32 = 0x1000;
const DEVICE: u32 = 0x2000;
const NOTIFY: u32 = 0x3000;
const MSIX_TABLE: u32 = 0x4000;
const MSIX_PENDING: u32 = 0x5000;
const PAGE: u32 = 0x1000;

/// Queue n is notified at `NOTIFY + n * NOTIFY_MULTIPLIER`.
const NOTIFY_MULTIPLIER: u32 = 4;

/// One vector a queue and one for configuration changes fill a page of the MSI-X table.
const MAX_QUEUES: u16 = 255;

/// A device as a PCI function: its configuration space, and the BAR as a [`BusDevice`].
///
/// Of its locks, that of the interrupt may be taken with either other one held; the other two
/// are never held together.
pub struct VirtioPci {
    state: Mutex<DeviceState<MsixInterrupt>>,
    interrupt: Arc<MsixInterrupt>,
    config: Mutex<ConfigSpace>,
    layout: Layout,
}

impl VirtioPci {
    /// Makes `device` a PCI function whose BAR is at guest-physical address `bar`, a multiple
    /// of [`BAR_SIZE`].
    ///
    /// # Errors
    ///
    /// If an eventfd or interrupt cannot be had or is refused by the hypervisor, or if the
    /// device has more than 255 queues or one of a size that is no power of two.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        bar: u64,
        memory: GuestMemory,
        irq: Arc<dyn IrqRouter>,
        kicks: &dyn KickRegistry,
    ) -> io::Result<Arc<Self>> {
        let queues = u16::try_from(device.queue_max_sizes().len())
            .ok()
            .filter(|&queues| queues <= MAX_QUEUES)
            .ok_or_else(|| io::Error::other("A virtio-pci device has at most 255 queues"))?;
        let interrupt = Arc::new(MsixInterrupt::new(irq, queues)?);
        let (config, layout) = identity::config_space(device.device_type(), queues, bar);
        let state = DeviceState::new(device, memory, Arc::clone(&interrupt))?;
        let doorbells = (bar + u64::from(NOTIFY)..).step_by(NOTIFY_MULTIPLIER as usize);
        for (doorbell, kick) in doorbells.zip(state.kicks()) {
            kicks.register(KickAddress::Any(doorbell), kick)?;
        }
        Ok(Arc::new(Self {
            state: Mutex::new(state),
            interrupt,
            config: Mutex::new(config),
            layout,
        }))
    }

    /// Where in the BAR the guest wants the data register of the configuration access
    /// capability to lead (§4.1.4.9), if this access of `len` bytes at `offset` is one of it.
    fn window_target(&self, config: &ConfigSpace, offset: u16, len: usize) -> Option<u64> {
        let window = self.layout.window;
        if offset != window + identity::WINDOW_DATA {
            return None;
        }
        let [bar] = config.get(window + identity::WINDOW_BAR);
        let target = u32::from_le_bytes(config.get(window + identity::WINDOW_OFFSET));
        let length = u32::from_le_bytes(config.get(window + identity::WINDOW_LENGTH));
        let fits = u64::from(target) + u64::from(length) <= BAR_SIZE;
        let whole = usize::try_from(length) == Ok(len) && target.is_multiple_of(length);
        (bar == 0 && fits && whole).then_some(target.into())
    }
}

impl PciFunction for VirtioPci {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        let target = {
            let config = self.config.lock().unwrap();
            config.read(offset, data);
            self.window_target(&config, offset, data.len())
        };
        if let Some(target) = target {
            self.read(target, data);
        }
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        let target = {
            let mut config = self.config.lock().unwrap();
            config.write(offset, data);
            let control = config.get(self.layout.msix_control);
            self.interrupt.set_control(u16::from_le_bytes(control));
            self.window_target(&config, offset, data.len())
        };
        if let Some(target) = target {
            self.write(target, data);
        }
    }
}

/// The BAR. It answers whatever the memory space bit of the command register says: the
/// machine's bus does not change while the guest runs.
impl BusDevice for VirtioPci {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Some((page, offset)) = split(offset) else {
            return;
        };
        match page {
            COMMON => common::read(&self.state.lock().unwrap(), &self.interrupt, offset, data),
            ISR if offset == 0 => data[0] = self.interrupt.take_isr(),
            DEVICE => self
                .state
                .lock()
                .unwrap()
                .read_config(u64::from(offset), data),
            MSIX_TABLE => self.interrupt.read_table(offset, data),
            MSIX_PENDING => self.interrupt.read_pending(offset, data),
            _ => {}
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let Some((page, offset)) = split(offset) else {
            return;
        };
        match page {
            COMMON => common::write(
                &mut self.state.lock().unwrap(),
                &self.interrupt,
                offset,
                data,
            ),
            DEVICE => self
                .state
                .lock()
                .unwrap()
                .write_config(u64::from(offset), data),
            NOTIFY if u32::from(offset).is_multiple_of(NOTIFY_MULTIPLIER) => {
                let queue = u64::from(u32::from(offset) / NOTIFY_MULTIPLIER);
                self.state.lock().unwrap().kick(queue);
            }
            MSIX_TABLE => self.interrupt.write_table(offset, data),
            _ => {}
        }
    }
}

/// The page of the BAR that `offset` is in, and the offset within it.
fn split(offset: u64) -> Option<(u32, u16)> {
    let offset = u32::try_from(offset).ok()?;
    let within = u16::try_from(offset % PAGE).ok()?;
    Some((offset - offset % PAGE, within))
}

impl VirtioTransport for VirtioPci {
    fn shutdown(&self) {
        self.state.lock().unwrap().reset();
    }
}

impl fmt::Debug for VirtioPci {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioPci")
            .field("interrupt", &self.interrupt)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
