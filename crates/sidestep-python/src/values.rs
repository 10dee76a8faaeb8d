//! The wrappers of `sharedctypes`: an object of `ctypes`, and the lock that guards it.
//!
//! What is plain is done here, without asking Python: the engine's own locks are taken and let go
//! of, and numbers, characters and lists of them read from and written to the arena. All else goes
//! to the lock's own methods and to the object of `ctypes`, also in the middle of an assignment,
//! so that results and errors are `ctypes`'s.
//!
//! Values are converted before and after the lock is held, so that it is held for one load or store.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_long, c_longlong, c_short, c_void};
use std::slice;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use pyo3::Borrowed;
use pyo3::exceptions::{PyAttributeError, PyRuntimeError, PyValueError};
use pyo3::ffi::{self, PyObject};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PySlice, PyString, PyTuple, PyType,
};

use crate::locks::Lock;
use crate::memory::Block;
use crate::quick::{self, Function, Quick, QuickAttribute, instance};

/// What an item is, from its letter in `ctypes` (the `_type_` of a simple type).
#[derive(Clone, Copy)]
enum Item {
    Signed(usize),
    Unsigned(usize),
    Float,
    Double,
    Truth,
    Byte,
    Character,
}

impl Item {
    fn of_letter(letter: char) -> Option<Self> {
        Some(match letter {
            'b' => Self::Signed(1),
            'B' => Self::Unsigned(1),
            'h' => Self::Signed(size_of::<c_short>()),
            'H' => Self::Unsigned(size_of::<c_short>()),
            'i' => Self::Signed(size_of::<c_int>()),
            'I' => Self::Unsigned(size_of::<c_int>()),
            'l' => Self::Signed(size_of::<c_long>()),
            'L' => Self::Unsigned(size_of::<c_long>()),
            'q' => Self::Signed(size_of::<c_longlong>()),
            'Q' => Self::Unsigned(size_of::<c_longlong>()),
            'f' => Self::Float,
            'd' => Self::Double,
            '?' => Self::Truth,
            'c' => Self::Byte,
            'u' if size_of::<libc::wchar_t>() == 4 => Self::Character,
            _ => return None,
        })
    }

    #[inline]
    fn size(self) -> usize {
        match self {
            Self::Signed(size) | Self::Unsigned(size) => size,
            Self::Truth | Self::Byte => 1,
            Self::Float | Self::Character => 4,
            Self::Double => 8,
        }
    }

    /// Whether a slice of an array is a list of its items, and not one string.
    fn makes_lists(self) -> bool {
        !matches!(self, Self::Byte | Self::Character)
    }

    /// The object for what lies in the memory; `None` where that is no character.
    #[inline]
    fn decode<'py>(self, py: Python<'py>, bits: u64) -> Option<Bound<'py, PyAny>> {
        fn int<'py, T: IntoPyObject<'py, Target = PyInt, Output = Bound<'py, PyInt>>>(
            py: Python<'py>,
            number: T,
        ) -> Option<Bound<'py, PyAny>> {
            number.into_pyobject(py).ok().map(Bound::into_any)
        }
        match self {
            Self::Signed(1) => int(py, bits as i8),
            Self::Signed(2) => int(py, bits as i16),
            Self::Signed(4) => int(py, bits as i32),
            Self::Signed(_) => int(py, bits.cast_signed()),
            Self::Unsigned(_) => int(py, bits),
            Self::Float => {
                Some(PyFloat::new(py, f64::from(f32::from_bits(bits as u32))).into_any())
            }
            Self::Double => Some(PyFloat::new(py, f64::from_bits(bits)).into_any()),
            Self::Truth => Some(PyBool::new(py, bits != 0).to_owned().into_any()),
            Self::Byte => Some(PyBytes::new(py, &[bits as u8]).into_any()),
            Self::Character => {
                let character = char::from_u32(bits as u32)?;
                Some(PyString::new(py, character.encode_utf8(&mut [0; 4])).into_any())
            }
        }
    }

    /// What to write for an object of the exact type that the item is made of, without running
    /// any Python code; `None` for all others.
    #[inline(always)]
    fn encode(self, value: &Bound<'_, PyAny>) -> Option<u64> {
        match self {
            Self::Signed(_) | Self::Unsigned(_) => {
                value.is_exact_instance_of::<PyInt>().then(|| {
                    // SAFETY: an int, of which the low bits are asked for: that cannot fail.
                    unsafe { ffi::PyLong_AsUnsignedLongLongMask(value.as_ptr()) }
                })
            }
            Self::Float => Some(u64::from((real(value)? as f32).to_bits())),
            Self::Double => Some(real(value)?.to_bits()),
            Self::Truth => {
                let truth = value.cast_exact::<PyBool>().ok()?;
                Some(u64::from(truth.is_true()))
            }
            Self::Byte => match value.cast_exact::<PyBytes>().ok()?.as_bytes() {
                [byte] => Some(u64::from(*byte)),
                _ => None,
            },
            Self::Character => {
                let text = value.cast_exact::<PyString>().ok()?.to_str().ok()?;
                let mut characters = text.chars();
                let first = characters.next()?;
                characters.next().is_none().then_some(u64::from(first))
            }
        }
    }
}

