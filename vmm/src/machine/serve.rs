//! Waits for the machine's end, and meanwhile answers what comes over the control socket.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use runcvm_devices::virtio::console::ConsoleHandle;

use super::channel::Channel;
use super::ending::Ending;
use super::overhead::Overhead;
use crate::control::{End, Reply, Request, State, Status};
use crate::cpu::Threads;
use crate::spec::MachineSpec;

/// Longest request. All that there are take a fraction of it.
const MAX_REQUEST: usize = 4096;

/// What answering takes.
pub(super) struct Server<'a> {
    spec: &'a MachineSpec,
    channel: &'a Arc<Channel>,
    ending: &'a Ending,
    threads: &'a Threads,
    console: Option<&'a ConsoleHandle>,
    overhead: Option<Overhead>,
    state: State,
    /// The beginning of a request whose end has not come yet.
    received: Vec<u8>,
}

impl<'a> Server<'a> {
    pub(super) fn new(
        spec: &'a MachineSpec,
        channel: &'a Arc<Channel>,
        ending: &'a Ending,
        threads: &'a Threads,
        console: Option<&'a ConsoleHandle>,
        overhead: Option<Overhead>,
    ) -> Self {
        Self {
            spec,
            channel,
            ending,
            threads,
            console,
            overhead,
            state: State::Running,
            received: Vec::new(),
        }
    }

    /// Serves until the machine ends; how it did. A launcher that goes away ends it.
    pub(super) fn serve(mut self) -> End {
        loop {
            let mut fds = [
                PollFd::new(self.ending.known(), PollFlags::POLLIN),
                PollFd::new(self.channel.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => {
                    let reason = format!("the control socket cannot be watched: {e}");
                    return End::VcpuFailed { reason };
                }
            }
            let socket_ready = fds[1].any().unwrap_or(false);
            if let Some(end) = self.ending.get() {
                return end.clone();
            }
            if socket_ready && !self.receive() {
                return End::Killed;
            }
        }
    }

    /// Reads what has come and answers whole requests. False: the machine is to end.
    fn receive(&mut self) -> bool {
        let mut buffer = [0; MAX_REQUEST];
        match self.channel.socket().read(&mut buffer) {
            Ok(0) => return false,
            Ok(n) => self.received.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return true,
            Err(_) => return false,
        }
        while let Some(end) = self.received.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.received.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(Request::Kill) => {
                    self.channel.reply(&Reply::Ok);
                    return false;
                }
                Ok(request) => {
                    let reply = self.answer(request);
                    self.channel.reply(&reply);
                }
                Err(e) => self.channel.reply(&error(format!("Not a request: {e}"))),
            }
        }
        if self.received.len() >= MAX_REQUEST {
            self.received.clear();
            let message = format!("A request is longer than {MAX_REQUEST} bytes");
            self.channel.reply(&error(message));
        }
        true
    }

    fn answer(&mut self, request: Request) -> Reply {
        match request {
            Request::Status => Reply::Status(self.status()),
            Request::Pause => {
                self.state = State::Paused;
                if self.threads.pause() {
                    Reply::Ok
                } else {
                    error("A vCPU is still busy with a device; it pauses when that is done")
                }
            }
            Request::Resume => {
                self.state = State::Running;
                self.threads.resume();
                Reply::Ok
            }
            Request::Resize { rows, columns } => match self.console {
                Some(console) => {
                    console.resize(rows, columns);
                    Reply::Ok
                }
                None => error("This machine has no console"),
            },
            Request::Stop { .. } => {
                error("Only the launcher can ask the workload to end; this is the machine")
            }
            Request::Kill => unreachable!("kill ends the machine before it is answered here"),
        }
    }

    fn status(&mut self) -> Status {
        let overhead = self.overhead.as_mut().map(Overhead::bytes);
        Status {
            name: self.spec.name.clone(),
            state: self.state,
            cpus: self.spec.cpus,
            memory: self.spec.memory,
            pid: std::process::id(),
            exits: self.threads.exits(),
            overhead: overhead.and_then(Result::ok).unwrap_or(0),
        }
    }
}

fn error(message: impl Into<String>) -> Reply {
    Reply::Error {
        message: message.into(),
    }
}
