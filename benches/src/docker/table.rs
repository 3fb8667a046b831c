//! The figures as a table: one row a phase, three columns a runtime.

use std::fmt;

use super::{Found, PHASES, Report};

const NAME: usize = 20;
const COLUMN: usize = 9;
const SPREAD: usize = 13;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let caches = if self.cold { "cold" } else { "warm" };
        writeln!(f, "{}, docker {}", self.host, self.docker)?;
        writeln!(
            f,
            "docker run --rm {} {}, {} at once, {caches}; milliseconds",
            self.image,
            self.command.join(" "),
            self.at_once
        )?;
        write!(f, "{:NAME$}", "")?;
        for found in &self.runtimes {
            write!(
                f,
                "  {:^width$}",
                found.title(),
                width = 2 * COLUMN + SPREAD
            )?;
        }
        write!(f, "\n{:NAME$}", "median")?;
        for _ in &self.runtimes {
            write!(
                f,
                "  {:>COLUMN$}{:>COLUMN$}{:>SPREAD$}",
                "at", "took", "spread"
            )?;
        }
        writeln!(f)?;
        let mut last = vec![0.0; self.runtimes.len()];
        for phase in PHASES {
            write!(f, "{phase:NAME$}")?;
            for (found, last) in self.runtimes.iter().zip(&mut last) {
                match found.series.summary(phase) {
                    None => write!(f, "  {:>COLUMN$}{:>COLUMN$}{:>SPREAD$}", "", "", "")?,
                    Some(summary) => {
                        let spread = format!("{:.0}-{:.0}", summary.min, summary.max);
                        write!(
                            f,
                            "  {:>COLUMN$.1}{:>COLUMN$.1}{spread:>SPREAD$}",
                            summary.median,
                            summary.median - *last
                        )?;
                        *last = summary.median;
                    }
                }
            }
            writeln!(f)?;
        }
        writeln!(
            f,
            "\nan idle container's memory that no other process has, in MiB"
        )?;
        for found in &self.runtimes {
            found.write_memory(f)?;
        }
        Ok(())
    }
}

impl Found {
    fn title(&self) -> String {
        format!("{} ({} runs)", self.series.name, self.runs)
    }

    fn write_memory(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let idle = &self.idle;
        let processes: Vec<_> = idle
            .processes
            .iter()
            .map(|p| format!("{} {:.1}", p.name, mib(p.private.own)))
            .collect();
        write!(
            f,
            "{:NAME$}  {:.1} ({}), and the shim's {:.1}",
            self.series.name,
            mib(idle.own()),
            processes.join(", "),
            mib(idle.shim)
        )?;
        if idle.guest() > 0 {
            write!(f, ", and {:.0} of the guest's", mib(idle.guest()))?;
        }
        writeln!(f)
    }
}

fn mib(bytes: u64) -> f64 {
    let kib = u32::try_from(bytes / 1024).unwrap_or(u32::MAX);
    f64::from(kib) / 1024.0
}
