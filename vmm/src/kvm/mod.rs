//! The virtual machine as KVM sees it: its memory slots, interrupt chips and notifications.

use std::fmt;
use std::sync::Mutex;

use kvm_bindings::{
    KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE, kvm_enable_cap, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use thiserror::Error;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::errno;

use crate::layout;

pub mod irq;
mod kick;
pub mod probe;
pub mod requests;

/// What KVM refused to do.
#[derive(Debug, Error)]
pub enum KvmError {
    /// A step of the set-up.
    #[error("KVM refused to {what}")]
    Refused {
        what: &'static str,
        #[source]
        source: errno::Error,
    },
    /// The host's KVM has a smaller limit.
    #[error("This host's KVM can give a machine at most {max} vCPUs, not {asked}")]
    TooManyVcpus { asked: u8, max: usize },
}

impl KvmError {
    /// An error conversion that says `what` was being done.
    pub fn doing(what: &'static str) -> impl FnOnce(errno::Error) -> Self {
        move |source| Self::Refused { what, source }
    }
}

/// A virtual machine of KVM.
pub struct Vm {
    fd: VmFd,
    routes: Mutex<irq::Routes>,
}

impl Vm {
    /// Creates a virtual machine with KVM's own interrupt chips: local APICs, an I/O APIC, and
    /// a PIC that the guest is not told of. There is no PIT; guests take their time from the
    /// TSC and the local APIC.
    pub fn new(kvm: &Kvm) -> Result<Self, KvmError> {
        let fd = create(kvm).map_err(KvmError::doing("create a virtual machine"))?;
        fd.set_identity_map_address(layout::KVM_IDENTITY_MAP)
            .map_err(KvmError::doing("place its identity map"))?;
        let tss = usize::try_from(layout::KVM_TSS).expect("below 4 GiB");
        fd.set_tss_address(tss)
            .map_err(KvmError::doing("place its task state segment"))?;
        fd.create_irq_chip()
            .map_err(KvmError::doing("create the interrupt chips"))?;
        hide_pmu(&fd);
        Ok(Self {
            fd,
            routes: Mutex::default(),
        })
    }

    /// Gives the guest its memory, one memslot a region.
    ///
    /// # Safety
    ///
    /// `memory` must stay mapped for as long as the guest runs.
    pub unsafe fn map_memory(&self, memory: &GuestMemoryMmap) -> Result<(), KvmError> {
        for (slot, region) in (0..).zip(memory.iter()) {
            let memslot = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: The memslot is a live mapping of exactly this size, and the caller
            // keeps it so. Regions do not overlap.
            unsafe { self.fd.set_user_memory_region(memslot) }
                .map_err(KvmError::doing("map the guest's memory"))?;
        }
        Ok(())
    }

    /// Creates the vCPU numbered `id`, which is also its APIC ID.
    pub fn create_vcpu(&self, id: u8) -> Result<VcpuFd, KvmError> {
        self.fd
            .create_vcpu(u64::from(id))
            .map_err(KvmError::doing("create a vCPU"))
    }
}

impl fmt::Debug for Vm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vm").finish_non_exhaustive()
    }
}

/// A signal that arrives during `KVM_CREATE_VM`, which waits for kernel threads, makes it
/// return EINTR without having done anything.
fn create(kvm: &Kvm) -> Result<VmFd, errno::Error> {
    loop {
        match kvm.create_vm() {
            Err(e) if e.errno() == libc::EINTR => {}
            other => return other,
        }
    }
}

/// Takes the performance counters from the guest, also on AMD, where no CPUID bit tells it
/// of the oldest ones. Hosts older than Linux 5.18 cannot; there CPUID alone must do.
fn hide_pmu(fd: &VmFd) {
    let mut cap = kvm_enable_cap {
        cap: KVM_CAP_PMU_CAPABILITY,
        ..Default::default()
    };
    cap.args[0] = u64::from(KVM_PMU_CAP_DISABLE);
    let _ = fd.enable_cap(&cap);
}
