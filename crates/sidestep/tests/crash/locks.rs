//! Death at each step of what is done with locks and those who wait for them.

use std::cell::RefCell;
use std::time::Duration;

use sidestep::channel::Queue;
use sidestep::crash;
use sidestep::os::process::{kill, reap};
use sidestep::process::{Child, Exit};
use sidestep::shm::family;
use sidestep::sync::{
    Answer, Arrival, SLICE, SharedBarrier, SharedCondition, SharedEvent, SharedLock,
    SharedSemaphore, Wait,
};

use super::common::{Test, child, join, message, persist};
use super::everywhere::{assert_holds, at_each_step, queue_with, until_it_survives};
use super::{arrive_last, forever, party};

pub const TESTS: [Test; 9] = [
    ("death_anywhere_in_a_recursive_lock", recursive_lock),
    ("death_anywhere_in_waiting_for_a_lock", waiting_for_a_lock),
    ("death_anywhere_in_a_semaphore", semaphore),
    ("death_anywhere_in_an_event", event),
    ("death_anywhere_in_notifying", notifying),
    ("death_anywhere_in_waiting_to_be_notified", being_notified),
    ("death_anywhere_in_arriving_at_a_barrier", arriving),
    ("death_anywhere_in_breaking_a_barrier", breaking),
    ("death_anywhere_in_a_mutex_others_want", contended_mutex),
];

/// Takes the lock, which may have been abandoned, and lets go of it.
fn assert_usable(lock: &SharedLock, died: bool) {
    let family = lock.family();
    let mut wait = persist(|| lock.acquire(family, 9, forever));
    if let Wait::Abandoned(_) = wait {
        assert!(died && lock.recover());
        wait = persist(|| lock.acquire(family, 9, forever));
    }
    assert_eq!(wait, Wait::Ready);
    assert_eq!(lock.depth(), 1);
    lock.release(family, 9).unwrap();
}

fn recursive_lock() {
    at_each_step(
        || SharedLock::new(true).unwrap(),
        |lock| {
            let family = lock.family();
            for _ in 0..3 {
                assert_eq!(persist(|| lock.acquire(family, 1, forever)), Wait::Ready);
            }
            lock.release(family, 1).unwrap();
            // As a wait on a condition does it.
            let depth = lock.release_all(family, 1).unwrap();
            assert_eq!(persist(|| lock.acquire(family, 1, forever)), Wait::Ready);
            lock.restore_depth(depth);
            (0..depth).for_each(|_| lock.release(family, 1).unwrap());
        },
        assert_usable,
    );
}

fn waiting_for_a_lock() {
    at_each_step(
        || {
            let lock = SharedLock::new(false).unwrap();
            assert_eq!(lock.try_acquire(lock.family(), 1), Some(Wait::Ready));
            lock
        },
        |lock| {
            // Just before it sleeps the lock is let go of, as anybody may do it.
            let family = lock.family();
            let mut let_go = false;
            let wait = persist(|| {
                lock.acquire(family, 2, || {
                    if !std::mem::replace(&mut let_go, true) {
                        lock.release(family, 2).unwrap();
                    }
                    forever()
                })
            });
            assert_eq!(wait, Wait::Ready);
            lock.release(family, 2).unwrap();
        },
        |lock, died| {
            // It is held by us if the victim did not get so far, by a dead one, or by nobody.
            let family = lock.family();
            if lock.holder(family, 1) == sidestep::sync::Holder::ThisThread {
                lock.release(family, 1).unwrap();
            } else if !matches!(lock.try_acquire(family, 9), Some(Wait::Abandoned(_))) {
                let _ = lock.release(family, 9);
            }
            assert_usable(lock, died);
        },
    );
}