/// The number of an exact float, or of an exact int that has one.
#[inline]
fn real(value: &Bound<'_, PyAny>) -> Option<f64> {
    if let Ok(number) = value.cast_exact::<PyFloat>() {
        return Some(number.value());
    }
    value.cast_exact::<PyInt>().ok()?.extract().ok()
}

/// One or more items in a block.
struct Cells {
    address: *mut u8,
    item: Item,
    len: usize,
    /// Keeps the memory.
    block: Py<Block>,
}

// SAFETY: the address is of shared memory, which any thread of any process may read and write by
// atomic loads and stores; the block, to which it belongs, may be sent and shared.
unsafe impl Send for Cells {}
// SAFETY: as above.
unsafe impl Sync for Cells {}

/// Writes the low bits of `bits` to the place of the `index`th item at `address`.
///
/// # Safety
/// There it lies, aligned; whoever else writes to it does that as atomically.
#[inline(always)]
unsafe fn store(address: *mut u8, item: Item, index: usize, bits: u64) {
    // SAFETY: as the caller promises.
    unsafe {
        match item.size() {
            1 => (*address.add(index).cast::<AtomicU8>()).store(bits as u8, Relaxed),
            2 => (*address.add(2 * index).cast::<AtomicU16>()).store(bits as u16, Relaxed),
            4 => (*address.add(4 * index).cast::<AtomicU32>()).store(bits as u32, Relaxed),
            _ => (*address.add(8 * index).cast::<AtomicU64>()).store(bits, Relaxed),
        }
    }
}

/// Bytes that a new block is filled with at once.
const CHUNK: usize = 64 << 10;

impl Cells {
    /// The items that fill `len` places of the block; `None` if there is no such item.
    ///
    /// # Errors
    /// ValueError: the block is not that long.
    fn new(block: &Bound<'_, Block>, letter: char, len: usize) -> PyResult<Option<Self>> {
        let Some(item) = Item::of_letter(letter) else {
            return Ok(None);
        };
        let (address, size) = block.get().place()?;
        let fits = item.size().checked_mul(len).is_some_and(|all| all <= size);
        // Blocks begin at multiples of 64.
        if !fits || !address.addr().is_multiple_of(item.size()) {
            return Err(PyValueError::new_err(format!(
                "{len} items of type '{letter}' do not fit a block of {size} bytes"
            )));
        }
        Ok(Some(Self {
            address,
            item,
            len,
            block: block.clone().unbind(),
        }))
    }

    /// What lies at `index`, which is below `len`.
    #[inline]
    fn load(&self, index: usize) -> u64 {
        assert!(index < self.len);
        // SAFETY: `new` has seen that `len` items lie within the block and are aligned; the block
        // is ours. Others read and write the memory at the same time, as processes that share
        // it do: hence the atomic access.
        unsafe {
            match self.item.size() {
                1 => (*self.address.add(index).cast::<AtomicU8>())
                    .load(Relaxed)
                    .into(),
                2 => (*self.address.add(2 * index).cast::<AtomicU16>())
                    .load(Relaxed)
                    .into(),
                4 => (*self.address.add(4 * index).cast::<AtomicU32>())
                    .load(Relaxed)
                    .into(),
                _ => (*self.address.add(8 * index).cast::<AtomicU64>()).load(Relaxed),
            }
        }
    }

