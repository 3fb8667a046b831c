//! Fakes of what surrounds a transport: the hypervisor on one side, a device on the other.

use std::io;
use std::sync::{Arc, Mutex};

use virtio_queue::QueueT;
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::GuestMemory;
use crate::hypervisor::{IrqRouter, KickAddress, KickRegistry, MsiMessage};
use crate::virtio::{ActivateError, Activation, DeviceType, Interrupt, VirtioDevice};

/// Bytes of the guest memory of [`memory`], which starts at 0.
pub(crate) const MEMORY_SIZE: u64 = 1 << 20;

/// Guest memory for tests that only need some.
pub(crate) fn memory() -> GuestMemory {
    let size = MEMORY_SIZE.try_into().unwrap();
    Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size)]).unwrap())
}

/// How often `fd` was signalled since the last call.
pub(crate) fn signals(fd: &EventFd) -> u64 {
    fd.read().unwrap_or(0)
}

/// A hypervisor that remembers what it is told.
#[derive(Debug, Default)]
pub(crate) struct FakeHypervisor {
    /// Eventfds by GSI, from [`FakeHypervisor::FIRST_MSI`] on.
    msi: Mutex<Vec<EventFd>>,
    lines: Mutex<Vec<(u32, EventFd)>>,
    routes: Mutex<Vec<(u32, MsiMessage)>>,
    kicks: Mutex<Vec<(KickAddress, EventFd)>>,
    refusing: Mutex<bool>,
}

impl FakeHypervisor {
    /// The GSI of the first message-signalled interrupt.
    pub(crate) const FIRST_MSI: u32 = 24;

    /// How often the `index`th interrupt allocated was signalled since the last call.
    pub(crate) fn msi_signals(&self, index: usize) -> u64 {
        signals(&self.msi.lock().unwrap()[index])
    }

    pub(crate) fn msi_count(&self) -> usize {
        self.msi.lock().unwrap().len()
    }

    /// How often the line `gsi` was signalled since the last call.
    pub(crate) fn line_signals(&self, gsi: u32) -> u64 {
        let lines = self.lines.lock().unwrap();
        let (_, fd) = lines.iter().find(|(line, _)| *line == gsi).unwrap();
        signals(fd)
    }

    /// The routes set since the last call.
    pub(crate) fn take_routes(&self) -> Vec<(u32, MsiMessage)> {
        std::mem::take(&mut self.routes.lock().unwrap())
    }

    /// Where kicks were registered, in order.
    pub(crate) fn kick_addresses(&self) -> Vec<KickAddress> {
        let kicks = self.kicks.lock().unwrap();
        kicks.iter().map(|(at, _)| *at).collect()
    }

    /// Signals what is registered at `at`, as a guest write would.
    pub(crate) fn kick(&self, at: KickAddress) {
        let kicks = self.kicks.lock().unwrap();
        let (_, fd) = kicks.iter().find(|(other, _)| *other == at).unwrap();
        fd.write(1).unwrap();
    }

    /// From now on (`true`), every request is refused.
    pub(crate) fn refuse(&self, refusing: bool) {
        *self.refusing.lock().unwrap() = refusing;
    }

    fn check(&self) -> io::Result<()> {
        match *self.refusing.lock().unwrap() {
            true => Err(io::ErrorKind::Unsupported.into()),
            false => Ok(()),
        }
    }
}

impl IrqRouter for FakeHypervisor {
    fn allocate_msi(&self) -> io::Result<(u32, EventFd)> {
        self.check()?;
        let mut msi = self.msi.lock().unwrap();
        let gsi = Self::FIRST_MSI + u32::try_from(msi.len()).unwrap();
        let fd = EventFd::new(EFD_NONBLOCK)?;
        msi.push(fd.try_clone()?);
        Ok((gsi, fd))
    }

    fn route_msi(&self, gsi: u32, message: MsiMessage) -> io::Result<()> {
        self.check()?;
        self.routes.lock().unwrap().push((gsi, message));
        Ok(())
    }

    fn bind_line(&self, gsi: u32) -> io::Result<EventFd> {
        self.check()?;
        let fd = EventFd::new(EFD_NONBLOCK)?;
        self.lines.lock().unwrap().push((gsi, fd.try_clone()?));
        Ok(fd)
    }
}

impl KickRegistry for FakeHypervisor {
    fn register(&self, at: KickAddress, fd: &EventFd) -> io::Result<()> {
        self.check()?;
        self.kicks.lock().unwrap().push((at, fd.try_clone()?));
        Ok(())
    }
}

/// What happened to a [`RecordingDevice`], and what it shall do.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// The activation in force.
    pub(crate) active: Option<Activation>,
    pub(crate) activations: usize,
    pub(crate) resets: usize,
    /// The configuration space.
    pub(crate) config: Vec<u8>,
    /// The next activations fail.
    pub(crate) failing: bool,
}

impl Record {
    pub(crate) fn interrupt(&self) -> &dyn Interrupt {
        &*self.active.as_ref().expect("an active device").interrupt
    }
}

/// A device that does nothing but to insist on what it is promised: see
/// [`VirtioDevice::activate`] and [`Activation`].
#[derive(Debug)]
pub(crate) struct RecordingDevice {
    pub(crate) record: Arc<Mutex<Record>>,
    pub(crate) features: u64,
    pub(crate) sizes: Vec<u16>,
}

impl VirtioDevice for RecordingDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Net
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &self.sizes
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let record = self.record.lock().unwrap();
        let offset = usize::try_from(offset).unwrap();
        let bytes = record
            .config
            .iter()
            .skip(offset)
            .chain(std::iter::repeat(&0));
        data.iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let mut record = self.record.lock().unwrap();
        let offset = usize::try_from(offset).unwrap();
        let bytes = record.config.iter_mut().skip(offset);
        bytes.zip(data).for_each(|(to, from)| *to = *from);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let mut record = self.record.lock().unwrap();
        assert!(record.active.is_none(), "activated twice without a reset");
        for queue in &activation.queues {
            let max = self.sizes[usize::from(queue.index)];
            let size = queue.queue.size();
            assert!(size.is_power_of_two() && size <= max, "{queue:?}");
            assert!(queue.queue.is_valid(&*activation.memory), "{queue:?}");
        }
        assert!(
            activation.queues.is_sorted_by_key(|queue| queue.index),
            "{:?}",
            activation.queues
        );
        record.activations += 1;
        if record.failing {
            return Err(ActivateError::MissingQueue(0));
        }
        record.active = Some(activation);
        Ok(())
    }

    fn reset(&mut self) {
        let mut record = self.record.lock().unwrap();
        record.active = None;
        record.resets += 1;
    }
}
