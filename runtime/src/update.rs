//! `update`: limits of a running container. Its machine needs more than its guest has.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value, json};

use crate::arguments::VerbArguments;
use crate::config::document;
use crate::handover::Handover;
use crate::options;
use crate::resources;

/// Options for limits that are raised, and where those are in the JSON of resources.
const RAISED: [(&str, &str, &str); 4] = [
    ("memory", "memory", "limit"),
    ("memory-reservation", "memory", "reservation"),
    ("memory-swap", "memory", "swap"),
    ("pids-limit", "pids", "limit"),
];

/// Raises the limits and becomes `runtime`.
pub(crate) fn update(
    runtime: &Path,
    globals: &[OsString],
    rest: &[OsString],
) -> Result<Infallible> {
    let arguments = VerbArguments::of_update(rest)?;
    let id = arguments.id()?;
    let Some(file) = arguments.value("resources") else {
        let raised = raised_options(&arguments)?;
        let others = arguments.written(|name| RAISED.iter().all(|(raised, ..)| *raised != name));
        let mut args: Vec<_> = others.cloned().chain(raised).collect();
        args.push(id.into());
        return Handover::none().exec(runtime, globals, "update", args);
    };
    let mut resources: Value = match file.to_str() {
        Some("-") => serde_json::from_reader(io::stdin().lock()).context("stdin is not JSON")?,
        _ => document::read(file.as_ref())?,
    };
    let fields = resources.as_object_mut();
    resources::update(fields.context("the resources are not a JSON object")?)?;
    let mut handover = Handover::none();
    let mut args = vec!["--resources".into(), handover.add_document(&resources)?];
    args.extend(arguments.written(|name| name != "resources").cloned());
    args.push(id.into());
    handover.exec(runtime, globals, "update", args)
}

/// The options of [`RAISED`], with their new values.
fn raised_options(arguments: &VerbArguments) -> Result<Vec<OsString>> {
    let mut asked = json!({"memory": {}, "pids": {}});
    let mut given = Vec::new();
    for (option, group, field) in RAISED {
        let Some(value) = arguments.value(option) else {
            continue;
        };
        let number = value.to_str().and_then(number);
        let number = number.ok_or_else(|| anyhow!("--{option} {value:?} must be a number"))?;
        asked[group][field] = json!(number);
        given.push((option, group, field));
    }
    let Some(fields): Option<&mut Map<_, _>> = asked.as_object_mut() else {
        bail!("there are no resources");
    };
    resources::update(fields)?;
    let raised = given.into_iter().map(|(option, group, field)| {
        let value = &asked[group][field];
        OsString::from(format!("--{option}={value}"))
    });
    Ok(raised.collect())
}

/// A number, or a size such as `1g`.
fn number(text: &str) -> Option<i64> {
    let number = text.parse().ok();
    number.or_else(|| i64::try_from(options::bytes(text)?).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raised(words: &[&str]) -> Result<Vec<OsString>> {
        let words: Vec<_> = words.iter().map(OsString::from).collect();
        raised_options(&VerbArguments::of_update(&words)?)
    }

    #[test]
    fn limits_given_as_options_are_raised() {
        let options =
            raised(&["--memory", "1g", "--memory-swap=-1", "--pids-limit=5", "id"]).unwrap();
        let memory = (1 << 30) + (128 << 20) + (1 << 30) / 128;
        let expected = [
            format!("--memory={memory}"),
            "--memory-swap=-1".into(),
            "--pids-limit=1029".into(),
        ];
        assert_eq!(options, expected.map(OsString::from));
        assert_eq!(
            raised(&["--cpu-quota", "5", "id"]).unwrap(),
            Vec::<OsString>::new()
        );
        let error = raised(&["--memory", "much", "id"]).unwrap_err().to_string();
        assert_eq!(error, "--memory \"much\" must be a number");
    }
}
