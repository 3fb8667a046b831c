//! What an idle container costs its host in memory.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::smaps::{self, Private};

/// Longer than any container takes to start, even on an emulated host.
const PATIENCE: Duration = Duration::from_secs(180);

/// From the start of its command to when a container is taken to be idle.
const SETTLED: Duration = Duration::from_secs(5);

/// Processes of one idle container.
#[derive(Debug)]
pub(crate) struct Idle {
    /// Those in it, by name.
    pub(crate) processes: Vec<Process>,
    /// containerd's shim.
    pub(crate) shim: u64,
}

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) private: Private,
}

impl Idle {
    /// Bytes that its processes alone have, without the shim's and the guest's memory.
    pub(crate) fn own(&self) -> u64 {
        self.processes.iter().map(|p| p.private.own).sum()
    }

    /// Bytes of the guest's memory that it has touched, as far as one process alone has them.
    pub(crate) fn guest(&self) -> u64 {
        self.processes.iter().map(|p| p.private.guest).sum()
    }

    /// Starts a container of `image` that sleeps, and looks at it.
    pub(crate) fn measure(runtime: &str, image: &str) -> Result<Self> {
        let container = Sleeping::start(runtime, image)?;
        container.wait_for_command()?;
        std::thread::sleep(SETTLED);
        let mut idle = Self {
            processes: Vec::new(),
            shim: 0,
        };
        for pid in pids()? {
            let read = |what| fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
            let has_id = |text: Vec<u8>| String::from_utf8_lossy(&text).contains(&container.0);
            if has_id(read("cgroup")) {
                // One that has ended meanwhile was none of an idle container, and threads of the
                // host's kernel have no memory.
                let Some(private) = smaps::private(pid)
                    .ok()
                    .filter(|p| *p != Private::default())
                else {
                    continue;
                };
                let name = String::from_utf8_lossy(&read("comm")).trim().to_owned();
                idle.processes.push(Process { name, private });
            } else if has_id(read("cmdline"))
                && String::from_utf8_lossy(&read("comm")).starts_with("containerd-shim")
            {
                idle.shim += smaps::private(pid)?.own;
            }
        }
        if idle.processes.is_empty() {
            bail!("no process is in the container's control group");
        }
        Ok(idle)
    }
}

/// A container by its ID; removed when dropped.
struct Sleeping(String);

impl Sleeping {
    fn start(runtime: &str, image: &str) -> Result<Self> {
        let args = [
            "run",
            "--detach",
            "--runtime",
            runtime,
            image,
            "sleep",
            "3600",
        ];
        Ok(Self(docker(&args)?.trim().to_owned()))
    }

    fn wait_for_command(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match docker(&["exec", &self.0, "true"]) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }
}

impl Drop for Sleeping {
    fn drop(&mut self) {
        if let Err(error) = docker(&["rm", "--force", &self.0]) {
            eprintln!("runcvm-bench: a container is left behind: {error:#}");
        }
    }
}

fn pids() -> Result<Vec<u32>> {
    let entries = fs::read_dir("/proc").context("/proc cannot be read")?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.parse().ok()).collect())
}

/// What a docker command that succeeds writes.
pub(crate) fn docker(args: &[&str]) -> Result<String> {
    let output = Command::new("docker")
        .args(args)
        .output()
        .context("docker cannot be executed")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        bail!("docker {}: {}", args.join(" "), text(&output.stderr))
    }
}
