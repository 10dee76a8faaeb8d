//! Waiting: the interpreter is released, signals are served, and the wait goes on.

use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use sidestep::os::clock::Deadline;
use sidestep::sync::{SLICE, Wait};

/// The deadline of a call: `timeout` in seconds, `None` for ever; negative means now.
///
/// # Errors
/// ValueError for a time that is not a number.
pub fn deadline(timeout: Option<f64>) -> PyResult<Deadline> {
    match timeout {
        None => Ok(Deadline::NEVER),
        Some(seconds) if seconds.is_nan() => Err(PyValueError::new_err(
            "timeout must be a number of seconds, not nan",
        )),
        // A time beyond the clock's range never comes.
        Some(seconds) => Ok(Duration::try_from_secs_f64(seconds.max(0.0))
            .map_or(Deadline::NEVER, |limit| Deadline::after(Some(limit)))),
    }
}

/// Repeats `step`, detached from the interpreter, until it is not interrupted. A signal handler
/// that raises ends the wait with its exception.
///
/// # Errors
/// What a signal handler raised.
pub fn wait(py: Python<'_>, mut step: impl FnMut() -> Wait + Send) -> PyResult<Wait> {
    loop {
        match py.detach(&mut step) {
            Wait::Interrupted => py.check_signals()?,
            done => return Ok(done),
        }
    }
}

/// The time left, in slices, for the engine's loops.
pub fn left(deadline: Deadline) -> impl FnMut() -> Option<Duration> + Send {
    move || deadline.slice(SLICE)
}

/// An argument that is taken for true or false as `if` would.
///
/// # Errors
/// What its `__bool__` raises.
pub fn truth(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    value.is_truthy()
}
