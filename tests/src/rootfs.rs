//! Root filesystems and scratch directories.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

use crate::project::project;

/// A new empty directory, gone with the value.
pub fn scratch() -> TempDir {
    tempfile::Builder::new()
        .prefix("runcvm-test-")
        .tempdir()
        .expect("the temporary directory can be written")
}

/// A root filesystem for a machine or a container. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Rootfs(Arc<Inner>);

#[derive(Debug)]
enum Inner {
    Given(PathBuf),
    Overlay { path: PathBuf, _layers: TempDir },
}

impl Rootfs {
    /// Any directory.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(Arc::new(Inner::Given(path.into())))
    }

    /// The test root filesystem itself, a small Debian. Nobody may write to it.
    ///
    /// # Panics
    ///
    /// It has not been built.
    pub fn template() -> Self {
        let path = project().join("target/rootfs");
        assert!(
            path.is_dir(),
            "{} is missing; run: tests/rootfs/build",
            path.display()
        );
        Self::at(path)
    }

    /// A private copy of [`Self::template`]: an overlay whose changes go with the value.
    ///
    /// # Panics
    ///
    /// Only root can mount it.
    pub fn private() -> Self {
        let template = Self::template();
        let layers = scratch();
        let directory = |name| {
            let path = layers.path().join(name);
            std::fs::create_dir(&path).expect("the scratch directory is new");
            path
        };
        let (path, upper, work) = (directory("root"), directory("upper"), directory("work"));
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            template.path().display(),
            upper.display(),
            work.display()
        );
        mount(
            Some("overlay"),
            &path,
            Some("overlay"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .unwrap_or_else(|error| {
            panic!("an overlay cannot be mounted ({error}); the suites need root")
        });
        Self(Arc::new(Inner::Overlay {
            path,
            _layers: layers,
        }))
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        match &*self.0 {
            Inner::Given(path) | Inner::Overlay { path, .. } => path,
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Self::Overlay { path, .. } = self {
            // Lazily: a machine that a failed test left behind may still use it.
            let _ = umount2(path.as_path(), MntFlags::MNT_DETACH);
        }
    }
}
