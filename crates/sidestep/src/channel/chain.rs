//! The message ring of the engine: a chain of segments that never wraps.
//!
//! ```text
//!   head ──▶ [segment: msg msg msg LINK]──▶[segment: msg msg 0          ] ◀── tail
//! ```
//!
//! Messages lie one after the other in segments, blocks of the arena. A producer, holding the
//! producers' mutex, writes a message beyond the last one and publishes it by storing its header
//! word; what was not published never happened. When a segment is full, a `LINK` leads to the
//! next. A consumer, holding the consumers' mutex, copies a message out and moves the head with
//! one store; it returns a segment to the arena as it leaves it. A message is always contiguous,
//! an empty queue takes no segment at all, and a queue grows as long as the arena does.
//!
//! Long messages, and those that carry references, travel as *envelopes*, objects of their own;
//! publishing one, taking one and following a `LINK` change the owner of a block, and are
//! transactions of the ledger.
//!
//! Lock order: the chain's mutex, then the ledger.

use std::iter::Peekable;
use std::os::fd::BorrowedFd;

use super::brief::Brief;
use super::cursor::{
    ENVELOPE, INLINE, LINK, behind, count, cover, cursor, footprint, form_of, header, len_of, look,
    position, publish, retagged, tag_of, take, waiting,
};
use super::watch;
use crate::crash;
use crate::error::{Error, Result};
use crate::os::doorbell::Name;
use crate::primitive::{AtomicU64, Ordering};
use crate::shm::{Entry, Envelope, Family, Kind, Note, Ref, Shared, Source, Txn, block};
use crate::sync::{Acquired, Gate, Mutex};

/// What a producer does around publishing a message, holding the producers' mutex.
pub(crate) trait Announce<E = Error> {
    /// The message is about to be published; a refusal prevents it.
    fn before(&self) -> core::result::Result<(), E>;
    /// The message is published.
    fn after(&self) -> core::result::Result<(), E>;
}

/// Nobody is told.
pub(crate) struct Quietly;

impl Announce for Quietly {
    #[inline]
    fn before(&self) -> Result<()> {
        Ok(())
    }

    #[inline]
    fn after(&self) -> Result<()> {
        Ok(())
    }
}

/// The control block of a chain: lines of 64 bytes. Beside that of consumers nothing lies, since
/// processors like to fetch lines in pairs; beside that of producers, what they look at anyway.
///
/// | field       | written by                        | meaning                                     |
/// |-------------|-----------------------------------|---------------------------------------------|
/// | `max_items` | creator, once                     | most items at once; 0: no limit             |
/// | `max_bytes` | creator, once                     | most unread bytes; 0: no limit              |
/// | `closed`    | who closes, once                  | 1: nothing more is to come                  |
/// | `items`     | see [`Gate`]                      | consumers sleep here                        |
/// | `space`     | see [`Gate`]                      | producers sleep here                        |
/// | `idle`      | see [`Gate`]                      | those who wait for all tasks to be done     |
/// | `done`      | who reports tasks, one swap each  | tasks done, wrapping, in the low 32 bits    |
/// | `put_lock`  | see [`Mutex`]                     | producers                                   |
/// | `tail_block`| transaction, holder of `put_lock` | segment that is written to; 0: none         |
/// | `tail`      | holder of `put_lock`              | position in it, and items put (see below)   |
/// | `tail_base` | transaction, holder of `put_lock` | bytes of all segments before                |
/// | `watchers`  | transaction, holder of `put_lock` | list of those who watch (see `watch`); 0: none |
/// | `long_put`  | transaction, holder of `put_lock` | bytes of all envelopes ever put, wrapping   |
/// | `get_lock`  | see [`Mutex`]                     | consumers                                   |
/// | `head_block`| transaction, either lock's holder | segment that is read from; 0: none yet      |
/// | `head`      | holder of `get_lock`              | position in it, and items taken             |
/// | `head_base` | transaction, holder of `get_lock` | bytes of all segments before                |
/// | `noting`    | holder of `get_lock`              | place of the note that it is writing; 0: none |
/// | `long_taken`| transaction, holder of `get_lock` | `long_put` when the last envelope taken was put |
///
/// `tail` and `head` hold the position in their high half and the count of items in their low
/// half, so that one store moves both: whoever is killed has moved both or neither.
///
/// The only state that a dead producer can leave half done are messages that are published but not
/// covered by `tail`: the next holder of `put_lock` moves `tail` over them. What a dead consumer had
/// copied is still there until it has moved `head`; if it had noted the message before that, the
/// next holder of `get_lock` takes the note back.
///
/// Invariant: the word behind the last message of the tail segment is 0.
#[repr(C)]
pub(crate) struct Chain {
    common: Line<Common>,
    producer: Line<Producer>,
    _apart: [u64; 8],
    consumer: Line<Consumer>,
    _too: [u64; 8],
}

#[repr(C, align(64))]
struct Line<T> {
    fields: T,
}

