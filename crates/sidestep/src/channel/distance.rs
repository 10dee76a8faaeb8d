//! How far a consumer stays behind a producer.

use std::time::Duration;

use crate::primitive::{Instant, spin_loop};
use crate::sync::Habit;

const FALL_BACK: Duration = Duration::from_micros(1);

/// A consumer's experience with one channel: whether its producer puts one message after the other.
///
/// A consumer at the heels of such a producer finds it, for each message, at the same line of memory,
/// which then changes processors twice; that costs both of them more than the message itself. Some
/// messages apart, each works on lines of its own.
#[derive(Debug, Default)]
pub(super) struct Distance {
    pays: Habit,
}

impl Distance {
    pub(super) const fn new() -> Self {
        Self { pays: Habit::new() }
    }

    /// A message has come that was waited for: lets the producer get ahead, if that may be worth it.
    /// `waiting` tells how many messages there are.
    pub(super) fn keep(&self, waiting: impl FnOnce() -> u64) {
        if !self.pays.is_due() {
            return;
        }
        let started = Instant::now();
        while started.elapsed() < FALL_BACK {
            for _ in 0..16 {
                spin_loop();
            }
        }
        if waiting() > 1 {
            self.pays.confirm();
        } else {
            self.pays.discourage(Habit::MOST_SKIPPED);
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;
    use core::cell::Cell;

    #[test]
    fn a_consumer_falls_back_behind_streams_only() {
        let distance = Distance::new();
        let times = |count, waiting| {
            let fallen_back = Cell::new(0);
            for _ in 0..count {
                distance.keep(|| {
                    fallen_back.set(fallen_back.get() + 1);
                    waiting
                });
            }
            fallen_back.get()
        };
        // A message and its answer, and so on.
        assert_eq!(times(1000, 0), 21);
        while times(1, 9) == 0 {}
        assert_eq!(times(100, 9), 100);
    }
}
