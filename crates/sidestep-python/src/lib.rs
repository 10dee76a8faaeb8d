//! The native module `sidestep._sidestep`: conversions between Python and the engine.
use pyo3::prelude::*;

pub mod codec;
mod connection;

/// The engine of sidestep.
#[pymodule]
fn _sidestep(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<connection::Connection>()?;
    m.add_function(wrap_pyfunction!(connection::stream_pair, m)?)?;
    codec::register(m)
}
