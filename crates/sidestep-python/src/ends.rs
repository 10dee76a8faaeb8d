//! The ends of pipes in this process, found by their sockets, and what their messages look like.
//!
//! A `Connection` knows a descriptor number only. Whether a pipe in shared memory belongs to it
//! is told by the socket behind the number: its inode is looked up here. So a connection made
//! from the number of a pipe's end, or from a duplicate of it, joins the pipe.

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use pyo3::exceptions::{PyMemoryError, PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};
use sidestep::channel::pipe::{End, INLINE_MAX, PipeError};
use sidestep::os::socket;
use sidestep::shm::{Envelope, family};

use crate::codec;
use crate::connection::os_error;

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
pub fn announce(end: End, socket: BorrowedFd<'_>) -> std::io::Result<()> {
    let identity = socket::identity(socket)?;
    let mut ends = ends();
    // Sockets that are gone leave entries behind: now is the time to drop them.
    ends.retain(|_, known| !matches!(known, Known::Held(end) if end.strong_count() == 0));
    ends.insert(identity, Known::New(Arc::new(end)));
    Ok(())
}

/// The end that a descriptor belongs to, if it is a pipe's.
pub fn find(descriptor: BorrowedFd<'_>) -> Option<Arc<End>> {
    if ends().is_empty() {
        return None;
    }
    let identity = socket::identity(descriptor).ok()?;
    let mut ends = ends();
    match ends.get(&identity)? {
        Known::Held(end) => end.upgrade(),
        Known::New(end) => {
            let end = Arc::clone(end);
            ends.insert(identity, Known::Held(Arc::downgrade(&end)));
            Some(end)
        }
    }
}

/// Python's exception for what happened to a pipe.
pub fn pipe_error(py: Python<'_>, error: PipeError) -> PyErr {
    match error {
        PipeError::Os(error) => os_error(py, &error),
        PipeError::Arena(error) => arena_error(py, error),
        PipeError::Stream | PipeError::Unread => PyRuntimeError::new_err(error.to_string()),
    }
}

/// Python's exception for what happened to the arena.
pub fn arena_error(py: Python<'_>, error: sidestep::Error) -> PyErr {
    match error {
        sidestep::Error::OutOfMemory { .. } => PyMemoryError::new_err(error.to_string()),
        sidestep::Error::Os { source, .. } => os_error(py, &source),
        sidestep::Error::TooManyProcesses(_) => PyOSError::new_err(error.to_string()),
        sidestep::Error::Stale { .. } | sidestep::Error::Foreign(_) => {
            PyRuntimeError::new_err(error.to_string())
        }
    }
}

// --- messages --------------------------------------------------------------------------------

/// Bytes as given to `send_bytes`.
pub const BYTES: u8 = 1;
/// The head of an object, which has no buffers.
pub const OBJECT: u8 = 2;
/// Lengths, the head of an object, and its buffers.
pub const PARTS: u8 = 3;

/// What is to be sent.
pub enum Content<'a> {
    /// Lies in the ring.
    Short(u8, &'a [u8]),
    /// Lies in memory of its own.
    Long(u8, Envelope),
}

/// Bytes as a message.
pub fn pack_bytes<'a>(py: Python<'_>, bytes: &'a [u8]) -> PyResult<Content<'a>> {
    if bytes.len() <= INLINE_MAX {
        return Ok(Content::Short(BYTES, bytes));
    }
    let envelope = new_envelope(py, bytes.len())?;
    envelope.write(0, bytes);
    Ok(Content::Long(BYTES, envelope))
}

/// An object, serialised, as a message.
pub fn pack_object<'a>(py: Python<'_>, object: &'a codec::Message) -> PyResult<Content<'a>> {
    if object.buffers.is_empty() {
        if object.head.len() <= INLINE_MAX {
            return Ok(Content::Short(OBJECT, &object.head));
        }
        let envelope = new_envelope(py, object.head.len())?;
        envelope.write(0, &object.head);
        return Ok(Content::Long(OBJECT, envelope));
    }
    // Number of buffers, length of the head, lengths of the buffers; then all of them, the
    // buffers at multiples of 64.
    let mut lengths = vec![object.buffers.len() as u64, object.head.len() as u64];
    lengths.extend(object.buffers.iter().map(|buffer| buffer.len() as u64));
    let whole = layout(&lengths)
        .last()
        .map_or(0, |(start, length)| start + length);
    let whole = usize::try_from(whole).unwrap_or(usize::MAX);
    let envelope = new_envelope(py, whole)?;
    let preface: Vec<u8> = lengths
        .iter()
        .flat_map(|length| length.to_le_bytes())
        .collect();
    envelope.write(0, &preface);
    for (index, (start, _)) in layout(&lengths).enumerate() {
        match index {
            0 => envelope.write(start, &object.head),
            _ => envelope.write(start, contents(py, &object.buffers[index - 1])),
        }
    }
    Ok(Content::Long(PARTS, envelope))
}

