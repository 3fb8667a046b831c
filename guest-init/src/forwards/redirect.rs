//! Forwards at addresses whose ports stay free for the workload.
//!
//! Docker's name server is at 127.0.0.11:53, and yet a name server in a container may listen at
//! port 53 of all addresses: what is sent to docker's goes to a port that the kernel chose. In
//! the machine, whose kernel may have no packet filter, BPF programs of type
//! `BPF_PROG_TYPE_CGROUP_SOCK_ADDR` (linux/bpf.h) do so for the sockets of its network namespace.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{SockaddrStorage, getsockname};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::Listener;
use crate::bpf::{self, Insn, Register};

/// `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`.
const PROGRAM_TYPE: u32 = 18;

/// Tools show the programs by it.
const PROGRAM_NAME: &std::ffi::CStr = c"runcvm_forward";

/// `BPF_FUNC_get_netns_cookie`.
const GET_NETNS_COOKIE: i32 = 122;

/// Offsets in `struct bpf_sock_addr`. Addresses and ports are in network byte order.
const USER_IP4: i16 = 4;
const USER_IP6: i16 = 8;
const USER_PORT: i16 = 24;
const PROTOCOL: i16 = 36;

/// The result of a program that has the system call go on.
const GO_ON: i32 = 1;

const RESULT: Register = Register(0);
const SCRATCH: Register = Register(1);
const CONTEXT: Register = Register(6);
const COOKIE: Register = Register(7);

/// A place in the kernel where addresses go in or out of sockets.
#[derive(Clone, Copy, Debug)]
struct Hook {
    /// Of `enum bpf_attach_type`.
    attach_type: u32,
    family: Family,
    direction: Direction,
}

#[derive(Clone, Copy, Debug)]
enum Family {
    V4,
    /// Addresses of IPv4 in sockets of IPv6.
    Mapped,
}

#[derive(Clone, Copy, Debug)]
enum Direction {
    /// The address is one to send to.
    In,
    /// The address is one that was sent to, or from.
    Out,
}

const fn hook(attach_type: u32, family: Family, direction: Direction) -> Hook {
    Hook {
        attach_type,
        family,
        direction,
    }
}

/// Those of connections, which sockets of datagrams may have too: connect(2), getpeername(2).
const CONNECTIONS: [Hook; 4] = [
    hook(10, Family::V4, Direction::In),
    hook(11, Family::Mapped, Direction::In),
    hook(29, Family::V4, Direction::Out),
    hook(30, Family::Mapped, Direction::Out),
];

/// Those of datagrams: sendmsg(2), which takes mapped addresses for what they are, and
/// recvmsg(2), which does not. Who asks a name server looks whether it is the one to answer.
const DATAGRAMS: [Hook; 3] = [
    hook(14, Family::V4, Direction::In),
    hook(19, Family::V4, Direction::Out),
    hook(20, Family::Mapped, Direction::Out),
];

/// The address of a forward, if its port is to stay free.
///
/// At 127.0.0.1 it is not: a server of the workload that listens there is to hear that it
/// cannot. Other loopback addresses are in the way of those only that listen at all.
pub(super) fn free_address(at: SocketAddr) -> Option<SocketAddrV4> {
    match at {
        SocketAddr::V4(at) if at.ip().is_loopback() && *at.ip() != Ipv4Addr::LOCALHOST => Some(at),
        _ => None,
    }
}

/// Leads to a listener what is sent to another port of its address, as long as this exists
/// here or in a child.
#[derive(Debug)]
pub(super) struct Redirect {
    links: Vec<OwnedFd>,
}

