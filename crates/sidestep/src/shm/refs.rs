//! References: who keeps an object alive.
//!
//! A reference is a place that names an object and counts in the object's `REFS`: an entry in the
//! table of a process, an entry in an envelope (a message on its way), or a word inside another
//! object. Place and count change in one transaction, so they never disagree, and a process's
//! references can be dropped for it when it is dead.

use std::collections::BTreeMap;
use std::mem::ManuallyDrop;

use super::alloc::Kind;
use super::family::Family;
use super::layout::{block, slot, slot_at};
use super::ledger::Txn;
use super::loan::{Lent, Loan};
use crate::crash;
use crate::error::{Error, Result};
use crate::primitive::{Instant, Ordering};
use crate::sync::Stamp;

/// Entries in one chunk of a table: with the link and the header, 1 KiB.
pub(super) const ENTRIES: u64 = 119;
/// Payload bytes of a chunk: the link to the next one, then the entries.
pub(super) const CHUNK: u64 = 8 * (ENTRIES + 1);

/// This process's table of references, as far as only the process itself needs to know.
///
/// In the arena the chunks are a list that starts at the slot; here is their order, by which an
/// index names an entry in this process and, after a fork, in the child's copy.
#[derive(Default)]
pub(super) struct Table {
    pub(super) chunks: Vec<u64>,
    pub(super) unused: Vec<u32>,
    /// Entries below this index were a parent's whose death took them along: they are void.
    pub(super) void_below: u32,
    /// What this process has been lent, by offset.
    pub(super) loans: BTreeMap<u64, Lent>,
    /// Slots of children whose forks have returned, and since when. They take them as soon as they run.
    pub(super) unborn: Vec<(Stamp, Instant)>,
    /// Loans that the kernel did not allow to end.
    pub(super) unreturned: Vec<Loan>,
}

impl Table {
    fn word(&self, index: u32) -> u64 {
        let chunk = self.chunks.get((u64::from(index) / ENTRIES) as usize);
        chunk.map_or(0, |chunk| {
            chunk + block::HEADER + 8 + 8 * (u64::from(index) % ENTRIES)
        })
    }
}

/// An entry of the table that is ours to fill.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub index: u32,
    /// Offset of its word.
    pub word: u64,
}

/// What names an object in another process: it must be turned into a [`Ref`] there, while some
/// other reference keeps the object alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle {
    /// Offset of the object's block.
    pub offset: u64,
    /// The block's generation: a successor in the same memory is somebody else.
    pub generation: u64,
}

/// A reference held by this process; dropped on drop, or by whoever cleans up after the process.
pub struct Ref {
    family: &'static Family,
    at: u64,
    generation: u64,
    entry: u32,
}

impl Ref {
    pub(super) fn new(family: &'static Family, at: u64, generation: u64, entry: u32) -> Self {
        Self {
            family,
            at,
            generation,
            entry,
        }
    }

    /// A reference to the object that `handle` names.
    ///
    /// # Errors
    /// The object is gone, or is no `kind`.
    pub fn from_handle(handle: Handle, kind: Kind) -> Result<Self> {
        let family = super::family()?;
        let stale = || Error::Stale {
            expected: kind.name(),
        };
        let at = handle.offset;
        if at < super::layout::HEAP || !at.is_multiple_of(64) {
            return Err(stale());
        }
        let entry = family.reserve_entry()?;
        let done = family.transact(|txn| {
            let valid = at < txn.get(super::layout::header::TOP)
                && txn.get(at + block::KIND) == kind as u64
                && txn.get(at + block::GENERATION) == handle.generation
                && txn.get(at + block::REFS) > 0;
            if !valid {
                return Err(stale());
            }
            txn.add(at + block::REFS, 1);
            txn.set(entry.word, at);
            Ok(())
        });
        if let Err(error) = done {
            family.return_entry(entry.index);
            return Err(error);
        }
        Ok(Self::new(family, at, handle.generation, entry.index))
    }

    /// The name for other processes.
    pub fn handle(&self) -> Handle {
        Handle {
            offset: self.at,
            generation: self.generation,
        }
    }

    /// One more reference.
    ///
    /// # Errors
    /// No memory for the entry.
    pub fn try_clone(&self) -> Result<Self> {
        let entry = self.family.reserve_entry()?;
        self.family.transact(|txn| {
            txn.add(self.at + block::REFS, 1);
            txn.set(entry.word, self.at);
            Ok(())
        })?;
        Ok(Self::new(
            self.family,
            self.at,
            self.generation,
            entry.index,
        ))
    }

