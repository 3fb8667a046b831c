//! The zero page: what the boot protocol tells a kernel (Documentation/arch/x86/zero-page.rst).

use std::ops::Range;

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryMmap};

use super::{BootError, Images};
use crate::layout;

/// Types of the e820 map.
const RAM: u32 = 1;
const RESERVED: u32 = 2;
const ACPI: u32 = 3;

/// Values of the setup header.
const BOOT_FLAG: u16 = 0xaa55;
const HEADER: u32 = u32::from_le_bytes(*b"HdrS");
/// A boot loader without a number of its own.
const UNDEFINED_LOADER: u8 = 0xff;
const KERNEL_ALIGNMENT: u32 = 0x20_0000;

/// `boot_params` as the plain bytes that it is.
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
struct ZeroPage(boot_params);

// SAFETY: `boot_params` is a packed struct of integers, without padding.
unsafe impl ByteValued for ZeroPage {}

/// Writes the zero page and the command line for a machine with `size` bytes of RAM, whose
/// RSDP is at the start of [`layout::ACPI`].
///
/// `screen_info` is left empty: there is no screen.
pub fn write_zero_page(
    memory: &GuestMemoryMmap,
    size: u64,
    images: Images,
    command_line: &str,
) -> Result<(), BootError> {
    let text = GuestAddress(layout::COMMAND_LINE);
    memory.write_slice(command_line.as_bytes(), text)?;
    memory.write_obj(0_u8, GuestAddress(text.0 + command_line.len() as u64))?;
    let page = zero_page(size, images, command_line);
    Ok(memory.write_obj(ZeroPage(page), GuestAddress(layout::ZERO_PAGE))?)
}

fn zero_page(size: u64, images: Images, command_line: &str) -> boot_params {
    let mut page = boot_params::default();
    page.hdr.boot_flag = BOOT_FLAG;
    page.hdr.header = HEADER;
    page.hdr.type_of_loader = UNDEFINED_LOADER;
    page.hdr.kernel_alignment = KERNEL_ALIGNMENT;
    page.hdr.cmd_line_ptr = low(layout::COMMAND_LINE);
    page.hdr.cmdline_size = low(command_line.len() as u64);
    if let Some((at, len)) = images.initramfs {
        page.hdr.ramdisk_image = low(at.0);
        page.hdr.ramdisk_size = low(len);
    }
    page.acpi_rsdp_addr = layout::ACPI.start;
    let map = e820(size);
    for (slot, entry) in page.e820_table.iter_mut().zip(&map) {
        *slot = *entry;
    }
    page.e820_entries = u8::try_from(map.len()).expect("a handful");
    page
}

/// An address or length below 4 GiB, as all of these are by the layout.
fn low(value: u64) -> u32 {
    u32::try_from(value).expect("boot data lies below 4 GiB")
}

fn e820(size: u64) -> Vec<boot_e820_entry> {
    let entry = |range: Range<u64>, kind| boot_e820_entry {
        addr: range.start,
        size: range.end - range.start,
        r#type: kind,
    };
    let (below, above) = layout::ram(size);
    let mut map = vec![
        entry(0..layout::LOW_RAM_END, RAM),
        entry(layout::ACPI, ACPI),
        entry(layout::KERNEL_MIN..below.end, RAM),
        // Linux uses ECAM only where firmware reserved it.
        entry(layout::ECAM, RESERVED),
    ];
    map.extend(above.map(|range| entry(range, RAM)));
    map
}

#[cfg(test)]
#[path = "zero_page_test.rs"]
mod tests;
