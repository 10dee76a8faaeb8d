//! The only door to atomics and futexes: the real ones, or those of the checkers.
//!
//! Code that a loom model runs (`sync`, and the words of `channel` and `shm`) takes its atomics, its
//! fence and its futex from here, so that one text is both shipped and model-checked. The rest of
//! the engine takes what may wait or may be killed from here, too: under `shuttle` whole scenarios
//! run in random orders.

#[cfg(shuttle)]
pub(crate) mod simulated;

#[cfg(not(any(loom, shuttle)))]
mod real {
    pub use core::hint::spin_loop;
    pub use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

    pub use std::thread::sleep as nap;
    pub use std::time::Instant;

    pub use crate::os::futex::{Wake, wait as futex_wait, wake as futex_wake};
    pub use crate::os::{doorbell, process, socket};

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

    use loom::sync::{Arc, Mutex, Notify};

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

    struct Sleeper {
        address: usize,
        expected: u32,
        bed: Arc<Notify>,
        /// 0 while it sleeps, then why it was woken.
        woken: Arc<AtomicU32>,
    }

    const WOKEN: u32 = 1;
    const TIMED_OUT: u32 = 2;

    impl Sleeper {
        fn wake(&self, why: u32) {
            self.woken.store(why, Ordering::SeqCst);
            self.bed.notify();
        }
    }

    /// All that the model's kernel knows.
    #[derive(Default)]
    struct Room {
        sleepers: Vec<Sleeper>,
        /// Stamps of processes that died holding something.
        dead: Vec<u32>,
    }

    const STAMP: u32 = (1 << 30) - 1;

    loom::lazy_static! {
        static ref ROOM: Mutex<Room> = Mutex::new(Room::default());
    }

    /// A futex wait for ever: a lost wake-up is a deadlock, which loom reports. It times out only
    /// if the word says that a dead process holds it: somebody would otherwise sleep for ever.
    pub fn futex_wait(word: &AtomicU32, expected: u32, _limit: Option<Duration>) -> Wake {
        let bed = Arc::new(Notify::new());
        let woken = Arc::new(AtomicU32::new(0));
        {
            let mut room = ROOM.lock().unwrap();
            if word.load(Ordering::SeqCst) != expected {
                return Wake::Changed;
            }
            if room.dead.contains(&(expected & STAMP)) {
                return Wake::TimedOut;
            }
            room.sleepers.push(Sleeper {
                address: core::ptr::from_ref(word) as usize,
                expected,
                bed: bed.clone(),
                woken: woken.clone(),
            });
        }
        loop {
            // Loom lets this return for no reason, too.
            bed.wait();
            match woken.load(Ordering::SeqCst) {
                0 => {}
                TIMED_OUT => return Wake::TimedOut,
                _ => return Wake::Woken,
            }
        }
    }

    /// Wakes at most `count` of the word's sleepers, who slept first.
    pub fn futex_wake(word: &AtomicU32, count: u32) {
        let address = core::ptr::from_ref(word) as usize;
        let mut room = ROOM.lock().unwrap();
        let mut left = count;
        wake(&mut room, WOKEN, |sleeper| {
            let wake = sleeper.address == address && left > 0;
            left -= u32::from(wake);
            wake
        });
    }

    fn wake(room: &mut Room, why: u32, mut which: impl FnMut(&Sleeper) -> bool) {
        let all = core::mem::take(&mut room.sleepers);
        for sleeper in all {
            if which(&sleeper) {
                sleeper.wake(why);
            } else {
                room.sleepers.push(sleeper);
            }
        }
    }

    /// For models: the process with this stamp is dead, so who waits for it loses patience.
    pub fn lose_patience_with(stamp: u32) {
        let mut room = ROOM.lock().unwrap();
        room.dead.push(stamp);
        wake(&mut room, TIMED_OUT, |sleeper| {
            sleeper.expected & STAMP == stamp
        });
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
#[cfg(not(any(loom, shuttle)))]
pub use real::*;
#[cfg(shuttle)]
pub use simulated::*;
