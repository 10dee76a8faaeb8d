//! What can go wrong with shared things.

use std::io;

use crate::os::limits;

/// Why an operation on the family's arena failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The arena's ceiling is reached, or the machine has nothing left.
    #[error(
        "no shared memory for {wanted} more bytes: the arena uses {used} of its limit of {limit} \
         bytes{hint}; take items out, free shared objects, or set SIDESTEP_ARENA_LIMIT higher"
    )]
    OutOfMemory {
        /// Bytes asked for, with their overhead.
        wanted: u64,
        /// Bytes in use.
        used: u64,
        /// The ceiling in bytes.
        limit: u64,
        /// What stands in the way beside the ceiling, or nothing.
        hint: &'static str,
    },
    /// A handle names an object that is gone.
    #[error(
        "the shared {expected} behind this handle no longer exists: every process that held it \
         has let go of it"
    )]
    Stale {
        /// What the handle should lead to.
        expected: &'static str,
    },
    /// This process does not belong to a family, or to another one.
    #[error("cannot join the shared arena: {0}")]
    Foreign(&'static str),
    /// Too many processes at once.
    #[error(
        "the family has {0} processes, and no place for one more: let some end, or start this one \
         as a program of its own"
    )]
    TooManyProcesses(u32),
    /// The queue takes nothing more.
    #[error("the queue was closed, and is full")]
    Closed,
    /// Too many watchers of one queue.
    #[error(
        "{0} processes watch this queue by its descriptor, and there is no place for one more: \
         close its _reader where it is not polled any more, or wait by get() instead"
    )]
    Watched(u32),
    /// A message that is too long to lie in the queue or pipe itself.
    #[error("a message of {0} bytes is too long to be put as it is: put it as an Envelope")]
    TooLong(u64),
    /// A barrier for nobody, or for more than can wait there.
    #[error("a barrier takes 1 to {most} parties, not {parties}")]
    Parties {
        /// How many were asked for.
        parties: u32,
        /// How many there may be.
        most: u32,
    },
    /// The kernel refuses another process.
    #[error("cannot start a process: {0}{hint}", hint = limits::way_out_of_processes(.0))]
    Fork(#[source] io::Error),
    /// The kernel refused.
    #[error("{what}: {source}{hint}", hint = limits::way_out(source))]
    Os {
        /// What we tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn os(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Os { what, source }
    }
}

/// The engine's result.
pub type Result<T> = core::result::Result<T, Error>;
