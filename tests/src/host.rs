//! What the suites ask of the host.

use std::path::Path;
use std::process::Command;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// A field of `/proc/meminfo`, such as `MemTotal`, in bytes.
pub fn meminfo(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("Linux has it");
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .and_then(|value| value.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .unwrap_or_else(|| panic!("/proc/meminfo has no {name}"))
        * 1024
}

/// The MD5 sum of a file: quick on emulated processors, and good enough to tell accidents.
pub fn md5(path: &Path) -> String {
    let output = Command::new("md5sum")
        .arg("--")
        .arg(path)
        .output()
        .expect("coreutils are installed");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout[..32]).into_owned()
}

/// Lets this process, and those that it starts, have this many files open, or as many as it
/// may have.
pub fn allow_files(count: u64) {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("it can be asked for");
    if soft < count {
        setrlimit(Resource::RLIMIT_NOFILE, count.min(hard), hard).expect("it is allowed");
    }
}
