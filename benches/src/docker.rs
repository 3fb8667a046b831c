//! The docker benchmark: what a container costs by its runtime, in time and in memory.

mod memory;
mod phases;
mod run;
mod table;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;

use crate::figures::{Figures, Series};
use crate::host::Host;
use crate::progress::Progress;
use memory::{Idle, docker};
use phases::{PHASES, Times};
use run::Job;

/// Run containers under each runtime of docker, in turn, and compare phase by phase
///
/// Needs root, and docker on this host: the kernel's trace tells when docker's command,
/// containerd's shim and the runtime did what. Every round runs each runtime once, so that a
/// noisy moment of the host falls on all of them.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  runcvm-bench docker
  runcvm-bench docker --runtime runc,runcvm --at-once 8
  runcvm-bench docker --image debian --cold --json docker.json -- cat /etc/os-release")]
pub(crate) struct Options {
    /// Runtimes to compare, separated by commas [default: all that docker knows]
    #[arg(long, value_delimiter = ',')]
    runtime: Vec<String>,
    /// Image of the containers
    #[arg(long, default_value = "busybox")]
    image: String,
    /// Containers that are run at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=100))]
    at_once: u8,
    /// Have the host forget what it has read of files before each run
    #[arg(long)]
    cold: bool,
    /// Rounds, after one that does not count
    #[arg(short = 'n', long, default_value_t = 10)]
    rounds: usize,
    /// Three rounds
    #[arg(long, conflicts_with = "rounds")]
    quick: bool,
    /// Also write the figures as JSON to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// What they run
    #[arg(last = true, default_value = "true")]
    command: Vec<String>,
}

/// All figures.
#[derive(Debug)]
pub(crate) struct Report {
    host: Host,
    docker: String,
    image: String,
    command: Vec<String>,
    at_once: u8,
    cold: bool,
    runtimes: Vec<Found>,
}

/// What was found of one runtime.
#[derive(Debug)]
struct Found {
    /// With the milliseconds from `docker run` to each phase's begin.
    series: Series,
    runs: usize,
    idle: Idle,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let version = docker(&["version", "--format", "{{.Server.Version}}"])?;
    docker(&["image", "inspect", &options.image]).with_context(|| {
        let image = &options.image;
        format!("docker has no image {image}; run: docker pull {image}")
    })?;
    let runtimes = chosen(&options.runtime)?;
    let rounds = if options.quick { 3 } else { options.rounds };
    let job = Job {
        image: &options.image,
        command: &options.command,
        at_once: options.at_once.into(),
        cold: options.cold,
    };
    let scratch = tempfile::tempdir()?;
    let mut runs: Vec<Vec<Times>> = vec![Vec::new(); runtimes.len()];
    let mut progress = Progress::new((rounds + 2) * runtimes.len());
    for round in 0..=rounds {
        for (runtime, runs) in runtimes.iter().zip(&mut runs) {
            progress.step(runtime);
            let times = job
                .run(runtime, scratch.path())
                .with_context(|| format!("runtime {runtime}"))?;
            // The first round warms caches.
            if round > 0 {
                runs.extend(times);
            }
        }
    }
    let mut found = Vec::new();
    for (runtime, runs) in runtimes.into_iter().zip(runs) {
        progress.step(&format!("memory of {runtime}"));
        let idle = Idle::measure(&runtime, &options.image)
            .with_context(|| format!("runtime {runtime}"))?;
        found.push(Found::new(runtime, &runs, idle));
    }
    drop(progress);
    let report = Report {
        host: Host::look(),
        docker: version,
        image: options.image.clone(),
        command: options.command.clone(),
        at_once: options.at_once,
        cold: options.cold,
        runtimes: found,
    };
    print!("{report}");
    report.figures().write(options.json.as_deref())
}

/// The runtimes that docker knows, or those of them that are wanted.
fn chosen(wanted: &[String]) -> Result<Vec<String>> {
    let known = docker(&["info", "--format", "{{json .Runtimes}}"])?;
    let known: BTreeMap<String, serde_json::Value> =
        serde_json::from_str(&known).context("docker's list of runtimes cannot be read")?;
    if wanted.is_empty() {
        // Those of containerd's names are runc once more.
        let names = known.into_keys();
        return Ok(names.filter(|n| !n.starts_with("io.containerd.")).collect());
    }
    match wanted.iter().find(|name| !known.contains_key(*name)) {
        None => Ok(wanted.to_vec()),
        Some(name) => {
            let known: Vec<_> = known.into_keys().collect();
            bail!("docker has no runtime {name}; it has {}", known.join(", "))
        }
    }
}

impl Found {
    fn new(runtime: String, runs: &[Times], idle: Idle) -> Self {
        let mut series = Series::new(runtime);
        let times: Vec<_> = runs.iter().map(milliseconds).collect();
        for phase in PHASES {
            let values = times.iter().filter_map(|run| run.get(phase).copied());
            series.add(phase, "ms", values.collect());
        }
        let kib = |bytes: u64| vec![f64::from(u32::try_from(bytes / 1024).unwrap_or(u32::MAX))];
        series.add("memory", "KiB", kib(idle.own()));
        series.add("memory of the shim", "KiB", kib(idle.shim));
        let mut programs = BTreeMap::<&str, u64>::new();
        for process in &idle.processes {
            *programs.entry(&process.name).or_default() += process.private.own;
        }
        for (program, bytes) in programs {
            series.add(format!("memory of {program}"), "KiB", kib(bytes));
        }
        Self {
            series,
            runs: runs.len(),
            idle,
        }
    }
}

impl Report {
    fn figures(&self) -> Figures {
        Figures {
            benchmark: "docker".into(),
            host: self.host.clone(),
            settings: json!({
                "docker": self.docker,
                "image": self.image,
                "command": self.command,
                "at_once": self.at_once,
                "cold": self.cold,
            }),
            series: self.runtimes.iter().map(|r| r.series.clone()).collect(),
        }
    }
}

/// Milliseconds from `docker run` to each phase that there was.
fn milliseconds(times: &Times) -> BTreeMap<&'static str, f64> {
    let [Some(start), ..] = *times else {
        return BTreeMap::new();
    };
    let phases = PHASES.iter().zip(times);
    phases
        .filter_map(|(&phase, &at)| {
            let micros = u32::try_from(at?.saturating_sub(start) / 1000).ok()?;
            Some((phase, f64::from(micros) / 1e3))
        })
        .collect()
}
