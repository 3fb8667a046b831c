//! Moments of the boot, reported to the monitor by a byte on an I/O port.

use std::arch::asm;
use std::sync::atomic::{AtomicBool, Ordering};

use runcvm_protocol::{BOOT_MARK_PORT, BootMark};

/// This process may use the port; without permission the instruction would be its end.
static ENABLED: AtomicBool = AtomicBool::new(false);

/// Lets this process and its children use the port.
pub(crate) fn enable() {
    ENABLED.store(permit(true), Ordering::Relaxed);
}

/// Takes the port away again. Permission outlives both fork and exec, so every process does
/// this before it runs anything of the user's.
pub(crate) fn disable() {
    if ENABLED.swap(false, Ordering::Relaxed) {
        permit(false);
    }
}

fn permit(on: bool) -> bool {
    // SAFETY: changes which I/O ports this thread may use; touches no memory.
    unsafe { libc::ioperm(libc::c_ulong::from(BOOT_MARK_PORT), 1, on.into()) == 0 }
}

/// Reports `mark`, if the port is enabled. Makes no system call and allocates nothing.
pub(crate) fn report(mark: BootMark) {
    if !ENABLED.load(Ordering::Relaxed) {
        return;
    }
    // SAFETY: this process has permission for the port, which is the monitor's own register
    // without effect on the machine; the instruction touches neither memory nor flags.
    unsafe {
        asm!("out dx, al", in("dx") BOOT_MARK_PORT, in("al") mark as u8,
            options(nomem, nostack, preserves_flags));
    }
}
