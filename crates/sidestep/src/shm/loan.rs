//! Messages lent to the program as memory: no copy is made for who receives them.
//!
//! Who has received an envelope and is the only one to refer to it may write to its body: nobody
//! else looks at it any more. Two things make it more than one's own memory:
//!
//! - A *fork*: parent and child must not see what the other writes. So before it each loan becomes
//!   *private*: the same pages, mapped copy-on-write at the same address. Since the child holds on to
//!   the block as well (see `fork`), it is written to by nobody until both have let go of it.
//! - *Somebody else* who refers to the envelope, as a pool does to the tasks that it may have to send
//!   again. Such a loan is private from the beginning.
//!
//! A child that cannot hold on to the blocks, for want of memory for its references, keeps copies; if there is no
//! memory for those either, it ends.
//!
//! When a loan ends, the pages of the file are mapped again, and only then is the block let go of. If the
//! process is killed, its references are dropped for it, as always.

use super::family::Family;
use super::layout::block;
use super::refs::{Envelope, Ref, Table};
use crate::error::Result;
use crate::primitive::Ordering;

/// Most loans of a process at a time: each may be a mapping of its own, of which there are 65,530
/// (`vm.max_map_count`).
const MOST: usize = 1024;

const PAGE: u64 = 4096;

/// What this process knows of one of its loans, by the offset of the first page.
pub(super) struct Lent {
    len: u64,
    pages: Pages,
}

/// What is mapped where a loan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pages {
    /// The file's.
    Shared,
    /// The file's, until this process writes to them.
    Private,
    /// Copies.
    Own,
}

/// The end of an envelope's body, from a page's border on: memory that belongs to this process alone.
pub struct Loan {
    object: Option<Ref>,
    start: u64,
    len: u64,
}

impl Envelope {
    /// How far behind a page's border the body of a large envelope with so many references begins.
    pub fn begins_at(references: usize) -> u64 {
        (block::HEADER + Self::start(references as u64)) % PAGE
    }

    /// Lends the body from `from` on, which must begin a page; the body must end with one. Other
    /// references of this process to the envelope show what is written there, until the loan ends.
    ///
    /// # Errors
    /// The envelope, to be copied from, where it cannot be lent: the arena is half full, this process
    /// has too many loans or this one already, or has closed the arena's descriptor.
    pub fn lend(self, from: u64) -> core::result::Result<Loan, Self> {
        let family = self.as_ref().family();
        let (body, len) = self.body();
        let (start, end) = (body.saturating_add(from), body.saturating_add(len));
        let whole = start % PAGE == 0 && end % PAGE == 0 && start < end;
        if !whole || family.address(start, end - start).is_none() || family.is_half_full() {
            return Err(self);
        }
        let len = end - start;
        if !family.note_loan(self.as_ref(), start, len) {
            return Err(self);
        }
        Ok(Loan {
            object: Some(self.into_ref()),
            start,
            len,
        })
    }
}

impl Loan {
    /// Address of the memory and its length in bytes, which stay valid while this lives. Only this
    /// process sees what is written there.
    pub fn address(&self) -> Option<(*mut u8, u64)> {
        let family = self.object.as_ref()?.family();
        family
            .address(self.start, self.len)
            .map(|address| (address, self.len))
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let Some(object) = self.object.take() else {
            return;
        };
        let family = object.family();
        let (start, len) = (self.start, self.len);
        let earlier = match family.end_loan(start) {
            Ok(earlier) => earlier,
            Err(_) => {
                // This process would look for later messages in its own pages: the block stays until
                // the kernel allows it, or the process ends.
                let object = Some(object);
                family.table().unreturned.push(Loan { object, start, len });
                return;
            }
        };
        drop(object);
        drop(earlier);
    }
}

impl Family {
    /// Whether more than half of what the arena may hold is in use: the other half is for those that
    /// do not keep what they receive.
    fn is_half_full(&self) -> bool {
        let usage = self.usage();
        usage.used.saturating_sub(usage.warm) > usage.limit / 2
    }

    fn note_loan(&self, object: &Ref, start: u64, len: u64) -> bool {
        let mut table = self.table();
        // Without the descriptor no fork could be prepared for.
        let possible =
            self.fd().is_ok() && table.loans.len() < MOST && !table.loans.contains_key(&start);
        // Nobody can begin to refer to it if nobody but this process does.
        let refs = self.word(object.at() + block::REFS).load(Ordering::Relaxed);
        let private = refs != 1;
        if !possible || (private && self.make_private(start, len).is_err()) {
            return false;
        }
        let pages = if private {
            Pages::Private
        } else {
            Pages::Shared
        };
        table.loans.insert(start, Lent { len, pages });
        true
    }

    /// Ends a loan, but for its reference: those that could not be ended earlier, to be tried again.
    fn end_loan(&self, start: u64) -> Result<Vec<Loan>> {
        let mut table = self.table();
        if let Some(Lent { len, pages }) = table.loans.get(&start)
            && *pages != Pages::Shared
        {
            self.make_shared(start, *len)?;
        }
        table.loans.remove(&start);
        Ok(core::mem::take(&mut table.unreturned))
    }

    /// Before a fork: what each side writes is to be its own business.
    ///
    /// # Errors
    /// The kernel refuses: then parent and child would share what was lent.
    pub(super) fn part_loans(&self, table: &mut Table) -> Result<()> {
        for (&start, lent) in &mut table.loans {
            if lent.pages == Pages::Shared {
                self.make_private(start, lent.len)?;
                lent.pages = Pages::Private;
            }
        }
        Ok(())
    }

    /// Copies all that was lent, since the child that is about to be forked will not hold on to the
    /// blocks, as far as the kernel allows.
    pub(super) fn copy_loans(&self, table: &mut Table) {
        for (&start, lent) in &mut table.loans {
            if lent.pages != Pages::Own && self.make_own(start, lent.len).is_ok() {
                lent.pages = Pages::Own;
            }
        }
    }

    /// In a child that holds on to none of its parent's blocks: keeps what was lent, and looks for
    /// messages elsewhere from now on, since others will use the blocks.
    ///
    /// # Errors
    /// There is no memory for that. The child must not go on: what it has received would change.
    pub(super) fn keep_loans(&self, table: &mut Table) -> Result<()> {
        if table.loans.is_empty() {
            return Ok(());
        }
        for (start, lent) in core::mem::take(&mut table.loans) {
            if lent.pages != Pages::Own {
                self.make_own(start, lent.len)?;
            }
        }
        self.move_away()
    }
}
