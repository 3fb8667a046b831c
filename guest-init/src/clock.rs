//! The guest's wall clock, kept as the host's.
//!
//! Until Linux has found the machine's clock it counts timer ticks, of which a busy host loses
//! some, and later the two clocks drift apart. So the agent asks the host, before the workload
//! starts and every minute from there on. An answer holds for some moment since the question,
//! and is taken for that of the middle (as in NTP, RFC 5905, section 8).

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};
use runcvm_protocol::{ToGuest, ToHost};

use crate::connection::Connection;
use crate::kernel_log;

/// How long the workload waits for the right time at most.
const PATIENCE: Duration = Duration::from_secs(1);

/// Between an answer and the next question.
const PERIOD: Duration = Duration::from_secs(60);

/// Nobody minds a difference up to this.
const NEGLIGIBLE: i128 = 2_000_000;

/// While the workload runs, smaller differences are made up for little by little.
const STEP: i128 = 100_000_000;

/// Who moves the clock by more than this without us means it.
const INTENDED: i128 = 1_000_000_000;

/// The clock. Times are in nanoseconds.
#[derive(Debug)]
pub(crate) struct Clock {
    /// When the question was asked that has no answer yet.
    asked: Option<Instant>,
    /// When to ask next; never again, if none.
    next: Option<Instant>,
    /// What [`epoch`] was when the clock was last looked after.
    epoch: i128,
}

impl Clock {
    /// Sets the clock by the host at the other end of `connection`, or gives up after
    /// [`PATIENCE`].
    pub(crate) fn synchronize(connection: &mut Connection) -> Self {
        let mut this = Self {
            asked: Some(Instant::now()),
            next: Some(Instant::now() + PERIOD),
            epoch: epoch(),
        };
        connection.queue(&ToHost::AskTime);
        match wait_for_answer(connection) {
            Ok(Some(unix_ns)) => this.take(unix_ns, true),
            Ok(None) => kernel_log::error("the host does not say what time it is"),
            // Whoever uses the connection next will see that, too.
            Err(_) => {}
        }
        this
    }

    /// When to ask again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.next.filter(|_| self.asked.is_none())
    }

    /// What is to be asked now, if it is time to.
    pub(crate) fn question(&mut self) -> Option<ToHost> {
        let now = Instant::now();
        if self.deadline().is_none_or(|next| next > now) {
            return None;
        }
        if (epoch() - self.epoch).abs() > INTENDED {
            // The machine's root set it, and may.
            self.next = None;
            return None;
        }
        self.asked = Some(now);
        Some(ToHost::AskTime)
    }

    /// The host's answer.
    pub(crate) fn answer(&mut self, unix_ns: u64) {
        self.take(unix_ns, false);
    }

    fn take(&mut self, unix_ns: u64, at_once: bool) {
        let Some(asked) = self.asked.take() else {
            return;
        };
        self.next = Some(Instant::now() + PERIOD);
        let doubt = nanoseconds(asked.elapsed()) / 2;
        let wrong = i128::from(unix_ns) + doubt - now(ClockId::CLOCK_REALTIME);
        let done = match correction(wrong, doubt, at_once) {
            Correction::None => Ok(()),
            Correction::Gradual => slew(wrong),
            Correction::Step => step(wrong),
        };
        if let Err(e) = done {
            kernel_log::error(&format!("cannot set the clock: {e}"));
        }
        self.epoch = epoch();
    }
}

/// What is done about a clock that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Correction {
    None,
    Gradual,
    Step,
}

/// What to do about a clock that is behind by `wrong`, known to within `doubt`.
fn correction(wrong: i128, doubt: i128, at_once: bool) -> Correction {
    match wrong.abs() {
        wrong if wrong <= NEGLIGIBLE.max(doubt) => Correction::None,
        wrong if wrong < STEP && !at_once => Correction::Gradual,
        _ => Correction::Step,
    }
}

/// The host says nothing else before the workload runs. `None` if it says nothing.
fn wait_for_answer(connection: &mut Connection) -> io::Result<Option<u64>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        connection.flush()?;
        if let Ok(Some(ToGuest::Time { unix_ns })) = connection.next() {
            return Ok(Some(unix_ns));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        // In whole milliseconds, of which a part is one too.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1));
        let timeout = timeout.unwrap_or(PollTimeout::MAX);
        let mut wanted = PollFlags::POLLIN;
        wanted.set(PollFlags::POLLOUT, connection.backlog() > 0);
        match poll(&mut [PollFd::new(connection.as_fd(), wanted)], timeout) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(e) => return Err(e.into()),
        }
        if !connection.receive()? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// How far the wall clock is ahead of the time since the machine's start. Only who sets the
