//! Death at each step of what repairs and cleans up, of joining, and of what is left of a queue.

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::time::Instant;

use sidestep::channel::{Queue, QueueOptions};
use sidestep::crash;
use sidestep::os::clock::Deadline;
use sidestep::os::process::{Fork, exit_now, fork_alone, kill, pidfd_open, poll_readable, reap};
use sidestep::os::socket;
use sidestep::pool::{Parcel, Pool};
use sidestep::process::{Child, Exit};
use sidestep::shm::{Kind, attach, family};
use sidestep::sync::{SLICE, SharedBarrier, SharedCondition, SharedLock, Wait};

use super::common::{Test, checked, child, drain, holds, join, message, persist, settled_family};
use super::everywhere::{
    assert_back_at, assert_holds, at_each_step, at_each_step_after, envelope, queue_with,
};
use super::{forever, party, sleep_for_ever};

pub const TESTS: [Test; 15] = [
    ("death_anywhere_in_repairing_the_books", repairing_the_books),
    ("death_anywhere_in_taking_a_queue_over", taking_a_queue_over),
    ("death_anywhere_in_taking_a_note_back", taking_a_note_back),
    (
        "death_anywhere_in_cleaning_up_after_a_waiter",
        cleaning_up_after_a_waiter,
    ),
    (
        "death_anywhere_in_cleaning_up_after_an_owner",
        cleaning_up_after_an_owner,
    ),
    ("death_anywhere_in_cleaning_up_an_orphan", orphan),
    ("death_anywhere_in_reaping_an_unborn", unborn),
    ("unborn_child_of_a_bare_fork_leaves_nothing", bare_fork),
    (
        "child_of_a_bare_fork_is_waited_for_as_long_as_it_lives",
        slow_bare_fork,
    ),
    ("death_anywhere_in_leaving", leaving),
    ("death_anywhere_in_growing", growing),
    (
        "file_that_has_grown_for_nobody_serves_others",
        grown_for_nobody,
    ),
    ("death_anywhere_in_joining", joining),
    ("death_anywhere_in_the_rest_of_a_queue", rest_of_a_queue),
    ("death_anywhere_in_a_pool_s_errands", errands_of_a_pool),
];

/// A process that died at a point in `act`, and that nobody has reaped or cleaned up after.
fn corpse_at(point: &str, act: impl FnOnce()) -> Child {
    let corpse = child(|| {
        crash::arm_at(point, 1);
        act();
    });
    let sentinel = corpse.sentinel().unwrap();
    assert!(poll_readable(sentinel, None).unwrap());
    corpse
}

fn bury(corpse: &Child) {
    let exit = reap(corpse.pid(), true).unwrap();
    assert_eq!(exit, Some(Exit::Signal(libc::SIGKILL)));
}

fn repairing_the_books() {
    for point in [
        "ledger: locked",
        "ledger: journal written",
        "ledger: committed",
        "ledger: all applied",
        "ledger: journal cleared",
    ] {
        at_each_step_after(
            || (queue_with(2), RefCell::new(None)),
            |(queue, corpse)| {
                corpse.replace(Some(corpse_at(point, || {
                    drop(queue.try_put_envelope(0, 0, envelope(2)).unwrap());
                })));
            },
            |(queue, _)| drop(queue.object().try_clone().unwrap()),
            |(queue, corpse), _| {
                bury(&corpse.take().unwrap());
                assert_holds(queue, 2, 3);
            },
        );
    }
}

