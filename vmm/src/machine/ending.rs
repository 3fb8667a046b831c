//! How the machine ends: the first thread that finds out says so, and wakes who waits for it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, OnceLock};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::control::End;

/// The end of a machine, once it is known.
#[derive(Debug)]
pub(super) struct Ending {
    end: OnceLock<End>,
    known: EventFd,
}

impl Ending {
    pub(super) fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            end: OnceLock::new(),
            known: EventFd::new(EFD_NONBLOCK)?,
        }))
    }

    /// Sets the end, unless it is known already: what a guest does after it has ended does
    /// not count.
    pub(super) fn report(&self, end: End) {
        if self.end.set(end).is_ok() {
            // The counter cannot be full: this is its only write.
            let _ = self.known.write(1);
        }
    }

    /// [`Self::report`] for threads to keep.
    pub(super) fn reporter(self: &Arc<Self>) -> Arc<dyn Fn(End) + Send + Sync> {
        let ending = Arc::clone(self);
        Arc::new(move |end| ending.report(end))
    }

    /// The end, if it is known.
    pub(super) fn get(&self) -> Option<&End> {
        self.end.get()
    }

    /// Readable once the end is known.
    pub(super) fn known(&self) -> BorrowedFd<'_> {
        // SAFETY: The eventfd is open for as long as `self`, which the result borrows.
        unsafe { BorrowedFd::borrow_raw(self.known.as_raw_fd()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_end_counts() {
        let ending = Ending::new().unwrap();
        assert_eq!(ending.get(), None);
        ending.report(End::PoweredOff);
        ending.reporter()(End::Reset);
        assert_eq!(ending.get(), Some(&End::PoweredOff));
        assert_eq!(ending.known.read().unwrap(), 1);
    }
}
