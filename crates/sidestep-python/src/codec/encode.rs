//! From exact built-in types to the compact encoding.
//!
//! The result must be what pickle's would be, so only exact types are taken (a subclass has a type to
//! bring along), and an object that is reachable twice is left to pickle, which keeps it one object.
//! That is told by addresses: a message has few objects, and those seen so far are compared. (The
//! usual test, a reference count of one, would refuse every object that a local variable still holds.)
//! Short strings are not compared: whether two equal strings are one object is the interpreter's whim.
//!
//! While this runs no Python code does, hence nothing changes or goes away: every type here is
//! known, the interpreter lock stays held, and no object is created. (The one exception: text with
//! lone surrogates raises, and then the encoder gives up without another look at its input.)

use std::mem::MaybeUninit;
use std::ptr;

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyByteArray, PyString, PyTuple, PyType};

use super::OUT_OF_BAND_BYTES;
use super::decode::global;
use super::format::*;
use super::message::{Head, Message, OutOfBand};

/// Encodes the object, or gives up on it (None): then pickle has to do it.
pub(super) fn encode(obj: &Bound<'_, PyAny>) -> Option<Message> {
    let mut encoder = Encoder::new(obj.py());
    // SAFETY: the object is alive, as is everything that it holds, since no Python code runs.
    let encoded = unsafe { encoder.value(obj.as_ptr(), 0) };
    encoder.finish(encoded)
}

/// Encodes a tuple of names, as those of methods are, and arguments: positional ones, and by keyword;
/// no keywords become None.
pub(super) fn encode_call(
    names: [&Bound<'_, PyAny>; 2],
    args: &Bound<'_, PyAny>,
    kwds: &Bound<'_, PyAny>,
) -> Option<Message> {
    let mut encoder = Encoder::new(args.py());
    encoder.head.tagged(TUPLE_1, [4]);
    // SAFETY: as in `encode`.
    let encoded = unsafe {
        encoder
            .name(names[0].as_ptr())
            .and_then(|()| encoder.name(names[1].as_ptr()))
            .and_then(|()| encoder.value(args.as_ptr(), 1))
            .and_then(|()| encoder.keywords(kwds.as_ptr()))
    };
    encoder.finish(encoded)
}

/// Encodes a task: a tuple of what to call, its arguments and keywords. What is called, and the first
/// of a pair that is the only argument (the pools' mappers take such), may be a function or a class
/// that goes by its name.
pub(super) fn encode_task(task: &Bound<'_, PyAny>) -> Option<Message> {
    let parts = task.cast_exact::<PyTuple>().ok()?;
    let mut encoder = Encoder::new(task.py());
    // First: to look names up may run code.
    encoder.named[0] = Some(Named::find(&parts.get_item(0).ok()?)?);
    if let Some(item) = first_of_pair(&parts.get_item(1).ok()?) {
        encoder.named[1] = Named::find(&item);
    }
    // SAFETY: as in `encode`.
    let encoded = unsafe { encoder.value(task.as_ptr(), 0) };
    encoder.finish(encoded)
}

/// The first of the pair that is the only one of these arguments.
fn first_of_pair<'py>(args: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    let args = args.cast_exact::<PyTuple>().ok()?;
    if args.len() != 1 {
        return None;
    }
    let pair = args.get_item(0).ok()?;
    let pair = pair.cast_exact::<PyTuple>().ok()?;
    if pair.len() == 2 {
        pair.get_item(0).ok()
    } else {
        None
    }
}

/// A function or a class that its module has under its name, so that pickle would send the names,
/// and no reducer or class has a say in it.
struct Named<'py> {
    object: Bound<'py, PyAny>,
    module: Bound<'py, PyAny>,
    name: Bound<'py, PyAny>,
}

