//! The docker benchmark: what a container costs by its runtime, in time and in memory.

mod memory;
mod phases;
mod run;
mod table;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use crate::host::Host;
use crate::progress::Progress;
use crate::stats::Summary;
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
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    host: Host,
    docker: String,
    image: String,
    command: Vec<String>,
    at_once: u8,
    cold: bool,
    runtimes: Vec<Series>,
}

/// Those of one runtime.
#[derive(Debug, Serialize)]
struct Series {
    runtime: String,
    /// Milliseconds from `docker run` to each phase's begin.
    phases: BTreeMap<&'static str, Summary>,
    /// Those of each container.
    runs: Vec<BTreeMap<&'static str, f64>>,
    idle: Option<Idle>,
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
    let mut series = Vec::new();
    for (runtime, runs) in runtimes.into_iter().zip(runs) {
        progress.step(&format!("memory of {runtime}"));
        let idle = Idle::measure(&runtime, &options.image)
            .with_context(|| format!("runtime {runtime}"))?;
        series.push(Series::new(runtime, &runs, Some(idle)));
    }
    drop(progress);
    let report = Report {
        host: Host::look(),
        docker: version,
        image: options.image.clone(),
        command: options.command.clone(),
        at_once: options.at_once,
        cold: options.cold,
        runtimes: series,
    };
    print!("{report}");
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)
            .with_context(|| format!("{} could not be written", path.display()))?;
    }
    Ok(())
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

impl Series {
    fn new(runtime: String, runs: &[Times], idle: Option<Idle>) -> Self {
        let runs: Vec<_> = runs.iter().map(milliseconds).collect();
        let phases = PHASES.iter().filter_map(|&phase| {
            let values: Vec<_> = runs
                .iter()
                .filter_map(|run| run.get(phase).copied())
                .collect();
            Some((phase, Summary::of(&values)?))
        });
        Self {
            runtime,
            phases: phases.collect(),
            runs,
            idle,
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
