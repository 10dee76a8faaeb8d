//! What comes back of one call: the results of its tasks, until somebody asks for them.
//!
//! Lies in the memory of the process that made the call. Nothing of the caller's runs while the lock
//! is held, so what leaves an inbox is dropped only afterwards: a value's end may run code that comes
//! back here.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::channel::sleep_until;
use crate::os::clock::Deadline;
use crate::sync::{Gate, Wait};

/// How the results of a call are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// All at once, when the last one has come.
    Whole,
    /// One by one, in the order of the tasks.
    InOrder,
    /// One by one, as they come.
    AsTheyCome,
}

/// What a result has changed.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival<V, E> {
    /// More are to come.
    Noted,
    /// The call was ended before, and the result is of no use.
    Late(Result<V, E>),
    /// It was the last one. Whoever is told so is to end the call; if it was asked for as a whole,
    /// with this: all results in the order of the tasks, or the error that came first.
    Last(Option<Result<Vec<V>, E>>),
}

/// What can be taken out of an inbox.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<V, E> {
    /// A result.
    Result(Result<V, E>),
    /// It has not come yet.
    None,
    /// There are no more.
    Over,
}

/// The results of one call's tasks: values `V` or errors `E`, and `W` for the call as a whole.
pub struct Inbox<V, W, E> {
    order: Order,
    /// Never waited for by those who sleep here: a fork may find them in the middle of a look, and its
    /// child has the lock as it is then.
    state: Mutex<State<V, W, E>>,
    /// What they look at: see [`State::signs`].
    signs: AtomicU32,
    /// How many results have come.
    came: AtomicUsize,
    /// Of those who ask for results.
    gate: Gate,
    /// Of who makes the tasks.
    room: Gate,
}

/// Somebody ends the call, or has done it.
const CLAIMED: u32 = 1;
/// No result is waited for any more.
const ENDED: u32 = 2;
/// [`Inbox::next`] has an answer.
const NEXT: u32 = 4;

struct State<V, W, E> {
    /// By their tasks' places, from `handed` on; or as they came.
    arrived: VecDeque<Option<Result<V, E>>>,
    /// How many were handed out.
    handed: usize,
    /// How many have come.
    came: usize,
    /// How many there will be, once that is known.
    expected: Option<usize>,
    /// Of a whole: the error that came first.
    first_error: Option<E>,
    /// See [`CLAIMED`].
    claimed: bool,
    /// See [`ENDED`].
    ended: bool,
    /// What came of a whole.
    outcome: Option<Result<W, E>>,
    /// What is handed out after the results.
    ending: Option<E>,
}

