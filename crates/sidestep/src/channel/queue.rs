//! The queue: any number of producers and consumers, in any processes of the family.

use std::time::Duration;

use super::brief::Brief;
use super::chain::{CHAIN_BYTES, Chain, EnvelopeBox, INLINE_MAX, Put, Quietly, Taken};
use super::distance::Distance;
use super::watch::Watch;
use crate::error::{Error, Result};
use crate::os::clock::Deadline;
use crate::primitive::Wake;
#[cfg(not(shuttle))]
use crate::shm::existing;
use crate::shm::{Envelope, Family, Handle, Kind, Note, Ref, Source, family};
use crate::sync::{Gate, Patience, SLICE, Wait};

/// What a queue is to be like.
#[derive(Clone, Copy, Debug, Default)]
pub struct QueueOptions {
    max_items: u32,
    max_bytes: u64,
}

impl QueueOptions {
    /// No limits but the arena's.
    pub fn new() -> Self {
        Self::default()
    }

    /// At most `count` items at once; 0 for no limit.
    #[must_use]
    pub fn max_items(mut self, count: u32) -> Self {
        self.max_items = count;
        self
    }

    /// At most `bytes` unread bytes at once (a longer message goes alone); 0 for no limit.
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Makes the queue.
    ///
    /// # Errors
    /// The arena is at its ceiling.
    pub fn create(self) -> Result<Queue> {
        let object = family()?.create(Kind::Queue, CHAIN_BYTES)?;
        let queue = Queue::over(object)?;
        queue.chain.init(u64::from(self.max_items), self.max_bytes);
        Ok(queue)
    }
}

/// A queue of messages, first in, first out.
///
/// `put` has committed when it returns: the item outlives its producer. Items are taken once and
/// whole. If a process dies at any instruction, its last item is in the queue or it never was;
/// one that it had taken went with it; the others go on.
///
/// ```
/// # fn main() -> sidestep::Result<()> {
/// let queue = sidestep::channel::QueueOptions::new().create()?;
/// queue.put(b"hello")?;
/// assert_eq!(queue.get(None)?.as_deref(), Some(&b"hello"[..]));
/// # Ok(())
/// # }
/// ```
pub struct Queue {
    object: Ref,
    chain: &'static Chain,
    source: Source,
    patience: Patience,
    distance: Distance,
}

impl Queue {
    fn over(object: Ref) -> Result<Self> {
        let chain = object
            .family()
            .at(object.payload())
            .ok_or(Error::Foreign("the queue does not lie in the arena"))?;
        Ok(Self {
            source: Source::part(&object, 0),
            object,
            chain,
            patience: Patience::new(),
            distance: Distance::new(),
        })
    }

    /// The queue that `handle` names.
    ///
    /// # Errors
    /// It is gone.
    pub fn from_handle(handle: Handle) -> Result<Self> {
        Self::over(Ref::from_handle(handle, Kind::Queue)?)
    }

    /// The reference, to name the queue elsewhere.
    pub fn object(&self) -> &Ref {
        &self.object
    }

