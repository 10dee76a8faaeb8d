//! The family's arena for the package: its descriptor, joining it, handles in flight.

use std::cell::{Cell, RefCell};
use std::os::fd::IntoRawFd;
use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use sidestep::os::memory::{self, Group, Shortage};
use sidestep::os::{lifeline, limits, process, socket};
use sidestep::shm::{self, Handle, Ref};
use sidestep::sync::{Population, Stamp};

use crate::connection::os_error;
use crate::error::to_py;

/// Offset and generation: an object's name on its way to another process.
pub type Name = (u64, u64);

/// The engine's handle for a name.
pub fn handle(name: Name) -> Handle {
    Handle {
        offset: name.0,
        generation: name.1,
    }
}

thread_local! {
    /// How many collectors and channels of this thread are taking handles at the moment.
    static TAKING: Cell<u32> = const { Cell::new(0) };
    /// References that they have taken so far.
    static TAKEN: RefCell<Vec<Ref>> = const { RefCell::new(Vec::new()) };
    /// The thread's number; 0: it has none yet.
    static THREAD: Cell<u32> = const { Cell::new(0) };
}

static NEXT_THREAD: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);

/// A number for the calling thread, unique in its process.
#[inline]
pub fn thread() -> u32 {
    match THREAD.get() {
        0 => number_thread(),
        number => number,
    }
}

#[cold]
fn number_thread() -> u32 {
    let number = NEXT_THREAD.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    THREAD.set(number);
    number
}

/// While this lives, handles pickled in this thread give a reference each to it.
pub struct Taking {
    first: usize,
}

impl Taking {
    /// Starts to take handles.
    pub fn start() -> Self {
        TAKING.with(|depth| depth.set(depth.get() + 1));
        Self {
            first: TAKEN.with(|taken| taken.borrow().len()),
        }
    }

    /// The references taken since the start.
    pub fn finish(self) -> Vec<Ref> {
        TAKEN.with(|taken| {
            let mut taken = taken.borrow_mut();
            if taken.len() > self.first {
                taken.split_off(self.first)
            } else {
                Vec::new()
            }
        })
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        TAKING.with(|depth| depth.set(depth.get().saturating_sub(1)));
        let rest = TAKEN.with(|taken| {
            let mut taken = taken.borrow_mut();
            let first = self.first.min(taken.len());
            taken.split_off(first)
        });
        drop(rest);
    }
}

/// The name of `object` for a pickle; the collector or channel in this thread keeps it alive.
///
/// # Errors
/// RuntimeError outside of those.
pub fn export(object: &Ref, class: &Bound<'_, PyAny>) -> PyResult<Name> {
    if TAKING.with(Cell::get) == 0 {
        let name = class
            .get_type()
            .name()
            .map_or_else(|_| "shared".into(), |n| n.to_string());
        return Err(PyRuntimeError::new_err(format!(
            "{name} objects should only be shared between processes through inheritance, or \
             through a queue or pipe of the same family of processes: hand it to a Process as an \
             argument, or put it into a Queue or Pipe. An object in a manager cannot hold it, as \
             its server knows no such handles; a process, pool or executor of the standard \
             library's own is outside of the family: take Process and Pool from sidestep, and \
             give executors mp_context=sidestep.get_context(...)"
        )));
    }
    let copy = object.try_clone().map_err(to_py)?;
    TAKEN.with(|taken| taken.borrow_mut().push(copy));
    let handle = object.handle();
    Ok((handle.offset, handle.generation))
}

/// Takes references to the handles that are pickled for a child.
#[pyclass(module = "sidestep._sidestep", frozen)]
pub struct Collector {
    refs: Mutex<Vec<Ref>>,
    taking: Mutex<Option<SendTaking>>,
}

/// A `Taking` never leaves its thread: `__exit__` runs where `__enter__` did.
struct SendTaking(usize);

#[pymethods]
impl Collector {
    #[new]
    fn new() -> Self {
        Self {
            refs: Mutex::default(),
            taking: Mutex::default(),
        }
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        let taking = Taking::start();
        *slf.get()
            .taking
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(SendTaking(taking.first));
        std::mem::forget(taking);
        slf
    }

    #[pyo3(signature = (_kind=None, _error=None, _traceback=None))]
    fn __exit__(
        &self,
        _kind: Option<&Bound<'_, PyAny>>,
        _error: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) {
        let taking = self
            .taking
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(SendTaking(first)) = taking {
            let taken = Taking { first }.finish();
            self.refs
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend(taken);
        }
    }

    fn release(&self) {
        let refs = std::mem::take(&mut *self.refs.lock().unwrap_or_else(PoisonError::into_inner));
        drop(refs);
    }
}

/// Makes the family's arena if there is none, and sees to it that there is room for one more
/// process: before a start, so that parent and child share the arena.
#[pyfunction]
fn found(py: Python<'_>) -> PyResult<()> {
    let family = shm::family().map_err(to_py)?;
    py.detach(|| family.make_room());
    Ok(())
}

/// The descriptor of the family's arena, which is made if there is none.
#[pyfunction]
fn arena_fd() -> PyResult<i32> {
    use std::os::fd::AsRawFd;
    let family = shm::family().map_err(to_py)?;
    Ok(family.fd().map_err(to_py)?.as_raw_fd())
}

/// What tells this process's family from others on this machine; None if it has none yet.
#[pyfunction]
fn family_name() -> PyResult<Option<(u64, u64)>> {
    shm::existing()
        .map(|family| {
            let arena = family.fd().map_err(to_py)?;
            socket::identity(arena).map_err(|error| PyOSError::new_err(error.to_string()))
        })
        .transpose()
}

