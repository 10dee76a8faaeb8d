//! `Block`: memory of the arena, for values and arrays.
#![allow(unsafe_code)]

use std::os::raw::c_int;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyMemoryView;
use sidestep::shm::{Kind, Ref, family};

use crate::error::to_py;
use crate::family::{Name, export, handle};

/// Makes `view` one of `size` bytes at `address`, which holds on to `owner`.
///
/// # Safety
/// `view` is the buffer structure that the interpreter hands out; the memory stays for as long as
/// `owner` does, and is written to by nobody if it is said to be `readonly`.
unsafe fn fill_view(
    owner: &Bound<'_, PyAny>,
    view: *mut ffi::Py_buffer,
    address: *mut u8,
    size: usize,
    readonly: bool,
    flags: c_int,
) -> PyResult<()> {
    // SAFETY: the caller's promises.
    let done = unsafe {
        ffi::PyBuffer_FillInfo(
            view,
            owner.as_ptr(),
            address.cast(),
            size as ffi::Py_ssize_t,
            c_int::from(readonly),
            flags,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(PyErr::fetch(owner.py()))
    }
}

/// A memoryview of `size` bytes at `address`.
///
/// # Safety
/// The memory stays for as long as `keeper` does, and is written to by nobody if it is said to be
/// `readonly`, and by nobody else if it is not.
///
/// # Errors
/// Out of memory.
pub unsafe fn view<'py>(
    keeper: &Bound<'py, PyAny>,
    address: *mut u8,
    size: usize,
    readonly: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let part = Part {
        _keeper: keeper.clone().unbind(),
        address,
        size,
        readonly,
    };
    let part = Bound::new(keeper.py(), part)?;
    Ok(PyMemoryView::from(part.as_any())?.into_any())
}

/// A part of what another object keeps.
#[pyclass(module = "sidestep._sidestep", frozen)]
struct Part {
    _keeper: Py<PyAny>,
    address: *mut u8,
    size: usize,
    readonly: bool,
}

// SAFETY: the address is looked at with the interpreter lock held only, and handed to Python, whose
// views are made for several threads.
unsafe impl Send for Part {}
// SAFETY: as above.
unsafe impl Sync for Part {}

#[pymethods]
impl Part {
    /// # Safety
    /// `view` is the buffer structure that the interpreter hands out.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let this = slf.get();
        // SAFETY: `view` is valid (the interpreter's promise); the rest was promised to `view`.
        unsafe {
            fill_view(
                slf.as_any(),
                view,
                this.address,
                this.size,
                this.readonly,
                flags,
            )
        }
    }
}

/// Zeroed memory in the arena.
#[pyclass(module = "sidestep._sidestep", frozen, subclass)]
pub struct Block {
    object: Ref,
    size: usize,
    /// Whether nobody can have written to it yet: large ones have no pages then.
    untouched: AtomicBool,
}

impl Block {
    /// Where the memory lies in this process, for as long as the block lives, and its size.
    ///
    /// # Errors
    /// BufferError: not in the arena.
    pub fn place(&self) -> PyResult<(*mut u8, usize)> {
        self.object
            .family()
            .address(self.object.payload(), self.size as u64)
            .map(|address| (address, self.size))
            .ok_or_else(|| PyBufferError::new_err("the block does not lie in the arena"))
    }

    /// Whether this is the first time that anybody asks, of a block that was just made: then
    /// [`Block::write_fresh`] is the fastest way to fill it.
    pub fn is_fresh(&self) -> bool {
        self.untouched.swap(false, Relaxed)
    }

    /// Writes `bytes` at `at`, as far as they fit the block.
    pub fn write_fresh(&self, at: usize, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(self.size.saturating_sub(at))];
        let start = self.object.payload() + at as u64;
        self.object.family().write_fresh(start, bytes);
    }
}

#[pymethods]
impl Block {
    #[new]
    fn new(size: u64) -> PyResult<Self> {
        let object = family().and_then(|family| family.create(Kind::Memory, size.max(1)));
        Ok(Self {
            object: object.map_err(to_py)?,
            size: size as usize,
            untouched: AtomicBool::new(true),
        })
    }

    fn _export(slf: &Bound<'_, Self>) -> PyResult<(u64, u64, usize)> {
        let this = slf.get();
        let (offset, generation) = export(&this.object, slf.as_any())?;
        Ok((offset, generation, this.size))
    }

    #[staticmethod]
    fn _attach(name: (u64, u64, usize)) -> PyResult<Self> {
        let (offset, generation, size) = name;
        let found: Name = (offset, generation);
        let object = Ref::from_handle(handle(found), Kind::Memory).map_err(to_py)?;
        Ok(Self {
            object,
            size,
            untouched: AtomicBool::new(false),
        })
    }

    fn __len__(&self) -> usize {
        self.size
    }

    /// # Safety
    /// `view` is the buffer structure that the interpreter hands out.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let (address, size) = slf.get().place()?;
        // SAFETY: `view` is valid (the interpreter's promise); the memory lives as long as the
        // object, of which the view takes a reference; concurrent writers are what shared memory
        // is for, and Python's views allow for them.
        unsafe { fill_view(slf.as_any(), view, address, size, false, flags) }
    }
}
