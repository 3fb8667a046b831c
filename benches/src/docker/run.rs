//! `docker run`, as often at once as wanted, and what its phases were.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use runcvm_vmm::launch::Timings;

use super::phases::{Containers, Times};
use crate::trace::Trace;

/// Longer than any container takes to start, even on an emulated host.
const PATIENCE: Duration = Duration::from_secs(300);

/// Between looks at what runs. All times come from the kernel's trace, so it need not be short.
const PAUSE: Duration = Duration::from_millis(10);

/// What is run.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    pub(crate) image: &'a str,
    pub(crate) command: &'a [String],
    pub(crate) at_once: usize,
    /// The host is to forget what it has read of files before.
    pub(crate) cold: bool,
}

/// A `docker run` that was started.
struct Started {
    docker: Child,
    stderr: File,
    id_file: std::path::PathBuf,
}

impl Job<'_> {
    /// Runs it once with `runtime`; the phases of each container.
    pub(crate) fn run(&self, runtime: &str, scratch: &Path) -> Result<Vec<Times>> {
        if self.cold {
            nix::unistd::sync();
            fs::write("/proc/sys/vm/drop_caches", "3").context("caches cannot be dropped")?;
        }
        let mut trace = Trace::start()?;
        let mut containers = Containers::default();
        let mut started = Vec::new();
        for index in 0..self.at_once {
            started.push(self.start(runtime, &scratch.join(format!("{runtime}-{index}.id")))?);
        }
        let deadline = Instant::now() + PATIENCE;
        let mut running = true;
        while running {
            running = false;
            for Started { docker, .. } in &mut started {
                running |= docker.try_wait()?.is_none();
            }
            for event in trace.read()? {
                containers.take(event, container_of_shim);
            }
            if running {
                if Instant::now() >= deadline {
                    bail!("docker run takes longer than {} s", PATIENCE.as_secs());
                }
                std::thread::sleep(PAUSE);
            }
        }
        let times = started
            .into_iter()
            .map(|started| started.times(&containers));
        times.collect()
    }

    fn start(&self, runtime: &str, id_file: &Path) -> Result<Started> {
        if id_file.exists() {
            fs::remove_file(id_file)?;
        }
        let stderr = tempfile::tempfile()?;
        let docker = Command::new("docker")
            .args(["run", "--rm", "--runtime", runtime])
            // Other runtimes take it for a variable like any other.
            .args(["--env", "RUNCVM_TIMINGS=1", "--cidfile"])
            .arg(id_file)
            .arg(self.image)
            .args(self.command)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr.try_clone()?)
            .spawn()
            .context("docker cannot be executed")?;
        Ok(Started {
            docker,
            stderr,
            id_file: id_file.to_owned(),
        })
    }
}

impl Started {
    fn times(mut self, containers: &Containers) -> Result<Times> {
        let status = self.docker.wait()?;
        let mut said = String::new();
        self.stderr.rewind()?;
        self.stderr.read_to_string(&mut said)?;
        if !status.success() {
            bail!("docker run ended with {status}: {}", said.trim());
        }
        let id = fs::read_to_string(&self.id_file).context("docker wrote no container's ID")?;
        let container = containers.with_id(&id).context(
            "the kernel's trace shows no shim of the container: is docker on this host?",
        )?;
        let times = container.times(
            containers.command(self.docker.id()),
            timings(&said).as_ref(),
        );
        Ok(times)
    }
}

/// What a container of runcvm's wrote of its machine.
fn timings(stderr: &str) -> Option<Timings> {
    let mut lines = stderr.lines();
    let json = lines.find_map(|line| line.strip_prefix("runcvm: timings: "))?;
    serde_json::from_str(json).ok()
}

/// The container's ID in the command line of its shim, process `pid`.
fn container_of_shim(pid: u32) -> Option<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let line = String::from_utf8(line).ok()?;
    let mut words = line.split('\0').skip_while(|&word| word != "-id");
    words.nth(1).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timings_are_found_among_what_the_command_said() {
        let said = "hello\nruncvm: timings: {\"start\":7,\"launch\":9,\"spawned\":null}\nbye\n";
        let timings = timings(said).unwrap();
        assert_eq!((timings.start, timings.launch), (7, Some(9)));
    }

    #[test]
    fn other_runtimes_have_none() {
        assert_eq!(timings("hello\n"), None);
    }
}
