//! Death at a named point of the engine, for the tests' own build of the module.

use pyo3::prelude::*;
use sidestep::crash;

/// Has the calling process kill itself at the `n`-th passing of that point from now on; 0: never.
/// Children of a fork are armed as their parent is.
#[pyfunction]
fn crash_at(point: &str, n: u32) {
    crash::arm_at(point, n);
}

/// The points that were passed since the last `crash_at`, and how often each.
#[pyfunction]
fn crash_passed() -> Vec<(&'static str, u32)> {
    crash::passed()
}

/// Adds this file's part of the module.
///
/// # Errors
/// Out of memory.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(crash_at, m)?)?;
    m.add_function(wrap_pyfunction!(crash_passed, m)?)
}
