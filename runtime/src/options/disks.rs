//! `RUNCVM_DISKS`: files that are disks of the machine, made and filled where missing.

use std::path::{Component, Path, PathBuf};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// One disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DiskOption {
    /// The file, an absolute path in the container.
    pub(crate) src: PathBuf,
    /// Where it is mounted in the guest, an absolute path; its content is what a new disk
    /// begins with.
    pub(crate) dst: PathBuf,
    /// The filesystem, as mount(8) names it.
    pub(crate) fs: String,
    /// The size in bytes that a new file gets.
    pub(crate) size: Option<u64>,
    /// As the user wrote it, for messages.
    pub(crate) spec: String,
}

const FORM: &str =
    "each disk is SRC,DST,FILESYSTEM[,SIZE], such as /disks/a,/var/lib/docker,ext4,5G";

/// Disks separated by semicolons.
pub(super) fn parse_disks(value: &str) -> Result<Vec<DiskOption>> {
    let specs = value
        .split(';')
        .map(str::trim)
        .filter(|spec| !spec.is_empty());
    let mut disks: Vec<DiskOption> = Vec::new();
    for spec in specs {
        let disk = parse_disk(spec)?;
        for other in &disks {
            if other.src == disk.src {
                bail!(
                    "RUNCVM_DISKS: {spec} has the file of another disk, {}",
                    other.spec
                );
            }
            if other.dst == disk.dst {
                bail!(
                    "RUNCVM_DISKS: {spec} has the mountpoint of another disk, {}",
                    other.spec
                );
            }
        }
        disks.push(disk);
    }
    Ok(disks)
}

fn parse_disk(spec: &str) -> Result<DiskOption> {
    let fields: Vec<_> = spec.split(',').map(str::trim).collect();
    let (src, dst, fs, size) = match fields[..] {
        [src, dst, fs] => (src, dst, fs, None),
        [src, dst, fs, size] => (src, dst, fs, Some(size).filter(|size| !size.is_empty())),
        _ => bail!("RUNCVM_DISKS: {spec} has {} fields; {FORM}", fields.len()),
    };
    let src = absolute(spec, "file", src)?;
    let dst = absolute(spec, "mountpoint", dst)?;
    if src == dst {
        bail!("RUNCVM_DISKS: {spec} has a file that is its own mountpoint; {FORM}");
    }
    if dst == Path::new("/") {
        bail!("RUNCVM_DISKS: {spec} would hide the root filesystem; {FORM}");
    }
    if src.starts_with(&dst) {
        bail!("RUNCVM_DISKS: {spec} has a file below its own mountpoint; {FORM}");
    }
    if fs.is_empty() || !fs.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        bail!("RUNCVM_DISKS: {spec} has no filesystem's name as its third field; {FORM}");
    }
    let size = match size.map(parse_size) {
        Some(None) => bail!(
            "RUNCVM_DISKS: {spec} has no size as its last field; it can be 500M, 5G or a number \
             of bytes"
        ),
        Some(size) => size,
        None => None,
    };
    Ok(DiskOption {
        src,
        dst,
        fs: fs.into(),
        size,
        spec: spec.into(),
    })
}

/// An absolute path without `.`, `..` and empty parts.
fn absolute(spec: &str, what: &str, path: &str) -> Result<PathBuf> {
    let path = Path::new(path);
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        bail!("RUNCVM_DISKS: the {what} of {spec} is not an absolute path without ..; {FORM}");
    }
    Ok(path.components().collect())
}

/// A size as truncate(1) has it: `K` and `KiB` are 1024, `KB` is 1000, and so on.
fn parse_size(size: &str) -> Option<u64> {
    let digits = size.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    if digits.starts_with('+') {
        return None;
    }
    let suffix = &size[digits.len()..];
    let (unit, base) = match suffix.get(1..) {
        None => return digits.parse().ok().filter(|&bytes| bytes > 0),
        Some("" | "iB") => (&suffix[..1], 1024_u64),
        Some("B") => (&suffix[..1], 1000),
        Some(_) => return None,
    };
    let power = match unit {
        "K" | "k" => 1,
        "M" | "m" => 2,
        "G" | "g" => 3,
        "T" | "t" => 4,
        "P" => 5,
        "E" => 6,
        _ => return None,
    };
    let count: u64 = digits.parse().ok().filter(|&count| count > 0)?;
    // Files are no longer than this.
    count
        .checked_mul(base.checked_pow(power)?)
        .filter(|&bytes| i64::try_from(bytes).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(value: &str) -> String {
        parse_disks(value).unwrap_err().to_string()
    }

    #[test]
    fn disks_are_taken_apart() {
        let value = "/disks//docker/,/var/lib/docker,ext4,5G; /b,/opt,xfs ;";
        let disks = parse_disks(value).unwrap();
        assert_eq!(disks.len(), 2);
        assert_eq!(
            disks[0],
            DiskOption {
                src: "/disks/docker".into(),
                dst: "/var/lib/docker".into(),
                fs: "ext4".into(),
                size: Some(5 << 30),
                spec: "/disks//docker/,/var/lib/docker,ext4,5G".into(),
            }
        );
        assert_eq!((disks[1].fs.as_str(), disks[1].size), ("xfs", None));
        assert_eq!(parse_disks(" ; ").unwrap(), []);
    }

    #[test]
    fn sizes_are_those_of_truncate() {
        for (size, bytes) in [
            ("1", Some(1)),
            ("4096", Some(4096)),
            ("1K", Some(1024)),
            ("1kB", Some(1000)),
            ("2MiB", Some(2 << 20)),
            ("3MB", Some(3_000_000)),
            ("1g", Some(1 << 30)),
            ("1T", Some(1 << 40)),
            ("7E", Some(7 << 60)),
            ("8E", None),
            ("99999999999G", None),
            ("0", None),
            ("0G", None),
            ("", None),
            ("G", None),
            ("+1G", None),
            ("%5", None),
            ("-1", None),
            ("1.5G", None),
            ("1X", None),
            ("1Gb", None),
            ("1\u{e9}B", None),
        ] {
            assert_eq!(parse_size(size), bytes, "{size}");
        }
    }

    #[test]
    fn errors_name_the_disk() {
        for (value, part) in [
            ("/a,/b", "/a,/b has 2 fields"),
            ("/a,/b,ext4,1G,x", "has 5 fields"),
            (
                "a,/b,ext4,1G",
                "the file of a,/b,ext4,1G is not an absolute path",
            ),
            ("/a,/b/../c,ext4", "the mountpoint of /a,/b/../c,ext4"),
            ("/a,/a/,ext4", "its own mountpoint"),
            ("/a,/,ext4", "hide the root"),
            ("/a/b/disk,/a,ext4,1G", "a file below its own mountpoint"),
            ("/a,/b,", "no filesystem's name"),
            ("/a,/b,ext 4", "no filesystem's name"),
            ("/a,/b,ext4,big", "/a,/b,ext4,big has no size"),
            (
                "/a,/b,ext4;/a,/c,ext4",
                "/a,/c,ext4 has the file of another disk, /a,/b,ext4",
            ),
            (
                "/a,/b,ext4;/c,/b,ext4",
                "has the mountpoint of another disk",
            ),
        ] {
            let error = error(value);
            assert!(error.starts_with("RUNCVM_DISKS: "), "{error}");
            assert!(error.contains(part), "{value}: {error}");
        }
    }
}
