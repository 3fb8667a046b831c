//! What moved between two runs of a benchmark, beyond its noise.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use crate::figures::{Figures, Metric, TIMES};

/// Say what moved between two files of figures, beyond the noise
///
/// A figure of several runs moved if a rank test (Mann and Whitney's) finds less than one chance
/// in a hundred that both series are of one kind, and the medians are a fiftieth apart. A figure
/// of a few runs moved if it is a tenth apart. Multiples of the first monitor's figures, which
/// are told round by round and so move least with the host's load, are shown in any case.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  runcvm-bench boot --json before.json
  runcvm-bench boot --json after.json
  runcvm-bench compare before.json after.json")]
pub(crate) struct Options {
    /// The earlier figures, as --json wrote them
    before: PathBuf,
    /// The later ones
    after: PathBuf,
}

/// The least that counts, as a fraction of the earlier median.
const LEAST: f64 = 0.02;
/// As [`LEAST`], where there are too few runs to know their noise.
const LEAST_OF_FEW: f64 = 0.1;
/// Runs from which on the rank test says something.
const MANY: usize = 5;
/// How far from its mean a normal variable is once in a hundred times, in standard deviations.
const UNLIKELY: f64 = 2.576;

pub(crate) fn run(options: &Options) -> Result<()> {
    let before = Figures::read(&options.before)?;
    let after = Figures::read(&options.after)?;
    if before.benchmark != after.benchmark {
        let (a, b) = (&before.benchmark, &after.benchmark);
        bail!("the first file is of `runcvm-bench {a}`, and the second of `{b}`");
    }
    if before.host != after.host {
        println!("not the same host:\n  {}\n  {}", before.host, after.host);
    }
    if before.settings != after.settings {
        println!(
            "not the same settings:\n  {}\n  {}",
            before.settings, after.settings
        );
    }
    let mut compared = 0;
    let mut moved = 0;
    for series in &before.series {
        let Some(later) = after.series.iter().find(|s| s.name == series.name) else {
            continue;
        };
        for metric in &series.metrics {
            let Some(new) = later.metrics.iter().find(|m| m.name == metric.name) else {
                continue;
            };
            compared += 1;
            let has_moved = moves(metric, new);
            moved += usize::from(has_moved);
            if has_moved || metric.unit == TIMES {
                println!("{}, {}", series.name, line(metric, new, has_moved));
            }
        }
    }
    if compared == 0 {
        bail!("the files have no figure in common");
    }
    println!("{moved} of {compared} figures moved beyond the noise");
    Ok(())
}

/// What was and what is.
fn line(before: &Metric, after: &Metric, has_moved: bool) -> String {
    let digits = if before.unit == TIMES { 3 } else { 1 };
    format!(
        "{}: {:.digits$} -> {:.digits$} {} ({:+.1} %{})",
        before.name,
        before.summary.median,
        after.summary.median,
        before.unit,
        change(before, after) * 100.0,
        if has_moved { "" } else { ", noise" }
    )
}

/// By which fraction a figure changed.
fn change(before: &Metric, after: &Metric) -> f64 {
    let (old, new) = (before.summary.median, after.summary.median);
    if old == new { 0.0 } else { (new - old) / old }
}

/// Whether it changed by more than its noise.
fn moves(before: &Metric, after: &Metric) -> bool {
    let change = change(before, after).abs();
    let few = before.values.len() < MANY || after.values.len() < MANY;
    match few {
        true => change >= LEAST_OF_FEW,
        false => change >= LEAST && differ(&before.values, &after.values),
    }
}

/// Mann and Whitney's test with the normal approximation, ties counted by half.
fn differ(a: &[f64], b: &[f64]) -> bool {
    let wins = a.iter().flat_map(|x| {
        b.iter().map(move |y| match x.total_cmp(y) {
            std::cmp::Ordering::Less => 0.0,
            std::cmp::Ordering::Equal => 0.5,
            std::cmp::Ordering::Greater => 1.0,
        })
    });
    let u: f64 = wins.sum();
    let count = |values: &[f64]| f64::from(u32::try_from(values.len()).unwrap_or(u32::MAX));
    let (m, n) = (count(a), count(b));
    let deviation = (m * n * (m + n + 1.0) / 12.0).sqrt();
    (u - m * n / 2.0).abs() > UNLIKELY * deviation
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Series;

    fn metric(values: &[f64]) -> Metric {
        let mut series = Series::new("x");
        series.add("y", "ms", values.to_vec());
        series.metrics.remove(0)
    }

    #[test]
    fn noise_is_no_change() {
        let a = metric(&[10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 17.0]);
        let b = metric(&[17.5, 10.5, 11.5, 12.5, 13.5, 14.5, 15.5, 16.5]);
        assert!(!moves(&a, &b));
        assert!(!moves(&a, &a));
    }

    #[test]
    fn a_shift_of_all_runs_is_one() {
        let a = metric(&[10.0, 10.1, 10.2, 10.3, 10.4, 10.5]);
        let b = metric(&[12.0, 12.1, 12.2, 12.3, 12.4, 12.5]);
        assert!(moves(&a, &b) && moves(&b, &a));
        assert!((change(&a, &b) - 2.0 / 10.25).abs() < 1e-9);
        assert_eq!(line(&a, &b, true), "y: 10.2 -> 12.2 ms (+19.5 %)");
        // It is too small to matter.
        let c = metric(&[10.01, 10.11, 10.21, 10.31, 10.41, 10.51]);
        assert!(!moves(&a, &c));
    }

    #[test]
    fn few_runs_must_differ_by_more() {
        assert!(!moves(&metric(&[100.0]), &metric(&[105.0])));
        assert!(moves(&metric(&[100.0]), &metric(&[120.0])));
        assert!(!moves(&metric(&[0.0]), &metric(&[0.0])));
    }
}
