//! The user's terminal: raw while a process in the guest has it, and back again however the
//! launcher ends.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;

use nix::sys::termios::{self, SetArg, Termios};
use runcvm_protocol::WindowSize;

/// How a terminal was before it was made raw.
#[derive(Debug)]
pub(crate) struct Saved {
    fd: OwnedFd,
    settings: Termios,
}

impl Saved {
    /// The settings of the terminal `fd`; `None` if it is none.
    pub(crate) fn of(fd: BorrowedFd<'_>) -> Option<Self> {
        let settings = termios::tcgetattr(fd).ok()?;
        let fd = fd.try_clone_to_owned().ok()?;
        Some(Self { fd, settings })
    }

    pub(crate) fn fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// Puts the settings back.
    pub(crate) fn restore(&self) {
        // A terminal that is gone has nothing to put back.
        let _ = termios::tcsetattr(&self.fd, SetArg::TCSADRAIN, &self.settings);
    }
}

/// What the panic hook puts back: a release build aborts on a panic and drops nothing.
static RAW: Mutex<Option<Saved>> = Mutex::new(None);

/// A terminal in raw mode, until this is dropped or the process panics.
#[derive(Debug)]
pub(crate) struct RawTerminal(());

impl RawTerminal {
    /// Makes the terminal `fd` raw; `None` if it is none.
    pub(crate) fn enter(fd: BorrowedFd<'_>) -> Option<Self> {
        let saved = Saved::of(fd)?;
        let mut raw = saved.settings.clone();
        termios::cfmakeraw(&mut raw);
        let mut slot = RAW
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        // Not flushed: what was typed ahead is for the process.
        termios::tcsetattr(fd, SetArg::TCSADRAIN, &raw).ok()?;
        *slot = Some(saved);
        Some(Self(()))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back before a panic's message, which then reads well too.
pub fn restore_on_panic() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        restore();
        default(info);
    }));
}

fn restore() {
    // A panic inside `enter` may hold the lock; nothing is raw then.
    if let Ok(mut slot) = RAW.try_lock()
        && let Some(saved) = slot.take()
    {
        saved.restore();
    }
}

/// The size of the first of `fds` that is a terminal.
pub(crate) fn size(fds: &[BorrowedFd<'_>]) -> Option<WindowSize> {
    nix::ioctl_read_bad!(window_size, libc::TIOCGWINSZ, libc::winsize);
    fds.iter().find_map(|fd| {
        let mut size = libc::winsize {
            ws_row: 0,
            ws_col: 0,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: TIOCGWINSZ writes one `winsize`, and `size` is one.
        unsafe { window_size(fd.as_raw_fd(), &raw mut size) }.ok()?;
        Some(WindowSize {
            rows: size.ws_row,
            columns: size.ws_col,
        })
    })
}

/// The size of the user's terminal, if one of our own streams is one.
pub fn own_size() -> Option<WindowSize> {
    size(&[
        std::io::stdin().as_fd(),
        std::io::stdout().as_fd(),
        std::io::stderr().as_fd(),
    ])
}
