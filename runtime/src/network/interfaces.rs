//! The interfaces that docker gave the container.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use runcvm_protocol::Route;

use super::netlink::Netlink;

/// An Ethernet interface that is up and no tap.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mac: [u8; 6],
    /// It finds its neighbours by their hardware addresses.
    pub(super) arp: bool,
    /// In bytes.
    pub(super) mtu: u16,
    /// Addresses with prefix lengths, but for those that a kernel makes by itself.
    pub(super) addresses: Vec<(IpAddr, u8)>,
    /// Routes, but for those that a kernel makes by itself. Those without a router come
    /// first, since the others may need them.
    pub(super) routes: Vec<Route>,
}

/// All interfaces that the guest is to have, in their order.
pub(super) fn list(netlink: &mut Netlink) -> Result<Vec<Interface>> {
    let mut request = LinkMessage::default();
    // Nobody needs the counters, of which newer kernels have more than older ones.
    request.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    let links = netlink
        .list(&Message::GetLink(request))
        .context("The network interfaces cannot be listed")?;
    let mut interfaces: Vec<Interface> = links
        .iter()
        .filter_map(|message| match message {
            Message::NewLink(link) => interface(link),
            _ => None,
        })
        .collect();
    let addresses = netlink
        .list(&Message::GetAddress(AddressMessage::default()))
        .context("The network addresses cannot be listed")?;
    for message in &addresses {
        if let Message::NewAddress(message) = message
            && let Some(address) = address(message)
            && let Some(interface) = find(&mut interfaces, message.header.index)
        {
            interface.addresses.push(address);
        }
    }
    let routes = netlink
        .list(&Message::GetRoute(RouteMessage::default()))
        .context("The routes cannot be listed")?;
    for message in &routes {
        if let Message::NewRoute(message) = message
            && let Some((index, route)) = route(message)
            && let Some(interface) = find(&mut interfaces, index)
        {
            interface.routes.push(route);
        }
    }
    for interface in &mut interfaces {
        interface
            .routes
            .sort_by_key(|route| route.gateway.is_some());
    }
    Ok(interfaces)
}

fn find(interfaces: &mut [Interface], index: u32) -> Option<&mut Interface> {
    interfaces.iter_mut().find(|i| i.index == index)
}

fn interface(message: &LinkMessage) -> Option<Interface> {
    let header = &message.header;
    if header.link_layer_type != LinkLayerType::Ether || !header.flags.contains(LinkFlags::Up) {
        return None;
    }
    let mut interface = Interface {
        index: header.index,
        name: String::new(),
        mac: [0; 6],
        arp: !header.flags.contains(LinkFlags::Noarp),
        mtu: 0,
        addresses: Vec::new(),
        routes: Vec::new(),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::Address(mac) => interface.mac = mac.as_slice().try_into().ok()?,
            LinkAttribute::LinkInfo(info) if info.contains(&LinkInfo::Kind(InfoKind::Tun)) => {
                return None;
            }
            LinkAttribute::Mtu(mtu) => interface.mtu = u16::try_from(*mtu).unwrap_or(u16::MAX),
            _ => {}
        }
    }
    Some(interface)
}

/// A link-local IPv6 address is left out: the guest's kernel makes the same one from the
/// hardware address.
fn address(message: &AddressMessage) -> Option<(IpAddr, u8)> {
    let mut near = None;
    let mut far = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => near = Some(*ip),
            AddressAttribute::Address(ip) => far = Some(*ip),
            _ => {}
        }
    }
    // Only an address that has a peer has both, and the other one is the peer's.
    let ip = near.or(far)?;
    let link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    (!link_local).then_some((ip, message.header.prefix_len))
}

/// A route of the main table and the interface that it leads through.
fn route(message: &RouteMessage) -> Option<(u32, Route)> {
    let header = &message.header;
    let own = header.kind == RouteType::Unicast
        && header.table == RouteHeader::RT_TABLE_MAIN
        && ![RouteProtocol::Kernel, RouteProtocol::Ra].contains(&header.protocol);
    let any = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let mut index = None;
    let mut route = Route {
        destination: (any, header.destination_prefix_length),
        gateway: None,
        metric: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => route.destination.0 = ip(to)?,
            RouteAttribute::Gateway(by) => route.gateway = Some(ip(by)?),
            RouteAttribute::Priority(metric) => route.metric = Some(*metric),
            RouteAttribute::Oif(interface) => index = Some(*interface),
            _ => {}
        }
    }
    own.then_some((index?, route))
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}