impl<'py> Named<'py> {
    fn find(object: &Bound<'py, PyAny>) -> Option<Self> {
        static FUNCTION: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        let py = object.py();
        let find = || -> PyResult<Option<Self>> {
            let kind = object.get_type_ptr();
            let function = FUNCTION.import(py, "types", "FunctionType")?;
            // A class whose class is another has a say in how it is pickled.
            if kind != function.as_type_ptr() && kind != &raw mut ffi::PyType_Type {
                return Ok(None);
            }
            let module = object.getattr(intern!(py, "__module__"))?;
            let name = object.getattr(intern!(py, "__qualname__"))?;
            if !module.is_exact_instance_of::<PyString>()
                || !name.is_exact_instance_of::<PyString>()
            {
                return Ok(None);
            }
            let found = global(&module, &name)?;
            Ok(found.filter(|found| found.is(object)).map(|object| Self {
                object,
                module,
                name,
            }))
        };
        find().ok().flatten()
    }
}

/// The bytes of ints in a row, if they fit, and which they are.
///
/// # Safety
///
/// As for `Encoder::numbers`; all items are ints.
unsafe fn ints(
    len: ffi::Py_ssize_t,
    item: impl Fn(ffi::Py_ssize_t) -> *mut ffi::PyObject,
) -> Option<(u8, Vec<u8>)> {
    let value = |index| {
        let mut overflow = 0;
        // SAFETY: as the caller promises; no error is possible but the overflow, which is told apart.
        let value = unsafe { ffi::PyLong_AsLongLongAndOverflow(item(index), &mut overflow) };
        (overflow == 0).then_some(value)
    };
    let values = (0..len).map(value).collect::<Option<Vec<i64>>>()?;
    let short = |value: &i64| i32::try_from(*value).ok().map(i32::to_le_bytes);
    Some(match values.iter().map(short).collect::<Option<Vec<_>>>() {
        Some(row) => (INTS_4, row.into_flattened()),
        None => {
            let row: Vec<_> = values.into_iter().map(i64::to_le_bytes).collect();
            (INTS_8, row.into_flattened())
        }
    })
}

/// The object is not for this encoding.
struct GaveUp;

type Encoded = Result<(), GaveUp>;

struct Encoder<'py> {
    py: Python<'py>,
    head: Head,
    buffers: Vec<OutOfBand>,
    /// Objects that must not occur a second time; the first `seen_len` places are filled.
    seen: [MaybeUninit<*mut ffi::PyObject>; MAX_OBJECTS],
    seen_len: usize,
    objects: usize,
    scalars: usize,
    /// What goes by its name.
    named: [Option<Named<'py>>; 2],
}

impl<'py> Encoder<'py> {
    #[inline]
    fn new(py: Python<'py>) -> Self {
        Self {
            py,
            head: Head::new(),
            buffers: Vec::new(),
            seen: [const { MaybeUninit::uninit() }; MAX_OBJECTS],
            seen_len: 0,
            objects: 0,
            scalars: 0,
            named: [None, None],
        }
    }

    #[inline]
    fn finish(self, encoded: Encoded) -> Option<Message> {
        encoded.ok().map(|()| Message {
            head: self.head,
            buffers: self.buffers,
        })
    }

    /// A text that many messages have; any other object as usual.
    ///
    /// # Safety
    ///
    /// As for `value`.
    unsafe fn name(&mut self, obj: *mut ffi::PyObject) -> Encoded {
        let start = self.head.len();
        // SAFETY: as the caller promises.
        unsafe { self.value(obj, 1)? };
        self.head.turn_into_name(start);
        Ok(())
    }

    /// A dictionary, or None in place of an empty one.
    ///
    /// # Safety
    ///
    /// As for `value`.
    unsafe fn keywords(&mut self, obj: *mut ffi::PyObject) -> Encoded {
        // SAFETY: as the caller promises; an exact dictionary is asked for its size.
        unsafe {
            let is_dict = ffi::Py_TYPE(obj) == &raw mut ffi::PyDict_Type;
            if is_dict && ffi::PyDict_Size(obj) == 0 {
                self.atom(NONE)
            } else {
                self.value(obj, 1)
            }
        }
    }

