//! Requests to KVM by number (`linux/kvm.h`), for a filter of system calls.

use std::ffi::c_ulong;

use kvm_bindings::{KVMIO, kvm_irq_routing, kvm_irqfd, kvm_regs, kvm_sregs};

/// What KVM is asked while the guest runs; the one that matters for speed comes first.
pub const WHILE_RUNNING: [c_ulong; 6] = [
    request(NONE, 0x80, 0),                             // KVM_RUN
    request(NONE, 0xad, 0),                             // KVM_KVMCLOCK_CTRL
    request(WRITE, 0x6a, size_of::<kvm_irq_routing>()), // KVM_SET_GSI_ROUTING
    request(WRITE, 0x76, size_of::<kvm_irqfd>()),       // KVM_IRQFD
    request(READ, 0x81, size_of::<kvm_regs>()),         // KVM_GET_REGS
    request(READ, 0x83, size_of::<kvm_sregs>()),        // KVM_GET_SREGS
];

const NONE: c_ulong = 0;
const WRITE: c_ulong = 1;
const READ: c_ulong = 2;

/// `_IOC` of `asm-generic/ioctl.h`.
const fn request(direction: c_ulong, number: c_ulong, size: usize) -> c_ulong {
    direction << 30 | (size as c_ulong) << 16 | (KVMIO as c_ulong) << 8 | number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_header() {
        let expected = [
            0xae80,
            0xaead,
            0x4008_ae6a,
            0x4020_ae76,
            0x8090_ae81,
            0x8138_ae83,
        ];
        assert_eq!(WHILE_RUNNING, expected);
    }
}
