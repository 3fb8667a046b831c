//! Values of options: sizes, volumes, disks, interfaces. What a user gives as bytes stays
//! bytes.

use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use runcvm_protocol::{ByteBuf, ForwardAt};

use crate::launch::MountSpec;
use crate::launch::disk::{self, DiskSpec};
use crate::launch::net::{self, NetSpec};
use crate::launch::spec::{ForwardSpec, ForwardTo, MIB};

/// Guest memory, as docker writes sizes: a number with `b`, `k`, `m`, `g` or `t`; bytes
/// without. Rounded up to whole MiB.
pub(super) fn memory(text: &str) -> Result<u64> {
    let wrong = || {
        format!("--memory \"{text}\" is no size: it must be a number with k, m or g, such as 512m")
    };
    let lower = text.to_ascii_lowercase();
    let digits = lower
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let shift = match unit.trim_start() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => bail!(wrong()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole: u64 = whole.parse().ok().with_context(wrong)?;
    // Six digits of a fraction are more than anybody means.
    ensure!(fraction.len() <= 6, wrong());
    let parts: u64 = fraction.parse().ok().with_context(wrong)?;
    let scale = 10_u64.pow(u32::try_from(fraction.len()).expect("at most 6"));
    let bytes =
        u128::from(whole) * (1 << shift) + u128::from(parts) * (1 << shift) / u128::from(scale);
    let mib = bytes.div_ceil(u128::from(MIB));
    let mib = u64::try_from(mib).ok().with_context(wrong)?;
    mib.checked_mul(MIB).with_context(wrong)
}

/// `NAME=VALUE`, or `NAME` for our own value of it; `None` if we have none.
pub(super) fn env(
    text: &OsStr,
    ours: impl Fn(&OsStr) -> Option<OsString>,
) -> Result<Option<ByteBuf>> {
    let bytes = text.as_bytes();
    let shown = text.to_string_lossy();
    match bytes.iter().position(|&b| b == b'=') {
        Some(0) => bail!("-e \"{shown}\" has no name: it must be NAME=VALUE or NAME"),
        Some(_) => Ok(Some(ByteBuf::from(bytes))),
        None if bytes.is_empty() => bail!("-e \"\" has no name: it must be NAME=VALUE or NAME"),
        None => Ok(ours(text).map(|value| {
            let mut pair = bytes.to_vec();
            pair.push(b'=');
            pair.extend(value.into_vec());
            ByteBuf::from(pair)
        })),
    }
}

/// `SRC:DST[:ro|rw]`.
pub(super) fn volume(text: &OsStr) -> Result<MountSpec> {
    let shown = text.to_string_lossy();
    let wrong = || format!("-v \"{shown}\" is no volume: it must be SRC:DST or SRC:DST:ro");
    let parts: Vec<_> = text.as_bytes().split(|&b| b == b':').collect();
    let (source, target, read_only) = match parts[..] {
        [source, target] | [source, target, b"rw"] => (source, target, false),
        [source, target, b"ro"] => (source, target, true),
        _ => bail!(wrong()),
    };
    ensure!(!source.is_empty(), wrong());
    check_target("-v", &shown, target)?;
    Ok(MountSpec::Volume {
        source: OsStr::from_bytes(source).into(),
        target: ByteBuf::from(target),
        read_only,
    })
}

/// `DST[:OPTIONS]`.
pub(super) fn tmpfs(text: &OsStr) -> Result<MountSpec> {
    let bytes = text.as_bytes();
    let colon = bytes.iter().position(|&b| b == b':');
    let (target, options) = match colon {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &b""[..]),
    };
    check_target("--tmpfs", &text.to_string_lossy(), target)?;
    Ok(MountSpec::Tmpfs {
        target: ByteBuf::from(target),
        options: ByteBuf::from(options),
    })
}

