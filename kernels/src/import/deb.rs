//! Debian packages (deb(5)), also Ubuntu's: an `ar` archive of `debian-binary`,
//! `control.tar.*` and `data.tar.*`.

use std::io::Read;
use std::path::Path;

use super::package::{Description, MAX_UNPACKED, decompress, not_a_package, take_tar};
use super::{Import, ImportError};

/// Greatest size of a package's control data, in bytes.
const MAX_CONTROL: u64 = 16 << 20;

/// Takes the package apart that `file` is.
pub(super) fn unpack(
    path: &Path,
    file: &mut impl Read,
    import: &mut Import,
) -> Result<Description, ImportError> {
    let not_a_package = not_a_package(path);
    let mut archive = ar::Archive::new(file);
    let mut control = None;
    let mut has_data = false;
    while let Some(entry) = archive.next_entry() {
        let mut entry = entry.map_err(|e| not_a_package(&e.to_string()))?;
        let name = String::from_utf8_lossy(entry.header().identifier()).into_owned();
        let name = name.trim_end_matches('/');
        if name.starts_with("control.tar") {
            control = Some(read_control(path, &mut entry)?);
        } else if name.starts_with("data.tar") {
            let data = decompress(path, &mut entry, MAX_UNPACKED)?;
            take_tar(path, data, import, &mut |_, _| Ok(()))?;
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
    let maintainer = field("Maintainer").unwrap_or_default();
    Ok(Description {
        name: field("Package").ok_or_else(|| not_a_package("its control data have no Package"))?,
        version: field("Version").unwrap_or_default(),
        architecture: field("Architecture").unwrap_or_default(),
        distribution: maintainer.contains("Ubuntu").then_some("ubuntu"),
    })
}

/// The package's control file.
fn read_control(path: &Path, part: &mut impl Read) -> Result<String, ImportError> {
    let read = |e| ImportError::Read(path.into(), e);
    let mut archive = tar::Archive::new(decompress(path, part, MAX_CONTROL)?);
    for entry in archive.entries().map_err(read)? {
        let mut entry = entry.map_err(read)?;
        let name = entry.path_bytes().into_owned();
        if matches!(&name[..], b"control" | b"./control") {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(read)?;
            return Ok(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
    Err(not_a_package(path)("its control.tar has no control file"))
}

#[cfg(test)]
#[path = "deb_test.rs"]
pub(crate) mod tests;
