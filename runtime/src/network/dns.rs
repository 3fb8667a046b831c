//! Docker's name server, which listens in the container and is not reachable from elsewhere.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use runcvm_protocol::ForwardAt;
use runcvm_vmm::launch::spec::{ForwardSpec, ForwardTo};

/// Where docker's name server listens in a container, UDP and TCP.
pub(crate) const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)), 53);

/// The kernel parameter that has the container's own connections use only the ports that
/// [`super::traffic`] lets through, and its value.
///
/// Docker's name server asks others by sockets of the container's network namespace. Their
/// answers are known by these ports, which no guest uses by default.
pub(crate) const PORTS_SYSCTL: (&str, &str) = ("net.ipv4.ip_local_port_range", "61440 62463");

/// No resolver reads more of a file than this.
const LIMIT: u64 = 64 * 1024;

/// The guest's connections to [`SERVER`], which lead to the one in the container.
pub(crate) fn forwards() -> [ForwardSpec; 2] {
    [
        ForwardSpec {
            at: ForwardAt::Udp(SERVER),
            to: ForwardTo::Udp(SERVER),
        },
        ForwardSpec {
            at: ForwardAt::Tcp(SERVER),
            to: ForwardTo::Tcp(SERVER),
        },
    ]
}

/// Whether the file `/etc/resolv.conf` in `root`, which belongs to somebody hostile, names
/// docker's name server. One that is not there or no file names none.
pub(super) fn is_dockers(root: &Path) -> io::Result<bool> {
    let root = open(root, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let Ok(file) = openat2(&root, "etc/resolv.conf", how) else {
        return Ok(false);
    };
    let file = File::from(file);
    if !file.metadata()?.is_file() {
        return Ok(false);
    }
    let mut text = Vec::new();
    file.take(LIMIT).read_to_end(&mut text)?;
    Ok(names_dockers(&String::from_utf8_lossy(&text)))
}

/// See resolv.conf(5).
fn names_dockers(text: &str) -> bool {
    text.lines().any(|line| {
        let mut words = line.split_ascii_whitespace();
        words.next() == Some("nameserver")
            && words.next().and_then(|ip| ip.parse().ok()) == Some(SERVER.ip())
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::traffic::{FIRST_PORT, PORT_MASK};
    use super::*;

    #[test]
    fn dockers_server_is_recognised() {
        assert!(names_dockers(
            "search x\nnameserver 127.0.0.11\noptions ndots:0\n"
        ));
        assert!(names_dockers("nameserver ::1\n nameserver\t127.0.0.11 #"));
        for text in [
            "",
            "nameserver",
            "nameserver 127.0.0.111",
            "# nameserver 127.0.0.11",
            "nameserver 10.0.0.1 127.0.0.11",
            "search 127.0.0.11",
        ] {
            assert!(!names_dockers(text), "{text:?}");
        }
    }

    #[test]
    fn only_a_file_inside_is_read() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("etc/resolv.conf");
        let outside = tempfile::NamedTempFile::new().unwrap();
        fs::write(outside.path(), "nameserver 127.0.0.11\n").unwrap();
        let is = || is_dockers(root.path()).unwrap();

        assert!(!is());
        fs::create_dir_all(&path).unwrap();
        assert!(!is(), "a directory");
        fs::remove_dir(&path).unwrap();
        symlink(outside.path(), &path).unwrap();
        assert!(!is(), "a link that leads out");
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        assert!(!is(), "a pipe");
        fs::remove_file(&path).unwrap();
        symlink("/run/../../run/resolv.conf", &path).unwrap();
        fs::create_dir(root.path().join("run")).unwrap();
        fs::copy(outside.path(), root.path().join("run/resolv.conf")).unwrap();
        assert!(is(), "a link that stays inside");
        fs::remove_file(&path).unwrap();
        let padding = "#\n".repeat(40_000);
        fs::write(&path, padding + "nameserver 127.0.0.11").unwrap();
        assert!(!is(), "more than is read");
        is_dockers(Path::new("/no such directory")).unwrap_err();
    }

    #[test]
    fn its_ports_are_the_ones_that_are_let_through() {
        let (first, last) = (FIRST_PORT, FIRST_PORT | !PORT_MASK);
        assert_eq!(PORTS_SYSCTL.1, format!("{first} {last}"));
    }
}
