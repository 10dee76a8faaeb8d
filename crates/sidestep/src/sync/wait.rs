//! How waits of the user's locks end.

use super::stamp::Stamp;

/// How an attempt to wait for something ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Wait {
    /// It is there, or it is ours.
    Ready,
    /// The time was up.
    TimedOut,
    /// A signal handler ran, or may have run just before the sleep, which a slice has ended: look
    /// at what it left, and call again with the same deadline.
    Interrupted,
    /// It was held by this process when that was killed.
    Abandoned(Stamp),
}

/// Why a lock cannot be released, or a semaphore not be raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// Nobody holds the lock.
    #[error("the lock is not held by anybody")]
    NotHeld,
    /// Somebody else holds the recursive lock.
    #[error("a recursive lock can only be released by the thread that holds it")]
    NotOwner,
    /// The semaphore is at its highest value.
    #[error("the semaphore cannot be released more often than it was acquired")]
    TooOften,
}
