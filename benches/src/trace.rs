//! What processes of this host fork, execute and end, and when, by the kernel's own tracepoints.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result, bail};

use crate::tracefs::Instance;

const EVENTS: [&str; 3] = [
    "sched_process_fork",
    "sched_process_exec",
    "sched_process_exit",
];

/// KiB of buffer for each CPU: some ten thousand events.
const BUFFER_KIB: &str = "2048";

/// What a task did. A task is a thread, known by its number; that of a process's first thread
/// is the process's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// It started another, as a thread or as a process.
    Fork {
        child: u32,
    },
    /// It became the program in this file.
    Exec {
        file: String,
    },
    Exit,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// Nanoseconds of `CLOCK_MONOTONIC`, in whole microseconds.
    pub(crate) at: u64,
    pub(crate) task: u32,
    pub(crate) what: What,
}

/// A running trace; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Trace {
    // First: an instance that is being read cannot be removed.
    pipe: File,
    _instance: Instance,
    /// The beginning of a line whose end was not read yet.
    rest: Vec<u8>,
}

impl Trace {
    /// Starts tracing.
    pub(crate) fn start() -> Result<Self> {
        let instance = Instance::new("processes")?;
        instance.set("buffer_size_kb", BUFFER_KIB)?;
        for event in EVENTS {
            instance.set(&format!("events/sched/{event}/enable"), "1")?;
        }
        let pipe = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(instance.path("trace_pipe"))
            .context("the kernel's trace cannot be opened")?;
        Ok(Self {
            pipe,
            _instance: instance,
            rest: Vec::new(),
        })
    }

    /// What happened since the last call.
    ///
    /// # Errors
    ///
    /// The kernel had to drop events.
    pub(crate) fn read(&mut self) -> Result<Vec<Event>> {
        let mut buffer = [0; 1 << 16];
        loop {
            match self.pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => self.rest.extend_from_slice(&buffer[..len]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context("the kernel's trace cannot be read"),
            }
        }
        let end = self.rest.iter().rposition(|&byte| byte == b'\n');
        let lines: Vec<u8> = self.rest.drain(..end.map_or(0, |end| end + 1)).collect();
        let text = String::from_utf8_lossy(&lines);
        if text.lines().any(|line| line.contains(" EVENTS]")) {
            bail!("more happened on this host than its kernel's trace could hold");
        }
        Ok(text.lines().filter_map(parse).collect())
    }
}

/// Reads a line of `trace_pipe`:
///
/// ```text
///           runc-731   [000] .....   12.345678: sched_process_fork: comm=runc pid=731 child_comm=runc child_pid=732
///          runc-732   [001] .....   12.345690: sched_process_exec: filename=/bin/true pid=732 old_pid=732
///           true-732   [001] .....   12.345700: sched_process_exit: comm=true pid=732 prio=120
/// ```
///
/// Names in it are the traced programs' own, and may have anything in them but a line's end.
fn parse(line: &str) -> Option<Event> {
    let (head, event) = line.split_once(": sched_process_")?;
    let (seconds, micros) = head.rsplit(' ').next()?.split_once('.')?;
    let at = (seconds.parse::<u64>().ok()? * 1_000_000 + micros.parse::<u64>().ok()?) * 1000;
    let number = |name: &str| {
        let (_, after) = event.rsplit_once(name)?;
        after.split(' ').next()?.parse::<u32>().ok()
    };
    let (task, what) = match event.split_once(": ")? {
        ("fork", fields) => {
            let (parent, _) = fields.split_once(" child_comm=")?;
            let (_, task) = parent.rsplit_once(" pid=")?;
            let child = number(" child_pid=")?;
            (task.parse().ok()?, What::Fork { child })
        }
        ("exec", fields) => {
            let file = fields.strip_prefix("filename=")?;
            let (file, _) = file.rsplit_once(" pid=")?;
            let file = file.to_owned();
            (number(" pid=")?, What::Exec { file })
        }
        ("exit", _) => (number(" pid=")?, What::Exit),
        _ => return None,
    };
    Some(Event { at, task, what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood_whatever_programs_are_called() {
        let event = |at, task, what| Some(Event { at, task, what });
        assert_eq!(
            parse(
                "  a b: c-731   [000] d..2.   12.000678: sched_process_fork: comm=a b: c pid=731 child_comm=a pid=1 child_pid=732"
            ),
            event(12_000_678_000, 731, What::Fork { child: 732 })
        );
        assert_eq!(
            parse(
                "  runc-732   [001] ..... 12345.000690: sched_process_exec: filename=/a pid=3 b/true pid=732 old_pid=733"
            ),
            event(
                12_345_000_690_000,
                732,
                What::Exec {
                    file: "/a pid=3 b/true".into()
                }
            )
        );
        assert_eq!(
            parse(
                "  true-732   [001] ..... 1.000001: sched_process_exit: comm=true pid=732 prio=120 group_dead=true"
            ),
            event(1_000_001_000, 732, What::Exit)
        );
    }

    #[test]
    fn other_lines_are_none() {
        for line in [
            "",
            "# tracer: nop",
            "a-1 [000] 1.0: sched_process_wait: comm=a pid=1 prio=1",
            "a-1 [000] x: sched_process_exit: comm=a pid=1 prio=1",
            "a-1 [000] 1.000001: sched_process_exit: comm=a pid=x prio=1",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
