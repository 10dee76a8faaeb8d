//! Points at which a test can have the process killed, in the middle of what it is doing.
//!
//! Between two points the engine changes at most one word that others see, so dying at each of
//! them in turn is dying everywhere. Without the feature `crash-points` a point is nothing.

#[cfg(feature = "crash-points")]
mod armed {
    use std::sync::atomic::{AtomicU32, Ordering};

    /// How many points are left to pass; 0: none kills.
    static LEFT: AtomicU32 = AtomicU32::new(0);
    /// How many points this process has passed since [`arm`].
    static PASSED: AtomicU32 = AtomicU32::new(0);
    static TELL: AtomicU32 = AtomicU32::new(0);

    /// Has the calling process kill itself (SIGKILL) at the `n`-th point from now on; 0: never.
    /// With `tell`, it says on stderr where.
    pub fn arm(n: u32, tell: bool) {
        PASSED.store(0, Ordering::Relaxed);
        TELL.store(u32::from(tell), Ordering::Relaxed);
        LEFT.store(n, Ordering::Relaxed);
    }

    /// How many points were passed since [`arm`].
    pub fn passed() -> u32 {
        PASSED.load(Ordering::Relaxed)
    }

    /// The process dies here, if that was asked for.
    pub(crate) fn point(name: &str) {
        PASSED.fetch_add(1, Ordering::Relaxed);
        if LEFT.load(Ordering::Relaxed) != 0 && LEFT.fetch_sub(1, Ordering::Relaxed) == 1 {
            if TELL.load(Ordering::Relaxed) != 0 {
                eprintln!("killed at {name}");
            }
            let _ = crate::os::process::kill(crate::os::process::pid(), libc::SIGKILL);
        }
    }
}

#[cfg(feature = "crash-points")]
pub use armed::{arm, passed};

#[cfg(feature = "crash-points")]
pub(crate) use armed::point;

/// Nothing, in what users build.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub(crate) fn point(_name: &str) {}
