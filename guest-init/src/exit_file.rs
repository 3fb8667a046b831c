//! A file to which the workload may write the status that its machine ends with, as in
//! versions of RunCVM that could not know the command's own.

use std::path::Path;

use anyhow::Result;
use nix::fcntl::OFlag;
use runcvm_protocol::{ByteBuf, ExitStatus, Mount, MountSource};

use crate::mounts;
use crate::rootdir::RootDir;

const DIR: &str = "/.runcvm";
const FILES: [&str; 2] = ["/.runcvm/exit-code", "/.runcvm/exitcode"];

/// Greatest length of such a file.
const MAX_LEN: u64 = 64;

/// Gives the workload a directory for it that is empty and not part of its image. Only where
/// the image has one to mount it on: it shall have no other.
pub(crate) fn prepare(root: &RootDir) -> Result<()> {
    if root
        .open(Path::new(DIR), OFlag::O_PATH | OFlag::O_DIRECTORY)
        .is_err()
    {
        return Ok(());
    }
    let tmpfs = Mount {
        source: MountSource::Tmpfs {
            options: ByteBuf::from("size=1m,mode=1777,nosuid,nodev,noexec"),
        },
        target: ByteBuf::from(DIR),
        read_only: false,
    };
    mounts::mount_for_user(root, &tmpfs)
}

/// The status of a workload that ended with `status`: that of the file, unless it failed.
pub(crate) fn status(root: &RootDir, status: ExitStatus) -> ExitStatus {
    if status != ExitStatus::Code(0) {
        return status;
    }
    let read = |path: &str| root.read_file(Path::new(path), MAX_LEN).ok()?;
    let written = FILES.iter().find_map(|path| parse(&read(path)?));
    written.map_or(status, ExitStatus::Code)
}

/// A number, of which a status has the lowest eight bits.
fn parse(content: &[u8]) -> Option<u8> {
    let number: u32 = std::str::from_utf8(content).ok()?.trim().parse().ok()?;
    Some(number.to_le_bytes()[0])
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_written_status_holds_if_the_command_did_not_fail() {
        let dir = tempfile::tempdir().unwrap();
        let root = RootDir::new(dir.path()).unwrap();
        let (good, bad) = (ExitStatus::Code(0), ExitStatus::Signal(9));
        assert_eq!(status(&root, good), good);
        fs::create_dir(dir.path().join(".runcvm")).unwrap();
        let write = |name, content: &[u8]| fs::write(dir.path().join(name), content).unwrap();
        write(".runcvm/exitcode", b" 300\n");
        assert_eq!(status(&root, good), ExitStatus::Code(44));
        write(".runcvm/exit-code", b"7");
        assert_eq!(status(&root, good), ExitStatus::Code(7));
        assert_eq!(status(&root, bad), bad);
        for nonsense in [&b""[..], b"x", b"-1", b"\xff", &[b'1'; 65]] {
            write(".runcvm/exit-code", nonsense);
            assert_eq!(status(&root, good), ExitStatus::Code(44), "{nonsense:?}");
        }
    }
}
