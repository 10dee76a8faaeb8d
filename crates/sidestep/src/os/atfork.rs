//! Hooks around fork(2), also for forks made in C.
#![allow(unsafe_code)]

use super::call::{Call, call_by_number};

/// Has `prepare` called before each fork, `parent` and `child` after it, for the process's life.
///
/// A child made by `vfork` or `posix_spawn` runs none of them: it is going to exec.
///
/// # Errors
/// No memory for the entry.
///
/// # References
/// `pthread_atfork(3)`.
pub fn register(
    prepare: extern "C" fn(),
    parent: extern "C" fn(),
    child: extern "C" fn(),
) -> std::io::Result<()> {
    call_by_number(Call::Atfork, || {
        // SAFETY: the functions are static and never unloaded; they only run this crate's code.
        unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) }
    })
}
