//! The user's lock: owned by a process and thread, recursive or not.

use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::time::Duration;

use super::gate::SLICE;
use super::stamp::{Departed, Population, Stamp};
use super::wait::{ReleaseError, Wait};
use crate::crash;
use crate::primitive::{AtomicU32, AtomicU64, SPINS, Wake, futex_wait, futex_wake, spin_loop};

/// Somebody may sleep on the word.
const SLEEPERS: u32 = 1 << 31;
/// The owner was killed.
const ABANDONED: u32 = 1 << 30;
/// An exit code that nobody knows.
const UNKNOWN: i32 = i32::MIN;

/// A lock for users: any thread of any process may wait for it, and its owner may be killed.
///
/// | word                 | meaning                   | who writes it           | if the writer dies there |
/// |----------------------|---------------------------|-------------------------|--------------------------|
/// | 0                    | free                      | who releases            | free                     |
/// | stamp                | held by that process      | who acquires            | the next row but one     |
/// | stamp, `SLEEPERS`    | held, someone sleeps      | a waiter                | a wake for nobody        |
/// | stamp, `ABANDONED`   | the owner was killed      | who cleans up after it  | the clean-up goes on     |
///
/// `thread` and `depth` belong to the owner; `thread` is 0 whenever the word is about to become 0,
/// so a stale value never looks like the owner's. Acquire and release of the word pair up
/// [lock-word]. Killed waiters leave `SLEEPERS` behind: one wake for nobody.
///
/// `last_words` is the process id of a dead owner and, in the high half, its exit code (or minus a
/// signal, or `UNKNOWN`), written before `ABANDONED` is.
///
/// After `ABANDONED` every attempt to acquire says so, until someone releases or recovers the
/// lock: what it guards may be half changed, and only the user can know.
#[repr(C)]
#[derive(Debug)]
pub struct Lock {
    word: AtomicU32,
    thread: AtomicU32,
    depth: AtomicU32,
    recursive: AtomicU32,
    last_words: AtomicU64,
}

/// Who holds a lock, as one process sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nobody.
    Nobody,
    /// The asking thread.
    ThisThread,
    /// Another thread of the asking process.
    OtherThread,
    /// Another process.
    OtherProcess(Stamp),
}

impl Lock {
    /// A free lock. All-zero memory is a free lock that is not recursive.
    pub fn new(recursive: bool) -> Self {
        Self {
            word: AtomicU32::new(0),
            thread: AtomicU32::new(0),
            depth: AtomicU32::new(0),
            recursive: AtomicU32::new(u32::from(recursive)),
            last_words: AtomicU64::new(0),
        }
    }

    /// Makes all-zero memory a recursive lock, before anybody else sees it.
    pub fn make_recursive(&self) {
        self.recursive.store(1, Relaxed);
    }

    /// Whether its owner may take it again.
    #[inline]
    pub fn is_recursive(&self) -> bool {
        self.recursive.load(Relaxed) != 0
    }

    /// Takes the lock for thread `thread` if it is free (or recursive and ours). Tells otherwise
    /// whether its owner was killed.
    #[inline]
    pub fn try_acquire(&self, family: &impl Population, thread: u32) -> Option<Wait> {
        let me = family.me().word();
        // [lock-word]
        match self.word.compare_exchange(0, me, Acquire, Relaxed) {
            Ok(_) => {
                crash::point("lock: taken");
                self.own(thread);
                Some(Wait::Ready)
            }
            Err(word) if word & ABANDONED != 0 => Some(Wait::Abandoned(Stamp::of_word(word))),
            Err(word) => self.reenter(word, me, thread).then_some(Wait::Ready),
        }
    }

    fn own(&self, thread: u32) {
        self.thread.store(thread, Relaxed);
        crash::point("lock: thread known");
        self.depth.store(1, Relaxed);
    }

    fn reenter(&self, word: u32, me: u32, thread: u32) -> bool {
        let ours =
            self.is_recursive() && word & Stamp::MASK == me && self.thread.load(Relaxed) == thread;
        if ours {
            self.depth.store(self.depth.load(Relaxed) + 1, Relaxed);
            crash::point("lock: one deeper");
        }
        ours
    }

    /// Takes the lock, sleeping for at most `left()` in all; `None` from it ends the wait.
    pub fn acquire(
        &self,
        family: &impl Population,
        thread: u32,
        mut left: impl FnMut() -> Option<Duration>,
    ) -> Wait {
        if let Some(done) = self.try_acquire(family, thread) {
            return done;
        }
        let me = family.me().word();
        for _ in 0..SPINS {
            if self.word.load(Relaxed) == 0
                && self.word.compare_exchange(0, me, Acquire, Relaxed).is_ok()
            {
                self.own(thread);
                return Wait::Ready;
            }
            spin_loop();
        }
        loop {
            let word = self.word.load(Relaxed);
            if word == 0 {
                // Others may still sleep, so the mark stays.
                if self
                    .word
                    .compare_exchange(0, me | SLEEPERS, Acquire, Relaxed)
                    .is_ok()
                {
                    crash::point("lock: taken by one who slept");
                    self.own(thread);
                    return Wait::Ready;
                }
                continue;
            }
            if word & ABANDONED != 0 {
                return Wait::Abandoned(Stamp::of_word(word));
            }
            // Before we may give up: if we were woken and somebody else took the lock since, the
            // mark is gone, and those who sleep on would not be woken.
            let marked = word | SLEEPERS;
            if word != marked
                && self
                    .word
                    .compare_exchange(word, marked, Relaxed, Relaxed)
                    .is_err()
            {
                continue;
            }
            let Some(limit) = left() else {
                return Wait::TimedOut;
            };
            crash::point("lock: about to sleep");
            match futex_wait(&self.word, marked, Some(limit.min(SLICE))) {
                Wake::Interrupted => return Wait::Interrupted,
                Wake::TimedOut => {
                    if family.is_dead(Stamp::of_word(marked)) {
                        family.bury();
                    } else if left().is_some() {
                        return Wait::Interrupted;
                    }
                }
                _ => {}
            }
        }
    }