fn taking_a_queue_over() {
    // The first victim holds the producers' or the consumers' mutex, or the ledger's as well.
    for point in [
        "put: written",
        "put: published",
        "put: segment made",
        "put: segment linked",
    ] {
        at_each_step(
            || {
                let queue = queue_with(5);
                let corpse = corpse_at(point, || {
                    (5..20).for_each(|number| queue.put(&message(0, number)).unwrap());
                });
                (queue, corpse)
            },
            |(queue, _)| queue.put(&message(1, 1)).unwrap(),
            |(queue, corpse), died| {
                bury(corpse);
                let all = super::by_producer(&drain(queue));
                let ours = &all[&0];
                assert!(ours.iter().copied().eq(0..ours.len() as u32), "{all:?}");
                assert!(ours.len() >= 5 && (died || all.get(&1) == Some(&vec![1])));
                assert_holds(queue, 0, 0);
            },
        );
    }
    for point in [
        "take: locked",
        "take: noted",
        "take: copied",
        "take: head moved",
    ] {
        at_each_step(
            || {
                let queue = queue_with(5);
                let corpse = corpse_at(point, || drop(queue.get(None).unwrap()));
                (queue, corpse)
            },
            |(queue, _)| drop(queue.get(None).unwrap()),
            |(queue, corpse), died| {
                bury(corpse);
                let left: Vec<u32> = drain(queue).iter().map(|item| checked(item).1).collect();
                let first = 5 - left.len() as u32;
                assert!(left.iter().copied().eq(first..5), "{left:?}");
                assert!(first <= 2 && (died || first >= 1));
                assert_holds(queue, 0, 0);
            },
        );
    }
}

fn taking_a_note_back() {
    // The first victim has noted a task and not taken it. Nobody may blame it for the task.
    at_each_step_after(
        || {
            let pool = Pool::new(3).unwrap();
            let number = pool.submit(Parcel::Short(&message(7, 0))).unwrap();
            (pool, number, RefCell::new(None))
        },
        |(pool, _, corpse)| {
            corpse.replace(Some(corpse_at("take: noted", || {
                drop(pool.take(0, &mut Vec::new()).unwrap());
            })));
        },
        |(pool, ..)| assert!(pool.take(1, &mut Vec::new()).unwrap().is_some()),
        |(pool, number, corpse), died| {
            let other = pool.take(2, &mut Vec::new()).unwrap().is_some();
            assert!(died || !other);
            assert_eq!(pool.lost(0), None);
            assert_eq!(pool.lost(1), (!other).then_some(*number));
            bury(&corpse.take().unwrap());
        },
    );
}

fn cleaning_up_after_a_waiter() {
    at_each_step(
        || {
            let barrier = SharedBarrier::new(4).unwrap();
            let condition = SharedCondition::new().unwrap();
            let other = party(&barrier);
            let corpse = corpse_at("waiters: about to sleep", || {
                let family = family().unwrap();
                let place = condition.enter(family);
                assert!(place.is_some());
                let arrival = barrier.arrive(family);
                let sidestep::sync::Arrival::Wait(place, _) = arrival else {
                    panic!("{arrival:?}")
                };
                let _ = barrier.sleep(place, SLICE);
            });
            (barrier, condition, RefCell::new(Some(other)), corpse)
        },
        |_| family().unwrap().clean_dead(),
        |(barrier, condition, other, corpse), _| {
            family().unwrap().clean_dead();
            // Whoever was killed in telling it: the other one learns that the barrier broke.
            let other = other.take().unwrap();
            assert_eq!(reap(other.pid(), true).unwrap(), Some(Exit::Code(2)));
            bury(corpse);
            assert!(barrier.is_broken());
            assert_eq!(condition.count(), (0, 0));
        },
    );
}