impl<V, W, E> Inbox<V, W, E> {
    /// For the results of `expected` tasks, or of as many as [`Inbox::expect`] will say.
    pub fn new(order: Order, expected: Option<usize>) -> Self {
        let state = State {
            arrived: VecDeque::new(),
            handed: 0,
            came: 0,
            expected,
            first_error: None,
            claimed: false,
            ended: false,
            outcome: None,
            ending: None,
        };
        Self {
            order,
            signs: AtomicU32::new(state.signs()),
            state: Mutex::new(state),
            came: AtomicUsize::new(0),
            gate: Gate::new(),
            room: Gate::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<V, W, E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and shows that to those who sleep. What leaves it has to be returned.
    fn change<R>(&self, change: impl FnOnce(&mut State<V, W, E>) -> R) -> R {
        let mut state = self.state();
        let left = change(&mut state);
        self.came.store(state.came, Ordering::SeqCst);
        self.signs.store(state.signs(), Ordering::SeqCst);
        drop(state);
        left
    }

    fn shows(&self, sign: u32) -> bool {
        self.signs.load(Ordering::SeqCst) & sign != 0
    }

    /// Takes what came of the task at this place.
    pub fn put(&self, place: usize, result: Result<V, E>) -> Arrival<V, E> {
        let put = self.change(|state| state.put(self.order, place, result));
        if self.order != Order::Whole {
            self.gate.wake_all();
        }
        self.room.wake_all();
        match put {
            Ok(last) => self.arrival(last),
            Err(late) => Arrival::Late(late),
        }
    }

    /// There are so many tasks, and no more.
    pub fn expect(&self, tasks: usize) -> Arrival<V, E> {
        let last = self.change(|state| {
            state.expected = Some(tasks);
            state.settle(self.order)
        });
        self.gate.wake_all();
        self.arrival(last)
    }

    /// There are so many tasks, and their results are followed by an error; if the call has not been
    /// ended already.
    pub fn expect_error(&self, tasks: usize, error: E) -> Arrival<V, E> {
        drop(self.change(|state| {
            if state.ended {
                Some(error)
            } else {
                state.ending.replace(error)
            }
        }));
        self.expect(tasks)
    }

    fn arrival(&self, last: Option<Last<V, E>>) -> Arrival<V, E> {
        match last {
            None => Arrival::Noted,
            Some(_) if self.order != Order::Whole => Arrival::Last(None),
            Some((_, Some(error))) => Arrival::Last(Some(Err(error))),
            Some((results, None)) => Arrival::Last(Some(results.into_iter().flatten().collect())),
        }
    }

    /// Asks to end the call: `false` if somebody else does that, or all results have come.
    pub fn claim(&self) -> bool {
        let claimed = self.change(|state| std::mem::replace(&mut state.claimed, true));
        self.room.wake_all();
        !claimed
    }

    /// Whether somebody ends the call, or has done it, or all results have come.
    pub fn is_claimed(&self) -> bool {
        self.shows(CLAIMED)
    }

    /// Ends the call, which was claimed. Of a whole, with this outcome; otherwise an error comes after
    /// the results that are there.
    pub fn end(&self, outcome: Result<W, E>) {
        let former = self.change(|state| {
            if std::mem::replace(&mut state.ended, true) {
                return (Some(outcome), None);
            }
            state.claimed = true;
            match (self.order, outcome) {
                (Order::Whole, outcome) => (state.outcome.replace(outcome), None),
                (_, Err(error)) => (None, state.ending.replace(error)),
                (_, outcome) => (Some(outcome), None),
            }
        });
        self.gate.wake_all();
        drop(former);
    }

    /// Whether the call was ended.
    pub fn is_ended(&self) -> bool {
        self.shows(ENDED)
    }

    /// Looks at what came of the call as a whole, once it was ended. `look` must not come back here.
    pub fn outcome<R>(&self, look: impl FnOnce(&Result<W, E>) -> R) -> Option<R> {
        self.state().outcome.as_ref().map(look)
    }

    /// How many of the `made` tasks have not come back.
    pub fn still_open(&self, made: usize) -> usize {
        made.saturating_sub(self.came.load(Ordering::SeqCst))
    }

    /// Whether of the `made` tasks fewer than `most` are still open, or the call is about to end.
    pub fn has_room(&self, made: usize, most: usize) -> bool {
        self.is_claimed() || self.still_open(made) < most
    }

    /// Takes the next result out.
    pub fn next(&self) -> Next<V, E> {
        self.change(|state| {
            if state.has_next() {
                state.handed += 1;
                return match state.arrived.pop_front().flatten() {
                    Some(result) => Next::Result(result),
                    None => Next::None,
                };
            }
            if !state.is_over() {
                return Next::None;
            }
            match state.ending.take() {
                Some(error) => Next::Result(Err(error)),
                None => Next::Over,
            }
        })
    }

    /// How many results were taken out one by one.
    pub fn handed(&self) -> usize {
        self.state().handed
    }

    /// Looks at all that lies here, each value, outcome and error once. What is called must not come
    /// back here.
    ///
    /// # Errors
    /// The first one that a look returns.
    pub fn visit<F>(
        &self,
        mut value: impl FnMut(&V) -> Result<(), F>,
        mut outcome: impl FnMut(&W) -> Result<(), F>,
        mut error: impl FnMut(&E) -> Result<(), F>,
    ) -> Result<(), F> {
        let state = self.state();
        for result in state.arrived.iter().flatten() {
            result.as_ref().map_or_else(&mut error, &mut value)?;
        }
        for failed in [&state.first_error, &state.ending].into_iter().flatten() {
            error(failed)?;
        }
        match &state.outcome {
            Some(result) => result.as_ref().map_or_else(error, &mut outcome),
            None => Ok(()),
        }
    }

    /// Takes all out that lies here, for the caller to drop.
    pub fn empty(&self) -> impl Sized + use<V, W, E> {
        self.change(|state| {
            (
                std::mem::take(&mut state.arrived),
                state.first_error.take(),
                state.ending.take(),
                state.outcome.take(),
            )
        })
    }

    /// Waits until the call was ended.
    pub fn wait_end(&self, deadline: Deadline) -> Wait {
        sleep_until(&self.gate, deadline, || self.is_ended())
    }

    /// Waits until [`Inbox::has_room`].
    pub fn wait_room(&self, made: usize, most: usize, deadline: Deadline) -> Wait {
        sleep_until(&self.room, deadline, || self.has_room(made, most))
    }

    /// Waits until [`Inbox::next`] has an answer.
    pub fn wait_next(&self, deadline: Deadline) -> Wait {
        sleep_until(&self.gate, deadline, || self.shows(NEXT))
    }
}

/// All results, and the error that came first, once the last of them has come.
type Last<V, E> = (VecDeque<Option<Result<V, E>>>, Option<E>);

impl<V, W, E> State<V, W, E> {
    /// Takes a result, or gives it back if it is of no use; returns all of them if it was the last.
    fn put(
        &mut self,
        order: Order,
        place: usize,
        result: Result<V, E>,
    ) -> Result<Option<Last<V, E>>, Result<V, E>> {
        let begin = if order == Order::InOrder {
            self.handed
        } else {
            0
        };
        let known = |index| order != Order::AsTheyCome && self.is_there(index);
        let index = match place.checked_sub(begin) {
            Some(index) if !self.claimed && !known(index) => index,
            // Too late, or of a place whose result has come already.
            _ => return Err(result),
        };
        self.came += 1;
        match (order, result) {
            (Order::Whole, Err(error)) if self.first_error.is_none() => {
                self.first_error = Some(error);
            }
            (Order::AsTheyCome, result) => self.arrived.push_back(Some(result)),
            (_, result) => {
                if self.arrived.len() <= index {
                    self.arrived.resize_with(index + 1, || None);
                }
                self.arrived[index] = Some(result);
            }
        }
        Ok(self.settle(order))
    }

    fn is_there(&self, index: usize) -> bool {
        matches!(self.arrived.get(index), Some(Some(_)))
    }

    fn has_next(&self) -> bool {
        self.is_there(0)
    }

    fn is_over(&self) -> bool {
        self.ended || Some(self.handed) == self.expected
    }

    fn signs(&self) -> u32 {
        let sign = |sign, shown: bool| if shown { sign } else { 0 };
        sign(CLAIMED, self.claimed)
            | sign(ENDED, self.ended)
            | sign(NEXT, self.has_next() || self.is_over())
    }

    /// What to do if the last result has come.
    fn settle(&mut self, order: Order) -> Option<Last<V, E>> {
        if self.claimed || Some(self.came) != self.expected {
            return None;
        }
        self.claimed = true;
        Some(if order == Order::Whole {
            (std::mem::take(&mut self.arrived), self.first_error.take())
        } else {
            (VecDeque::new(), None)
        })
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use std::sync::{Arc, Weak};
    use std::time::Duration;

    type Numbers = Inbox<u32, Vec<u32>, &'static str>;

    const NOW: Option<Duration> = Some(Duration::ZERO);

    #[test]
    fn a_whole_comes_in_the_order_of_the_tasks() {
        let inbox = Numbers::new(Order::Whole, Some(3));
        assert_eq!(inbox.put(2, Ok(30)), Arrival::Noted);
        assert_eq!(inbox.put(0, Ok(10)), Arrival::Noted);
        assert!(!inbox.is_claimed());
        assert_eq!(
            inbox.put(1, Ok(20)),
            Arrival::Last(Some(Ok(vec![10, 20, 30])))
        );
        assert!(!inbox.claim() && !inbox.is_ended());
        inbox.end(Ok(vec![10, 20, 30]));
        assert_eq!(inbox.wait_end(Deadline::after(NOW)), Wait::Ready);
        assert_eq!(inbox.outcome(Clone::clone), Some(Ok(vec![10, 20, 30])));
    }

    #[test]
    fn a_whole_ends_with_the_first_error_and_only_after_all_tasks() {
        let inbox = Numbers::new(Order::Whole, Some(3));
        assert_eq!(inbox.put(2, Err("first")), Arrival::Noted);
        assert_eq!(inbox.put(0, Err("second")), Arrival::Noted);
        assert_eq!(inbox.put(1, Ok(1)), Arrival::Last(Some(Err("first"))));
    }

    #[test]
    fn who_claims_first_ends_the_call() {
        let inbox = Numbers::new(Order::Whole, Some(1));
        assert!(inbox.claim() && !inbox.claim());
        assert_eq!(inbox.put(0, Ok(1)), Arrival::Late(Ok(1)));
        inbox.end(Err("cancelled"));
        inbox.end(Ok(vec![1]));
        assert_eq!(inbox.outcome(Clone::clone), Some(Err("cancelled")));
    }

    #[test]
    fn results_are_handed_out_in_order() {
        let inbox = Numbers::new(Order::InOrder, None);
        assert_eq!(inbox.put(1, Ok(20)), Arrival::Noted);
        assert_eq!(inbox.next(), Next::None);
        assert_eq!(inbox.wait_next(Deadline::after(NOW)), Wait::TimedOut);
        assert_eq!(inbox.put(0, Err("ten")), Arrival::Noted);
        assert_eq!(inbox.next(), Next::Result(Err("ten")));
        assert_eq!(inbox.expect(3), Arrival::Noted);
        assert_eq!(inbox.next(), Next::Result(Ok(20)));
        assert_eq!(inbox.next(), Next::None);
        assert_eq!(inbox.put(2, Ok(30)), Arrival::Last(None));
        assert!(!inbox.claim());
        assert_eq!(inbox.next(), Next::Result(Ok(30)));
        assert_eq!(inbox.next(), Next::Over);
        assert_eq!(inbox.next(), Next::Over);
    }

    #[test]
    fn results_are_handed_out_as_they_come() {
        let inbox = Numbers::new(Order::AsTheyCome, Some(2));
        assert_eq!(inbox.put(1, Ok(20)), Arrival::Noted);
        assert_eq!(inbox.next(), Next::Result(Ok(20)));
        assert_eq!(inbox.put(0, Ok(10)), Arrival::Last(None));
        assert_eq!(inbox.next(), Next::Result(Ok(10)));
        assert_eq!(inbox.next(), Next::Over);
    }

    #[test]
    fn an_error_of_the_input_comes_last() {
        let inbox = Numbers::new(Order::InOrder, None);
        assert_eq!(inbox.expect_error(1, "input"), Arrival::Noted);
        assert_eq!(inbox.put(0, Ok(10)), Arrival::Last(None));
        assert_eq!(inbox.next(), Next::Result(Ok(10)));
        assert_eq!(inbox.next(), Next::Result(Err("input")));
        assert_eq!(inbox.next(), Next::Over);
    }

    #[test]
    fn an_early_end_comes_after_what_is_there() {
        let inbox = Numbers::new(Order::InOrder, Some(3));
        assert_eq!(inbox.put(0, Ok(10)), Arrival::Noted);
        assert_eq!(inbox.put(2, Ok(30)), Arrival::Noted);
        assert!(inbox.claim());
        inbox.end(Err("terminated"));
        assert_eq!(inbox.put(1, Ok(20)), Arrival::Late(Ok(20)));
        assert_eq!(inbox.next(), Next::Result(Ok(10)));
        assert_eq!(inbox.next(), Next::Result(Err("terminated")));
        assert_eq!(inbox.next(), Next::Over);
    }

    #[test]
    fn nothing_to_wait_for_is_the_end_at_once() {
        let inbox = Numbers::new(Order::InOrder, None);
        assert_eq!(inbox.expect(0), Arrival::Last(None));
        assert_eq!(inbox.next(), Next::Over);
    }

    /// Looks at its inbox when it is dropped.
    struct ComesBack(Weak<Inbox<ComesBack, ComesBack, ComesBack>>);

    impl Drop for ComesBack {
        fn drop(&mut self) {
            if let Some(inbox) = self.0.upgrade() {
                assert!(inbox.is_claimed() || !inbox.is_ended());
            }
        }
    }

    #[test]
    fn what_is_dropped_may_come_back() {
        for order in [Order::Whole, Order::InOrder, Order::AsTheyCome] {
            let inbox = Arc::new(Inbox::new(order, Some(3)));
            let new = || ComesBack(Arc::downgrade(&inbox));
            let _ = inbox.put(0, Ok(new()));
            let _ = inbox.put(0, Err(new()));
            let _ = inbox.put(0, Err(new()));
            let _ = inbox.put(2, Ok(new()));
            let _ = inbox.expect_error(3, new());
            let _ = inbox.expect_error(3, new());
            inbox.end(Err(new()));
            inbox.end(Ok(new()));
            let _ = inbox.expect_error(3, new());
            assert!(inbox.is_ended());
        }
    }

    #[test]
    fn there_is_room_once_tasks_are_done_or_nobody_wants_more() {
        let inbox = Numbers::new(Order::Whole, Some(5));
        let (now, wait) = (Deadline::after(NOW), Wait::Ready);
        assert_eq!(inbox.wait_room(1, 2, now), wait);
        assert_eq!(inbox.wait_room(2, 2, now), Wait::TimedOut);
        assert_eq!(inbox.put(0, Ok(10)), Arrival::Noted);
        assert_eq!(inbox.wait_room(2, 2, now), wait);
        assert_eq!(inbox.still_open(3), 2);
        assert!(!inbox.has_room(3, 2) && inbox.claim());
        assert!(inbox.has_room(3, 2));
    }

    #[test]
    fn who_makes_tasks_is_woken_for_more() {
        let inbox = Numbers::new(Order::Whole, Some(100));
        std::thread::scope(|scope| {
            let maker = scope.spawn(|| {
                (1..=100).all(|made| inbox.wait_room(made, 2, Deadline::NEVER) == Wait::Ready)
            });
            for place in 0..99 {
                let _ = inbox.put(place, Ok(1));
            }
            assert!(matches!(maker.join(), Ok(true)));
        });
    }

    #[test]
    fn waiters_in_other_threads_are_woken() {
        let inbox = Numbers::new(Order::AsTheyCome, Some(1000));
        std::thread::scope(|scope| {
            let takers: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        let mut sum = 0;
                        loop {
                            match inbox.next() {
                                Next::Result(Ok(number)) => sum += number,
                                Next::Result(Err(_)) | Next::Over => return sum,
                                Next::None => {
                                    let _ = inbox.wait_next(Deadline::NEVER);
                                }
                            }
                        }
                    })
                })
                .collect();
            for place in 0..1000 {
                let _ = inbox.put(place, Ok(place as u32));
            }
            let sums = takers.into_iter().map(|taker| taker.join().unwrap_or(0));
            assert_eq!(sums.sum::<u32>(), 999 * 500);
        });
    }
}
