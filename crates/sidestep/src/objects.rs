//! What the books need to know about the objects above them: a table by kind.

use crate::channel;
use crate::shm::{Kind, Txn};
use crate::sync::{self, Departed};

/// Whether an object owns others, so that it has to be taken apart before it is freed.
pub(crate) fn has_contents(kind: Kind) -> bool {
    matches!(kind, Kind::Envelope | Kind::Queue | Kind::Pipe)
}

/// Takes a doomed object apart as far as the transaction has room: whether it is empty now.
pub(crate) fn take_apart(txn: &mut Txn<'_>, kind: Kind, payload: u64) -> bool {
    match kind {
        Kind::Envelope => crate::shm::take_envelope_apart(txn, payload),
        Kind::Queue => channel::take_apart(txn, payload),
        Kind::Pipe => channel::pipe::take_apart(txn, payload),
        _ => true,
    }
}

/// A process has died that held a reference to the object: what it owned of it changes hands.
pub(crate) fn bereave(txn: &mut Txn<'_>, kind: Kind, payload: u64, dead: Departed) {
    match kind {
        Kind::Lock => sync::bereave_lock(txn, payload, dead),
        Kind::Semaphore => sync::bereave_semaphore(txn, payload, dead),
        Kind::Condition => sync::bereave_condition(txn, payload, dead.stamp),
        Kind::Barrier => sync::bereave_barrier(txn, payload, dead.stamp),
        _ => {}
    }
}
