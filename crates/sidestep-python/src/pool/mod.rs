//! `PoolCore`: the shared parts of a pool, with objects as tasks and results.

mod inbox;

use std::collections::HashSet;
use std::sync::OnceLock;
use std::time::Duration;

use pyo3::exceptions::{PyException, PyMemoryError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator, PyList, PySet, PyTuple};
use sidestep::os::clock::Deadline;
use sidestep::os::oom;
use sidestep::pool::{Delivery, Parcel, Pool, PoolHandle, Stage};
use sidestep::shm::Envelope;
use sidestep::sync::{SLICE, Stamp, Wait};

use crate::codec;
use crate::error::to_py;
use crate::family::{Name, export, handle};
use crate::message::{Outgoing, pack, pack_task, unpack};
use crate::wait::{deadline, wait};
use inbox::{Entry, Inbox, Outcome, came, report, take_items};

/// Most results that `collect` takes in one go: other threads, and the handlers of signals, wait meanwhile.
const BATCH: usize = 256;

/// From this size of tasks on only so many bytes are submitted ahead of the workers, or two tasks for each:
/// memory that was used before is far cheaper than fresh one.
const LARGE: u64 = 64 << 10;
const AHEAD: u64 = 64 << 20;

/// While each worker has so many tasks before it, results are taken in batches, so often: to be woken for
/// each costs more than to take it.
const BACKLOG: u32 = 4;
const NAP: Duration = Duration::from_micros(200);

/// The shared parts of a pool.
#[pyclass(module = "sidestep._sidestep", frozen)]
pub struct PoolCore {
    inner: OnceLock<Pool>,
}

fn name(handle: sidestep::shm::Handle) -> Name {
    (handle.offset, handle.generation)
}

/// Sends; a short message that is too long for the pool's frame goes as an envelope.
fn send<T>(message: Outgoing, to: impl FnOnce(Parcel<'_>) -> sidestep::Result<T>) -> PyResult<T> {
    match message {
        Outgoing::Short(message) => to(Parcel::Short(&message.head)),
        Outgoing::Long(envelope) => to(Parcel::Long(envelope)),
    }
    .map_err(to_py)
}

/// The object in a delivery, or the exception that rebuilding it raised; with a task's number.
fn open<'py>(py: Python<'py>, buffer: &[u8], delivery: Delivery) -> PyResult<Bound<'py, PyAny>> {
    match delivery {
        Delivery::Short { .. } => codec::loads(py, buffer, Vec::new()),
        Delivery::Long { envelope, .. } | Delivery::LastWords { envelope, .. } => {
            unpack(py, envelope)
        }
        Delivery::Retired { .. } | Delivery::Nudge => Ok(py.None().into_bound(py)),
    }
}

fn exception<'py>(py: Python<'py>, error: PyErr) -> Bound<'py, PyAny> {
    error.into_value(py).into_bound(py).into_any()
}

type Names = (Name, Name, Name, u32, u32);

/// A task's number, whether it could be rebuilt, and it, or the exception.
type Opened<'py> = (u32, bool, Bound<'py, PyAny>);

/// What `collect` has found, as far as it is not settled: jobs to be ended, entries whose result could not
/// be rebuilt with the exception, lines of workers that end in order, and such with their last words.
/// Before it all, whether there was anything.
type Harvest<'py> = (
    bool,
    Bound<'py, PyList>,
    Bound<'py, PyList>,
    Bound<'py, PyList>,
    Bound<'py, PyList>,
);

/// Where `feed` has got: the next task's place; the items that it could not submit, if it has stopped at
/// that; why not, or None if they find memory once another task of the job is done; or else what the source
/// has raised; and whether there may be more.
type Fed<'py> = (
    usize,
    Option<Bound<'py, PyTuple>>,
    Option<Bound<'py, PyAny>>,
    bool,
);

