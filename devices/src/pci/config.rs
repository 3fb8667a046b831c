//! The registers of a conventional configuration space (PCI 3.0, §6).

/// Bytes of a conventional configuration space. What follows in the extended space reads 0:
/// no extended capabilities.
const SIZE: usize = 256;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BAR0: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const FIRST_CAPABILITY: usize = 0x40;

/// Memory space, bus master, and interrupt disable.
const COMMAND_WRITABLE: u16 = 1 << 1 | 1 << 2 | 1 << 10;
const STATUS_CAPABILITIES: u16 = 1 << 4;
const BAR_64_BIT: u64 = 0b100;

/// What a function says it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) vendor: u16,
    pub(crate) device: u16,
    pub(crate) revision: u8,
    /// Base class, sub-class and programming interface, from the highest byte down.
    pub(crate) class: u32,
    pub(crate) subsystem_vendor: u16,
    pub(crate) subsystem: u16,
}

/// The registers of one function, with at most one BAR: BAR 0, 64-bit memory.
#[derive(Debug)]
pub(crate) struct ConfigSpace {
    bytes: [u8; SIZE],
    /// The bits that the guest may change.
    writable: [u8; SIZE],
    bar: Option<Bar>,
    /// Where the next capability goes.
    end: usize,
    /// The pointer that will point to it.
    link: usize,
}

/// The two registers of a 64-bit BAR.
#[derive(Clone, Copy, Debug)]
struct Bar {
    /// What they read.
    assigned: [u8; 8],
    /// The bits of them that are address.
    mask: [u8; 8],
}

impl ConfigSpace {
    pub(crate) fn new(identity: &Identity) -> Self {
        let mut space = Self {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            bar: None,
            end: FIRST_CAPABILITY,
            link: CAPABILITIES,
        };
        space.put(0x00, &identity.vendor.to_le_bytes());
        space.put(0x02, &identity.device.to_le_bytes());
        space.put(
            0x08,
            &(identity.class << 8 | u32::from(identity.revision)).to_le_bytes(),
        );
        space.put(0x2c, &identity.subsystem_vendor.to_le_bytes());
        space.put(0x2e, &identity.subsystem.to_le_bytes());
        space.writable[COMMAND..COMMAND + 2].copy_from_slice(&COMMAND_WRITABLE.to_le_bytes());
        space
    }

    /// Makes BAR 0 a 64-bit memory BAR of `size` bytes, a power of two, at `address`.
    ///
    /// The address is assigned once, by the monitor: the guest can ask for the size, but a
    /// write of another address is not taken, and the BAR goes on to read as assigned. That
    /// keeps the notification addresses, which the hypervisor knows, and the bus, which is
    /// never changed while the guest runs, true. Guests keep addresses that firmware gave.
    pub(crate) fn set_bar(&mut self, address: u64, size: u64) {
        let bar = Bar {
            assigned: (address | BAR_64_BIT).to_le_bytes(),
            mask: (!(size - 1)).to_le_bytes(),
        };
        self.put(BAR0, &bar.assigned);
        self.writable[BAR0..BAR0 + 8].copy_from_slice(&bar.mask);
        self.bar = Some(bar);
    }

    /// Appends a capability: its identifier, and what follows the pointer to the next one.
    /// Of the latter, bits set in `writable` can be changed by the guest. Returns where the
    /// capability begins.
    ///
    /// # Panics
    ///
    /// If the capabilities of a function, which are chosen by us, do not fit.
    pub(crate) fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> u16 {
        let at = self.end;
        self.put(self.link, &[u8::try_from(at).expect("256 bytes")]);
        self.put(at, &[id, 0]);
        self.put(at + 2, body);
        self.writable[at + 2..at + 2 + writable.len()].copy_from_slice(writable);
        self.put(STATUS, &STATUS_CAPABILITIES.to_le_bytes());
        self.link = at + 1;
        self.end = (at + 2 + body.len()).next_multiple_of(4);
        u16::try_from(at).expect("256 bytes")
    }

    pub(crate) fn read(&self, offset: u16, data: &mut [u8]) {
        data.fill(0);
        let bytes = self.bytes.iter().skip(usize::from(offset));
        data.iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
    }

    pub(crate) fn write(&mut self, offset: u16, data: &[u8]) {
        let registers = self.bytes.iter_mut().zip(&self.writable);
        for ((byte, mask), new) in registers.skip(usize::from(offset)).zip(data) {
            *byte = *byte & !mask | new & mask;
        }
        self.keep_bar();
    }

    /// The little-endian value of the `N` bytes at `offset`, which is one of ours.
    pub(crate) fn get<const N: usize>(&self, offset: u16) -> [u8; N] {
        let mut value = [0; N];
        self.read(offset, &mut value);
        value
    }

    /// Undoes a write to the BAR, unless it asks for its size (all ones).
    fn keep_bar(&mut self) {
        let Some(bar) = self.bar else { return };
        for half in [0..4, 4..8] {
            let register = &mut self.bytes[BAR0..][half.clone()];
            let mask = &bar.mask[half.clone()];
            if register.iter().zip(mask).any(|(r, mask)| r & mask != *mask) {
                register.copy_from_slice(&bar.assigned[half]);
            }
        }
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }
}
