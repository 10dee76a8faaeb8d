//! The user's barrier: nobody goes on before all have come.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use super::mutex::{Acquired, Mutex};
use super::patience::Patience;
use super::stamp::{Population, Stamp};
use super::waiters::{Answer, Place, Waiters};
use crate::crash;
use crate::primitive::{AtomicU32, fence};

/// The last arrival acts for all.
const ACTING: u32 = 1;
/// The barrier is broken, whatever else it was doing.
const BROKEN: u32 = 2;
/// One round, in the word that counts them.
const ONCE: u32 = 4;

/// The word of the round after this one, open for arrivals.
fn next_round(word: u32) -> u32 {
    (word & !(ACTING | BROKEN)).wrapping_add(ONCE)
}

/// A barrier for a fixed number of parties.
///
/// | field     | written by                         | meaning                                      |
/// |-----------|------------------------------------|----------------------------------------------|
/// | `lock`    | see [`Mutex`]                      | guards arrivals                              |
/// | `state`   | holder of `lock`; a cleaner (`BROKEN`) | see below                                |
/// | `arrived` | holder of `lock`                   | parties of this round so far                 |
/// | `actor`   | holder of `lock`                   | stamp of the last arrival while it acts      |
/// | `waiters` | see [`Waiters`]                    | those who came                               |
///
/// | bits of `state` | meaning                                 | who changes them                |
/// |----------------:|-----------------------------------------|---------------------------------|
/// | 0               | `ACTING`: the last arrival acts         | `arrive`; gone with its round   |
/// | 1               | `BROKEN`                                | whoever breaks; gone by `reset` |
/// | 2..32           | number of the round, wrapping           | `complete`, `reset`             |
///
/// Whoever acts for a round may end it only while the word is still the one that it was given: a
/// reset, and what comes after it, is none of its business any more.
///
/// A process that dies while it waits (or while it acts for all) breaks the barrier: the clean-up
/// after it says so to the others. A process that never came cannot be known. The holder of
/// `lock` changes `arrived` last; if it is killed before, the round is counted anew from the
/// waiters, of which the dead one broke the barrier anyway. A cleaner holds no lock, so it changes
/// `state` only from the word under which it saw the dead one, and leaves the rest to a reset.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Barrier {
    lock: Mutex,
    parties: AtomicU32,
    state: AtomicU32,
    arrived: AtomicU32,
    actor: AtomicU32,
    waiters: Waiters,
}

/// The round that a last arrival acts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round(u32);

/// How an arrival went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Arrival {
    /// All others are here: act for all, as number so and so, then [`Barrier::complete`] the round
    /// (or [`Barrier::fail`] it).
    Last(u32, Round),
    /// Wait at this place, as number so and so.
    Wait(Place, u32),
    /// The round before is not over: its last arrival still acts. Try again in a moment.
    Busy,
    /// The barrier is broken.
    Broken,
}

impl Barrier {
    /// Gives memory its number of parties, before anybody else sees it.
    pub fn init(&self, parties: u32) {
        self.parties.store(parties, Relaxed);
    }

    fn locked<T>(&self, family: &impl Population, work: impl FnOnce() -> T) -> T {
        if self.lock.lock(family) == Acquired::OwnerDied {
            let (waiting, _) = self.waiters.count();
            self.arrived.store(waiting as u32, Relaxed);
        }
        let done = work();
        self.lock.unlock();
        done
    }

    /// Comes to the barrier.
    pub fn arrive(&self, family: &impl Population) -> Arrival {
        let arrival = self.arrive_once(family);
        if arrival == Arrival::Busy && family.is_dead(Stamp::of_word(self.actor.load(Relaxed))) {
            family.bury();
        }
        arrival
    }

    fn arrive_once(&self, family: &impl Population) -> Arrival {
        self.locked(family, || {
            let word = self.state.load(SeqCst);
            if word & BROKEN != 0 {
                return Arrival::Broken;
            }
            if word & ACTING != 0 {
                return Arrival::Busy;
            }
            let index = self.arrived.load(Relaxed);
            if index + 1 < self.parties.load(Relaxed) {
                // Places are short only until those of the last round have left theirs.
                let Some(place) = self.waiters.enter(family) else {
                    return Arrival::Busy;
                };
                crash::point("barrier: entered");
                self.arrived.store(index + 1, Relaxed);
                return Arrival::Wait(place, index);
            }
            if self.waiters.has_dead(family) {
                // Nobody has cleaned up after it yet; who was here is here no more.
                self.break_now();
                return Arrival::Broken;
            }
            self.actor.store(family.me().word(), Relaxed);
            crash::point("barrier: actor known");
            let round = Round(word | ACTING);
            match self.state.compare_exchange(word, round.0, SeqCst, Relaxed) {
                Ok(_) => Arrival::Last(index, round),
                Err(_) => {
                    // A cleaner was faster.
                    self.actor.store(0, Relaxed);
                    Arrival::Broken
                }
            }
        })
    }

