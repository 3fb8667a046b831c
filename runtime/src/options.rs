//! What users set in a container's environment to choose how its machine is: `RUNCVM_*`.
//!
//! They come with `--env` or from the image. None of them reaches the container's process.

mod disks;
#[cfg(test)]
mod tests;

use anyhow::{Result, bail};
use runcvm_protocol::{Cgroups, InitMode};
use runcvm_vmm::launch::share::Cache;
use serde::{Deserialize, Serialize};

pub(crate) use disks::DiskOption;
use disks::parse_disks;

/// What the names of our variables begin with.
const PREFIX: &str = "RUNCVM_";

/// Variables of the days when the machine was QEMU's, which have no meaning now.
const OF_QEMU: [&str; 12] = [
    "RUNCVM_BIOS",
    "RUNCVM_BIOS_DEBUG",
    "RUNCVM_QEMU_ARCH",
    "RUNCVM_QEMU_DEBUG",
    "RUNCVM_QEMU_DISPLAY",
    "RUNCVM_QEMU_MACHINE",
    "RUNCVM_QEMU_MEM_PREALLOC",
    "RUNCVM_QEMU_NET_VHOST",
    "RUNCVM_QEMU_USB",
    "RUNCVM_QEMU_VGA",
    "RUNCVM_QEMU_VIDEO",
    "RUNCVM_KERNEL_NOMITIGATIONS",
];

/// Variables that mean something, for suggestions.
const KNOWN: [&str; 16] = [
    "RUNCVM_BREAK",
    "RUNCVM_CGROUPFS",
    "RUNCVM_DISKS",
    "RUNCVM_DISPLAY_MODE",
    "RUNCVM_HUGETLB",
    "RUNCVM_INIT",
    "RUNCVM_KERNEL",
    "RUNCVM_KERNEL_APPEND",
    "RUNCVM_KERNEL_DEBUG",
    "RUNCVM_KERNEL_MOUNT_LIB_MODULES",
    "RUNCVM_MEM_SIZE",
    "RUNCVM_QEMU_VNC_DISPLAY",
    "RUNCVM_RUNTIME_DEBUG",
    "RUNCVM_SYS_ADMIN",
    "RUNCVM_TIMINGS",
    "RUNCVM_VIRTIOFSD_CACHE",
];

/// A container's options, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Options {
    /// `RUNCVM_KERNEL`: the name of a bundle.
    pub(crate) kernel: Option<String>,
    /// `RUNCVM_KERNEL_APPEND`: goes to the end of the kernel's command line.
    pub(crate) kernel_append: String,
    /// `RUNCVM_KERNEL_DEBUG`: the kernel's log goes to the container's stderr.
    pub(crate) kernel_debug: bool,
    /// `RUNCVM_KERNEL_MOUNT_LIB_MODULES`: the kernel's modules are mounted over all of
    /// `/lib/modules`, not at `/lib/modules/RELEASE`.
    pub(crate) mount_lib_modules: bool,
    /// `RUNCVM_DISKS`.
    pub(crate) disks: Vec<DiskOption>,
    /// `RUNCVM_DISPLAY_MODE`.
    pub(crate) display: Display,
    /// `RUNCVM_QEMU_VNC_DISPLAY`: the number of the VNC display; 0 with [`Display::Vnc`]
    /// if not given.
    pub(crate) vnc_display: Option<u16>,
    /// `RUNCVM_CGROUPFS`.
    pub(crate) cgroups: Cgroups,
    /// `RUNCVM_SYS_ADMIN`: the file server may set attributes that need `CAP_SYS_ADMIN`.
    pub(crate) sys_admin: bool,
    /// `RUNCVM_HUGETLB`: guest memory is of huge pages, taken from the host's reserve.
    pub(crate) hugetlb: bool,
    /// `RUNCVM_BREAK`, in the order of the moments.
    pub(crate) breaks: Vec<Break>,
    /// `RUNCVM_RUNTIME_DEBUG`: what the runtime does is written to a file in `/tmp`.
    pub(crate) runtime_debug: bool,
    /// `RUNCVM_TIMINGS`: when the phases of the machine's life began goes to the container's
    /// stderr at its end.
    pub(crate) timings: bool,
    /// `RUNCVM_INIT`.
    pub(crate) init: InitMode,
    /// `RUNCVM_VIRTIOFSD_CACHE`.
    pub(crate) cache: Cache,
    /// `RUNCVM_MEM_SIZE`: guest memory in bytes.
    pub(crate) memory: Option<u64>,
}

