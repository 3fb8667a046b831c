//! The last lines that a guest wrote to its serial port.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

/// Lines that are kept.
const LINES: usize = 512;

/// Bytes of a line; what is longer is broken.
const LINE_LEN: usize = 1024;

/// The last lines of a serial port, 512 of them, each of at most 1024 bytes. All clones are
/// the same log.
#[derive(Clone, Debug, Default)]
pub struct SerialLog(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    complete: VecDeque<Vec<u8>>,
    current: Vec<u8>,
}

impl SerialLog {
    /// The last `count` lines, the one that has not ended yet included, joined by newlines.
    /// What is not UTF-8 is replaced by U+FFFD.
    pub fn last_lines(&self, count: usize) -> String {
        let lines = self.lines();
        let all: Vec<_> = lines.iter().collect();
        let last: Vec<_> = all[all.len().saturating_sub(count)..]
            .iter()
            .map(|line| String::from_utf8_lossy(line))
            .collect();
        last.join("\n")
    }

    /// Whether a line has `text` in it.
    pub fn contains(&self, text: &str) -> bool {
        let lines = self.lines();
        lines
            .iter()
            .any(|line| String::from_utf8_lossy(line).contains(text))
    }

    pub(super) fn push(&self, data: &[u8]) {
        let mut lines = self.lines();
        for &byte in data {
            match byte {
                b'\n' => lines.end_line(),
                b'\r' => {}
                _ => lines.push(byte),
            }
        }
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().expect("no thread panics with the lock held")
    }
}

impl Lines {
    fn iter(&self) -> impl Iterator<Item = &Vec<u8>> {
        let current = Some(&self.current).filter(|line| !line.is_empty());
        self.complete.iter().chain(current)
    }

    fn push(&mut self, byte: u8) {
        if self.current.len() == LINE_LEN {
            self.end_line();
        }
        self.current.push(byte);
    }

    fn end_line(&mut self) {
        if self.complete.len() == LINES {
            self.complete.pop_front();
        }
        self.complete.push_back(std::mem::take(&mut self.current));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept() {
        let log = SerialLog::default();
        assert_eq!(log.last_lines(5), "");
        for i in 0..1000 {
            log.push(format!("line {i}\r\n").as_bytes());
        }
        log.push(b"panic");
        assert_eq!(log.last_lines(3), "line 998\nline 999\npanic");
        assert_eq!(log.last_lines(0), "");
        assert_eq!(log.last_lines(usize::MAX).lines().count(), 513);
        assert!(log.contains("line 600") && log.contains("pan") && log.contains("ic"));
        assert!(!log.contains("line 1\n") && !log.contains("line 400"));
    }

    #[test]
    fn endless_lines_and_bytes_that_are_no_text_do_no_harm() {
        let log = SerialLog::default();
        log.push(&vec![0xff; (3 << 20) + 1]);
        log.push(b"\0end");
        let lines = log.last_lines(usize::MAX);
        assert!(lines.lines().count() <= 513);
        assert!(lines.ends_with("\u{fffd}\0end"));
        assert!(log.contains("end"));
    }
}
