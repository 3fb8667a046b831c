//! A machine whose launcher was killed ends a moment after it, and only then lets go of its
//! disks and taps. Who starts it again at once should not hear of that.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a machine may take to end.
const MOMENT: Duration = Duration::from_secs(1);

/// Makes attempts for a moment, as long as they fail because something is `in_use`.
pub(crate) fn insist<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    in_use: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let deadline = Instant::now() + MOMENT;
    loop {
        match attempt() {
            Err(error) if in_use(&error) && Instant::now() < deadline => {
                sleep(Duration::from_millis(5));
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_in_use_is_worth_another_attempt() {
        let mut left = 3;
        let busy = || {
            left -= 1;
            if left == 0 { Ok("free") } else { Err("in use") }
        };
        assert_eq!(insist(busy, |e| *e == "in use"), Ok("free"));
        let mut attempts = 0;
        let broken: Result<(), _> = insist(
            || {
                attempts += 1;
                Err("broken")
            },
            |e| *e == "in use",
        );
        assert_eq!((broken, attempts), (Err("broken"), 1));
        assert_eq!(insist(|| Err::<(), _>("in use"), |_| true), Err("in use"));
    }
}
