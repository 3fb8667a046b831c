//! Drivers of both transports, reduced to register accesses, and a machine to run them in.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::bus::BusDevice;
use crate::hypervisor::{IrqRouter, KickAddress};
use crate::pci::PciFunction;
use crate::virtio::transport::VirtioTransport;
use crate::virtio::transport::mmio::VirtioMmio;
use crate::virtio::transport::pci::VirtioPci;
use crate::virtio::transport::testing::{FakeHypervisor, Record, RecordingDevice, memory};

pub(crate) const ACKNOWLEDGE: u8 = 1;
pub(crate) const DRIVER: u8 = 2;
pub(crate) const DRIVER_OK: u8 = 4;
pub(crate) const FEATURES_OK: u8 = 8;
pub(crate) const NEEDS_RESET: u8 = 64;
pub(crate) const FAILED: u8 = 128;

/// What the driver is offered in page 0. Bits 1 and 16 are the device's own.
pub(crate) const FEATURES: u64 = 1 << 1 | 1 << 16 | 1 << 28 | 1 << 29;
/// Bits that a device has no business to offer: of the vhost-user protocol, and of rings and
/// transports that there are not.
const STRAY_FEATURES: u64 = 1 << 24 | 1 << 30 | 1 << 34 | 1 << 38 | 1 << 40;
/// VIRTIO_F_VERSION_1, in page 1.
pub(crate) const VERSION_1: u32 = 1;

/// The greatest sizes of the device's queues.
pub(crate) const SIZES: [u16; 3] = [256, 64, 1];

const BASE: u64 = 0xd000_0000;
const GSI: u32 = 5;

/// A driver's view of its device. `page` and `queue` are selected by each access anew.
pub(crate) trait Driver {
    fn status(&self) -> u8;
    fn set_status(&self, status: u8);
    fn offered(&self, page: u32) -> u32;
    fn accept(&self, page: u32, features: u32);
    /// The greatest size of a queue that was never configured; 0 for none.
    fn max_size(&self, queue: u16) -> u16;
    fn set_size(&self, queue: u16, size: u16);
    /// Sets the addresses of descriptor table, available ring and used ring.
    fn set_rings(&self, queue: u16, rings: [u64; 3]);
    fn enable(&self, queue: u16);
    fn enabled(&self, queue: u16) -> bool;
    fn generation(&self) -> u8;
    fn read_config(&self, offset: u64, data: &mut [u8]);
    fn write_config(&self, offset: u64, data: &[u8]);
    /// Where the hypervisor is told to find the kick of `queue`.
    fn kick_address(&self, queue: u16) -> KickAddress;
    /// Kicks by a write that the hypervisor passes on.
    fn kick(&self, queue: u16);
    /// Prepares interrupts: once the features are agreed.
    fn set_up_interrupts(&self);
    /// The number of interrupts for `queue` since the last call.
    fn interrupts(&self, queue: u16) -> u64;
    /// The number of interrupts for the configuration since the last call.
    fn config_interrupts(&self) -> u64;
}

pub(crate) fn read<const N: usize>(device: &dyn BusDevice, offset: u64) -> [u8; N] {
    let mut data = [0xa5; N];
    device.read(offset, &mut data);
    data
}

pub(crate) fn read_32(device: &dyn BusDevice, offset: u64) -> u32 {
    u32::from_le_bytes(read(device, offset))
}

/// One device, its transport, and its driver.
pub(crate) struct Machine {
    pub(crate) name: &'static str,
    pub(crate) driver: Box<dyn Driver>,
    pub(crate) transport: Arc<dyn VirtioTransport>,
    pub(crate) hypervisor: Arc<FakeHypervisor>,
    record: Arc<Mutex<Record>>,
}

impl Machine {
    pub(crate) fn pci() -> (Self, Arc<VirtioPci>) {
        let (device, hypervisor, record) = parts();
        let irq: Arc<dyn IrqRouter> = hypervisor.clone();
        let pci = VirtioPci::new(device, BASE, memory(), irq, &*hypervisor).unwrap();
        let machine = Self {
            name: "virtio-pci",
            driver: Box::new(PciDriver {
                pci: pci.clone(),
                hypervisor: hypervisor.clone(),
            }),
            transport: pci.clone(),
            hypervisor,
            record,
        };
        (machine, pci)
    }

    pub(crate) fn mmio() -> Self {
        let (device, hypervisor, record) = parts();
        let mmio = VirtioMmio::new(device, BASE, GSI, memory(), &*hypervisor, &*hypervisor);
        let mmio = mmio.unwrap();
        Self {
            name: "virtio-mmio",
            driver: Box::new(MmioDriver {
                mmio: mmio.clone(),
                hypervisor: hypervisor.clone(),
            }),
            transport: mmio,
            hypervisor,
            record,
        }
    }

