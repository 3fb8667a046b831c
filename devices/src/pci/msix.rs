//! Message-signalled interrupts (PCI 3.0, §6.8.2).

use std::fmt;
use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use crate::hypervisor::{IrqRouter, MsiMessage};

/// A driver's "no vector" (virtio 1.2, §4.1.4.3).
pub(crate) const NO_VECTOR: u16 = 0xffff;

const ENTRY_SIZE: usize = 16;
const ENTRY_MASKED: u32 = 1;

const CONTROL_FUNCTION_MASK: u16 = 1 << 14;
const CONTROL_ENABLE: u16 = 1 << 15;

/// The bits of the message control register that the guest may change.
pub(crate) const CONTROL_WRITABLE: u16 = CONTROL_FUNCTION_MASK | CONTROL_ENABLE;

/// The vectors of one function.
pub(crate) struct Msix {
    router: Arc<dyn IrqRouter>,
    vectors: Vec<Vector>,
    control: u16,
}

#[derive(Debug)]
struct Vector {
    gsi: u32,
    fd: EventFd,
    message: MsiMessage,
    masked: bool,
    pending: bool,
    /// The message that the hypervisor knows.
    routed: Option<MsiMessage>,
}

impl Msix {
    /// Allocates `count` vectors, all masked.
    pub(crate) fn new(router: Arc<dyn IrqRouter>, count: u16) -> io::Result<Self> {
        let vectors = (0..count)
            .map(|_| {
                let (gsi, fd) = router.allocate_msi()?;
                Ok(Vector {
                    gsi,
                    fd,
                    message: MsiMessage::default(),
                    masked: true,
                    pending: false,
                    routed: None,
                })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self {
            router,
            vectors,
            control: 0,
        })
    }

    /// Whether `vector` is one of the table.
    pub(crate) fn has(&self, vector: u16) -> bool {
        usize::from(vector) < self.vectors.len()
    }

    /// Whether the function uses message-signalled interrupts at all.
    pub(crate) fn enabled(&self) -> bool {
        self.control & CONTROL_ENABLE != 0
    }

    /// Takes what the guest wrote to the message control register.
    pub(crate) fn set_control(&mut self, control: u16) {
        let control = control & CONTROL_WRITABLE;
        if control != self.control {
            self.control = control;
            (0..self.vectors.len()).for_each(|vector| self.refresh(vector));
        }
    }

    /// Sends the message of `vector`, or remembers to when it is masked.
    pub(crate) fn signal(&mut self, vector: u16) {
        if self.enabled()
            && let Some(entry) = self.vectors.get_mut(usize::from(vector))
        {
            entry.pending = true;
            self.refresh(usize::from(vector));
        }
    }

    /// Forgets interrupts that were raised while masked.
    pub(crate) fn clear_pending(&mut self) {
        self.vectors.iter_mut().for_each(|v| v.pending = false);
    }

    /// An eventfd that sends the message of `vector`. It knows of no mask: while masked, a
    /// signal still sends the message that was last in force.
    pub(crate) fn fd(&self, vector: u16) -> Option<io::Result<EventFd>> {
        let vector = self.vectors.get(usize::from(vector))?;
        Some(vector.fd.try_clone())
    }

    pub(crate) fn read_table(&self, offset: usize, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            let entry = self.vectors.get(at / ENTRY_SIZE);
            *byte = entry.map_or(0, |vector| {
                vector.register(at % ENTRY_SIZE / 4).to_le_bytes()[at % 4]
            });
        }
    }

    /// Takes a write of aligned 4 or 8 bytes; no others are defined.
    pub(crate) fn write_table(&mut self, offset: usize, data: &[u8]) {
        if !matches!(data.len(), 4 | 8) || !offset.is_multiple_of(data.len()) {
            return;
        }
        let index = offset / ENTRY_SIZE;
        let Some(vector) = self.vectors.get_mut(index) else {
            return;
        };
        let registers = data.as_chunks::<4>().0;
        for (register, &value) in (offset % ENTRY_SIZE / 4..).zip(registers) {
            vector.set_register(register, u32::from_le_bytes(value));
        }
        self.refresh(index);
    }

    pub(crate) fn read_pending(&self, offset: usize, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            let eight = self.vectors.iter().skip(at.saturating_mul(8)).take(8);
            *byte = (0..8)
                .zip(eight)
                .fold(0, |bits, (bit, v)| bits | u8::from(v.pending) << bit);
        }
    }

    /// Brings the hypervisor and the pending bit up to date with a vector that may have been
    /// unmasked, changed or signalled. Nothing is routed while masked: drivers write a
    /// message in pieces, and each route costs a system call.
    fn refresh(&mut self, index: usize) {
        let vector = &mut self.vectors[index];
        if vector.masked || self.control & CONTROL_WRITABLE != CONTROL_ENABLE {
            return;
        }
        if vector.routed != Some(vector.message) {
            match self.router.route_msi(vector.gsi, vector.message) {
                Ok(()) => vector.routed = Some(vector.message),
                Err(error) => {
                    log::warn!("MSI-X message {:?} was refused: {error}", vector.message);
                    return;
                }
            }
        }
        if vector.pending {
            vector.pending = false;
            // A counter that is full has a signal outstanding already.
            let _ = vector.fd.write(1);
        }
    }
}

impl fmt::Debug for Msix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Msix")
            .field("vectors", &self.vectors)
            .field("control", &self.control)
            .finish_non_exhaustive()
    }
}

impl Vector {
    fn register(&self, index: usize) -> u32 {
        let [a, b, c, d, e, f, g, h] = self.message.address.to_le_bytes();
        match index {
            0 => u32::from_le_bytes([a, b, c, d]),
            1 => u32::from_le_bytes([e, f, g, h]),
            2 => self.message.data,
            _ => u32::from(self.masked),
        }
    }

    fn set_register(&mut self, index: usize, value: u32) {
        let address = &mut self.message.address;
        match index {
            0 => *address = *address & !0xffff_ffff | u64::from(value),
            1 => *address = *address & 0xffff_ffff | u64::from(value) << 32,
            2 => self.message.data = value,
            _ => self.masked = value & ENTRY_MASKED != 0,
        }
    }
}
