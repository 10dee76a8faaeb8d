//! Changes of the books that happen as a whole or not at all.
//!
//! A transaction collects the words that it is going to write. To commit, it copies them to the
//! journal in the header, stores their number in `JOURNAL_LEN` (that store is the commit), writes
//! them where they belong, and stores 0. A process that is killed before the commit has changed
//! nothing. One that is killed after it left a complete journal: the next holder of the ledger
//! writes all of it again, which does no harm to what was written already, as the journal holds
//! values, not differences.
//!
//! This one idea is the crash story of the allocator, the references, the process slots, and of
//! every message that carries references.
//!
//! # References
//! Redo logging: Gray and Reuter, *Transaction Processing*, chapter 10.

use super::family::Family;
use super::layout::{JOURNAL_WORDS, header};
use crate::crash;
use crate::error::Result;
use crate::primitive::Ordering;
use crate::sync::{Acquired, Mutex};

/// A transaction in the making: reads see its own writes.
pub struct Txn<'a> {
    pub(crate) family: &'a Family,
    writes: [(u64, u64); JOURNAL_WORDS],
    len: usize,
}

impl Txn<'_> {
    /// The word at `offset`, as it will be.
    #[inline]
    pub fn get(&self, offset: u64) -> u64 {
        self.writes[..self.len]
            .iter()
            .rev()
            .find(|(at, _)| *at == offset)
            .map_or_else(
                || self.family.word(offset).load(Ordering::Relaxed),
                |(_, value)| *value,
            )
    }

    /// Writes the word at `offset` when the transaction commits.
    #[inline]
    pub fn set(&mut self, offset: u64, value: u64) {
        if let Some(entry) = self.writes[..self.len]
            .iter_mut()
            .find(|(at, _)| *at == offset)
        {
            entry.1 = value;
        } else if self.len < JOURNAL_WORDS {
            self.writes[self.len] = (offset, value);
            self.len += 1;
        } else {
            // Callers check `room`; a transaction that forgot to must not commit by halves.
            debug_assert!(false, "a transaction of more than {JOURNAL_WORDS} words");
        }
    }

    /// Adds to the word at `offset`.
    #[inline]
    pub fn add(&mut self, offset: u64, difference: i64) {
        self.set(offset, self.get(offset).wrapping_add_signed(difference));
    }

    /// How many more words the transaction can write.
    pub fn room(&self) -> usize {
        JOURNAL_WORDS - self.len
    }

    fn commit(&self) {
        if self.len == 0 {
            return;
        }
        for (i, (at, value)) in self.writes[..self.len].iter().enumerate() {
            let place = header::JOURNAL + 16 * i as u64;
            self.family.word(place).store(*at, Ordering::Relaxed);
            self.family.word(place + 8).store(*value, Ordering::Relaxed);
        }
        crash::point("ledger: journal written");
        let len = self.family.word(header::JOURNAL_LEN);
        // [journal] The commit. A successor that reads the length sees the words.
        len.store(self.len as u64, Ordering::Release);
        for (at, value) in &self.writes[..self.len] {
            // Release: such a word may publish what lies behind it (a message, a block).
            crash::point("ledger: committed");
            self.family.word(*at).store(*value, Ordering::Release);
        }
        crash::point("ledger: all applied");
        len.store(0, Ordering::Release);
    }
}

impl Family {
    fn ledger(&self) -> Option<&Mutex> {
        self.at(header::LEDGER)
    }

    /// Runs `change` under the ledger's lock and commits what it has written, unless it fails.
    ///
    /// `change` must not lock anything else, and must not run anybody's code.
    pub fn transact<T>(&self, change: impl FnOnce(&mut Txn<'_>) -> Result<T>) -> Result<T> {
        let Some(ledger) = self.ledger() else {
            return Err(crate::error::Error::Foreign("the arena has no header"));
        };
        // Who is no member looks dead to the others, who would take the lock away.
        self.register()?;
        if ledger.lock(self) == Acquired::OwnerDied {
            self.replay();
        }
        crash::point("ledger: locked");
        let mut txn = Txn {
            family: self,
            writes: [(0, 0); JOURNAL_WORDS],
            len: 0,
        };
        let done = change(&mut txn);
        if done.is_ok() {
            txn.commit();
        }
        crash::point("ledger: journal cleared");
        ledger.unlock();
        crash::point("ledger: unlocked");
        done
    }

    /// Finishes what a holder of the ledger had committed when it was killed.
    fn replay(&self) {
        let len = self.word(header::JOURNAL_LEN);
        // [journal]
        let words = len.load(Ordering::Acquire).min(JOURNAL_WORDS as u64);
        for place in (0..words).map(|i| header::JOURNAL + 16 * i) {
            let at = self.word(place).load(Ordering::Relaxed);
            let value = self.word(place + 8).load(Ordering::Relaxed);
            crash::point("ledger: replaying");
            self.word(at).store(value, Ordering::Release);
        }
        crash::point("ledger: replayed");
        len.store(0, Ordering::Release);
    }

    /// Makes sure that nothing committed is left undone: to be called by whoever takes over the
    /// lock of a dead process, before it looks at what the lock guards.
    pub(crate) fn settle(&self) {
        let _ = self.transact(|_| Ok(()));
    }
}
