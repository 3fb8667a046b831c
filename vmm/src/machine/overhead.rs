//! What the machine process costs its host besides the guest's memory.

use std::fs::File;
use std::io::{self, Read, Seek};

use crate::memory::MEMFD_NAME;
use crate::smaps;

/// The process's own `smaps`, opened before the sandbox closes the file system.
#[derive(Debug)]
pub(super) struct Overhead(File);

impl Overhead {
    pub(super) fn open() -> io::Result<Self> {
        File::open("/proc/self/smaps").map(Self)
    }

    /// Bytes of memory that are not the guest's: the proportional set size of all other
    /// mappings.
    pub(super) fn bytes(&mut self) -> io::Result<u64> {
        let mut text = String::new();
        self.0.rewind()?;
        // Through `take`, which does not ask for the file's size first: the sandbox forbids it.
        (&self.0).take(u64::MAX).read_to_string(&mut text)?;
        Ok(sum(&text))
    }
}

/// Sums `Pss` of the mappings in `smaps` that are not of the guest's memfd.
fn sum(smaps: &str) -> u64 {
    let guest = format!("/memfd:{MEMFD_NAME} ");
    let fields = smaps::fields(smaps);
    let counted = fields.filter(|(mapping, name, _)| *name == "Pss" && !mapping.contains(&guest));
    counted.map(|(_, _, bytes)| bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_of_the_guest_do_not_count() {
        let smaps = "\
55d0c0000000-55d0c0200000 r-xp 00000000 08:01 1   /usr/bin/runcvm-vmm
Size:               2048 kB
Rss:                 100 kB
Pss:                  60 kB
Pss_Dirty:            10 kB
7f0000000000-7f0010000000 rw-s 00000000 00:01 7   /memfd:runcvm-guest (deleted)
Rss:              200000 kB
Pss:              200000 kB
7f0020000000-7f0020001000 rw-p 00000000 00:00 0 
Pss:                   4 kB
";
        assert_eq!(sum(smaps), 64 * 1024);
        assert_eq!(sum(""), 0);
    }

    #[test]
    fn this_process_costs_something() {
        let mut overhead = Overhead::open().unwrap();
        assert!(overhead.bytes().unwrap() > 0);
        assert!(overhead.bytes().unwrap() > 0);
    }
}
