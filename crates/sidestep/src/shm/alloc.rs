//! Blocks: size classes, free lists, the ceiling, and memory given back.
//!
//! A block that is freed goes to the head of its class's list, *warm*: its pages stay. Copying into
//! warm pages is three to five times as fast as into fresh ones. One whose pages were given back is
//! *cold*: it waits in a list of its own, and costs nothing but address space.
//!
//! How much stays warm (`WARM_MOST`) has to be earned. It is little at first, so a burst that fills
//! memory and drains it leaves little. Whenever a block is wanted whose pages were given back, that was
//! too soon: from then on a share of the limit stays, so whoever uses the same memory again and again
//! soon does so without the kernel. When the last child of a process has ended, or
//! a whole family rests, it is little again. What is free beyond that is given back by whoever
//! frees it; when memory is short, all of it is.
//!
//! Blocks are never merged: address space is plentiful, and a block's memory keeps its header for ever, so
//! that a stale handle finds a generation that is not its own, never somebody's data.

use super::family::Family;
use super::layout::{EXTENT, HEAP, block, class, header};
use super::ledger::Txn;
use super::refs::Ref;
use crate::crash;
use crate::error::{Error, Result};
use crate::os::limits::{self, Resource};
use crate::os::memory::{self, Shortage};
use crate::primitive::Ordering;

/// What stands in the way where the limit of files does.
const TOO_LARGE: &str = " and this process may make no larger files (RLIMIT_FSIZE, ulimit -f)";

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Kind {
    /// A chunk of a process's table of references.
    Table = 1,
    /// Plain memory: a value, an array.
    Memory = 2,
    /// A message with its own list of references.
    Envelope = 3,
    /// A stretch of a queue's messages.
    Segment = 4,
    /// A queue.
    Queue = 5,
    /// A lock, recursive or not.
    Lock = 6,
    /// A semaphore, bounded or not.
    Semaphore = 7,
    /// A condition variable.
    Condition = 8,
    /// An event.
    Event = 9,
    /// A barrier.
    Barrier = 10,
    /// The two directions of a pipe.
    Pipe = 11,
    /// What each worker of a pool is doing.
    Board = 12,
    /// Who watches a queue by a descriptor.
    Watchers = 13,
}

impl Kind {
    /// The kind with this number.
    pub fn from_word(word: u64) -> Option<Self> {
        use Kind::*;
        [
            Table, Memory, Envelope, Segment, Queue, Lock, Semaphore, Condition, Event, Barrier,
            Pipe, Board, Watchers,
        ]
        .into_iter()
        .find(|kind| *kind as u64 == word)
    }

    /// The word for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Memory => "memory",
            Self::Envelope => "message",
            Self::Segment => "segment",
            Self::Queue => "queue",
            Self::Lock => "lock",
            Self::Semaphore => "semaphore",
            Self::Condition => "condition",
            Self::Event => "event",
            Self::Barrier => "barrier",
            Self::Pipe => "pipe",
            Self::Board => "board",
            Self::Watchers => "list of watchers",
        }
    }
}

/// What says what an object owns lies within so many bytes of its payload, or is bounded by what
/// lies there.
const CONTENTS: u64 = 2048;

/// Blocks from this size on give their pages back; smaller ones share pages with others.
const GIVES_BACK: u64 = 8 << 10;

/// From this size on, memory is cleared by giving its pages back.
const CLEARED_BY_PAGES: u64 = 256 << 10;

/// Bytes of free blocks whose pages stay at least, but if memory is short.
pub(super) const KEPT_WARM: u64 = 8 << 20;

/// Bytes of free blocks whose pages stay at most, of an arena with such a limit.
fn most_warm(limit: u64) -> u64 {
    (limit / 8).clamp(KEPT_WARM, 256 << 20)
}

/// Where the bytes of a free block of this size are counted while it is warm.
fn count_of_warm(size: u64) -> u64 {
    if size < GIVES_BACK {
        header::SMALL
    } else {
        header::WARM
    }
}

/// Bytes of whole pages behind the header's page in a block that gives its pages back.
fn returnable(size: u64) -> u64 {
    (size / 4096).saturating_sub(1) * 4096
}

