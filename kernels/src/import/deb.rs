//! Debian packages (deb(5)): an `ar` archive of `debian-binary`, `control.tar.*` and
//! `data.tar.*`. Of the data, only the kernel's image, configuration and modules are taken.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use tar::{Archive, EntryType};

use super::{Import, ImportError};
use crate::compression::Format;
use crate::digest;
use crate::manifest::Source;

/// Greatest size of what a package unpacks to, in bytes.
const MAX_UNPACKED: u64 = 4 << 30;

/// Greatest size of a package's control data, in bytes.
const MAX_CONTROL: u64 = 16 << 20;

/// Takes the package at `path` apart into `import`. A kernel can be spread over several.
pub fn unpack(path: &Path, import: &mut Import) -> Result<(), ImportError> {
    let read = |e| ImportError::Read(path.into(), e);
    let not_a_package = |reason: &str| ImportError::NotAPackage {
        path: path.into(),
        reason: reason.into(),
    };
    let file = File::open(path).map_err(read)?;
    let mut archive = ar::Archive::new(BufReader::new(file));
    let mut control = None;
    let mut has_data = false;
    while let Some(entry) = archive.next_entry() {
        let mut entry = entry.map_err(|e| not_a_package(&e.to_string()))?;
        let name = String::from_utf8_lossy(entry.header().identifier()).into_owned();
        let name = name.trim_end_matches('/');
        if name.starts_with("control.tar") {
            control = Some(read_control(path, &mut entry)?);
        } else if name.starts_with("data.tar") {
            unpack_data(path, &mut entry, import)?;
            has_data = true;
        }
    }
    let control = control.ok_or_else(|| not_a_package("it has no control.tar"))?;
    if !has_data {
        return Err(not_a_package("it has no data.tar"));
    }
    let field = |name: &str| {
        let mut lines = control.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map(|value| value.trim().to_owned())
    };
    let architecture = field("Architecture").unwrap_or_default();
    if architecture != "amd64" {
        return Err(ImportError::Architecture {
            path: path.into(),
            architecture,
        });
    }
    import.source.push(Source {
        name: field("Package").ok_or_else(|| not_a_package("its control data have no Package"))?,
        version: field("Version"),
        sha256: digest::of_file(path).map_err(read)?,
    });
    Ok(())
}

/// A reader of a compressed part of the package, and no more than `limit` bytes of it.
fn decompress<'a>(
    path: &Path,
    part: &'a mut impl Read,
    limit: u64,
) -> Result<impl Read + 'a, ImportError> {
    let mut magic = Vec::new();
    let read = |e| ImportError::Read(path.into(), e);
    part.take(6).read_to_end(&mut magic).map_err(read)?;
    let format = Format::detect(&magic);
    let reader = format.and_then(|format| format.reader(io::Cursor::new(magic).chain(part)));
    let reader = reader.map_err(|e| ImportError::Compression(path.into(), e))?;
    Ok(reader.take(limit))
}

/// The package's control file.
fn read_control(path: &Path, part: &mut impl Read) -> Result<String, ImportError> {
    let read = |e| ImportError::Read(path.into(), e);
    let mut archive = Archive::new(decompress(path, part, MAX_CONTROL)?);
    for entry in archive.entries().map_err(read)? {
        let mut entry = entry.map_err(read)?;
        let name = entry.path_bytes().into_owned();
        if matches!(&name[..], b"control" | b"./control") {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(read)?;
            return Ok(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
    Err(ImportError::NotAPackage {
        path: path.into(),
        reason: "its control.tar has no control file".into(),
    })
}

fn unpack_data(path: &Path, part: &mut impl Read, import: &mut Import) -> Result<(), ImportError> {
    let read = |e| ImportError::Read(path.into(), e);
    let mut archive = Archive::new(decompress(path, part, MAX_UNPACKED)?);
    for entry in archive.entries().map_err(read)? {
        let mut entry = entry.map_err(read)?;
        // Links are not needed (Debian's lead to headers), and could lead out of the tree.
        if !matches!(entry.header().entry_type(), EntryType::Regular) {
            continue;
        }
        let name = entry.path().map_err(read)?.into_owned();
        let parts = plain_parts(&name).ok_or_else(|| ImportError::Hostile {
            path: path.into(),
            reason: format!("its file {name:?} would be outside of the kernel's directory"),
        })?;
        if let Some(target) = target(&parts, import)? {
            let write = |e| ImportError::Write(target.clone(), e);
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).map_err(write)?;
            }
            let mut file = File::create(&target).map_err(write)?;
            io::copy(&mut entry, &mut file).map_err(read)?;
        }
    }
    // The checksums are at the very end.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(read)?;
    Ok(())
}

/// The names in a path, if it leads nowhere but down.
fn plain_parts(path: &Path) -> Option<Vec<&str>> {
    let parts = path.components().filter(|part| *part != Component::CurDir);
    parts
        .map(|part| match part {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect()
}

/// Where a file of the package goes, if anywhere.
fn target(parts: &[&str], import: &mut Import) -> Result<Option<PathBuf>, ImportError> {
    let parts = match parts {
        ["usr", rest @ ..] => rest,
        all => all,
    };
    Ok(match parts {
        ["boot", file] => {
            if let Some(release) = file.strip_prefix("vmlinuz-") {
                import.set_release(release)?;
                Some(import.image())
            } else if let Some(release) = file.strip_prefix("config-") {
                import.set_release(release)?;
                Some(import.config())
            } else {
                None
            }
        }
        ["lib", "modules", release, rest @ ..] if !rest.is_empty() => {
            import.set_release(release)?;
            let tree = import.modules().join("lib/modules").join(release);
            Some(tree.join(rest.iter().collect::<PathBuf>()))
        }
        _ => None,
    })
}

#[cfg(test)]
#[path = "deb_test.rs"]
pub(crate) mod tests;
