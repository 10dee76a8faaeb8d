//! The words of the bells: of a pipe's (see [`super::pipe`]) and of who watches a queue (see
//! [`super::watch`]), apart from the sockets that they speak of.
//!
//! This is the part that loom checks, so it takes its atomics from [`crate::primitive`].

use crate::primitive::{AtomicU64, Ordering, fence};

/// A bell byte lies in the pipe's socket, or is about to.
pub const RUNG: u64 = 1;
/// Somebody watches the pipe's descriptor itself; sticky.
pub const WATCHED: u64 = 2;
/// One receiver that cleared `RUNG` and still has to take its byte.
pub const ONE_OWED: u64 = 1 << 8;
/// All of those.
pub const OWED: u64 = 0xff_ffff << 8;

/// A message was committed to the pipe: has `write` put a byte into the socket, unless one is there.
/// `Ok(false)` from `write` says that the socket is full, hence readable.
///
/// # Errors
/// What `write` says.
#[inline]
pub fn ring<E>(bell: &AtomicU64, write: impl FnOnce() -> Result<bool, E>) -> Result<(), E> {
    // [pipe-bell] The message before the bell: pairs with the fence in `settle`.
    fence(Ordering::SeqCst);
    if bell.load(Ordering::Relaxed) & RUNG != 0 || bell.fetch_or(RUNG, Ordering::SeqCst) & RUNG != 0
    {
        return Ok(());
    }
    let written = write();
    if !matches!(written, Ok(true)) {
        bell.fetch_and(!RUNG, Ordering::SeqCst);
    }
    written.map(drop)
}

/// If there is no message, has `take` take the bell byte off the socket.
///
/// # Errors
/// What `take` says.
pub fn settle<E>(
    bell: &AtomicU64,
    has_messages: impl Fn() -> bool,
    take: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    let mut word = bell.load(Ordering::SeqCst);
    loop {
        if word & RUNG == 0 || has_messages() {
            return Ok(());
        }
        let next = (word & !RUNG) + ONE_OWED;
        match bell.compare_exchange(word, next, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => break,
            Err(now) => word = now,
        }
    }
    // [pipe-bell] Clear before looking: a sender that we miss here finds `RUNG` clear.
    fence(Ordering::SeqCst);
    if has_messages() {
        word = bell.load(Ordering::SeqCst);
        while word & RUNG == 0 {
            let next = (word | RUNG).wrapping_sub(ONE_OWED);
            match bell.compare_exchange(word, next, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return Ok(()),
                Err(now) => word = now,
            }
        }
    }
    let taken = take();
    bell.fetch_sub(ONE_OWED, Ordering::SeqCst);
    taken
}

/// After a message was taken: whether the receiver has to settle at once.
#[inline]
pub fn is_to_be_settled(bell: &AtomicU64) -> bool {
    bell.load(Ordering::Relaxed) & (RUNG | WATCHED) == RUNG | WATCHED
}

/// From now on the descriptor is to be readable exactly when there is a message: whether that is
/// new.
pub fn watch(bell: &AtomicU64) -> bool {
    bell.fetch_or(WATCHED, Ordering::SeqCst) & WATCHED == 0
}

/// A bit beside the stamp of who watches a queue: its descriptor is readable.
pub const HEARD: u64 = 1 << 32;

/// What came of an attempt to ring the doorbell of who watches a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ringing {
    /// It can be heard.
    Heard,
    /// Its owner is dead.
    Gone,
    /// It could not be reached this time.
    Failed,
}

/// Rings who watches a queue, by its word, unless it was rung already. Holding the producers' mutex.
#[inline]
pub fn call(who: &AtomicU64, ring: impl FnOnce(u64) -> Ringing) {
    let word = who.load(Ordering::Relaxed);
    if word == 0 || word & HEARD != 0 {
        return;
    }
    match ring(word) {
        Ringing::Heard => who.store(word | HEARD, Ordering::Relaxed),
        Ringing::Gone => who.store(0, Ordering::Relaxed),
        Ringing::Failed => {}
    }
}

/// The queue is empty: silences who watches it. Holding the producers' mutex.
pub fn hush(who: &AtomicU64, silence: impl FnOnce()) {
    silence();
    who.store(who.load(Ordering::Relaxed) & !HEARD, Ordering::Relaxed);
}
