//! The bell of a pipe's direction: a word in the arena beside the bytes that lie in its socket.
//!
//! This is the part of the pipe that loom checks, so it takes its atomics from
//! [`crate::primitive`] and is told how to write and take a byte. See the description in
//! [`super::pipe`].

use crate::crash;
use crate::primitive::{AtomicU64, Ordering, fence};

/// A bell byte lies in the socket, or its sender is about to write it.
pub const RUNG: u64 = 1;
/// Somebody watches the descriptor itself. Never cleared.
pub const WATCHED: u64 = 2;
/// A sender is writing the byte; found by the next one: it was killed, and the byte may be missing.
pub const WRITING: u64 = 4;
/// There may be more bytes than `RUNG` says.
pub const SURPLUS: u64 = 8;

/// Whether the descriptor itself is watched.
#[inline]
pub fn is_watched(bell: &AtomicU64) -> bool {
    bell.load(Ordering::Relaxed) & WATCHED != 0
}

/// Whether a byte lies in the socket, or is about to.
#[inline]
pub fn is_rung(bell: &AtomicU64) -> bool {
    bell.load(Ordering::Relaxed) & RUNG != 0
}

/// A receiver's: the byte was taken whatever there is to receive.
pub fn lost(bell: &AtomicU64) {
    bell.fetch_and(!RUNG, Ordering::SeqCst);
}

/// A sender's: makes the socket readable, unless it is already. Holding the producers' mutex.
///
/// `write` says whether it wrote a byte; it need not if the socket is full, and so readable.
///
/// # Errors
/// Those of `write`; nothing was rung.
#[inline]
pub fn ring<E>(bell: &AtomicU64, write: impl FnOnce() -> Result<bool, E>) -> Result<(), E> {
    match bell.load(Ordering::Relaxed) {
        word if word & (RUNG | WRITING) == RUNG => Ok(()),
        word => ring_now(bell, word, write),
    }
}

#[cold]
fn ring_now<E>(
    bell: &AtomicU64,
    word: u64,
    write: impl FnOnce() -> Result<bool, E>,
) -> Result<(), E> {
    let surplus = if word & WRITING == 0 { 0 } else { SURPLUS };
    bell.fetch_or(RUNG | WRITING | surplus, Ordering::SeqCst);
    crash::point("pipe: about to ring");
    let written = write();
    crash::point("pipe: rung, not noted");
    let done = match written {
        Ok(true) => WRITING,
        Ok(false) | Err(_) => WRITING | RUNG,
    };
    bell.fetch_and(!done, Ordering::SeqCst);
    crash::point("pipe: ring noted");
    written.map(drop)
}

/// A receiver's, of a bell that is not watched: takes a byte if there is no message. Holding the
/// receivers' mutex only: senders ring meanwhile.
///
/// `found`: the socket was found readable, whatever `RUNG` says.
///
/// # Errors
/// Those of `take`, which takes one bell byte, if there is one.
pub fn hush<E>(
    bell: &AtomicU64,
    found: bool,
    has_messages: impl Fn() -> bool,
    take: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    let rung = bell.fetch_and(!RUNG, Ordering::SeqCst) & RUNG;
    crash::point("pipe: about to hush the bell");
    if rung == 0 && !found {
        return Ok(());
    }
    // [bell-hush] A sender publishes and looks at the bell, we clear the bell and look for messages.
    fence(Ordering::SeqCst);
    if has_messages() {
        // The byte stays, for who else waits, and so does its mark.
        bell.fetch_or(rung, Ordering::SeqCst);
        return Ok(());
    }
    take()?;
    crash::point("pipe: bell hushed");
    Ok(())
}

/// A receiver's, with all senders kept out: takes the bytes if there is no message. Holding both
/// mutexes.
///
/// # Errors
/// Those of `take`, which takes one bell byte, or all if it is told so.
pub fn silence<E>(
    bell: &AtomicU64,
    found: bool,
    has_messages: impl Fn() -> bool,
    take: impl FnOnce(bool) -> Result<(), E>,
) -> Result<(), E> {
    let word = bell.load(Ordering::Relaxed);
    if !found && word & !WATCHED == 0 || has_messages() {
        return Ok(());
    }
    bell.store(word & WATCHED | SURPLUS, Ordering::Relaxed);
    crash::point("pipe: about to take the bell");
    take(found || word & (WRITING | SURPLUS) != 0)?;
    crash::point("pipe: bell taken, not noted");
    bell.store(word & WATCHED, Ordering::Relaxed);
    crash::point("pipe: settled");
    Ok(())
}

/// From now on the bell is watched. Holding both mutexes.
///
/// # Errors
/// Those of `take`, as for [`silence`].
pub fn watch<E>(
    bell: &AtomicU64,
    has_byte: impl FnOnce() -> bool,
    has_messages: impl Fn() -> bool,
    take: impl FnOnce(bool) -> Result<(), E>,
) -> Result<(), E> {
    let rung = if has_byte() { RUNG | SURPLUS } else { 0 };
    bell.store(WATCHED | rung, Ordering::SeqCst);
    crash::point("pipe: watched");
    silence(bell, false, has_messages, take)
}
