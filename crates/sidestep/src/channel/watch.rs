//! Watching a queue: a descriptor that is readable while there are items, made when asked for.
//!
//! A process that watches hangs a doorbell ([`doorbell`]) and enters its name into the queue's
//! list of watchers, which is made with the first of them. A producer that finds the list rings
//! each bell that is not rung already, *before* it publishes its item. All of it (entering,
//! ringing, publishing, silencing a bell whose queue is empty, leaving) happens under the
//! producers' mutex, which gives one simple rule:
//!
//! > Whenever nobody holds the mutex: if there are items, each bell is rung.
//!
//! So nobody who only polls the descriptor misses an item, even if a producer is killed at any
//! instruction. The other way round a descriptor may be readable without an item: if a producer
//! was killed between the ring and its item, or another consumer was faster. It is silenced as
//! soon as the watching process looks for an item and finds none. That look takes the mutex, so
//! nobody who was woken by a ring misses the item that is about to follow it.
//!
//! Nobody watches: a producer reads one word more, on a line that it has in its hands. Somebody
//! watches: a ring (three short system calls) for the first item after the queue was empty.
//!
//! # If a process dies
//!
//! * A watcher: the kernel drops its bell. Who rings it next is refused, finds the owner dead and
//!   clears the entry; so does a newcomer who finds the list full.
//! * A child of a fork has its parent's descriptor but is not the watcher: it hangs its own bell.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::chain::Chain;
use crate::crash;
use crate::error::{Error, Result};
use crate::os::doorbell::Name;
use crate::primitive::{Ordering, doorbell};
use crate::shm::{Family, Ref};
use crate::sync::{Population, Stamp};

/// Most processes that may watch one queue at once.
pub const MOST: u32 = 32;

/// Offsets in the payload of a list of watchers. All are written under the producers' mutex of
/// the chain that it belongs to.
///
/// | offset      | bytes | field  | meaning                                                |
/// |------------:|------:|--------|--------------------------------------------------------|
/// |           0 |     8 | `USED` | entries that were ever used, from the first one        |
/// | 16 + 16 x n |     8 | `WHO`  | stamp of the watcher, and `RUNG`; 0: nobody            |
/// | 24 + 16 x n |     8 | `BELL` | name of its doorbell                                   |
mod layout {
    pub const USED: u64 = 0;
    pub const FIRST: u64 = 16;
    pub const ENTRY: u64 = 16;
    pub const BELL: u64 = 8;
}

/// Bytes of a list of watchers.
pub(super) const LIST_BYTES: u64 = layout::FIRST + layout::ENTRY * MOST as u64;

/// A bit of `WHO`: the bell's descriptor is readable.
const RUNG: u64 = 1 << 32;

fn entry_at(list: u64, index: u64) -> u64 {
    list + layout::FIRST + layout::ENTRY * index
}

/// Whether the watcher in a word of `WHO` has ended.
fn is_gone(family: &Family, who: u64) -> bool {
    let watcher = Stamp::of_word(who as u32);
    watcher != family.me() && family.is_dead(watcher)
}

/// Rings the bells of a list that are not rung. Holding the producers' mutex.
#[cold]
pub(super) fn ring_all(family: &Family, list: u64) {
    let used = family.word(list + layout::USED).load(Ordering::Relaxed);
    for index in 0..used.min(u64::from(MOST)) {
        ring(family, entry_at(list, index));
    }
}

/// Rings a bell, if the entry has one and it is not rung.
fn ring(family: &Family, entry: u64) {
    let who = family.word(entry);
    let word = who.load(Ordering::Relaxed);
    if word == 0 || word & RUNG != 0 {
        return;
    }
    let bell = family.word(entry + layout::BELL).load(Ordering::Relaxed);
    match doorbell::ring(Name(bell)) {
        Ok(()) => {
            crash::point("watch: rung");
            who.store(word | RUNG, Ordering::Relaxed);
            crash::point("watch: noted");
        }
        // Also a living watcher refuses whoever is in another network namespace.
        Err(_) if is_gone(family, word) => who.store(0, Ordering::Relaxed),
        // Next time, perhaps.
        Err(_) => {}
    }
}

/// Enters this process's bell into a list, under the producers' mutex: where.
///
/// # Errors
/// The list is full of living watchers.
pub(super) fn enter(family: &Family, list: u64, bell: Name) -> Result<u64> {
    let used = family.word(list + layout::USED);
    for index in 0..u64::from(MOST) {
        let entry = entry_at(list, index);
        let word = family.word(entry).load(Ordering::Relaxed);
        if word == 0 || is_gone(family, word) {
            family.word(entry).store(0, Ordering::Relaxed);
            family
                .word(entry + layout::BELL)
                .store(bell.0, Ordering::Relaxed);
            crash::point("watch: bell entered");
            used.fetch_max(index + 1, Ordering::Relaxed);
            let me = u64::from(family.me().word());
            family.word(entry).store(me, Ordering::Relaxed);
            crash::point("watch: entered");
            return Ok(entry);
        }
    }
    Err(Error::Watched(MOST))
}

/// Under the producers' mutex: makes the bell fit what is in the queue.
pub(super) fn fit(family: &Family, entry: u64, bell: BorrowedFd<'_>, has_items: bool) {
    if has_items {
        ring(family, entry);
    } else {
        doorbell::silence(bell);
        crash::point("watch: silenced");
        let who = family.word(entry);
        who.store(who.load(Ordering::Relaxed) & !RUNG, Ordering::Relaxed);
    }
}

/// Under the producers' mutex: nobody watches by this entry any more.
pub(super) fn leave(family: &Family, entry: u64) {
    family.word(entry).store(0, Ordering::Relaxed);
    crash::point("watch: left");
}

/// A descriptor that is readable while a queue has items; see [`super::Queue::watch`].
pub struct Watch {
    bell: OwnedFd,
    entry: u64,
    owner: Stamp,
    chain: &'static Chain,
    object: Ref,
}

impl Watch {
    pub(super) fn new(object: Ref, chain: &'static Chain) -> Result<Self> {
        let (bell, name) =
            doorbell::hang().map_err(Error::os("cannot make a socket to watch a queue by"))?;
        let family = object.family();
        let entry = chain.watch(family, object.payload(), name)?;
        let watch = Self {
            bell,
            entry,
            owner: family.me(),
            chain,
            object,
        };
        watch.settle();
        Ok(watch)
    }

    /// The descriptor to poll. What can be read from it means nothing; leave it there.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Whether this process made it. A child of a fork inherits a descriptor that belongs to its
    /// parent: it must make a watch of its own.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.owner == self.object.family().me()
    }

    /// To be called after a look for items: the descriptor is readable afterwards if there are any,
    /// and otherwise not. Whether there are: who was woken by the descriptor and found nothing may
    /// have come between ring and item, and should look again.
    ///
    /// Always false where the watch is not [ours](Self::is_ours).
    pub fn settle(&self) -> bool {
        self.is_ours()
            && self
                .chain
                .settle(self.object.family(), self.entry, self.bell.as_fd())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.is_ours() {
            self.chain.unwatch(self.object.family(), self.entry);
        }
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("bell", &self.bell).finish()
    }
}
