//! The host that figures are of.

use std::fmt;
use std::fs;
use std::path::Path;

use runcvm_vmm::kvm::probe;
use serde::{Deserialize, Serialize};

/// What makes figures comparable, or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Host {
    /// The kernel's release.
    pub(crate) kernel: String,
    /// The processor's model.
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    /// "VT-x", "AMD-V", or why there is no KVM in hardware.
    pub(crate) kvm: String,
    /// It is itself a virtual machine.
    pub(crate) is_virtual: bool,
    /// Limits of the control group that monitors run in, which can hold them up: `cpu.max` and
    /// `memory.max`, where they are not "max".
    pub(crate) limits: Vec<String>,
}

impl Host {
    pub(crate) fn look() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let field = |name: &str| {
            let line = cpuinfo.lines().find_map(|l| l.strip_prefix(name))?;
            Some(line.split_once(": ")?.1.trim().to_owned())
        };
        let flags = field("flags").unwrap_or_default();
        let kvm = match probe::probe().map(|host| host.extension) {
            Ok(probe::Extension::Vmx) => "VT-x".to_owned(),
            Ok(probe::Extension::Svm) => "AMD-V".to_owned(),
            Err(probe::ProbeError::Software) => "in software".to_owned(),
            Err(error) => error.to_string(),
        };
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu: field("model name").unwrap_or_else(|| "unknown".to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kvm,
            is_virtual: flags.split(' ').any(|flag| flag == "hypervisor"),
            limits: limits(&read("/proc/self/cgroup")),
        }
    }
}

/// Limits of the control group (version 2) in `/proc/self/cgroup`, and of those above it.
fn limits(cgroup: &str) -> Vec<String> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::/"));
    let group = Path::new("/sys/fs/cgroup").join(path.unwrap_or_default());
    let mut limits = Vec::new();
    for directory in group
        .ancestors()
        .take_while(|dir| dir.starts_with("/sys/fs/cgroup"))
    {
        for file in ["cpu.max", "memory.max"] {
            let limit = fs::read_to_string(directory.join(file)).unwrap_or_default();
            if !limit.is_empty() && !limit.starts_with("max") {
                limits.push(format!("{}/{file} {}", directory.display(), limit.trim()));
            }
        }
    }
    limits
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_virtual {
            "virtual machine"
        } else {
            "machine"
        };
        write!(
            f,
            "{kind} with {} x {}, Linux {}, KVM: {}",
            self.cpus, self.cpu, self.kernel, self.kvm
        )?;
        if !self.limits.is_empty() {
            write!(f, "; limited by {}", self.limits.join(", "))?;
        }
        Ok(())
    }
}
