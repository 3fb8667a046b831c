//! PID 1 of the guests that benchmarks start. It says on the console that it runs, and since
//! when the kernel's clock does, executes itself as a command that says that it runs, says that
//! this ended, and powers off. Arguments: "io" has it use the first disk in between, and "reset"
//! has it reset the machine in place of a power-off that some do not have.

mod io;

use std::io::Write;
use std::process::Command;

use nix::sys::reboot::{RebootMode, reboot};
use nix::time::{ClockId, clock_gettime};

const COMMAND: &str = "command";

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    if has(COMMAND) {
        say("command");
        return;
    }
    say(&format!("ready {}", since_boot()));
    // If it fails, its line is missed.
    let _ = Command::new("/init").arg(COMMAND).status();
    if has("io")
        && let Err(error) = io::run()
    {
        say(&format!("failed {error}"));
    }
    say("exit");
    // The port may still be sending.
    let _ = nix::sys::termios::tcdrain(std::io::stdout());
    let mode = match has("reset") {
        true => RebootMode::RB_AUTOBOOT,
        false => RebootMode::RB_POWER_OFF,
    };
    let _ = reboot(mode);
}

/// Nanoseconds since the kernel started its clock.
fn since_boot() -> u128 {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_or(0, |time| std::time::Duration::from(time).as_nanos())
}

/// One line of those that the harness waits for. Nothing can be done about a console that fails;
/// the harness will time out.
fn say(words: &str) {
    let mut console = std::io::stdout();
    let _ = console
        .write_all(format!("runcvm-bench: {words}\n").as_bytes())
        .and_then(|()| console.flush());
}
