//! How far a long measurement is, on one line of a terminal; nothing where stderr is none.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Characters of the bar.
const WIDTH: usize = 24;

/// A bar on stderr, gone when dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    total: usize,
    done: usize,
    start: Instant,
    shown: bool,
}

impl Progress {
    pub(crate) fn new(total: usize) -> Self {
        Self {
            total,
            done: 0,
            start: Instant::now(),
            shown: std::io::stderr().is_terminal(),
        }
    }

    /// The next of all steps begins, and this is what it is.
    pub(crate) fn step(&mut self, what: &str) {
        if self.shown {
            let line = line(self.done, self.total, self.start.elapsed(), what);
            // Nothing depends on it.
            let _ = write!(std::io::stderr(), "\r\x1b[K{line}");
        }
        self.done += 1;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(done: usize, total: usize, elapsed: Duration, what: &str) -> String {
    let filled = (WIDTH * done).checked_div(total).unwrap_or(WIDTH);
    let bar = format!("{}{}", "#".repeat(filled), "-".repeat(WIDTH - filled));
    let left = match u32::try_from(done) {
        Ok(count @ 1..) => {
            let rest = u32::try_from(total - done).unwrap_or(u32::MAX);
            let left = (elapsed / count).saturating_mul(rest).as_secs();
            format!(", {}:{:02} left", left / 60, left % 60)
        }
        _ => String::new(),
    };
    format!("[{bar}] {done}/{total}{left}: {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_what_is_done_and_what_is_left() {
        let at = |done| line(done, 4, Duration::from_secs(30), "runc");
        assert_eq!(at(0), "[------------------------] 0/4: runc");
        assert_eq!(at(1), "[######------------------] 1/4, 1:30 left: runc");
        assert_eq!(at(4), "[########################] 4/4, 0:00 left: runc");
    }
}
