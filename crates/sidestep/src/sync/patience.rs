//! How long a waiter looks again and again before it sleeps.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

#[cfg(not(loom))]
use crate::primitive::{Instant, process, spin_loop};

/// The longest that anybody stays awake.
///
/// To start a sleeper takes the kernel 2 to 50 us, the longer ones where its processor sleeps, too.
/// So whoever answers a sleeper at once comes within this time, and two that answer each other
/// find into staying awake, from where a round takes a microsecond.
pub const AWAKE_FOR: Duration = Duration::from_micros(50);

/// Most waits in a row that are slept through at once.
const MOST_SKIPPED: u32 = 64;

/// A waiter's experience with one object: whether it was worth it to stay awake. Each process has
/// its own.
///
/// To stay awake for nothing costs the processor that the other side may need. So it is done only
/// where there are two; and after it was in vain, the next waits sleep at once: one, then two, four
/// and so on, until staying awake has been worth it again. An object that is waited for for long
/// costs next to nothing, and so does one whose other side finds no processor free.
#[derive(Debug, Default)]
pub struct Patience {
    /// Waits still to be slept through at once.
    skip: AtomicU32,
    /// How many they were after the last one in vain.
    skipped: AtomicU32,
}

impl Patience {
    /// Without any experience: the first wait stays awake.
    pub const fn new() -> Self {
        Self {
            skip: AtomicU32::new(0),
            skipped: AtomicU32::new(0),
        }
    }

    /// Looks whether it is `ready`, for a while if that may be worth it: whether it is.
    #[cfg(not(loom))]
    pub fn outlasts(&self, ready: impl Fn() -> bool) -> bool {
        if ready() {
            return true;
        }
        // Threads that share the object may confuse the count; it is a rule of thumb.
        let skip = self.skip.load(Relaxed);
        if skip > 0 {
            self.skip.store(skip - 1, Relaxed);
            return false;
        }
        if process::processors() < 2 {
            return false;
        }
        let started = Instant::now();
        while started.elapsed() < AWAKE_FOR {
            for _ in 0..16 {
                if ready() {
                    self.skipped.store(0, Relaxed);
                    return true;
                }
                spin_loop();
            }
        }
        let skip = (2 * self.skipped.load(Relaxed)).clamp(1, MOST_SKIPPED);
        self.skipped.store(skip, Relaxed);
        self.skip.store(skip, Relaxed);
        false
    }

    /// Looks whether it is `ready`: a model has no time.
    #[cfg(loom)]
    pub fn outlasts(&self, ready: impl Fn() -> bool) -> bool {
        ready()
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;
    use core::cell::Cell;

    /// Whether a wait that never ends stays awake.
    fn stays_awake(patience: &Patience) -> bool {
        let looks = Cell::new(0);
        assert!(!patience.outlasts(|| {
            looks.set(looks.get() + 1);
            false
        }));
        looks.get() > 1
    }

    #[test]
    fn waits_in_vain_become_rare_and_one_success_brings_them_back() {
        if process::processors() < 2 {
            return;
        }
        let patience = Patience::new();
        let awake = |waits| (0..waits).filter(|_| stays_awake(&patience)).count();
        // The 1st, 3rd, 6th, 11th, 20th, 37th, 70th, ... then one in 65.
        assert_eq!(awake(1000), 21);
        while !stays_awake(&patience) {}
        while patience.skip.load(Relaxed) > 0 {
            assert!(!stays_awake(&patience));
        }
        let looks = Cell::new(0);
        assert!(patience.outlasts(|| {
            looks.set(looks.get() + 1);
            looks.get() == 10
        }));
        assert!(stays_awake(&patience));
        assert!(!stays_awake(&patience));
        assert!(stays_awake(&patience));
    }

    #[test]
    fn what_is_ready_costs_no_patience() {
        let patience = Patience::new();
        assert!((0..100).all(|_| patience.outlasts(|| true)));
        assert_eq!(patience.skip.load(Relaxed), 0);
    }
}
