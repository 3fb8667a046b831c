use std::io::Write;

use proptest::prelude::*;
use runcvm_devices::GuestMemory;
use vm_memory::Bytes;

use super::*;

const SIZE: u64 = 64 << 20;
const LOAD: u64 = 0x100_0000;

/// A kernel with one segment: `code` at `paddr`, taking `memsz` bytes of memory.
struct Image {
    entry: u64,
    paddr: u64,
    memsz: u64,
    code: &'static [u8],
}

const GOOD: Image = Image {
    entry: LOAD + 2,
    paddr: LOAD,
    memsz: 0x3000,
    code: b"\x90\x90\xf4code",
};

impl Image {
    fn bytes(&self) -> Vec<u8> {
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(16, 0);
        elf.extend(2_u16.to_le_bytes()); // executable
        elf.extend(62_u16.to_le_bytes()); // x86-64
        elf.extend(1_u32.to_le_bytes());
        elf.extend(self.entry.to_le_bytes());
        elf.extend(64_u64.to_le_bytes()); // program headers
        elf.extend(0_u64.to_le_bytes());
        elf.extend(0_u32.to_le_bytes());
        for half in [64_u16, 56, 1, 0, 0, 0] {
            elf.extend(half.to_le_bytes());
        }
        elf.extend(1_u32.to_le_bytes()); // PT_LOAD
        elf.extend(7_u32.to_le_bytes());
        let filesz = self.code.len() as u64;
        for word in [120, self.paddr, self.paddr, filesz, self.memsz, 0x1000] {
            elf.extend(word.to_le_bytes());
        }
        elf.extend(self.code);
        elf
    }
}

fn load_bytes(bytes: &[u8]) -> Result<(Loaded, GuestMemory), KernelError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    let memory = memory::create(SIZE).unwrap();
    let loaded = Kernel::new(file)?.load(&memory, SIZE)?;
    Ok((loaded, memory))
}

#[test]
fn a_kernel_lands_at_its_physical_address() {
    let (loaded, memory) = load_bytes(&GOOD.bytes()).unwrap();
    assert_eq!(loaded.entry, GuestAddress(LOAD + 2));
    assert_eq!(loaded.end, LOAD + 0x3000);
    let mut code = [0; 7];
    memory.read_slice(&mut code, GuestAddress(LOAD)).unwrap();
    assert_eq!(code, *GOOD.code);
}

#[test]
fn only_what_cannot_be_written_is_code() {
    let code_len = |flags: u8| {
        let mut elf = GOOD.bytes();
        elf[64 + 4] = flags;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&elf).unwrap();
        Kernel::new(file).unwrap().code_len()
    };
    assert_eq!(code_len(0b101), 7);
    assert_eq!(code_len(0b100), 7);
    assert_eq!(code_len(0b111), 0);
    assert_eq!(code_len(0b110), 0);
}

#[test]
fn files_that_are_no_elf_are_told_apart() {
    for text in [&b""[..], b"\x7fEL", b"#!/bin/sh\nexit 0\n"] {
        assert!(matches!(load_bytes(text), Err(KernelError::NotElf)));
    }
    let mut bzimage = vec![0; 0x400];
    bzimage[0x202..0x206].copy_from_slice(b"HdrS");
    assert!(matches!(load_bytes(&bzimage), Err(KernelError::Compressed)));
}

#[test]
fn kernels_of_other_machines_are_refused() {
    for (offset, value) in [(4, 1), (18, 3), (18, 183), (19, 1)] {
        let mut elf = GOOD.bytes();
        elf[offset] = value;
        assert!(matches!(load_bytes(&elf), Err(KernelError::WrongMachine)));
    }
    let short = &GOOD.bytes()[..19];
    assert!(matches!(load_bytes(short), Err(KernelError::WrongMachine)));
}

#[test]
fn truncated_kernels_are_refused_wherever_they_end() {
    let whole = GOOD.bytes();
    for len in 20..whole.len() {
        let error = load_bytes(&whole[..len]).err();
        assert!(
            matches!(error, Some(KernelError::Truncated)),
            "{len}: {error:?}"
        );
    }
}

#[test]
fn kernels_that_do_not_fit_are_refused() {
    for memsz in [SIZE - LOAD + 1, 1 << 31, u64::MAX - LOAD, u64::MAX] {
        let elf = Image { memsz, ..GOOD }.bytes();
        assert!(matches!(load_bytes(&elf), Err(KernelError::NoRoom { .. })));
    }
    for paddr in [
        0,
        layout::KERNEL_MIN - 1,
        SIZE - 1,
        layout::DEVICE_HOLE,
        u64::MAX,
    ] {
        let elf = Image { paddr, ..GOOD }.bytes();
        let error = load_bytes(&elf).err();
        assert!(
            matches!(error, Some(KernelError::NoRoom { .. })),
            "{paddr:#x}"
        );
    }
}

#[test]
fn headers_that_make_no_sense_are_refused() {
    for (offset, value) in [(54, 55), (56, 0), (57, 1)] {
        let mut elf = GOOD.bytes();
        elf[offset] = value;
        assert!(matches!(load_bytes(&elf), Err(KernelError::BadHeaders)));
    }
    let elf = Image { memsz: 6, ..GOOD }.bytes();
    assert!(matches!(load_bytes(&elf), Err(KernelError::BadHeaders)));
}

#[test]
fn entries_outside_of_the_kernel_are_refused() {
    for entry in [0, layout::KERNEL_MIN - 1, LOAD + 0x3000, SIZE, u64::MAX] {
        let elf = Image { entry, ..GOOD }.bytes();
        let error = load_bytes(&elf).err();
        assert!(
            matches!(error, Some(KernelError::BadEntry { entry: e }) if e == entry),
            "{entry:#x}"
        );
    }
}

proptest! {
    #[test]
    fn no_file_is_loaded_outside_of_its_room(changes: Vec<(u8, u8)>) {
        let mut elf = GOOD.bytes();
        let len = elf.len();
        for (at, value) in changes {
            elf[usize::from(at) % len] = value;
        }
        if let Ok((loaded, _)) = load_bytes(&elf) {
            prop_assert!(loaded.end <= SIZE);
            prop_assert!((layout::KERNEL_MIN..loaded.end).contains(&loaded.entry.0));
        }
    }
}
