//! Interrupts: eventfds bound to global system interrupts (irqfd), and the table that says
//! where each interrupt goes.

use std::collections::BTreeMap;
use std::io;
use std::sync::{MutexGuard, PoisonError};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KvmIrqRouting,
    kvm_irq_routing_entry, kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};
use runcvm_devices::hypervisor::{IrqRouter, MsiMessage};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Vm;
use crate::layout::IO_APIC_PINS;

/// One past the last GSI: KVM's limit (`KVM_MAX_IRQ_ROUTES`).
const GSI_END: u32 = 4096;

/// Where every global system interrupt goes: the first [`IO_APIC_PINS`] to the pin of their
/// number, the others to the message that a driver programmed.
#[derive(Debug, Default)]
pub struct Routes {
    /// Message-signalled GSIs handed out so far.
    allocated: u32,
    messages: BTreeMap<u32, MsiMessage>,
}

impl Routes {
    /// Hands out a GSI that has no message yet.
    fn allocate(&mut self) -> Option<u32> {
        let gsi = IO_APIC_PINS + self.allocated;
        (gsi < GSI_END).then(|| {
            self.allocated += 1;
            gsi
        })
    }

    /// Sets the message of `gsi`; whether the table changed by it.
    fn set(&mut self, gsi: u32, message: MsiMessage) -> io::Result<bool> {
        if !(IO_APIC_PINS..IO_APIC_PINS + self.allocated).contains(&gsi) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("GSI {gsi} is not one for messages"),
            ));
        }
        Ok(self.messages.insert(gsi, message) != Some(message))
    }

    /// The whole table as KVM takes it.
    fn entries(&self) -> Vec<kvm_irq_routing_entry> {
        let pins = (0..IO_APIC_PINS).map(|pin| {
            let mut entry = kvm_irq_routing_entry {
                gsi: pin,
                type_: KVM_IRQ_ROUTING_IRQCHIP,
                ..Default::default()
            };
            entry.u.irqchip = kvm_irq_routing_irqchip {
                irqchip: KVM_IRQCHIP_IOAPIC,
                pin,
            };
            entry
        });
        let messages = self.messages.iter().map(|(&gsi, message)| {
            let mut entry = kvm_irq_routing_entry {
                gsi,
                type_: KVM_IRQ_ROUTING_MSI,
                ..Default::default()
            };
            let [b0, b1, b2, b3, b4, b5, b6, b7] = message.address.to_le_bytes();
            entry.u.msi = kvm_irq_routing_msi {
                address_lo: u32::from_le_bytes([b0, b1, b2, b3]),
                address_hi: u32::from_le_bytes([b4, b5, b6, b7]),
                data: message.data,
                ..Default::default()
            };
            entry
        });
        pins.chain(messages).collect()
    }
}

impl Vm {
    fn routes(&self) -> MutexGuard<'_, Routes> {
        // The table is whole after every step, so a panic elsewhere leaves it usable.
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bind(&self, gsi: u32) -> io::Result<EventFd> {
        let fd = EventFd::new(EFD_NONBLOCK)?;
        self.fd.register_irqfd(&fd, gsi)?;
        Ok(fd)
    }
}

impl IrqRouter for Vm {
    fn allocate_msi(&self) -> io::Result<(u32, EventFd)> {
        let gsi = self
            .routes()
            .allocate()
            .ok_or_else(|| io::Error::other(format!("all {GSI_END} interrupts are in use")))?;
        Ok((gsi, self.bind(gsi)?))
    }

    fn route_msi(&self, gsi: u32, message: MsiMessage) -> io::Result<()> {
        // Held until KVM has the table, so that tables reach it in order.
        let mut routes = self.routes();
        if routes.set(gsi, message)? {
            let table = KvmIrqRouting::from_entries(&routes.entries())
                .map_err(|e| io::Error::other(format!("the routing table is too long: {e:?}")))?;
            self.fd.set_gsi_routing(&table)?;
        }
        Ok(())
    }

    fn bind_line(&self, gsi: u32) -> io::Result<EventFd> {
        if gsi >= IO_APIC_PINS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("The I/O APIC has {IO_APIC_PINS} pins and none numbered {gsi}"),
            ));
        }
        self.bind(gsi)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: MsiMessage = MsiMessage {
        address: 0x1_fee0_1000,
        data: 0x4021,
    };

    #[test]
    fn messages_start_above_the_pins_and_end_at_the_limit() {
        let mut routes = Routes::default();
        assert_eq!(routes.allocate(), Some(24));
        assert_eq!(routes.allocate(), Some(25));
        let rest = std::iter::from_fn(|| routes.allocate()).last();
        assert_eq!(rest, Some(GSI_END - 1));
        assert_eq!(routes.allocate(), None);
    }

    #[test]
    fn the_table_changes_only_when_a_message_does() {
        let mut routes = Routes::default();
        let gsi = routes.allocate().unwrap();
        assert!(routes.set(gsi, MESSAGE).unwrap());
        assert!(!routes.set(gsi, MESSAGE).unwrap());
        assert!(routes.set(gsi, MsiMessage { data: 1, ..MESSAGE }).unwrap());
    }

    #[test]
    fn pins_and_unknown_interrupts_take_no_message() {
        let mut routes = Routes::default();
        let gsi = routes.allocate().unwrap();
        for bad in [0, 4, gsi - 1, gsi + 1, u32::MAX] {
            assert!(routes.set(bad, MESSAGE).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_table_has_every_pin_and_every_message() {
        let mut routes = Routes::default();
        routes.allocate().unwrap();
        let gsi = routes.allocate().unwrap();
        routes.set(gsi, MESSAGE).unwrap();
        let entries = routes.entries();
        assert_eq!(entries.len(), 25);
        assert!((0..24).all(|pin| entries[pin as usize].gsi == pin));
        assert_eq!(entries[24].gsi, gsi);
        assert_eq!(entries[24].type_, KVM_IRQ_ROUTING_MSI);
        // SAFETY: The type says that the entry holds a message.
        let msi = unsafe { entries[24].u.msi };
        assert_eq!((msi.address_hi, msi.address_lo), (1, 0xfee0_1000));
        assert_eq!(msi.data, 0x4021);
    }
}
