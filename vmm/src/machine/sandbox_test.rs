use std::io::Read;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use vmm_sys_util::timerfd::TimerFd;

use super::*;
use crate::machine::overhead::Overhead;

/// What a shut-in process says on its control socket, and how it ends, when it does `work`.
fn shut_in(work: impl FnOnce()) -> (String, WaitStatus) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    // SAFETY: The child runs on one thread and ends by _exit; what it allocates is its own,
    // and glibc keeps its allocator usable after a fork.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            drop(ours);
            let status = match enter(theirs.as_fd(), None) {
                Ok(()) => {
                    work();
                    7
                }
                Err(_) => 99,
            };
            // SAFETY: Ends this process and no more.
            unsafe { libc::_exit(status) }
        }
        ForkResult::Parent { child } => {
            drop(theirs);
            let mut said = String::new();
            ours.read_to_string(&mut said).unwrap();
            (said, waitpid(child, None).unwrap())
        }
    }
}

fn assert_allowed(work: impl FnOnce()) {
    let (said, status) = shut_in(work);
    assert_eq!(said, "");
    assert!(matches!(status, WaitStatus::Exited(_, 7)), "{status:?}");
}

fn assert_forbidden(call: libc::c_long, work: impl FnOnce()) {
    let (said, status) = shut_in(work);
    let line: crate::control::Event = serde_json::from_str(&said).unwrap();
    let crate::control::Event::Failed { message } = line else {
        panic!("{line:?}");
    };
    assert!(
        message.contains(&format!("system call {call},")),
        "{message}"
    );
    assert!(
        matches!(status, WaitStatus::Exited(_, FAILED)),
        "{status:?}"
    );
}

#[test]
fn what_serving_a_machine_takes_is_allowed() {
    assert_allowed(|| {});
    assert_allowed(|| {
        let worker = std::thread::Builder::new().name("device".to_owned());
        let work = || {
            vec![1_u8; 1 << 20]
                .iter()
                .map(|&b| usize::from(b))
                .sum::<usize>()
        };
        assert_eq!(worker.spawn(work).unwrap().join().unwrap(), 1 << 20);
    });
    assert_allowed(|| {
        let mut timer = TimerFd::new().unwrap();
        timer.reset(Duration::from_secs(1), None).unwrap();
    });
    assert_allowed(|| {
        let (one, two) = (
            UnixStream::connect("/nonexistent"),
            UnixStream::connect("/"),
        );
        assert!(one.is_err() && two.is_err());
    });
}

#[test]
fn the_overhead_can_be_read_from_within() {
    let mut overhead = Overhead::open().unwrap();
    assert_allowed(move || assert!(overhead.bytes().unwrap() > 0));
}

#[test]
fn files_programs_and_networks_are_out_of_reach() {
    assert_forbidden(libc::SYS_openat, || {
        let _ = std::fs::File::open("/etc/passwd");
    });
    assert_forbidden(libc::SYS_socket, || {
        let _ = TcpListener::bind("127.0.0.1:0");
    });
    assert_forbidden(libc::SYS_execve, || {
        // SAFETY: Both arrays end with a null pointer; the call does not return if it works.
        unsafe {
            let none = [std::ptr::null()];
            libc::execve(c"/bin/true".as_ptr(), none.as_ptr(), none.as_ptr())
        };
    });
}

#[test]
fn memory_cannot_be_made_executable() {
    assert_forbidden(libc::SYS_mmap, || {
        let prot = libc::PROT_READ | libc::PROT_EXEC;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: A new mapping touches no other memory.
        unsafe { libc::mmap(std::ptr::null_mut(), 4096, prot, flags, -1, 0) };
    });
}

#[test]
fn capabilities_are_gone() {
    // A thread has capabilities of its own, so the others keep theirs.
    let status = std::thread::spawn(|| {
        privileges::keep_only(CapabilitySet::empty()).unwrap();
        std::fs::read_to_string("/proc/thread-self/status").unwrap()
    });
    let status = status.join().unwrap();
    for set in ["CapInh:", "CapPrm:", "CapEff:"] {
        let line = status.lines().find(|line| line.starts_with(set)).unwrap();
        assert!(line.ends_with("\t0000000000000000"), "{line}");
    }
}
