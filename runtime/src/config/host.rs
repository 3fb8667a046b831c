//! The host, as far as it matters to containers' configurations.

use std::fs;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{SysconfVar, gethostname, sysconf};
use oci_spec::runtime::PosixRlimit;

use crate::limits;

/// What is to be known of the host.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) cpus: usize,
    pub(crate) hostname: String,
    /// The greatest number of files that a process may have open.
    pub(crate) max_files: u64,
    /// The capabilities that we have ourselves, by their numbers.
    pub(crate) capabilities: u64,
    /// What a container inherits where it asks for nothing else.
    pub(crate) limits: Vec<PosixRlimit>,
}

impl Host {
    /// Looks at the host that we are on.
    pub(crate) fn look() -> Self {
        // Before they are raised.
        let limits = limits::inherited();
        let cpus = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
        Self {
            cpus: cpus
                .and_then(|cpus| usize::try_from(cpus).ok())
                .unwrap_or(1),
            hostname: gethostname()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            max_files: raise_files(),
            capabilities: capabilities(),
            limits,
        }
    }
}

/// Has us, and runc with us, allowed as many open files as can be: the host's limit, if we may
/// set it, which not every root may.
fn raise_files() -> u64 {
    const ENOUGH: u64 = 1 << 20;
    let host = fs::read_to_string("/proc/sys/fs/nr_open").ok();
    let host: u64 = host
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(ENOUGH);
    let most = host.min(ENOUGH);
    let ours = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(_, hard)| hard);
    match setrlimit(Resource::RLIMIT_NOFILE, most, most.max(ours)) {
        Ok(()) => most,
        Err(_) => ours.min(most),
    }
}

/// The capabilities that we have and may pass on.
pub(crate) fn capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| u64::from_str_radix(line.trim(), 16).ok())
    };
    set("CapPrm:").unwrap_or(0) & set("CapBnd:").unwrap_or(0)
}
