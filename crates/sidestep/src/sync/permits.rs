//! Who has taken how many permits of a semaphore: for the account after a kill, not for its rules.

use core::sync::atomic::Ordering::{AcqRel, Relaxed};

use super::Stamp;
use crate::crash;
use crate::primitive::AtomicU64;

/// How many processes are noted at a time; permits taken by more are nobody's.
const PLACES: usize = 14;

/// A place: a stamp in the high half, the permits that the process has taken and not given back in
/// the low half.
///
/// | transition                    | who writes it                                              |
/// |-------------------------------|------------------------------------------------------------|
/// | no permits -> (me, 1)         | a process that has taken one and has no place, by one swap |
/// | (me, n) -> (me, n + 1 or - 1) | that process, after it has taken one; before it gives back |
/// | (dead, n) -> 0                | who cleans up after it, by one swap                        |
///
/// A process that is killed between taking a permit and noting it has taken a nobody's permit: what
/// is noted is never more than what is missing, as far as processes release what they acquired.
#[repr(C)]
#[derive(Debug)]
pub struct Permits {
    places: [AtomicU64; PLACES],
}

fn holder(place: u64) -> Stamp {
    Stamp::of_word((place >> 32) as u32)
}

fn count(place: u64) -> u32 {
    place as u32
}

impl Permits {
    /// The places in the order in which this process looks: most find theirs at once.
    fn from(&self, me: Stamp) -> impl Iterator<Item = &AtomicU64> {
        let first = me.slot() as usize % PLACES;
        self.places[first..].iter().chain(&self.places[..first])
    }

    /// The process `me` has taken one.
    #[inline]
    pub fn took(&self, me: Stamp) {
        for pass in [me, Stamp::NOBODY] {
            for place in self.from(me) {
                let mut seen = place.load(Relaxed);
                // First a place of our own, then one that nobody needs.
                while if pass == me {
                    holder(seen) == me
                } else {
                    count(seen) == 0
                } {
                    let held = count(seen).saturating_add(1);
                    let next = u64::from(me.word()) << 32 | u64::from(held);
                    match place.compare_exchange_weak(seen, next, AcqRel, Relaxed) {
                        Ok(_) => return crash::point("semaphore: permit noted"),
                        Err(now) => seen = now,
                    }
                }
            }
        }
    }

    /// The process `me` is about to give `given` back, its own as far as it has any.
    #[inline]
    pub fn gives(&self, me: Stamp, given: u32) {
        for place in self.from(me) {
            let mut seen = place.load(Relaxed);
            while holder(seen) == me && count(seen) > 0 {
                let next = seen - u64::from(count(seen).min(given));
                match place.compare_exchange_weak(seen, next, AcqRel, Relaxed) {
                    Ok(_) => return crash::point("semaphore: note taken back"),
                    Err(now) => seen = now,
                }
            }
        }
    }

    /// The process `dead` has ended: how many it had taken and not given back. They are told once.
    pub fn bereave(&self, dead: Stamp) -> u32 {
        let mut taken = 0_u32;
        for place in &self.places {
            let seen = place.load(Relaxed);
            if holder(seen) == dead && place.compare_exchange(seen, 0, AcqRel, Relaxed).is_ok() {
                taken = taken.saturating_add(count(seen));
            }
        }
        taken
    }
}
