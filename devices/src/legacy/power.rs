//! Power-off and reset by hardware-reduced ACPI: the sleep control and status registers
//! (ACPI 6.4, §4.8.3.7) and the reset register (§4.8.3.6), each one byte wide.

use std::fmt;

use crate::bus::BusDevice;

/// Offset of the sleep control register, which the FADT's `SLEEP_CONTROL_REG` names.
pub const SLEEP_CONTROL_OFFSET: u64 = 0;

/// Offset of the sleep status register, which the FADT's `SLEEP_STATUS_REG` names.
pub const SLEEP_STATUS_OFFSET: u64 = 1;

/// Offset of the reset register, which the FADT's `RESET_REG` names.
pub const RESET_OFFSET: u64 = 2;

/// Bytes of address space that the registers take.
pub const LEN: u64 = 4;

/// The FADT's `RESET_VALUE`: what resets the machine.
pub const RESET_VALUE: u8 = 1;

/// The type of the S5 state, as the DSDT's `\_S5` gives it.
pub const SLP_TYP_S5: u8 = 5;

/// `SLP_TYPx` and `SLP_EN` of the sleep control register.
const SLP_TYP_SHIFT: u8 = 2;
const SLP_TYP_MASK: u8 = 7;
const SLP_EN: u8 = 1 << 5;

/// What the guest wants of its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerEvent {
    /// Soft off, S5.
    PowerOff,
    /// A restart.
    Reset,
}

/// The registers.
pub struct Power {
    report: Box<dyn Fn(PowerEvent) + Send + Sync>,
}

impl Power {
    /// Calls `report` on the thread of the vCPU that asked.
    pub fn new(report: impl Fn(PowerEvent) + Send + Sync + 'static) -> Self {
        Self {
            report: Box::new(report),
        }
    }
}

impl BusDevice for Power {
    /// Nothing is set: the machine never wakes from a sleep.
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        for (register, &value) in (offset..).zip(data) {
            match register {
                SLEEP_CONTROL_OFFSET
                    if value & SLP_EN != 0
                        && value >> SLP_TYP_SHIFT & SLP_TYP_MASK == SLP_TYP_S5 =>
                {
                    (self.report)(PowerEvent::PowerOff);
                }
                RESET_OFFSET if value == RESET_VALUE => (self.report)(PowerEvent::Reset),
                _ => {}
            }
        }
    }
}

impl fmt::Debug for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Power").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn events(writes: &[(u64, &[u8])]) -> Vec<PowerEvent> {
        let (sender, receiver) = mpsc::channel();
        let power = Power::new(move |event| sender.send(event).unwrap());
        for (offset, data) in writes {
            power.write(*offset, data);
        }
        drop(power);
        receiver.iter().collect()
    }

    #[test]
    fn soft_off_and_reset_are_reported() {
        let s5 = SLP_TYP_S5 << 2 | 1 << 5;
        assert_eq!(events(&[(0, &[s5])]), [PowerEvent::PowerOff]);
        assert_eq!(events(&[(2, &[1])]), [PowerEvent::Reset]);
        assert_eq!(events(&[(1, &[0, 1])]), [PowerEvent::Reset]);
    }

    #[test]
    fn other_writes_do_nothing() {
        for value in 0..=u8::MAX {
            let off = value & 0x3c == 0x34;
            assert_eq!(
                events(&[(0, &[value])]).len(),
                usize::from(off),
                "{value:#x}"
            );
        }
        // Clearing the wake status, other reset values, and past the registers.
        assert_eq!(events(&[(1, &[0x80]), (2, &[0, 1]), (3, &[0xff])]), []);
    }

    #[test]
    fn registers_read_as_zero() {
        let mut data = [0xff; 2];
        Power::new(|_| {}).read(0, &mut data);
        assert_eq!(data, [0; 2]);
    }
}