fn semaphore() {
    at_each_step(
        || {
            let semaphore = SharedSemaphore::new(1, None).unwrap();
            let waiter = child(|| {
                assert_eq!(persist(|| semaphore.acquire(forever)), Wait::Ready);
                assert_eq!(persist(|| semaphore.acquire(forever)), Wait::Ready);
            });
            (semaphore, RefCell::new(Some(waiter)))
        },
        |(semaphore, _)| {
            semaphore.release(2).unwrap();
            assert_eq!(persist(|| semaphore.acquire(forever)), Wait::Ready);
            semaphore.release(1).unwrap();
        },
        |(semaphore, waiter), _| {
            // Enough for all who may have taken one.
            semaphore.release(4).unwrap();
            join(waiter.take().into_iter().collect());
            assert_eq!(persist(|| semaphore.acquire(forever)), Wait::Ready);
        },
    );
    at_each_step(
        || SharedSemaphore::new(0, None).unwrap(),
        |semaphore| {
            // Just before it sleeps there are two.
            let mut released = false;
            let wait = persist(|| {
                semaphore.acquire(|| {
                    if !std::mem::replace(&mut released, true) {
                        semaphore.release(2).unwrap();
                    }
                    forever()
                })
            });
            assert_eq!(wait, Wait::Ready);
        },
        |semaphore, died| {
            let left = semaphore.value();
            assert!(left == 1 || died && (left == 0 || left == 2));
            semaphore.release(1).unwrap();
            assert_eq!(persist(|| semaphore.acquire(forever)), Wait::Ready);
            assert_eq!(semaphore.value(), left);
        },
    );
}

fn event() {
    at_each_step(
        || {
            let event = SharedEvent::new().unwrap();
            let waiter = child(|| assert_eq!(persist(|| event.wait(forever)), Wait::Ready));
            (event, RefCell::new(Some(waiter)))
        },
        |(event, _)| {
            event.set();
            event.clear();
            let mut looks = 0;
            let wait = event.wait(|| {
                looks += 1;
                (looks == 1).then_some(Duration::from_nanos(1))
            });
            assert_eq!(wait, Wait::TimedOut);
        },
        |(event, waiter), _| {
            event.set();
            join(waiter.take().into_iter().collect());
            event.clear();
            let soon = || None;
            assert_eq!(event.wait(soon), Wait::TimedOut);
            event.set();
            assert_eq!(persist(|| event.wait(forever)), Wait::Ready);
        },
    );
}

/// A child that waits to be notified.
fn waiter(condition: &SharedCondition) -> Child {
    let entered = SharedEvent::new().unwrap();
    let waiter = child(|| {
        let family = family().unwrap();
        let place = condition.enter(family).unwrap();
        entered.set();
        while let Ok(Answer::None) | Err(_) = condition.sleep(place, SLICE) {}
        assert_eq!(condition.leave(place), Answer::Passed);
    });
    assert_eq!(persist(|| entered.wait(forever)), Wait::Ready);
    waiter
}

fn notifying() {
    for count in [2, usize::MAX] {
        at_each_step(
            || {
                let condition = SharedCondition::new().unwrap();
                let first = waiter(&condition);
                // One that is dead, and that nobody has cleaned up after.
                let dead = waiter(&condition);
                dead.kill().unwrap();
                let sentinel = dead.sentinel().unwrap();
                assert!(sidestep::os::process::poll_readable(sentinel, None).unwrap());
                let second = waiter(&condition);
                (condition, dead, RefCell::new(vec![first, second]))
            },
            |(condition, ..)| {
                assert_eq!(condition.pass(family().unwrap(), count), 2);
            },
            |(condition, dead, waiters), died| {
                let told = 2 - condition.pass(family().unwrap(), usize::MAX);
                assert!(died || told == 2);
                join(waiters.take());
                let _ = reap(dead.pid(), true);
                family().unwrap().clean_dead();
                assert_eq!(condition.count(), (0, 0));
            },
        );
    }
}

fn being_notified() {
    at_each_step(
        || {
            let condition = SharedCondition::new().unwrap();
            let first = waiter(&condition);
            (condition, RefCell::new(vec![first]))
        },
        |(condition, _)| {
            let family = family().unwrap();
            let place = condition.enter(family).unwrap();
            assert_eq!(
                condition.sleep(place, Duration::from_nanos(1)),
                Ok(Answer::None)
            );
            assert_eq!(condition.pass(family, 2), 2);
            assert_eq!(condition.sleep(place, SLICE), Ok(Answer::Passed));
            assert_eq!(condition.leave(place), Answer::Passed);
        },
        |(condition, waiters), _| {
            // Nobody waits for the dead one, and it keeps no place.
            let family = family().unwrap();
            family.clean_dead();
            let _ = condition.pass(family, 1);
            join(waiters.take());
            assert_eq!(condition.count(), (0, 0));
            let next = waiter(condition);
            assert_eq!(condition.pass(family, 1), 1);
            join(vec![next]);
        },
    );
}

/// How a party ended: 1: it passed, 2: it was told that the barrier is broken.
fn end_of(party: Child) -> i32 {
    match reap(party.pid(), true).unwrap() {
        Some(Exit::Code(code)) => code,
        exit => panic!("{exit:?}"),
    }
}