fn check_target(option: &str, shown: &str, target: &[u8]) -> Result<()> {
    ensure!(
        target.first() == Some(&b'/'),
        "{option} \"{shown}\" has no place in the guest: the destination must be an absolute path"
    );
    let is_root = target
        .split(|&b| b == b'/')
        .all(|part| part.is_empty() || part == b".");
    ensure!(
        !is_root,
        "{option} \"{shown}\" would hide the root filesystem: the destination must be below /"
    );
    Ok(())
}

/// `GUEST=HOST`, each `unix:PATH`, `tcp:ADDRESS:PORT` or `udp:ADDRESS:PORT`. The path of the
/// guest has no `=`.
pub(super) fn forward(text: &OsStr) -> Result<ForwardSpec> {
    let shown = text.to_string_lossy();
    let wrong = || {
        format!(
            "--forward \"{shown}\" is none: it must be GUEST=HOST, each unix:PATH, \
             tcp:ADDRESS:PORT or udp:ADDRESS:PORT"
        )
    };
    let bytes = text.as_bytes();
    let equals = bytes.iter().position(|&b| b == b'=').with_context(wrong)?;
    let at = match place(&bytes[..equals]).with_context(wrong)? {
        Place::Unix(path) => {
            check_target("--forward", &shown, path)?;
            ForwardAt::Unix(ByteBuf::from(path))
        }
        Place::Tcp(address) => ForwardAt::Tcp(address),
        Place::Udp(address) => ForwardAt::Udp(address),
    };
    let to = match place(&bytes[equals + 1..]).with_context(wrong)? {
        Place::Unix(path) => ForwardTo::Unix(OsStr::from_bytes(path).into()),
        Place::Tcp(address) => ForwardTo::Tcp(address),
        Place::Udp(address) => ForwardTo::Udp(address),
    };
    let datagrams = matches!(at, ForwardAt::Udp(_));
    ensure!(
        datagrams == matches!(to, ForwardTo::Udp(_)),
        "--forward \"{shown}\" mixes datagrams and streams: with udp on one side it must be on \
         both"
    );
    Ok(ForwardSpec { at, to })
}

enum Place<'a> {
    Unix(&'a [u8]),
    Tcp(SocketAddr),
    Udp(SocketAddr),
}

fn place(text: &[u8]) -> Option<Place<'_>> {
    if let Some(path) = text.strip_prefix(b"unix:") {
        return (!path.is_empty()).then_some(Place::Unix(path));
    }
    let (kind, address) = std::str::from_utf8(text).ok()?.split_once(':')?;
    let address = address.parse().ok()?;
    match kind {
        "tcp" => Some(Place::Tcp(address)),
        "udp" => Some(Place::Udp(address)),
        _ => None,
    }
}

/// `NAME=VALUE`.
pub(super) fn sysctl(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => bail!("--sysctl \"{text}\" sets nothing: it must be NAME=VALUE"),
    }
}

/// `PATH[,ro][,id=ID][,queues=N]`. Options are looked for from the end, so that a path may
/// have commas.
pub(super) fn disk(text: &OsStr, cpus: u8) -> Result<DiskSpec> {
    let shown = text.to_string_lossy();
    let mut path = text.as_bytes();
    let mut read_only = false;
    let mut id = None;
    let mut queues = None;
    while let Some(comma) = path.iter().rposition(|&b| b == b',') {
        let option = &path[comma + 1..];
        if option == b"ro" {
            read_only = true;
        } else if let Some(value) = option.strip_prefix(b"id=") {
            id = Some(disk_id(&shown, value)?);
        } else if let Some(value) = option.strip_prefix(b"queues=") {
            queues = Some(disk_queues(&shown, value)?);
        } else {
            break;
        }
        path = &path[..comma];
    }
    ensure!(
        !path.is_empty(),
        "--disk \"{shown}\" names no file: it must be PATH[,ro][,id=ID][,queues=N]"
    );
    let path = PathBuf::from(OsStr::from_bytes(path));
    Ok(DiskSpec {
        no_links: false,
        id: id.unwrap_or_else(|| disk::default_id(&path)),
        path,
        read_only,
        queues: queues.unwrap_or(cpus.into()),
    })
}

