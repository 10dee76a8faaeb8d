//! Sleeping until something has changed, without a system call when nobody sleeps.

use std::time::Duration;

use crate::crash;
use crate::primitive::{
    AtomicU32, Ordering, Wake, futex_wait, futex_wake, store_load_barrier_after_rmw,
};

const SLEEPERS: u32 = 1;
const TICK: u32 = 2;

/// The longest sleep in one piece: a waker that was killed between its change and its wake costs
/// the sleeper this much, never for ever.
pub const SLICE: Duration = Duration::from_millis(500);

/// Someone-sleeps flag and counter in one word; two words would lose wake-ups.
///
/// | bits  | meaning                      | who writes it                       |
/// |------:|------------------------------|-------------------------------------|
/// | 0     | someone sleeps, or may       | a sleeper, before it looks again    |
/// | 1..32 | wakes so far, wrapping       | a waker, as it clears bit 0         |
///
/// The protocol. A sleeper calls [`Gate::arm`], looks at what it waits for once more, and calls
/// [`Gate::sleep`] with the value that `arm` returned. A waker changes the thing and calls
/// [`Gate::wake_one`] or [`Gate::wake_all`]. Whoever was woken calls [`Gate::rearm`], since others
/// may still sleep, and wakes one more if there is more for them.
///
/// If a process dies: a dead sleeper leaves bit 0, which costs one wake for nobody. A waker that
/// dies before its wake, and a woken sleeper that dies before it passes the wake on, delay the
/// others by at most [`SLICE`].
#[repr(C)]
#[derive(Debug)]
pub struct Gate {
    word: AtomicU32,
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// A gate at which nobody sleeps. All-zero memory is one, too.
    pub fn new() -> Self {
        Self {
            word: AtomicU32::new(0),
        }
    }

    /// Announces a sleeper. What it waits for must be looked at again after this.
    pub fn arm(&self) -> u32 {
        // A full barrier, so that a waker that missed the bit is seen to have changed the thing.
        let word = self.word.fetch_or(SLEEPERS, Ordering::SeqCst) | SLEEPERS;
        store_load_barrier_after_rmw();
        crash::point("gate: sleeper announced");
        word
    }

    /// Sleeps until a wake after `armed` was taken, a signal, or `limit` (in slices of
    /// [`SLICE`] for the caller to loop over).
    pub fn sleep(&self, armed: u32, limit: Duration) -> Wake {
        futex_wait(&self.word, armed, Some(limit.min(SLICE)))
    }

    /// After being woken: others may still sleep.
    pub fn rearm(&self) {
        self.word.fetch_or(SLEEPERS, Ordering::SeqCst);
    }

    /// Wakes one sleeper, if there may be one. The caller's change must have been followed by a
    /// full barrier (a read-modify-write, on x86-64).
    #[inline]
    pub fn wake_one(&self) {
        if self.word.load(Ordering::SeqCst) & SLEEPERS != 0 {
            self.wake(1);
        }
    }

    /// Wakes all sleepers. As [`Gate::wake_one`].
    #[inline]
    pub fn wake_all(&self) {
        if self.word.load(Ordering::SeqCst) & SLEEPERS != 0 {
            self.wake(u32::MAX);
        }
    }

    /// Whether someone sleeps here, or may.
    #[inline]
    pub fn has_sleepers(&self) -> bool {
        self.word.load(Ordering::SeqCst) & SLEEPERS != 0
    }

    #[cold]
    fn wake(&self, count: u32) {
        let mut word = self.word.load(Ordering::SeqCst);
        while word & SLEEPERS != 0 {
            let next = word.wrapping_add(TICK) & !SLEEPERS;
            match self
                .word
                .compare_exchange(word, next, Ordering::SeqCst, Ordering::SeqCst)
            {
                Ok(_) => {
                    crash::point("gate: counted, nobody woken yet");
                    return futex_wake(&self.word, count);
                }
                Err(now) => word = now,
            }
        }
    }
}
