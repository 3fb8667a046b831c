//! What this process may do, and giving it up.

use std::io;

use nix::errno::Errno;
use nix::sys::prctl;

/// Capabilities by number (capabilities(7)).
pub(crate) const CAP_CHOWN: u32 = 0;
pub(crate) const CAP_DAC_OVERRIDE: u32 = 1;
pub(crate) const CAP_KILL: u32 = 5;
pub(crate) const CAP_SETGID: u32 = 6;
pub(crate) const CAP_SETUID: u32 = 7;
pub(crate) const CAP_SYS_CHROOT: u32 = 18;
pub(crate) const CAP_SYS_ADMIN: u32 = 21;

/// A user who owns nothing (`nobody`, on all distributions).
pub(crate) const NOBODY: u32 = 65534;

/// `struct __user_cap_header_struct` (capget(2)).
#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

impl Header {
    /// Of the calling thread, in `_LINUX_CAPABILITY_VERSION_3`.
    const OWN: Self = Self {
        version: 0x2008_0522,
        pid: 0,
    };
}

/// Two of `struct __user_cap_data_struct`, low words and high: effective, permitted,
/// inheritable.
type Sets = [[u32; 3]; 2];

/// The capabilities that the calling thread has in effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capabilities(u64);

impl Capabilities {
    const TO_BECOME_NOBODY: [u32; 5] =
        [CAP_CHOWN, CAP_SYS_CHROOT, CAP_SETUID, CAP_SETGID, CAP_KILL];

    pub(crate) fn own() -> Self {
        let mut header = Header::OWN;
        let mut sets = Sets::default();
        // SAFETY: the header is whole, and version 3 writes two sets of three words.
        let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) };
        // Fails only for a header that is none.
        Self(if result == 0 {
            u64::from(sets[0][0]) | u64::from(sets[1][0]) << 32
        } else {
            0
        })
    }

    pub(crate) fn have(self, capability: u32) -> bool {
        self.0 & (1 << capability) != 0
    }

    /// A process can make sockets for another user, shut itself in a directory, become that
    /// user, and be ended by its parent then.
    pub(crate) fn can_become_nobody(self) -> bool {
        Self::TO_BECOME_NOBODY
            .iter()
            .all(|&capability| self.have(capability))
    }
}

/// Gives up all capabilities but those of `kept` that the calling thread has; nothing brings
/// them back to it and the threads that it starts later.
pub(crate) fn keep_only(kept: &[u32]) -> io::Result<()> {
    let own = Capabilities::own();
    let kept = kept.iter().filter(|&&capability| own.have(capability));
    // All of those that we name are in the first word.
    let set = kept.fold(0_u32, |set, &capability| set | 1 << capability);
    let sets: Sets = [[set, set, 0], [0, 0, 0]];
    let mut header = Header::OWN;
    // SAFETY: the header is whole, and version 3 reads two sets of three words.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) };
    Errno::result(result)?;
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
        assert_eq!(Capabilities::own(), Capabilities(set));
        let all = Capabilities::TO_BECOME_NOBODY;
        let sum = all.iter().fold(0, |set, bit| set | 1 << bit);
        assert!(Capabilities(sum).can_become_nobody());
        assert!(!Capabilities(sum & !(1 << CAP_KILL)).can_become_nobody());
    }

    #[test]
    fn what_is_not_kept_is_gone_for_good() {
        // In a thread of its own: these sets belong to threads.
        std::thread::spawn(|| {
            let had = Capabilities::own();
            keep_only(&[CAP_KILL]).unwrap();
            let has = Capabilities::own();
            assert_eq!(has.0, had.0 & (1 << CAP_KILL));
            let _ = keep_only(&[CAP_KILL, CAP_SYS_ADMIN]);
            assert_eq!(Capabilities::own(), has);
        })
        .join()
        .unwrap();
    }
}
