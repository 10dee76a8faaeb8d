//! Sleeping on a word of shared memory: futex(2).
#![allow(unsafe_code)]

use core::sync::atomic::AtomicU32;
use std::time::Duration;

use super::call::{Call, call};

/// How a wait on a futex ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Woken, or for no reason at all: look at the word again.
    Woken,
    /// The word did not hold the expected value.
    Changed,
    /// The time was up.
    TimedOut,
    /// A signal handler ran.
    Interrupted,
}

/// Sleeps while `word` holds `expected`, until a wake or until `limit` has passed.
///
/// Works between processes: the private flag is never passed.
///
/// # References
/// futex(2), `FUTEX_WAIT`.
pub fn wait(word: &AtomicU32, expected: u32, limit: Option<Duration>) -> Wake {
    let spec = limit.map(|limit| libc::timespec {
        tv_sec: limit.as_secs().min(libc::time_t::MAX as u64) as libc::time_t,
        tv_nsec: limit.subsec_nanos() as _,
    });
    let spec = spec.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
    // SAFETY: `word` is a live aligned u32, `spec` is null or a live timespec; the kernel keeps
    // neither after the call.
    let done = call(Call::FutexWait, || unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            expected,
            spec,
        )
    });
    match done.map_err(|error| error.raw_os_error()) {
        Ok(_) => Wake::Woken,
        Err(Some(libc::EAGAIN)) => Wake::Changed,
        Err(Some(libc::ETIMEDOUT)) => Wake::TimedOut,
        Err(Some(libc::EINTR)) => Wake::Interrupted,
        // Nothing else is documented for a valid word: treat it as a spurious wake-up.
        Err(_) => Wake::Woken,
    }
}

/// Wakes at most `count` sleepers of `word`.
///
/// # References
/// futex(2), `FUTEX_WAKE`.
pub fn wake(word: &AtomicU32, count: u32) {
    let count = count.min(i32::MAX as u32);
    // A sleeper that is not woken looks again by itself.
    // SAFETY: the kernel only uses the address of `word` as a key.
    let _ = call(Call::FutexWake, || unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, count)
    });
}
