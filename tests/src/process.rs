//! A process with its streams.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::pty::{Winsize, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What a process left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its stdout; on a terminal, all that it wrote there.
    pub stdout: Vec<u8>,
    /// Its stderr.
    pub stderr: Vec<u8>,
    /// Its exit status, or 128 + n if signal n killed it.
    pub status: i32,
}

impl Output {
    /// stdout as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// stderr as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Itself, if the status is 0.
    ///
    /// # Panics
    ///
    /// It is not; the message shows both streams.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(
            self.status,
            0,
            "stdout: {}\nstderr: {}",
            self.out(),
            self.err()
        );
        self
    }

    /// stderr as text, if the status is 125 and it is a single line: how our own failures
    /// must be told.
    ///
    /// # Panics
    ///
    /// It is not so.
    #[track_caller]
    pub fn refused(self) -> String {
        let message = self.err();
        assert_eq!(
            self.status,
            125,
            "stdout: {}\nstderr: {message}",
            self.out()
        );
        assert_eq!(message.lines().count(), 1, "not one sentence: {message}");
        message
    }
}

/// What stdin is.
#[derive(Clone, Debug, Default)]
pub(crate) enum Input {
    /// `/dev/null`.
    #[default]
    Null,
    /// A pipe that the test writes to and closes.
    Open,
    /// A pipe with these bytes, then EOF.
    Bytes(Vec<u8>),
}

/// A stream that is being read.
#[derive(Debug, Default)]
struct Stream {
    bytes: Mutex<Vec<u8>>,
    grown: Condvar,
}

impl Stream {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().expect("readers do not panic")
    }

    /// Reads to the end in a thread of its own.
    fn collect(mut source: impl Read + Send + 'static) -> (Arc<Self>, JoinHandle<()>) {
        let stream = Arc::new(Self::default());
        let target = Arc::clone(&stream);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            loop {
                match source.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(read) => {
                        target.lock().extend_from_slice(&buffer[..read]);
                        target.grown.notify_all();
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    // A terminal whose other side is closed reads as EIO.
                    Err(_) => break,
                }
            }
        });
        (stream, reader)
    }
}

/// A process in the background. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    what: String,
    deadline: Instant,
    stdin: Mutex<Option<File>>,
    terminal: Option<File>,
    stdout: Arc<Stream>,
    stderr: Arc<Stream>,
    threads: Vec<JoinHandle<()>>,
    /// Somebody looks at its output.
    seen: bool,
}

impl Running {
    /// Starts `command`, on a terminal of `size` if there is one.
    pub(crate) fn start(
        mut command: Command,
        input: Input,
        size: Option<(u16, u16)>,
        timeout: Duration,
    ) -> Self {
        let what = format!("{command:?}");
        let terminal = size.map(|size| attach_terminal(&mut command, size));
        if terminal.is_none() {
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command.stdin(if matches!(input, Input::Null) {
                Stdio::null()
            } else {
                Stdio::piped()
            });
        }
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{what} does not start: {error}"));
        // It holds the other side of the terminal, which must close when the child ends.
        drop(command);

        let mut threads = Vec::new();
        let mut collect = |source: Box<dyn Read + Send>| {
            let (stream, reader) = Stream::collect(source);
            threads.push(reader);
            stream
        };
        let (stdin, stdout, stderr) = match &terminal {
            Some(master) => {
                let clone = || master.try_clone().expect("a file descriptor is left");
                (Some(clone()), collect(Box::new(clone())), Arc::default())
            }
            None => (
                child
                    .stdin
                    .take()
                    .map(|pipe| File::from(OwnedFd::from(pipe))),
                collect(Box::new(child.stdout.take().expect("piped"))),
                collect(Box::new(child.stderr.take().expect("piped"))),
            ),
        };
        let stdin = match input {
            Input::Bytes(bytes) => {
                let mut pipe = stdin.expect("piped");
                threads.push(std::thread::spawn(move || {
                    // A program need not read its input.
                    let _ = pipe.write_all(&bytes);
                }));
                None
            }
            Input::Open | Input::Null => stdin,
        };
        let deadline = Instant::now() + timeout;
        Self {
            child,
            what,
            deadline,
            stdin: Mutex::new(stdin),
            terminal,
            stdout,
            stderr,
            threads,
            seen: false,
        }
    }

