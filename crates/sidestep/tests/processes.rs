//! The engine between processes that all live: every structure, across a fork.

mod common;

use std::cell::Cell;
use std::os::fd::AsFd;
use std::time::Duration;

use common::{checked, child, drain, holds, is_readable, join, message, persist, settled_family};
use sidestep::channel::{EnvelopeBox, Queue, QueueOptions, Taken};
use sidestep::os::clock::Deadline;
use sidestep::os::process;
use sidestep::process::{Child, Exit, PANICKED};
use sidestep::shm::{Envelope, Handle, Kind, family};
use sidestep::sync::{
    Answer, Arrival, SLICE, SharedBarrier, SharedCondition, SharedEvent, SharedLock,
    SharedSemaphore, Wait,
};

/// For what happens at once. A watchdog only.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() {
    common::run(&[
        ("child_reports_how_it_ended", child_reports_how_it_ended),
        (
            "child_is_waited_for_with_a_limit",
            child_is_waited_for_with_a_limit,
        ),
        (
            "process_with_threads_is_not_forked",
            process_with_threads_is_not_forked,
        ),
        (
            "linked_children_die_with_their_parent",
            linked_children_die_with_their_parent,
        ),
        (
            "queue_carries_messages_both_ways",
            queue_carries_messages_both_ways,
        ),
        (
            "queue_serves_many_processes_at_once",
            queue_serves_many_processes_at_once,
        ),
        (
            "queue_of_one_item_makes_producers_wait",
            queue_of_one_item_makes_producers_wait,
        ),
        (
            "closed_queue_ends_its_consumers",
            closed_queue_ends_its_consumers,
        ),
        (
            "join_of_a_queue_waits_for_other_processes",
            join_of_a_queue_waits_for_other_processes,
        ),
        (
            "a_watched_queue_is_readable_exactly_while_it_has_items",
            a_watched_queue_is_readable_exactly_while_it_has_items,
        ),
        (
            "who_polls_misses_nothing_of_many_producers",
            who_polls_misses_nothing_of_many_producers,
        ),
        ("every_watcher_is_told", every_watcher_is_told),
        (
            "a_child_of_a_fork_watches_for_itself",
            a_child_of_a_fork_watches_for_itself,
        ),
        ("lock_lets_one_process_in", lock_lets_one_process_in),
        (
            "recursive_lock_is_held_by_one_process",
            recursive_lock_is_held_by_one_process,
        ),
        ("semaphore_lets_so_many_in", semaphore_lets_so_many_in),
        ("event_wakes_all_processes", event_wakes_all_processes),
        ("barrier_lets_nobody_go_ahead", barrier_lets_nobody_go_ahead),
        (
            "condition_wakes_as_many_as_it_says",
            condition_wakes_as_many_as_it_says,
        ),
        (
            "lock_outlives_the_parents_reference",
            lock_outlives_the_parents_reference,
        ),
        ("handle_travels_in_a_message", handle_travels_in_a_message),
        (
            "dead_child_gives_its_memory_back",
            dead_child_gives_its_memory_back,
        ),
        (
            "grandchild_of_a_dead_child_keeps_its_things",
            grandchild_of_a_dead_child_keeps_its_things,
        ),
        (
            "many_short_children_leave_nothing",
            many_short_children_leave_nothing,
        ),
        (
            "a_burst_leaves_little_warm_and_a_stream_keeps_its_memory",
            a_burst_leaves_little_warm_and_a_stream_keeps_its_memory,
        ),
    ]);
}

/// A counter that is only right if its holders are alone: read, wait a moment, write.
fn count_slowly(at: u64) {
    let word = family().unwrap().word(at);
    let before = word.load(std::sync::atomic::Ordering::Relaxed);
    std::hint::black_box((0..50).fold(0, |sum, i| sum ^ i));
    word.store(before + 1, std::sync::atomic::Ordering::Relaxed);
}

