//! The host that figures are of.

use std::fmt;
use std::fs;

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
        }
    }
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
        )
    }
}
