//! `Queue`: objects through the engine's queue.
#![allow(unsafe_code)] // The quick methods are called by the interpreter itself.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use pyo3::exceptions::{PyException, PyOSError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyGenericAlias, PyList, PyTuple, PyType};
use pyo3::{Borrowed, PyTypeInfo};
use pyo3::{intern, types::PyString};
use sidestep::channel::{Brief, EnvelopeBox, Put, Queue as Shared, QueueOptions, Taken, Watch};
use sidestep::os::clock::Deadline;
use sidestep::os::{doorbell, process};
use sidestep::shm::Envelope;
use sidestep::sync::Wait;

use crate::codec;
use crate::connection::os_error;
use crate::error::{EMPTY, FULL, to_py};
use crate::family::{Name, export, handle};
use crate::message::{Outgoing, outgoing, pack, unpack};
use crate::quick::{self, Function, Quick, instance};
use crate::wait::{deadline, truth, wait};

thread_local! {
    /// Where short messages are copied to: one buffer per thread saves an allocation per item.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A queue.
#[pyclass(module = "sidestep._sidestep", frozen, subclass)]
pub struct Queue {
    inner: OnceLock<Shared>,
    /// What this process has closed: `CLOSED`, `READER`, `WRITER`.
    closed: AtomicU8,
    used: AtomicBool,
    /// Whether there is a watch in `descriptors`.
    watched: AtomicBool,
    /// Held for a look only, attached to the interpreter: never across a fork made from Python.
    descriptors: Mutex<Descriptors>,
    /// Whether there is something in `kept`.
    has_kept: AtomicBool,
    /// What `get_many` has taken and not returned. Held for a look only, as above.
    kept: Mutex<Kept>,
}

/// Items that were taken in one go, and wait for the calls that follow.
#[derive(Default)]
struct Kept {
    /// The process that has taken them: after a fork they are not the child's.
    owner: u32,
    items: VecDeque<KeptItem>,
}

enum KeptItem {
    /// It could not be rebuilt; the others have been returned.
    Failed(PyErr),
    /// Somebody wanted the call to end before it could return this.
    Whole(Py<PyAny>),
    /// The same, and it has not been rebuilt.
    Packed(Vec<u8>),
}

/// What was made because somebody asked for the number of an end.
#[derive(Default)]
struct Descriptors {
    reader: Option<Arc<Watch>>,
    writer: Option<OwnedFd>,
}

/// The queue as a whole was closed.
const CLOSED: u8 = 1;
/// Its end to take from was closed.
const READER: u8 = 2;
/// Its end to put to was closed.
const WRITER: u8 = 4;

enum Item<'py> {
    Object(Bound<'py, PyAny>),
    Nothing,
}

impl Queue {
    fn queue(&self) -> PyResult<&Shared> {
        self.inner.get().ok_or_else(|| {
            PyRuntimeError::new_err("the queue is not initialised: call super().__init__()")
        })
    }

    /// The queue, unless this process has closed it, or the `end` of it that is needed.
    #[inline]
    fn open<'a>(slf: &'a Bound<'_, Self>, end: u8) -> PyResult<&'a Shared> {
        let this = slf.get();
        let closed = this.closed.load(Ordering::Relaxed);
        if closed & (CLOSED | end) != 0 {
            return Err(Self::refusal(slf, closed));
        }
        this.queue()
    }

    #[cold]
    fn refusal(slf: &Bound<'_, Self>, closed: u8) -> PyErr {
        if closed & CLOSED != 0 {
            PyValueError::new_err(format!("{} is closed", describe(slf)))
        } else {
            PyOSError::new_err(format!(
                "handle is closed: this process has closed the end of {} that this needs",
                describe(slf)
            ))
        }
    }

    /// The descriptors of some ends, to be closed by the caller.
    fn release(&self, ends: u8) -> Descriptors {
        let mut descriptors = self.descriptors();
        Descriptors {
            reader: (ends & READER != 0)
                .then(|| descriptors.reader.take())
                .flatten(),
            writer: (ends & WRITER != 0)
                .then(|| descriptors.writer.take())
                .flatten(),
        }
    }

    fn descriptors(&self) -> MutexGuard<'_, Descriptors> {
        self.descriptors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// After a look for items: a descriptor that somebody polls must say what was seen. Whether
    /// there are items for which it is worth to look again.
    #[inline]
    fn settle(&self) -> bool {
        self.watched.load(Ordering::Relaxed) && self.settle_watch()
    }

    #[cold]
    fn settle_watch(&self) -> bool {
        let watch = self.descriptors().reader.clone();
        watch.is_some_and(|watch| watch.settle())
    }

    /// A last look after one that was in vain: the descriptor may have woken us a moment early.
    fn look_again<'py>(&self, py: Python<'py>, queue: &Shared) -> PyResult<Item<'py>> {
        if self.settle() {
            Self::receive(py, queue)
        } else {
            Ok(Item::Nothing)
        }
    }

    /// Sends what is packed. `Err(None)`: no room in time.
    fn send(
        py: Python<'_>,
        queue: &Shared,
        item: Outgoing,
        block: bool,
        deadline: Deadline,
    ) -> PyResult<bool> {
        let mut item = item;
        let len = item.len();
        loop {
            item = match item {
                Outgoing::Short(message) => {
                    match queue.try_put(0, &[&message.head]).map_err(to_py)? {
                        Put::Done(_) => return Ok(true),
                        Put::Full => Outgoing::Short(message),
                    }
                }
                Outgoing::Long(envelope) => {
                    match queue.try_put_envelope(0, 0, envelope).map_err(to_py)? {
                        Ok(_) => return Ok(true),
                        Err(envelope) => Outgoing::Long(envelope),
                    }
                }
            };
            if !block || wait(py, || queue.wait_space(len, deadline))? == Wait::TimedOut {
                return Ok(false);
            }
        }
    }

    /// Sends what is packed, in order, until the time is up; `done` counts what was sent.
    fn send_all(
        py: Python<'_>,
        queue: &Shared,
        packed: Vec<Parcel>,
        block: bool,
        deadline: Deadline,
        done: &mut usize,
    ) -> PyResult<()> {
        for parcel in packed {
            let run = match parcel {
                Parcel::Run(run) => run,
                Parcel::Long(envelope) => {
                    if !Self::send(py, queue, Outgoing::Long(envelope), block, deadline)? {
                        return Ok(());
                    }
                    *done += 1;
                    continue;
                }
            };
            let mut sent = 0;
            while sent < run.ends.len() {
                let some = sent..run.ends.len().min(sent + RUN);
                let now = queue
                    .try_put_many(0, some.map(|at| run.message(at)))
                    .map_err(to_py)?;
                sent += now;
                *done += now;
                if now == 0 {
                    let len = run.message(sent).len() as u64;
                    if !block || wait(py, || queue.wait_space(len, deadline))? == Wait::TimedOut {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes one item without waiting.
    #[inline]
    fn receive<'py>(py: Python<'py>, queue: &Shared) -> PyResult<Item<'py>> {
        let mut message = Brief::new();
        if queue.try_take_brief(&mut message) {
            return codec::long(py, message.as_slice()).map(Item::Object);
        }
        let mut buffer = BUFFER.with(RefCell::take);
        buffer.clear();
        let taken = queue.try_take(&mut buffer);
        let item = match taken {
            Ok(Taken::Bytes { .. }) => codec::loads(py, &buffer, Vec::new()).map(Item::Object),
            Ok(Taken::Envelope {
                envelope: EnvelopeBox(envelope),
                ..
            }) => unpack(py, envelope).map(Item::Object),
            Ok(Taken::Empty) => Ok(Item::Nothing),
            Err(error) => Err(to_py(error)),
        };
        if buffer.capacity() <= 64 << 10 {
            BUFFER.with(|cell| *cell.borrow_mut() = buffer);
        }
        item
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether items are kept for this process.
    #[inline]
    fn has_kept(&self) -> bool {
        self.has_kept.load(Ordering::Relaxed) && self.kept().owner == process::pid()
    }

    /// Changes what is kept.
    #[cold]
    fn with_kept<T>(&self, change: impl FnOnce(&mut VecDeque<KeptItem>) -> T) -> T {
        let mut kept = self.kept();
        let me = process::pid();
        let theirs = if kept.owner == me {
            VecDeque::new()
        } else {
            std::mem::take(&mut kept.items)
        };
        kept.owner = me;
        let done = change(&mut kept.items);
        self.has_kept
            .store(!kept.items.is_empty(), Ordering::Relaxed);
        drop(kept);
        // Objects, whose end may run code.
        drop(theirs);
        done
    }

    /// Adds an item to the list, or keeps for later why it could not be rebuilt.
    ///
    /// # Errors
    /// What is no `Exception`: someone wants the whole call to end.
    fn gather<'py>(
        &self,
        list: &Bound<'py, PyList>,
        item: PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        match item {
            Ok(object) => list.append(object),
            Err(error) if error.is_instance_of::<PyException>(list.py()) => {
                self.with_kept(|kept| kept.push_back(KeptItem::Failed(error)));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Rebuilds the items that lie in `buffer` up to each of `ends`. If somebody wants the call to
    /// end, all that was taken waits for the next one.
    ///
    /// # Errors
    /// What is no `Exception`.
    fn rebuild(&self, list: &Bound<'_, PyList>, buffer: &[u8], ends: &[usize]) -> PyResult<()> {
        let starts = std::iter::once(&0).chain(ends);
        let mut packed = starts.zip(ends).map(|(start, end)| &buffer[*start..*end]);
        while let Some(message) = packed.next() {
            let item = codec::long(list.py(), message);
            if let Err(error) = self.gather(list, item) {
                let left = std::iter::once(message).chain(packed);
                self.keep_all(list, left);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Keeps what was to be returned, and messages behind it, before what is kept already.
    fn keep_all<'m>(&self, list: &Bound<'_, PyList>, left: impl Iterator<Item = &'m [u8]>) {
        let whole = list.iter().map(|object| KeptItem::Whole(object.unbind()));
        let packed = left.map(|message| KeptItem::Packed(message.to_vec()));
        let mut items: VecDeque<_> = whole.chain(packed).collect();
        self.with_kept(|kept| {
            items.append(kept);
            *kept = items;
        });
    }

    /// Adds to the list what is kept, up to one that could not be rebuilt.
    ///
    /// # Errors
    /// What is no `Exception`.
    fn gather_kept(&self, list: &Bound<'_, PyList>, limit: usize) -> PyResult<()> {
        while list.len() < limit && self.has_kept() {
            let next = self.with_kept(|kept| match kept.front() {
                Some(KeptItem::Failed(_)) | None => None,
                Some(_) => kept.pop_front(),
            });
            match next {
                Some(KeptItem::Whole(object)) => list.append(object)?,
                Some(KeptItem::Packed(message)) => {
                    self.rebuild(list, &message, &[message.len()])?;
                }
                Some(KeptItem::Failed(_)) | None => break,
            }
        }
        Ok(())
    }

    fn receive_in_time<'py>(
        &self,
        py: Python<'py>,
        queue: &Shared,
        block: bool,
        deadline: impl FnOnce() -> PyResult<Deadline>,
    ) -> PyResult<Item<'py>> {
        if self.has_kept.load(Ordering::Relaxed)
            && let Some(item) = self.with_kept(VecDeque::pop_front)
        {
            return match item {
                KeptItem::Failed(error) => Err(error),
                KeptItem::Whole(object) => Ok(Item::Object(object.into_bound(py))),
                KeptItem::Packed(message) => codec::long(py, &message).map(Item::Object),
            };
        }
        if let Item::Object(object) = Self::receive(py, queue)? {
            return Ok(Item::Object(object));
        }
        if !block {
            return self.look_again(py, queue);
        }
        let deadline = deadline()?;
        loop {
            if wait(py, || queue.wait_items(deadline))? == Wait::TimedOut {
                return self.look_again(py, queue);
            }
            let item = Self::receive(py, queue);
            // Also if the object could not be rebuilt: others may sleep beside more items.
            queue.pass_on();
            if let Item::Object(object) = item? {
                return Ok(Item::Object(object));
            }
        }
    }
}

/// The bit of an end in `closed`.
fn end(writer: bool) -> u8 {
    if writer { WRITER } else { READER }
}

fn describe(object: &Bound<'_, impl PyTypeInfo>) -> String {
    object.as_any().repr().map_or_else(
        |_| "the queue".to_owned(),
        |text: Bound<'_, PyString>| format!("queue {text}"),
    )
}

#[pymethods]
impl Queue {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self {
            inner: OnceLock::new(),
            closed: AtomicU8::new(0),
            used: AtomicBool::new(false),
            watched: AtomicBool::new(false),
            descriptors: Mutex::default(),
            has_kept: AtomicBool::new(false),
            kept: Mutex::default(),
        }
    }

    /// `Queue[int]` and the like, in annotations and as a base class.
    #[classmethod]
    fn __class_getitem__<'py>(
        cls: &Bound<'py, PyType>,
        item: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyGenericAlias>> {
        PyGenericAlias::new(cls.py(), cls.as_any(), item)
    }

    /// A queue of at most `maxsize` items, 0 or less for no limit, and `max_bytes` unread bytes.
    #[pyo3(signature = (maxsize=0, max_bytes=0))]
    fn _init(&self, maxsize: i64, max_bytes: u64) -> PyResult<()> {
        let items = u32::try_from(maxsize.max(0)).unwrap_or(0);
        let made = QueueOptions::new()
            .max_items(items)
            .max_bytes(max_bytes)
            .create();
        let _ = self.inner.set(made.map_err(to_py)?);
        Ok(())
    }

    fn _export(slf: &Bound<'_, Self>) -> PyResult<Name> {
        export(slf.get().queue()?.object(), slf.as_any())
    }

    fn _attach(&self, name: Name) -> PyResult<()> {
        let _ = self
            .inner
            .set(Shared::from_handle(handle(name)).map_err(to_py)?);
        Ok(())
    }

    /// Put an item. Waits for room if `block`, at most `timeout` seconds, else raises queue.Full.
    #[pyo3(signature = (obj, block=true, timeout=None))]
    fn put(
        slf: &Bound<'_, Self>,
        obj: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = truth)] block: bool,
        timeout: Option<f64>,
    ) -> PyResult<()> {
        let py = slf.py();
        let queue = Self::open(slf, WRITER)?;
        let mut item = Brief::new();
        if codec::short(obj, &mut item)
            && let Put::Done(_) = queue.try_put_brief(0, &item).map_err(to_py)?
        {
            slf.get().used.store(true, Ordering::Relaxed);
            return Ok(());
        }
        let item = match pack(obj, Shared::INLINE_MAX) {
            Ok(item) => item,
            Err(error) => {
                let hook = intern!(py, "_put_failed");
                return slf
                    .call_method1(hook, (error.into_value(py), obj))
                    .map(|_| ());
            }
        };
        slf.get().used.store(true, Ordering::Relaxed);
        if let Outgoing::Short(message) = &item
            && let Put::Done(_) = queue.try_put(0, &[&message.head]).map_err(to_py)?
        {
            return Ok(());
        }
        if Self::send(py, queue, item, block, deadline(timeout)?)? {
            Ok(())
        } else {
            Err(FULL.raise(py, ()))
        }
    }

    /// Remove and return the oldest item. Waits for one if `block`, at most `timeout` seconds, else
    /// raises queue.Empty.
    #[pyo3(signature = (block=true, timeout=None))]
    fn get<'py>(
        slf: &Bound<'py, Self>,
        #[pyo3(from_py_with = truth)] block: bool,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let queue = Self::open(slf, READER)?;
        let item = slf
            .get()
            .receive_in_time(py, queue, block, || deadline(timeout));
        slf.get().settle();
        match item? {
            Item::Object(object) => Ok(object),
            Item::Nothing => Err(EMPTY.raise(py, ())),
        }
    }

    /// Put several items, with fewer locks than one by one; return how many were put in time.
    #[pyo3(signature = (items, block=true, timeout=None))]
    fn put_many(
        slf: &Bound<'_, Self>,
        items: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = truth)] block: bool,
        timeout: Option<f64>,
    ) -> PyResult<usize> {
        let py = slf.py();
        let queue = Self::open(slf, WRITER)?;
        let deadline = deadline(timeout)?;
        // All are serialised before the first is sent: if one cannot be, none was.
        let (mut packed, mut count) = (Vec::new(), 0);
        for item in items.try_iter()? {
            Parcel::add(&mut packed, &item?)?;
            count += 1;
        }
        slf.get().used.store(true, Ordering::Relaxed);
        let mut done = 0;
        let sent = Self::send_all(py, queue, packed, block, deadline, &mut done);
        if let Err(error) = sent {
            // The arena is full, or a signal handler raised: the caller must know where it stands.
            let note = format!("{done} of {count} items were put before");
            error
                .value(py)
                .call_method1(intern!(py, "add_note"), (note,))?;
            return Err(error);
        }
        Ok(done)
    }

    /// Takes at most `limit` items: waits for the first only. An item that cannot be rebuilt costs
    /// none of the others: the next call raises why.
    #[pyo3(signature = (limit, block=true, timeout=None))]
    fn get_many<'py>(
        slf: &Bound<'py, Self>,
        #[pyo3(from_py_with = most)] limit: usize,
        #[pyo3(from_py_with = truth)] block: bool,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyList>> {
        let py = slf.py();
        let queue = Self::open(slf, READER)?;
        let list = PyList::empty(py);
        if limit == 0 {
            return Ok(list);
        }
        let first = slf
            .get()
            .receive_in_time(py, queue, block, || deadline(timeout));
        slf.get().settle();
        match first? {
            Item::Object(object) => list.append(object)?,
            Item::Nothing => return Err(EMPTY.raise(py, ())),
        }
        let (mut buffer, mut ends) = (Vec::new(), Vec::new());
        slf.get().gather_kept(&list, limit)?;
        // What is kept still could not be rebuilt: that is for the next call to say.
        while list.len() < limit && !slf.get().has_kept() {
            buffer.clear();
            ends.clear();
            queue.try_take_many((limit - list.len()).min(1024), &mut buffer, &mut ends);
            slf.get().rebuild(&list, &buffer, &ends)?;
            if ends.is_empty() {
                let item = match Self::receive(py, queue) {
                    Ok(Item::Nothing) => break,
                    Ok(Item::Object(object)) => Ok(object),
                    Err(error) => Err(error),
                };
                if let Err(error) = slf.get().gather(&list, item) {
                    slf.get().keep_all(&list, std::iter::empty());
                    return Err(error);
                }
            }
        }
        slf.get().settle();
        Ok(list)
    }

    /// Waits until an item is there, for at most `timeout` seconds; whether there is.
    #[pyo3(signature = (timeout=Some(0.0)), text_signature = "($self, timeout=0.0)")]
    fn _poll(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<bool> {
        let (py, queue) = (slf.py(), slf.get().queue()?);
        if slf.get().closed.load(Ordering::Relaxed) & READER != 0 {
            return Err(Self::refusal(slf, READER));
        }
        if !queue.is_empty() || slf.get().has_kept() {
            return Ok(true);
        }
        let deadline = deadline(timeout)?;
        loop {
            if wait(py, || queue.wait_items(deadline))? == Wait::TimedOut {
                slf.get().settle();
                return Ok(!queue.is_empty());
            }
            if !queue.is_empty() {
                // The wake-up was for a taker: this one only looks.
                queue.pass_on();
                return Ok(true);
            }
        }
    }

    /// Number of items in the queue: put and not yet taken.
    fn qsize(&self) -> PyResult<u32> {
        Ok(self.queue()?.len())
    }

    /// Whether the queue is empty at this moment.
    fn empty(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let this = slf.get();
        let closed = this.closed.load(Ordering::Relaxed);
        if closed & READER != 0 || closed & CLOSED != 0 && this.used.load(Ordering::Relaxed) {
            return Err(PyOSError::new_err(format!("{} is closed", describe(slf))));
        }
        let empty = this.queue()?.is_empty() && !this.has_kept();
        if empty {
            this.settle();
        }
        Ok(empty)
    }

    /// Whether the queue holds as many items as it may.
    fn full(&self) -> PyResult<bool> {
        Ok(self.queue()?.is_full())
    }

    /// Stop using the queue in this process; what was put stays in it for others.
    fn close(&self) {
        self.closed.fetch_or(CLOSED, Ordering::Relaxed);
        drop(self.release(READER | WRITER));
    }

    #[getter]
    fn _closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed) & CLOSED != 0
    }

    /// Whether this process has closed the end to put to (`writer`) or to take from, or the queue.
    fn _end_closed(&self, writer: bool) -> bool {
        self.closed.load(Ordering::Relaxed) & (CLOSED | end(writer)) != 0
    }

    /// Close one end in this process.
    fn _close_end(&self, writer: bool) {
        self.closed.fetch_or(end(writer), Ordering::Relaxed);
        drop(self.release(end(writer)));
    }

    /// The descriptor of one end, made now if there is none: the one to take from is readable
    /// while there are items, the one to put to is always writable.
    fn _end_fileno(slf: &Bound<'_, Self>, writer: bool) -> PyResult<i32> {
        let py = slf.py();
        let this = slf.get();
        let queue = this.queue()?;
        if this._end_closed(writer) {
            return Err(Self::refusal(slf, end(writer)));
        }
        if writer {
            let mut descriptors = this.descriptors();
            let fd = match descriptors.writer.take() {
                Some(fd) => fd,
                None => doorbell::always_writable().map_err(|error| os_error(py, &error))?,
            };
            return Ok(descriptors.writer.insert(fd).as_raw_fd());
        }
        let known = this.descriptors().reader.clone();
        if let Some(watch) = known.filter(|watch| watch.is_ours()) {
            return Ok(watch.fd().as_raw_fd());
        }
        let watch = Arc::new(queue.watch().map_err(to_py)?);
        let number = watch.fd().as_raw_fd();
        // What is replaced is a parent's, inherited by a fork.
        let before = this.descriptors().reader.replace(watch);
        this.watched.store(true, Ordering::Relaxed);
        drop(before);
        Ok(number)
    }

    /// Whether there is an item; afterwards the descriptor of the end to take from says so, too.
    fn _probe(&self) -> PyResult<bool> {
        let empty = self.queue()?.is_empty() && !self.has_kept();
        if empty {
            self.settle();
        }
        Ok(!empty)
    }

    fn _task_done(&self) -> PyResult<bool> {
        Ok(self.queue()?.task_done())
    }

    fn _join(&self, py: Python<'_>) -> PyResult<()> {
        let queue = self.queue()?;
        while !queue.all_done() {
            let _ = wait(py, || queue.wait_all_done(Deadline::NEVER))?;
        }
        Ok(())
    }
}

