//! The life of a running machine: one loop over its process, its shares, its workload's
//! session, its control socket and the signals that arrive.

use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use runcvm_protocol::WindowSize;

use super::console::Console;
use super::control::{ClientId, ControlServer};
use super::forward::Forwarder;
use super::orphans;
use super::poll::PollSet;
use super::process::{Asker, Heard, MachineProcess};
use super::relay::{self, Relay};
use super::share::Share;
use super::signals::{self, Signals};
use super::spec::LaunchSpec;
use super::streams::Io;
use super::terminal;
use super::timings::{Timings, now};
use super::{Error, FAILED, Outcome, system};
use crate::control::{End, Event, Reply, Request, Status};

/// How long a machine has to say what it used before it is killed.
const ACCOUNT: Duration = Duration::from_secs(1);

/// How long the two ends of a connection may take to end one after the other, when one ends
/// because of the other.
const TOGETHER: Duration = Duration::from_secs(2);

/// Between looks at a machine process that has closed its control socket.
const AFTER_HANG_UP: Duration = Duration::from_millis(2);

/// Lines of the guest's kernel that are shown when it failed.
const KERNEL_LINES: usize = 20;

/// The exit status of a workload whose machine somebody killed: as if by SIGKILL.
const KILLED: u8 = 128 + 9;

/// A running machine and all that belongs to it.
#[derive(Debug)]
pub(crate) struct Supervisor<'a> {
    machine: MachineProcess,
    shares: Vec<Share>,
    forwarder: Option<Forwarder>,
    control: ControlServer,
    /// Where the guest connects for its workload's session, until it has.
    awaited: Option<Awaited>,
    /// That session, from then on.
    session: Option<Relay>,
    signals: &'a Signals,
    timings: Timings,
    terminal: bool,
    account: bool,
    /// What the machine process said last.
    last: Option<Event>,
    usage: Option<Status>,
    /// The machine is killed then.
    kill_at: Option<Instant>,
    /// Somebody asked for that: this is the status to exit with.
    killed: Option<u8>,
    /// When a share was seen to have ended, and which.
    share_ended: Option<(usize, Instant)>,
    /// Output that is not written yet is given up.
    impatient: bool,
}

/// What the workload's session begins with.
#[derive(Debug)]
pub(crate) struct Awaited {
    pub(crate) listener: UnixListener,
    pub(crate) io: Io,
    pub(crate) console: Option<Console>,
}

/// What the launcher started.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) machine: MachineProcess,
    pub(crate) shares: Vec<Share>,
    pub(crate) forwarder: Option<Forwarder>,
    pub(crate) control: ControlServer,
    pub(crate) workload: Awaited,
}

impl<'a> Supervisor<'a> {
    pub(crate) fn new(
        spec: &LaunchSpec,
        started: Started,
        signals: &'a Signals,
        timings: Timings,
    ) -> Self {
        Self {
            machine: started.machine,
            shares: started.shares,
            forwarder: started.forwarder,
            control: started.control,
            awaited: Some(started.workload),
            session: None,
            signals,
            timings,
            terminal: spec.process.terminal.is_some(),
            account: spec.account,
            last: None,
            usage: None,
            kill_at: None,
            killed: None,
            share_ended: None,
            impatient: false,
        }
    }

    /// Runs until nothing of the machine is left.
    pub(crate) fn run(mut self) -> Result<Outcome, Error> {
        loop {
            let mut set = PollSet::default();
            self.watch(&mut set);
            set.wait(self.timeout())
                .map_err(system("Waiting for the machine failed"))?;
            self.step(&set)?;
            if self.is_over() {
                return Ok(self.conclude());
            }
        }
    }

    fn watch(&self, set: &mut PollSet) {
        self.signals.watch(set);
        self.machine.watch(set);
        self.control.watch(set);
        for share in &self.shares {
            share.daemon.watch(set);
        }
        if let Some(awaited) = &self.awaited {
            set.watch(&awaited.listener, PollFlags::POLLIN);
        }
        if let Some(relay) = &self.session {
            relay.watch(set);
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let running = self.timings.gone.is_none();
        let share = self
            .share_ended
            .filter(|_| running)
            .map(|(_, at)| at + TOGETHER);
        // Its end follows its last word, and need not be signalled to this thread.
        let end = (running && self.machine.has_hung_up()).then(|| Instant::now() + AFTER_HANG_UP);
        let next = [self.kill_at, share, end].into_iter().flatten().min();
        next.map(|at| at.saturating_duration_since(Instant::now()))
    }

    fn step(&mut self, set: &PollSet) -> Result<(), Error> {
        for heard in self.machine.step(set) {
            self.hear(heard);
        }
        for share in &mut self.shares {
            share.daemon.step(set);
        }
        for (client, request) in self.control.step(set) {
            self.serve(client, request);
        }
        self.step_session(set)?;
        while let Some(event) = self.signals.next(set) {
            self.take_signal(event);
        }
        self.look_after_shares();
        if self.forwarder.as_mut().is_some_and(Forwarder::has_ended) {
            self.machine.start_killing();
        }
        if self.kill_at.is_some_and(|at| at <= Instant::now()) {
            self.machine.start_killing();
            self.kill_at = None;
        }
        if self.timings.gone.is_none() && self.machine.ended().is_some() {
            self.timings.gone = Some(now());
        }
        Ok(())
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Event(event) => {
                self.timings.take(&event);
                if matches!(event, Event::Ended { .. } | Event::Failed { .. }) {
                    self.last = Some(event);
                    // It has nothing left to do; with that it need not take its time.
                    self.kill_now();
                }
            }
            Heard::Reply(Asker::Client(client), reply) => self.control.reply(client, &reply),
            Heard::Reply(Asker::Launcher, Reply::Status(status)) => {
                self.usage = Some(status);
                self.kill_now();
            }
            Heard::Reply(Asker::Launcher, _) => {}
        }
    }

