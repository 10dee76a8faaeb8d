//! How a message changes hands: the words of a chain, apart from where in the arena they lie.
//!
//! This is the part of the chain that loom checks, so it takes its atomics from
//! [`crate::primitive`]. The producers' and the consumers' mutex are held by the callers; what
//! meets without a lock is one producer and one consumer.

use crate::crash;
use crate::primitive::{AtomicU64, Ordering};

// The header word of a message: length in bits 0..32, form in bits 32..40, the caller's tag in
// bits 40..48. Never 0, as no form is 0.
pub const INLINE: u64 = 1;
pub const ENVELOPE: u64 = 2;
pub const LINK: u64 = 3;

pub fn header(form: u64, len: u64, tag: u8) -> u64 {
    len | form << 32 | u64::from(tag) << 40
}

pub fn form_of(header: u64) -> u64 {
    header >> 32 & 0xff
}

pub fn len_of(header: u64) -> u64 {
    header & 0xffff_ffff
}

pub fn tag_of(header: u64) -> u8 {
    (header >> 40) as u8
}

/// The header with another tag.
pub fn retagged(header: u64, tag: u8) -> u64 {
    header & !(0xff << 40) | u64::from(tag) << 40
}

pub fn position(cursor: u64) -> u64 {
    cursor >> 32
}

pub fn count(cursor: u64) -> u32 {
    cursor as u32
}

pub fn cursor(position: u64, count: u32) -> u64 {
    position << 32 | u64::from(count)
}

/// Bytes that a message of `len` bytes takes: header and padding included.
pub fn footprint(len: u64) -> u64 {
    8 + len.next_multiple_of(8)
}

/// The cursor behind the message with this header.
pub fn behind(at: u64, header: u64) -> u64 {
    cursor(
        position(at) + footprint(len_of(header)),
        count(at).wrapping_add(1),
    )
}

/// Items put and not taken. A message can be taken before its producer has moved `tail` over it,
/// so to one who does not hold the producers' mutex, `head` may be ahead.
pub fn waiting(tail: u64, head: u64) -> u64 {
    count(tail).wrapping_sub(count(head)).cast_signed().max(0) as u64
}

/// The message that was written behind the header `word` exists from here on, and so do those whose
/// headers have been written behind it; then `tail` moves over them.
#[inline]
pub fn publish(word: &AtomicU64, header: u64, tail: &AtomicU64, next: u64) {
    crash::point("put: written");
    // [chain-publish] From here on the message exists.
    word.store(header, Ordering::Release);
    crash::point("put: published");
    tail.store(next, Ordering::Release);
    crash::point("put: tail moved");
}

/// The header of the message that begins at `word`; 0 if there is none yet.
#[inline]
pub fn look(word: &AtomicU64) -> u64 {
    // [chain-publish]
    word.load(Ordering::Acquire)
}

/// A producer died: if a message of its last ones, at `word`, was published, `tail` moves over it.
/// Whether it was: then there may be another one behind it. Envelopes and links are published
/// together with `tail`, by the ledger.
pub fn cover(word: &AtomicU64, tail: &AtomicU64) -> bool {
    let header = look(word);
    let is_published = form_of(header) == INLINE;
    if is_published {
        let next = behind(tail.load(Ordering::Relaxed), header);
        tail.store(next, Ordering::Release);
    }
    is_published
}

/// The message has been copied; `head` moves over it, and it is the caller's.
#[inline]
pub fn take(head: &AtomicU64, next: u64) {
    crash::point("take: copied");
    // [chain-take] Ours from here on. A producer that sees it may count on the room.
    head.store(next, Ordering::Release);
    crash::point("take: head moved");
}
