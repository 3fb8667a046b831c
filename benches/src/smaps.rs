//! Memory of processes, from proc(5).

use std::fs;
use std::io;

use runcvm_vmm::memory::MEMFD_NAME;
use runcvm_vmm::smaps;

/// What one process has in memory that no other has, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Private {
    /// Its own.
    pub(crate) own: u64,
    /// Pages of a guest's memory that it alone has mapped.
    pub(crate) guest: u64,
}

/// Reads that of process `pid`.
pub(crate) fn private(pid: u32) -> io::Result<Private> {
    let guest_file = format!("/memfd:{MEMFD_NAME} ");
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    Ok(sum(&smaps, |mapping| mapping.contains(&guest_file)))
}

/// Bytes that the monitor of a guest with `memory_mib` MiB alone has besides that memory: any
/// monitor's is in mappings larger than all others.
pub(crate) fn monitor(pid: u32, memory_mib: u32) -> io::Result<u64> {
    let large = u64::from(memory_mib) << 20 >> 2;
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    Ok(sum(&smaps, |mapping| len(mapping) >= Some(large)).own)
}

/// Bytes of the mapping whose first line this is.
fn len(mapping: &str) -> Option<u64> {
    let (start, rest) = mapping.split_once('-')?;
    let (end, _) = rest.split_once(' ')?;
    let address = |hex| u64::from_str_radix(hex, 16).ok();
    address(end)?.checked_sub(address(start)?)
}

/// Sums `Private_Clean` and `Private_Dirty`; `is_guest` tells the guest's memory by the first
/// line of a mapping.
fn sum(smaps: &str, is_guest: impl Fn(&str) -> bool) -> Private {
    let mut private = Private::default();
    for (mapping, name, bytes) in smaps::fields(smaps) {
        if !matches!(name, "Private_Clean" | "Private_Dirty") {
            continue;
        }
        match is_guest(mapping) {
            true => private.guest += bytes,
            false => private.own += bytes,
        }
    }
    private
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_pages_are_counted_apart() {
        let smaps = "\
55d0c0000000-55d0c0200000 r-xp 00000000 08:01 1   /usr/bin/runcvm-vmm
Rss:                 100 kB
Private_Clean:         8 kB
Private_Dirty:         4 kB
7f0000000000-7f0010000000 rw-s 00000000 00:01 7   /memfd:runcvm-guest (deleted)
Private_Clean:         0 kB
Private_Dirty:    200000 kB
7f0020000000-7f0020001000 rw-p 00000000 00:00 0 
Private_Dirty:         4 kB
";
        let expected = Private {
            own: 16 << 10,
            guest: 200_000 << 10,
        };
        let by_name = |mapping: &str| mapping.contains("runcvm-guest");
        assert_eq!(sum(smaps, by_name), expected);
        assert_eq!(
            sum(smaps, |mapping| len(mapping) == Some(1 << 28)),
            expected
        );
        assert_eq!(sum("", by_name), Private::default());
    }

    #[test]
    fn this_process_has_memory_of_its_own() {
        assert!(private(std::process::id()).unwrap().own > 0);
    }
}
