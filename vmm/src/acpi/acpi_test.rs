use std::collections::BTreeMap;

use super::*;

fn platform(cpus: u8, pci: bool) -> Platform {
    let window = |n: u32| MmioWindow {
        base: layout::VIRTIO_MMIO.start + u64::from(n) * 0x1000,
        gsi: 5 + n,
    };
    Platform {
        cpus,
        pci,
        virtio_mmio: if pci {
            Vec::new()
        } else {
            (0..3).map(window).collect()
        },
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn sums_to_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) == 0
}

fn table(area: &[u8], address: u64) -> &[u8] {
    let at = usize::try_from(address - layout::ACPI.start).unwrap();
    let len = u32_at(area, at + 4) as usize;
    &area[at..at + len]
}

/// Follows the RSDP as a kernel does, checking every sum on the way.
fn parse(area: &[u8]) -> BTreeMap<String, Vec<u8>> {
    assert_eq!(&area[..8], b"RSD PTR ");
    assert!(sums_to_zero(&area[..20]) && sums_to_zero(&area[..36]));
    let xsdt = table(area, u64_at(area, 24));
    assert_eq!(&xsdt[..4], b"XSDT");
    assert!(sums_to_zero(xsdt));
    let mut tables = BTreeMap::new();
    for entry in xsdt[36..].chunks(8) {
        let found = table(area, u64_at(entry, 0));
        let name = String::from_utf8(found[..4].to_vec()).unwrap();
        assert!(sums_to_zero(found), "{name}");
        tables.insert(name, found.to_vec());
    }
    let dsdt = table(area, u64_at(&tables["FACP"], 140));
    assert!(sums_to_zero(dsdt));
    tables.insert("DSDT".to_owned(), dsdt.to_vec());
    tables
}

#[test]
fn every_table_is_found_and_sums_to_zero() {
    let found = |pci| -> Vec<String> { parse(&tables(&platform(2, pci))).into_keys().collect() };
    assert_eq!(found(true), ["APIC", "DSDT", "FACP", "MCFG"]);
    assert_eq!(found(false), ["APIC", "DSDT", "FACP"]);
}

#[test]
fn the_fadt_shows_a_machine_without_legacy_hardware() {
    let fadt = &parse(&tables(&platform(1, true)))["FACP"];
    let flags = u32_at(fadt, 112);
    assert_eq!(flags >> 20 & 1, 1, "hardware-reduced");
    assert_eq!(flags >> 10 & 1, 1, "reset register");
    let boot_arch = u16::from_le_bytes([fadt[109], fadt[110]]);
    assert_eq!(boot_arch & 0b10, 0, "no 8042");
    assert_eq!(boot_arch & 0b10_0100, 0b10_0100, "no VGA, no RTC");
    // Generic addresses: I/O space, 8 bits wide, then the address after 4 bytes.
    for (at, offset) in [
        (116, power::RESET_OFFSET),
        (244, power::SLEEP_CONTROL_OFFSET),
        (256, power::SLEEP_STATUS_OFFSET),
    ] {
        assert_eq!((fadt[at], fadt[at + 1]), (1, 8));
        assert_eq!(
            u64_at(fadt, at + 4),
            u64::from(layout::POWER.start) + offset
        );
    }
    assert_eq!(fadt[128], power::RESET_VALUE);
}

#[test]
fn the_madt_lists_every_vcpu_and_the_io_apic() {
    for cpus in [1, 2, 3, 64] {
        let madt = &parse(&tables(&platform(cpus, true)))["APIC"];
        assert_eq!(u64::from(u32_at(madt, 36)), layout::LOCAL_APIC);
        assert_eq!(u32_at(madt, 40), 0, "no PICs");
        let mut entries = &madt[44..];
        for id in 0..cpus {
            assert_eq!(entries[..8], [0, 8, id, id, 1, 0, 0, 0]);
            entries = &entries[8..];
        }
        assert_eq!(entries.len(), 12);
        assert_eq!(entries[..2], [1, 12]);
        assert_eq!(u64::from(u32_at(entries, 4)), layout::IO_APIC);
    }
}

#[test]
fn the_mcfg_gives_bus_0_its_window() {
    let mcfg = &parse(&tables(&platform(1, true)))["MCFG"];
    assert_eq!(u64_at(mcfg, 44), layout::ECAM.start);
    assert_eq!(mcfg[52..56], [0, 0, 0, 0]);
}

