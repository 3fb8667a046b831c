//! A tree of kernel modules: `lib/modules/RELEASE` of a package.
//!
//! Packages come without an index of dependencies; distributions make it with `depmod` at
//! installation. So do we: the guest's modprobe needs all of its indexes.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use thiserror::Error;

use crate::compression::{DecompressError, Format};
use crate::features::Support;

/// Greatest size of a module that is loaded at boot, in bytes.
const MAX_MODULE: usize = 64 << 20;

/// Why a tree of modules is of no use.
#[derive(Debug, Error)]
pub enum ModuleError {
    /// `depmod` is not installed.
    #[error("depmod is needed to index the modules, but is not installed (package kmod)")]
    NoDepmod,
    /// `depmod` failed.
    #[error("depmod could not index the modules: {0}")]
    Depmod(String),
    /// A file of the tree could not be read.
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// A module could not be decompressed.
    #[error("the module {0} is damaged")]
    Damaged(String, #[source] DecompressError),
    /// A module is of another kernel.
    #[error("the module {module} is for the kernel {found}, not for {expected}")]
    OtherKernel {
        module: String,
        found: String,
        expected: String,
    },
    /// A module is no ELF file.
    #[error("the module {0} is damaged: it is not an ELF file")]
    NotElf(String),
}

/// A tree of modules.
#[derive(Debug)]
pub(crate) struct ModuleTree {
    root: PathBuf,
    /// Path below the root and names of dependencies, by name.
    modules: HashMap<String, (String, Vec<String>)>,
    built_in: HashSet<String>,
}

impl ModuleTree {
    /// Indexes `base/lib/modules/RELEASE` with `depmod`, and reads it.
    pub(crate) fn index(base: &Path, release: &str) -> Result<Self, ModuleError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut directories: Vec<_> = std::env::split_paths(&path).collect();
        directories.extend(["/usr/sbin".into(), "/sbin".into()]);
        let depmod = directories
            .iter()
            .map(|dir| dir.join("depmod"))
            .find(|path| path.is_file())
            .ok_or(ModuleError::NoDepmod)?;
        let output = Command::new(depmod)
            .arg("-b")
            .arg(base)
            .arg(release)
            .output()
            .map_err(|e| ModuleError::Depmod(e.to_string()))?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr);
            let last = message.trim().lines().last();
            let what = last.map_or_else(|| output.status.to_string(), Into::into);
            return Err(ModuleError::Depmod(what));
        }
        Self::read_index(base.join("lib/modules").join(release))
    }

    /// Reads the index of the tree at `root`.
    pub(crate) fn read_index(root: PathBuf) -> Result<Self, ModuleError> {
        let read = |file: &str| {
            let path = root.join(file);
            fs::read_to_string(&path).map_err(|e| ModuleError::Read(path, e))
        };
        let dependencies = read("modules.dep")?;
        // A kernel that was built without module support has no such list.
        let built_in = read("modules.builtin").unwrap_or_default();
        Ok(Self::of_index(root, &dependencies, &built_in))
    }

    /// The tree at `root` whose `modules.dep` and `modules.builtin` are these.
    pub(crate) fn of_index(root: PathBuf, dependencies: &str, built_in: &str) -> Self {
        Self {
            root,
            modules: parse_dependencies(dependencies),
            built_in: built_in.lines().map(name_of).collect(),
        }
    }

    /// How a kernel with this tree supports what the module `name` does.
    pub(crate) fn support(&self, name: &str) -> Support {
        if self.modules.contains_key(name) {
            Support::Module
        } else if self.built_in.contains(name) {
            Support::BuiltIn
        } else {
            Support::Absent
        }
    }

    /// Names of these modules, as far as they are in the tree, and of all that they depend
    /// on, each after its dependencies.
    pub(crate) fn load_order(&self, names: &[&str]) -> Vec<String> {
        let mut order = Vec::new();
        let mut seen = HashSet::new();
        // Modules that wait for their dependencies, of which some are left. An index may be
        // hostile, so its chains are not followed on our own stack.
        let mut waiting = Vec::new();
        for name in names {
            let mut next = Some(*name);
            loop {
                if let Some(name) = next.take()
                    && let Some((_, dependencies)) = self.modules.get(name)
                    && seen.insert(name)
                {
                    waiting.push((name, dependencies.iter()));
                }
                let Some((name, left)) = waiting.last_mut() else {
                    break;
                };
                match left.next() {
                    Some(dependency) => next = Some(dependency),
                    None => {
                        order.push((*name).to_owned());
                        waiting.pop();
                    }
                }
            }
        }
        order
    }

    /// Where a module of the tree is below its root.
    pub(crate) fn path(&self, name: &str) -> &str {
        self.modules.get(name).map_or("", |(path, _)| path)
    }

    /// The content of a module of the tree, decompressed and without its signature.
    ///
    /// To verify a signature takes the guest several times as long as all else in loading a
    /// small module, and proves nothing: who gives it the modules gives it the kernel. The
    /// kernel notes `E` in its taint for it. Modules of the tree itself stay signed.
    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>, ModuleError> {
        let path = self.root.join(self.path(name));
        let bytes = fs::read(&path).map_err(|e| ModuleError::Read(path, e))?;
        let damaged = |e| ModuleError::Damaged(name.into(), e);
        let format = Format::detect(&bytes).map_err(damaged)?;
        let mut module = format.decompress(&bytes, MAX_MODULE).map_err(damaged)?;
        if !module.starts_with(b"\x7fELF") {
            return Err(ModuleError::NotElf(name.into()));
        }
        let expected = self.root.file_name().unwrap_or_default();
        if let Some(found) = release_of(&module)
            && *found != *expected.as_encoded_bytes()
        {
            return Err(ModuleError::OtherKernel {
                module: name.into(),
                found: String::from_utf8_lossy(found).into(),
                expected: expected.display().to_string(),
            });
        }
        module.truncate(unsigned_length(&module));
        Ok(module)
    }
}

