//! The options of the verbs that we rewrite.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use anyhow::{Result, anyhow, bail};

/// An option of runc or crun.
struct Known {
    long: &'static str,
    short: Option<u8>,
    with_value: bool,
}

const fn flag(long: &'static str, short: Option<u8>) -> Known {
    Known {
        long,
        short,
        with_value: false,
    }
}

const fn value(long: &'static str, short: Option<u8>) -> Known {
    Known {
        long,
        short,
        with_value: true,
    }
}

const OF_CREATE: &[Known] = &[
    value("bundle", Some(b'b')),
    value("config", Some(b'f')),
    value("console-socket", None),
    value("pid-file", None),
    value("pidfd-socket", None),
    value("preserve-fds", None),
    flag("detach", Some(b'd')),
    flag("keep", None),
    flag("no-new-keyring", None),
    flag("no-pivot", None),
    flag("no-subreaper", None),
];

const OF_EXEC: &[Known] = &[
    value("additional-gids", Some(b'g')),
    value("apparmor", None),
    value("cap", Some(b'c')),
    value("cgroup", None),
    value("console-socket", None),
    value("cwd", None),
    value("env", Some(b'e')),
    value("pid-file", None),
    value("pidfd-socket", None),
    value("preserve-fds", None),
    value("process", Some(b'p')),
    value("process-label", None),
    value("user", Some(b'u')),
    flag("detach", Some(b'd')),
    flag("ignore-paused", None),
    flag("no-new-privs", None),
    flag("tty", Some(b't')),
];

const OF_UPDATE: &[Known] = &[
    value("blkio-weight", None),
    value("cpu-burst", None),
    value("cpu-idle", None),
    value("cpu-period", None),
    value("cpu-quota", None),
    value("cpu-rt-period", None),
    value("cpu-rt-runtime", None),
    value("cpu-share", None),
    value("cpuset-cpus", None),
    value("cpuset-mems", None),
    value("kernel-memory", None),
    value("kernel-memory-tcp", None),
    value("l3-cache-schema", None),
    value("mem-bw-schema", None),
    value("memory", None),
    value("memory-reservation", None),
    value("memory-swap", None),
    value("pids-limit", None),
    value("resources", Some(b'r')),
];

/// What stands behind a verb.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct VerbArguments {
    /// Options by their long names, in their order, each as it was written.
    options: Vec<Given>,
    /// The container's name first.
    pub(crate) positional: Vec<OsString>,
}

#[derive(Debug, PartialEq, Eq)]
struct Given {
    name: &'static str,
    value: Option<OsString>,
    written: Vec<OsString>,
}

impl VerbArguments {
    /// Arguments of `create` and `run`.
    pub(crate) fn of_create(args: &[OsString]) -> Result<Self> {
        Self::parse(args, OF_CREATE, false)
    }

    /// Arguments of `exec`: behind the container's name is a command with options of its own.
    pub(crate) fn of_exec(args: &[OsString]) -> Result<Self> {
        Self::parse(args, OF_EXEC, true)
    }

    /// Arguments of `update`.
    pub(crate) fn of_update(args: &[OsString]) -> Result<Self> {
        Self::parse(args, OF_UPDATE, false)
    }

    fn parse(args: &[OsString], known: &[Known], command: bool) -> Result<Self> {
        let mut this = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if arg == "--" {
                this.positional.extend(args.cloned());
                break;
            }
            match take_option(arg, &mut args, known)? {
                Some(given) => this.options.extend(given),
                None => {
                    this.positional.push(arg.clone());
                    if command {
                        this.positional.extend(args.cloned());
                        break;
                    }
                }
            }
        }
        Ok(this)
    }

    /// The value of an option, the last one if it was given repeatedly.
    pub(crate) fn value(&self, name: &str) -> Option<&OsStr> {
        self.values(name).last()
    }

    /// All values of an option.
    pub(crate) fn values(&self, name: &str) -> impl Iterator<Item = &OsStr> {
        let given = self.options.iter().filter(move |given| given.name == name);
        given.filter_map(|given| given.value.as_deref())
    }

    /// An option without a value was given.
    pub(crate) fn flag(&self, name: &str) -> bool {
        let given = self.options.iter().rfind(|given| given.name == name);
        given.is_some_and(|given| given.value.as_deref() != Some(OsStr::new("false")))
    }

    /// The container's name.
    pub(crate) fn id(&self) -> Result<&str> {
        let id = self.positional.first();
        let id = id.ok_or_else(|| anyhow!("the container's name is missing"))?;
        id.to_str()
            .ok_or_else(|| anyhow!("the container's name {id:?} is not text"))
    }

    /// The options whose names pass, as they were written.
    pub(crate) fn written(&self, keep: impl Fn(&str) -> bool) -> impl Iterator<Item = &OsString> {
        let given = self.options.iter().filter(move |given| keep(given.name));
        given.flat_map(|given| &given.written)
    }
}