    /// The family that the object belongs to.
    pub fn family(&self) -> &'static Family {
        self.family
    }

    /// Offset of the payload.
    #[inline]
    pub fn payload(&self) -> u64 {
        self.at + block::HEADER
    }

    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Moves the reference into a transaction's hands: its entry, to be cleared by it. Call
    /// [`Ref::moved`] when that has been committed.
    pub(crate) fn entry_word(&self) -> u64 {
        self.family.table().word(self.entry)
    }

    /// The reference has been moved elsewhere by a transaction that cleared its entry.
    pub(crate) fn moved(self) {
        let this = ManuallyDrop::new(self);
        this.family.return_entry(this.entry);
    }

    /// A reference that a transaction has stored in `entry`.
    pub(crate) fn arrived(family: &'static Family, at: u64, entry: Entry) -> Self {
        let generation = family.word(at + block::GENERATION).load(Ordering::Relaxed);
        Self::new(family, at, generation, entry.index)
    }
}

impl Drop for Ref {
    fn drop(&mut self) {
        #[cfg(shuttle)]
        if crate::primitive::is_ghost() {
            return;
        }
        let word = {
            let table = self.family.table();
            if self.entry < table.void_below {
                return;
            }
            table.word(self.entry)
        };
        let swept = self.family.transact(|txn| {
            txn.set(word, 0);
            txn.unref(self.at);
            Ok(txn.get(super::layout::header::DOOMED) != 0 || txn.has_surplus())
        });
        self.family.return_entry(self.entry);
        if matches!(swept, Ok(true)) {
            self.family.sweep();
        }
    }
}

impl std::fmt::Debug for Ref {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ref")
            .field("offset", &self.at)
            .field("generation", &self.generation)
            .finish()
    }
}

impl Family {
    /// An empty entry of this process's table, which grows if it is full.
    pub(crate) fn reserve_entry(&'static self) -> Result<Entry> {
        match self.try_reserve_entry() {
            Err(Error::OutOfMemory { .. }) => {
                self.relieve();
                self.try_reserve_entry()
            }
            tried => tried,
        }
    }

    fn try_reserve_entry(&self) -> Result<Entry> {
        let me = self.register()?;
        let mut table = self.table();
        if table.unused.is_empty() {
            let home = slot_at(me.slot()) + slot::TABLE;
            let at = self.transact(|txn| {
                let new = txn.allocate(Kind::Table, CHUNK, true)?;
                self.zero(new.at + block::HEADER, CHUNK);
                txn.set(new.at + block::HEADER, txn.get(home));
                txn.set(home, new.at);
                Ok(new.at)
            })?;
            crash::point("table: grown");
            let first = table.chunks.len() as u32 * ENTRIES as u32;
            table.chunks.push(at);
            table.unused.extend((first..first + ENTRIES as u32).rev());
        }
        let index = table.unused.pop().unwrap_or_default();
        Ok(Entry {
            index,
            word: table.word(index),
        })
    }

    /// As [`Family::reserve_entry`], but never allocates: for paths that run when memory is short.
    pub(super) fn reserve_existing_entry(&self) -> Option<Entry> {
        let mut table = self.table();
        let index = table.unused.pop()?;
        Some(Entry {
            index,
            word: table.word(index),
        })
    }

    /// Puts an entry back that holds nothing (any more).
    pub(crate) fn return_entry(&self, index: u32) {
        let mut table = self.table();
        if index >= table.void_below {
            table.unused.push(index);
        }
    }
}

/// A message or a bundle that owns references, and carries bytes.
///
/// | offset in payload | bytes  | field  | written by             | meaning                        |
/// |------------------:|-------:|--------|------------------------|--------------------------------|
/// |                 0 |      8 | `LEN`  | maker                  | bytes of the body              |
/// |                 8 |      8 | `ROOM` | maker                  | words for references           |
/// |                16 | 8 x n  | refs   | transaction            | an object each, or 0           |
/// |      then, at 64s |  `LEN` | body   | maker, before it sends | what the sender says           |
///
/// If the maker is killed, the envelope and what it owns so far go with its references. If it is
/// never taken, it goes with the queue that it lies in.
pub struct Envelope {
    object: Ref,
    /// Nobody has written to its pages yet.
    fresh: bool,
}

pub(crate) const ENVELOPE_REFS: u64 = 16;

impl Envelope {
    /// An envelope with room for `body` bytes, owning `refs`.
    ///
    /// # Errors
    /// The arena is at its ceiling.
    pub fn new(family: &'static Family, body: u64, refs: Vec<Ref>) -> Result<Self> {
        let room = refs.len() as u64;
        let start = Self::start(room);
        let (object, fresh) = family.create_unzeroed(Kind::Envelope, start + body)?;
        let payload = object.payload();
        family.word(payload).store(body, Ordering::Relaxed);
        family.zero(payload + ENVELOPE_REFS, 8 * room);
        family.word(payload + 8).store(room, Ordering::Release);
        crash::point("envelope: made");
        for (i, reference) in refs.into_iter().enumerate() {
            let entry = reference.entry_word();
            family.transact(|txn| {
                txn.set(payload + ENVELOPE_REFS + 8 * i as u64, reference.at());
                txn.set(entry, 0);
                Ok(())
            })?;
            crash::point("envelope: reference moved in");
            reference.moved();
        }
        Ok(Self { object, fresh })
    }

