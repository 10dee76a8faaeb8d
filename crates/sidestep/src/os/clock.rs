//! Deadlines on the monotonic clock.
#![allow(unsafe_code)]

use std::time::Duration;

use crate::primitive::Instant;

/// The monotonic clock, which all processes of the machine read alike.
///
/// # References
/// `clock_gettime(2)`, `CLOCK_MONOTONIC`.
pub fn now() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: one live timespec; the clock exists everywhere, so the call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A point in time after which a wait gives up; `None` never comes.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// A deadline that never comes.
    pub const NEVER: Self = Self(None);

    /// `limit` from now; never for `None` or for a time beyond the clock's range.
    pub fn after(limit: Option<Duration>) -> Self {
        Self(limit.and_then(|limit| Instant::now().checked_add(limit)))
    }

    /// Time left, at most `slice`; `None` when the deadline has passed.
    pub fn slice(self, slice: Duration) -> Option<Duration> {
        match self.0 {
            None => Some(slice),
            Some(end) => {
                let left = end.saturating_duration_since(Instant::now());
                (!left.is_zero()).then(|| left.min(slice))
            }
        }
    }

    /// Time left; `None` for a deadline that never comes.
    pub fn left(self) -> Option<Duration> {
        self.0
            .map(|end| end.saturating_duration_since(Instant::now()))
    }
}
