//! The flow of frames between an interface and the tap beside it, by traffic control
//! (tc-u32(8), tc-mirred(8)): the machine gets what comes in at the interface, and what it
//! sends goes out there.
//!
//! Rules are tried in the order of their priority, and the first that matches decides. Rules
//! of one priority are for one protocol.

use anyhow::{Context, Result};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirror, TcActionMirrorOption, TcActionOption,
    TcActionType, TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle, TcHeader, TcMessage,
    TcMirror, TcMirrorActionType, TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
};

use super::netlink::Netlink;

/// Connections that the container itself has at the addresses that it shares with the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Local {
    /// Those to this TCP port.
    Port(u16),
    /// Those to name servers, from the ports at [`FIRST_PORT`].
    Resolver,
}

/// The first of the ports of the container's own connections to name servers. Linux uses
/// those from 32768 to 60999 unless told otherwise, so guests have none of these.
pub(super) const FIRST_PORT: u16 = 0xf000;
/// The bits that are the same in all of these ports.
pub(super) const PORT_MASK: u16 = 0xfc00;

const DNS_PORT: u16 = 53;

/// The handle of an interface's ingress qdisc, always.
const INGRESS: TcHandle = TcHandle {
    major: u16::MAX,
    minor: 0,
};

/// EtherTypes (linux/if_ether.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
enum EtherType {
    All = 0x0003,
    Ipv4 = 0x0800,
    Arp = 0x0806,
    Ipv6 = 0x86dd,
}

/// Protocols over IP (IANA's protocol numbers).
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The container gets it.
    Pass,
    /// The container gets it, and a copy goes out at this interface.
    Copy(u32),
    /// It goes out at this interface.
    Redirect(u32),
}

/// 32 bits of a packet that are compared where `mask` has ones, `offset` bytes from the
/// beginning of its network header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word {
    offset: u8,
    mask: u32,
    value: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    priority: u16,
    protocol: EtherType,
    /// All of them match.
    words: Vec<Word>,
    verdict: Verdict,
}

/// Has frames flow between the interfaces `link` and `tap`, but for `local` connections.
pub(super) fn join(netlink: &mut Netlink, link: u32, tap: u32, local: &[Local]) -> Result<()> {
    let mut add = |index: u32, rules: &[Rule]| -> Result<()> {
        let qdisc = ingress(index)?;
        // Fails unless an earlier machine of this namespace left one.
        let _ = netlink.execute(Message::DelQueueDiscipline(qdisc.clone()), 0);
        netlink
            .execute(
                Message::NewQueueDiscipline(qdisc),
                NLM_F_CREATE | NLM_F_EXCL,
            )
            .context("The kernel refuses an ingress qdisc")?;
        for rule in rules {
            netlink
                .execute(filter(index, rule)?, NLM_F_CREATE | NLM_F_EXCL)
                .context("The kernel refuses a u32 filter with a mirred action")?;
        }
        Ok(())
    };
    add(link, &inbound(tap, local))?;
    add(tap, &[everything(link)])
}

/// What comes in, for the guest behind `tap`.
fn inbound(tap: u32, local: &[Local]) -> Vec<Rule> {
    // Both kernels have the same neighbours, and either may answer for both.
    let neighbours = [(133, 0xff), (134, 0xfe), (136, 0xfe)].map(|(kind, mask)| Rule {
        priority: 2,
        protocol: EtherType::Ipv6,
        words: vec![next_header(ICMPV6), ipv6_payload(mask << 24, kind << 24)],
        verdict: Verdict::Copy(tap),
    });
    let arp = Rule {
        priority: 1,
        protocol: EtherType::Arp,
        words: Vec::new(),
        verdict: Verdict::Copy(tap),
    };
    let own = local.iter().flat_map(|local| local.rules());
    let rest = everything(tap);
    [arp]
        .into_iter()
        .chain(neighbours)
        .chain(own)
        .chain([rest])
        .collect()
}

fn everything(to: u32) -> Rule {
    Rule {
        priority: 5,
        protocol: EtherType::All,
        words: Vec::new(),
        verdict: Verdict::Redirect(to),
    }
}

