//! The native module `sidestep._sidestep`: conversions between Python and the engine.

use pyo3::prelude::*;

pub mod codec;
mod connection;
mod doctor;
mod ends;
mod error;
mod family;
mod locks;
mod memory;
mod message;
mod pool;
mod porch;
mod queue;
mod wait;

/// The engine of sidestep.
#[pymodule]
fn _sidestep(m: &Bound<'_, PyModule>) -> PyResult<()> {
    family::register(m)?;
    doctor::register(m)?;
    m.add_class::<memory::Block>()?;
    locks::register(m)?;
    m.add_class::<queue::Queue>()?;
    pool::register(m)?;
    connection::register(m)?;
    porch::register(m)?;
    codec::register(m)
}
