//! The native module `sidestep._sidestep`: conversions between Python and the engine.

use pyo3::prelude::*;
use pyo3::types::PyType;

pub mod codec;
mod connection;
#[cfg(feature = "crash-points")]
mod crash;
mod doctor;
mod ends;
mod error;
#[cfg(feature = "failure-points")]
mod failure;
mod family;
mod frozen;
mod locks;
mod memory;
mod message;
mod pool;
mod porch;
mod queue;
mod quick;
mod start;
mod values;
mod wait;

/// The engine of sidestep.
#[pymodule]
fn _sidestep(m: &Bound<'_, PyModule>) -> PyResult<()> {
    family::register(m)?;
    start::register(m)?;
    #[cfg(feature = "crash-points")]
    crash::register(m)?;
    doctor::register(m)?;
    #[cfg(feature = "failure-points")]
    failure::register(m)?;
    m.add_class::<memory::Block>()?;
    m.add_class::<frozen::Frozen>()?;
    locks::register(m)?;
    values::register(m)?;
    m.add_class::<queue::Queue>()?;
    pool::register(m)?;
    connection::register(m)?;
    porch::register(m)?;
    m.add_function(wrap_pyfunction!(own_methods, m)?)?;
    codec::register(m)
}

/// Gives a class that Python derives from a native one those native methods as its own that are
/// called often: the interpreter calls these faster. Returns the class.
#[pyfunction]
fn own_methods<'py>(class: &Bound<'py, PyType>) -> PyResult<Bound<'py, PyType>> {
    locks::give_own_methods(class)?;
    queue::give_own_methods(class)?;
    values::give_own_methods(class)?;
    connection::give_own_methods(class)?;
    Ok(class.clone())
}
