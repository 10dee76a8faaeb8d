//! `Connection`: messages between two processes, as a Python class.
//!
//! The class holds a descriptor number, as the standard library's does (it can be given, read
//! and replaced from Python). Bytes travel as frames of [`sidestep::channel::stream`]; objects
//! as pickles inside them, made by the package's `ForkingPickler`, which a process without
//! sidestep understands as well.
//!
//! A blocking call lets other threads run, and runs signal handlers when a signal comes. If a
//! handler raises in the middle of a message, what had been received is kept for the next
//! `recv`, and what is left to send goes out before the next `send`: the stream stays whole.

use std::mem;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{
    PyBufferError, PyEOFError, PyMemoryError, PyOSError, PyOverflowError, PyTypeError, PyValueError,
};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use sidestep::channel::stream::{self, Receiving, Sending, Step, StreamError};
use sidestep::os::socket;

/// The number that stands for "closed".
const CLOSED: i32 = -1;

/// Why a blocking operation ended early.
enum Failure {
    /// A signal handler raised.
    Signal(PyErr),
    /// The stream failed.
    Stream(StreamError),
}

impl Failure {
    fn into_py(self, py: Python<'_>) -> PyErr {
        match self {
            Failure::Signal(error) => error,
            Failure::Stream(error) => stream_error(py, error),
        }
    }
}

/// The standard library's exception for what happened to a stream.
fn stream_error(py: Python<'_>, error: StreamError) -> PyErr {
    match error {
        StreamError::EndOfFile => PyEOFError::new_err(()),
        StreamError::Truncated | StreamError::BadLength => PyOSError::new_err(error.to_string()),
        StreamError::OutOfMemory(_) => PyMemoryError::new_err(error.to_string()),
        StreamError::Os(error) => os_error(py, &error),
    }
}

/// An `OSError` (or its subclass) with number and text.
fn os_error(py: Python<'_>, error: &std::io::Error) -> PyErr {
    let Some(number) = error.raw_os_error() else {
        return PyOSError::new_err(error.to_string());
    };
    let text = py
        .import(intern!(py, "os"))
        .and_then(|os| os.call_method1(intern!(py, "strerror"), (number,)));
    match text {
        Ok(text) => PyOSError::new_err((number, text.unbind())),
        Err(error) => error,
    }
}

