//! Arbitrary messages for property tests.

use std::net::{IpAddr, SocketAddr};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::{
    ByteBuf, Cgroups, ExitStatus, Forward, ForwardAt, GuestConfig, InitMode, Interface, Limit,
    Mount, MountSource, Output, Process, Route, ToGuest, ToHost, User, WindowSize,
};

fn bytes() -> impl Strategy<Value = ByteBuf> {
    vec(any::<u8>(), 0..40).prop_map(ByteBuf::from)
}

fn size() -> impl Strategy<Value = WindowSize> {
    any::<(u16, u16)>().prop_map(|(rows, columns)| WindowSize { rows, columns })
}

pub(crate) fn process() -> impl Strategy<Value = Process> {
    let strings = || vec(bytes(), 0..5);
    (
        (strings(), strings(), bytes()),
        user(),
        (option::of(size()), any::<bool>()),
        vec(limit(), 0..3),
        (
            option::of(any::<u32>()),
            option::of(any::<i32>()),
            any::<bool>(),
        ),
    )
        .prop_map(
            |((args, env, cwd), user, (terminal, stdin), limits, (umask, oom, no_new))| Process {
                args,
                env,
                cwd,
                user,
                limits,
                umask,
                oom_score_adj: oom,
                no_new_privileges: no_new,
                terminal,
                stdin,
            },
        )
}

fn user() -> impl Strategy<Value = User> {
    prop_oneof![
        bytes().prop_map(User::Named),
        (any::<u32>(), any::<u32>(), vec(any::<u32>(), 0..3))
            .prop_map(|(uid, gid, groups)| User::Ids { uid, gid, groups }),
    ]
}

fn limit() -> impl Strategy<Value = Limit> {
    any::<(u32, u64, u64)>().prop_map(|(resource, soft, hard)| Limit {
        resource,
        soft,
        hard,
    })
}

fn output() -> impl Strategy<Value = Output> {
    prop_oneof![Just(Output::Stdout), Just(Output::Stderr)]
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..300)
}

pub(crate) fn to_guest() -> impl Strategy<Value = ToGuest> {
    prop_oneof![
        process().prop_map(|process| ToGuest::Start(Box::new(process))),
        data().prop_map(ToGuest::Stdin),
        Just(ToGuest::StdinEnd),
        (output(), any::<u32>()).prop_map(|(which, n)| ToGuest::Consumed(which, n)),
        size().prop_map(ToGuest::Resize),
        any::<u8>().prop_map(ToGuest::Signal),
        output().prop_map(ToGuest::OutputClosed),
        any::<u64>().prop_map(|unix_ns| ToGuest::Time { unix_ns }),
    ]
}

pub(crate) fn to_host() -> impl Strategy<Value = ToHost> {
    let exit = prop_oneof![
        any::<u8>().prop_map(ExitStatus::Code),
        any::<u8>().prop_map(ExitStatus::Signal),
    ];
    prop_oneof![
        any::<u64>().prop_map(|uptime_ns| ToHost::Hello { uptime_ns }),
        any::<u32>().prop_map(|pid| ToHost::Started { pid }),
        (any::<u8>(), any::<String>())
            .prop_map(|(status, message)| ToHost::Failed { status, message }),
        (output(), data()).prop_map(|(which, data)| ToHost::Output(which, data)),
        output().prop_map(ToHost::OutputEnd),
        any::<u32>().prop_map(ToHost::StdinConsumed),
        exit.prop_map(ToHost::Exited),
        Just(ToHost::OnConsole),
        Just(ToHost::AskTime),
    ]
}

fn mount() -> impl Strategy<Value = Mount> {
    let source = prop_oneof![
        (any::<String>(), option::of(bytes()))
            .prop_map(|(tag, file)| MountSource::Share { tag, file }),
        bytes().prop_map(|options| MountSource::Tmpfs { options }),
        (any::<String>(), any::<String>(), bytes()).prop_map(|(serial, filesystem, options)| {
            MountSource::Disk {
                serial,
                filesystem,
                options,
            }
        }),
        Just(MountSource::Submount),
    ];
    (source, bytes(), any::<bool>()).prop_map(|(source, target, read_only)| Mount {
        source,
        target,
        read_only,
    })
}

fn interface() -> impl Strategy<Value = Interface> {
    (
        any::<[u8; 6]>(),
        any::<String>(),
        option::of(any::<u32>()),
        vec(any::<(IpAddr, u8)>(), 0..4),
        vec(any::<IpAddr>(), 0..3),
        vec(route(), 0..3),
    )
        .prop_map(|(mac, name, mtu, addresses, gateways, routes)| Interface {
            mac,
            name,
            mtu,
            addresses,
            gateways,
            routes,
        })
}

fn route() -> impl Strategy<Value = Route> {
    any::<((IpAddr, u8), Option<IpAddr>, Option<u32>)>().prop_map(
        |(destination, gateway, metric)| Route {
            destination,
            gateway,
            metric,
        },
    )
}

/// Without a scope, which is not encoded.
fn address() -> impl Strategy<Value = SocketAddr> {
    any::<(IpAddr, u16)>().prop_map(SocketAddr::from)
}

fn forward() -> impl Strategy<Value = Forward> {
    let at = prop_oneof![
        bytes().prop_map(ForwardAt::Unix),
        address().prop_map(ForwardAt::Tcp),
        address().prop_map(ForwardAt::Udp),
    ];
    (at, any::<u32>()).prop_map(|(at, port)| Forward { at, port })
}

fn cgroups() -> impl Strategy<Value = Cgroups> {
    prop_oneof![
        Just(Cgroups::Auto),
        Just(Cgroups::None),
        Just(Cgroups::V1),
        Just(Cgroups::V2),
        Just(Cgroups::Hybrid),
    ]
}

pub(crate) fn config() -> impl Strategy<Value = GuestConfig> {
    let init = prop_oneof![
        Just(InitMode::Auto),
        Just(InitMode::Pid1),
        Just(InitMode::Namespaced),
    ];
    (
        (any::<String>(), any::<bool>()),
        vec(mount(), 0..4),
        (option::of(bytes()), option::of(bytes())),
        vec(any::<(String, String)>(), 0..3),
        (cgroups(), vec(forward(), 0..3)),
        (any::<bool>(), vec(interface(), 0..3)),
        (process(), init),
    )
        .prop_map(
            |(
                (root_tag, root_read_only),
                mounts,
                (hostname, domainname),
                sysctls,
                (cgroups, forwards),
                (no_ipv6, interfaces),
                (process, init),
            )| GuestConfig {
                root_tag,
                root_read_only,
                mounts,
                hostname,
                domainname,
                sysctls,
                cgroups,
                forwards,
                no_ipv6,
                interfaces,
                process,
                init,
            },
        )
}
