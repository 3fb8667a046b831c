//! What `doctor` looks at.

use std::fs;
use std::path::{Path, PathBuf};

use runcvm_kernels::{Prefix, Store};

use super::{Finding, Level};
use crate::kvm::probe::probe;
use crate::launch::{host, rundir};

/// Memory in bytes below which the default machine does not fit.
const DEFAULT_MACHINE: u64 = 512 << 20;

/// Everything, in the order in which it is shown.
pub(super) fn all() -> Vec<Finding> {
    let sys = Path::new("/sys");
    let prefix = Prefix::find();
    let mut findings = vec![kvm(), virtual_host()];
    findings.extend(paging(sys));
    findings.extend(nested(sys));
    findings.push(slow_creation(sys));
    findings.push(tun());
    findings.push(program("virtiofsd", prefix.libexec("virtiofsd")));
    findings.push(program("guest init", prefix.libexec("runcvm-init")));
    findings.push(kernels(&prefix));
    findings.push(memory());
    findings.push(run_directory());
    findings
}

fn kvm() -> Finding {
    match probe() {
        Ok(found) => {
            let text = format!("/dev/kvm works, in hardware ({:?})", found.extension);
            Finding::new(Level::Ok, "KVM", text)
        }
        Err(e) => {
            let error = anyhow::Error::new(e);
            Finding::new(Level::Fail, "KVM", super::super::sentence(&error))
        }
    }
}

/// A machine inside a machine works, but each exit costs many.
fn virtual_host() -> Finding {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut flags = cpuinfo.lines().filter(|l| l.starts_with("flags"));
    let is_virtual = flags
        .next()
        .is_some_and(|l| l.split_whitespace().any(|flag| flag == "hypervisor"));
    if is_virtual {
        Finding::new(
            Level::Warn,
            "host",
            "this host is itself a virtual machine, so machines are nested and slower: use a \
             physical host for speed",
        )
    } else {
        Finding::new(Level::Ok, "host", "a physical machine")
    }
}

/// The processor's module of KVM, and its parameter `name`.
fn parameter(sys: &Path, names: &[(&str, &str)]) -> Option<(String, bool)> {
    names.iter().find_map(|(module, name)| {
        let path = sys
            .join("module")
            .join(module)
            .join("parameters")
            .join(name);
        let value = fs::read_to_string(path).ok()?;
        Some((
            format!("{module}.{name}"),
            matches!(value.trim(), "Y" | "1"),
        ))
    })
}

/// Without the processor's second page tables, KVM walks the guest's in software.
fn paging(sys: &Path) -> Option<Finding> {
    let (name, on) = parameter(sys, &[("kvm_intel", "ept"), ("kvm_amd", "npt")])?;
    Some(if on {
        Finding::new(
            Level::Ok,
            "paging",
            format!("nested page tables are on ({name})"),
        )
    } else {
        let text = format!(
            "nested page tables are off, so every guest is slow: load the module with {}=1",
            name.rsplit('.').next().unwrap_or(&name)
        );
        Finding::new(Level::Warn, "paging", text)
    })
}

fn nested(sys: &Path) -> Option<Finding> {
    let (name, on) = parameter(sys, &[("kvm_intel", "nested"), ("kvm_amd", "nested")])?;
    let text = if on {
        format!("guests can run machines themselves ({name})")
    } else {
        format!("guests cannot run machines themselves ({name} is off; only they would need it)")
    };
    Some(Finding::new(Level::Ok, "nesting", text))
}

/// Since Linux 6.0, KVM starts a thread with each machine and moves it into the caller's
/// cgroups, which waits for an RCU grace period, unless the cgroups favour such moves or the
/// thread is not needed.
fn slow_creation(sys: &Path) -> Finding {
    let read = |path: &str| fs::read_to_string(sys.join(path)).unwrap_or_default();
    let huge_pages = read("module/kvm/parameters/nx_huge_pages");
    let affected = read("devices/system/cpu/vulnerabilities/itlb_multihit");
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    if huge_pages.trim() == "never" || favours_moves(&mounts) {
        return Finding::new(Level::Ok, "creation", "machines are made without delay");
    }
    let unaffected = affected.trim() == "Not affected";
    let module = if unaffected {
        ", or load kvm with nx_huge_pages=never, which is safe on this processor"
    } else {
        ""
    };
    Finding::new(
        Level::Warn,
        "creation",
        format!(
            "making a machine may take 20 to 40 ms more than it must: \
             `mount -o remount,favordynmods /sys/fs/cgroup`{module}"
        ),
    )
}

