//! Locks, semaphores, conditions, events and barriers: a reference to the engine's object each.
//!
//! All classes can be subclassed with any signature: `__new__` takes what comes and makes nothing;
//! `_init` makes the shared object, `_attach` finds one by its name.
#![allow(unsafe_code)] // The quick methods are called by the interpreter itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use pyo3::exceptions::{PyAssertionError, PyRuntimeError, PyValueError};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};
use sidestep::os::clock::Deadline;
use sidestep::sync::{
    Answer, Arrival, Holder, ReleaseError, SLICE, SharedBarrier, SharedCondition, SharedEvent,
    SharedLock, SharedSemaphore, Wait,
};

use crate::error::{ABANDONED_LOCK, BROKEN_BARRIER, to_py};
use crate::family::{Name, export, handle, thread};
use crate::quick::{self, Function, Quick, instance, none, truth_value};
use crate::wait::{deadline, left, truth, wait};

type Any<'a, 'py> = Option<&'a Bound<'py, PyAny>>;

fn ready<T>(slot: &OnceLock<T>) -> PyResult<&T> {
    slot.get().ok_or_else(|| {
        PyRuntimeError::new_err("the shared object is not initialised: call super().__init__()")
    })
}

fn fill<T>(slot: &OnceLock<T>, made: sidestep::Result<T>) -> PyResult<()> {
    // Initialised twice: the first stays, as other processes may know it.
    let _ = slot.set(made.map_err(to_py)?);
    Ok(())
}

fn abandoned(py: Python<'_>, lock: &SharedLock, what: &str) -> PyErr {
    let (pid, exitcode) = lock.abandoned_by();
    // The same number in every process.
    let what = format!("{what} {:#x}", lock.object().handle().offset);
    ABANDONED_LOCK.raise(py, (what, pid, exitcode))
}

/// Locks that this process holds while no Python object stands for them any more: the reference
/// is what tells those who clean up after this process, should it be killed. By offset.
static KEPT: Mutex<BTreeMap<u64, SharedLock>> = Mutex::new(BTreeMap::new());
/// How many there are, so that a release need not look.
static KEPT_COUNT: AtomicUsize = AtomicUsize::new(0);

fn held_here(lock: &SharedLock) -> bool {
    matches!(
        lock.holder(lock.family(), thread()),
        Holder::ThisThread | Holder::OtherThread
    )
}

/// Changes the table of kept locks, and lets go of those that others have released meanwhile.
#[cold]
#[inline(never)]
fn with_kept(change: impl FnOnce(&mut BTreeMap<u64, SharedLock>)) {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    change(&mut kept);
    if kept.len().is_power_of_two() {
        kept.retain(|_, lock| held_here(lock));
    }
    KEPT_COUNT.store(kept.len(), Ordering::Relaxed);
}

/// A lock, not recursive; base of the recursive one.
#[pyclass(module = "sidestep._sidestep", frozen, subclass)]
pub struct Lock {
    inner: OnceLock<SharedLock>,
}

impl Lock {
    fn lock(&self) -> PyResult<&SharedLock> {
        ready(&self.inner)
    }

    /// Takes the lock; whether it was to be had.
    ///
    /// # Errors
    /// AbandonedLockError; what a signal handler raised.
    #[inline]
    pub fn take(&self, py: Python<'_>, block: bool, timeout: Option<f64>) -> PyResult<bool> {
        let lock = self.lock()?;
        match lock.try_acquire(lock.family(), thread()) {
            Some(Wait::Ready) => Ok(true),
            None if !block => Ok(false),
            done => Self::take_slowly(py, lock, done, timeout),
        }
    }

    #[cold]
    #[inline(never)]
    fn take_slowly(
        py: Python<'_>,
        lock: &SharedLock,
        done: Option<Wait>,
        timeout: Option<f64>,
    ) -> PyResult<bool> {
        let (family, thread) = (lock.family(), thread());
        let done = match done {
            Some(done) => done,
            None => {
                let deadline = deadline(timeout)?;
                wait(py, || lock.acquire(family, thread, left(deadline)))?
            }
        };
        match done {
            Wait::Ready => Ok(true),
            Wait::Abandoned(_) => Err(abandoned(py, lock, "lock")),
            _ => Ok(false),
        }
    }

