//! The machine's network interfaces, set up by rtnetlink(7).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail};
use runcvm_protocol::{Interface, Route};

use crate::netlink::{Batch, Netlink, attributes};
use crate::rootdir::RootDir;
use crate::sysctl;

// linux/if_link.h
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
// linux/if_addr.h
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_F_NODAD: u8 = 0x02;
// linux/rtnetlink.h
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTNH_F_ONLINK: u32 = 4;

/// Length of `struct ifinfomsg`.
const IFINFOMSG: usize = 16;

/// Index of the loopback interface, always.
const LOOPBACK: u32 = 1;

/// Metric of the default routes of all interfaces but the first.
const LATER_METRIC: u32 = 1024;

/// Brings up the loopback interface and all of `interfaces`; with `no_ipv6` only those that are
/// for IPv6 have it. `proc` is a proc filesystem.
pub(crate) fn set_up(interfaces: &[Interface], no_ipv6: bool, proc: &RootDir) -> Result<()> {
    if no_ipv6 {
        // It turns off all interfaces that there are, and those to come. Fails where the kernel
        // has no IPv6.
        let _ = sysctl::write(proc, "net/ipv6/conf/all/disable_ipv6", "1");
    }
    let netlink = Netlink::open()?;
    let mut batch = Batch::default();
    set_link(
        &mut batch,
        LOOPBACK,
        true,
        "bring up the loopback interface".to_owned(),
    );
    if !interfaces.is_empty() {
        let links = links(&netlink)?;
        let indices = find(interfaces, &links)?;
        make_way(&netlink, interfaces, &indices, &links)?;
        for (order, (interface, link)) in interfaces.iter().zip(indices).enumerate() {
            set_up_ipv6(interface, link, proc);
            add_interface(&mut batch, interface, link.index)?;
            add_routes(&mut batch, interface, link.index, order);
        }
    }
    Ok(netlink.execute(&batch)?)
}

/// Lets everybody open low ports and ping, as container runtimes do: on a machine that runs
/// one workload it protects nobody.
pub(crate) fn relax_limits(proc: &RootDir) {
    let _ = sysctl::write(proc, "net/ipv4/ip_unprivileged_port_start", "0");
    let _ = sysctl::write(proc, "net/ipv4/ping_group_range", "0 2147483647");
}

/// An interface that the kernel has.
#[derive(Debug)]
struct Link {
    index: u32,
    name: Vec<u8>,
    address: Vec<u8>,
}

fn links(netlink: &Netlink) -> Result<Vec<Link>> {
    let mut links = Vec::new();
    netlink
        .dump(libc::RTM_GETLINK, &[0; IFINFOMSG], |entry| {
            let Some((fixed, rest)) = entry.split_first_chunk::<IFINFOMSG>() else {
                return;
            };
            let [_, _, _, _, i0, i1, i2, i3, ..] = *fixed;
            let mut link = Link {
                index: u32::from_ne_bytes([i0, i1, i2, i3]),
                name: Vec::new(),
                address: Vec::new(),
            };
            for (kind, value) in attributes(rest) {
                match kind {
                    IFLA_ADDRESS => link.address = value.to_vec(),
                    IFLA_IFNAME => {
                        link.name = value.strip_suffix(b"\0").unwrap_or(value).to_vec();
                    }
                    _ => {}
                }
            }
            links.push(link);
        })
        .context("cannot list the network interfaces")?;
    Ok(links)
}

fn find<'a>(interfaces: &[Interface], links: &'a [Link]) -> Result<Vec<&'a Link>> {
    let find_one = |interface: &Interface| {
        links
            .iter()
            .find(|link| link.address == interface.mac)
            .with_context(|| {
                let [a, b, c, d, e, f] = interface.mac;
                format!(
                    "no network interface has the address \
                     {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x} of {}",
                    interface.name
                )
            })
    };
    interfaces.iter().map(find_one).collect()
}

/// If the new name of an interface is still that of another, gives the other one a name
/// that nobody wants.
fn make_way(
    netlink: &Netlink,
    interfaces: &[Interface],
    wanted: &[&Link],
    links: &[Link],
) -> Result<()> {
    let mut batch = Batch::default();
    for (interface, own) in interfaces.iter().zip(wanted) {
        let holder = links
            .iter()
            .find(|link| link.name == interface.name.as_bytes());
        if let Some(holder) = holder.filter(|holder| holder.index != own.index) {
            let name = format!("was{}", holder.index);
            let what = format!("rename interface {} to {name}", interface.name);
            set_link(&mut batch, holder.index, false, what);
            batch.attribute(IFLA_IFNAME, &with_nul(&name));
        }
    }
    Ok(netlink.execute(&batch)?)
}

/// IPv6 without waiting: nobody else has our addresses, so looking for duplicates would only
/// cost time. An interface that is for IPv4 only gets no IPv6, as in a container.
fn set_up_ipv6(interface: &Interface, link: &Link, proc: &RootDir) {
    let name = String::from_utf8_lossy(&link.name);
    let addresses = interface.addresses.iter().map(|(ip, _)| ip);
    let mut used = addresses.chain(interface.routes.iter().map(|route| &route.destination.0));
    let settings: &[_] = if used.any(IpAddr::is_ipv6) {
        &[("accept_dad", "0"), ("disable_ipv6", "0")]
    } else if !interface.addresses.is_empty() {
        &[("disable_ipv6", "1")]
    } else {
        &[]
    };
    for (setting, value) in settings {
        // Fails where the kernel has no IPv6; then there is nothing to set.
        let _ = sysctl::write(proc, &format!("net/ipv6/conf/{name}/{setting}"), value);
    }
}

