//! The user's locks as objects of the arena, held by reference and named by handle.

use core::sync::atomic::Ordering::{AcqRel, Relaxed};
use std::time::Duration;

use super::{
    Answer, Barrier, Departed, Event, Lock, Patience, Permits, Place, Population, ReleaseError,
    SEMAPHORE_MAX, SLICE, Semaphore, Stamp, WAITERS, Wait, Waiters,
};
use crate::error::{Error, Result};
use crate::primitive::{AtomicU32, Instant, Wake};
use crate::shm::{Family, Handle, Kind, Ref, Shared, Txn, family};

/// An object of type `T` in the arena, kept alive by this reference.
#[derive(Debug)]
pub struct InArena<T: 'static> {
    object: Ref,
    inner: &'static T,
    patience: Patience,
}

#[allow(private_bounds)]
impl<T: Shared> InArena<T> {
    fn over(object: Ref) -> Result<Self> {
        let inner = object.family().at(object.payload());
        inner
            .map(|inner| Self {
                object,
                inner,
                patience: Patience::new(),
            })
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
/// A [`Semaphore`] in the arena, with an account of who has taken its permits.
pub type SharedSemaphore = InArena<CountedSemaphore>;
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

/// A semaphore as it lies in the arena.
///
/// | field     | written by                                          |
/// |-----------|-----------------------------------------------------|
/// | `inner`   | see [`Semaphore`]                                   |
/// | `initial` | its maker                                           |
/// | `lost`    | who cleans up after a killed process, who recovers  |
/// | `permits` | see [`Permits`]                                     |
#[repr(C)]
#[derive(Debug)]
pub struct CountedSemaphore {
    inner: Semaphore,
    initial: AtomicU32,
    /// Permits that killed processes had taken and not given back, since the last recovery.
    lost: AtomicU32,
    permits: Permits,
}

impl SharedSemaphore {
    /// A new semaphore of this value; `limit` bounds it, `None` only by [`SEMAPHORE_MAX`].
    ///
    /// # Errors
    /// The arena is at its ceiling.
    pub fn new(value: u32, limit: Option<u32>) -> Result<Self> {
        let semaphore = Self::create(Kind::Semaphore)?;
        semaphore
            .inner
            .inner
            .init(value, limit.unwrap_or(SEMAPHORE_MAX));
        semaphore.inner.initial.store(value, Relaxed);
        Ok(semaphore)
    }

    fn me(&self) -> Stamp {
        self.family().me()
    }

    /// As [`Semaphore::try_acquire`].
    #[inline]
    pub fn try_acquire(&self) -> bool {
        let taken = self.inner.inner.try_acquire();
        if taken {
            self.inner.permits.took(self.me());
        }
        taken
    }

    /// As [`Semaphore::acquire`].
    pub fn acquire(&self, left: impl FnMut() -> Option<Duration>) -> Wait {
        let wait = self.inner.inner.acquire(&self.patience, left);
        if wait == Wait::Ready {
            self.inner.permits.took(self.me());
        }
        wait
    }

    /// As [`Semaphore::release`].
    ///
    /// # Errors
    /// The value would rise above the limit; nothing is added.
    #[inline]
    pub fn release(&self, count: u32) -> core::result::Result<(), ReleaseError> {
        self.inner.permits.gives(self.me(), count);
        self.inner.inner.release(count)
    }

    /// As [`Semaphore::value`].
    pub fn value(&self) -> u32 {
        self.inner.inner.value()
    }

    /// How many permits are missing because processes were killed that had taken them and not
    /// given them back. At most what is missing from the first value: where one process acquires
    /// and another releases, a permit that was taken is not one that is held.
    pub fn lost(&self) -> u32 {
        self.family().bury();
        let missing = self
            .inner
            .initial
            .load(Relaxed)
            .saturating_sub(self.value());
        self.inner.lost.load(Relaxed).min(missing)
    }

    /// Gives those permits back: how many they were.
    pub fn recover(&self) -> u32 {
        let lost = self.lost();
        let counted = self.inner.lost.swap(0, AcqRel);
        let back = lost.min(counted);
        match back {
            0 => 0,
            // The limit is not below the first value, so nothing but another's release can fail it.
            _ => self.inner.inner.release(back).map_or(0, |()| back),
        }
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

    /// As [`Waiters::sleep`].
    ///
    /// # Errors
    /// A signal handler ran.
    pub fn sleep(&self, place: Place, limit: Duration) -> core::result::Result<Answer, Wake> {
        self.inner.sleep(&self.patience, place, limit, || false)
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

    /// As [`Event::wait`].
    pub fn wait(&self, left: impl FnMut() -> Option<Duration>) -> Wait {
        self.inner.wait(&self.patience, left)
    }

    /// As [`Event::wait_since`].
    pub fn wait_since(&self, count: u32, left: impl FnMut() -> Option<Duration>) -> Wait {
        self.inner.wait_since(count, &self.patience, left)
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
    /// The arena is at its ceiling; or there are no parties, or more than [`WAITERS`].
    pub fn new(parties: u32) -> Result<Self> {
        let most = WAITERS as u32;
        if !(1..=most).contains(&parties) {
            return Err(Error::Parties { parties, most });
        }
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
        let answer = self.inner.sleep(&self.patience, place, limit)?;
        if answer != Answer::None || started.elapsed() < SLICE {
            return Ok(answer);
        }
        self.family().clean_dead();
        self.inner.sleep(&self.patience, place, Duration::ZERO)
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
pub(crate) fn bereave_lock(txn: &Txn<'_>, payload: u64, dead: Departed) {
    if let Some(lock) = txn.family.at::<Lock>(payload) {
        lock.bereave(dead);
    }
}

/// The dead process held a reference to the semaphore.
pub(crate) fn bereave_semaphore(txn: &Txn<'_>, payload: u64, dead: Departed) {
    if let Some(semaphore) = txn.family.at::<CountedSemaphore>(payload)
        && !dead.orderly
    {
        let taken = semaphore.permits.bereave(dead.stamp);
        semaphore.lost.fetch_add(taken, AcqRel);
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