/// Where the workload's streams go and what the machine shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Display {
    /// As in a container.
    #[default]
    Headless,
    /// The machine's serial port is the console.
    Serial,
    /// A screen, served by VNC.
    Vnc,
}

/// A moment before the machine starts at which the user gets a shell in the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Break {
    /// Before the network is prepared.
    PreNet,
    /// After that.
    PostNet,
    /// Before the machine is started (`preqemu`).
    PreMachine,
}

impl Break {
    const ALL: [Self; 3] = [Self::PreNet, Self::PostNet, Self::PreMachine];

    /// As users know it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::PreNet => "prenet",
            Self::PostNet => "postnet",
            Self::PreMachine => "preqemu",
        }
    }
}

/// An environment, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Environment {
    pub(crate) options: Options,
    /// What is not ours, as it was.
    pub(crate) rest: Vec<String>,
    /// Sentences about what has no effect.
    pub(crate) warnings: Vec<String>,
}

/// `entry`, as `NAME=VALUE`, is one of ours.
pub(crate) fn is_ours(entry: &str) -> bool {
    entry.starts_with(PREFIX)
}

impl Environment {
    /// Reads a process's environment. An error names the variable and says what it can be.
    pub(crate) fn read(env: &[String]) -> Result<Self> {
        let mut this = Self::default();
        for entry in env {
            match entry.split_once('=') {
                _ if !is_ours(entry) => this.rest.push(entry.clone()),
                // As if it were not set, so that users can undo what an image sets.
                None | Some((_, "")) => {}
                Some((name, value)) => this.set(name, value)?,
            }
        }
        let options = &mut this.options;
        if options.display == Display::Vnc {
            options.vnc_display.get_or_insert(0);
        }
        if options.vnc_display.is_some() {
            this.warnings
                .push("This version of runcvm has no screen: the machine runs without VNC".into());
        }
        Ok(this)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let options = &mut self.options;
        match name {
            "RUNCVM_KERNEL" => options.kernel = Some(value.into()),
            "RUNCVM_KERNEL_APPEND" => options.kernel_append = command_line(name, value)?,
            "RUNCVM_KERNEL_DEBUG" => options.kernel_debug = flag(name, value)?,
            "RUNCVM_KERNEL_MOUNT_LIB_MODULES" => options.mount_lib_modules = flag(name, value)?,
            "RUNCVM_DISKS" => options.disks = parse_disks(value)?,
            "RUNCVM_DISPLAY_MODE" => {
                options.display = choice(
                    name,
                    value,
                    &[
                        ("headless", Display::Headless),
                        ("serial", Display::Serial),
                        ("vnc", Display::Vnc),
                    ],
                )?;
            }
            "RUNCVM_QEMU_VNC_DISPLAY" => match value.parse::<u16>() {
                Ok(display) if display <= u16::MAX - VNC_PORT => {
                    options.vnc_display = Some(display);
                }
                _ => bail!("{name}={value} must be the number of a VNC display, such as 0"),
            },
            "RUNCVM_CGROUPFS" => {
                options.cgroups = choice(
                    name,
                    value,
                    &[
                        ("none", Cgroups::None),
                        ("systemd", Cgroups::None),
                        ("1", Cgroups::V1),
                        ("cgroup1", Cgroups::V1),
                        ("2", Cgroups::V2),
                        ("cgroup2", Cgroups::V2),
                        ("hybrid", Cgroups::Hybrid),
                        ("mixed", Cgroups::Hybrid),
                    ],
                )?;
            }
            "RUNCVM_SYS_ADMIN" => options.sys_admin = flag(name, value)?,
            "RUNCVM_HUGETLB" => options.hugetlb = flag(name, value)?,
            "RUNCVM_BREAK" => options.breaks = breaks(name, value)?,
            "RUNCVM_RUNTIME_DEBUG" => options.runtime_debug = flag(name, value)?,
            "RUNCVM_TIMINGS" => options.timings = flag(name, value)?,
            "RUNCVM_INIT" => {
                options.init = match flag(name, value)? {
                    true => InitMode::Pid1,
                    false => InitMode::Namespaced,
                };
            }
            "RUNCVM_VIRTIOFSD_CACHE" => {
                options.cache = choice(
                    name,
                    value,
                    &[
                        ("auto", Cache::Auto),
                        ("none", Cache::Never),
                        ("never", Cache::Never),
                        ("always", Cache::Always),
                    ],
                )?;
            }
            "RUNCVM_MEM_SIZE" => options.memory = Some(memory(name, value)?),
            _ if OF_QEMU.contains(&name) => self.warnings.push(format!(
                "{name} has no effect: runcvm's machines are not QEMU's any more"
            )),
            _ => self.warnings.push(match nearest(name) {
                Some(known) => format!("{name} is not known to runcvm; did you mean {known}?"),
                None => format!("{name} is not known to runcvm"),
            }),
        }
        Ok(())
    }
}