fn value(at: u64) -> u64 {
    family()
        .unwrap()
        .word(at)
        .load(std::sync::atomic::Ordering::SeqCst)
}

fn forever() -> Option<Duration> {
    Some(Duration::from_secs(3600))
}

fn child_reports_how_it_ended() {
    let mut well = Child::fork(|| 7).unwrap();
    assert_eq!(well.wait().unwrap(), Exit::Code(7));
    assert_eq!(well.exit(), Some(Exit::Code(7)));
    well.kill().unwrap();

    let mut badly = Child::fork(|| {
        // The message is expected, and not for the eyes of who reads the test's output.
        std::panic::set_hook(Box::new(|_| ()));
        panic!("on purpose")
    })
    .unwrap();
    assert_eq!(badly.wait().unwrap(), Exit::Code(PANICKED));

    let block = SharedEvent::new().unwrap();
    let asleep = |block: &SharedEvent| {
        Child::fork(|| {
            let _ = persist(|| block.wait(forever));
            0
        })
    };
    let mut killed = asleep(&block).unwrap();
    assert!(killed.is_alive().unwrap());
    killed.kill().unwrap();
    assert_eq!(killed.wait().unwrap(), Exit::Signal(libc::SIGKILL));
    let mut ended = asleep(&block).unwrap();
    ended.terminate().unwrap();
    assert_eq!(ended.wait().unwrap(), Exit::Signal(libc::SIGTERM));
    assert!(!ended.is_alive().unwrap());
}

fn child_is_waited_for_with_a_limit() {
    let go = SharedEvent::new().unwrap();
    let mut waiting = child(|| assert_eq!(persist(|| go.wait(forever)), Wait::Ready));
    assert_eq!(waiting.wait_timeout(Duration::ZERO).unwrap(), None);
    assert_eq!(
        waiting.wait_timeout(Duration::from_millis(5)).unwrap(),
        None
    );
    go.set();
    let ended = waiting.wait_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(ended, Some(Exit::Code(0)));
}

fn process_with_threads_is_not_forked() {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || stopped.recv());
    let error = Child::fork(|| 0).unwrap_err().to_string();
    assert!(error.contains("2 threads"), "{error}");
    drop(stop);
    let _ = thread.join();
}

fn linked_children_die_with_their_parent() {
    let queue = QueueOptions::new().create().unwrap();
    let pids = &queue;
    let mut parent = Child::fork(|| {
        let generations = || {
            let _child = Child::fork_linked(|| report_and_wait(pids)).unwrap();
            report_and_wait(pids)
        };
        let _first = Child::fork_linked(generations).unwrap();
        let _second = Child::fork_linked(generations).unwrap();
        report_and_wait(pids)
    })
    .unwrap();
    let family: Vec<_> = (0..5)
        .map(|_| {
            let pid = queue.get(None).unwrap().unwrap();
            let pid = u32::from_le_bytes(pid.try_into().unwrap());
            process::pidfd_open(pid).unwrap()
        })
        .collect();
    parent.kill().unwrap();
    assert_eq!(parent.wait().unwrap(), Exit::Signal(9));
    for pidfd in family {
        assert!(process::poll_readable(pidfd.as_fd(), Some(PATIENCE)).unwrap());
    }
}

fn report_and_wait(pids: &Queue) -> i32 {
    pids.put(&process::pid().to_le_bytes()).unwrap();
    loop {
        std::thread::park();
    }
}

fn queue_carries_messages_both_ways() {
    let there = QueueOptions::new().create().unwrap();
    let back = QueueOptions::new().create().unwrap();
    let echo = child(|| {
        while let Some(message) = there.get(None).unwrap() {
            back.put(&message).unwrap();
        }
    });
    for len in [0, 1, 8, 1000, 16 << 10, 16 << 10 | 1, 3 << 20] {
        let sent: Vec<u8> = (0..len).map(|i| (i % 253) as u8).collect();
        there.put(&sent).unwrap();
        assert!(back.get(None).unwrap().unwrap() == sent, "{len} bytes");
    }
    there.close();
    join(vec![echo]);
}

