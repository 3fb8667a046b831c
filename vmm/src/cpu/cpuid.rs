//! CPUID: what KVM supports on this host, made consistent for a machine of N vCPUs.
//!
//! The guest sees one socket of N cores with one thread each. An APIC ID is the vCPU's number.
//! Leaves are those of the Intel SDM (volume 2, CPUID) and the AMD APM (volume 3, appendix E).

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// KVM's leaves begin here; the first says how far they go and who the hypervisor is.
const HYPERVISOR: u32 = 0x4000_0000;
/// TSC and APIC bus frequency, a leaf that VMware began and others follow.
const HYPERVISOR_TIMING: u32 = 0x4000_0010;
/// A cycle of KVM's APIC bus is a nanosecond.
const APIC_BUS_KHZ: u32 = 1_000_000;

/// What the guest may know of its clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Frequency of the time-stamp counter, if the host knows it.
    pub tsc_khz: Option<u32>,
    /// The local APIC's timer can be armed with a TSC value.
    pub deadline_timer: bool,
}

/// CPUID of all vCPUs of a machine, but for what differs between them.
#[derive(Debug)]
pub struct Template {
    entries: Vec<kvm_cpuid_entry2>,
}

impl Template {
    /// Makes `supported`, which KVM gave, consistent for `cpus` vCPUs.
    pub fn new(supported: &[kvm_cpuid_entry2], cpus: u8, clock: Clock) -> Self {
        let cores = Cores::new(cpus);
        let mut entries: Vec<_> = supported
            .iter()
            .copied()
            .filter(|entry| !is_replaced(entry.function))
            .collect();
        for entry in &mut entries {
            match entry.function {
                0x1 => features(entry, cores, clock),
                0x4 | 0x8000_001d => cache(entry, cores),
                // Performance monitoring: version 0, there is none.
                0xa => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
                HYPERVISOR => entry.eax = HYPERVISOR_TIMING,
                0x8000_0001 => amd_features(entry, cores),
                0x8000_0008 => amd_cores(entry, cores),
                _ => {}
            }
        }
        let max_basic = find(supported, 0).map_or(0, |entry| entry.eax);
        for leaf in [0xb, 0x1f] {
            if leaf <= max_basic {
                entries.extend(topology(leaf, cores));
            }
        }
        let extended = find(supported, 0x8000_0001);
        if extended.is_some_and(|entry| entry.ecx & bit(TOPOLOGY_EXTENSIONS) != 0) {
            // The vCPU's own numbers are filled in later; one thread a core, one node.
            entries.push(leaf(0x8000_001e, 0));
        }
        entries.push(kvm_cpuid_entry2 {
            eax: clock.tsc_khz.unwrap_or(0),
            ebx: APIC_BUS_KHZ,
            ..leaf(HYPERVISOR_TIMING, 0)
        });
        Self { entries }
    }

    /// CPUID of the vCPU numbered `id`.
    pub fn entries_for(&self, id: u8) -> Vec<kvm_cpuid_entry2> {
        let mut entries = self.entries.clone();
        let id = u32::from(id);
        for entry in &mut entries {
            match entry.function {
                0x1 => entry.ebx = entry.ebx & 0x00ff_ffff | id << 24,
                0xb | 0x1f => entry.edx = id,
                0x8000_001e => (entry.eax, entry.ebx) = (id, id),
                _ => {}
            }
        }
        entries
    }
}

/// Bits of leaf 1.
const ECX_DEBUG_PERFMON: u32 = 15;
const ECX_X2APIC: u32 = 21;
const ECX_TSC_DEADLINE: u32 = 24;
const ECX_HYPERVISOR: u32 = 31;
const EDX_MULTITHREADING: u32 = 28;
/// Bits of leaf 0x8000_0001, ECX.
const CORE_MULTIPROCESSING: u32 = 1;
const TOPOLOGY_EXTENSIONS: u32 = 22;
const PERFORMANCE_COUNTERS: [u32; 3] = [23, 24, 28];

fn bit(number: u32) -> u32 {
    1 << number
}

