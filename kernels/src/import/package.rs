//! Packages of distributions: `.deb`, `.rpm`, `.apk`, and Arch's. Of what they hold, only the
//! kernel's image, configuration and modules are taken. A kernel can be spread over several.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek};
use std::path::{Component, Path, PathBuf};

use tar::{Archive, EntryType};

use super::{Import, ImportError, deb, pkginfo, rpm};
use crate::compression::Format;
use crate::digest;
use crate::manifest::Source;

/// Greatest size of what a package unpacks to, in bytes.
pub(super) const MAX_UNPACKED: u64 = 4 << 30;

/// What a package says about itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Description {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) architecture: String,
    /// Its distribution by its identifier in os-release(5), if known.
    pub(super) distribution: Option<&'static str>,
}

/// Takes the package at `path` apart into `import`.
pub fn unpack(path: &Path, import: &mut Import) -> Result<(), ImportError> {
    let read = |e| ImportError::Read(path.into(), e);
    let mut file = BufReader::new(File::open(path).map_err(read)?);
    let mut magic = Vec::new();
    (&mut file).take(8).read_to_end(&mut magic).map_err(read)?;
    file.rewind().map_err(read)?;
    let (description, expected) = match &magic[..] {
        b"!<arch>\n" => (deb::unpack(path, &mut file, import)?, "amd64"),
        [0xed, 0xab, 0xee, 0xdb, ..] => (rpm::unpack(path, &mut file, import)?, "x86_64"),
        other if Format::detect(other).is_ok_and(|format| format != Format::None) => {
            (pkginfo::unpack(path, &mut file, import)?, "x86_64")
        }
        _ => return Err(not_a_package(path)("it is neither .deb, .rpm nor .apk")),
    };
    if description.architecture != expected {
        return Err(ImportError::Architecture {
            path: path.into(),
            architecture: description.architecture,
        });
    }
    if let Some(distribution) = description.distribution {
        import.distribution = Some(distribution.into());
    }
    import.source.push(Source {
        name: description.name,
        version: Some(description.version),
        sha256: digest::of_file(path).map_err(read)?,
    });
    Ok(())
}

pub(super) fn not_a_package(path: &Path) -> impl Fn(&str) -> ImportError {
    |reason| ImportError::NotAPackage {
        path: path.into(),
        reason: reason.into(),
    }
}

/// A reader of a compressed part of the package, and no more than `limit` bytes of it.
pub(super) fn decompress<'a>(
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

/// Takes what is of a kernel's from a tar archive in the package at `path`. `other` gets the
/// first of all other files in the root directory, by name.
pub(super) fn take_tar(
    path: &Path,
    archive: impl Read,
    import: &mut Import,
    other: &mut dyn FnMut(&str, &mut dyn Read) -> io::Result<()>,
) -> Result<(), ImportError> {
    let read = |e| ImportError::Read(path.into(), e);
    let mut archive = Archive::new(archive);
    for entry in archive.entries().map_err(read)? {
        let mut entry = entry.map_err(read)?;
        // Links are not needed (Debian's lead to headers), and could lead out of the tree.
        if !matches!(entry.header().entry_type(), EntryType::Regular) {
            continue;
        }
        let name = entry.path().map_err(read)?.into_owned();
        match plain_parts(&name).as_deref() {
            Some([name]) => other(name, &mut entry).map_err(read)?,
            _ => take(path, &name, &mut entry, import)?,
        }
    }
    // The checksums are at the very end.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(read)?;
    Ok(())
}

/// Takes the file `name` of the package at `path` if it is of the kernel's.
pub(super) fn take(
    path: &Path,
    name: &Path,
    content: &mut impl Read,
    import: &mut Import,
) -> Result<(), ImportError> {
    let parts = plain_parts(name).ok_or_else(|| ImportError::Hostile {
        path: path.into(),
        reason: format!("its file {name:?} would be outside of the kernel's directory"),
    })?;
    let Some(target) = target(&parts, import)? else {
        return Ok(());
    };
    let write = |e| ImportError::Write(target.clone(), e);
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(write)?;
    }
    let mut file = File::create(&target).map_err(write)?;
    io::copy(content, &mut file).map_err(|e| ImportError::Read(path.into(), e))?;
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
            let (kind, suffix) = file.split_once('-').unwrap_or((file, ""));
            let target = match kind {
                "vmlinuz" => import.image(),
                "config" => import.config(),
                _ => return Ok(None),
            };
            // Alpine's is called after its flavour.
            if suffix.starts_with(|c: char| c.is_ascii_digit()) {
                import.set_release(suffix)?;
            }
            Some(target)
        }
        ["lib", "modules", release, rest @ ..] if !rest.is_empty() => {
            import.set_release(release)?;
            match rest {
                ["vmlinuz"] => Some(import.image()),
                ["config"] => Some(import.config()),
                [file] if !file.starts_with("modules.") => None,
                _ => Some(import.tree().join(rest.iter().collect::<PathBuf>())),
            }
        }
        _ => None,
    })
}
