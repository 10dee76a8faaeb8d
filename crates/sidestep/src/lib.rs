//! Processes, queues, locks, shared memory and pools that survive a `kill -9`.

#[cfg(feature = "crash-points")]
pub mod crash;
#[cfg(not(feature = "crash-points"))]
mod crash;
pub mod primitive;
pub mod sync;

#[cfg(not(loom))]
pub mod channel;
/// For the models: the words of a chain.
#[cfg(loom)]
#[allow(missing_docs)]
#[path = "channel/cursor.rs"]
pub mod cursor;
#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
mod objects;
#[cfg(not(loom))]
pub mod os;
#[cfg(not(loom))]
pub mod pool;
#[cfg(not(loom))]
pub mod process;
#[cfg(not(loom))]
pub mod shm;

#[cfg(not(loom))]
pub use error::{Error, Result};