    fn serve(&mut self, client: ClientId, request: Request) {
        match request {
            Request::Kill => {
                self.killed = Some(KILLED);
                self.kill_now();
                self.control.reply(client, &Reply::Ok);
            }
            Request::Stop { timeout_ms } => {
                self.stop(Duration::from_millis(timeout_ms));
                self.control.reply(client, &Reply::Ok);
            }
            request => self.machine.ask(Asker::Client(client), &request),
        }
    }

    /// Asks the workload to end; a machine without one has nothing to lose.
    fn stop(&mut self, patience: Duration) {
        self.killed = Some(KILLED);
        match &mut self.session {
            Some(relay) if relay.has_started() => {
                relay.signal(u8::try_from(libc::SIGTERM).expect("15"));
                // A later request may shorten the time, not lengthen it.
                let at = Instant::now() + patience;
                self.kill_at = Some(self.kill_at.map_or(at, |earlier| earlier.min(at)));
            }
            _ => self.kill_now(),
        }
    }

    fn kill_now(&mut self) {
        self.kill_at = Some(Instant::now());
    }

    fn step_session(&mut self, set: &PollSet) -> Result<(), Error> {
        if let Some(awaited) = &self.awaited
            && set.readable(&awaited.listener)
            && let Ok((socket, _)) = awaited.listener.accept()
            && let Some(Awaited { io, console, .. }) = self.awaited.take()
        {
            // The listener ends here: a machine has one workload.
            let relay = Relay::new(socket, io, self.terminal)
                .map_err(system("The workload's session cannot be opened"))?;
            self.session = Some(relay.with_console(console));
        }
        let Some(relay) = &mut self.session else {
            return Ok(());
        };
        let before = relay.end().is_some();
        let was_running = relay.has_started();
        relay.step(set);
        if relay.has_started() && !was_running && self.terminal {
            // It may have another size by now than the process was to start with.
            if relay.is_on_console() {
                resize_console(&mut self.machine);
            } else if let Some(size) = terminal::own_size() {
                relay.resize(size);
            }
        }
        if let Some(uptime) = relay.uptime_ns()
            && self.timings.kernel.is_none()
        {
            self.timings.set_uptime(uptime);
        }
        let ended = !matches!(relay.end(), None | Some(relay::End::Lost));
        if ended && !before {
            self.timings.exit = Some(now());
            // Nothing is lost: the guest wrote everything back before it said so.
            if self.account {
                self.machine.ask(Asker::Launcher, &Request::Status);
                self.kill_at = Some(Instant::now() + ACCOUNT);
            } else {
                self.kill_now();
            }
        }
        Ok(())
    }

    fn take_signal(&mut self, event: signals::Event) {
        let signal = match event {
            // Our own children are looked at in every round.
            signals::Event::Child => {
                if signals::is_first_process() {
                    self.reap_orphans();
                }
                return;
            }
            signals::Event::Resize => {
                if let Some(relay) = &mut self.session {
                    if relay.is_on_console() {
                        resize_console(&mut self.machine);
                    } else if let Some(size) = terminal::own_size() {
                        relay.resize(size);
                    }
                }
                return;
            }
            signals::Event::Forward(signal) => signal,
        };
        match &mut self.session {
            Some(relay) if relay.end().is_some() => {
                self.impatient |= signals::is_terminating(signal);
            }
            // Before there is a workload, a signal means the boot.
            Some(relay) if relay.has_started() || !signals::is_terminating(signal) => {
                relay.signal(signal);
            }
            _ if signals::is_terminating(signal) => {
                self.killed = Some(128 + signal);
                self.kill_now();
            }
            _ => {}
        }
    }

    fn reap_orphans(&self) {
        let shares = self.shares.iter().map(|share| share.daemon.pid());
        let forwarder = self.forwarder.as_ref().and_then(Forwarder::pid);
        let own: Vec<_> = shares
            .chain([self.machine.pid(), forwarder])
            .flatten()
            .collect();
        orphans::reap(&own);
    }