    /// Writes the low bits of `bits` at `index`, which is below `len`.
    #[inline]
    fn store(&self, index: usize, bits: u64) {
        // SAFETY: it is the cells' item.
        unsafe { self.store_as(self.item, index, bits) };
    }

    /// As `store`, for callers that know the item.
    ///
    /// # Safety
    /// `item` is the cells' item.
    #[inline(always)]
    unsafe fn store_as(&self, item: Item, index: usize, bits: u64) {
        assert!(index < self.len);
        // SAFETY: as in `load`.
        unsafe { store(self.address, item, index, bits) };
    }

    /// The place that an exact int names, counted from the end if negative; `None` for all others.
    #[inline]
    fn place(&self, index: &Bound<'_, PyAny>) -> Option<usize> {
        let index: isize = index.cast_exact::<PyInt>().ok()?.extract().ok()?;
        let index = if index < 0 {
            index.checked_add_unsigned(self.len)?
        } else {
            index
        };
        usize::try_from(index)
            .ok()
            .filter(|index| *index < self.len)
    }

    /// The places of a slice: the first, the way to the next, how many.
    fn places(&self, slice: &Bound<'_, PySlice>) -> PyResult<Stretch> {
        let found = slice.indices(self.len as isize)?;
        Ok(Stretch {
            first: found.start,
            step: found.step,
            len: found.slicelength,
        })
    }

    /// Writes the items of an exact list or tuple, in order. Whether that was all: an item for
    /// which `ctypes` must be asked ends it.
    fn fill(&self, stretch: Stretch, values: &Bound<'_, PyAny>) -> bool {
        if let Ok(tuple) = values.cast_exact::<PyTuple>() {
            return tuple.len() == stretch.len && self.write(stretch, tuple.iter_borrowed());
        }
        let Ok(list) = values.cast_exact::<PyList>() else {
            return false;
        };
        let items = (0..stretch.len).map(|n| {
            // SAFETY: the list is as long as the stretch, holds its items, and stays as it is, as
            // no Python code runs until the last of them is written.
            unsafe {
                let item = ffi::PyList_GetItem(list.as_ptr(), n as ffi::Py_ssize_t);
                Borrowed::from_ptr(list.py(), item)
            }
        });
        list.len() == stretch.len && self.write(stretch, items)
    }

