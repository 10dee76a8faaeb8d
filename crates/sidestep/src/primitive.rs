//! The only door to atomics and futexes: the real ones, or loom's models of them.
//!
//! Code that a loom model runs (`sync` and the cursors of `channel`) takes its atomics, its
//! fence and its futex from here, so that one text is both shipped and model-checked.

#[cfg(not(loom))]
mod real {
    pub use core::hint::spin_loop;
    pub use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

    pub use crate::os::futex::{Wake, wait as futex_wait, wake as futex_wake};

    /// The store-load barrier between "I published" and "does anybody sleep?".
    ///
    /// On x86-64 the read-modify-write that precedes each use is that barrier already.
    #[inline]
    pub fn store_load_barrier_after_rmw() {
        #[cfg(not(target_arch = "x86_64"))]
        fence(Ordering::SeqCst);
    }

    /// How often a waiter looks again before it sleeps; more would only burn the owner's time.
    pub const SPINS: u32 = 100;
}

#[cfg(loom)]
mod modelled {
    use std::time::Duration;

    pub use loom::hint::spin_loop;
    pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

    /// How a wait on a futex ended.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Wake {
        /// Woken, or for no reason at all.
        Woken,
        /// The word did not hold the expected value.
        Changed,
        /// The time was up.
        TimedOut,
        /// A signal handler ran.
        Interrupted,
    }

    loom::lazy_static! {
        // One waiting room for all words of a model: a wake of one wakes any one sleeper, so
        // models that wake singly use a single word.
        static ref ROOM: (loom::sync::Mutex<()>, loom::sync::Condvar) =
            (loom::sync::Mutex::new(()), loom::sync::Condvar::new());
    }

    /// A futex wait without time limit: a lost wake-up is a deadlock that loom reports.
    pub fn futex_wait(word: &AtomicU32, expected: u32, _limit: Option<Duration>) -> Wake {
        let guard = ROOM.0.lock().unwrap();
        if word.load(Ordering::SeqCst) != expected {
            return Wake::Changed;
        }
        drop(ROOM.1.wait(guard).unwrap());
        Wake::Woken
    }

    /// Wakes one sleeper, or all.
    pub fn futex_wake(_word: &AtomicU32, count: u32) {
        let _guard = ROOM.0.lock().unwrap();
        if count == 1 {
            ROOM.1.notify_one();
        } else {
            ROOM.1.notify_all();
        }
    }

    /// See the real one; the model always needs the fence.
    pub fn store_load_barrier_after_rmw() {
        fence(Ordering::SeqCst);
    }

    /// Spinning only multiplies the executions of a model.
    pub const SPINS: u32 = 0;
}

#[cfg(loom)]
pub use modelled::*;
#[cfg(not(loom))]
pub use real::*;
