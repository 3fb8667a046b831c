//! What the PID 1 of a guest says on its serial port.

use std::io::{BufRead, BufReader, PipeReader};
use std::time::Duration;

use anyhow::Result;
use runcvm_vmm::launch::now;

use crate::watchdog::Watchdog;

/// What its lines begin with.
const WORD: &str = "runcvm-bench: ";

/// Gives `take` the rest of each such line and when it came, in nanoseconds of
/// `CLOCK_MONOTONIC`, until the port closes, so that the monitor never waits for a reader.
/// Process `pid`, the monitor, is killed if that takes longer than `patience`. Returns all that
/// came.
pub(crate) fn listen(
    port: PipeReader,
    pid: u32,
    patience: Duration,
    mut take: impl FnMut(&str, u64) -> Result<()>,
) -> Result<String> {
    let watchdog = Watchdog::new(pid, patience);
    let mut log = String::new();
    for line in BufReader::new(port).split(b'\n') {
        let at = now();
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        if let Some((_, words)) = line.split_once(WORD) {
            take(words.trim(), at)?;
        }
        log.push_str(&line);
        log.push('\n');
    }
    drop(watchdog);
    Ok(log)
}
