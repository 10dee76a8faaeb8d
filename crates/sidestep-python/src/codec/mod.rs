//! One Python object as bytes, for queues, pipes and pools.
//!
//! A sender calls [`dumps`] before it takes any lock (pickling can run the program's own code,
//! raise, or come back to the same queue), and the engine then carries [`Message::head`] and each of
//! [`Message::buffers`]. The receiver copies both out, lets every lock go, and calls [`loads`].
//!
//! The first byte of the head is its form:
//!
//! | byte        | form                                                            | module     |
//! |-------------|-----------------------------------------------------------------|------------|
//! | below 0x80  | a tag of the compact encoding of exact built-in types           | [`format`] |
//! | 0x80        | a pickle: the byte is pickle's own first instruction, protocol  | [`pickle`] |
//!
//! Anything that the compact encoding does not reproduce exactly as pickle would goes to pickle.
//!
//! Large memory is not copied into the head. It leaves as an out-of-band buffer, which the engine
//! writes once into the arena: buffers that pickle (protocol 5) hands out, and the contents of large
//! `bytes`, `bytearray` and `str` objects in the compact form.
//!
//! The module relies on the interpreter lock as its own lock (see [`gil`]): an abi3 extension can
//! not be loaded by an interpreter without one.
#![allow(unsafe_code)] // The safe wrappers cost as much as the encoding itself: this calls the C API.

mod decode;
mod encode;
mod format;
mod gil;
mod message;
mod pickle;
mod short;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyList};

use decode::Beside;

pub use message::{Head, Message, OutOfBand};
pub use short::{long, short};

/// Buffers of at least so many bytes travel out of band.
pub const OUT_OF_BAND_BYTES: usize = 32 * 1024;

/// Serialises one object, if it is plain: exact built-in types, few enough. Runs no code of the
/// program.
pub fn plain(obj: &Bound<'_, PyAny>) -> Option<Message> {
    encode::encode(obj)
}

/// Serialises a call, if all of it is plain: two names, arguments, and arguments by keyword or, without
/// any, None. Runs no code of the program.
pub fn call(
    names: [&Bound<'_, PyAny>; 2],
    args: &Bound<'_, PyAny>,
    kwds: &Bound<'_, PyAny>,
) -> Option<Message> {
    encode::encode_call(names, args, kwds)
}

/// Serialises a task of a pool: a tuple of what to call, its arguments, and its keywords.
///
/// # Errors
///
/// As [`dumps`].
pub fn task(task: &Bound<'_, PyAny>) -> PyResult<Message> {
    match encode::encode_task(task) {
        Some(message) => Ok(message),
        None => pickle::dumps(task),
    }
}

/// Serialises one object.
///
/// Runs the program's own code when the object has some (`__reduce__`, registered reducers): call it
/// with no lock held.
///
/// # Errors
///
/// Whatever pickle or that code raises.
pub fn dumps(obj: &Bound<'_, PyAny>) -> PyResult<Message> {
    match plain(obj) {
        Some(message) => Ok(message),
        None => pickle::dumps(obj),
    }
}

/// Rebuilds an object from what [`dumps`] made of it.
///
/// `buffers` holds one object with the buffer protocol per out-of-band buffer, in order. They become
/// the property of the result: writable memory stays writable in it (a numpy array is then a view of
/// it), unless the buffer was read-only at the sender. An exact `bytearray` may be part of the result itself.
///
/// # Errors
///
/// `pickle.UnpicklingError` for bytes that are no message; whatever unpickling raises.
pub fn loads<'py>(
    py: Python<'py>,
    head: &[u8],
    buffers: Vec<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    match head.first() {
        Some(&format::PICKLE) => pickle::loads(&PyBytes::new(py, head), buffers),
        _ => decode::decode(py, head, buffers.into_iter().map(Beside::Object)),
    }
}