/// The release of the kernel that a module is for, if it says so in its section `.modinfo`.
fn release_of(module: &[u8]) -> Option<&[u8]> {
    const FIELD: &[u8] = b"\0vermagic=";
    let at = module.windows(FIELD.len()).position(|text| text == FIELD)?;
    let value = module.get(at + FIELD.len()..)?;
    value.split(|&byte| byte == b' ' || byte == 0).next()
}

/// The length of a module without the signature that may follow it: its data, 12 bytes of
/// description, of which the last four are the big-endian length of the data, and a marker
/// (Linux, `Documentation/admin-guide/module-signing.rst` and
/// `include/linux/module_signature.h`).
fn unsigned_length(module: &[u8]) -> usize {
    let length = || {
        let signed = module.strip_suffix(b"~Module signature appended~\n")?;
        let (signed, description) = signed.split_last_chunk::<12>()?;
        let data = u32::from_be_bytes(*description.last_chunk()?) as usize;
        signed.len().checked_sub(data)
    };
    length().unwrap_or(module.len())
}

/// Reads a `modules.dep`: lines of `path: dependency dependency…`, all paths below the root.
fn parse_dependencies(text: &str) -> HashMap<String, (String, Vec<String>)> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let inside = lines.filter(|(path, _)| {
        Path::new(path)
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)))
    });
    let entries = inside.map(|(path, dependencies)| {
        let dependencies = dependencies.split_whitespace().map(name_of).collect();
        (name_of(path), (path.into(), dependencies))
    });
    entries.collect()
}

/// The name of the module at a path: its hyphens are underscores to the kernel.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let name = file.split('.').next().unwrap_or(file);
    name.replace('-', "_")
}

#[cfg(test)]
#[path = "modules_test.rs"]
pub(crate) mod tests;