    /// As [`Envelope::new`], for one whose maker will read it as well: it is written to where it is
    /// mapped.
    ///
    /// # Errors
    /// As there.
    pub fn to_keep(family: &'static Family, body: u64, refs: Vec<Ref>) -> Result<Self> {
        let made = Self::new(family, body, refs)?;
        Ok(Self::arrived(made.object))
    }

    /// One more reference to the envelope, whose body nobody writes to any more.
    ///
    /// # Errors
    /// No memory for the reference.
    pub fn try_clone(&self) -> Result<Self> {
        self.object.try_clone().map(Self::arrived)
    }

    /// The envelope that a queue handed over.
    pub(crate) fn arrived(object: Ref) -> Self {
        Self {
            object,
            fresh: false,
        }
    }

    /// The reference to the envelope itself.
    pub(crate) fn into_ref(self) -> Ref {
        self.object
    }

    /// The reference to the envelope itself.
    #[allow(clippy::should_implement_trait)] // it is no view of the contents
    pub fn as_ref(&self) -> &Ref {
        &self.object
    }

    /// The name by which other processes read the envelope in place, with
    /// [`Envelope::from_handle`]: for what is written once and then only read, by any number of
    /// processes, each of which keeps it alive.
    pub fn handle(&self) -> Handle {
        self.object.handle()
    }

    /// One more reference to the envelope that `handle` names.
    ///
    /// # Errors
    /// It is gone, or is no envelope.
    pub fn from_handle(handle: Handle) -> Result<Self> {
        Ref::from_handle(handle, Kind::Envelope).map(Self::arrived)
    }

    /// Where the body begins in the payload.
    pub(super) fn start(room: u64) -> u64 {
        (ENVELOPE_REFS + 8 * room).next_multiple_of(64)
    }

    /// Offset of the body, and its length.
    pub(super) fn body(&self) -> (u64, u64) {
        let family = self.object.family();
        let payload = self.object.payload();
        let room = family.word(payload + 8).load(Ordering::Relaxed);
        let len = family.word(payload).load(Ordering::Relaxed);
        (
            payload.saturating_add(Self::start(room.min(u64::MAX / 16))),
            len,
        )
    }

    /// Bytes of the body.
    pub fn len(&self) -> u64 {
        self.body().1
    }

    /// Whether the body is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes `bytes` into the body, from `at` on; before it is sent.
    pub fn write(&self, at: u64, bytes: &[u8]) {
        let (start, len) = self.body();
        if at
            .checked_add(bytes.len() as u64)
            .is_some_and(|end| end <= len)
        {
            let family = self.object.family();
            if self.fresh {
                family.write_fresh(start + at, bytes);
            } else {
                family.write(start + at, bytes);
            }
        }
    }

    /// Appends `count` bytes of the body, from `at` on, to `to`; fewer if it ends before.
    pub fn read(&self, at: u64, count: u64, to: &mut Vec<u8>) {
        let (start, len) = self.body();
        let count = count.min(len.saturating_sub(at));
        let from = start.saturating_add(at);
        self.object.family().read(from, count as usize, to);
    }

    /// Address of the body and its length, which stay valid while this reference lives.
    pub fn address(&self) -> Option<(*mut u8, u64)> {
        let (start, len) = self.body();
        self.object
            .family()
            .address(start, len)
            .map(|address| (address, len))
    }
}

/// Takes an envelope apart, a few references a step: whether it is done.
pub(crate) fn take_envelope_apart(txn: &mut Txn<'_>, payload: u64) -> bool {
    let room = txn.get(payload + 8);
    for i in 0..room {
        let word = payload + ENVELOPE_REFS + 8 * i;
        let object = txn.get(word);
        if object != 0 {
            // Each drop writes some ten words.
            if txn.room() < 24 {
                return false;
            }
            txn.set(word, 0);
            txn.unref(object);
        }
    }
    true
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_whose_words_were_damaged_has_no_body_to_read() {
        let family = crate::shm::family().unwrap();
        let envelope = Envelope::new(family, 100, Vec::new()).unwrap();
        for len in [u64::MAX, u64::MAX / 2, 1 << 62, 1 << 50] {
            family
                .word(envelope.object.payload())
                .store(len, Ordering::Relaxed);
            let mut body = Vec::new();
            envelope.read(0, u64::MAX, &mut body);
            assert!(body.is_empty());
            assert!(envelope.address().is_none());
        }
    }
}
