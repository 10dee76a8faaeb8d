//! `Frozen`: an object that lies in the arena once, and is read in place.

use pyo3::prelude::*;
use sidestep::shm::Envelope;

use crate::error::to_py;
use crate::family::{Name, export, handle};
use crate::message;

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
        message::view(&slf.get().envelope, slf.as_any())
    }

    fn __len__(&self) -> usize {
        self.envelope.len() as usize
    }
}
