//! A list of those who wait, each with a word of its own to sleep on.

use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::time::Duration;

use super::gate::SLICE;
use super::patience::Patience;
use super::stamp::{Population, Stamp};
use crate::crash;
use crate::primitive::{AtomicU32, Wake, futex_wait, futex_wake};

/// The waiter sleeps, or is about to.
const ASLEEP: u32 = 1 << 30;
/// The wait has been answered: go on.
const PASSED: u32 = 2 << 30;
/// The wait has been answered: what you waited for will not come.
const BROKEN: u32 = 3 << 30;

/// Whether a word is that of a waiter without an answer.
fn is_waiting(word: u32) -> bool {
    word != 0 && word & PASSED == 0
}

/// Most waiters at once; a model has a few.
pub const WAITERS: usize = if cfg!(loom) { 3 } else { 510 };

#[repr(C)]
#[derive(Debug)]
struct Node {
    word: AtomicU32,
    ticket: AtomicU32,
}

/// Who waits, in order, and what each was told.
///
/// | word of a node     | meaning                       | who writes it                     |
/// |--------------------|-------------------------------|-----------------------------------|
/// | 0                  | free                          | its waiter as it leaves; a cleaner |
/// | stamp              | a thread of that process waits | the waiter                       |
/// | stamp, `ASLEEP`    | and sleeps, or is about to    | the waiter; who rouses takes it off |
/// | stamp, `PASSED`    | it was told to go on          | who notifies                      |
/// | stamp, `BROKEN`    | it was told to give up        | who breaks                        |
///
/// Every change is one swap from the state expected. A waiter that is killed leaves its node
/// behind; whoever notifies skips the dead, and the clean-up of its process frees the node.
#[repr(C)]
#[derive(Debug)]
pub struct Waiters {
    /// Tickets handed out, wrapping: the order of arrival.
    tickets: AtomicU32,
    /// Nodes beyond this one were never used.
    high: AtomicU32,
    nodes: [Node; WAITERS],
}

/// A place in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(usize);

/// What a waiter was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Answer {
    /// Go on.
    Passed,
    /// Give up.
    Broken,
    /// Nothing yet.
    None,
}

impl Default for Waiters {
    fn default() -> Self {
        Self {
            tickets: AtomicU32::new(0),
            high: AtomicU32::new(0),
            nodes: core::array::from_fn(|_| Node {
                word: AtomicU32::new(0),
                ticket: AtomicU32::new(0),
            }),
        }
    }
}

impl Waiters {
    /// Joins the list; `None` if it is full.
    pub fn enter(&self, family: &impl Population) -> Option<Place> {
        let me = family.me().word();
        let ticket = self.tickets.fetch_add(1, Relaxed);
        let place = (0..WAITERS).find(|&place| {
            let word = &self.nodes[place].word;
            if word.load(Relaxed) != 0 {
                return false;
            }
            // Before the place is taken: the clean-up after a dead waiter looks no further.
            self.high.fetch_max(place as u32 + 1, SeqCst);
            word.compare_exchange(0, me, SeqCst, Relaxed).is_ok()
        })?;
        crash::point("waiters: place taken");
        self.nodes[place].ticket.store(ticket, Relaxed);
        crash::point("waiters: entered");
        Some(Place(place))
    }

    /// Sleeps until there is an answer, a signal (`Err`), or for `limit`, at most a slice; or until
    /// [`Waiters::rouse`], which follows a change that `in_vain` sees.
    pub fn sleep(
        &self,
        patience: &Patience,
        place: Place,
        limit: Duration,
        in_vain: impl Fn() -> bool,
    ) -> Result<Answer, Wake> {
        let word = &self.nodes[place.0].word;
        if patience.outlasts(|| self.answer(place) != Answer::None) {
            return Ok(self.answer(place));
        }
        // If it fails, there is an answer.
        let asleep = word.fetch_update(SeqCst, Acquire, |word| {
            is_waiting(word).then_some(word | ASLEEP)
        });
        crash::point("waiters: about to sleep");
        // Behind the mark: who rouses has seen it, or has made its change before this.
        if let Ok(before) = asleep
            && !in_vain()
            && futex_wait(word, before | ASLEEP, Some(limit.min(SLICE))) == Wake::Interrupted
        {
            return Err(Wake::Interrupted);
        }
        Ok(self.answer(place))
    }