    /// As `fill`, which runs no Python code.
    fn write<'a, 'py: 'a>(
        &self,
        stretch: Stretch,
        values: impl Iterator<Item = Borrowed<'a, 'py, PyAny>>,
    ) -> bool {
        // Where the compiler knows the item, its loop has no decisions.
        // SAFETY: it is the cells' item.
        unsafe {
            match self.item {
                item @ Item::Double => self.write_all(item, stretch, values),
                item @ Item::Signed(4) => self.write_all(item, stretch, values),
                item => self.write_all(item, stretch, values),
            }
        }
    }

    /// # Safety
    /// `item` is the cells' item.
    #[inline(always)]
    unsafe fn write_all<'a, 'py: 'a>(
        &self,
        item: Item,
        stretch: Stretch,
        values: impl Iterator<Item = Borrowed<'a, 'py, PyAny>>,
    ) -> bool {
        let is_long = stretch.step == 1 && stretch.len * item.size() >= CHUNK;
        if is_long && self.block.get().is_fresh() {
            return self.write_chunks(item, stretch, values);
        }
        for (place, value) in stretch.places().zip(values) {
            let Some(bits) = item.encode(&value) else {
                return false;
            };
            // SAFETY: the caller's promise.
            unsafe { self.store_as(item, place, bits) };
        }
        true
    }

    /// As `write_all`, for memory that nobody has touched: each chunk of it is made elsewhere.
    #[inline(always)]
    fn write_chunks<'a, 'py: 'a>(
        &self,
        item: Item,
        stretch: Stretch,
        mut values: impl Iterator<Item = Borrowed<'a, 'py, PyAny>>,
    ) -> bool {
        let mut chunk = [0_u64; CHUNK / 8];
        let mut at = stretch.first as usize * item.size();
        loop {
            let mut len = 0;
            for value in values.by_ref().take(CHUNK / item.size()) {
                let Some(bits) = item.encode(&value) else {
                    return false;
                };
                // SAFETY: no more items than fit the chunk.
                unsafe { store(chunk.as_mut_ptr().cast(), item, len, bits) };
                len += 1;
            }
            if len == 0 {
                return true;
            }
            // SAFETY: the chunk is all initialised, and that many bytes long.
            let bytes = unsafe { slice::from_raw_parts(chunk.as_ptr().cast(), len * item.size()) };
            self.block.get().write_fresh(at, bytes);
            at += bytes.len();
        }
    }

    /// The items at these places as a list. Equal neighbours are one object.
    fn list<'py>(&self, py: Python<'py>, stretch: Stretch) -> PyResult<Bound<'py, PyAny>> {
        let mut last = None;
        let items = stretch.places().map(|place| {
            let bits = self.load(place);
            match &last {
                Some((same, object)) if *same == bits => Bound::clone(object),
                _ => {
                    // There is one for every item of which slices are lists.
                    let object = self.item.decode(py, bits);
                    let object = object.unwrap_or_else(|| py.None().into_bound(py));
                    last = Some((bits, object.clone()));
                    object
                }
            }
        });
        PyList::new(py, items).map(Bound::into_any)
    }
}

/// The places of a slice.
#[derive(Clone, Copy)]
struct Stretch {
    first: isize,
    step: isize,
    len: usize,
}

impl Stretch {
    fn places(self) -> impl ExactSizeIterator<Item = usize> {
        (0..self.len).map(move |n| (self.first + self.step * n as isize) as usize)
    }
}

/// What a wrapper holds.
struct Parts {
    object: Py<PyAny>,
    lock: Py<PyAny>,
    /// The lock once more, if it is an engine's with the engine's methods.
    own: Option<Py<Lock>>,
    /// The memory of `object`, if its type is one that this file knows.
    cells: Option<Cells>,
}

/// A lock's class whose methods are the engine's: the package's RLock, most often.
static PLAIN_CLASS: OnceLock<Py<PyType>> = OnceLock::new();

/// The engine's lock behind `lock`, unless its class has put methods of its own in place of those.
fn own<'a, 'py>(lock: &'a Bound<'py, PyAny>) -> PyResult<Option<&'a Bound<'py, Lock>>> {
    let Ok(own) = lock.cast::<Lock>() else {
        return Ok(None);
    };
    let py = lock.py();
    let class = lock.get_type();
    if PLAIN_CLASS.get().is_some_and(|plain| plain.is(&class)) {
        return Ok(Some(own));
    }
    let engine = py.get_type::<Lock>();
    for method in [
        intern!(py, "acquire"),
        intern!(py, "release"),
        intern!(py, "__enter__"),
        intern!(py, "__exit__"),
    ] {
        if !quick::is_native(&class.getattr(method)?, &engine)? {
            return Ok(None);
        }
    }
    let _ = PLAIN_CLASS.set(class.unbind());
    Ok(Some(own))
}

/// An object and its lock: base of all wrappers.
#[pyclass(module = "sidestep._sidestep", frozen, subclass)]
pub struct Guarded {
    parts: OnceLock<Parts>,
}

impl Guarded {
    #[inline]
    fn parts(&self) -> PyResult<&Parts> {
        self.parts.get().ok_or_else(|| {
            PyRuntimeError::new_err("the wrapper is not initialised: call super().__init__()")
        })
    }

