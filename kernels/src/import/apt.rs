//! Debian's packages of kernels, from the archives that the host's apt knows.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use thiserror::Error;

use crate::name::compare_versions;

/// Series of kernels that are taken if none is asked for, the best first; the last stands for
/// any.
const PREFERRED: [&str; 3] = ["6.12", "6.1", ""];

/// Why apt gave no package.
#[derive(Debug, Error)]
pub enum AptError {
    /// The host has no apt.
    #[error(
        "{0} is not installed; on a host that is not Debian give packages with --package, or a \
         kernel with --vmlinuz and --modules"
    )]
    NoApt(&'static str),
    /// There is no room for the package.
    #[error("cannot make a temporary directory")]
    TemporaryDirectory(#[source] io::Error),
    /// A program could not be run.
    #[error("cannot run {0}")]
    Run(&'static str, #[source] io::Error),
    /// A program failed.
    #[error("{program} failed: {message}")]
    Failed {
        program: &'static str,
        message: String,
    },
    /// No such package is in the archives.
    #[error(
        "apt knows no package {wanted}{known}; `apt-get update` as root refreshes what it knows"
    )]
    NotFound { wanted: String, known: String },
    /// Packages are missing, and only root can install them.
    #[error("packages are missing; as root, run: apt-get install --no-install-recommends {0}")]
    Missing(String),
    /// The package could not be downloaded.
    #[error("cannot download {package} (is the host offline?): {message}")]
    Download { package: String, message: String },
}

/// A package in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub package: String,
    /// Its version.
    pub version: String,
    /// Release of its kernel, as in `uname -r`; of a source, its version.
    pub release: String,
    /// Size of the package file in bytes.
    pub size: u64,
    /// SHA-256 of the package file.
    pub sha256: String,
}

/// Finds the newest signed kernel package of a flavour (`amd64`, `cloud-amd64`) whose release
/// is `wanted` or begins with it.
pub fn find(flavour: &str, wanted: Option<&str>) -> Result<Candidate, AptError> {
    let names = run("apt-cache", &["pkgnames", "linux-image-"], None)?;
    let releases = releases(&names, flavour);
    let series = wanted.map_or(PREFERRED.to_vec(), |wanted| vec![wanted]);
    for prefix in series {
        for release in releases.iter().filter(|r| belongs_to(r, prefix)) {
            if let Some(found) = show(&format!("linux-image-{release}")) {
                let release = release.clone();
                return Ok(Candidate { release, ..found });
            }
        }
    }
    let known = match &releases[..] {
        [] => String::new(),
        some => format!(" (it knows {})", some.join(", ")),
    };
    Err(AptError::NotFound {
        wanted: format!("linux-image-{}*-{flavour}", wanted.unwrap_or_default()),
        known,
    })
}

/// Finds the newest package with the source of a series of kernels.
pub fn find_source(series: &str) -> Result<Candidate, AptError> {
    let package = format!("linux-source-{series}");
    show(&package).ok_or(AptError::NotFound {
        wanted: package,
        known: String::new(),
    })
}

/// What the archives have under a name: apt also knows some that none has.
fn show(package: &str) -> Option<Candidate> {
    let show = ["show", "--no-all-versions", package];
    parse_record(&run("apt-cache", &show, None).ok()?, package)
}

/// Installs those of these packages that are not installed.
pub fn install(packages: &[&str], progress: &mut dyn FnMut(&str)) -> Result<(), AptError> {
    let query = |package: &&&str| {
        let status = ["-W", "-f", "${db:Status-Status}", package];
        run("dpkg-query", &status, None).is_ok_and(|status| status == "installed")
    };
    let missing: Vec<&str> = packages.iter().filter(|p| !query(p)).copied().collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !nix::unistd::Uid::effective().is_root() {
        return Err(AptError::Missing(missing.join(" ")));
    }
    progress(&format!("Installing {}", missing.join(", ")));
    let mut args = vec!["-qq", "-y", "install", "--no-install-recommends"];
    args.extend(missing);
    run("apt-get", &args, None).map(drop)
}

/// Downloads a package into a temporary directory, checked by apt's signatures; the directory
/// and the file in it.
pub fn download(candidate: &Candidate) -> Result<(TempDir, PathBuf), AptError> {
    let dir = tempfile::tempdir().map_err(AptError::TemporaryDirectory)?;
    let failed = |message: String| AptError::Download {
        package: candidate.package.clone(),
        message,
    };
    let result = run(
        "apt-get",
        &["-q", "download", &candidate.package],
        Some(dir.path()),
    );
    result.map_err(|e| match e {
        AptError::Failed { message, .. } => failed(message),
        other => other,
    })?;
    let entries = dir.path().read_dir().map_err(|e| failed(e.to_string()))?;
    let mut files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let package = files.find(|path| path.extension().is_some_and(|e| e == "deb"));
    let package = package.ok_or_else(|| failed("apt-get left no package file".into()))?;
    Ok((dir, package))
}