    /// Lets go of the lock once.
    ///
    /// # Errors
    /// ValueError, AssertionError: it is not held, or not by this thread.
    #[inline]
    pub fn give(&self) -> PyResult<()> {
        let lock = self.lock()?;
        lock.release(lock.family(), thread())
            .map_err(release_error)?;
        if KEPT_COUNT.load(Ordering::Relaxed) != 0 && !held_here(lock) {
            with_kept(|kept| drop(kept.remove(&lock.object().handle().offset)));
        }
        Ok(())
    }

    /// The end of a `with` block, left by an exception of this kind.
    ///
    /// # Errors
    /// As [`Lock::give`].
    #[inline]
    pub fn leave(&self, py: Python<'_>, kind: Any<'_, '_>) -> PyResult<()> {
        let lock = self.lock()?;
        let is_ours = || lock.holder(lock.family(), thread()) == Holder::ThisThread;
        if lock.is_abandoned() || ABANDONED_LOCK.is(py, kind) && !is_ours() {
            // Not ours, so there is an exception on its way that says so (from the wait of a
            // condition); an end of a block must not make the lock usable again, nor take it away
            // from one who has got it since.
            return Ok(());
        }
        self.give()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(lock) = self.inner.take()
            && held_here(&lock)
        {
            with_kept(|kept| drop(kept.insert(lock.object().handle().offset, lock)));
        }
    }
}

#[cold]
fn release_error(error: ReleaseError) -> PyErr {
    match error {
        ReleaseError::NotOwner => PyAssertionError::new_err(
            "attempt to release a recursive lock that this thread does not hold",
        ),
        _ => PyValueError::new_err("the lock was released too many times: nobody holds it"),
    }
}

#[pymethods]
impl Lock {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self {
            inner: OnceLock::new(),
        }
    }

    fn _init(&self) -> PyResult<()> {
        fill(&self.inner, SharedLock::new(false))
    }

    fn _export(slf: &Bound<'_, Self>) -> PyResult<Name> {
        export(slf.get().lock()?.object(), slf.as_any())
    }

    fn _attach(&self, name: Name) -> PyResult<()> {
        fill(&self.inner, SharedLock::from_handle(handle(name)))
    }

    /// Take it, waiting if `block`, for at most `timeout` seconds. Returns whether it was taken.
    #[pyo3(signature = (block=true, timeout=None))]
    fn acquire(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = truth)] block: bool,
        timeout: Option<f64>,
    ) -> PyResult<bool> {
        self.take(py, block, timeout)
    }

    /// Let go of it.
    fn release(&self) -> PyResult<()> {
        self.give()
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<bool> {
        self.take(py, true, None)
    }

    #[pyo3(signature = (kind=None, _error=None, _traceback=None))]
    fn __exit__(
        &self,
        py: Python<'_>,
        kind: Any<'_, '_>,
        _error: Any<'_, '_>,
        _traceback: Any<'_, '_>,
    ) -> PyResult<()> {
        self.leave(py, kind)
    }

    /// Frees the lock if its owner was killed. Returns whether that was so.
    fn recover(&self) -> PyResult<bool> {
        Ok(self.lock()?.recover())
    }

    /// Whether it cannot be taken at this moment.
    fn locked(&self) -> PyResult<bool> {
        let lock = self.lock()?;
        Ok(lock.holder(lock.family(), thread()) != Holder::Nobody)
    }

    fn _is_mine(&self) -> PyResult<bool> {
        let lock = self.lock()?;
        Ok(lock.holder(lock.family(), thread()) == Holder::ThisThread)
    }

    fn _is_zero(&self) -> PyResult<bool> {
        self.locked()
    }

    fn _get_value(&self) -> PyResult<u32> {
        Ok(u32::from(!self.locked()?))
    }

    fn _count(&self) -> PyResult<u32> {
        let lock = self.lock()?;
        match lock.holder(lock.family(), thread()) {
            Holder::ThisThread | Holder::OtherThread => Ok(lock.depth()),
            _ => Ok(0),
        }
    }

    /// Who holds the lock: "none", "me", "thread" (another one of this process) or "process".
    fn _holder(&self) -> PyResult<&'static str> {
        let lock = self.lock()?;
        Ok(match lock.holder(lock.family(), thread()) {
            Holder::Nobody => "none",
            Holder::ThisThread => "me",
            Holder::OtherThread => "thread",
            Holder::OtherProcess(_) => "process",
        })
    }
}