// --- the short ways -----------------------------------------------------------------------------

// SAFETY of both: the interpreter calls them, attached, with an instance of the class that they are
// listed for below, and with arguments that are alive.

static QUEUE: [Quick; 2] = [
    Quick::new(c"put", Function::Any(put)),
    Quick::new(c"get", Function::Any(get)),
];

impl Queue {
    /// The queue, if this process has not closed this end of it.
    #[inline]
    fn at_hand(&self, end: u8) -> Option<&Shared> {
        let closed = self.closed.load(Ordering::Relaxed) & (CLOSED | end) != 0;
        self.inner.get().filter(|_| !closed)
    }

    /// Puts an item if it is plain and there is room.
    #[inline]
    fn put_quickly(&self, obj: &Bound<'_, PyAny>) -> bool {
        let Some(queue) = self.at_hand(WRITER) else {
            return false;
        };
        let mut item = Brief::new();
        let done = if codec::short(obj, &mut item) {
            matches!(queue.try_put_brief(0, &item), Ok(Put::Done(_)))
        } else if let Some(message) = codec::plain(obj)
            // Else there are objects to be let go of, which is no business of a short way.
            && message.buffers.is_empty()
            && let Ok(packed) = outgoing(message, Vec::new(), Shared::INLINE_MAX)
        {
            match packed {
                Outgoing::Short(message) => {
                    matches!(queue.try_put(0, &[&message.head]), Ok(Put::Done(_)))
                }
                Outgoing::Long(envelope) => {
                    matches!(queue.try_put_envelope(0, 0, envelope), Ok(Ok(_)))
                }
            }
        } else {
            false
        };
        if done {
            self.used.store(true, Ordering::Relaxed);
        }
        done
    }