fn queue_serves_many_processes_at_once() {
    const EACH: u32 = 5_000;
    let work = QueueOptions::new().max_items(50).create().unwrap();
    let got = QueueOptions::new().create().unwrap();
    let producers = (0..3)
        .map(|producer| {
            let work = &work;
            child(move || (0..EACH).for_each(|i| work.put(&message(producer, i)).unwrap()))
        })
        .collect();
    let consumers = (0..3)
        .map(|_| {
            child(|| {
                let mut last = [None; 3];
                while let Some(message) = work.get(None).unwrap() {
                    let (producer, number) = checked(&message);
                    // Of one producer, each consumer sees what it sees in order.
                    assert!(last[producer as usize] < Some(number));
                    last[producer as usize] = Some(number);
                    got.put(&message).unwrap();
                }
            })
        })
        .collect();
    join(producers);
    work.close();
    join(consumers);
    let mut all: Vec<_> = common::drain(&got).iter().map(|m| checked(m)).collect();
    all.sort_unstable();
    let expected: Vec<_> = (0..3)
        .flat_map(|p| (0..EACH).map(move |i| (p, i)))
        .collect();
    assert!(all == expected, "{} of {}", all.len(), expected.len());
}

fn queue_of_one_item_makes_producers_wait() {
    let queue = QueueOptions::new().max_items(1).create().unwrap();
    let producers = (0..2)
        .map(|producer| {
            let queue = &queue;
            child(move || (0..2_000).for_each(|i| queue.put(&message(producer, i)).unwrap()))
        })
        .collect();
    let mut next = [0; 2];
    for _ in 0..4_000 {
        let (producer, number) = checked(&queue.get(None).unwrap().unwrap());
        assert_eq!(next[producer as usize], number);
        next[producer as usize] += 1;
    }
    join(producers);
}

fn closed_queue_ends_its_consumers() {
    let queue = QueueOptions::new().create().unwrap();
    let consumers = (0..3)
        .map(|_| child(|| while queue.get(None).unwrap().is_some() {}))
        .collect();
    (0..100).for_each(|i| queue.put(&message(0, i)).unwrap());
    queue.close();
    join(consumers);
    assert!(queue.is_empty());
}

fn join_of_a_queue_waits_for_other_processes() {
    let queue = QueueOptions::new().create().unwrap();
    let done = family().unwrap().create(Kind::Memory, 8).unwrap();
    let lock = SharedLock::new(false).unwrap();
    (0..500).for_each(|i| queue.put(&message(0, i)).unwrap());
    let workers = (0..2)
        .map(|_| {
            child(|| {
                let family = family().unwrap();
                while queue.get(Some(Duration::ZERO)).unwrap().is_some() {
                    assert_eq!(persist(|| lock.acquire(family, 1, forever)), Wait::Ready);
                    count_slowly(done.payload());
                    lock.release(family, 1).unwrap();
                    assert!(queue.task_done());
                }
            })
        })
        .collect();
    assert_eq!(queue.wait_all_done(Deadline::NEVER), Wait::Ready);
    assert_eq!(value(done.payload()), 500);
    assert!(!queue.task_done());
    join(workers);
}

fn lock_lets_one_process_in() {
    let lock = SharedLock::new(false).unwrap();
    let counter = family().unwrap().create(Kind::Memory, 8).unwrap();
    let children = (0..4)
        .map(|_| {
            child(|| {
                let family = family().unwrap();
                for _ in 0..5_000 {
                    assert_eq!(persist(|| lock.acquire(family, 1, forever)), Wait::Ready);
                    count_slowly(counter.payload());
                    lock.release(family, 1).unwrap();
                }
            })
        })
        .collect();
    join(children);
    assert_eq!(value(counter.payload()), 20_000);
}

