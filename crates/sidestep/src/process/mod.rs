//! Child processes that belong to the family.
//!
//! A child is a copy of its parent: it starts with everything that the parent shares, a reference
//! of its own to each object, so what the parent lets go of later stays alive for the child. The
//! parent sees its end through a descriptor (a pidfd), or by asking where the kernel or a sandbox
//! refuses those, and then makes sure that nothing of it is left behind.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::os::clock::Deadline;
use crate::os::lifeline;
use crate::os::process::{self, Fork};
use crate::shm::{existing, family};
use crate::sync::Stamp;

pub use crate::os::process::Exit;

/// Exit code of a child whose work panicked.
pub const PANICKED: i32 = 101;

/// The longest nap between two looks at a child that has no descriptor.
const NAP: Duration = Duration::from_millis(10);

/// A child process of this one.
///
/// Dropping it neither ends the child nor waits for it: like the standard library's, a child that
/// nobody waits for stays a zombie when it has ended, until its parent ends, too.
///
/// ```
/// use sidestep::channel::QueueOptions;
/// use sidestep::process::{Child, Exit};
///
/// # fn main() -> sidestep::Result<()> {
/// let queue = QueueOptions::new().create()?;
/// let mut child = Child::fork(|| i32::from(queue.put(b"hello").is_err()))?;
/// assert_eq!(queue.get(None)?.as_deref(), Some(&b"hello"[..]));
/// assert_eq!(child.wait()?, Exit::Code(0));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Child {
    pid: u32,
    /// The slot that was made for it.
    stamp: Stamp,
    /// Readable once it has ended; `None` where pidfds are refused.
    sentinel: Option<OwnedFd>,
    exit: Option<Exit>,
}

impl Child {
    /// Runs `work` in a copy of this process; what it returns becomes the exit code.
    ///
    /// The child says that it leaves in order, and leaves without running handlers of exit. If
    /// `work` panics, the message goes to stderr, the exit code is [`PANICKED`], and locks that it
    /// holds count as abandoned, as if it had been killed.
    ///
    /// Only for processes of a single thread: a copy has no other threads, so what they had locked
    /// (the allocator, stdout) would stay locked in it for ever. Start children first, threads
    /// later.
    ///
    /// # Errors
    /// This process has other threads, or the kernel refuses another process, or the arena has no
    /// memory.
    pub fn fork(work: impl FnOnce() -> i32) -> Result<Self> {
        Self::start(None, work)
    }

    /// As [`Child::fork`], for a child that is killed when this process ends, however it does:
    /// also when it is killed itself. Children that the child has linked to itself go with it.
    ///
    /// # Errors
    /// As [`Child::fork`]; no `/proc`.
    pub fn fork_linked(work: impl FnOnce() -> i32) -> Result<Self> {
        let line = lifeline::open()
            .map_err(Error::os("cannot make what ends the child with its parent"))?;
        Self::start(Some(line), work)
    }

