//! `Connection`: messages between two processes, as a Python class.
//!
//! The class holds a descriptor number, as the standard library's does (it can be given, read
//! and replaced from Python). If the descriptor is the socket of a pipe of the family, messages
//! travel through shared memory ([`sidestep::channel::pipe`]), objects in the form of the
//! [`codec`]. On any other descriptor bytes travel as frames of [`sidestep::channel::stream`],
//! and objects as pickles inside them, made by the package's `ForkingPickler`, which a process
//! without sidestep understands as well.
//!
//! A blocking call lets other threads run, and runs signal handlers when a signal comes. If a
//! handler raises in the middle of a message, what had been received is kept for the next
//! `recv`, and what is left to send goes out before the next `send`: the stream stays whole.
#![allow(unsafe_code)] // The quick methods are called by the interpreter itself.

use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pyo3::Borrowed;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{
    PyEOFError, PyMemoryError, PyOSError, PyOverflowError, PyRuntimeError, PyTypeError,
    PyValueError,
};
use pyo3::ffi::{self, PyObject};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyGenericAlias, PyTuple, PyType};
use sidestep::channel::Brief;
use sidestep::channel::pipe::{
    self, End, INLINE_MAX, MAX_UNREAD, Message, PipeError, Ready, Received,
};
use sidestep::channel::stream::{self, Receiving, Sending, Step, StreamError};
use sidestep::os::clock::Deadline;
use sidestep::os::{limits, socket};
use sidestep::shm::{Envelope, Ref};
use sidestep::sync::Patience;

use crate::codec;
use crate::ends::{self, pipe_error};
use crate::error::to_py;
use crate::family::{export, handle};
use crate::message::{self, Outgoing};
use crate::quick::{self, Function, Quick, instance};
use crate::wait::deadline;

/// The number that stands for "closed".
const CLOSED: i32 = -1;

/// Why a blocking operation ended early.
pub enum Failure<E> {
    /// A signal handler raised.
    Signal(PyErr),
    /// The operation failed.
    Failed(E),
}

impl Failure<StreamError> {
    fn into_py(self, py: Python<'_>) -> PyErr {
        match self {
            Failure::Signal(error) => error,
            Failure::Failed(error) => stream_error(py, error),
        }
    }
}

