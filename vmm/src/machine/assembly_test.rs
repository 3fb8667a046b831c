//! Machines that are built on whatever KVM there is, even one in software, but never entered.

use std::io::{Read, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream;

use tempfile::NamedTempFile;
use vm_memory::Bytes;

use super::*;
use crate::kvm::probe;
use crate::spec::{Content, DeviceSpec, InitramfsPart};

/// An ELF kernel whose only instruction is `hlt`.
fn kernel() -> NamedTempFile {
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    for word in [0x100_0000_u64, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(b"\0\0\0\0\x40\0\x38\0\x01\0\0\0\0\0\0\0\x01\0\0\0\x05\0\0\0");
    for word in [120_u64, 0x100_0000, 0x100_0000, 1, 1, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.push(0xf4);
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&elf).unwrap();
    file
}

/// The specification of a machine with a device of every kind that needs nothing outside, and
/// the launcher's end of its control socket.
fn spec(cpus: u8, transport: Transport, kernel: &NamedTempFile) -> (MachineSpec, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (output, _) = UnixStream::pair().unwrap();
    let mut disk = tempfile::tempfile().unwrap();
    disk.write_all(&[0; 4096]).unwrap();
    let spec = MachineSpec {
        name: "test".to_owned(),
        cpus,
        memory: 64 << 20,
        kernel: kernel.path().to_owned(),
        initramfs: vec![InitramfsPart::File {
            path: "/init".to_owned(),
            mode: 0o755,
            content: Content::Bytes(b"#!/bin/sh".to_vec()),
        }],
        append: "one=two".to_owned(),
        verbose_kernel: false,
        transport,
        devices: vec![
            DeviceSpec::Rng,
            DeviceSpec::Console {
                input: None,
                output: output.into_raw_fd(),
            },
            DeviceSpec::Block {
                fd: disk.into_raw_fd(),
                read_only: true,
                id: "disk".to_owned(),
                queues: 2,
            },
        ],
        serial: None,
        huge_pages: false,
        root: None,
        control: theirs.into_raw_fd(),
    };
    (spec, ours)
}

/// Builds a machine; nothing where there is no KVM at all.
fn assembled(spec: &MachineSpec) -> Option<Result<Machine, MachineError>> {
    let kvm = probe::open().ok()?;
    let channel = Arc::new(Channel::new(owned(spec.control).into()));
    Some(Machine::assemble(&kvm, spec, &channel))
}

#[test]
fn whole_machines_are_built() {
    let kernel = kernel();
    for transport in [Transport::Pci, Transport::Mmio] {
        for cpus in [1, 2, 5] {
            let (spec, _launcher) = spec(cpus, transport, &kernel);
            let Some(machine) = assembled(&spec) else {
                return;
            };
            let machine = machine.unwrap();
            assert_eq!(machine.vcpus.len(), usize::from(cpus));
            assert_eq!(machine.devices.transports.len(), 3);
            assert!(machine.devices.console.is_some());
            let regs = machine.vcpus[0].get_regs().unwrap();
            assert_eq!(regs.rip, 0x100_0000);
            assert_eq!(regs.rsi, layout::ZERO_PAGE);
            let mut code = [0];
            let at = vm_memory::GuestAddress(regs.rip);
            machine._memory.read_slice(&mut code, at).unwrap();
            assert_eq!(code, [0xf4]);
            for vcpu in &machine.vcpus[1..] {
                let state = vcpu.get_mp_state().unwrap().mp_state;
                assert_eq!(state, kvm_bindings::KVM_MP_STATE_UNINITIALIZED);
            }
        }
    }
}

#[test]
fn devices_answer_where_the_tables_say() {
    let kernel = kernel();
    let (spec, _launcher) = spec(1, Transport::Pci, &kernel);
    let Some(machine) = assembled(&spec) else {
        return;
    };
    let machine = machine.unwrap();
    let read = |addr| {
        let mut data = [0; 4];
        machine.buses.mmio.read(addr, &mut data);
        u32::from_le_bytes(data)
    };
    // Function 0 of each slot: vendor and device, and BAR 0.
    for (slot, device) in [(1_u64, 0x1044_u32), (2, 0x1043), (3, 0x1042)] {
        let function = layout::ECAM.start + (slot << 15);
        assert_eq!(read(function), device << 16 | 0x1af4);
        let bar = u64::from(read(function + 0x10) & !0xf);
        assert!(layout::PCI_MEMORY.contains(&bar));
        // num_queues of the common configuration (virtio 1.2, §4.1.4.3).
        assert_ne!(read(bar + 0x10) >> 16, 0xffff);
    }
    assert_eq!(read(layout::ECAM.start + (4 << 15)), u32::MAX);
    let (spec, _launcher) = self::spec(1, Transport::Mmio, &kernel);
    let machine = assembled(&spec).unwrap().unwrap();
    for window in &machine.devices.windows {
        let mut magic = [0; 4];
        machine.buses.mmio.read(window.base, &mut magic);
        assert_eq!(magic, *b"virt");
    }
}

#[test]
fn the_power_registers_end_the_machine() {
    let kernel = kernel();
    let write = |offset: u64, value: u8| {
        let (spec, _launcher) = spec(1, Transport::Pci, &kernel);
        let machine = assembled(&spec)?.unwrap();
        for &byte in b"Kernel panic - not yet\n" {
            machine.buses.io.write(layout::COM1.start.into(), &[byte]);
        }
        assert_eq!(machine.ending.get(), None);
        let port = u64::from(layout::POWER.start) + offset;
        machine.buses.io.write(port, &[value]);
        machine.ending.get().cloned()
    };
    let off = write(power::SLEEP_CONTROL_OFFSET, 1 << 5 | power::SLP_TYP_S5 << 2);
    let reset = write(power::RESET_OFFSET, power::RESET_VALUE);
    if probe::open().is_ok() {
        assert_eq!(off, Some(End::PoweredOff));
        assert_eq!(reset, Some(End::Reset));
    }
}

#[test]
fn a_reset_after_a_panic_is_one() {
    let kernel = kernel();
    let (spec, mut launcher) = spec(1, Transport::Pci, &kernel);
    let Some(machine) = assembled(&spec) else {
        return;
    };
    let machine = machine.unwrap();
    for &byte in b"[ 1.0] Kernel panic - not syncing: Attempted to kill init!\r\n" {
        machine.buses.io.write(layout::COM1.start.into(), &[byte]);
    }
    let port = u64::from(layout::POWER.start) + power::RESET_OFFSET;
    machine.buses.io.write(port, &[power::RESET_VALUE]);
    assert_eq!(machine.ending.get(), Some(&End::Panicked));
    for _ in 0..3 {
        machine.buses.io.write(BOOT_MARK_PORT.into(), &[2]);
    }
    drop(machine);
    let mut lines = String::new();
    launcher.read_to_string(&mut lines).unwrap();
    assert!(
        lines.starts_with(r#"{"event":"boot-mark","mark":2,"#),
        "{lines}"
    );
    assert_eq!(lines.lines().count(), 1);
}

#[test]
fn what_cannot_be_built_is_said() {
    type Change = fn(&mut MachineSpec);
    let good = kernel();
    let said = |change: Change| {
        let (mut spec, _launcher) = spec(1, Transport::Mmio, &good);
        change(&mut spec);
        assembled(&spec).map(|built| super::super::with_causes(&built.err().unwrap()))
    };
    let cases: [(Change, &str); 6] = [
        (|spec| spec.cpus = 0, "1 to 64 vCPUs, not 0"),
        (|spec| spec.cpus = 65, "1 to 64 vCPUs, not 65"),
        (|spec| spec.memory = 12345, "12345 bytes of memory"),
        (|spec| spec.kernel = "/nonexistent".into(), "/nonexistent"),
        (|spec| spec.append = "x".repeat(3000), "command line"),
        (
            |spec| spec.devices = vec![DeviceSpec::Rng; 20],
            "at most 19 devices",
        ),
    ];
    for (change, expected) in cases {
        if let Some(message) = said(change) {
            assert!(message.contains(expected), "{message}");
        }
    }
}
