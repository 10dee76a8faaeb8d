//! The native module `sidestep._sidestep`: conversions between Python and the engine.
use pyo3::prelude::*;

pub mod codec;

/// The engine of sidestep.
#[pymodule]
fn _sidestep(m: &Bound<'_, PyModule>) -> PyResult<()> {
    codec::register(m)
}
