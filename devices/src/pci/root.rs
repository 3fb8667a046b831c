//! The root bus.

use std::fmt;
use std::sync::{Arc, RwLock};

use thiserror::Error;

use super::config::{ConfigSpace, Identity};
use super::{CONFIG_SIZE, PciFunction};

/// Number of slots of a bus.
pub const SLOTS: u8 = 32;

/// Why a function was not added to a [`PciRoot`].
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum AddError {
    /// There is no such slot.
    #[error("PCI slot {0} does not exist; a bus has 32")]
    NoSlot(u8),
    /// Another function is there.
    #[error("PCI slot {0} is taken")]
    Taken(u8),
}

/// Bus 0 and its functions, one a slot; a host bridge answers in slot 0.
pub struct PciRoot {
    slots: RwLock<[Option<Arc<dyn PciFunction>>; SLOTS as usize]>,
}

impl PciRoot {
    /// A bus with the host bridge alone.
    pub fn new() -> Self {
        let mut slots = [const { None }; SLOTS as usize];
        let bridge: Arc<dyn PciFunction> = Arc::new(HostBridge::new());
        slots[0] = Some(bridge);
        Self {
            slots: RwLock::new(slots),
        }
    }

    /// Puts `function` into `slot`, 1 to 31.
    pub fn add(&self, slot: u8, function: Arc<dyn PciFunction>) -> Result<(), AddError> {
        let mut slots = self.slots.write().unwrap();
        let place = slots
            .get_mut(usize::from(slot))
            .ok_or(AddError::NoSlot(slot))?;
        if place.is_some() {
            return Err(AddError::Taken(slot));
        }
        *place = Some(function);
        Ok(())
    }

    /// Reads the configuration space at `at`; all ones where there is no function.
    pub(super) fn read(&self, at: ConfigAddress, data: &mut [u8]) {
        match self.find(at, data.len()) {
            Some(function) => function.read_config(at.offset, data),
            None => data.fill(0xff),
        }
    }

    /// Writes the configuration space at `at`; lost where there is no function.
    pub(super) fn write(&self, at: ConfigAddress, data: &[u8]) {
        if let Some(function) = self.find(at, data.len()) {
            function.write_config(at.offset, data);
        }
    }

    fn find(&self, at: ConfigAddress, len: usize) -> Option<Arc<dyn PciFunction>> {
        let end = usize::from(at.offset).checked_add(len)?;
        if at.bus != 0 || at.function != 0 || end > usize::from(CONFIG_SIZE) {
            return None;
        }
        // The function is called without the lock: it may take long (a device reset), and a
        // slot can change hands meanwhile.
        self.slots
            .read()
            .unwrap()
            .get(usize::from(at.slot))?
            .clone()
    }
}

impl Default for PciRoot {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for PciRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slots = self.slots.read().unwrap();
        let taken = (0..).zip(slots.iter()).filter(|(_, slot)| slot.is_some());
        f.debug_set()
            .entries(taken.map(|(n, _): (u8, _)| n))
            .finish()
    }
}

/// A byte of a function's configuration space.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConfigAddress {
    pub(super) bus: u8,
    pub(super) slot: u8,
    pub(super) function: u8,
    pub(super) offset: u16,
}

/// The host bridge: an identity and nothing more. Operating systems look for its class to
/// believe in the bus.
struct HostBridge(ConfigSpace);

impl HostBridge {
    fn new() -> Self {
        Self(ConfigSpace::new(&Identity {
            // The identity of the generic PCI Express host bridge.
            vendor: 0x1b36,
            device: 0x0008,
            revision: 0,
            class: 0x06_00_00,
            subsystem_vendor: 0,
            subsystem: 0,
        }))
    }
}

impl PciFunction for HostBridge {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        self.0.read(offset, data);
    }

    fn write_config(&self, _offset: u16, _data: &[u8]) {}
}
