//! The user's locks as objects of the arena, held by reference and named by handle.

use std::time::Duration;

use super::{Answer, Barrier, Event, Lock, Place, SEMAPHORE_MAX, SLICE, Semaphore, Stamp, Waiters};
use crate::error::{Error, Result};
use crate::primitive::{Instant, Wake};
use crate::shm::{Family, Handle, Kind, Ref, Shared, Txn, family};

/// An object of type `T` in the arena, kept alive by this reference.
#[derive(Debug)]
pub struct InArena<T: 'static> {
    object: Ref,
    inner: &'static T,
}

#[allow(private_bounds)]
impl<T: Shared> InArena<T> {
    fn over(object: Ref) -> Result<Self> {
        let inner = object.family().at(object.payload());
        inner
            .map(|inner| Self { object, inner })
            .ok_or(Error::Foreign("the object does not lie in the arena"))
    }

    fn create(kind: Kind) -> Result<Self> {
        Self::over(family()?.create(kind, size_of::<T>() as u64)?)
    }

    fn open(handle: Handle, kind: Kind) -> Result<Self> {
        Self::over(Ref::from_handle(handle, kind)?)
    }

    /// The reference, to name the object elsewhere.
    pub fn object(&self) -> &Ref {
        &self.object
    }

    /// The family that the object belongs to.
    pub fn family(&self) -> &'static Family {
        self.object.family()
    }
}

impl<T> std::ops::Deref for InArena<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.inner
    }
}

/// A [`Lock`] in the arena.
pub type SharedLock = InArena<Lock>;
/// A [`Semaphore`] in the arena.
pub type SharedSemaphore = InArena<Semaphore>;
/// The waiters of a condition variable in the arena; its lock is an object of its own.
pub type SharedCondition = InArena<Waiters>;
/// An [`Event`] in the arena.
pub type SharedEvent = InArena<Event>;
/// A [`Barrier`] in the arena.
pub type SharedBarrier = InArena<Barrier>;

impl SharedLock {
    /// A new free lock.
    ///
    /// # Errors
    /// The arena is at its ceiling.
    pub fn new(recursive: bool) -> Result<Self> {
        let lock = Self::create(Kind::Lock)?;
        if recursive {
            lock.make_recursive();
        }
        Ok(lock)
    }

    /// The lock that `handle` names.
    ///
    /// # Errors
    /// It is gone.
    pub fn from_handle(handle: Handle) -> Result<Self> {
        Self::open(handle, Kind::Lock)
    }
}

impl SharedSemaphore {
    /// A new semaphore of this value; `limit` bounds it, `None` only by [`SEMAPHORE_MAX`].
    ///
    /// # Errors
    /// The arena is at its ceiling.
    pub fn new(value: u32, limit: Option<u32>) -> Result<Self> {
        let semaphore = Self::create(Kind::Semaphore)?;
        semaphore.init(value, limit.unwrap_or(SEMAPHORE_MAX));
        Ok(semaphore)
    }

    /// The semaphore that `handle` names.
    ///
    /// # Errors
    /// It is gone.
    pub fn from_handle(handle: Handle) -> Result<Self> {
        Self::open(handle, Kind::Semaphore)
    }
}

impl SharedCondition {
    /// A new condition that nobody waits for.
    ///
    /// # Errors
    /// The arena is at its ceiling.
    pub fn new() -> Result<Self> {
        Self::create(Kind::Condition)
    }

    /// The condition that `handle` names.
    ///
    /// # Errors
    /// It is gone.
    pub fn from_handle(handle: Handle) -> Result<Self> {
        Self::open(handle, Kind::Condition)
    }
}

impl SharedEvent {
    /// A new event that is not set.
    ///
    /// # Errors
    /// The arena is at its ceiling.
    pub fn new() -> Result<Self> {
        Self::create(Kind::Event)
    }

    /// The event that `handle` names.
    ///
    /// # Errors
    /// It is gone.
    pub fn from_handle(handle: Handle) -> Result<Self> {
        Self::open(handle, Kind::Event)
    }
}

impl SharedBarrier {
    /// A new barrier for `parties` parties.
    ///
    /// # Errors
    /// The arena is at its ceiling.
    pub fn new(parties: u32) -> Result<Self> {
        let barrier = Self::create(Kind::Barrier)?;
        barrier.init(parties);
        Ok(barrier)
    }

    /// As [`Barrier::sleep`], and looks for dead parties when nothing has come in a while: the
    /// death of one that waited breaks the barrier, also if nobody reaps it.
    ///
    /// # Errors
    /// A signal handler ran.
    pub fn sleep(&self, place: Place, limit: Duration) -> core::result::Result<Answer, Wake> {
        let started = Instant::now();
        let answer = Barrier::sleep(self, place, limit)?;
        if answer != Answer::None || started.elapsed() < SLICE {
            return Ok(answer);
        }
        self.family().clean_dead();
        Barrier::sleep(self, place, Duration::ZERO)
    }

    /// The barrier that `handle` names.
    ///
    /// # Errors
    /// It is gone.
    pub fn from_handle(handle: Handle) -> Result<Self> {
        Self::open(handle, Kind::Barrier)
    }
}

/// The dead process held a reference to the lock.
pub(crate) fn bereave_lock(txn: &Txn<'_>, payload: u64, dead: Stamp, orderly: bool) {
    if let Some(lock) = txn.family.at::<Lock>(payload) {
        lock.bereave(
            dead,
            txn.family.member(dead).map(|member| member.pid),
            orderly,
        );
    }
}

/// The dead process held a reference to the condition.
pub(crate) fn bereave_condition(txn: &Txn<'_>, payload: u64, dead: Stamp) {
    if let Some(waiters) = txn.family.at::<Waiters>(payload) {
        waiters.bereave(dead);
    }
}

/// The dead process held a reference to the barrier.
pub(crate) fn bereave_barrier(txn: &Txn<'_>, payload: u64, dead: Stamp) {
    if let Some(barrier) = txn.family.at::<Barrier>(payload) {
        barrier.bereave(dead);
    }
}