/// A cgroup filesystem among these mounts has the option.
fn favours_moves(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(2);
        let kind = fields.next().unwrap_or_default();
        let options = fields.next().unwrap_or_default();
        kind == "cgroup2" && options.split(',').any(|o| o == "favordynmods")
    })
}

fn tun() -> Finding {
    let path = "/dev/net/tun";
    match fs::OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Finding::new(Level::Ok, "taps", format!("{path} works")),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => Finding::new(
            Level::Warn,
            "taps",
            format!("no permission to use {path}: network interfaces need root"),
        ),
        Err(_) => Finding::new(
            Level::Warn,
            "taps",
            format!("{path} does not work, so machines have no network: `modprobe tun`"),
        ),
    }
}

fn program(what: &'static str, path: PathBuf) -> Finding {
    let shown = path.display();
    if path.is_file() {
        Finding::new(Level::Ok, what, format!("{shown}"))
    } else {
        let text = format!("{shown} is missing: install runcvm, or set RUNCVM_HOME to where it is");
        Finding::new(Level::Fail, what, text)
    }
}

fn kernels(prefix: &Prefix) -> Finding {
    let store = Store::new(prefix);
    match (store.names(), store.resolve(None)) {
        (Ok(names), Ok(default)) => {
            let text = format!(
                "{} installed, the default is {}/{}",
                names.len(),
                default.name,
                default.version
            );
            Finding::new(Level::Ok, "kernels", text)
        }
        (Err(e), _) | (_, Err(e)) => {
            let error = anyhow::Error::new(e);
            Finding::new(Level::Fail, "kernels", super::super::sentence(&error))
        }
    }
}

fn memory() -> Finding {
    let memory = match host::memory() {
        Ok(memory) => memory,
        Err(e) => return Finding::new(Level::Fail, "memory", e.to_string()),
    };
    let (available, total) = (memory.available >> 20, memory.total >> 20);
    let text = format!("{available} MiB of {total} MiB available");
    if memory.available >= DEFAULT_MACHINE {
        Finding::new(Level::Ok, "memory", text)
    } else {
        let text =
            format!("{text}, too little for a machine of 512 MiB: use --memory, or free some");
        Finding::new(Level::Warn, "memory", text)
    }
}

fn run_directory() -> Finding {
    match rundir::base() {
        Ok(base) => Finding::new(Level::Ok, "run directory", base.display().to_string()),
        Err(e) => Finding::new(Level::Fail, "run directory", e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sys(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        dir
    }

    #[test]
    fn module_parameters_are_judged() {
        let off = sys(&[("module/kvm_intel/parameters/ept", "N\n")]);
        assert_eq!(paging(off.path()).unwrap().level, Level::Warn);
        let on = sys(&[("module/kvm_amd/parameters/npt", "Y\n")]);
        assert_eq!(paging(on.path()).unwrap().level, Level::Ok);
        assert_eq!(paging(sys(&[]).path()), None);
        let never = sys(&[("module/kvm/parameters/nx_huge_pages", "never\n")]);
        assert_eq!(slow_creation(never.path()).level, Level::Ok);
    }

    #[test]
    fn the_module_is_advised_only_where_that_is_safe() {
        let path = "devices/system/cpu/vulnerabilities/itlb_multihit";
        let advice = |text| slow_creation(sys(&[(path, text)]).path()).text;
        if favours_moves(&fs::read_to_string("/proc/mounts").unwrap()) {
            return;
        }
        assert!(advice("Not affected\n").contains("nx_huge_pages=never"));
        assert!(!advice("KVM: Mitigation: Split huge pages\n").contains("nx_huge_pages"));
    }

    #[test]
    fn mount_options_are_whole_words() {
        let line = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,favordynmods 0 0\n";
        assert!(favours_moves(line));
        assert!(!favours_moves(
            &line.replace("favordynmods", "nofavordynmods")
        ));
        assert!(!favours_moves(&line.replace("cgroup2 rw", "tmpfs rw")));
    }

    #[test]
    fn a_missing_program_fails() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("virtiofsd");
        assert_eq!(program("virtiofsd", path.clone()).level, Level::Fail);
        fs::write(&path, "").unwrap();
        assert_eq!(program("virtiofsd", path).level, Level::Ok);
    }
}
