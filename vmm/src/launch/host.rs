//! What this host can give to a machine.

use std::fs;
use std::io;

use thiserror::Error;

use super::spec::{LaunchSpec, MAX_CPUS, MIB, MIN_MEMORY};
use crate::kvm::probe::{ProbeError, probe};

/// Why this host cannot run the machine.
#[derive(Debug, Error)]
pub enum Error {
    #[error("A machine of {0} vCPUs cannot be made: the number must be 1 to {MAX_CPUS}")]
    Cpus(u8),
    #[error(
        "A machine of {0} bytes of memory cannot be made: it must be a whole number of MiB and \
         at least {least} MiB, such as 512M", least = MIN_MEMORY / MIB
    )]
    Memory(u64),
    #[error("A machine of {} MiB of memory does not fit this host, which has {} MiB", .asked / MIB, .total / MIB)]
    TooMuchMemory { asked: u64, total: u64 },
    #[error("The host's memory cannot be learnt from /proc/meminfo")]
    MemInfo(#[source] io::Error),
    #[error(transparent)]
    Kvm(#[from] ProbeError),
}

/// Refuses a machine that is too big for this host, or no machine.
pub(crate) fn check_size(spec: &LaunchSpec) -> Result<(), Error> {
    if !(1..=MAX_CPUS).contains(&spec.cpus) {
        return Err(Error::Cpus(spec.cpus));
    }
    if spec.memory < MIN_MEMORY || !spec.memory.is_multiple_of(MIB) {
        return Err(Error::Memory(spec.memory));
    }
    let total = memory()?.total;
    if spec.memory > total {
        return Err(Error::TooMuchMemory {
            asked: spec.memory,
            total,
        });
    }
    Ok(())
}

/// Refuses a host that has no KVM to run a kernel with.
pub(crate) fn check_kvm() -> Result<(), Error> {
    probe()?;
    Ok(())
}

/// The host's memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) total: u64,
    pub(crate) available: u64,
}

/// Reads the host's memory.
pub(crate) fn memory() -> Result<Memory, Error> {
    let text = fs::read_to_string("/proc/meminfo").map_err(Error::MemInfo)?;
    parse_meminfo(&text).ok_or_else(|| Error::MemInfo(io::ErrorKind::InvalidData.into()))
}

fn parse_meminfo(text: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name))?;
        let kib = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
        kib.checked_mul(1024)
    };
    Some(Memory {
        total: field("MemTotal:")?,
        available: field("MemAvailable:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_in_kib() {
        let text = "MemTotal:       3000 kB\nMemFree: 1 kB\nMemAvailable:    2000 kB\n";
        let memory = parse_meminfo(text).unwrap();
        assert_eq!(memory.total, 3000 * 1024);
        assert_eq!(memory.available, 2000 * 1024);
        assert_eq!(parse_meminfo("MemTotal: 3000 pages\n"), None);
        assert!(super::memory().is_ok());
    }
}