/// All who come now, pass.
fn assert_next_round(barrier: &SharedBarrier) {
    let family = barrier.family();
    family.clean_dead();
    if barrier.is_broken() {
        barrier.reset(family);
    }
    let parties: Vec<Child> = (1..barrier.parties()).map(|_| party(barrier)).collect();
    arrive_last(barrier, barrier.parties() - 1);
    for party in parties {
        assert_eq!(end_of(party), 1);
    }
}

fn arriving() {
    at_each_step(
        || {
            let barrier = SharedBarrier::new(4).unwrap();
            let other = party(&barrier);
            (barrier, RefCell::new(Some(other)))
        },
        |(barrier, _)| {
            let family = barrier.family();
            let Arrival::Wait(place, _) = barrier.arrive(family) else {
                panic!("not waiting")
            };
            let _ = barrier.sleep(place, Duration::from_nanos(1));
            // Nobody leaves in order, so the end of the child breaks the barrier in any case.
        },
        |(barrier, other), _| {
            let family = barrier.family();
            let died_before = barrier.waiting() < 2;
            if died_before {
                barrier.abort(family);
            }
            assert_eq!(end_of(other.take().unwrap()), 2);
            assert_next_round(barrier);
        },
    );
}

/// What a party does to a barrier.
type Deed = fn(&SharedBarrier);

fn breaking() {
    // How many parties it has, and what the one does that is killed; two others wait.
    let ways: [(u32, Deed); 4] = [
        (3, |barrier| barrier.abort(barrier.family())),
        (3, |barrier| barrier.reset(barrier.family())),
        (3, |barrier| {
            let Arrival::Last(2, round) = barrier.arrive(barrier.family()) else {
                panic!("not the last one")
            };
            barrier.fail(barrier.family(), round);
        }),
        (4, |barrier| {
            let Arrival::Wait(place, _) = barrier.arrive(barrier.family()) else {
                panic!("not waiting")
            };
            assert!(barrier.abort_unless_acting(barrier.family(), place));
            assert_eq!(barrier.leave(place), Answer::Broken);
        }),
    ];
    for (parties, deed) in ways {
        at_each_step(
            || {
                let barrier = SharedBarrier::new(parties).unwrap();
                let others = vec![party(&barrier), party(&barrier)];
                (barrier, RefCell::new(others))
            },
            |(barrier, _)| deed(barrier),
            |(barrier, others), _| {
                // Either none of it has happened, or all of it will.
                let family = barrier.family();
                if barrier.waiting() == 2 {
                    barrier.abort(family);
                }
                for other in others.take() {
                    assert_eq!(end_of(other), 2);
                }
                assert_next_round(barrier);
            },
        );
    }
}

/// The state of a process as the kernel has it.
fn state_of(pid: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    rest.chars().next().unwrap_or('Z')
}

fn wait_for(pid: u32, states: &str) {
    while !states.contains(state_of(pid)) {
        std::thread::yield_now();
    }
}

fn contended_mutex() {
    // One stops while it holds the mutex, until another sleeps on it; then one of them dies.
    for holder_dies in [true, false] {
        until_it_survives(|death| {
            let queue: Queue = queue_with(1);
            let put = |dies: bool, number: u32, pause: bool| {
                let work = || queue.put(&message(0, number)).unwrap();
                Child::fork(|| {
                    if pause {
                        crash::signal_at("put: written", libc::SIGSTOP);
                    }
                    if dies {
                        death.awaits(work);
                    } else {
                        work();
                    }
                    0
                })
                .unwrap()
            };
            let mut holder = put(holder_dies, 1, true);
            wait_for(holder.pid(), "TZ");
            let mut other = put(!holder_dies, 1, false);
            wait_for(other.pid(), "SZ");
            // Nothing happens if it is dead.
            let _ = kill(holder.pid(), libc::SIGCONT);
            let ends = [holder.wait().unwrap(), other.wait().unwrap()];
            let victim = ends[usize::from(!holder_dies)];
            let survivor = ends[usize::from(holder_dies)];
            assert_eq!(survivor, Exit::Code(0));
            let found = super::drain(&queue).len();
            let died = victim != Exit::Code(0);
            assert!(found == 3 || died && found == 2, "{death}: {found}");
            assert_holds(&queue, 0, 0);
            died
        });
    }
}
