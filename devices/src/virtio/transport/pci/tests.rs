//! What only virtio-pci has.

use crate::bus::BusDevice;
use crate::hypervisor::MsiMessage;
use crate::pci::PciFunction;
use crate::virtio::transport::testing::FakeHypervisor;
use crate::virtio::transport::tests::{Machine, capabilities, msix_control, read, read_32};

fn config_32(function: &dyn PciFunction, offset: u16) -> u32 {
    let mut data = [0; 4];
    function.read_config(offset, &mut data);
    u32::from_le_bytes(data)
}

const TABLE: u64 = 0x4000;
const PENDING: u64 = 0x5000;
const ENABLE: u8 = 0x80;
const FUNCTION_MASK: u8 = 0x40;

/// Writes the high byte of the message control register.
fn set_control(function: &dyn PciFunction, value: u8) {
    function.write_config(msix_control(function) + 1, &[value]);
}

fn set_mask(bar: &dyn BusDevice, vector: u64, mask: u32) {
    bar.write(TABLE + 16 * vector + 12, &mask.to_le_bytes());
}

#[test]
fn it_is_a_modern_network_card() {
    let (_, pci) = Machine::pci();
    assert_eq!(config_32(&*pci, 0x00), 0x1041_1af4);
    assert_eq!(config_32(&*pci, 0x08), 0x0200_0001);
    assert_eq!(config_32(&*pci, 0x2c), 0x1041_1af4);
    let interrupt_pin = config_32(&*pci, 0x3c) >> 8 & 0xff;
    assert_eq!(interrupt_pin, 0);
    assert_eq!(config_32(&*pci, 0x100), 0, "no extended capabilities");
}

#[test]
fn capabilities_lead_to_the_structures() {
    let (_, pci) = Machine::pci();
    let found = capabilities(&*pci);
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let structures: Vec<_> = found
        .iter()
        .filter(|(_, bytes)| bytes[0] == 9)
        .map(|(_, b)| (b[3], b[2], b[4], word(b, 8), word(b, 12)))
        .collect();
    assert_eq!(
        structures,
        [
            (1, 16, 0, 0x0000, 0x38),
            (2, 20, 0, 0x3000, 12),
            (3, 16, 0, 0x1000, 1),
            (4, 16, 0, 0x2000, 0x1000),
            (5, 20, 0, 0, 0),
        ]
    );
    let (_, notify) = found.iter().find(|(_, b)| (b[0], b[3]) == (9, 2)).unwrap();
    assert_eq!(word(notify, 16), 4);
    let (_, msix) = found.iter().find(|(_, b)| b[0] == 0x11).unwrap();
    assert_eq!(msix[2..4], [3, 0], "four vectors");
    assert_eq!(word(msix, 4), 0x4000);
    assert_eq!(word(msix, 8), 0x5000);
}

#[test]
fn the_bar_tells_its_size_and_stays() {
    let (_, pci) = Machine::pci();
    let bars = || [config_32(&*pci, 0x10), config_32(&*pci, 0x14)];
    let assigned = [0xd000_0004, 0];
    assert_eq!(bars(), assigned);
    pci.write_config(0x10, &[0xff; 4]);
    pci.write_config(0x14, &[0xff; 4]);
    assert_eq!(bars(), [0xffff_8004, 0xffff_ffff]);
    pci.write_config(0x10, &0xd000_0000u32.to_le_bytes());
    pci.write_config(0x14, &[0; 4]);
    assert_eq!(bars(), assigned);
    pci.write_config(0x10, &0xe000_0000u32.to_le_bytes());
    pci.write_config(0x14, &[1, 0, 0, 0]);
    assert_eq!(bars(), assigned);
    for other in (0x18..0x28).step_by(4) {
        pci.write_config(other, &[0xff; 4]);
        assert_eq!(config_32(&*pci, other), 0, "BAR at {other:#x}");
    }
}

