//! The shortest way for the commonest messages: one number, one word, one small string of bytes.
//!
//! The bytes are those that the encoder makes; only the way there is shorter, with no message
//! around it and nothing that has to be dropped.

use std::os::raw::c_int;

use pyo3::ffi;
use pyo3::prelude::*;

use super::format::*;

/// Longest text or bytes that go this way.
const MOST: usize = 64;

/// A whole message on the stack.
pub struct Short {
    bytes: [u8; MOST + 8],
    len: usize,
}

impl Short {
    /// The message's bytes.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    #[inline]
    fn of<const N: usize>(tag: u8, operand: [u8; N]) -> Self {
        let mut bytes = [0; MOST + 8];
        bytes[0] = tag;
        bytes[1..=N].copy_from_slice(&operand);
        Self { bytes, len: 1 + N }
    }

    #[inline]
    fn text(tag: u8, contents: &[u8]) -> Option<Self> {
        if contents.len() > MOST {
            return None;
        }
        let mut short = Self::of(tag, [contents.len() as u8]);
        short.bytes[2..2 + contents.len()].copy_from_slice(contents);
        short.len = 2 + contents.len();
        Some(short)
    }
}

/// Encodes an exact int, float, str, bytes, bool or None that is short enough.
#[inline]
pub fn short(obj: &Bound<'_, PyAny>) -> Option<Short> {
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
                Short::of(INT_1, value.to_le_bytes())
            } else if let Ok(value) = i32::try_from(value) {
                Short::of(INT_4, value.to_le_bytes())
            } else {
                Short::of(INT_8, value.to_le_bytes())
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
            return Short::text(
                STR_1,
                std::slice::from_raw_parts(start.cast(), len as usize),
            );
        }
        if kind == &raw mut ffi::PyBytes_Type {
            let start = ffi::PyBytes_AsString(object);
            let len = ffi::PyBytes_Size(object) as usize;
            return Short::text(BYTES_1, std::slice::from_raw_parts(start.cast(), len));
        }
        if kind == &raw mut ffi::PyFloat_Type {
            let value = ffi::PyFloat_AsDouble(object);
            return Some(Short::of(FLOAT, value.to_bits().to_le_bytes()));
        }
        if object == ffi::Py_None() {
            return Some(Short::of(NONE, []));
        }
        if object == ffi::Py_True() {
            return Some(Short::of(TRUE, []));
        }
        if object == ffi::Py_False() {
            return Some(Short::of(FALSE, []));
        }
    }
    None
}
