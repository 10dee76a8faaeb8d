//! From the compact encoding back to objects.
//!
//! The bytes come from another process, so nothing about them is believed: each length is compared
//! with what is left before memory is asked for, and nesting is bounded.

use pyo3::exceptions::PyMemoryError;
use pyo3::ffi;
use pyo3::import_exception;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyModule, PyString};

use super::format::*;
use super::gil::GilCell;
use super::message::View;

import_exception!(pickle, UnpicklingError);

/// Contents that came beside the head.
pub(super) enum Beside<'a, 'py> {
    /// An object with the buffer protocol, which becomes the receiver's.
    Object(Bound<'py, PyAny>),
    /// Memory to copy from.
    Memory(&'a [u8]),
}

/// Decodes one object that fills the head and uses all that came beside it.
pub(super) fn decode<'a, 'py>(
    py: Python<'py>,
    head: &'a [u8],
    buffers: impl Iterator<Item = Beside<'a, 'py>>,
) -> PyResult<Bound<'py, PyAny>> {
    let mut decoder = Decoder {
        py,
        rest: head,
        buffers,
    };
    let result = decoder.value(0);
    let Decoder {
        rest, mut buffers, ..
    } = decoder;
    match result {
        Ok(value) if rest.is_empty() && buffers.next().is_none() => Ok(value),
        Ok(_) | Err(Failure::Malformed) => Err(UnpicklingError::new_err(
            "these bytes are no message of this version of sidestep",
        )),
        Err(Failure::Raised) => Err(PyErr::take(py)
            .unwrap_or_else(|| PyMemoryError::new_err("not enough memory to rebuild an object"))),
    }
}

/// Why decoding stopped. Kept small: it travels through every level.
enum Failure {
    /// The bytes make no sense.
    Malformed,
    /// The interpreter's error indicator is set.
    Raised,
}

type Decoded<T> = Result<T, Failure>;

struct Decoder<'a, 'py, B> {
    py: Python<'py>,
    rest: &'a [u8],
    buffers: B,
}

impl<'a, 'py, B: Iterator<Item = Beside<'a, 'py>>> Decoder<'a, 'py, B> {
    #[inline]
    fn take(&mut self, len: usize) -> Decoded<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Failure::Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Decoded<[u8; N]> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(Failure::Malformed)?;
        self.rest = rest;
        Ok(*taken)
    }

    #[inline]
    fn length_1(&mut self) -> Decoded<usize> {
        Ok(usize::from(self.array::<1>()?[0]))
    }