    /// # Safety
    ///
    /// `obj` and all that it holds stays alive and unchanged: true while no Python code runs.
    unsafe fn value(&mut self, obj: *mut ffi::PyObject, depth: usize) -> Encoded {
        // SAFETY: as the caller promises; each branch has tested the exact type that its call wants.
        unsafe {
            let kind = ffi::Py_TYPE(obj);
            if kind == &raw mut ffi::PyLong_Type {
                self.int(obj)
            } else if kind == &raw mut ffi::PyUnicode_Type {
                self.str(obj)
            } else if kind == &raw mut ffi::PyFloat_Type {
                self.scalar()?;
                let value = ffi::PyFloat_AsDouble(obj);
                self.head.tagged(FLOAT, value.to_bits().to_le_bytes());
                Ok(())
            } else if obj == ffi::Py_None() {
                self.atom(NONE)
            } else if obj == ffi::Py_True() {
                self.atom(TRUE)
            } else if obj == ffi::Py_False() {
                self.atom(FALSE)
            } else if kind == &raw mut ffi::PyBytes_Type {
                self.bytes(obj)
            } else if kind == &raw mut ffi::PyTuple_Type {
                self.tuple(obj, depth)
            } else if kind == &raw mut ffi::PyList_Type {
                self.list(obj, depth)
            } else if kind == &raw mut ffi::PyDict_Type {
                self.dict(obj, depth)
            } else if kind == &raw mut ffi::PyByteArray_Type {
                self.bytearray(obj)
            } else {
                self.global(obj)
            }
        }
    }

    /// # Safety
    ///
    /// As for `value`.
    unsafe fn global(&mut self, obj: *mut ffi::PyObject) -> Encoded {
        let is_it = |named: &&Named<'_>| named.object.as_ptr() == obj;
        let named = self.named.iter().flatten().find(is_it).ok_or(GaveUp)?;
        let names = [named.module.as_ptr(), named.name.as_ptr()];
        self.object()?;
        self.head.push(GLOBAL);
        for name in names {
            // SAFETY: as the caller promises; `named` holds the names.
            unsafe { self.name(name)? };
        }
        Ok(())
    }

    fn atom(&mut self, tag: u8) -> Encoded {
        self.scalar()?;
        self.head.push(tag);
        Ok(())
    }

    fn scalar(&mut self) -> Encoded {
        self.scalars += 1;
        if self.scalars > MAX_SCALARS {
            Err(GaveUp)
        } else {
            Ok(())
        }
    }

    fn object(&mut self) -> Encoded {
        self.objects += 1;
        if self.objects > MAX_OBJECTS {
            Err(GaveUp)
        } else {
            Ok(())
        }
    }

    /// Gives up on an object that was met before.
    fn once(&mut self, obj: *mut ffi::PyObject) -> Encoded {
        let known = self.seen[..self.seen_len].iter().any(|other| {
            // SAFETY: the places below `seen_len` have been filled.
            unsafe { other.assume_init() == obj }
        });
        if known {
            return Err(GaveUp);
        }
        // `object` has counted it, so there is room; checked all the same.
        self.seen.get_mut(self.seen_len).ok_or(GaveUp)?.write(obj);
        self.seen_len += 1;
        Ok(())
    }

    /// # Safety
    ///
    /// As for `value`; the object is an int.
    unsafe fn int(&mut self, obj: *mut ffi::PyObject) -> Encoded {
        self.scalar()?;
        let mut overflow = 0;
        // SAFETY: an exact int; no error is possible but the overflow, which is told apart.
        let value = unsafe { ffi::PyLong_AsLongLongAndOverflow(obj, &mut overflow) };
        if overflow != 0 {
            return Err(GaveUp);
        }
        if let Ok(short) = i8::try_from(value) {
            self.head.tagged(INT_1, short.to_le_bytes());
        } else if let Ok(middle) = i32::try_from(value) {
            self.head.tagged(INT_4, middle.to_le_bytes());
        } else {
            self.head.tagged(INT_8, value.to_le_bytes());
        }
        Ok(())
    }

