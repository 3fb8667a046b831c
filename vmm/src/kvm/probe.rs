//! Whether this host can run a machine, and if not, why not, in one sentence.

use std::fs;
use std::io;

use kvm_bindings::KVM_API_VERSION;
use kvm_ioctls::{Cap, Kvm};
use thiserror::Error;

/// What a machine cannot do without, by the name in KVM's documentation.
const NEEDED: [(Cap, &str); 12] = [
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::SetIdentityMapAddr, "KVM_CAP_SET_IDENTITY_MAP_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::IoeventfdNoLength, "KVM_CAP_IOEVENTFD_NO_LENGTH"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    (Cap::SignalMsi, "KVM_CAP_SIGNAL_MSI"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// Why no machine can run here.
#[derive(Debug, Error)]
pub enum ProbeError {
    #[error(
        "There is no /dev/kvm: enable virtualisation (VT-x or AMD-V) in the firmware or for \
         this virtual machine, and load the module kvm_intel or kvm_amd"
    )]
    NoDevice,
    #[error("No permission to use /dev/kvm: run as root or join the group that owns it")]
    NoPermission,
    #[error("Cannot open /dev/kvm")]
    Open(#[source] io::Error),
    #[error("/dev/kvm is not KVM: load the module kvm_intel or kvm_amd, and remove what is there")]
    NotKvm,
    #[error("/dev/kvm speaks version {0} of KVM's interface; version {KVM_API_VERSION} is needed")]
    Version(i32),
    #[error("This host's KVM lacks {}: a newer kernel is needed", .0.join(", "))]
    Capabilities(Vec<&'static str>),
    #[error(
        "This host's /dev/kvm is a software KVM, which cannot run a Linux kernel: the processor \
         shows neither VT-x (vmx) nor AMD-V (svm) in /proc/cpuinfo"
    )]
    Software,
    #[error("Cannot read /proc/cpuinfo")]
    CpuInfo(#[source] io::Error),
}

/// The processor's virtualisation extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Intel VT-x.
    Vmx,
    /// AMD-V.
    Svm,
}

/// A KVM that can run machines.
#[derive(Debug)]
pub struct HostKvm {
    pub kvm: Kvm,
    pub extension: Extension,
}

/// Opens this host's KVM if it can run a machine.
pub fn probe() -> Result<HostKvm, ProbeError> {
    let kvm = open()?;
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").map_err(ProbeError::CpuInfo)?;
    let extension = extension(&cpuinfo).ok_or(ProbeError::Software)?;
    Ok(HostKvm { kvm, extension })
}

/// Opens this host's KVM, be it in software: enough to set a machine up, not to run one.
pub fn open() -> Result<Kvm, ProbeError> {
    let kvm = Kvm::new().map_err(|e| match e.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => ProbeError::NoDevice,
        libc::EACCES | libc::EPERM => ProbeError::NoPermission,
        _ => ProbeError::Open(e.into()),
    })?;
    let version = kvm.get_api_version();
    if version < 0 {
        return Err(ProbeError::NotKvm);
    }
    if u32::try_from(version) != Ok(KVM_API_VERSION) {
        return Err(ProbeError::Version(version));
    }
    let missing: Vec<_> = NEEDED
        .iter()
        .filter(|(cap, _)| !kvm.check_extension(*cap))
        .map(|(_, name)| *name)
        .collect();
    if !missing.is_empty() {
        return Err(ProbeError::Capabilities(missing));
    }
    Ok(kvm)
}

/// The extension that the flags of the first processor in `/proc/cpuinfo` name.
fn extension(cpuinfo: &str) -> Option<Extension> {
    let flags = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("flags")?.split_once(':'))?
        .1;
    flags.split_whitespace().find_map(|flag| match flag {
        "vmx" => Some(Extension::Vmx),
        "svm" => Some(Extension::Svm),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_is_a_whole_word_of_the_flags() {
        let cpuinfo =
            |flags: &str| format!("processor\t: 0\nvmx flags\t: no\nflags\t\t: {flags}\n");
        assert_eq!(extension(&cpuinfo("fpu vme vmx de")), Some(Extension::Vmx));
        assert_eq!(extension(&cpuinfo("fpu svm")), Some(Extension::Svm));
        assert_eq!(extension(&cpuinfo("fpu vmxx svm_lock hypervisor")), None);
        assert_eq!(extension(""), None);
    }

    #[test]
    fn missing_capabilities_are_all_named() {
        let error = ProbeError::Capabilities(vec!["KVM_CAP_IRQFD", "KVM_CAP_IRQCHIP"]);
        assert!(
            error
                .to_string()
                .contains("lacks KVM_CAP_IRQFD, KVM_CAP_IRQCHIP:")
        );
    }
}
