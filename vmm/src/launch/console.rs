//! The console hvc0, on which an init system speaks that is the machine's PID 1.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;
use runcvm_protocol::{InitMode, Process};

use super::poll::PollSet;

/// Bytes read from the console in one go.
const READ: usize = 16 * 1024;

/// The launcher's ends of the console's pipes.
#[derive(Debug)]
pub(crate) struct Console {
    input: File,
    /// What the guest has not taken.
    waiting: Vec<u8>,
    /// `None` once the machine has gone.
    output: Option<File>,
}

/// The machine's ends.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) input: OwnedFd,
    pub(crate) output: OwnedFd,
}

impl Console {
    pub(crate) fn new() -> io::Result<(Self, Ends)> {
        let (machine_input, input) = io::pipe()?;
        let (output, machine_output) = io::pipe()?;
        let own = |fd: OwnedFd| {
            fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            io::Result::Ok(File::from(fd))
        };
        let console = Self {
            input: own(input.into())?,
            waiting: Vec::new(),
            output: Some(own(output.into())?),
        };
        let ends = Ends {
            input: machine_input.into(),
            output: machine_output.into(),
        };
        Ok((console, ends))
    }

    /// Everything that the guest wrote is read.
    pub(crate) fn has_ended(&self) -> bool {
        self.output.is_none()
    }

    /// Bytes of input that can be taken now.
    pub(crate) fn room(&self) -> usize {
        READ.saturating_sub(self.waiting.len())
    }

    /// Waits for output only if there is room for it.
    pub(crate) fn watch(&self, set: &mut PollSet, room_for_output: bool) {
        if !self.waiting.is_empty() && self.output.is_some() {
            set.watch(&self.input, PollFlags::POLLOUT);
        }
        if let Some(output) = &self.output
            && room_for_output
        {
            set.watch(output, PollFlags::POLLIN);
        }
    }

    /// Gives the guest input.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
        self.transmit();
    }

    /// Gives the guest what waits, and returns what it wrote.
    pub(crate) fn step(&mut self, set: &PollSet) -> Vec<u8> {
        self.transmit();
        let mut bytes = vec![0; READ];
        let Some(output) = &mut self.output else {
            return Vec::new();
        };
        if !set.readable(output) {
            return Vec::new();
        }
        match output.read(&mut bytes) {
            Ok(n) if n > 0 => {
                bytes.truncate(n);
                return bytes;
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => self.output = None,
        }
        Vec::new()
    }

    fn transmit(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        match self.input.write(&self.waiting) {
            Ok(n) => drop(self.waiting.drain(..n)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.waiting.clear(),
        }
    }
}

/// The machine needs the console: its command may become PID 1. In [`InitMode::Auto`] the
/// guest decides by the program that the command's path leads to; by its name alone, almost
/// every init system is known, and a machine without one is spared a device.
pub(crate) fn is_wanted(mode: InitMode, process: &Process) -> bool {
    match mode {
        InitMode::Namespaced => false,
        InitMode::Pid1 => true,
        InitMode::Auto => {
            let program = process.args.first().map(|p| p.as_slice());
            let path = Path::new(std::ffi::OsStr::from_bytes(program.unwrap_or_default()));
            let name = path.file_name().unwrap_or_default().as_bytes();
            let has = |part: &[u8]| name.windows(part.len()).any(|w| w == part);
            [
                &b"init"[..],
                b"systemd",
                b"procd",
                b"runit",
                b"s6-svscan",
                b"linuxrc",
            ]
            .into_iter()
            .any(has)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_systems_are_known_by_their_names() {
        let wanted = |mode, program: &str| {
            let mut process = super::super::spec::tests::minimal(Path::new("/")).process;
            process.args = vec![program.as_bytes().to_vec().into()];
            is_wanted(mode, &process)
        };
        for program in [
            "/sbin/init",
            "init",
            "/lib/systemd/systemd",
            "/sbin/openrc-init",
        ] {
            assert!(wanted(InitMode::Auto, program), "{program}");
        }
        assert!(!wanted(InitMode::Auto, "/bin/sh"));
        assert!(wanted(InitMode::Pid1, "/bin/sh"));
        assert!(!wanted(InitMode::Namespaced, "/sbin/init"));
    }

    #[test]
    fn bytes_pass_both_ways_and_the_end_is_seen() {
        let (mut console, ends) = Console::new().unwrap();
        console.push(b"typed");
        let mut input = File::from(ends.input);
        let mut typed = [0; 5];
        input.read_exact(&mut typed).unwrap();
        assert_eq!(&typed, b"typed");

        let mut output = File::from(ends.output);
        output.write_all(b"shown").unwrap();
        drop(output);
        let mut shown = Vec::new();
        while !console.has_ended() {
            let mut set = PollSet::default();
            console.watch(&mut set, true);
            set.wait(None).unwrap();
            shown.extend(console.step(&set));
        }
        assert_eq!(shown, b"shown");
    }
}
