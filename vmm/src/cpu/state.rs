//! The state that vCPUs start in: that of the Linux 64-bit boot protocol
//! (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol") for the first one.

use kvm_bindings::{Msrs, kvm_fpu, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::kvm::KvmError;
use crate::layout;

const PAGE: u64 = 4096;
/// Entries of one page table.
const ENTRIES: u64 = 512;

/// Model-specific registers (Intel SDM, volume 4).
const IA32_MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1 << 0;
const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLE: u64 = 1 << 11;
const MTRR_WRITE_BACK: u64 = 6;

/// A register of the local APIC, by offset in its page, and its field of delivery modes.
const LVT_LINT1: usize = 0x360;
const DELIVERY_NMI: u32 = 0b100 << 8;
const DELIVERY_MODE: u32 = 0b111 << 8;

/// Descriptors: null, unused, 64-bit code, data.
const GDT: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
/// Selectors that the protocol names `__BOOT_CS` and `__BOOT_DS`.
const BOOT_CS: u16 = 0x10;
const BOOT_DS: u16 = 0x18;

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// The bit of RFLAGS that is always set.
const RFLAGS_FIXED: u64 = 1 << 1;

/// Page table bits: present and writable; a page of 2 MiB.
const TABLE: u64 = 0b11;
const LARGE: u64 = 1 << 7;

/// Fast strings, and all memory cached unless page tables say otherwise: what firmware sets.
pub(super) fn set_msrs(vcpu: &VcpuFd) -> Result<(), KvmError> {
    let msr = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let wanted = [
        msr(IA32_MISC_ENABLE, FAST_STRINGS),
        msr(IA32_MTRR_DEF_TYPE, MTRR_ENABLE | MTRR_WRITE_BACK),
    ];
    let msrs = Msrs::from_entries(&wanted).expect("two entries");
    let doing = "set a vCPU's model-specific registers";
    let set = vcpu.set_msrs(&msrs).map_err(KvmError::doing(doing))?;
    if set == wanted.len() {
        Ok(())
    } else {
        let source = vmm_sys_util::errno::Error::new(libc::EINVAL);
        Err(KvmError::doing(doing)(source))
    }
}

/// The state that `fninit` leaves, and all SSE exceptions masked.
pub(super) fn set_fpu(vcpu: &VcpuFd) -> Result<(), KvmError> {
    let fpu = kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..Default::default()
    };
    vcpu.set_fpu(&fpu)
        .map_err(KvmError::doing("set a vCPU's FPU"))
}

/// LINT1 is the NMI, as firmware sets it. LINT0 stays masked: behind it is KVM's PIC, which
/// the guest knows nothing of and whose vectors would be exceptions to it.
pub(super) fn set_lapic(vcpu: &VcpuFd) -> Result<(), KvmError> {
    let doing = "set a vCPU's local APIC";
    let mut lapic = vcpu.get_lapic().map_err(KvmError::doing(doing))?;
    set_delivery(&mut lapic, LVT_LINT1, DELIVERY_NMI);
    vcpu.set_lapic(&lapic).map_err(KvmError::doing(doing))
}

fn set_delivery(lapic: &mut kvm_lapic_state, register: usize, mode: u32) {
    let register = &mut lapic.regs[register..register + 4];
    let mut bytes = [0; 4];
    for (to, from) in bytes.iter_mut().zip(register.iter()) {
        *to = from.to_ne_bytes()[0];
    }
    let value = u32::from_le_bytes(bytes) & !DELIVERY_MODE | mode;
    for (to, from) in register.iter_mut().zip(value.to_le_bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
}

/// Writes the GDT and page tables that [`set_entry`] points to: the first
/// [`layout::ENTRY_MAPPED`] bytes, mapped one to one with pages of 2 MiB.
pub fn write_entry_tables(memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    let [pml4, pdpt, pd] = [0, 1, 2].map(|n| layout::PAGE_TABLES + n * PAGE);
    memory.write_obj(GDT, GuestAddress(layout::GDT))?;
    memory.write_obj(pdpt | TABLE, GuestAddress(pml4))?;
    memory.write_obj(pd | TABLE, GuestAddress(pdpt))?;
    let pages: Vec<u8> = (0..ENTRIES)
        .flat_map(|index| (index << 21 | LARGE | TABLE).to_le_bytes())
        .collect();
    memory.write_slice(&pages, GuestAddress(pd))
}

/// Lets the bootstrap processor start in long mode at `entry`.
pub fn set_entry(vcpu: &VcpuFd, entry: GuestAddress) -> Result<(), KvmError> {
    let doing = "set a vCPU's registers";
    let mut sregs = vcpu.get_sregs().map_err(KvmError::doing(doing))?;
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = u16::try_from(size_of_val(&GDT)).expect("32") - 1;
    let data = kvm_segment {
        limit: u32::MAX,
        selector: BOOT_DS,
        type_: 0b0011,
        present: 1,
        s: 1,
        db: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cs = kvm_segment {
        selector: BOOT_CS,
        type_: 0b1011,
        l: 1,
        db: 0,
        ..data
    };
    for segment in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        *segment = data;
    }
    sregs.cr3 = layout::PAGE_TABLES;
    sregs.cr4 = CR4_PAE;
    sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
    sregs.efer = EFER_LME | EFER_LMA;
    vcpu.set_sregs(&sregs).map_err(KvmError::doing(doing))?;
    let regs = kvm_regs {
        rip: entry.0,
        rsi: layout::ZERO_PAGE,
        rflags: RFLAGS_FIXED,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(KvmError::doing(doing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delivery_modes_leave_the_rest_of_the_register() {
        let mut lapic = kvm_lapic_state::default();
        lapic.regs[LVT_LINT1 + 1] = 0x07;
        lapic.regs[LVT_LINT1 + 2] = 0x01;
        set_delivery(&mut lapic, LVT_LINT1, DELIVERY_NMI);
        assert_eq!(lapic.regs[LVT_LINT1..LVT_LINT1 + 4], [0, 0x04, 0x01, 0]);
    }

    #[test]
    fn page_tables_map_one_to_one() {
        let size = 32 << 20;
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size)]).unwrap();
        write_entry_tables(&memory).unwrap();
        let read = |addr| memory.read_obj::<u64>(GuestAddress(addr)).unwrap();
        let address = |entry: u64| entry & !0xfff;
        for target in [0, 0x1000_0000, layout::ENTRY_MAPPED - 1] {
            let pdpt = address(read(layout::PAGE_TABLES + (target >> 39) * 8));
            let pd = address(read(pdpt + (target >> 30) * 8));
            let page = read(pd + (target >> 21 & 511) * 8);
            assert_eq!(page & LARGE, LARGE);
            assert_eq!(page & !0x1f_ffff, target & !0x1f_ffff);
        }
    }
}