impl<T> core::ops::Deref for Line<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.fields
    }
}

#[repr(C)]
struct Common {
    max_items: AtomicU64,
    max_bytes: AtomicU64,
    closed: AtomicU64,
    items: Gate,
    space: Gate,
    idle: Gate,
    done: AtomicU64,
}

#[repr(C)]
struct Producer {
    put_lock: Mutex,
    tail_block: AtomicU64,
    tail: AtomicU64,
    tail_base: AtomicU64,
    /// `head` as last seen by a producer: saves looking at the consumers' line.
    head_seen: AtomicU64,
    watchers: AtomicU64,
    long_put: AtomicU64,
}

#[repr(C)]
struct Consumer {
    get_lock: Mutex,
    head_block: AtomicU64,
    head: AtomicU64,
    head_base: AtomicU64,
    /// The place of the note that a consumer is writing just now; 0: none.
    noting: AtomicU64,
    long_taken: AtomicU64,
}

/// Bytes of a chain's control block.
pub(crate) const CHAIN_BYTES: u64 = size_of::<Chain>() as u64;

const PRODUCER: u64 = core::mem::offset_of!(Chain, producer) as u64;
const CONSUMER: u64 = core::mem::offset_of!(Chain, consumer) as u64;
const TAIL_BLOCK: u64 = PRODUCER + core::mem::offset_of!(Producer, tail_block) as u64;
const TAIL: u64 = PRODUCER + core::mem::offset_of!(Producer, tail) as u64;
const TAIL_BASE: u64 = PRODUCER + core::mem::offset_of!(Producer, tail_base) as u64;
const WATCHERS: u64 = PRODUCER + core::mem::offset_of!(Producer, watchers) as u64;
const LONG_PUT: u64 = PRODUCER + core::mem::offset_of!(Producer, long_put) as u64;
const LONG_TAKEN: u64 = CONSUMER + core::mem::offset_of!(Consumer, long_taken) as u64;
const HEAD_BLOCK: u64 = CONSUMER + core::mem::offset_of!(Consumer, head_block) as u64;
const HEAD: u64 = CONSUMER + core::mem::offset_of!(Consumer, head) as u64;
const HEAD_BASE: u64 = CONSUMER + core::mem::offset_of!(Consumer, head_base) as u64;
const _: () = assert!(CHAIN_BYTES == 5 * 64);

/// What lies in the chain for an envelope: its block, the sender's word, and `long_put` with it.
const ENVELOPE_BYTES: u64 = 24;

/// Messages up to this length lie in the chain; longer ones travel as envelopes.
pub(crate) const INLINE_MAX: usize = 16 << 10;

/// Sizes of segments, header included, in bytes: the first is small, so that ten thousand queues
/// of a few messages are cheap; while consumers keep up a middling one stays in the cache.
const FIRST_SEGMENT: u64 = 2 << 10;
const USUAL_SEGMENT: u64 = 64 << 10;
const LARGE_SEGMENT: u64 = 1 << 20;

/// How a put went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Put {
    /// The item is in the queue; its number, counting all items ever put, wrapping.
    Done(u32),
    /// There is no room.
    Full,
}

/// What a get found.
#[derive(Debug)]
#[must_use]
pub enum Taken {
    /// A short message: it was appended to the buffer. Its tag and number.
    Bytes {
        /// The tag that it was put with.
        tag: u8,
        /// Its number among all items ever taken, wrapping.
        number: u32,
    },
    /// A long message, or one with references.
    Envelope {
        /// The message.
        envelope: EnvelopeBox,
        /// The tag that it was put with.
        tag: u8,
        /// The word that it was put with.
        word: u64,
        /// Its number among all items ever taken, wrapping.
        number: u32,
    },
    /// Nothing there.
    Empty,
}

/// An envelope on its way out of a chain.
pub struct EnvelopeBox(pub Envelope);

impl std::fmt::Debug for EnvelopeBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Envelope({} bytes)", self.0.len())
    }
}

impl Chain {
    /// Gives memory its limits, before anybody else sees it.
    pub(crate) fn init(&self, max_items: u64, max_bytes: u64) {
        self.common.max_items.store(max_items, Ordering::Relaxed);
        self.common.max_bytes.store(max_bytes, Ordering::Relaxed);
    }

    /// Says that nothing more is to come: consumers that find the chain empty stop waiting.
    pub(crate) fn close(&self) {
        self.common.closed.store(1, Ordering::SeqCst);
        crash::point("queue: closed, nobody woken yet");
        self.common.items.wake_all();
        self.common.space.wake_all();
    }

