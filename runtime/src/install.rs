//! `runcvm-runtime install`, `uninstall` and `doctor`: docker's knowledge of this runtime.
//!
//! Docker is told by an entry in its `daemon.json`, which it reads again on SIGHUP: no
//! container notices. The programs themselves are where they are.

mod config;
mod docker;

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use nix::unistd::Uid;
use runcvm_kernels::Prefix;

use crate::delegate;
use config::Config;
use docker::Docker;

/// The name that docker knows this runtime by.
const NAME: &str = "runcvm";

const USAGE: &str = "usage: runcvm-runtime install|uninstall [--config FILE] [--no-reload]
       runcvm-runtime doctor

install tells docker of this runtime, in /etc/docker/daemon.json or FILE, and has it read that
again; no container is disturbed. uninstall undoes it. With --no-reload docker hears of it when
it starts the next time. doctor says what this host has and lacks.";

/// What a person asks of the runtime, as container engines never do.
#[derive(Debug)]
struct Request {
    config: PathBuf,
    reload: bool,
}

/// Whether `verb` is ours.
pub(crate) fn is_verb(verb: &str) -> bool {
    matches!(verb, "install" | "uninstall" | "doctor")
}

/// Does what `verb` says.
pub(crate) fn run(verb: &str, args: &[OsString]) -> ExitCode {
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let result = match verb {
        "install" => Request::parse(args).and_then(|request| install(&request)),
        "uninstall" => Request::parse(args).and_then(|request| uninstall(&request)),
        _ => doctor(args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("runcvm-runtime: {error:#}");
        ExitCode::FAILURE
    })
}

impl Request {
    fn parse(args: &[OsString]) -> Result<Self> {
        let mut request = Self {
            config: "/etc/docker/daemon.json".into(),
            reload: true,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.to_str() {
                Some("--no-reload") => request.reload = false,
                Some("--config") => {
                    let file = args
                        .next()
                        .context("option --config needs the path of a file")?;
                    request.config = file.into();
                }
                _ => bail!("unknown argument {}; try --help", arg.display()),
            }
        }
        Ok(request)
    }
}

/// The program that docker is to run: this one, at its own place.
fn program() -> Result<PathBuf> {
    let program = env::current_exe().context("this program has no path")?;
    let placed = Prefix::find().path().join("bin/runcvm-runtime");
    Ok(if placed.exists() { placed } else { program })
}

fn install(request: &Request) -> Result<ExitCode> {
    need_root("install")?;
    let program = program()?;
    delegate::find(env::var_os("RUNCVM_OCI_RUNTIME"), env::var_os("PATH"))?;
    let mut config = Config::read(&request.config)?;
    if config.add(NAME, &program)? {
        config.write()?;
        println!("{}: added the runtime {NAME}", request.config.display());
    } else {
        println!(
            "{}: has the runtime {NAME} already",
            request.config.display()
        );
    }
    if request.reload {
        match Docker::running()? {
            Some(docker) => {
                docker.reload()?;
                if !docker.wait_for(|paths| paths.get(NAME) == Some(&program))? {
                    bail!("docker has not taken the runtime over; restart it, and see its log");
                }
                println!("docker knows it: docker run --runtime={NAME} …");
            }
            None => println!("docker does not run; it will know the runtime when it does"),
        }
    }
    println!("{}", podman(&program));
    Ok(ExitCode::SUCCESS)
}

fn uninstall(request: &Request) -> Result<ExitCode> {
    need_root("uninstall")?;
    let mut config = Config::read(&request.config)?;
    let docker = if request.reload {
        Docker::running()?
    } else {
        None
    };
    if let Some(docker) = &docker {
        let running = docker.containers(NAME)?;
        if !running.is_empty() {
            bail!(
                "containers still run with {NAME}: {}; stop them first",
                running.join(" ")
            );
        }
    }
    let removed = config.remove(NAME)?;
    let knowing = match docker {
        Some(docker) if docker.runtimes()?.contains_key(NAME) => Some(docker),
        _ => None,
    };
    let forgotten = knowing.as_ref().map(|docker| forget(docker, &config));
    config.tidy();
    if removed || knowing.is_some() {
        config.write()?;
    }
    match removed {
        true => println!("{}: removed the runtime {NAME}", request.config.display()),
        false => println!("{}: has no runtime {NAME}", request.config.display()),
    }
    if let Some(forgotten) = forgotten {
        forgotten?;
        println!("docker no longer knows it");
    }
    println!(
        "The programs and kernels are in {}: remove it if nothing else needs them.",
        Prefix::find().path().display()
    );
    Ok(ExitCode::SUCCESS)
}

/// Has docker read `config`, from which the runtime was removed.
fn forget(docker: &Docker, config: &Config) -> Result<()> {
    config.write()?;
    docker.reload()?;
    if !docker.wait_for(|paths| !paths.contains_key(NAME))? {
        bail!("docker still knows the runtime; restart it, and see its log");
    }
    Ok(())
}

/// What `runcvm-vmm doctor` finds, and what containers need besides.
fn doctor(args: &[OsString]) -> Result<ExitCode> {
    if let Some(arg) = args.first() {
        bail!("unknown argument {}; try --help", arg.display());
    }
    let words = ["runcvm-vmm", "doctor"].map(OsString::from);
    let machines = runcvm_vmm::cli::main(words, runcvm_vmm::launch::now());
    let delegate = delegate::find(env::var_os("RUNCVM_OCI_RUNTIME"), env::var_os("PATH"));
    let engine = match &delegate {
        Ok(path) => format!("ok    OCI runtime    {}", path.display()),
        Err(error) => format!("fail  OCI runtime    {error}"),
    };
    println!("{engine}");
    println!("{}", docker_finding());
    Ok(if delegate.is_ok() {
        machines
    } else {
        ExitCode::FAILURE
    })
}

fn docker_finding() -> String {
    let known = match Docker::running() {
        Ok(None) => return "warn  docker         does not run".into(),
        Ok(Some(docker)) => docker.runtimes(),
        Err(error) => Err(error),
    };
    match known {
        Ok(paths) => match paths.get(NAME) {
            Some(path) => format!("ok    docker         knows {NAME} as {}", path.display()),
            None => {
                format!("warn  docker         does not know {NAME}; run: runcvm-runtime install")
            }
        },
        Err(error) => format!("warn  docker         {error:#}"),
    }
}

fn need_root(verb: &str) -> Result<()> {
    if !Uid::effective().is_root() {
        bail!("only root can do this; run: sudo runcvm-runtime {verb}");
    }
    Ok(())
}

fn podman(program: &Path) -> String {
    format!(
        "For podman, add to /etc/containers/containers.conf:\n\n    [engine.runtimes]\n    {NAME} = [\"{}\"]",
        program.display()
    )
}
