//! Building a machine, in the order that costs least: images are read while KVM is busy, and
//! all interrupts and notifications are registered before a vCPU runs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use kvm_ioctls::{Kvm, VcpuFd};
use runcvm_devices::GuestMemory;
use runcvm_devices::hypervisor::IrqRouter;
use runcvm_devices::legacy::boot_mark::BootMarks;
use runcvm_devices::legacy::power::{self, Power, PowerEvent};
use runcvm_devices::legacy::serial::{self, Serial, SerialLog};
use runcvm_protocol::BOOT_MARK_PORT;

use super::channel::Channel;
use super::devices::{self, DeviceError, Devices};
use super::ending::Ending;
use super::{MachineError, now, owned};
use crate::acpi::{self, Platform};
use crate::boot::{self, BootError, Images};
use crate::control::{End, Event};
use crate::cpu::{self, Buses};
use crate::kvm::Vm;
use crate::layout;
use crate::memory;
use crate::spec::{MachineSpec, Transport};

/// A machine that is ready to run.
pub(super) struct Machine {
    pub(super) vcpus: Vec<VcpuFd>,
    pub(super) buses: Arc<Buses>,
    pub(super) devices: Devices,
    pub(super) serial: SerialLog,
    pub(super) ending: Arc<Ending>,
    /// Open for as long as the guest runs: KVM unbinds all interrupts when it is closed.
    _vm: Arc<Vm>,
    /// Mapped for as long as the guest runs.
    _memory: GuestMemory,
}

impl Machine {
    /// Builds the machine that `spec` describes.
    pub(super) fn assemble(
        kvm: &Kvm,
        spec: &MachineSpec,
        channel: &Arc<Channel>,
    ) -> Result<Self, MachineError> {
        if !(1..=64).contains(&spec.cpus) {
            return Err(MachineError::BadCpus(spec.cpus));
        }
        let command_line = boot::command_line(spec.transport, spec.verbose_kernel, &spec.append)?;
        memory::check_size(spec.memory)?;
        let kernel = boot::open_kernel(&spec.kernel)?;
        // What the kernel fills for good comes on top of what was asked for.
        let size = spec.memory.saturating_add(whole_pages(kernel.code_len()));
        let memory = match spec.huge_pages {
            true => memory::create_huge(size)?,
            false => memory::create(size)?,
        };
        let (images, built) = thread::scope(|scope| {
            let images = scope
                .spawn(|| boot::load_images(&memory, size, &kernel, &spec.kernel, &spec.initramfs));
            let built = build(kvm, spec, &memory, channel);
            (images.join().expect("loading does not panic"), built)
        });
        let images = images?;
        let built = built?;
        let platform = Platform {
            cpus: spec.cpus,
            pci: spec.transport == Transport::Pci,
            virtio_mmio: built.devices.windows.clone(),
        };
        acpi::write(&memory, &platform).map_err(BootError::Memory)?;
        boot::write_zero_page(&memory, size, images, &command_line)?;
        enter_at(&built.vcpus, &memory, images)?;
        Ok(Self {
            vcpus: built.vcpus,
            buses: Arc::new(built.buses),
            devices: built.devices,
            serial: built.serial,
            ending: built.ending,
            _vm: built.vm,
            _memory: memory,
        })
    }
}

/// All that does not depend on the images.
struct Built {
    vm: Arc<Vm>,
    vcpus: Vec<VcpuFd>,
    buses: Buses,
    devices: Devices,
    serial: SerialLog,
    ending: Arc<Ending>,
}

fn build(
    kvm: &Kvm,
    spec: &MachineSpec,
    memory: &GuestMemory,
    channel: &Arc<Channel>,
) -> Result<Built, MachineError> {
    let vm = Arc::new(Vm::new(kvm)?);
    // SAFETY: `Machine` keeps the memory until after its vCPUs, and the process ends without
    // unmapping it.
    unsafe { vm.map_memory(memory) }?;
    let ending = Ending::new().map_err(resource("an eventfd"))?;
    let mut buses = Buses::default();
    let serial = add_legacy(spec, &vm, channel, &ending, &mut buses)?;
    let devices = devices::attach(&spec.devices, spec.transport, memory, &vm, &mut buses)?;
    let vcpus = cpu::create(kvm, &vm, spec.cpus)?;
    Ok(Built {
        vm,
        vcpus,
        buses,
        devices,
        serial,
        ending,
    })
}

/// The serial port, the power registers and the boot marks.
fn add_legacy(
    spec: &MachineSpec,
    vm: &Vm,
    channel: &Arc<Channel>,
    ending: &Arc<Ending>,
    buses: &mut Buses,
) -> Result<SerialLog, MachineError> {
    let interrupt = vm
        .bind_line(layout::COM1_GSI)
        .map_err(resource("the serial port's interrupt"))?;
    let output = spec.serial.map(|fd| owned(fd).into());
    let serial = Serial::new(output, interrupt);
    let log = serial.log();
    let power = {
        let (ending, log) = (Arc::clone(ending), log.clone());
        Power::new(move |event| ending.report(end_of(event, &log)))
    };
    let marks = {
        let channel = Arc::clone(channel);
        let seen: [AtomicBool; 256] = std::array::from_fn(|_| AtomicBool::new(false));
        BootMarks::new(move |mark| {
            // Each moment comes once; a guest that insists does not flood the launcher.
            if !seen[usize::from(mark)].swap(true, Ordering::Relaxed) {
                channel.event(&Event::BootMark { mark, at: now() });
            }
        })
    };
    let mut add = |base, len, device| buses.io.insert(base, len, device).map_err(DeviceError::Bus);
    add(layout::COM1.start.into(), serial::LEN, Arc::new(serial))?;
    add(layout::POWER.start.into(), power::LEN, Arc::new(power))?;
    add(BOOT_MARK_PORT.into(), 1, Arc::new(marks))?;
    Ok(log)
}

/// A kernel that panics resets the machine; its last words tell that from a wanted reset.
fn end_of(event: PowerEvent, log: &SerialLog) -> End {
    match event {
        PowerEvent::PowerOff => End::PoweredOff,
        PowerEvent::Reset if log.contains("Kernel panic - not syncing") => End::Panicked,
        PowerEvent::Reset => End::Reset,
    }
}

/// As many bytes of `len` as are whole pages.
fn whole_pages(len: u64) -> u64 {
    const PAGE: u64 = 4096;
    len / PAGE * PAGE
}

fn enter_at(vcpus: &[VcpuFd], memory: &GuestMemory, images: Images) -> Result<(), MachineError> {
    cpu::write_entry_tables(memory).map_err(BootError::Memory)?;
    let bootstrap = vcpus.first().expect("a machine has at least one vCPU");
    Ok(cpu::set_entry(bootstrap, images.entry)?)
}

fn resource(what: &'static str) -> impl FnOnce(io::Error) -> MachineError {
    move |source| MachineError::Resource { what, source }
}

#[cfg(test)]
#[path = "assembly_test.rs"]
mod tests;
