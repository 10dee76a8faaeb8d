//! Pickle for everything that is not plain: as `ForkingPickler` would, at a fraction of its price.
//!
//! `ForkingPickler.dumps` costs a Python class, a `BytesIO` and a merged table of reducers per call.
//! Here a C pickler, its table of reducers ([`Reducers`], which looks in the two live
//! dictionaries) and the place where its output goes ([`Sink`]) are made once and used again.
//! They are taken out of their place while in use, so a `__reduce__` that pickles again, and another
//! thread, make their own.

use pyo3::exceptions::PyKeyError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList};

use super::OUT_OF_BAND_BYTES;
use super::gil::GilCell;
use super::message::{Head, Message, OutOfBand, View};

/// A pickler whose output was longer than this is not kept: its memo has grown as well.
const KEEP_BYTES: usize = 64 * 1024;

static IDLE: GilCell<Option<Pickler>> = GilCell::new(None);

/// Pickles the object with protocol 5.
pub(super) fn dumps(obj: &Bound<'_, PyAny>) -> PyResult<Message> {
    let py = obj.py();
    let pickler = match IDLE.replace(py, None) {
        Some(pickler) => pickler,
        None => Pickler::new(py)?,
    };
    // After an error the pickler goes, with all that its memo holds.
    call(pickler.dump.bind(py), obj)?;
    let message = pickler.sink.bind(py).try_borrow_mut()?.take(py);
    if message.head.len() <= KEEP_BYTES {
        pickler.clear_memo.bind(py).call0()?;
        // Another one may have come back first: one is enough.
        drop(IDLE.replace(py, Some(pickler)));
    }
    Ok(message)
}

/// Unpickles a head that [`dumps`] made.
pub(super) fn loads<'py>(
    head: &Bound<'py, PyBytes>,
    buffers: Vec<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = head.py();
    let loads = LOADS.import(py, "_pickle", "loads")?;
    if buffers.is_empty() {
        return call(loads, head);
    }
    let options = PyDict::new(py);
    options.set_item(intern!(py, "buffers"), PyList::new(py, buffers)?)?;
    loads.call((head,), Some(&options))
}

/// Calls with one argument; in the limited API this way needs no tuple.
pub(super) fn call<'py>(
    callable: &Bound<'py, PyAny>,
    argument: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let end = std::ptr::null_mut::<ffi::PyObject>();
    // SAFETY: live objects, and the null that ends the list of arguments; the result is owned.
    unsafe {
        let result = ffi::PyObject_CallFunctionObjArgs(callable.as_ptr(), argument.as_ptr(), end);
        Bound::from_owned_ptr_or_err(callable.py(), result)
    }
}

/// A C pickler with what belongs to it.
struct Pickler {
    dump: Py<PyAny>,
    clear_memo: Py<PyAny>,
    sink: Py<Sink>,
}

impl Pickler {
    #[cold]
    fn new(py: Python<'_>) -> PyResult<Self> {
        static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        static REDUCERS: PyOnceLock<Py<Reducers>> = PyOnceLock::new();
        let reducers = REDUCERS.get_or_try_init(py, || Py::new(py, Reducers::new(py)?))?;
        let sink = Bound::new(py, Sink::default())?;
        let callback = sink.getattr(intern!(py, "buffer"))?;
        // File, protocol, whether to use the names of Python 2, buffer callback.
        let pickler = CLASS
            .import(py, "_pickle", "Pickler")?
            .call1((&sink, 5, false, callback))?;
        pickler.setattr(intern!(py, "dispatch_table"), reducers)?;
        Ok(Self {
            dump: pickler.getattr(intern!(py, "dump"))?.unbind(),
            clear_memo: pickler.getattr(intern!(py, "clear_memo"))?.unbind(),
            sink: sink.unbind(),
        })
    }
}

/// The reducers that apply: `ForkingPickler.register`'s first, then `copyreg`'s.
///
/// Looks in the live dictionaries, so what is registered later counts as well.
#[pyclass(frozen, module = "sidestep._sidestep")]
struct Reducers {
    tables: [Py<PyDict>; 2],
}

impl Reducers {
    fn new(py: Python<'_>) -> PyResult<Self> {
        let forking = py.import("sidestep.reduction")?.getattr("ForkingPickler")?;
        let own = forking.getattr("_extra_reducers")?.cast_into::<PyDict>()?;
        let general = py
            .import("copyreg")?
            .getattr("dispatch_table")?
            .cast_into::<PyDict>()?;
        Ok(Self {
            tables: [own.unbind(), general.unbind()],
        })
    }
}

#[pymethods]
impl Reducers {
    fn __getitem__<'py>(&self, kind: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = kind.py();
        for table in &self.tables {
            // SAFETY: two live objects; the result is borrowed from the table, or null, and then an
            // error may be set (a metaclass can have a hash function that raises).
            let found = unsafe {
                let found = ffi::PyDict_GetItemWithError(table.as_ptr(), kind.as_ptr());
                Bound::from_borrowed_ptr_or_opt(py, found)
            };
            if let Some(reducer) = found {
                return Ok(reducer);
            }
            if let Some(error) = PyErr::take(py) {
                return Err(error);
            }
        }
        // One and the same exception each time: pickle catches it without a look, per object.
        static MISSING: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let missing = MISSING.get_or_try_init(py, || {
            Ok::<_, PyErr>(PyKeyError::new_err(()).into_value(py).into_any())
        })?;
        Err(PyErr::from_value(missing.bind(py).clone()))
    }
}

/// The file to which a pickler writes, and its buffer callback.
#[pyclass(module = "sidestep._sidestep")]
#[derive(Default)]
struct Sink {
    /// The only write so far, mostly there is no other: taken over as it is.
    first: Option<Py<PyBytes>>,
    /// Everything, from the second write on.
    joined: Vec<u8>,
    buffers: Vec<OutOfBand>,
}

impl Sink {
    fn take(&mut self, py: Python<'_>) -> Message {
        let head = match self.first.take() {
            Some(bytes) => Head::from_python(bytes.into_bound(py)),
            None => Head::from_vec(std::mem::take(&mut self.joined)),
        };
        Message {
            head,
            buffers: std::mem::take(&mut self.buffers),
        }
    }
}

#[pymethods]
impl Sink {
    fn write(&mut self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = data.py();
        if self.first.is_none()
            && self.joined.is_empty()
            && let Ok(bytes) = data.cast_exact::<PyBytes>()
        {
            self.first = Some(bytes.clone().unbind());
            return Ok(());
        }
        if let Some(first) = self.first.take() {
            self.joined.extend_from_slice(first.as_bytes(py));
        }
        let view = View::contiguous(data)?;
        let (start, len) = view.extent();
        // SAFETY: the view pins `len` bytes at `start`, and the interpreter lock is held.
        self.joined
            .extend_from_slice(unsafe { std::slice::from_raw_parts(start, len) });
        Ok(())
    }

    /// Takes a large buffer out of the pickle; the result says whether it stays in.
    fn buffer(&mut self, exporter: &Bound<'_, PyAny>) -> PyResult<bool> {
        let buffer = OutOfBand::from_exporter(exporter)?;
        let stays = buffer.len() < OUT_OF_BAND_BYTES;
        if !stays {
            self.buffers.push(buffer);
        }
        Ok(stays)
    }
}
