//! A port that the guest writes one byte to when it reaches a stage of its boot, so that the
//! monitor can tell the time.

use std::fmt;

use crate::bus::BusDevice;

/// A byte port whose writes are reported. It reads as ones, as a port without a device does.
pub struct BootMarks {
    report: Box<dyn Fn(u8) + Send + Sync>,
}

impl BootMarks {
    /// Calls `report` with each byte that is written, on the writing vCPU's thread.
    pub fn new(report: impl Fn(u8) + Send + Sync + 'static) -> Self {
        Self {
            report: Box::new(report),
        }
    }
}

impl BusDevice for BootMarks {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        for &mark in data {
            (self.report)(mark);
        }
    }
}

impl fmt::Debug for BootMarks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BootMarks").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn every_byte_is_reported_in_order() {
        let (sender, receiver) = mpsc::channel();
        let marks = BootMarks::new(move |mark| sender.send(mark).unwrap());
        marks.write(0, &[0x40]);
        marks.write(0, &[0x41, 0x42]);
        let mut data = [0];
        marks.read(0, &mut data);
        assert_eq!(data, [0xff]);
        drop(marks);
        assert_eq!(receiver.iter().collect::<Vec<_>>(), [0x40, 0x41, 0x42]);
    }
}
