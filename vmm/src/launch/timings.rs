//! When the phases of a machine's life began. All times are nanoseconds of
//! `CLOCK_MONOTONIC`.

use std::fmt;

use nix::time::{ClockId, clock_gettime};
use runcvm_protocol::BootMark;
use serde::{Deserialize, Serialize};

use crate::control::Event;

/// Now.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux always has this clock");
    let (seconds, nanos) = (time.tv_sec(), time.tv_nsec());
    u64::try_from(seconds).unwrap_or(0) * 1_000_000_000 + u64::try_from(nanos).unwrap_or(0)
}

/// When the phases began; `None` for those that did not come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// The launcher was executed.
    pub start: u64,
    /// All that the machine takes was prepared, and its launch began.
    pub launch: Option<u64>,
    /// The machine process was started.
    pub spawned: Option<u64>,
    /// The virtual machine exists.
    pub kvm_ready: Option<u64>,
    /// The first vCPU entered the guest.
    pub first_entry: Option<u64>,
    /// The guest's kernel started its clock.
    pub kernel: Option<u64>,
    /// PID 1 of the guest ran.
    pub init: Option<u64>,
    /// The command was executed.
    pub command: Option<u64>,
    /// The command's end arrived.
    pub exit: Option<u64>,
    /// The machine process was gone.
    pub gone: Option<u64>,
}

impl Timings {
    /// Counts from `start`.
    pub(crate) fn new(start: u64) -> Self {
        Self {
            start,
            ..Self::default()
        }
    }

    /// Takes what the machine process told.
    pub(crate) fn take(&mut self, event: &Event) {
        match *event {
            Event::KvmReady { at } => self.kvm_ready = Some(at),
            Event::FirstEntry { at } => self.first_entry = Some(at),
            // A guest can write marks as it likes: the first of each counts.
            Event::BootMark { mark, at } if mark == BootMark::Init as u8 => {
                self.init.get_or_insert(at);
            }
            Event::BootMark { mark, at } if mark == BootMark::Command as u8 => {
                self.command.get_or_insert(at);
            }
            _ => {}
        }
    }

    /// Takes the guest's own time from its kernel's start to PID 1.
    pub(crate) fn set_uptime(&mut self, uptime_ns: u64) {
        self.kernel = self.init.and_then(|init| init.checked_sub(uptime_ns));
    }

    /// The phases with their names, in order.
    fn phases(&self) -> [(&'static str, Option<u64>); 9] {
        [
            ("launch", self.launch),
            ("machine process", self.spawned),
            ("KVM ready", self.kvm_ready),
            ("first entry", self.first_entry),
            ("kernel start", self.kernel),
            ("PID 1", self.init),
            ("command", self.command),
            ("exit", self.exit),
            ("machine gone", self.gone),
        ]
    }
}

/// A table: each phase, milliseconds since the launcher's start, and since the phase before.
impl fmt::Display for Timings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<16}{:>11}{:>11}", "phase", "at (ms)", "took (ms)")?;
        let mut last = self.start;
        for (name, at) in self.phases() {
            let Some(at) = at else {
                writeln!(f, "{name:<16}{:>11}{:>11}", "-", "-")?;
                continue;
            };
            let (total, took) = (Millis(at, self.start), Millis(at, last));
            writeln!(f, "{name:<16}{total:>11}{took:>11}")?;
            last = at;
        }
        Ok(())
    }
}

/// The time from the second to the first, in milliseconds with microseconds.
struct Millis(u64, u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, nanos) = match self.0.checked_sub(self.1) {
            Some(nanos) => ("", nanos),
            None => ("-", self.1 - self.0),
        };
        let micros = nanos / 1000;
        f.pad(&format!("{sign}{}.{:03}", micros / 1000, micros % 1000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_counts_from_the_start_and_from_the_phase_before() {
        let mut timings = Timings::new(1_000_000);
        timings.spawned = Some(2_500_000);
        timings.take(&Event::KvmReady { at: 4_000_000 });
        timings.take(&Event::FirstEntry { at: 5_000_000 });
        timings.take(&Event::BootMark {
            mark: 1,
            at: 100_000_000,
        });
        timings.take(&Event::BootMark {
            mark: 1,
            at: 999_000_000,
        });
        timings.set_uptime(90_000_000);
        let table = timings.to_string();
        let row = |name: &str| {
            let line = table.lines().find(|l| l.starts_with(name)).unwrap();
            line[name.len()..].split_whitespace().collect::<Vec<_>>()
        };
        assert_eq!(row("machine process"), ["1.500", "1.500"]);
        assert_eq!(row("KVM ready"), ["3.000", "1.500"]);
        assert_eq!(row("kernel start"), ["9.000", "5.000"]);
        assert_eq!(row("PID 1"), ["99.000", "90.000"]);
        assert_eq!(row("command"), ["-", "-"]);
    }
}