    /// Whether the chain was closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.common.closed.load(Ordering::SeqCst) != 0
    }

    /// The gate at which consumers sleep.
    pub(crate) fn items(&self) -> &Gate {
        &self.common.items
    }

    /// The gate at which producers sleep.
    pub(crate) fn space(&self) -> &Gate {
        &self.common.space
    }

    /// The gate at which those sleep who wait for all tasks to be done.
    pub(crate) fn idle(&self) -> &Gate {
        &self.common.idle
    }

    fn lock_producers(&self, family: &'static Family) {
        if self.producer.put_lock.lock(family) == Acquired::OwnerDied {
            family.settle();
            self.cover_published(family);
            crash::point("put: last message of a dead producer covered");
        }
    }

    /// Does something while no message can be put.
    pub(crate) fn with_producers_locked<T>(
        &self,
        family: &'static Family,
        work: impl FnOnce() -> T,
    ) -> T {
        self.lock_producers(family);
        let done = work();
        self.producer.put_lock.unlock();
        done
    }

    fn lock_consumers(&self, family: &'static Family, source: Source) {
        if self.consumer.get_lock.lock(family) == Acquired::OwnerDied {
            family.settle();
            self.retract_note(family, source);
        }
    }

    /// A consumer died: if it had left the note but not moved `head`, it took nothing, and the
    /// note must be gone before somebody else takes the message. May be repeated, should this
    /// process be killed in here.
    fn retract_note(&self, family: &Family, source: Source) {
        let place = self.consumer.noting.load(Ordering::Relaxed);
        if place != 0 {
            crash::point("take: note of a dead taker found");
            let number = count(self.consumer.head.load(Ordering::Relaxed));
            family.retract_note(place, source, number);
            crash::point("take: note of a dead taker gone");
            self.consumer.noting.store(0, Ordering::Relaxed);
        }
    }

    /// A producer died: if its last messages were published, `tail` moves over them.
    fn cover_published(&self, family: &Family) {
        let at = self.producer.tail_block.load(Ordering::Relaxed);
        if at == 0 {
            return;
        }
        let tail = &self.producer.tail;
        let next = || at + block::HEADER + position(tail.load(Ordering::Relaxed));
        while cover(family.word(next()), tail) {}
    }

    /// Whether one more message of `len` bytes fits the limits. Holding `put_lock`.
    fn has_room(&self, tail: u64, len: u64) -> bool {
        let max_items = self.common.max_items.load(Ordering::Relaxed);
        if max_items != 0 {
            let mut head = self.producer.head_seen.load(Ordering::Relaxed);
            if waiting(tail, head) >= max_items {
                head = self.consumer.head.load(Ordering::Acquire);
                self.producer.head_seen.store(head, Ordering::Relaxed);
                if waiting(tail, head) >= max_items {
                    return false;
                }
            }
        }
        let max_bytes = self.common.max_bytes.load(Ordering::Relaxed);
        if max_bytes != 0 {
            let head = self.consumer.head.load(Ordering::Acquire);
            let base = self.consumer.head_base.load(Ordering::Acquire);
            let written = self.producer.tail_base.load(Ordering::Relaxed) + position(tail);
            // In this order what was taken is never more than what was put.
            let taken = self.consumer.long_taken.load(Ordering::Acquire);
            let long = self
                .producer
                .long_put
                .load(Ordering::Relaxed)
                .wrapping_sub(taken);
            let unread = written
                .saturating_sub(base + position(head))
                .saturating_add(long);
            // A message longer than the limit goes alone.
            return count(tail) == count(head)
                || unread.saturating_add(footprint(len)) <= max_bytes;
        }
        true
    }

    /// The position to write a message of `len` bytes to: in the tail segment, or in a new one.
    /// Holding `put_lock`.
    fn place(&self, family: &'static Family, own: u64, len: u64) -> Result<(u64, u64)> {
        let at = self.producer.tail_block.load(Ordering::Relaxed);
        let tail = self.producer.tail.load(Ordering::Relaxed);
        let needed = footprint(len);
        // Behind the message there must be room for a link, whose second word is the target.
        if at != 0 {
            let room = segment_room(family, at);
            if position(tail) + needed + 16 <= room {
                return Ok((at, position(tail)));
            }
        }
        let head = self.consumer.head.load(Ordering::Relaxed);
        let base = self.producer.tail_base.load(Ordering::Relaxed) + position(tail);
        let backlog =
            base.saturating_sub(self.consumer.head_base.load(Ordering::Relaxed) + position(head));
        let size = match (at, backlog) {
            (0, _) => FIRST_SEGMENT,
            (_, ..LARGE_SEGMENT) => USUAL_SEGMENT,
            _ => LARGE_SEGMENT,
        };
        let bytes = (size - block::HEADER).max(needed + 16);
        let (segment, _) = family.create_unzeroed(Kind::Segment, bytes)?;
        let new = segment.at();
        family.word(new + block::HEADER).store(0, Ordering::Relaxed);
        crash::point("put: segment made");
        let entry = segment.entry_word();
        family.transact(|txn| {
            txn.set(entry, 0);
            if at == 0 {
                txn.set(own + HEAD_BLOCK, new);
            } else {
                let end = at + block::HEADER + position(tail);
                txn.set(end + 8, new);
                txn.set(end, header(LINK, 8, 0));
            }
            txn.set(own + TAIL_BLOCK, new);
            txn.set(own + TAIL, cursor(0, count(tail)));
            txn.set(own + TAIL_BASE, base);
            Ok(())
        })?;
        crash::point("put: segment linked");
        segment.moved();
        Ok((new, 0))
    }

    /// Puts a short message (at most [`INLINE_MAX`] bytes, given in `parts`), if there is room.
    ///
    /// # Errors
    /// The arena is at its ceiling, the message is too long, or `announce` refuses.
    #[inline]
    pub(crate) fn put<E: From<Error>>(
        &self,
        family: &'static Family,
        own: u64,
        tag: u8,
        parts: &[&[u8]],
        announce: &impl Announce<E>,
    ) -> core::result::Result<Put, E> {
        let len = parts.iter().map(|part| part.len() as u64).sum();
        self.put_written(family, own, tag, len, announce, |mut to| {
            for part in parts {
                family.write(to, part);
                to += part.len() as u64;
            }
        })
    }

    /// Puts a brief message, if there is room.
    ///
    /// # Errors
    /// The arena is at its ceiling, or `announce` refuses.
    #[inline]
    pub(crate) fn put_brief<E: From<Error>>(
        &self,
        family: &'static Family,
        own: u64,
        tag: u8,
        message: &Brief,
        announce: &impl Announce<E>,
    ) -> core::result::Result<Put, E> {
        let len = message.as_slice().len();
        self.put_written(family, own, tag, len as u64, announce, |to| {
            message.store(family, to);
        })
    }

    /// Puts a message of `len` bytes, which `write` writes to where it is told.
    #[inline]
    fn put_written<E: From<Error>>(
        &self,
        family: &'static Family,
        own: u64,
        tag: u8,
        len: u64,
        announce: &impl Announce<E>,
        write: impl FnOnce(u64),
    ) -> core::result::Result<Put, E> {
        if len > INLINE_MAX as u64 {
            return Err(E::from(Error::TooLong(len)));
        }
        self.lock_producers(family);
        let done = self.put_locked(family, own, tag, len, announce, write);
        self.producer.put_lock.unlock();
        crash::point("put: unlocked");
        if let Ok(Put::Done(_)) = done {
            crate::primitive::store_load_barrier_after_rmw();
            self.common.items.wake_one();
            self.pass_on_room();
        }
        done
    }

    /// Puts several short messages under one lock: how many there was room for.
    ///
    /// # Errors
    /// The arena is at its ceiling and nothing was put.
    pub(crate) fn put_many<'m>(
        &self,
        family: &'static Family,
        own: u64,
        tag: u8,
        messages: impl Iterator<Item = &'m [u8]>,
    ) -> Result<usize> {
        let (mut done, mut messages) = (0, messages.peekable());
        self.lock_producers(family);
        let stopped = loop {
            match self.put_run(family, own, tag, &mut messages) {
                Ok(0) => break Ok(()),
                Ok(more) => done += more,
                Err(error) => break Err(error),
            }
        };
        self.producer.put_lock.unlock();
        if done > 0 {
            crate::primitive::store_load_barrier_after_rmw();
            self.common.items.wake_one();
            self.pass_on_room();
            return Ok(done);
        }
        stopped.map(|()| 0)
    }

    /// Puts as many messages as fit the limits and one segment, which appear together. Holding
    /// `put_lock`.
    fn put_run<'m>(
        &self,
        family: &'static Family,
        own: u64,
        tag: u8,
        messages: &mut Peekable<impl Iterator<Item = &'m [u8]>>,
    ) -> Result<usize> {
        let may_follow = |tail, message: &[u8]| {
            message.len() <= INLINE_MAX && self.has_room(tail, message.len() as u64)
        };
        let tail = self.producer.tail.load(Ordering::Relaxed);
        if let Some(first) = messages.peek()
            && first.len() > INLINE_MAX
        {
            return Err(Error::TooLong(first.len() as u64));
        }
        let Some(first) = messages.next_if(|first| may_follow(tail, first)) else {
            return Ok(0);
        };
        let (at, begin) = self.place(family, own, first.len() as u64)?;
        let (contents, room) = (at + block::HEADER, segment_room(family, at));
        let first_header = header(INLINE, first.len() as u64, tag);
        family.write(contents + begin + 8, first);
        let mut next = behind(self.producer.tail.load(Ordering::Relaxed), first_header);
        let mut count = 1;
        while let Some(message) = messages.next_if(|message| {
            position(next) + footprint(message.len() as u64) + 16 <= room
                && may_follow(next, message)
        }) {
            let (start, header) = (
                contents + position(next),
                header(INLINE, message.len() as u64, tag),
            );
            family.write(start + 8, message);
            family.word(start).store(header, Ordering::Relaxed);
            next = behind(next, header);
            count += 1;
        }
        family
            .word(contents + position(next))
            .store(0, Ordering::Relaxed);
        self.ring(family);
        // Who sees the first sees all of them.
        publish(
            family.word(contents + begin),
            first_header,
            &self.producer.tail,
            next,
        );
        Ok(count)
    }

    #[inline]
    fn put_locked<E: From<Error>>(
        &self,
        family: &'static Family,
        own: u64,
        tag: u8,
        len: u64,
        announce: &impl Announce<E>,
        write: impl FnOnce(u64),
    ) -> core::result::Result<Put, E> {
        if !self.has_room(self.producer.tail.load(Ordering::Relaxed), len) {
            return Ok(Put::Full);
        }
        let (at, position) = self.place(family, own, len)?;
        let number = count(self.producer.tail.load(Ordering::Relaxed));
        let start = at + block::HEADER + position;
        write(start + 8);
        let end = position + footprint(len);
        family
            .word(at + block::HEADER + end)
            .store(0, Ordering::Relaxed);
        self.ring(family);
        announce.before()?;
        publish(
            family.word(start),
            header(INLINE, len, tag),
            &self.producer.tail,
            cursor(end, number.wrapping_add(1)),
        );
        announce.after()?;
        Ok(Put::Done(number))
    }

    /// Puts an envelope, if there is room; gives it back otherwise.
    ///
    /// # Errors
    /// As for [`Chain::put`]; the envelope is gone.
    pub(crate) fn put_envelope<E: From<Error>>(
        &self,
        family: &'static Family,
        own: u64,
        tag: u8,
        word: u64,
        envelope: Envelope,
        announce: &impl Announce<E>,
    ) -> core::result::Result<core::result::Result<u32, Envelope>, E> {
        self.lock_producers(family);
        let tail = self.producer.tail.load(Ordering::Relaxed);
        let len = envelope.len();
        if !self.has_room(tail, len) {
            self.producer.put_lock.unlock();
            return Ok(Err(envelope));
        }
        let place = self.place(family, own, ENVELOPE_BYTES).map_err(E::from);
        let placed = place.and_then(|(at, position)| {
            let number = count(self.producer.tail.load(Ordering::Relaxed));
            let start = at + block::HEADER + position;
            let end = position + footprint(ENVELOPE_BYTES);
            let long = self
                .producer
                .long_put
                .load(Ordering::Relaxed)
                .wrapping_add(len);
            let entry = envelope.as_ref().entry_word();
            let object = envelope.as_ref().at();
            family
                .word(at + block::HEADER + end)
                .store(0, Ordering::Relaxed);
            self.ring(family);
            announce.before()?;
            family.transact(|txn| {
                txn.set(start + 8, object);
                txn.set(start + 16, word);
                txn.set(start + 24, long);
                txn.set(own + LONG_PUT, long);
                txn.set(own + TAIL, cursor(end, number.wrapping_add(1)));
                txn.set(entry, 0);
                // [chain-publish] Last of the words to be written.
                txn.set(start, header(ENVELOPE, ENVELOPE_BYTES, tag));
                Ok(())
            })?;
            Ok((number, announce.after()))
        });
        self.producer.put_lock.unlock();
        crash::point("put: envelope in, unlocked");
        let (number, rung) = placed?;
        envelope.into_ref().moved();
        crate::primitive::store_load_barrier_after_rmw();
        self.common.items.wake_one();
        self.pass_on_room();
        rung.map(|()| Ok(number))
    }

    /// An item is about to be published: those who watch must know before. Holding `put_lock`.
    #[inline]
    fn ring(&self, family: &Family) {
        let list = self.producer.watchers.load(Ordering::Relaxed);
        if list != 0 {
            watch::ring_all(family, list + block::HEADER);
        }
    }

    /// Enters a bell into the list of watchers: where. It may have to be rung: see
    /// [`Chain::settle`].
    ///
    /// # Errors
    /// The list is full, or there is no memory for one.
    pub(crate) fn watch(&self, family: &'static Family, own: u64, bell: Name) -> Result<u64> {
        self.lock_producers(family);
        let entry = self
            .watchers(family, own)
            .and_then(|list| watch::enter(family, list, bell));
        self.producer.put_lock.unlock();
        entry
    }

    /// The list of watchers, which is made if there is none. Holding `put_lock`.
    fn watchers(&self, family: &'static Family, own: u64) -> Result<u64> {
        let list = self.producer.watchers.load(Ordering::Relaxed);
        if list != 0 {
            return Ok(list + block::HEADER);
        }
        let list = family.create(Kind::Watchers, watch::LIST_BYTES)?;
        let (at, payload, entry) = (list.at(), list.payload(), list.entry_word());
        family.transact(|txn| {
            txn.set(own + WATCHERS, at);
            txn.set(entry, 0);
            Ok(())
        })?;
        list.moved();
        Ok(payload)
    }

    /// Makes a watcher's descriptor readable if there are items, and otherwise not: whether there
    /// are.
    pub(crate) fn settle(&self, family: &'static Family, entry: u64, bell: BorrowedFd<'_>) -> bool {
        self.lock_producers(family);
        let has_items = self.may_have_items(family);
        watch::fit(family, entry, bell, has_items);
        self.producer.put_lock.unlock();
        has_items
    }

    /// Takes a watcher off the list.
    pub(crate) fn unwatch(&self, family: &'static Family, entry: u64) {
        self.lock_producers(family);
        watch::leave(family, entry);
        self.producer.put_lock.unlock();
    }

    /// Takes the oldest message. A short one is appended to `to`.
    ///
    /// The note tells the message's number no later than the message is gone: whoever finds the
    /// consumer dead knows by it what it had taken (if the number is below the count of messages
    /// taken by then).
    ///
    /// # Errors
    /// No memory for the reference to an envelope; the message stays.
    #[inline]
    pub(crate) fn take(
        &self,
        family: &'static Family,
        own: u64,
        to: &mut Vec<u8>,
        note: Note,
    ) -> Result<Taken> {
        let take = || self.take_locked(family, own, to, note);
        let took = |taken: &Result<Taken>| {
            matches!(taken, Ok(Taken::Bytes { .. } | Taken::Envelope { .. }))
        };
        self.take_one(family, note, take, took)
            .unwrap_or(Ok(Taken::Empty))
    }

    /// Takes the oldest message if it is a brief one, and `wanted`: its tag. Else `message` is no longer
    /// what it was either.
    #[inline]
    pub(crate) fn take_brief(
        &self,
        family: &'static Family,
        own: u64,
        note: Note,
        message: &mut Brief,
        wanted: impl FnOnce(u8, &Brief) -> bool,
    ) -> Option<u8> {
        let take = || {
            let (start, word) = self.front(family, own)?;
            if form_of(word) != INLINE || len_of(word) > Brief::MOST as u64 {
                return None;
            }
            message.load(family, start + 8, len_of(word) as usize);
            if !wanted(tag_of(word), message) {
                return None;
            }
            let head = self.consumer.head.load(Ordering::Relaxed);
            self.take_read(family, behind(head, word), note, count(head), 1);
            Some(tag_of(word))
        };
        self.take_one(family, note, take, Option::is_some).flatten()
    }

    /// Does `take` holding `get_lock`, unless there is nothing to take; then wakes a producer if it
    /// `took` something.
    #[inline]
    fn take_one<T>(
        &self,
        family: &'static Family,
        note: Note,
        take: impl FnOnce() -> T,
        took: impl FnOnce(&T) -> bool,
    ) -> Option<T> {
        if !self.may_have_items(family) {
            return None;
        }
        self.lock_consumers(family, note.source());
        crash::point("take: locked");
        let taken = take();
        self.consumer.get_lock.unlock();
        crash::point("take: unlocked");
        if took(&taken) {
            crate::primitive::store_load_barrier_after_rmw();
            self.call_producers();
        }
        Some(taken)
    }

    /// Takes short messages as long as there are some, at most `limit`, under one lock: `ends` tells
    /// where each ends in `buffer`. Stops in front of an envelope. The note tells of all of them.
    pub(crate) fn take_many(
        &self,
        family: &'static Family,
        own: u64,
        limit: usize,
        buffer: &mut Vec<u8>,
        ends: &mut Vec<usize>,
        note: Note,
    ) {
        if !self.may_have_items(family) {
            return;
        }
        self.lock_consumers(family, note.source());
        let mut done = 0;
        while done < limit
            && let Some((start, mut word)) = self.front(family, own)
            && form_of(word) == INLINE
        {
            // All that follow in this segment are taken by one store.
            let mut next = self.consumer.head.load(Ordering::Relaxed);
            let segment = start - position(next);
            while done < limit && form_of(word) == INLINE {
                let at = segment + position(next);
                family.read(at + 8, len_of(word) as usize, buffer);
                ends.push(buffer.len());
                next = behind(next, word);
                word = look(family.word(segment + position(next)));
                done += 1;
            }
            let last = count(next).wrapping_sub(1);
            self.take_read(family, next, note, last, done as u32);
        }
        self.consumer.get_lock.unlock();
        if done > 0 {
            crate::primitive::store_load_barrier_after_rmw();
            if done == 1 {
                self.call_producers();
            } else {
                self.common.space.wake_all();
            }
        }
    }

    /// Gives another tag to those messages that wait here whose number is `wanted`. One that was
    /// taken before stays as it was.
    pub(crate) fn retag(
        &self,
        family: &'static Family,
        source: Source,
        tag: u8,
        wanted: impl Fn(u32) -> bool,
    ) {
        self.lock_consumers(family, source);
        let mut at = self.consumer.head_block.load(Ordering::Relaxed);
        let head = self.consumer.head.load(Ordering::Relaxed);
        let (mut place, mut number) = (position(head), count(head));
        while at != 0 {
            let start = at + block::HEADER + place;
            let header = look(family.word(start));
            match form_of(header) {
                0 => break,
                LINK => {
                    at = family.word(start + 8).load(Ordering::Relaxed);
                    place = 0;
                }
                _ => {
                    if wanted(number) {
                        // Its length and form stay, so those who look without the lock see no change.
                        family
                            .word(start)
                            .store(retagged(header, tag), Ordering::Release);
                    }
                    place += footprint(len_of(header));
                    number = number.wrapping_add(1);
                }
            }
        }
        self.consumer.get_lock.unlock();
    }

    /// A look without lock, which may be wrong either way for a moment; `false` is only said when
    /// no message was there at that moment.
    #[inline]
    pub(crate) fn may_have_items(&self, family: &Family) -> bool {
        let at = self.consumer.head_block.load(Ordering::Acquire);
        let head = self.consumer.head.load(Ordering::Acquire);
        if at == 0 {
            return false;
        }
        // Another consumer may have moved on and freed the segment: the word is then not the right
        // one, and the counts decide.
        look(family.word(at + block::HEADER + position(head))) != 0
            || self.consumer.head.load(Ordering::Acquire) != head
            || self.consumer.head_block.load(Ordering::Acquire) != at
    }

    /// How many items there are, at a glance.
    pub(crate) fn waiting(&self) -> u64 {
        let head = self.consumer.head.load(Ordering::Relaxed);
        waiting(self.producer.tail.load(Ordering::Relaxed), head)
    }

    /// The first message: where its header lies, and the header. Follows links, and returns the
    /// segments left behind. Holding `get_lock`.
    #[inline]
    fn front(&self, family: &'static Family, own: u64) -> Option<(u64, u64)> {
        loop {
            let at = self.consumer.head_block.load(Ordering::Relaxed);
            if at == 0 {
                return None;
            }
            let head = self.consumer.head.load(Ordering::Relaxed);
            let start = at + block::HEADER + position(head);
            let word = look(family.word(start));
            match form_of(word) {
                0 => return None,
                LINK => {
                    let base = self.consumer.head_base.load(Ordering::Relaxed) + position(head);
                    let followed = family.transact(|txn| {
                        let next = txn.get(start + 8);
                        txn.set(own + HEAD_BLOCK, next);
                        txn.set(own + HEAD, cursor(0, count(head)));
                        txn.set(own + HEAD_BASE, base);
                        txn.unref(at);
                        Ok(txn.has_surplus())
                    });
                    match followed {
                        Ok(false) => {}
                        Ok(true) => family.give_back_surplus(),
                        Err(_) => return None,
                    }
                }
                _ => return Some((start, word)),
            }
        }
    }

    #[inline]
    fn take_locked(
        &self,
        family: &'static Family,
        own: u64,
        to: &mut Vec<u8>,
        note: Note,
    ) -> Result<Taken> {
        let Some((start, word)) = self.front(family, own) else {
            return Ok(Taken::Empty);
        };
        let head = self.consumer.head.load(Ordering::Relaxed);
        let number = count(head);
        let (len, tag) = (len_of(word), tag_of(word));
        if form_of(word) == ENVELOPE {
            let next = behind(head, word);
            let entry: Entry = family.reserve_entry()?;
            let object = family.word(start + 8).load(Ordering::Relaxed);
            let long = family.word(start + 24).load(Ordering::Relaxed);
            self.write_note(family, note, number, 1);
            let taken = family.transact(|txn| {
                txn.set(own + HEAD, next);
                txn.set(own + LONG_TAKEN, long);
                txn.set(entry.word, object);
                Ok(())
            });
            if let Err(error) = taken {
                self.retract_note(family, note.source());
                return Err(error);
            }
            self.consumer.noting.store(0, Ordering::Relaxed);
            let word = family.word(start + 16).load(Ordering::Relaxed);
            let envelope = EnvelopeBox(Envelope::arrived(Ref::arrived(family, object, entry)));
            return Ok(Taken::Envelope {
                envelope,
                tag,
                word,
                number,
            });
        }
        family.read(start + 8, len as usize, to);
        self.take_read(family, behind(head, word), note, number, 1);
        Ok(Taken::Bytes { tag, number })
    }

    /// Moves `head` to `next`, over short messages which have been read: number `last` is the last of
    /// `together` that one call takes. Holding `get_lock`.
    #[inline]
    fn take_read(&self, family: &Family, next: u64, note: Note, last: u32, together: u32) {
        self.write_note(family, note, last, together);
        take(&self.consumer.head, next);
        self.consumer.noting.store(0, Ordering::Relaxed);
    }

    /// Notes what is about to be taken. Holding `get_lock`; `noting` is to be cleared when `head`
    /// has moved.
    #[inline]
    fn write_note(&self, family: &Family, note: Note, last: u32, together: u32) {
        self.consumer.noting.store(note.place(), Ordering::Relaxed);
        note.write(family, last, together);
        crash::point("take: noted");
    }

    /// Items put and items taken, both wrapping, at one moment.
    pub(crate) fn counts(&self, family: &'static Family, source: Source) -> (u32, u32) {
        self.lock_producers(family);
        self.lock_consumers(family, source);
        let put = count(self.producer.tail.load(Ordering::Relaxed));
        let taken = count(self.consumer.head.load(Ordering::Relaxed));
        self.consumer.get_lock.unlock();
        self.producer.put_lock.unlock();
        (put, taken)
    }

    /// A message was taken: there may be room for somebody who waits for it.
    #[inline]
    fn call_producers(&self) {
        if self.common.space.has_sleepers() {
            self.wake_producers();
        }
    }

    /// A message was put, perhaps by one who waited for room: the next takers saw nobody asleep until
    /// that one was awake, so it is for it to wake others if there is room for more.
    #[inline]
    fn pass_on_room(&self) {
        if self.common.space.has_sleepers() && self.may_have_room() {
            self.wake_producers();
        }
    }

    #[cold]
    fn wake_producers(&self) {
        // Where bytes are counted, one may have room while another has not.
        if self.common.max_bytes.load(Ordering::Relaxed) == 0 {
            self.common.space.wake_one();
        } else {
            self.common.space.wake_all();
        }
    }

    /// Whether `max_items` is reached.
    pub(crate) fn is_full(&self, family: &'static Family, source: Source) -> bool {
        let max = self.common.max_items.load(Ordering::Relaxed);
        let (put, taken) = self.counts(family, source);
        max != 0 && u64::from(put.wrapping_sub(taken)) >= max
    }

    /// Whether a producer that was told `Full` for a message of `len` bytes may try again.
    pub(crate) fn may_have_room_for(&self, len: u64) -> bool {
        self.has_room(self.producer.tail.load(Ordering::Acquire), len)
    }

    /// Whether a producer that was told `Full` may try again.
    pub(crate) fn may_have_room(&self) -> bool {
        self.has_room(self.producer.tail.load(Ordering::Acquire), 0)
    }

    /// One task is done. `false`: there were none left to be done.
    pub(crate) fn task_done(&self) -> bool {
        let mut done = self.common.done.load(Ordering::Acquire);
        loop {
            let put = self.put_so_far();
            if done as u32 == put {
                return false;
            }
            let next = u64::from((done as u32).wrapping_add(1));
            match self
                .common
                .done
                .compare_exchange(done, next, Ordering::SeqCst, Ordering::Acquire)
            {
                Ok(_) => {
                    crash::point("queue: task done, nobody told yet");
                    crate::primitive::store_load_barrier_after_rmw();
                    if self.all_done() {
                        self.common.idle.wake_all();
                    }
                    return true;
                }
                Err(now) => done = now,
            }
        }
    }

    /// Whether every item ever put was reported done.
    pub(crate) fn all_done(&self) -> bool {
        // In this order: if the tasks done then are all that were put by now, there was a moment
        // between at which nothing was left to do.
        let done = self.common.done.load(Ordering::SeqCst) as u32;
        done == self.put_so_far()
    }

    /// Items put; one that was taken counts, also if its producer has not moved `tail` yet.
    fn put_so_far(&self) -> u32 {
        let head = self.consumer.head.load(Ordering::Acquire);
        let tail = self.producer.tail.load(Ordering::Acquire);
        count(head).wrapping_add(waiting(tail, head) as u32)
    }
}

