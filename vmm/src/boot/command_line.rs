//! The kernel command line.

use thiserror::Error;

use crate::layout::COMMAND_LINE_SIZE;
use crate::spec::Transport;

/// Why a command line cannot be given to a kernel.
#[derive(Debug, Error)]
pub enum CommandLineError {
    #[error(
        "The kernel command line is {0} bytes long, and a kernel takes {max}",
        max = COMMAND_LINE_SIZE - 1
    )]
    TooLong(usize),
    #[error("The kernel command line has a NUL or a line break in it")]
    ControlCharacter,
}

/// What every machine's kernel is told, each for a reason.
const ALWAYS: [&str; 10] = [
    // The serial port is where a kernel's last words are caught; there is only the one.
    "console=ttyS0",
    "8250.nr_uarts=1",
    // A panic resets at once, by the ACPI reset register and nothing else.
    "panic=-1",
    "reboot=acpi",
    // KVM keeps the TSC right, so the watchdog over it and timer checks are for nothing.
    "tsc=reliable",
    "no_timer_check",
    // The hypervisor's processor seeds the random pool; nothing waits for entropy.
    "random.trust_cpu=on",
    // Self-tests of cryptographic code cost milliseconds and test what is tested elsewhere.
    "cryptomgr.notests",
    // Waits for RCU grace periods dominate a boot that has nothing else to wait for.
    "rcupdate.rcu_expedited=1",
    // Virtio devices reach all memory: no bounce buffer of 64 MiB.
    "swiotlb=noforce",
];

/// Puts a command line together, with the user's own words last, so that they win.
pub fn command_line(
    transport: Transport,
    verbose: bool,
    append: &str,
) -> Result<String, CommandLineError> {
    let mut words = ALWAYS.to_vec();
    match transport {
        // One bus, so none is looked for behind others; and no early look for chips with
        // errata, which on some processors costs tens of thousands of exits.
        Transport::Pci => words.push("pci=lastbus=0,noearly"),
        Transport::Mmio => words.push("pci=off"),
    }
    if verbose {
        // Also what is said before the console's driver is up.
        words.extend(["earlyprintk=ttyS0", "loglevel=7"]);
    } else {
        // Every character costs an exit; a panic raises the level by itself.
        words.push("loglevel=3");
    }
    let append = append.trim();
    if !append.is_empty() {
        words.push(append);
    }
    let line = words.join(" ");
    if line.contains(['\0', '\n', '\r']) {
        return Err(CommandLineError::ControlCharacter);
    }
    if line.len() >= COMMAND_LINE_SIZE {
        return Err(CommandLineError::TooLong(line.len()));
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_user_come_last() {
        let line = command_line(Transport::Pci, false, " console=tty0 foo ").unwrap();
        assert!(line.ends_with(" loglevel=3 console=tty0 foo"), "{line}");
        assert!(line.contains(" pci=lastbus=0,noearly "));
        let line = command_line(Transport::Mmio, true, "").unwrap();
        assert!(line.ends_with(" pci=off earlyprintk=ttyS0 loglevel=7"));
    }

    #[test]
    fn lines_that_a_kernel_would_cut_or_misread_are_refused() {
        let base = command_line(Transport::Pci, false, "").unwrap().len();
        let room = COMMAND_LINE_SIZE - 1 - base - 1;
        assert!(command_line(Transport::Pci, false, &"x".repeat(room)).is_ok());
        let error = command_line(Transport::Pci, false, &"x".repeat(room + 1));
        assert!(matches!(error, Err(CommandLineError::TooLong(2048))));
        for append in ["a\0b", "a\nb"] {
            let error = command_line(Transport::Pci, false, append);
            assert!(matches!(error, Err(CommandLineError::ControlCharacter)));
        }
    }
}
