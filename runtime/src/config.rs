//! Turns a container's configuration (OCI runtime specification, config.json) into that of the
//! container in which its machine runs.
//!
//! What is read is read typed; what is changed is changed in the JSON itself, so that whatever
//! we do not know passes through untouched.

mod devices;
pub(crate) mod document;
mod host;
mod mounts;
mod namespaces;
pub(crate) mod process;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use oci_spec::runtime::Process;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::container::{ContainerSpec, Kernel};
use crate::limits;
use crate::network::dns;
use crate::options::Environment;
use crate::resources::{self, Machine};

pub(crate) use host::{Host, capabilities};

/// The field of a rewritten configuration that holds the one that was asked for. Runtimes
/// ignore fields that they do not know.
const ORIGINAL: &str = "runcvm";

/// The configuration that was asked for, also if this one was rewritten already.
pub(crate) fn original(mut config: Value) -> Value {
    match config.get_mut(ORIGINAL) {
        Some(original) if original.is_object() => original.take(),
        _ => config,
    }
}

/// Rewrites `config` in place and returns what it asked for. An error says in one sentence
/// what of it cannot be had.
///
/// [`ContainerSpec::kernel`] is as the options say; the caller chooses where they do not.
pub(crate) fn rewrite(config: &mut Value, id: &str, host: &Host) -> Result<ContainerSpec> {
    let original = config.clone();
    let Some(fields) = config.as_object_mut() else {
        bail!("it is not a JSON object");
    };
    let mut process: Process = process::read(fields.get("process"))?;
    let env = process.env().clone().unwrap_or_default();
    let Environment {
        options,
        rest,
        mut warnings,
    } = Environment::read(&env)?;
    process.set_env(Some(rest));
    process::without_podmans_init(&mut process);
    limits::complete(&mut process, &host.limits);

    let linux = object(fields, "linux")?;
    warnings.extend(namespaces::check(linux)?);
    let shares_hostname = !namespaces::has(linux, "uts");
    let mut sysctls: BTreeMap<String, String> = take(linux, "sysctl")?.unwrap_or_default();
    let (name, value) = dns::PORTS_SYSCTL;
    linux.insert("sysctl".into(), json!({ name: value }));
    devices::replace(linux)?;
    for unwanted in ["seccomp", "mountLabel"] {
        linux.remove(unwanted);
    }
    let Machine { cpus, memory } =
        resources::rewrite(object(linux, "resources")?, options.memory, host.cpus)?;

    let mounts = mounts::divide(fields)?;
    warnings.extend(mounts.warnings);
    let mut hostname: Option<String> = read(fields, "hostname")?;
    if hostname.is_none() && shares_hostname {
        hostname = Some(host.hostname.clone());
    }
    // Docker gives it as a kernel parameter.
    let domainname = sysctls.remove("kernel.domainname");
    let domainname = domainname.or(read(fields, "domainname")?);
    let root: oci_spec::runtime::Root = read(fields, "root")?.context("root is missing")?;

    process::replace_first(object(fields, "process")?, host);
    fields.insert(ORIGINAL.into(), original);
    Ok(ContainerSpec {
        id: id.into(),
        process,
        hostname,
        domainname,
        root_read_only: root.readonly().unwrap_or(false),
        volumes: mounts.volumes,
        tmpfs: mounts.tmpfs,
        sysctls: sysctls.into_iter().collect(),
        cpus,
        memory,
        kernel: Kernel::Default,
        options,
        warnings,
    })
}

/// The field `name` of `fields`, an object; an empty one is made if it is not there.
fn object<'a>(
    fields: &'a mut Map<String, Value>,
    name: &str,
) -> Result<&'a mut Map<String, Value>> {
    let field = fields.entry(name).or_insert(Value::Null);
    if field.is_null() {
        *field = Value::Object(Map::new());
    }
    match field.as_object_mut() {
        Some(object) => Ok(object),
        None => bail!("{name} is not a JSON object"),
    }
}

/// The field `name` of `fields` as a `T`; `None` if it is missing or null.
fn read<T: DeserializeOwned>(fields: &Map<String, Value>, name: &str) -> Result<Option<T>> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => T::deserialize(value)
            .map(Some)
            .with_context(|| format!("{name} is not as the OCI specification has it")),
    }
}

/// As [`read`], and removes it.
fn take<T: DeserializeOwned>(fields: &mut Map<String, Value>, name: &str) -> Result<Option<T>> {
    let value = read(fields, name)?;
    fields.remove(name);
    Ok(value)
}

/// An absolute path without `.` and `..`, as a runtime understands a path of a configuration.
pub(crate) fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => {
                normal.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    normal
}
