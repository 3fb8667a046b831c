//! `exec`: a further process runs in the container's machine.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::arguments::VerbArguments;
use crate::config::{self, document, process};
use crate::container::ExecSpec;
use crate::create::refuse_files;
use crate::debug;
use crate::delegate;
use crate::handover::Handover;
use crate::options;

/// The first argument by which users say that the rest runs beside the machine.
const BESIDE: &str = "---";

/// Options that remain for the runtime once the process is made of the others.
const OF_RUNTIME: [&str; 6] = [
    "cgroup",
    "console-socket",
    "detach",
    "ignore-paused",
    "pid-file",
    "pidfd-socket",
];

/// Rewrites the process and becomes `runtime`.
pub(crate) fn exec(runtime: &Path, globals: &[OsString], rest: &[OsString]) -> Result<Infallible> {
    let arguments = VerbArguments::of_exec(rest)?;
    let id = arguments.id()?;
    refuse_files(&arguments)?;
    let original = match arguments.value("process") {
        Some(file) => document::read(file.as_ref())?,
        None => from_arguments(&arguments, &bundle_process(runtime, globals, id)?)?,
    };
    let mut asked = process::read(Some(&original))?;
    let mut rewritten = original.clone();
    let fields = rewritten
        .as_object_mut()
        .context("process is not a JSON object")?;
    let args = asked.args().clone().unwrap_or_default();
    match args.split_first() {
        Some((first, [])) if first == BESIDE => {
            bail!("a command must follow {BESIDE}, to be run beside the machine")
        }
        Some((first, args)) if first == BESIDE => process::run_beside(fields, args),
        _ => process::replace_further(fields, config::capabilities()),
    }
    let env = asked.env().clone().unwrap_or_default();
    let wants_debug = env.iter().any(|entry| entry == "RUNCVM_RUNTIME_DEBUG=1");
    let env = env.into_iter().filter(|entry| !options::is_ours(entry));
    asked.set_env(Some(env.collect()));
    let message = ExecSpec { process: asked };
    if wants_debug {
        debug::write(
            &[("original", &original), ("rewritten", &rewritten)],
            &message,
        );
    }
    let mut handover = Handover::new(&message)?;
    let mut args = vec!["--process".into(), handover.add_document(&rewritten)?];
    args.extend(
        arguments
            .written(|name| OF_RUNTIME.contains(&name))
            .cloned(),
    );
    args.push(id.into());
    handover.exec(runtime, globals, "exec", args)
}

/// The process that the container was made for.
fn bundle_process(runtime: &Path, globals: &[OsString], id: &str) -> Result<Value> {
    let state = delegate::state(runtime, globals, id)?;
    let bundle = state.get("bundle").and_then(Value::as_str);
    let bundle = bundle.ok_or_else(|| anyhow!("the container {id:?} has no bundle"))?;
    let config = document::read(&Path::new(bundle).join("config.json"))?;
    let mut config = config::original(config);
    let process = config.get_mut("process").map(Value::take);
    process.context("the container was made without a process")
}

/// A process as the options of `exec` describe it, beginning with the container's own.
fn from_arguments(arguments: &VerbArguments, own: &Value) -> Result<Value> {
    let text = |value: &OsStr| {
        let text = value.to_str().map(str::to_owned);
        text.ok_or_else(|| anyhow!("{value:?} is not text"))
    };
    let args = arguments.positional.iter().skip(1).map(|arg| text(arg));
    let args = args.collect::<Result<Vec<_>>>()?;
    if args.is_empty() {
        bail!("a command is missing, or --process with a file that describes one");
    }
    let mut process = own.clone();
    if !process.is_object() {
        bail!("the container's own process is not a JSON object");
    }
    process["args"] = json!(args);
    process["terminal"] = json!(arguments.flag("tty"));
    if let Some(cwd) = arguments.value("cwd") {
        process["cwd"] = json!(text(cwd)?);
    }
    let list = |field: Option<&Value>| field.and_then(Value::as_array).cloned();
    let mut env = list(own.get("env")).unwrap_or_default();
    for entry in arguments.values("env") {
        env.push(json!(text(entry)?));
    }
    process["env"] = json!(env);
    let mut user = own
        .get("user")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    if let Some(asked) = arguments.value("user") {
        let (uid, gid) = user_ids(&text(asked)?)?;
        user.insert("uid".into(), json!(uid));
        user.extend(gid.map(|gid| ("gid".into(), json!(gid))));
    }
    let mut groups = list(user.get("additionalGids")).unwrap_or_default();
    for group in arguments.values("additional-gids") {
        let group = text(group)?;
        let number = group.parse::<u32>();
        groups.push(json!(
            number.map_err(|_| anyhow!("{group:?} is not the number of a group"))?
        ));
    }
    if !groups.is_empty() {
        user.insert("additionalGids".into(), json!(groups));
    }
    process["user"] = Value::Object(user);
    if arguments.flag("no-new-privs") {
        process["noNewPrivileges"] = json!(true);
    }
    Ok(process)
}

/// `UID[:GID]`.
fn user_ids(user: &str) -> Result<(u32, Option<u32>)> {
    let number = |text: &str| {
        let number = text.parse::<u32>();
        number.map_err(|_| anyhow!("the user {user:?} must be UID or UID:GID, in numbers"))
    };
    match user.split_once(':') {
        Some((uid, gid)) => Ok((number(uid)?, Some(number(gid)?))),
        None => Ok((number(user)?, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(words: &[&str]) -> Result<Value> {
        let words: Vec<_> = words.iter().map(OsString::from).collect();
        let own = json!({
            "terminal": true, "user": {"uid": 7, "gid": 8}, "args": ["sleep", "9"],
            "env": ["PATH=/bin"], "cwd": "/srv", "unknown": 1
        });
        from_arguments(&VerbArguments::of_exec(&words)?, &own)
    }

    #[test]
    fn a_process_begins_with_the_containers() {
        let process = made(&["id", "ls", "-l"]).unwrap();
        let expected = json!({
            "terminal": false, "user": {"uid": 7, "gid": 8}, "args": ["ls", "-l"],
            "env": ["PATH=/bin"], "cwd": "/srv", "unknown": 1
        });
        assert_eq!(process, expected);
    }

    #[test]
    fn options_change_it() {
        let words = [
            "-t",
            "-u",
            "1",
            "--cwd",
            "/",
            "-e",
            "A=1",
            "-e",
            "B=",
            "-g",
            "3",
            "-g",
            "4",
            "--no-new-privs",
            "id",
            "ls",
        ];
        let expected = json!({
            "terminal": true, "user": {"uid": 1, "gid": 8, "additionalGids": [3, 4]},
            "args": ["ls"], "env": ["PATH=/bin", "A=1", "B="], "cwd": "/",
            "noNewPrivileges": true, "unknown": 1
        });
        assert_eq!(made(&words).unwrap(), expected);
    }

    #[test]
    fn users_are_numbers() {
        assert_eq!(user_ids("1:2").unwrap(), (1, Some(2)));
        assert_eq!(user_ids("0").unwrap(), (0, None));
        for bad in ["", ":", "1:", "-1", "a:1", "1:2:3", "4294967296"] {
            assert!(user_ids(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let error = |words: &[&str]| made(words).unwrap_err().to_string();
        assert!(error(&["id"]).contains("a command is missing"));
        assert!(error(&["-u", "root", "id", "ls"]).contains("\"root\" must be UID"));
        assert!(error(&["-g", "x", "id", "ls"]).contains("\"x\" is not the number"));
    }
}
