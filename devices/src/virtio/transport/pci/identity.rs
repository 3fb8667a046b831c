//! What the configuration space of a virtio-pci function says (§4.1.2, §4.1.4).

use super::{
    BAR_SIZE, COMMON, DEVICE, ISR, MSIX_PENDING, MSIX_TABLE, NOTIFY, NOTIFY_MULTIPLIER, PAGE,
    common,
};
use crate::pci::{ConfigSpace, Identity, MSIX_CONTROL_WRITABLE};
use crate::virtio::DeviceType;

const VENDOR: u16 = 0x1af4;
const FIRST_DEVICE: u16 = 0x1040;

// Capability identifiers (PCI 3.0, appendix H).
const VENDOR_SPECIFIC: u8 = 0x09;
const MSIX: u8 = 0x11;

// Types of the vendor-specific capability (§4.1.4).
const COMMON_CFG: u8 = 1;
const NOTIFY_CFG: u8 = 2;
const ISR_CFG: u8 = 3;
const DEVICE_CFG: u8 = 4;
const PCI_CFG: u8 = 5;

// Fields of the configuration access capability (§4.1.4.9), from its start.
pub(super) const WINDOW_BAR: u16 = 4;
pub(super) const WINDOW_OFFSET: u16 = 8;
pub(super) const WINDOW_LENGTH: u16 = 12;
pub(super) const WINDOW_DATA: u16 = 16;

/// Where registers with an effect are in configuration space.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// The message control register of MSI-X.
    pub(super) msix_control: u16,
    /// The configuration access capability.
    pub(super) window: u16,
}

/// The configuration space of a device with its BAR at `bar`.
pub(super) fn config_space(kind: DeviceType, queues: u16, bar: u64) -> (ConfigSpace, Layout) {
    let mut config = ConfigSpace::new(&Identity {
        vendor: VENDOR,
        device: FIRST_DEVICE + kind as u16,
        revision: 1,
        class: class(kind),
        subsystem_vendor: VENDOR,
        subsystem: FIRST_DEVICE + kind as u16,
    });
    config.set_bar(bar, BAR_SIZE);

    // One vector more than there are queues, written as the number less one.
    let mut msix = [0; 10];
    msix[..2].copy_from_slice(&queues.to_le_bytes());
    msix[2..6].copy_from_slice(&MSIX_TABLE.to_le_bytes());
    msix[6..].copy_from_slice(&MSIX_PENDING.to_le_bytes());
    let msix = config.add_capability(MSIX, &msix, &MSIX_CONTROL_WRITABLE.to_le_bytes());

    let common_size = u32::from(common::SIZE);
    let notify_size = u32::from(queues) * NOTIFY_MULTIPLIER;
    let multiplier = NOTIFY_MULTIPLIER.to_le_bytes();
    for (kind, offset, length, extra) in [
        (COMMON_CFG, COMMON, common_size, &[][..]),
        (NOTIFY_CFG, NOTIFY, notify_size, &multiplier),
        (ISR_CFG, ISR, 1, &[]),
        (DEVICE_CFG, DEVICE, PAGE, &[]),
    ] {
        let body = structure(kind, offset, length, extra);
        config.add_capability(VENDOR_SPECIFIC, &body, &[]);
    }

    let body = structure(PCI_CFG, 0, 0, &[0; 4]);
    let mut writable = [0; 18];
    writable[2] = 0xff; // bar
    writable[6..18].fill(0xff); // offset, length, data
    let window = config.add_capability(VENDOR_SPECIFIC, &body, &writable);
    (
        config,
        Layout {
            msix_control: msix + 2,
            window,
        },
    )
}

/// The body of a vendor-specific capability for a structure in BAR 0 (§4.1.4).
fn structure(kind: u8, offset: u32, length: u32, extra: &[u8]) -> Vec<u8> {
    let mut body = vec![0, kind, 0, 0, 0, 0];
    body.extend(offset.to_le_bytes());
    body.extend(length.to_le_bytes());
    body.extend(extra);
    // Its first byte is the length of the capability, the two bytes before it included.
    body[0] = u8::try_from(body.len() + 2).expect("at most 20 bytes");
    body
}

/// Base class, sub-class and programming interface (PCI 3.0, appendix D).
fn class(kind: DeviceType) -> u32 {
    match kind {
        DeviceType::Net => 0x02_00_00,
        DeviceType::Block | DeviceType::Fs => 0x01_80_00,
        DeviceType::Console | DeviceType::Vsock => 0x07_80_00,
        DeviceType::Entropy => 0xff_00_00,
    }
}
