//! Methods that are called as fast as the interpreter calls its own.
//!
//! Two things make a call of a native method slow where the work is a few instructions. The
//! interpreter specialises a call of a method only if that belongs to the very class of the object,
//! and the classes that programs see are subclasses, made in Python, of the native ones. And
//! arguments are parsed, errors and panics provided for, in front of every call.
//!
//! So each of those classes gets some of the native methods once more, as its own
//! ([`own_methods`]). Their functions do what can be done at once, without arguments to parse and
//! without an error; all else they leave to the method of the native class, as it was called.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_int};
use std::ptr;

use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::ffi::{PyMethodDef, PyMethodDefPointer, PyObject};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyType};
use pyo3::{Borrowed, PyClass, PyTypeInfo};

/// The function of a quick method; it gets an instance of the class that the method is listed for.
#[derive(Clone, Copy)]
pub enum Function {
    /// Without arguments.
    Plain(ffi::PyCFunction),
    /// With any.
    Any(ffi::PyCFunctionFastWithKeywords),
}

/// A quick method, and the whole one behind it.
pub struct Quick {
    name: &'static CStr,
    function: Function,
    whole: PyOnceLock<Whole>,
}

struct Whole {
    /// The method of the native class.
    method: Py<PyAny>,
    definition: Definition,
}

/// What the interpreter keeps a pointer to, for ever.
#[derive(Clone, Copy)]
struct Definition(*mut PyMethodDef);

// SAFETY: nobody writes to it once it is made.
unsafe impl Send for Definition {}
// SAFETY: as above.
unsafe impl Sync for Definition {}

impl Quick {
    /// A method of this name.
    pub const fn new(name: &'static CStr, function: Function) -> Self {
        Self {
            name,
            function,
            whole: PyOnceLock::new(),
        }
    }

    /// Does the call by the method of the native class.
    ///
    /// # Safety
    /// The arguments are those of a call by the interpreter, which is attached.
    #[cold]
    pub unsafe fn in_full(
        &self,
        slf: *mut PyObject,
        args: *const *mut PyObject,
        count: ffi::Py_ssize_t,
        names: *mut PyObject,
    ) -> *mut PyObject {
        // SAFETY: as the caller promises, `slf`, `count` arguments and one for each of the names
        // are alive; each call gets what it wants, and who fails has set the error.
        unsafe {
            let py = Python::assume_attached();
            let Some(whole) = self.whole.get(py) else {
                ffi::PyErr_BadInternalCall();
                return ptr::null_mut();
            };
            let all = ffi::PyTuple_New(count + 1);
            if all.is_null() {
                return all;
            }
            ffi::Py_IncRef(slf);
            ffi::PyTuple_SetItem(all, 0, slf);
            for at in 0..count {
                let argument = *args.offset(at);
                ffi::Py_IncRef(argument);
                ffi::PyTuple_SetItem(all, at + 1, argument);
            }
            let mut by_name = ptr::null_mut();
            if !names.is_null() {
                by_name = ffi::PyDict_New();
                for at in 0..ffi::PyTuple_Size(names) {
                    let name = ffi::PyTuple_GetItem(names, at);
                    if by_name.is_null()
                        || ffi::PyDict_SetItem(by_name, name, *args.offset(count + at)) < 0
                    {
                        ffi::Py_DecRef(by_name);
                        ffi::Py_DecRef(all);
                        return ptr::null_mut();
                    }
                }
            }
            let result = ffi::PyObject_Call(whole.method.as_ptr(), all, by_name);
            ffi::Py_DecRef(by_name);
            ffi::Py_DecRef(all);
            result
        }
    }

    /// As [`Quick::in_full`], without arguments.
    ///
    /// # Safety
    /// As there.
    #[cold]
    pub unsafe fn in_full_plain(&self, slf: *mut PyObject) -> *mut PyObject {
        // SAFETY: no argument is looked at.
        unsafe { self.in_full(slf, ptr::null(), 0, ptr::null_mut()) }
    }

