//! Something that is done only as often as it has been worth it.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Whether to do what sometimes pays: each time, as long as it does; else ever more rarely, so that
/// doing it in vain costs next to nothing, and is found out about when it pays again.
///
/// Threads that share one may confuse its counts: it is a rule of thumb.
#[derive(Debug, Default)]
pub struct Habit {
    /// Occasions still to be left out.
    skip: AtomicU32,
    /// How many they were after the last one in vain.
    skipped: AtomicU32,
}

impl Habit {
    /// Occasions that are left out at most, in most cases.
    pub const MOST_SKIPPED: u32 = 64;

    /// Without any experience: the first occasion is taken.
    pub const fn new() -> Self {
        Self {
            skip: AtomicU32::new(0),
            skipped: AtomicU32::new(0),
        }
    }

    /// Whether to take this occasion.
    #[inline]
    pub fn is_due(&self) -> bool {
        let skip = self.skip.load(Relaxed);
        if skip > 0 {
            self.skip.store(skip - 1, Relaxed);
        }
        skip == 0
    }

    /// How many occasions were left out before this one.
    pub fn rarity(&self) -> u32 {
        self.skipped.load(Relaxed)
    }

    /// It was worth it: the next occasions are taken.
    #[inline]
    pub fn confirm(&self) {
        self.skipped.store(0, Relaxed);
    }

    /// It was in vain: the next occasions are left out, twice as many as the last time and `most` at
    /// most.
    pub fn discourage(&self, most: u32) {
        let skip = (2 * self.rarity()).clamp(1, most);
        self.skipped.store(skip, Relaxed);
        self.skip.store(skip, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_vain_becomes_rare_and_one_success_brings_it_back() {
        let habit = Habit::new();
        let taken = |occasions| {
            let vain = |_: &u32| {
                habit.is_due() && {
                    habit.discourage(Habit::MOST_SKIPPED);
                    true
                }
            };
            (0..occasions).filter(vain).count()
        };
        // The 1st, 3rd, 6th, 11th, 20th, 37th, 70th, ... then one in 65.
        assert_eq!(taken(1000), 21);
        while !habit.is_due() {}
        assert_eq!(habit.rarity(), 64);
        habit.confirm();
        assert!(habit.is_due() && habit.is_due());
        assert_eq!(taken(3), 2);
    }
}
