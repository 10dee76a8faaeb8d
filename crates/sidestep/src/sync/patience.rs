//! How long a waiter looks again and again before it sleeps.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use super::habit::Habit;
#[cfg(not(loom))]
use crate::primitive::{Instant, process, spin_loop};

/// How long most waiters stay awake.
///
/// To start a sleeper takes the kernel 2 to 50 us, the longer ones where its processor sleeps, too.
/// So whoever answers a sleeper at once comes within this time, and two that answer each other
/// find into staying awake, from where a round takes a microsecond.
pub const AWAKE_FOR: Duration = Duration::from_micros(50);

/// How long somebody stays awake who does so rarely: enough for two wake-ups, of himself and of the
/// other side, where the kernel takes longer for them.
const RARELY_AWAKE_FOR: Duration = Duration::from_micros(250);

/// As many late answers in a row are waited for awake: more than waits are slept through in most
/// cases, so that the other side tries it, too, in the meantime.
const MOST_LATE: u32 = 72;

/// Most waits in a row that are slept through where the other side did not.
const MOST_SKIPPED_ALONE: u32 = 512;

/// A waiter's experience with one object: whether it was worth it to stay awake. Each process has
/// its own.
///
/// To stay awake for nothing costs the processor that the other side may need. So it is done only
/// where there are two; and after it was in vain, the next waits sleep at once, ever more of them.
/// An object that is waited for for long costs next to nothing, and so does one whose other side
/// finds no processor free.
///
/// Two that both sleep have to be started for each answer. Where that takes longer than either stays
/// awake, they would never meet. So who does it rarely does it for longer; and as long as the answer
/// then comes, though late, he goes on with it, until the other side has tried it, too. From then on
/// answers come at once.
#[derive(Debug, Default)]
pub struct Patience {
    awake: Habit,
    /// Answers in a row that came late.
    late: AtomicU32,
}

impl Patience {
    /// Without any experience: the first wait stays awake.
    pub const fn new() -> Self {
        Self {
            awake: Habit::new(),
            late: AtomicU32::new(0),
        }
    }

    /// Looks whether it is `ready`, for a while if that may be worth it: whether it is.
    #[cfg(not(loom))]
    pub fn outlasts(&self, ready: impl Fn() -> bool) -> bool {
        if ready() {
            return true;
        }
        if !self.awake.is_due() || process::processors() < 2 {
            return false;
        }
        let limit = self.limit();
        let started = Instant::now();
        let mut elapsed = Duration::ZERO;
        while elapsed < limit {
            for _ in 0..16 {
                if ready() {
                    self.answered_after(elapsed);
                    return true;
                }
                spin_loop();
            }
            elapsed = started.elapsed();
        }
        self.unanswered();
        false
    }

    /// Looks whether it is `ready`: a model has no time.
    #[cfg(loom)]
    pub fn outlasts(&self, ready: impl Fn() -> bool) -> bool {
        ready()
    }

    /// How long to stay awake this time.
    fn limit(&self) -> Duration {
        if self.awake.rarity() < Habit::MOST_SKIPPED {
            AWAKE_FOR
        } else {
            RARELY_AWAKE_FOR
        }
    }

    fn unanswered(&self) {
        self.late.store(0, Relaxed);
        self.awake
            .discourage(self.awake.rarity().max(Habit::MOST_SKIPPED));
    }

    fn answered_after(&self, elapsed: Duration) {
        if elapsed < AWAKE_FOR {
            self.late.store(0, Relaxed);
            self.awake.confirm();
        } else if self.late.fetch_add(1, Relaxed) == MOST_LATE {
            self.late.store(0, Relaxed);
            self.awake.discourage(MOST_SKIPPED_ALONE);
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;
    use core::cell::Cell;

    const LATE: Duration = RARELY_AWAKE_FOR;

    /// Whether a wait that never ends stays awake.
    fn stays_awake(patience: &Patience) -> bool {
        let looks = Cell::new(0);
        assert!(!patience.outlasts(|| {
            looks.set(looks.get() + 1);
            false
        }));
        looks.get() > 1
    }

    #[test]
    fn waits_in_vain_become_rare_and_one_success_brings_them_back() {
        if process::processors() < 2 {
            return;
        }
        let patience = Patience::new();
        let awake = |waits| (0..waits).filter(|_| stays_awake(&patience)).count();
        // The 1st, 3rd, 6th, 11th, 20th, 37th, 70th, ... then one in 65.
        assert_eq!(awake(1000), 21);
        patience.answered_after(Duration::ZERO);
        assert_eq!(patience.limit(), AWAKE_FOR);
    }

    #[test]
    fn who_stays_awake_rarely_does_so_for_longer_and_goes_on_while_answers_come() {
        let patience = Patience::new();
        while patience.limit() == AWAKE_FOR {
            patience.unanswered();
        }
        let mut left_out = Vec::new();
        for _ in 0..4 {
            let skipped = (0..).find(|_| patience.awake.is_due()).unwrap_or(0);
            left_out.push(skipped);
            for _ in 0..MOST_LATE {
                patience.answered_after(LATE);
                assert!(patience.awake.is_due());
            }
            assert_eq!(patience.limit(), RARELY_AWAKE_FOR);
            patience.answered_after(LATE);
        }
        // Where the other side never comes, it ends, and begins again ever more rarely.
        assert_eq!(left_out, [64, 128, 256, 512]);
        patience.answered_after(Duration::ZERO);
        assert_eq!(patience.limit(), AWAKE_FOR);
    }

    #[test]
    fn what_is_ready_costs_no_patience() {
        let patience = Patience::new();
        assert!((0..100).all(|_| patience.outlasts(|| true)));
        assert!(patience.awake.is_due());
    }
}
