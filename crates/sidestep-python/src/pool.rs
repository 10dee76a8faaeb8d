//! `PoolCore`: the shared parts of a pool, with objects as tasks and results.

use std::collections::HashSet;
use std::sync::OnceLock;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PyList, PySet};
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

/// The object in a delivery, or the exception that rebuilding it raised.
fn open<'py>(py: Python<'py>, buffer: &[u8], delivery: Delivery) -> Option<Opened<'py>> {
    let (number, object) = match delivery {
        Delivery::Short { number } => (Some(number), codec::loads(py, buffer, Vec::new())),
        Delivery::Long { number, envelope } => (Some(number), unpack(py, &envelope)),
        Delivery::Retired { worker } => (None, Ok(PyInt::new(py, worker).into_any())),
        Delivery::LastWords { worker, envelope } => {
            let words = unpack(py, &envelope)
                .unwrap_or_else(|error| error.into_value(py).into_bound(py).into_any());
            (None, (worker, words).into_pyobject(py).map(Bound::into_any))
        }
        Delivery::Nudge => return None,
    };
    Some(match object {
        Ok(object) => (number, true, object),
        Err(error) => (
            number,
            false,
            error.into_value(py).into_bound(py).into_any(),
        ),
    })
}

/// A task's number, whether what came could be rebuilt, and it, or the exception. Without a number:
/// the line of a worker that is about to end, or this line and its last words.
type Names = PoolName;
type PoolName = (Name, Name, Name, u32, u32);

type Opened<'py> = (Option<u32>, bool, Bound<'py, PyAny>);

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

    /// Submits a task, and notes `entry` under its number in `open`: no result can be collected in
    /// between, and no signal handler can part the two.
    fn submit(
        &self,
        task: &Bound<'_, PyAny>,
        open: &Bound<'_, PyDict>,
        entry: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let pool = self.pool()?;
        let number = send(pack_task(task, Pool::SHORT)?, |parcel| pool.submit(parcel))?;
        open.set_item(number, entry)
    }

    /// Serialises a task that may have to be submitted again.
    fn pack(&self, task: &Bound<'_, PyAny>) -> PyResult<PackedTask> {
        Ok(PackedTask {
            bytes: match pack_task(task, Pool::SHORT)? {
                Outgoing::Short(message) => Packed::Short(message.head.to_vec()),
                Outgoing::Long(envelope) => Packed::Long(envelope),
            },
        })
    }

    /// As `submit`, with a task that `pack` has made.
    fn submit_packed(
        &self,
        task: &PackedTask,
        open: &Bound<'_, PyDict>,
        entry: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let parcel = match &task.bytes {
            Packed::Short(bytes) => Parcel::Short(bytes),
            Packed::Long(envelope) => Parcel::Long(envelope.try_clone().map_err(to_py)?),
        };
        let number = self.pool()?.submit(parcel).map_err(to_py)?;
        open.set_item(number, entry)
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
                return Ok(open(py, &buffer, delivery));
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

    /// Takes the results that are there, waiting for one, or a nudge, for at most `timeout`
    /// seconds.
    fn collect<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyList>> {
        let pool = self.pool()?;
        let list = PyList::empty(py);
        let deadline = deadline(timeout)?;
        let mut buffer = Vec::new();
        let mut nudged = false;
        loop {
            while list.len() < 256 {
                buffer.clear();
                let delivery = match pool.collect(&mut buffer) {
                    Ok(Some(delivery)) => delivery,
                    Ok(None) => break,
                    // What was taken before comes first; it is gone from the queue.
                    Err(_) if !list.is_empty() => break,
                    Err(error) => return Err(to_py(error)),
                };
                match open(py, &buffer, delivery) {
                    Some(result) => list.append(result)?,
                    None => nudged = true,
                }
            }
            if nudged || !list.is_empty() {
                return Ok(list);
            }
            if wait(py, || pool.wait_result(deadline))? == Wait::TimedOut {
                return Ok(list);
            }
        }
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
    fn withdraw(&self, numbers: &Bound<'_, PySet>) -> PyResult<()> {
        let numbers: HashSet<u32> = numbers.extract()?;
        self.pool()?.withdraw(|number| numbers.contains(&number));
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
    m.add_class::<PackedTask>()?;
    m.add_function(wrap_pyfunction!(oom_kills, m)?)
}
