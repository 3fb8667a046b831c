//! The end of the machine.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use nix::unistd::sync;
use runcvm_protocol::{ExitStatus, ToHost};

use crate::agent::Ended;
use crate::kernel_log;
use crate::procfs;
use crate::session::End;

/// How long the host may take to read the last message and hang up.
const DELIVERY: Duration = Duration::from_secs(5);

/// Ends the workload's session, all of whose output is queued, and the machine.
pub(crate) fn finish(ended: Ended) -> ! {
    clean_filesystems();
    if let Some(mut connection) = ended.connection {
        if let End::Exited(status) = ended.end {
            connection.queue(&ToHost::Exited(status));
        }
        connection.deliver(Instant::now() + DELIVERY);
    }
    power_off()
}

/// How a workload that was PID 1 of a PID namespace has ended, in the user's eyes.
///
/// No signal with a default effect but SIGKILL ends such a process, unless it called
/// reboot(2): then the kernel shows SIGINT for a power-off or halt, which here is a proper
/// end, and SIGHUP for a restart, which stays visible so that a restart policy sees it
/// (reboot(2), "Behavior inside PID namespaces").
pub(crate) fn namespace_end(status: ExitStatus) -> ExitStatus {
    match status {
        ExitStatus::Signal(2) => ExitStatus::Code(0),
        status => status,
    }
}

/// Switches the machine off.
pub(crate) fn power_off() -> ! {
    let Err(e) = reboot(RebootMode::RB_POWER_OFF);
    kernel_log::error(&format!("cannot switch off: {e}"));
    // As PID 1 this is a kernel panic, which the host notices too.
    std::process::abort()
}

/// Writes everything back, and leaves no filesystem of a block device in use. The workload
/// is gone by now.
fn clean_filesystems() {
    let mounts = read_mounts();
    if mounts.iter().any(|mount| mount.on_device) {
        // Last mounted, first unmounted; what is on top of a disk must go first.
        for mount in mounts
            .iter()
            .rev()
            .filter(|mount| mount.target != Path::new("/"))
        {
            let done = umount2(&mount.target, MntFlags::UMOUNT_NOFOLLOW);
            if done.is_err() && mount.on_device {
                remount_read_only(&mount.target);
            }
        }
    }
    sync();
}

fn remount_read_only(target: &Path) {
    const NONE: Option<&str> = None;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    if let Err(e) = mount(NONE, target, NONE, flags, NONE) {
        kernel_log::error(&format!("cannot unmount {}: {e}", target.display()));
    }
}

/// A mounted filesystem.
#[derive(Debug, PartialEq, Eq)]
struct Mounted {
    target: PathBuf,
    on_device: bool,
}

fn read_mounts() -> Vec<Mounted> {
    let mut list = Vec::new();
    let read = procfs::open()
        .and_then(|proc| Ok(proc.open(Path::new("self/mountinfo"), OFlag::O_RDONLY)?))
        .and_then(|file| File::from(file).read_to_end(&mut list));
    if let Err(e) = read {
        kernel_log::error(&format!("cannot list the mounts: {e}"));
    }
    parse_mounts(&list)
}

/// Parses `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).
fn parse_mounts(list: &[u8]) -> Vec<Mounted> {
    list.split(|&byte| byte == b'\n')
        .filter_map(parse_mount)
        .collect()
}

fn parse_mount(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = fields.nth(2)?;
    let target = unescape(fields.nth(1)?);
    let mut fields = fields.skip_while(|field| *field != b"-");
    let source = fields.nth(2)?;
    Some(Mounted {
        target: PathBuf::from(OsStr::from_bytes(&target)),
        // Filesystems that span devices, as btrfs does, have a number of no device.
        on_device: !device.starts_with(b"0:") || source.starts_with(b"/dev/"),
    })
}

/// Undoes the escapes of the list, a backslash and three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let digits = tail
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                plain.push(byte);
                rest = &tail[3..];
            }
            _ => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    use super::*;
    use crate::test_support::isolated;

    #[test]
    fn mounts_on_devices_are_told_apart() {
        let list = b"22 1 0:20 / / rw,relatime - virtiofs root rw\n\
            30 22 254:0 / /mnt/a\\040b rw - ext4 /dev/vda rw\n\
            31 22 0:33 /sub /data rw shared:1 master:2 - btrfs /dev/vdb rw\n\
            32 22 0:34 / /proc rw - proc proc rw\n";
        let found: Vec<_> = parse_mounts(list)
            .into_iter()
            .map(|mount| (mount.target.display().to_string(), mount.on_device))
            .collect();
        let expected = [
            ("/", false),
            ("/mnt/a b", true),
            ("/data", true),
            ("/proc", false),
        ];
        assert_eq!(found, expected.map(|(path, on)| (path.to_owned(), on)));
    }

    #[test]
    fn mounts_are_read_when_the_workload_and_its_proc_are_gone() {
        let namespaces = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS;
        isolated(namespaces, || {
            // SAFETY: the process has one thread.
            match unsafe { fork() }.unwrap() {
                ForkResult::Parent { child } => {
                    assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
                }
                ForkResult::Child => {
                    unshare(CloneFlags::CLONE_NEWPID).unwrap();
                    // SAFETY: as above.
                    if let ForkResult::Child = unsafe { fork() }.unwrap() {
                        // SAFETY: ends the workload, and nothing else.
                        unsafe { libc::_exit(0) }
                    }
                    waitpid(None, None).unwrap();
                    let found = read_mounts()
                        .iter()
                        .any(|mount| mount.target == Path::new("/"));
                    // SAFETY: ends this process without running anything of the test's.
                    unsafe { libc::_exit((!found).into()) }
                }
            }
        });
    }

    #[test]
    fn malformed_lines_are_no_mounts() {
        for line in [
            &b""[..],
            b"1 2",
            b"1 2 3:4 / /x rw",
            b"1 2 3:4 / /x rw -",
            b"- - - - - -",
        ] {
            assert_eq!(parse_mounts(line), [], "{line:?}");
        }
    }

    #[test]
    fn escapes_are_undone() {
        assert_eq!(unescape(br"a\040b\011\134c\"), b"a b\t\\c\\");
        assert_eq!(unescape(br"\9zz\04"), br"\9zz\04");
    }

    #[test]
    fn a_power_off_in_a_namespace_is_a_proper_end() {
        assert_eq!(namespace_end(ExitStatus::Signal(2)), ExitStatus::Code(0));
        for status in [
            ExitStatus::Signal(1),
            ExitStatus::Signal(9),
            ExitStatus::Code(2),
        ] {
            assert_eq!(namespace_end(status), status);
        }
    }
}
