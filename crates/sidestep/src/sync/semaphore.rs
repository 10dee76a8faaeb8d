//! The user's semaphore.

use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::time::Duration;

use super::gate::SLICE;
use super::patience::Patience;
use super::wait::{ReleaseError, Wait};
use crate::crash;
use crate::primitive::{AtomicU32, Wake, futex_wait, futex_wake};

const SLEEPERS: u32 = 1;
const ONE: u32 = 2;

/// A counter that never falls below zero: who would take it there, waits.
///
/// | bits of `state` | meaning                 | who writes it                            |
/// |----------------:|-------------------------|------------------------------------------|
/// |               0 | someone sleeps, or may  | a sleeper; cleared by who wakes it       |
/// |           1..32 | the value               | who acquires or releases, one swap each  |
///
/// A semaphore has no owners: permits that a killed process held are not given back, since nobody
/// can know whether it held them for itself. If a process dies inside: the value has changed or
/// not, by one swap. A dead sleeper costs a wake for nobody; one that was woken and died before
/// it took the permit delays the next by at most `SLICE`.
#[repr(C)]
#[derive(Debug)]
pub struct Semaphore {
    state: AtomicU32,
    /// The highest value that a release may lead to.
    limit: AtomicU32,
}

/// The highest value of any semaphore.
pub const SEMAPHORE_MAX: u32 = i32::MAX as u32;

impl Semaphore {
    /// A semaphore of this value, which no release may lift above `limit`.
    pub fn new(value: u32, limit: u32) -> Self {
        Self {
            state: AtomicU32::new(value.min(SEMAPHORE_MAX) * ONE),
            limit: AtomicU32::new(limit.min(SEMAPHORE_MAX)),
        }
    }

    /// Gives memory its first value, before anybody else sees it.
    pub fn init(&self, value: u32, limit: u32) {
        self.state.store(value.min(SEMAPHORE_MAX) * ONE, Relaxed);
        self.limit.store(limit.min(SEMAPHORE_MAX), Relaxed);
    }

    /// Takes one if there is one.
    #[inline]
    pub fn try_acquire(&self) -> bool {
        let mut state = self.state.load(Relaxed);
        while state >= ONE {
            // [semaphore-state]
            match self
                .state
                .compare_exchange_weak(state, state - ONE, Acquire, Relaxed)
            {
                Ok(_) => {
                    crash::point("semaphore: permit taken");
                    return true;
                }
                Err(now) => state = now,
            }
        }
        false
    }

    /// Takes one, sleeping until there is one, for at most `left()` in all.
    pub fn acquire(&self, patience: &Patience, mut left: impl FnMut() -> Option<Duration>) -> Wait {
        if patience.outlasts(|| self.value() > 0) && self.try_acquire() {
            return Wait::Ready;
        }
        let mut slept = false;
        loop {
            let state = self.state.load(Relaxed);
            if state >= ONE {
                // Whoever has slept cannot know that it slept alone.
                let next = (state - ONE) | u32::from(slept);
                if self
                    .state
                    .compare_exchange(state, next, Acquire, Relaxed)
                    .is_ok()
                {
                    crash::point("semaphore: permit taken by one who waited");
                    if slept && next >= ONE {
                        self.wake(1);
                    }
                    return Wait::Ready;
                }
                continue;
            }
            // Before we may give up: if we were woken and somebody else took the permit, the mark
            // is gone, and those who sleep on would not be woken.
            if state & SLEEPERS == 0
                && self
                    .state
                    .compare_exchange(state, state | SLEEPERS, Relaxed, Relaxed)
                    .is_err()
            {
                continue;
            }
            let Some(limit) = left() else {
                return Wait::TimedOut;
            };
            crash::point("semaphore: about to sleep");
            match futex_wait(&self.state, state | SLEEPERS, Some(limit.min(SLICE))) {
                Wake::Interrupted => return Wait::Interrupted,
                Wake::TimedOut if left().is_some() => return Wait::Interrupted,
                _ => slept = true,
            }
        }
    }

    /// Adds `count` and wakes as many.
    ///
    /// # Errors
    /// The value would rise above the limit; nothing is added.
    #[inline]
    pub fn release(&self, count: u32) -> Result<(), ReleaseError> {
        let limit = self.limit.load(Relaxed);
        let mut state = self.state.load(Relaxed);
        loop {
            let value = (state / ONE)
                .checked_add(count)
                .filter(|value| *value <= limit);
            let Some(value) = value else {
                return Err(ReleaseError::TooOften);
            };
            // [semaphore-state]
            let next = value * ONE;
            match self
                .state
                .compare_exchange_weak(state, next, SeqCst, Relaxed)
            {
                Ok(_) => {
                    crash::point("semaphore: raised, nobody woken yet");
                    if state & SLEEPERS != 0 {
                        futex_wake(&self.state, count);
                    }
                    return Ok(());
                }
                Err(now) => state = now,
            }
        }
    }

    #[cold]
    fn wake(&self, count: u32) {
        if self.state.fetch_and(!SLEEPERS, SeqCst) & SLEEPERS != 0 {
            futex_wake(&self.state, count);
        }
    }

    /// The value just now.
    pub fn value(&self) -> u32 {
        self.state.load(Relaxed) / ONE
    }
}