fn recursive_lock_is_held_by_one_process() {
    let lock = SharedLock::new(true).unwrap();
    let family = family().unwrap();
    assert_eq!(persist(|| lock.acquire(family, 1, forever)), Wait::Ready);
    assert_eq!(persist(|| lock.acquire(family, 1, forever)), Wait::Ready);
    let other = child(|| {
        let family = sidestep::shm::family().unwrap();
        // The same thread number in another process is another thread.
        assert_eq!(lock.try_acquire(family, 1), None);
        assert!(lock.release(family, 1).is_err());
    });
    join(vec![other]);
    lock.release(family, 1).unwrap();
    lock.release(family, 1).unwrap();
    let other = child(|| {
        let family = sidestep::shm::family().unwrap();
        assert_eq!(lock.try_acquire(family, 1), Some(Wait::Ready));
        lock.release(family, 1).unwrap();
    });
    join(vec![other]);
}

fn semaphore_lets_so_many_in() {
    let semaphore = SharedSemaphore::new(2, None).unwrap();
    let inside = family().unwrap().create(Kind::Memory, 16).unwrap();
    let (now, most) = (inside.payload(), inside.payload() + 8);
    let children = (0..4)
        .map(|_| {
            child(|| {
                use std::sync::atomic::Ordering::SeqCst;
                let family = family().unwrap();
                for _ in 0..2_000 {
                    assert_eq!(persist(|| semaphore.acquire(forever)), Wait::Ready);
                    let count = family.word(now).fetch_add(1, SeqCst) + 1;
                    family.word(most).fetch_max(count, SeqCst);
                    std::thread::yield_now();
                    family.word(now).fetch_sub(1, SeqCst);
                    semaphore.release(1).unwrap();
                }
            })
        })
        .collect();
    join(children);
    assert_eq!(semaphore.value(), 2);
    assert!(value(most) <= 2, "{} were inside", value(most));
}

fn event_wakes_all_processes() {
    let event = SharedEvent::new().unwrap();
    let waiting = QueueOptions::new().create().unwrap();
    let children = (0..4)
        .map(|_| {
            child(|| {
                let mut told = false;
                let before = event.count();
                let wait = persist(|| {
                    event.wait_since(before, || {
                        // Asked right before the first sleep.
                        if !std::mem::replace(&mut told, true) {
                            waiting.put(b"asleep").unwrap();
                        }
                        forever()
                    })
                });
                assert_eq!(wait, Wait::Ready);
            })
        })
        .collect();
    for _ in 0..4 {
        let _ = waiting.get(None).unwrap();
    }
    event.set();
    event.clear();
    join(children);
}

/// What a party of a barrier does; `true`: all came.
fn pass(barrier: &SharedBarrier) -> bool {
    let family = barrier.family();
    let place = loop {
        match barrier.arrive(family) {
            Arrival::Last(_, round) => return barrier.complete(family, round),
            Arrival::Wait(place, _) => break place,
            Arrival::Busy => std::thread::yield_now(),
            Arrival::Broken => return false,
        }
    };
    while let Ok(Answer::None) | Err(_) = barrier.sleep(place, SLICE) {}
    barrier.leave(place) == Answer::Passed
}

fn barrier_lets_nobody_go_ahead() {
    use std::sync::atomic::Ordering::SeqCst;
    let barrier = SharedBarrier::new(3).unwrap();
    let counter = family().unwrap().create(Kind::Memory, 8).unwrap();
    let children = (0..3)
        .map(|_| {
            child(|| {
                let family = family().unwrap();
                for round in 1..=300 {
                    family.word(counter.payload()).fetch_add(1, SeqCst);
                    assert!(pass(&barrier));
                    let count = value(counter.payload());
                    // All have counted this round, and nobody the round after the next.
                    assert!(
                        (3 * round..=3 * round + 2).contains(&count),
                        "{count} in {round}"
                    );
                    assert!(pass(&barrier));
                }
            })
        })
        .collect();
    join(children);
}