impl Failure<PipeError> {
    fn into_py(self, py: Python<'_>) -> PyErr {
        match self {
            Failure::Signal(error) => error,
            Failure::Failed(error) => pipe_error(py, error),
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
pub fn os_error(py: Python<'_>, error: &std::io::Error) -> PyErr {
    let Some(number) = error.raw_os_error() else {
        return PyOSError::new_err(error.to_string());
    };
    let text = py
        .import(intern!(py, "os"))
        .and_then(|os| os.call_method1(intern!(py, "strerror"), (number,)));
    match text.and_then(|text| text.extract::<String>()) {
        Ok(text) => PyOSError::new_err((number, text + &limits::way_out(error))),
        Err(error) => error,
    }
}

/// Repeats a step, detached from the interpreter, until it is done; signals are served between.
pub fn until_done<T, E, F>(py: Python<'_>, mut step: F) -> Result<T, Failure<E>>
where
    T: Send,
    E: Send,
    F: FnMut() -> Result<Step<T>, E> + Send,
{
    loop {
        match py.detach(&mut step) {
            Ok(Step::Done(value)) => return Ok(value),
            Ok(Step::Interrupted) => py.check_signals().map_err(Failure::Signal)?,
            Err(error) => return Err(Failure::Failed(error)),
        }
    }
}

/// A message as it came.
enum Incoming {
    /// A frame: bytes, or a standard pickle.
    Frame(Vec<u8>),
    /// A short message of a pipe, with its tag.
    Short(u8, Vec<u8>),
    /// A long message of a pipe, with its tag.
    Long(u8, Envelope),
}

impl Incoming {
    fn len(&self) -> u64 {
        match self {
            Incoming::Frame(bytes) | Incoming::Short(_, bytes) => bytes.len() as u64,
            Incoming::Long(_, envelope) => envelope.len(),
        }
    }

    /// The message as an object: unpickled, if it was sent as bytes.
    fn into_object(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        let pickle = match self {
            Incoming::Short(ends::OBJECT | ends::RESULT, head) => {
                return codec::loads(py, &head, Vec::new());
            }
            Incoming::Long(ends::OBJECT | ends::RESULT, envelope) => {
                return message::unpack(py, envelope);
            }
            Incoming::Frame(bytes) | Incoming::Short(_, bytes) => PyBytes::new(py, &bytes),
            Incoming::Long(_, envelope) => ends::unpack_bytes(py, &envelope)?,
        };
        pickler(py)?.call_method1(intern!(py, "loads"), (pickle,))
    }

    fn tag(&self) -> u8 {
        match self {
            Incoming::Frame(_) => ends::BYTES,
            Incoming::Short(tag, _) | Incoming::Long(tag, _) => *tag,
        }
    }

    /// The message as it was sent: an object, or bytes. A result is what managers make of it.
    fn into_either(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        match self.tag() {
            ends::OBJECT => self.into_object(py),
            ends::RESULT => {
                let result = self.into_object(py)?;
                Ok((intern!(py, "#RETURN"), result)
                    .into_pyobject(py)?
                    .into_any())
            }
            _ => self.into_bytes(py).map(Bound::into_any),
        }
    }

    /// The message as bytes: pickled, if it was sent as an object.
    fn into_bytes(self, py: Python<'_>) -> PyResult<Bound<'_, PyBytes>> {
        match self {
            Incoming::Frame(bytes) | Incoming::Short(ends::BYTES, bytes) => {
                Ok(PyBytes::new(py, &bytes))
            }
            Incoming::Long(ends::BYTES, envelope) => ends::unpack_bytes(py, &envelope),
            object => {
                let object = object.into_object(py)?;
                let pickle = pickler(py)?.call_method1(intern!(py, "dumps"), (object,))?;
                let buffer = PyUntypedBuffer::get(&pickle)?;
                Ok(PyBytes::new(py, contiguous(&buffer)?))
            }
        }
    }
}

/// Every name that means something else in a manager's pickles is spelled with it.
const STANDARD: &[u8] = b"multiprocessing";

/// In longer frames it is not looked for.
const SHORT_FRAME: usize = 4096;

/// The result in a manager's reply, if it has returned one.
fn result_in<'py>(reply: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let Ok(reply) = reply.cast_exact::<PyTuple>() else {
        return Ok(None);
    };
    if reply.len() == 2 && reply.get_item(0)?.eq(intern!(reply.py(), "#RETURN"))? {
        reply.get_item(1).map(Some)
    } else {
        Ok(None)
    }
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
    /// Made when the first frame is sent or received.
    cut: Mutex<Option<Box<Cut>>>,
    /// How worthwhile it is to stay awake for frames.
    patience: Patience,
    /// The pipe in shared memory that the descriptor belongs to.
    end: Mutex<Option<Arc<End>>>,
}

impl Connection {
    fn end(&self) -> Option<Arc<End>> {
        self.end
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The end, of what has to be a pipe.
    fn entered(&self) -> PyResult<Arc<End>> {
        self.end()
            .ok_or_else(|| PyValueError::new_err("the connection is not the end of a pipe"))
    }

    fn set_end(&self, end: Option<Arc<End>>) -> Option<Arc<End>> {
        mem::replace(
            &mut *self.end.lock().unwrap_or_else(PoisonError::into_inner),
            end,
        )
    }

    /// Sends a plain message through the pipe. False, and nothing was sent, if there is none, or no
    /// room for it in the arena.
    fn send_plain(
        &self,
        py: Python<'_>,
        tag: u8,
        message: Option<codec::Message>,
    ) -> PyResult<bool> {
        self.sink(py)?;
        let end = self.entered()?;
        let Some(Ok(outgoing)) = message.map(|m| message::outgoing(m, Vec::new(), INLINE_MAX))
        else {
            return Ok(false);
        };
        if self.send_outgoing(py, &end, tag, outgoing)? {
            Ok(true)
        } else {
            Err(pipe_error(py, PipeError::Stream))
        }
    }

    fn send_outgoing(
        &self,
        py: Python<'_>,
        end: &End,
        tag: u8,
        outgoing: Outgoing,
    ) -> PyResult<bool> {
        match outgoing {
            Outgoing::Short(object) => {
                let parts: [&[u8]; 1] = [&object.head];
                self.send_through(py, end, tag, Message::Short(&parts))
            }
            Outgoing::Long(envelope) => self.send_through(py, end, tag, Message::Long(envelope)),
        }
    }

    /// Sends through the pipe, waiting for room. False: it has become a stream.
    fn send_through(
        &self,
        py: Python<'_>,
        end: &End,
        tag: u8,
        mut message: Message<'_>,
    ) -> PyResult<bool> {
        let sink = self.sink(py)?;
        let len = message.len();
        loop {
            message = match end.try_send(sink, tag, message) {
                Ok(None) => break,
                Ok(Some(back)) => back,
                Err(PipeError::Stream) => return Ok(false),
                Err(error) => return Err(pipe_error(py, error)),
            };
            until_done(py, || end.wait_room(sink, len)).map_err(|error| error.into_py(py))?;
            // However quickly there is room again: Ctrl-C must get through.
            py.check_signals()?;
        }
        // A message above the bound is not buffered: as on a socket, the sender stays until the
        // receiver has it.
        while len > MAX_UNREAD && !end.has_room() {
            until_done(py, || end.wait_room(sink, 0)).map_err(|error| error.into_py(py))?;
            py.check_signals()?;
        }
        Ok(true)
    }

    /// Receives the next message, from wherever it comes.
    fn receive(&self, py: Python<'_>, limit: Option<u64>) -> PyResult<Incoming> {
        let source = self.source(py)?;
        let Some(end) = self.end() else {
            return self.recv_frame(py, limit).map(Incoming::Frame);
        };
        let mut bytes = Vec::new();
        let message = loop {
            match end
                .try_receive(source, &mut bytes)
                .map_err(|error| pipe_error(py, error))?
            {
                Received::Short { tag } => break Incoming::Short(tag, bytes),
                Received::Long { tag, envelope } => break Incoming::Long(tag, envelope),
                Received::Empty => {}
            }
            let ready = until_done(py, || end.wait(source, Deadline::NEVER))
                .map_err(|error| error.into_py(py))?;
            match ready {
                Ready::HungUp if !end.has_messages() => return Err(PyEOFError::new_err(())),
                Ready::Stream => return self.recv_frame(py, limit).map(Incoming::Frame),
                _ => {}
            }
        };
        if limit.is_some_and(|limit| message.len() > limit) {
            self.stop_reading(py)?;
            return Err(stream_error(py, StreamError::BadLength));
        }
        Ok(message)
    }

    /// After a message that was too long: nothing can be received any more.
    fn stop_reading(&self, py: Python<'_>) -> PyResult<()> {
        if self.writable.load(Ordering::Relaxed) {
            self.readable.store(false, Ordering::Relaxed);
            Ok(())
        } else {
            self.close(py)
        }
    }

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
    fn with_cut<T>(&self, work: impl FnOnce(&mut Cut) -> T) -> T {
        let mut cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        let process = std::process::id();
        let ours = match cut.take() {
            Some(ours) if ours.process == process => ours,
            _ => Box::new(Cut {
                process,
                ..Cut::default()
            }),
        };
        work(cut.insert(ours))
    }

    fn send_frame(&self, py: Python<'_>, body: &[u8]) -> PyResult<()> {
        let sink = self.sink(py)?;
        let mut rest = self.with_cut(|cut| mem::take(&mut cut.outgoing));
        if !rest.is_empty() {
            until_done(py, || stream::send_rest(sink, &mut rest)).map_err(|failure| {
                self.with_cut(|cut| cut.outgoing = mem::take(&mut rest));
                failure.into_py(py)
            })?;
        }
        let mut sending = Sending::new(body);
        until_done(py, || sending.step(sink)).map_err(|failure| {
            if matches!(failure, Failure::Signal(_)) {
                self.with_cut(|cut| cut.outgoing = sending.rest());
            }
            failure.into_py(py)
        })
    }

    /// Sends a plain object as a frame that any `multiprocessing` understands. False, and nothing was
    /// sent, if it is not plain.
    fn send_standard(&self, object: &Bound<'_, PyTuple>) -> PyResult<bool> {
        let Some(pickle) = codec::standard(object)? else {
            return Ok(false);
        };
        self.send_frame(object.py(), pickle.as_bytes())?;
        Ok(true)
    }

    /// Receives a frame. It is left as bytes where more has to be known to unpickle it: a name of the
    /// standard library's that means something else here, or what to do about an error.
    fn recv_standard<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let frame = self.recv_frame(py, None)?;
        let pickle = PyBytes::new(py, &frame);
        let named = || frame.windows(STANDARD.len()).any(|at| at == STANDARD);
        if frame.len() <= SHORT_FRAME
            && !named()
            && let Ok(object) = codec::loads_standard(&pickle)
        {
            return Ok(object);
        }
        Ok(pickle.into_any())
    }

    fn recv_frame(&self, py: Python<'_>, limit: Option<u64>) -> PyResult<Vec<u8>> {
        let source = self.source(py)?;
        let mut receiving = self.with_cut(|cut| mem::take(&mut cut.incoming));
        if !receiving.has_begun() {
            py.detach(|| stream::stay_awake(source, &self.patience));
        }
        until_done(py, || receiving.step(source, limit)).map_err(|failure| {
            match failure {
                Failure::Signal(_) => self.with_cut(|cut| cut.incoming = receiving),
                // The bytes of the refused message are still there: nothing that is read from
                // now on would begin at a message's border.
                Failure::Failed(StreamError::BadLength) => {
                    if let Err(error) = self.stop_reading(py) {
                        return error;
                    }
                }
                Failure::Failed(_) => {}
            }
            failure.into_py(py)
        })
    }
}

#[pymethods]
impl Connection {
    #[new]
    #[pyo3(
        signature = (*_args, **_kwargs),
        text_signature = "(handle, readable=True, writable=True)"
    )]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self {
            handle: AtomicI32::new(CLOSED),
            readable: AtomicBool::new(false),
            writable: AtomicBool::new(false),
            cut: Mutex::default(),
            patience: Patience::new(),
            end: Mutex::default(),
        }
    }

