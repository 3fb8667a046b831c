//! vCPUs: what they can do ([`cpuid`]), the state they start in, and the threads that run
//! them.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm, VcpuFd};

use crate::kvm::{KvmError, Vm};

pub mod cpuid;
pub mod exits;
mod run;
mod state;
mod threads;

pub use run::Buses;
pub use threads::Threads;

/// Creates `cpus` vCPUs with their CPUID and model-specific registers set. Number 0 is the
/// bootstrap processor and starts at `entry`; the others wait for it to wake them.
pub fn create(kvm: &Kvm, vm: &Vm, cpus: u8) -> Result<Vec<VcpuFd>, KvmError> {
    let max = kvm.get_max_vcpus();
    if usize::from(cpus) > max {
        return Err(KvmError::TooManyVcpus { asked: cpus, max });
    }
    let supported = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(KvmError::doing("tell the host's CPUID"))?;
    let mut vcpus = Vec::with_capacity(cpus.into());
    let mut template = None;
    for id in 0..cpus {
        let vcpu = vm.create_vcpu(id)?;
        let template = template.get_or_insert_with(|| {
            let clock = cpuid::Clock {
                // Unknown where the host's TSC is unstable; the guest then does not trust it.
                tsc_khz: vcpu.get_tsc_khz().ok().filter(|&khz| khz > 0),
                deadline_timer: kvm.check_extension(Cap::TscDeadlineTimer),
            };
            cpuid::Template::new(supported.as_slice(), cpus, clock)
        });
        let entries = CpuId::from_entries(&template.entries_for(id))
            .expect("not more entries than KVM itself gave, plus a few");
        vcpu.set_cpuid2(&entries)
            .map_err(KvmError::doing("set a vCPU's CPUID"))?;
        state::set_msrs(&vcpu)?;
        state::set_fpu(&vcpu)?;
        state::set_lapic(&vcpu)?;
        vcpus.push(vcpu);
    }
    Ok(vcpus)
}

pub use state::{set_entry, write_entry_tables};
