//! A cell whose lock is the interpreter lock.

use std::cell::UnsafeCell;

use pyo3::Python;

/// A value that every thread may replace while it holds the interpreter lock.
///
/// It is swapped as a whole, so no code of the program can run while it is half replaced; a fork in
/// any thread finds it whole.
pub(super) struct GilCell<T>(UnsafeCell<T>);

// SAFETY: the value is touched only with proof of the interpreter lock, and nothing gives the lock
// away meanwhile: `replace` calls nothing, `peek` makes its caller promise. `T: Send` since another
// thread may get the value.
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

    /// Looks at the value.
    ///
    /// # Safety
    ///
    /// While the reference lives no Python code may run (no object is made or dropped, nothing is
    /// called), and `replace` is not called.
    pub(super) unsafe fn peek<'a>(&'a self, _py: Python<'a>) -> &'a T {
        // SAFETY: this thread holds the interpreter lock, and as the caller promises keeps it and
        // changes nothing as long as it looks.
        unsafe { &*self.0.get() }
    }
}
