//! Where things are.

use std::path::{Path, PathBuf};

/// The project's directory.
pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate is in the project")
}

/// The development prefix, laid out as `/opt/runcvm` is.
pub fn home() -> PathBuf {
    project().join("target/runcvm")
}

/// A binary of the development prefix, such as `runcvm-vmm`.
///
/// # Panics
///
/// It has not been built.
pub fn binary(name: &str) -> PathBuf {
    let path = home().join("bin").join(name);
    assert!(
        path.exists(),
        "{} is missing; run: make build",
        path.display()
    );
    path
}