impl Txn<'_> {
    /// A block for `bytes` of payload with one reference, which the caller must store somewhere
    /// in the same transaction. Payload as it was left, unless `fresh` says that it is zeros.
    ///
    /// # Errors
    /// The ceiling is reached, or the machine is short of memory.
    ///
    /// `pressed` is for a second attempt, after all that can be given back was: then only what is
    /// in use counts against the ceiling, and a larger block will do where there is no more
    /// address space.
    pub(crate) fn allocate(&mut self, kind: Kind, bytes: u64, pressed: bool) -> Result<NewBlock> {
        let wanted = bytes.saturating_add(block::HEADER);
        let class = class::for_bytes(wanted).ok_or_else(|| self.out_of_memory(wanted, ""))?;
        let at = match self.take_warm(class) {
            Some(at) => at,
            None => match self.take_cold(class, pressed)? {
                Some(at) => at,
                None => self.take_new(class, pressed)?,
            },
        };
        let fresh = self.get(at + block::MEMORY) != 1;
        self.set(at + block::MEMORY, 1);
        self.set(at + block::KIND, kind as u64);
        self.set(at + block::REFS, 1);
        self.set(at + block::LINK, 0);
        self.add(header::LIVE_BLOCKS, 1);
        Ok(NewBlock { at, fresh })
    }

    /// The last block freed of this class, if its pages are there.
    fn take_warm(&mut self, class: u64) -> Option<u64> {
        let list = header::FREE_LISTS + 8 * class;
        let at = self.get(list);
        if at == 0 {
            return None;
        }
        self.set(list, self.get(at + block::LINK));
        let size = class::bytes(class);
        self.add(count_of_warm(size), -(size as i64));
        Some(at)
    }

    /// A free block of this class whose pages were given back.
    fn take_cold(&mut self, class: u64, pressed: bool) -> Result<Option<u64>> {
        let list = header::COLD_LISTS + 8 * class;
        let at = self.get(list);
        if at == 0 {
            return Ok(None);
        }
        let size = class::bytes(class);
        self.check_growth(size, pressed)?;
        self.set(list, self.get(at + block::LINK));
        self.add(header::USED, returnable(size) as i64);
        self.add(header::COLD_REST, -((size - returnable(size)) as i64));
        // Had it stayed, its pages would be there now.
        let most = most_warm(self.get(header::LIMIT));
        self.set(header::WARM_MOST, most);
        Ok(Some(at))
    }

    fn take_new(&mut self, class: u64, pressed: bool) -> Result<u64> {
        let size = class::bytes(class);
        self.check_growth(size, pressed)?;
        match self.carve(class, size) {
            Ok(at) => {
                self.add(header::USED, size as i64);
                Ok(at)
            }
            Err(error) if pressed => {
                for larger in class + 1..class::COUNT {
                    if let Some(at) = self.take_warm(larger) {
                        return Ok(at);
                    }
                    if let Ok(Some(at)) = self.take_cold(larger, pressed) {
                        return Ok(at);
                    }
                }
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// A block that never was: the next piece of the file, which may have to grow.
    fn carve(&mut self, class: u64, size: u64) -> Result<u64> {
        let at = if size >= GIVES_BACK {
            self.get(header::TOP).next_multiple_of(4096)
        } else {
            self.get(header::TOP)
        };
        let end = at + size;
        let file_end = self.get(header::FILE_END);
        if end > file_end {
            let reserve = self.get(header::RESERVE);
            // Growing by a share of what is there keeps the number of system calls small.
            let target = end
                .max(file_end + EXTENT.max(file_end / 4))
                .next_multiple_of(EXTENT);
            let most = reserve.min(limits::limit(Resource::FileSize).unwrap_or(u64::MAX));
            let target = if target > most {
                end.next_multiple_of(4096)
            } else {
                target
            };
            if target > most {
                let hint = if target > reserve {
                    " and its address space is used up"
                } else {
                    TOO_LARGE
                };
                return Err(self.out_of_memory(size, hint));
            }
            self.family.grow_file(target)?;
            crash::point("alloc: file grown");
            self.set(header::FILE_END, target);
        }
        self.set(header::TOP, end);
        self.set(at + block::CLASS, class);
        Ok(at)
    }

    /// Whether the arena may use `size` more bytes.
    fn check_growth(&mut self, size: u64, pressed: bool) -> Result<()> {
        let used = self.get(header::USED);
        let counted = if pressed { self.in_use() } else { used };
        let limit = self.get(header::LIMIT);
        if counted + size > limit {
            // Where it is the size of files that has made the limit what it is, more is no help.
            let files = limits::limit(Resource::FileSize);
            let hint = if files.is_some_and(|files| HEAP + limit >= files) {
                TOO_LARGE
            } else {
                ""
            };
            return Err(self.out_of_memory(size, hint));
        }
        // Looked at before each extent.
        if used + size > self.get(header::GROWN_CHECK) {
            let margin = EXTENT;
            let hint = match memory::shortage(size + margin) {
                Some(Shortage::Machine { .. }) => " and the machine has hardly any memory left",
                Some(Shortage::Group(_)) => " and the control group hardly any memory",
                None => "",
            };
            if !hint.is_empty() {
                return Err(self.out_of_memory(size, hint));
            }
            self.set(header::GROWN_CHECK, used + size + margin);
        }
        Ok(())
    }

    /// Bytes of blocks that are not free.
    fn in_use(&self) -> u64 {
        let warm = self.get(header::WARM) + self.get(header::SMALL);
        let free = warm + self.get(header::COLD_REST);
        self.get(header::USED).saturating_sub(free)
    }

    /// Whether more is free and warm than may stay so.
    #[inline]
    pub(crate) fn has_surplus(&self) -> bool {
        self.get(header::WARM) > self.get(header::WARM_MOST)
    }

    fn out_of_memory(&self, wanted: u64, hint: &'static str) -> Error {
        Error::OutOfMemory {
            wanted,
            used: self.in_use(),
            limit: self.get(header::LIMIT),
            hint,
        }
    }

    /// Frees a block that nothing refers to any more.
    pub(super) fn free(&mut self, at: u64) {
        let class = self.get(at + block::CLASS).min(class::COUNT - 1);
        let list = header::FREE_LISTS + 8 * class;
        self.add(at + block::GENERATION, 1);
        self.set(at + block::KIND, 0);
        self.set(at + block::REFS, 0);
        self.set(at + block::LINK, self.get(list));
        self.set(list, at);
        let size = class::bytes(class);
        self.add(count_of_warm(size), size as i64);
        self.add(header::LIVE_BLOCKS, -1);
    }

    /// Turns a block that the caller holds alone, and whose pages were given back, into a cold
    /// free one.
    fn free_cold(&mut self, at: u64) {
        let class = self.get(at + block::CLASS).min(class::COUNT - 1);
        let list = header::COLD_LISTS + 8 * class;
        self.add(at + block::GENERATION, 1);
        self.set(at + block::KIND, 0);
        self.set(at + block::REFS, 0);
        self.set(at + block::MEMORY, 2);
        self.set(at + block::LINK, self.get(list));
        self.set(list, at);
        let size = class::bytes(class);
        self.add(header::USED, -(returnable(size) as i64));
        self.add(header::COLD_REST, (size - returnable(size)) as i64);
        // What is given back may be asked for again: look at the machine then.
        self.set(header::GROWN_CHECK, self.get(header::USED));
        self.add(header::LIVE_BLOCKS, -1);
    }

    /// Drops one reference; with the last one the object is freed, or doomed to be taken apart if
    /// it holds others.
    pub(crate) fn unref(&mut self, at: u64) {
        let refs = self.get(at + block::REFS);
        if refs > 1 {
            self.set(at + block::REFS, refs - 1);
        } else if refs == 1 {
            let kind = Kind::from_word(self.get(at + block::KIND));
            if kind.is_some_and(crate::objects::has_contents) {
                self.set(at + block::REFS, 0);
                self.set(at + block::LINK, self.get(header::DOOMED));
                self.set(header::DOOMED, at);
            } else {
                self.free(at);
            }
        }
    }
}

/// A block just allocated, inside the transaction that stores its reference.
pub(crate) struct NewBlock {
    /// Offset of the block.
    pub at: u64,
    /// Whether its payload is zeros.
    pub fresh: bool,
}

impl Family {
    /// A new object of `kind` with `bytes` of zeroed payload, held by this process.
    ///
    /// # Errors
    /// The arena is at its ceiling, or the machine is short of memory.
    pub fn create(&'static self, kind: Kind, bytes: u64) -> Result<Ref> {
        let (object, fresh) = self.create_unzeroed(kind, bytes)?;
        if !fresh {
            self.clear(object.payload(), bytes);
        }
        Ok(object)
    }

    /// Makes a range all zeros: a long one by giving its pages back, which costs nothing for pages
    /// that nobody has touched, and for the others is put off until somebody does.
    fn clear(&self, at: u64, len: u64) {
        let first = at.next_multiple_of(4096);
        let last = (at + len) / 4096 * 4096;
        if len >= CLEARED_BY_PAGES && self.give_back(first, last - first) {
            self.zero(at, first - at);
            self.zero(last, at + len - last);
        } else {
            self.zero(at, len);
        }
    }

    /// As [`Family::create`], with whatever the memory holds; tells whether that is zeros.
    pub(crate) fn create_unzeroed(&'static self, kind: Kind, bytes: u64) -> Result<(Ref, bool)> {
        let mut pressed = false;
        loop {
            let entry = self.reserve_entry()?;
            let done = self.transact(|txn| {
                let new = txn.allocate(kind, bytes, pressed)?;
                if crate::objects::has_contents(kind) {
                    // Should this process be killed right after, the object will be taken apart:
                    // what the memory held before must not look like its contents.
                    self.zero(new.at + block::HEADER, bytes.min(CONTENTS));
                }
                txn.set(entry.word, new.at);
                Ok((new.at, txn.get(new.at + block::GENERATION), new.fresh))
            });
            match done {
                Ok((at, generation, fresh)) => {
                    crash::point("alloc: created");
                    return Ok((Ref::new(self, at, generation, entry.index), fresh));
                }
                Err(error) => {
                    self.return_entry(entry.index);
                    if pressed || !matches!(error, Error::OutOfMemory { .. }) {
                        return Err(error);
                    }
                    pressed = true;
                    self.relieve();
                }
            }
        }
    }

    /// Memory is short: takes back what the dead held, and gives back what is free.
    pub(super) fn relieve(&'static self) {
        self.clean_dead();
        self.start_over(0);
    }

    /// Takes doomed objects apart, step by step, each step a transaction.
    pub(crate) fn sweep(&'static self) {
        loop {
            let more = self.transact(|txn| {
                let at = txn.get(header::DOOMED);
                if at == 0 {
                    return Ok(false);
                }
                let kind = Kind::from_word(txn.get(at + block::KIND));
                let next = txn.get(at + block::LINK);
                // Taking apart may doom others, in front of this one.
                txn.set(header::DOOMED, next);
                let done = kind
                    .is_none_or(|kind| crate::objects::take_apart(txn, kind, at + block::HEADER));
                if done {
                    txn.free(at);
                } else {
                    txn.set(at + block::LINK, txn.get(header::DOOMED));
                    txn.set(header::DOOMED, at);
                }
                Ok(true)
            });
            if !matches!(more, Ok(true)) {
                break;
            }
        }
        self.give_back_surplus();
    }

    /// Gives pages of free blocks back, if more of them are warm than has been earned.
    pub(crate) fn give_back_surplus(&'static self) {
        let most = self.word(header::WARM_MOST).load(Ordering::Relaxed);
        if self.warm() > most {
            self.trim(most);
        }
    }

    /// Bytes of free blocks that are warm and could be given back.
    fn warm(&self) -> u64 {
        self.word(header::WARM).load(Ordering::Relaxed)
    }

    /// What has been earned until now is of no use to what comes next: all but `keep` goes back.
    fn start_over(&'static self, keep: u64) {
        let _ = self.transact(|txn| {
            txn.set(header::WARM_MOST, KEPT_WARM);
            Ok(())
        });
        crash::point("trim: nothing earned any more");
        self.trim(keep);
    }

    fn is_at_rest(&self) -> bool {
        self.warm() <= KEPT_WARM
            && self.word(header::WARM_MOST).load(Ordering::Relaxed) <= KEPT_WARM
    }

    /// For who has slept for a while and found nothing: gives pages of free blocks back, if nobody in
    /// the family has taken or freed a block since this process was here last.
    #[cfg(not(shuttle))] // there nobody sleeps
    pub(crate) fn idle(&'static self) {
        use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
        if self.is_at_rest() {
            return;
        }
        // What it was like then; not exactly, but what has been in use differs by chance only seldom.
        static LAST: AtomicU64 = AtomicU64::new(0); // this process's, a hint
        let usage = self.usage();
        let now = usage.used ^ usage.warm.rotate_left(20) ^ usage.blocks.rotate_left(44);
        if LAST.swap(now, Relaxed) == now {
            self.start_over(KEPT_WARM);
        }
    }

    /// A child has ended. If it was the last one, what they did together is over: pages of free blocks
    /// go back.
    pub(super) fn after_work(&'static self) {
        if !self.is_at_rest() && self.processes() <= 1 {
            self.start_over(KEPT_WARM);
        }
    }

    /// Gives pages of free blocks back until at most `keep` bytes of them are warm.
    fn trim(&'static self, keep: u64) {
        let smallest = class::for_bytes(GIVES_BACK).unwrap_or(0);
        for class in (smallest..class::COUNT).rev() {
            let list = header::FREE_LISTS + 8 * class;
            while self.word(list).load(Ordering::Relaxed) != 0 {
                if self.warm() <= keep {
                    return;
                }
                // The block becomes this process's own while its pages go: no lock is held then,
                // and if the process is killed its slot's clean-up frees the block.
                let Some(entry) = self.reserve_existing_entry() else {
                    return;
                };
                let taken = self.transact(|txn| {
                    let at = txn.get(list);
                    if at != 0 {
                        txn.set(list, txn.get(at + block::LINK));
                        txn.add(header::WARM, -(class::bytes(class) as i64));
                        txn.set(at + block::KIND, Kind::Memory as u64);
                        txn.set(at + block::REFS, 1);
                        txn.add(header::LIVE_BLOCKS, 1);
                        txn.set(entry.word, at);
                    }
                    Ok(at)
                });
                let Ok(at @ 1..) = taken else {
                    self.return_entry(entry.index);
                    break;
                };
                crash::point("trim: taken");
                let len = class::bytes(class) - block::HEADER;
                let gone = self.give_back(at + block::HEADER, len);
                if gone {
                    // Bytes before the first and after the last whole page stay: zero them.
                    let start = at + block::HEADER;
                    let first = start.next_multiple_of(4096);
                    let last = (start + len) / 4096 * 4096;
                    self.zero(start, first - start);
                    self.zero(last, start + len - last);
                }
                crash::point("trim: given back");
                let _ = self.transact(|txn| {
                    txn.set(entry.word, 0);
                    if gone {
                        txn.free_cold(at)
                    } else {
                        txn.free(at)
                    }
                    Ok(())
                });
                self.return_entry(entry.index);
                if !gone {
                    return;
                }
            }
        }
    }
}

impl Family {
    /// Whether the books agree with each other; to be asked while nobody changes them.
    ///
    /// # Errors
    /// What is wrong.
    pub fn audit(&self) -> core::result::Result<(), String> {
        let word = |at| self.word(at).load(Ordering::SeqCst);
        let (mut warm, mut small) = (0, 0);
        for class in 0..class::COUNT {
            for (list, is_warm) in [(header::FREE_LISTS, true), (header::COLD_LISTS, false)] {
                let mut at = word(list + 8 * class);
                let mut length = 0u64;
                while at != 0 {
                    length += 1;
                    if length > 1 << 20 {
                        return Err(format!("the free blocks of class {class} run in a circle"));
                    }
                    if word(at + block::KIND) != 0 || word(at + block::REFS) != 0 {
                        return Err(format!("the block at {at} is free and in use"));
                    }
                    if word(at + block::CLASS) != class {
                        return Err(format!("the block at {at} is in the list of another class"));
                    }
                    let size = class::bytes(class);
                    match count_of_warm(size) {
                        header::SMALL => small += size,
                        _ if is_warm => warm += size,
                        _ => {}
                    }
                    at = word(at + block::LINK);
                }
            }
        }
        for (name, found, expected) in [
            ("warm bytes", warm, word(header::WARM)),
            ("bytes in small free blocks", small, word(header::SMALL)),
            ("doomed objects", word(header::DOOMED), 0),
            ("words in the journal", word(header::JOURNAL_LEN), 0),
        ] {
            if found != expected {
                return Err(format!("{found} {name} and not {expected}"));
            }
        }
        let kept = word(header::WARM_MOST);
        if !(KEPT_WARM..=most_warm(word(header::LIMIT))).contains(&kept) {
            return Err(format!("{kept} bytes may stay warm"));
        }
        Ok(())
    }
}
