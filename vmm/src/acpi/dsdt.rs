//! The DSDT: what devices there are and which resources they use.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name,
    Package, Path, ResourceTemplate, Scope,
};
use runcvm_devices::legacy::power;
use runcvm_devices::virtio::transport::mmio::WINDOW_SIZE;

use super::{MmioWindow, Platform};
use crate::layout;

/// The AML of the whole namespace.
pub(super) fn aml(platform: &Platform) -> Vec<u8> {
    let mut devices = Vec::new();
    for id in 0..platform.cpus {
        processor(id, &mut devices);
    }
    com1(&mut devices);
    if platform.pci {
        pci_host(&mut devices);
        ecam_reservation(&mut devices);
    }
    for (number, window) in (0..).zip(&platform.virtio_mmio) {
        virtio_mmio(number, *window, &mut devices);
    }
    let mut aml = Scope::raw(Path::new("\\_SB_"), devices);
    // The sleep type that means S5 (§7.4.2); there is no other sleep state.
    let s5 = Package::new(vec![&power::SLP_TYP_S5]);
    Name::new(Path::new("\\_S5_"), &s5).to_aml_bytes(&mut aml);
    aml
}

fn processor(id: u8, aml: &mut Vec<u8>) {
    let hid = "ACPI0007";
    let objects: [&dyn Aml; 2] = [
        &Name::new(Path::new("_HID"), &hid),
        &Name::new(Path::new("_UID"), &id),
    ];
    Device::new(Path::new(&format!("C{id:03}")), objects.to_vec()).to_aml_bytes(aml);
}

fn com1(aml: &mut Vec<u8>) {
    let ports = IO::new(layout::COM1.start, layout::COM1.start, 1, 8);
    let interrupt = edge(layout::COM1_GSI);
    device(
        "COM1",
        &EISAName::new("PNP0501"),
        0,
        vec![&ports, &interrupt],
        aml,
    );
}

/// The host bridge passes bus 0 and its BARs on.
fn pci_host(aml: &mut Vec<u8>) {
    let (first, last) = (
        low(layout::PCI_MEMORY.start),
        low(layout::PCI_MEMORY.end - 1),
    );
    let bus = AddressSpace::new_bus_number(0_u16, 0);
    let memory =
        AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, first, last, None);
    let resources = ResourceTemplate::new(vec![&bus, &memory]);
    let (express, conventional) = (EISAName::new("PNP0A08"), EISAName::new("PNP0A03"));
    let objects: [&dyn Aml; 6] = [
        &Name::new(Path::new("_HID"), &express),
        &Name::new(Path::new("_CID"), &conventional),
        &Name::new(Path::new("_UID"), &0_u8),
        &Name::new(Path::new("_SEG"), &0_u8),
        &Name::new(Path::new("_BBN"), &0_u8),
        &Name::new(Path::new("_CRS"), &resources),
    ];
    Device::new(Path::new("PCI0"), objects.to_vec()).to_aml_bytes(aml);
}

/// ECAM must be claimed by a motherboard resource (PCI Firmware 3.3, §4.1.2).
fn ecam_reservation(aml: &mut Vec<u8>) {
    let ecam = layout::ECAM;
    let memory = Memory32Fixed::new(true, low(ecam.start), low(ecam.end - ecam.start));
    device("ECAM", &EISAName::new("PNP0C02"), 0, vec![&memory], aml);
}

fn virtio_mmio(number: u32, window: MmioWindow, aml: &mut Vec<u8>) {
    let memory = Memory32Fixed::new(true, low(window.base), low(WINDOW_SIZE));
    let interrupt = edge(window.gsi);
    let name = format!("V{number:03}");
    device(&name, &"LNRO0005", number, vec![&memory, &interrupt], aml);
}

fn device(name: &str, hid: &dyn Aml, uid: u32, resources: Vec<&dyn Aml>, aml: &mut Vec<u8>) {
    let objects: [&dyn Aml; 3] = [
        &Name::new(Path::new("_HID"), hid),
        &Name::new(Path::new("_UID"), &uid),
        &Name::new(Path::new("_CRS"), &ResourceTemplate::new(resources)),
    ];
    Device::new(Path::new(name), objects.to_vec()).to_aml_bytes(aml);
}

/// A consumer of an edge-triggered, active-high interrupt of its own.
fn edge(gsi: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}

/// An address or length that the layout keeps below 4 GiB.
fn low(value: u64) -> u32 {
    u32::try_from(value).expect("devices live below 4 GiB")
}