    fn family(&self) -> &'static Family {
        self.object.family()
    }

    /// Longest message that lies in the queue itself; others need an [`Envelope`].
    pub const INLINE_MAX: usize = INLINE_MAX;

    /// Puts a short message, given in parts, if there is room.
    ///
    /// # Errors
    /// The arena is at its ceiling, or the message is longer than [`Queue::INLINE_MAX`]: nothing
    /// was put.
    #[inline]
    pub fn try_put(&self, tag: u8, parts: &[&[u8]]) -> Result<Put> {
        self.chain
            .put(self.family(), self.object.payload(), tag, parts, &Quietly)
    }

    /// Puts a brief message, if there is room.
    ///
    /// # Errors
    /// The arena is at its ceiling: nothing was put.
    #[inline]
    pub fn try_put_brief(&self, tag: u8, message: &Brief) -> Result<Put> {
        self.chain
            .put_brief(self.family(), self.object.payload(), tag, message, &Quietly)
    }

    /// Puts several short messages under one lock: how many there was room for.
    ///
    /// # Errors
    /// The arena is at its ceiling, or the first message is longer than [`Queue::INLINE_MAX`]:
    /// nothing was put.
    pub fn try_put_many<'m>(
        &self,
        tag: u8,
        messages: impl Iterator<Item = &'m [u8]>,
    ) -> Result<usize> {
        self.chain
            .put_many(self.family(), self.object.payload(), tag, messages)
    }

    /// Puts a message with references, or a long one, and a word beside it; gives it back if there is
    /// no room.
    ///
    /// # Errors
    /// The arena is at its ceiling: nothing was put.
    pub fn try_put_envelope(
        &self,
        tag: u8,
        word: u64,
        envelope: Envelope,
    ) -> Result<core::result::Result<u32, Envelope>> {
        let own = self.object.payload();
        self.chain
            .put_envelope(self.family(), own, tag, word, envelope, &Quietly)
    }

    /// Says that nothing more is to come: whoever waits for items, or will, is told at once.
    pub fn close(&self) {
        self.chain.close();
    }

    /// Whether [`Queue::close`] was called by any process.
    pub fn is_closed(&self) -> bool {
        self.chain.is_closed()
    }

    /// Takes the oldest message, if there is one; a short one is appended to `to`.
    ///
    /// # Errors
    /// No memory to hold an envelope: it stays in the queue.
    #[inline]
    pub fn try_take(&self, to: &mut Vec<u8>) -> Result<Taken> {
        let note = Note::in_slot(self.family(), self.source);
        self.chain
            .take(self.family(), self.object.payload(), to, note)
    }

    /// Takes the oldest message if there is one and it is a brief one: whether `message` is it.
    #[inline]
    #[must_use]
    pub fn try_take_brief(&self, message: &mut Brief) -> bool {
        self.try_take_wanted(message, |_, _| true)
    }

    /// Takes the oldest message if it is a brief one and, with its tag, `wanted`: whether `message` is
    /// it.
    #[inline]
    pub(crate) fn try_take_wanted(
        &self,
        message: &mut Brief,
        wanted: impl FnOnce(u8, &Brief) -> bool,
    ) -> bool {
        let note = Note::in_slot(self.family(), self.source);
        self.chain
            .take_brief(self.family(), self.object.payload(), note, message, wanted)
            .is_some()
    }

    /// A look without lock, which may be wrong either way for a moment.
    pub(crate) fn may_have_items(&self) -> bool {
        self.chain.may_have_items(self.family())
    }

    /// As [`Queue::try_take`], but the note of what was taken goes to `place`.
    pub(crate) fn try_take_noted(&self, to: &mut Vec<u8>, place: u64) -> Result<Taken> {
        let note = Note::at(place, self.source);
        self.chain
            .take(self.family(), self.object.payload(), to, note)
    }

    /// What notes call this queue: see [`Family::last_taken`].
    pub fn source(&self) -> Source {
        self.source
    }

    /// Gives another tag to those waiting messages whose number is `wanted`.
    pub(crate) fn retag(&self, tag: u8, wanted: impl Fn(u32) -> bool) {
        self.chain.retag(self.family(), self.source, tag, wanted);
    }

    /// Takes at most `limit` short messages; `ends` tells where each ends in `buffer`.
    pub fn try_take_many(&self, limit: usize, buffer: &mut Vec<u8>, ends: &mut Vec<usize>) {
        let note = Note::in_slot(self.family(), self.source);
        self.chain.take_many(
            self.family(),
            self.object.payload(),
            limit,
            buffer,
            ends,
            note,
        );
    }

    /// Waits until there may be an item, or the queue is closed; the caller then tries to take one.
    pub fn wait_items(&self, deadline: Deadline) -> Wait {
        if !self.patience.outlasts(|| self.may_have_items()) {
            return self.sleep_for_items(deadline);
        }
        self.distance.keep(|| self.chain.waiting());
        Wait::Ready
    }

    /// As [`Queue::wait_items`], without staying awake first.
    pub(crate) fn sleep_for_items(&self, deadline: Deadline) -> Wait {
        let ready = || self.chain.may_have_items(self.family()) || self.chain.is_closed();
        let wait = sleep_until(self.chain.items(), deadline, ready);
        self.pass_on_closing(self.chain.items());
        wait
    }

    /// Who closes sees no sleepers in the moment between a wake of one and that one's `rearm`: so
    /// whoever finds the queue closed wakes the others.
    fn pass_on_closing(&self, gate: &Gate) {
        if self.is_closed() {
            gate.wake_all();
        }
    }

    /// A consumer that slept and has now taken an item: others may sleep, and there may be more.
    pub fn pass_on(&self) {
        if self.chain.items().has_sleepers() && self.chain.may_have_items(self.family()) {
            self.chain.items().wake_one();
        }
    }

    /// A descriptor for poll(2) and the like that is readable while the queue has items.
    ///
    /// It may be readable without one: another consumer was faster, or a producer was killed in
    /// the middle. Call [`Watch::settle`] after each look for items. Processes in another network
    /// namespace cannot make it readable.
    ///
    /// # Errors
    /// No descriptor or no shared memory is left, or [`super::MOST_WATCHERS`] watch already.
    pub fn watch(&self) -> Result<Watch> {
        Watch::new(self.object.try_clone()?, self.chain)
    }

    /// Waits until there may be room for a message of `len` bytes; the caller then tries to put
    /// it again.
    pub fn wait_space(&self, len: u64, deadline: Deadline) -> Wait {
        let wait = sleep_until(self.chain.space(), deadline, || {
            self.chain.may_have_room_for(len) || self.chain.is_closed()
        });
        self.pass_on_closing(self.chain.space());
        wait
    }

    /// Waits until every item ever put was reported done.
    pub fn wait_all_done(&self, deadline: Deadline) -> Wait {
        sleep_until(self.chain.idle(), deadline, || self.chain.all_done())
    }

    /// Reports one item done. `false`: there was none left.
    #[must_use]
    pub fn task_done(&self) -> bool {
        self.chain.task_done()
    }

    /// Whether every item ever put was reported done.
    pub fn all_done(&self) -> bool {
        self.chain.all_done()
    }

    /// Number of items in the queue: committed minus taken, exact at some moment of the call.
    #[must_use]
    pub fn len(&self) -> u32 {
        let (put, taken) = self.counts();
        put.wrapping_sub(taken)
    }

    /// Items put and items taken since the queue was made, both wrapping.
    pub fn counts(&self) -> (u32, u32) {
        self.chain.counts(self.family(), self.source)
    }

    /// Whether the queue is empty, at some moment of the call.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether as many items as allowed are in the queue.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.chain.is_full(self.family(), self.source)
    }

    /// Puts a message of any length, waiting for room where there is a limit.
    ///
    /// # Errors
    /// The arena is at its ceiling, or the queue is full and closed: nothing was put.
    pub fn put(&self, message: &[u8]) -> Result<()> {
        if message.len() <= INLINE_MAX {
            while self.try_put(0, &[message])? == Put::Full {
                self.check_open()?;
                let _ = self.wait_space(message.len() as u64, Deadline::NEVER);
            }
            return Ok(());
        }
        let mut envelope = Envelope::new(self.family(), message.len() as u64, Vec::new())?;
        envelope.write(0, message);
        while let Err(back) = self.try_put_envelope(0, 0, envelope)? {
            envelope = back;
            self.check_open()?;
            let _ = self.wait_space(message.len() as u64, Deadline::NEVER);
        }
        Ok(())
    }

    /// Nobody makes room in a closed queue for the sake of those who wait for it.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.is_closed() {
            Err(Error::Closed)
        } else {
            Ok(())
        }
    }

    /// Takes the oldest message, waiting for it for at most `limit`; `None` when the time is up
    /// or the queue is closed and empty.
    ///
    /// # Errors
    /// No memory to hold the message: it stays in the queue.
    pub fn get(&self, limit: Option<Duration>) -> Result<Option<Vec<u8>>> {
        let deadline = Deadline::after(limit);
        let mut message = Vec::new();
        loop {
            match self.try_take(&mut message)? {
                Taken::Bytes { .. } => return Ok(Some(message)),
                Taken::Envelope {
                    envelope: EnvelopeBox(envelope),
                    ..
                } => {
                    envelope.read(0, envelope.len(), &mut message);
                    return Ok(Some(message));
                }
                Taken::Empty => {}
            }
            match self.wait_items(deadline) {
                Wait::TimedOut => return Ok(None),
                _ if self.is_closed() && self.is_empty() => return Ok(None),
                _ => self.pass_on(),
            }
        }
    }
}

/// Sleeps at `gate` until `ready` or the deadline, or once a signal handler has run. Who sleeps for long
/// gives memory back that the family does not use.
pub(crate) fn sleep_until(gate: &Gate, deadline: Deadline, ready: impl Fn() -> bool) -> Wait {
    loop {
        let armed = gate.arm();
        if ready() {
            return Wait::Ready;
        }
        let Some(limit) = deadline.slice(SLICE) else {
            return Wait::TimedOut;
        };
        let woken = gate.sleep(armed, limit);
        #[cfg(not(shuttle))]
        if woken == Wake::TimedOut
            && limit >= SLICE / 2
            && let Some(family) = existing()
        {
            family.idle();
        }
        match woken {
            Wake::Interrupted => return Wait::Interrupted,
            Wake::TimedOut if deadline.slice(SLICE).is_some() && !ready() => {
                return Wait::Interrupted;
            }
            _ if ready() => {
                gate.rearm();
                return Wait::Ready;
            }
            _ => {}
        }
    }
}