impl Redirect {
    /// Begins to lead to `listener` what processes in its network namespace send to `at`.
    pub(super) fn new(at: SocketAddrV4, listener: &Listener) -> Result<Self> {
        let (protocol, datagrams) = match listener {
            Listener::Tcp(_) => (libc::IPPROTO_TCP, &[][..]),
            Listener::Udp(_) => (libc::IPPROTO_UDP, &DATAGRAMS[..]),
            Listener::Unix(_) => anyhow::bail!("a Unix socket has no port"),
        };
        let route = Route {
            ip: *at.ip(),
            protocol,
            port: at.port(),
            listener: port(listener)?,
            netns: netns_cookie(listener).context("cannot identify the network")?,
        };
        let group = root_group().context("cannot open the control groups")?;
        let link = |hook: &Hook| {
            let attach_type = hook.attach_type;
            let program = bpf::load(
                &route.program(*hook),
                PROGRAM_TYPE,
                attach_type,
                PROGRAM_NAME,
            )?;
            bpf::attach(&program, &group, attach_type)
        };
        let hooks = CONNECTIONS.iter().chain(datagrams);
        let links = hooks.map(link).collect::<nix::Result<_>>();
        Ok(Self {
            links: links.context("the kernel takes no BPF program for it")?,
        })
    }

    /// What must stay open.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.links.iter().map(AsFd::as_fd)
    }
}

/// What is led where.
#[derive(Debug)]
struct Route {
    ip: Ipv4Addr,
    protocol: i32,
    port: u16,
    /// The port of the listener.
    listener: u16,
    /// The network namespace, as kernel and programs know it.
    netns: u64,
}

impl Route {
    /// Changes the port of an address, if the address is the one, and lets everything pass.
    fn program(&self, hook: Hook) -> Vec<Insn> {
        let (from, to) = match hook.direction {
            Direction::In => (self.port, self.listener),
            Direction::Out => (self.listener, self.port),
        };
        let word = |bytes: [u8; 4]| i32::from_ne_bytes(bytes);
        let network_order = |port: u16| i32::from(port.to_be());
        // Containers in the machine have name servers of their own at the same address.
        let mut program = vec![
            Insn::copy(CONTEXT, Register(1)),
            Insn::call(GET_NETNS_COOKIE),
            Insn::copy(COOKIE, Register(0)),
            Insn::set(RESULT, GO_ON),
        ];
        program.extend(Insn::set_wide(SCRATCH, self.netns));
        program.extend([Insn::skip_if_equal(COOKIE, SCRATCH, 1), Insn::exit()]);

        let mut expected = vec![(PROTOCOL, self.protocol), (USER_PORT, network_order(from))];
        match hook.family {
            Family::V4 => expected.push((USER_IP4, word(self.ip.octets()))),
            Family::Mapped => {
                let octets = self.ip.to_ipv6_mapped().octets();
                let (words, _) = octets.as_chunks::<4>();
                expected.extend((USER_IP6..).step_by(4).zip(words.iter().copied().map(word)));
            }
        }
        for (offset, value) in expected {
            program.extend([
                Insn::load(SCRATCH, CONTEXT, offset),
                Insn::skip_if_low_is(SCRATCH, value, 1),
                Insn::exit(),
            ]);
        }
        program.extend([
            Insn::set(SCRATCH, network_order(to)),
            Insn::store(CONTEXT, USER_PORT, SCRATCH),
            Insn::exit(),
        ]);
        program
    }
}

fn port(listener: &Listener) -> Result<u16> {
    let address: SockaddrStorage = getsockname(listener.as_fd().as_raw_fd())?;
    let address = address.as_sockaddr_in().context("no address of IPv4")?;
    Ok(address.port())
}

/// The number by which the kernel knows the network namespace of `socket`.
fn netns_cookie(socket: &impl AsFd) -> nix::Result<u64> {
    let mut cookie = 0u64;
    let mut len = libc::socklen_t::try_from(size_of_val(&cookie)).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the cookie is as long as is said, and both are valid for writing.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    Errno::result(result).map(|_| cookie)
}

/// The control group of which all others are children. It is there whether the workload has
/// the unified hierarchy mounted or not, and need not be mounted here either.
fn root_group() -> rustix::io::Result<OwnedFd> {
    let context = fsopen(c"cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    fsmount(&context, flags, MountAttrFlags::empty())
}

#[cfg(test)]
mod tests;
