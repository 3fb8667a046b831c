//! PID 1 of the guest that the boot benchmark starts: says that it runs, and powers off.

use std::io::Write;

/// What the harness waits for on the serial port.
const READY: &[u8] = b"runcvm-bench: ready\n";

fn main() {
    let mut console = std::io::stdout();
    // Nothing can be done about a console that fails; the harness will time out.
    let _ = console.write_all(READY).and_then(|()| console.flush());
    // The port may still be sending.
    let _ = nix::sys::termios::tcdrain(&console);
    let _ = nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_POWER_OFF);
}