    /// Does `act` while the lock is held.
    #[inline]
    fn locked<T>(&self, py: Python<'_>, act: impl FnOnce(&Parts) -> PyResult<T>) -> PyResult<T> {
        let parts = self.parts()?;
        match &parts.own {
            Some(lock) => {
                let lock = lock.get();
                lock.take(py, true, None)?;
                let done = act(parts);
                lock.give()?;
                done
            }
            None => {
                let lock = parts.lock.bind(py);
                lock.call_method0(intern!(py, "acquire"))?;
                let done = act(parts);
                lock.call_method0(intern!(py, "release"))?;
                done
            }
        }
    }

    fn read_attribute<'py>(
        &self,
        py: Python<'py>,
        name: &Bound<'py, PyString>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.locked(py, |parts| parts.object.bind(py).getattr(name))
    }

    fn write_attribute(
        &self,
        name: &Bound<'_, PyString>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let py = value.py();
        self.locked(py, |parts| parts.object.bind(py).setattr(name, value))
    }
}

#[pymethods]
impl Guarded {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self {
            parts: OnceLock::new(),
        }
    }

    /// Holds an object and its lock; `memory` says where the object lies, if that is known.
    #[pyo3(signature = (object, lock, memory))]
    fn _guard(
        &self,
        object: Bound<'_, PyAny>,
        lock: Bound<'_, PyAny>,
        memory: Option<(Bound<'_, Block>, char, usize)>,
    ) -> PyResult<()> {
        let cells = match memory {
            Some((block, letter, len)) => Cells::new(&block, letter, len)?,
            None => None,
        };
        let own = own(&lock)?.map(|own| own.clone().unbind());
        let parts = Parts {
            object: object.unbind(),
            lock: lock.unbind(),
            own,
            cells,
        };
        self.parts
            .set(parts)
            .map_err(|_| PyRuntimeError::new_err("the wrapper holds an object already"))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(parts) = self.parts.get() {
            visit.call(&parts.object)?;
            visit.call(&parts.lock)?;
            visit.call(&parts.own)?;
            if let Some(cells) = &parts.cells {
                visit.call(&cells.block)?;
            }
        }
        Ok(())
    }

    #[getter]
    fn _obj(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.parts()?.object.clone_ref(py))
    }

    #[getter]
    fn _lock(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.parts()?.lock.clone_ref(py))
    }

    /// The object itself: whoever uses it must think of the lock.
    fn get_obj(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self._obj(py)
    }

    /// The lock, for more than one access at a time.
    fn get_lock(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self._lock(py)
    }

    /// The lock's own method.
    #[getter]
    fn acquire<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.parts()?.lock.bind(py).getattr(intern!(py, "acquire"))
    }

    /// The lock's own method.
    #[getter]
    fn release<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.parts()?.lock.bind(py).getattr(intern!(py, "release"))
    }

    fn __enter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let parts = self.parts()?;
        match &parts.own {
            Some(lock) => {
                let taken = lock.get().take(py, true, None)?;
                Ok(PyBool::new(py, taken).to_owned().into_any())
            }
            None => parts.lock.bind(py).call_method0(intern!(py, "__enter__")),
        }
    }

    #[pyo3(signature = (kind=None, error=None, traceback=None))]
    fn __exit__<'py>(
        &self,
        py: Python<'py>,
        kind: Option<Bound<'py, PyAny>>,
        error: Option<Bound<'py, PyAny>>,
        traceback: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let parts = self.parts()?;
        match &parts.own {
            Some(lock) => {
                lock.get().leave(py, kind.as_ref())?;
                Ok(py.None().into_bound(py))
            }
            None => {
                let lock = parts.lock.bind(py);
                lock.call_method1(intern!(py, "__exit__"), (kind, error, traceback))
            }
        }
    }
}

/// One number or character.
#[pyclass(module = "sidestep._sidestep", frozen, subclass, extends = Guarded)]
pub struct GuardedValue;