fn condition_wakes_as_many_as_it_says() {
    let family = settled_family();
    let condition = SharedCondition::new().unwrap();
    let woken = QueueOptions::new().create().unwrap();
    let waiting = QueueOptions::new().create().unwrap();
    let children: Vec<_> = (0..4)
        .map(|_| {
            child(|| {
                let family = sidestep::shm::family().unwrap();
                let place = condition.enter(family).unwrap();
                waiting.put(b"here").unwrap();
                while let Ok(Answer::None) | Err(_) = condition.sleep(place, SLICE) {}
                assert_eq!(condition.leave(place), Answer::Passed);
                woken.put(b"woken").unwrap();
            })
        })
        .collect();
    for _ in 0..4 {
        let _ = waiting.get(None).unwrap();
    }
    assert_eq!(condition.pass(family, 1), 1);
    let _ = woken.get(None).unwrap();
    assert_eq!(condition.count().0, 3);
    assert_eq!(condition.pass(family, 10), 3);
    join(children);
    assert_eq!(condition.count(), (0, 0));
}

fn lock_outlives_the_parents_reference() {
    let lock = SharedLock::new(false).unwrap();
    let handle = lock.object().handle();
    let go = SharedEvent::new().unwrap();
    let mut other = Child::fork(|| {
        let family = family().unwrap();
        assert_eq!(persist(|| go.wait(forever)), Wait::Ready);
        assert_eq!(lock.try_acquire(family, 1), Some(Wait::Ready));
        assert!(lock.release(family, 1).is_ok());
        // It can be named as long as anybody holds it.
        assert!(SharedLock::from_handle(handle).is_ok());
        0
    })
    .unwrap();
    drop(lock);
    assert!(
        SharedLock::from_handle(handle).is_ok(),
        "the child holds it"
    );
    go.set();
    assert_eq!(other.wait().unwrap(), Exit::Code(0));
    assert!(SharedLock::from_handle(handle).is_err(), "nobody holds it");
}

fn handle_travels_in_a_message() {
    let family = settled_family();
    let queue = QueueOptions::new().create().unwrap();
    let before = holds(family);
    let sender = child(|| {
        let family = sidestep::shm::family().unwrap();
        let lock = SharedLock::new(false).unwrap();
        assert_eq!(lock.try_acquire(family, 1), Some(Wait::Ready));
        let Handle { offset, generation } = lock.object().handle();
        let refs = vec![lock.object().try_clone().unwrap()];
        let envelope = Envelope::new(family, 16, refs).unwrap();
        envelope.write(0, &offset.to_le_bytes());
        envelope.write(8, &generation.to_le_bytes());
        assert!(queue.try_put_envelope(0, 0, envelope).unwrap().is_ok());
        lock.release(family, 1).unwrap();
    });
    join(vec![sender]);
    // Its sender has ended: only the message keeps the lock.
    let Taken::Envelope {
        envelope: EnvelopeBox(envelope),
        ..
    } = queue.try_take(&mut Vec::new()).unwrap()
    else {
        panic!("no envelope")
    };
    let mut bytes = Vec::new();
    envelope.read(0, 16, &mut bytes);
    let handle = Handle {
        offset: u64::from_le_bytes(bytes[..8].try_into().unwrap()),
        generation: u64::from_le_bytes(bytes[8..].try_into().unwrap()),
    };
    let lock = SharedLock::from_handle(handle).unwrap();
    drop(envelope);
    assert_eq!(lock.try_acquire(family, 1), Some(Wait::Ready));
    drop(lock);
    // The queue has kept its one segment.
    assert_eq!(holds(family).blocks, before.blocks + 1);
}

