//! The native module `sidestep._sidestep`: conversions between Python and the engine.
use pyo3::prelude::*;

/// The engine of sidestep.
#[pymodule]
fn _sidestep(_m: &Bound<'_, PyModule>) -> PyResult<()> {
    Ok(())
}
