//! `Frozen`: an object that lies in the arena once, and is read in place.
#![allow(unsafe_code)]

use std::os::raw::c_int;

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyMemoryView;
use sidestep::shm::Envelope;

use crate::error::to_py;
use crate::family::{Name, export, handle};
use crate::{memory, message};

/// An object's message, kept for as long as somebody refers to it.
#[pyclass(module = "sidestep._sidestep", frozen)]
pub struct Frozen {
    envelope: Envelope,
}

#[pymethods]
impl Frozen {
    #[new]
    fn new(obj: &Bound<'_, PyAny>) -> PyResult<Self> {
        let envelope = message::seal(obj)?;
        Ok(Self { envelope })
    }

    /// The name that `_attach` understands, good for comparing only.
    #[getter]
    fn _name(&self) -> Name {
        let handle = self.envelope.handle();
        (handle.offset, handle.generation)
    }

    fn _export(slf: &Bound<'_, Self>) -> PyResult<Name> {
        export(slf.get().envelope.as_ref(), slf.as_any())
    }

    #[staticmethod]
    fn _attach(name: Name) -> PyResult<Self> {
        let envelope = Envelope::from_handle(handle(name)).map_err(to_py)?;
        Ok(Self { envelope })
    }

    /// Builds the object; its large buffers are views of the arena.
    fn _build<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        message::unpack_by(slf.py(), &slf.get().envelope, |start, size| {
            let block = slf.clone().unbind();
            let view = Bound::new(slf.py(), FrozenView { block, start, size })?;
            Ok(PyMemoryView::from(view.as_any())?.into_any())
        })
    }

    fn __len__(&self) -> usize {
        self.envelope.len() as usize
    }
}

/// One buffer of a frozen object: a part of the body that begins at `start`.
#[pyclass(module = "sidestep._sidestep", frozen)]
struct FrozenView {
    block: Py<Frozen>,
    start: usize,
    size: usize,
}

#[pymethods]
impl FrozenView {
    /// # Safety
    /// `view` is the buffer structure that the interpreter hands out.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let this = slf.get();
        let body = this.block.get().envelope.address();
        let inside = body.filter(|(_, len)| {
            this.start
                .checked_add(this.size)
                .is_some_and(|end| end as u64 <= *len)
        });
        let Some((address, _)) = inside else {
            return Err(PyBufferError::new_err(
                "the buffer does not lie in the frozen object",
            ));
        };
        // SAFETY: `view` is valid (the interpreter's promise); the range lies in the body, as was
        // just checked, which lives as long as the block, which this object keeps, of which the
        // view takes a reference; it is marked as read-only, and nobody writes to it any more.
        unsafe {
            let address = address.add(this.start);
            memory::fill_view(slf.as_any(), view, address, this.size, true, flags)
        }
    }
}
