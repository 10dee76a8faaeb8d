//! Messages between processes: the chain of segments, and the queue on it.

mod chain;
mod queue;
pub mod stream;

pub(crate) use chain::{Chain, take_apart};
pub use chain::{EnvelopeBox, Put, Taken};
pub use queue::{Queue, QueueOptions};
