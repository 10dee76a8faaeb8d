//! A descriptor at whose end the kernel kills: how children die with their parent.
//!
//! ```text
//!   parent                        child
//!   writer ─────── pipe ───────▶ its own opening of the reader, which sends SIGKILL
//! ```
//!
//! A process has one such pipe, made when its first child asks for it, and keeps the writing end
//! for life: nobody else holds it, as it is closed in a fork and by exec. Each child gets an
//! opening of the reading end that is its alone, and asks the kernel for a signal when something
//! happens there. Nothing is ever written, so the one thing that can happen is the parent's end.
//!
//! The parent-death signal of prctl(2) would come when the *thread* ends that started the child,
//! and not at all to children of a fork server.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::call::{Call, call, call_std};
use super::memory::{Identity, identify};
use super::{process, socket};

/// The pipe that ends with this process.
#[derive(Debug)]
pub struct LifeLine {
    reader: OwnedFd,
    writer: OwnedFd,
    identity: Identity,
}

static OWN: Mutex<Option<LifeLine>> = Mutex::new(None);

impl LifeLine {
    fn new() -> io::Result<Self> {
        let (reader, writer) = socket::pipe()?;
        let identity = identify(reader.as_fd())?.0;
        Ok(Self {
            reader,
            writer,
            identity,
        })
    }

    /// Whether both numbers still mean the pipe: programs that become daemons close whatever is
    /// open, and the numbers are then given to other files.
    fn is_whole(&self) -> bool {
        [&self.reader, &self.writer]
            .iter()
            .all(|fd| identify(fd.as_fd()).is_ok_and(|(identity, _)| identity == self.identity))
    }

    /// Closes both ends, as far as they are ours still.
    fn close(self) {
        for fd in [self.reader, self.writer] {
            if !identify(fd.as_fd()).is_ok_and(|(identity, _)| identity == self.identity) {
                let _ = fd.into_raw_fd();
            }
        }
    }
}

/// This process's line, if it has one; to be held over a fork.
pub fn own() -> MutexGuard<'static, Option<LifeLine>> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// In the child of a fork, with what [`own`] gave before it: lets go of the parent's line, which
/// would not end with the parent otherwise.
pub fn forget(own: &mut Option<LifeLine>) {
    if let Some(line) = own.take() {
        line.close();
    }
}

/// A descriptor that polls readable once this process has ended, to be handed to one child, and
/// closed here then; close-on-exec.
///
/// # Errors
/// No descriptors; no `/proc`.
pub fn open() -> io::Result<OwnedFd> {
    let mut own = own();
    if let Some(torn) = own.take_if(|line| !line.is_whole()) {
        torn.close();
    }
    let line = match &mut *own {
        Some(line) => line,
        none => none.insert(LifeLine::new()?),
    };
    // Whom to signal is a property of the opening, and a duplicate is the same opening.
    let path = format!("/proc/self/fd/{}", line.reader.as_raw_fd());
    let reader = call_std(Call::OpenAgain, || {
        File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
    })?;
    Ok(reader.into())
}

/// Has the kernel kill this process when the one that has made `fd` (by [`open`]) ends, however
/// it does. If it has ended already, this process ends here. `fd` has to stay open.
///
/// # Errors
/// `fd` is not open, or no pipe.
///
/// # References
/// fcntl(2), `F_SETSIG`, `F_SETOWN`, `O_ASYNC`.
pub fn die_at_end_of(fd: i32) -> io::Result<()> {
    const F_SETSIG: libc::c_int = 10;
    let set = |command, value: libc::c_int| {
        call(Call::AskForSignal, || {
            // SAFETY: a system call without pointers.
            unsafe { libc::fcntl(fd, command, value) }
        })
    };
    set(libc::F_SETOWN, process::pid().cast_signed())?;
    set(F_SETSIG, libc::SIGKILL)?;
    let flags = set(libc::F_GETFL, 0)?;
    set(libc::F_SETFL, flags | libc::O_ASYNC)?;
    // SAFETY: open, as the calls above have shown, and borrowed for this look only.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    // From now on the kernel tells; what came before this it did not.
    if process::poll_readable(fd, Some(std::time::Duration::ZERO)).unwrap_or(false) {
        let _ = process::kill(process::pid(), libc::SIGKILL);
    }
    Ok(())
}
