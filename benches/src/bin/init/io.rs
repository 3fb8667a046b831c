//! Loads on the first disk and on a shared directory, past the guest's page cache.

mod load;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::mount::{MsFlags, mount};

use crate::say;

const DISK: &str = "/dev/vda";
const SHARE: &str = "/share";
const MODULES: &str = "/modules";

/// Says "begin", and after each load "done NAME COUNT NANOSECONDS".
pub(crate) fn run() -> io::Result<()> {
    for module in fs::read_to_string(MODULES)?.lines() {
        insert(module)?;
    }
    attach("devtmpfs", "devtmpfs", "/dev")?;
    // Not every monitor has one.
    let has_share = attach("share", "virtiofs", SHARE).is_ok();
    say("begin");
    load::run("disk", &direct(DISK.as_ref())?)?;
    if has_share {
        let share = Path::new(SHARE);
        load::run("share", &direct(&share.join("file"))?)?;
        load::open_files("share", &share.join("files"))?;
    }
    Ok(())
}

fn attach(source: &str, kind: &str, target: &str) -> io::Result<()> {
    fs::create_dir_all(target)?;
    let none = None::<&str>;
    mount(Some(source), target, Some(kind), MsFlags::empty(), none)?;
    Ok(())
}

fn direct(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
}

/// Loads the module in the file `path`.
fn insert(path: &str) -> io::Result<()> {
    let file = File::open(path)?;
    // SAFETY: the parameters are an empty string, which lives on, and the kernel checks what
    // the file holds.
    let done = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    if done == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    // Some are for instructions that a processor may not have.
    if error.raw_os_error() == Some(libc::ENODEV) {
        return Ok(());
    }
    Err(io::Error::other(format!("{path}: {error}")))
}
