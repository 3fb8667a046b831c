//! Files that the event loop waits for.

use std::fmt::{self, Debug, Formatter};
use std::ops::{Deref, DerefMut};
use std::os::fd::AsFd;
use std::rc::Rc;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

/// What an event is about: a session's number and one of its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) session: u32,
    pub(crate) file: FileOf,
}

/// A file of a session, or of the agent itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FileOf {
    Connection,
    Report,
    Stdin,
    Stdout,
    Stderr,
    Children,
    Listener,
}

impl FileOf {
    const ALL: [Self; 7] = [
        Self::Connection,
        Self::Report,
        Self::Stdin,
        Self::Stdout,
        Self::Stderr,
        Self::Children,
        Self::Listener,
    ];
}

impl From<Token> for u64 {
    fn from(token: Token) -> Self {
        Self::from(token.session) << 8 | token.file as Self
    }
}

impl TryFrom<u64> for Token {
    type Error = ();

    fn try_from(data: u64) -> Result<Self, ()> {
        let [file, session @ .., _, _, _] = data.to_le_bytes();
        Ok(Self {
            session: u32::from_le_bytes(session),
            file: *FileOf::ALL.get(usize::from(file)).ok_or(())?,
        })
    }
}

/// A file with what is waited for on it. It leaves the poll when it is dropped, also if the
/// same open file has other descriptors, as those of a terminal do.
pub(crate) struct Watched<F: AsFd> {
    file: F,
    epoll: Rc<Epoll>,
    token: u64,
    interest: EpollFlags,
}

impl<F: AsFd> Watched<F> {
    /// Takes `file`, whose events will have `token`; nothing is waited for yet.
    pub(crate) fn new(file: F, epoll: &Rc<Epoll>, token: impl Into<u64>) -> Self {
        Self {
            file,
            epoll: Rc::clone(epoll),
            token: token.into(),
            interest: EpollFlags::empty(),
        }
    }

    /// Waits for `interest` from now on; for nothing, not even an error, if it is empty.
    pub(crate) fn want(&mut self, interest: EpollFlags) {
        if interest == self.interest {
            return;
        }
        let mut event = EpollEvent::new(interest, self.token);
        let done = match (self.interest.is_empty(), interest.is_empty()) {
            (true, _) => self.epoll.add(&self.file, event),
            (false, false) => self.epoll.modify(&self.file, &mut event),
            (false, true) => self.epoll.delete(&self.file),
        };
        match done {
            Ok(()) => self.interest = interest,
            Err(e) => {
                crate::kernel_log::error(&format!("cannot wait for file {:#x}: {e}", self.token))
            }
        }
    }
}

impl<F: AsFd> Drop for Watched<F> {
    fn drop(&mut self) {
        self.want(EpollFlags::empty());
    }
}

impl<F: AsFd> Deref for Watched<F> {
    type Target = F;

    fn deref(&self) -> &F {
        &self.file
    }
}

impl<F: AsFd> DerefMut for Watched<F> {
    fn deref_mut(&mut self) -> &mut F {
        &mut self.file
    }
}

impl<F: AsFd> Debug for Watched<F> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched")
            .field("token", &self.token)
            .field("interest", &self.interest)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_way_through_the_kernel() {
        for file in FileOf::ALL {
            for session in [0, 1, 0x0102_0304, u32::MAX] {
                let token = Token { session, file };
                assert_eq!(Token::try_from(u64::from(token)), Ok(token));
            }
        }
        assert!(Token::try_from(7).is_err());
    }
}
