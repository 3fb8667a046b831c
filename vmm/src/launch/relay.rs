//! The host's side of a session: the user's streams on one hand, the connection to the guest
//! on the other. The guest is hostile: it cannot make us keep more than its windows allow, and
//! what it says out of turn ends the session.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::SystemTime;

use nix::poll::PollFlags;
use runcvm_protocol::frame::{self, Decoder, FrameError};
use runcvm_protocol::{ExitStatus, MAX_DATA, Output, ToGuest, ToHost, WINDOW, WindowSize};

use super::console::Console;
use super::poll::PollSet;
use super::streams::{Io, Sink, Source};
use super::terminal::RawTerminal;

/// Bytes read from the guest in one go.
const READ: usize = 64 * 1024;

/// While more bytes than this wait to be sent, nothing is added that can wait.
const SEND_AHEAD: usize = 128 * 1024;

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The process ended, and all its output arrived.
    Exited(ExitStatus),
    /// The process could not be started.
    Failed { status: u8, message: String },
    /// The connection ended first.
    Lost,
    /// The guest broke the protocol.
    Violated(String),
}

/// A session.
#[derive(Debug)]
pub(crate) struct Relay {
    socket: UnixStream,
    /// Read into.
    buffer: Box<[u8]>,
    decoder: Decoder,
    /// Encoded messages that wait to be sent.
    outgoing: Vec<u8>,
    stdin: Option<Source>,
    /// Bytes of stdin that the guest has room for.
    credit: usize,
    outputs: [OutputStream; 2],
    /// The user wants a terminal; raw from the process's start until all its output is
    /// written, which the process's own terminal has translated already.
    terminal: bool,
    raw: Option<RawTerminal>,
    started: bool,
    /// Sent once the process runs.
    waiting: Vec<ToGuest>,
    uptime_ns: Option<u64>,
    /// The guest asked for the time.
    time_wanted: bool,
    /// The machine's console, if it has one.
    console: Option<Console>,
    /// The process has the console for its streams.
    on_console: bool,
    end: Option<End>,
}

/// An output stream of the process.
#[derive(Debug)]
struct OutputStream {
    sink: Sink,
    /// Bytes that arrived and for which no `Consumed` was sent.
    unacknowledged: usize,
    /// The guest knows that nobody reads it.
    closed: bool,
    ended: bool,
}

