//! Locks between processes, from the engine's own mutex up to what users see.
//!
//! All of them are plain words: all-zero memory is a valid first state, nothing points anywhere,
//! and a process can be killed between any two instructions. Each type says what that leaves
//! behind. They are generic over the [`Population`], so that loom can model them.

mod barrier;
mod event;
mod gate;
#[cfg_attr(loom, allow(dead_code, reason = "a model has no time"))]
mod habit;
mod lock;
mod mutex;
#[cfg_attr(loom, allow(dead_code, reason = "a model has no time"))]
mod patience;
mod permits;
mod semaphore;
mod stamp;
mod wait;
mod waiters;

pub use barrier::{Arrival, Barrier, Round};
pub use event::Event;
pub use gate::{Gate, SLICE};
pub use habit::Habit;
pub use lock::{Holder, Lock};
pub use mutex::{Acquired, Mutex};
pub use patience::{AWAKE_FOR, Patience};
pub use permits::Permits;
pub use semaphore::{SEMAPHORE_MAX, Semaphore};
pub use stamp::{Departed, Population, Stamp};
pub use wait::{ReleaseError, Wait};
pub use waiters::{Answer, Place, WAITERS, Waiters};

#[cfg(not(loom))]
mod shared;
#[cfg(not(loom))]
pub use shared::{
    CountedSemaphore, SharedBarrier, SharedCondition, SharedEvent, SharedLock, SharedSemaphore,
};
#[cfg(not(loom))]
pub(crate) use shared::{bereave_barrier, bereave_condition, bereave_lock, bereave_semaphore};