/// clock changes it: making it faster or slower does not.
fn epoch() -> i128 {
    /// Between reading two clocks, a vCPU may have to wait.
    const ATTEMPTS: usize = 8;
    let measured = (0..ATTEMPTS).map(|_| {
        let before = now(ClockId::CLOCK_BOOTTIME);
        let wall = now(ClockId::CLOCK_REALTIME);
        (now(ClockId::CLOCK_BOOTTIME) - before, wall - before)
    });
    measured.min().map_or(0, |(_, epoch)| epoch)
}

fn now(clock: ClockId) -> i128 {
    clock_gettime(clock).map_or(0, |time| {
        i128::from(time.tv_sec()) * 1_000_000_000 + i128::from(time.tv_nsec())
    })
}

fn nanoseconds(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}

/// Moves the clock by `wrong` at once.
fn step(wrong: i128) -> nix::Result<()> {
    let right = now(ClockId::CLOCK_REALTIME) + wrong;
    let part = |ns: i128| i64::try_from(ns).map_err(|_| Errno::ERANGE);
    let seconds = part(right.div_euclid(1_000_000_000))?;
    let rest = part(right.rem_euclid(1_000_000_000))?;
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::new(seconds, rest))
}

/// Has the clock run a little faster or slower until it has moved by `wrong` (adjtime(3)).
fn slew(wrong: i128) -> nix::Result<()> {
    let microseconds = i64::try_from(wrong / 1000).map_err(|_| Errno::ERANGE)?;
    // SAFETY: a structure of numbers, of which zero is one.
    let mut request: libc::timex = unsafe { std::mem::zeroed() };
    request.modes = libc::ADJ_OFFSET_SINGLESHOT;
    request.offset = microseconds;
    // SAFETY: it is valid for reading and writing.
    Errno::result(unsafe { libc::adjtimex(&raw mut request) }).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use runcvm_protocol::frame;

    use super::*;

    const MS: i128 = 1_000_000;

    fn clock(asked: Option<Instant>, next: Option<Instant>) -> Clock {
        Clock {
            asked,
            next,
            epoch: epoch(),
        }
    }

    #[test]
    fn what_is_known_to_be_wrong_is_corrected() {
        for (wrong, doubt, start, running) in [
            (0, 0, Correction::None, Correction::None),
            (MS, 0, Correction::None, Correction::None),
            (3 * MS, 0, Correction::Step, Correction::Gradual),
            (-3 * MS, 0, Correction::Step, Correction::Gradual),
            (30 * MS, 40 * MS, Correction::None, Correction::None),
            (1400 * MS, 40 * MS, Correction::Step, Correction::Step),
            (-3_600_000 * MS, MS, Correction::Step, Correction::Step),
        ] {
            assert_eq!(correction(wrong, doubt, true), start, "{wrong} {doubt}");
            assert_eq!(correction(wrong, doubt, false), running, "{wrong} {doubt}");
        }
    }

    #[test]
    fn one_question_waits_for_its_answer_and_a_minute() {
        let past = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        let mut clock = clock(None, Some(past));
        assert_eq!(clock.question(), Some(ToHost::AskTime));
        assert_eq!((clock.question(), clock.deadline()), (None, None));
        // As right as can be: nothing is set.
        let right = now(ClockId::CLOCK_REALTIME);
        clock.answer(u64::try_from(right).unwrap());
        let next = clock.deadline().unwrap();
        assert!(next > Instant::now() + PERIOD / 2);
        assert_eq!(clock.question(), None);
        // An answer to no question.
        clock.answer(0);
        assert_eq!(clock.deadline(), Some(next));
    }

    #[test]
    fn a_clock_that_somebody_set_is_theirs() {
        let past = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        let mut clock = clock(None, Some(past));
        clock.epoch -= 3600 * 1_000_000_000;
        assert_eq!((clock.question(), clock.deadline()), (None, None));
    }

    #[test]
    fn the_answer_may_come_in_pieces_or_not_at_all() {
        let (ours, mut host) = UnixStream::pair().unwrap();
        let mut connection = Connection::new(ours.into());
        let answer = frame::encode(&ToGuest::Time { unix_ns: 1 << 60 }).unwrap();
        let sender = std::thread::spawn(move || {
            for byte in answer {
                std::thread::sleep(Duration::from_millis(2));
                io::Write::write_all(&mut host, &[byte]).unwrap();
            }
            host
        });
        let answer = wait_for_answer(&mut connection).unwrap();
        assert_eq!(answer, Some(1 << 60));
        let host = sender.join().unwrap();
        let since = Instant::now();
        assert_eq!(wait_for_answer(&mut connection).unwrap(), None);
        assert!(since.elapsed() >= PATIENCE);
        drop(host);
        wait_for_answer(&mut connection).unwrap_err();
    }
}
