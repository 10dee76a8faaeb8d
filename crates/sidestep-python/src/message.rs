//! Objects as messages of the engine's channels: short ones as bytes, others in envelopes.
//!
//! The body of an envelope: the head's length, the number of buffers, the length of each (64-bit
//! little-endian words); the head; then each buffer, aligned to 64 bytes. If one of them is large the
//! first one begins a page and the body ends with one: they can be lent to who receives them.
#![allow(unsafe_code)]

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyByteArray;
use sidestep::shm::{Envelope, Loan, Ref, family};

use crate::codec::{self, Message};
use crate::error::to_py;
use crate::family::Taking;
use crate::memory;

/// Buffers from this size on are lent, not copied: below it a copy is as quick as the books of a loan.
const LENT_FROM: usize = 256 << 10;

const PAGE: usize = 4096;

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
    let family = family().map_err(to_py)?;
    envelope(&message, refs, |size, refs| {
        Envelope::new(family, size, refs)
    })
    .map(Outgoing::Long)
}

/// Serialises `obj` into an envelope, however short it is. As [`pack`] otherwise.
///
/// # Errors
/// As [`pack`].
pub fn seal(obj: &Bound<'_, PyAny>) -> PyResult<Envelope> {
    let taking = Taking::start();
    let message = codec::dumps(obj)?;
    let family = family().map_err(to_py)?;
    envelope(&message, taking.finish(), |size, refs| {
        Envelope::to_keep(family, size, refs)
    })
}

/// Where the buffers of a body begin, and where it ends. `head_end` is where they may begin, `begins`
/// how far behind a page's border the body does. None: more than an address can tell.
fn places(head_end: usize, begins: usize, sizes: &[usize]) -> Option<(Vec<usize>, usize)> {
    let for_loan = sizes.iter().any(|size| *size >= LENT_FROM);
    // The next position that lies at a page's border.
    let paged = |at: usize| Some(at.checked_add(begins)?.checked_next_multiple_of(PAGE)? - begins);
    let mut at = if for_loan { paged(head_end)? } else { head_end };
    let mut starts = Vec::with_capacity(sizes.len());
    for size in sizes {
        // A page's border is one of 64 bytes, as is the beginning of a body.
        at = at.checked_next_multiple_of(64)?;
        starts.push(at);
        at = at.checked_add(*size)?;
    }
    Some((starts, if for_loan { paged(at)? } else { at }))
}

/// A filled envelope, which `new` makes for a body of a size and references.
fn envelope(
    message: &Message,
    refs: Vec<Ref>,
    new: impl FnOnce(u64, Vec<Ref>) -> sidestep::Result<Envelope>,
) -> PyResult<Envelope> {
    let sizes: Vec<usize> = message.buffers.iter().map(codec::OutOfBand::len).collect();
    let head_at = 16 + 8 * sizes.len();
    let begins = Envelope::begins_at(refs.len()) as usize;
    let (starts, end) = places(head_at + message.head.len(), begins, &sizes).ok_or_else(damaged)?;
    let envelope = new(end as u64, refs).map_err(to_py)?;
    envelope.write(0, &(message.head.len() as u64).to_le_bytes());
    envelope.write(8, &(sizes.len() as u64).to_le_bytes());
    for (i, size) in sizes.iter().enumerate() {
        envelope.write(16 + 8 * i as u64, &(*size as u64).to_le_bytes());
    }
    envelope.write(head_at as u64, &message.head);
    for (buffer, start) in message.buffers.iter().zip(starts) {
        // SAFETY: the buffer is pinned and contiguous, and the interpreter lock is held, so that
        // no other thread writes to it meanwhile.
        let bytes = unsafe { std::slice::from_raw_parts(buffer.as_ptr(), buffer.len()) };
        envelope.write(start as u64, bytes);
    }
    Ok(envelope)
}

/// The parts of a body.
struct Parts<'a> {
    head: &'a [u8],
    buffers: Vec<&'a [u8]>,
    /// Where they begin.
    starts: Vec<usize>,
}

