//! The 16550 serial port, for the kernel's log.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use vm_superio::Trigger;
use vm_superio::serial::NoEvents;
use vmm_sys_util::eventfd::EventFd;

pub use log::SerialLog;

use crate::bus::BusDevice;
use crate::output::Output;

mod log;

/// Ports that the device takes.
pub const LEN: u64 = 8;

/// How long the vCPU waits for an output that takes nothing, before it goes on without.
const PATIENCE: Duration = Duration::from_secs(1);

/// Bytes of input that wait for the guest, besides those in the receiver's FIFO.
const INPUT_LIMIT: usize = 4096;

/// A serial port.
///
/// What the guest writes goes to an output and to a [`SerialLog`]. The guest's vCPU does the
/// writing, so nothing is buffered and lost with the machine; but it is not held up by an
/// output that nobody reads: after a second without progress, bytes are dropped until the
/// output takes one again. The log always has them. An output that fails is not written any
/// more.
#[derive(Debug)]
pub struct Serial {
    uart: Mutex<Uart>,
    log: SerialLog,
}

#[derive(Debug)]
struct Uart {
    registers: vm_superio::Serial<Irq, NoEvents, Transmitter>,
    input: VecDeque<u8>,
}

impl Serial {
    /// A serial port that writes to `out`, if given, and raises its interrupt by `irq`.
    pub fn new(out: Option<File>, irq: EventFd) -> Self {
        let log = SerialLog::default();
        let transmitter = Transmitter {
            out: out.map(Output::new),
            stalled: false,
            log: log.clone(),
        };
        Self {
            uart: Mutex::new(Uart {
                registers: vm_superio::Serial::new(Irq(irq), transmitter),
                input: VecDeque::new(),
            }),
            log,
        }
    }

    /// What the guest wrote last.
    pub fn log(&self) -> SerialLog {
        self.log.clone()
    }

    /// Gives `data` to the guest as input, as much as there is room for. Returns how much.
    pub fn enqueue_input(&self, data: &[u8]) -> usize {
        let mut uart = self.uart();
        let room = INPUT_LIMIT.saturating_sub(uart.input.len());
        let taken = data.len().min(room);
        uart.input.extend(&data[..taken]);
        uart.refill();
        taken
    }

    fn uart(&self) -> MutexGuard<'_, Uart> {
        self.uart
            .lock()
            .expect("no thread panics with the lock held")
    }
}

impl Uart {
    /// Moves input to the receiver's FIFO, which is empty or has room left.
    fn refill(&mut self) {
        let count = self.registers.fifo_capacity().min(self.input.len());
        let (bytes, _) = self.input.as_slices();
        let count = count.min(bytes.len());
        if count == 0 {
            return;
        }
        // Takes nothing in loopback mode: then the input waits.
        if let Ok(taken) = self.registers.enqueue_raw_bytes(&bytes[..count]) {
            self.input.drain(..taken);
        }
    }
}

impl BusDevice for Serial {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut uart = self.uart();
        for (register, byte) in (offset..).zip(data) {
            *byte = u8::try_from(register).map_or(0xff, |register| uart.registers.read(register));
        }
        uart.refill();
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut uart = self.uart();
        for (register, &byte) in (offset..).zip(data) {
            if let Ok(register) = u8::try_from(register) {
                // Fails only when the interrupt is pending already.
                let _ = uart.registers.write(register, byte);
            }
        }
    }
}

#[derive(Debug)]
struct Irq(EventFd);

impl Trigger for Irq {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

#[derive(Debug)]
struct Transmitter {
    out: Option<Output>,
    stalled: bool,
    log: SerialLog,
}

impl Transmitter {
    fn send(&mut self, data: &[u8]) {
        let mut rest = data;
        while let Some(out) = &self.out
            && !rest.is_empty()
        {
            match out.try_write(rest) {
                Ok(len) if len > 0 => {
                    self.stalled = false;
                    rest = &rest[len..];
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stalled = self.stalled || !out.wait(PATIENCE);
                    if self.stalled {
                        return;
                    }
                }
                _ => self.out = None,
            }
        }
    }
}

impl Write for Transmitter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.log.push(data);
        self.send(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
