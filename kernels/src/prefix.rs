//! Where runcvm is installed.

use std::env;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, Uid, access};

/// The directory that holds everything runcvm ships and keeps:
///
/// ```text
/// bin/        what users run
/// libexec/    what runcvm runs: virtiofsd, runcvm-init
/// kernels/    bundles, see [`crate::Store`]
/// cache/      what can be made again at any time
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(PathBuf);

impl Prefix {
    /// The prefix at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The prefix of the running program: `RUNCVM_HOME` if set, else the parent of the
    /// directory `bin` that the executable is in, else `/opt/runcvm`.
    pub fn find() -> Self {
        if let Some(home) = env::var_os("RUNCVM_HOME").filter(|home| !home.is_empty()) {
            let home = PathBuf::from(home);
            return Self(std::path::absolute(&home).unwrap_or(home));
        }
        let beside = env::current_exe()
            .ok()
            .and_then(|exe| Self::of_executable(&exe));
        beside.unwrap_or_else(|| Self("/opt/runcvm".into()))
    }

    fn of_executable(exe: &Path) -> Option<Self> {
        let bin = exe.parent()?;
        (bin.file_name()? == "bin").then(|| bin.parent().map(|prefix| Self(prefix.into())))?
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A program that runcvm runs.
    pub fn libexec(&self, program: &str) -> PathBuf {
        self.0.join("libexec").join(program)
    }

    /// Where bundles are.
    pub fn kernels(&self) -> PathBuf {
        self.0.join("kernels")
    }

    /// Where things that can be made again are kept: in the prefix if this user can write
    /// it, else in the user's cache directory, for root `/var/cache/runcvm`. It may not be
    /// there yet.
    pub fn cache(&self) -> PathBuf {
        let own = self.0.join("cache");
        let nearest = if own.exists() { &own } else { &self.0 };
        if access(nearest, AccessFlags::W_OK | AccessFlags::X_OK).is_ok() {
            return own;
        }
        let set = |name| env::var_os(name).map(PathBuf::from);
        let absolute = |path: &PathBuf| path.is_absolute();
        let user = set("XDG_CACHE_HOME").filter(absolute).or_else(|| {
            set("HOME")
                .filter(|home| absolute(home) && !Uid::effective().is_root())
                .map(|home| home.join(".cache"))
        });
        user.unwrap_or_else(|| "/var/cache".into()).join("runcvm")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_executable_in_bin_gives_the_directory_above() {
        let found = |exe| Prefix::of_executable(Path::new(exe));
        assert_eq!(
            found("/usr/local/bin/runcvm-vmm"),
            Some(Prefix::new("/usr/local"))
        );
        assert_eq!(found("/bin/runcvm-vmm"), Some(Prefix::new("/")));
        assert_eq!(found("/build/target/debug/runcvm-vmm"), None);
        assert_eq!(found("bin"), None);
    }

    #[test]
    fn the_cache_is_in_a_writable_prefix() {
        let dir = tempfile::tempdir().unwrap();
        let prefix = Prefix::new(dir.path());
        assert_eq!(prefix.cache(), dir.path().join("cache"));
        let absent = Prefix::new("/nonexistent/runcvm");
        assert!(!absent.cache().starts_with("/nonexistent"));
    }
}
