//! Guests of a few instructions, as kernels that every monitor takes: 64-bit ELF files with the
//! note of the PVH boot protocol. They run in 32-bit and in 64-bit mode alike.

use runcvm_devices::legacy::power::SLP_TYP_S5;
use runcvm_protocol::BOOT_MARK_PORT;
use runcvm_vmm::layout;

/// What the guest writes to our port of boot marks at once.
pub(super) const MARK: u8 = 0xbe;

/// Where it is loaded: where Linux would be.
const ADDRESS: u32 = 16 << 20;

/// Port and command of the keyboard controller that reset a PC, and a machine of Firecracker's.
const KEYBOARD: u16 = 0x64;
const RESET: u8 = 0xfe;

/// A guest that says it runs and then ends its machine: by our power registers, which are
/// Cloud Hypervisor's too, else by the keyboard controller, and where there is none by a triple
/// fault, since nobody has made an interrupt table. It sleeps after a reset that takes a moment:
/// a fault would be an error then.
pub(super) fn ending() -> Vec<u8> {
    const SLEEP_ENABLE: u8 = 1 << 5;
    let power_off = SLP_TYP_S5 << 2 | SLEEP_ENABLE;
    let mut code = Vec::new();
    code.extend(out(BOOT_MARK_PORT, MARK));
    code.extend(out(layout::POWER.start, power_off));
    code.extend(in_al(KEYBOARD));
    code.extend(CMP_AL_FF);
    let mut reset = out(KEYBOARD, RESET).to_vec();
    reset.extend(HLT_AND_BACK);
    code.extend([JE, u8::try_from(reset.len()).expect("it is short")]);
    code.extend(reset);
    code.extend(UD2);
    elf(&code)
}

/// A guest that says it runs and then sleeps for good: interrupts are off.
pub(super) fn sleeping() -> Vec<u8> {
    let mut code = out(BOOT_MARK_PORT, MARK).to_vec();
    code.extend(HLT_AND_BACK);
    elf(&code)
}

const UD2: [u8; 2] = [0x0f, 0x0b];
/// `cmp al, 0xff`: what is read where nothing answers.
const CMP_AL_FF: [u8; 2] = [0x3c, 0xff];
/// `je`, before the distance.
const JE: u8 = 0x74;
/// `hlt`, and a jump to it.
const HLT_AND_BACK: [u8; 3] = [0xf4, 0xeb, 0xfd];

/// `mov dx, port; mov al, value; out dx, al`.
fn out(port: u16, value: u8) -> [u8; 7] {
    let [low, high] = port.to_le_bytes();
    [0x66, 0xba, low, high, 0xb0, value, 0xee]
}

/// `mov dx, port; in al, dx`.
fn in_al(port: u16) -> [u8; 5] {
    let [low, high] = port.to_le_bytes();
    [0x66, 0xba, low, high, 0xec]
}

/// An ELF file (ELF specification, "ELF Header", "Program Header") of one segment with `code`,
/// which is its entry, and a note `XEN_ELFNOTE_PHYS32_ENTRY` (Xen, `elfnote.h`).
fn elf(code: &[u8]) -> Vec<u8> {
    const HEADER: u16 = 64;
    const PROGRAM_HEADER: u16 = 56;
    const EXECUTABLE: u16 = 2;
    const X86_64: u16 = 62;
    const LOAD: u32 = 1;
    const NOTE: u32 = 4;
    const READ_EXECUTE: u32 = 5;
    const PHYS32_ENTRY: u32 = 18;

    let mut note = Vec::new();
    note.extend(4_u32.to_le_bytes());
    note.extend(4_u32.to_le_bytes());
    note.extend(PHYS32_ENTRY.to_le_bytes());
    note.extend(b"Xen\0");
    note.extend(ADDRESS.to_le_bytes());

    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend(EXECUTABLE.to_le_bytes());
    file.extend(X86_64.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    file.extend(u64::from(ADDRESS).to_le_bytes());
    file.extend(u64::from(HEADER).to_le_bytes());
    file.extend(0_u64.to_le_bytes());
    file.extend(0_u32.to_le_bytes());
    for field in [HEADER, PROGRAM_HEADER, 2, 0, 0, 0] {
        file.extend(field.to_le_bytes());
    }
    let note_at = u64::from(HEADER) + 2 * u64::from(PROGRAM_HEADER);
    // Loaders want segments to begin in their file as they do in memory, modulo a page.
    let code_at = 4096;
    for (kind, offset, content) in [(LOAD, code_at, code), (NOTE, note_at, &note[..])] {
        file.extend(kind.to_le_bytes());
        file.extend(READ_EXECUTE.to_le_bytes());
        file.extend(offset.to_le_bytes());
        let address = if kind == LOAD { u64::from(ADDRESS) } else { 0 };
        let len = content.len() as u64;
        for field in [address, address, len, len, 4] {
            file.extend(field.to_le_bytes());
        }
    }
    file.extend(note);
    file.resize(4096, 0);
    file.extend(code);
    file
}