    fn whole<'a>(&'a self, native: &Bound<'a, PyType>) -> PyResult<&'a Whole> {
        self.whole.get_or_try_init(native.py(), || {
            let method =
                native.getattr(PyString::new(native.py(), &self.name.to_string_lossy()))?;
            let text = |name| -> PyResult<String> {
                let text = method.getattr(name)?;
                text.extract::<Option<String>>()
                    .map(Option::unwrap_or_default)
            };
            let doc = CString::new(format!(
                "{}{}\n--\n\n{}",
                self.name.to_string_lossy(),
                text("__text_signature__")?,
                text("__doc__")?
            ))
            .map_err(|_| PyValueError::new_err("a docstring has no zero bytes"))?;
            let (pointer, flags): (_, c_int) = match self.function {
                Function::Plain(function) => (
                    PyMethodDefPointer {
                        PyCFunction: function,
                    },
                    ffi::METH_NOARGS,
                ),
                Function::Any(function) => (
                    PyMethodDefPointer {
                        PyCFunctionFastWithKeywords: function,
                    },
                    ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
                ),
            };
            // The interpreter refers to it as long as it runs.
            let definition = Box::leak(Box::new(PyMethodDef {
                ml_name: self.name.as_ptr(),
                ml_meth: pointer,
                ml_flags: flags,
                ml_doc: doc.into_raw(),
            }));
            Ok(Whole {
                method: method.unbind(),
                definition: Definition(definition),
            })
        })
    }
}

/// The object of the native class `T` that the interpreter has called a method of.
///
/// # Safety
/// `slf` is an instance of it, alive for as long as the result is used.
#[inline]
pub unsafe fn instance<'a, T: PyClass<Frozen = True> + Sync>(slf: *mut PyObject) -> &'a T {
    // SAFETY: as the caller promises; the interpreter is attached.
    unsafe {
        let object = Borrowed::from_ptr(Python::assume_attached(), slf);
        &*ptr::from_ref(object.cast_unchecked::<T>().get())
    }
}

/// `None`, for a caller that owns it.
///
/// # Safety
/// The interpreter is attached.
#[inline]
pub unsafe fn none() -> *mut PyObject {
    // SAFETY: as the caller promises.
    unsafe { ffi::Py_NewRef(ffi::Py_None()) }
}

/// `True` or `False`, for a caller that owns it.
///
/// # Safety
/// The interpreter is attached.
#[inline]
pub unsafe fn truth_value(truth: bool) -> *mut PyObject {
    // SAFETY: as the caller promises.
    unsafe {
        ffi::Py_NewRef(if truth {
            ffi::Py_True()
        } else {
            ffi::Py_False()
        })
    }
}

/// Gives `class`, if it is derived from the native class `T`, the quick methods of that as its
/// own, unless its body has defined them.
///
/// # Errors
/// Out of memory.
pub fn give<T: PyTypeInfo>(class: &Bound<'_, PyType>, methods: &'static [Quick]) -> PyResult<()> {
    let py = class.py();
    let native = T::type_object(py);
    if !class.is_subclass(&native)? {
        return Ok(());
    }
    let body = class.getattr("__dict__")?;
    for quick in methods {
        let name = PyString::new(py, &quick.name.to_string_lossy());
        if body.contains(&name)? {
            continue;
        }
        let definition = quick.whole(&native)?.definition;
        // SAFETY: the class is a subclass of the native one, which the function expects; the
        // definition is never freed.
        let method = unsafe {
            let method = ffi::PyDescr_NewMethod(class.as_type_ptr(), definition.0);
            Bound::from_owned_ptr_or_err(py, method)?
        };
        class.setattr(name, method)?;
    }
    Ok(())
}

/// A quick attribute, and the whole one behind it.
pub struct QuickAttribute {
    name: &'static CStr,
    get: ffi::getter,
    set: ffi::setter,
    whole: PyOnceLock<Py<PyAny>>,
}

