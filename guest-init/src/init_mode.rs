//! Is the command an init system, which must be the machine's PID 1?

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::renameat;
use runcvm_protocol::{InitMode, Process};

use crate::kernel_log;
use crate::process::candidates;
use crate::rootdir::RootDir;

/// Programs that are init systems whatever they are called by.
const INIT_SYSTEMS: [&str; 7] = [
    "systemd",
    "openrc-init",
    "procd",
    "runit",
    "runit-init",
    "s6-linux-init",
    "s6-svscan",
];

/// Programs that are init systems when called `init`, and other things by other names.
const MULTI_CALL: [&str; 2] = ["busybox", "toybox"];

/// What the command turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// It shall replace runcvm-init as the machine's PID 1.
    pub(crate) pid1: bool,
    /// It is systemd, which sets up by itself what others find done.
    pub(crate) systemd: bool,
}

/// Looks at the command of `process`.
pub(crate) fn identify(mode: InitMode, process: &Process, root: &RootDir) -> Identity {
    let chain = match may_be_init(process) {
        false => Vec::new(),
        true => candidates(process)
            .iter()
            .map(|path| root.link_chain(Path::new(OsStr::from_bytes(path))))
            .find(|chain| !chain.is_empty())
            .unwrap_or_default(),
    };
    Identity {
        pid1: match mode {
            InitMode::Pid1 => true,
            InitMode::Namespaced => false,
            InitMode::Auto => is_init_system(&chain),
        },
        systemd: chain.last().is_some_and(|path| path.ends_with("systemd")),
    }
}

/// Puts aside the file by which programs know docker's containers: an init system would take
/// this machine for one, and do less than a machine needs.
pub(crate) fn hide_container(root: &RootDir) {
    match renameat(root, ".dockerenv", root, ".dockerenv.runcvm") {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(e) => kernel_log::error(&format!("cannot rename /.dockerenv: {e}")),
    }
}

/// A program that is looked up by `PATH` counts by its own name only: to follow every `sh` and
/// `sleep` through the search would cost each start more than all the rest of this.
fn may_be_init(process: &Process) -> bool {
    let program = process.args.first().map(|program| program.as_slice());
    let known = INIT_SYSTEMS.iter().map(|name| name.as_bytes());
    program.is_some_and(|program| {
        program.contains(&b'/') || program == b"init" || known.into_iter().any(|n| n == program)
    })
}

/// Judges by the names that a program goes by, from the one called to that of the file.
fn is_init_system<P: AsRef<Path>>(chain: &[P]) -> bool {
    let name = |path: &P| {
        path.as_ref()
            .file_name()
            .map(OsStr::as_bytes)
            .unwrap_or_default()
            .to_vec()
    };
    let Some(file) = chain.last().map(name) else {
        return false;
    };
    if INIT_SYSTEMS.iter().any(|known| known.as_bytes() == file) {
        return true;
    }
    if MULTI_CALL.iter().any(|known| known.as_bytes() == file) {
        return matches!(name(&chain[0]).as_slice(), b"init" | b"linuxrc");
    }
    // `/init` is a container's entrypoint (s6-overlay's for one), not an init system.
    chain.iter().any(|path| {
        let path = path.as_ref();
        path.ends_with("sbin/init") || path.ends_with("bin/init")
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use runcvm_protocol::ByteBuf;

    use super::*;

    fn process(program: &str) -> Process {
        Process {
            args: vec![ByteBuf::from(program)],
            env: vec![ByteBuf::from("PATH=/usr/sbin:/sbin:/bin")],
            cwd: ByteBuf::from("/"),
            ..Process::default()
        }
    }

    /// A tree with `files` and symlinks, each a (name, target).
    fn tree(files: &[&str], links: &[(&str, &str)]) -> (tempfile::TempDir, RootDir) {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| {
            let path = dir.path().join(name.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            path
        };
        for name in files {
            fs::write(place(name), "").unwrap();
        }
        for (name, target) in links {
            symlink(target, place(name)).unwrap();
        }
        let root = RootDir::new(dir.path()).unwrap();
        (dir, root)
    }

    #[test]
    fn init_systems_are_found_by_path_and_target() {
        type Case = (
            &'static str,
            &'static [&'static str],
            &'static [(&'static str, &'static str)],
            bool,
        );
        let cases: [Case; 14] = [
            ("/lib/systemd/systemd", &["/lib/systemd/systemd"], &[], true),
            (
                "/sbin/init",
                &["/lib/systemd/systemd"],
                &[("/sbin/init", "/lib/systemd/systemd")],
                true,
            ),
            (
                "/sbin/init",
                &["/lib/systemd/systemd"],
                &[("/sbin/init", "../lib/systemd/systemd")],
                true,
            ),
            (
                "init",
                &["/lib/systemd/systemd"],
                &[("/sbin/init", "/lib/systemd/systemd")],
                true,
            ),
            (
                "/entry",
                &["/lib/systemd/systemd"],
                &[
                    ("/entry", "/sbin/init"),
                    ("/sbin/init", "/lib/systemd/systemd"),
                ],
                true,
            ),
            ("/sbin/init", &["/sbin/init"], &[], true),
            (
                "/sbin/init",
                &["/bin/busybox"],
                &[("/sbin/init", "/bin/busybox")],
                true,
            ),
            (
                "/bin/sh",
                &["/bin/busybox"],
                &[("/bin/sh", "/bin/busybox")],
                false,
            ),
            ("/sbin/openrc-init", &["/sbin/openrc-init"], &[], true),
            ("/init", &["/init"], &[], false),
            ("/usr/bin/tini", &["/usr/bin/tini"], &[], false),
            ("/sbin/my_init", &["/sbin/my_init"], &[], false),
            ("/sbin/init", &[], &[], false),
            ("/loop", &[], &[("/loop", "/loop")], false),
        ];
        for (program, files, links, expected) in cases {
            let (_dir, root) = tree(files, links);
            let found = identify(InitMode::Auto, &process(program), &root);
            assert_eq!(found.pid1, expected, "{program} {files:?} {links:?}");
            let systemd = files.iter().any(|file| file.ends_with("/systemd"));
            assert_eq!(found.systemd, systemd, "{program} {files:?} {links:?}");
        }
    }

    #[test]
    fn what_marks_a_container_is_put_aside() {
        let (dir, root) = tree(&["/.dockerenv"], &[]);
        hide_container(&root);
        hide_container(&root);
        assert!(!dir.path().join(".dockerenv").exists());
        assert!(dir.path().join(".dockerenv.runcvm").exists());
    }

    #[test]
    fn a_mode_that_is_given_holds() {
        let (_dir, root) = tree(&["/sbin/init", "/bin/true"], &[]);
        assert!(identify(InitMode::Pid1, &process("/bin/true"), &root).pid1);
        assert!(!identify(InitMode::Namespaced, &process("/sbin/init"), &root).pid1);
    }
}
