//! The user's event: a flag that others wait for.

use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::time::Duration;

use super::gate::SLICE;
use super::patience::Patience;
use super::wait::Wait;
use crate::crash;
use crate::primitive::{AtomicU32, Wake, futex_wait, futex_wake};

const SET: u32 = 1;
const SLEEPERS: u32 = 2;
const ONCE: u32 = 4;
/// All that the count can be.
const COUNT: u32 = u32::MAX / ONCE;

/// A flag in one word.
///
/// | bits  | meaning                                   | who writes it     |
/// |------:|-------------------------------------------|-------------------|
/// | 0     | the flag                                  | `set`, `clear`    |
/// | 1     | someone sleeps, or may                    | a sleeper         |
/// | 2..32 | how often it was set, wrapping            | `set`             |
///
/// The count lets a sleeper know that the flag was set even if it was cleared again at once.
/// Nobody holds an event, so a death leaves it as it is; a setter that dies between its swap and
/// the wake delays sleepers by at most `SLICE`.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Event {
    word: AtomicU32,
}

impl Event {
    /// An event that is not set. All-zero memory is one, too.
    pub fn new() -> Self {
        Self {
            word: AtomicU32::new(0),
        }
    }

    /// Whether the flag is set.
    #[inline]
    pub fn is_set(&self) -> bool {
        // [event-word]
        self.word.load(Acquire) & SET != 0
    }

    /// Sets the flag and wakes everybody; never waits for the woken.
    pub fn set(&self) {
        let mut word = self.word.load(Relaxed);
        while word & SET == 0 {
            let next = (word | SET).wrapping_add(ONCE) & !SLEEPERS;
            // [event-word]
            match self.word.compare_exchange(word, next, SeqCst, Relaxed) {
                Ok(_) => {
                    crash::point("event: set, nobody woken yet");
                    if word & SLEEPERS != 0 {
                        futex_wake(&self.word, u32::MAX);
                    }
                    return;
                }
                Err(now) => word = now,
            }
        }
    }

    /// Clears the flag.
    pub fn clear(&self) {
        self.word.fetch_and(!SET, SeqCst);
        crash::point("event: cleared");
    }

    /// This moment, for [`Event::wait_since`]: how often the flag was set before it, not counting
    /// the last time if it still is.
    pub fn count(&self) -> u32 {
        // [event-word]
        let word = self.word.load(Acquire);
        (word / ONCE).wrapping_sub(word & SET) & COUNT
    }

    /// Waits until the flag is set (or has been set meanwhile), for at most `left()` in all.
    ///
    /// Who calls again after [`Wait::Interrupted`] uses [`Event::wait_since`]: a set and a clear
    /// between two calls would be missed.
    pub fn wait(&self, patience: &Patience, left: impl FnMut() -> Option<Duration>) -> Wait {
        self.wait_since(self.count(), patience, left)
    }

    /// Waits until the flag is set, or has been set since the moment of [`Event::count`], for at
    /// most `left()` in all.
    pub fn wait_since(
        &self,
        count: u32,
        patience: &Patience,
        mut left: impl FnMut() -> Option<Duration>,
    ) -> Wait {
        let first = self.word.load(Acquire);
        if first & SET != 0 || first / ONCE != count {
            return Wait::Ready;
        }
        if patience.outlasts(|| self.word.load(Acquire) / ONCE != count) {
            return Wait::Ready;
        }
        loop {
            let word = self.word.load(Acquire);
            if word & SET != 0 || word / ONCE != count {
                return Wait::Ready;
            }
            let Some(limit) = left() else {
                return Wait::TimedOut;
            };
            if word & SLEEPERS == 0
                && self
                    .word
                    .compare_exchange(word, word | SLEEPERS, SeqCst, Relaxed)
                    .is_err()
            {
                continue;
            }
            crash::point("event: about to sleep");
            match futex_wait(&self.word, word | SLEEPERS, Some(limit.min(SLICE))) {
                Wake::Interrupted => return Wait::Interrupted,
                Wake::TimedOut if left().is_some() => return Wait::Interrupted,
                _ => {}
            }
        }
    }
}