/// A recursive lock.
#[pyclass(module = "sidestep._sidestep", frozen, subclass, extends = Lock)]
pub struct RLock;

#[pymethods]
impl RLock {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(
        _args: &Bound<'_, PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyClassInitializer<Self> {
        PyClassInitializer::from(Lock {
            inner: OnceLock::new(),
        })
        .add_subclass(RLock)
    }

    fn _init(slf: &Bound<'_, Self>) -> PyResult<()> {
        fill(&slf.as_super().get().inner, SharedLock::new(true))
    }
}

/// A semaphore, bounded or not.
#[pyclass(module = "sidestep._sidestep", frozen, subclass)]
pub struct Semaphore {
    inner: OnceLock<SharedSemaphore>,
}

impl Semaphore {
    fn semaphore(&self) -> PyResult<&SharedSemaphore> {
        ready(&self.inner)
    }

    fn take(&self, py: Python<'_>, block: bool, timeout: Option<f64>) -> PyResult<bool> {
        let semaphore = self.semaphore()?;
        if semaphore.try_acquire() {
            return Ok(true);
        }
        if !block {
            return Ok(false);
        }
        let deadline = deadline(timeout)?;
        Ok(wait(py, || semaphore.acquire(left(deadline)))? == Wait::Ready)
    }
}

#[pymethods]
impl Semaphore {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self {
            inner: OnceLock::new(),
        }
    }

    /// A semaphore of `value`, at most 2**31 - 1, bounded by it or not.
    fn _init(&self, value: i64, bounded: bool) -> PyResult<()> {
        let value = u32::try_from(value)
            .ok()
            .filter(|value| *value <= sidestep::sync::SEMAPHORE_MAX)
            .ok_or_else(|| {
                PyValueError::new_err(format!(
                    "a semaphore's value must lie between 0 and {}, not {value}",
                    sidestep::sync::SEMAPHORE_MAX
                ))
            })?;
        fill(
            &self.inner,
            SharedSemaphore::new(value, bounded.then_some(value)),
        )
    }

    fn _export(slf: &Bound<'_, Self>) -> PyResult<Name> {
        export(slf.get().semaphore()?.object(), slf.as_any())
    }

    fn _attach(&self, name: Name) -> PyResult<()> {
        fill(&self.inner, SharedSemaphore::from_handle(handle(name)))
    }

    /// Take it, waiting if `block`, for at most `timeout` seconds. Returns whether it was taken.
    #[pyo3(signature = (block=true, timeout=None))]
    fn acquire(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = truth)] block: bool,
        timeout: Option<f64>,
    ) -> PyResult<bool> {
        self.take(py, block, timeout)
    }

    /// Let go of it.
    #[pyo3(signature = (n=1))]
    fn release(&self, n: i64) -> PyResult<()> {
        let count = u32::try_from(n)
            .ok()
            .filter(|count| *count > 0)
            .ok_or_else(|| {
                PyValueError::new_err(format!("a semaphore is released 1 or more times, not {n}"))
            })?;
        self.semaphore()?.release(count).map_err(|_| {
            PyValueError::new_err("the semaphore was released too many times: it is at its limit")
        })
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<bool> {
        self.take(py, true, None)
    }

    #[pyo3(signature = (_kind=None, _error=None, _traceback=None))]
    fn __exit__(
        &self,
        _kind: Any<'_, '_>,
        _error: Any<'_, '_>,
        _traceback: Any<'_, '_>,
    ) -> PyResult<()> {
        self.release(1)
    }

    /// The value at this moment.
    fn get_value(&self) -> PyResult<u32> {
        Ok(self.semaphore()?.value())
    }

    /// Whether it cannot be taken at this moment.
    fn locked(&self) -> PyResult<bool> {
        Ok(self.semaphore()?.value() == 0)
    }

    /// Permits that killed processes had taken and not given back.
    fn lost(&self, py: Python<'_>) -> PyResult<u32> {
        let semaphore = self.semaphore()?;
        Ok(py.detach(|| semaphore.lost()))
    }

    /// Give those back: how many they were.
    fn recover(&self, py: Python<'_>) -> PyResult<u32> {
        let semaphore = self.semaphore()?;
        Ok(py.detach(|| semaphore.recover()))
    }

    fn _is_zero(&self) -> PyResult<bool> {
        self.locked()
    }

    fn _get_value(&self) -> PyResult<u32> {
        self.get_value()
    }
}

