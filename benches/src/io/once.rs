//! One guest that uses its disk.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::share::Directory;
use crate::console::listen;
use crate::entries::Entries;
use crate::monitor::{Guest, Monitor};

/// Longer than all loads take, even on an emulated host.
const PATIENCE: Duration = Duration::from_secs(300);

/// One load, per operation.
#[derive(Clone, Debug)]
pub(super) struct Done {
    pub(super) load: String,
    /// Microseconds of the guest's time.
    pub(super) time: f64,
    /// Exits to the monitor, where the kernel's trace counts them.
    pub(super) exits: Option<f64>,
    /// Microseconds of CPU time of the monitor's threads and of virtiofsd.
    pub(super) cpu: f64,
}

/// What has been used up to a moment.
#[derive(Clone, Copy, Default)]
struct Sample {
    exits: Option<u64>,
    /// Nanoseconds.
    cpu: u64,
}

/// Boots `guest` with `directory` under `monitor`; what its loads cost.
pub(super) fn run_once(
    monitor: &dyn Monitor,
    guest: &Guest,
    directory: &Directory,
) -> Result<Vec<Done>> {
    let share = directory.serve()?;
    let guest = &Guest {
        share: Some(share.socket().to_owned()),
        ..guest.clone()
    };
    let (port, writer) = std::io::pipe()?;
    let trace = Entries::start().ok();
    let mut started = monitor.start(guest, writer)?;
    let pid = started.process.id();
    let sample = || Sample {
        exits: trace.as_ref().map(|trace| {
            let counts = trace.counts().to_monitor;
            counts.iter().map(|(_, count)| count).sum()
        }),
        cpu: cpu_of(pid) + cpu_of(share.pid()),
    };
    let mut last = Sample::default();
    let mut all = Vec::new();
    let heard = listen(port, pid, PATIENCE, |words, _| {
        let mut words = words.split(' ');
        match words.next() {
            Some("begin") => last = sample(),
            Some("done") => {
                let now = sample();
                let rest: Vec<_> = words.collect();
                all.push(done(&rest, last, now).context("the guest speaks in riddles")?);
                last = now;
            }
            Some("failed") => bail!("the guest's disk: {}", words.collect::<Vec<_>>().join(" ")),
            _ => {}
        }
        Ok(())
    });
    if heard.is_err() {
        let _ = started.process.kill();
    }
    let status = started.process.wait()?;
    let log = heard?;
    if all.is_empty() || !status.success() {
        bail!("the guest did not come to its end ({status}); its serial port:\n{log}");
    }
    Ok(all)
}

/// Reads `NAME COUNT NANOSECONDS`.
fn done(words: &[&str], before: Sample, after: Sample) -> Option<Done> {
    let [load, count, nanoseconds] = words else {
        return None;
    };
    let count = f64::from(count.parse::<u32>().ok().filter(|&count| count > 0)?);
    let micros = |nanoseconds: u64| Duration::from_nanos(nanoseconds).as_secs_f64() * 1e6;
    let exits = after.exits.zip(before.exits).map(|(after, before)| {
        let exits = u32::try_from(after.saturating_sub(before)).unwrap_or(u32::MAX);
        f64::from(exits) / count
    });
    Some(Done {
        load: (*load).to_owned(),
        time: micros(nanoseconds.parse().ok()?) / count,
        exits,
        cpu: micros(after.cpu.saturating_sub(before.cpu)) / count,
    })
}

/// Nanoseconds that the threads of process `pid` have run (Documentation/scheduler/sched-stats.rst,
/// `/proc/<pid>/schedstat`).
fn cpu_of(pid: u32) -> u64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return 0;
    };
    let times = threads.flatten().filter_map(|thread| {
        let stat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<u64>().ok()
    });
    times.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_per_operation() {
        let before = Sample {
            exits: Some(100),
            cpu: 5_000,
        };
        let after = Sample {
            exits: Some(300),
            cpu: 1_005_000,
        };
        let done = done(&["read-4k", "100", "2000000"], before, after).unwrap();
        assert_eq!(
            (done.load.as_str(), done.time, done.exits, done.cpu),
            ("read-4k", 20.0, Some(2.0), 10.0)
        );
    }

    #[test]
    fn other_words_are_nothing() {
        for words in [&["a", "1"][..], &["a", "0", "1"], &["a", "x", "1"]] {
            assert!(done(words, Sample::default(), Sample::default()).is_none());
        }
    }

    #[test]
    fn this_process_has_run() {
        assert!(cpu_of(std::process::id()) > 0);
    }
}
