//! An address space (port I/O or memory-mapped I/O) and the devices that answer in it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// A device that answers reads and writes of one range of an address space.
///
/// Called by vCPU threads, several at once; a device guards its own state. `offset` counts
/// from the start of the range, and `offset + data.len()` never passes its end. `data` is
/// 1, 2, 4 or 8 bytes long, little-endian.
pub trait BusDevice: Send + Sync {
    /// Fills `data` with what the guest reads at `offset`.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Takes what the guest wrote at `offset`.
    fn write(&self, offset: u64, data: &[u8]);
}

/// Why a range was not added to a [`Bus`].
#[derive(Debug, Error)]
pub enum BusError {
    /// The range is empty or passes the end of the address space.
    #[error("Range {base:#x}+{len:#x} is empty or too long")]
    BadRange { base: u64, len: u64 },
    /// Another device answers in a part of the range.
    #[error("Range {base:#x}+{len:#x} overlaps one in use")]
    Overlap { base: u64, len: u64 },
}

/// Ranges of one address space, each with its device. Built once, then only read.
#[derive(Default)]
pub struct Bus {
    /// By first address: length and device.
    ranges: BTreeMap<u64, (u64, Arc<dyn BusDevice>)>,
}

impl Bus {
    /// Gives `base .. base + len` to `device`.
    pub fn insert(
        &mut self,
        base: u64,
        len: u64,
        device: Arc<dyn BusDevice>,
    ) -> Result<(), BusError> {
        let end = base
            .checked_add(len)
            .filter(|_| len > 0)
            .ok_or(BusError::BadRange { base, len })?;
        if let Some((&other, (other_len, _))) = self.ranges.range(..end).next_back()
            && other + other_len > base
        {
            return Err(BusError::Overlap { base, len });
        }
        self.ranges.insert(base, (len, device));
        Ok(())
    }

    /// Reads at `addr`; all ones, as on a bus that nobody drives, where no device answers.
    pub fn read(&self, addr: u64, data: &mut [u8]) {
        match self.find(addr, data.len()) {
            Some((device, offset)) => device.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Writes at `addr`; lost where no device answers.
    pub fn write(&self, addr: u64, data: &[u8]) {
        if let Some((device, offset)) = self.find(addr, data.len()) {
            device.write(offset, data);
        }
    }

    fn find(&self, addr: u64, len: usize) -> Option<(&dyn BusDevice, u64)> {
        let (&base, (range_len, device)) = self.ranges.range(..=addr).next_back()?;
        let offset = addr - base;
        let end = offset.checked_add(len as u64)?;
        (end <= *range_len).then_some((device.as_ref(), offset))
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.ranges.iter().map(|(base, (len, _))| (base, len)))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<(u64, Vec<u8>)>>);

    impl BusDevice for Recorder {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(u8::try_from(offset).unwrap());
        }

        fn write(&self, offset: u64, data: &[u8]) {
            self.0.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    #[test]
    fn accesses_reach_the_device_with_an_offset() {
        let device = Arc::new(Recorder::default());
        let mut bus = Bus::default();
        bus.insert(0x1000, 0x10, device.clone()).unwrap();
        let mut data = [0; 2];
        bus.read(0x100e, &mut data);
        assert_eq!(data, [0xe, 0xe]);
        bus.write(0x1000, &[7]);
        assert_eq!(*device.0.lock().unwrap(), [(0, vec![7])]);
    }

    #[test]
    fn accesses_that_no_device_answers_read_ones_and_are_lost() {
        let device = Arc::new(Recorder::default());
        let mut bus = Bus::default();
        bus.insert(0x1000, 0x10, device.clone()).unwrap();
        for addr in [0xfff, 0x100f, 0x1010, u64::MAX] {
            let mut data = [0; 2];
            bus.read(addr, &mut data);
            assert_eq!(data, [0xff; 2], "at {addr:#x}");
            bus.write(addr, &data);
        }
        assert!(device.0.lock().unwrap().is_empty());
    }

    #[test]
    fn overlapping_and_empty_ranges_are_refused() {
        let mut bus = Bus::default();
        bus.insert(0x1000, 0x10, Arc::new(Recorder::default()))
            .unwrap();
        for (base, len) in [(0x1000, 1), (0xfff, 2), (0x100f, 1), (0x0, 0x10000)] {
            let added = bus.insert(base, len, Arc::new(Recorder::default()));
            assert!(
                matches!(added, Err(BusError::Overlap { .. })),
                "{base:#x}+{len:#x}"
            );
        }
        for (base, len) in [(0x2000, 0), (u64::MAX, 2)] {
            let added = bus.insert(base, len, Arc::new(Recorder::default()));
            assert!(matches!(added, Err(BusError::BadRange { .. })));
        }
        bus.insert(0x1010, 1, Arc::new(Recorder::default()))
            .unwrap();
    }
}
