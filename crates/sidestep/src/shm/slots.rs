//! Process slots: who is in the family, who is dead, and what the dead leave behind.
//!
//! | state     | meaning                                  | written by          | next                     |
//! |-----------|------------------------------------------|---------------------|--------------------------|
//! | `FREE`    | nobody                                   | a cleaner           | `LIVE`, `FORKING`        |
//! | `FORKING` | made for a child that a fork will start  | the parent          | `LIVE` by the child, `DEAD` by the parent if there is no such child, or by a cleaner if the parent is dead as well |
//! | `LIVE`    | a member                                 | itself              | `DEAD` by its finder     |
//! | `DEAD`    | ended; its references wait to be dropped | whoever noticed     | `FREE` by a cleaner      |
//!
//! The main thread of a member holds the slot's *witness*, a robust word, for as long as the
//! process lives, so the kernel marks it on any death, in any pid namespace, exec included. The
//! process's pid and start time are the second witness: threads of a killed process may run on for
//! an instant after its main thread, so a death is believed when the process is gone by pid as
//! well, or 100 ms after the mark (it then lives on as another program).

use std::time::Duration;

use super::alloc::Kind;
use super::family::Family;
use super::layout::{SLOTS, block, header, slot, slot_at};
use super::ledger::Txn;
use super::refs::ENTRIES;
use crate::crash;
use crate::error::{Error, Result};
use crate::os::process::Exit;
use crate::os::robust::Locked;
use crate::primitive::{Ordering, nap, process};
use crate::sync::{Departed, Population, SLICE, Stamp};

pub(super) const FREE: u64 = 0;
pub(super) const LIVE: u64 = 1;
pub(super) const DEAD: u64 = 2;
pub(super) const FORKING: u64 = 3;

/// The word of a slot: who is the pid of a `LIVE` or `DEAD` one, and the stamp of the parent of a
/// `FORKING` one.
fn state_word(state: u64, generation: u64, who: u32) -> u64 {
    state | (generation & 0xff_ffff) << 8 | u64::from(who) << 32
}

fn state_of(word: u64) -> u64 {
    word & 0xff
}

fn generation_of(word: u64) -> u64 {
    word >> 8 & 0xff_ffff
}

fn who_of(word: u64) -> u32 {
    (word >> 32) as u32
}

/// What is known of a process of the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its stamp.
    pub stamp: Stamp,
    /// Its process id, in its own pid namespace; 0 before the child of a fork has reported.
    pub pid: u32,
    /// Whether it said that it is leaving in order.
    pub orderly: bool,
}

impl Population for Family {
    #[inline]
    fn me(&self) -> Stamp {
        let me = self.me.load(Ordering::Relaxed);
        if me != 0 {
            return Stamp::of_word(me);
        }
        // After a fork whose child could not be given a slot. No slot then: a stamp that is dead.
        self.register().unwrap_or(Stamp::new(SLOTS, 0))
    }

    fn bury(&self) {
        if let Some(family) = super::existing() {
            family.clean_dead();
        }
    }

    fn is_dead(&self, stamp: Stamp) -> bool {
        if stamp == Stamp::NOBODY || stamp.slot() > SLOTS {
            return stamp != Stamp::NOBODY;
        }
        let at = slot_at(stamp.slot());
        let word = self.word(at + slot::STATE).load(Ordering::Acquire);
        if generation_of(word) & 0x3fff != stamp.generation() {
            return true;
        }
        match state_of(word) {
            LIVE => self.examine(at, word),
            FORKING => false,
            _ => true,
        }
    }
}

impl Family {
    /// Whether the live slot's process has ended; if so, it is marked dead.
    fn examine(&self, at: u64, word: u64) -> bool {
        let started = self.word(at + slot::STARTED).load(Ordering::Relaxed);
        let by_pid = || process::has_ended(who_of(word), started);
        let armed = self.word(at + slot::ARMED).load(Ordering::Acquire) == 1;
        let dead = match self.witness(at + slot::WITNESS) {
            Some(witness) if armed => match witness.try_hold() {
                Locked::Busy => false,
                Locked::OwnerDied => {
                    for _ in 0..100 {
                        if by_pid() {
                            break;
                        }
                        nap(Duration::from_millis(1));
                    }
                    self.mark_dead(at, word);
                    crash::point("slot: marked dead");
                    witness.repair();
                    crash::point("slot: witness repaired");
                    witness.release();
                    true
                }
                Locked::Clean => {
                    // Not yet held, or let go of by another finder: the state says more.
                    witness.release();
                    false
                }
            },
            // Founded by another thread than the main one: nobody to hold the witness.
            _ => by_pid(),
        };
        if dead {
            self.mark_dead(at, word);
        }
        dead
    }

