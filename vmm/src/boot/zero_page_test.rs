use super::*;

const IMAGES: Images = Images {
    entry: GuestAddress(0x100_0000),
    initramfs: Some((GuestAddress(0x7f0_0000), 0xf_1234)),
};

#[test]
fn e820_maps_are_sorted_disjoint_and_complete() {
    for size in [
        layout::MIN_MEMORY,
        128 << 20,
        256 << 20,
        layout::DEVICE_HOLE - 4096,
        layout::DEVICE_HOLE,
        layout::DEVICE_HOLE + 4096,
        4 << 30,
        1 << 36,
    ] {
        let map = e820(size);
        let ends: Vec<_> = map.iter().map(|e| (e.addr, e.addr + e.size)).collect();
        for pair in ends.windows(2) {
            assert!(pair[0].1 <= pair[1].0, "{size:#x}: {ends:x?}");
        }
        let ram: u64 = map.iter().filter(|e| e.r#type == RAM).map(|e| e.size).sum();
        // Only the hole below 1 MiB is lost.
        assert_eq!(ram, size - (layout::KERNEL_MIN - layout::LOW_RAM_END));
        let (below, above) = layout::ram(size);
        for e in map.iter().filter(|e| e.r#type != RESERVED) {
            let inside = |range: &std::ops::Range<u64>| {
                range.start <= e.addr && e.addr + e.size <= range.end
            };
            assert!(inside(&below) || above.as_ref().is_some_and(inside));
        }
    }
}

#[test]
fn the_page_lies_in_memory_as_the_protocol_says() {
    let size = 128 << 20;
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size)]).unwrap();
    write_zero_page(&memory, size as u64, IMAGES, "quiet x=y").unwrap();
    let at = |offset: u64| GuestAddress(layout::ZERO_PAGE + offset);
    let read = |offset| memory.read_obj::<u32>(at(offset)).unwrap();
    assert_eq!(memory.read_obj::<u16>(at(0x1fe)).unwrap(), 0xaa55);
    assert_eq!(read(0x202).to_le_bytes(), *b"HdrS");
    assert_eq!(memory.read_obj::<u8>(at(0x210)).unwrap(), 0xff);
    assert_eq!(read(0x218), 0x7f0_0000);
    assert_eq!(read(0x21c), 0xf_1234);
    assert_eq!(u64::from(read(0x228)), layout::COMMAND_LINE);
    assert_eq!(read(0x238), 9);
    assert_eq!(u64::from(read(0x070)), layout::ACPI.start);
    assert_eq!(memory.read_obj::<u8>(at(0x1e8)).unwrap(), 4);
    // The second e820 entry: 20 bytes each from 0x2d0 on.
    assert_eq!(u64::from(read(0x2d0 + 20)), layout::ACPI.start);
    assert_eq!(read(0x2d0 + 20 + 16), ACPI);
    // No screen.
    assert_eq!(memory.read_obj::<u8>(at(0x0f)).unwrap(), 0);
    let mut line = [0xff; 10];
    memory
        .read_slice(&mut line, GuestAddress(layout::COMMAND_LINE))
        .unwrap();
    assert_eq!(line, *b"quiet x=y\0");
}

#[test]
fn a_machine_without_initramfs_has_none() {
    let images = Images {
        initramfs: None,
        ..IMAGES
    };
    let page = zero_page(128 << 20, images, "");
    let header = page.hdr;
    assert_eq!({ header.ramdisk_image }, 0);
    assert_eq!({ header.ramdisk_size }, 0);
}
