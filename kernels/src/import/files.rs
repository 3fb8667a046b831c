//! A kernel in files of its own: what a build of one's own leaves, or what is unpacked
//! already.

use std::fs;
use std::io;
use std::path::Path;

use super::{Import, ImportError};
use crate::digest;
use crate::manifest::Source;

/// Copies a kernel image, its tree of modules (a directory `lib/modules/RELEASE`, or one that
/// has exactly one such below it) and its configuration into `import`.
pub fn copy(
    vmlinuz: &Path,
    modules: &Path,
    config: Option<&Path>,
    import: &mut Import,
) -> Result<(), ImportError> {
    copy_file(vmlinuz, &import.image())?;
    if let Some(config) = config {
        copy_file(config, &import.config())?;
    }
    let modules = modules
        .canonicalize()
        .map_err(|e| ImportError::Read(modules.into(), e))?;
    let tree = find_tree(&modules)?;
    let release = tree.file_name().unwrap_or_default().to_string_lossy();
    import.set_release(&release)?;
    let target = import.modules().join("lib/modules").join(&*release);
    copy_tree(&tree, &target)?;
    let described = [Some(vmlinuz), config].into_iter().flatten();
    for path in described {
        let sha256 = digest::of_file(path).map_err(|e| ImportError::Read(path.into(), e))?;
        import.source.push(source(path, sha256));
    }
    let sha256 = digest::of_tree(&target).map_err(|e| ImportError::Read(target, e))?;
    import.source.push(source(&tree, sha256));
    Ok(())
}

fn source(path: &Path, sha256: String) -> Source {
    Source {
        name: path.display().to_string(),
        version: None,
        sha256,
    }
}

/// `dir` itself if it has modules, else the only directory in its `lib/modules` or in it.
fn find_tree(dir: &Path) -> Result<std::path::PathBuf, ImportError> {
    let is_tree = |dir: &Path| dir.join("kernel").is_dir() || dir.join("modules.builtin").is_file();
    if is_tree(dir) {
        return Ok(dir.into());
    }
    let below = dir.join("lib/modules");
    let parent = if below.is_dir() { &below } else { dir };
    let entries = parent.read_dir();
    let entries = entries.map_err(|e| ImportError::Read(parent.into(), e))?;
    let mut trees: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| is_tree(path))
        .collect();
    trees.sort();
    match &trees[..] {
        [tree] => Ok(tree.clone()),
        [] => Err(ImportError::NoModules(dir.display().to_string())),
        [first, second, ..] => {
            let name = |path: &Path| path.file_name().unwrap_or_default().display().to_string();
            Err(ImportError::TwoKernels(name(first), name(second)))
        }
    }
}

fn copy_file(from: &Path, to: &Path) -> Result<(), ImportError> {
    let mut source = fs::File::open(from).map_err(|e| ImportError::Read(from.into(), e))?;
    let mut target = fs::File::create(to).map_err(|e| ImportError::Write(to.into(), e))?;
    let copied = io::copy(&mut source, &mut target);
    copied.map_err(|e| ImportError::Read(from.into(), e))?;
    Ok(())
}

/// Copies directories and regular files. Links lead to sources and headers, which a guest does
/// not need.
fn copy_tree(from: &Path, to: &Path) -> Result<(), ImportError> {
    fs::create_dir_all(to).map_err(|e| ImportError::Write(to.into(), e))?;
    let read = |e| ImportError::Read(from.into(), e);
    for entry in from.read_dir().map_err(read)? {
        let entry = entry.map_err(read)?;
        let kind = entry.file_type().map_err(read)?;
        let target = to.join(entry.file_name());
        if kind.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else if kind.is_file() {
            copy_file(&entry.path(), &target)?;
        }
    }
    Ok(())
}
