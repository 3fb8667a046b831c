//! The boot benchmark: from the start of a monitor to the guest's first command, and to the
//! monitor's end.

mod chart;
mod once;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use runcvm_kernels::Prefix;

use crate::choice::Choice;
use crate::entries::Entries;
use crate::figures::{Figures, Series, TIMES, ratio, relate};
use crate::host::Host;
use crate::progress::Progress;
use once::{Boot, Look, boot};

/// What is told of every boot, in order: when the guest was first entered, when its kernel
/// started its clock, when its PID 1 and the command of that said a word, when PID 1 had waited
/// for the command, and when the monitor was gone.
const CLOCKS: [&str; 6] = [
    "first KVM entry",
    "kernel",
    "PID 1",
    "command",
    "exit",
    "gone",
];

/// The clocks that are also told as multiples of the first monitor's.
const RELATED: [&str; 2] = ["command", "gone"];

/// Boot the same kernel and initramfs under each monitor, in turn, and compare
///
/// The guest's PID 1 runs a command, and powers off. Every round starts each monitor once, so
/// that a noisy moment of the host falls on all of them. As root, KVM's tracepoints tell of the
/// first entry and of exits for all monitors alike.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  runcvm-bench boot
  runcvm-bench boot --vmm runcvm,qemu-microvm -n 20 --svg boot.svg
  runcvm-bench boot --kernel debian-cloud --cpus 4 --memory 1024 --json boot.json")]
pub(crate) struct Options {
    #[command(flatten)]
    choice: Choice,
    /// Rounds, after one that does not count
    #[arg(short = 'n', long, default_value_t = 10)]
    rounds: usize,
    /// Three rounds
    #[arg(long, conflicts_with = "rounds")]
    quick: bool,
    /// Also write the figures as JSON to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Also draw a chart, as SVG, to this file
    #[arg(long)]
    svg: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let choice = &options.choice;
    let monitors = choice.monitors()?;
    let prefix = Prefix::find();
    let bundle = choice.bundle(&prefix)?;
    let scratch = tempfile::tempdir()?;
    let initramfs = scratch.path().join("initramfs");
    std::fs::write(&initramfs, crate::initramfs::make(&prefix, &bundle, &[])?)?;
    let guest = choice.guest(&bundle, initramfs);
    let trace = match Entries::start() {
        Ok(_) => true,
        Err(error) => {
            eprintln!("runcvm-bench: exits are not counted: {error:#}");
            false
        }
    };
    let rounds = if options.quick { 3 } else { options.rounds };
    let mut progress = Progress::new((rounds + 1) * monitors.len());
    let mut boots: Vec<(Vec<Boot>, u64)> = monitors.iter().map(|_| Default::default()).collect();
    for round in 0..=rounds {
        for (monitor, (boots, memory)) in monitors.iter().zip(&mut boots) {
            progress.step(monitor.name());
            // The first round warms the page cache.
            let is_first = round == 0;
            let look = Look {
                trace,
                memory: is_first,
            };
            let (boot, bytes) = boot(monitor.as_ref(), &guest, look)
                .with_context(|| format!("a boot by {} failed", monitor.name()))?;
            if is_first {
                *memory = bytes;
            } else {
                boots.push(boot);
            }
        }
    }
    drop(progress);
    let series = monitors.iter().zip(&boots);
    let mut series: Vec<_> = series
        .map(|(monitor, (boots, memory))| series_of(monitor.name(), boots, *memory))
        .collect();
    for clock in RELATED {
        relate(&mut series, clock);
    }
    let figures = Figures {
        benchmark: "boot".into(),
        host: Host::look(),
        settings: choice.settings(&bundle),
        series,
    };
    println!("{}", figures.host);
    println!(
        "{}; medians since the start of the monitor, in ms",
        choice.describe(&bundle)
    );
    print!("{}", table(&figures));
    figures.write(options.json.as_deref())?;
    if let Some(path) = &options.svg {
        std::fs::write(path, chart::svg(&figures))
            .with_context(|| format!("{} could not be written", path.display()))?;
    }
    Ok(())
}

fn series_of(name: &str, boots: &[Boot], memory: u64) -> Series {
    let mut series = Series::new(name);
    for (index, clock) in CLOCKS.into_iter().enumerate() {
        let values = boots.iter().filter_map(|boot| boot.clocks[index]);
        series.add(clock, "ms", values.collect());
    }
    let counts = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    series.add("CPU", "ms", boots.iter().map(|b| b.usage.cpu).collect());
    let faults = boots.iter().map(|boot| f64::from(boot.usage.faults));
    series.add("page faults", "", faults.collect());
    series.add("memory", "KiB", vec![counts(memory / 1024)]);
    let exits = || boots.iter().filter_map(|boot| boot.exits.as_ref());
    let to_host = exits().map(|exits| counts(exits.to_host));
    series.add("exits", "", to_host.collect());
    let to_monitor = exits().map(|e| counts(e.to_monitor.iter().map(|(_, n)| n).sum()));
    series.add("exits to the monitor", "", to_monitor.collect());
    for (reason, _) in exits().next().map_or(&[][..], |exits| &exits.to_monitor) {
        let of_reason = exits().filter_map(|exits| {
            let found = exits.to_monitor.iter().find(|(name, _)| name == reason);
            found.map(|(_, count)| counts(*count))
        });
        series.add(format!("exits for {reason}"), "", of_reason.collect());
    }
    series
}

/// Two tables: when what began, and what it cost.
fn table(figures: &Figures) -> String {
    const NAME: usize = 18;
    let first = figures.series.first().map_or("", |series| &series.name);
    let mut text = format!("{:NAME$}{:>5}", "", "runs");
    for clock in CLOCKS {
        text += &format!("{clock:>17}");
    }
    text += &format!("{:>20}{:>20}\n", "command: spread", ratio("command", first));
    for series in &figures.series {
        let command = series.summary("command");
        text += &format!("{:NAME$}{:>5}", series.name, command.map_or(0, |c| c.runs));
        for clock in CLOCKS {
            text += &match series.summary(clock) {
                Some(summary) => format!("{:>17.1}", summary.median),
                None => format!("{:>17}", "-"),
            };
        }
        let spread = command.map(|c| format!("{:.1}-{:.1}", c.min, c.max));
        let multiple = series.summary(&ratio("command", first));
        let multiple = multiple.map(|m| format!("{:.2}", m.median));
        text += &format!(
            "{:>20}{:>20}\n",
            spread.unwrap_or_default(),
            multiple.unwrap_or_default()
        );
    }
    text += "\n";
    for series in &figures.series {
        let costs = series
            .metrics
            .iter()
            .filter(|m| m.unit != TIMES && !CLOCKS.contains(&&*m.name));
        let costs = costs.map(|metric| {
            let text = format!(
                "{} {:.0} {}",
                metric.name, metric.summary.median, metric.unit
            );
            text.trim_end().to_owned()
        });
        let costs: Vec<_> = costs.collect();
        text += &format!("{:NAME$}{}\n", series.name, costs.join(", "));
    }
    text
}
