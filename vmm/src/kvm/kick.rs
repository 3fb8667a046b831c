//! Queue notifications that reach a device's thread without leaving the kernel (ioeventfd).

use std::io;

use kvm_ioctls::{IoEventAddress, NoDatamatch};
use runcvm_devices::hypervisor::{KickAddress, KickRegistry};
use vmm_sys_util::eventfd::EventFd;

use super::Vm;

impl KickRegistry for Vm {
    fn register(&self, at: KickAddress, fd: &EventFd) -> io::Result<()> {
        match at {
            KickAddress::Any(addr) => {
                self.fd
                    .register_ioevent(fd, &IoEventAddress::Mmio(addr), NoDatamatch)
            }
            KickAddress::Value(addr, value) => {
                self.fd
                    .register_ioevent(fd, &IoEventAddress::Mmio(addr), value)
            }
        }?;
        Ok(())
    }
}
