//! The set-up benchmark: what a monitor itself costs, with a guest of a few instructions.

mod guest;
mod run;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use crate::host::Host;
use crate::monitor::{self, Guest};
use crate::progress::Progress;
use crate::stats::Summary;
use run::{Run, idle_memory, run_once};

/// Measure what each monitor itself costs, without a guest kernel
///
/// The guest ends its machine with its first instructions, so that any /dev/kvm will do, one in
/// software too. Wall time is from the start of the monitor's process to its end, and CPU time
/// is that of all its threads. Every round starts each monitor once. Memory is what the process
/// alone has, with a guest that sleeps, without the guest's memory.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  runcvm-bench setup
  runcvm-bench setup --vmm runcvm --memory 256 -n 100 --json setup.json")]
pub(crate) struct Options {
    /// Monitors to compare, separated by commas
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "runcvm,firecracker,cloud-hypervisor,qemu-microvm"
    )]
    vmm: Vec<String>,
    /// Guest memory in MiB, one size or several separated by commas
    #[arg(long, value_delimiter = ',', default_value = "256,4096", value_parser = clap::value_parser!(u32).range(64..))]
    memory: Vec<u32>,
    /// Number of vCPUs
    #[arg(long, default_value_t = 1)]
    cpus: u8,
    /// Rounds, after a start that does not count
    #[arg(short = 'n', long, default_value_t = 20)]
    rounds: usize,
    /// Five rounds
    #[arg(long, conflicts_with = "rounds")]
    quick: bool,
    /// Also write the figures as JSON to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Report {
    host: Host,
    cpus: u8,
    series: Vec<Series>,
}

/// One monitor with one size of memory. Times are milliseconds.
#[derive(Debug, Serialize)]
struct Series {
    monitor: &'static str,
    memory_mib: u32,
    wall: Summary,
    cpu: Summary,
    /// Since the start, for monitors that tell.
    phases: BTreeMap<&'static str, Summary>,
    /// KiB.
    memory_kib: u64,
}

/// The phases of ours in order, by what begins with each.
const PHASES: [&str; 4] = ["KVM ready", "first entry", "first instruction", "end"];

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut monitors = monitor::chosen(&options.vmm)?;
    let scratch = tempfile::tempdir()?;
    let kernel = |name, content: Vec<u8>| -> Result<PathBuf> {
        let path = scratch.path().join(name);
        std::fs::write(&path, content)?;
        Ok(path)
    };
    let ending = kernel("ending", guest::ending())?;
    let sleeping = kernel("sleeping", guest::sleeping())?;
    let rounds = if options.quick { 5 } else { options.rounds };
    let guest = |kernel: &PathBuf, memory_mib| Guest {
        kernel: kernel.clone(),
        initramfs: None,
        cpus: options.cpus,
        memory_mib,
    };
    // A start that does not count warms caches, and shows what a software KVM cannot do.
    monitors.retain(|monitor| {
        match run_once(monitor.as_ref(), &guest(&ending, options.memory[0])) {
            Ok(_) => true,
            Err(error) => {
                eprintln!("runcvm-bench: {} is left out: {error:#}", monitor.name());
                false
            }
        }
    });
    let steps = options.memory.len() * monitors.len() * (rounds + 1);
    let mut progress = Progress::new(steps);
    let mut series = Vec::new();
    for &memory_mib in &options.memory {
        let mut runs: Vec<Vec<Run>> = monitors.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds {
            for (monitor, runs) in monitors.iter().zip(&mut runs) {
                progress.step(monitor.name());
                let run = run_once(monitor.as_ref(), &guest(&ending, memory_mib));
                runs.push(run.with_context(|| monitor.name())?);
            }
        }
        for (monitor, runs) in monitors.iter().zip(&runs) {
            progress.step(&format!("memory of {}", monitor.name()));
            let memory = idle_memory(monitor.as_ref(), &guest(&sleeping, memory_mib))
                .with_context(|| monitor.name())?;
            series.extend(Series::new(monitor.name(), memory_mib, runs, memory / 1024));
        }
    }
    drop(progress);
    let report = Report {
        host: Host::look(),
        cpus: options.cpus,
        series,
    };
    print!("{report}");
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)
            .with_context(|| format!("{} could not be written", path.display()))?;
    }
    Ok(())
}

impl Series {
    fn new(monitor: &'static str, memory_mib: u32, runs: &[Run], memory_kib: u64) -> Option<Self> {
        let of = |value: &dyn Fn(&Run) -> Option<f64>| {
            Summary::of(&runs.iter().filter_map(value).collect::<Vec<_>>())
        };
        let phases = PHASES.iter().enumerate();
        let phases = phases.filter_map(|(index, &name)| Some((name, of(&|r| r.phases[index])?)));
        Some(Self {
            monitor,
            memory_mib,
            wall: of(&|r| Some(r.wall))?,
            cpu: of(&|r| Some(r.cpu))?,
            phases: phases.collect(),
            memory_kib,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.host)?;
        writeln!(
            f,
            "a guest of a few instructions, {} vCPU; medians in ms",
            self.cpus
        )?;
        writeln!(
            f,
            "{:<18}{:>6}{:>6}{:>8}{:>14}{:>8}{:>14}{:>10}",
            "monitor", "MiB", "runs", "wall", "spread", "CPU", "spread", "memory"
        )?;
        for row in &self.series {
            let spread = |s: &Summary| format!("{:.1}-{:.1}", s.min, s.max);
            writeln!(
                f,
                "{:<18}{:>6}{:>6}{:>8.1}{:>14}{:>8.1}{:>14}{:>6} KiB",
                row.monitor,
                row.memory_mib,
                row.wall.runs,
                row.wall.median,
                spread(&row.wall),
                row.cpu.median,
                spread(&row.cpu),
                row.memory_kib
            )?;
        }
        for row in self.series.iter().filter(|row| !row.phases.is_empty()) {
            write!(f, "{}, {} MiB:", row.monitor, row.memory_mib)?;
            for (name, phase) in PHASES.iter().filter_map(|n| Some((n, row.phases.get(n)?))) {
                write!(f, " {name} {:.1},", phase.median)?;
            }
            writeln!(f, " gone {:.1}", row.wall.median)?;
        }
        Ok(())
    }
}