impl<'a> Parts<'a> {
    /// None: the arena is damaged.
    fn of(body: &'a [u8]) -> Option<Self> {
        let word = |at: usize| -> Option<usize> {
            let bytes = body.get(at..at.checked_add(8)?)?;
            usize::try_from(u64::from_le_bytes(bytes.try_into().ok()?)).ok()
        };
        let (head_len, count) = (word(0)?, word(8)?);
        let head_at = count.checked_mul(8).filter(|bytes| *bytes < body.len())? + 16;
        let head_end = head_at.checked_add(head_len)?;
        let head = body.get(head_at..head_end)?;
        let sizes = (0..count)
            .map(|i| word(16 + 8 * i))
            .collect::<Option<Vec<_>>>()?;
        let (starts, _) = places(head_end, body.as_ptr().addr() % PAGE, &sizes)?;
        let part = |(start, size): (&usize, &usize)| body.get(*start..start.checked_add(*size)?);
        let buffers = starts
            .iter()
            .zip(&sizes)
            .map(part)
            .collect::<Option<Vec<_>>>()?;
        Some(Self {
            head,
            buffers,
            starts,
        })
    }

    /// Where the part begins that is worth to be lent, if the object can take it as it is.
    fn lendable(&self) -> Option<usize> {
        let is_large = |buffer: &&[u8]| buffer.len() >= LENT_FROM;
        let compact = self
            .head
            .first()
            .is_none_or(|first| codec::is_compact(*first));
        (!compact && self.buffers.iter().any(is_large)).then(|| self.starts[0])
    }
}

/// The object in an envelope. Its buffers become memory that belongs to the object alone: large ones
/// where they lie, others as copies.
///
/// # Errors
/// What unpickling raises.
pub fn unpack(py: Python<'_>, envelope: Envelope) -> PyResult<Bound<'_, PyAny>> {
    let (address, len) = envelope.address().ok_or_else(damaged)?;
    // SAFETY: nobody writes to an envelope that has been filled, before its buffers are handed out
    // below; it, or the loan that it becomes, outlives `body`.
    let body = unsafe { std::slice::from_raw_parts(address.cast_const(), len as usize) };
    let parts = Parts::of(body).ok_or_else(damaged)?;
    let copy = |i: usize| Ok(PyByteArray::new(py, parts.buffers[i]).into_any());
    let Some(from) = parts.lendable() else {
        return codec::loads_from(py, parts.head, &parts.buffers, copy);
    };
    match envelope.lend(from as u64) {
        Err(_envelope) => codec::loads_from(py, parts.head, &parts.buffers, copy),
        Ok(loan) => {
            let lent = Bound::new(py, Lent { _loan: loan })?.into_any();
            codec::loads_from(py, parts.head, &parts.buffers, |i| {
                let size = parts.buffers[i].len();
                if size < LENT_FROM {
                    return copy(i);
                }
                // SAFETY: inside the body, and inside of what the loan keeps, since the buffers
                // begin where it does; it is this process's alone.
                unsafe { memory::view(&lent, address.add(parts.starts[i]), size, false) }
            })
        }
    }
}

/// What keeps the memory of a message that is on loan.
#[pyclass(module = "sidestep._sidestep", frozen)]
struct Lent {
    _loan: Loan,
}

fn damaged() -> PyErr {
    PyRuntimeError::new_err("a message in the arena is damaged")
}

/// The object in an envelope, whose buffers are views of it that cannot be written to: `keeper` holds
/// the envelope.
///
/// # Errors
/// What unpickling raises.
pub fn view<'py>(envelope: &Envelope, keeper: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let (address, len) = envelope.address().ok_or_else(damaged)?;
    // SAFETY: nobody writes to an envelope that has been filled, and it outlives `body`.
    let body = unsafe { std::slice::from_raw_parts(address.cast_const(), len as usize) };
    let parts = Parts::of(body).ok_or_else(damaged)?;
    codec::loads_from(keeper.py(), parts.head, &parts.buffers, |i| {
        // SAFETY: inside the body, which lives as long as the keeper does.
        unsafe {
            let address = address.add(parts.starts[i]);
            memory::view(keeper, address, parts.buffers[i].len(), true)
        }
    })
}