/// Joins the family whose arena is `fd`.
#[pyfunction]
fn attach(fd: i32) -> PyResult<()> {
    shm::attach(fd).map(|_| ()).map_err(to_py)
}

/// A descriptor that polls readable when the process has ended.
#[pyfunction]
fn pidfd_open(py: Python<'_>, pid: u32) -> PyResult<i32> {
    match process::pidfd_open(pid) {
        Ok(fd) => Ok(fd.into_raw_fd()),
        Err(error) => Err(os_error(py, &error)),
    }
}

/// Has the kernel kill this process at the end of the one whose life line (see `LifeLines`) `fd` is.
#[pyfunction]
fn die_at_end_of(py: Python<'_>, fd: i32) -> PyResult<()> {
    lifeline::die_at_end_of(fd).map_err(|error| os_error(py, &error))
}

/// After `os.fork` in the parent, `alive` if there is a child: what to tell `reaped` when the child
/// has been reaped. An error if there was no room for the child's references: it leaves at once.
#[pyfunction]
#[pyo3(signature = (alive=true))]
fn forked(alive: bool) -> PyResult<u32> {
    let Some(family) = shm::existing() else {
        return Ok(0);
    };
    let stamp = family.forked(alive);
    if alive {
        family.disinherited().map_err(to_py)?;
    }
    Ok(stamp.word())
}

/// After `os.fork` in the child: whether it has what its parent shared. If not, it has to leave.
#[pyfunction]
fn inherited() -> bool {
    shm::existing().is_none_or(|family| family.disinherited().is_ok())
}

/// What to say behind the refusal `errno` of the kernel, or of another process if `process`: which
/// limit it is about and what to do; empty if there is nothing to say.
#[pyfunction]
#[pyo3(signature = (errno, process=false))]
fn way_out(errno: i32, process: bool) -> String {
    let refusal = std::io::Error::from_raw_os_error(errno);
    if process {
        limits::way_out_of_processes(&refusal)
    } else {
        limits::way_out(&refusal)
    }
}

/// Whether `size` more bytes of shared memory are too many: whether it is a control group that has
/// not got them, the bytes that it has left, or the machine, and of how many.
#[pyfunction]
fn memory_shortage(size: u64) -> Option<(bool, u64, u64)> {
    Some(match memory::shortage(size)? {
        Shortage::Machine { total, available } => (false, available, total),
        Shortage::Group(Group { limit, available }) => (true, available, limit),
    })
}

/// A child has been reaped: what it held is given back. `token` is from `forked`, or 0.
#[pyfunction]
#[pyo3(signature = (token=0))]
fn reaped(py: Python<'_>, token: u32) {
    if let Some(family) = shm::existing() {
        py.detach(|| family.reaped(Stamp::of_word(token)));
    }
}

/// The process is about to end in order.
#[pyfunction]
fn leave() {
    if let Some(family) = shm::existing() {
        family.leave();
    }
}

/// What names the calling process to the engine, as `forked` does for a child.
#[pyfunction]
fn own_token() -> PyResult<u32> {
    Ok(shm::family().map_err(to_py)?.me().word())
}

/// What a process took last from a queue or pipe: word of the source, number, how many together.
#[pyfunction]
#[pyo3(signature = (token=0))]
fn last_taken(token: u32) -> Option<(u64, u32, u32)> {
    let family = shm::existing()?;
    let stamp = if token == 0 {
        family.me()
    } else {
        Stamp::of_word(token)
    };
    let take = family.last_taken(stamp)?;
    Some((take.source.word(), take.last, take.count))
}

/// What the arena holds: bytes used, warm and limit, number of blocks and processes.
#[pyfunction]
fn usage(py: Python<'_>) -> PyResult<Option<Bound<'_, PyDict>>> {
    let Some(family) = shm::existing() else {
        return Ok(None);
    };
    let usage = family.usage();
    let dict = PyDict::new(py);
    for (name, value) in [
        ("used", usage.used),
        ("warm", usage.warm),
        ("limit", usage.limit),
        ("blocks", usage.blocks),
        ("processes", usage.processes),
    ] {
        dict.set_item(PyString::new(py, name), value)?;
    }
    Ok(Some(dict))
}

/// What is wrong with the arena's books; to be asked while nobody changes them.
#[pyfunction]
fn audit() -> Option<String> {
    shm::existing().and_then(|family| family.audit().err())
}

/// Adds this file's part of the module.
///
/// # Errors
/// Out of memory.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    shm::prepare_for_forks().map_err(to_py)?;
    m.add_class::<Collector>()?;
    m.add_function(wrap_pyfunction!(found, m)?)?;
    m.add_function(wrap_pyfunction!(arena_fd, m)?)?;
    m.add_function(wrap_pyfunction!(family_name, m)?)?;
    m.add_function(wrap_pyfunction!(attach, m)?)?;
    m.add_function(wrap_pyfunction!(pidfd_open, m)?)?;
    m.add_function(wrap_pyfunction!(die_at_end_of, m)?)?;
    m.add_function(wrap_pyfunction!(forked, m)?)?;
    m.add_function(wrap_pyfunction!(inherited, m)?)?;
    m.add_function(wrap_pyfunction!(way_out, m)?)?;
    m.add_function(wrap_pyfunction!(memory_shortage, m)?)?;
    m.add_function(wrap_pyfunction!(reaped, m)?)?;
    m.add_function(wrap_pyfunction!(leave, m)?)?;
    m.add_function(wrap_pyfunction!(own_token, m)?)?;
    m.add_function(wrap_pyfunction!(last_taken, m)?)?;
    m.add_function(wrap_pyfunction!(usage, m)?)?;
    m.add_function(wrap_pyfunction!(audit, m)?)
}
