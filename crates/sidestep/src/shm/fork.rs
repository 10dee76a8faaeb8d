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
//!
//! A child that is killed before it has run leaves such a slot, too, and so does a fork that failed, while the
//! parent lives on. Whoever starts children by [`crate::process`] says what became of them. For all others
//! the parent remembers which forks have returned; a slot that is still not taken after a while
//! is given up when the parent has no child left that could be the one. Nobody else can tell.

use std::cell::{Cell, RefCell};
use std::sync::MutexGuard;
use std::sync::atomic::AtomicBool;

use super::alloc::Kind;
use super::family::{Family, existing};
use super::layout::{block, slot, slot_at};
use super::refs::{CHUNK, ENTRIES, Table};
use super::slots::FORKING;
use crate::crash;
use crate::error::{Error, Result};
use crate::os::lifeline::{self, LifeLine};
use crate::primitive::{Instant, Ordering};
use crate::sync::Stamp;

/// What the parent holds around the fork.
struct Prepared {
    /// So that no other thread is in the middle of founding a family.
    creation: MutexGuard<'static, ()>,
    /// So that none is making this process's life line, and the child can let go of it.
    lifeline: MutexGuard<'static, Option<LifeLine>>,
    /// If there is a family.
    inheritance: Option<Inheritance>,
}

struct Inheritance {
    /// This process's table.
    table: MutexGuard<'static, Table>,
    /// The slot made for the child, if it came to that.
    slot: Stamp,
    /// The chunks of the child's table, or why it has none.
    chunks: Result<Vec<u64>>,
}

thread_local! {
    static PREPARED: RefCell<Option<Prepared>> = const { RefCell::new(None) };
    static LAST_CHILD: Cell<Stamp> = const { Cell::new(Stamp::NOBODY) };
    static DISINHERITED: RefCell<Option<Error>> = const { RefCell::new(None) };
}

static INSTALLED: AtomicBool = AtomicBool::new(false);

/// Installs the hooks, once in the life of the process (children inherit them).
pub(super) fn install() -> Result<()> {
    if INSTALLED.swap(true, Ordering::AcqRel) {
        return Ok(());
    }
    crate::os::atfork::register(prepare, parent, child).map_err(|error| {
        INSTALLED.store(false, Ordering::Release);
        Error::os("cannot prepare for forks (pthread_atfork)")(error)
    })
}

extern "C" fn prepare() {
    // Or each child that waits for anything would find out, which takes reading a dozen files.
    crate::os::process::processors();
    let creation = super::family::creation();
    let lifeline = lifeline::own();
    let inheritance = existing().map(Family::make_inheritance);
    PREPARED.with(|cell| {
        *cell.borrow_mut() = Some(Prepared {
            creation,
            lifeline,
            inheritance,
        });
    });
    crash::point("fork: prepared");
}

extern "C" fn parent() {
    let prepared = PREPARED.with(|cell| cell.borrow_mut().take());
    let (slot, refusal) = match prepared.and_then(|prepared| prepared.inheritance) {
        Some(Inheritance {
            mut table,
            slot,
            chunks: Ok(_),
        }) => {
            table.unborn.push((slot, Instant::now()));
            (slot, None)
        }
        Some(Inheritance {
            table,
            slot,
            chunks: Err(refusal),
        }) => {
            drop(table);
            if let Some(family) = existing() {
                family.abandon(slot);
            }
            (Stamp::NOBODY, Some(refusal))
        }
        None => (Stamp::NOBODY, None),
    };
    crash::point("fork: parent goes on");
    LAST_CHILD.with(|cell| cell.set(slot));
    DISINHERITED.with(|cell| *cell.borrow_mut() = refusal);
}

extern "C" fn child() {
    let Some(mut prepared) = PREPARED.with(|cell| cell.borrow_mut().take()) else {
        return;
    };
    crash::point("fork: child begins");
    lifeline::forget(&mut prepared.lifeline);
    let Prepared {
        creation,
        inheritance,
        ..
    } = prepared;
    drop(creation);
    let (Some(family), Some(inheritance)) = (existing(), inheritance) else {
        return;
    };
    let Inheritance {
        mut table,
        slot,
        chunks,
    } = inheritance;
    family.me.store(0, Ordering::Relaxed);
    table.unborn.clear();
    let refusal = match chunks {
        Ok(chunks) if family.adopt(slot) => {
            table.chunks = chunks;
            None
        }
        chunks => {
            table.void_below = table.chunks.len() as u32 * ENTRIES as u32;
            table.unused.clear();
            if let Err(error) = family.keep_loans(&mut table) {
                crate::os::process::end_with(&format!(
                    "this child of a fork ends, as there is no memory to keep what its parent has received \
                     apart from it: {error}"
                ));
            }
            Some(match chunks {
                Ok(_) => Error::Foreign("the place that its parent made for it is gone"),
                Err(refusal) => refusal,
            })
        }
    };
    DISINHERITED.with(|cell| *cell.borrow_mut() = refusal);
}

impl Family {
    /// A slot for a child of this process, with a copy of its table. If there is no room, what the
    /// dead hold goes first.
    fn make_inheritance(&'static self) -> Inheritance {
        self.bury_unborn();
        let mut relieved = false;
        loop {
            let mut table = self.table();
            let (slot, chunks) = match self.make_slot() {
                Ok(slot) => (slot, self.copy_table(slot, &table)),
                Err(error) => (Stamp::NOBODY, Err(error)),
            };
            let parted = self.part_loans(&mut table);
            let chunks = chunks.and_then(|chunks| parted.map(|()| chunks));
            if chunks.is_err() && relieved {
                // The child will not hold on to the blocks.
                self.copy_loans(&mut table);
            }
            if chunks.is_ok() || relieved {
                return Inheritance {
                    table,
                    slot,
                    chunks,
                };
            }
            // Cleaning up needs the table.
            drop(table);
            self.abandon(slot);
            self.relieve();
            relieved = true;
        }
    }

    fn make_slot(&self) -> Result<Stamp> {
        let me = self.register()?;
        let slot = self.take_slot(FORKING, me.word())?;
        crash::point("fork: slot made");
        Ok(slot)
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
            crash::point("fork: table of the child grown");
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
        let stamp = LAST_CHILD.with(|cell| cell.replace(Stamp::NOBODY));
        if !alive && stamp != Stamp::NOBODY {
            self.abandon(stamp);
        }
        stamp
    }

    /// After a fork by this thread, on both sides: why the child has got no reference to anything,
    /// if so. A child that finds a reason here should end, and its parent say so.
    pub fn disinherited(&self) -> Result<()> {
        DISINHERITED.with(RefCell::take).map_or(Ok(()), Err)
    }

    /// A child of this process, made by the fork that `stamp` belongs to, has been reaped.
    pub fn reaped(&'static self, stamp: Stamp) {
        if stamp != Stamp::NOBODY {
            self.abandon(stamp);
        }
        self.clean_dead();
        self.after_work();
    }
}
