//! `Inbox`: where what comes of a pool's tasks waits until the program asks for it.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use pyo3::exceptions::{PyStopIteration, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyList, PyTuple, PyWeakrefMethods, PyWeakrefReference};
use sidestep::os::clock::Deadline;
use sidestep::pool::{Arrival, Inbox as Engine, Next, Order};
use sidestep::sync::Wait;

use crate::wait::{deadline, truth, wait};

/// A value, or the exception instead.
type Came = Result<Py<PyAny>, Py<PyAny>>;

/// Success, and the value or exception: what jobs are ended with.
pub type Outcome<'py> = (bool, Bound<'py, PyAny>);

/// The results of a job's tasks, for the job.
#[pyclass(module = "sidestep._sidestep", frozen)]
pub struct Inbox {
    inner: Engine<Py<PyAny>, Py<PyAny>, Py<PyAny>>,
    job: Py<PyWeakrefReference>,
    /// Each task's value is a list of values.
    chunked: bool,
    /// How many items there are in the tasks so far.
    items: AtomicUsize,
    /// How many tasks may be open at once.
    most: AtomicUsize,
    /// The number of the task that was submitted last.
    number: AtomicU32,
}

/// Success and value as one.
pub fn came(success: bool, value: Bound<'_, PyAny>) -> Came {
    if success {
        Ok(value.unbind())
    } else {
        Err(value.unbind())
    }
}

fn apart<'py>(py: Python<'py>, came: Came) -> Outcome<'py> {
    match came {
        Ok(value) => (true, value.into_bound(py)),
        Err(error) => (false, error.into_bound(py)),
    }
}

impl Inbox {
    /// The job, if anybody still has it.
    pub fn job<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.job.bind(py).upgrade()
    }

    /// Takes what came of a task: what to end the job with if it was the last one.
    pub fn take<'py>(
        &self,
        py: Python<'py>,
        place: usize,
        came: Came,
    ) -> PyResult<Option<Outcome<'py>>> {
        self.settle(py, self.inner.put(place, came))
    }

    fn settle<'py>(
        &self,
        py: Python<'py>,
        arrival: Arrival<Py<PyAny>, Py<PyAny>>,
    ) -> PyResult<Option<Outcome<'py>>> {
        match arrival {
            Arrival::Noted | Arrival::Late(_) => Ok(None),
            Arrival::Last(None) => Ok(Some((true, py.None().into_bound(py)))),
            Arrival::Last(Some(Err(error))) => Ok(Some(apart(py, Err(error)))),
            Arrival::Last(Some(Ok(values))) => Ok(Some((true, self.as_one(py, values)?))),
        }
    }

    fn as_one<'py>(&self, py: Python<'py>, values: Vec<Py<PyAny>>) -> PyResult<Bound<'py, PyAny>> {
        if !self.chunked {
            let only = values.into_iter().next();
            return Ok(only.unwrap_or_else(|| py.None()).into_bound(py));
        }
        let whole = PyList::empty(py);
        let extend = whole.getattr(intern!(py, "extend"))?;
        for values in values {
            extend.call1((values,))?;
        }
        Ok(whole.into_any())
    }

    /// Notes the number of the task that was submitted last.
    pub fn submitted(&self, number: u32) {
        self.number.store(number, Relaxed);
    }

    /// The number of the task that was submitted last.
    pub fn number(&self) -> u32 {
        self.number.load(Relaxed)
    }

    /// Have at most so many tasks open at once.
    pub fn limit(&self, most: usize) {
        self.most.store(most, Relaxed);
    }

    /// A task with so many items, which does not count then, found no memory when `made` were submitted:
    /// no more are open at once from here on.
    pub fn make_do(&self, made: usize, items: usize) {
        self.items.fetch_sub(items, Relaxed);
        self.limit(self.still_open(made).max(1));
    }

    /// How many of the `made` tasks have not come back.
    pub fn still_open(&self, made: usize) -> usize {
        self.inner.still_open(made)
    }

    /// Whether somebody ends the job, or has done it, or all results have come.
    pub fn is_over(&self) -> bool {
        self.inner.is_claimed()
    }
}