#[pymethods]
impl GuardedValue {
    #[new]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyClassInitializer<Self> {
        PyClassInitializer::from(Guarded::new(args, kwargs)).add_subclass(Self)
    }

    #[getter]
    fn value<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let (py, guarded) = (slf.py(), slf.as_super().get());
        if let Some(cells) = &guarded.parts()?.cells {
            let bits = guarded.locked(py, |_| Ok(cells.load(0)))?;
            if let Some(value) = cells.item.decode(py, bits) {
                return Ok(value);
            }
        }
        guarded.read_attribute(py, intern!(py, "value"))
    }

    #[setter]
    fn set_value(slf: &Bound<'_, Self>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, guarded) = (slf.py(), slf.as_super().get());
        if let Some(cells) = &guarded.parts()?.cells
            && let Some(bits) = cells.item.encode(value)
        {
            return guarded.locked(py, |_| {
                cells.store(0, bits);
                Ok(())
            });
        }
        guarded.write_attribute(intern!(py, "value"), value)
    }
}

/// An array.
#[pyclass(module = "sidestep._sidestep", frozen, subclass, extends = Guarded)]
pub struct GuardedArray;

#[pymethods]
impl GuardedArray {
    #[new]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyClassInitializer<Self> {
        PyClassInitializer::from(Guarded::new(args, kwargs)).add_subclass(Self)
    }

    fn __len__(slf: &Bound<'_, Self>) -> PyResult<usize> {
        let parts = slf.as_super().get().parts()?;
        match &parts.cells {
            Some(cells) => Ok(cells.len),
            None => parts.object.bind(slf.py()).len(),
        }
    }

    fn __getitem__<'py>(
        slf: &Bound<'py, Self>,
        index: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, guarded) = (slf.py(), slf.as_super().get());
        if let Some(cells) = &guarded.parts()?.cells {
            if let Some(place) = cells.place(index) {
                let bits = guarded.locked(py, |_| Ok(cells.load(place)))?;
                if let Some(value) = cells.item.decode(py, bits) {
                    return Ok(value);
                }
            } else if let Ok(slice) = index.cast::<PySlice>()
                && cells.item.makes_lists()
            {
                let stretch = cells.places(slice)?;
                return guarded.locked(py, |_| cells.list(py, stretch));
            }
        }
        guarded.locked(py, |parts| parts.object.bind(py).get_item(index))
    }

    fn __setitem__(
        slf: &Bound<'_, Self>,
        index: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (py, guarded) = (slf.py(), slf.as_super().get());
        if let Some(cells) = &guarded.parts()?.cells {
            if let Some(place) = cells.place(index) {
                if let Some(bits) = cells.item.encode(value) {
                    return guarded.locked(py, |_| {
                        cells.store(place, bits);
                        Ok(())
                    });
                }
            } else if let Ok(slice) = index.cast::<PySlice>() {
                let stretch = cells.places(slice)?;
                return guarded.locked(py, |parts| {
                    if cells.fill(stretch, value) {
                        return Ok(());
                    }
                    parts.object.bind(py).set_item(index, value)
                });
            }
        }
        guarded.locked(py, |parts| parts.object.bind(py).set_item(index, value))
    }

    fn __delitem__(&self, _index: &Bound<'_, PyAny>) -> PyResult<()> {
        Err(PyAttributeError::new_err(
            "items of a shared array cannot be deleted: its length is fixed",
        ))
    }
}

/// An array of bytes that are characters.
#[pyclass(module = "sidestep._sidestep", frozen, subclass, extends = GuardedArray)]
pub struct GuardedString;

#[pymethods]
impl GuardedString {
    #[new]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyClassInitializer<Self> {
        GuardedArray::new(args, kwargs).add_subclass(Self)
    }

    #[getter]
    fn value<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        guarded(slf).read_attribute(py, intern!(py, "value"))
    }

    #[setter]
    fn set_value(slf: &Bound<'_, Self>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        guarded(slf).write_attribute(intern!(slf.py(), "value"), value)
    }

    #[getter]
    fn raw<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        guarded(slf).read_attribute(py, intern!(py, "raw"))
    }

    #[setter]
    fn set_raw(slf: &Bound<'_, Self>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        guarded(slf).write_attribute(intern!(slf.py(), "raw"), value)
    }
}