#[test]
fn commands_are_remembered() {
    let (_, pci) = Machine::pci();
    pci.write_config(4, &[0xff; 2]);
    assert_eq!(config_32(&*pci, 4), 0x0010_0406);
}

#[test]
fn routes_are_set_once_a_message_is_complete_and_wanted() {
    let (m, pci) = Machine::pci();
    assert_eq!(m.hypervisor.msi_count(), 4);
    set_control(&*pci, ENABLE | FUNCTION_MASK);
    pci.write(TABLE + 16, &0x1_fee0_1000u64.to_le_bytes());
    pci.write(TABLE + 24, &0x4041u32.to_le_bytes());
    set_mask(&*pci, 1, 0);
    assert_eq!(m.hypervisor.take_routes(), []);
    set_control(&*pci, ENABLE);
    let gsi = FakeHypervisor::FIRST_MSI + 1;
    let mut message = MsiMessage {
        address: 0x1_fee0_1000,
        data: 0x4041,
    };
    assert_eq!(m.hypervisor.take_routes(), [(gsi, message)]);
    // Masking and unmasking alone costs nothing.
    set_mask(&*pci, 1, 1);
    set_mask(&*pci, 1, 0);
    assert_eq!(m.hypervisor.take_routes(), []);
    // A new message, as when the interrupt moves to another vCPU.
    set_mask(&*pci, 1, 1);
    pci.write(TABLE + 16, &0xfee0_2000u32.to_le_bytes());
    pci.write(TABLE + 20, &0u32.to_le_bytes());
    assert_eq!(m.hypervisor.take_routes(), []);
    set_mask(&*pci, 1, 0);
    message.address = 0xfee0_2000;
    assert_eq!(m.hypervisor.take_routes(), [(gsi, message)]);
}

#[test]
fn the_table_reads_back() {
    let (_, pci) = Machine::pci();
    assert_eq!(read_32(&*pci, TABLE + 12), 1, "masked at first");
    pci.write(TABLE, &0x0123_4567_89ab_cdefu64.to_le_bytes());
    pci.write(TABLE + 8, &0x0000_0000_1122_3344u64.to_le_bytes());
    assert_eq!(
        u64::from_le_bytes(read(&*pci, TABLE)),
        0x0123_4567_89ab_cdef
    );
    assert_eq!(u64::from_le_bytes(read(&*pci, TABLE + 8)), 0x1122_3344);
    assert_eq!(u16::from_le_bytes(read(&*pci, TABLE + 5)), 0x2345);
    // Undefined widths and alignments are lost; so are entries past the last.
    pci.write(TABLE + 1, &[0xff]);
    pci.write(TABLE + 2, &[0xff; 4]);
    pci.write(TABLE + 4, &[0xff; 8]);
    pci.write(TABLE + 64, &[0xff; 4]);
    assert_eq!(
        u64::from_le_bytes(read(&*pci, TABLE)),
        0x0123_4567_89ab_cdef
    );
    assert_eq!(read_32(&*pci, TABLE + 64), 0);
}

#[test]
fn a_masked_vector_is_pending_and_delivered_once_unmasked() {
    let (m, pci) = Machine::pci();
    m.start();
    let pending = || {
        let [bits] = read(&*pci, PENDING);
        bits
    };
    set_mask(&*pci, 1, 1);
    m.record().interrupt().queue_used(1);
    m.record().interrupt().queue_used(1);
    m.record().interrupt().queue_used(0);
    assert_eq!(pending(), 0b10);
    assert_eq!(m.driver.interrupts(1), 0);
    assert_eq!(m.driver.interrupts(0), 1);
    set_mask(&*pci, 1, 0);
    assert_eq!(pending(), 0);
    assert_eq!(m.driver.interrupts(1), 1);

    set_control(&*pci, ENABLE | FUNCTION_MASK);
    m.record().interrupt().queue_used(2);
    m.record().interrupt().config_changed();
    assert_eq!(pending(), 0b1100);
    assert_eq!(m.driver.interrupts(2), 0);
    set_control(&*pci, ENABLE);
    assert_eq!(pending(), 0);
    assert_eq!(m.driver.interrupts(2), 1);
    assert_eq!(m.driver.config_interrupts(), 1);

    // What is pending ends with the driver that it was for.
    set_mask(&*pci, 1, 1);
    m.record().interrupt().queue_used(1);
    m.driver.set_status(0);
    assert_eq!(pending(), 0);
    set_mask(&*pci, 1, 0);
    assert_eq!(m.driver.interrupts(1), 0);
}