    /// `Connection[int, str]` and the like, in annotations and as a base class.
    #[classmethod]
    fn __class_getitem__<'py>(
        cls: &Bound<'py, PyType>,
        item: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyGenericAlias>> {
        PyGenericAlias::new(cls.py(), cls.as_any(), item)
    }

    /// In `__init__`, so that a subclass may have a constructor of its own.
    #[pyo3(signature = (handle, readable = true, writable = true))]
    fn __init__(
        &self,
        py: Python<'_>,
        handle: i32,
        readable: bool,
        writable: bool,
    ) -> PyResult<()> {
        if handle < 0 {
            return Err(PyValueError::new_err("invalid handle"));
        }
        if !readable && !writable {
            return Err(PyValueError::new_err(
                "at least one of `readable` and `writable` must be True",
            ));
        }
        self.set_handle(py, Some(handle))?;
        self.readable.store(readable, Ordering::Relaxed);
        self.writable.store(writable, Ordering::Relaxed);
        Ok(())
    }

    #[getter(_handle)]
    fn handle(&self) -> Option<i32> {
        self.number()
    }

    #[setter(_handle)]
    fn set_handle(&self, py: Python<'_>, handle: Option<i32>) -> PyResult<()> {
        let number = handle.unwrap_or(CLOSED);
        if number < CLOSED || handle == Some(CLOSED) {
            return Err(PyValueError::new_err("invalid handle"));
        }
        let end = match socket::vouched(number) {
            Ok(descriptor) => ends::find(descriptor).map_err(|error| os_error(py, &error))?,
            Err(_) => None,
        };
        self.handle.store(number, Ordering::Release);
        self.set_end(end);
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

    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        let descriptor = self.descriptor(py)?;
        if let Some(end) = self.end() {
            // Whoever asks may watch it: from now on it tells exactly what is there.
            match py.detach(|| end.watch(descriptor)) {
                Ok(()) | Err(PipeError::Os(_)) => {}
                Err(error) => return Err(pipe_error(py, error)),
            }
        }
        Ok(descriptor.as_raw_fd())
    }

