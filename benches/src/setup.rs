//! The set-up benchmark: what a monitor itself costs, with a guest of a few instructions.

mod guest;
mod run;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;

use crate::figures::{Figures, Series, relate};
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
        disk: None,
        share: None,
        init: "",
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
        let of_size = series.len();
        for (monitor, runs) in monitors.iter().zip(&runs) {
            progress.step(&format!("memory of {}", monitor.name()));
            let memory = idle_memory(monitor.as_ref(), &guest(&sleeping, memory_mib))
                .with_context(|| monitor.name())?;
            let name = format!("{}, {memory_mib} MiB", monitor.name());
            series.push(series_of(name, runs, memory / 1024));
        }
        for metric in ["gone", "CPU"] {
            relate(&mut series[of_size..], metric);
        }
    }
    drop(progress);
    let figures = Figures {
        benchmark: "setup".into(),
        host: Host::look(),
        settings: json!({ "cpus": options.cpus }),
        series,
    };
    println!("{}", figures.host);
    println!(
        "a guest of a few instructions, {} vCPU; medians in ms",
        options.cpus
    );
    print!("{}", table(&figures));
    figures.write(options.json.as_deref())
}

fn series_of(name: String, runs: &[Run], memory_kib: u64) -> Series {
    let mut series = Series::new(name);
    for (index, phase) in PHASES.into_iter().enumerate() {
        let values = runs.iter().filter_map(|run| run.phases[index]);
        series.add(phase, "ms", values.collect());
    }
    series.add("gone", "ms", runs.iter().map(|run| run.wall).collect());
    series.add("CPU", "ms", runs.iter().map(|run| run.usage.cpu).collect());
    let faults = runs.iter().map(|run| f64::from(run.usage.faults));
    series.add("page faults", "", faults.collect());
    let memory = f64::from(u32::try_from(memory_kib).unwrap_or(u32::MAX));
    series.add("memory", "KiB", vec![memory]);
    series
}

fn table(figures: &Figures) -> String {
    let mut text = format!(
        "{:<26}{:>5}{:>8}{:>14}{:>8}{:>14}{:>8}{:>11}\n",
        "", "runs", "wall", "spread", "CPU", "spread", "faults", "memory"
    );
    for series in &figures.series {
        let find = |name| series.summary(name);
        let (Some(wall), Some(cpu)) = (find("gone"), find("CPU")) else {
            continue;
        };
        let median = |name| find(name).map_or(0.0, |summary| summary.median);
        let spread = |s: Summary| format!("{:.1}-{:.1}", s.min, s.max);
        text += &format!(
            "{:<26}{:>5}{:>8.1}{:>14}{:>8.1}{:>14}{:>8.0}{:>7.0} KiB\n",
            series.name,
            wall.runs,
            wall.median,
            spread(wall),
            cpu.median,
            spread(cpu),
            median("page faults"),
            median("memory")
        );
    }
    for series in &figures.series {
        let phases = PHASES.iter().filter_map(|phase| {
            let at = series.summary(phase)?.median;
            Some(format!("{phase} {at:.1}, "))
        });
        let phases: String = phases.collect();
        let gone = series.summary("gone").filter(|_| !phases.is_empty());
        if let Some(gone) = gone {
            text += &format!(
                "{}: start 0, {phases}gone {:.1}\n",
                series.name, gone.median
            );
        }
    }
    text
}
