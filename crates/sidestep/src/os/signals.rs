//! The calling thread's mask of signals, as the bits of a number: that of signal 1 is the lowest.
#![allow(unsafe_code)]

use core::mem::MaybeUninit;

/// The number of the last signal.
const LAST: i32 = 64;

/// A fault cannot wait, and these two nobody can hold.
const NEVER: [i32; 6] = [
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGSEGV,
    libc::SIGKILL,
    libc::SIGSTOP,
];

/// The signals that the calling thread has blocked.
pub fn blocked() -> u64 {
    change(libc::SIG_BLOCK, 0)
}

/// Blocks `signals` and no others.
pub fn set_blocked(signals: u64) {
    change(libc::SIG_SETMASK, signals);
}

/// Blocks, besides those that are, the signals for which the process has a handler.
pub fn hold_handled() {
    let handled = (1..=LAST).filter(|&number| !NEVER.contains(&number) && has_handler(number));
    change(libc::SIG_BLOCK, handled.map(bit).sum());
}

fn bit(number: i32) -> u64 {
    1 << (number - 1)
}

/// Changes the mask, and returns what it was. The system call refuses nothing that is asked here.
fn change(how: i32, signals: u64) -> u64 {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are large enough; the first is initialised before it is read, and so is
    // the second, as the call succeeds. libc ignores the numbers that it keeps for itself.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigemptyset(before.as_mut_ptr());
        for number in (1..=LAST).filter(|&number| signals & bit(number) != 0) {
            libc::sigaddset(set.as_mut_ptr(), number);
        }
        libc::pthread_sigmask(how, set.as_ptr(), before.as_mut_ptr());
        let member = |&number: &i32| libc::sigismember(before.as_ptr(), number) == 1;
        (1..=LAST).filter(member).map(bit).sum()
    }
}

fn has_handler(number: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: there is room for the answer; zeros are a valid value, should there be none.
    let action = unsafe {
        libc::sigaction(number, core::ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    ![libc::SIG_DFL, libc::SIG_IGN].contains(&action.sa_sigaction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_what_was_set() {
        let before = blocked();
        let wanted = before | bit(libc::SIGUSR1) | bit(LAST);
        set_blocked(wanted);
        assert_eq!(blocked(), wanted);
        set_blocked(before);
        assert_eq!(blocked(), before);
    }

    #[test]
    fn only_signals_with_a_handler_are_held() {
        extern "C" fn handle(_: i32) {}
        let before = blocked();
        // SAFETY: a handler that does nothing.
        unsafe { libc::signal(libc::SIGUSR2, handle as *const () as libc::sighandler_t) };
        hold_handled();
        let held = blocked();
        set_blocked(before);
        assert_ne!(held & bit(libc::SIGUSR2), 0);
        assert_eq!(held & bit(libc::SIGTERM), 0);
        assert_eq!(
            held & bit(libc::SIGSEGV),
            0,
            "Rust has a handler for overflows of stacks"
        );
    }
}
