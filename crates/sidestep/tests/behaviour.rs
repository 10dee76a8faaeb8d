//! The engine inside one process: what each structure does when nobody dies.

use std::sync::Arc;
use std::time::Duration;

use sidestep::Error;
use sidestep::channel::{Brief, Put, Queue, QueueOptions, Taken};
use sidestep::os::clock::{self, Deadline};
use sidestep::pool::{Delivery, Parcel, Pool, Stage};
use sidestep::shm::{Envelope, Kind, Ref, family};
use sidestep::sync::{
    Answer, Arrival, Holder, Place, Round, SharedBarrier, SharedCondition, SharedEvent, SharedLock,
    SharedSemaphore, WAITERS, Wait,
};

#[test]
fn queue_delivers_in_order_across_many_segments() {
    let queue = QueueOptions::new().create().unwrap();
    for i in 0..50_000u32 {
        queue.put(&i.to_le_bytes()).unwrap();
    }
    assert_eq!(queue.len(), 50_000);
    for i in 0..50_000u32 {
        assert_eq!(queue.get(None).unwrap().unwrap(), i.to_le_bytes());
    }
    assert!(queue.is_empty());
    assert_eq!(queue.get(Some(Duration::ZERO)).unwrap(), None);
}

#[test]
fn brief_messages_mix_with_others() {
    let queue = QueueOptions::new().max_items(1).create().unwrap();
    for len in 0..=Brief::MOST + 9 {
        let message: Vec<u8> = (0..len).map(|i| (i + len) as u8).collect();
        let mut taken = Brief::new();
        let Some(brief) = Brief::of(&message) else {
            assert!(len > Brief::MOST);
            queue.put(&message).unwrap();
            assert!(!queue.try_take_brief(&mut taken));
            assert_eq!(queue.get(None).unwrap().unwrap(), message);
            continue;
        };
        assert_eq!(brief.as_slice(), message);
        queue.put(&message).unwrap();
        assert_eq!(queue.try_put_brief(7, &brief).unwrap(), Put::Full);
        assert!(queue.try_take_brief(&mut taken));
        assert_eq!(taken.as_slice(), message);
        assert!(!queue.try_take_brief(&mut taken));
        assert!(matches!(queue.try_put_brief(7, &brief), Ok(Put::Done(_))));
        let mut bytes = Vec::new();
        let taken = queue.try_take(&mut bytes).unwrap();
        assert!(matches!(taken, Taken::Bytes { tag: 7, .. }));
        assert_eq!(bytes, message);
    }
}

#[test]
fn long_messages_arrive_whole() {
    let queue = QueueOptions::new().create().unwrap();
    for len in [
        0,
        1,
        7,
        8,
        9,
        Queue::INLINE_MAX,
        Queue::INLINE_MAX + 1,
        100_000,
        5_000_000,
    ] {
        let message: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        queue.put(&message).unwrap();
        assert_eq!(queue.get(None).unwrap().unwrap(), message, "{len} bytes");
    }
}

#[test]
fn full_queue_takes_no_more_until_one_is_taken() {
    let queue = QueueOptions::new().max_items(2).create().unwrap();
    assert!(matches!(queue.try_put(0, &[b"a"]).unwrap(), Put::Done(0)));
    assert!(matches!(queue.try_put(0, &[b"b"]).unwrap(), Put::Done(1)));
    assert!(queue.is_full());
    assert!(matches!(queue.try_put(0, &[b"c"]).unwrap(), Put::Full));
    assert_eq!(queue.get(None).unwrap().unwrap(), b"a");
    assert!(matches!(queue.try_put(0, &[b"c"]).unwrap(), Put::Done(2)));
}

#[test]
fn byte_limit_lets_a_longer_message_go_alone() {
    let queue = QueueOptions::new().max_bytes(100).create().unwrap();
    assert!(matches!(
        queue.try_put(0, &[&[1; 500]]).unwrap(),
        Put::Done(_)
    ));
    assert!(matches!(queue.try_put(0, &[b"x"]).unwrap(), Put::Full));
    assert_eq!(queue.get(None).unwrap().unwrap().len(), 500);
    assert!(matches!(queue.try_put(0, &[b"x"]).unwrap(), Put::Done(_)));
}

