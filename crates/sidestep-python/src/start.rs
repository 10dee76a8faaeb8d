//! What starting and reaping a process takes, in one call each: a forked child has to copy every
//! page that Python code touches, its parent as well.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use sidestep::os::{lifeline, memory, process, signals, socket};

use crate::connection::os_error;

// --- signals ------------------------------------------------------------------------------------

thread_local! {
    /// The scopes that this thread is in, each with the mask from before signals were held.
    static SCOPES: RefCell<Vec<Option<u64>>> = const { RefCell::new(Vec::new()) };
}

/// A block in which a process is started; signals that were held are let through at its end.
#[pyclass(frozen, module = "sidestep._sidestep")]
struct SignalScope;

#[pymethods]
impl SignalScope {
    #[new]
    fn new() -> Self {
        Self
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        SCOPES.with_borrow_mut(|scopes| scopes.push(None));
        slf
    }

    #[pyo3(signature = (_kind=None, _error=None, _traceback=None))]
    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: Option<&Bound<'_, PyAny>>,
        _error: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let mask = SCOPES.with_borrow_mut(Vec::pop).flatten();
        mask.map_or(Ok(()), |mask| block_signals(py, mask))
    }
}

/// Blocks the signals for which there is a handler until the end of the scope, if there is one.
/// Handlers of those that have come already run in here, and may raise.
#[pyfunction]
fn hold_signals(py: Python<'_>) -> PyResult<()> {
    let held = SCOPES.with_borrow_mut(|scopes| match scopes.last_mut() {
        Some(mask @ None) => {
            *mask = Some(signals::blocked());
            signals::hold_handled();
            true
        }
        _ => false,
    });
    if held { py.check_signals() } else { Ok(()) }
}

/// Undoes `hold_signals`, in a forked child, too. What has come meanwhile is handled in here, and
/// may raise.
#[pyfunction]
fn let_signals_through(py: Python<'_>) -> PyResult<()> {
    let mask = SCOPES.with_borrow_mut(|scopes| scopes.last_mut().and_then(Option::take));
    mask.map_or(Ok(()), |mask| block_signals(py, mask))
}

/// The signals that this thread has blocked: the bit of signal 1 is the lowest.
#[pyfunction]
fn blocked_signals() -> u64 {
    signals::blocked()
}

/// Blocks these signals and no others; what has come meanwhile is handled in here, and may raise.
#[pyfunction]
fn block_signals(py: Python<'_>, signals: u64) -> PyResult<()> {
    signals::set_blocked(signals);
    py.check_signals()
}

// --- descriptors --------------------------------------------------------------------------------

/// Descriptors that the process which made this closes when it is called, or is garbage.
#[pyclass(frozen, module = "sidestep._sidestep")]
struct Fds {
    fds: Mutex<Vec<OwnedFd>>,
    owner: u32,
}

impl Fds {
    fn new(fds: Vec<OwnedFd>) -> Self {
        Self {
            fds: Mutex::new(fds),
            owner: process::pid(),
        }
    }
}

#[pymethods]
impl Fds {
    fn __call__(&self) {
        let fds = std::mem::take(&mut *self.fds.lock().unwrap_or_else(PoisonError::into_inner));
        if self.owner != process::pid() {
            // Copies, of which somebody else may have disposed.
            fds.into_iter().for_each(forget);
        }
    }
}

impl Drop for Fds {
    fn drop(&mut self) {
        self.__call__();
    }
}

fn forget(fd: OwnedFd) {
    let _ = fd.into_raw_fd();
}

/// The descriptors by which a parent and its child see each other's end.
#[pyclass(frozen, module = "sidestep._sidestep")]
struct LifeLines {
    #[pyo3(get)]
    parent_fd: RawFd,
    ends: Mutex<Ends>,
}

struct Ends {
    /// What the parent has to keep.
    ours: Vec<OwnedFd>,
    /// What the child has to have.
    childs: Vec<OwnedFd>,
    /// The one of ours by which the child's end is seen, where there are no pidfds.
    child_r: Option<RawFd>,
}