    pub(crate) fn both() -> [Self; 2] {
        [Self::pci().0, Self::mmio()]
    }

    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap()
    }

    /// As a good driver, up to FEATURES_OK with all features.
    pub(crate) fn negotiate(&self) {
        let driver = &self.driver;
        driver.set_status(0);
        driver.set_status(ACKNOWLEDGE);
        driver.set_status(ACKNOWLEDGE | DRIVER);
        for page in 0..2 {
            driver.accept(page, driver.offered(page));
        }
        driver.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER | FEATURES_OK);
    }

    pub(crate) fn set_up_queue(&self, queue: u16) {
        let size = self.driver.max_size(queue);
        self.driver.set_size(queue, size);
        self.driver.set_rings(queue, rings(queue));
        self.driver.enable(queue);
        assert!(self.driver.enabled(queue));
    }

    /// As a good driver, all the way to DRIVER_OK.
    pub(crate) fn start(&self) {
        self.negotiate();
        (0..3).for_each(|queue| self.set_up_queue(queue));
        self.driver.set_up_interrupts();
        self.finish();
    }

    pub(crate) fn finish(&self) {
        self.driver
            .set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }
}

/// Where a good driver puts the rings of `queue`.
pub(crate) fn rings(queue: u16) -> [u64; 3] {
    [0x1000, 0x3000, 0x4000].map(|at| at + 0x1_0000 * u64::from(queue))
}

type Parts = (
    Box<RecordingDevice>,
    Arc<FakeHypervisor>,
    Arc<Mutex<Record>>,
);

fn parts() -> Parts {
    let record = Arc::new(Mutex::new(Record {
        config: (0..12).collect(),
        ..Record::default()
    }));
    let device = Box::new(RecordingDevice {
        record: record.clone(),
        features: FEATURES | STRAY_FEATURES,
        sizes: SIZES.to_vec(),
    });
    (device, Arc::default(), record)
}

struct PciDriver {
    pci: Arc<VirtioPci>,
    hypervisor: Arc<FakeHypervisor>,
}

const DEVICE_CFG: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const TABLE: u64 = 0x4000;
const CONFIG_VECTOR: u16 = 3;

impl PciDriver {
    fn select(&self, queue: u16) {
        self.pci.write(22, &queue.to_le_bytes());
    }
}

impl Driver for PciDriver {
    fn status(&self) -> u8 {
        let [status] = read(&*self.pci, 20);
        status
    }

    fn set_status(&self, status: u8) {
        self.pci.write(20, &[status]);
    }

    fn offered(&self, page: u32) -> u32 {
        self.pci.write(0, &page.to_le_bytes());
        read_32(&*self.pci, 4)
    }

    fn accept(&self, page: u32, features: u32) {
        self.pci.write(8, &page.to_le_bytes());
        self.pci.write(12, &features.to_le_bytes());
    }

    fn max_size(&self, queue: u16) -> u16 {
        self.select(queue);
        u16::from_le_bytes(read(&*self.pci, 24))
    }

    fn set_size(&self, queue: u16, size: u16) {
        self.select(queue);
        self.pci.write(24, &size.to_le_bytes());
    }

    fn set_rings(&self, queue: u16, [desc, avail, used]: [u64; 3]) {
        self.select(queue);
        self.pci.write(32, &desc.to_le_bytes()[..4]);
        self.pci.write(36, &desc.to_le_bytes()[4..]);
        self.pci.write(40, &avail.to_le_bytes());
        self.pci.write(48, &used.to_le_bytes());
    }

    fn enable(&self, queue: u16) {
        self.select(queue);
        self.pci.write(28, &1u16.to_le_bytes());
    }

    fn enabled(&self, queue: u16) -> bool {
        self.select(queue);
        u16::from_le_bytes(read(&*self.pci, 28)) == 1
    }

    fn generation(&self) -> u8 {
        let [generation] = read(&*self.pci, 21);
        generation
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.pci.read(DEVICE_CFG + offset, data);
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        self.pci.write(DEVICE_CFG + offset, data);
    }

    fn kick_address(&self, queue: u16) -> KickAddress {
        KickAddress::Any(BASE + NOTIFY + 4 * u64::from(queue))
    }

    fn kick(&self, queue: u16) {
        let at = NOTIFY + 4 * u64::from(queue);
        self.pci.write(at, &queue.to_le_bytes());
    }

