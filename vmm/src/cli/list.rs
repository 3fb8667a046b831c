//! `runcvm-vmm list`.

use std::fmt::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use crate::control::{State, Status};
use crate::launch::client;
use crate::launch::spec::MIB;

/// Show the running machines
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  runcvm-vmm list
  runcvm-vmm list --json | jq -r '.[].name'")]
pub(super) struct ListArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
}

impl ListArgs {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let machines = client::list()?;
        let text = if self.json {
            json(&machines)?
        } else {
            table(&machines)
        };
        super::print(&text).context("The list cannot be written")?;
        Ok(ExitCode::SUCCESS)
    }
}

fn table(machines: &[(String, Option<Status>)]) -> String {
    let width = machines.iter().map(|(name, _)| name.len()).max();
    let width = width.unwrap_or(0).max("NAME".len());
    let mut text = format!("{:<width$}  STATE        PID  CPUS  MEMORY\n", "NAME");
    for (name, status) in machines {
        // Writing to a string cannot fail.
        let _ = match status {
            Some(s) => writeln!(
                text,
                "{name:<width$}  {:<8}{:>8}{:>6}{:>7}M",
                state(s.state),
                s.pid,
                s.cpus,
                s.memory / MIB
            ),
            None => writeln!(text, "{name:<width$}  no answer"),
        };
    }
    text
}

fn state(state: State) -> &'static str {
    match state {
        State::Starting => "starting",
        State::Running => "running",
        State::Paused => "paused",
    }
}

fn json(machines: &[(String, Option<Status>)]) -> Result<String> {
    let values: Vec<_> = machines
        .iter()
        .map(|(name, status)| match status {
            Some(status) => serde_json::to_value(status),
            None => Ok(serde_json::json!({ "name": name })),
        })
        .collect::<Result<_, _>>()?;
    Ok(serde_json::to_string_pretty(&values)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machines() -> Vec<(String, Option<Status>)> {
        let status = Status {
            name: "a-long-name".into(),
            state: State::Running,
            cpus: 2,
            memory: 512 * MIB,
            pid: 4711,
            exits: Default::default(),
            overhead: 0,
        };
        vec![("a-long-name".into(), Some(status)), ("b".into(), None)]
    }

    #[test]
    fn the_table_has_a_line_for_each_machine() {
        let table = table(&machines());
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 3);
        let fields: Vec<_> = lines[1].split_whitespace().collect();
        assert_eq!(fields, ["a-long-name", "running", "4711", "2", "512M"]);
        assert!(lines[2].starts_with("b ") && lines[2].ends_with("no answer"));
    }

    #[test]
    fn json_names_machines_that_do_not_answer_too() {
        let value: serde_json::Value = serde_json::from_str(&json(&machines()).unwrap()).unwrap();
        assert_eq!(value[0]["pid"], 4711);
        assert_eq!(value[1]["name"], "b");
        assert_eq!(json(&[]).unwrap(), "[]\n");
    }
}