    /// Whether messages travel through shared memory.
    #[getter]
    fn _ringed(&self) -> bool {
        self.end().is_some_and(|end| !end.is_stream())
    }

    /// Whether `recv` would return, or raise EOFError, at once. For `wait`.
    fn _probe(&self, py: Python<'_>) -> PyResult<bool> {
        let descriptor = self.descriptor(py)?;
        let now = Deadline::after(Some(Duration::ZERO));
        let Some(end) = self.end() else {
            return until_done(py, || stream::wait_readable(descriptor, now))
                .map_err(|error| error.into_py(py));
        };
        if end.has_messages() {
            return Ok(true);
        }
        match until_done(py, || end.wait(descriptor, now)).map_err(|error| error.into_py(py))? {
            Ready::Message | Ready::HungUp => Ok(true),
            Ready::TimedOut => Ok(false),
            Ready::Stream => until_done(py, || stream::wait_readable(descriptor, now))
                .map_err(|error| error.into_py(py)),
        }
    }

    /// Offset and generation of the pipe and the side of it, for `_join_pipe` in another process,
    /// as long as some reference keeps the pipe alive.
    fn _place(&self) -> PyResult<(u64, u64, u64)> {
        let end = self.entered()?;
        let handle = end.object().handle();
        Ok((handle.offset, handle.generation, end.side()))
    }

