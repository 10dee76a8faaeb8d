//! A cell whose lock is the interpreter lock.

use std::cell::UnsafeCell;

use pyo3::Python;

/// A value that every thread may replace while it holds the interpreter lock.
///
/// It is only ever swapped as a whole, never lent, so no code of the program can run while it is in
/// use; a fork in any thread finds it whole.
pub(super) struct GilCell<T>(UnsafeCell<T>);

// SAFETY: the value is touched only in `replace`, which takes proof of the interpreter lock and calls
// nothing that could give it away. `T: Send` since another thread may get the value.
unsafe impl<T: Send> Sync for GilCell<T> {}

impl<T> GilCell<T> {
    pub(super) const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Puts `value` in and hands out what was there.
    pub(super) fn replace(&self, _py: Python<'_>, value: T) -> T {
        // SAFETY: this thread holds the interpreter lock until the function returns, and the swap
        // runs no code of `T`: nobody else is in here.
        unsafe { std::mem::replace(&mut *self.0.get(), value) }
    }
}