fn disk_id(shown: &str, value: &[u8]) -> Result<String> {
    let fits = (1..=disk::MAX_ID).contains(&value.len());
    ensure!(
        fits && value.iter().all(u8::is_ascii_graphic),
        "--disk \"{shown}\" has a wrong id: it must be 1 to {} printable ASCII characters",
        disk::MAX_ID
    );
    Ok(String::from_utf8_lossy(value).into())
}

fn disk_queues(shown: &str, value: &[u8]) -> Result<u16> {
    std::str::from_utf8(value)
        .ok()
        .and_then(|v| v.parse().ok())
        .filter(|n| (1..=disk::MAX_QUEUES).contains(n))
        .with_context(|| {
            format!(
                "--disk \"{shown}\" has a wrong number of queues: it must be 1 to {}",
                disk::MAX_QUEUES
            )
        })
}

/// `tap=NAME[,mac=MAC][,ip=ADDRESS/PREFIX]...[,gw=ADDRESS]...[,mtu=N]`.
pub(super) fn interface(text: &str) -> Result<NetSpec> {
    let mut spec = NetSpec {
        tap: String::new(),
        name: None,
        mac: None,
        addresses: Vec::new(),
        gateways: Vec::new(),
        routes: Vec::new(),
        mtu: None,
    };
    for part in text.split(',') {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let what = || format!("--net \"{text}\" has a wrong {key} \"{value}\"");
        match key {
            "tap" => {
                ensure!(
                    is_link_name(value),
                    "{}: it must be 1 to 15 characters without slash or space",
                    what()
                );
                spec.tap = value.into();
            }
            "mac" => {
                let mac = mac(value);
                spec.mac = Some(mac.with_context(|| {
                    format!(
                        "{}: it must be a unicast address such as 02:00:00:00:00:01",
                        what()
                    )
                })?);
            }
            "ip" => {
                let address = address(value);
                spec.addresses.push(address.with_context(|| {
                    format!("{}: it must be ADDRESS/PREFIX, such as 10.0.0.2/24", what())
                })?);
            }
            "gw" => {
                let gateway: IpAddr = value.parse().ok().with_context(|| {
                    format!("{}: it must be an address, such as 10.0.0.1", what())
                })?;
                let twice = spec
                    .gateways
                    .iter()
                    .any(|g| g.is_ipv4() == gateway.is_ipv4());
                ensure!(
                    !twice,
                    "{}: there can be one gateway of each family",
                    what()
                );
                spec.gateways.push(gateway);
            }
            "mtu" => {
                let mtu = value.parse().ok().filter(|n| net::MTU.contains(n));
                spec.mtu = Some(mtu.with_context(|| {
                    let (low, high) = (net::MTU.start(), net::MTU.end());
                    format!("{}: it must be a number from {low} to {high}", what())
                })?);
            }
            _ => bail!(
                "--net \"{text}\" has an unknown part \"{part}\": it must be tap=NAME[,mac=MAC][,ip=ADDRESS/PREFIX][,gw=ADDRESS][,mtu=N]"
            ),
        }
    }
    ensure!(
        !spec.tap.is_empty(),
        "--net \"{text}\" names no tap: it must begin with tap=NAME"
    );
    let ipv6 = spec.addresses.iter().any(|(a, _)| a.is_ipv6());
    ensure!(
        !ipv6 || spec.mtu.is_none_or(|mtu| mtu >= net::MIN_IPV6_MTU),
        "--net \"{text}\" has an IPv6 address, for which mtu must be at least {}",
        net::MIN_IPV6_MTU
    );
    Ok(spec)
}

/// A name that Linux takes for an interface (`dev_valid_name`).
fn is_link_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && !matches!(name, "." | "..")
        && name
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"/:%".contains(&b))
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|p| p.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    let unicast = bytes[0] & 1 == 0 && bytes != [0; 6];
    (parts.next().is_none() && unicast).then_some(bytes)
}

fn address(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let prefix: u8 = prefix.parse().ok()?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    (prefix <= longest).then_some((address, prefix))
}

#[cfg(test)]
mod tests;
