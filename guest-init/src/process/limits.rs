//! Resource limits.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use runcvm_protocol::Limit;

use crate::rootdir::RootDir;
use crate::sysctl;

/// Open files that a process may ask for. The kernel's own 4096 is too little for many
/// servers.
const OPEN_FILES: u64 = 1_048_576;

/// Open files that a process has before it asks, as under systemd: some programs go through
/// all that they may have.
const OPEN_FILES_AT_FIRST: u64 = 1024;

/// Raises the limit of open files to [`OPEN_FILES`] where the kernel lets it, and takes all
/// of them itself: a busy agent needs six for each process.
pub(crate) fn raise() {
    let (_, now) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default();
    for hard in [OPEN_FILES, now] {
        if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
            return;
        }
    }
}

/// Has the kernel allow as many open files as one of `wanted` says: some services of
/// containers are started with more than a kernel grants at first.
pub(crate) fn make_room(wanted: &[Limit], proc: &RootDir) {
    let files = wanted
        .iter()
        .filter(|limit| limit.resource == libc::RLIMIT_NOFILE);
    if let Some(most) = files.map(|limit| limit.hard).max()
        && most > OPEN_FILES
    {
        // What the kernel does not grant is told where the limit is set.
        let _ = sysctl::write(proc, "fs/nr_open", &most.to_string());
    }
}

/// Lowers the limit again for a process that may raise it by itself. Allocates nothing.
pub(super) fn lower() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the structure is valid for writing, then for reading.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max.min(OPEN_FILES_AT_FIRST);
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// What users call a resource, by the kernel's number (asm-generic/resource.h).
pub(super) fn name(resource: u32) -> &'static str {
    const NAMES: [&str; 16] = [
        "cpu",
        "fsize",
        "data",
        "stack",
        "core",
        "rss",
        "nproc",
        "nofile",
        "memlock",
        "as",
        "locks",
        "sigpending",
        "msgqueue",
        "nice",
        "rtprio",
        "rttime",
    ];
    let index = usize::try_from(resource).ok();
    index.and_then(|at| NAMES.get(at)).unwrap_or(&"of no kind")
}

/// Sets a limit that is asked for. Allocates nothing.
pub(super) fn set(limit: &Limit) -> Result<(), Errno> {
    let wanted = libc::rlimit {
        rlim_cur: limit.soft,
        rlim_max: limit.hard,
    };
    // SAFETY: the structure is valid for reading; an unknown resource is an error.
    Errno::result(unsafe { libc::setrlimit(limit.resource, &raw const wanted) }).map(drop)
}