    pub(super) fn answer(&self, place: Place) -> Answer {
        Self::read(self.nodes[place.0].word.load(Acquire))
    }

    fn read(word: u32) -> Answer {
        match word & BROKEN {
            PASSED => Answer::Passed,
            BROKEN => Answer::Broken,
            _ => Answer::None,
        }
    }

    /// Leaves the list; what the waiter was told at last.
    pub fn leave(&self, place: Place) -> Answer {
        let answer = Self::read(self.nodes[place.0].word.swap(0, SeqCst));
        crash::point("waiters: left");
        answer
    }

    fn used(&self) -> &[Node] {
        let high = (self.high.load(SeqCst) as usize).min(WAITERS);
        &self.nodes[..high]
    }

    /// Tells at most `count` waiters to go on, the earliest first; the dead do not count.
    pub fn pass(&self, family: &impl Population, count: usize) -> usize {
        let mut passed = 0;
        if count >= WAITERS {
            for node in self.used() {
                passed += usize::from(self.tell(family, node, PASSED));
            }
            return passed;
        }
        while passed < count {
            let now = self.tickets.load(Relaxed);
            let first = self
                .used()
                .iter()
                .filter(|node| is_waiting(node.word.load(Relaxed)))
                .max_by_key(|node| now.wrapping_sub(node.ticket.load(Relaxed)));
            let Some(node) = first else { break };
            passed += usize::from(self.tell(family, node, PASSED));
        }
        passed
    }

    fn tell(&self, family: &impl Population, node: &Node, what: u32) -> bool {
        let word = node.word.load(Relaxed);
        if is_waiting(word) && family.is_dead(Stamp::of_word(word)) {
            let _ = node.word.compare_exchange(word, 0, SeqCst, Relaxed);
            crash::point("waiters: place of a dead one freed");
            return false;
        }
        Self::answer_at(node, what)
    }

    /// Answers whoever waits at a node, and wakes it if it sleeps: whether anybody waited.
    fn answer_at(node: &Node, what: u32) -> bool {
        // Not weaker: whoever waits looks at its word, and at what has been stored before this.
        let told = node.word.fetch_update(SeqCst, SeqCst, |word| {
            is_waiting(word).then_some(word & Stamp::MASK | what)
        });
        crash::point("waiters: told, not woken yet");
        if told.is_ok_and(|word| word & ASLEEP != 0) {
            futex_wake(&node.word, 1);
        }
        told.is_ok()
    }

    /// Tells all waiters to give up.
    pub fn break_all(&self) {
        for node in self.used() {
            Self::answer_at(node, BROKEN);
        }
    }

    /// Has all who sleep look again, without an answer: some may wait for something else by now.
    pub fn rouse(&self) {
        for node in self.used() {
            let roused = node.word.fetch_update(SeqCst, Relaxed, |word| {
                (is_waiting(word) && word & ASLEEP != 0).then_some(word & !ASLEEP)
            });
            if roused.is_ok() {
                crash::point("waiters: mark taken off, nobody woken yet");
                futex_wake(&node.word, 1);
            }
        }
    }

    /// How many wait without an answer, and how many have one and have not left yet.
    pub fn count(&self) -> (usize, usize) {
        self.used().iter().fold((0, 0), |(waiting, told), node| {
            let word = node.word.load(Relaxed);
            match word {
                0 => (waiting, told),
                _ if is_waiting(word) => (waiting + 1, told),
                _ => (waiting, told + 1),
            }
        })
    }

    /// Whether a thread of that process waits without an answer.
    pub fn has_waiting(&self, who: Stamp) -> bool {
        self.used().iter().any(|node| {
            let word = node.word.load(Relaxed);
            is_waiting(word) && Stamp::of_word(word) == who
        })
    }

    /// Whether a process has ended that waits without an answer.
    pub fn has_dead(&self, family: &impl Population) -> bool {
        self.used().iter().any(|node| {
            let word = node.word.load(Relaxed);
            is_waiting(word) && family.is_dead(Stamp::of_word(word))
        })
    }

    /// Frees the nodes of a dead process.
    pub fn bereave(&self, dead: Stamp) {
        for node in self.used() {
            let word = node.word.load(Relaxed);
            if word != 0 && Stamp::of_word(word) == dead {
                let _ = node.word.compare_exchange(word, 0, SeqCst, Relaxed);
                crash::point("waiters: dead process's place freed");
            }
        }
    }
}
