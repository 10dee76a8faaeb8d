//! Channels: messages from one process to another.
pub mod stream;