    /// Takes an item if there is one, it is a brief one, and there is nothing else to be done.
    #[inline]
    fn take_quickly(&self, item: &mut Brief) -> bool {
        let busy = self.watched.load(Ordering::Relaxed) || self.has_kept.load(Ordering::Relaxed);
        !busy
            && self
                .at_hand(READER)
                .is_some_and(|queue| queue.try_take_brief(item))
    }
}

unsafe extern "C" fn put(
    slf: *mut PyObject,
    args: *const *mut PyObject,
    count: ffi::Py_ssize_t,
    names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: see above.
    unsafe {
        if count == 1 && names.is_null() {
            let obj = Borrowed::from_ptr(Python::assume_attached(), *args);
            if instance::<Queue>(slf).put_quickly(&obj) {
                return quick::none();
            }
        }
        QUEUE[0].in_full(slf, args, count, names)
    }
}

unsafe extern "C" fn get(
    slf: *mut PyObject,
    args: *const *mut PyObject,
    count: ffi::Py_ssize_t,
    names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: see above.
    unsafe {
        let mut item = Brief::new();
        if count == 0 && names.is_null() && instance::<Queue>(slf).take_quickly(&mut item) {
            let py = Python::assume_attached();
            return match codec::long(py, item.as_slice()) {
                Ok(object) => object.into_ptr(),
                Err(error) => {
                    error.restore(py);
                    std::ptr::null_mut()
                }
            };
        }
        QUEUE[1].in_full(slf, args, count, names)
    }
}

