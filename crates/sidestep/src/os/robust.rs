//! A word that the kernel marks when the thread that locked it ends, however it ends.
//!
//! A robust, process-shared pthread mutex is the portable face of the kernel's robust list. One
//! per process slot is held for life by the process's main thread: it is a witness, not a lock
//! around data.
//!
//! # References
//! `pthread_mutexattr_setrobust(3)`, `get_robust_list(2)`.
#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;

/// What an attempt to lock the witness told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locked {
    /// Taken; whoever held it before let go in order (or nobody ever held it).
    Clean,
    /// Taken; the holder ended while holding it.
    OwnerDied,
    /// Somebody alive holds it.
    Busy,
}

/// A robust mutex in shared memory.
///
/// Its memory is used as a robust mutex for as long as the mapping lives: it is initialised once
/// and never reused as anything else (an old race between unlock and kill lets the kernel write a
/// late mark, glibc bug 14485).
#[repr(transparent)]
pub struct RobustWord(UnsafeCell<libc::pthread_mutex_t>);

// SAFETY: a process-shared pthread mutex is made to be used by many threads at once.
unsafe impl Sync for RobustWord {}

impl RobustWord {
    /// Prepares the word. Once, before anybody else can reach it.
    pub fn init(&self) {
        let mut attr = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
        // SAFETY: `attr` is initialised by the first call and destroyed by the last; the mutex is
        // valid memory that nobody else uses yet (the caller's promise).
        unsafe {
            libc::pthread_mutexattr_init(attr.as_mut_ptr());
            libc::pthread_mutexattr_setpshared(attr.as_mut_ptr(), libc::PTHREAD_PROCESS_SHARED);
            libc::pthread_mutexattr_setrobust(attr.as_mut_ptr(), libc::PTHREAD_MUTEX_ROBUST);
            libc::pthread_mutex_init(self.0.get(), attr.as_ptr());
            libc::pthread_mutexattr_destroy(attr.as_mut_ptr());
        }
    }

    /// Takes the word for the calling thread, waiting for a checker that holds it a moment.
    pub fn hold(&self) {
        // SAFETY: the mutex was initialised and is never destroyed.
        if unsafe { libc::pthread_mutex_lock(self.0.get()) } == libc::EOWNERDEAD {
            self.repair();
        }
    }

    /// Takes the word if no living thread holds it.
    pub fn try_hold(&self) -> Locked {
        // SAFETY: the mutex was initialised and is never destroyed.
        match unsafe { libc::pthread_mutex_trylock(self.0.get()) } {
            0 => Locked::Clean,
            libc::EOWNERDEAD => Locked::OwnerDied,
            _ => Locked::Busy,
        }
    }

    /// After `OwnerDied`: makes the word usable again (it stays held by the caller).
    pub fn repair(&self) {
        // SAFETY: the calling thread holds the mutex.
        unsafe { libc::pthread_mutex_consistent(self.0.get()) };
    }

    /// Lets go of the word.
    pub fn release(&self) {
        // SAFETY: the calling thread holds the mutex.
        unsafe { libc::pthread_mutex_unlock(self.0.get()) };
    }
}
