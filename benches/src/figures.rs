//! Figures as they are written to a file, and read again to compare them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::host::Host;
use crate::stats::Summary;

/// The unit of multiples.
pub(crate) const TIMES: &str = "x";

/// What one run of a benchmark found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Its verb.
    pub(crate) benchmark: String,
    pub(crate) host: Host,
    /// What it was asked to do.
    pub(crate) settings: Value,
    pub(crate) series: Vec<Series>,
}

/// What was found of one of those that were compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) metrics: Vec<Metric>,
}

/// One thing that was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Metric {
    pub(crate) name: String,
    /// "ms", "KiB", [`TIMES`], or nothing for counts.
    pub(crate) unit: String,
    pub(crate) summary: Summary,
    /// Of every run, in their order.
    pub(crate) values: Vec<f64>,
}

impl Figures {
    /// Writes them to `path`, if there is one.
    pub(crate) fn write(&self, path: Option<&Path>) -> Result<()> {
        let Some(path) = path else {
            return Ok(());
        };
        fs::write(path, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("{} could not be written", path.display()))
    }

    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("{} has no figures of runcvm-bench", path.display()))
    }
}

/// Adds to each series but the first its `metric` as a multiple of the first's in the same
/// round: what holds both of them up in a round falls out of it.
pub(crate) fn relate(series: &mut [Series], metric: &str) {
    let Some((first, others)) = series.split_first_mut() else {
        return;
    };
    let Some(base) = first.metric(metric) else {
        return;
    };
    for other in others {
        let Some(values) = other.metric(metric).map(|m| &m.values) else {
            continue;
        };
        let pairs = values.iter().zip(&base.values);
        let ratios = pairs.filter(|(_, base)| **base > 0.0).map(|(v, b)| v / b);
        let ratios = ratios.collect();
        other.add(ratio(metric, &first.name), TIMES, ratios);
    }
}

/// The name of the metric that [`relate`] makes of `metric`, in relation to the series `first`.
pub(crate) fn ratio(metric: &str, first: &str) -> String {
    format!("{metric} / {first}")
}

impl Series {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            metrics: Vec::new(),
        }
    }

    /// Adds a metric, if there is anything of it.
    pub(crate) fn add(&mut self, name: impl Into<String>, unit: &str, values: Vec<f64>) {
        if let Some(summary) = Summary::of(&values) {
            self.metrics.push(Metric {
                name: name.into(),
                unit: unit.to_owned(),
                summary,
                values,
            });
        }
    }

    pub(crate) fn summary(&self, metric: &str) -> Option<Summary> {
        self.metric(metric).map(|metric| metric.summary)
    }

    fn metric(&self, name: &str) -> Option<&Metric> {
        self.metrics.iter().find(|metric| metric.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiples_are_of_the_same_round() {
        let mut series: Vec<_> = [vec![10.0, 100.0, 0.0], vec![20.0, 300.0, 5.0]]
            .into_iter()
            .zip(["a", "b"])
            .map(|(values, name)| {
                let mut series = Series::new(name);
                series.add("time", "ms", values);
                series
            })
            .collect();
        relate(&mut series, "time");
        relate(&mut series, "none");
        assert_eq!(series[0].metrics.len(), 1);
        let found = series[1].metric(&ratio("time", "a")).unwrap();
        assert_eq!(
            (found.unit.as_str(), &found.values[..]),
            ("x", &[2.0, 3.0][..])
        );
        relate(&mut [], "time");
    }
}
