//! The machine process, as its launcher sees it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::child::Helper;
use super::control::ClientId;
use super::lines::LineSocket;
use super::poll::PollSet;
use crate::control::{Event, FromMachine, Reply, Request};
use crate::spec::MachineSpec;

/// Who asked the machine something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    Client(ClientId),
    Launcher,
}

/// What the machine process said.
#[derive(Debug)]
pub(crate) enum Heard {
    Event(Event),
    Reply(Asker, Reply),
}

/// The machine process; killed when dropped.
#[derive(Debug)]
pub(crate) struct MachineProcess {
    process: Helper,
    control: LineSocket,
    /// Who waits for answers, which come in the order of the questions.
    asked: VecDeque<Asker>,
}

impl MachineProcess {
    /// Starts a machine. `fds` are the descriptors that `spec` speaks of; its control
    /// descriptor is filled in here.
    pub(crate) fn start(mut spec: MachineSpec, fds: &[OwnedFd]) -> io::Result<Self> {
        let (control, machine_end) = UnixStream::pair()?;
        spec.control = machine_end.as_raw_fd();
        let json = serde_json::to_vec(&spec)?;
        // A file in memory: unlike a pipe it takes everything before anybody reads.
        let mut file = File::from(memfd_create(c"machine-spec", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(&json)?;
        file.rewind()?;

        let mut command = Command::new("/proc/self/exe");
        command.arg0("runcvm-vmm").args(["machine", "--spec-fd"]);
        command.arg(file.as_raw_fd().to_string());
        let own = [file.as_raw_fd(), machine_end.as_raw_fd()];
        let inherited = fds.iter().map(AsRawFd::as_raw_fd).chain(own).collect();
        Self::start_command(command, inherited, control)
    }

    /// Starts `command` as the machine process that has the other end of `control`.
    pub(super) fn start_command(
        command: Command,
        inherited: Vec<RawFd>,
        control: UnixStream,
    ) -> io::Result<Self> {
        Ok(Self {
            process: Helper::start(command, inherited, || Ok(()))?,
            control: LineSocket::new(control)?,
            asked: VecDeque::new(),
        })
    }

    /// Its process ID, unless it was waited for.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    pub(crate) fn watch(&self, set: &mut PollSet) {
        self.process.watch(set);
        self.control.watch(set);
    }

    /// Receives and sends what is possible; returns what the machine process said.
    pub(crate) fn step(&mut self, set: &PollSet) -> Vec<Heard> {
        self.process.step(set);
        self.control.step(set);
        std::iter::from_fn(|| {
            let line = self.control.next_line()?;
            Some(serde_json::from_slice(&line))
        })
        .filter_map(|message| match message {
            Ok(FromMachine::Event(event)) => Some(Heard::Event(event)),
            Ok(FromMachine::Reply(reply)) => Some(Heard::Reply(self.asked.pop_front()?, reply)),
            // It is our own program: a line that is none of ours is a panic's remains.
            Err(_) => None,
        })
        .collect()
    }

    /// Asks; the answer is a [`Heard::Reply`].
    pub(crate) fn ask(&mut self, asker: Asker, request: &Request) {
        self.asked.push_back(asker);
        self.control.send(request);
    }

    /// All that it said is heard.
    pub(crate) fn has_hung_up(&self) -> bool {
        self.control.has_ended()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    /// Kills it without waiting for its end.
    pub(crate) fn start_killing(&mut self) {
        self.process.start_killing();
    }

    /// How it ended and its last words.
    pub(crate) fn last_words(&mut self) -> String {
        self.process.last_words()
    }
}