/// Reads the option that `arg` begins, with its value from `rest` if it takes one; `None` if it
/// is no option. Several short ones may stand behind one dash.
fn take_option<'a>(
    arg: &OsString,
    rest: &mut impl Iterator<Item = &'a OsString>,
    known: &[Known],
) -> Result<Option<Vec<Given>>> {
    let bytes = arg.as_bytes();
    let Some(text) = bytes.strip_prefix(b"--").or(bytes.strip_prefix(b"-")) else {
        return Ok(None);
    };
    if text.is_empty() {
        return Ok(None);
    }
    let (name, attached) = match text.iter().position(|&b| b == b'=') {
        Some(at) => (&text[..at], Some(OsStr::from_bytes(&text[at + 1..]))),
        None => (text, None),
    };
    let is_named = |option: &&Known| {
        name == option.long.as_bytes() || name.len() == 1 && option.short == Some(name[0])
    };
    let Some(option) = known.iter().find(is_named) else {
        return take_cluster(arg, text, rest, known).map(Some);
    };
    let mut written = vec![arg.clone()];
    let value = match attached {
        Some(value) => Some(value.to_owned()),
        None if option.with_value => {
            let value = rest.next();
            let value = value.ok_or_else(|| anyhow!("option --{} needs a value", option.long))?;
            written.push(value.clone());
            Some(value.clone())
        }
        None => None,
    };
    Ok(Some(vec![Given {
        name: option.long,
        value,
        written,
    }]))
}

/// Reads options such as `-td` and `-bDIR`, as crun takes them.
fn take_cluster<'a>(
    arg: &OsString,
    mut text: &[u8],
    rest: &mut impl Iterator<Item = &'a OsString>,
    known: &[Known],
) -> Result<Vec<Given>> {
    let mut cluster = Vec::new();
    while let Some((&letter, behind)) = text.split_first() {
        let option = known.iter().find(|option| option.short == Some(letter));
        let Some(option) = option.filter(|_| !arg.as_bytes().starts_with(b"--")) else {
            bail!("option {arg:?} is not known");
        };
        let dashed = format!("--{}", option.long);
        let value = match (option.with_value, behind.is_empty()) {
            (false, _) => None,
            (true, false) => Some(OsStr::from_bytes(behind).to_owned()),
            (true, true) => Some(
                rest.next()
                    .cloned()
                    .ok_or_else(|| anyhow!("option {dashed} needs a value"))?,
            ),
        };
        let mut written = vec![OsString::from(dashed)];
        written.extend(value.clone());
        cluster.push(Given {
            name: option.long,
            value,
            written,
        });
        text = if option.with_value { &[] } else { behind };
    }
    Ok(cluster)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    fn all(parsed: &VerbArguments) -> Vec<&str> {
        let written = parsed.written(|_| true);
        written.map(|word| word.to_str().unwrap()).collect()
    }

    #[test]
    fn dockers_create_is_understood() {
        let words = ["--bundle", "/b", "--pid-file=/p", "--no-pivot", "id"];
        let parsed = VerbArguments::of_create(&args(&words)).unwrap();
        assert_eq!(parsed.value("bundle"), Some(OsStr::new("/b")));
        assert_eq!(parsed.value("pid-file"), Some(OsStr::new("/p")));
        assert!(parsed.flag("no-pivot") && !parsed.flag("keep"));
        assert_eq!(parsed.id().unwrap(), "id");
        assert_eq!(all(&parsed), words[..4]);
        let kept: Vec<_> = parsed.written(|name| name == "bundle").collect();
        assert_eq!(kept, ["--bundle", "/b"]);
    }

    #[test]
    fn options_may_follow_the_name_but_not_a_command() {
        let parsed = VerbArguments::of_create(&args(&["id", "-b", "/b"])).unwrap();
        assert_eq!(parsed.value("bundle"), Some(OsStr::new("/b")));
        let words = ["-t", "--env", "A=1", "-e=B=2", "id", "ls", "-u", "--cwd"];
        let parsed = VerbArguments::of_exec(&args(&words)).unwrap();
        assert!(parsed.flag("tty"));
        assert_eq!(parsed.values("env").collect::<Vec<_>>(), ["A=1", "B=2"]);
        assert_eq!(parsed.positional, ["id", "ls", "-u", "--cwd"]);
    }

    #[test]
    fn single_dashes_and_clusters_are_understood() {
        let words = ["-tty=false", "-td", "-u1:2", "-g", "3", "--", "-id", "x"];
        let parsed = VerbArguments::of_exec(&args(&words)).unwrap();
        assert!(parsed.flag("tty") && parsed.flag("detach"));
        assert_eq!(parsed.value("user"), Some(OsStr::new("1:2")));
        assert_eq!(parsed.positional, ["-id", "x"]);
        let written = [
            "-tty=false",
            "--tty",
            "--detach",
            "--user",
            "1:2",
            "-g",
            "3",
        ];
        assert_eq!(all(&parsed), written);
    }

    #[test]
    fn a_flag_can_be_taken_back() {
        let parsed = VerbArguments::of_exec(&args(&["-t", "--tty=false", "id"])).unwrap();
        assert!(!parsed.flag("tty"));
    }

    #[test]
    fn mistakes_are_named() {
        let error = |words: &[&str]| {
            let parsed = VerbArguments::of_exec(&args(words));
            parsed
                .and_then(|p| p.id().map(str::to_owned))
                .unwrap_err()
                .to_string()
        };
        assert_eq!(error(&["--cwd"]), "option --cwd needs a value");
        assert_eq!(error(&["-tu"]), "option --user needs a value");
        assert_eq!(
            error(&["--nonsense", "id"]),
            "option \"--nonsense\" is not known"
        );
        assert_eq!(error(&["-t"]), "the container's name is missing");
    }
}