/// The waiters of a condition variable; its lock is another object, given to each call.
#[pyclass(module = "sidestep._sidestep", frozen, subclass)]
pub struct Condition {
    inner: OnceLock<SharedCondition>,
}

impl Condition {
    fn condition(&self) -> PyResult<&SharedCondition> {
        ready(&self.inner)
    }
}

#[pymethods]
impl Condition {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self {
            inner: OnceLock::new(),
        }
    }

    fn _init(&self) -> PyResult<()> {
        fill(&self.inner, SharedCondition::new())
    }

    fn _export(slf: &Bound<'_, Self>) -> PyResult<Name> {
        export(slf.get().condition()?.object(), slf.as_any())
    }

    fn _attach(&self, name: Name) -> PyResult<()> {
        fill(&self.inner, SharedCondition::from_handle(handle(name)))
    }

    /// Lets go of `lock`, waits for a notification, takes the lock again; whether it came.
    fn _wait(
        &self,
        py: Python<'_>,
        lock: &Bound<'_, Lock>,
        timeout: Option<f64>,
    ) -> PyResult<bool> {
        let condition = self.condition()?;
        let deadline = deadline(timeout)?;
        let family = condition.family();
        let guard = lock.get().lock()?;
        if guard.holder(family, thread()) != Holder::ThisThread {
            return Err(PyAssertionError::new_err(
                "wait() needs the condition's lock to be held",
            ));
        }
        let Some(place) = condition.enter(family) else {
            return Err(PyRuntimeError::new_err(format!(
                "more than {} threads wait for this condition",
                sidestep::sync::WAITERS
            )));
        };
        let depth = guard.release_all(family, thread()).unwrap_or(1);
        let slept = wait(py, || {
            let Some(limit) = deadline.slice(SLICE) else {
                return Wait::TimedOut;
            };
            match condition.sleep(place, limit) {
                Err(_) | Ok(Answer::None) => Wait::Interrupted,
                Ok(_) => Wait::Ready,
            }
        });
        let answer = condition.leave(place);
        let me = thread();
        let again = wait(py, || guard.acquire(family, me, || Some(SLICE)));
        if let Err(error) = slept {
            if answer == Answer::Passed {
                // The notification was meant for someone who waits.
                condition.pass(family, 1);
            }
            if matches!(again, Ok(Wait::Ready)) {
                guard.restore_depth(depth);
            }
            return Err(error);
        }
        match again? {
            Wait::Abandoned(_) => Err(abandoned(py, guard, "condition's lock")),
            _ => {
                guard.restore_depth(depth);
                Ok(answer == Answer::Passed)
            }
        }
    }

    /// Wakes at most `n` of those who wait, the earliest first; never waits for them.
    fn _notify(&self, lock: &Bound<'_, Lock>, n: i64) -> PyResult<()> {
        let condition = self.condition()?;
        if lock.get().lock()?.holder(condition.family(), thread()) != Holder::ThisThread {
            return Err(PyAssertionError::new_err(
                "notify() needs the condition's lock to be held",
            ));
        }
        condition.pass(condition.family(), usize::try_from(n).unwrap_or(0));
        Ok(())
    }

    /// How many wait, and how many were notified and have not left yet.
    fn _waiting(&self) -> PyResult<(usize, usize)> {
        Ok(self.condition()?.count())
    }
}

