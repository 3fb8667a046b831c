//! What benchmarks with a whole guest let their users choose.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use runcvm_kernels::{Bundle, Prefix, Store};
use serde_json::{Value, json};

use crate::monitor::{self, Guest, Monitor};

/// The monitors, and the guest that each of them starts.
#[derive(Debug, Args)]
pub(crate) struct Choice {
    /// Monitors to compare, separated by commas
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "runcvm,runcvm-mmio,qemu-microvm,qemu-q35,firecracker,cloud-hypervisor"
    )]
    vmm: Vec<String>,
    /// Kernel: the name of an installed bundle
    #[arg(long)]
    kernel: Option<String>,
    /// Number of vCPUs
    #[arg(long, default_value_t = 1)]
    cpus: u8,
    /// Guest memory in MiB
    #[arg(long, default_value_t = 256)]
    memory: u32,
}

impl Choice {
    /// Those of the monitors that are installed.
    pub(crate) fn monitors(&self) -> Result<Vec<Box<dyn Monitor>>> {
        monitor::chosen(&self.vmm)
    }

    /// The kernel.
    pub(crate) fn bundle(&self, prefix: &Prefix) -> Result<Bundle> {
        Ok(Store::new(prefix).resolve(self.kernel.as_deref())?)
    }

    /// The guest, with nothing but a kernel and an initramfs.
    pub(crate) fn guest(&self, bundle: &Bundle, initramfs: PathBuf) -> Guest {
        Guest {
            kernel: bundle.vmlinux.clone(),
            initramfs: Some(initramfs),
            disk: None,
            share: None,
            init: "",
            cpus: self.cpus,
            memory_mib: self.memory,
        }
    }

    /// What was chosen, for the figures.
    pub(crate) fn settings(&self, bundle: &Bundle) -> Value {
        json!({
            "kernel": format!("{} {}", bundle.name, bundle.version),
            "cpus": self.cpus,
            "memory_mib": self.memory,
        })
    }

    /// What was chosen, for people.
    pub(crate) fn describe(&self, bundle: &Bundle) -> String {
        format!(
            "{} {}, {} vCPU, {} MiB",
            bundle.name, bundle.version, self.cpus, self.memory
        )
    }
}
