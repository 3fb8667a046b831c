//! The benchmark of disks and shared directories: what operations of the guest on them cost.

mod once;
mod share;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use runcvm_kernels::{Part, Prefix};

use crate::choice::Choice;
use crate::figures::{Figures, Series};
use crate::host::Host;
use crate::initramfs;
use crate::monitor::Guest;
use crate::progress::Progress;
use once::{Done, run_once};
use share::Directory;

/// Bytes of the disk, and of the shared file. The host's page cache holds all of it: devices are
/// compared, not disks.
const DISK: usize = 64 << 20;

/// Put the same load on a disk and a shared directory under each monitor, in turn, and compare
///
/// The guest reads and writes past its page cache, one operation after the other: 1 MiB in
/// order and 4 KiB anywhere, writes that are flushed one by one, and files that are opened. The
/// disk is a raw file of the host's, and the directory is served by the same virtiofsd. Per
/// operation: time, exits to the monitor, and CPU time of the monitor's threads, the guest's
/// included, and of virtiofsd.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  runcvm-bench io
  runcvm-bench io --vmm runcvm,qemu-q35 -n 10 --json io.json")]
pub(crate) struct Options {
    #[command(flatten)]
    choice: Choice,
    /// Rounds
    #[arg(short = 'n', long, default_value_t = 5)]
    rounds: usize,
    /// One round
    #[arg(long, conflicts_with = "rounds")]
    quick: bool,
    /// Where the disk's file is made
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Also write the figures as JSON to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let choice = &options.choice;
    let monitors = choice.monitors()?;
    let prefix = Prefix::find();
    let bundle = choice.bundle(&prefix)?;
    let scratch = tempfile::tempdir_in(&options.dir)?;
    let path = |name: &str| scratch.path().join(name);
    let parts = [Part::Mmio, Part::Disk];
    std::fs::write(
        path("initramfs"),
        initramfs::make(&prefix, &bundle, &parts)?,
    )?;
    std::fs::write(path("disk"), vec![0xa5; DISK])?;
    let directory = Directory::make(&prefix, scratch.path(), DISK)?;
    let guest = Guest {
        disk: Some(path("disk")),
        init: "io",
        ..choice.guest(&bundle, path("initramfs"))
    };
    let rounds = if options.quick { 1 } else { options.rounds };
    let mut progress = Progress::new(rounds * monitors.len());
    let mut done: Vec<Vec<Done>> = monitors.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (monitor, done) in monitors.iter().zip(&mut done) {
            progress.step(monitor.name());
            let run = run_once(monitor.as_ref(), &guest, &directory);
            done.extend(run.with_context(|| monitor.name())?);
        }
    }
    drop(progress);
    let series = monitors.iter().zip(&done);
    let figures = Figures {
        benchmark: "io".into(),
        host: Host::look(),
        settings: choice.settings(&bundle),
        series: series
            .map(|(monitor, done)| series_of(monitor.name(), done))
            .collect(),
    };
    println!("{}", figures.host);
    println!(
        "{}; medians per operation, {rounds} runs",
        choice.describe(&bundle)
    );
    print!("{}", table(&figures));
    figures.write(options.json.as_deref())
}

fn series_of(name: &str, done: &[Done]) -> Series {
    let mut series = Series::new(name);
    let mut loads: Vec<_> = Vec::new();
    for done in done {
        if !loads.contains(&&done.load) {
            loads.push(&done.load);
        }
    }
    for load in loads {
        let of_load = || done.iter().filter(|done| done.load == *load);
        series.add(load, "us", of_load().map(|d| d.time).collect());
        let exits = of_load().filter_map(|d| d.exits);
        series.add(format!("{load} exits"), "", exits.collect());
        series.add(
            format!("{load} CPU"),
            "us",
            of_load().map(|d| d.cpu).collect(),
        );
    }
    series
}

/// A row a load, three columns a monitor.
fn table(figures: &Figures) -> String {
    let mut text = format!("{:16}", "");
    for series in &figures.series {
        text += &format!("  {:^27}", series.name);
    }
    text += &format!("\n{:16}", "");
    for _ in &figures.series {
        text += &format!("  {:>9}{:>9}{:>9}", "us", "exits", "CPU us");
    }
    text += "\n";
    let Some(first) = figures.series.first() else {
        return text;
    };
    let loads = first.metrics.iter().filter(|m| !m.name.contains(' '));
    for load in loads.map(|metric| &metric.name) {
        text += &format!("{load:16}");
        for series in &figures.series {
            text += "  ";
            for metric in [load.clone(), format!("{load} exits"), format!("{load} CPU")] {
                text += &match series.summary(&metric) {
                    Some(summary) => format!("{:>9.1}", summary.median),
                    None => format!("{:>9}", "-"),
                };
            }
        }
        text += "\n";
    }
    text
}