    /// A machine without one of its shares is of no use. One whose connection ended ends too,
    /// so the end of both is waited for before one is blamed.
    fn look_after_shares(&mut self) {
        if self.share_ended.is_none() {
            let ended = self
                .shares
                .iter_mut()
                .position(|s| s.daemon.ended().is_some());
            self.share_ended = ended.map(|index| (index, Instant::now()));
        }
        let Some((index, at)) = self.share_ended else {
            return;
        };
        let failed = self.shares[index]
            .daemon
            .ended()
            .is_some_and(|s| !s.success());
        if failed || at.elapsed() >= TOGETHER {
            self.machine.start_killing();
        }
    }

    /// Nothing more can happen.
    fn is_over(&mut self) -> bool {
        if self.machine.ended().is_none() || !self.machine.has_hung_up() {
            return false;
        }
        match &self.session {
            // The machine was the other end: what it still sent is read up to its end.
            Some(relay) => relay.end().is_some() && (relay.is_drained() || self.impatient),
            None => true,
        }
    }

    fn conclude(mut self) -> Outcome {
        let mut outcome = Outcome {
            usage: self.usage.take(),
            ..Outcome::default()
        };
        let session = self.session.as_ref().and_then(|relay| relay.end().cloned());
        match session {
            Some(relay::End::Exited(status)) => outcome.status = status.shell_status(),
            Some(relay::End::Failed { status, message }) => {
                outcome.status = status;
                outcome.message = Some(message);
            }
            Some(relay::End::Violated(message)) => {
                outcome.status = FAILED;
                outcome.message = Some(message);
            }
            Some(relay::End::Lost) | None => self.judge(&mut outcome),
        }
        if let Some(relay) = &mut self.session
            && let Some(error) = relay.take_write_error()
            && outcome.message.is_none()
        {
            outcome.message = Some(format!("The command's output cannot be written: {error}"));
        }
        outcome.timings = self.timings;
        outcome
    }

    /// The machine ended, and its workload did not say how: who or what ended it?
    fn judge(&mut self, outcome: &mut Outcome) {
        if let Some(status) = self.killed {
            outcome.status = status;
            return;
        }
        outcome.status = FAILED;
        let share = self.failed_share();
        let last = self.last.take();
        let (message, log) = match last {
            Some(Event::Ended {
                end: End::PoweredOff | End::Reset,
                ..
            }) => {
                outcome.status = 0;
                return;
            }
            Some(Event::Ended {
                end: End::Killed, ..
            }) => {
                outcome.status = KILLED;
                return;
            }
            _ if share.is_some() => (share.expect("just seen"), None),
            _ if self.forwarder.as_mut().is_some_and(Forwarder::has_ended) => {
                let message = "The process that carries the guest's connections ended";
                (message.into(), None)
            }
            Some(Event::Ended { end, mut log }) => {
                if let End::TripleFault {
                    registers: Some(line),
                } = &end
                {
                    // Below the kernel's own words, if it had any.
                    log = format!("{}\n{line}", log.trim()).trim_start().to_owned();
                }
                (describe(&end), Some(log))
            }
            Some(Event::Failed { message }) => (message, None),
            _ => {
                // As the host's OOM killer does to that of a container which is too large.
                let status = self.machine.ended();
                let killed = status.and_then(|status| status.signal()) == Some(libc::SIGKILL);
                if killed && signals::is_first_process() {
                    outcome.status = KILLED;
                }
                (format!("The machine {}", self.machine.last_words()), None)
            }
        };
        outcome.message = Some(message);
        outcome.kernel_log = log.map(|l| last_lines(&l)).filter(|l| !l.is_empty());
    }

    /// A sentence on a share that failed, if one did.
    fn failed_share(&mut self) -> Option<String> {
        // A virtiofsd that fails ends a moment after its connection.
        let deadline = Instant::now() + Duration::from_millis(200);
        loop {
            for share in &mut self.shares {
                if share.daemon.ended().is_some_and(|s| !s.success()) {
                    let words = share.daemon.last_words();
                    let path = share.path.display();
                    return Some(format!("The virtiofsd that shares {path} {words}"));
                }
            }
            let all_ended = self.shares.iter_mut().all(|s| s.daemon.ended().is_some());
            if all_ended || Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Gives the console the size of the user's terminal.
fn resize_console(machine: &mut MachineProcess) {
    if let Some(WindowSize { rows, columns }) = terminal::own_size() {
        machine.ask(Asker::Launcher, &Request::Resize { rows, columns });
    }
}

fn describe(end: &End) -> String {
    match end {
        End::Panicked => "The guest's kernel panicked".into(),
        End::TripleFault { .. } => "The guest crashed with a triple fault".into(),
        End::VcpuFailed { reason } => format!("KVM could not go on: {reason}"),
        End::PoweredOff | End::Reset | End::Killed => "The machine ended".into(),
    }
}

/// The lines that tell most: those from the kernel's panic on, or else the last.
fn last_lines(log: &str) -> String {
    let lines: Vec<_> = log.trim_end().lines().collect();
    let last = lines.len().saturating_sub(KERNEL_LINES);
    let panic = lines.iter().position(|l| l.contains("Kernel panic - "));
    let from = panic.unwrap_or(last).min(last);
    let lines = &lines[from..];
    lines[..lines.len().min(KERNEL_LINES)].join("\n")
}

#[cfg(test)]
mod tests;