/// An event.
#[pyclass(module = "sidestep._sidestep", frozen, subclass)]
pub struct Event {
    inner: OnceLock<SharedEvent>,
}

impl Event {
    fn event(&self) -> PyResult<&SharedEvent> {
        ready(&self.inner)
    }
}

#[pymethods]
impl Event {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self {
            inner: OnceLock::new(),
        }
    }

    fn _init(&self) -> PyResult<()> {
        fill(&self.inner, SharedEvent::new())
    }

    fn _export(slf: &Bound<'_, Self>) -> PyResult<Name> {
        export(slf.get().event()?.object(), slf.as_any())
    }

    fn _attach(&self, name: Name) -> PyResult<()> {
        fill(&self.inner, SharedEvent::from_handle(handle(name)))
    }

    /// Whether the flag is set.
    fn is_set(&self) -> PyResult<bool> {
        Ok(self.event()?.is_set())
    }

    /// Set the flag and wake all who wait; never waits for them.
    fn set(&self) -> PyResult<()> {
        self.event()?.set();
        Ok(())
    }

    /// Clear the flag.
    fn clear(&self) -> PyResult<()> {
        self.event()?.clear();
        Ok(())
    }

    /// Wait until the flag is set, for at most `timeout` seconds. Returns whether it was.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let event = self.event()?;
        if event.is_set() {
            return Ok(true);
        }
        // Once for the whole call, so that no pulse between two of its sleeps is missed.
        let count = event.count();
        let deadline = deadline(timeout)?;
        Ok(wait(py, || event.wait_since(count, left(deadline)))? == Wait::Ready)
    }
}

/// A barrier.
#[pyclass(module = "sidestep._sidestep", frozen, subclass)]
pub struct Barrier {
    inner: OnceLock<SharedBarrier>,
}

impl Barrier {
    fn barrier(&self) -> PyResult<&SharedBarrier> {
        ready(&self.inner)
    }
}

