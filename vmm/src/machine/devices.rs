//! A machine's devices, from their specifications to their places on the buses.

use std::io;
use std::sync::Arc;

use runcvm_devices::GuestMemory;
use runcvm_devices::bus::BusError;
use runcvm_devices::pci::{AddError, ECAM_SIZE, Ecam, PciRoot};
use runcvm_devices::virtio::VirtioDevice;
use runcvm_devices::virtio::block::{Block, BlockError, BlockSpec};
use runcvm_devices::virtio::console::{Console, ConsoleHandle, ConsoleSpec};
use runcvm_devices::virtio::fs::{Fs, FsError, FsSpec};
use runcvm_devices::virtio::net::{Net, NetError, NetSpec};
use runcvm_devices::virtio::rng::Rng;
use runcvm_devices::virtio::transport::VirtioTransport;
use runcvm_devices::virtio::transport::mmio::{VirtioMmio, WINDOW_SIZE};
use runcvm_devices::virtio::transport::pci::{BAR_SIZE, VirtioPci};
use runcvm_devices::virtio::vsock::{Vsock, VsockError, VsockSpec};
use runcvm_protocol::GUEST_CID;
use thiserror::Error;

use super::owned;
use crate::acpi::MmioWindow;
use crate::cpu::Buses;
use crate::kvm::Vm;
use crate::layout;
use crate::spec::{DeviceSpec, Transport};

/// Why a device could not be made.
#[derive(Debug, Error)]
pub enum DeviceError {
    #[error("Cannot share a directory")]
    Fs(#[from] FsError),
    #[error("Cannot attach a disk")]
    Block(#[from] BlockError),
    #[error("Cannot attach a network interface")]
    Net(#[from] NetError),
    #[error("Cannot make sockets between host and guest")]
    Vsock(#[from] VsockError),
    #[error("Cannot give a device its interrupts and notifications")]
    Transport(#[source] io::Error),
    #[error("A machine has room for at most {max} devices")]
    TooMany { max: usize },
    #[error("Cannot put a device on the PCI bus")]
    Slot(#[from] AddError),
    #[error("Cannot give a device its addresses")]
    Bus(#[from] BusError),
}

/// The devices of a machine, on its buses.
#[derive(Default)]
pub(super) struct Devices {
    /// In order of the specification.
    pub(super) transports: Vec<Arc<dyn VirtioTransport>>,
    /// The console, to resize it.
    pub(super) console: Option<ConsoleHandle>,
    /// Windows of those with the MMIO transport.
    pub(super) windows: Vec<MmioWindow>,
}

/// Makes the devices of `specs` and puts them on `buses`.
pub(super) fn attach(
    specs: &[DeviceSpec],
    transport: Transport,
    memory: &GuestMemory,
    vm: &Arc<Vm>,
    buses: &mut Buses,
) -> Result<Devices, DeviceError> {
    let mut devices = Devices::default();
    match transport {
        Transport::Pci => attach_pci(specs, memory, vm, buses, &mut devices)?,
        Transport::Mmio => attach_mmio(specs, memory, vm, buses, &mut devices)?,
    }
    Ok(devices)
}

fn attach_pci(
    specs: &[DeviceSpec],
    memory: &GuestMemory,
    vm: &Arc<Vm>,
    buses: &mut Buses,
    devices: &mut Devices,
) -> Result<(), DeviceError> {
    let root = Arc::new(PciRoot::new());
    let ecam = Arc::new(Ecam::new(Arc::clone(&root)));
    buses.mmio.insert(layout::ECAM.start, ECAM_SIZE, ecam)?;
    // Slot 0 is the host bridge.
    for (slot, spec) in (1..).zip(specs) {
        let bar = layout::PCI_MEMORY.start + u64::from(slot) * BAR_SIZE;
        let device = make(spec, &mut devices.console)?;
        let function = VirtioPci::new(device, bar, memory.clone(), vm.clone(), vm.as_ref())
            .map_err(DeviceError::Transport)?;
        root.add(slot, function.clone())?;
        buses.mmio.insert(bar, BAR_SIZE, function.clone())?;
        devices.transports.push(function);
    }
    Ok(())
}

fn attach_mmio(
    specs: &[DeviceSpec],
    memory: &GuestMemory,
    vm: &Arc<Vm>,
    buses: &mut Buses,
    devices: &mut Devices,
) -> Result<(), DeviceError> {
    let max = layout::VIRTIO_MMIO_GSIS.len();
    if specs.len() > max {
        return Err(DeviceError::TooMany { max });
    }
    let bases = layout::VIRTIO_MMIO.step_by(usize::try_from(WINDOW_SIZE).expect("a page"));
    for ((base, gsi), spec) in bases.zip(layout::VIRTIO_MMIO_GSIS).zip(specs) {
        let device = make(spec, &mut devices.console)?;
        let window = VirtioMmio::new(device, base, gsi, memory.clone(), vm.as_ref(), vm.as_ref())
            .map_err(DeviceError::Transport)?;
        buses.mmio.insert(base, WINDOW_SIZE, window.clone())?;
        devices.transports.push(window);
        devices.windows.push(MmioWindow { base, gsi });
    }
    Ok(())
}

fn make(
    spec: &DeviceSpec,
    console: &mut Option<ConsoleHandle>,
) -> Result<Box<dyn VirtioDevice>, DeviceError> {
    Ok(match spec {
        DeviceSpec::Fs { tag, socket } => Box::new(Fs::new(FsSpec {
            tag: tag.clone(),
            socket: owned(*socket).into(),
        })?),
        DeviceSpec::Block {
            fd,
            read_only,
            id,
            queues,
        } => Box::new(Block::new(BlockSpec {
            file: owned(*fd).into(),
            read_only: *read_only,
            id: id.clone(),
            queues: *queues,
        })?),
        DeviceSpec::Rng => Box::new(Rng::new()),
        DeviceSpec::Net { tap, mac, mtu } => Box::new(Net::new(NetSpec {
            tap: owned(*tap).into(),
            mac: *mac,
            mtu: *mtu,
        })?),
        DeviceSpec::Vsock { listener, prefix } => Box::new(Vsock::new(VsockSpec {
            cid: GUEST_CID.into(),
            listener: owned(*listener).into(),
            prefix: prefix.clone(),
        })?),
        DeviceSpec::Console { input, output } => {
            let (device, handle) = Console::new(ConsoleSpec {
                input: input.map(|fd| owned(fd).into()),
                output: owned(*output).into(),
            });
            *console = Some(handle);
            Box::new(device)
        }
    })
}
