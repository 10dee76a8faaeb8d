//! What the machine offers, for `python -m sidestep doctor`.

use pyo3::prelude::*;
use sidestep::os::probe;
use sidestep::shm::{self, Ceiling};

/// Name, whether it is needed, what follows where it is missing, and the refusal if there was one.
type Feature = (&'static str, bool, &'static str, Option<String>);

/// See [`ceiling`].
type Limits = (u64, Option<u64>, u64, Option<u64>, Option<u64>, Option<u64>);

/// Tries what the engine asks of the kernel.
#[pyfunction]
fn features(py: Python<'_>) -> Vec<Feature> {
    py.detach(probe::features)
        .into_iter()
        .map(|feature| {
            (
                feature.name,
                feature.needed,
                feature.otherwise,
                feature.refused.map(|error| error.to_string()),
            )
        })
        .collect()
}

/// The ceiling of a new arena, then what it comes from: the user's wish, the machine's memory, the
/// limits of control group, address space and size of files. In bytes.
#[pyfunction]
fn ceiling() -> Limits {
    let Ceiling {
        limit,
        asked,
        machine,
        group,
        space,
        files,
    } = shm::ceiling();
    (limit, asked, machine, group, space, files)
}

/// Adds this file's part of the module.
///
/// # Errors
/// Out of memory.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(features, m)?)?;
    m.add_function(wrap_pyfunction!(ceiling, m)?)
}