#[test]
fn message_that_does_not_fit_the_queue_itself_is_refused() {
    let queue = QueueOptions::new().create().unwrap();
    let long = vec![0; Queue::INLINE_MAX + 1];
    assert!(matches!(queue.try_put(0, &[&long]), Err(Error::TooLong(_))));
    let some = [b"a".as_slice(), b"b", &long, b"c"];
    assert_eq!(queue.try_put_many(0, some.into_iter()).unwrap(), 2);
    assert!(matches!(
        queue.try_put_many(0, some.into_iter().skip(2)),
        Err(Error::TooLong(_))
    ));
    assert_eq!(queue.len(), 2);
}

#[test]
fn barrier_takes_as_many_as_can_wait_there() {
    for parties in [0, WAITERS as u32 + 1] {
        let refused = SharedBarrier::new(parties);
        assert!(matches!(refused, Err(Error::Parties { .. })));
    }
    assert!(SharedBarrier::new(WAITERS as u32).is_ok());
}

#[test]
fn byte_limit_counts_long_messages() {
    let queue = QueueOptions::new().max_bytes(100_000).create().unwrap();
    let put = || {
        let envelope = Envelope::new(family().unwrap(), 30_000, Vec::new()).unwrap();
        queue.try_put_envelope(0, 0, envelope).unwrap().is_ok()
    };
    for _ in 0..3 {
        assert_eq!([put(), put(), put(), put()], [true, true, true, false]);
        // Short ones count beside them; who finds no room and who waits for it go by one measure.
        let soon = Deadline::after(Some(Duration::ZERO));
        let mut rest = 11_000;
        while queue.try_put(0, &[&vec![0; rest]]).unwrap() == Put::Full {
            assert_eq!(queue.wait_space(rest as u64, soon), Wait::TimedOut);
            rest -= 1;
        }
        assert!(rest > 9_000);
        while !queue.is_empty() {
            drop(queue.get(None).unwrap());
            assert_eq!(queue.wait_space(30_000, soon), Wait::Ready);
        }
    }
}

#[test]
fn threads_share_a_queue_and_lose_nothing() {
    let queue = Arc::new(QueueOptions::new().max_items(64).create().unwrap());
    let producers: Vec<_> = (0..3u64)
        .map(|id| {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || {
                for i in 0..20_000u64 {
                    queue.put(&(id << 32 | i).to_le_bytes()).unwrap();
                }
            })
        })
        .collect();
    let consumers: Vec<_> = (0..3)
        .map(|_| {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || {
                let mut got = Vec::new();
                loop {
                    let item = queue.get(None).unwrap().unwrap();
                    let item = u64::from_le_bytes(item.try_into().unwrap());
                    if item == u64::MAX {
                        return got;
                    }
                    got.push(item);
                }
            })
        })
        .collect();
    for producer in producers {
        producer.join().unwrap();
    }
    for _ in 0..3 {
        queue.put(&u64::MAX.to_le_bytes()).unwrap();
    }
    let mut all: Vec<u64> = consumers
        .into_iter()
        .flat_map(|c| c.join().unwrap())
        .collect();
    all.sort_unstable();
    let expected: Vec<u64> = (0..3u64)
        .flat_map(|id| (0..20_000u64).map(move |i| id << 32 | i))
        .collect();
    assert_eq!(all, expected);
}

#[test]
fn many_messages_go_under_one_lock() {
    let queue = QueueOptions::new().max_items(10).create().unwrap();
    let messages: Vec<Vec<u8>> = (0..20u8).map(|i| vec![i; 3]).collect();
    assert_eq!(
        queue
            .try_put_many(0, messages.iter().map(Vec::as_slice))
            .unwrap(),
        10
    );
    let (mut buffer, mut ends) = (Vec::new(), Vec::new());
    queue.try_take_many(7, &mut buffer, &mut ends);
    assert_eq!(ends, [3, 6, 9, 12, 15, 18, 21]);
    assert_eq!(queue.len(), 3);
}

#[test]
fn an_envelope_keeps_what_it_refers_to_alive() {
    let family = family().unwrap();
    let queue = QueueOptions::new().create().unwrap();
    let lock = SharedLock::new(false).unwrap();
    let handle = lock.object().handle();
    let envelope = Envelope::new(family, 4, vec![lock.object().try_clone().unwrap()]).unwrap();
    envelope.write(0, b"lock");
    assert!(queue.try_put_envelope(7, 0, envelope).unwrap().is_ok());
    drop(lock);
    let mut buffer = Vec::new();
    let Taken::Envelope {
        envelope, tag: 7, ..
    } = queue.try_take(&mut buffer).unwrap()
    else {
        panic!("no envelope")
    };
    let lock = SharedLock::from_handle(handle).unwrap();
    drop(envelope);
    assert_eq!(lock.try_acquire(family, 1), Some(Wait::Ready));
    drop(lock);
    assert!(
        SharedLock::from_handle(handle).is_err(),
        "a stale handle is an error"
    );
}

