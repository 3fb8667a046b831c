//! Packages that are compressed tar archives with a file `.PKGINFO`: Alpine's (APKv2, in
//! whose case it is several archives and gzip members, one behind the other, without ends)
//! and Arch's.

use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::package::{Description, MAX_UNPACKED, decompress, not_a_package, take_tar};
use super::{Import, ImportError};
use crate::compression::Format;

/// Greatest size of a package's own description, in bytes.
const MAX_INFO: u64 = 1 << 20;

/// Takes the package apart that `file` is.
pub(super) fn unpack(
    path: &Path,
    file: &mut impl Read,
    import: &mut Import,
) -> Result<Description, ImportError> {
    let mut magic = Vec::new();
    let read = |e| ImportError::Read(path.into(), e);
    file.take(2).read_to_end(&mut magic).map_err(read)?;
    let is_gzip = Format::detect(&magic).is_ok_and(|format| format == Format::Gzip);
    let mut whole = magic.chain(file);
    let mut info = None;
    let mut other = |name: &str, content: &mut dyn Read| {
        if name == ".PKGINFO" {
            let mut bytes = Vec::new();
            content.take(MAX_INFO).read_to_end(&mut bytes)?;
            info = Some(String::from_utf8_lossy(&bytes).into_owned());
        }
        Ok(())
    };
    if is_gzip {
        let archive = MultiGzDecoder::new(whole).take(MAX_UNPACKED);
        take_tar(path, archive, import, &mut other)?;
    } else {
        let archive = decompress(path, &mut whole, MAX_UNPACKED)?;
        take_tar(path, archive, import, &mut other)?;
    }
    let info = info.ok_or_else(|| not_a_package(path)("it has no .PKGINFO"))?;
    let field = |name: &str| {
        let mut lines = info.lines().filter_map(|line| line.split_once(" = "));
        let value = lines.find(|(field, _)| *field == name);
        value.map(|(_, value)| value.trim().to_owned())
    };
    let name = field("pkgname");
    Ok(Description {
        name: name.ok_or_else(|| not_a_package(path)("its .PKGINFO has no pkgname"))?,
        version: field("pkgver").unwrap_or_default(),
        architecture: field("arch").unwrap_or_default(),
        distribution: Some(if is_gzip { "alpine" } else { "arch" }),
    })
}

#[cfg(test)]
#[path = "pkginfo_test.rs"]
mod tests;
