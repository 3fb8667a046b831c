//! The guest's physical address space and I/O ports: who lives where.
//!
//! ```text
//! 0000_0000  RAM            boot data (GDT, zero page, page tables, command line)
//! 000a_0000  -              no RAM in the e820 map (where a PC has its VGA and ROMs)
//! 000e_0000  ACPI tables    RAM, but the tables' until the kernel has read them
//! 0010_0000  RAM            kernel (usually at 16 MiB); initramfs at the upper end
//! c000_0000  PCI memory     BARs
//! e000_0000  virtio-mmio    one window a device
//! e800_0000  ECAM           PCI configuration space of bus 0
//! f000_0000  free           for a framebuffer
//! fec0_0000  I/O APIC
//! fee0_0000  local APICs and message-signalled interrupts
//! feff_c000  KVM's own      pages that real-mode emulation needs on some Intel processors
//! 1_0000_0000  RAM          whatever did not fit below the hole at c000_0000
//! ```

use std::ops::Range;

/// End of RAM below 4 GiB at the latest: addresses from here to 4 GiB are the devices'.
pub const DEVICE_HOLE: u64 = 0xc000_0000;
/// Where RAM goes on above the devices.
pub const HIGH_RAM: u64 = 1 << 32;
/// The least memory that a machine may have: below it, no kernel can be placed.
pub const MIN_MEMORY: u64 = 16 << 20;

/// Global descriptor table of the kernel's entry.
pub const GDT: u64 = 0x500;
/// The zero page (`struct boot_params`).
pub const ZERO_PAGE: u64 = 0x7000;
/// Page tables of the kernel's entry: three pages.
pub const PAGE_TABLES: u64 = 0x9000;
/// The kernel command line.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// Bytes of the command line with its final NUL that a kernel takes (`COMMAND_LINE_SIZE`).
pub const COMMAND_LINE_SIZE: usize = 2048;
/// End of conventional memory.
pub const LOW_RAM_END: u64 = 0xa_0000;
/// The ACPI tables, the RSDP first.
pub const ACPI: Range<u64> = 0xe_0000..0x10_0000;
/// Where RAM goes on above the first megabyte.
pub const KERNEL_MIN: u64 = 0x10_0000;
/// End of what the page tables of the kernel's entry map.
pub const ENTRY_MAPPED: u64 = 1 << 30;

/// Where BARs of PCI devices live.
pub const PCI_MEMORY: Range<u64> = 0xc000_0000..0xe000_0000;
/// Where windows of virtio-mmio devices live.
pub const VIRTIO_MMIO: Range<u64> = 0xe000_0000..0xe800_0000;
/// PCI configuration space (ECAM) of the only bus, 0.
pub const ECAM: Range<u64> = 0xe800_0000..0xe810_0000;
/// The I/O APIC.
pub const IO_APIC: u64 = 0xfec0_0000;
/// The local APICs.
pub const LOCAL_APIC: u64 = 0xfee0_0000;
/// One page for KVM's identity map, three for its task state segment.
pub const KVM_IDENTITY_MAP: u64 = 0xfeff_c000;
pub const KVM_TSS: u64 = 0xfeff_d000;

/// I/O ports of the serial port COM1.
pub const COM1: Range<u16> = 0x3f8..0x400;
/// Its interrupt.
pub const COM1_GSI: u32 = 4;
/// I/O ports of the power registers.
pub const POWER: Range<u16> = 0x600..0x604;

/// Pins of KVM's I/O APIC; global system interrupts from here are message-signalled.
pub const IO_APIC_PINS: u32 = 24;
/// Pins that virtio-mmio devices use, one each: those above the fixed ones of a PC.
pub const VIRTIO_MMIO_GSIS: Range<u32> = 5..IO_APIC_PINS;

/// Splits `memory` bytes of RAM into ranges below and above the devices' hole.
pub fn ram(memory: u64) -> (Range<u64>, Option<Range<u64>>) {
    let low = 0..memory.min(DEVICE_HOLE);
    let high = memory
        .checked_sub(DEVICE_HOLE)
        .filter(|&rest| rest > 0)
        .map(|rest| HIGH_RAM..HIGH_RAM.saturating_add(rest));
    (low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_split_at_the_hole_and_none_is_lost() {
        for memory in [
            MIN_MEMORY,
            128 << 20,
            DEVICE_HOLE - 4096,
            DEVICE_HOLE,
            DEVICE_HOLE + 4096,
            4 << 30,
            64 << 30,
            1 << 40,
        ] {
            let (low, high) = ram(memory);
            assert!(low.end <= DEVICE_HOLE);
            let high = high.unwrap_or(HIGH_RAM..HIGH_RAM);
            assert_eq!(high.start, HIGH_RAM);
            assert_eq!(low.end + (high.end - high.start), memory, "{memory:#x}");
            assert_eq!(high.is_empty(), memory <= DEVICE_HOLE, "{memory:#x}");
        }
    }

    #[test]
    fn regions_do_not_overlap() {
        let regions = [
            GDT..GDT + 32,
            ZERO_PAGE..ZERO_PAGE + 4096,
            PAGE_TABLES..PAGE_TABLES + 3 * 4096,
            COMMAND_LINE..COMMAND_LINE + COMMAND_LINE_SIZE as u64,
            LOW_RAM_END..LOW_RAM_END,
            ACPI,
            KERNEL_MIN..DEVICE_HOLE,
            PCI_MEMORY,
            VIRTIO_MMIO,
            ECAM,
            IO_APIC..IO_APIC + 4096,
            LOCAL_APIC..LOCAL_APIC + 0x10_0000,
            KVM_IDENTITY_MAP..KVM_IDENTITY_MAP + 4096,
            KVM_TSS..KVM_TSS + 3 * 4096,
            HIGH_RAM..u64::MAX,
        ];
        for pair in regions.windows(2) {
            assert!(pair[0].end <= pair[1].start, "{pair:x?}");
        }
    }
}
