//! What comes back of one call: the results of its tasks, until somebody asks for them.
//!
//! Lies in the memory of the process that made the call. Nothing of the caller's runs while the lock
//! is held: what leaves an inbox is dropped by who took it out.

use std::collections::VecDeque;
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
    state: Mutex<State<V, W, E>>,
    /// Of those who ask for results.
    gate: Gate,
    /// Of who makes the tasks.
    room: Gate,
}

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
    /// Somebody ends the call, or has done it.
    claimed: bool,
    /// No result is waited for any more.
    ended: bool,
    /// What came of a whole.
    outcome: Option<Result<W, E>>,
    /// What is handed out after the results.
    ending: Option<E>,
}

impl<V, W, E> Inbox<V, W, E> {
    /// For the results of `expected` tasks, or of as many as [`Inbox::expect`] will say.
    pub fn new(order: Order, expected: Option<usize>) -> Self {
        Self {
            order,
            state: Mutex::new(State {
                arrived: VecDeque::new(),
                handed: 0,
                came: 0,
                expected,
                first_error: None,
                claimed: false,
                ended: false,
                outcome: None,
                ending: None,
            }),
            gate: Gate::new(),
            room: Gate::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<V, W, E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what came of the task at this place.
    pub fn put(&self, place: usize, result: Result<V, E>) -> Arrival<V, E> {
        let mut state = self.state();
        if state.claimed {
            drop(state);
            return Arrival::Late(result);
        }
        let begin = if self.order == Order::InOrder {
            state.handed
        } else {
            0
        };
        let Some(index) = place.checked_sub(begin) else {
            // Of a place whose result was handed out already.
            drop(state);
            return Arrival::Late(result);
        };
        state.came += 1;
        match (self.order, result) {
            (Order::Whole, Err(error)) if state.first_error.is_none() => {
                state.first_error = Some(error);
            }
            (Order::AsTheyCome, result) => state.arrived.push_back(Some(result)),
            (_, result) => {
                if state.arrived.len() <= index {
                    state.arrived.resize_with(index + 1, || None);
                }
                state.arrived[index] = Some(result);
            }
        }
        let arrival = self.settle(&mut state);
        drop(state);
        if self.order != Order::Whole {
            self.gate.wake_all();
        }
        self.room.wake_all();
        arrival
    }

    /// There are so many tasks, and no more.
    pub fn expect(&self, tasks: usize) -> Arrival<V, E> {
        let mut state = self.state();
        state.expected = Some(tasks);
        let arrival = if state.claimed {
            Arrival::Noted
        } else {
            self.settle(&mut state)
        };
        drop(state);
        self.gate.wake_all();
        arrival
    }

    /// There are so many tasks, and their results are followed by an error; if the call has not been
    /// ended already.
    pub fn expect_error(&self, tasks: usize, error: E) -> Arrival<V, E> {
        let mut state = self.state();
        if !state.ended {
            state.ending = Some(error);
        }
        drop(state);
        self.expect(tasks)
    }

    fn settle(&self, state: &mut State<V, W, E>) -> Arrival<V, E> {
        if Some(state.came) != state.expected {
            return Arrival::Noted;
        }
        state.claimed = true;
        if self.order != Order::Whole {
            return Arrival::Last(None);
        }
        let results = std::mem::take(&mut state.arrived);
        Arrival::Last(Some(match state.first_error.take() {
            Some(error) => Err(error),
            None => results.into_iter().flatten().collect(),
        }))
    }

    /// Asks to end the call: `false` if somebody else does that, or all results have come.
    pub fn claim(&self) -> bool {
        let mut state = self.state();
        let claimed = std::mem::replace(&mut state.claimed, true);
        drop(state);
        self.room.wake_all();
        !claimed
    }

    /// Whether somebody ends the call, or has done it, or all results have come.
    pub fn is_claimed(&self) -> bool {
        self.state().claimed
    }

    /// Ends the call, which was claimed. Of a whole, with this outcome; otherwise an error comes after
    /// the results that are there.
    pub fn end(&self, outcome: Result<W, E>) {
        let mut state = self.state();
        if state.ended {
            return;
        }
        state.claimed = true;
        state.ended = true;
        match (self.order, outcome) {
            (Order::Whole, outcome) => state.outcome = Some(outcome),
            (_, Err(error)) => state.ending = Some(error),
            (_, Ok(_)) => {}
        }
        drop(state);
        self.gate.wake_all();
    }

    /// Whether the call was ended.
    pub fn is_ended(&self) -> bool {
        self.state().ended
    }

    /// Looks at what came of the call as a whole, once it was ended. `look` must not come back here.
    pub fn outcome<R>(&self, look: impl FnOnce(&Result<W, E>) -> R) -> Option<R> {
        self.state().outcome.as_ref().map(look)
    }

    /// Whether of the `made` tasks fewer than `most` are still open, or the call is about to end.
    pub fn has_room(&self, made: usize, most: usize) -> bool {
        let state = self.state();
        state.claimed || made.saturating_sub(state.came) < most
    }

    /// How many there will be, if that is known.
    pub fn expected(&self) -> Option<usize> {
        self.state().expected
    }

    /// Takes the next result out.
    pub fn next(&self) -> Next<V, E> {
        let mut state = self.state();
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
        let mut state = self.state();
        (
            std::mem::take(&mut state.arrived),
            state.first_error.take(),
            state.ending.take(),
            state.outcome.take(),
        )
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
        sleep_until(&self.gate, deadline, || {
            let state = self.state();
            state.has_next() || state.is_over()
        })
    }
}

impl<V, W, E> State<V, W, E> {
    fn has_next(&self) -> bool {
        matches!(self.arrived.front(), Some(Some(_)))
    }

    fn is_over(&self) -> bool {
        self.ended || Some(self.handed) == self.expected
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
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

    #[test]
    fn there_is_room_once_tasks_are_done_or_nobody_wants_more() {
        let inbox = Numbers::new(Order::Whole, Some(5));
        let (now, wait) = (Deadline::after(NOW), Wait::Ready);
        assert_eq!(inbox.wait_room(1, 2, now), wait);
        assert_eq!(inbox.wait_room(2, 2, now), Wait::TimedOut);
        assert_eq!(inbox.put(0, Ok(10)), Arrival::Noted);
        assert_eq!(inbox.wait_room(2, 2, now), wait);
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