fn run(program: &'static str, args: &[&str], dir: Option<&Path>) -> Result<String, AptError> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    command
        .env("LC_ALL", "C")
        .env("DEBIAN_FRONTEND", "noninteractive");
    if let Some(dir) = dir {
        command.current_dir(dir);
    }
    let output = command.output().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => AptError::NoApt(program),
        _ => AptError::Run(program, e),
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    let error = message.lines().find_map(|line| line.strip_prefix("E: "));
    Err(AptError::Failed {
        program,
        message: error.map_or_else(|| output.status.to_string(), Into::into),
    })
}

/// The releases of a flavour among names of packages, the newest first. Packages that stand
/// for the newest kernel, with debugging symbols, unsigned or of other flavours are not meant.
fn releases(names: &str, flavour: &str) -> Vec<String> {
    let mut releases: Vec<_> = names
        .lines()
        .filter_map(|name| {
            let release = name.trim().strip_prefix("linux-image-")?;
            let version = release.strip_suffix(flavour)?.strip_suffix('-')?;
            let last = version.rsplit('-').next()?;
            let whole = version.matches('.').count() >= 2;
            let own_flavour = last.starts_with(|c: char| c.is_ascii_digit());
            (whole && own_flavour).then(|| release.to_owned())
        })
        .collect();
    releases.sort_by(|a, b| compare_versions(b, a));
    releases.dedup();
    releases
}

/// `release` is in the series `prefix`: 6.1.0-56-amd64 is in 6.1 but not in 6.12.
fn belongs_to(release: &str, prefix: &str) -> bool {
    let rest = release.strip_prefix(prefix);
    rest.is_some_and(|rest| prefix.is_empty() || !rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Reads what `apt-cache show` says of a package. A kernel's release is what its version is
/// until the caller knows better.
fn parse_record(record: &str, package: &str) -> Option<Candidate> {
    let field = |name: &str| {
        let mut lines = record.lines();
        lines.find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
    };
    (field("Package")? == package).then_some(())?;
    let version = field("Version")?;
    let upstream = version
        .rsplit_once('-')
        .map_or(version, |(upstream, _)| upstream);
    Some(Candidate {
        package: package.into(),
        version: version.into(),
        release: upstream.into(),
        size: field("Size")?.parse().ok()?,
        sha256: field("SHA256")?.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &str = "linux-image-6.1.0-9-amd64\nlinux-image-6.1.0-56-amd64\n\
        linux-image-6.1.0-56-amd64-unsigned\nlinux-image-6.12.99+deb12-amd64\n\
        linux-image-6.12.117+deb12-amd64\nlinux-image-6.12.117+deb12-amd64-dbg\n\
        linux-image-6.12.117+deb12-cloud-amd64\nlinux-image-6.12.117+deb12-rt-amd64\n\
        linux-image-6.12-amd64\nlinux-image-amd64\nlinux-image-cloud-amd64\n";

    #[test]
    fn only_signed_kernels_of_the_flavour_count() {
        assert_eq!(
            releases(NAMES, "amd64"),
            [
                "6.12.117+deb12-amd64",
                "6.12.99+deb12-amd64",
                "6.1.0-56-amd64",
                "6.1.0-9-amd64"
            ]
        );
        let cloud = releases(NAMES, "cloud-amd64");
        assert_eq!(cloud, ["6.12.117+deb12-cloud-amd64"]);
    }

    #[test]
    fn a_series_ends_at_the_end_of_a_number() {
        assert!(belongs_to("6.1.0-56-amd64", "6.1"));
        assert!(belongs_to("6.1.0-56-amd64", "6.1.0-56-amd64"));
        assert!(!belongs_to("6.12.117+deb12-amd64", "6.1"));
        assert!(!belongs_to("6.12.117+deb12-amd64", "6.12.11"));
        assert!(belongs_to("6.12.117+deb12-amd64", ""));
    }

    #[test]
    fn a_record_is_read() {
        let record = "Package: p\nVersion: 1-2\nSize: 12\nDescription: x\n more\nSHA256: ab\n";
        let found = parse_record(record, "p").unwrap();
        assert_eq!((found.size, found.sha256.as_str()), (12, "ab"));
        assert_eq!(
            (found.version.as_str(), found.release.as_str()),
            ("1-2", "1")
        );
        assert_eq!(parse_record("", "p"), None);
        assert_eq!(parse_record(record, "q"), None);
    }
}
