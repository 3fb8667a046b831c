//! When a guest was first entered, and why it left: KVM's own tracepoints, the same for every
//! monitor.

use std::fs::File;
use std::io::{BufRead, BufReader};

use anyhow::Result;

use crate::tracefs::Instance;

/// Counts by reason, made by the kernel as it goes (Documentation/trace/histogram.rst).
const TO_MONITOR: &str = "events/kvm/kvm_userspace_exit";
const TO_HOST: &str = "events/kvm/kvm_exit";

/// A running trace of one boot.
#[derive(Debug)]
pub(crate) struct Entries {
    /// Keeps the first entries, and drops what no longer fits.
    first: Instance,
    counts: Instance,
}

/// What a boot's exits were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// From the guest to the host's kernel.
    pub(crate) to_host: u64,
    /// To the monitor, by reason.
    pub(crate) to_monitor: Vec<(String, u64)>,
}

impl Entries {
    /// # Errors
    ///
    /// Tracing needs root, and a KVM with tracepoints.
    pub(crate) fn start() -> Result<Self> {
        let first = Instance::new("first")?;
        first.set("options/overwrite", "0")?;
        first.set("buffer_size_kb", "8")?;
        first.set("events/kvm/kvm_entry/enable", "1")?;
        let counts = Instance::new("exits")?;
        counts.set(&format!("{TO_MONITOR}/trigger"), "hist:keys=reason")?;
        counts.set(&format!("{TO_HOST}/trigger"), "hist:keys=exit_reason")?;
        Ok(Self { first, counts })
    }

    /// When a guest was first entered since the start, in nanoseconds of `CLOCK_MONOTONIC`.
    pub(crate) fn first(&self) -> Option<u64> {
        let trace = BufReader::new(File::open(self.first.path("trace")).ok()?);
        trace.lines().find_map(|line| entry_time(&line.ok()?))
    }

    pub(crate) fn counts(&self) -> Counts {
        let read = |event| {
            let text = self.counts.read(&format!("{event}/hist"));
            histogram(&text.unwrap_or_default())
        };
        let name = |reason: u64| {
            let known = NAMES.iter().find(|(number, _)| *number == reason);
            known.map_or_else(
                || format!("reason {reason}"),
                |(_, name)| (*name).to_owned(),
            )
        };
        let to_monitor = read(TO_MONITOR).into_iter();
        Counts {
            to_host: read(TO_HOST).iter().map(|(_, count)| count).sum(),
            to_monitor: to_monitor.map(|(reason, n)| (name(reason), n)).collect(),
        }
    }
}

/// Exits to the monitor that machines have (`KVM_EXIT_*` of linux/kvm.h).
const NAMES: [(u64, &str); 10] = [
    (0, "unknown"),
    (2, "io"),
    (5, "hlt"),
    (6, "mmio"),
    (8, "shutdown"),
    (10, "interrupted"),
    (12, "tpr access"),
    (17, "internal error"),
    (24, "system event"),
    (26, "ioapic eoi"),
];

/// The time of a line of `trace`, whose last word before the event's name is seconds.
fn entry_time(line: &str) -> Option<u64> {
    let (head, _) = line.split_once(": kvm_entry: ")?;
    let (seconds, micros) = head.rsplit(' ').next()?.split_once('.')?;
    Some((seconds.parse::<u64>().ok()? * 1_000_000 + micros.parse::<u64>().ok()?) * 1000)
}

/// Key and count of each line of a histogram:
///
/// ```text
/// { reason:          2 } hitcount:       1234
/// ```
fn histogram(text: &str) -> Vec<(u64, u64)> {
    let lines = text.lines().filter_map(|line| {
        let (key, count) = line.strip_prefix("{ ")?.split_once(" } hitcount:")?;
        let (_, key) = key.split_once(':')?;
        Some((key.trim().parse().ok()?, count.trim().parse().ok()?))
    });
    let mut counts: Vec<_> = lines.collect();
    counts.sort_by_key(|&(_, count): &(u64, u64)| std::cmp::Reverse(count));
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_trace_tell_times() {
        let line = "  vcpu0-12   [000] d..2.   7.000012: kvm_entry: vcpu 0, rip 0x1000000";
        assert_eq!(entry_time(line), Some(7_000_012_000));
        assert_eq!(entry_time("# entries-in-buffer/entries-written: 3/9"), None);
    }

    #[test]
    fn histograms_are_sorted_by_count() {
        let text = "\
# event histogram
#
{ reason:         10 } hitcount:          3
{ reason:          2 } hitcount:       1200

Totals:
    Hits: 1203
";
        assert_eq!(histogram(text), [(2, 1200), (10, 3)]);
        assert_eq!(histogram(""), []);
    }
}
