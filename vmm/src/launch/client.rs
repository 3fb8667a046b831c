//! Asking a running machine through its control socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::rundir;
use crate::control::{Reply, Request, Status};

/// Why a machine could not be asked.
#[derive(Debug, Error)]
pub enum Error {
    #[error(transparent)]
    Run(#[from] rundir::Error),
    #[error("The machine \"{0}\" cannot be reached")]
    Io(String, #[source] io::Error),
    #[error("The machine \"{0}\" does not answer")]
    Silent(String),
    #[error("The machine \"{name}\" refused: {message}")]
    Refused { name: String, message: String },
}

/// A connection to a machine's control socket.
#[derive(Debug)]
pub struct Client {
    name: String,
    dir: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the machine `name`.
    pub fn connect(name: &str) -> Result<Self, Error> {
        let dir = rundir::find(&rundir::base()?, name)?;
        Self::open(name, &dir).map_err(|e| Error::Io(name.into(), e))
    }

    fn open(name: &str, dir: &Path) -> io::Result<Self> {
        Ok(Self {
            name: name.into(),
            dir: dir.into(),
            stream: BufReader::new(UnixStream::connect(rundir::control_socket(dir))?),
        })
    }

    /// Asks, and waits at most `timeout` for the answer.
    pub fn ask(&mut self, request: Request, timeout: Duration) -> Result<Reply, Error> {
        let mut line = serde_json::to_vec(&request).expect("requests are plain");
        line.push(b'\n');
        let answer = self.exchange(&line, timeout).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::UnexpectedEof => {
                Error::Silent(self.name.clone())
            }
            _ => Error::Io(self.name.clone(), e),
        })?;
        match answer {
            Reply::Error { message } => Err(Error::Refused {
                name: self.name.clone(),
                message,
            }),
            reply => Ok(reply),
        }
    }

    /// How the machine is.
    pub fn status(&mut self, timeout: Duration) -> Result<Status, Error> {
        match self.ask(Request::Status, timeout)? {
            Reply::Status(status) => Ok(status),
            _ => Err(Error::Silent(self.name.clone())),
        }
    }

    /// Waits until the machine has ended.
    pub fn wait_for_end(mut self) -> Result<(), Error> {
        let wait = |stream: &mut BufReader<UnixStream>| {
            stream.get_ref().set_read_timeout(None)?;
            io::copy(stream, &mut io::sink())
        };
        match wait(&mut self.stream) {
            Err(e) if e.kind() != io::ErrorKind::ConnectionReset => Err(Error::Io(self.name, e)),
            _ => {
                // Its launcher cleans up after the last word, and then lets go of the name.
                // Somebody else may already have taken it, so not for long.
                let deadline = Instant::now() + Duration::from_secs(1);
                while rundir::is_running(&self.dir) && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Ok(())
            }
        }
    }

    fn exchange(&mut self, line: &[u8], timeout: Duration) -> io::Result<Reply> {
        self.stream.get_ref().set_read_timeout(Some(timeout))?;
        self.stream.get_mut().write_all(line)?;
        let mut answer = Vec::new();
        (&mut self.stream)
            .take(1 << 20)
            .read_until(b'\n', &mut answer)?;
        if answer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&answer)?)
    }
}

/// Names of all running machines, and how each is if it answers within a second.
pub fn list() -> Result<Vec<(String, Option<Status>)>, rundir::Error> {
    let names = rundir::running(&rundir::base()?)?;
    let ask = |name: &str| Client::connect(name)?.status(Duration::from_secs(1));
    Ok(names
        .into_iter()
        .map(|name| {
            let status = ask(&name).ok();
            (name, status)
        })
        .collect())
}