fn dead_child_gives_its_memory_back() {
    let family = settled_family();
    let before = holds(family);
    let ready = SharedEvent::new().unwrap();
    let mut greedy = child(|| {
        let family = sidestep::shm::family().unwrap();
        let _blocks: Vec<_> = (0..300)
            .map(|i| family.create(Kind::Memory, 1000 * i).unwrap())
            .collect();
        let queue = QueueOptions::new().create().unwrap();
        (0..1000).for_each(|i| queue.put(&message(0, i)).unwrap());
        queue.put(&vec![1; 1 << 20]).unwrap();
        ready.set();
        let never = SharedEvent::new().unwrap();
        let _ = persist(|| never.wait(forever));
    });
    assert_eq!(persist(|| ready.wait(forever)), Wait::Ready);
    drop(ready);
    assert!(holds(family).blocks > before.blocks + 300);
    common::kill_after(&mut greedy, Duration::ZERO);
    assert_eq!(holds(family), before);
}

fn grandchild_of_a_dead_child_keeps_its_things() {
    let family = settled_family();
    let before = holds(family);
    let queue = QueueOptions::new().create().unwrap();
    let go = SharedEvent::new().unwrap();
    let middle = child(|| {
        let mine = QueueOptions::new().create().unwrap();
        mine.put(b"from the middle").unwrap();
        let _ = child(|| {
            assert_eq!(persist(|| go.wait(forever)), Wait::Ready);
            queue.put(&mine.get(None).unwrap().unwrap()).unwrap();
        });
    });
    join(vec![middle]);
    go.set();
    assert_eq!(queue.get(None).unwrap().unwrap(), b"from the middle");
    drop((queue, go));
    // Nobody reaps the grandchild here: it is found by whoever looks.
    while holds(family) != before {
        family.clean_dead();
        std::thread::yield_now();
    }
}

fn many_short_children_leave_nothing() {
    let family = settled_family();
    let queue = QueueOptions::new().create().unwrap();
    // Messages with a number below 49 are short, so that each round needs the same memory.
    let round = |i: u32| {
        let mut short = child(|| {
            let block = family.create(Kind::Memory, 100).unwrap();
            queue.put(&message(0, i % 49)).unwrap();
            // Every second one is killed, holding the block; the other lets go of it.
            if i.is_multiple_of(2) {
                common::die();
            }
            drop(block);
        });
        let _ = short.wait().unwrap();
        assert_eq!(checked(&queue.get(None).unwrap().unwrap()), (0, i % 49));
    };
    // Until the queue has used each of its segments once.
    (0..1_000).for_each(round);
    let warmed_up = family.usage();
    (1_000..3_000).for_each(round);
    assert_eq!(family.usage(), warmed_up);
    // A slot is free again before the next child comes.
    let stamp = {
        let reported = QueueOptions::new().create().unwrap();
        let last = child(|| {
            let stamp = sidestep::sync::Population::me(family);
            reported.put(&stamp.slot().to_le_bytes()).unwrap();
        });
        join(vec![last]);
        reported.get(None).unwrap().unwrap()
    };
    let slot = u32::from_le_bytes(stamp.try_into().unwrap());
    assert_eq!(slot, 2, "the root has slot 1");
}

fn a_burst_leaves_little_warm_and_a_stream_keeps_its_memory() {
    const LITTLE: u64 = 9 << 20;
    let family = settled_family();
    let warm = || family.usage().warm;
    // Blocks of their own, and a queue's segments.
    let block = |bytes| family.create(Kind::Memory, bytes).unwrap();
    let burst: Vec<_> = (0..20).map(|_| block(4 << 20)).collect();
    drop(burst);
    assert!(warm() < LITTLE);
    let queue = QueueOptions::new().create().unwrap();
    for number in 0..100_000 {
        queue.put(&message(0, number)).unwrap();
    }
    assert_eq!(drain(&queue).len(), 100_000);
    assert!(warm() < LITTLE, "{}", warm());
    // More than is kept for nothing; then it is wanted again.
    let large = 20 << 20;
    drop(block(large));
    assert!(warm() < LITTLE);
    for _ in 0..3 {
        drop(block(large));
        assert!(warm() > large);
    }
    // Blocks too small to be given back are no reason to give others back.
    let before = warm();
    let small: Vec<_> = (0..10_000).map(|_| block(4 << 10)).collect();
    drop(small);
    let of_small = warm() - before;
    assert!(of_small >= 40 << 20);
    assert_eq!(family.audit(), Ok(()));
    // When the last child has ended, it is as at first.
    join(vec![child(|| ())]);
    assert!(warm() < of_small + LITTLE);
    assert_eq!(family.audit(), Ok(()));
}

