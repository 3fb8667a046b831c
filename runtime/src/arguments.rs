//! The command lines of runc and crun: which verb is asked for, and its options.

mod verb;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

pub(crate) use verb::VerbArguments;

/// Global options of runc and crun that take a value as the next argument.
const WITH_VALUE: [&str; 6] = [
    "log",
    "log-format",
    "root",
    "criu",
    "rootless",
    "cgroup-manager",
];

/// What a caller asks of the runtime.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Invocation<'a> {
    /// `--version`, `-v`.
    Version,
    /// `--help`, `-h`, or nothing at all.
    Help,
    /// A verb, behind the global options and before all else.
    Verb {
        globals: &'a [OsString],
        verb: &'a OsStr,
        rest: &'a [OsString],
    },
}

impl<'a> Invocation<'a> {
    /// Finds the verb behind any global options.
    pub(crate) fn parse(args: &'a [OsString]) -> Result<Self> {
        let mut index = 0;
        while let Some(arg) = args.get(index) {
            let Some(option) = arg.to_str().and_then(name) else {
                return Ok(Self::Verb {
                    globals: &args[..index],
                    verb: arg,
                    rest: &args[index + 1..],
                });
            };
            match option {
                "version" | "v" => return Ok(Self::Version),
                "help" | "h" => return Ok(Self::Help),
                option if WITH_VALUE.contains(&option) => {
                    if index + 1 == args.len() {
                        bail!("option --{option} needs a value");
                    }
                    index += 2;
                }
                _ => index += 1,
            }
        }
        Ok(Self::Help)
    }
}

/// What stands behind the one or two dashes of an option.
fn name(arg: &str) -> Option<&str> {
    arg.strip_prefix("--")
        .or_else(|| arg.strip_prefix('-'))
        .filter(|name| !name.is_empty())
}

/// Where a runtime is asked to write its errors besides stderr.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Log {
    pub(crate) file: Option<PathBuf>,
    /// A JSON object a line, not `key=value` pairs.
    pub(crate) json: bool,
}

impl Log {
    /// Reads `--log` and `--log-format`, wherever they stand before the verb.
    pub(crate) fn of(args: &[OsString]) -> Self {
        let mut log = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let Some(option) = arg.to_str().and_then(name) else {
                break;
            };
            let (option, value) = match option.split_once('=') {
                Some((option, value)) => (option, Some(OsString::from(value))),
                None if WITH_VALUE.contains(&option) => (option, args.next().cloned()),
                None => continue,
            };
            match (option, value) {
                ("log", Some(value)) => log.file = log_file(&value),
                ("log-format", Some(value)) => log.json = value == "json",
                _ => {}
            }
        }
        log
    }
}

/// The file that `--log` names. crun writes to other things than files, too.
fn log_file(value: &OsStr) -> Option<PathBuf> {
    match value.to_str() {
        Some("") => None,
        Some(text) if text.starts_with("journald:") || text.starts_with("syslog:") => None,
        Some(text) => Some(text.strip_prefix("file:").unwrap_or(text).into()),
        None => Some(Path::new(value).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn args(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn the_verb_is_found_behind_global_options() {
        let table: [(&[&str], usize, &str, usize); 7] = [
            (&["create", "--bundle", "/b", "id"], 0, "create", 3),
            (&["--root", "/run/x", "state", "id"], 2, "state", 1),
            (&["-root", "/run/x", "state", "id"], 2, "state", 1),
            (
                &["--root=/run/x", "--debug", "kill", "id", "9"],
                2,
                "kill",
                2,
            ),
            (
                &["--log", "create", "--log-format", "json", "start", "i"],
                4,
                "start",
                1,
            ),
            (
                &["--systemd-cgroup", "--criu", "exec", "delete", "i"],
                3,
                "delete",
                1,
            ),
            (&["features"], 0, "features", 0),
        ];
        for (words, before, expected, after) in table {
            let words = args(words);
            match Invocation::parse(&words).unwrap() {
                Invocation::Verb {
                    globals,
                    verb,
                    rest,
                } => {
                    assert_eq!(verb, expected);
                    assert_eq!((globals.len(), rest.len()), (before, after));
                }
                other => panic!("{words:?} gave {other:?}"),
            }
        }
    }

    #[test]
    fn version_and_help_are_no_verbs() {
        for (words, expected) in [
            (&["--version"][..], Invocation::Version),
            (&["--root", "x", "-v"], Invocation::Version),
            (&["-h"], Invocation::Help),
            (&[], Invocation::Help),
        ] {
            assert_eq!(Invocation::parse(&args(words)).unwrap(), expected);
        }
    }

    #[test]
    fn an_option_without_its_value_is_named() {
        let words = args(&["--root"]);
        let error = Invocation::parse(&words).unwrap_err();
        assert_eq!(error.to_string(), "option --root needs a value");
    }

    #[test]
    fn the_log_is_found() {
        let log = |words: &[&str]| Log::of(&args(words));
        let docker = log(&[
            "--root",
            "/r",
            "--log",
            "/l",
            "--log-format",
            "json",
            "create",
        ]);
        assert_eq!(
            docker,
            Log {
                file: Some("/l".into()),
                json: true
            }
        );
        assert_eq!(
            log(&["--log=file:/l", "--log-format=text"]).file,
            Some("/l".into())
        );
        assert_eq!(log(&["--log", "journald:x", "create"]), Log::default());
        assert_eq!(log(&["create", "--log", "/l"]), Log::default());
    }
}