/// A serialised task that can be submitted more than once.
#[pyclass(module = "sidestep._sidestep", frozen)]
pub struct PackedTask {
    bytes: Packed,
}

enum Packed {
    Short(Vec<u8>),
    Long(Envelope),
}

impl PoolCore {
    fn pool(&self) -> PyResult<&Pool> {
        self.inner
            .get()
            .ok_or_else(|| PyRuntimeError::new_err("the pool is not initialised"))
    }

    /// Submits a task, and notes what stands behind its number: no result can be collected in
    /// between, and no signal handler can part the two.
    fn submit_noted<'py>(
        &self,
        task: &Bound<'py, PyAny>,
        open: &Bound<'py, PyDict>,
        entry: impl FnOnce(Option<PackedTask>) -> PyResult<Bound<'py, PyTuple>>,
        keep: bool,
    ) -> PyResult<(u32, u64)> {
        let pool = self.pool()?;
        let message = pack_task(task, Pool::SHORT)?;
        let bytes = message.len();
        let (number, packed) = if keep {
            let packed = PackedTask::new(message);
            (pool.submit(packed.parcel()?).map_err(to_py)?, Some(packed))
        } else {
            (send(message, |parcel| pool.submit(parcel))?, None)
        };
        open.set_item(number, entry(packed)?)?;
        Ok((number, bytes))
    }
}

impl PackedTask {
    fn new(message: Outgoing) -> Self {
        Self {
            bytes: match message {
                Outgoing::Short(message) => Packed::Short(message.head.to_vec()),
                Outgoing::Long(envelope) => Packed::Long(envelope),
            },
        }
    }

    fn parcel(&self) -> PyResult<Parcel<'_>> {
        Ok(match &self.bytes {
            Packed::Short(bytes) => Parcel::Short(bytes),
            Packed::Long(envelope) => Parcel::Long(envelope.try_clone().map_err(to_py)?),
        })
    }
}

#[pymethods]
impl PoolCore {
    /// A core for at most `lines` workers at once.
    #[new]
    fn new(lines: u32) -> PyResult<Self> {
        Ok(Self {
            inner: OnceLock::from(Pool::new(lines).map_err(to_py)?),
        })
    }

    fn _export(slf: &Bound<'_, Self>) -> PyResult<Names> {
        let pool = slf.get().pool()?;
        for object in pool.objects() {
            export(object, slf.as_any())?;
        }
        let handle = pool.handle();
        Ok((
            name(handle.tasks),
            name(handle.results),
            name(handle.board),
            handle.lines,
            handle.owner.word(),
        ))
    }

    #[staticmethod]
    fn _attach(names: Names) -> PyResult<Self> {
        let (tasks, results, board, lines, owner) = names;
        let handle = PoolHandle {
            tasks: handle(tasks),
            results: handle(results),
            board: handle(board),
            lines,
            owner: Stamp::of_word(owner),
        };
        Ok(Self {
            inner: OnceLock::from(Pool::from_handle(handle).map_err(to_py)?),
        })
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (Names,))> {
        let attach = slf.get_type().getattr("_attach")?;
        Ok((attach, (Self::_export(slf)?,)))
    }