    /// # Safety
    ///
    /// As for `value`; the object is a str.
    unsafe fn str(&mut self, obj: *mut ffi::PyObject) -> Encoded {
        self.object()?;
        let mut len = 0;
        // SAFETY: an exact str. The UTF-8 form belongs to it and lives as long.
        let start = unsafe { ffi::PyUnicode_AsUTF8AndSize(obj, &mut len) };
        // From 3.13 on a failure sets the length to -1 as well: look at the pointer first.
        if start.is_null() {
            // Lone surrogates, or no memory: pickle says which.
            // SAFETY: the interpreter lock is held.
            unsafe { ffi::PyErr_Clear() };
            return Err(GaveUp);
        }
        let len = usize::try_from(len).map_err(|_| GaveUp)?;
        // SAFETY: `len` bytes at `start`, alive and immutable as long as the object.
        unsafe { self.contents(obj, start.cast(), len, [STR_1, STR_4, STR_BUFFER]) }
    }

    /// # Safety
    ///
    /// As for `value`; the object is a bytes.
    unsafe fn bytes(&mut self, obj: *mut ffi::PyObject) -> Encoded {
        self.object()?;
        // SAFETY: an exact bytes object.
        let (start, len) = unsafe { (ffi::PyBytes_AsString(obj), ffi::PyBytes_Size(obj)) };
        let len = usize::try_from(len).map_err(|_| GaveUp)?;
        // SAFETY: `len` bytes at `start`, alive and immutable as long as the object.
        unsafe { self.contents(obj, start.cast(), len, [BYTES_1, BYTES_4, BYTES_BUFFER]) }
    }

    /// # Safety
    ///
    /// As for `value`; the object is a bytearray.
    unsafe fn bytearray(&mut self, obj: *mut ffi::PyObject) -> Encoded {
        self.object()?;
        self.once(obj)?;
        // SAFETY: an exact bytearray, which stays alive.
        let (array, len) = unsafe {
            (
                Bound::from_borrowed_ptr(self.py, obj).cast_into_unchecked::<PyByteArray>(),
                { ffi::PyByteArray_Size(obj) },
            )
        };
        let len = usize::try_from(len).map_err(|_| GaveUp)?;
        if len >= OUT_OF_BAND_BYTES {
            let buffer = OutOfBand::from_exporter(&array).map_err(|_| GaveUp)?;
            self.head.push(BYTEARRAY_BUFFER);
            self.buffers.push(buffer);
        } else {
            self.head.tagged(BYTEARRAY_4, (len as u32).to_le_bytes());
            // SAFETY: with the interpreter lock held nothing else touches its contents.
            self.head.extend(unsafe { array.as_bytes() });
        }
        Ok(())
    }

    /// The contents of an immutable object, in the head or beside it.
    ///
    /// # Safety
    ///
    /// `len` bytes at `start` live, unchanged, as long as `obj`.
    unsafe fn contents(
        &mut self,
        obj: *mut ffi::PyObject,
        start: *const u8,
        len: usize,
        [short, long, beside]: [u8; 3],
    ) -> Encoded {
        if len >= SHARED_BYTES {
            self.once(obj)?;
        }
        if len >= OUT_OF_BAND_BYTES {
            // SAFETY: as the caller promises; the message holds the object.
            let buffer = unsafe {
                let owner = Bound::from_borrowed_ptr(self.py, obj).unbind();
                OutOfBand::from_object(start, len, owner)
            };
            self.head.push(beside);
            self.buffers.push(buffer);
            return Ok(());
        }
        match u8::try_from(len) {
            Ok(len) => self.head.tagged(short, [len]),
            Err(_) => self.head.tagged(long, (len as u32).to_le_bytes()),
        }
        // SAFETY: as the caller promises.
        self.head
            .extend(unsafe { std::slice::from_raw_parts(start, len) });
        Ok(())
    }

    /// The start of a container: its tag and its number of items.
    fn open(&mut self, obj: *mut ffi::PyObject, depth: usize) -> Encoded {
        if depth >= MAX_DEPTH {
            return Err(GaveUp);
        }
        self.object()?;
        self.once(obj)
    }

