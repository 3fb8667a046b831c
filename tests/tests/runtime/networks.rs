//! Interfaces of other kinds than docker's bridges have.

use std::process::Command;

use runcvm_tests::{Bundle, Case};

/// Runs `ip` with these words.
#[track_caller]
fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {words}: {error}");
}

/// Two namespaces whose `eth0`s are of `kind`, both on one dummy interface.
struct Networks(&'static str);

impl Networks {
    fn new(name: &'static str, kind: &str) -> Self {
        ip(&format!("link add {name} type dummy"));
        ip(&format!("link set {name} up"));
        for (end, address) in [("near", "10.77.0.1/24"), ("far", "10.77.0.2/24")] {
            let namespace = format!("{name}-{end}");
            ip(&format!("netns add {namespace}"));
            ip(&format!("link add {namespace} link {name} type {kind}"));
            ip(&format!("link set {namespace} netns {namespace} name eth0"));
            let inside = format!("-n {namespace}");
            ip(&format!("{inside} address add {address} dev eth0"));
            ip(&format!("{inside} link set eth0 up"));
        }
        Self(name)
    }

    fn ours(&self) -> String {
        format!("/run/netns/{}-far", self.0)
    }

    fn other(&self, command: &str) -> Command {
        let mut other = Command::new("ip");
        other.args(["netns", "exec", &format!("{}-near", self.0)]);
        other.args(command.split(' '));
        other
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        for end in ["near", "far"] {
            let namespace = format!("{}-{end}", self.0);
            let _ = Command::new("ip")
                .args(["netns", "del", &namespace])
                .output();
        }
        let _ = Command::new("ip").args(["link", "del", self.0]).output();
    }
}

#[track_caller]
fn talks(name: &'static str, kind: &str) {
    let networks = Networks::new(name, kind);
    let case = Case::sh("ping -c 2 -W 10 10.77.0.1 | grep -o '. received'; echo ready; exec cat");
    let container = Bundle::new(&case.stdin()).network(&networks.ours()).start();
    container.wait_for("ready\n");
    let ping = networks
        .other("busybox ping -c 2 -W 10 10.77.0.2")
        .output()
        .unwrap();
    assert!(ping.status.success(), "{ping:?}");
    container.close_stdin();
    assert_eq!(container.wait().succeeded().out(), "2 received\nready\n");
}

#[test]
fn a_macvlan_leads_to_the_guest() {
    talks("lane", "macvlan mode bridge");
}

#[test]
fn an_ipvlan_leads_to_the_guest() {
    talks("track", "ipvlan mode l2");
}

#[test]
fn an_ipvlan_without_addresses_of_hardware_is_refused() {
    let networks = Networks::new("path", "ipvlan mode l3");
    let case = Case::new(["true"]);
    let error = Bundle::new(&case).network(&networks.ours()).run().refused();
    assert!(
        error.contains("eth0") && error.contains("mode l2"),
        "{error}"
    );
}
