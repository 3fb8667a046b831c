//! Memory of processes, from proc(5).

use std::fs;
use std::io;

use runcvm_vmm::memory::MEMFD_NAME;
use serde::Serialize;

/// What one process has in memory that no other has, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Private {
    /// Its own.
    pub(crate) own: u64,
    /// Pages of a guest's memory that it alone has mapped.
    pub(crate) guest: u64,
}

/// Reads that of process `pid`.
pub(crate) fn private(pid: u32) -> io::Result<Private> {
    fs::read_to_string(format!("/proc/{pid}/smaps")).map(|text| sum(&text))
}

/// Sums `Private_Clean` and `Private_Dirty`; the guest's memory is told by its file's name.
fn sum(smaps: &str) -> Private {
    let guest_file = format!("/memfd:{MEMFD_NAME} ");
    let mut is_guest = false;
    let mut private = Private::default();
    for line in smaps.lines() {
        // A mapping's first line begins with its address range; the others with a name.
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        match first.strip_suffix(':') {
            None => is_guest = line.contains(&guest_file),
            Some("Private_Clean" | "Private_Dirty") => {
                let kib = rest.trim().trim_end_matches(" kB");
                let bytes = kib.parse::<u64>().unwrap_or(0) * 1024;
                *if is_guest {
                    &mut private.guest
                } else {
                    &mut private.own
                } += bytes;
            }
            Some(_) => {}
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
        assert_eq!(sum(smaps), expected);
        assert_eq!(sum(""), Private::default());
    }

    #[test]
    fn this_process_has_memory_of_its_own() {
        assert!(private(std::process::id()).unwrap().own > 0);
    }
}
