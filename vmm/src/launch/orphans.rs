//! Processes that nobody waits for. The first process of a container is given all whose
//! parents ended, such as what a further command left behind.

use std::fs;

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// Waits for those of our children that have ended and are not `own`.
pub(crate) fn reap(own: &[u32]) {
    let children = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    let strangers = children
        .split_ascii_whitespace()
        .filter_map(|pid| pid.parse::<i32>().ok())
        .filter(|&pid| !own.iter().any(|&own| i32::try_from(own) == Ok(pid)));
    for pid in strangers {
        // One that still runs is seen again when it ends.
        let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    #[expect(
        clippy::zombie_processes,
        reason = "`reap` is what waits for the stranger"
    )]
    fn only_strangers_are_waited_for() {
        let mut own = Command::new("true").spawn().unwrap();
        let stranger = Command::new("true").spawn().unwrap();
        let path = format!("/proc/{}", stranger.id());
        let deadline = Instant::now() + Duration::from_secs(10);
        while fs::exists(&path).unwrap() && Instant::now() < deadline {
            reap(&[own.id()]);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!fs::exists(&path).unwrap());
        assert!(own.wait().unwrap().success());
    }
}
