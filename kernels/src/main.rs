//! `runcvm-kernels`: the kernels that runcvm's machines boot.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use runcvm_kernels::add::is_current;
use runcvm_kernels::build::{self, Progress};
use runcvm_kernels::import::{Import, ImportError, apt, files, image, package};
use runcvm_kernels::{Added, Bundle, BundleName, Prefix, Store, add};

/// Manage the kernels that runcvm's machines boot
#[derive(Debug, Parser)]
#[command(name = "runcvm-kernels", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  runcvm-kernels add debian                      Debian's newest kernel, by apt
  runcvm-kernels add debian-cloud --version 6.1  its smaller variant, of an older series
  runcvm-kernels build                           runcvm's own, compiled here
  runcvm-kernels default debian-cloud            boot that from now on
  runcvm-kernels list

Kernels are in PREFIX/kernels, where PREFIX is $RUNCVM_HOME, else where runcvm is installed.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Add a kernel
    Add(AddArgs),
    /// Compile runcvm's own kernel, which starts fastest, and make it the default
    Build(BuildArgs),
    /// List the kernels
    List,
    /// Show what a kernel is made of and what it can do
    #[command(after_help = "Examples:\n  runcvm-kernels show debian\n  \
        runcvm-kernels show debian/6.12.117+deb12-amd64 --json")]
    Show {
        /// DISTRIBUTION or DISTRIBUTION/VERSION; the default if absent
        name: Option<String>,
        /// Print its manifest as JSON
        #[arg(long)]
        json: bool,
    },
    /// Compare kernels with what was installed
    Verify {
        /// DISTRIBUTION or DISTRIBUTION/VERSION; all if absent
        name: Option<String>,
    },
    /// Remove a kernel
    #[command(after_help = "Example:\n  runcvm-kernels remove debian/6.12.117+deb12-amd64")]
    Remove {
        /// DISTRIBUTION/VERSION
        name: BundleName,
    },
    /// Show or choose the kernel that machines boot if none is named
    #[command(after_help = "Examples:\n  \
        runcvm-kernels default                                prints it\n  \
        runcvm-kernels default debian                         always its newest\n  \
        runcvm-kernels default debian/6.12.117+deb12-amd64    this very one")]
    Default {
        /// DISTRIBUTION for its newest, or DISTRIBUTION/VERSION
        name: Option<String>,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  runcvm-kernels add debian
  runcvm-kernels add debian --version 6.12.117+deb12-amd64
  runcvm-kernels add --package linux-image-6.12.117+deb12-amd64_6.12.117-1_amd64.deb
  runcvm-kernels add --package linux-virt-6.12.9-r0.apk
  runcvm-kernels add --package kernel-uek-core-….rpm kernel-uek-modules-….rpm
  runcvm-kernels add --image rootfs
  runcvm-kernels add --vmlinuz arch/x86/boot/bzImage --modules out/lib/modules/6.12.9 \\
      --config .config --name own/6.12.9")]
#[command(group = ArgGroup::new("input").required(true).args(["distribution", "package", "vmlinuz", "image"]))]
#[group(skip)]
struct AddArgs {
    /// Whose newest kernel to download with the host's apt: 6.12 if it has it, else 6.1
    distribution: Option<Distribution>,
    /// Only a kernel of this release or series, such as 6.12.117+deb12-amd64 or 6.1
    #[arg(long, requires = "distribution", conflicts_with_all = ["package", "vmlinuz", "image"])]
    version: Option<String>,
    /// Packages that together hold a kernel: .deb, .rpm, .apk or Arch's
    #[arg(long, value_name = "FILE", num_args = 1.., visible_alias = "deb")]
    package: Vec<PathBuf>,
    /// A kernel image: a bzImage or an ELF vmlinux
    #[arg(long, value_name = "FILE", requires_all = ["modules", "name"])]
    vmlinuz: Option<PathBuf>,
    /// Its modules: a directory lib/modules/RELEASE, or one that holds it
    #[arg(long, value_name = "DIR", conflicts_with_all = ["distribution", "package", "image"])]
    modules: Option<PathBuf>,
    /// Its configuration
    #[arg(long, value_name = "FILE", conflicts_with_all = ["distribution", "package", "image"])]
    config: Option<PathBuf>,
    /// A root filesystem that has a kernel where its distribution keeps it
    #[arg(long, value_name = "ROOTFS")]
    image: Option<PathBuf>,
    /// What to call it, instead of DISTRIBUTION/RELEASE
    #[arg(long, value_name = "DISTRIBUTION/VERSION")]
    name: Option<BundleName>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
It is compiled from the package linux-source-6.12 of Debian's, as far as apt knows it, with a
configuration that has what machines and containers need built in. Needs some minutes of all
CPUs, and 4 GB of disk while it runs. The tools for it are installed if root runs this.

Examples:
  runcvm-kernels build
  runcvm-kernels build --config more.config --dir ~/kernel   with own changes, again and again")]
struct BuildArgs {
    /// Further lines for the configuration, such as CONFIG_CIFS=m
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to build, and keep what the next build can use again
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How many compilers run at once; one for each CPU if absent
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Leave the default as it is
    #[arg(long)]
    no_default: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Distribution {
    /// The kernel for all hardware
    Debian,
    /// The kernel for virtual machines: smaller, but without displays
    DebianCloud,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command, &Prefix::find()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("runcvm-kernels: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command, prefix: &Prefix) -> Result<()> {
    let store = &Store::new(prefix);
    match command {
        Command::Add(args) => add_kernel(store, &args),
        Command::Build(args) => build_kernel(store, &prefix.cache(), args),
        Command::List => list(store),
        Command::Show { name, json } => show(&store.resolve(name.as_deref())?, json),
        Command::Verify { name } => verify(store, name.as_deref()),
        Command::Remove { name } => {
            store.remove(&name)?;
            println!("Removed {name}");
            Ok(())
        }
        Command::Default { name: None } => {
            let bundle = store.resolve(None)?;
            println!("{}/{}", bundle.name, bundle.version);
            Ok(())
        }
        Command::Default { name: Some(name) } => {
            let bundle = store.set_default(&name)?;
            println!("The default is {}/{}", bundle.name, bundle.version);
            Ok(())
        }
    }
}

fn add_kernel(store: &Store, args: &AddArgs) -> Result<()> {
    let name = args.name.as_ref();
    if let Some(distribution) = args.distribution {
        return add_from_apt(store, distribution, args.version.as_deref(), name);
    }
    if let Some(rootfs) = &args.image {
        return add_import(store, name, |import| {
            eprintln!("Copying");
            image::copy(rootfs, import)
        });
    }
    match (&args.vmlinuz, &args.modules) {
        (Some(vmlinuz), Some(modules)) => {
            let config = args.config.as_deref();
            add_import(store, name, |import| {
                eprintln!("Copying");
                files::copy(vmlinuz, modules, config, import)
            })
        }
        _ => add_import(store, name, |import| {
            eprintln!("Unpacking");
            let mut packages = args.package.iter();
            packages.try_for_each(|path| package::unpack(path, import))
        }),
    }
}

fn add_from_apt(
    store: &Store,
    distribution: Distribution,
    version: Option<&str>,
    name: Option<&BundleName>,
) -> Result<()> {
    let (flavour, own_name) = match distribution {
        Distribution::Debian => ("amd64", "debian"),
        Distribution::DebianCloud => ("cloud-amd64", "debian-cloud"),
    };
    let candidate = apt::find(flavour, version)?;
    let name = match name {
        Some(name) => name.clone(),
        None => BundleName::new(own_name, &candidate.release)?,
    };
    let installed = store.resolve(Some(&name.to_string())).ok();
    if let Some(installed) = installed
        && is_current(&installed)
        && matches!(&installed.manifest.source[..], [s] if s.sha256 == candidate.sha256)
        && store.verify(&installed).is_ok()
    {
        report(&Added::Unchanged(name));
        return Ok(());
    }
    add_import(store, Some(&name), |import| {
        let megabytes = candidate.size.div_ceil(1_000_000);
        eprintln!("Downloading {} ({megabytes} MB)", candidate.package);
        let (_dir, file) = apt::download(&candidate)?;
        eprintln!("Unpacking");
        package::unpack(&file, import)
    })
}

fn add_import(
    store: &Store,
    name: Option<&BundleName>,
    unpack: impl FnOnce(&mut Import) -> Result<(), ImportError>,
) -> Result<()> {
    let added = add(store, name, unpack, &mut |step| eprintln!("{step}"))?;
    report(&added);
    let (Added::New(name) | Added::Replaced(name) | Added::Unchanged(name)) = added;
    let missing = store.resolve(Some(&name.to_string()))?.manifest.missing;
    if !missing.is_empty() {
        println!("It has no {}", missing.join(", no "));
    }
    Ok(())
}

fn build_kernel(store: &Store, scratch: &Path, args: BuildArgs) -> Result<()> {
    let options = build::Options {
        config: args.config,
        dir: args.dir,
        jobs: args.jobs,
    };
    let mut meter = Meter::default();
    let added = build::build(store, scratch, &options, &mut |progress| {
        meter.show(progress)
    })?;
    report(&added);
    if !args.no_default {
        let bundle = store.set_default(build::DISTRIBUTION)?;
        println!("The default is {}/{}", bundle.name, bundle.version);
    }
    Ok(())
}

/// Shows how far a build is: on a terminal in one line that changes, else in some lines.
#[derive(Default)]
struct Meter {
    last: Option<u32>,
}

impl Meter {
    fn show(&mut self, progress: Progress<'_>) {
        let line = |percent, directory| format!("Compiling: {percent:>2} % ({directory})");
        match progress {
            Progress::Step(step) => {
                if self.last.take().is_some() && io::stderr().is_terminal() {
                    eprintln!();
                }
                eprintln!("{step}");
            }
            Progress::Compiled(percent, directory) if io::stderr().is_terminal() => {
                eprint!("\r\x1b[K{:.78}", line(percent, directory));
                self.last = Some(percent);
            }
            Progress::Compiled(percent, directory) => {
                if self.last.is_none_or(|last| percent / 10 > last / 10) {
                    eprintln!("{}", line(percent, directory));
                    self.last = Some(percent);
                }
            }
        }
    }
}

fn report(added: &Added) {
    match added {
        Added::New(name) => println!("Added {name}"),
        Added::Replaced(name) => println!("Replaced {name}"),
        Added::Unchanged(name) => println!("{name} is already installed"),
    }
}

fn list(store: &Store) -> Result<()> {
    let default = store.default_name();
    let mut last = String::new();
    for name in store.names()? {
        let is_latest = last != name.distribution;
        last.clone_from(&name.distribution);
        let mut marks = Vec::new();
        if is_latest {
            marks.push("latest");
        }
        if default.as_ref() == Some(&name) {
            marks.push("default");
        }
        let marks = marks.join(", ");
        println!("{}", format!("{:<48} {marks}", name.to_string()).trim_end());
    }
    Ok(())
}

fn show(bundle: &Bundle, json: bool) -> Result<()> {
    let manifest = &bundle.manifest;
    if json {
        println!("{}", serde_json::to_string_pretty(manifest)?);
        return Ok(());
    }
    let line = |label: &str, value: &str| println!("{label:<10} {value}");
    let path = |label: &str, path: &Path| line(label, &path.display().to_string());
    line("name", &format!("{}/{}", bundle.name, bundle.version));
    line("release", &manifest.release);
    for source in &manifest.source {
        let version = source.version.as_deref().unwrap_or_default();
        line("source", format!("{} {version}", source.name).trim_end());
    }
    path("vmlinux", &bundle.vmlinux);
    path("modules", &bundle.modules);
    for (part, modules) in &manifest.boot {
        let name = |path: &String| Path::new(path).file_stem().map(|s| s.display().to_string());
        let names: Vec<_> = modules.iter().filter_map(name).collect();
        let part = serde_json::to_value(part)?;
        let label = format!("boot {}", part.as_str().unwrap_or_default());
        line(&label, &names.join(" "));
    }
    for (feature, support) in &manifest.features {
        let support = serde_json::to_value(support)?;
        let text = format!("{feature:<16} {}", support.as_str().unwrap_or_default());
        line("feature", &text);
    }
    Ok(())
}

fn verify(store: &Store, name: Option<&str>) -> Result<()> {
    let bundles = match name {
        Some(name) => vec![store.resolve(Some(name))?],
        None => store.list()?,
    };
    for bundle in bundles {
        store.verify(&bundle)?;
        println!("{}/{} is as installed", bundle.name, bundle.version);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_kernel_comes_from_one_place() {
        let accepts = |line: &str| {
            let words = line.split_whitespace();
            Cli::try_parse_from(["runcvm-kernels", "add"].into_iter().chain(words)).is_ok()
        };
        for good in [
            "debian",
            "debian-cloud --version 6.1",
            "debian --name own/1",
            "--package a.deb b.deb",
            "--deb a.deb",
            "--vmlinuz v --modules m --name own/1",
            "--vmlinuz v --modules m --config c --name own/1",
            "--image r",
        ] {
            assert!(accepts(good), "{good}");
        }
        for bad in [
            "",
            "arch",
            "--version 6.1",
            "debian --deb a.deb",
            "--deb a.deb --version 6.1",
            "--image r --modules m",
            "--image r --deb a.deb",
            "--vmlinuz v --modules m",
            "--vmlinuz v --name own/1",
            "--modules m --name own/1",
            "--deb a.deb --config c",
            "debian --config c",
            "debian --name ../x",
        ] {
            assert!(!accepts(bad), "{bad}");
        }
    }
}