    #[inline]
    fn length_4(&mut self) -> Decoded<usize> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    /// Takes over a new reference from the C API; null means that it has raised.
    ///
    /// # Safety
    ///
    /// `new` is null, or a reference that the caller owns.
    #[inline]
    unsafe fn owned(&self, new: *mut ffi::PyObject) -> Decoded<Bound<'py, PyAny>> {
        if new.is_null() {
            return Err(Failure::Raised);
        }
        // SAFETY: not null, and owned as the caller says.
        Ok(unsafe { Bound::from_owned_ptr(self.py, new) })
    }

    fn value(&mut self, depth: usize) -> Decoded<Bound<'py, PyAny>> {
        let tag = self.array::<1>()?[0];
        match tag {
            NONE => Ok(self.py.None().into_bound(self.py)),
            TRUE => Ok(self.bool(true)),
            FALSE => Ok(self.bool(false)),
            INT_1 => {
                let value = i8::from_le_bytes(self.array()?);
                self.int(value.into())
            }
            INT_4 => {
                let value = i32::from_le_bytes(self.array()?);
                self.int(value.into())
            }
            INT_8 => {
                let value = i64::from_le_bytes(self.array()?);
                self.int(value)
            }
            FLOAT => {
                let bits = u64::from_le_bytes(self.array()?);
                // SAFETY: makes a new reference or raises.
                unsafe { self.owned(ffi::PyFloat_FromDouble(f64::from_bits(bits))) }
            }
            STR_1 | STR_4 => {
                let len = if tag == STR_1 {
                    self.length_1()?
                } else {
                    self.length_4()?
                };
                let text = self.take(len)?;
                self.str(text)
            }
            NAME_1 => {
                let len = self.length_1()?;
                let text = self.take(len)?;
                self.name(text)
            }
            BYTES_1 | BYTES_4 => {
                let len = if tag == BYTES_1 {
                    self.length_1()?
                } else {
                    self.length_4()?
                };
                let bytes = self.take(len)?;
                self.bytes(bytes)
            }
            BYTEARRAY_4 => {
                let len = self.length_4()?;
                let bytes = self.take(len)?;
                self.bytearray(bytes)
            }
            STR_BUFFER | BYTES_BUFFER | BYTEARRAY_BUFFER => {
                let beside = self.buffers.next().ok_or(Failure::Malformed)?;
                match (tag, beside) {
                    (_, Beside::Object(buffer)) => self.beside(tag, buffer),
                    (BYTES_BUFFER, Beside::Memory(bytes)) => self.bytes(bytes),
                    (BYTEARRAY_BUFFER, Beside::Memory(bytes)) => self.bytearray(bytes),
                    (_, Beside::Memory(text)) => self.str(text),
                }
            }
            TUPLE_1 | TUPLE_4 | LIST_1 | LIST_4 | DICT_1 => {
                let len = match tag {
                    TUPLE_4 | LIST_4 => self.length_4()?,
                    _ => self.length_1()?,
                };
                // Each item takes at least a byte.
                if depth > MAX_DEPTH || len > self.rest.len() {
                    return Err(Failure::Malformed);
                }
                match tag {
                    TUPLE_1 | TUPLE_4 => self.tuple(len, depth),
                    LIST_1 | LIST_4 => self.list(len, depth),
                    _ => self.dict(len, depth),
                }
            }
            NUMBERS => {
                let [container, kind] = self.array()?;
                let len = self.length_4()?;
                let bytes = len.checked_mul(usize::from(kind & 0x7f));
                let row = self.take(bytes.ok_or(Failure::Malformed)?)?;
                self.numbers(container, kind, row)
            }
            GLOBAL => {
                let (module, name) = (self.key(depth)?, self.key(depth)?);
                self.global(&module, &name).map_err(|error| {
                    error.restore(self.py);
                    Failure::Raised
                })
            }
            _ => Err(Failure::Malformed),
        }
    }

    /// A container of numbers.
    fn numbers(&self, container: u8, kind: u8, row: &[u8]) -> Decoded<Bound<'py, PyAny>> {
        let ints_4 = |bytes: &[u8; 4]| self.int(i32::from_le_bytes(*bytes).into());
        let ints_8 = |bytes: &[u8; 8]| self.int(i64::from_le_bytes(*bytes));
        let floats = |bytes: &[u8; 8]| {
            // SAFETY: makes a new reference or raises.
            unsafe { self.owned(ffi::PyFloat_FromDouble(f64::from_le_bytes(*bytes))) }
        };
        match kind {
            INTS_4 => self.fill(container, row.as_chunks().0, ints_4),
            INTS_8 => self.fill(container, row.as_chunks().0, ints_8),
            FLOATS_8 => self.fill(container, row.as_chunks().0, floats),
            _ => Err(Failure::Malformed),
        }
    }

    fn fill<const N: usize>(
        &self,
        container: u8,
        row: &[[u8; N]],
        make: impl Fn(&[u8; N]) -> Decoded<Bound<'py, PyAny>>,
    ) -> Decoded<Bound<'py, PyAny>> {
        let len = row.len() as ffi::Py_ssize_t;
        // SAFETY: a new container each of whose places is filled once, as in `tuple`.
        unsafe {
            let (filled, set): (_, unsafe extern "C" fn(_, _, _) -> _) = match container {
                IN_TUPLE => (ffi::PyTuple_New(len), ffi::PyTuple_SetItem),
                IN_LIST => (ffi::PyList_New(len), ffi::PyList_SetItem),
                _ => return Err(Failure::Malformed),
            };
            let filled = self.owned(filled)?;
            for (index, bytes) in row.iter().enumerate() {
                if set(
                    filled.as_ptr(),
                    index as ffi::Py_ssize_t,
                    make(bytes)?.into_ptr(),
                ) != 0
                {
                    return Err(Failure::Raised);
                }
            }
            Ok(filled)
        }
    }

    /// What a module has under a name. Where that is not plain to see, pickle has to find it.
    fn global(
        &self,
        module: &Bound<'py, PyAny>,
        name: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Some(found) = global(module, name)? {
            return Ok(found);
        }
        // Protocol 4, two texts, "stack global", stop.
        let mut pickle = vec![PICKLE, 4];
        for text in [module, name] {
            let text = text.cast::<PyString>()?.to_str()?;
            pickle.push(b'X');
            pickle.extend((text.len() as u32).to_le_bytes());
            pickle.extend(text.as_bytes());
        }
        pickle.extend([0x93, b'.']);
        super::pickle::loads(&PyBytes::new(self.py, &pickle), Vec::new())
    }

    fn bool(&self, value: bool) -> Bound<'py, PyAny> {
        pyo3::types::PyBool::new(self.py, value)
            .to_owned()
            .into_any()
    }

    #[inline]
    fn int(&self, value: i64) -> Decoded<Bound<'py, PyAny>> {
        // SAFETY: makes a new reference or raises.
        unsafe { self.owned(ffi::PyLong_FromLongLong(value)) }
    }

    #[inline]
    fn str(&self, text: &[u8]) -> Decoded<Bound<'py, PyAny>> {
        // SAFETY: checks the slice and copies it into a new object, or raises.
        unsafe {
            self.owned(ffi::PyUnicode_DecodeUTF8(
                text.as_ptr().cast(),
                text.len() as ffi::Py_ssize_t,
                c"strict".as_ptr(),
            ))
        }
    }

    fn bytes(&self, bytes: &[u8]) -> Decoded<Bound<'py, PyAny>> {
        // SAFETY: copies the slice into a new object, or raises.
        unsafe {
            self.owned(ffi::PyBytes_FromStringAndSize(
                bytes.as_ptr().cast(),
                bytes.len() as ffi::Py_ssize_t,
            ))
        }
    }

    fn bytearray(&self, bytes: &[u8]) -> Decoded<Bound<'py, PyAny>> {
        // SAFETY: copies the slice into a new object, or raises.
        unsafe {
            self.owned(ffi::PyByteArray_FromStringAndSize(
                bytes.as_ptr().cast(),
                bytes.len() as ffi::Py_ssize_t,
            ))
        }
    }

    fn tuple(&mut self, len: usize, depth: usize) -> Decoded<Bound<'py, PyAny>> {
        // SAFETY: a new tuple, each of whose places is filled once with an owned reference
        // (PyTuple_SetItem takes it over, also when it fails). Until then a place is null, which the
        // interpreter knows to handle if an error throws the tuple away.
        unsafe {
            let tuple = self.owned(ffi::PyTuple_New(len as ffi::Py_ssize_t))?;
            for index in 0..len {
                let item = self.value(depth + 1)?.into_ptr();
                if ffi::PyTuple_SetItem(tuple.as_ptr(), index as ffi::Py_ssize_t, item) != 0 {
                    return Err(Failure::Raised);
                }
            }
            Ok(tuple)
        }
    }

    fn list(&mut self, len: usize, depth: usize) -> Decoded<Bound<'py, PyAny>> {
        // SAFETY: as for the tuple.
        unsafe {
            let list = self.owned(ffi::PyList_New(len as ffi::Py_ssize_t))?;
            for index in 0..len {
                let item = self.value(depth + 1)?.into_ptr();
                if ffi::PyList_SetItem(list.as_ptr(), index as ffi::Py_ssize_t, item) != 0 {
                    return Err(Failure::Raised);
                }
            }
            Ok(list)
        }
    }

    fn dict(&mut self, len: usize, depth: usize) -> Decoded<Bound<'py, PyAny>> {
        // SAFETY: makes a new reference or raises.
        let dict = unsafe { self.owned(ffi::PyDict_New())? };
        for _ in 0..len {
            let key = self.key(depth + 1)?;
            let value = self.value(depth + 1)?;
            // SAFETY: three live objects; the dictionary takes references of its own.
            let status =
                unsafe { ffi::PyDict_SetItem(dict.as_ptr(), key.as_ptr(), value.as_ptr()) };
            if status != 0 {
                return Err(Failure::Raised);
            }
        }
        Ok(dict)
    }

    /// A key: mostly a short string that was seen before.
    fn key(&mut self, depth: usize) -> Decoded<Bound<'py, PyAny>> {
        if let [STR_1, len, after @ ..] = self.rest
            && let Some((text, after)) = after.split_at_checked(usize::from(*len))
            && text.len() <= MAX_NAME
        {
            self.rest = after;
            return self.name(text);
        }
        self.value(depth)
    }

    /// A text that may have been seen before.
    #[inline]
    fn name(&self, text: &[u8]) -> Decoded<Bound<'py, PyAny>> {
        let Some(known) = Text::new(text) else {
            return self.str(text);
        };
        if let Some(name) = KEYS.get(self.py, &known) {
            return Ok(name);
        }
        let name = self.str(text)?;
        KEYS.put(self.py, known, &name);
        Ok(name)
    }

    /// The object whose contents came as a buffer of their own.
    fn beside(&self, tag: u8, buffer: Bound<'py, PyAny>) -> Decoded<Bound<'py, PyAny>> {
        match tag {
            // Immutable, or the receiver's own already: no copy.
            BYTES_BUFFER if buffer.is_exact_instance_of::<PyBytes>() => Ok(buffer),
            BYTEARRAY_BUFFER if buffer.is_exact_instance_of::<PyByteArray>() => Ok(buffer),
            // SAFETY: copies what a live object exports into a new one, or raises.
            BYTES_BUFFER => unsafe { self.owned(ffi::PyBytes_FromObject(buffer.as_ptr())) },
            // SAFETY: as for bytes.
            BYTEARRAY_BUFFER => unsafe { self.owned(ffi::PyByteArray_FromObject(buffer.as_ptr())) },
            _ => {
                let view = View::contiguous(&buffer).map_err(|error| {
                    error.restore(self.py);
                    Failure::Raised
                })?;
                let (start, len) = view.extent();
                // SAFETY: the view pins `len` bytes at `start`; the receiver alone has them.
                self.str(unsafe { std::slice::from_raw_parts(start, len) })
            }
        }
    }
}