    /// Submits the task at this place of the job behind `inbox`, and notes that under its number in
    /// `open`: the inbox, the place, the serialised task if it is to be kept, how often it was
    /// submitted, and `keeper`.
    #[allow(clippy::too_many_arguments)] // The parts of an entry.
    fn submit<'py>(
        &self,
        task: &Bound<'py, PyAny>,
        open: &Bound<'py, PyDict>,
        inbox: &Bound<'py, Inbox>,
        place: usize,
        keeper: &Bound<'py, PyAny>,
        keep: bool,
    ) -> PyResult<()> {
        let entry = |packed| (inbox, place, packed, 1, keeper).into_pyobject(task.py());
        let (number, _) = self.submit_noted(task, open, entry, keep)?;
        inbox.get().submitted(number);
        Ok(())
    }

    /// Submits a task once more that was kept, and notes `entry` under its number in `open`.
    fn submit_again(
        &self,
        task: &PackedTask,
        open: &Bound<'_, PyDict>,
        entry: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let number = self.pool()?.submit(task.parcel()?).map_err(to_py)?;
        open.set_item(number, entry)
    }

    /// Makes tasks of the items of `source`, from `place` on, and submits them: of each item a call of
    /// `function`; or with a `mapper`, of `chunksize` items at a time a call of that with the function and
    /// them. As `submit` otherwise. Returns once `most` are done, the source is at its end or has raised
    /// something, a task cannot be submitted, or the inbox has no room.
    #[allow(clippy::too_many_arguments)] // What tasks are made of, and the parts of an entry.
    fn feed<'py>(
        &self,
        py: Python<'py>,
        source: &Bound<'py, PyIterator>,
        function: &Bound<'py, PyAny>,
        mapper: &Bound<'py, PyAny>,
        chunksize: usize,
        open: &Bound<'py, PyDict>,
        inbox: &Bound<'py, Inbox>,
        place: usize,
        keeper: &Bound<'py, PyAny>,
        keep: bool,
        most: usize,
    ) -> PyResult<Fed<'py>> {
        let mut source = source.clone();
        let single = mapper.is_none();
        let size = if single { 1 } else { chunksize };
        let none = PyDict::new(py);
        let (mut place, end) = (place, place.saturating_add(most));
        while place < end {
            if inbox.get().is_over() {
                return Ok((place, None, None, false));
            }
            let (items, raised) = take_items(&mut source, size);
            if let Some(error) = raised {
                return Ok((place, None, Some(exception(py, error)), false));
            }
            if items.is_empty() {
                return Ok((place, None, None, false));
            }
            inbox.get().count(items.len());
            let items = PyTuple::new(py, items)?;
            let task = if single {
                (function, &items, &none).into_pyobject(py)?
            } else {
                (mapper, ((function, &items),), &none).into_pyobject(py)?
            };
            let entry = |packed| (inbox, place, packed, 1, keeper).into_pyobject(py);
            // Before: results may come, and give memory back, while there is none for this.
            let was_open = inbox.get().still_open(place);
            match self.submit_noted(task.as_any(), open, entry, keep) {
                Ok((_, bytes)) => {
                    place += 1;
                    if bytes >= LARGE {
                        let workers = self.pool()?.lines() as usize;
                        let fit = usize::try_from(AHEAD / bytes).unwrap_or(0);
                        inbox.get().limit(fit.max(2 * workers));
                    }
                    if !inbox.get().has_room(place) {
                        return Ok((place, None, None, true));
                    }
                }
                Err(error) if was_open > 0 && error.is_instance_of::<PyMemoryError>(py) => {
                    inbox.get().make_do(place, items.len());
                    return Ok((place, Some(items), None, true));
                }
                Err(error) if error.is_instance_of::<PyException>(py) => {
                    return Ok((place, Some(items), Some(exception(py, error)), true));
                }
                Err(error) => return Err(error),
            }
        }
        Ok((place, None, None, true))
    }

    /// Takes a task for `worker`, waiting for one: its number, whether it could be rebuilt, and
    /// the task or the exception. None when the pool is closed and nothing is left.
    fn take<'py>(&self, py: Python<'py>, worker: u32) -> PyResult<Option<Opened<'py>>> {
        let pool = self.pool()?;
        let mut buffer = Vec::new();
        loop {
            let taken = pool.take(worker, &mut buffer).map_err(to_py)?;
            if let Some(delivery) = taken {
                pool.pass_on_tasks();
                let (Delivery::Short { number } | Delivery::Long { number, .. }) = delivery else {
                    continue;
                };
                return Ok(Some(match open(py, &buffer, delivery) {
                    Ok(task) => (number, true, task),
                    Err(error) => (number, false, exception(py, error)),
                }));
            }
            if pool.is_closed() && pool.waiting() == 0 {
                return Ok(None);
            }
            // Now and then a look whether there is still somebody to work for.
            let slice = Deadline::after(Some(SLICE));
            if wait(py, || pool.wait_task(slice))? == Wait::TimedOut && pool.is_orphaned() {
                return Ok(None);
            }
        }
    }

    /// Reports what came of task `number`: whether `worker` may take another one.
    fn finish(&self, worker: u32, number: u32, result: &Bound<'_, PyAny>) -> PyResult<bool> {
        let pool = self.pool()?;
        send(pack(result, Pool::SHORT)?, |parcel| {
            pool.finish(worker, number, parcel)
        })
    }

    /// Takes the results that are there to the inboxes of their jobs, which `open` tells, waiting for one,
    /// or a nudge, for at most `timeout` seconds.
    fn collect<'py>(
        &self,
        py: Python<'py>,
        timeout: Option<f64>,
        entries: &Bound<'py, PyDict>,
    ) -> PyResult<Harvest<'py>> {
        let pool = self.pool()?;
        let [ended, unreadable, retired, words] = [(); 4].map(|()| PyList::empty(py));
        let deadline = deadline(timeout)?;
        let mut buffer = Vec::new();
        let mut nudged = false;
        let mut count = 0;
        loop {
            while count < BATCH {
                buffer.clear();
                let delivery = match pool.collect(&mut buffer) {
                    Ok(Some(delivery)) => delivery,
                    Ok(None) => break,
                    // What was taken before comes first; it is gone from the queue.
                    Err(_) if count > 0 => break,
                    Err(error) => return Err(to_py(error)),
                };
                count += 1;
                let number = match &delivery {
                    Delivery::Short { number } | Delivery::Long { number, .. } => *number,
                    Delivery::Nudge => {
                        count -= 1;
                        nudged = true;
                        continue;
                    }
                    Delivery::Retired { worker } => {
                        retired.append(worker)?;
                        continue;
                    }
                    Delivery::LastWords { worker, .. } => {
                        let worker = *worker;
                        let said = open(py, &buffer, delivery)
                            .unwrap_or_else(|error| exception(py, error));
                        words.append((worker, said))?;
                        continue;
                    }
                };
                let Some(noted) = entries.get_item(number)? else {
                    continue;
                };
                entries.del_item(number)?;
                let entry = Entry::read(&noted)?;
                // Nobody may be left who waits for it.
                let Some(job) = entry.job() else { continue };
                let result = match open(py, &buffer, delivery).and_then(|pair| report(&pair)) {
                    Ok(result) => result,
                    Err(error) => {
                        unreadable.append((noted, exception(py, error)))?;
                        continue;
                    }
                };
                let inbox = entry.inbox.get();
                match inbox.take(py, entry.place, came(result.0, result.1)) {
                    Ok(None) => {}
                    Ok(Some(outcome)) => ended.append((job, outcome.0, outcome.1))?,
                    // All have come, and there is no memory for one list of them: that ends this
                    // job, and none of the others that were collected with it.
                    Err(error) => ended.append((job, false, exception(py, error)))?,
                }
            }
            if nudged || count > 0 {
                return Ok((count > 0, ended, unreadable, retired, words));
            }
            if pool.waiting() > BACKLOG * pool.lines() && timeout != Some(0.0) {
                py.detach(|| std::thread::sleep(NAP));
            }
            if wait(py, || pool.wait_result(deadline))? == Wait::TimedOut {
                return Ok((false, ended, unreadable, retired, words));
            }
        }
    }

    /// Takes the result of the task of `inbox` that was submitted last, if it comes within a moment and
    /// is short and plain: what to end the job with, if that was the last one. Runs no code of the
    /// program between taking and returning.
    fn collect_own<'py>(
        &self,
        py: Python<'py>,
        entries: &Bound<'py, PyDict>,
        inbox: &Bound<'py, Inbox>,
    ) -> PyResult<Option<Outcome<'py>>> {
        let pool = self.pool()?;
        let number = inbox.get().number();
        let own = py.detach(|| pool.collect_own(number, codec::is_compact));
        let Some(message) = own else { return Ok(None) };
        let Some(noted) = entries.get_item(number)? else {
            return Ok(None);
        };
        entries.del_item(number)?;
        let entry = Entry::read(&noted)?;
        let (success, value) = report(&codec::long(py, message.as_slice())?)?;
        inbox.get().take(py, entry.place, came(success, value))
    }

    /// Says that `worker` is about to end in order.
    fn retire(&self, worker: u32) -> PyResult<()> {
        self.pool()?.retire(worker).map_err(to_py)
    }

    /// Has `collect` return, in whichever process waits there.
    fn nudge(&self) -> PyResult<()> {
        self.pool()?.nudge().map_err(to_py)
    }

    /// `worker` is dead and all results were collected: the number of the task it ran, or None.
    fn lost(&self, worker: u32) -> PyResult<Option<u32>> {
        Ok(self.pool()?.lost(worker))
    }

    /// Tells the collector what `worker` has to say about its end.
    fn last_words(&self, worker: u32, words: &Bound<'_, PyAny>) -> PyResult<()> {
        // No message is that short, so it is an envelope.
        match pack(words, 0)? {
            Outgoing::Long(envelope) => self.pool()?.last_words(worker, envelope).map_err(to_py),
            Outgoing::Short(_) => Ok(()),
        }
    }

    /// Takes tasks back that nobody has taken.
    fn withdraw(&self, py: Python<'_>, numbers: &Bound<'_, PySet>) -> PyResult<()> {
        let numbers: HashSet<u32> = numbers.extract()?;
        let pool = self.pool()?;
        // A look at each of them, which a worker that is just taking one has to let us have.
        py.detach(|| pool.withdraw(|number| numbers.contains(&number)));
        Ok(())
    }

    /// The number of the task that `worker` is running and since when, on the monotonic clock in
    /// seconds, if it has come to say so; or None.
    fn running(&self, worker: u32) -> PyResult<Option<(u32, Option<f64>)>> {
        let running = self.pool()?.running(worker);
        Ok(running.map(|(number, since)| (number, since.map(|time| time.as_secs_f64()))))
    }

    /// Has `worker` take nothing more after task `number`; false if it has done that.
    fn doom(&self, worker: u32, number: u32) -> PyResult<bool> {
        Ok(self.pool()?.doom(worker, number))
    }

    /// Says how far `worker` has come.
    fn enter(&self, worker: u32, stage: u32) -> PyResult<()> {
        let stage = match stage {
            0 => Stage::Starting,
            1 => Stage::Preparing,
            _ => Stage::Ready,
        };
        self.pool()?.enter(worker, stage);
        Ok(())
    }

    /// How far `worker` has come.
    fn stage(&self, worker: u32) -> PyResult<u32> {
        Ok(self.pool()?.stage(worker) as u32)
    }

    /// How many tasks the workers of this line have done.
    fn done(&self, worker: u32) -> PyResult<u64> {
        Ok(self.pool()?.done(worker))
    }

    /// No task will come any more: workers that find none stop.
    fn close(&self) -> PyResult<()> {
        self.pool()?.close();
        Ok(())
    }
}

/// How many processes the kernel has killed for want of memory, here or on the whole machine.
#[pyfunction]
fn oom_kills(py: Python<'_>) -> u64 {
    py.detach(oom::kills)
}

/// Adds this file's part of the module.
///
/// # Errors
/// Out of memory.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PoolCore>()?;
    m.add_class::<Inbox>()?;
    m.add_class::<PackedTask>()?;
    m.add_function(wrap_pyfunction!(oom_kills, m)?)
}