    /// As `_place`, with a reference for whoever takes handles in this thread at the moment.
    ///
    /// # Errors
    /// RuntimeError if nobody does.
    fn _export(slf: &Bound<'_, Self>) -> PyResult<(u64, u64, u64)> {
        let place = slf.get()._place()?;
        if let Some(end) = slf.get().end() {
            export(end.object(), slf.as_any())?;
        }
        Ok(place)
    }

    /// Keeps the pipe alive, without its sockets.
    fn _hold(&self) -> PyResult<Hold> {
        let end = self.entered()?;
        let object = end.object().try_clone().map_err(to_py)?;
        Ok(Hold { _object: object })
    }

    /// Turns the pipe into a stream for good: this end is about to leave the family.
    fn _to_stream(&self, py: Python<'_>) -> PyResult<()> {
        let descriptor = self.descriptor(py)?;
        match self.end() {
            Some(end) => py
                .detach(|| end.turn_into_stream(descriptor))
                .map_err(|error| pipe_error(py, error)),
            None => Ok(()),
        }
    }

    /// Has messages go through a pipe in shared memory from now on: this connection's socket becomes
    /// the socket of `side`. Until the other socket has entered the other side nothing may be sent.
    ///
    /// `soundly`: whoever receives here sleeps as `End::sleep_soundly` says.
    #[pyo3(signature = (side, soundly = false))]
    fn _enter(&self, side: &PipeSide, soundly: bool) {
        if soundly {
            side.end.sleep_soundly();
        }
        self.set_end(Some(Arc::clone(&side.end)));
    }