#[test]
fn without_msix_the_isr_status_tells() {
    let (m, pci) = Machine::pci();
    m.start();
    let isr = || {
        let [isr] = read(&*pci, 0x1000);
        isr
    };
    m.record().interrupt().queue_used(0);
    assert_eq!(isr(), 0);
    assert_eq!(m.driver.interrupts(0), 1);
    set_control(&*pci, 0);
    m.record().interrupt().queue_used(0);
    assert_eq!(isr(), 1);
    m.record().interrupt().queue_used(0);
    m.record().interrupt().config_changed();
    assert_eq!(isr(), 3);
    assert_eq!(isr(), 0, "reading clears");
    assert_eq!(m.driver.interrupts(0), 0);
}

fn select_queue(bar: &dyn BusDevice, queue: u16) {
    bar.write(22, &queue.to_le_bytes());
}

fn set_queue_vector(bar: &dyn BusDevice, queue: u16, vector: u16) -> u16 {
    select_queue(bar, queue);
    bar.write(26, &vector.to_le_bytes());
    u16::from_le_bytes(read(bar, 26))
}

fn set_config_vector(bar: &dyn BusDevice, vector: u16) -> u16 {
    bar.write(16, &vector.to_le_bytes());
    u16::from_le_bytes(read(bar, 16))
}

#[test]
fn vectors_that_do_not_exist_read_back_as_none() {
    let (m, pci) = Machine::pci();
    m.negotiate();
    assert_eq!(u16::from_le_bytes(read(&*pci, 16)), 0xffff);
    for (vector, taken) in [(3, 3), (4, 0xffff), (0, 0), (0xffff, 0xffff)] {
        assert_eq!(set_queue_vector(&*pci, 2, vector), taken);
        assert_eq!(set_config_vector(&*pci, vector), taken);
    }
    assert_eq!(set_queue_vector(&*pci, 3, 1), 0, "there is no queue 3");
}

#[test]
fn a_queue_keeps_its_vector_while_the_driver_runs() {
    let (m, pci) = Machine::pci();
    m.start();
    assert_eq!(set_queue_vector(&*pci, 1, 2), 1);
    m.driver.set_status(0);
    select_queue(&*pci, 1);
    assert_eq!(u16::from_le_bytes(read(&*pci, 26)), 0xffff);
    assert_eq!(u16::from_le_bytes(read(&*pci, 16)), 0xffff);
}

#[test]
fn queues_can_share_a_vector_or_have_none() {
    let (m, pci) = Machine::pci();
    m.negotiate();
    (0..3).for_each(|queue| m.set_up_queue(queue));
    m.driver.set_up_interrupts();
    set_queue_vector(&*pci, 0, 1);
    set_queue_vector(&*pci, 2, 0xffff);
    m.finish();
    let record = m.record();
    let interrupt = record.interrupt();
    for queue in [0, 1] {
        interrupt.queue_used(queue);
        assert_eq!(m.driver.interrupts(1), 1);
        interrupt.call_fd(queue).unwrap().write(1).unwrap();
        assert_eq!(m.driver.interrupts(1), 1);
    }
    interrupt.queue_used(2);
    interrupt.call_fd(2).unwrap().write(1).unwrap();
    assert_eq!([0, 1, 2, 3].map(|v| m.driver.interrupts(v)), [0; 4]);
}