/// Length of an AML package (§20.2.4) and how many bytes say it.
fn package_length(aml: &[u8]) -> (usize, usize) {
    let extra = usize::from(aml[0] >> 6);
    if extra == 0 {
        return (usize::from(aml[0] & 0x3f), 1);
    }
    let low = usize::from(aml[0] & 0xf);
    let len = (0..extra).fold(low, |len, n| len | usize::from(aml[1 + n]) << (4 + 8 * n));
    (len, 1 + extra)
}

/// The devices in `\_SB`, by name; and that all lengths in the DSDT fit together.
fn devices(dsdt: &[u8]) -> BTreeMap<String, Vec<u8>> {
    const SCOPE: u8 = 0x10;
    const DEVICE: [u8; 2] = [0x5b, 0x82];
    let aml = &dsdt[36..];
    assert_eq!(aml[0], SCOPE);
    let (scope_len, prefix) = package_length(&aml[1..]);
    assert_eq!(aml[1 + prefix..][..5], *b"\\_SB_");
    let mut rest = &aml[1 + prefix + 5..1 + scope_len];
    let mut devices = BTreeMap::new();
    while !rest.is_empty() {
        assert_eq!(rest[..2], DEVICE);
        let (len, prefix) = package_length(&rest[2..]);
        let body = &rest[2 + prefix..2 + len];
        let name = String::from_utf8(body[..4].to_vec()).unwrap();
        assert!(devices.insert(name, body.to_vec()).is_none());
        rest = &rest[2 + len..];
    }
    let mut sleep = b"\x08\\_S5_\x12".to_vec();
    sleep.extend([4, 1, 0x0a, power::SLP_TYP_S5]);
    assert_eq!(aml[1 + scope_len..], sleep);
    devices
}

fn contains(body: &[u8], bytes: &[u8]) -> bool {
    body.windows(bytes.len()).any(|window| window == bytes)
}

#[test]
fn the_dsdt_names_all_devices() {
    let names = |pci| -> Vec<String> {
        devices(&parse(&tables(&platform(2, pci)))["DSDT"])
            .into_keys()
            .collect()
    };
    assert_eq!(names(true), ["C000", "C001", "COM1", "ECAM", "PCI0"]);
    assert_eq!(
        names(false),
        ["C000", "C001", "COM1", "V000", "V001", "V002"]
    );
}

#[test]
fn devices_use_the_resources_that_the_layout_gives() {
    let found = devices(&parse(&tables(&platform(1, true)))["DSDT"]);
    // I/O ports 0x3f8 to 0x3ff, and GSI 4, edge-triggered.
    assert!(contains(&found["COM1"], &[0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8]));
    assert!(contains(
        &found["COM1"],
        &[0x89, 6, 0, 0b0011, 1, 4, 0, 0, 0]
    ));
    let mut memory = vec![0x86, 9, 0, 1];
    memory.extend(0xe800_0000_u32.to_le_bytes());
    memory.extend(0x0010_0000_u32.to_le_bytes());
    assert!(contains(&found["ECAM"], &memory));
    let mut window = 0xc000_0000_u32.to_le_bytes().to_vec();
    window.extend(0xdfff_ffff_u32.to_le_bytes());
    assert!(contains(&found["PCI0"], &window));

    let found = devices(&parse(&tables(&platform(1, false)))["DSDT"]);
    let mut memory = vec![0x86, 9, 0, 1];
    memory.extend(0xe000_2000_u32.to_le_bytes());
    memory.extend(0x0000_1000_u32.to_le_bytes());
    assert!(contains(&found["V002"], &memory));
    assert!(contains(
        &found["V002"],
        &[0x89, 6, 0, 0b0011, 1, 7, 0, 0, 0]
    ));
    assert!(contains(&found["V002"], b"LNRO0005\0"));
}

#[test]
fn the_largest_machine_fits() {
    let mut platform = platform(64, true);
    platform.virtio_mmio = layout::VIRTIO_MMIO_GSIS
        .map(|gsi| MmioWindow {
            base: layout::VIRTIO_MMIO.start,
            gsi,
        })
        .collect();
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 32 << 20)]).unwrap();
    write(&memory, &platform).unwrap();
    let len = tables(&platform).len() as u64;
    assert!(len < (layout::ACPI.end - layout::ACPI.start) / 4, "{len}");
}
