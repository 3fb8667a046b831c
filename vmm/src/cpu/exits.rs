//! Counters of vCPU exits to the monitor: what a guest's operations cost.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a vCPU left the guest for the monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    IoRead,
    IoWrite,
    MmioRead,
    MmioWrite,
    /// A signal: a pause, or the end.
    Interrupted,
    Other,
}

const NAMES: [(Exit, &str); 6] = [
    (Exit::IoRead, "io-read"),
    (Exit::IoWrite, "io-write"),
    (Exit::MmioRead, "mmio-read"),
    (Exit::MmioWrite, "mmio-write"),
    (Exit::Interrupted, "interrupted"),
    (Exit::Other, "other"),
];

/// Exits of one vCPU by reason. Counted by its thread alone, read by any.
#[derive(Debug, Default)]
pub struct Exits([AtomicU64; NAMES.len()]);

impl Exits {
    /// Counts one.
    pub fn count(&self, exit: Exit) {
        let counter = &self.0[exit as usize];
        // The only writer needs no locked instruction.
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Adds all counts to `sums`, by name.
    pub fn add_to(&self, sums: &mut BTreeMap<String, u64>) {
        for (exit, name) in NAMES {
            let count = self.0[exit as usize].load(Ordering::Relaxed);
            *sums.entry(name.to_owned()).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_summed_by_name() {
        let vcpus = [Exits::default(), Exits::default()];
        vcpus[0].count(Exit::MmioWrite);
        vcpus[1].count(Exit::MmioWrite);
        vcpus[1].count(Exit::Other);
        let mut sums = BTreeMap::new();
        for exits in &vcpus {
            exits.add_to(&mut sums);
        }
        assert_eq!(sums["mmio-write"], 2);
        assert_eq!(sums["other"], 1);
        assert_eq!(sums["io-read"], 0);
        assert_eq!(sums.len(), NAMES.len());
    }

    #[test]
    fn names_stand_at_their_own_index() {
        for (index, (exit, _)) in NAMES.iter().enumerate() {
            assert_eq!(*exit as usize, index);
        }
    }
}
