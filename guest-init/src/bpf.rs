//! Small programs for the kernel's BPF machine, without maps: instructions (the kernel's
//! `Documentation/bpf/standardization/instruction-set.rst`), loading and attaching (bpf(2)).
//!
//! The crates for it bring an ELF loader, type information or a C library, all for what is two
//! system calls here.

use std::ffi::{CStr, c_int, c_long};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// A register, 0 to 9. Calls return in 0, take arguments from 1 on, and keep 6 to 9.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Register(pub(crate) u8);

/// An instruction, or half of one of two slots.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Insn {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Insn {
    const fn new(code: u8, to: Register, from: Register, offset: i16, immediate: i32) -> Self {
        let registers = match cfg!(target_endian = "little") {
            true => to.0 | from.0 << 4,
            false => to.0 << 4 | from.0,
        };
        Self {
            code,
            registers,
            offset,
            immediate,
        }
    }

    /// Copies the 64 bits of `from`.
    pub(crate) const fn copy(to: Register, from: Register) -> Self {
        Self::new(0xbf, to, from, 0, 0)
    }

    /// Sets `to` to `value`, whose sign goes through all 64 bits.
    pub(crate) const fn set(to: Register, value: i32) -> Self {
        Self::new(0xb7, to, Register(0), 0, value)
    }

    /// Sets `to` to `value`, in two slots.
    pub(crate) const fn set_wide(to: Register, value: u64) -> [Self; 2] {
        // Halves of the value each, so nothing is lost.
        #[allow(clippy::cast_possible_truncation)]
        let (low, high) = (value as u32, (value >> 32) as u32);
        [
            Self::new(0x18, to, Register(0), 0, low.cast_signed()),
            Self::new(0, Register(0), Register(0), 0, high.cast_signed()),
        ]
    }

    /// Loads the 32 bits at `from + offset`; the others become 0.
    pub(crate) const fn load(to: Register, from: Register, offset: i16) -> Self {
        Self::new(0x61, to, from, offset, 0)
    }

    /// Stores the low 32 bits of `from` at `to + offset`.
    pub(crate) const fn store(to: Register, offset: i16, from: Register) -> Self {
        Self::new(0x63, to, from, offset, 0)
    }

    /// Skips `count` slots if all 64 bits are equal.
    pub(crate) const fn skip_if_equal(one: Register, other: Register, count: i16) -> Self {
        Self::new(0x1d, one, other, count, 0)
    }

    /// Skips `count` slots if the low 32 bits of `register` are `value`.
    pub(crate) const fn skip_if_low_is(register: Register, value: i32, count: i16) -> Self {
        Self::new(0x16, register, Register(0), count, value)
    }

    /// Calls the kernel's function of this number (`enum bpf_func_id`).
    pub(crate) const fn call(function: i32) -> Self {
        Self::new(0x85, Register(0), Register(0), 0, function)
    }

    /// Ends the program, with the result in register 0.
    pub(crate) const fn exit() -> Self {
        Self::new(0x95, Register(0), Register(0), 0, 0)
    }
}

/// `enum bpf_cmd`.
const PROG_LOAD: c_int = 5;
const LINK_CREATE: c_int = 28;

/// What `PROG_LOAD` takes of `union bpf_attr`.
#[repr(C)]
struct Load {
    kind: u32,
    insn_count: u32,
    insns: u64,
    license: u64,
    log: [u32; 4],
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

/// What `LINK_CREATE` takes of `union bpf_attr`.
#[repr(C)]
struct Link {
    program: RawFd,
    target: RawFd,
    attach_type: u32,
    flags: u32,
}

/// Loads a program of `kind` (`enum bpf_prog_type`) to be attached as `attach_type` (`enum
/// bpf_attach_type`). Tools show it by `name`, of at most 15 letters, digits, `_` and `.`.
pub(crate) fn load(
    insns: &[Insn],
    kind: u32,
    attach_type: u32,
    name: &CStr,
) -> nix::Result<OwnedFd> {
    // For functions that only programs of the GPL may call, another would be needed.
    let license = c"Apache-2.0";
    let mut attributes = Load {
        kind,
        insn_count: u32::try_from(insns.len()).map_err(|_| Errno::E2BIG)?,
        insns: insns.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log: [0; 4],
        kernel_version: 0,
        flags: 0,
        name: [0; 16],
        interface: 0,
        attach_type,
    };
    let name = name.to_bytes_with_nul();
    attributes
        .name
        .get_mut(..name.len())
        .ok_or(Errno::EINVAL)?
        .copy_from_slice(name);
    // SAFETY: the attributes are the command's own, and point to as many instructions as they
    // say and to a string, which are there until it returns.
    unsafe { bpf(PROG_LOAD, &attributes) }
}

/// Attaches `program` to the control group `target`, besides what others attach, while the
/// returned descriptor or a copy of it is open.
pub(crate) fn attach(
    program: &impl AsFd,
    target: &impl AsFd,
    attach_type: u32,
) -> nix::Result<OwnedFd> {
    let attributes = Link {
        program: program.as_fd().as_raw_fd(),
        target: target.as_fd().as_raw_fd(),
        attach_type,
        flags: 0,
    };
    // SAFETY: the attributes are the command's own and hold no addresses.
    unsafe { bpf(LINK_CREATE, &attributes) }
}

/// Executes a command that returns a descriptor, which the kernel makes close-on-exec.
///
/// # Safety
///
/// The attributes must be the ones of the command, with addresses that are valid for it.
unsafe fn bpf<T>(command: c_int, attributes: &T) -> nix::Result<OwnedFd> {
    let address: *const T = attributes;
    // SAFETY: the kernel reads as many bytes as there are; the rest is the caller's promise.
    let fd: c_long = unsafe { libc::syscall(libc::SYS_bpf, command, address, size_of::<T>()) };
    let fd = RawFd::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the system call has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
