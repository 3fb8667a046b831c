//! What this process may do, and giving it up.

use std::io;

use nix::sys::prctl;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// A user who owns nothing (`nobody`, on all distributions).
pub(crate) const NOBODY: u32 = 65534;

/// What a process needs that makes sockets for another user, shuts itself in a directory,
/// becomes that user, and can be ended by its parent then.
const TO_BECOME_NOBODY: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::KILL);

/// The capabilities that the calling thread has in effect.
pub(crate) fn own() -> CapabilitySet {
    // Fails for processes that are not there only.
    capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective)
}

/// See [`TO_BECOME_NOBODY`].
pub(crate) fn can_become_nobody() -> bool {
    own().contains(TO_BECOME_NOBODY)
}

/// Gives up all capabilities but those of `kept` that the calling thread has; nothing brings
/// them back to it and the threads that it starts later.
pub(crate) fn keep_only(kept: CapabilitySet) -> io::Result<()> {
    let kept = kept & own();
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets)?;
    prctl::set_no_new_privs()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_are_those_that_the_kernel_tells() {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
        let set = u64::from_str_radix(line.unwrap().trim(), 16).unwrap();
        assert_eq!(own().bits(), set);
    }

    #[test]
    fn what_is_not_kept_is_gone_for_good() {
        // In a thread of its own: these sets belong to threads.
        std::thread::spawn(|| {
            let had = own();
            keep_only(CapabilitySet::KILL).unwrap();
            assert_eq!(own(), had & CapabilitySet::KILL);
            let _ = keep_only(CapabilitySet::KILL | CapabilitySet::SYS_ADMIN);
            assert_eq!(own(), had & CapabilitySet::KILL);
            assert!(!can_become_nobody());
        })
        .join()
        .unwrap();
    }
}