#[pymethods]
impl Inbox {
    /// For the results of `tasks` tasks of `job`, or of as many as `expect` will say. They are asked
    /// for as a `whole`, which if it is `chunked` consists of lists; else one by one, either
    /// `ordered` or as they come.
    #[new]
    #[pyo3(signature = (job, tasks, *, whole, chunked=false, ordered=true))]
    fn new(
        job: &Bound<'_, PyAny>,
        tasks: Option<usize>,
        whole: bool,
        chunked: bool,
        ordered: bool,
    ) -> PyResult<Self> {
        let order = match (whole, ordered) {
            (true, _) => Order::Whole,
            (_, true) => Order::InOrder,
            _ => Order::AsTheyCome,
        };
        Ok(Self {
            inner: Engine::new(order, tasks),
            job: PyWeakrefReference::new(job)?.unbind(),
            chunked,
            items: AtomicUsize::new(0),
            most: AtomicUsize::new(usize::MAX),
            number: AtomicU32::new(0),
        })
    }

    /// Takes what came of the task at this place: success, and the value or exception. Returns what
    /// to end the job with if it was the last one.
    fn put<'py>(
        &self,
        py: Python<'py>,
        place: usize,
        success: &Bound<'py, PyAny>,
        value: Bound<'py, PyAny>,
    ) -> PyResult<Option<Outcome<'py>>> {
        self.take(py, place, came(truth(success)?, value))
    }

    /// There are so many tasks, and after their results an `error`, if one is given. Returns what to
    /// end the job with if all of them have come.
    #[pyo3(signature = (tasks, error=None))]
    fn expect<'py>(
        &self,
        py: Python<'py>,
        tasks: usize,
        error: Option<Py<PyAny>>,
    ) -> PyResult<Option<Outcome<'py>>> {
        let arrival = match error {
            None => self.inner.expect(tasks),
            Some(error) => self.inner.expect_error(tasks, error),
        };
        self.settle(py, arrival)
    }

    /// Asks to end the job: False if somebody else does that, or all results have come.
    fn claim(&self) -> bool {
        self.inner.claim()
    }

    /// Whether somebody ends the job, or has done it, or all results have come.
    #[getter]
    fn claimed(&self) -> bool {
        self.is_over()
    }

    /// Ends the job, which was claimed.
    fn end(&self, success: bool, value: Bound<'_, PyAny>) {
        self.inner.end(came(success, value));
    }

    /// Whether the job was ended.
    #[getter]
    fn ended(&self) -> bool {
        self.inner.is_ended()
    }

    /// What came of the job, if it was ended: success, and the value or exception.
    fn outcome<'py>(&self, py: Python<'py>) -> Option<Outcome<'py>> {
        let copy = |outcome: &Came| match outcome {
            Ok(value) => Ok(value.clone_ref(py)),
            Err(error) => Err(error.clone_ref(py)),
        };
        self.inner.outcome(copy).map(|came| apart(py, came))
    }

    /// For the collector of cycles: a result may hold, by a traceback, whoever asked for it.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let look = |object: &Py<PyAny>| visit.call(object);
        self.inner.visit(look, look, look)
    }

    fn __clear__(&self) {
        drop(self.inner.empty());
    }

    /// Notes that a task with so many items was made.
    pub fn count(&self, items: usize) {
        self.items.fetch_add(items, Relaxed);
    }

    /// Whether one more task may be submitted when `made` were.
    pub fn has_room(&self, made: usize) -> bool {
        self.inner.has_room(made, self.most.load(Relaxed))
    }

    /// Waits until one more task may be submitted when `made` were, or none is needed.
    fn wait_room(&self, py: Python<'_>, made: usize) -> PyResult<()> {
        let most = self.most.load(Relaxed);
        wait(py, || self.inner.wait_room(made, most, Deadline::NEVER)).map(|_| ())
    }

    /// How many items there are in the tasks so far.
    #[getter]
    fn items(&self) -> usize {
        self.items.load(Relaxed)
    }

    /// How many results were taken out.
    #[getter]
    fn handed(&self) -> usize {
        self.inner.handed()
    }

    /// The number of the task that was submitted last.
    #[getter]
    fn latest(&self) -> u32 {
        self.number()
    }

    /// The job, if anybody still has it.
    #[getter(job)]
    fn get_job<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.job(py)
    }

    /// Waits at most `timeout` seconds for the job's end: whether it has come.
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        if self.inner.is_ended() {
            return Ok(true);
        }
        let deadline = deadline(timeout)?;
        Ok(wait(py, || self.inner.wait_end(deadline))? == Wait::Ready)
    }

    /// Takes the next result out, waiting at most `timeout` seconds: success, and the value or
    /// exception; None if the time was up. StopIteration when there are no more.
    fn next<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Option<Outcome<'py>>> {
        let mut until = None;
        loop {
            match self.inner.next() {
                Next::Result(came) => return Ok(Some(apart(py, came))),
                Next::Over => return Err(PyStopIteration::new_err(())),
                Next::None => {}
            }
            let deadline = match until {
                Some(deadline) => deadline,
                None => *until.insert(deadline(timeout)?),
            };
            if wait(py, || self.inner.wait_next(deadline))? == Wait::TimedOut {
                return Ok(None);
            }
        }
    }
}