fn segment_room(family: &Family, at: u64) -> u64 {
    let class = family.word(at + block::CLASS).load(Ordering::Relaxed);
    crate::shm::class_bytes(class) - block::HEADER
}

// SAFETY is promised in `shm`, where the trait is implemented for `Chain`.
const fn _is_shared<T: Shared>() {}
const _: () = _is_shared::<Chain>();

/// Takes the chain of a doomed queue apart, some messages a transaction: whether it is empty now.
pub(crate) fn take_apart(txn: &mut Txn<'_>, own: u64) -> bool {
    let watchers = txn.get(own + WATCHERS);
    if watchers != 0 {
        if txn.room() < 40 {
            return false;
        }
        txn.set(own + WATCHERS, 0);
        txn.unref(watchers);
    }
    loop {
        if txn.room() < 40 {
            return false;
        }
        let at = txn.get(own + HEAD_BLOCK);
        if at == 0 {
            return true;
        }
        let head = txn.get(own + HEAD);
        let start = at + block::HEADER + position(head);
        let word = txn.get(start);
        match form_of(word) {
            LINK => {
                let next = txn.get(start + 8);
                txn.set(own + HEAD_BLOCK, next);
                txn.set(own + HEAD, 0);
                txn.unref(at);
            }
            0 => {
                txn.set(own + HEAD_BLOCK, 0);
                txn.unref(at);
            }
            form => {
                if form == ENVELOPE {
                    let object = txn.get(start + 8);
                    txn.unref(object);
                }
                let next = position(head) + footprint(len_of(word));
                txn.set(own + HEAD, cursor(next, 0));
            }
        }
    }
}
