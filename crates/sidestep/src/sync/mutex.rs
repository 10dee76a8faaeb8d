//! The engine's own mutex: one word, and a successor for every owner that was killed.
//!
//! It guards the few instructions inside a queue or the arena's books, never anything of the
//! user's. While it is held there is no system call that waits (and but two at all: growing the
//! arena, and a byte for who watches a queue or receives from a pipe), no Python, no other wait than
//! for the ledger, which comes last in the order.

use std::time::Duration;

use super::stamp::{Population, Stamp};
use crate::crash;
use crate::primitive::{AtomicU32, Ordering, SPINS, Wake, futex_wait, futex_wake, spin_loop};

/// Somebody may sleep on the word.
const CONTENDED: u32 = 1 << 31;

/// How long a waiter sleeps before it asks whether the owner still lives.
const PATIENCE: Duration = Duration::from_millis(5);

/// In which state a mutex came to its new owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "after `OwnerDied` the data must be repaired before it is used"]
pub enum Acquired {
    /// The last owner let go of it.
    Clean,
    /// The last owner ended while holding it: what it guards may be half changed.
    OwnerDied,
}

/// A mutex between processes whose owner may be killed.
///
/// | word                  | meaning                | who writes it            | if the writer dies there |
/// |-----------------------|------------------------|--------------------------|--------------------------|
/// | 0                     | free                   | the owner, unlocking     | free                     |
/// | stamp                 | held by that process   | the new owner            | a waiter takes over      |
/// | stamp, `CONTENDED`    | held, someone sleeps   | a waiter, before a sleep | a waiter takes over      |
///
/// A waiter that has slept for 5 ms asks whether the owner is dead; if so, it swaps its own stamp
/// in, which exactly one waiter can do, and is told `OwnerDied`. If it dies in turn, the next one
/// is told the same. A waiter that is killed leaves `CONTENDED` behind: one wake for nobody.
///
/// Not fair, not recursive. Locking pairs (Acquire) with unlocking (Release) [mutex-word].
#[repr(C)]
#[derive(Debug)]
pub struct Mutex {
    word: AtomicU32,
}

impl Default for Mutex {
    fn default() -> Self {
        Self::new()
    }
}

impl Mutex {
    /// A free mutex. All-zero memory is one, too.
    pub fn new() -> Self {
        Self {
            word: AtomicU32::new(0),
        }
    }

    /// Takes the mutex, waiting for as long as a living owner holds it.
    #[inline]
    pub fn lock(&self, family: &impl Population) -> Acquired {
        let me = family.me().word();
        // [mutex-word]
        match self
            .word
            .compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed)
        {
            Ok(_) => Acquired::Clean,
            Err(_) => self.lock_slowly(family, me),
        }
    }

    /// Takes the mutex if it is free.
    #[inline]
    pub fn try_lock(&self, family: &impl Population) -> bool {
        let me = family.me().word();
        // [mutex-word]
        self.word
            .compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    #[cold]
    fn lock_slowly(&self, family: &impl Population, me: u32) -> Acquired {
        for _ in 0..SPINS {
            if self.word.load(Ordering::Relaxed) == 0
                && self
                    .word
                    .compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
            {
                return Acquired::Clean;
            }
            spin_loop();
        }
        loop {
            let word = self.word.load(Ordering::Relaxed);
            if word == 0 {
                // Others may still sleep: keep the mark, at the price of one wake for nobody.
                if self
                    .word
                    .compare_exchange(0, me | CONTENDED, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
                {
                    crash::point("mutex: taken by one who slept");
                    return Acquired::Clean;
                }
                continue;
            }
            let marked = word | CONTENDED;
            if word != marked
                && self
                    .word
                    .compare_exchange(word, marked, Ordering::Relaxed, Ordering::Relaxed)
                    .is_err()
            {
                continue;
            }
            crash::point("mutex: about to sleep");
            let asleep = futex_wait(&self.word, marked, Some(PATIENCE));
            if asleep == Wake::TimedOut
                && family.is_dead(Stamp::of_word(marked))
                && self
                    .word
                    .compare_exchange(marked, me | CONTENDED, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
            {
                crash::point("mutex: taken over from a dead owner");
                return Acquired::OwnerDied;
            }
        }
    }

    /// Lets go of the mutex and wakes one sleeper. Also a full barrier.
    ///
    /// Only the owner may call this.
    #[inline]
    pub fn unlock(&self) {
        // [mutex-word] SeqCst, since callers look for sleepers of another word right after.
        if self.word.swap(0, Ordering::SeqCst) & CONTENDED != 0 {
            crash::point("mutex: free, nobody woken yet");
            futex_wake(&self.word, 1);
        }
    }

    /// The process that holds the mutex just now, or nobody.
    pub fn owner(&self) -> Stamp {
        Stamp::of_word(self.word.load(Ordering::Relaxed))
    }
}
