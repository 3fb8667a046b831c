//! A control group around a process: all that come from it are found there, however they
//! detach themselves.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

/// A control group of its own. Clones are the same one; the last takes its processes along.
#[derive(Clone, Debug)]
pub struct Cgroup(Arc<Inner>);

#[derive(Debug)]
struct Inner(PathBuf);

/// A process in a control group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its process ID.
    pub pid: Pid,
    /// Its command line, with spaces between arguments.
    pub command: String,
}

impl Cgroup {
    /// A new one below that of this process.
    ///
    /// # Panics
    ///
    /// This is not root, or there is no cgroup v2.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let own = fs::read_to_string("/proc/self/cgroup").expect("Linux has control groups");
        let own = own
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .expect("cgroup v2 is mounted");
        let path = Path::new("/sys/fs/cgroup")
            .join(own)
            .join(format!("runcvm-test-{}-{count}", std::process::id()));
        fs::create_dir(&path).unwrap_or_else(|error| {
            panic!(
                "{} cannot be made ({error}); the suites need root",
                path.display()
            )
        });
        Self(Arc::new(Inner(path)))
    }

    /// Lets `command` start in it.
    pub(crate) fn contain(&self, command: &mut Command) -> io::Result<()> {
        let processes = File::options()
            .write(true)
            .open(self.0.0.join("cgroup.procs"))?;
        // SAFETY: between fork and exec it only makes a system call.
        unsafe {
            command.pre_exec(move || (&processes).write_all(b"0"));
        }
        Ok(())
    }

    /// The processes in it, without those that ended and were not waited for.
    pub fn members(&self) -> Vec<Member> {
        let list = fs::read_to_string(self.0.0.join("cgroup.procs")).expect("it is there");
        list.lines()
            .filter_map(|pid| {
                // Gone in the meantime.
                let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
                Some(Member {
                    pid: Pid::from_raw(pid.parse().expect("a number")),
                    command: String::from_utf8_lossy(&command)
                        .trim_end_matches('\0')
                        .replace('\0', " "),
                })
            })
            .collect()
    }

    /// The first process whose command line has `part`, as soon as there is one.
    ///
    /// # Panics
    ///
    /// There is none within half a minute.
    #[track_caller]
    pub fn wait_for(&self, part: &str) -> Member {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let members = self.members();
            if let Some(member) = members.iter().find(|m| m.command.contains(part)) {
                return member.clone();
            }
            assert!(Instant::now() < deadline, "no {part:?} among {members:#?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until nothing is in it.
    ///
    /// # Panics
    ///
    /// Something still is after half a minute.
    #[track_caller]
    pub fn wait_until_empty(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let members = self.members();
            if members.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left behind: {members:#?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Default for Cgroup {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A failed test may have left processes in it, which need a moment to die.
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
