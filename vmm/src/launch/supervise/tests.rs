//! The supervisor over a machine and a guest that the test plays itself; the machine process
//! is a `sleep`.

use std::io::{self, BufRead, BufReader, PipeReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread::{self, JoinHandle};

use runcvm_protocol::{ExitStatus, Output, ToGuest, ToHost, frame};

use super::*;
use crate::control::State;
use crate::launch::child::Helper;
use crate::launch::spec;

/// What the test holds of a machine.
struct Bench {
    directory: tempfile::TempDir,
    /// The machine process's end of its control connection.
    machine: BufReader<UnixStream>,
    stdout: PipeReader,
    supervisor: JoinHandle<Outcome>,
}

fn sleep() -> Command {
    let mut command = Command::new("sleep");
    command.arg("1000");
    command
}

impl Bench {
    fn new(account: bool, share: Option<Command>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("guest")).unwrap();
        let control = ControlServer::new(&directory.path().join("control")).unwrap();
        let (connection, machine) = UnixStream::pair().unwrap();
        let (stdout, stdout_write) = io::pipe().unwrap();
        let (_, stderr_write) = io::pipe().unwrap();
        let rootfs = directory.path().to_owned();
        // Children are tied to the thread that starts them, so all is started there.
        let supervisor = thread::spawn(move || {
            let spec = LaunchSpec {
                account,
                ..spec::tests::minimal(&rootfs)
            };
            let signals = Signals::take().unwrap();
            let started = Started {
                machine: MachineProcess::start_command(sleep(), Vec::new(), connection).unwrap(),
                shares: share
                    .map(|command| Share {
                        path: "/shared".into(),
                        daemon: Helper::start(command, Vec::new(), || Ok(())).unwrap(),
                    })
                    .into_iter()
                    .collect(),
                forwarder: None,
                control,
                workload: Awaited {
                    listener,
                    io: Io {
                        stdin: None,
                        stdout: stdout_write.into(),
                        stderr: stderr_write.into(),
                    },
                    console: None,
                },
            };
            let timings = Timings::default();
            Supervisor::new(&spec, started, &signals, timings)
                .run()
                .unwrap()
        });
        Self {
            directory,
            machine: BufReader::new(machine),
            stdout,
            supervisor,
        }
    }

    /// A guest whose process runs.
    fn guest(&self) -> UnixStream {
        let mut guest = UnixStream::connect(self.directory.path().join("guest")).unwrap();
        let hello = ToHost::Hello { uptime_ns: 1 };
        frame::write(&mut guest, &hello).unwrap();
        frame::write(&mut guest, &ToHost::Started { pid: 1 }).unwrap();
        guest
    }

    fn say(&mut self, event: &Event) {
        let line = serde_json::to_string(event).unwrap() + "\n";
        self.machine.get_mut().write_all(line.as_bytes()).unwrap();
    }

    fn ask(&self, request: Request) -> Reply {
        let mut client = UnixStream::connect(self.directory.path().join("control")).unwrap();
        let line = serde_json::to_string(&request).unwrap() + "\n";
        client.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(client).read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    /// Closes the machine's side, as its process's end would, and waits.
    fn outcome(self) -> Outcome {
        drop(self.machine);
        self.supervisor.join().unwrap()
    }
}

fn ended(end: End, log: &str) -> Event {
    Event::Ended {
        end,
        log: log.into(),
    }
}

#[test]
fn a_workload_that_exits_takes_its_machine_with_it() {
    let bench = Bench::new(false, None);
    let mut guest = bench.guest();
    let output = ToHost::Output(Output::Stdout, b"hello".to_vec());
    frame::write(&mut guest, &output).unwrap();
    frame::write(&mut guest, &ToHost::Exited(ExitStatus::Signal(15))).unwrap();
    let mut stdout = bench.stdout.try_clone().unwrap();
    let outcome = bench.outcome();
    let mut text = String::new();
    stdout.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    assert_eq!((outcome.status, outcome.message), (143, None));
    assert!(outcome.timings.exit.is_some() && outcome.timings.gone.is_some());
}

#[test]
fn a_machine_is_asked_what_it_used_before_it_is_killed() {
    let mut bench = Bench::new(true, None);
    let mut guest = bench.guest();
    frame::write(&mut guest, &ToHost::Exited(ExitStatus::Code(0))).unwrap();
    let mut question = String::new();
    bench.machine.read_line(&mut question).unwrap();
    assert_eq!(question, "{\"command\":\"status\"}\n");
    let status = Status {
        name: "test".into(),
        state: State::Running,
        cpus: 1,
        memory: 0,
        pid: 1,
        exits: Default::default(),
        overhead: 4711,
    };
    let answer = serde_json::to_string(&Reply::Status(status)).unwrap() + "\n";
    bench
        .machine
        .get_mut()
        .write_all(answer.as_bytes())
        .unwrap();
    assert_eq!(bench.outcome().usage.unwrap().overhead, 4711);
}

#[test]
fn a_guest_that_ends_by_itself_is_judged_by_how() {
    let long: String = (0..50).map(|n| format!("line {n}\n")).collect();
    for (event, status, message) in [
        (ended(End::PoweredOff, "x"), 0, None),
        (ended(End::Reset, "x"), 0, None),
        (ended(End::Killed, "x"), 137, None),
        (
            ended(End::Panicked, &long),
            125,
            Some("The guest's kernel panicked"),
        ),
        (
            ended(End::TripleFault { registers: None }, &long),
            125,
            Some("The guest crashed with a triple fault"),
        ),
        (
            Event::Failed {
                message: "No memory".into(),
            },
            125,
            Some("No memory"),
        ),
    ] {
        let mut bench = Bench::new(false, None);
        let guest = bench.guest();
        bench.say(&event);
        drop(guest);
        let outcome = bench.outcome();
        assert_eq!(outcome.status, status, "{event:?}");
        assert_eq!(outcome.message.as_deref(), message);
        if let Some(log) = outcome.kernel_log {
            assert_eq!(log.lines().count(), KERNEL_LINES);
            assert!(log.ends_with("line 49"));
        }
    }
}

#[test]
fn a_triple_fault_shows_where_it_happened() {
    for (log, expected) in [
        ("", "vCPU 1: RIP 0"),
        ("last words\n", "last words\nvCPU 1: RIP 0"),
    ] {
        let mut bench = Bench::new(false, None);
        let guest = bench.guest();
        let registers = Some("vCPU 1: RIP 0".to_owned());
        bench.say(&ended(End::TripleFault { registers }, log));
        drop(guest);
        assert_eq!(bench.outcome().kernel_log.as_deref(), Some(expected));
    }
}

#[test]
fn stop_asks_the_workload_and_kills_the_machine_when_time_is_up() {
    let bench = Bench::new(false, None);
    let mut guest = bench.guest();
    let patience = Duration::from_millis(100);
    // The session may not have been taken yet; then a stop would kill at once.
    thread::sleep(Duration::from_millis(100));
    let before = Instant::now();
    let stop = Request::Stop { timeout_ms: 100 };
    assert_eq!(bench.ask(stop), Reply::Ok);
    let heard: ToGuest = frame::read(&mut guest).unwrap().unwrap();
    assert_eq!(heard, ToGuest::Signal(15));
    let Bench {
        machine,
        supervisor,
        ..
    } = bench;
    let watcher = thread::spawn(move || {
        thread::sleep(patience);
        drop((machine, guest));
    });
    assert_eq!(supervisor.join().unwrap().status, 137);
    assert!(before.elapsed() >= patience);
    watcher.join().unwrap();
}

#[test]
fn kill_needs_no_guest() {
    let bench = Bench::new(false, None);
    assert_eq!(bench.ask(Request::Kill), Reply::Ok);
    let outcome = bench.outcome();
    assert_eq!((outcome.status, outcome.message), (137, None));
}

#[test]
fn a_share_that_fails_ends_the_machine_and_is_named() {
    let mut command = Command::new("sh");
    command.args(["-c", "echo no more >&2; exit 1"]);
    let bench = Bench::new(false, Some(command));
    let outcome = bench.outcome();
    assert_eq!(outcome.status, 125);
    assert_eq!(
        outcome.message.as_deref(),
        Some("The virtiofsd that shares /shared ended with status 1: no more")
    );
}

#[test]
fn a_panic_is_shown_from_its_first_line() {
    let lines = |n: usize| (0..n).map(|i| format!("line {i}\n")).collect::<String>();
    let log = format!(
        "{}[1.0] Kernel panic - not syncing: x\n{}",
        lines(9),
        lines(40)
    );
    let shown = last_lines(&log);
    assert!(shown.starts_with("[1.0] Kernel panic"));
    assert_eq!(shown.lines().count(), KERNEL_LINES);
    let short = format!("{}Kernel panic - x\nend\n", lines(40));
    assert_eq!(last_lines(&short).lines().count(), KERNEL_LINES);
    assert!(last_lines(&short).ends_with("Kernel panic - x\nend"));
    assert_eq!(last_lines(""), "");
}