impl Local {
    fn rules(self) -> Vec<Rule> {
        let (protocols, mask, value): (&[u8], _, _) = match self {
            Self::Port(port) => (&[TCP], ports(0, u16::MAX), ports(0, port)),
            Self::Resolver => (
                &[UDP, TCP],
                ports(u16::MAX, PORT_MASK),
                ports(DNS_PORT, FIRST_PORT),
            ),
        };
        let pass = |priority, protocol, words| Rule {
            priority,
            protocol,
            words,
            verdict: Verdict::Pass,
        };
        protocols
            .iter()
            .flat_map(|&protocol| {
                [
                    pass(3, EtherType::Ipv4, ipv4(protocol, mask, value)),
                    pass(
                        4,
                        EtherType::Ipv6,
                        vec![next_header(protocol), ipv6_payload(mask, value)],
                    ),
                ]
            })
            .collect()
    }
}

/// The first word of a TCP or UDP header (RFC 9293, §3.1; RFC 768).
fn ports(source: u16, destination: u16) -> u32 {
    u32::from(source) << 16 | u32::from(destination)
}

/// A packet of IPv4 without options, which is not the later part of another, with the first
/// word of its payload (RFC 791, §3.1).
fn ipv4(protocol: u8, mask: u32, value: u32) -> Vec<Word> {
    let word = |offset, mask, value| Word {
        offset,
        mask,
        value,
    };
    vec![
        word(0, 0x0f00_0000, 5 << 24),
        word(4, 0x1fff, 0),
        word(8, 0x00ff_0000, u32::from(protocol) << 16),
        word(20, mask, value),
    ]
}

/// A packet of IPv6 with this payload, without extension headers (RFC 8200, §3).
fn next_header(protocol: u8) -> Word {
    Word {
        offset: 4,
        mask: 0xff00,
        value: u32::from(protocol) << 8,
    }
}

fn ipv6_payload(mask: u32, value: u32) -> Word {
    Word {
        offset: 40,
        mask,
        value,
    }
}

fn ingress(index: u32) -> Result<TcMessage> {
    let mut message = TcMessage::with_index(i32::try_from(index)?);
    message.header.handle = INGRESS;
    message.header.parent = TcHandle::INGRESS;
    message.attributes = vec![TcAttribute::Kind("ingress".to_owned())];
    Ok(message)
}

fn filter(index: u32, rule: &Rule) -> Result<Message> {
    let protocol = (rule.protocol as u16).to_be();
    let header = TcHeader {
        index: i32::try_from(index)?,
        parent: INGRESS,
        info: u32::from(rule.priority) << 16 | u32::from(protocol),
        ..TcHeader::default()
    };
    let mut options = vec![TcFilterU32Option::Selector(selector(&rule.words)?)];
    options.extend(action(rule.verdict).map(|action| TcFilterU32Option::Action(vec![action])));
    let attributes = vec![
        TcAttribute::Kind(TcFilterU32::KIND.to_owned()),
        TcAttribute::Options(options.into_iter().map(TcOption::U32).collect()),
    ];
    let message = TcMessage::from_parts(header, attributes);
    Ok(Message::NewTrafficFilter(message))
}

fn selector(words: &[Word]) -> Result<TcU32Selector> {
    let mut selector = TcU32Selector::default();
    // What it matches is not looked at any further.
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.nkeys = u8::try_from(words.len())?;
    selector.keys = words.iter().map(key).collect();
    Ok(selector)
}

fn key(word: &Word) -> TcU32Key {
    let mut key = TcU32Key::default();
    key.off = word.offset.into();
    key.mask = word.mask;
    key.val = word.value;
    key
}

/// What carries out `verdict`; the kernel lets pass what there is no action for.
fn action(verdict: Verdict) -> Option<TcAction> {
    let mut mirror = TcMirror::default();
    (mirror.eaction, mirror.generic.action, mirror.ifindex) = match verdict {
        Verdict::Pass => return None,
        Verdict::Copy(to) => (TcMirrorActionType::EgressMirror, TcActionType::Ok, to),
        Verdict::Redirect(to) => (TcMirrorActionType::EgressRedir, TcActionType::Stolen, to),
    };
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(
            mirror,
        ))]),
    ];
    // Actions are numbered from 1.
    action.tab = 1;
    Some(action)
}