/// Where the head and the buffers lie: start and length of each.
fn layout(lengths: &[u64]) -> impl Iterator<Item = (u64, u64)> + '_ {
    let mut end = 8 * lengths.len() as u64;
    lengths[1..].iter().map(move |length| {
        let start = end.next_multiple_of(64);
        end = start.saturating_add(*length);
        (start, *length)
    })
}

#[allow(unsafe_code)] // the codec hands out an address, since the memory may be written to
fn contents<'a>(_attached: Python<'a>, buffer: &'a codec::OutOfBand) -> &'a [u8] {
    // SAFETY: the buffer's owner pins `len` readable bytes there as long as `buffer` lives; and
    // while we are attached, no Python code writes to them.
    unsafe { std::slice::from_raw_parts(buffer.as_ptr(), buffer.len()) }
}

fn new_envelope(py: Python<'_>, length: usize) -> PyResult<Envelope> {
    family()
        .and_then(|family| Envelope::new(family, length as u64, Vec::new()))
        .map_err(|error| arena_error(py, error))
}

/// The bytes of a long message.
pub fn long_bytes<'py>(py: Python<'py>, envelope: &Envelope) -> PyResult<Bound<'py, PyBytes>> {
    part(py, envelope, 0, envelope.len())
}

fn part<'py>(
    py: Python<'py>,
    envelope: &Envelope,
    start: u64,
    length: u64,
) -> PyResult<Bound<'py, PyBytes>> {
    let count =
        usize::try_from(length).map_err(|_| PyMemoryError::new_err("the message is too long"))?;
    let mut copied = 0;
    PyBytes::new_with(py, count, |target| {
        let mut piece = Vec::new();
        while copied < count {
            piece.clear();
            envelope.read(
                start + copied as u64,
                (1 << 20).min((count - copied) as u64),
                &mut piece,
            );
            if piece.is_empty() {
                return Err(PyValueError::new_err("a message was cut short"));
            }
            target[copied..copied + piece.len()].copy_from_slice(&piece);
            copied += piece.len();
        }
        Ok(())
    })
}

/// Rebuilds the object of a message of kind [`OBJECT`] or [`PARTS`].
pub fn unpack_long<'py>(
    py: Python<'py>,
    tag: u8,
    envelope: &Envelope,
) -> PyResult<Bound<'py, PyAny>> {
    if tag == OBJECT {
        return codec::loads_bytes(&long_bytes(py, envelope)?, Vec::new());
    }
    let torn = || PyValueError::new_err("a message of a pipe is damaged");
    let word = |index: u64| {
        let mut bytes = Vec::with_capacity(8);
        envelope.read(8 * index, 8, &mut bytes);
        bytes.try_into().map(u64::from_le_bytes).map_err(|_| torn())
    };
    let buffers = word(0)?;
    if buffers > envelope.len() / 8 {
        return Err(torn());
    }
    let lengths: Vec<u64> = (0..buffers + 2).map(word).collect::<PyResult<_>>()?;
    let mut head = None;
    let mut rest = Vec::new();
    for (start, length) in layout(&lengths) {
        if start.saturating_add(length) > envelope.len() {
            return Err(torn());
        }
        if head.is_none() {
            head = Some(part(py, envelope, start, length)?);
            continue;
        }
        let mut bytes = Vec::new();
        envelope.read(start, length, &mut bytes);
        rest.push(PyByteArray::new(py, &bytes).into_any());
    }
    codec::loads_bytes(&head.ok_or_else(torn)?, rest)
}

/// Makes a pipe and announces its ends: the numbers of its two sockets.
pub fn pair(py: Python<'_>) -> PyResult<[OwnedFd; 2]> {
    let [(first, one), (second, other)] =
        sidestep::channel::pipe::pair().map_err(|error| pipe_error(py, error))?;
    use std::os::fd::AsFd;
    announce(first, one.as_fd())
        .and_then(|()| announce(second, other.as_fd()))
        .map_err(|error| os_error(py, &error))?;
    Ok([one, other])
}