/// The TCP port of VNC display 0 (RFC 6143, section 1 of its registration: 5900 + display).
const VNC_PORT: u16 = 5900;

fn flag(name: &str, value: &str) -> Result<bool> {
    match value {
        "1" | "yes" | "true" | "on" => Ok(true),
        "0" | "no" | "false" | "off" => Ok(false),
        _ => bail!("{name}={value} must be 1 or 0"),
    }
}

fn choice<T: Copy>(name: &str, value: &str, choices: &[(&str, T)]) -> Result<T> {
    match choices.iter().find(|(word, _)| *word == value) {
        Some((_, chosen)) => Ok(*chosen),
        None => {
            let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
            bail!("{name}={value} must be one of {}", words.join(", "))
        }
    }
}

fn breaks(name: &str, value: &str) -> Result<Vec<Break>> {
    let words = value
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty());
    let moments = Break::ALL.map(|moment| (moment.name(), moment));
    let chosen = words.map(|word| choice(name, word, &moments));
    let mut breaks: Vec<_> = chosen.collect::<Result<_>>()?;
    breaks.sort_unstable();
    breaks.dedup();
    Ok(breaks)
}

fn command_line(name: &str, value: &str) -> Result<String> {
    // Linux takes 2048 bytes on x86 (COMMAND_LINE_SIZE), of which we need some.
    const MAX: usize = 1536;
    if value.len() > MAX {
        bail!(
            "{name} has {} bytes, but a kernel takes {MAX} of them",
            value.len()
        );
    }
    if value.contains(|c: char| c.is_control()) {
        bail!("{name} must be one line of printable text");
    }
    Ok(value.into())
}

fn memory(name: &str, value: &str) -> Result<u64> {
    match bytes(value) {
        Some(size) => Ok(size),
        None => bail!("{name}={value} must be a size such as 512M or 2G"),
    }
}

/// A size as docker's `--memory` has it: bytes, or with one of the suffixes b, k, m, g, t.
pub(crate) fn bytes(size: &str) -> Option<u64> {
    let digits = size.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match size[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    if digits.starts_with('+') {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// The variable whose name is most like `name`, if one is.
fn nearest(name: &str) -> Option<&'static str> {
    let distance = |known: &&str| strsim::damerau_levenshtein(name, known);
    let known = KNOWN.iter().min_by_key(|known| distance(known))?;
    // A third of what is behind the prefix may be wrong.
    (distance(known) <= (known.len() - PREFIX.len()).div_ceil(3)).then_some(known)
}