#[pymethods]
impl Barrier {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self {
            inner: OnceLock::new(),
        }
    }

    fn _init(&self, parties: i64) -> PyResult<()> {
        let most = sidestep::sync::WAITERS as i64;
        let parties = u32::try_from(parties)
            .ok()
            .filter(|n| (1..=most).contains(&i64::from(*n)));
        let parties = parties.ok_or_else(|| {
            PyValueError::new_err(format!("a barrier takes between 1 and {most} parties"))
        })?;
        fill(&self.inner, SharedBarrier::new(parties))
    }

    fn _export(slf: &Bound<'_, Self>) -> PyResult<Name> {
        export(slf.get().barrier()?.object(), slf.as_any())
    }

    fn _attach(&self, name: Name) -> PyResult<()> {
        fill(&self.inner, SharedBarrier::from_handle(handle(name)))
    }

    /// Comes to the barrier and waits for the others: the number of this arrival. The last one
    /// does not wait: it runs `action`, if there is one, and lets all go.
    ///
    /// All in one call: an exception out of a signal handler has no place to come between.
    fn _arrive(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        action: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<u32> {
        let barrier = self.barrier()?;
        let family = barrier.family();
        let _ = deadline(timeout)?;
        let broken = || BROKEN_BARRIER.raise(py, ());
        let (place, number) = loop {
            match barrier.arrive(family) {
                Arrival::Last(number, round) => {
                    if let Some(Err(error)) = action.map(Bound::call0) {
                        barrier.fail(family, round);
                        return Err(error);
                    }
                    let all_went_on = barrier.complete(family, round);
                    return all_went_on.then_some(number).ok_or_else(broken);
                }
                Arrival::Wait(place, number) => break (place, number),
                Arrival::Broken => return Err(broken()),
                Arrival::Busy => {
                    // The last arrival of the round before is running its action.
                    py.detach(|| std::thread::sleep(std::time::Duration::from_millis(1)));
                    py.check_signals()?;
                }
            }
        };
        // From now on: what others do in the round before takes none of this one's time.
        let mut deadline = deadline(timeout)?;
        let slept = wait(py, || {
            let Some(limit) = deadline.slice(SLICE) else {
                if barrier.abort_unless_acting(family, place) {
                    return Wait::TimedOut;
                }
                // All are here, so there will be an answer.
                deadline = Deadline::NEVER;
                return Wait::Interrupted;
            };
            match barrier.sleep(place, limit) {
                Err(_) | Ok(Answer::None) => Wait::Interrupted,
                Ok(_) => Wait::Ready,
            }
        });
        if slept.is_err() {
            let _ = barrier.abort_unless_acting(family, place);
        }
        let answer = barrier.leave(place);
        let _ = slept?;
        if answer == Answer::Passed {
            Ok(number)
        } else {
            Err(broken())
        }
    }

    /// Make the barrier usable again; those who wait are told that it broke.
    fn reset(&self) -> PyResult<()> {
        let barrier = self.barrier()?;
        barrier.reset(barrier.family());
        Ok(())
    }

    /// Break the barrier: all who wait, and all who come, are told, until it is reset.
    fn abort(&self) -> PyResult<()> {
        let barrier = self.barrier()?;
        barrier.abort(barrier.family());
        Ok(())
    }

    /// How many it takes.
    #[getter]
    fn parties(&self) -> PyResult<u32> {
        Ok(self.barrier()?.parties())
    }

    /// How many wait.
    #[getter]
    fn n_waiting(&self) -> PyResult<u32> {
        Ok(self.barrier()?.waiting())
    }

    /// Whether the barrier is broken.
    #[getter]
    fn broken(&self) -> PyResult<bool> {
        Ok(self.barrier()?.is_broken())
    }
}

// --- the short ways -----------------------------------------------------------------------------

// SAFETY of all of these: the interpreter calls them, attached, with an instance of the class that
// they are listed for below, and with arguments that are alive.

static LOCK: [Quick; 4] = [
    Quick::new(c"acquire", Function::Any(lock_acquire)),
    Quick::new(c"release", Function::Plain(lock_release)),
    Quick::new(c"__enter__", Function::Plain(lock_enter)),
    Quick::new(c"__exit__", Function::Any(lock_exit)),
];

impl Lock {
    /// Whether this thread holds the lock and could take it again.
    #[inline]
    pub fn is_held_here(&self) -> bool {
        self.inner.get().is_some_and(|lock| {
            lock.is_recursive() && lock.holder(lock.family(), thread()) == Holder::ThisThread
        })
    }

    /// Takes the lock if that can be done at once.
    #[inline]
    pub fn take_quickly(&self) -> bool {
        self.inner
            .get()
            .is_some_and(|lock| lock.try_acquire(lock.family(), thread()) == Some(Wait::Ready))
    }

    /// Lets go of the lock if there is nothing else to be done.
    #[inline]
    pub fn give_quickly(&self) -> bool {
        KEPT_COUNT.load(Ordering::Relaxed) == 0
            && self
                .inner
                .get()
                .is_some_and(|lock| lock.release(lock.family(), thread()).is_ok())
    }

    #[inline]
    fn is_abandoned(&self) -> bool {
        self.inner.get().is_none_or(|lock| lock.is_abandoned())
    }
}

