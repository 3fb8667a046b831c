//! The machine's network: what docker gave the container, handed on to the guest.
//!
//! Beside each interface of the container lies a tap, and traffic control passes frames
//! between the two, so that there is no bridge and nothing to configure in the host. The
//! guest takes the interface's name, hardware address, addresses and routes. The container
//! keeps its addresses, which serve the few connections that are not the guest's
//! ([`traffic::Local`]).

pub(crate) mod dns;
mod interfaces;
mod netlink;
mod tap;
mod traffic;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use runcvm_vmm::launch::net::NetSpec;

use interfaces::Interface;
use netlink::Netlink;
use traffic::Local;

/// What the machine gets.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) nets: Vec<NetSpec>,
    /// Not even the loopback interface has IPv6, as docker has it without a network of IPv6.
    pub(crate) no_ipv6: bool,
    /// Names are resolved by docker, at [`dns::SERVER`] in the container.
    pub(crate) dns: bool,
}

/// Prepares the network of this process's namespace for a machine whose root filesystem is
/// at `root`. TCP connections to the port `vnc` are the container's own.
pub(crate) fn set_up(root: &Path, vnc: Option<u16>) -> Result<Network> {
    let dns = dns::is_dockers(root).context("/etc/resolv.conf cannot be read")?;
    let mut local: Vec<Local> = vnc.map(Local::Port).into_iter().collect();
    if dns {
        local.push(Local::Resolver);
    }
    let mut netlink = Netlink::open().context("Netlink cannot be used")?;
    let mut nets = Vec::new();
    for interface in interfaces::list(&mut netlink)? {
        let name = &interface.name;
        let net = connect(&mut netlink, &interface, &local)
            .with_context(|| format!("The container's interface {name} cannot be used"))?;
        nets.push(net);
    }
    // Where the kernel has no IPv6 there is no such file, and nothing that could differ.
    let off = fs::read("/proc/sys/net/ipv6/conf/lo/disable_ipv6");
    Ok(Network {
        nets,
        no_ipv6: off.is_ok_and(|value| value.starts_with(b"1")),
        dns,
    })
}

/// Puts a tap beside `interface` and has traffic flow between them.
fn connect(netlink: &mut Netlink, interface: &Interface, local: &[Local]) -> Result<NetSpec> {
    ensure!(
        interface.arp,
        "It knows no hardware addresses, as with ipvlan in mode l3: a machine needs a network with \
         them, such as a bridge, macvlan, or ipvlan in mode l2"
    );
    let tap = format!("tap-{}", interface.index);
    let index = tap::make(netlink, &tap).with_context(|| format!("The tap {tap}"))?;
    traffic::join(netlink, interface.index, index, local)?;
    Ok(NetSpec {
        tap,
        name: Some(interface.name.clone()),
        mac: Some(interface.mac),
        addresses: interface.addresses.clone(),
        // They are among the routes, with their metrics.
        gateways: Vec::new(),
        routes: interface.routes.clone(),
        mtu: Some(interface.mtu),
    })
}

#[cfg(test)]
mod tests;
