//! What one object becomes: a head and the buffers that travel beside it.

use std::ops::Deref;
use std::ptr;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::format::{MAX_NAME, NAME_1, STR_1};

/// Heads up to this length live inside the message, without an allocation.
const INLINE_BYTES: usize = 112;

/// One serialised object.
pub struct Message {
    /// The form byte and what follows it.
    pub head: Head,
    /// Large memory, in the order in which the head refers to it.
    pub buffers: Vec<OutOfBand>,
}

/// The bytes of a message, wherever they are.
pub struct Head(Store);

enum Store {
    Inline {
        len: usize,
        bytes: [u8; INLINE_BYTES],
    },
    Heap(Vec<u8>),
    /// The immutable contents of a bytes object.
    Python {
        start: *const u8,
        len: usize,
        _owner: Py<PyBytes>,
    },
}

// SAFETY: the pointer refers to the contents of an immutable object that the value keeps alive.
unsafe impl Send for Head {}
// SAFETY: as above; there is no way to write through it.
unsafe impl Sync for Head {}

impl Head {
    pub(super) fn new() -> Self {
        Self(Store::Inline {
            len: 0,
            bytes: [0; INLINE_BYTES],
        })
    }

    pub(super) fn from_vec(bytes: Vec<u8>) -> Self {
        Self(Store::Heap(bytes))
    }

    pub(super) fn from_python(bytes: Bound<'_, PyBytes>) -> Self {
        let (start, len) = (bytes.as_bytes().as_ptr(), bytes.as_bytes().len());
        Self(Store::Python {
            start,
            len,
            _owner: bytes.unbind(),
        })
    }

    #[inline]
    pub(super) fn push(&mut self, byte: u8) {
        self.extend(&[byte]);
    }

    /// Appends a tag and a short operand.
    #[inline]
    pub(super) fn tagged<const N: usize>(&mut self, tag: u8, operand: [u8; N]) {
        match &mut self.0 {
            Store::Inline { len, bytes } if *len + N < INLINE_BYTES => {
                bytes[*len] = tag;
                bytes[*len + 1..*len + 1 + N].copy_from_slice(&operand);
                *len += 1 + N;
            }
            Store::Heap(bytes) => {
                bytes.push(tag);
                bytes.extend_from_slice(&operand);
            }
            _ => {
                let bytes = self.spill(1 + N);
                bytes.push(tag);
                bytes.extend_from_slice(&operand);
            }
        }
    }

    #[inline]
    pub(super) fn extend(&mut self, more: &[u8]) {
        match &mut self.0 {
            Store::Inline { len, bytes } if more.len() <= INLINE_BYTES - *len => {
                bytes[*len..*len + more.len()].copy_from_slice(more);
                *len += more.len();
            }
            Store::Heap(bytes) => bytes.extend_from_slice(more),
            _ => self.spill(more.len()).extend_from_slice(more),
        }
    }

    /// Has the text that was written at `start` remembered by its receiver, if it is short enough.
    pub(super) fn turn_into_name(&mut self, start: usize) {
        let bytes = match &mut self.0 {
            Store::Inline { len, bytes } => &mut bytes[..*len],
            Store::Heap(bytes) => bytes,
            Store::Python { .. } => return,
        };
        if let Some([tag, len, ..]) = bytes.get_mut(start..)
            && *tag == STR_1
            && usize::from(*len) <= MAX_NAME
        {
            *tag = NAME_1;
        }
    }

    /// Moves the bytes to the heap, with room for some more.
    #[cold]
    fn spill(&mut self, more: usize) -> &mut Vec<u8> {
        let mut heap = Vec::with_capacity((self.len() + more).max(8 * INLINE_BYTES));
        heap.extend_from_slice(self);
        self.0 = Store::Heap(heap);
        match &mut self.0 {
            Store::Heap(heap) => heap,
            _ => unreachable!("it was put there in the line above"),
        }
    }
}

impl Deref for Head {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Store::Inline { len, bytes } => &bytes[..*len],
            Store::Heap(bytes) => bytes,
            // SAFETY: the contents of a bytes object neither move nor change while it lives, and the
            // owner beside the pointer keeps it alive.
            Store::Python { start, len, .. } => unsafe { std::slice::from_raw_parts(*start, *len) },
        }
    }
}

/// Memory that is sent beside the head; dropping it lets the memory go.
///
/// Contiguous, and pinned: its owner can neither free nor resize it in the meantime. It can be
/// written to by other threads as soon as the interpreter lock is released, so read it through the
/// pointer, once.
pub struct OutOfBand {
    start: *const u8,
    len: usize,
    _owner: Owner,
}

enum Owner {
    /// An immutable object whose contents do not move.
    Object {
        _object: Py<PyAny>,
    },
    View {
        _view: View,
    },
}

// SAFETY: the owner pins the memory whichever thread looks at it, and letting go of the owner takes
// the interpreter lock by itself.
unsafe impl Send for OutOfBand {}
// SAFETY: shared access only hands out the address and the length.
unsafe impl Sync for OutOfBand {}

impl OutOfBand {
    /// The address of the first byte. Not null, also when there are no bytes.
    #[must_use]
    pub fn as_ptr(&self) -> *const u8 {
        self.start
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The contents of an immutable object.
    ///
    /// # Safety
    ///
    /// The `len` bytes at `start` live, unchanged, as long as `owner` does.
    pub(super) unsafe fn from_object(start: *const u8, len: usize, owner: Py<PyAny>) -> Self {
        Self {
            start,
            len,
            _owner: Owner::Object { _object: owner },
        }
    }

    /// The memory that an object exports through the buffer protocol, in any contiguous order.
    pub(super) fn from_exporter(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let view = View::contiguous(object)?;
        let (start, len) = view.extent();
        Ok(Self {
            start,
            len,
            _owner: Owner::View { _view: view },
        })
    }
}

/// An exported buffer. Boxed, since some exporters compare addresses when it is given back.
pub(super) struct View(Box<ffi::Py_buffer>);

impl View {
    /// Asks for memory in one piece, in C or Fortran order.
    pub(super) fn contiguous(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let mut view = Box::new(ffi::Py_buffer::new());
        // SAFETY: the object is alive and `view` is a place for the answer. It is given back in `drop`,
        // and only if this succeeds.
        let status = unsafe {
            ffi::PyObject_GetBuffer(object.as_ptr(), &mut *view, ffi::PyBUF_ANY_CONTIGUOUS)
        };
        if status == 0 {
            Ok(Self(view))
        } else {
            Err(PyErr::fetch(object.py()))
        }
    }

    /// Address and length; the address is not null, also when the exporter says so of no bytes.
    pub(super) fn extent(&self) -> (*const u8, usize) {
        match usize::try_from(self.0.len) {
            Ok(len) if !self.0.buf.is_null() => (self.0.buf.cast_const().cast(), len),
            _ => (ptr::NonNull::dangling().as_ptr(), 0),
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        Python::attach(|_py| {
            // SAFETY: the interpreter lock is held, and the buffer was filled in by a successful
            // PyObject_GetBuffer and not released before.
            unsafe { ffi::PyBuffer_Release(&mut *self.0) }
        });
    }
}