/// Repeats a step, detached from the interpreter, until it is done; signals are served between.
fn until_done<T, F>(py: Python<'_>, mut step: F) -> Result<T, Failure>
where
    T: Send,
    F: FnMut() -> Result<Step<T>, StreamError> + Send,
{
    loop {
        match py.detach(&mut step) {
            Ok(Step::Done(value)) => return Ok(value),
            Ok(Step::Interrupted) => py.check_signals().map_err(Failure::Signal)?,
            Err(error) => return Err(Failure::Stream(error)),
        }
    }
}

/// The end of a wait of `timeout` seconds; `None` waits for ever (or longer than a lifetime).
fn deadline(timeout: Option<f64>) -> PyResult<Option<Instant>> {
    let Some(seconds) = timeout else {
        return Ok(None);
    };
    if seconds.is_nan() {
        return Err(PyValueError::new_err("timeout is not a number"));
    }
    let now = Instant::now();
    Ok(Duration::try_from_secs_f64(seconds.max(0.0))
        .ok()
        .and_then(|time| now.checked_add(time)))
}

/// Messages that a signal handler's exception has cut, in the process where that happened.
#[derive(Default)]
struct Cut {
    /// A forked child must not complete its parent's messages.
    process: u32,
    incoming: Receiving,
    outgoing: Vec<u8>,
}

/// One end of a connection between processes.
#[pyclass(subclass, frozen, module = "sidestep._sidestep")]
pub struct Connection {
    handle: AtomicI32,
    readable: AtomicBool,
    writable: AtomicBool,
    cut: Mutex<Cut>,
}

impl Connection {
    fn number(&self) -> Option<i32> {
        Some(self.handle.load(Ordering::Acquire)).filter(|number| *number != CLOSED)
    }

    fn descriptor(&self, py: Python<'_>) -> PyResult<BorrowedFd<'_>> {
        let number = self
            .number()
            .ok_or_else(|| PyOSError::new_err("handle is closed"))?;
        socket::vouched(number).map_err(|error| os_error(py, &error))
    }

    fn source(&self, py: Python<'_>) -> PyResult<BorrowedFd<'_>> {
        let descriptor = self.descriptor(py)?;
        if !self.readable.load(Ordering::Relaxed) {
            return Err(PyOSError::new_err("connection is write-only"));
        }
        Ok(descriptor)
    }

    fn sink(&self, py: Python<'_>) -> PyResult<BorrowedFd<'_>> {
        let descriptor = self.descriptor(py)?;
        if !self.writable.load(Ordering::Relaxed) {
            return Err(PyOSError::new_err("connection is read-only"));
        }
        Ok(descriptor)
    }

    /// Held for a few moves only, never while detached or in a system call.
    fn cut(&self) -> MutexGuard<'_, Cut> {
        let mut cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        let process = std::process::id();
        if cut.process != process {
            *cut = Cut {
                process,
                ..Cut::default()
            };
        }
        cut
    }

    fn send_frame(&self, py: Python<'_>, body: &[u8]) -> PyResult<()> {
        let sink = self.sink(py)?;
        let mut rest = mem::take(&mut self.cut().outgoing);
        if !rest.is_empty() {
            until_done(py, || stream::send_rest(sink, &mut rest)).map_err(|failure| {
                self.cut().outgoing = mem::take(&mut rest);
                failure.into_py(py)
            })?;
        }
        let mut sending = Sending::new(body);
        until_done(py, || sending.step(sink)).map_err(|failure| {
            if matches!(failure, Failure::Signal(_)) {
                self.cut().outgoing = sending.rest();
            }
            failure.into_py(py)
        })
    }

    fn recv_frame(&self, py: Python<'_>, limit: Option<u64>) -> PyResult<Vec<u8>> {
        let source = self.source(py)?;
        let mut receiving = mem::take(&mut self.cut().incoming);
        until_done(py, || receiving.step(source, limit)).map_err(|failure| {
            match failure {
                Failure::Signal(_) => self.cut().incoming = receiving,
                // The bytes of the refused message are still there: nothing that is read from
                // now on would begin at a message's border.
                Failure::Stream(StreamError::BadLength) => {
                    if self.writable.load(Ordering::Relaxed) {
                        self.readable.store(false, Ordering::Relaxed);
                    } else if let Err(error) = self.close(py) {
                        return error;
                    }
                }
                Failure::Stream(_) => {}
            }
            failure.into_py(py)
        })
    }
}

#[pymethods]
impl Connection {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self {
            handle: AtomicI32::new(CLOSED),
            readable: AtomicBool::new(false),
            writable: AtomicBool::new(false),
            cut: Mutex::default(),
        }
    }

    /// In `__init__`, so that a subclass may have a constructor of its own.
    #[pyo3(signature = (handle, readable = true, writable = true))]
    fn __init__(&self, handle: i32, readable: bool, writable: bool) -> PyResult<()> {
        if handle < 0 {
            return Err(PyValueError::new_err("invalid handle"));
        }
        if !readable && !writable {
            return Err(PyValueError::new_err(
                "at least one of `readable` and `writable` must be True",
            ));
        }
        self.handle.store(handle, Ordering::Release);
        self.readable.store(readable, Ordering::Relaxed);
        self.writable.store(writable, Ordering::Relaxed);
        Ok(())
    }

    #[getter(_handle)]
    fn handle(&self) -> Option<i32> {
        self.number()
    }

    #[setter(_handle)]
    fn set_handle(&self, handle: Option<i32>) -> PyResult<()> {
        let number = handle.unwrap_or(CLOSED);
        if number < CLOSED || handle == Some(CLOSED) {
            return Err(PyValueError::new_err("invalid handle"));
        }
        self.handle.store(number, Ordering::Release);
        Ok(())
    }

    #[getter]
    fn closed(&self) -> bool {
        self.number().is_none()
    }

    #[getter]
    fn readable(&self) -> bool {
        self.readable.load(Ordering::Relaxed)
    }

    #[getter]
    fn writable(&self) -> bool {
        self.writable.load(Ordering::Relaxed)
    }

    fn fileno(&self) -> PyResult<i32> {
        self.number()
            .ok_or_else(|| PyOSError::new_err("handle is closed"))
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let number = self.handle.swap(CLOSED, Ordering::AcqRel);
        if number == CLOSED {
            return Ok(());
        }
        // A socket may linger in close: let others run.
        py.detach(|| socket::take_over(number).and_then(socket::close))
            .map_err(|error| os_error(py, &error))
    }

    fn send(slf: &Bound<'_, Self>, obj: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        slf.get().sink(py)?;
        let pickle = pickler(py)?.call_method1(intern!(py, "dumps"), (obj,))?;
        let buffer = PyUntypedBuffer::get(&pickle)?;
        slf.get().send_frame(py, contiguous(&buffer)?)
    }

    #[pyo3(signature = (buf, offset = 0, size = None))]
    fn send_bytes(
        &self,
        py: Python<'_>,
        buf: &Bound<'_, PyAny>,
        offset: i64,
        size: Option<i64>,
    ) -> PyResult<()> {
        self.sink(py)?;
        let buffer = PyUntypedBuffer::get(buf)?;
        let bytes = contiguous(&buffer)?;
        let wrong = |message: &'static str| Err(PyValueError::new_err(message));
        let Ok(start) = usize::try_from(offset) else {
            return wrong("offset is negative");
        };
        let Some(tail) = bytes.get(start..) else {
            return wrong("buffer length < offset");
        };
        let part = match size.map(usize::try_from) {
            None => tail,
            Some(Err(_)) => return wrong("size is negative"),
            Some(Ok(size)) => match tail.get(..size) {
                Some(part) => part,
                None => return wrong("buffer length < offset + size"),
            },
        };
        self.send_frame(py, part)
    }

    fn recv<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let body = self.recv_frame(py, None)?;
        let pickle = PyBytes::new(py, &body);
        drop(body);
        pickler(py)?.call_method1(intern!(py, "loads"), (pickle,))
    }

    #[pyo3(signature = (maxlength = None))]
    fn recv_bytes<'py>(
        &self,
        py: Python<'py>,
        maxlength: Option<i64>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        self.source(py)?;
        let limit = maxlength
            .map(u64::try_from)
            .transpose()
            .map_err(|_| PyValueError::new_err("negative maxlength"))?;
        let body = self.recv_frame(py, limit)?;
        Ok(PyBytes::new(py, &body))
    }

    #[pyo3(signature = (buf, offset = 0))]
    fn recv_bytes_into(
        &self,
        py: Python<'_>,
        buf: &Bound<'_, PyAny>,
        offset: i64,
    ) -> PyResult<usize> {
        self.source(py)?;
        // Looked at before the message is taken, so that a wrong argument costs no message.
        let whole = py
            .import(intern!(py, "builtins"))?
            .call_method1(intern!(py, "memoryview"), (buf,))?
            .call_method1(intern!(py, "cast"), ("B",))?;
        let target = PyUntypedBuffer::get(&whole)?;
        if target.readonly() {
            return Err(PyTypeError::new_err("the buffer is read-only"));
        }
        let Ok(start) = usize::try_from(offset) else {
            return Err(PyValueError::new_err("negative offset"));
        };
        if start > target.len_bytes() {
            return Err(PyValueError::new_err("offset too large"));
        }
        let body = self.recv_frame(py, None)?;
        if !fill(py, &target, start, &body) {
            let message = PyBytes::new(py, &body).unbind();
            let class = py
                .import(intern!(py, "sidestep.context"))?
                .getattr(intern!(py, "BufferTooShort"))?;
            return Err(PyErr::from_value(class.call1((message,))?));
        }
        Ok(body.len())
    }

    #[pyo3(signature = (timeout = Some(0.0)))]
    fn poll(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let source = self.source(py)?;
        let end = deadline(timeout)?;
        until_done(py, || stream::wait_readable(source, end)).map_err(|error| error.into_py(py))
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_details))]
    fn __exit__(slf: &Bound<'_, Self>, _details: &Bound<'_, PyTuple>) -> PyResult<()> {
        // Through the attribute: a subclass may have its own way to close.
        slf.call_method0(intern!(slf.py(), "close")).map(drop)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Nobody is left to be told of an error.
        let _ = socket::take_over(*self.handle.get_mut()).and_then(socket::close);
    }
}

