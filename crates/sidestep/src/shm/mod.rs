//! The arena: one anonymous file per family, mapped in every member, and its books.
//!
//! A *family* is a root process and all that descends from it through sidestep. Everything that
//! its members share lives in one sparse memfd: locks, queues, values, messages, process slots.
//! Things are named by their *offset*. There are no names in `/dev/shm` and no tracker; when the
//! last member is gone, however it went, the kernel frees the memory.
//!
//! Who may change what: the *books* (allocator, references, process slots) change only by a
//! *transaction* of the `ledger`, which happens as a whole or not at all, even if the process
//! is killed in the middle. The contents of an object are changed by the rules of that object.
//!
//! Who cleans up: each process has a *slot* with a table of the references that it holds. When a
//! process has ended, whoever notices first (a parent that reaps, a process that registers, one
//! that finds memory short) takes its table apart, reference by reference, each in a transaction.

mod alloc;
mod family;
mod fork;
mod layout;
mod ledger;
mod loan;
mod note;
mod refs;
#[cfg(shuttle)]
pub mod simulated;
mod slots;

pub use alloc::Kind;
pub(crate) use family::Shared;
#[cfg(not(shuttle))]
pub use family::attach;
pub use family::{Ceiling, Family, Usage, ceiling, existing, family};
pub(crate) use note::Note;
pub use note::{Source, Take};
pub(crate) use refs::take_envelope_apart;
pub use slots::Member;

/// Prepares for forks made before there is an arena; called when the engine is loaded.
///
/// # Errors
/// No memory for the hooks.
pub fn prepare_for_forks() -> crate::Result<()> {
    fork::install()
}
pub(crate) use layout::block;
pub(crate) use layout::class::bytes as class_bytes;
pub use ledger::Txn;
pub use loan::Loan;
pub(crate) use refs::Entry;
pub use refs::{Envelope, Handle, Ref};
