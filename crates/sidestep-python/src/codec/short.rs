//! The shortest way for the commonest messages: one number, one word, one small string of bytes.
//!
//! The bytes are those that the encoder makes; only the way there is shorter, with no message
//! around it and nothing that has to be dropped.

use std::os::raw::c_int;

use pyo3::ffi;
use pyo3::prelude::*;
use sidestep::channel::Brief;

use super::format::*;

/// The contents of a str or bytes.
#[inline]
fn contents(to: &mut Brief, tag: u8, contents: &[u8]) -> bool {
    // What is too long for one byte is too long.
    to.set([tag, contents.len() as u8], contents)
}

/// Encodes an exact int, float, str, bytes, bool or None that is short enough: whether it is one.
#[inline]
pub fn short(obj: &Bound<'_, PyAny>, to: &mut Brief) -> bool {
    let object = obj.as_ptr();
    // SAFETY: the object is alive and the interpreter lock is held; each call gets the exact type
    // that it wants, and the contents that it returns live as long as the object.
    unsafe {
        let kind = ffi::Py_TYPE(object);
        if kind == &raw mut ffi::PyLong_Type {
            let mut overflow: c_int = 0;
            let value = ffi::PyLong_AsLongLongAndOverflow(object, &raw mut overflow);
            let (tag, bytes) = if i8::try_from(value).is_ok() {
                (INT_1, 1)
            } else if i32::try_from(value).is_ok() {
                (INT_4, 4)
            } else {
                (INT_8, 8)
            };
            to.set_number(tag, value.cast_unsigned(), bytes);
            return overflow == 0;
        }
        if kind == &raw mut ffi::PyUnicode_Type {
            let mut len: ffi::Py_ssize_t = 0;
            let start = ffi::PyUnicode_AsUTF8AndSize(object, &raw mut len);
            if start.is_null() {
                // Lone surrogates: pickle's business.
                ffi::PyErr_Clear();
                return false;
            }
            let text = std::slice::from_raw_parts(start.cast(), len as usize);
            return contents(to, STR_1, text);
        }
        if kind == &raw mut ffi::PyBytes_Type {
            let start = ffi::PyBytes_AsString(object);
            let len = ffi::PyBytes_Size(object) as usize;
            let bytes = std::slice::from_raw_parts(start.cast(), len);
            return contents(to, BYTES_1, bytes);
        }
        if kind == &raw mut ffi::PyFloat_Type {
            let value = ffi::PyFloat_AsDouble(object);
            to.set_number(FLOAT, value.to_bits(), 8);
            return true;
        }
        let tag = if object == ffi::Py_None() {
            NONE
        } else if object == ffi::Py_True() {
            TRUE
        } else if object == ffi::Py_False() {
            FALSE
        } else {
            return false;
        };
        to.set_number(tag, 0, 0);
    }
    true
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
