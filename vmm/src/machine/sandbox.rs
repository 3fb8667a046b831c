//! What the machine process may still do once its machine is built: serve it, and nothing
//! else. It keeps no capabilities, gains none, opens no files and starts no programs; a guest
//! that took it over would find what it holds already, and little more.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid};
use rustix::thread::CapabilitySet;
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use thiserror::Error;
use vmm_sys_util::signal::register_signal_handler;

use super::FAILED;
use crate::kvm::requests;
use crate::launch::privileges::{self, NOBODY};

/// Why the process could not be shut in.
#[derive(Debug, Error)]
pub enum SandboxError {
    #[error("Cannot become an unprivileged user")]
    User(#[source] io::Error),
    #[error("Cannot give up capabilities")]
    Capabilities(#[source] io::Error),
    #[error("Cannot catch forbidden system calls")]
    Handler(#[source] vmm_sys_util::errno::Error),
    #[error("Cannot make the system call filter")]
    Compile(#[source] BackendError),
    #[error("Cannot set the system call filter")]
    Apply(#[source] seccompiler::Error),
}

/// Shuts the calling thread in, and with it all threads that it starts later: as nobody in the
/// directory `root` if there is one. A system call that is not allowed ends the process, after
/// saying so on `control`.
pub(super) fn enter(control: BorrowedFd, root: Option<&Path>) -> Result<(), SandboxError> {
    CONTROL.store(control.as_raw_fd(), Ordering::Relaxed);
    register_signal_handler(libc::SIGSYS, forbidden).map_err(SandboxError::Handler)?;
    let filter = filter().map_err(SandboxError::Compile)?;
    if let Some(root) = root {
        become_nobody(root).map_err(SandboxError::User)?;
    }
    privileges::keep_only(CapabilitySet::empty()).map_err(SandboxError::Capabilities)?;
    // Sets no_new_privs first.
    seccompiler::apply_filter(&filter).map_err(SandboxError::Apply)
}

/// Makes the directory `root` all that there is, and this process's user nobody.
fn become_nobody(root: &Path) -> io::Result<()> {
    nix::unistd::chroot(root)?;
    nix::unistd::chdir("/")?;
    nix::unistd::setgroups(&[])?;
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    nix::unistd::setresgid(group, group, group)?;
    nix::unistd::setresuid(user, user, user)?;
    // The kernel forgot it with the user.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    Ok(())
}

/// Calls that are allowed whatever their arguments.
const ALLOWED: &[libc::c_long] = &[
    // Data of devices, on files that are open: disks, taps, consoles, sockets, eventfds.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_fallocate,
    libc::SYS_lseek,
    libc::SYS_getrandom,
    libc::SYS_close,
    // Connections between host and guest, and the vhost-user protocol.
    libc::SYS_connect,
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    // Event loops.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_restart_syscall,
    // Threads, which devices start when the guest's drivers do.
    libc::SYS_clone3,
    libc::SYS_clone,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_futex,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Kicks of vCPUs.
    libc::SYS_tgkill,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    // Memory of the allocator and of stacks.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Time, where the host has no vDSO for it.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
];

/// What of an open file may be asked or changed: its flags, and a duplicate.
const FCNTL: [libc::c_int; 5] = [
    libc::F_GETFL,
    libc::F_SETFL,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_DUPFD_CLOEXEC,
];

/// Requests to devices of the host: a socket that shall not block, the headers and offloads
/// that a guest wants of its tap, sectors that it discards (`BLKDISCARD` of `linux/fs.h`).
const DEVICES: [libc::c_ulong; 4] = [
    libc::FIONBIO,
    libc::TUNSETVNETHDRSZ as libc::c_ulong,
    libc::TUNSETOFFLOAD as libc::c_ulong,
    0x1277,
];

fn filter() -> Result<BpfProgram, BackendError> {
    let mut rules: Vec<_> = ALLOWED.iter().map(|&call| (call, Vec::new())).collect();
    let request = |value: libc::c_ulong| {
        // The kernel takes 32 bits of it.
        rule(&[SeccompCondition::new(1, Dword, Eq, value & 0xffff_ffff)?])
    };
    let ioctls = requests::WHILE_RUNNING.iter().chain(&DEVICES);
    rules.push((
        libc::SYS_ioctl,
        ioctls
            .map(|&value| request(value))
            .collect::<Result<_, _>>()?,
    ));
    let command = |value: &libc::c_int| {
        let value = u64::from(value.unsigned_abs());
        rule(&[SeccompCondition::new(1, Dword, Eq, value)?])
    };
    rules.push((
        libc::SYS_fcntl,
        FCNTL.iter().map(command).collect::<Result<_, _>>()?,
    ));
    // New memory is never executable.
    let executable = u64::from(libc::PROT_EXEC.unsigned_abs());
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let not_executable = SeccompCondition::new(2, Qword, MaskedEq(executable), 0)?;
        rules.push((call, vec![rule(&[not_executable])?]));
    }
    // Only Unix sockets, and of a thread only its name.
    let unix = u64::from(libc::AF_UNIX.unsigned_abs());
    let family = SeccompCondition::new(0, Dword, Eq, unix)?;
    rules.push((libc::SYS_socket, vec![rule(&[family])?]));
    let name = u64::from(libc::PR_SET_NAME.unsigned_abs());
    let option = SeccompCondition::new(0, Dword, Eq, name)?;
    rules.push((libc::SYS_prctl, vec![rule(&[option])?]));
    SeccompFilter::new(
        rules.into_iter().collect(),
        SeccompAction::Trap,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?
    .try_into()
}

fn rule(conditions: &[SeccompCondition]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.to_vec())
}

/// Where [`forbidden`] says what happened.
static CONTROL: AtomicI32 = AtomicI32::new(-1);

/// Handler of SIGSYS: says which call it was, in a line of [`crate::control`], and ends the
/// process. It allocates nothing and takes no locks.
extern "C" fn forbidden(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: The kernel passes a whole context to handlers that are registered with
    // SA_SIGINFO, as ours is.
    let call = unsafe {
        let context = &*context.cast::<libc::ucontext_t>();
        context.uc_mcontext.gregs[libc::REG_RAX as usize]
    };
    let mut line = Line::default();
    line.push(br#"{"event":"failed","message":"The machine process made system call "#);
    line.push_number(call.unsigned_abs());
    line.push(b", which it has no use for, and was stopped\"}\n");
    line.send(CONTROL.load(Ordering::Relaxed));
    // SAFETY: _exit is safe in a signal handler.
    unsafe { libc::_exit(FAILED) }
}

/// A line put together without allocating.
struct Line {
    bytes: [u8; 256],
    len: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [0; 256],
            len: 0,
        }
    }
}

impl Line {
    fn push(&mut self, text: &[u8]) {
        for (slot, byte) in self.bytes[self.len..].iter_mut().zip(text) {
            *slot = *byte;
            self.len += 1;
        }
    }

    fn push_number(&mut self, number: u64) {
        if number >= 10 {
            self.push_number(number / 10);
        }
        let digit = u8::try_from(number % 10).unwrap_or(0);
        self.push(&[b'0' + digit]);
    }

    fn send(&self, fd: RawFd) {
        // SAFETY: `bytes` holds `len` bytes; write is safe in a signal handler.
        unsafe { libc::write(fd, self.bytes.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
#[path = "sandbox_test.rs"]
mod tests;