impl QuickAttribute {
    /// An attribute of this name.
    pub const fn new(name: &'static CStr, get: ffi::getter, set: ffi::setter) -> Self {
        Self {
            name,
            get,
            set,
            whole: PyOnceLock::new(),
        }
    }

    /// Reads the attribute of the native class.
    ///
    /// # Safety
    /// As for [`Quick::in_full`].
    #[cold]
    pub unsafe fn get_in_full(&self, slf: *mut PyObject) -> *mut PyObject {
        // SAFETY: as the caller promises.
        unsafe { self.call(c"__get__", &[slf]) }
    }

    /// Writes the attribute of the native class, or deletes it.
    ///
    /// # Safety
    /// As for [`Quick::in_full`]; `value` is null or alive.
    #[cold]
    pub unsafe fn set_in_full(&self, slf: *mut PyObject, value: *mut PyObject) -> c_int {
        // SAFETY: as the caller promises.
        let done = unsafe {
            if value.is_null() {
                self.call(c"__delete__", &[slf])
            } else {
                self.call(c"__set__", &[slf, value])
            }
        };
        if done.is_null() {
            return -1;
        }
        // SAFETY: the result is ours.
        unsafe { ffi::Py_DecRef(done) };
        0
    }

    unsafe fn call(&self, name: &CStr, args: &[*mut PyObject]) -> *mut PyObject {
        // SAFETY: the interpreter is attached; what is used is alive, and what is made is given
        // back.
        unsafe {
            let Some(whole) = self.whole.get(Python::assume_attached()) else {
                ffi::PyErr_BadInternalCall();
                return ptr::null_mut();
            };
            let method = ffi::PyObject_GetAttrString(whole.as_ptr(), name.as_ptr());
            if method.is_null() {
                return method;
            }
            let end = ptr::null_mut::<PyObject>();
            let result = match args {
                [slf, value] => ffi::PyObject_CallFunctionObjArgs(method, *slf, *value, end),
                _ => ffi::PyObject_CallFunctionObjArgs(method, args[0], end),
            };
            ffi::Py_DecRef(method);
            result
        }
    }
}

/// As [`give`], for attributes.
///
/// # Errors
/// Out of memory.
pub fn give_attribute<T: PyTypeInfo>(
    class: &Bound<'_, PyType>,
    attribute: &'static QuickAttribute,
) -> PyResult<()> {
    let py = class.py();
    let native = T::type_object(py);
    if !class.is_subclass(&native)? {
        return Ok(());
    }
    let name = PyString::new(py, &attribute.name.to_string_lossy());
    attribute
        .whole
        .get_or_try_init(py, || native.getattr(&name).map(Bound::unbind))?;
    // The interpreter refers to it as long as it runs.
    let definition = Box::leak(Box::new(ffi::PyGetSetDef {
        name: attribute.name.as_ptr(),
        get: Some(attribute.get),
        set: Some(attribute.set),
        doc: ptr::null(),
        closure: ptr::null_mut(),
    }));
    // SAFETY: the class is a subclass of the native one, which the functions expect; the
    // definition is never freed.
    let descriptor = unsafe {
        let descriptor = ffi::PyDescr_NewGetSet(class.as_type_ptr(), definition);
        Bound::from_owned_ptr_or_err(py, descriptor)?
    };
    class.setattr(name, descriptor)
}

/// Whether this method, found at a class that is derived from the class `native`, is that one's own or
/// a quick one in its place, and not one that was written in Python.
///
/// # Errors
/// Out of memory.
pub fn is_native(method: &Bound<'_, PyAny>, native: &Bound<'_, PyType>) -> PyResult<bool> {
    // SAFETY: both are alive; the type of a method of a native class is never freed.
    let is_in_c = unsafe { ffi::Py_TYPE(method.as_ptr()) == &raw mut ffi::PyMethodDescr_Type };
    Ok(is_in_c
        && method
            .getattr(intern!(method.py(), "__objclass__"))?
            .cast_into::<PyType>()?
            .is_subclass(native)?)
}
