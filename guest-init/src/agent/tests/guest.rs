//! An agent to test, and the host that speaks to it.

use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sched::CloneFlags;
use nix::sched::unshare;
use nix::unistd::{ForkResult, fork};
use runcvm_protocol::frame::{self, Decoder};
use runcvm_protocol::{ByteBuf, ExitStatus, Output, Process, ToGuest, ToHost, WINDOW};

use crate::agent::Agent;
use crate::connection::Connection;
use crate::process::Command;
use crate::process::spawn::{Nursery, spawn};
use crate::procfs;
use crate::rootdir::RootDir;
use crate::session::End;

/// No step of a test takes longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// An agent in a process of its own, with a workload.
pub(super) struct Guest {
    pub(super) dir: tempfile::TempDir,
    pub(super) workload: Client,
}

impl Guest {
    /// Starts `workload` as PID 1 of a namespace, as the machine does.
    pub(super) fn start(workload: Process) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let listener = UnixListener::bind(dir.path().join("agent")).unwrap();
        // SAFETY: the process has one thread.
        if let ForkResult::Child = unsafe { fork() }.unwrap() {
            drop(ours);
            // SAFETY: takes numbers only. The agent goes when the test does.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            serve(&workload, theirs, listener);
            // SAFETY: ends the process without running anything of the test's.
            unsafe { libc::_exit(0) }
        }
        Self {
            dir,
            workload: Client::new(ours),
        }
    }

    /// With a workload that waits to be killed.
    pub(super) fn idle() -> Self {
        let mut guest = Self::start(sh("trap 'exit 3' TERM; echo; while :; do sleep 0.05; done"));
        assert_eq!(guest.workload.next(), Some(ToHost::Started { pid: 1 }));
        // Before it has set its trap, a signal to PID 1 is ignored.
        assert!(matches!(guest.workload.next(), Some(ToHost::Output(..))));
        guest
    }

    pub(super) fn connect(&self) -> Client {
        Client::new(UnixStream::connect(self.dir.path().join("agent")).unwrap())
    }

    pub(super) fn exec(&self, process: Process) -> Client {
        let mut client = self.connect();
        client.send(&ToGuest::Start(Box::new(process)));
        client
    }

    pub(super) fn run(&self, script: &str) -> Transcript {
        self.exec(sh(script)).follow()
    }
}

fn serve(workload: &Process, connection: UnixStream, listener: UnixListener) {
    // What the test harness leaves open for its children is not the agent's.
    // SAFETY: takes numbers only.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    let open = |path| {
        std::fs::File::options()
            .read(true)
            .write(true)
            .open(path)
            .unwrap()
    };
    let dir = |path| std::fs::File::open(path).unwrap();
    let root = RootDir::new(Path::new("/")).unwrap();
    let command = Command::new(workload, &root).unwrap();
    let nursery = Nursery {
        null: open("/dev/null").into(),
        pts: dir("/dev/pts").into(),
        proc: Some(dir("/proc").into()),
        workload: None,
        limits: workload.limits.clone(),
        procfs: procfs::open().unwrap(),
    };
    unshare(CloneFlags::CLONE_NEWPID).unwrap();
    let mut agent = Agent::new(root, nursery).unwrap();
    let child = spawn(&command, workload, agent.nursery());
    agent.nursery().proc = None;
    let session = agent.add(Connection::new(connection.into()));
    match child {
        Ok(child) => session.adopt(command, child),
        Err(e) => session.fail(e),
    }
    listener.set_nonblocking(true).unwrap();
    agent.listen(listener.into());
    let mut ended = agent.run().unwrap();
    if let Some(connection) = &mut ended.connection {
        if let End::Exited(status) = ended.end {
            connection.queue(&ToHost::Exited(status));
        }
        connection.deliver(Instant::now() + PATIENCE);
    }
}

/// The host's end of a session.
pub(super) struct Client {
    pub(super) stream: UnixStream,
    pub(super) decoder: Decoder,
    started: bool,
    ended: Vec<Output>,
}

/// What a session said.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Transcript {
    pub(super) pid: Option<u32>,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    pub(super) end: Option<Result<ExitStatus, (u8, String)>>,
}

