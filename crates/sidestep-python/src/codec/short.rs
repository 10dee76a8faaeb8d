//! The shortest way for the commonest messages: one number, one word, one small string of bytes.
//!
//! The bytes are those that the encoder makes; only the way there is shorter, with no message
//! around it and nothing that has to be dropped.

use std::os::raw::c_int;

use pyo3::ffi;
use pyo3::prelude::*;
use sidestep::channel::Brief;

use super::format::*;

/// Longest text or bytes that go this way.
const MOST: usize = Brief::MOST - 2;

#[inline]
fn of<const N: usize>(tag: u8, operand: [u8; N]) -> Brief {
    let mut bytes = [0; Brief::MOST];
    bytes[0] = tag;
    bytes[1..=N].copy_from_slice(&operand);
    Brief::new(bytes, 1 + N)
}

#[inline]
fn text(tag: u8, contents: &[u8]) -> Option<Brief> {
    if contents.len() > MOST {
        return None;
    }
    let mut bytes = [0; Brief::MOST];
    bytes[0] = tag;
    bytes[1] = contents.len() as u8;
    bytes[2..2 + contents.len()].copy_from_slice(contents);
    Some(Brief::new(bytes, 2 + contents.len()))
}

/// Encodes an exact int, float, str, bytes, bool or None that is short enough.
#[inline]
pub fn short(obj: &Bound<'_, PyAny>) -> Option<Brief> {
    let object = obj.as_ptr();
    // SAFETY: the object is alive and the interpreter lock is held; each call gets the exact type
    // that it wants, and the contents that it returns live as long as the object.
    unsafe {
        let kind = ffi::Py_TYPE(object);
        if kind == &raw mut ffi::PyLong_Type {
            let mut overflow: c_int = 0;
            let value = ffi::PyLong_AsLongLongAndOverflow(object, &raw mut overflow);
            if overflow != 0 {
                return None;
            }
            return Some(if let Ok(value) = i8::try_from(value) {
                of(INT_1, value.to_le_bytes())
            } else if let Ok(value) = i32::try_from(value) {
                of(INT_4, value.to_le_bytes())
            } else {
                of(INT_8, value.to_le_bytes())
            });
        }
        if kind == &raw mut ffi::PyUnicode_Type {
            let mut len: ffi::Py_ssize_t = 0;
            let start = ffi::PyUnicode_AsUTF8AndSize(object, &raw mut len);
            if start.is_null() {
                // Lone surrogates: pickle's business.
                ffi::PyErr_Clear();
                return None;
            }
            return text(
                STR_1,
                std::slice::from_raw_parts(start.cast(), len as usize),
            );
        }
        if kind == &raw mut ffi::PyBytes_Type {
            let start = ffi::PyBytes_AsString(object);
            let len = ffi::PyBytes_Size(object) as usize;
            return text(BYTES_1, std::slice::from_raw_parts(start.cast(), len));
        }
        if kind == &raw mut ffi::PyFloat_Type {
            let value = ffi::PyFloat_AsDouble(object);
            return Some(of(FLOAT, value.to_bits().to_le_bytes()));
        }
        if object == ffi::Py_None() {
            return Some(of(NONE, []));
        }
        if object == ffi::Py_True() {
            return Some(of(TRUE, []));
        }
        if object == ffi::Py_False() {
            return Some(of(FALSE, []));
        }
    }
    None
}

/// Rebuilds the object of a short message.
///
/// # Errors
/// As [`super::loads`].
#[inline]
pub fn long<'py>(py: Python<'py>, message: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the interpreter lock is held; a new reference comes back, or an error is set.
    let number = |made| unsafe { Bound::from_owned_ptr_or_err(py, made) };
    // SAFETY: as above.
    unsafe {
        match message {
            &[INT_1, byte] => number(ffi::PyLong_FromLong((byte as i8).into())),
            &[INT_4, a, b, c, d] => number(ffi::PyLong_FromLong(
                i32::from_le_bytes([a, b, c, d]).into(),
            )),
            bytes => super::loads(py, bytes, Vec::new()),
        }
    }
}