impl Ends {
    fn open(dies_with_parent: bool, pidfds: bool) -> std::io::Result<Self> {
        let us = if pidfds {
            process::pidfd_open(process::pid())
        } else {
            Err(ErrorKind::Unsupported.into())
        };
        let mut ends = match us {
            Ok(us) => Self {
                // Keeps a place for the sentinel: once there is a child it is too late for an
                // error.
                ours: vec![memory::duplicate(us.as_fd())?],
                childs: vec![us],
                child_r: None,
            },
            Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                return Err(error);
            }
            Err(_) => {
                let (parent_r, parent_w) = socket::pipe()?;
                let (child_r, child_w) = socket::pipe()?;
                let sentinel = child_r.as_raw_fd();
                Self {
                    ours: vec![parent_w, child_r],
                    childs: vec![parent_r, child_w],
                    child_r: Some(sentinel),
                }
            }
        };
        if dies_with_parent {
            match lifeline::open() {
                Ok(line) => ends.childs[0] = line,
                // There is no /proc, by which a line is opened: the child is on its own.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ends)
    }

    fn started(&mut self, pid: u32) -> std::io::Result<RawFd> {
        self.childs.clear();
        if let Some(sentinel) = self.child_r {
            return Ok(sentinel);
        }
        self.ours.clear();
        let sentinel = match process::pidfd_open(pid) {
            // Ended, and reaped by somebody else, or by the kernel as SIGCHLD is ignored: a pipe
            // at its end says so too.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => socket::pipe()?.0,
            opened => opened?,
        };
        let number = sentinel.as_raw_fd();
        self.ours.push(sentinel);
        Ok(number)
    }
}

impl LifeLines {
    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl LifeLines {
    /// Without pidfds it is as where the kernel refuses them.
    #[new]
    #[pyo3(signature = (dies_with_parent, pidfds=true))]
    fn new(py: Python<'_>, dies_with_parent: bool, pidfds: bool) -> PyResult<Self> {
        let ends = Ends::open(dies_with_parent, pidfds).map_err(|error| os_error(py, &error))?;
        Ok(Self {
            parent_fd: ends.childs[0].as_raw_fd(),
            ends: Mutex::new(ends),
        })
    }

    /// What a child that runs a program has to inherit.
    #[getter]
    fn child_fds(&self) -> Vec<RawFd> {
        self.ends().childs.iter().map(AsRawFd::as_raw_fd).collect()
    }

    /// Keeps the parent's part, of a child that has not been reaped: the child's sentinel, and
    /// what closes all that the parent keeps.
    fn started(&self, py: Python<'_>, pid: u32) -> PyResult<(RawFd, Fds)> {
        let mut ends = self.ends();
        let sentinel = ends.started(pid).map_err(|error| os_error(py, &error))?;
        Ok((sentinel, Fds::new(std::mem::take(&mut ends.ours))))
    }

    /// Keeps the parent's part, of a child whose sentinel somebody else has made. It is taken over,
    /// and so is `connection`.
    fn started_elsewhere(&self, sentinel: RawFd, connection: RawFd) -> Fds {
        let mut ends = self.ends();
        ends.childs.clear();
        if ends.child_r.is_none() {
            ends.ours.clear();
        }
        let mut kept = std::mem::take(&mut ends.ours);
        kept.extend([sentinel, connection].map(take));
        Fds::new(kept)
    }

    /// In a forked child: closes the parent's part, and keeps its own for life.
    fn inherited(&self) {
        let mut ends = self.ends();
        ends.ours.clear();
        ends.childs.drain(..).for_each(forget);
    }

    /// Closes all: there is no child.
    fn abandon(&self) {
        let mut ends = self.ends();
        ends.childs.clear();
        ends.ours.clear();
    }
}

#[allow(unsafe_code)]
fn take(fd: RawFd) -> OwnedFd {
    // SAFETY: the caller hands the descriptor over.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

// --- descriptors on their way -------------------------------------------------------------------

/// Two sockets that are connected to each other: blocking, close-on-exec, the caller's.
#[pyfunction]
fn socket_pair(py: Python<'_>) -> PyResult<(RawFd, RawFd)> {
    let (one, other) = socket::socket_pair().map_err(|error| os_error(py, &error))?;
    Ok((one.into_raw_fd(), other.into_raw_fd()))
}

/// Sends `data` over the socket `fd`, and copies of `fds` with it.
#[pyfunction]
fn send_fds(py: Python<'_>, fd: RawFd, data: &[u8], fds: Vec<RawFd>) -> PyResult<()> {
    let send = || {
        let copied = fds.iter().map(|fd| socket::vouched(*fd));
        let copied = copied.collect::<std::io::Result<Vec<_>>>()?;
        socket::send(socket::vouched(fd)?, data, &copied, socket::Wait::AsSet)
    };
    repeat(py, send).map(drop)
}

/// Receives at most `size` bytes over the socket `fd`, and what descriptors came with them.
#[pyfunction]
fn receive_fds(
    py: Python<'_>,
    fd: RawFd,
    size: usize,
) -> PyResult<(Bound<'_, PyBytes>, Vec<RawFd>)> {
    let mut data = vec![0; size];
    let receive = || socket::receive(socket::vouched(fd)?, &mut data, socket::Wait::AsSet);
    let (got, fds) = repeat(py, receive)?;
    let fds = fds.into_iter().map(IntoRawFd::into_raw_fd).collect();
    Ok((PyBytes::new(py, &data[..got]), fds))
}

/// Calls `step`, detached from the interpreter, again after each signal, whose handler runs in
/// here and may raise.
fn repeat<T: Send>(
    py: Python<'_>,
    mut step: impl FnMut() -> std::io::Result<T> + Send,
) -> PyResult<T> {
    loop {
        match py.detach(&mut step) {
            Err(error) if error.kind() == ErrorKind::Interrupted => py.check_signals()?,
            done => return done.map_err(|error| os_error(py, &error)),
        }
    }
}

// --- the end ------------------------------------------------------------------------------------

/// The exit code of a child, or minus the signal that has ended it; None if it runs and `block` is
/// false. It stays to be reaped.
#[pyfunction]
fn exit_code(py: Python<'_>, pid: u32, block: bool) -> PyResult<Option<i32>> {
    let exit = if block {
        repeat(py, || process::exit_of_child(pid, true))
    } else {
        process::exit_of_child(pid, false).map_err(|error| os_error(py, &error))
    };
    Ok(exit?.map(process::Exit::code))
}

/// Adds this file's part of the module.
///
/// # Errors
/// Out of memory.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<SignalScope>()?;
    m.add_class::<Fds>()?;
    m.add_class::<LifeLines>()?;
    m.add_function(wrap_pyfunction!(hold_signals, m)?)?;
    m.add_function(wrap_pyfunction!(let_signals_through, m)?)?;
    m.add_function(wrap_pyfunction!(blocked_signals, m)?)?;
    m.add_function(wrap_pyfunction!(block_signals, m)?)?;
    m.add_function(wrap_pyfunction!(socket_pair, m)?)?;
    m.add_function(wrap_pyfunction!(send_fds, m)?)?;
    m.add_function(wrap_pyfunction!(receive_fds, m)?)?;
    m.add_function(wrap_pyfunction!(exit_code, m)?)
}
