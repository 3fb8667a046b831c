//! What machines might leave behind on the host.

use std::collections::BTreeSet;
use std::path::Path;

use crate::project::home;

/// The host's processes of ours, network interfaces and mounts at one moment. Comparing two
/// is only meaningful while nothing else starts or ends machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traces {
    processes: BTreeSet<String>,
    interfaces: BTreeSet<String>,
    mounts: BTreeSet<String>,
}

impl Traces {
    /// The host as it is now.
    ///
    /// # Panics
    ///
    /// `/proc` or `/sys` cannot be read.
    pub fn now() -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
        Self {
            processes: names(Path::new("/proc"))
                .filter_map(|pid| ours(&pid))
                .collect(),
            interfaces: names(Path::new("/sys/class/net")).collect(),
            mounts: mounts.lines().map(str::to_owned).collect(),
        }
    }
}

fn names(directory: &Path) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(directory).expect("the kernel's filesystems are mounted");
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
}

/// The process as a line, if it runs one of our programs.
fn ours(pid: &str) -> Option<String> {
    pid.parse::<u32>().ok()?;
    let process = Path::new("/proc").join(pid);
    let program = std::fs::read_link(process.join("exe")).ok()?;
    let links = [home().join("bin"), home().join("libexec")];
    let programs = links.iter().flat_map(|directory| {
        names(directory).filter_map(|name| directory.join(name).canonicalize().ok())
    });
    let is_ours = programs.into_iter().any(|ours| program.starts_with(ours));
    let arguments = std::fs::read_to_string(process.join("cmdline")).unwrap_or_default();
    is_ours.then(|| format!("{pid} {}", arguments.replace('\0', " ")))
}
