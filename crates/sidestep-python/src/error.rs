//! Errors of the engine as exceptions of Python: the only place where one becomes the other.

use std::io::ErrorKind;

use pyo3::PyErrArguments;
use pyo3::exceptions::{PyMemoryError, PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;
use sidestep::Error;

/// The exception for what the engine says.
pub fn to_py(error: Error) -> PyErr {
    let text = error.to_string();
    match error {
        Error::OutOfMemory { .. } => PyMemoryError::new_err(text),
        // What Python says when it finds none itself.
        Error::Os { source, .. }
            if matches!(
                source.kind(),
                ErrorKind::OutOfMemory | ErrorKind::FileTooLarge
            ) =>
        {
            PyMemoryError::new_err(text)
        }
        Error::Os { source, .. } | Error::Fork(source) => match source.raw_os_error() {
            Some(number) => PyOSError::new_err((number, text)),
            None => PyOSError::new_err(text),
        },
        Error::Stale { .. }
        | Error::Foreign(_)
        | Error::TooManyProcesses(_)
        | Error::Watched(_)
        | Error::Closed => PyRuntimeError::new_err(text),
        Error::TooLong(_) | Error::Parties { .. } => PyValueError::new_err(text),
    }
}

/// A class that Python code defines, imported at its first use.
pub struct Imported {
    module: &'static str,
    name: &'static str,
    class: PyOnceLock<Py<PyType>>,
}

impl Imported {
    /// The class `name` of the module `module`.
    pub const fn new(module: &'static str, name: &'static str) -> Self {
        Self {
            module,
            name,
            class: PyOnceLock::new(),
        }
    }

    /// Whether an exception's type is the class.
    pub fn is(&self, py: Python<'_>, kind: Option<&Bound<'_, PyAny>>) -> bool {
        let class = self.class.get(py);
        kind.zip(class).is_some_and(|(kind, class)| kind.is(class))
    }

    /// An instance of the class, which must be an exception.
    pub fn raise(&self, py: Python<'_>, arguments: impl PyErrArguments + 'static) -> PyErr {
        match self.class.import(py, self.module, self.name) {
            Ok(class) => PyErr::from_type(class.clone(), arguments),
            Err(error) => error,
        }
    }
}

/// `queue.Empty`
pub static EMPTY: Imported = Imported::new("queue", "Empty");
/// `queue.Full`
pub static FULL: Imported = Imported::new("queue", "Full");
/// `threading.BrokenBarrierError`
pub static BROKEN_BARRIER: Imported = Imported::new("threading", "BrokenBarrierError");
/// `sidestep.synchronize.AbandonedLockError`
pub static ABANDONED_LOCK: Imported = Imported::new("sidestep.synchronize", "AbandonedLockError");
/// `sidestep.context.AuthenticationError`
pub static AUTHENTICATION_ERROR: Imported =
    Imported::new("sidestep.context", "AuthenticationError");