    /// Makes a call and waits for the answer: the result, or an `Other`. The process at the other side
    /// gets it by `_receive` or `_answer`, or without a pipe as a frame of the standard library's.
    fn _call<'py>(
        &self,
        py: Python<'py>,
        object: &Bound<'py, PyAny>,
        method: &Bound<'py, PyAny>,
        args: &Bound<'py, PyAny>,
        kwds: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let call = || codec::call([object, method], args, kwds);
        let message = if self.end().is_none() {
            let request = (object, method, args, kwds).into_pyobject(py)?;
            if self.send_standard(&request)? {
                let reply = self.recv_standard(py)?;
                if let Some(result) = result_in(&reply)? {
                    return Ok(result);
                }
                reply
            } else {
                py.None().into_bound(py)
            }
        } else if self.send_plain(py, ends::OBJECT, call())? {
            let answer = self.receive(py, None)?;
            if answer.tag() == ends::RESULT {
                return answer.into_object(py);
            }
            answer.into_either(py)?
        } else {
            py.None().into_bound(py)
        };
        let other = Other {
            message: message.unbind(),
        };
        Ok(Bound::new(py, other)?.into_any())
    }

    /// Answers a call by its result and receives the next message, as `_receive`. None, and nothing
    /// was sent, if the result is not plain.
    fn _answer<'py>(
        &self,
        py: Python<'py>,
        result: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let sent = if self.end().is_none() {
            self.send_standard(&(intern!(py, "#RETURN"), result).into_pyobject(py)?)?
        } else {
            self.send_plain(py, ends::RESULT, codec::plain(result))?
        };
        if sent {
            self._receive(py).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Receives a message as it was sent: an object, or bytes. Of a frame an object is made if that is
    /// all there is to it, see `recv_standard`.
    fn _receive<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if self.end().is_none() {
            self.recv_standard(py)
        } else {
            self.receive(py, None)?.into_either(py)
        }
    }

    /// Receives a descriptor that was sent with `send_handle`. None: there is no pipe here that
    /// the descriptor would have to be picked out of.
    fn _recv_handle(&self, py: Python<'_>) -> PyResult<Option<i32>> {
        let source = self.descriptor(py)?;
        let Some(end) = self.end().filter(|end| !end.is_stream()) else {
            return Ok(None);
        };
        let parcel = until_done(py, || end.receive_parcel(source))
            .map_err(|error| error.into_py(py))?
            .ok_or_else(|| PyEOFError::new_err(()))?;
        let [descriptor]: [_; 1] = parcel.descriptors.try_into().map_err(|_| {
            PyRuntimeError::new_err("no descriptor came over the connection, but other data")
        })?;
        Ok(Some(descriptor.into_raw_fd()))
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let number = self.handle.swap(CLOSED, Ordering::AcqRel);
        if number == CLOSED {
            return Ok(());
        }
        let end = self.set_end(None);
        // A socket may linger in close: let others run.
        let closed = py.detach(|| socket::take_over(number).and_then(socket::close));
        if let Some(end) = end {
            end.note_closing();
        }
        closed.map_err(|error| os_error(py, &error))
    }

    fn send(slf: &Bound<'_, Self>, obj: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        slf.get().sink(py)?;
        if let Some(end) = slf.get().end() {
            let outgoing = message::pack(obj, INLINE_MAX)?;
            if slf.get().send_outgoing(py, &end, ends::OBJECT, outgoing)? {
                return Ok(());
            }
        }
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
        if let Some(end) = self.end() {
            let parts = [part];
            let message = if part.len() <= INLINE_MAX {
                Message::Short(&parts)
            } else {
                Message::Long(ends::pack_bytes(part)?)
            };
            if self.send_through(py, &end, ends::BYTES, message)? {
                return Ok(());
            }
        }
        self.send_frame(py, part)
    }

    fn recv<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.receive(py, None)?.into_object(py)
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
        self.receive(py, limit)?.into_bytes(py)
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
        let message = self.receive(py, None)?.into_bytes(py)?;
        let body = message.as_bytes();
        if !fill(py, &target, start, body) {
            let class = py
                .import(intern!(py, "sidestep.context"))?
                .getattr(intern!(py, "BufferTooShort"))?;
            return Err(PyErr::from_value(class.call1((message,))?));
        }
        Ok(body.len())
    }

    #[pyo3(signature = (timeout = Some(0.0)), text_signature = "($self, timeout=0.0)")]
    fn poll(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let source = self.source(py)?;
        let deadline = deadline(timeout)?;
        if let Some(end) = self.end() {
            if end.has_messages() {
                return Ok(true);
            }
            match until_done(py, || end.wait(source, deadline))
                .map_err(|error| error.into_py(py))?
            {
                Ready::Message | Ready::HungUp => return Ok(true),
                Ready::TimedOut => return Ok(false),
                Ready::Stream => {}
            }
        }
        until_done(py, || stream::wait_readable(source, deadline))
            .map_err(|error| error.into_py(py))
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
        if socket::take_over(*self.handle.get_mut())
            .and_then(socket::close)
            .is_ok()
            && let Some(end) = self.set_end(None)
        {
            end.note_closing();
        }
    }
}

