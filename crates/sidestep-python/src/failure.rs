//! Refusals of the kernel on purpose, for the tests' own build of the module.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use sidestep::os::call::{self, Call};

/// The names of all calls of the kernel.
#[pyfunction]
fn calls() -> Vec<&'static str> {
    Call::ALL.iter().map(|call| call.name()).collect()
}

/// Has the `first` to `last` call of `name` from now on fail with `errno`, here and in forked
/// children; with a `first` of 0, no call fails any more.
#[pyfunction]
fn fail_call(name: &str, first: u32, last: u32, errno: i32) -> PyResult<()> {
    let found = Call::ALL.iter().find(|call| call.name() == name);
    let call = found.ok_or_else(|| PyValueError::new_err(format!("no call {name}")))?;
    call::fail(*call, first, last, errno);
    Ok(())
}

/// How often each call was made since the last `fail_call`.
#[pyfunction]
fn calls_made() -> Vec<(&'static str, u32)> {
    let made = |call: &Call| (call.name(), call::made(*call));
    Call::ALL.iter().map(made).collect()
}

/// Adds this file's part of the module.
///
/// # Errors
/// Out of memory.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(calls, m)?)?;
    m.add_function(wrap_pyfunction!(fail_call, m)?)?;
    m.add_function(wrap_pyfunction!(calls_made, m)?)
}
