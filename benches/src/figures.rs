//! Figures as they are written to a file, and read again to compare them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::host::Host;
use crate::stats::Summary;

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
    /// "ms", "KiB", or nothing for counts.
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
        let found = self.metrics.iter().find(|m| m.name == metric);
        found.map(|metric| metric.summary)
    }
}
