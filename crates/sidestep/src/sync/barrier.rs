//! The user's barrier: nobody goes on before all have come.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use super::mutex::{Acquired, Mutex};
use super::patience::Patience;
use super::stamp::{Population, Stamp};
use super::waiters::{Answer, Place, Waiters};
use crate::crash;
use crate::primitive::{AtomicU32, fence};

const FILLING: u32 = 0;
const ACTING: u32 = 1;
const BROKEN: u32 = 2;

/// A barrier for a fixed number of parties.
///
/// | field     | written by                         | meaning                                      |
/// |-----------|------------------------------------|----------------------------------------------|
/// | `lock`    | see [`Mutex`]                      | guards arrivals                              |
/// | `state`   | holder of `lock`; a cleaner (`BROKEN`) | filling, the last arrival acts, broken   |
/// | `arrived` | holder of `lock`                   | parties of this round so far                 |
/// | `actor`   | holder of `lock`                   | stamp of the last arrival while it acts      |
/// | `waiters` | see [`Waiters`]                    | those who came                               |
///
/// A process that dies while it waits (or while it acts for all) breaks the barrier: the clean-up
/// after it says so to the others. A process that never came cannot be known. The holder of
/// `lock` changes `arrived` last; if it is killed before, the round is counted anew from the
/// waiters, of which the dead one broke the barrier anyway.
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

/// How an arrival went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Arrival {
    /// All others are here: act for all, then [`Barrier::complete`] (or [`Barrier::abort`]).
    Last(u32),
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
        self.locked(family, || match self.state.load(SeqCst) {
            BROKEN => Arrival::Broken,
            ACTING => Arrival::Busy,
            _ => {
                let index = self.arrived.load(Relaxed);
                if index + 1 >= self.parties.load(Relaxed) {
                    if self.waiters.has_dead(family) {
                        // Nobody has cleaned up after it yet; who was here is here no more.
                        self.break_now();
                        return Arrival::Broken;
                    }
                    self.actor.store(family.me().word(), Relaxed);
                    crash::point("barrier: actor known");
                    self.state.store(ACTING, SeqCst);
                    return Arrival::Last(index);
                }
                let Some(place) = self.waiters.enter(family) else {
                    return Arrival::Broken;
                };
                crash::point("barrier: entered");
                self.arrived.store(index + 1, Relaxed);
                Arrival::Wait(place, index)
            }
        })
    }

    /// The last arrival has acted: all go on, and the barrier is ready for the next round.
    pub fn complete(&self, family: &impl Population) {
        self.locked(family, || {
            self.arrived.store(0, Relaxed);
            crash::point("barrier: none counted any more");
            self.waiters.pass(family, usize::MAX);
            crash::point("barrier: all told");
            let _ = self
                .state
                .compare_exchange(ACTING, FILLING, SeqCst, Relaxed);
            crash::point("barrier: next round open");
            // Last: whoever finds the actor dead before this breaks the barrier.
            self.actor.store(0, Relaxed);
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
            let answer = self.waiters.sleep(patience, place, limit)?;
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

    fn break_now(&self) {
        self.state.store(BROKEN, SeqCst);
        // [barrier-break] Who has entered before this is told below.
        fence(SeqCst);
        crash::point("barrier: broken, nobody told yet");
        self.actor.store(0, Relaxed);
        self.arrived.store(0, Relaxed);
        self.waiters.break_all();
    }

    /// Makes the barrier usable again; those who wait are told that it broke.
    ///
    /// A process that is killed in here leaves it broken, so that nobody waits for parties that
    /// were told to give up.
    pub fn reset(&self, family: &impl Population) {
        self.locked(family, || {
            self.break_now();
            crash::point("barrier: all told before a reset");
            self.state.store(FILLING, SeqCst);
        });
    }

    /// Whether the barrier is broken.
    pub fn is_broken(&self) -> bool {
        self.state.load(SeqCst) == BROKEN
    }

    /// How many parties it takes.
    pub fn parties(&self) -> u32 {
        self.parties.load(Relaxed)
    }

    /// How many wait.
    pub fn waiting(&self) -> u32 {
        if self.state.load(SeqCst) == FILLING {
            self.arrived.load(Relaxed)
        } else {
            0
        }
    }

    /// The process has ended: if it waited here or acted for all, the barrier breaks. May be
    /// repeated, by whoever comes after a cleaner that was killed in here.
    pub fn bereave(&self, dead: Stamp) {
        // First, while its places still say that it waited.
        if self.waiters.has_waiting(dead) || self.actor.load(Relaxed) == dead.word() {
            self.break_now();
        }
        self.waiters.bereave(dead);
    }
}
