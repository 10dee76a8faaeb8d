//! Processes, queues, locks, shared memory and pools that survive a `kill -9`.

pub mod primitive;
pub mod sync;

#[cfg(not(loom))]
pub mod channel;
#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
mod objects;
#[cfg(not(loom))]
pub mod os;
#[cfg(not(loom))]
pub mod pool;
#[cfg(not(loom))]
pub mod shm;

#[cfg(not(loom))]
pub use error::{Error, Result};
