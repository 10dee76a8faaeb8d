//! Messages between processes: the chain of segments, the queue and the pipe on it, and frames.

pub(crate) mod bell;
mod brief;
mod chain;
mod cursor;
mod distance;
pub mod handshake;
pub mod pipe;
pub mod porch;
mod queue;
pub mod stream;
mod watch;

pub use brief::Brief;
pub(crate) use chain::{Chain, take_apart};
pub use chain::{EnvelopeBox, Put, Taken};
pub(crate) use queue::sleep_until;
pub use queue::{Queue, QueueOptions};
pub use watch::{MOST as MOST_WATCHERS, Watch};