fn set(register: &mut u32, number: u32, value: bool) {
    *register = *register & !bit(number) | u32::from(value) << number;
}

/// Leaves that say nothing true of the guest: topology, made anew below; AMD's performance
/// counters (0x8000_0022) and its newer topology leaf (0x8000_0026), left out.
fn is_replaced(function: u32) -> bool {
    matches!(
        function,
        0xb | 0x1f | 0x8000_001e | 0x8000_0022 | 0x8000_0026 | HYPERVISOR_TIMING
    )
}

/// Counts that topology is told in.
#[derive(Clone, Copy)]
struct Cores {
    count: u32,
    /// Bits of an APIC ID that number the core.
    id_bits: u32,
}

impl Cores {
    fn new(cpus: u8) -> Self {
        let count = u32::from(cpus);
        Self {
            count,
            id_bits: count.next_power_of_two().trailing_zeros(),
        }
    }

    /// How many APIC IDs a socket has room for.
    fn ids(self) -> u32 {
        1 << self.id_bits
    }
}

fn features(entry: &mut kvm_cpuid_entry2, cores: Cores, clock: Clock) {
    set(&mut entry.ecx, ECX_DEBUG_PERFMON, false);
    set(&mut entry.ecx, ECX_X2APIC, true);
    set(&mut entry.ecx, ECX_TSC_DEADLINE, clock.deadline_timer);
    set(&mut entry.ecx, ECX_HYPERVISOR, true);
    set(&mut entry.edx, EDX_MULTITHREADING, cores.count > 1);
    entry.ebx = entry.ebx & 0xff00_ffff | cores.ids() << 16;
}

/// Cache parameters: the last level (3) belongs to the socket, the others to a core.
fn cache(entry: &mut kvm_cpuid_entry2, cores: Cores) {
    let kind = entry.eax & 0x1f;
    if kind == 0 {
        return;
    }
    let level = entry.eax >> 5 & 0x7;
    let sharers = if level >= 3 { cores.ids() } else { 1 };
    entry.eax = entry.eax & !(0xfff << 14) | (sharers - 1) << 14;
    if entry.function == 0x4 {
        entry.eax = entry.eax & !(0x3f << 26) | (cores.ids() - 1) << 26;
    }
}

fn amd_features(entry: &mut kvm_cpuid_entry2, cores: Cores) {
    // Reserved, thus zero, on Intel.
    if entry.ecx & bit(TOPOLOGY_EXTENSIONS) != 0 {
        set(&mut entry.ecx, CORE_MULTIPROCESSING, cores.count > 1);
    }
    for counters in PERFORMANCE_COUNTERS {
        set(&mut entry.ecx, counters, false);
    }
}

/// Number of cores and bits of the APIC ID that number them; reserved on Intel.
fn amd_cores(entry: &mut kvm_cpuid_entry2, cores: Cores) {
    if entry.ecx != 0 {
        entry.ecx = entry.ecx & !0xf0ff | cores.id_bits << 12 | (cores.count - 1);
    }
}

/// Extended topology: a level of threads (one), a level of cores, and the end.
fn topology(function: u32, cores: Cores) -> [kvm_cpuid_entry2; 3] {
    const THREADS: u32 = 1 << 8;
    const CORES: u32 = 2 << 8;
    [
        kvm_cpuid_entry2 {
            ebx: 1,
            ecx: THREADS,
            ..leaf(function, 0)
        },
        kvm_cpuid_entry2 {
            eax: cores.id_bits,
            ebx: cores.count,
            ecx: CORES | 1,
            ..leaf(function, 1)
        },
        kvm_cpuid_entry2 {
            ecx: 2,
            ..leaf(function, 2)
        },
    ]
}

fn leaf(function: u32, index: u32) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function,
        index,
        flags: match function {
            0xb | 0x1f => KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            _ => 0,
        },
        ..Default::default()
    }
}

fn find(entries: &[kvm_cpuid_entry2], function: u32) -> Option<&kvm_cpuid_entry2> {
    entries.iter().find(|entry| entry.function == function)
}

#[cfg(test)]
#[path = "cpuid_test.rs"]
mod tests;
