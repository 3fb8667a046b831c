//! `create` and `run`: the container becomes one that holds a machine.

use std::convert::Infallible;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use runcvm_kernels::Prefix;
use runcvm_kernels::rootfs::Image;
use serde_json::Value;

use crate::arguments::VerbArguments;
use crate::config::{self, Host, document, normal};
use crate::container::ContainerSpec;
use crate::debug;
use crate::executable::{self, View};
use crate::handover::Handover;
use crate::kernel_choice;
use crate::mountpoints::Mountpoints;
use crate::supervise::jail;

/// A directory of the guest to which programs of older versions write their status.
const EXIT_FILES: &str = "/.runcvm";

/// Where a container and its configuration are.
struct Bundle {
    dir: PathBuf,
    config: PathBuf,
}

/// Rewrites the bundle and becomes `runtime`.
pub(crate) fn create(
    runtime: &Path,
    globals: &[OsString],
    verb: &str,
    rest: &[OsString],
) -> Result<Infallible> {
    let arguments = VerbArguments::of_create(rest)?;
    let id = arguments.id()?;
    refuse_files(&arguments)?;
    let bundle = Bundle::of(&arguments);
    let original = config::original(document::read(&bundle.config)?);
    let mut config = original.clone();
    let mut spec = config::rewrite(&mut config, id, &Host::look())?;
    let prefix = Prefix::find();
    let image = bundle.image(&original);
    let choice = kernel_choice::choose(spec.options.kernel.as_deref(), &prefix, image.as_ref())
        .context("the machine has no kernel")?;
    spec.kernel = choice.kernel;
    spec.warnings.extend(choice.warning);
    if let Some(image) = &image {
        look_for_program(&spec, image, &original)?;
        let release = choice.release.as_deref();
        mountpoints(&spec, image, release)?.add_hook(&mut config)?;
    }
    if spec.options.runtime_debug {
        debug::write(&[("original", &original), ("rewritten", &config)], &spec);
    }
    document::replace(&bundle.config, &config)?;
    let mut args: Vec<OsString> = arguments
        .written(|name| name != "preserve-fds")
        .cloned()
        .collect();
    args.extend(arguments.positional.iter().cloned());
    let handover = Handover::new(&spec)?.with_prefix(prefix.path())?;
    handover.exec(runtime, globals, verb, args)
}

impl Bundle {
    fn of(arguments: &VerbArguments) -> Self {
        let dir = PathBuf::from(arguments.value("bundle").unwrap_or(".".as_ref()));
        let config = match arguments.value("config") {
            Some(file) => file.into(),
            None => dir.join("config.json"),
        };
        Self { dir, config }
    }

    /// The root filesystem of its configuration.
    fn image(&self, config: &Value) -> Option<Image> {
        let path = config.get("root")?.get("path")?.as_str()?;
        Image::open(&self.dir.join(path)).ok()
    }
}

/// A caller's open files cannot be those of a process in a guest.
pub(crate) fn refuse_files(arguments: &VerbArguments) -> Result<()> {
    match arguments.value("preserve-fds") {
        None => Ok(()),
        Some(none) if none == "0" => Ok(()),
        Some(_) => bail!(
            "a machine cannot take over open files of the host: --preserve-fds is not possible"
        ),
    }
}

/// Makes the directories that the machine needs in its image; modules of `release` are mounted.
fn mountpoints(spec: &ContainerSpec, image: &Image, release: Option<&str>) -> Result<Mountpoints> {
    let mut paths = vec![PathBuf::from(EXIT_FILES)];
    if let Some(release) = release {
        let all = Path::new(jail::MODULES);
        paths.push(match spec.options.mount_lib_modules {
            true => all.to_owned(),
            false => all.join(release),
        });
    }
    Mountpoints::make(image, &paths)
}

/// Tells early if the program is not there.
fn look_for_program(spec: &ContainerSpec, image: &Image, config: &Value) -> Result<()> {
    let mounts = config
        .get("mounts")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let targets = mounts.filter_map(|mount| mount.get("destination")?.as_str());
    let disks = spec.options.disks.iter().map(|disk| disk.dst.clone());
    let view = View::new(
        image,
        targets.map(|path| normal(path.as_ref())).chain(disks),
    );
    let process = &spec.process;
    let program = process.args().as_deref().and_then(<[String]>::first);
    let env = process.env().as_deref().unwrap_or_default();
    match program.and_then(|program| executable::missing(&view, program, env, process.cwd())) {
        // As runc says it, by which docker and its users know it.
        Some(why) => bail!("runc create failed: unable to start container process: {why}"),
        None => Ok(()),
    }
}
