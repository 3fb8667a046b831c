//! PID 1 of the guest that the boot benchmark starts: says that it runs, and powers off, or
//! resets if its only argument is "reset", for machines that have no power-off.

use std::io::Write;

use nix::sys::reboot::{RebootMode, reboot};

/// What the harness waits for on the serial port.
const READY: &[u8] = b"runcvm-bench: ready\n";

fn main() {
    let mut console = std::io::stdout();
    // Nothing can be done about a console that fails; the harness will time out.
    let _ = console.write_all(READY).and_then(|()| console.flush());
    // The port may still be sending.
    let _ = nix::sys::termios::tcdrain(&console);
    let mode = match std::env::args().nth(1).as_deref() {
        Some("reset") => RebootMode::RB_AUTOBOOT,
        _ => RebootMode::RB_POWER_OFF,
    };
    let _ = reboot(mode);
}
