//! One vCPU's thread: enter the guest, answer its exit, again.

use std::cell::Cell;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings::{
    KVM_INTERNAL_ERROR_EMULATION, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, kvm_regs,
    kvm_run, kvm_sregs,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use runcvm_devices::bus::Bus;

use super::exits::{Exit, Exits};
use super::threads::{Order, Orders};
use crate::control::End;

/// The two address spaces that devices answer in.
#[derive(Debug, Default)]
pub struct Buses {
    pub io: Bus,
    pub mmio: Bus,
}

thread_local! {
    /// `immediate_exit` of the vCPU that this thread runs, for the handler of the kick signal.
    static IMMEDIATE_EXIT: Cell<*const AtomicU8> = const { Cell::new(ptr::null()) };
}

/// Handler of the signal that gets a vCPU out of the guest. The signal itself interrupts
/// `KVM_RUN`; one that arrives just before it must keep the thread from entering at all.
pub(super) extern "C" fn kicked(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: Not null: it points into the mapping of this thread's vCPU, which `run`
        // keeps until it has cleared the pointer.
        unsafe { (*flag).store(1, Ordering::Relaxed) };
    }
}

/// What a vCPU's thread needs.
pub(super) struct Runner {
    pub(super) id: usize,
    pub(super) vcpu: VcpuFd,
    pub(super) buses: Arc<Buses>,
    pub(super) exits: Arc<Exits>,
    pub(super) orders: Arc<Orders>,
}

impl Runner {
    /// Runs the vCPU until it is told to stop (`None`) or the machine ends by itself.
    pub(super) fn run(mut self) -> Option<End> {
        let run: *mut kvm_run = self.vcpu.get_kvm_run();
        // SAFETY: `run` points to the vCPU's mapping, which lives as long as `self.vcpu`.
        let flag = unsafe { AtomicU8::from_ptr(&raw mut (*run).immediate_exit) };
        IMMEDIATE_EXIT.set(ptr::from_ref(flag));
        let end = loop {
            match self.orders.current() {
                Order::Run => {}
                Order::Pause => {
                    // Keeps the guest's watchdogs calm over the gap. Refused if the guest
                    // does not use the paravirtual clock.
                    let _ = self.vcpu.kvmclock_ctrl();
                    self.orders.park();
                    continue;
                }
                Order::Stop => break None,
            }
            if let Some(end) = self.enter(run) {
                break Some(end);
            }
        };
        IMMEDIATE_EXIT.set(ptr::null());
        end
    }

    /// Enters the guest once, and answers its exit.
    fn enter(&mut self, run: *mut kvm_run) -> Option<End> {
        let (exit, end) = match self.vcpu.run() {
            Ok(VcpuExit::IoOut(port, data)) => {
                for value in data.chunks(operand_size(run)) {
                    self.buses.io.write(u64::from(port), value);
                }
                (Exit::IoWrite, None)
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                for value in data.chunks_mut(operand_size(run)) {
                    self.buses.io.read(u64::from(port), value);
                }
                (Exit::IoRead, None)
            }
            Ok(VcpuExit::MmioWrite(addr, data)) => {
                self.buses.mmio.write(addr, data);
                (Exit::MmioWrite, None)
            }
            Ok(VcpuExit::MmioRead(addr, data)) => {
                self.buses.mmio.read(addr, data);
                (Exit::MmioRead, None)
            }
            Ok(VcpuExit::Intr) => (Exit::Interrupted, None),
            Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => {
                // From here on a further kick sets it again, and the order that came with
                // this one is seen before the next entry.
                self.vcpu.set_kvm_immediate_exit(0);
                (Exit::Interrupted, None)
            }
            Ok(VcpuExit::Hlt) => (Exit::Other, None),
            Ok(VcpuExit::Shutdown) => {
                let registers = self.registers();
                (Exit::Other, Some(End::TripleFault { registers }))
            }
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _)) => {
                (Exit::Other, Some(End::PoweredOff))
            }
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _)) => (Exit::Other, Some(End::Reset)),
            Ok(VcpuExit::InternalError) => (Exit::Other, Some(failed(self.internal_error(run)))),
            Ok(VcpuExit::FailEntry(reason, _)) => {
                let reason = format!("the processor refused to enter the guest ({reason:#x})");
                (Exit::Other, Some(failed(reason)))
            }
            Ok(other) => {
                let reason = format!("KVM reported what no machine here does: {other:?}");
                (Exit::Other, Some(failed(reason)))
            }
            Err(e) => (Exit::Other, Some(failed(format!("KVM_RUN failed: {e}")))),
        };
        self.exits.count(exit);
        end
    }

    /// Where the vCPU is, in one line; `None` if it is where a reset leaves it.
    fn registers(&self) -> Option<String> {
        let regs = self.vcpu.get_regs().ok()?;
        let sregs = self.vcpu.get_sregs().ok()?;
        let line = describe(&regs, &sregs)?;
        Some(format!("vCPU {}: {line}", self.id))
    }

    /// What KVM could not do, and where.
    fn internal_error(&self, run: *const kvm_run) -> String {
        // SAFETY: `run` points to this vCPU's mapping, and the exit's reason says that this
        // member of the union is set.
        let error = unsafe { (*run).__bindgen_anon_1.internal };
        let at = match self.vcpu.get_regs() {
            Ok(regs) => format!(" at {:#x}", regs.rip),
            Err(_) => String::new(),
        };
        if error.suberror == KVM_INTERNAL_ERROR_EMULATION {
            let data = &error.data[..error.data.len().min(error.ndata as usize)];
            format!(
                "KVM could not emulate an instruction{at}{}",
                instruction(data)
            )
        } else {
            format!("KVM failed with internal error {}{at}", error.suberror)
        }
    }
}