fn cleaning_up_after_an_owner() {
    // One that waits may be the first to notice. Where nobody does, it is the victim.
    for watched in [true, false] {
        at_each_step(
            || {
                let lock = SharedLock::new(false).unwrap();
                let corpse = corpse_at("event: about to sleep", || {
                    assert_eq!(lock.try_acquire(lock.family(), 1), Some(Wait::Ready));
                    sleep_for_ever();
                });
                let waiter = watched.then(|| {
                    child(|| {
                        let wait = persist(|| lock.acquire(lock.family(), 1, forever));
                        assert!(matches!(wait, Wait::Abandoned(_)), "{wait:?}");
                    })
                });
                (lock, RefCell::new(waiter), corpse)
            },
            |_| family().unwrap().clean_dead(),
            |(lock, waiter, corpse), _| {
                join(waiter.take().into_iter().collect());
                family().unwrap().clean_dead();
                assert_eq!(lock.abandoned_by().0, Some(corpse.pid()));
                bury(corpse);
                assert!(lock.recover());
                assert_eq!(lock.try_acquire(lock.family(), 1), Some(Wait::Ready));
            },
        );
    }
}

fn orphan() {
    // The parent died before its fork: a slot is left for a child that never was.
    for point in ["fork: slot made", "fork: prepared"] {
        at_each_step(
            || corpse_at(point, || drop(child(|| ()))),
            |_| family().unwrap().clean_dead(),
            |corpse, _| bury(corpse),
        );
    }
}

fn unborn() {
    // The child died before it had taken its slot; its parent dies in reaping it.
    at_each_step(
        || queue_with(2),
        |queue| {
            crash::signal_at("fork: child begins", libc::SIGKILL);
            let mut unborn = child(|| drop(queue.get(None)));
            let exit = unborn.wait().unwrap();
            assert_eq!(exit, Exit::Signal(libc::SIGKILL));
        },
        |queue, _| assert_holds(queue, 2, 2),
    );
}

/// A child of which the engine hears nothing but what its hooks of the fork see, and which gets
/// `signal` before it has taken its slot.
fn bare_child(signal: i32, work: impl FnOnce()) -> u32 {
    crash::signal_at("fork: child begins", signal);
    match fork_alone().unwrap() {
        Fork::Child => {
            work();
            exit_now(0);
        }
        Fork::Parent(pid) => {
            crash::signal_at("fork: child begins", 0);
            pid
        }
    }
}

fn bare_fork() {
    let family = settled_family();
    let before = holds(family);
    let queue = queue_with(2);
    let unborn = bare_child(libc::SIGKILL, || ());
    // It counts for nothing, whether it was reaped or not.
    assert!(poll_readable(pidfd_open(unborn).unwrap().as_fd(), None).unwrap());
    assert_eq!(holds(family).processes, before.processes + 1);
    drop(queue);
    assert_back_at(family, &before, "killed before it had run");
    assert_eq!(
        reap(unborn, true).unwrap(),
        Some(Exit::Signal(libc::SIGKILL))
    );

    // Its parent dies, too, about to clean up: what is left is for others.
    let queue = queue_with(2);
    let corpse = corpse_at("slot: nobody left to take it", || {
        let unborn = bare_child(libc::SIGKILL, || ());
        reap(unborn, true).unwrap();
        loop {
            family.clean_dead();
        }
    });
    bury(&corpse);
    assert_holds(&queue, 2, 2);
    drop((queue, corpse));
    assert_back_at(family, &before, "so was its parent");
}

fn slow_bare_fork() {
    let family = settled_family();
    let before = holds(family);
    let queue = queue_with(2);
    let slow = bare_child(libc::SIGSTOP, || drop(queue.get(None).unwrap()));
    let since = Instant::now();
    while since.elapsed() < 2 * SLICE {
        family.clean_dead();
        assert_eq!(holds(family).processes, before.processes + 1);
    }
    // Until it has stopped there is nothing to continue.
    while reap(slow, false).unwrap().is_none() {
        kill(slow, libc::SIGCONT).unwrap();
        std::thread::yield_now();
    }
    assert_eq!(queue.len(), 1);
    drop(queue);
    assert_back_at(family, &before, "slow");
}

