//! How a family crosses fork(2).
//!
//! The child inherits the mapping and every reference of the parent, so before the fork the parent
//! makes a slot for it with a copy of its table, in which each object counts once more. The child
//! takes that slot over as its first act. In between the parent keeps its table locked, so that
//! no other thread of it changes a reference after it was copied.
//!
//! A parent that ends in the middle leaves a slot `FORKING` whose parent is dead. Its child may
//! have been started and not have run yet, as when a program forks twice to become a daemon: so the
//! slot is cleaned up, like a dead member's, only when no process is left that has the arena and is
//! no member. A child that finds its slot taken away all the same (its namespace hid it) goes on as
//! a new member whose inherited references are void.

use std::cell::{Cell, RefCell};
use std::sync::MutexGuard;
use std::sync::atomic::AtomicBool;

use super::alloc::Kind;
use super::family::{Family, existing};
use super::layout::{block, slot, slot_at};
use super::refs::{CHUNK, ENTRIES, Table};
use super::slots::FORKING;
use crate::crash;
use crate::error::Result;
use crate::os::lifeline::{self, LifeLine};
use crate::primitive::Ordering;
use crate::sync::Stamp;

/// What the parent holds around the fork.
struct Prepared {
    /// So that no other thread is in the middle of founding a family.
    creation: MutexGuard<'static, ()>,
    /// So that none is making this process's life line, and the child can let go of it.
    lifeline: MutexGuard<'static, Option<LifeLine>>,
    /// This process's table, if there is a family, and the child's slot and chunks, if there was
    /// memory for them.
    table: Option<(MutexGuard<'static, Table>, Option<NewChild>)>,
}

type NewChild = (Stamp, Vec<u64>);

thread_local! {
    static PREPARED: RefCell<Option<Prepared>> = const { RefCell::new(None) };
    static LAST_CHILD: Cell<Stamp> = const { Cell::new(Stamp::NOBODY) };
}

static INSTALLED: AtomicBool = AtomicBool::new(false);

/// Installs the hooks, once in the life of the process (children inherit them).
pub(super) fn install() -> Result<()> {
    if INSTALLED.swap(true, Ordering::AcqRel) {
        return Ok(());
    }
    crate::os::atfork::register(prepare, parent, child)
        .map_err(crate::error::Error::os("pthread_atfork"))
}

extern "C" fn prepare() {
    let creation = super::family::creation();
    let lifeline = lifeline::own();
    let table = existing().map(|family| {
        let table = family.table();
        let child = family.make_child(&table).ok();
        (table, child)
    });
    PREPARED.with(|cell| {
        *cell.borrow_mut() = Some(Prepared {
            creation,
            lifeline,
            table,
        })
    });
}

extern "C" fn parent() {
    let prepared = PREPARED.with(|cell| cell.borrow_mut().take());
    let child = prepared
        .and_then(|prepared| prepared.table)
        .and_then(|(_, child)| child);
    LAST_CHILD.with(|cell| cell.set(child.map_or(Stamp::NOBODY, |(stamp, _)| stamp)));
}

extern "C" fn child() {
    let Some(mut prepared) = PREPARED.with(|cell| cell.borrow_mut().take()) else {
        return;
    };
    lifeline::forget(&mut prepared.lifeline);
    let Prepared {
        creation, table, ..
    } = prepared;
    drop(creation);
    let (Some(family), Some((mut table, child))) = (existing(), table) else {
        return;
    };
    family.me.store(0, Ordering::Relaxed);
    match child {
        Some((stamp, chunks)) if family.adopt(stamp) => table.chunks = chunks,
        _ => {
            family.me.store(0, Ordering::Relaxed);
            table.void_below = table.chunks.len() as u32 * ENTRIES as u32;
            table.unused.clear();
        }
    }
}

impl Family {
    /// A slot for a child of this process, with a copy of its table.
    fn make_child(&'static self, table: &Table) -> Result<(Stamp, Vec<u64>)> {
        let me = self.register()?;
        let stamp = self.take_slot(FORKING, me.word())?;
        crash::point("fork: slot made");
        match self.copy_table(stamp, table) {
            Ok(chunks) => Ok((stamp, chunks)),
            Err(error) => {
                self.abandon(stamp);
                Err(error)
            }
        }
    }

    fn copy_table(&self, child: Stamp, table: &Table) -> Result<Vec<u64>> {
        let home = slot_at(child.slot()) + slot::TABLE;
        let mut chunks = Vec::with_capacity(table.chunks.len());
        for &from in &table.chunks {
            let to = self.transact(|txn| {
                let new = txn.allocate(Kind::Table, CHUNK, true)?;
                self.zero(new.at + block::HEADER, CHUNK);
                txn.set(new.at + block::HEADER, txn.get(home));
                txn.set(home, new.at);
                Ok(new.at)
            })?;
            chunks.push(to);
            let mut next = 0;
            while next < ENTRIES {
                next = self.transact(|txn| {
                    let mut i = next;
                    while i < ENTRIES && txn.room() >= 2 {
                        let word = block::HEADER + 8 + 8 * i;
                        let object = txn.get(from + word);
                        if object != 0 {
                            txn.set(to + word, object);
                            txn.add(object + block::REFS, 1);
                        }
                        i += 1;
                    }
                    Ok(i)
                })?;
            }
        }
        Ok(chunks)
    }

    /// After a fork by this thread: what became of it. `false`: it failed, or the child is known
    /// to have ended, so if it never took its slot, the slot is cleaned up.
    pub fn forked(&'static self, alive: bool) -> Stamp {
        let stamp = LAST_CHILD.with(Cell::get);
        if !alive && stamp != Stamp::NOBODY {
            self.abandon(stamp);
        }
        stamp
    }

    /// A child of this process, made by the fork that `stamp` belongs to, has been reaped.
    pub fn reaped(&'static self, stamp: Stamp) {
        if stamp != Stamp::NOBODY {
            self.abandon(stamp);
        }
        self.clean_dead();
    }
}
