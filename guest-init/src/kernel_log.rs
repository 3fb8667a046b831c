//! Messages in the kernel's log, which the host shows if the machine cannot go on.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::OnceLock;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

static LOG: OnceLock<File> = OnceLock::new();

/// Opens the kernel's log, through a node of our own, as nothing is mounted yet.
///
/// Descriptors 0 to 2, where the kernel found no console for them, become the log too: else
/// files opened later would take their places.
pub(crate) fn open() {
    const PATH: &str = "/kmsg";
    let _ = mknod(
        PATH,
        SFlag::S_IFCHR,
        Mode::S_IRUSR | Mode::S_IWUSR,
        makedev(1, 11),
    );
    while let Ok(file) = File::options().write(true).open(PATH) {
        if file.as_raw_fd() > 2 {
            let _ = LOG.set(file);
            break;
        }
        std::mem::forget(file);
    }
}

/// The log's descriptor.
pub(crate) fn fd() -> Option<RawFd> {
    LOG.get().map(AsRawFd::as_raw_fd)
}

/// Logs one message as an error. Without a log it goes to stderr.
pub(crate) fn error(message: &str) {
    match LOG.get() {
        Some(mut log) => {
            let line = format!("<3>runcvm-init: {}\n", message.replace('\n', " "));
            let _ = log.write_all(line.as_bytes());
        }
        None => eprintln!("runcvm-init: {message}"),
    }
}