    /// Its process ID.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("process IDs are positive"))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the process has not been waited for");
    }

    /// Writes to its stdin, or types on its terminal.
    #[track_caller]
    pub fn write(&self, bytes: impl AsRef<[u8]>) {
        let mut stdin = self.stdin.lock().expect("no writer panicked");
        let stdin = stdin.as_mut().expect("stdin is open");
        stdin
            .write_all(bytes.as_ref())
            .expect("the process reads its stdin");
    }

    /// Closes its stdin.
    pub fn close_stdin(&self) {
        self.stdin.lock().expect("no writer panicked").take();
    }

    /// Changes the size of its terminal.
    ///
    /// # Panics
    ///
    /// It has none.
    pub fn resize(&self, rows: u16, columns: u16) {
        set_size(
            self.terminal.as_ref().expect("it runs on a terminal"),
            rows,
            columns,
        );
    }

    /// What it has written to stdout so far.
    pub fn stdout(&self) -> Vec<u8> {
        self.stdout.lock().clone()
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> Vec<u8> {
        self.stderr.lock().clone()
    }

    /// Waits until it has written `text` to stdout.
    ///
    /// # Panics
    ///
    /// It has not within its time.
    #[track_caller]
    pub fn wait_for(&self, text: impl AsRef<[u8]>) {
        let text = text.as_ref();
        let mut bytes = self.stdout.lock();
        while !bytes.windows(text.len()).any(|window| window == text) {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.threads.iter().all(JoinHandle::is_finished) {
                panic!(
                    "{} never wrote {:?}\nstdout: {}\nstderr: {}",
                    self.what,
                    String::from_utf8_lossy(text),
                    String::from_utf8_lossy(&bytes),
                    String::from_utf8_lossy(&self.stderr()),
                );
            }
            let step = left.min(Duration::from_millis(200));
            bytes = self
                .stdout
                .grown
                .wait_timeout(bytes, step)
                .expect("readers do not panic")
                .0;
        }
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_some()
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// It has not ended within its time, or left its streams open to others.
    #[track_caller]
    pub fn wait(mut self) -> Output {
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                break status;
            }
            self.check_time("has not ended");
            std::thread::sleep(Duration::from_millis(5));
        };
        self.seen = true;
        while !self.threads.iter().all(JoinHandle::is_finished) {
            self.check_time("ended, but something holds its streams open");
            std::thread::sleep(Duration::from_millis(5));
        }
        Output {
            stdout: self.stdout(),
            stderr: self.stderr(),
            status: number(status),
        }
    }

    #[track_caller]
    fn check_time(&self, what: &str) {
        assert!(
            Instant::now() < self.deadline,
            "{} {what}\nstdout: {}\nstderr: {}",
            self.what,
            String::from_utf8_lossy(&self.stdout()),
            String::from_utf8_lossy(&self.stderr()),
        );
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let ended = self.child.try_wait().ok().flatten();
        // After a wait, both fail without harm.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if self.seen {
            return;
        }
        let complaint = self.stderr();
        if ended.is_some() || !complaint.is_empty() {
            let (what, complaint) = (&self.what, String::from_utf8_lossy(&complaint));
            eprintln!("nobody waited for {what}: {ended:?}\nstderr: {complaint}");
        }
    }
}

fn number(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().expect("exited or killed"))
}

nix::ioctl_write_ptr_bad!(tiocswinsz, libc::TIOCSWINSZ, Winsize);
nix::ioctl_write_int_bad!(tiocsctty, libc::TIOCSCTTY);

fn set_size(terminal: &File, rows: u16, columns: u16) {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the descriptor is open and the kernel only reads the structure.
    unsafe { tiocswinsz(terminal.as_raw_fd(), &size) }.expect("it is a terminal");
}

/// Gives the command a new terminal and returns the side that a person would sit at.
fn attach_terminal(command: &mut Command, (rows, columns): (u16, u16)) -> File {
    // Neither side may leak into the children of other tests: they would keep it open.
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = posix_openpt(flags).expect("a terminal is left");
    grantpt(&master)
        .and_then(|()| unlockpt(&master))
        .expect("the terminal is ours");
    let path = ptsname_r(&master).expect("the terminal has a name");
    let slave = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(path)
        .expect("the terminal is ours");
    let master = File::from(OwnedFd::from(master));
    set_size(&master, rows, columns);
    let slave = || Stdio::from(slave.try_clone().expect("a file descriptor is left"));
    command.stdin(slave()).stdout(slave()).stderr(slave());
    // SAFETY: between fork and exec it only makes two system calls.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            tiocsctty(0, 0)?;
            Ok(())
        });
    }
    master
}
