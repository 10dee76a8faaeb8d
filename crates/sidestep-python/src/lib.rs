//! The native module `sidestep._sidestep`: conversions between Python and the engine.
use pyo3::prelude::*;

pub mod codec;
mod connection;
mod ends;

/// The engine of sidestep.
#[pymodule]
fn _sidestep(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<connection::Connection>()?;
    m.add_function(wrap_pyfunction!(connection::stream_pair, m)?)?;
    m.add_function(wrap_pyfunction!(connection::pipe_pair, m)?)?;
    m.add_function(wrap_pyfunction!(connection::join_pipe, m)?)?;
    codec::register(m)
}