fn leaving() {
    // A lock of one that leaves in order stays held, for others to release.
    at_each_step(
        || SharedLock::new(false).unwrap(),
        |lock| {
            let family = lock.family();
            assert_eq!(lock.try_acquire(family, 1), Some(Wait::Ready));
            family.leave();
        },
        |lock, died| {
            let family = lock.family();
            let attempt = lock.try_acquire(family, 1);
            assert!(died || attempt.is_none());
            lock.release(family, 1).unwrap();
            assert_eq!(lock.try_acquire(family, 1), Some(Wait::Ready));
        },
    );
}

fn growing() {
    const SIZE: u64 = 40 << 20;
    at_each_step(
        || (),
        |()| drop(family().unwrap().create(Kind::Memory, SIZE).unwrap()),
        // Nothing is made here: the file grows but once.
        |(), _| (),
    );
    let block = family().unwrap().create(Kind::Memory, SIZE).unwrap();
    let last = block.family().word(block.payload() + SIZE - 8);
    assert_eq!(last.load(std::sync::atomic::Ordering::Relaxed), 0);
}

fn grown_for_nobody() {
    // What others need is less, and the file cannot become smaller.
    let family = settled_family();
    let corpse = corpse_at("alloc: file grown", || {
        drop(family.create(Kind::Memory, 500 << 20).unwrap());
    });
    for size in [40 << 20, 100 << 20, 600 << 20] {
        let block = family.create(Kind::Memory, size).unwrap();
        let last = family.word(block.payload() + size - 8);
        last.store(1, std::sync::atomic::Ordering::Relaxed);
    }
    bury(&corpse);
    family.clean_dead();
    assert_eq!(family.audit(), Ok(()));
}

/// Makes processes that are in no family; they are handed an arena, and join it.
struct Nursery {
    socket: std::os::fd::OwnedFd,
}

impl Nursery {
    /// To be made before this process has a family of its own.
    fn found() -> Self {
        let (ours, theirs) = socket::socket_pair().unwrap();
        match fork_alone().unwrap() {
            Fork::Parent(_) => Self { socket: ours },
            Fork::Child => {
                drop(ours);
                let mut step = [0; 4];
                loop {
                    let got = socket::receive(theirs.as_fd(), &mut step, socket::Wait::AsSet);
                    let Ok((4, mut arena)) = got else { exit_now(0) };
                    let end = match fork_alone().unwrap() {
                        Fork::Parent(pid) => reap(pid, true).unwrap(),
                        Fork::Child => {
                            use std::os::fd::IntoRawFd;
                            crash::arm(u32::from_ne_bytes(step));
                            let family = attach(arena.remove(0).into_raw_fd()).unwrap();
                            drop(family.create(Kind::Memory, 8).unwrap());
                            family.leave();
                            exit_now(0)
                        }
                    };
                    let died = [u8::from(end != Some(Exit::Code(0)))];
                    socket::send(theirs.as_fd(), &died, &[], socket::Wait::AsSet).unwrap();
                }
            }
        }
    }

    /// Has a process join the family and die at a step: whether it died.
    fn join(&self, arena: std::os::fd::BorrowedFd<'_>, step: u32) -> bool {
        let step = step.to_ne_bytes();
        socket::send(self.socket.as_fd(), &step, &[arena], socket::Wait::AsSet).unwrap();
        let mut died = [0];
        socket::receive(self.socket.as_fd(), &mut died, socket::Wait::AsSet).unwrap();
        died == [1]
    }
}

fn joining() {
    let nursery = Nursery::found();
    let family = settled_family();
    let before = holds(family);
    for step in 1.. {
        // What only the first owner of a slot does is a step less for the next.
        let _ = nursery.join(family.fd().unwrap(), step);
        family.clean_dead();
        let died = nursery.join(family.fd().unwrap(), step);
        let queue = queue_with(2);
        join(vec![child(|| drop(queue.get(None).unwrap()))]);
        drop(queue);
        assert_back_at(family, &before, &format!("step {step}"));
        if !died {
            println!("    {} steps", step - 1);
            return;
        }
    }
}