fn add_interface(batch: &mut Batch, interface: &Interface, index: u32) -> Result<()> {
    let name = &interface.name;
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        bail!("{name:?} cannot be the name of a network interface: it must have 1 to 15 bytes");
    }
    set_link(batch, index, true, format!("bring up interface {name}"));
    batch.attribute(IFLA_IFNAME, &with_nul(name));
    if let Some(mtu) = interface.mtu {
        batch.attribute(IFLA_MTU, &mtu.to_ne_bytes());
    }
    for &(ip, prefix) in &interface.addresses {
        add_address(batch, index, ip, prefix, name);
    }
    Ok(())
}

/// Adds the routes of the `order`th interface.
fn add_routes(batch: &mut Batch, interface: &Interface, index: u32, order: usize) {
    let later = u32::try_from(order).ok().filter(|&order| order > 0);
    for &gateway in &interface.gateways {
        let any = match gateway {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let route = Route {
            destination: (any, 0),
            gateway: Some(gateway),
            metric: later.map(|order| LATER_METRIC + order),
        };
        add_route(batch, interface, index, &route);
    }
    for route in &interface.routes {
        add_route(batch, interface, index, route);
    }
}

fn set_link(batch: &mut Batch, index: u32, up: bool, what: String) {
    let flag = u32::try_from(libc::IFF_UP).expect("a small positive constant");
    let mut fixed = [0; IFINFOMSG];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    if up {
        fixed[8..12].copy_from_slice(&flag.to_ne_bytes());
        fixed[12..16].copy_from_slice(&flag.to_ne_bytes());
    }
    batch.request(libc::RTM_NEWLINK, 0, &fixed, what);
}

fn add_address(batch: &mut Batch, index: u32, ip: IpAddr, prefix: u8, name: &str) {
    let (family, bytes) = family_and_bytes(ip);
    let flags = if ip.is_ipv6() { IFA_F_NODAD } else { 0 };
    // struct ifaddrmsg
    let mut fixed = vec![family, prefix, flags, 0];
    fixed.extend_from_slice(&index.to_ne_bytes());
    let what = format!("give {ip}/{prefix} to interface {name}");
    let create = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    batch.request(libc::RTM_NEWADDR, create, &fixed, what);
    batch.attribute(IFA_LOCAL, &bytes);
    batch.attribute(IFA_ADDRESS, &bytes);
    if let IpAddr::V4(ip) = ip
        && prefix < 31
    {
        let broadcast = u32::from(ip) | u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
        batch.attribute(IFA_BROADCAST, &broadcast.to_be_bytes());
    }
}

fn add_route(batch: &mut Batch, interface: &Interface, index: u32, route: &Route) {
    let (to, prefix) = route.destination;
    let (family, destination) = family_and_bytes(to);
    let scope = match route.gateway {
        Some(_) => libc::RT_SCOPE_UNIVERSE,
        None => libc::RT_SCOPE_LINK,
    };
    // A router that no address of the interface is near is on the link all the same.
    let on_link = route.gateway.is_some_and(|gateway| {
        let near = |&(ip, prefix): &(IpAddr, u8)| same_network(ip, gateway, prefix);
        !interface.addresses.iter().any(near)
    });
    // struct rtmsg
    let mut fixed = vec![family, prefix, 0, 0];
    fixed.extend_from_slice(&[
        libc::RT_TABLE_MAIN,
        libc::RTPROT_BOOT,
        scope,
        libc::RTN_UNICAST,
    ]);
    let flags = if on_link { RTNH_F_ONLINK } else { 0 };
    fixed.extend_from_slice(&flags.to_ne_bytes());
    let by = route.gateway.map(|gateway| format!(" by {gateway}"));
    let what = format!(
        "route {to}/{prefix}{} through interface {}",
        by.unwrap_or_default(),
        interface.name
    );
    let create = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    batch.request(libc::RTM_NEWROUTE, create, &fixed, what);
    if prefix > 0 {
        batch.attribute(RTA_DST, &destination);
    }
    if let Some(gateway) = route.gateway {
        batch.attribute(RTA_GATEWAY, &family_and_bytes(gateway).1);
    }
    batch.attribute(RTA_OIF, &index.to_ne_bytes());
    if let Some(metric) = route.metric {
        batch.attribute(RTA_PRIORITY, &metric.to_ne_bytes());
    }
}

fn family_and_bytes(ip: IpAddr) -> (u8, Vec<u8>) {
    let (family, bytes) = match ip {
        IpAddr::V4(ip) => (libc::AF_INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (libc::AF_INET6, ip.octets().to_vec()),
    };
    (
        u8::try_from(family).expect("address families are small"),
        bytes,
    )
}

/// `a` and `b` share their first `prefix` bits. A link-local IPv6 address is near everywhere.
fn same_network(a: IpAddr, b: IpAddr, prefix: u8) -> bool {
    let prefix = u32::from(prefix);
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let mask = !u32::MAX.checked_shr(prefix).unwrap_or(0);
            u32::from(a) & mask == u32::from(b) & mask
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let mask = !u128::MAX.checked_shr(prefix).unwrap_or(0);
            b.is_unicast_link_local() || u128::from(a) & mask == u128::from(b) & mask
        }
        _ => false,
    }
}

fn with_nul(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

#[cfg(test)]
mod tests;