/// What stands behind the number of a submitted task.
pub struct Entry<'py> {
    /// Where its result goes.
    pub inbox: Bound<'py, Inbox>,
    /// Its place among the job's tasks.
    pub place: usize,
    /// The job, if the tasks have to keep it.
    keeper: Bound<'py, PyAny>,
}

impl<'py> Entry<'py> {
    /// Reads an entry: inbox, place, the task if it may be needed again, how often it was submitted, the
    /// job if its tasks have to keep it or None.
    ///
    /// # Errors
    /// TypeError: it is none.
    pub fn read(entry: &Bound<'py, PyAny>) -> PyResult<Self> {
        let entry = entry.cast::<PyTuple>()?;
        Ok(Self {
            inbox: entry.get_item(0)?.cast_into::<Inbox>()?,
            place: entry.get_item(1)?.extract()?,
            keeper: entry.get_item(4)?,
        })
    }

    /// The job, if anybody still waits for it.
    pub fn job(&self) -> Option<Bound<'py, PyAny>> {
        if self.keeper.is_none() {
            self.inbox.get().job(self.keeper.py())
        } else {
            Some(self.keeper.clone())
        }
    }
}

/// What a worker reported of a task: success, and the value or exception.
///
/// # Errors
/// TypeError: it is no such pair.
pub fn report<'py>(result: &Bound<'py, PyAny>) -> PyResult<(bool, Bound<'py, PyAny>)> {
    let pair = result.cast::<PyTuple>()?;
    if pair.len() != 2 {
        return Err(PyTypeError::new_err("a task's result is no pair"));
    }
    Ok((truth(&pair.get_item(0)?)?, pair.get_item(1)?))
}

/// The next items of an iterator, at most `most`, and what it raised after them.
pub fn take_items<'py>(
    source: &mut Bound<'py, PyIterator>,
    most: usize,
) -> (Vec<Bound<'py, PyAny>>, Option<PyErr>) {
    let mut items = Vec::with_capacity(most.min(64));
    while items.len() < most {
        match source.next() {
            Some(Ok(item)) => items.push(item),
            Some(Err(error)) => return (items, Some(error)),
            None => break,
        }
    }
    (items, None)
}