#[test]
fn a_dropped_queue_frees_its_segments_and_envelopes() {
    let family = family().unwrap();
    let queue = QueueOptions::new().create().unwrap();
    let lock = SharedLock::new(false).unwrap();
    let handle = lock.object().handle();
    let envelope = Envelope::new(family, 0, vec![lock.object().try_clone().unwrap()]).unwrap();
    assert!(queue.try_put_envelope(0, 0, envelope).unwrap().is_ok());
    for _ in 0..10_000 {
        queue.put(&[0; 100]).unwrap();
    }
    drop(lock);
    drop(queue);
    assert!(SharedLock::from_handle(handle).is_err());
}

#[test]
fn memory_is_zeroed_and_large_blocks_come_back() {
    let family = family().unwrap();
    for round in 0..20 {
        let block = family.create(Kind::Memory, 8 << 20).unwrap();
        let at = family.address(block.payload(), 8 << 20).unwrap();
        let bytes = unsafe_slice(at, 8 << 20);
        assert!(bytes.iter().all(|b| *b == 0), "round {round}");
        bytes.fill(round + 1);
    }
    assert!(family.usage().used < 1 << 30);
}

#[allow(unsafe_code)]
fn unsafe_slice<'a>(at: *mut u8, len: usize) -> &'a mut [u8] {
    // SAFETY: the block is this test's alone, and lives longer than the slice is used.
    unsafe { std::slice::from_raw_parts_mut(at, len) }
}

#[test]
fn recursive_lock_belongs_to_a_thread() {
    let family = family().unwrap();
    let lock = SharedLock::new(true).unwrap();
    assert_eq!(lock.try_acquire(family, 1), Some(Wait::Ready));
    assert_eq!(lock.try_acquire(family, 1), Some(Wait::Ready));
    assert_eq!(lock.try_acquire(family, 2), None);
    assert_eq!(lock.holder(family, 2), Holder::OtherThread);
    assert!(lock.release(family, 2).is_err());
    lock.release(family, 1).unwrap();
    assert_eq!(lock.holder(family, 1), Holder::ThisThread);
    lock.release(family, 1).unwrap();
    assert_eq!(lock.holder(family, 1), Holder::Nobody);
    assert!(lock.release(family, 1).is_err());
}

#[test]
fn semaphore_hands_out_its_permits() {
    let semaphore = Arc::new(SharedSemaphore::new(0, None).unwrap());
    let waiters: Vec<_> = (0..4)
        .map(|_| {
            let semaphore = Arc::clone(&semaphore);
            std::thread::spawn(move || semaphore.acquire(|| Some(Duration::from_secs(60))))
        })
        .collect();
    semaphore.release(1).unwrap();
    semaphore.release(3).unwrap();
    for waiter in waiters {
        assert_eq!(waiter.join().unwrap(), Wait::Ready);
    }
    assert_eq!(semaphore.value(), 0);
    let bounded = SharedSemaphore::new(1, Some(1)).unwrap();
    assert!(bounded.release(1).is_err());
}

#[test]
fn event_wakes_all_even_if_cleared_at_once() {
    let event = Arc::new(SharedEvent::new().unwrap());
    let waiters: Vec<_> = (0..4)
        .map(|_| {
            let event = Arc::clone(&event);
            let (tell, told) = std::sync::mpsc::channel::<()>();
            let thread = std::thread::spawn(move || {
                let mut first = Some(tell);
                event.wait(|| {
                    drop(first.take());
                    Some(Duration::from_secs(60))
                })
            });
            let _ = told.recv();
            thread
        })
        .collect();
    event.set();
    event.clear();
    for waiter in waiters {
        assert_eq!(waiter.join().unwrap(), Wait::Ready);
    }
    assert!(!event.is_set());
}

