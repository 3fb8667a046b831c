//! Where a runtime says what went wrong: on stderr, and in the file by which its caller learns
//! of it.

use std::fs::File;
use std::io::{self, Write};
use std::time::SystemTime;

use humantime::format_rfc3339_seconds;
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
    let time = format_rfc3339_seconds(SystemTime::now());
    let line = match log.json {
        true => json!({"level": "error", "msg": message, "time": time.to_string()}).to_string(),
        false => format!("time=\"{time}\" level=error msg={message:?}"),
    };
    let mut options = File::options();
    options.append(true).create(true).mode(0o644);
    // A pipe that nobody reads is no reason to hang.
    let mut file = options.custom_flags(O_NONBLOCK).open(path)?;
    file.write_all(format!("{line}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;

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
        humantime::parse_rfc3339(last["time"].as_str().unwrap()).unwrap();
    }
}