#[test]
fn a_message_that_is_refused_is_tried_again() {
    let (m, pci) = Machine::pci();
    m.start();
    m.hypervisor.take_routes();
    m.hypervisor.refuse(true);
    pci.write(TABLE, &0xfee0_3000u32.to_le_bytes());
    m.record().interrupt().queue_used(0);
    assert_eq!(m.driver.interrupts(0), 0);
    m.hypervisor.refuse(false);
    m.record().interrupt().queue_used(0);
    assert_eq!(m.hypervisor.take_routes().len(), 1);
    assert_eq!(m.driver.interrupts(0), 1);
}

#[test]
fn the_access_capability_reaches_the_bar() {
    let (m, pci) = Machine::pci();
    let (at, _) = capabilities(&*pci)
        .into_iter()
        .find(|(_, bytes)| (bytes[0], bytes[3]) == (9, 5))
        .unwrap();
    let aim = |bar: u8, offset: u32, length: u32| {
        pci.write_config(at + 4, &[bar]);
        pci.write_config(at + 8, &offset.to_le_bytes());
        pci.write_config(at + 12, &length.to_le_bytes());
    };
    let data = at + 16;
    aim(0, 20, 1);
    pci.write_config(data, &[3]);
    assert_eq!(m.driver.status(), 3);
    let mut status = [0];
    pci.read_config(data, &mut status);
    assert_eq!(status, [3]);

    aim(0, 0x2004, 4);
    assert_eq!(config_32(&*pci, data), 0x0706_0504);

    // The device may be reset from within the access.
    aim(0, 20, 1);
    pci.write_config(data, &[0]);
    assert_eq!(m.driver.status(), 0);

    // Another BAR, the end of ours, a length that is not the access's, an odd offset.
    for (bar, offset, length) in [
        (1, 20, 1),
        (0, 0x8000, 1),
        (0, u32::MAX, 1),
        (0, 20, 0),
        (0, 20, 4),
        (0, 20, u32::MAX),
    ] {
        aim(bar, offset, length);
        pci.write_config(data, &[3]);
        assert_eq!(m.driver.status(), 0, "bar {bar}, {offset:#x}+{length:#x}");
    }
    aim(0, 0x2001, 2);
    pci.write_config(data, &[9, 9]);
    let mut config = [0; 4];
    m.driver.read_config(0, &mut config);
    assert_eq!(config, [0, 1, 2, 3]);
}

#[test]
fn fields_are_written_whole() {
    let (m, pci) = Machine::pci();
    m.driver.set_status(1);
    pci.write(20, &[3, 0]);
    pci.write(20, &[3, 0, 0, 0]);
    pci.write(19, &[0, 3]);
    assert_eq!(m.driver.status(), 1);
    m.negotiate();
    m.set_up_queue(0);
    pci.write(28, &0u16.to_le_bytes());
    pci.write(28, &2u16.to_le_bytes());
    assert!(m.driver.enabled(0));
}

#[test]
fn impossible_devices_are_refused() {
    use std::sync::Arc;

    use crate::virtio::transport::pci::VirtioPci;
    use crate::virtio::transport::testing::{RecordingDevice, memory};

    let create = |sizes: Vec<u16>, refuse: bool| {
        let hypervisor = Arc::new(FakeHypervisor::default());
        hypervisor.refuse(refuse);
        let device = Box::new(RecordingDevice {
            record: Arc::default(),
            features: 0,
            sizes,
        });
        VirtioPci::new(device, 0x8000, memory(), hypervisor.clone(), &*hypervisor)
    };
    assert!(create(vec![1; 255], false).is_ok());
    assert!(create(vec![], false).is_ok());
    assert!(create(vec![1; 256], false).is_err());
    assert!(create(vec![3], false).is_err());
    assert!(create(vec![0], false).is_err());
    assert!(create(vec![1], true).is_err());
}