impl Transcript {
    pub(super) fn stdout(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    pub(super) fn code(&self) -> u8 {
        match &self.end {
            Some(Ok(ExitStatus::Code(code))) => *code,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn failure(&self) -> (u8, &str) {
        match &self.end {
            Some(Err((status, message))) => (*status, message),
            other => panic!("{other:?}"),
        }
    }
}

impl Client {
    fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            decoder: Decoder::default(),
            started: false,
            ended: Vec::new(),
        }
    }

    pub(super) fn send(&mut self, message: &ToGuest) {
        frame::write(&mut self.stream, message).unwrap();
    }

    pub(super) fn next(&mut self) -> Option<ToHost> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            if let Some(message) = self.decoder.next().unwrap() {
                self.check(&message);
                return Some(message);
            }
            match self.stream.read(&mut buffer).unwrap() {
                0 => return None,
                n => self.decoder.feed(&buffer[..n]),
            }
        }
    }

    /// Messages keep their order.
    pub(super) fn check(&mut self, message: &ToHost) {
        match message {
            ToHost::Started { .. } => {
                assert!(!self.started, "started twice");
                self.started = true;
            }
            ToHost::Output(which, _) => {
                assert!(self.started, "output before the start");
                assert!(!self.ended.contains(which), "output after its end");
            }
            ToHost::OutputEnd(which) => {
                assert!(!self.ended.contains(which), "two ends of an output");
                self.ended.push(*which);
            }
            _ => {}
        }
    }

    /// The message that ends it.
    pub(super) fn last(&mut self) -> Option<ToHost> {
        std::iter::from_fn(|| self.next())
            .find(|message| matches!(message, ToHost::Exited(_) | ToHost::Failed { .. }))
    }

    /// Follows it to its end, consuming all output.
    pub(super) fn follow(&mut self) -> Transcript {
        self.follow_feeding(&[])
    }

    /// The same, and feeds `stdin` as its window allows.
    pub(super) fn follow_feeding(&mut self, stdin: &[u8]) -> Transcript {
        let mut transcript = Transcript::default();
        let mut chunks = stdin.chunks(10_000).peekable();
        let mut window = WINDOW;
        loop {
            while let Some(chunk) = chunks.next_if(|chunk| chunk.len() <= window as usize) {
                window -= u32::try_from(chunk.len()).unwrap();
                self.send(&ToGuest::Stdin(chunk.to_vec()));
                if chunks.peek().is_none() {
                    self.send(&ToGuest::StdinEnd);
                }
            }
            let Some(message) = self.next() else {
                assert!(transcript.end.is_some(), "no end: {transcript:?}");
                assert_eq!(window, WINDOW, "stdin is not consumed");
                return transcript;
            };
            assert_eq!(transcript.end, None, "{message:?} after the end");
            match message {
                ToHost::Started { pid } => transcript.pid = Some(pid),
                ToHost::Output(which, data) => {
                    let n = u32::try_from(data.len()).unwrap();
                    match which {
                        Output::Stdout => transcript.stdout.extend(data),
                        Output::Stderr => transcript.stderr.extend(data),
                    }
                    self.send(&ToGuest::Consumed(which, n));
                }
                ToHost::OutputEnd(_) => {}
                ToHost::StdinConsumed(n) => window += n,
                ToHost::Exited(status) => transcript.end = Some(Ok(status)),
                ToHost::Failed { status, message } => {
                    transcript.end = Some(Err((status, message)));
                }
                other => panic!("{other:?}"),
            }
            if transcript.end.is_some() {
                // The guest waits for this.
                self.stream.shutdown(std::net::Shutdown::Write).unwrap();
            }
        }
    }
}

pub(super) fn command<const N: usize>(args: [&str; N]) -> Process {
    Process {
        args: args.map(ByteBuf::from).to_vec(),
        env: vec![ByteBuf::from("PATH=/usr/local/bin:/usr/bin:/bin")],
        cwd: ByteBuf::from("/"),
        ..Process::default()
    }
}

pub(super) fn sh(script: &str) -> Process {
    command(["sh", "-c", script])
}
