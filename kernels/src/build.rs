//! runcvm's own kernel, compiled from Debian's source with [`FRAGMENT`] for its configuration.

use std::collections::VecDeque;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{self, Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use thiserror::Error;

use crate::add::{AddError, Added, add, is_current};
use crate::digest;
use crate::import::apt::{self, AptError};
use crate::import::{ImportError, files};
use crate::manifest::Source;
use crate::name::BundleName;
use crate::store::Store;

/// Our configuration: one option a line, with a remark behind it. All others are off.
pub const FRAGMENT: &str = include_str!("../config/runcvm.config");

/// What bundles of ours are called.
pub const DISTRIBUTION: &str = "runcvm";

/// The series of kernels that the fragment is for.
const SERIES: &str = "6.12";

/// Debian packages with what compiles a kernel.
const TOOLS: [&str; 10] = [
    "bc",
    "bison",
    "flex",
    "gcc",
    "kmod",
    "libc6-dev",
    "libelf-dev",
    "make",
    "tar",
    "xz-utils",
];

/// About as many files are compiled: it is for the progress only.
const FILES: u32 = 2750;

/// As many lines of the compiler's are shown if it fails.
const LAST_LINES: usize = 12;

/// What may be chosen.
#[derive(Debug, Default)]
pub struct Options {
    /// Further lines for the configuration, which win over ours.
    pub config: Option<PathBuf>,
    /// Where to build, kept afterwards, which makes another build quick; else a temporary
    /// directory.
    pub dir: Option<PathBuf>,
    /// How many compilers run at once; else one for each CPU.
    pub jobs: Option<u16>,
}

/// Why there is no kernel.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The source or the tools could not be had.
    #[error(transparent)]
    Apt(#[from] AptError),
    /// What was built is of no use.
    #[error(transparent)]
    Add(#[from] AddError),
    /// A file could not be read or written.
    #[error("cannot use {}", .0.display())]
    Io(PathBuf, #[source] io::Error),
    /// A program could not be started.
    #[error("cannot run {0}")]
    Run(&'static str, #[source] io::Error),
    /// A program failed.
    #[error("{program} failed; its last words:\n{last}")]
    Failed { program: &'static str, last: String },
    /// The kernel has no such options, or not under these conditions.
    #[error("this kernel does not take these lines of its configuration: {}", .0.join(", "))]
    NotTaken(Vec<String>),
}

/// A step of the work, for whoever waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// It begins.
    Step(&'a str),
    /// Compiling: percent, and the directory that it is in.
    Compiled(u32, &'a str),
}

/// Builds the kernel and adds it to the store as `runcvm/VERSION`. `scratch` is a directory
/// for temporary ones of some gigabytes. Nothing is compiled if the very same is there already.
pub fn build(
    store: &Store,
    scratch: &Path,
    options: &Options,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Added, BuildError> {
    let more = options
        .config
        .as_deref()
        .map(|path| fs::read_to_string(path).map_err(|e| BuildError::Io(path.into(), e)));
    let config = merge(FRAGMENT, &more.transpose()?.unwrap_or_default());
    let package = apt::find_source(SERIES)?;
    let source = vec![
        Source {
            name: package.package.clone(),
            version: Some(package.version.clone()),
            sha256: package.sha256.clone(),
        },
        Source {
            name: "runcvm.config".into(),
            version: None,
            sha256: digest::of_bytes(config.as_bytes()),
        },
    ];
    let name = BundleName::new(DISTRIBUTION, &package.release).map_err(AddError::from)?;
    if let Ok(installed) = store.load(&name)
        && is_current(&installed)
        && installed.manifest.source == source
        && store.verify(&installed).is_ok()
    {
        return Ok(Added::Unchanged(name));
    }
    let mut say = |step: &str| progress(Progress::Step(step));
    apt::install(&TOOLS, &mut say)?;

    let temporary;
    let dir = match &options.dir {
        // make runs elsewhere.
        Some(dir) => &path::absolute(dir).map_err(|e| BuildError::Io(dir.clone(), e))?,
        None => {
            make_dir(scratch)?;
            let made = tempfile::Builder::new()
                .prefix("kernel-")
                .tempdir_in(scratch);
            temporary = made.map_err(|e| BuildError::Io(scratch.into(), e))?;
            temporary.path()
        }
    };
    let tree = Tree {
        path: dir.join(format!("{}-{}", package.package, package.version)),
        jobs: options.jobs,
    };
    if !tree.path.exists() {
        let megabytes = package.size.div_ceil(1_000_000);
        say(&format!("Downloading {} ({megabytes} MB)", package.package));
        let (_dir, deb) = apt::download(&package)?;
        say("Unpacking");
        unpack(&deb, &package.package, &tree.path)?;
    }
    say("Configuring");
    tree.configure(&config)?;
    tree.compile(progress)?;
    progress(Progress::Step("Installing modules"));
    let modules = tree.install_modules()?;
    let unpack = |import: &mut crate::import::Import| -> Result<(), ImportError> {
        let image = tree.path.join("arch/x86/boot/bzImage");
        files::copy(&image, &modules, Some(&tree.path.join(".config")), import)?;
        import.source = source;
        Ok(())
    };
    Ok(add(store, Some(&name), unpack, &mut |step| {
        progress(Progress::Step(step));
    })?)
}

/// The lines of two configurations as the kernel reads them: without remarks, and each option
/// once, as the second says if it does.
fn merge(ours: &str, more: &str) -> String {
    let option = |line: &str| line.split('=').next().unwrap_or_default().to_owned();
    let lines = |text: &str| -> Vec<String> {
        let text = text
            .lines()
            .map(|line| line.split('#').next().unwrap_or_default().trim());
        text.filter(|line| !line.is_empty())
            .map(Into::into)
            .collect()
    };
    let more = lines(more);
    let mut merged = lines(ours);
    merged.retain(|line| !more.iter().any(|other| option(other) == option(line)));
    merged.extend(more);
    merged.join("\n") + "\n"
}

/// Those lines of a wanted configuration that did not become part of the real one.
fn not_taken(wanted: &str, real: &str) -> Vec<String> {
    let real: std::collections::HashSet<_> = real.lines().collect();
    let taken = |line: &&str| match line.split_once('=') {
        Some((option, "n")) => !real.iter().any(|r| {
            r.strip_prefix(option)
                .is_some_and(|rest| rest.starts_with('='))
        }),
        _ => real.contains(line),
    };
    wanted
        .lines()
        .filter(|line| !taken(line))
        .map(Into::into)
        .collect()
}

/// Unpacks the kernel's source, which is an archive in a package.
fn unpack(deb: &Path, package: &str, tree: &Path) -> Result<(), BuildError> {
    let part = tree.with_added_extension("part");
    let outer = part.join("package");
    make_dir(&outer)?;
    run(
        "dpkg-deb",
        Command::new("dpkg-deb").arg("-x").arg(deb).arg(&outer),
    )?;
    let archive = outer
        .join("usr/src")
        .join(package)
        .with_added_extension("tar.xz");
    run(
        "tar",
        Command::new("tar")
            .arg("-xf")
            .arg(archive)
            .arg("-C")
            .arg(&part),
    )?;
    fs::rename(part.join(package), tree).map_err(|e| BuildError::Io(tree.into(), e))?;
    fs::remove_dir_all(&part).map_err(|e| BuildError::Io(part, e))
}

/// A tree of the kernel's source.
struct Tree {
    path: PathBuf,
    jobs: Option<u16>,
}

impl Tree {
    fn configure(&self, config: &str) -> Result<(), BuildError> {
        let wanted = self.path.join("wanted.config");
        fs::write(&wanted, config).map_err(|e| BuildError::Io(wanted.clone(), e))?;
        let mut make = self.make();
        make.arg("allnoconfig").env("KCONFIG_ALLCONFIG", &wanted);
        run("make", &mut make)?;
        let made = self.path.join(".config");
        let real = fs::read_to_string(&made).map_err(|e| BuildError::Io(made, e))?;
        match not_taken(config, &real) {
            lines if lines.is_empty() => Ok(()),
            lines => Err(BuildError::NotTaken(lines)),
        }
    }

    fn compile(&self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), BuildError> {
        let mut compiled = 0;
        let mut make = self.make();
        watch("make", make.args(["bzImage", "modules"]), &mut |line| {
            if let Some(file) = compiled_file(line) {
                compiled += 1;
                let percent = (compiled * 100 / FILES).min(99);
                let directory = file.rsplit_once('/').map_or("", |(directory, _)| directory);
                progress(Progress::Compiled(percent, directory));
            }
        })
    }

    /// Installs the modules into a directory by themselves.
    fn install_modules(&self) -> Result<PathBuf, BuildError> {
        let target = self.path.join("installed");
        if target.exists() {
            fs::remove_dir_all(&target).map_err(|e| BuildError::Io(target.clone(), e))?;
        }
        let mut path = OsString::from("INSTALL_MOD_PATH=");
        path.push(&target);
        let mut make = self.make();
        make.arg(path);
        // The index is made when the kernel is added.
        make.args(["INSTALL_MOD_STRIP=1", "DEPMOD=true", "modules_install"]);
        run("make", &mut make)?;
        Ok(target)
    }

    /// `make` in the tree, so that it gives the same whoever runs it where and when.
    fn make(&self) -> Command {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let jobs = self.jobs.map_or(cpus, usize::from);
        let metadata = fs::metadata(self.path.join("Makefile"));
        let released = metadata
            .and_then(|m| m.modified())
            .unwrap_or(SystemTime::UNIX_EPOCH);
        let mut make = Command::new("make");
        make.arg("-C").arg(&self.path).arg(format!("-j{jobs}"));
        make.args(["ARCH=x86_64", "--no-print-directory"]);
        // Whether these are there would be in the configuration, and that is in the kernel.
        make.args(["RUSTC=none", "PAHOLE=none"]);
        // Much else would change the kernel, as LOCALVERSION, KCFLAGS and MAKEFLAGS do.
        make.env_clear();
        let kept = |name| Some((name, env::var_os(name)?));
        make.envs(["PATH", "HOME", "TMPDIR"].into_iter().filter_map(kept))
            .env("LC_ALL", "C")
            .env("KBUILD_BUILD_USER", "runcvm")
            .env("KBUILD_BUILD_HOST", "runcvm")
            .env("KBUILD_BUILD_VERSION", "1")
            .env(
                "KBUILD_BUILD_TIMESTAMP",
                humantime::format_rfc3339_seconds(released).to_string(),
            );
        make
    }
}

/// The file that `make` says it compiles, `  CC [M]  drivers/net/tun.o`.
fn compiled_file(line: &str) -> Option<&str> {
    let mut words = line.strip_prefix("  ")?.split_whitespace();
    matches!(words.next()?, "CC" | "AS").then_some(())?;
    words.find(|word| *word != "[M]")
}

/// Runs a program to its end.
fn run(program: &'static str, command: &mut Command) -> Result<(), BuildError> {
    watch(program, command, &mut |_| {})
}

/// Runs a program to its end; `see` gets each line that it writes.
fn watch(
    program: &'static str,
    command: &mut Command,
    see: &mut dyn FnMut(&str),
) -> Result<(), BuildError> {
    let cannot = |e| BuildError::Run(program, e);
    let (reader, writer) = io::pipe().map_err(cannot)?;
    command.stdin(Stdio::null());
    command
        .stdout(writer.try_clone().map_err(cannot)?)
        .stderr(writer);
    let mut child = command.spawn().map_err(cannot)?;
    // Its ends of the pipe are in the command, and would keep it open.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut last = VecDeque::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.map_err(cannot)?;
        let line = String::from_utf8_lossy(&line).into_owned();
        see(&line);
        if last.len() == LAST_LINES {
            last.pop_front();
        }
        last.push_back(line);
    }
    if child.wait().map_err(cannot)?.success() {
        return Ok(());
    }
    let last = Vec::from(last).join("\n");
    Err(BuildError::Failed { program, last })
}

fn make_dir(path: &Path) -> Result<(), BuildError> {
    fs::create_dir_all(path).map_err(|e| BuildError::Io(path.into(), e))
}

#[cfg(test)]
#[path = "build_test.rs"]
mod tests;
