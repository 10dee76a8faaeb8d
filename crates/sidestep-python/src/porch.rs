//! The porch of a listener, and the arithmetic of the handshake, for Python.
//!
//! Python accepts the callers, since it knows their addresses and makes the session of TLS, if
//! there is one; the engine serves them ([`sidestep::channel::porch`]).

use std::io::ErrorKind;
use std::mem;
use std::os::fd::IntoRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use sidestep::channel::handshake::{self, Refusal};
use sidestep::channel::porch::{self, Event, Unveiled, Veil};
use sidestep::os::socket;

use crate::connection::{Failure, os_error, until_done};
use crate::error::AUTHENTICATION_ERROR;
use crate::wait::deadline;

/// What Python has raised where the engine cannot: a handler of a signal, for one.
type Raised = Arc<Mutex<Option<PyErr>>>;

/// A session of TLS: an object with a method `pass_`, see `_tls.Session`.
struct Session(Py<PyAny>, Raised);

impl Veil for Session {
    fn pass(&mut self, wire: &[u8], plain: &[u8], wants: usize) -> Unveiled {
        Python::attach(|py| {
            let arguments = (PyBytes::new(py, wire), PyBytes::new(py, plain), wants);
            let passed = self
                .0
                .call_method1(py, "pass_", arguments)
                .and_then(|passed| passed.extract(py));
            match passed {
                Ok((plain, wire, open, fault)) => Unveiled {
                    plain,
                    wire,
                    open,
                    fault,
                },
                Err(error) => {
                    let fault = Some(format!("an exception came in between: {error}"));
                    *self.1.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    Unveiled {
                        fault,
                        ..Unveiled::default()
                    }
                }
            }
        })
    }
}

/// Where the callers are. No lock is held during a system call: whoever serves them takes them.
enum Place {
    Here(porch::Porch),
    Taken,
    Closed,
}

/// Callers of a listener that have not proved who they are.
#[pyclass(frozen, module = "sidestep._sidestep")]
pub struct Porch(Mutex<Place>, Raised);

impl Porch {
    fn place(&self) -> MutexGuard<'_, Place> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> PyResult<porch::Porch> {
        let mut place = self.place();
        match mem::replace(&mut *place, Place::Taken) {
            Place::Here(porch) => Ok(porch),
            Place::Taken => Err(PyRuntimeError::new_err("another thread is at the door")),
            Place::Closed => {
                *place = Place::Closed;
                Err(PyOSError::new_err("listener is closed"))
            }
        }
    }

    fn give_back(&self, porch: porch::Porch) {
        let mut place = self.place();
        // Else it was closed meanwhile: the callers go.
        if matches!(*place, Place::Taken) {
            *place = Place::Here(porch);
        }
    }
}

/// What happened, to whom, with which descriptor, and why.
type Happening = (&'static str, u64, i32, String);

#[pymethods]
impl Porch {
    #[new]
    fn new(authkey: Option<&[u8]>, patience: f64, room: usize) -> PyResult<Self> {
        let patience = Duration::try_from_secs_f64(patience)
            .ok()
            .filter(|patience| !patience.is_zero() && *patience < Duration::from_secs(1 << 31))
            .ok_or_else(|| {
                PyValueError::new_err(format!(
                    "the time for a handshake must be a positive number of seconds, not {patience}"
                ))
            })?;
        let porch = porch::Porch::new(authkey, patience, room);
        Ok(Self(Mutex::new(Place::Here(porch)), Raised::default()))
    }

    fn add(
        &self,
        py: Python<'_>,
        number: u64,
        fd: i32,
        session: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let caller = socket::take_over(fd).map_err(|error| os_error(py, &error))?;
        let mut porch = self.take()?;
        let veil =
            session.map(|session| Box::new(Session(session, Arc::clone(&self.1))) as Box<dyn Veil>);
        let added = py.detach(|| porch.add(number, caller, veil));
        self.give_back(porch);
        added.map_err(|error| os_error(py, &error))
    }

    fn shut(&self, why: &str) -> PyResult<bool> {
        let mut porch = self.take()?;
        let shut = porch.shut(why);
        self.give_back(porch);
        Ok(shut)
    }

    fn wait(&self, py: Python<'_>, door: i32, timeout: Option<f64>) -> PyResult<Happening> {
        let door = socket::vouched(door).map_err(|error| os_error(py, &error))?;
        let deadline = deadline(timeout)?;
        let mut porch = self.take()?;
        let mut event = until_done(py, || porch.wait(door, deadline));
        let raised = (self.1.lock())
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(error) = raised {
            if let Ok(event) = event {
                porch.put_back(event);
            }
            event = Err(Failure::Signal(error));
        }
        self.give_back(porch);
        let event = event.map_err(|failure| match failure {
            Failure::Signal(error) => error,
            Failure::Failed(error) => os_error(py, &error),
        })?;
        Ok(match event {
            Event::Knock => ("knock", 0, -1, String::new()),
            Event::TimedOut => ("timeout", 0, -1, String::new()),
            Event::Admitted(id, caller) => ("admitted", id, caller.into_raw_fd(), String::new()),
            Event::Refused(id, why) => ("refused", id, -1, why),
            Event::Dropped(id, why) => ("dropped", id, -1, why),
        })
    }

    fn close(&self) {
        let callers = mem::replace(&mut *self.place(), Place::Closed);
        drop(callers);
    }
}

fn refusal(py: Python<'_>, refusal: &Refusal) -> PyErr {
    match refusal {
        Refusal::NoRandomness(_) => PyOSError::new_err(refusal.to_string()),
        _ => AUTHENTICATION_ERROR.raise(py, refusal.to_string()),
    }
}

/// The answer to the message of a challenge.
#[pyfunction]
fn handshake_response<'py>(
    py: Python<'py>,
    authkey: &[u8],
    message: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    match handshake::respond(authkey, message) {
        Ok(response) => Ok(PyBytes::new(py, &response)),
        Err(error) => Err(refusal(py, &error)),
    }
}

/// The answer to a whole challenge.
#[pyfunction]
fn handshake_answer<'py>(
    py: Python<'py>,
    authkey: &[u8],
    challenge: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    match handshake::answer(authkey, challenge) {
        Ok(response) => Ok(PyBytes::new(py, &response)),
        Err(error) => Err(refusal(py, &error)),
    }
}

/// Checks the answer to the message of a challenge.
#[pyfunction]
fn handshake_verify(
    py: Python<'_>,
    authkey: &[u8],
    message: &[u8],
    response: &[u8],
) -> PyResult<()> {
    handshake::verify(authkey, message, response).map_err(|error| refusal(py, &error))
}

/// Sends what a socket takes without waiting; how many bytes that was.
#[pyfunction]
fn send_now(py: Python<'_>, fd: i32, data: &[u8]) -> PyResult<usize> {
    let sent = socket::vouched(fd).and_then(|fd| socket::send(fd, data, &[], socket::Wait::Never));
    match sent {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Ok(0)
        }
        sent => sent.map_err(|error| os_error(py, &error)),
    }
}

/// Adds this file's part of the module.
///
/// # Errors
/// Out of memory.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Porch>()?;
    m.add_function(wrap_pyfunction!(handshake_response, m)?)?;
    m.add_function(wrap_pyfunction!(handshake_answer, m)?)?;
    m.add_function(wrap_pyfunction!(handshake_verify, m)?)?;
    m.add_function(wrap_pyfunction!(send_now, m)?)
}