#[test]
fn event_that_was_set_since_is_not_waited_for() {
    let event = SharedEvent::new().unwrap();
    let at_once = || None;
    let before = event.count();
    assert_eq!(event.wait_since(before, at_once), Wait::TimedOut);
    event.set();
    let while_set = event.count();
    event.clear();
    assert_eq!(event.wait_since(before, at_once), Wait::Ready);
    assert_eq!(event.wait_since(while_set, at_once), Wait::Ready);
    assert_eq!(event.wait_since(event.count(), at_once), Wait::TimedOut);
    assert_eq!(event.wait(at_once), Wait::TimedOut);
}

/// A party that waits at the barrier, and the last one, which acts.
fn full_round(barrier: &SharedBarrier) -> (Place, Round) {
    let family = barrier.family();
    let Arrival::Wait(place, 0) = barrier.arrive(family) else {
        panic!("not the first one")
    };
    let Arrival::Last(1, round) = barrier.arrive(family) else {
        panic!("not the last one")
    };
    (place, round)
}

#[test]
fn barrier_that_was_reset_is_left_alone_by_who_acted_before() {
    let family = family().unwrap();
    let barrier = SharedBarrier::new(2).unwrap();
    let ends: [fn(&SharedBarrier, Round); 2] = [
        |barrier, round| assert!(!barrier.complete(barrier.family(), round)),
        |barrier, round| barrier.fail(barrier.family(), round),
    ];
    for end in ends {
        let (place, old) = full_round(&barrier);
        barrier.reset(family);
        assert_eq!(barrier.leave(place), Answer::Broken);
        // While the next round fills ...
        let Arrival::Wait(place, 0) = barrier.arrive(family) else {
            panic!("not the first one")
        };
        end(&barrier, old);
        assert_eq!((barrier.waiting(), barrier.is_broken()), (1, false));
        // ... and while it is acted for.
        let Arrival::Last(1, round) = barrier.arrive(family) else {
            panic!("not the last one")
        };
        end(&barrier, old);
        assert_eq!(barrier.arrive(family), Arrival::Busy);
        assert!(barrier.complete(family, round));
        assert_eq!(barrier.leave(place), Answer::Passed);
        // A round that is over stays so.
        end(&barrier, round);
        assert!(!barrier.is_broken());
    }
}

#[test]
fn barrier_that_was_aborted_stays_broken_when_the_action_ends() {
    let family = family().unwrap();
    let barrier = SharedBarrier::new(2).unwrap();
    let (place, round) = full_round(&barrier);
    barrier.abort(family);
    assert!(!barrier.complete(family, round));
    assert_eq!(barrier.leave(place), Answer::Broken);
    assert!(barrier.is_broken());
}

#[test]
fn barrier_is_not_broken_by_who_gives_up_while_the_last_one_acts() {
    let family = family().unwrap();
    let barrier = SharedBarrier::new(2).unwrap();
    let (place, round) = full_round(&barrier);
    assert!(!barrier.abort_unless_acting(family, place));
    assert!(barrier.complete(family, round));
    // Nor by who has its answer.
    assert!(!barrier.abort_unless_acting(family, place));
    assert_eq!(barrier.leave(place), Answer::Passed);
    let Arrival::Wait(place, 0) = barrier.arrive(family) else {
        panic!("not the first one")
    };
    assert!(barrier.abort_unless_acting(family, place));
    assert_eq!(barrier.leave(place), Answer::Broken);
    assert!(barrier.is_broken());
}

#[test]
fn notify_reaches_the_earliest_waiters() {
    let family = family().unwrap();
    let condition = SharedCondition::new().unwrap();
    let first = condition.enter(family).unwrap();
    let second = condition.enter(family).unwrap();
    assert_eq!(condition.count(), (2, 0));
    assert_eq!(condition.pass(family, 1), 1);
    assert_eq!(condition.leave(first), Answer::Passed);
    assert_eq!(condition.leave(second), Answer::None);
}

#[test]
fn arena_at_its_ceiling_says_so_and_goes_on() {
    let family = family().unwrap();
    let before = family.usage();
    let error = family
        .create(Kind::Memory, before.limit)
        .map(|_: Ref| ())
        .unwrap_err();
    assert!(
        error.to_string().contains(&before.limit.to_string()),
        "{error}"
    );
    let queue = QueueOptions::new().create().unwrap();
    queue.put(b"still usable").unwrap();
    assert!(queue.get(None).unwrap().is_some());
}