/// What an imported module has under a name in its own namespace.
pub(super) fn global<'py>(
    module: &Bound<'py, PyAny>,
    name: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    // SAFETY: a dictionary that the interpreter keeps, borrowed and taken a reference of at once.
    let modules =
        unsafe { Bound::from_borrowed_ptr_or_opt(module.py(), ffi::PyImport_GetModuleDict()) };
    let Some(modules) = modules
        .as_ref()
        .and_then(|modules| modules.cast::<PyDict>().ok())
    else {
        return Ok(None);
    };
    match modules.get_item(module)? {
        // A class of its own may look names up in its own way.
        Some(found) if found.get_type_ptr() == &raw mut ffi::PyModule_Type => {
            found.cast::<PyModule>()?.dict().get_item(name)
        }
        _ => Ok(None),
    }
}

/// The keys of dictionaries repeat from message to message: making and hashing them anew is the
/// dearest part of decoding. One string is remembered per place; a new one pushes it out.
static KEYS: Keys = Keys([const { GilCell::new(None) }; 256]);

struct Keys([GilCell<Option<Known>>; 256]);

struct Known {
    text: Text,
    string: Py<PyAny>,
}

/// A short text in a form that is quick to compare: padded with zeros, the length in the last byte.
#[derive(PartialEq, Eq)]
struct Text([u64; 3]);