    /// Lets go of the lock once. A plain lock may be released by anybody, and so may any abandoned
    /// one.
    ///
    /// # Errors
    /// Nobody holds it; or it is recursive and somebody else who lives does.
    #[inline]
    pub fn release(&self, family: &impl Population, thread: u32) -> Result<(), ReleaseError> {
        if self.is_recursive() {
            let word = self.word.load(Relaxed);
            if word & ABANDONED != 0 && self.recover() {
                return Ok(());
            }
            if word & Stamp::MASK != family.me().word() || self.thread.load(Relaxed) != thread {
                return Err(ReleaseError::NotOwner);
            }
            let depth = self.depth.load(Relaxed);
            if depth > 1 {
                self.depth.store(depth - 1, Relaxed);
                crash::point("lock: one less deep");
                return Ok(());
            }
        }
        self.free()
    }

    fn free(&self) -> Result<(), ReleaseError> {
        if self.word.load(Relaxed) == 0 {
            return Err(ReleaseError::NotHeld);
        }
        self.depth.store(0, Relaxed);
        self.thread.store(0, Relaxed);
        crash::point("lock: owner gone");
        // [lock-word]
        let word = self.word.swap(0, SeqCst);
        if word == 0 {
            return Err(ReleaseError::NotHeld);
        }
        if word & SLEEPERS != 0 {
            crash::point("lock: free, nobody woken yet");
            // After `ABANDONED` all sleepers were told; whoever sleeps now is a later one.
            futex_wake(&self.word, 1);
        }
        Ok(())
    }

    /// Frees an abandoned lock. Whether it was one.
    pub fn recover(&self) -> bool {
        let mut word = self.word.load(Relaxed);
        while word & ABANDONED != 0 {
            // In one step: if somebody has recovered it before us, it may have a new owner.
            match self.word.compare_exchange(word, 0, SeqCst, Relaxed) {
                Ok(_) => {
                    if word & SLEEPERS != 0 {
                        futex_wake(&self.word, 1);
                    }
                    return true;
                }
                Err(now) => word = now,
            }
        }
        false
    }

    /// Whether the owner was killed, and nobody has released or recovered the lock since.
    pub fn is_abandoned(&self) -> bool {
        self.word.load(Relaxed) & ABANDONED != 0
    }

    /// Of an abandoned lock: the process id of its owner, in its own pid namespace, and the
    /// owner's exit code (or minus the signal), as far as they are known.
    pub fn abandoned_by(&self) -> (Option<u32>, Option<i32>) {
        let words = self.last_words.load(Relaxed);
        let (pid, exitcode) = (words as u32, (words >> 32) as i32);
        (
            Some(pid).filter(|pid| *pid != 0),
            Some(exitcode).filter(|code| *code != UNKNOWN),
        )
    }

    /// For a wait on a condition: lets go of all levels; how many there were.
    ///
    /// # Errors
    /// The thread does not hold the lock.
    pub fn release_all(&self, family: &impl Population, thread: u32) -> Result<u32, ReleaseError> {
        if self.holder(family, thread) != Holder::ThisThread {
            return Err(ReleaseError::NotOwner);
        }
        let depth = self.depth.load(Relaxed);
        self.free()?;
        Ok(depth)
    }

    /// After a wait on a condition: the lock was acquired once; now it is `depth` levels deep.
    pub fn restore_depth(&self, depth: u32) {
        self.depth.store(depth, Relaxed);
        crash::point("lock: depth restored");
    }

    /// Who holds the lock just now.
    #[inline]
    pub fn holder(&self, family: &impl Population, thread: u32) -> Holder {
        let word = self.word.load(Relaxed);
        let owner = Stamp::of_word(word);
        if word == 0 {
            Holder::Nobody
        } else if owner != family.me() {
            Holder::OtherProcess(owner)
        } else if self.thread.load(Relaxed) == thread {
            Holder::ThisThread
        } else {
            Holder::OtherThread
        }
    }

    /// How many levels deep the lock is held.
    pub fn depth(&self) -> u32 {
        self.depth.load(Relaxed)
    }

    /// The process `dead` has ended: if it held the lock and was killed (or the lock is
    /// recursive, so that nobody else could release it), all waiters are told. May be repeated.
    pub fn bereave(&self, dead: Departed) {
        if dead.orderly && !self.is_recursive() {
            return;
        }
        let exitcode = dead.exitcode.unwrap_or(UNKNOWN);
        let words = u64::from(exitcode.cast_unsigned()) << 32 | u64::from(dead.pid);
        let dead = dead.stamp;
        let mut word = self.word.load(Relaxed);
        while word != 0 && Stamp::of_word(word) == dead && word & ABANDONED == 0 {
            // Written by nobody else meanwhile: the clean-up after the owner is a transaction.
            self.last_words.store(words, Relaxed);
            self.thread.store(0, Relaxed);
            self.depth.store(0, Relaxed);
            crash::point("lock: dead owner named");
            match self
                .word
                .compare_exchange(word, dead.word() | ABANDONED, SeqCst, Relaxed)
            {
                Ok(_) => {
                    crash::point("lock: abandoned, nobody woken yet");
                    return futex_wake(&self.word, u32::MAX);
                }
                Err(now) => word = now,
            }
        }
    }
}
