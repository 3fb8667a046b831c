//! The boot benchmark: time from starting a monitor to the first line of the guest's PID 1,
//! and to the monitor's end.

use std::io::{BufRead, BufReader, PipeReader};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use runcvm_kernels::{Prefix, Store};
use serde::Serialize;

use crate::monitor::{self, Guest, Monitor};
use crate::stats::Summary;
use crate::watchdog::Watchdog;

/// What the guest's PID 1 prints.
const READY: &str = "runcvm-bench: ready";

/// Longer than any boot, even on an emulated host.
const PATIENCE: Duration = Duration::from_secs(120);

/// Boot the same kernel and initramfs under each monitor, in turn, and compare
///
/// The guest's PID 1 prints one line on the serial port and powers off. Every round starts
/// each monitor once, so that a noisy moment of the host falls on all of them.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  runcvm-bench boot
  runcvm-bench boot --vmm runcvm,qemu-microvm -n 20
  runcvm-bench boot --kernel debian-cloud --cpus 4 --memory 1024 --json boot.json")]
pub(crate) struct Options {
    /// Monitors to compare, separated by commas
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "runcvm,runcvm-mmio,qemu-microvm"
    )]
    vmm: Vec<String>,
    /// Kernel: the name of an installed bundle
    #[arg(long)]
    kernel: Option<String>,
    /// Number of vCPUs
    #[arg(long, default_value_t = 1)]
    cpus: u8,
    /// Guest memory in MiB
    #[arg(long, default_value_t = 256)]
    memory: u32,
    /// Rounds, after one that does not count
    #[arg(short = 'n', long, default_value_t = 10)]
    rounds: usize,
    /// Also write the figures as JSON to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Times of one boot in milliseconds since the monitor was started.
#[derive(Clone, Copy, Debug, Serialize)]
struct Times {
    /// The guest's PID 1 printed its line.
    init: f64,
    /// The monitor's process was gone.
    gone: f64,
}

/// All boots of one monitor.
#[derive(Debug, Serialize)]
struct Series {
    monitor: &'static str,
    boots: Vec<Times>,
    init: Option<Summary>,
    gone: Option<Summary>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let monitors = monitor::chosen(&options.vmm)?;
    let prefix = Prefix::find();
    let bundle = Store::new(&prefix).resolve(options.kernel.as_deref())?;
    let scratch = tempfile::tempdir()?;
    let initramfs = scratch.path().join("initramfs");
    std::fs::write(&initramfs, initramfs_with(&init_program(&prefix)?))?;
    let guest = Guest {
        kernel: bundle.vmlinux,
        initramfs: Some(initramfs),
        cpus: options.cpus,
        memory_mib: options.memory,
    };
    let mut series: Vec<Series> = monitors.iter().map(|m| Series::new(m.name())).collect();
    for round in 0..=options.rounds {
        for (monitor, series) in monitors.iter().zip(&mut series) {
            eprint!(
                "\rround {round} of {}: {:<14}",
                options.rounds,
                monitor.name()
            );
            let times = boot(monitor.as_ref(), &guest)
                .with_context(|| format!("a boot by {} failed", monitor.name()))?;
            // The first round warms the page cache.
            if round > 0 {
                series.boots.push(times);
            }
        }
    }
    eprintln!("\r{:40}\r", "");
    series.iter_mut().for_each(Series::summarise);
    println!(
        "{} {}, {} vCPU, {} MiB; milliseconds from starting the monitor",
        bundle.name, bundle.version, options.cpus, options.memory
    );
    print_table(&series);
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_vec_pretty(&series)?)
            .with_context(|| format!("{} could not be written", path.display()))?;
    }
    Ok(())
}

/// The guest's PID 1.
fn init_program(prefix: &Prefix) -> Result<Vec<u8>> {
    let path = prefix.libexec("runcvm-bench-init");
    std::fs::read(&path).with_context(|| format!("{} could not be read", path.display()))
}

fn initramfs_with(init: &[u8]) -> Vec<u8> {
    let mut archive = runcvm_kernels::cpio::Writer::default();
    archive.file("init", 0o755, init);
    archive.finish()
}

fn boot(monitor: &dyn Monitor, guest: &Guest) -> Result<Times> {
    let (reader, writer) = std::io::pipe()?;
    let start = Instant::now();
    let mut started = monitor.start(guest, writer)?;
    let waited = wait_for_ready(reader, start, started.process.id());
    if waited.is_err() {
        let _ = started.process.kill();
    }
    let status = started.process.wait()?;
    drop(started.control);
    let times = Times {
        init: waited?,
        gone: milliseconds(start),
    };
    if !status.success() {
        bail!("it ended with {status}");
    }
    Ok(times)
}

/// Milliseconds until the guest's line; reads on until the serial port closes, so that the
/// monitor never waits for a reader.
fn wait_for_ready(reader: PipeReader, start: Instant, pid: u32) -> Result<f64> {
    let watchdog = Watchdog::new(pid, PATIENCE);
    let mut log = String::new();
    let mut ready = None;
    for line in BufReader::new(reader).lines() {
        let line = line?;
        if ready.is_none() && line.contains(READY) {
            ready = Some(milliseconds(start));
        }
        log.push_str(&line);
        log.push('\n');
    }
    drop(watchdog);
    ready.with_context(|| format!("the guest's PID 1 said nothing; its serial port:\n{log}"))
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

impl Series {
    fn new(monitor: &'static str) -> Self {
        Self {
            monitor,
            boots: Vec::new(),
            init: None,
            gone: None,
        }
    }

    fn summarise(&mut self) {
        let of =
            |time: fn(&Times) -> f64| Summary::of(&self.boots.iter().map(time).collect::<Vec<_>>());
        (self.init, self.gone) = (of(|t| t.init), of(|t| t.gone));
    }
}

fn print_table(series: &[Series]) {
    println!(
        "{:<14} {:>5}  {:>8} {:>8} {:>8} {:>8}  {:>9}",
        "", "runs", "min", "median", "p99", "max", "gone"
    );
    for row in series {
        let (Some(init), Some(gone)) = (row.init, row.gone) else {
            continue;
        };
        println!(
            "{:<14} {:>5}  {:>8.1} {:>8.1} {:>8.1} {:>8.1}  {:>9.1}",
            row.monitor, init.runs, init.min, init.median, init.p99, init.max, gone.median
        );
    }
}
