//! The docker daemon that runs on this host.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Where the daemon writes its process ID.
const PID_FILES: [&str; 2] = ["/run/docker.pid", "/var/run/docker.pid"];

/// How long it may take to read its configuration again.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running daemon.
#[derive(Debug)]
pub(super) struct Docker(Pid);

impl Docker {
    /// The one of this host, if it runs.
    pub(super) fn running() -> Result<Option<Self>> {
        for file in PID_FILES {
            let Ok(text) = fs::read_to_string(file) else {
                continue;
            };
            let pid: i32 = text
                .trim()
                .parse()
                .with_context(|| format!("{file} holds no process ID"))?;
            // The file may be older than the process.
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if name.trim() == "dockerd" {
                return Ok(Some(Self(Pid::from_raw(pid))));
            }
        }
        Ok(None)
    }

    /// Has it read its configuration again. Containers are not disturbed.
    pub(super) fn reload(&self) -> Result<()> {
        kill(self.0, Signal::SIGHUP).context("docker cannot be told to read its configuration")
    }

    /// The programs of its runtimes by name.
    pub(super) fn runtimes(&self) -> Result<HashMap<String, PathBuf>> {
        let text = docker(&["info", "--format", "{{json .Runtimes}}"])?;
        let runtimes: HashMap<String, Value> =
            serde_json::from_str(&text).context("docker info is not understood")?;
        Ok(runtimes
            .into_iter()
            .map(|(name, runtime)| {
                let path = runtime["path"].as_str().unwrap_or_default();
                (name, path.into())
            })
            .collect())
    }

    /// Waits until its runtimes are as they should be. False if they are not in time.
    pub(super) fn wait_for(
        &self,
        right: impl Fn(&HashMap<String, PathBuf>) -> bool,
    ) -> Result<bool> {
        let deadline = Instant::now() + PATIENCE;
        while !right(&self.runtimes()?) {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(true)
    }

    /// The names of running containers with this runtime.
    pub(super) fn containers(&self, runtime: &str) -> Result<Vec<String>> {
        let running = docker(&["ps", "--quiet"])?;
        let ids: Vec<&str> = running.split_whitespace().collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let format = "{{.HostConfig.Runtime}} {{.Name}}";
        let text = docker(&[&["inspect", "--format", format], &ids[..]].concat())?;
        Ok(text
            .lines()
            .filter_map(|line| line.strip_prefix(runtime)?.strip_prefix(" /"))
            .map(str::to_owned)
            .collect())
    }
}

fn docker(args: &[&str]) -> Result<String> {
    let output = Command::new("docker")
        .args(args)
        .output()
        .context("the command docker is not there to ask docker")?;
    if !output.status.success() {
        bail!(
            "docker {} failed: {}",
            args[0],
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
