//! Where a runtime says what went wrong: on stderr, and in the file by which its caller learns
//! of it.

use std::fs::File;
use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::libc::O_NONBLOCK;
use serde_json::json;

use crate::arguments::Log;

/// Reports an error as runc does.
pub(crate) fn error(log: &Log, message: &str) {
    eprintln!("runcvm-runtime: {message}");
    if let Err(error) = append(log, message) {
        eprintln!("runcvm-runtime: the log cannot be written: {error}");
    }
}

fn append(log: &Log, message: &str) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;

    let Some(path) = &log.file else {
        return Ok(());
    };
    let time = rfc3339(SystemTime::now());
    let line = match log.json {
        true => json!({"level": "error", "msg": message, "time": time}).to_string(),
        false => format!("time=\"{time}\" level=error msg={message:?}"),
    };
    let mut options = File::options();
    options.append(true).create(true).mode(0o644);
    // A pipe that nobody reads is no reason to hang.
    let mut file = options.custom_flags(O_NONBLOCK).open(path)?;
    file.write_all(format!("{line}\n").as_bytes())
}

/// A time in UTC (RFC 3339, section 5.6).
fn rfc3339(time: SystemTime) -> String {
    let since = time
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let (days, second) = (since / 86400, since % 86400);
    // Years from March on, so that the leap day is the last one, in eras of 400 years.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..10 => (era * 400 + year, month + 3),
        _ => (era * 400 + year + 1, month - 9),
    };
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use serde_json::Value;

    use super::*;

    #[test]
    fn callers_find_the_last_error_in_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("log.json");
        let log = Log {
            file: Some(file.clone()),
            json: true,
        };
        fs::write(&file, "{\"level\":\"info\"}\n").unwrap();
        append(&log, "exec: \"a\nb\" is not there").unwrap();
        let text = fs::read_to_string(&file).unwrap();
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert_eq!(last["level"], "error");
        assert_eq!(last["msg"], "exec: \"a\nb\" is not there");
        assert!(last["time"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn times_are_right() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_735_689_600, "2025-01-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }
}
