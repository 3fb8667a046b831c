//! The part of runc's command line that tells which verb is asked for.

use std::ffi::{OsStr, OsString};

use anyhow::{Result, bail};

/// Global options of runc and crun that take a value as the next argument.
const WITH_VALUE: [&str; 6] = [
    "--log",
    "--log-format",
    "--root",
    "--criu",
    "--rootless",
    "--cgroup-manager",
];

/// What a caller asks of the runtime.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Invocation<'a> {
    /// `--version`, `-v`.
    Version,
    /// `--help`, `-h`, or nothing at all.
    Help,
    /// A verb, and what follows it.
    Verb(&'a OsStr, &'a [OsString]),
}

impl<'a> Invocation<'a> {
    /// Finds the verb behind any global options.
    pub(crate) fn parse(args: &'a [OsString]) -> Result<Self> {
        let mut index = 0;
        while let Some(arg) = args.get(index) {
            match arg.to_str() {
                Some("--version" | "-v") => return Ok(Self::Version),
                Some("--help" | "-h") => return Ok(Self::Help),
                Some(option) if WITH_VALUE.contains(&option) => {
                    if index + 1 == args.len() {
                        bail!("option {option} needs a value");
                    }
                    index += 2;
                }
                Some(option) if option.starts_with('-') => index += 1,
                _ => return Ok(Self::Verb(arg, &args[index + 1..])),
            }
        }
        Ok(Self::Help)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn the_verb_is_found_behind_global_options() {
        let table: [(&[&str], &str, usize); 6] = [
            (&["create", "--bundle", "/b", "id"], "create", 3),
            (&["--root", "/run/x", "state", "id"], "state", 1),
            (&["--root=/run/x", "--debug", "kill", "id", "9"], "kill", 2),
            (
                &["--log", "create", "--log-format", "json", "start", "i"],
                "start",
                1,
            ),
            (
                &["--systemd-cgroup", "--criu", "exec", "delete", "i"],
                "delete",
                1,
            ),
            (&["features"], "features", 0),
        ];
        for (words, verb, rest) in table {
            let words = args(words);
            match Invocation::parse(&words).unwrap() {
                Invocation::Verb(found, after) => {
                    assert_eq!((found.to_str(), after.len()), (Some(verb), rest));
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
}