    /// Vector n for queue n, and the one after the last for the configuration.
    fn set_up_interrupts(&self) {
        let mut msix = [0; 2];
        let control = msix_control(&*self.pci);
        self.pci.read_config(control, &mut msix);
        msix[1] |= 0x80;
        self.pci.write_config(control, &msix);
        for vector in 0..=CONFIG_VECTOR {
            let entry = TABLE + 16 * u64::from(vector);
            self.pci.write(entry, &0xfee0_0000u32.to_le_bytes());
            self.pci.write(entry + 4, &0u32.to_le_bytes());
            self.pci.write(entry + 8, &u32::from(vector).to_le_bytes());
            self.pci.write(entry + 12, &0u32.to_le_bytes());
        }
        for queue in 0..3u16 {
            self.select(queue);
            self.pci.write(26, &queue.to_le_bytes());
        }
        self.pci.write(16, &CONFIG_VECTOR.to_le_bytes());
    }

    fn interrupts(&self, queue: u16) -> u64 {
        self.hypervisor.msi_signals(queue.into())
    }

    fn config_interrupts(&self) -> u64 {
        self.hypervisor.msi_signals(CONFIG_VECTOR.into())
    }
}

/// Where the message control register of MSI-X is.
pub(crate) fn msix_control(function: &dyn PciFunction) -> u16 {
    let (at, _) = capabilities(function)
        .into_iter()
        .find(|(_, bytes)| bytes[0] == 0x11)
        .expect("an MSI-X capability");
    at + 2
}

/// All capabilities: where, and their first 20 bytes.
pub(crate) fn capabilities(function: &dyn PciFunction) -> Vec<(u16, Vec<u8>)> {
    let mut found = Vec::new();
    let mut at = [0];
    function.read_config(0x34, &mut at);
    while at[0] != 0 {
        let start = u16::from(at[0]);
        let mut bytes = vec![0; 20];
        for (offset, chunk) in (start..).step_by(4).zip(bytes.chunks_mut(4)) {
            function.read_config(offset, chunk);
        }
        at = [bytes[1]];
        found.push((start, bytes));
        assert!(found.len() < 16, "an endless list of capabilities");
    }
    found
}

struct MmioDriver {
    mmio: Arc<VirtioMmio>,
    hypervisor: Arc<FakeHypervisor>,
}

impl MmioDriver {
    fn write(&self, register: u64, value: u32) {
        self.mmio.write(register, &value.to_le_bytes());
    }

    fn select(&self, queue: u16) {
        self.write(0x30, queue.into());
    }

    /// As a driver's interrupt handler: the edges seen, if the status has `reason`.
    fn take(&self, reason: u32) -> u64 {
        if read_32(&*self.mmio, 0x60) & reason == 0 {
            return 0;
        }
        self.write(0x64, reason);
        assert_eq!(read_32(&*self.mmio, 0x60) & reason, 0);
        self.hypervisor.line_signals(GSI)
    }
}

impl Driver for MmioDriver {
    fn status(&self) -> u8 {
        read_32(&*self.mmio, 0x70).try_into().unwrap()
    }

    fn set_status(&self, status: u8) {
        self.write(0x70, status.into());
    }

    fn offered(&self, page: u32) -> u32 {
        self.write(0x14, page);
        read_32(&*self.mmio, 0x10)
    }

    fn accept(&self, page: u32, features: u32) {
        self.write(0x24, page);
        self.write(0x20, features);
    }

    fn max_size(&self, queue: u16) -> u16 {
        self.select(queue);
        read_32(&*self.mmio, 0x34).try_into().unwrap()
    }

    fn set_size(&self, queue: u16, size: u16) {
        self.select(queue);
        self.write(0x38, size.into());
    }

    fn set_rings(&self, queue: u16, rings: [u64; 3]) {
        self.select(queue);
        for (register, ring) in [0x80, 0x90, 0xa0].into_iter().zip(rings) {
            self.mmio.write(register, &ring.to_le_bytes()[..4]);
            self.mmio.write(register + 4, &ring.to_le_bytes()[4..]);
        }
    }

    fn enable(&self, queue: u16) {
        self.select(queue);
        self.write(0x44, 1);
    }

    fn enabled(&self, queue: u16) -> bool {
        self.select(queue);
        read_32(&*self.mmio, 0x44) == 1
    }

    fn generation(&self) -> u8 {
        read_32(&*self.mmio, 0xfc).try_into().unwrap()
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.mmio.read(0x100 + offset, data);
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        self.mmio.write(0x100 + offset, data);
    }

    fn kick_address(&self, queue: u16) -> KickAddress {
        KickAddress::Value(BASE + 0x50, queue.into())
    }

    fn kick(&self, queue: u16) {
        self.write(0x50, queue.into());
    }

    fn set_up_interrupts(&self) {}

    fn interrupts(&self, _queue: u16) -> u64 {
        self.take(1)
    }

    fn config_interrupts(&self) -> u64 {
        self.take(2)
    }
}