fn rest_of_a_queue() {
    // Several at once, and each reported done.
    at_each_step(
        || queue_with(4),
        |queue| {
            let (mut bytes, mut ends) = (Vec::new(), Vec::new());
            queue.try_take_many(3, &mut bytes, &mut ends);
            assert_eq!(ends.len(), 3);
            (0..4).for_each(|_| assert!(queue.task_done()));
            assert!(queue.all_done());
        },
        |queue, died| {
            let left: Vec<u32> = drain(queue).iter().map(|item| checked(item).1).collect();
            let first = 4 - left.len() as u32;
            assert!(left.iter().copied().eq(first..4), "{left:?}");
            let mut undone = 0;
            while queue.task_done() {
                undone += 1;
            }
            assert!(queue.all_done() && undone <= 4 && (died || undone == 0));
            assert_holds(queue, 0, 0);
        },
    );
    // Consumers that sleep, and a queue that is closed.
    at_each_step(
        || {
            let queue = queue_with(0);
            let waiters: Vec<Child> = (0..2)
                .map(|_| child(|| while queue.get(None).unwrap().is_some() {}))
                .collect();
            (queue, RefCell::new(waiters))
        },
        |(queue, _)| {
            queue.put(&message(0, 0)).unwrap();
            queue.close();
        },
        |(queue, waiters), _| {
            queue.close();
            join(waiters.take());
            assert!(queue.is_empty());
        },
    );
    // A full one, in which a producer waits for the victim to make room.
    at_each_step(
        || {
            let queue = QueueOptions::new().max_items(2).create().unwrap();
            (0..2).for_each(|number| queue.put(&message(0, number)).unwrap());
            let producer = child(|| queue.put(&message(0, 2)).unwrap());
            (queue, RefCell::new(Some(producer)))
        },
        |(queue, _)| drop(queue.get(None).unwrap()),
        |(queue, producer), died| {
            let mut found = Vec::new();
            while found.last() != Some(&2) {
                found.push(checked(&queue.get(None).unwrap().unwrap()).1);
            }
            let first = found[0];
            assert!(found.iter().copied().eq(first..3) && (first == 1 || died));
            join(producer.take().into_iter().collect());
            assert!(queue.is_empty());
        },
    );
    // One that finds nothing, and does not wait long.
    at_each_step(
        || queue_with(0),
        |queue| {
            let now = Deadline::after(Some(std::time::Duration::ZERO));
            assert_eq!(queue.wait_items(now), Wait::TimedOut);
        },
        |queue: &Queue, _| assert_holds(queue, 0, 0),
    );
}

fn errands_of_a_pool() {
    at_each_step(
        || Pool::new(2).unwrap(),
        |pool| {
            pool.enter(0, sidestep::pool::Stage::Ready);
            pool.nudge().unwrap();
            let number = pool.submit(Parcel::Short(&message(7, 0))).unwrap();
            assert!(pool.take(0, &mut Vec::new()).unwrap().is_some());
            let result = Parcel::Long(envelope(1));
            pool.finish(0, number, result).unwrap();
            pool.retire(0).unwrap();
        },
        |pool, died| {
            let mut results = 0;
            while let Some(delivery) = pool.collect(&mut Vec::new()).unwrap() {
                results += u32::from(matches!(delivery, sidestep::pool::Delivery::Long { .. }));
            }
            let lost = pool.lost(0).is_some();
            let untaken = pool.take(1, &mut Vec::new()).unwrap().is_some();
            assert!(results <= 1 && (died || results == 1 && !lost && !untaken));
            assert!(!(untaken && (results == 1 || lost)), "it came twice");
            let _ = pool.lost(1);
            let number = pool.submit(Parcel::Short(&message(7, 50))).unwrap();
            assert!(pool.take(0, &mut Vec::new()).unwrap().is_some());
            assert_eq!(pool.lost(0), Some(number));
        },
    );
}