    /// The last arrival has acted: all go on, and the barrier is ready for the next round.
    ///
    /// `false`: the round has ended otherwise meanwhile. Then nothing is done, as others may wait
    /// here, or act, for another one.
    #[must_use]
    pub fn complete(&self, family: &impl Population, round: Round) -> bool {
        self.locked(family, || {
            if self.state.load(SeqCst) != round.0 {
                return false;
            }
            self.arrived.store(0, Relaxed);
            crash::point("barrier: none counted any more");
            self.waiters.pass(family, usize::MAX);
            crash::point("barrier: all told");
            // It fails if a cleaner has broken the barrier just now.
            let opened = self
                .state
                .compare_exchange(round.0, next_round(round.0), SeqCst, Relaxed)
                .is_ok();
            crash::point("barrier: next round open");
            // Last: whoever finds the actor dead before this breaks the barrier.
            self.actor.store(0, Relaxed);
            opened
        })
    }

    /// The last arrival could not act: the barrier breaks, unless the round has ended otherwise.
    pub fn fail(&self, family: &impl Population, round: Round) {
        self.locked(family, || {
            if self.state.load(SeqCst) == round.0 {
                self.break_now();
            }
        });
    }

    /// Sleeps at a place until there is an answer, or for `limit`, at most a slice; `Err` after a
    /// signal.
    pub fn sleep(
        &self,
        patience: &Patience,
        place: Place,
        limit: Duration,
    ) -> Result<Answer, crate::primitive::Wake> {
        // It may have been broken between our look at the state and our entry, by a clean-up, which
        // holds no lock: either that has seen our entry, or we see its word here.
        // [barrier-break]
        fence(SeqCst);
        if !self.is_broken() {
            // Once more behind the mark that we sleep: a clean-up rouses whom it has seen asleep.
            let in_vain = || {
                // [barrier-break]
                fence(SeqCst);
                self.is_broken()
            };
            let answer = self.waiters.sleep(patience, place, limit, in_vain)?;
            if answer != Answer::None || !self.is_broken() {
                return Ok(answer);
            }
        }
        // What was said before it broke counts.
        Ok(match self.waiters.answer(place) {
            Answer::None => Answer::Broken,
            told => told,
        })
    }

    /// Leaves a place; what was said there at last.
    pub fn leave(&self, place: Place) -> Answer {
        self.waiters.leave(place)
    }

    /// Breaks the barrier: all who wait, and all who come, are told, until it is reset.
    pub fn abort(&self, family: &impl Population) {
        self.locked(family, || self.break_now());
    }

    /// A party that waits at this place gives up, out of time or interrupted: the barrier breaks,
    /// as the others wait for it in vain. Whether that was so; the party then leaves its place.
    ///
    /// `false`: all are here, and the last one acts (or there is an answer already). The party is
    /// not missed: it may leave, or wait for the answer, which the actor's death brings, too.
    #[must_use]
    pub fn abort_unless_acting(&self, family: &impl Population, place: Place) -> bool {
        self.locked(family, || {
            let acting = self.state.load(SeqCst) & (ACTING | BROKEN) == ACTING;
            if acting || self.waiters.answer(place) != Answer::None {
                return false;
            }
            self.break_now();
            true
        })
    }

    fn break_now(&self) {
        self.state.fetch_or(BROKEN, SeqCst);
        crash::point("barrier: broken, nobody told yet");
        self.waiters.break_all();
        self.actor.store(0, Relaxed);
        self.arrived.store(0, Relaxed);
    }

    /// Makes the barrier usable again; those who wait are told that it broke.
    ///
    /// A process that is killed in here leaves it broken, so that nobody waits for parties that
    /// were told to give up.
    pub fn reset(&self, family: &impl Population) {
        self.locked(family, || {
            self.break_now();
            crash::point("barrier: all told before a reset");
            let word = self.state.load(Relaxed);
            // A swap, and so in order with what a cleaner does to this word.
            self.state.swap(next_round(word), SeqCst);
        });
    }

    /// Whether the barrier is broken.
    pub fn is_broken(&self) -> bool {
        self.state.load(SeqCst) & BROKEN != 0
    }

    /// How many parties it takes.
    pub fn parties(&self) -> u32 {
        self.parties.load(Relaxed)
    }

    /// How many wait.
    pub fn waiting(&self) -> u32 {
        if self.state.load(SeqCst) & (ACTING | BROKEN) == 0 {
            self.arrived.load(Relaxed)
        } else {
            0
        }
    }

    /// The process has ended: if it waited here or acted for all, the barrier breaks. May be
    /// repeated, by whoever comes after a cleaner that was killed in here.
    pub fn bereave(&self, dead: Stamp) {
        // First, while its places still say that it waited.
        loop {
            let word = self.state.load(SeqCst);
            if !self.waiters.has_waiting(dead) && self.actor.load(Relaxed) != dead.word() {
                break;
            }
            // If it fails, the round of the dead one may be over: look again.
            if self
                .state
                .compare_exchange(word, word | BROKEN, SeqCst, Relaxed)
                .is_ok()
            {
                // [barrier-break] Who has entered before this is roused below.
                fence(SeqCst);
                crash::point("barrier: broken by a cleaner, nobody roused yet");
                // It holds no lock: by now others may wait here for another round. So each looks
                // for itself whether its own is over.
                self.waiters.rouse();
                break;
            }
        }
        self.waiters.bereave(dead);
    }
}
