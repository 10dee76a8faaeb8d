//! Notes: what was taken last, readable when the taker is dead.
//!
//! A consumer writes a note no later than what it takes is its own. It has a place for that in its
//! process slot, and the workers of a pool have one each on the pool's board. So whoever finds a
//! process dead knows which message it had in hand, also when it died before it could do anything
//! with it.
//!
//! The note comes first, so there may be one of a message that was not taken: whoever takes over
//! the consumers' mutex from the dead takes such a note back (see `channel::chain`).
//!
//! Offsets from the place of a note:
//!
//! | offset | field    | meaning                                                               |
//! |-------:|----------|-----------------------------------------------------------------------|
//! |      0 | what     | number of the message in bits 0..32, how many were taken together with it in 32..49, generation of the taker's slot in 49..63, 1 in bit 63; 0: nothing |
//! |      8 | `SOURCE` | see [`Source`]                                                        |
//!
//! The generation tells a successor in the slot from its predecessor, so nobody has to clear the
//! place between the two. Both words are written by the taker only. Threads of one process
//! share its place.

use super::family::Family;
use super::layout::{slot, slot_at};
use super::refs::Ref;
use crate::primitive::Ordering;
use crate::sync::{Population, Stamp};

const SET: u64 = 1 << 63;
const SOURCE: u64 = 8;
const COUNT_MAX: u32 = (1 << 17) - 1;
/// On the note of a taker that is to take nothing more. Only where the generation is 0.
const MARK: u64 = 1 << 62;
/// The arena ends below 1 << 42, and blocks begin at multiples of 64.
const GENERATION_AT: u32 = 42;

/// What messages are taken from: a queue, or one direction of a pipe.
///
/// | bits   | meaning                                                  |
/// |-------:|----------------------------------------------------------|
/// | 0..6   | which part of the object                                 |
/// | 6..42  | offset of the object's block, a multiple of 64           |
/// | 42..64 | the block's generation, so that a successor is another   |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source(u64);

impl Source {
    /// Part `part` of `object`.
    pub(crate) fn part(object: &Ref, part: u64) -> Self {
        let handle = object.handle();
        Self(handle.generation << GENERATION_AT | handle.offset | (part & 63))
    }

    /// The word for this source.
    #[must_use]
    pub fn word(self) -> u64 {
        self.0
    }
}

/// What a process took last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Take {
    /// Where it took it from.
    pub source: Source,
    /// The number of the last message, among all ever taken there, wrapping.
    pub last: u32,
    /// How many messages were taken in one go, that one included: they have the numbers before it.
    pub count: u32,
}

/// Where a consumer leaves its notes, and of which source.
#[derive(Clone, Copy)]
pub(crate) struct Note {
    place: u64,
    source: Source,
    generation: u64,
}

impl Note {
    /// Notes in the slot of the calling process.
    #[inline]
    pub fn in_slot(family: &Family, source: Source) -> Self {
        let me = family.me();
        Self {
            place: slot_at(me.slot()) + slot::TOOK,
            source,
            generation: me.generation(),
        }
    }

    /// Notes at `place`, two words that belong to the caller.
    pub fn at(place: u64, source: Source) -> Self {
        Self {
            place,
            source,
            generation: 0,
        }
    }

    /// What the notes are about.
    #[inline]
    pub fn source(self) -> Source {
        self.source
    }

    /// Where the note is.
    #[inline]
    pub fn place(self) -> u64 {
        self.place
    }

    /// Notes message number `number`, the `count`th in one go.
    #[inline]
    pub fn write(self, family: &Family, number: u32, count: u32) {
        let what = family.word(self.place);
        let source = family.word(self.place + SOURCE);
        if source.load(Ordering::Relaxed) != self.source.0 {
            // Never an old number beside a new source.
            what.store(0, Ordering::Release);
            source.store(self.source.0, Ordering::Release);
        }
        what.store(word(self.generation, number, count), Ordering::Release);
    }
}

fn word(generation: u64, number: u32, count: u32) -> u64 {
    SET | generation << 49 | u64::from(count.min(COUNT_MAX)) << 32 | u64::from(number)
}

fn count_of(what: u64) -> u32 {
    (what >> 32) as u32 & COUNT_MAX
}

impl Family {
    /// The number that is noted at `place`, if any, which is then free for the next.
    pub(crate) fn withdraw_note(&self, place: u64) -> Option<u32> {
        let what = self.word(place).swap(0, Ordering::AcqRel);
        (what & SET != 0).then_some(what as u32)
    }

    /// The number that is noted at `place`, a place of the taker's own, if any.
    pub(crate) fn noted(&self, place: u64) -> Option<u32> {
        let what = self.word(place).load(Ordering::Acquire);
        (what & SET != 0).then_some(what as u32)
    }

    /// Marks the note of message `number` at `place`; `false`: there is none, or it was marked.
    pub(crate) fn mark_note(&self, place: u64, number: u32) -> bool {
        let what = word(0, number, 1);
        self.word(place)
            .compare_exchange(what, what | MARK, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Clears the taker's own note of message `number` at `place`; `false`: it was marked, and stays.
    pub(crate) fn clear_note(&self, place: u64, number: u32) -> bool {
        let what = word(0, number, 1);
        self.word(place)
            .compare_exchange(what, 0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Takes a note of message `next` and those behind it back: its taker died before they were its own.
    /// What it had taken in the same go before stays noted.
    pub(crate) fn retract_note(&self, place: u64, source: Source, next: u32) {
        let word_there = self.word(place);
        let what = word_there.load(Ordering::Acquire);
        let from = self.word(place + SOURCE).load(Ordering::Acquire);
        // How many of the noted ones were not taken.
        let left = (what as u32)
            .wrapping_sub(next)
            .cast_signed()
            .saturating_add(1);
        if what & SET == 0 || from != source.0 || left <= 0 {
            return;
        }
        let before = match count_of(what).saturating_sub(left.cast_unsigned()) {
            0 => 0,
            count => word(what >> 49 & 0x3fff, next.wrapping_sub(1), count),
        };
        let _ = word_there.compare_exchange(what, before, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// What that process took last, if it took anything; also of one that has ended, until its
    /// slot is another's. Threads of a process share one record: it tells what one of them took.
    ///
    /// Of a process that was killed while it took something, this is certain once somebody has
    /// looked into the source (taken from it, or asked for its length) after the death.
    pub fn last_taken(&self, stamp: Stamp) -> Option<Take> {
        if stamp == Stamp::NOBODY || stamp.slot() > super::layout::SLOTS {
            return None;
        }
        let place = slot_at(stamp.slot()) + slot::TOOK;
        loop {
            let what = self.word(place).load(Ordering::Acquire);
            let source = self.word(place + SOURCE).load(Ordering::Acquire);
            if self.word(place).load(Ordering::Acquire) != what {
                continue;
            }
            let is_its = what & SET != 0 && what >> 49 & 0x3fff == stamp.generation();
            return is_its.then_some(Take {
                source: Source(source),
                last: what as u32,
                count: count_of(what),
            });
        }
    }
}
