//! Tests that change their process: mounts, namespaces, children.

use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

/// Seconds that a test may take.
const LIMIT: libc::c_uint = 60;

/// Prints a line, also from the process of an isolated test.
pub(crate) fn say(line: &str) {
    let text = format!("{line}\n");
    // SAFETY: the bytes are valid for their length.
    unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
}

/// Runs `test` in a process of its own with new namespaces, and passes on its failure. Such
/// tests need root; without it they are skipped, and say so.
pub(crate) fn isolated(namespaces: CloneFlags, test: impl FnOnce()) {
    // SAFETY: what the child uses of this process, the allocator and stderr, the C library
    // keeps usable over a fork.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Child => {
            let passed = catch_unwind(AssertUnwindSafe(|| run(namespaces, test)));
            let status = i32::from(passed.is_err());
            // SAFETY: ends the child without running anything of the test harness.
            unsafe { libc::_exit(status) }
        }
        ForkResult::Parent { child } => {
            let status = waitpid(child, None).expect("the child is ours");
            assert_eq!(status, WaitStatus::Exited(child, 0), "see stderr above");
        }
    }
}

fn run(namespaces: CloneFlags, test: impl FnOnce()) {
    // First: another test that was failing in the parent may hold what is needed below.
    // SAFETY: takes a number only.
    unsafe { libc::alarm(LIMIT) };
    // The harness captures what this thread prints, and nobody shows it for the child.
    std::panic::set_hook(Box::new(|panic| {
        say(&panic.to_string());
    }));
    // A kernel's first process ignores nothing; one that a harness started in the background
    // may ignore what comes from a keyboard.
    for number in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
        // SAFETY: the default disposition runs no code of ours.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    match unshare(namespaces) {
        Ok(()) => {
            if namespaces.contains(CloneFlags::CLONE_NEWNS) {
                let none: Option<&str> = None;
                let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
                mount(none, "/", none, private, none).expect("no mount goes outside");
            }
            test();
        }
        Err(nix::errno::Errno::EPERM) => {
            say("skipped: needs root");
        }
        Err(e) => panic!("cannot unshare: {e}"),
    }
}
