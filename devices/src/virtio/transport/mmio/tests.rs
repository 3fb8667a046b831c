//! What only virtio-mmio has.

use crate::bus::BusDevice;
use crate::virtio::transport::mmio::VirtioMmio;
use crate::virtio::transport::testing::{FakeHypervisor, RecordingDevice, memory};
use crate::virtio::transport::tests::{Machine, read, read_32};

fn write_32(device: &dyn BusDevice, offset: u64, value: u32) {
    device.write(offset, &value.to_le_bytes());
}

#[test]
fn it_says_what_it_is() {
    let m = Machine::mmio();
    assert_eq!(read(&*m.transport, 0), *b"virt");
    assert_eq!(read_32(&*m.transport, 4), 2);
    assert_eq!(read_32(&*m.transport, 8), 1);
    // Length -1 says that there is no shared memory.
    write_32(&*m.transport, 0xac, 0);
    assert_eq!(read_32(&*m.transport, 0xb0), u32::MAX);
    assert_eq!(read_32(&*m.transport, 0xb4), u32::MAX);
}

#[test]
fn registers_are_accessed_whole() {
    let m = Machine::mmio();
    assert_eq!(read(&*m.transport, 0), [0; 2]);
    assert_eq!(read(&*m.transport, 1), [0; 4]);
    assert_eq!(read(&*m.transport, 0), [0; 8]);
    m.transport.write(0x70, &[1]);
    m.transport.write(0x70, &[1, 0]);
    m.transport.write(0x70, &[1, 0, 0, 0, 0, 0, 0, 0]);
    m.transport.write(0x6f, &[0, 1, 0, 0]);
    assert_eq!(m.driver.status(), 0);
}

#[test]
fn values_wider_than_their_field_are_not_cut_down() {
    let m = Machine::mmio();
    // Not a reset:
    m.start();
    write_32(&*m.transport, 0x70, 0x100);
    assert_eq!(m.driver.status(), 0xf);
    // Not queue 0:
    m.negotiate();
    write_32(&*m.transport, 0x30, 0x1_0000);
    assert_eq!(read_32(&*m.transport, 0x34), 0);
    write_32(&*m.transport, 0x50, 0x1_0000);
    // Not size 64:
    m.driver.set_rings(0, [0x1000, 0x2000, 0x3000]);
    write_32(&*m.transport, 0x38, 0x1_0040);
    m.driver.enable(0);
    m.finish();
    assert_eq!(m.driver.status(), 0x4f);
    assert_eq!(m.record().activations, 1);
}

#[test]
fn a_queue_can_be_disabled_before_the_driver_runs() {
    let m = Machine::mmio();
    m.negotiate();
    m.set_up_queue(0);
    write_32(&*m.transport, 0x44, 0);
    assert!(!m.driver.enabled(0));
    m.set_up_queue(0);
    m.finish();
    write_32(&*m.transport, 0x44, 0);
    assert!(m.driver.enabled(0));
}

#[test]
fn the_status_follows_the_interrupts() {
    let m = Machine::mmio();
    m.start();
    let status = || read_32(&*m.transport, 0x60);
    assert_eq!(status(), 0);
    m.record().interrupt().queue_used(0);
    m.record().interrupt().config_changed();
    assert_eq!(status(), 3);
    write_32(&*m.transport, 0x64, 1);
    assert_eq!(status(), 2);
    m.driver.set_status(0);
    assert_eq!(status(), 0);
}

#[test]
fn used_buffers_are_always_possible_with_a_backend_that_signals_by_itself() {
    let m = Machine::mmio();
    m.start();
    let status = || read_32(&*m.transport, 0x60);
    let call = m.record().interrupt().call_fd(0).unwrap();
    call.write(1).unwrap();
    assert_eq!(status(), 1);
    write_32(&*m.transport, 0x64, 1);
    assert_eq!(status(), 1);
    m.record().interrupt().config_changed();
    assert_eq!(status(), 3);
    m.start();
    assert_eq!(status(), 0, "the next driver's device may have no backend");
}

#[test]
fn impossible_devices_are_refused() {
    let create = |sizes: Vec<u16>, refuse: bool| {
        let hypervisor = FakeHypervisor::default();
        hypervisor.refuse(refuse);
        let device = Box::new(RecordingDevice {
            record: Default::default(),
            features: 0,
            sizes,
        });
        VirtioMmio::new(device, 0x1000, 5, memory(), &hypervisor, &hypervisor)
    };
    assert!(create(vec![1, 32768], false).is_ok());
    assert!(create(vec![3], false).is_err());
    assert!(create(vec![0], false).is_err());
    assert!(create(vec![1], true).is_err());
}