/// The registers that tell most of a crash. `None` if they are those of a processor that was
/// just reset (Intel SDM, volume 3, "Processor State After Reset").
fn describe(regs: &kvm_regs, sregs: &kvm_sregs) -> Option<String> {
    const PROTECTED: u64 = 1 << 0;
    const RESET_RIP: u64 = 0xfff0;
    if sregs.cr0 & PROTECTED == 0 && regs.rip == RESET_RIP {
        return None;
    }
    Some(format!(
        "CS {:x} RIP {:x} RSP {:x} RFLAGS {:x} CR0 {:x} CR2 {:x} CR3 {:x} CR4 {:x} EFER {:x}",
        sregs.cs.selector,
        regs.rip,
        regs.rsp,
        regs.rflags,
        sregs.cr0,
        sregs.cr2,
        sregs.cr3,
        sregs.cr4,
        sregs.efer
    ))
}

fn failed(reason: String) -> End {
    End::VcpuFailed { reason }
}

/// Bytes of one operand of an I/O instruction; one with a repeat prefix moves several.
fn operand_size(run: *const kvm_run) -> usize {
    // SAFETY: `run` points to the mapping of the vCPU that just exited with KVM_EXIT_IO, which
    // sets this member of the union. The operands themselves lie behind the struct.
    let size = unsafe { (*run).__bindgen_anon_1.io.size };
    usize::from(size).max(1)
}

/// The instruction in the data of an emulation failure (Documentation/virt/kvm/api.rst,
/// `emulation_failure`): flags, then a length and up to 15 bytes if the first flag is set.
fn instruction(data: &[u64]) -> String {
    let bytes: Vec<u8> = data.iter().flat_map(|word| word.to_le_bytes()).collect();
    match bytes.get(8..24) {
        Some([len, code @ ..]) if bytes[0] & 1 != 0 => code
            .iter()
            .take(usize::from(*len))
            .fold(":".to_owned(), |text, byte| format!("{text} {byte:02x}")),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_shows_registers_unless_they_were_reset() {
        let mut regs = kvm_regs {
            rip: 0xfff0,
            rsp: 0x1234,
            ..Default::default()
        };
        let mut sregs = kvm_sregs {
            cr0: 0x6000_0010,
            ..Default::default()
        };
        assert_eq!(describe(&regs, &sregs), None);
        sregs.cr0 = 0x8005_0033;
        sregs.cr2 = 0xdead;
        regs.rip = u64::MAX;
        let line = describe(&regs, &sregs).unwrap();
        assert!(line.contains(" RIP ffffffffffffffff RSP 1234 "), "{line}");
        assert!(line.contains(" CR0 80050033 CR2 dead "), "{line}");
        assert_eq!(line.lines().count(), 1);
    }

    #[test]
    fn a_failed_instruction_is_shown_if_it_is_known() {
        let word = |bytes: [u8; 8]| u64::from_le_bytes(bytes);
        let data = [1, word([3, 0x0f, 0xc7, 0x24, 9, 9, 9, 9]), word([9; 8]), 0];
        assert_eq!(instruction(&data), ": 0f c7 24");
        assert_eq!(instruction(&[0, data[1], data[2]]), "");
        assert_eq!(instruction(&data[..2]), "");
        assert_eq!(instruction(&[]), "");
        let longest = instruction(&[1, u64::MAX, u64::MAX]);
        assert_eq!(longest.matches("ff").count(), 15);
    }
}