/// See [`crate::own_methods`].
///
/// # Errors
/// Out of memory.
pub fn give_own_methods(class: &Bound<'_, PyType>) -> PyResult<()> {
    quick::give::<Queue>(class, &QUEUE)
}

/// Messages that are put under one lock, at most: others wait meanwhile.
const RUN: usize = 1024;

/// Of several items: short ones in a row, one behind the other in memory, or a long one.
enum Parcel {
    Run(Run),
    Long(Envelope),
}

#[derive(Default)]
struct Run {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Run {
    fn push(&mut self, message: &[u8]) {
        self.bytes.extend_from_slice(message);
        self.ends.push(self.bytes.len());
    }

    fn message(&self, at: usize) -> &[u8] {
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.bytes[start..self.ends[at]]
    }
}

impl Parcel {
    /// Serialises an item, behind the others.
    #[inline]
    fn add(packed: &mut Vec<Self>, item: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut brief = Brief::new();
        if codec::short(item, &mut brief) {
            Self::append(packed, brief.as_slice());
            return Ok(());
        }
        match pack(item, Shared::INLINE_MAX)? {
            Outgoing::Short(message) => Self::append(packed, &message.head),
            Outgoing::Long(envelope) => packed.push(Self::Long(envelope)),
        }
        Ok(())
    }

    #[inline]
    fn append(packed: &mut Vec<Self>, message: &[u8]) {
        if !matches!(packed.last(), Some(Self::Run(_))) {
            packed.push(Self::Run(Run::default()));
        }
        if let Some(Self::Run(run)) = packed.last_mut() {
            run.push(message);
        }
    }
}

/// The `limit` of items; more than there can be are as many as there are.
fn most(limit: &Bound<'_, PyAny>) -> PyResult<usize> {
    let name = intern!(limit.py(), "__index__");
    let Ok(number) = limit.call_method0(name) else {
        let message = format!("limit must be an int, not {}", limit.repr()?);
        return Err(PyTypeError::new_err(message));
    };
    if number.lt(0)? {
        let message = format!("limit must be 0 or more, not {number}");
        return Err(PyValueError::new_err(message));
    }
    Ok(number.extract().unwrap_or(usize::MAX))
}
