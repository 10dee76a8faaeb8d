//! Processes, queues, locks, shared memory and pools that survive a `kill -9`.
pub mod channel;
pub mod os;