/// Keeps a pipe alive for somebody who is about to join it.
#[pyclass(frozen, module = "sidestep._sidestep")]
pub struct Hold {
    _object: Ref,
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
        // As Python itself does where a memoryview is cast.
        return Err(PyTypeError::new_err("the buffer is not contiguous"));
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
fn stream_pair(py: Python<'_>, duplex: bool) -> PyResult<(i32, i32)> {
    let pair = if duplex {
        socket::socket_pair()
    } else {
        socket::pipe()
    };
    let (first, second) = pair.map_err(|error| os_error(py, &error))?;
    Ok((first.into_raw_fd(), second.into_raw_fd()))
}

/// The sockets of a new pipe in shared memory. Connections that are made on them join the pipe.
#[pyfunction]
fn pipe_pair(py: Python<'_>) -> PyResult<(i32, i32)> {
    let [first, second] = ends::pair(py)?;
    Ok((first.into_raw_fd(), second.into_raw_fd()))
}

/// A side of a pipe in shared memory, for a connection that has a socket already.
#[pyclass(frozen, module = "sidestep._sidestep")]
pub struct PipeSide {
    end: Arc<End>,
}

#[pymethods]
impl PipeSide {
    /// The first side of a new pipe; or the side at a `place`, in another process of the family.
    #[new]
    #[pyo3(signature = (place = None))]
    fn new(place: Option<(u64, u64, u64)>) -> PyResult<Self> {
        let end = match place {
            None => pipe::create(),
            Some((offset, generation, side)) => {
                End::from_handle(handle((offset, generation)), side)
            }
        };
        Ok(Self {
            end: Arc::new(end.map_err(to_py)?),
        })
    }

    /// Where the other side is.
    #[getter]
    fn opposite(&self) -> (u64, u64, u64) {
        let handle = self.end.object().handle();
        (handle.offset, handle.generation, 1 - self.end.side())
    }
}

/// What `Connection._call` returns in place of a result.
#[pyclass(frozen, module = "sidestep._sidestep")]
pub struct Other {
    /// Another answer, as `Connection._receive` returns it. None: the call is not plain, and was not
    /// sent.
    #[pyo3(get)]
    message: Py<PyAny>,
}

/// Tells this process that `fd` is the socket of a pipe: connections that are made on it join it.
///
/// `place` is what `_place` said in another process of the family, where the pipe is still held.
#[pyfunction]
fn join_pipe(py: Python<'_>, fd: i32, place: (u64, u64, u64)) -> PyResult<()> {
    let socket = socket::vouched(fd).map_err(|error| os_error(py, &error))?;
    let (offset, generation, side) = place;
    let end = End::from_handle(handle((offset, generation)), side).map_err(to_py)?;
    ends::announce(end, socket).map_err(|error| os_error(py, &error))
}

/// Adds this file's part of the module.
///
/// # Errors
/// Out of memory.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Connection>()?;
    m.add_class::<Hold>()?;
    m.add_class::<PipeSide>()?;
    m.add_class::<Other>()?;
    m.add_function(wrap_pyfunction!(stream_pair, m)?)?;
    m.add_function(wrap_pyfunction!(pipe_pair, m)?)?;

    m.add_function(wrap_pyfunction!(join_pipe, m)?)
}

// --- the short ways -----------------------------------------------------------------------------

// SAFETY of all of these: the interpreter calls them, attached, with an instance of the class that
// they are listed for below, and with arguments that are alive.

static CONNECTION: [Quick; 4] = [
    Quick::new(c"send", Function::Any(send)),
    Quick::new(c"recv", Function::Plain(recv)),
    Quick::new(c"send_bytes", Function::Any(send_bytes)),
    Quick::new(c"recv_bytes", Function::Any(recv_bytes)),
];

impl Connection {
    /// Sends a brief message if this is the end of a pipe with room. False, and nothing was sent: the
    /// long way has to be gone.
    fn send_quickly(&self, py: Python<'_>, tag: u8, message: &Brief) -> PyResult<bool> {
        let Ok(sink) = self.sink(py) else {
            return Ok(false);
        };
        self.at_hand(Ok(false), |end| end.try_send_brief(sink, tag, message))
            .map_err(|error| pipe_error(py, error))
    }

    /// Takes a brief message if this is the end of a pipe, and the oldest message is one: its tag.
    fn receive_quickly(&self, py: Python<'_>, message: &mut Brief) -> PyResult<Option<u8>> {
        let Ok(source) = self.source(py) else {
            return Ok(None);
        };
        self.at_hand(Ok(None), |end| end.try_receive_brief(source, message))
            .map_err(|error| pipe_error(py, error))
    }

