//! Taps, the machine's ends.

use anyhow::{Context, Result};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkMessage,
};
use nix::net::if_::if_nametoindex;

use super::netlink::Netlink;

/// Makes the tap `name`, which stays until its namespace goes, and gives its index. One that
/// an earlier machine left in this namespace goes first.
pub(super) fn make(netlink: &mut Netlink, name: &str) -> Result<u32> {
    if let Ok(index) = if_nametoindex(name) {
        let mut old = LinkMessage::default();
        old.header.index = index;
        netlink
            .execute(Message::DelLink(old), 0)
            .context("is that of an earlier machine and cannot be deleted")?;
    }
    runcvm_vmm::launch::net::make_tap(name)?;
    let index = if_nametoindex(name).context("has no index")?;
    // Else this kernel would tell the guest of itself as a neighbour. Where there is no IPv6
    // the request fails, and nothing needs it.
    let mut silent = LinkMessage::default();
    silent.header.index = index;
    silent.attributes = vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(
        vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)],
    )])];
    let _ = netlink.execute(Message::SetLink(silent), 0);
    Ok(index)
}