#[test]
fn join_waits_for_every_task() {
    let queue = QueueOptions::new().create().unwrap();
    queue.put(b"task").unwrap();
    assert!(!queue.all_done());
    assert_eq!(
        queue.wait_all_done(Deadline::after(Some(Duration::ZERO))),
        Wait::TimedOut
    );
    assert!(queue.task_done());
    assert!(!queue.task_done());
    assert_eq!(queue.wait_all_done(Deadline::NEVER), Wait::Ready);
}

/// Takes a task and answers it with its own bytes: its number, and whether the worker may go on.
fn echo(pool: &Pool, line: u32) -> Option<(u32, bool)> {
    let mut task = Vec::new();
    match pool.take(line, &mut task).unwrap()? {
        Delivery::Short { number } => {
            let goes_on = pool.finish(line, number, Parcel::Short(&task)).unwrap();
            Some((number, goes_on))
        }
        Delivery::Long { number, envelope } => {
            let goes_on = pool.finish(line, number, Parcel::Long(envelope)).unwrap();
            Some((number, goes_on))
        }
        _ => panic!("only tasks are taken"),
    }
}

#[test]
fn tasks_that_are_taken_back_are_taken_by_nobody() {
    let pool = Pool::new(1).unwrap();
    let family = family().unwrap();
    // Enough to lie in several segments.
    let numbers: Vec<u32> = (0..3000u32)
        .map(|id| {
            if id % 7 == 0 {
                let envelope = Envelope::new(family, 100, Vec::new()).unwrap();
                pool.submit(Parcel::Long(envelope)).unwrap()
            } else {
                pool.submit(Parcel::Short(&id.to_le_bytes())).unwrap()
            }
        })
        .collect();
    let first = echo(&pool, 0).unwrap().0;
    // The one that was taken is beyond reach.
    pool.withdraw(|number| number % 3 == 0 || number == first);
    pool.withdraw(|number| number % 5 == 0);
    let rest: Vec<u32> = std::iter::from_fn(|| echo(&pool, 0).map(|(number, _)| number)).collect();
    let kept: Vec<u32> = numbers
        .into_iter()
        .filter(|number| number % 3 != 0 && number % 5 != 0 && *number != first)
        .collect();
    assert_eq!(rest, kept);
    assert_eq!(pool.waiting(), 0);
    assert_eq!(pool.running(0), None);
    assert_eq!(pool.lost(0), None);
}

#[test]
fn a_doomed_worker_takes_nothing_more() {
    let pool = Pool::new(2).unwrap();
    let number = pool.submit(Parcel::Short(b"task")).unwrap();
    assert!(!pool.doom(0, number), "nobody has taken it");
    let before = clock::now();
    let mut task = Vec::new();
    assert!(pool.take(0, &mut task).unwrap().is_some());
    let (running, since) = pool.running(0).unwrap();
    assert_eq!(running, number);
    assert!(since.unwrap() >= before && since.unwrap() <= clock::now());
    assert!(!pool.doom(0, number.wrapping_add(1)) && !pool.doom(1, number));
    assert!(pool.doom(0, number) && !pool.doom(0, number));
    assert!(!pool.finish(0, number, Parcel::Short(b"too late")).unwrap());
    assert_eq!(pool.lost(0), Some(number));
    assert_eq!(pool.running(0), None);
    // The next worker of this line is as good as any.
    let number = pool.submit(Parcel::Short(b"task")).unwrap();
    assert_eq!(echo(&pool, 0), Some((number, true)));
    assert!(!pool.doom(0, number), "it is done");
}

#[test]
fn last_words_and_stages_of_workers() {
    let pool = Pool::new(3).unwrap();
    assert_eq!(pool.stage(2), Stage::Starting);
    for stage in [Stage::Preparing, Stage::Ready, Stage::Starting] {
        pool.enter(2, stage);
        assert_eq!(pool.stage(2), stage);
    }
    let words = Envelope::new(family().unwrap(), 4, Vec::new()).unwrap();
    words.write(0, b"alas");
    pool.last_words(2, words).unwrap();
    match pool.collect(&mut Vec::new()).unwrap() {
        Some(Delivery::LastWords { worker, envelope }) => {
            let mut text = Vec::new();
            envelope.read(0, 4, &mut text);
            assert_eq!((worker, &text[..]), (2, &b"alas"[..]));
        }
        _ => panic!("there were words"),
    }
}
