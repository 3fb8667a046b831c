//! PID 1 of the guest that the boot benchmark starts. It says on the console that it runs, and
//! since when the kernel's clock does, executes itself as a command that says that it runs, says
//! that this ended, and powers off, or resets if its only argument is "reset", for machines
//! that have no power-off.

use std::io::{self, Write};
use std::process::Command;

use nix::sys::reboot::{RebootMode, reboot};
use nix::time::{ClockId, clock_gettime};

const COMMAND: &str = "command";

fn main() {
    let argument = std::env::args().nth(1);
    if argument.as_deref() == Some(COMMAND) {
        say("command");
        return;
    }
    let nanoseconds = clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_or(0, |time| std::time::Duration::from(time).as_nanos());
    say(&format!("ready {nanoseconds}"));
    // If it fails, its line is missed.
    let _ = Command::new("/init").arg(COMMAND).status();
    say("exit");
    // The port may still be sending.
    let _ = nix::sys::termios::tcdrain(io::stdout());
    let mode = match argument.as_deref() {
        Some("reset") => RebootMode::RB_AUTOBOOT,
        _ => RebootMode::RB_POWER_OFF,
    };
    let _ = reboot(mode);
}

/// One line of those that the harness waits for. Nothing can be done about a console that fails;
/// the harness will time out.
fn say(word: &str) {
    let mut console = io::stdout();
    let _ = console
        .write_all(format!("runcvm-bench: {word}\n").as_bytes())
        .and_then(|()| console.flush());
}
