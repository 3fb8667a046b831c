//! The common configuration structure (§4.1.4.3).

use super::interrupt::MsixInterrupt;
use crate::virtio::transport::state::{DeviceState, QueueConfig, set_high, set_low};

/// Bytes of the structure; the fields after these need features that are never offered.
pub(super) const SIZE: u16 = 0x38;

const DEVICE_FEATURE_SELECT: u16 = 0x00;
const DEVICE_FEATURE: u16 = 0x04;
const DRIVER_FEATURE_SELECT: u16 = 0x08;
const DRIVER_FEATURE: u16 = 0x0c;
const CONFIG_MSIX_VECTOR: u16 = 0x10;
const NUM_QUEUES: u16 = 0x12;
const DEVICE_STATUS: u16 = 0x14;
const CONFIG_GENERATION: u16 = 0x15;
const QUEUE_SELECT: u16 = 0x16;
const QUEUE_SIZE: u16 = 0x18;
const QUEUE_MSIX_VECTOR: u16 = 0x1a;
const QUEUE_ENABLE: u16 = 0x1c;
const QUEUE_NOTIFY_OFF: u16 = 0x1e;
const QUEUE_DESC: u16 = 0x20;
const QUEUE_DESC_HIGH: u16 = 0x24;
const QUEUE_DRIVER: u16 = 0x28;
const QUEUE_DRIVER_HIGH: u16 = 0x2c;
const QUEUE_DEVICE: u16 = 0x30;
const QUEUE_DEVICE_HIGH: u16 = 0x34;

type State = DeviceState<MsixInterrupt>;

/// Reads bytes at any offset and of any length; zeroes past the end.
pub(super) fn read(state: &State, interrupt: &MsixInterrupt, offset: u16, data: &mut [u8]) {
    let structure = structure(state, interrupt);
    let bytes = structure.iter().skip(usize::from(offset));
    data.iter_mut()
        .zip(bytes)
        .for_each(|(to, from)| *to = *from);
}

fn structure(state: &State, interrupt: &MsixInterrupt) -> [u8; SIZE as usize] {
    let mut bytes = [0; SIZE as usize];
    let mut put = |at: u16, value: &[u8]| {
        let at = usize::from(at);
        bytes[at..at + value.len()].copy_from_slice(value);
    };
    put(DEVICE_FEATURE_SELECT, &state.offered_page().to_le_bytes());
    put(DEVICE_FEATURE, &state.offered_features().to_le_bytes());
    put(DRIVER_FEATURE_SELECT, &state.accepted_page().to_le_bytes());
    put(DRIVER_FEATURE, &state.accepted_features().to_le_bytes());
    put(CONFIG_MSIX_VECTOR, &interrupt.config_vector().to_le_bytes());
    put(NUM_QUEUES, &state.queue_count().to_le_bytes());
    put(DEVICE_STATUS, &state.status().to_le_bytes()[..1]);
    put(
        CONFIG_GENERATION,
        &state.config_generation().to_le_bytes()[..1],
    );
    put(QUEUE_SELECT, &state.selected().to_le_bytes()[..2]);
    if let Some(queue) = state.queue() {
        let vector = interrupt.queue_vector(state.selected());
        put(QUEUE_SIZE, &queue.size.to_le_bytes());
        put(QUEUE_MSIX_VECTOR, &vector.to_le_bytes());
        put(QUEUE_ENABLE, &u16::from(queue.enabled).to_le_bytes());
        put(QUEUE_NOTIFY_OFF, &state.selected().to_le_bytes()[..2]);
        put(QUEUE_DESC, &queue.desc.to_le_bytes());
        put(QUEUE_DRIVER, &queue.avail.to_le_bytes());
        put(QUEUE_DEVICE, &queue.used.to_le_bytes());
    }
    bytes
}

/// Takes a write of a whole field, or of either half or all of a 64-bit one (§4.1.3.1).
pub(super) fn write(state: &mut State, interrupt: &MsixInterrupt, offset: u16, data: &[u8]) {
    match *data {
        [value] if offset == DEVICE_STATUS => state.set_status(value.into()),
        [a, b] => write_16(state, interrupt, offset, u16::from_le_bytes([a, b])),
        [a, b, c, d] => write_32(state, offset, u32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] if matches!(offset, QUEUE_DESC | QUEUE_DRIVER | QUEUE_DEVICE) => {
            write_32(state, offset, u32::from_le_bytes([a, b, c, d]));
            write_32(state, offset + 4, u32::from_le_bytes([e, f, g, h]));
        }
        _ => {}
    }
}

fn write_16(state: &mut State, interrupt: &MsixInterrupt, offset: u16, value: u16) {
    match offset {
        CONFIG_MSIX_VECTOR => interrupt.set_config_vector(value),
        QUEUE_SELECT => state.select_queue(value.into()),
        QUEUE_SIZE => state.configure(|queue| queue.size = value),
        // Frozen with the rest of the queue, for a vhost-user backend holds the eventfd of the
        // vector that was set at activation.
        QUEUE_MSIX_VECTOR if state.configurable() => {
            interrupt.set_queue_vector(state.selected(), value);
        }
        // A driver cannot disable a queue (§4.1.4.3.2).
        QUEUE_ENABLE if value == 1 => state.enable_queue(true),
        _ => {}
    }
}

fn write_32(state: &mut State, offset: u16, value: u32) {
    let mut configure = |change: fn(&mut QueueConfig, u32)| {
        state.configure(|queue| change(queue, value));
    };
    match offset {
        DEVICE_FEATURE_SELECT => state.select_offered_page(value),
        DRIVER_FEATURE_SELECT => state.select_accepted_page(value),
        DRIVER_FEATURE => state.accept_features(value),
        QUEUE_DESC => configure(|q, v| set_low(&mut q.desc, v)),
        QUEUE_DESC_HIGH => configure(|q, v| set_high(&mut q.desc, v)),
        QUEUE_DRIVER => configure(|q, v| set_low(&mut q.avail, v)),
        QUEUE_DRIVER_HIGH => configure(|q, v| set_high(&mut q.avail, v)),
        QUEUE_DEVICE => configure(|q, v| set_low(&mut q.used, v)),
        QUEUE_DEVICE_HIGH => configure(|q, v| set_high(&mut q.used, v)),
        _ => {}
    }
}
