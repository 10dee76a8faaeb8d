//! Objects as messages of the engine's channels: short ones as bytes, others in envelopes.
//!
//! The body of an envelope: the head's length, the number of buffers, the length of each (64-bit
//! little-endian words); the head; then each buffer, aligned to 64 bytes.
#![allow(unsafe_code)]

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyByteArray;
use sidestep::shm::{Envelope, Ref, family};

use crate::codec::{self, Message};
use crate::error::to_py;
use crate::family::Taking;

/// An object, ready to be sent.
pub enum Outgoing {
    /// Fits into the channel itself.
    Short(Message),
    /// Travels as an object of its own.
    Long(Envelope),
}

impl Outgoing {
    /// Bytes that it asks of its channel.
    pub fn len(&self) -> u64 {
        match self {
            Self::Short(message) => message.head.len() as u64,
            Self::Long(envelope) => envelope.len(),
        }
    }
}

/// Serialises `obj`, short if it takes at most `short` bytes. Runs the program's own code where the object has some: no lock may be held.
///
/// # Errors
/// What that code or pickle raises; MemoryError at the arena's ceiling.
#[inline]
pub fn pack(obj: &Bound<'_, PyAny>, short: usize) -> PyResult<Outgoing> {
    let taking = Taking::start();
    let message = codec::dumps(obj)?;
    outgoing(message, taking.finish(), short)
}

/// As [`pack`], for a task of a pool: a tuple of what to call, its arguments, and its keywords.
///
/// # Errors
/// As [`pack`].
pub fn pack_task(task: &Bound<'_, PyAny>, short: usize) -> PyResult<Outgoing> {
    let taking = Taking::start();
    let message = codec::task(task)?;
    outgoing(message, taking.finish(), short)
}

/// What to send for a message, short if it takes at most `short` bytes.
///
/// # Errors
/// MemoryError at the arena's ceiling.
#[inline]
pub fn outgoing(message: Message, refs: Vec<Ref>, short: usize) -> PyResult<Outgoing> {
    if refs.is_empty() && message.buffers.is_empty() && message.head.len() <= short {
        return Ok(Outgoing::Short(message));
    }
    envelope(&message, refs).map(Outgoing::Long)
}

/// Serialises `obj` into an envelope, however short it is. As [`pack`] otherwise.
///
/// # Errors
/// As [`pack`].
pub fn seal(obj: &Bound<'_, PyAny>) -> PyResult<Envelope> {
    let taking = Taking::start();
    let message = codec::dumps(obj)?;
    envelope(&message, taking.finish())
}

fn envelope(message: &Message, refs: Vec<Ref>) -> PyResult<Envelope> {
    let head = message.head.len() as u64;
    let count = message.buffers.len() as u64;
    let mut size = 16 + 8 * count + head;
    for buffer in &message.buffers {
        size = size.next_multiple_of(64) + buffer.len() as u64;
    }
    let family = family().map_err(to_py)?;
    let envelope = Envelope::new(family, size, refs).map_err(to_py)?;
    envelope.write(0, &head.to_le_bytes());
    envelope.write(8, &count.to_le_bytes());
    for (i, buffer) in message.buffers.iter().enumerate() {
        envelope.write(16 + 8 * i as u64, &(buffer.len() as u64).to_le_bytes());
    }
    let mut at = 16 + 8 * count;
    envelope.write(at, &message.head);
    at += head;
    for buffer in &message.buffers {
        at = at.next_multiple_of(64);
        // SAFETY: the buffer is pinned and contiguous, and the interpreter lock is held, so that
        // no other thread writes to it meanwhile.
        let bytes = unsafe { std::slice::from_raw_parts(buffer.as_ptr(), buffer.len()) };
        envelope.write(at, bytes);
        at += buffer.len() as u64;
    }
    Ok(envelope)
}

/// The object in an envelope. Its buffers become memory that belongs to the object alone.
///
/// # Errors
/// What unpickling raises.
pub fn unpack<'py>(py: Python<'py>, envelope: &Envelope) -> PyResult<Bound<'py, PyAny>> {
    let (address, _) = envelope.address().ok_or_else(damaged)?;
    unpack_by(py, envelope, |start, size| {
        // SAFETY: `unpack_by` asks for parts of the body only; the envelope is this process's
        // alone, and nobody writes to it.
        let bytes = unsafe { std::slice::from_raw_parts(address.add(start).cast_const(), size) };
        Ok(PyByteArray::new(py, bytes).into_any())
    })
}

fn damaged() -> PyErr {
    PyRuntimeError::new_err("a message in the arena is damaged")
}

/// The object in an envelope; `buffer` makes the buffers of what can be written to, from where one
/// begins in the body and its size.
///
/// # Errors
/// What unpickling or `buffer` raises.
pub fn unpack_by<'py>(
    py: Python<'py>,
    envelope: &Envelope,
    buffer: impl Fn(usize, usize) -> PyResult<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let (address, len) = envelope.address().ok_or_else(damaged)?;
    let len = len as usize;
    // SAFETY: nobody writes to an envelope that has been filled, and it outlives `body`.
    let body = unsafe { std::slice::from_raw_parts(address.cast_const(), len) };
    let word = |at: usize| -> Option<usize> {
        let bytes = body.get(at..at.checked_add(8)?)?;
        usize::try_from(u64::from_le_bytes(bytes.try_into().ok()?)).ok()
    };
    let head_len = word(0).ok_or_else(damaged)?;
    let count = word(8).ok_or_else(damaged)?;
    let lens = count
        .checked_mul(8)
        .filter(|bytes| *bytes < len)
        .ok_or_else(damaged)?;
    let mut at = 16 + lens;
    let take = |at: usize, size: usize| {
        at.checked_add(size)
            .and_then(|end| body.get(at..end))
            .ok_or_else(damaged)
    };
    let head = take(at, head_len)?;
    at += head_len;
    let (mut starts, mut buffers) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for i in 0..count {
        let size = word(16 + 8 * i).ok_or_else(damaged)?;
        at = at.next_multiple_of(64);
        starts.push(at);
        buffers.push(take(at, size)?);
        at += size;
    }
    codec::loads_from(py, head, &buffers, |i| buffer(starts[i], buffers[i].len()))
}
