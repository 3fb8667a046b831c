//! The runtime that does what is not ours to do.

use std::convert::Infallible;
use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

/// Tried in this order where none is configured.
const KNOWN: [&str; 2] = ["runc", "crun"];

/// Looked in besides `PATH`: container engines start a runtime with a `PATH` that often
/// lacks the directories of system programs.
const SYSTEM_DIRS: [&str; 4] = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"];

/// The runtime named by `configured` (a path, or a name to look up), else the first one
/// known that is installed.
pub(crate) fn find(configured: Option<OsString>, path: Option<OsString>) -> Result<PathBuf> {
    let path = path.unwrap_or_default();
    let dirs: Vec<PathBuf> = env::split_paths(&path)
        .chain(SYSTEM_DIRS.iter().map(PathBuf::from))
        .collect();
    if let Some(name) = configured {
        return look_up(&name, &dirs).ok_or_else(|| {
            anyhow!(
                "RUNCVM_OCI_RUNTIME={} is not an executable file; give the path of runc or crun",
                name.display()
            )
        });
    }
    match KNOWN
        .iter()
        .find_map(|name| look_up(OsStr::new(name), &dirs))
    {
        Some(found) => Ok(found),
        None => bail!(
            "neither runc nor crun is installed; install one, or name it in RUNCVM_OCI_RUNTIME"
        ),
    }
}

fn look_up(name: &OsStr, dirs: &[PathBuf]) -> Option<PathBuf> {
    if name.as_encoded_bytes().contains(&b'/') {
        return Some(PathBuf::from(name)).filter(|path| is_executable(path));
    }
    dirs.iter()
        .map(|dir| dir.join(name))
        .find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Sockets of systemd's that a runtime would give to the container's process. They cannot
/// reach a guest, and their numbers are those of our own files.
const OF_SYSTEMD: [&str; 3] = ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"];

/// What `runtime` says of the state of a container.
pub(crate) fn state(runtime: &Path, globals: &[OsString], id: &str) -> Result<Value> {
    let state = Command::new(runtime)
        .args(globals)
        .args(["state", id])
        .output();
    let state = state.with_context(|| format!("{} could not be executed", runtime.display()))?;
    if !state.status.success() {
        bail!("{}", String::from_utf8_lossy(&state.stderr).trim());
    }
    serde_json::from_slice(&state.stdout).context("its state is not JSON")
}

/// Becomes `runtime` with `args`.
pub(crate) fn exec(runtime: &Path, args: &[OsString]) -> Result<Infallible> {
    let error = command(runtime, args).exec();
    Err(error).with_context(|| format!("{} could not be executed", runtime.display()))
}

/// Starts `runtime` with `args`.
pub(crate) fn start(runtime: &Path, args: &[OsString]) -> Result<Child> {
    command(runtime, args)
        .spawn()
        .with_context(|| format!("{} could not be executed", runtime.display()))
}

fn command(runtime: &Path, args: &[OsString]) -> Command {
    let mut command = Command::new(runtime);
    for name in OF_SYSTEMD {
        command.env_remove(name);
    }
    command.args(args);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn executable(dir: &Path, name: &str, mode: u32) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn the_configured_runtime_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        let custom = executable(dir.path(), "custom", 0o755);
        executable(dir.path(), "runc", 0o755);
        let path = Some(dir.path().into());
        assert_eq!(find(Some("custom".into()), path).unwrap(), custom);
        assert_eq!(find(Some(custom.clone().into()), None).unwrap(), custom);
    }

    #[test]
    fn runc_is_preferred_and_must_be_executable() {
        let dir = tempfile::tempdir().unwrap();
        executable(dir.path(), "runc", 0o644);
        let crun = executable(dir.path(), "crun", 0o755);
        let dirs = [dir.path().to_owned()];
        assert_eq!(look_up(OsStr::new("runc"), &dirs), None);
        assert_eq!(look_up(OsStr::new("crun"), &dirs), Some(crun));
    }

    #[test]
    fn a_configured_runtime_that_is_missing_is_named() {
        let error = find(Some("/nowhere/runc".into()), None).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("RUNCVM_OCI_RUNTIME=/nowhere/runc")
        );
    }
}
