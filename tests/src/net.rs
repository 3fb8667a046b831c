//! Network devices of the host.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A tap that is up and has addresses. Dropping it removes it.
#[derive(Debug)]
pub struct Tap {
    name: String,
}

impl Tap {
    /// A new tap with these addresses (`10.1.1.1/24`, `fd00::1/64`).
    ///
    /// # Panics
    ///
    /// `ip` refuses.
    pub fn new(addresses: &[&str], mtu: u32) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rt{}-{count}", std::process::id());
        ip(&["tuntap", "add", "dev", &name, "mode", "tap", "vnet_hdr"]);
        let tap = Self { name };
        // A neighbour that is emulated may take its time to answer.
        for family in ["ipv4", "ipv6"] {
            let probes = format!("/proc/sys/net/{family}/neigh/{}/mcast_solicit", tap.name);
            std::fs::write(probes, "30").expect("the tap is there");
        }
        ip(&["link", "set", &tap.name, "mtu", &mtu.to_string(), "up"]);
        for address in addresses {
            // Without duplicate address detection, so that it can be used at once.
            let nodad = if address.contains(':') {
                &["nodad"][..]
            } else {
                &[]
            };
            ip(&[&["address", "add", address, "dev", &tap.name], nodad].concat());
        }
        tap
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["link", "delete", &self.name])
            .output();
    }
}

#[track_caller]
fn ip(arguments: &[&str]) {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .expect("iproute2 is installed");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "ip {} failed: {message}",
        arguments.join(" ")
    );
}