    /// Does what neither waits nor runs Python code with the end of the pipe, if there is one.
    #[inline]
    fn at_hand<T>(&self, otherwise: T, act: impl FnOnce(&End) -> T) -> T {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        end.as_deref().map_or(otherwise, act)
    }
}

/// The result of a method for the interpreter; `in_full` where there is none yet.
fn result(
    py: Python<'_>,
    quickly: PyResult<Option<Bound<'_, PyAny>>>,
    in_full: impl FnOnce() -> *mut PyObject,
) -> *mut PyObject {
    match quickly {
        Ok(Some(object)) => object.into_ptr(),
        Ok(None) => in_full(),
        Err(error) => {
            error.restore(py);
            std::ptr::null_mut()
        }
    }
}

unsafe extern "C" fn send(
    slf: *mut PyObject,
    args: *const *mut PyObject,
    count: ffi::Py_ssize_t,
    names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: see above.
    unsafe {
        let py = Python::assume_attached();
        let mut message = Brief::new();
        let is_brief = count == 1
            && names.is_null()
            && codec::short(&Borrowed::from_ptr(py, *args), &mut message);
        let done = if is_brief {
            instance::<Connection>(slf).send_quickly(py, ends::OBJECT, &message)
        } else {
            Ok(false)
        };
        let done = done.map(|done| done.then(|| py.None().into_bound(py)));
        result(py, done, || CONNECTION[0].in_full(slf, args, count, names))
    }
}

unsafe extern "C" fn recv(slf: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: see above.
    unsafe {
        let py = Python::assume_attached();
        let mut message = Brief::new();
        let taken = instance::<Connection>(slf).receive_quickly(py, &mut message);
        let object = taken.and_then(|taken| match taken {
            Some(ends::BYTES) => {
                let bytes = message.as_slice().to_vec();
                Incoming::Short(ends::BYTES, bytes)
                    .into_object(py)
                    .map(Some)
            }
            Some(_) => codec::long(py, message.as_slice()).map(Some),
            None => Ok(None),
        });
        result(py, object, || CONNECTION[1].in_full_plain(slf))
    }
}

unsafe extern "C" fn send_bytes(
    slf: *mut PyObject,
    args: *const *mut PyObject,
    count: ffi::Py_ssize_t,
    names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: see above.
    unsafe {
        let py = Python::assume_attached();
        let mut message = Brief::new();
        let is_brief = count == 1
            && names.is_null()
            && Borrowed::from_ptr(py, *args)
                .cast_exact::<PyBytes>()
                .is_ok_and(|bytes| message.set([], bytes.as_bytes()));
        let done = if is_brief {
            instance::<Connection>(slf).send_quickly(py, ends::BYTES, &message)
        } else {
            Ok(false)
        };
        let done = done.map(|done| done.then(|| py.None().into_bound(py)));
        result(py, done, || CONNECTION[2].in_full(slf, args, count, names))
    }
}

unsafe extern "C" fn recv_bytes(
    slf: *mut PyObject,
    args: *const *mut PyObject,
    count: ffi::Py_ssize_t,
    names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: see above.
    unsafe {
        let py = Python::assume_attached();
        let mut message = Brief::new();
        let taken = if count == 0 && names.is_null() {
            instance::<Connection>(slf).receive_quickly(py, &mut message)
        } else {
            Ok(None)
        };
        let bytes = taken.and_then(|taken| {
            let Some(tag) = taken else {
                return Ok(None);
            };
            let bytes = if tag == ends::BYTES {
                PyBytes::new(py, message.as_slice())
            } else {
                Incoming::Short(tag, message.as_slice().to_vec()).into_bytes(py)?
            };
            Ok(Some(bytes.into_any()))
        });
        result(py, bytes, || CONNECTION[3].in_full(slf, args, count, names))
    }
}

/// See [`crate::own_methods`].
///
/// # Errors
/// Out of memory.
pub fn give_own_methods(class: &Bound<'_, PyType>) -> PyResult<()> {
    quick::give::<Connection>(class, &CONNECTION)
}