impl Relay {
    /// A session on a connected socket.
    pub(crate) fn new(socket: UnixStream, io: Io, terminal: bool) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let output = |fd| OutputStream {
            sink: Sink::new(fd),
            unacknowledged: 0,
            closed: false,
            ended: false,
        };
        Ok(Self {
            socket,
            buffer: vec![0; READ].into(),
            decoder: Decoder::default(),
            outgoing: Vec::new(),
            stdin: io.stdin.map(Source::new),
            credit: WINDOW as usize,
            outputs: [output(io.stdout), output(io.stderr)],
            terminal,
            raw: None,
            started: false,
            waiting: Vec::new(),
            uptime_ns: None,
            time_wanted: false,
            console: None,
            on_console: false,
            end: None,
        })
    }

    /// A session whose process may have `console` for its streams.
    pub(crate) fn with_console(mut self, console: Option<Console>) -> Self {
        self.console = console;
        self
    }

    /// The process has the console for its streams.
    pub(crate) fn is_on_console(&self) -> bool {
        self.on_console
    }

    /// Sends a message before all others.
    pub(crate) fn open_with(&mut self, message: &ToGuest) -> Result<(), FrameError> {
        self.outgoing.extend(frame::encode(message)?);
        Ok(())
    }

    /// How the session ended, if it has. Output may still wait to be written.
    pub(crate) fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// All output of a session that ended is written.
    pub(crate) fn is_drained(&self) -> bool {
        let console_ended = self.console.as_ref().is_none_or(Console::has_ended);
        console_ended && self.outputs.iter().all(|o| o.sink.queued() == 0)
    }

    /// The process runs or has run.
    pub(crate) fn has_started(&self) -> bool {
        self.started
    }

    /// Time between the start of the guest's kernel and its PID 1 in nanoseconds.
    pub(crate) fn uptime_ns(&self) -> Option<u64> {
        self.uptime_ns
    }

    /// Why output could not be written, if it could not.
    pub(crate) fn take_write_error(&mut self) -> Option<io::Error> {
        self.outputs.iter_mut().find_map(|o| o.sink.take_error())
    }

    /// Sends the process a signal, once it runs.
    pub(crate) fn signal(&mut self, signal: u8) {
        self.when_started(ToGuest::Signal(signal));
    }

    /// Tells the process's terminal its size, once the process runs.
    pub(crate) fn resize(&mut self, size: WindowSize) {
        if self.terminal {
            self.when_started(ToGuest::Resize(size));
        }
    }

    fn when_started(&mut self, message: ToGuest) {
        if self.started {
            self.send(&message);
        } else {
            self.waiting.push(message);
        }
    }

    fn send(&mut self, message: &ToGuest) {
        if self.end.is_none() {
            let frame = frame::encode(message).expect("short messages fit a frame");
            self.outgoing.extend(frame);
        }
    }

    /// Says what it waits for.
    pub(crate) fn watch(&self, set: &mut PollSet) {
        if self.end.is_none() {
            let mut events = PollFlags::POLLIN;
            events.set(PollFlags::POLLOUT, !self.outgoing.is_empty());
            set.watch(&self.socket, events);
            if let Some(stdin) = &self.stdin
                && self.stdin_room() > 0
            {
                stdin.watch(set);
            }
        }
        for output in &self.outputs {
            output.sink.watch(set);
        }
        if let Some(console) = &self.console {
            console.watch(set, self.outputs[0].sink.queued() < READ);
        }
    }

    /// Does what can be done without blocking.
    pub(crate) fn step(&mut self, set: &PollSet) {
        if self.end.is_none() && set.readable(&self.socket) {
            self.receive();
        }
        if let Some(console) = &mut self.console {
            let shown = console.step(set);
            // Another process of the guest can write there too; that is not the workload's.
            if self.on_console {
                self.outputs[0].sink.push(&shown);
            }
        }
        for output in &mut self.outputs {
            output.sink.flush();
        }
        if self.end.is_none() {
            self.read_stdin(set);
            self.acknowledge();
            self.tell_time();
            self.transmit();
        } else if self.is_drained() {
            self.raw = None;
        }
    }

    /// Bytes of stdin that can be taken now.
    fn stdin_room(&self) -> usize {
        if !self.started {
            0
        } else if self.on_console {
            self.console.as_ref().map_or(0, Console::room)
        } else if self.outgoing.len() < SEND_AHEAD {
            self.credit.min(MAX_DATA)
        } else {
            0
        }
    }

    fn read_stdin(&mut self, set: &PollSet) {
        let room = self.stdin_room();
        let Some(bytes) = self.stdin.as_mut().and_then(|s| s.read(set, room)) else {
            return;
        };
        if let Some(console) = &mut self.console
            && self.on_console
        {
            // A terminal line does not end: only what is typed on it does.
            if bytes.is_empty() {
                self.stdin = None;
            }
            console.push(&bytes);
        } else if bytes.is_empty() {
            self.stdin = None;
            self.send(&ToGuest::StdinEnd);
        } else {
            self.credit -= bytes.len();
            self.send(&ToGuest::Stdin(bytes));
        }
    }

    /// Says which output was consumed, a good part of a window at a time.
    fn acknowledge(&mut self) {
        if self.outgoing.len() >= SEND_AHEAD {
            return;
        }
        for (i, which) in [Output::Stdout, Output::Stderr].into_iter().enumerate() {
            let output = &mut self.outputs[i];
            let consumed = output.unacknowledged.saturating_sub(output.sink.queued());
            let worth_it = consumed >= WINDOW as usize / 4 || output.sink.queued() == 0;
            let closed = output.sink.is_closed() && !output.ended && !output.closed;
            if consumed > 0 && worth_it {
                output.unacknowledged -= consumed;
                let consumed = u32::try_from(consumed).expect("within a window");
                self.send(&ToGuest::Consumed(which, consumed));
            }
            if closed {
                self.outputs[i].closed = true;
                self.send(&ToGuest::OutputClosed(which));
            }
        }
    }

    /// Answers, once however often the guest asked, when it reads what was sent before.
    fn tell_time(&mut self) {
        if self.outgoing.len() < SEND_AHEAD && std::mem::take(&mut self.time_wanted) {
            let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
            let unix_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
            self.send(&ToGuest::Time { unix_ns });
        }
    }

    fn transmit(&mut self) {
        while !self.outgoing.is_empty() {
            match self.socket.write(&self.outgoing) {
                Ok(n) => {
                    self.outgoing.drain(..n);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // What the guest said before it left is still to be read.
                Err(_) => return,
            }
        }
    }

    fn receive(&mut self) {
        match self.socket.read(&mut self.buffer) {
            Ok(0) => self.finish(End::Lost),
            Ok(n) => {
                self.decoder.feed(&self.buffer[..n]);
                self.take_messages();
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.finish(End::Lost),
        }
    }

    fn take_messages(&mut self) {
        while self.end.is_none() {
            match self.decoder.next() {
                Ok(Some(message)) => self.take(message),
                Ok(None) => return,
                Err(e) => self.finish(End::Violated(e.to_string())),
            }
        }
    }

    fn take(&mut self, message: ToHost) {
        match message {
            ToHost::Hello { uptime_ns } => {
                self.uptime_ns.get_or_insert(uptime_ns);
            }
            ToHost::Started { .. } if !self.started => self.start(),
            ToHost::Started { .. } => self.violate("started a second time"),
            ToHost::Failed { status, message } => self.finish(End::Failed { status, message }),
            ToHost::Output(which, bytes) => self.output(which, &bytes),
            ToHost::OutputEnd(which) => {
                let output = &mut self.outputs[which as usize];
                output.ended = true;
                if !self.on_console {
                    output.sink.end();
                }
            }
            ToHost::StdinConsumed(n) => {
                self.credit += n as usize;
                if self.credit > WINDOW as usize {
                    self.violate("consumed more stdin than there was");
                }
            }
            ToHost::Exited(status) => self.finish(End::Exited(status)),
            ToHost::OnConsole => self.on_console = self.console.is_some(),
            ToHost::AskTime => self.time_wanted = true,
        }
    }

    fn start(&mut self) {
        self.started = true;
        for message in std::mem::take(&mut self.waiting) {
            self.send(&message);
        }
        if self.terminal
            && let Some(stdin) = &self.stdin
        {
            self.raw = RawTerminal::enter(stdin.as_fd());
        }
    }

    fn output(&mut self, which: Output, bytes: &[u8]) {
        let output = &mut self.outputs[which as usize];
        output.unacknowledged += bytes.len();
        if output.unacknowledged > WINDOW as usize {
            self.violate("sent more output than its window allows");
        } else if output.ended {
            self.violate("sent output after its end");
        } else {
            output.sink.push(bytes);
        }
    }

    fn violate(&mut self, what: &str) {
        self.finish(End::Violated(format!("The guest {what}")));
    }

    fn finish(&mut self, end: End) {
        self.stdin = None;
        self.end = Some(end);
    }
}

#[cfg(test)]
mod tests;