impl Text {
    #[inline]
    fn new(text: &[u8]) -> Option<Self> {
        let mut bytes = [0; MAX_NAME + 1];
        bytes[..MAX_NAME]
            .get_mut(..text.len())?
            .copy_from_slice(text);
        bytes[MAX_NAME] = text.len() as u8;
        let (words, _) = bytes.as_chunks::<8>();
        Some(Self(
            [0, 1, 2].map(|index| u64::from_ne_bytes(words[index])),
        ))
    }

    /// The place, from the top bits of a product: they depend on every bit of the text.
    #[inline]
    fn place(&self) -> usize {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15; // 2^64 divided by the golden ratio
        let [a, b, c] = self.0;
        let mixed = (a.rotate_left(5) ^ b).wrapping_mul(ODD).rotate_left(29) ^ c;
        (mixed.wrapping_mul(ODD) >> 56) as usize
    }
}

impl Keys {
    #[inline]
    fn get<'py>(&self, py: Python<'py>, text: &Text) -> Option<Bound<'py, PyAny>> {
        // SAFETY: comparing numbers and taking a reference runs no Python code.
        match unsafe { self.0[text.place()].peek(py) } {
            Some(known) if known.text == *text => Some(known.string.bind(py).clone()),
            _ => None,
        }
    }

    #[cold]
    fn put(&self, py: Python<'_>, text: Text, string: &Bound<'_, PyAny>) {
        let place = text.place();
        // What was there goes only now, outside of the cell.
        drop(self.0[place].replace(
            py,
            Some(Known {
                text,
                string: string.clone().unbind(),
            }),
        ));
    }
}