    fn count(&mut self, len: ffi::Py_ssize_t, short: u8, long: u8) -> Encoded {
        if let Ok(len) = u8::try_from(len) {
            self.head.tagged(short, [len]);
        } else {
            let len = u32::try_from(len).map_err(|_| GaveUp)?;
            self.head.tagged(long, len.to_le_bytes());
        }
        Ok(())
    }

    /// Writes the items of a container in a row, if they are many and all ints or all floats: whether
    /// they are.
    ///
    /// # Safety
    ///
    /// `item` returns live objects for indexes below `len`, and no Python code runs.
    unsafe fn numbers(
        &mut self,
        container: u8,
        len: ffi::Py_ssize_t,
        item: impl Fn(ffi::Py_ssize_t) -> *mut ffi::PyObject,
    ) -> bool {
        if !NUMBERS_IN_A_ROW.contains(&len) {
            return false;
        }
        // SAFETY: as the caller promises; each object has the exact type that its call wants.
        let (kind, row) = unsafe {
            let kind = ffi::Py_TYPE(item(0));
            if (1..len).any(|index| ffi::Py_TYPE(item(index)) != kind) {
                return false;
            }
            if kind == &raw mut ffi::PyFloat_Type {
                let bytes = |index| ffi::PyFloat_AsDouble(item(index)).to_le_bytes();
                (
                    FLOATS_8,
                    (0..len).map(bytes).collect::<Vec<_>>().into_flattened(),
                )
            } else if kind == &raw mut ffi::PyLong_Type {
                match ints(len, item) {
                    Some(row) => row,
                    None => return false,
                }
            } else {
                return false;
            }
        };
        self.head.tagged(NUMBERS, [container, kind]);
        self.head.extend(&(len as u32).to_le_bytes());
        self.head.extend(&row);
        true
    }

    /// # Safety
    ///
    /// As for `value`; the object is a tuple.
    unsafe fn tuple(&mut self, obj: *mut ffi::PyObject, depth: usize) -> Encoded {
        // SAFETY: an exact tuple, and indexes below its length; the items are borrowed from it.
        unsafe {
            let len = ffi::PyTuple_Size(obj);
            if len == 0 {
                // There is only one empty tuple: it may occur as often as it likes.
                self.object()?;
                self.head.tagged(TUPLE_1, [0]);
                return Ok(());
            }
            self.open(obj, depth)?;
            if self.numbers(IN_TUPLE, len, |index| ffi::PyTuple_GetItem(obj, index)) {
                return Ok(());
            }
            self.count(len, TUPLE_1, TUPLE_4)?;
            for index in 0..len {
                self.value(ffi::PyTuple_GetItem(obj, index), depth + 1)?;
            }
        }
        Ok(())
    }

    /// # Safety
    ///
    /// As for `value`; the object is a list.
    unsafe fn list(&mut self, obj: *mut ffi::PyObject, depth: usize) -> Encoded {
        self.open(obj, depth)?;
        // SAFETY: an exact list that does not change, and indexes below its length; the items are
        // borrowed from it.
        unsafe {
            let len = ffi::PyList_Size(obj);
            if self.numbers(IN_LIST, len, |index| ffi::PyList_GetItem(obj, index)) {
                return Ok(());
            }
            self.count(len, LIST_1, LIST_4)?;
            for index in 0..len {
                self.value(ffi::PyList_GetItem(obj, index), depth + 1)?;
            }
        }
        Ok(())
    }

    /// # Safety
    ///
    /// As for `value`; the object is a dict.
    unsafe fn dict(&mut self, obj: *mut ffi::PyObject, depth: usize) -> Encoded {
        self.open(obj, depth)?;
        // SAFETY: an exact dict that does not change; keys and values are borrowed from it.
        unsafe {
            let len = u8::try_from(ffi::PyDict_Size(obj)).map_err(|_| GaveUp)?;
            self.head.tagged(DICT_1, [len]);
            let (mut position, mut key, mut value) = (0, ptr::null_mut(), ptr::null_mut());
            while ffi::PyDict_Next(obj, &mut position, &mut key, &mut value) != 0 {
                self.value(key, depth + 1)?;
                self.value(value, depth + 1)?;
            }
        }
        Ok(())
    }
}
