//! What guests of the benchmarks boot with: the same PID 1, and modules where devices need them.

use std::fs;

use anyhow::{Context, Result};
use runcvm_kernels::{Bundle, Part, Prefix};

/// PID 1, the drivers that `parts` need, and a list of these for it.
///
/// # Errors
///
/// The programs or the kernel are not installed, or it has no such driver.
pub(crate) fn make(prefix: &Prefix, bundle: &Bundle, parts: &[Part]) -> Result<Vec<u8>> {
    let read = |path: &std::path::Path| {
        fs::read(path).with_context(|| format!("{} could not be read", path.display()))
    };
    let init = read(&prefix.libexec("runcvm-bench-init"))?;
    let mut whole = Vec::new();
    let mut own = runcvm_kernels::cpio::Writer::default();
    own.file("init", 0o755, &init);
    if !parts.is_empty() {
        let drivers = bundle.initramfs(parts)?;
        for archive in &drivers.archives {
            whole.extend(read(archive)?);
        }
        own.file("modules", 0o644, drivers.modules.as_bytes());
    }
    whole.extend(own.finish());
    Ok(whole)
}