    fn start(line: Option<OwnedFd>, work: impl FnOnce() -> i32) -> Result<Self> {
        let family = family()?;
        // What is buffered now would be written twice.
        let _ = io::stdout().flush();
        match process::fork_alone() {
            Ok(Fork::Child) => {
                if family.disinherited().is_err() {
                    process::exit_now(PANICKED);
                }
                if let Some(line) = line {
                    // Open as long as the child lives.
                    if lifeline::die_at_end_of(line.into_raw_fd()).is_err() {
                        process::exit_now(PANICKED);
                    }
                }
                let code = catch_unwind(AssertUnwindSafe(work));
                let _ = io::stdout().flush();
                if let (Ok(_), Some(family)) = (&code, existing()) {
                    family.leave();
                }
                process::exit_now(code.unwrap_or(PANICKED))
            }
            Ok(Fork::Parent(pid)) => {
                let mut child = Self {
                    pid,
                    stamp: family.forked(true),
                    sentinel: process::pidfd_open(pid).ok(),
                    exit: None,
                };
                // Such a child leaves at once.
                if let Err(reason) = family.disinherited() {
                    child.wait()?;
                    return Err(reason);
                }
                Ok(child)
            }
            Err(error) => {
                family.forked(false);
                Err(Error::Fork(error))
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A descriptor that polls readable once the child has ended, where the kernel has those.
    pub fn sentinel(&self) -> Option<BorrowedFd<'_>> {
        self.sentinel.as_ref().map(AsFd::as_fd)
    }

    /// How it ended, if that is known already: it does not look.
    pub fn exit(&self) -> Option<Exit> {
        self.exit
    }

    /// Whether it runs; reaps it if not.
    ///
    /// # Errors
    /// Somebody else has reaped it.
    pub fn is_alive(&mut self) -> Result<bool> {
        Ok(self.try_wait()?.is_none())
    }

    /// How it ended, or `None` while it runs; does not wait.
    ///
    /// # Errors
    /// Somebody else has reaped it.
    pub fn try_wait(&mut self) -> Result<Option<Exit>> {
        self.reap(false)
    }

    /// Waits for its end, and takes back what it held of the family's things.
    ///
    /// # Errors
    /// Somebody else has reaped it.
    pub fn wait(&mut self) -> Result<Exit> {
        loop {
            if let Some(exit) = self.reap(true)? {
                return Ok(exit);
            }
        }
    }

    /// As [`Child::wait`], for at most `limit`; `None` if it still runs then.
    ///
    /// # Errors
    /// Somebody else has reaped it.
    pub fn wait_timeout(&mut self, limit: Duration) -> Result<Option<Exit>> {
        let deadline = Deadline::after(Some(limit));
        let mut nap = Duration::from_micros(100);
        loop {
            if let Some(exit) = self.reap(false)? {
                return Ok(Some(exit));
            }
            let slice = self.sentinel.as_ref().map_or(nap, |_| Duration::MAX);
            let Some(slice) = deadline.slice(slice) else {
                return Ok(None);
            };
            match &self.sentinel {
                // Rounded up, as poll counts in milliseconds. A signal only makes us look again.
                Some(fd) => {
                    let slice = slice.saturating_add(Duration::from_micros(999));
                    let _ = process::poll_readable(fd.as_fd(), Some(slice));
                }
                None => {
                    std::thread::sleep(slice);
                    nap = (nap * 2).min(NAP);
                }
            }
        }
    }

    /// Kills it, so that it runs no instruction more (SIGKILL); does not wait. Nothing happens if
    /// it was reaped.
    ///
    /// # Errors
    /// What kill(2) says.
    pub fn kill(&self) -> Result<()> {
        self.signal(libc::SIGKILL)
    }

    /// Asks it to end (SIGTERM), which by default it does; otherwise as [`Child::kill`].
    ///
    /// # Errors
    /// What kill(2) says.
    pub fn terminate(&self) -> Result<()> {
        self.signal(libc::SIGTERM)
    }

    /// Sends it a signal; otherwise as [`Child::kill`].
    ///
    /// # Errors
    /// What kill(2) says.
    pub fn signal(&self, signal: i32) -> Result<()> {
        match self.exit {
            // Its number may be another's by now.
            Some(_) => Ok(()),
            None => process::kill(self.pid, signal).map_err(Error::os("kill")),
        }
    }

    fn reap(&mut self, block: bool) -> Result<Option<Exit>> {
        if self.exit.is_none() {
            let ended = process::wait_end(self.pid, block);
            if matches!(ended, Ok(false)) {
                return Ok(None);
            }
            // Before the kernel forgets how it ended: waiters for its locks are told that.
            if let Some(family) = existing() {
                family.reaped(self.stamp);
            }
            let exit = ended.and_then(|_| process::reap(self.pid, true));
            self.exit = exit.map_err(Error::os("waiting for a child"))?;
        }
        Ok(self.exit)
    }
}