    fn mark_dead(&self, at: u64, word: u64) {
        let dead = state_word(DEAD, generation_of(word), who_of(word));
        let state = self.word(at + slot::STATE);
        let _ = state.compare_exchange(word, dead, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Makes this process a member, if it is none yet.
    ///
    /// # Errors
    /// Too many processes, or no memory.
    pub fn register(&self) -> Result<Stamp> {
        let me = self.me.load(Ordering::Relaxed);
        if me != 0 {
            return Ok(Stamp::of_word(me));
        }
        let pid = process::pid();
        let stamp = self.take_slot(LIVE, pid)?;
        crash::point("slot: taken");
        let word = stamp.word();
        if let Err(other) = self
            .me
            .compare_exchange(0, word, Ordering::AcqRel, Ordering::Acquire)
        {
            // Another thread was faster.
            let state = self.word(slot_at(stamp.slot()) + slot::STATE);
            let taken = state.load(Ordering::Acquire);
            state.store(state_word(FREE, generation_of(taken), 0), Ordering::Release);
            return Ok(Stamp::of_word(other));
        }
        self.word(slot_at(stamp.slot()) + slot::STARTED)
            .store(process::start_time(pid), Ordering::Release);
        crash::point("slot: start time known");
        self.hold_witness(stamp);
        Ok(stamp)
    }

    /// A slot for a new process, taken by one swap. All its other words are 0 while it is free,
    /// but for the note of what its last owner took.
    ///
    /// A process that has none cannot clean up after the dead; see [`Family::make_room`].
    pub(super) fn take_slot(&self, state: u64, who: u32) -> Result<Stamp> {
        let high = self.word(header::SLOTS_HIGH);
        for number in 1..=SLOTS {
            let at = slot_at(number) + slot::STATE;
            let word = self.word(at).load(Ordering::Acquire);
            if state_of(word) != FREE {
                continue;
            }
            // No generation is 0 in the bits that a stamp keeps, so that a stamp never is 0.
            let mut generation = generation_of(word) + 1;
            if generation & 0x3fff == 0 {
                generation += 1;
            }
            let next = state_word(state, generation, who);
            let swap =
                self.word(at)
                    .compare_exchange(word, next, Ordering::AcqRel, Ordering::Relaxed);
            if swap.is_ok() {
                crash::point("slot: taken, not counted yet");
                high.fetch_max(u64::from(number), Ordering::AcqRel);
                return Ok(Stamp::new(number, generation));
            }
        }
        Err(Error::TooManyProcesses(SLOTS))
    }

    /// To be called before a process is started that takes its slot itself: if none is free, those
    /// of the dead are.
    pub fn make_room(&'static self) {
        let high = self.word(header::SLOTS_HIGH).load(Ordering::Acquire);
        if high >= u64::from(SLOTS) && self.processes() >= u64::from(SLOTS) {
            self.clean_dead();
        }
    }

    /// Number of slots in use.
    pub(super) fn processes(&self) -> u64 {
        let high = (self.word(header::SLOTS_HIGH).load(Ordering::Acquire) as u32).min(SLOTS);
        (1..=high)
            .filter(|n| {
                state_of(self.word(slot_at(*n) + slot::STATE).load(Ordering::Relaxed)) != FREE
            })
            .count() as u64
    }

    /// In the child of a fork: takes the slot that the parent prepared. Whether that worked.
    pub(super) fn adopt(&self, stamp: Stamp) -> bool {
        let pid = process::pid();
        let at = slot_at(stamp.slot());
        let word = self.word(at + slot::STATE).load(Ordering::Acquire);
        let next = state_word(LIVE, generation_of(word), pid);
        let ours = state_of(word) == FORKING && generation_of(word) & 0x3fff == stamp.generation();
        let adopted = ours
            && self
                .word(at + slot::STATE)
                .compare_exchange(word, next, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok();
        if adopted {
            crash::point("slot: adopted");
            self.me.store(stamp.word(), Ordering::Relaxed);
            self.word(at + slot::STARTED)
                .store(process::start_time(pid), Ordering::Release);
            self.hold_witness(stamp);
        }
        adopted
    }

    fn hold_witness(&self, stamp: Stamp) {
        let at = slot_at(stamp.slot());
        let Some(witness) = self.witness(at + slot::WITNESS) else {
            return;
        };
        let ready = self.word(at + slot::WITNESS_READY);
        if ready.load(Ordering::Acquire) == 0 {
            witness.init();
            crash::point("slot: witness made");
            ready.store(1, Ordering::Release);
        }
        if process::in_main_thread() {
            witness.hold();
            crash::point("slot: witness held");
            self.word(at + slot::ARMED).store(1, Ordering::Release);
            crash::point("slot: armed");
        }
    }

    /// Tells the others that this process is leaving in order.
    pub fn leave(&self) {
        let me = Stamp::of_word(self.me.load(Ordering::Relaxed));
        if me != Stamp::NOBODY {
            self.word(slot_at(me.slot()) + slot::ORDERLY)
                .store(1, Ordering::Release);
            crash::point("slot: leaving in order");
        }
    }

    /// In the parent: the fork that prepared `stamp` failed, or its child is known to be dead.
    pub(super) fn abandon(&'static self, stamp: Stamp) {
        if stamp == Stamp::NOBODY {
            return;
        }
        let at = slot_at(stamp.slot());
        let word = self.word(at + slot::STATE).load(Ordering::Acquire);
        if state_of(word) == FORKING && generation_of(word) & 0x3fff == stamp.generation() {
            self.mark_dead(at, word);
            crash::point("slot: abandoned");
            self.clean(stamp.slot());
        }
    }

    /// What is known of the process in a slot.
    pub fn member(&self, stamp: Stamp) -> Option<Member> {
        if stamp == Stamp::NOBODY || stamp.slot() > SLOTS {
            return None;
        }
        let at = slot_at(stamp.slot());
        let word = self.word(at + slot::STATE).load(Ordering::Acquire);
        (state_of(word) != FREE && generation_of(word) & 0x3fff == stamp.generation()).then(|| {
            Member {
                stamp,
                pid: if state_of(word) == FORKING {
                    0
                } else {
                    who_of(word)
                },
                orderly: self.word(at + slot::ORDERLY).load(Ordering::Relaxed) == 1,
            }
        })
    }

    /// Drops what dead members held, all of them. By whoever has a reason: a parent that reaps, a
    /// process that registers, an allocation that finds no memory. Safe to be killed in.
    pub fn clean_dead(&'static self) {
        self.bury_unborn();
        let high = self.word(header::SLOTS_HIGH).load(Ordering::Acquire) as u32;
        for number in 1..=high.min(SLOTS) {
            let at = slot_at(number);
            let word = self.word(at + slot::STATE).load(Ordering::Acquire);
            let dead = match state_of(word) {
                LIVE => {
                    Stamp::new(number, generation_of(word)) != self.me() && self.examine(at, word)
                }
                FORKING => {
                    let orphan =
                        self.is_dead(Stamp::of_word(who_of(word))) && !self.has_newcomers();
                    if orphan {
                        self.mark_dead(at, word);
                        crash::point("slot: orphan marked dead");
                    }
                    orphan
                }
                DEAD => true,
                _ => false,
            };
            if dead {
                self.clean(number);
            }
        }
        self.sweep();
    }

    /// Cleans up after children of this process that ended before they had run, and after forks that
    /// failed; except those of which that is known, which are given up by [`Family::abandon`].
    pub(super) fn bury_unborn(&'static self) {
        let overdue: Vec<Stamp> = {
            let mut table = self.table();
            table.unborn.retain(|(stamp, _)| self.is_forking(*stamp));
            let overdue = table.unborn.iter();
            // One that lives has its slot long before, and nobody looks for it.
            let overdue = overdue.filter(|(_, since)| since.elapsed() >= SLICE);
            overdue.map(|(stamp, _)| *stamp).collect()
        };
        if overdue.is_empty() || self.has_unborn() {
            return;
        }
        for stamp in overdue {
            crash::point("slot: nobody left to take it");
            self.abandon(stamp);
        }
    }

    fn is_forking(&self, stamp: Stamp) -> bool {
        let word = self
            .word(slot_at(stamp.slot()) + slot::STATE)
            .load(Ordering::Acquire);
        state_of(word) == FORKING && generation_of(word) & 0x3fff == stamp.generation()
    }

    /// Whether this process may have a child that lives and is no member yet.
    fn has_unborn(&self) -> bool {
        let high = self.word(header::SLOTS_HIGH).load(Ordering::Acquire) as u32;
        let members: Vec<(u32, u64)> = (1..=high.min(SLOTS))
            .filter_map(|number| {
                let at = slot_at(number);
                let word = self.word(at + slot::STATE).load(Ordering::Acquire);
                let started = self.word(at + slot::STARTED).load(Ordering::Relaxed);
                (state_of(word) == LIVE).then(|| (who_of(word), started))
            })
            .collect();
        // A pid alone may be another's, in another namespace.
        let is_member = |pid, started| members.contains(&(pid, started));
        process::has_child_that_maps(self.identity, is_member)
    }

    /// Whether there is a process that has the arena and is no member yet. The slot of a fork
    /// whose parent has ended may be such a one's: it was started and has not come to take it.
    fn has_newcomers(&self) -> bool {
        let high = self.word(header::SLOTS_HIGH).load(Ordering::Acquire) as u32;
        let members: Vec<u32> = (1..=high.min(SLOTS))
            .map(|n| self.word(slot_at(n) + slot::STATE).load(Ordering::Acquire))
            .filter(|word| state_of(*word) == LIVE)
            .map(who_of)
            .collect();
        process::others_map(self.identity, |pid| members.contains(&pid))
    }

    /// Takes the table of a dead member apart, a few entries a transaction, and frees its slot.
    fn clean(&'static self, number: u32) {
        let at = slot_at(number);
        let word = self.word(at + slot::STATE).load(Ordering::Acquire);
        if state_of(word) != DEAD {
            return;
        }
        let orderly = self.word(at + slot::ORDERLY).load(Ordering::Relaxed) == 1;
        let started = self.word(at + slot::STARTED).load(Ordering::Relaxed);
        let dead = Departed {
            stamp: Stamp::new(number, generation_of(word)),
            pid: who_of(word),
            orderly,
            // Known until it is reaped, and of interest only if something is amiss.
            exitcode: (!orderly)
                .then(|| process::exit_of(who_of(word), started))
                .flatten()
                .map(Exit::code),
        };
        loop {
            let more = self.transact(|txn| {
                if txn.get(at + slot::STATE) != word {
                    return Ok(false);
                }
                let chunk = txn.get(at + slot::TABLE);
                if chunk == 0 {
                    return Ok(txn.free_slot(number, word));
                }
                for i in 0..ENTRIES {
                    let entry = chunk + block::HEADER + 8 + 8 * i;
                    let object = txn.get(entry);
                    if object != 0 {
                        if txn.room() < 32 {
                            return Ok(true);
                        }
                        if let Some(kind) = Kind::from_word(txn.get(object + block::KIND)) {
                            let payload = object + block::HEADER;
                            crate::objects::bereave(txn, kind, payload, dead);
                            crash::point("slot: object bereaved");
                        }
                        txn.set(entry, 0);
                        txn.unref(object);
                    }
                }
                if txn.room() < 32 {
                    return Ok(true);
                }
                txn.set(at + slot::TABLE, txn.get(chunk + block::HEADER));
                txn.unref(chunk);
                Ok(true)
            });
            if !matches!(more, Ok(true)) {
                break;
            }
        }
        self.sweep();
    }
}

impl Txn<'_> {
    /// Frees the slot, whose state is `dead`, in two transactions: `true` asks for the second.
    ///
    /// The state itself never goes through the journal: a free slot is taken without the ledger,
    /// so a successor that replays a journal would free it under its new owner.
    fn free_slot(&mut self, number: u32, dead: u64) -> bool {
        let at = slot_at(number);
        let rest = [slot::STARTED, slot::ORDERLY, slot::ARMED];
        if rest.iter().any(|word| self.get(at + word) != 0) {
            for word in rest {
                self.set(at + word, 0);
            }
            return true;
        }
        // The pid stays, to name the dead by, until the slot is taken again.
        let free = state_word(FREE, generation_of(dead), who_of(dead));
        let state = self.family.word(at + slot::STATE);
        let _ = state.compare_exchange(dead, free, Ordering::AcqRel, Ordering::Relaxed);
        crash::point("slot: freed");
        false
    }
}