const NOW: Duration = Duration::ZERO;
/// Longer than anything takes; who waits so long has missed something.
const LONG: Duration = Duration::from_secs(120);

fn a_watched_queue_is_readable_exactly_while_it_has_items() {
    let family = settled_family();
    let before = holds(family);
    let queue = QueueOptions::new().create().unwrap();
    queue.put(b"earlier").unwrap();
    let watch = queue.watch().unwrap();
    assert!(is_readable(&watch, NOW));
    drain(&queue);
    watch.settle();
    assert!(!is_readable(&watch, NOW));
    let producer = child(|| {
        queue.put(b"1").unwrap();
        queue.put(&[2; 100_000]).unwrap();
    });
    join(vec![producer]);
    for _ in 0..2 {
        assert!(is_readable(&watch, NOW));
        queue.get(Some(NOW)).unwrap().unwrap();
        watch.settle();
    }
    assert!(!is_readable(&watch, NOW));
    // Another consumer is faster: readable for nothing, until somebody looks.
    queue.put(b"3").unwrap();
    join(vec![child(|| assert_eq!(drain(&queue).len(), 1))]);
    assert!(is_readable(&watch, NOW));
    watch.settle();
    assert!(!is_readable(&watch, NOW));
    drop((watch, queue));
    assert_eq!(holds(family), before);
}

fn who_polls_misses_nothing_of_many_producers() {
    const EACH: u32 = 2_000;
    let queue = QueueOptions::new().max_items(3).create().unwrap();
    let watch = queue.watch().unwrap();
    let producers = (0..4)
        .map(|id| child(|| (0..EACH).for_each(|number| queue.put(&message(id, number)).unwrap())));
    let producers: Vec<Child> = producers.collect();
    let mut next = [0; 4];
    while next != [EACH; 4] {
        assert!(is_readable(&watch, LONG), "missed after {next:?}");
        // With one consumer, readable means that there is an item, or will be at once.
        let item = queue.get(Some(LONG)).unwrap().unwrap();
        watch.settle();
        let (id, number) = checked(&item);
        assert_eq!(number, next[id as usize]);
        next[id as usize] += 1;
    }
    assert!(!is_readable(&watch, NOW));
    join(producers);
}

fn every_watcher_is_told() {
    let queue = QueueOptions::new().create().unwrap();
    let ready = QueueOptions::new().create().unwrap();
    let watchers: Vec<Child> = (0..3)
        .map(|_| {
            child(|| {
                let watch = queue.watch().unwrap();
                ready.put(b"").unwrap();
                assert!(is_readable(&watch, LONG));
            })
        })
        .collect();
    for _ in 0..3 {
        ready.get(None).unwrap();
    }
    queue.put(b"for whoever is first").unwrap();
    join(watchers);
}

fn a_child_of_a_fork_watches_for_itself() {
    let queue = QueueOptions::new().create().unwrap();
    let parents = Cell::new(Some(queue.watch().unwrap()));
    let heir = child(|| {
        let watch = parents.take().unwrap();
        assert!(!watch.is_ours());
        let own = queue.watch().unwrap();
        queue.put(b"1").unwrap();
        assert!(is_readable(&own, NOW));
        drain(&queue);
        own.settle();
        assert!(!is_readable(&own, NOW));
        // The descriptor is the parent's, and not for this process to silence.
        watch.settle();
        assert!(is_readable(&watch, NOW));
        drop(watch);
    });
    join(vec![heir]);
    let watch = parents.take().unwrap();
    assert!(watch.is_ours());
    watch.settle();
    assert!(!is_readable(&watch, NOW));
    queue.put(b"2").unwrap();
    assert!(is_readable(&watch, NOW));
}
