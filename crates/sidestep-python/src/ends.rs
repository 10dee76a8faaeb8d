//! The ends of pipes in this process, found by their sockets, and their messages of bytes.
//!
//! A `Connection` knows a descriptor number only. Whether a pipe in shared memory belongs to it
//! is told by the socket behind the number: its inode is looked up here. So a connection made
//! from the number of a pipe's end, or from a duplicate of it, joins the pipe.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use sidestep::channel::pipe::{End, PipeError};
use sidestep::os::socket;
use sidestep::shm::{Envelope, family};

use crate::connection::os_error;
use crate::error::to_py;

/// Device and inode of a socket.
type Identity = (u64, u64);

enum Known {
    /// Just made; the connection that asks first takes it over.
    New(Arc<End>),
    /// Some connection holds it.
    Held(Weak<End>),
}

// Held for a look-up only, attached to the interpreter: never across a fork made from Python.
static ENDS: LazyLock<Mutex<HashMap<Identity, Known>>> = LazyLock::new(Mutex::default);

fn ends() -> MutexGuard<'static, HashMap<Identity, Known>> {
    ENDS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers an end until a connection on its socket is made.
pub fn announce(end: End, socket: BorrowedFd<'_>) -> io::Result<()> {
    let identity = socket::identity(socket)?;
    let mut ends = ends();
    // Sockets that are gone leave entries behind: they are dropped before there would be too many.
    if ends.len() == ends.capacity() {
        ends.retain(|_, known| !matches!(known, Known::Held(end) if end.strong_count() == 0));
    }
    ends.insert(identity, Known::New(Arc::new(end)));
    Ok(())
}

/// The end that a descriptor belongs to, if it is open and a pipe's.
///
/// # Errors
/// What fstat(2) says: taking a pipe's end for something else would tear the pipe in two.
pub fn find(descriptor: BorrowedFd<'_>) -> io::Result<Option<Arc<End>>> {
    if ends().is_empty() {
        return Ok(None);
    }
    let identity = match socket::identity(descriptor) {
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => return Ok(None),
        identity => identity?,
    };
    let mut ends = ends();
    Ok(match ends.get(&identity) {
        None => None,
        Some(Known::Held(end)) => end.upgrade(),
        Some(Known::New(end)) => {
            let end = Arc::clone(end);
            ends.insert(identity, Known::Held(Arc::downgrade(&end)));
            Some(end)
        }
    })
}

/// Python's exception for what happened to a pipe.
pub fn pipe_error(py: Python<'_>, error: PipeError) -> PyErr {
    match error {
        PipeError::Os(error) => os_error(py, &error),
        PipeError::Arena(error) => to_py(error),
        PipeError::Stream | PipeError::Unread => PyRuntimeError::new_err(error.to_string()),
    }
}

/// Tag of a message that `send_bytes` made.
pub const BYTES: u8 = 1;
/// Tag of a message that `send` made.
pub const OBJECT: u8 = 2;
/// Tag of a message that `Connection._answer` made.
pub const RESULT: u8 = 3;

/// Long bytes as a message.
pub fn pack_bytes(bytes: &[u8]) -> PyResult<Envelope> {
    let envelope = family()
        .and_then(|family| Envelope::new(family, bytes.len() as u64, Vec::new()))
        .map_err(to_py)?;
    envelope.write(0, bytes);
    Ok(envelope)
}

/// The bytes of a long message.
#[allow(unsafe_code)] // memory that is shared by nature is handed out by address only
pub fn unpack_bytes<'py>(py: Python<'py>, envelope: &Envelope) -> PyResult<Bound<'py, PyBytes>> {
    let (address, length) = envelope
        .address()
        .ok_or_else(|| PyRuntimeError::new_err("a message in the arena is damaged"))?;
    // SAFETY: the envelope has been taken by this process, so nobody writes to its memory any
    // more, and it outlives the copy that is made here.
    let bytes = unsafe { std::slice::from_raw_parts(address.cast_const(), length as usize) };
    Ok(PyBytes::new(py, bytes))
}

/// Makes a pipe and announces its ends: the numbers of its two sockets.
pub fn pair(py: Python<'_>) -> PyResult<[OwnedFd; 2]> {
    let [(first, one), (second, other)] =
        sidestep::channel::pipe::pair().map_err(|error| pipe_error(py, error))?;
    announce(first, one.as_fd())
        .and_then(|()| announce(second, other.as_fd()))
        .map_err(|error| os_error(py, &error))?;
    Ok([one, other])
}