/// The package's pickler, looked up late: a program may have replaced it.
fn pickler(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    py.import(intern!(py, "sidestep.reduction"))?
        .getattr(intern!(py, "ForkingPickler"))
}

/// The bytes of a buffer.
///
/// The exporter keeps the memory in place while `buffer` lives, but a program may write to it
/// from another thread meanwhile: then either value is sent. No decision here depends on it.
#[allow(unsafe_code)] // the C API's buffer protocol has no safe view without the interpreter
fn contiguous(buffer: &PyUntypedBuffer) -> PyResult<&[u8]> {
    if !buffer.is_c_contiguous() {
        return Err(PyBufferError::new_err("the buffer is not contiguous"));
    }
    let length = buffer.len_bytes();
    if length == 0 {
        return Ok(&[]);
    }
    if isize::try_from(length).is_err() {
        return Err(PyOverflowError::new_err("the buffer is too large"));
    }
    // SAFETY:
    // - the exporter guarantees `length` readable bytes from `buf_ptr` while it is borrowed,
    //   and `buffer`, which the result borrows, holds that export;
    // - they are bytes: aligned, and valid whatever they are;
    // - missing: nothing stops Python code from writing to a mutable exporter meanwhile. The
    //   slice is only handed to the kernel or copied from.
    Ok(unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast::<u8>(), length) })
}