unsafe extern "C" fn lock_acquire(
    slf: *mut PyObject,
    args: *const *mut PyObject,
    count: ffi::Py_ssize_t,
    names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: see above.
    unsafe {
        if count == 0 && names.is_null() && instance::<Lock>(slf).take_quickly() {
            return truth_value(true);
        }
        LOCK[0].in_full(slf, args, count, names)
    }
}

unsafe extern "C" fn lock_release(slf: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: see above.
    unsafe {
        if instance::<Lock>(slf).give_quickly() {
            return none();
        }
        LOCK[1].in_full_plain(slf)
    }
}

unsafe extern "C" fn lock_enter(slf: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: see above.
    unsafe {
        if instance::<Lock>(slf).take_quickly() {
            return truth_value(true);
        }
        LOCK[2].in_full_plain(slf)
    }
}

unsafe extern "C" fn lock_exit(
    slf: *mut PyObject,
    args: *const *mut PyObject,
    count: ffi::Py_ssize_t,
    names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: see above.
    unsafe {
        // An exception on its way may be one that says that the lock is not ours.
        if count == 3
            && names.is_null()
            && *args == ffi::Py_None()
            && !instance::<Lock>(slf).is_abandoned()
            && instance::<Lock>(slf).give_quickly()
        {
            return none();
        }
        LOCK[3].in_full(slf, args, count, names)
    }
}

static SEMAPHORE: [Quick; 4] = [
    Quick::new(c"acquire", Function::Any(semaphore_acquire)),
    Quick::new(c"release", Function::Any(semaphore_release)),
    Quick::new(c"__enter__", Function::Plain(semaphore_enter)),
    Quick::new(c"__exit__", Function::Any(semaphore_exit)),
];

impl Semaphore {
    #[inline]
    fn take_quickly(&self) -> bool {
        self.inner.get().is_some_and(SharedSemaphore::try_acquire)
    }

    #[inline]
    fn give_quickly(&self) -> bool {
        self.inner
            .get()
            .is_some_and(|semaphore| semaphore.release(1).is_ok())
    }
}

unsafe extern "C" fn semaphore_acquire(
    slf: *mut PyObject,
    args: *const *mut PyObject,
    count: ffi::Py_ssize_t,
    names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: see above.
    unsafe {
        if count == 0 && names.is_null() && instance::<Semaphore>(slf).take_quickly() {
            return truth_value(true);
        }
        SEMAPHORE[0].in_full(slf, args, count, names)
    }
}

unsafe extern "C" fn semaphore_release(
    slf: *mut PyObject,
    args: *const *mut PyObject,
    count: ffi::Py_ssize_t,
    names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: see above.
    unsafe {
        if count == 0 && names.is_null() && instance::<Semaphore>(slf).give_quickly() {
            return none();
        }
        SEMAPHORE[1].in_full(slf, args, count, names)
    }
}

unsafe extern "C" fn semaphore_enter(slf: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: see above.
    unsafe {
        if instance::<Semaphore>(slf).take_quickly() {
            return truth_value(true);
        }
        SEMAPHORE[2].in_full_plain(slf)
    }
}

unsafe extern "C" fn semaphore_exit(
    slf: *mut PyObject,
    args: *const *mut PyObject,
    count: ffi::Py_ssize_t,
    names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: see above.
    unsafe {
        if names.is_null() && count <= 3 && instance::<Semaphore>(slf).give_quickly() {
            return none();
        }
        SEMAPHORE[3].in_full(slf, args, count, names)
    }
}

/// See [`crate::own_methods`].
///
/// # Errors
/// Out of memory.
pub fn give_own_methods(class: &Bound<'_, PyType>) -> PyResult<()> {
    quick::give::<Lock>(class, &LOCK)?;
    quick::give::<Semaphore>(class, &SEMAPHORE)
}

/// Adds this file's part of the module.
///
/// # Errors
/// Out of memory.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Lock>()?;
    m.add_class::<RLock>()?;
    m.add_class::<Semaphore>()?;
    m.add_class::<Condition>()?;
    m.add_class::<Event>()?;
    m.add_class::<Barrier>()
}