fn guarded<'a>(string: &'a Bound<'_, GuardedString>) -> &'a Guarded {
    string.as_super().as_super().get()
}

/// Writes the items of a list or tuple, which fill a new block, into it. Whether that was all: if not, `ctypes`
/// has to be asked.
#[pyfunction]
fn fill(block: &Bound<'_, Block>, letter: char, values: &Bound<'_, PyAny>) -> PyResult<bool> {
    let len = values.len()?;
    let whole = Stretch {
        first: 0,
        step: 1,
        len,
    };
    let cells = Cells::new(block, letter, len)?;
    Ok(cells.is_some_and(|cells| cells.fill(whole, values)))
}

// --- the short ways -----------------------------------------------------------------------------

// SAFETY of all of these: the interpreter calls them, attached, with an instance of the class that
// they are listed for below, and with values that are alive.

static GET_LOCK: [Quick; 1] = [Quick::new(c"get_lock", Function::Plain(get_lock))];

static VALUE: QuickAttribute = QuickAttribute::new(c"value", get_value, set_value);

impl Guarded {
    /// Does `act` while the lock is held, if it is the engine's and to be had at once.
    #[inline]
    fn locked_quickly<T>(&self, act: impl FnOnce(&Cells) -> T) -> Option<T> {
        let parts = self.parts.get()?;
        let lock = parts.own.as_ref()?.get();
        let cells = parts.cells.as_ref()?;
        if lock.is_held_here() {
            return Some(act(cells));
        }
        if !lock.take_quickly() {
            return None;
        }
        let done = act(cells);
        // Just taken: only the account of locks without an object can be in the way.
        if lock.give_quickly() || lock.give().is_ok() {
            Some(done)
        } else {
            None
        }
    }
}

unsafe extern "C" fn get_lock(slf: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: see above.
    unsafe {
        match instance::<Guarded>(slf).parts.get() {
            Some(parts) => ffi::Py_NewRef(parts.lock.as_ptr()),
            None => GET_LOCK[0].in_full_plain(slf),
        }
    }
}

unsafe extern "C" fn get_value(slf: *mut PyObject, _: *mut c_void) -> *mut PyObject {
    // SAFETY: see above; a `GuardedValue` begins with the `Guarded` that it extends.
    unsafe {
        let read = instance::<Guarded>(slf).locked_quickly(|cells| (cells.item, cells.load(0)));
        match read {
            Some((Item::Signed(4), bits)) => ffi::PyLong_FromLong((bits as i32).into()),
            Some((Item::Signed(8), bits)) => ffi::PyLong_FromLongLong(bits.cast_signed()),
            Some((Item::Double, bits)) => ffi::PyFloat_FromDouble(f64::from_bits(bits)),
            _ => VALUE.get_in_full(slf),
        }
    }
}

unsafe extern "C" fn set_value(slf: *mut PyObject, value: *mut PyObject, _: *mut c_void) -> c_int {
    // SAFETY: see above.
    unsafe {
        let guarded = instance::<Guarded>(slf);
        let cells = guarded.parts.get().and_then(|parts| parts.cells.as_ref());
        if !value.is_null()
            && let Some(cells) = cells
            && let Some(bits) = cells
                .item
                .encode(&Borrowed::from_ptr(Python::assume_attached(), value))
            && guarded
                .locked_quickly(|cells| cells.store(0, bits))
                .is_some()
        {
            return 0;
        }
        VALUE.set_in_full(slf, value)
    }
}

/// See [`crate::own_methods`].
///
/// # Errors
/// Out of memory.
pub fn give_own_methods(class: &Bound<'_, PyType>) -> PyResult<()> {
    quick::give::<Guarded>(class, &GET_LOCK)?;
    quick::give_attribute::<GuardedValue>(class, &VALUE)
}

/// Adds this file's part of the module.
///
/// # Errors
/// Out of memory.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Guarded>()?;
    m.add_class::<GuardedValue>()?;
    m.add_class::<GuardedArray>()?;
    m.add_class::<GuardedString>()?;
    m.add_function(wrap_pyfunction!(fill, m)?)
}
