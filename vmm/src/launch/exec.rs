//! A further command in a running machine.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use runcvm_protocol::{AGENT_PORT, GuestConfig, Process, ToGuest};

use super::poll::PollSet;
use super::relay::{End, Relay};
use super::signals::{self, Event, Signals};
use super::streams::Io;
use super::{Error, FAILED, Outcome, rundir, system, terminal};

/// How long a machine may take from its start until it takes commands.
const BOOT: Duration = Duration::from_secs(60);

/// Between two attempts to reach the agent.
const RETRY: Duration = Duration::from_millis(50);

/// The exit status of a command whose machine ended first: as if by SIGKILL.
const KILLED: u8 = 128 + 9;

/// A command for a running machine.
#[derive(Clone, Debug)]
pub struct ExecSpec {
    /// The machine's name.
    pub name: String,
    pub process: Process,
}

/// What the workload of the running machine `name` was started with; a further command begins
/// with its environment, working directory and user, as in docker.
pub fn workload_of(name: &str) -> Result<Process, Error> {
    let dir = rundir::find(&rundir::base()?, name)?;
    let path = rundir::config_file(&dir);
    let mut read = std::fs::read(&path);
    // It is the first thing that a launcher writes.
    for _ in 0..20 {
        if read.is_ok() {
            break;
        }
        std::thread::sleep(RETRY);
        read = std::fs::read(&path);
    }
    let bytes = read.map_err(system("What the machine was started with cannot be read"))?;
    let config = GuestConfig::decode(&bytes).map_err(|_| {
        let error = io::Error::from(io::ErrorKind::InvalidData);
        system("What the machine was started with cannot be understood")(error)
    })?;
    Ok(config.process)
}

/// Runs the command on `io` and returns how it ended.
pub fn exec(spec: &ExecSpec, io: Io) -> Result<Outcome, Error> {
    let dir = rundir::find(&rundir::base()?, &spec.name)?;
    let socket = reach_agent(&spec.name, &dir)?;
    let signals = Signals::take().map_err(system("Signals cannot be taken"))?;
    let start = ToGuest::Start(Box::new(spec.process.clone()));
    let terminal = spec.process.terminal.is_some();
    let failed = || system("The command's session cannot be opened");
    let mut relay = Relay::new(socket, io, terminal).map_err(failed())?;
    relay.open_with(&start).map_err(Error::TooLong)?;
    loop {
        let mut set = PollSet::default();
        signals.watch(&mut set);
        relay.watch(&mut set);
        set.wait(None).map_err(failed())?;
        relay.step(&set);
        while let Some(event) = signals.next(&set) {
            match event {
                Event::Child => {}
                Event::Resize => {
                    if let Some(size) = terminal::own_size() {
                        relay.resize(size);
                    }
                }
                Event::Forward(signal) if signals::is_terminating(signal) && is_idle(&relay) => {
                    return Ok(Outcome {
                        status: 128 + signal,
                        ..Outcome::default()
                    });
                }
                Event::Forward(signal) => relay.signal(signal),
            }
        }
        if relay.end().is_some() && relay.is_drained() {
            return Ok(conclude(relay));
        }
    }
}

/// There is no process, yet or any more, that a signal could reach.
fn is_idle(relay: &Relay) -> bool {
    !relay.has_started() || relay.end().is_some()
}

fn conclude(mut relay: Relay) -> Outcome {
    let (status, message) = match relay.end().cloned() {
        Some(End::Exited(status)) => (status.shell_status(), None),
        Some(End::Failed { status, message }) => (status, Some(message)),
        Some(End::Violated(message)) => (FAILED, Some(message)),
        Some(End::Lost) | None => (
            KILLED,
            Some("The machine ended before the command did".into()),
        ),
    };
    let lost = relay
        .take_write_error()
        .map(|e| format!("The command's output cannot be written: {e}"));
    Outcome {
        status,
        message: message.or(lost),
        ..Outcome::default()
    }
}

/// Connects to the agent of a machine, which may still be booting.
fn reach_agent(name: &str, dir: &Path) -> Result<UnixStream, Error> {
    let socket = rundir::vsock_socket(dir);
    let deadline = Instant::now() + BOOT;
    loop {
        if let Ok(stream) = connect(&socket, deadline) {
            return Ok(stream);
        }
        if !rundir::is_running(dir) {
            return Err(rundir::Error::NotRunning(name.into()).into());
        }
        if Instant::now() + RETRY >= deadline {
            return Err(Error::NoAgent(name.into()));
        }
        std::thread::sleep(RETRY);
    }
}

/// One attempt: `CONNECT port`, answered by `OK` and a port.
fn connect(socket: &PathBuf, deadline: Instant) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(format!("CONNECT {AGENT_PORT}\n").as_bytes())?;
    let left = deadline.saturating_duration_since(Instant::now());
    stream.set_read_timeout(Some(left.max(RETRY)))?;
    // Byte by byte: what follows the line belongs to the session.
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') && line.len() < 32 {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.extend(byte);
    }
    stream.set_read_timeout(None)?;
    if line.starts_with(b"OK ") && line.ends_with(b"\n") {
        Ok(stream)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}