/// Whether a head that begins so is compact: to rebuild such an object runs no code of the program.
pub fn is_compact(first: u8) -> bool {
    first < format::PICKLE
}

/// [`loads`] for buffers that lie in memory: what is immutable is copied from there, once, and
/// `own` makes an object of the buffer with this number for the others.
///
/// # Errors
///
/// As [`loads`], and those of `own`.
pub fn loads_from<'py>(
    py: Python<'py>,
    head: &[u8],
    buffers: &[&[u8]],
    own: impl FnMut(usize) -> PyResult<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    match head.first() {
        Some(&format::PICKLE) => {
            let buffers = (0..buffers.len()).map(own).collect::<PyResult<_>>()?;
            pickle::loads(&PyBytes::new(py, head), buffers)
        }
        _ => {
            let memory = buffers.iter().map(|buffer| Beside::Memory(buffer));
            decode::decode(py, head, memory)
        }
    }
}

/// Pickles a plain object as any Python reads it; None if it is not plain.
///
/// # Errors
///
/// Out of memory.
pub fn standard<'py>(obj: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyBytes>>> {
    static DUMPS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    if !is_plain(obj) {
        return Ok(None);
    }
    let dumps = DUMPS.import(obj.py(), "_pickle", "dumps")?;
    Ok(Some(pickle::call(dumps, obj)?.cast_into()?))
}

/// Unpickles what any Python has pickled.
///
/// # Errors
///
/// Whatever unpickling raises.
pub fn loads_standard<'py>(pickle: &Bound<'py, PyBytes>) -> PyResult<Bound<'py, PyAny>> {
    pickle::loads(pickle, Vec::new())
}

/// Whether an object is plain: pickle would find built-in types in it, and nothing that a reducer or
/// a class has a say in.
#[pyfunction]
fn is_plain(obj: &Bound<'_, PyAny>) -> bool {
    plain(obj).is_some()
}

/// What [`dumps`], or for a pool's task [`task`], makes of an object, for tests: the head and a copy of
/// each buffer.
#[pyfunction]
#[pyo3(signature = (obj, is_task=false))]
fn _codec_dumps<'py>(
    py: Python<'py>,
    obj: &Bound<'py, PyAny>,
    is_task: bool,
) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyList>)> {
    let message = if is_task { task(obj)? } else { dumps(obj)? };
    let buffers = PyList::empty(py);
    for buffer in &message.buffers {
        // SAFETY: the buffer is alive and contiguous, and with the interpreter lock held nothing
        // else writes to it.
        let bytes = unsafe { std::slice::from_raw_parts(buffer.as_ptr(), buffer.len()) };
        buffers.append(PyBytes::new(py, bytes))?;
    }
    Ok((PyBytes::new(py, &message.head), buffers))
}

/// [`loads`], for tests.
#[pyfunction]
fn _codec_loads<'py>(
    head: &Bound<'py, PyBytes>,
    buffers: Vec<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    loads(head.py(), head.as_bytes(), buffers)
}

/// One round trip without handing the message to Python, for tests and measurements.
#[pyfunction]
fn _codec_copy<'py>(py: Python<'py>, obj: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let message = dumps(obj)?;
    let buffers = message
        .buffers
        .iter()
        .map(|buffer| {
            // SAFETY: as in `_codec_dumps`.
            let bytes = unsafe { std::slice::from_raw_parts(buffer.as_ptr(), buffer.len()) };
            pyo3::types::PyByteArray::new(py, bytes).into_any()
        })
        .collect();
    loads(py, &message.head, buffers)
}

/// Adds this module's functions, most of them for tests, to the native module.
///
/// # Errors
///
/// Out of memory.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(is_plain, m)?)?;
    m.add_function(wrap_pyfunction!(_codec_dumps, m)?)?;
    m.add_function(wrap_pyfunction!(_codec_loads, m)?)?;
    m.add_function(wrap_pyfunction!(_codec_copy, m)?)
}
