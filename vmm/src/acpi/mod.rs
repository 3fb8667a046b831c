//! The ACPI tables (ACPI 6.5): hardware-reduced, so that a kernel looks for no PIC, PIT, RTC,
//! keyboard controller or VGA.

use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, sdt::Sdt};
use runcvm_devices::legacy::power;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::layout;

mod dsdt;

const OEM: [u8; 6] = *b"RUNCVM";
const OEM_TABLE: [u8; 8] = *b"RUNCVM  ";
const OEM_REVISION: u32 = 1;

/// Bits of the FADT's IA-PC boot architecture flags (table 5.11): what is not there.
const VGA_NOT_PRESENT: u16 = 1 << 2;
const PCIE_ASPM_CONTROLS: u16 = 1 << 4;
const CMOS_RTC_NOT_PRESENT: u16 = 1 << 5;

/// What the tables tell of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Platform {
    pub cpus: u8,
    /// There is a PCI host.
    pub pci: bool,
    /// Windows of virtio-mmio devices, in order.
    pub virtio_mmio: Vec<MmioWindow>,
}

/// A virtio-mmio device's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioWindow {
    pub base: u64,
    pub gsi: u32,
}

/// Writes the tables to [`layout::ACPI`], the RSDP first.
pub fn write(memory: &GuestMemoryMmap, platform: &Platform) -> Result<(), GuestMemoryError> {
    let bytes = tables(platform);
    // Those of the largest machine are a fraction of it.
    assert!(bytes.len() as u64 <= layout::ACPI.end - layout::ACPI.start);
    memory.write_slice(&bytes, GuestAddress(layout::ACPI.start))
}

/// All tables as they lie in memory.
fn tables(platform: &Platform) -> Vec<u8> {
    let mut area = Area::default();
    // The RSDP's place; it is made when the XSDT's address is known.
    area.bytes.resize(Rsdp::len(), 0);
    let dsdt = area.put(&dsdt(platform));
    let mut tables = vec![area.put(&fadt(dsdt)), area.put(&madt(platform.cpus))];
    if platform.pci {
        tables.push(area.put(&mcfg()));
    }
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    for table in tables {
        xsdt.add_entry(table);
    }
    let xsdt = area.put(&xsdt);
    let mut rsdp = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut rsdp);
    area.bytes[..rsdp.len()].copy_from_slice(&rsdp);
    area.bytes
}

/// Tables one after the other from [`layout::ACPI`] on.
#[derive(Default)]
struct Area {
    bytes: Vec<u8>,
}

impl Area {
    /// Adds a table; its guest-physical address.
    fn put(&mut self, table: &dyn Aml) -> u64 {
        let at = self.bytes.len().next_multiple_of(16);
        self.bytes.resize(at, 0);
        table.to_aml_bytes(&mut self.bytes);
        layout::ACPI.start + at as u64
    }
}

fn dsdt(platform: &Platform) -> Sdt {
    const HEADER: u32 = 36;
    let mut table = Sdt::new(*b"DSDT", HEADER, 2, OEM, OEM_TABLE, OEM_REVISION);
    table.append_slice(&dsdt::aml(platform));
    table
}

fn fadt(dsdt: u64) -> impl Aml {
    let register = |offset: u64| {
        let port = u64::from(layout::POWER.start) + offset;
        GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port)
    };
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::Wbinvd)
        // Neither button is a fixed one; there is none at all.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup);
    fadt.iapc_boot_arch = (VGA_NOT_PRESENT | PCIE_ASPM_CONTROLS | CMOS_RTC_NOT_PRESENT).into();
    fadt.reset_reg = register(power::RESET_OFFSET);
    fadt.reset_value = power::RESET_VALUE;
    fadt.sleep_control_reg = register(power::SLEEP_CONTROL_OFFSET);
    fadt.sleep_status_reg = register(power::SLEEP_STATUS_OFFSET);
    fadt.finalize()
}

fn madt(cpus: u8) -> MADT {
    let local_apic = u32::try_from(layout::LOCAL_APIC).expect("below 4 GiB");
    let io_apic = u32::try_from(layout::IO_APIC).expect("below 4 GiB");
    let address = LocalInterruptController::Address(local_apic);
    let mut madt = MADT::new(OEM, OEM_TABLE, OEM_REVISION, address);
    for id in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, io_apic, 0));
    madt
}

fn mcfg() -> MCFG {
    let mut mcfg = MCFG::new(OEM, OEM_TABLE, OEM_REVISION);
    mcfg.add_ecam(layout::ECAM.start, 0, 0, 0);
    mcfg
}

#[cfg(test)]
#[path = "acpi_test.rs"]
mod tests;
