use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;

use super::*;
use crate::test_support::isolated;

const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

/// In a network of its own, with two interfaces, `eth0` and `eth1`.
fn network_test(test: impl FnOnce(&RootDir)) {
    isolated(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS, || {
        // /sys shows the network of whoever mounted it.
        let none: Option<&str> = None;
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).unwrap();
        ip("link add eth0 address 02:00:00:00:00:01 type veth peer eth1 address 02:00:00:00:00:02");
        test(&crate::procfs::open().unwrap());
    });
}

fn ip(args: &str) -> String {
    let output = Command::new("ip").args(args.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {args}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn interface(mac: [u8; 6], name: &str) -> Interface {
    Interface {
        mac,
        name: name.to_owned(),
        mtu: None,
        addresses: Vec::new(),
        gateways: Vec::new(),
        routes: Vec::new(),
    }
}

fn v4(text: &str) -> IpAddr {
    IpAddr::V4(text.parse::<Ipv4Addr>().unwrap())
}

fn v6(text: &str) -> IpAddr {
    IpAddr::V6(text.parse::<Ipv6Addr>().unwrap())
}

#[test]
fn loopback_comes_up() {
    network_test(|proc| {
        set_up(&[], false, proc).unwrap();
        let shown = ip("addr show lo");
        assert!(
            shown.contains(",UP,") && shown.contains("127.0.0.1/8"),
            "{shown}"
        );
    });
}

#[test]
fn ipv6_is_only_where_it_is_used_if_it_is_off() {
    network_test(|proc| {
        let with = Interface {
            addresses: vec![(v6("fd00::3"), 64)],
            ..interface(MACS[0], "with")
        };
        set_up(&[with, interface(MACS[1], "without")], true, proc).unwrap();
        assert!(!ip("addr show lo").contains("inet6"));
        assert!(!ip("addr show without").contains("inet6"));
        let shown = ip("addr show with");
        assert!(shown.contains("inet6 fd00::3/64"), "{shown}");
    });
}

#[test]
fn an_interface_gets_all_that_it_should() {
    network_test(|proc| {
        let first = Interface {
            mtu: Some(1400),
            addresses: vec![(v4("10.1.2.3"), 24), (v6("fd00::3"), 64)],
            gateways: vec![v4("10.1.2.1"), v6("fd00::1")],
            ..interface(MACS[0], "lan")
        };
        // Routes need a carrier, which takes both ends.
        let second = Interface {
            addresses: vec![(v4("10.9.0.1"), 32)],
            gateways: vec![v4("192.168.7.7")],
            ..interface(MACS[1], "wan")
        };
        set_up(&[first, second], false, proc).unwrap();

        let lan = ip("addr show lan");
        assert!(lan.contains("mtu 1400") && lan.contains(",UP,"), "{lan}");
        assert!(
            lan.contains("inet 10.1.2.3/24 brd 10.1.2.255 scope global lan"),
            "{lan}"
        );
        // The link-local address may be tentative until the kernel gets round to it.
        let usable = |line: &str| line.contains("inet6 fd00::3/64") && !line.contains("tentative");
        assert!(lan.lines().any(usable), "{lan}");
        let wan = ip("addr show wan");
        assert!(wan.contains("inet 10.9.0.1/32"), "{wan}");
        assert!(!wan.contains("inet6"), "{wan}");

        let routes = ip("route show");
        assert!(routes.contains("default via 10.1.2.1 dev lan"), "{routes}");
        assert!(
            routes.contains("default via 192.168.7.7 dev wan metric 1025 onlink"),
            "{routes}"
        );
        let routes = ip("-6 route show");
        assert!(routes.contains("default via fd00::1 dev lan"), "{routes}");
    });
}

#[test]
fn routes_are_those_of_the_container() {
    network_test(|proc| {
        let route = |destination, gateway, metric| Route {
            destination,
            gateway,
            metric,
        };
        let first = Interface {
            addresses: vec![(v4("10.1.2.3"), 24), (v6("fd00::3"), 64)],
            routes: vec![
                route((v4("198.51.100.0"), 24), None, None),
                route((v4("0.0.0.0"), 0), Some(v4("198.51.100.1")), Some(7)),
                route((v6("2001:db8::"), 32), Some(v6("fd00::1")), Some(1024)),
            ],
            ..interface(MACS[0], "eth1")
        };
        let second = Interface {
            routes: vec![
                route((v4("0.0.0.0"), 0), Some(v4("169.254.1.1")), None),
                route((v6("::"), 0), Some(v6("fe80::1")), None),
            ],
            ..interface(MACS[1], "eth0")
        };
        set_up(&[first, second], false, proc).unwrap();
        let routes = ip("route show");
        for expected in [
            "198.51.100.0/24 dev eth1 scope link",
            "default via 198.51.100.1 dev eth1 metric 7 onlink",
            "default via 169.254.1.1 dev eth0 onlink",
        ] {
            assert!(routes.contains(expected), "{expected}\n{routes}");
        }
        let routes = ip("-6 route show");
        for expected in [
            "2001:db8::/32 via fd00::1 dev eth1 metric 1024",
            "default via fe80::1 dev eth0 metric 1024",
        ] {
            assert!(routes.contains(expected), "{expected}\n{routes}");
        }
    });
}

#[test]
fn names_can_be_exchanged() {
    network_test(|proc| {
        set_up(
            &[interface(MACS[0], "eth1"), interface(MACS[1], "eth0")],
            false,
            proc,
        )
        .unwrap();
        assert!(ip("link show eth1").contains("02:00:00:00:00:01"));
        assert!(ip("link show eth0").contains("02:00:00:00:00:02"));
    });
}

#[test]
fn failures_say_what_failed() {
    network_test(|proc| {
        let message = |interface| format!("{:#}", set_up(&[interface], false, proc).unwrap_err());
        let text = message(interface([2, 0, 0, 0, 0, 9], "eth0"));
        assert!(text.contains("02:00:00:00:00:09"), "{text}");
        let text = message(interface(MACS[0], "a-name-that-is-too-long"));
        assert!(text.contains("a-name-that-is-too-long"), "{text}");
        let text = message(Interface {
            mtu: Some(1),
            ..interface(MACS[0], "eth0")
        });
        assert!(text.contains("bring up interface eth0"), "{text}");
        let text = message(Interface {
            addresses: vec![(v4("10.0.0.1"), 99)],
            ..interface(MACS[0], "eth0")
        });
        assert!(
            text.contains("give 10.0.0.1/99 to interface eth0"),
            "{text}"
        );
    });
}

#[test]
fn everybody_may_open_low_ports() {
    network_test(|proc| {
        relax_limits(proc);
        let read = |name| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap();
        assert_eq!(read("ip_unprivileged_port_start"), "0\n");
        assert_eq!(read("ping_group_range"), "0\t2147483647\n");
    });
}

#[test]
fn networks_are_compared_by_their_prefix() {
    assert!(same_network(v4("10.1.2.3"), v4("10.1.2.200"), 24));
    assert!(!same_network(v4("10.1.2.3"), v4("10.1.3.3"), 24));
    assert!(same_network(v4("1.2.3.4"), v4("9.9.9.9"), 0));
    assert!(!same_network(v4("1.2.3.4"), v4("1.2.3.5"), 32));
    assert!(same_network(v6("fd00::1"), v6("fd00::2"), 64));
    assert!(!same_network(v6("fd00::1"), v6("fd01::2"), 64));
    assert!(same_network(v6("fd00::1"), v6("fe80::1"), 128));
    assert!(!same_network(v4("1.2.3.4"), v6("fd00::1"), 0));
}
