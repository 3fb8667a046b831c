//! Network interfaces: taps of the host, opened and brought up here.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use runcvm_devices::virtio::net::{TapError, open_tap};
use runcvm_protocol::{Interface, Route};
use thiserror::Error;

use super::patience::insist;

/// Smallest and greatest MTU of an interface in bytes (RFC 791; virtio 1.2, §5.1.4).
pub const MTU: std::ops::RangeInclusive<u16> = 68..=65535;

/// Smallest MTU that IPv6 works with (RFC 8200, §5).
pub const MIN_IPV6_MTU: u16 = 1280;

/// A network interface for the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetSpec {
    /// Name of the host's tap; made for the life of the machine if it is not there.
    pub tap: String,
    /// The interface's name in the guest; `eth0` and so on if not given.
    pub name: Option<String>,
    /// The guest's hardware address; random if not given.
    pub mac: Option<[u8; 6]>,
    /// The guest's addresses with prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
    /// The guest's default gateways, at most one of each family.
    pub gateways: Vec<IpAddr>,
    /// The guest's further routes.
    pub routes: Vec<Route>,
    /// MTU of tap and guest in bytes; the tap's own if not given.
    pub mtu: Option<u16>,
}

/// Why an interface cannot be used.
#[derive(Debug, Error)]
pub enum Error {
    #[error(transparent)]
    Open(#[from] TapError),
    #[error("The tap {0} cannot be set up")]
    SetUp(String, #[source] io::Error),
}

/// An interface that is open.
#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) tap: OwnedFd,
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: u16,
    /// How the guest sets it up.
    pub(crate) interface: Interface,
}

/// Makes the tap `name`, which then stays until it is deleted or its network namespace goes.
pub fn make_tap(name: &str) -> Result<(), Error> {
    let tap = open_tap(name)?;
    // SAFETY: TUNSETPERSIST takes a number.
    let result = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETPERSIST, 1) };
    nix::errno::Errno::result(result).map_err(|e| Error::SetUp(name.to_owned(), e.into()))?;
    Ok(())
}

/// Opens the tap of the `index`th interface and brings it up.
pub(crate) fn open(spec: &NetSpec, index: usize) -> Result<Net, Error> {
    let in_use = |e: &TapError| matches!(e, TapError::InUse(_));
    let tap = insist(|| open_tap(&spec.tap), in_use)?;
    let set_up = |e| Error::SetUp(spec.tap.clone(), e);
    let link = Link::new(&spec.tap).map_err(set_up)?;
    if let Some(mtu) = spec.mtu {
        link.set_mtu(mtu).map_err(set_up)?;
    }
    let mtu = link.mtu().map_err(set_up)?;
    link.bring_up().map_err(set_up)?;
    let mac = match spec.mac {
        Some(mac) => mac,
        None => random_mac().map_err(set_up)?,
    };
    Ok(Net {
        tap: tap.into(),
        mac,
        mtu,
        interface: Interface {
            mac,
            name: spec.name.clone().unwrap_or_else(|| format!("eth{index}")),
            mtu: None,
            addresses: spec.addresses.clone(),
            gateways: spec.gateways.clone(),
            routes: spec.routes.clone(),
        },
    })
}

/// A random unicast address of the locally administered range (IEEE 802, bits 0 and 1 of the
/// first byte).
fn random_mac() -> io::Result<[u8; 6]> {
    let mut mac = super::random::bytes::<6>()?;
    mac[0] = (mac[0] & !0b01) | 0b10;
    Ok(mac)
}

/// A network interface of the host, by name.
struct Link {
    /// Any socket will do for the ioctls of interfaces.
    socket: UdpSocket,
    name: [libc::c_char; libc::IFNAMSIZ],
}

impl Link {
    fn new(name: &str) -> io::Result<Self> {
        let mut bytes = [0; libc::IFNAMSIZ];
        if name.len() >= bytes.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (to, from) in bytes.iter_mut().zip(name.bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        Ok(Self {
            socket: UdpSocket::bind("0.0.0.0:0")?,
            name: bytes,
        })
    }

    fn mtu(&self) -> io::Result<u16> {
        let request = self.call(libc::SIOCGIFMTU, |_| {})?;
        // SAFETY: SIOCGIFMTU filled this member of the union (netdevice(7)).
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
    }

    fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        self.call(libc::SIOCSIFMTU, |r| r.ifr_ifru.ifru_mtu = mtu.into())?;
        Ok(())
    }

    fn bring_up(&self) -> io::Result<()> {
        let request = self.call(libc::SIOCGIFFLAGS, |_| {})?;
        // SAFETY: SIOCGIFFLAGS filled this member of the union (netdevice(7)).
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        let up = libc::c_short::try_from(libc::IFF_UP).expect("it is bit 0");
        self.call(libc::SIOCSIFFLAGS, |r| r.ifr_ifru.ifru_flags = flags | up)?;
        Ok(())
    }

    fn call(
        &self,
        number: libc::Ioctl,
        fill: impl FnOnce(&mut libc::ifreq),
    ) -> io::Result<libc::ifreq> {
        // SAFETY: `ifreq` is plain data, for which all zeroes is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_name = self.name;
        fill(&mut request);
        // SAFETY: the interface ioctls read and write one `ifreq`, and `request` is one.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), number, &raw mut request) };
        nix::errno::Errno::result(result)?;
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_addresses_are_local_and_unicast() {
        for _ in 0..100 {
            assert_eq!(random_mac().unwrap()[0] & 0b11, 0b10);
        }
    }

    #[test]
    fn the_loopback_interface_has_its_mtu() {
        assert_eq!(Link::new("lo").unwrap().mtu().unwrap(), u16::MAX);
        assert!(Link::new("no-such-link").unwrap().mtu().is_err());
        assert!(Link::new("longer-than-a-name").is_err());
    }
}