/// Copies `bytes` into a writable, contiguous buffer at `start`; false if they do not fit.
#[allow(unsafe_code)] // the C API's buffer protocol has no safe view that can be written
fn fill(_attached: Python<'_>, buffer: &PyUntypedBuffer, start: usize, bytes: &[u8]) -> bool {
    let fits = start
        .checked_add(bytes.len())
        .is_some_and(|end| end <= buffer.len_bytes());
    if buffer.readonly() || !buffer.is_c_contiguous() || !fits {
        return false;
    }
    if !bytes.is_empty() {
        // SAFETY:
        // - the exporter guarantees `len_bytes` writable bytes from `buf_ptr`, and the range
        //   lies within them (checked above); `buffer` holds the export;
        // - `bytes` is memory of the engine, so the two do not overlap;
        // - no reference into the buffer is made, and we are attached to the interpreter.
        unsafe {
            let target = buffer.buf_ptr().cast::<u8>().add(start);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len());
        }
    }
    true
}

/// Two connected descriptors: the ends of a socket pair, or the reading and the writing end of
/// a pipe.
#[pyfunction]
pub fn stream_pair(py: Python<'_>, duplex: bool) -> PyResult<(i32, i32)> {
    use std::os::fd::IntoRawFd;
    let pair = if duplex {
        socket::socket_pair()
    } else {
        socket::pipe()
    };
    let (first, second) = pair.map_err(|error| os_error(py, &error))?;
    Ok((first.into_raw_fd(), second.into_raw_fd()))
}
