//! Points at which a test can have the process killed, in the middle of what it is doing.
//!
//! Between two points the engine changes at most one word that others see, so dying at each of
//! them in turn is dying everywhere. A point's name says the structure and what has just happened
//! to it, and stands in one place of the source only: the tests read the names there, and fail if
//! there is one at which nothing ever died. Without the feature `crash-points` a point is nothing.

#[cfg(feature = "crash-points")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

    /// More than there are points.
    const MOST: usize = 256;

    /// A point that this process, or the one that it was forked from, has passed.
    struct Passed {
        name: OnceLock<&'static str>,
        times: AtomicU32,
    }

    static PASSED: [Passed; MOST] = [const {
        Passed {
            name: OnceLock::new(),
            times: AtomicU32::new(0),
        }
    }; MOST];

    /// Which point kills ([`number`] of its name); 0: whichever comes.
    static WHICH: AtomicU64 = AtomicU64::new(0);
    /// How often such a point is still to be passed, this time included; 0: none kills.
    static LEFT: AtomicU32 = AtomicU32::new(0);
    /// The point ([`number`]) at which the process gets `SIGNAL` the next time; 0: none.
    static SIGNAL_AT: AtomicU64 = AtomicU64::new(0);
    static SIGNAL: AtomicI32 = AtomicI32::new(0);
    /// Who is told the name of the point at which a process is about to die.
    static LISTENER: OnceLock<fn(&str)> = OnceLock::new();
    static ENVIRONMENT: OnceLock<()> = OnceLock::new();

    /// For processes that nobody can call [`arm_at`] in before they begin: `name#n`.
    const VARIABLE: &str = "SIDESTEP_CRASH_AT";

    /// Has the calling process kill itself (SIGKILL) at the `n`-th point from now on; 0: never.
    /// Children of a fork are armed as their parent is.
    pub fn arm(n: u32) {
        arm_which(0, n);
    }

    /// As [`arm`], counting only the points of this name.
    pub fn arm_at(name: &str, n: u32) {
        arm_which(number(name), n);
    }

    /// Has the calling process send itself a signal at the next point of this name, whatever it is
    /// armed with: one that stops it, so that others meet it there, or one that kills a child.
    pub fn signal_at(name: &str, signal: i32) {
        SIGNAL.store(signal, Ordering::Relaxed);
        SIGNAL_AT.store(number(name), Ordering::Relaxed);
    }

    /// Has this process, and those that it forks, call `listener` when they are about to die at a
    /// point; once.
    pub fn tell(listener: fn(&str)) {
        let _ = LISTENER.set(listener);
    }

    fn arm_which(which: u64, n: u32) {
        LEFT.store(0, Ordering::Relaxed);
        for passed in &PASSED {
            passed.times.store(0, Ordering::Relaxed);
        }
        WHICH.store(which, Ordering::Relaxed);
        LEFT.store(n, Ordering::Relaxed);
    }

    /// Which points were passed since this process (or the one that it was forked from) was last
    /// armed, and how often each.
    pub fn passed() -> Vec<(&'static str, u32)> {
        PASSED
            .iter()
            .map_while(|passed| Some((*passed.name.get()?, passed.times.load(Ordering::Relaxed))))
            .filter(|(_, times)| *times > 0)
            .collect()
    }

    /// A name as a number that is not 0 (FNV-1a).
    fn number(name: &str) -> u64 {
        name.bytes().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
            (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        }) | 1
    }

    /// The process dies here, if that was asked for.
    pub(crate) fn point(name: &'static str) {
        ENVIRONMENT.get_or_init(|| {
            let wish = std::env::var(VARIABLE).unwrap_or_default();
            if let Some((name, times)) = wish.split_once('#')
                && let Ok(times) = times.parse()
            {
                arm_at(name, times);
            }
        });
        let place = PASSED
            .iter()
            .find(|passed| *passed.name.get_or_init(|| name) == name);
        if let Some(place) = place {
            place.times.fetch_add(1, Ordering::Relaxed);
        }
        let me = crate::os::process::pid();
        let place = SIGNAL_AT.load(Ordering::Relaxed);
        if place != 0 && place == number(name) {
            SIGNAL_AT.store(0, Ordering::Relaxed);
            let _ = crate::os::process::kill(me, SIGNAL.load(Ordering::Relaxed));
        }
        let which = WHICH.load(Ordering::Relaxed);
        if LEFT.load(Ordering::Relaxed) != 0
            && (which == 0 || which == number(name))
            && LEFT.fetch_sub(1, Ordering::Relaxed) == 1
        {
            if let Some(tell) = LISTENER.get() {
                tell(name);
            }
            let _ = crate::os::process::kill(me, libc::SIGKILL);
        }
    }
}

#[cfg(feature = "crash-points")]
pub use armed::{arm, arm_at, passed, signal_at, tell};

#[cfg(feature = "crash-points")]
pub(crate) use armed::point;

/// Nothing, in what users build.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub(crate) fn point(_name: &'static str) {}
