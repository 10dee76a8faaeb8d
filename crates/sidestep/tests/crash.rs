//! Real SIGKILLs, and what the survivors find.
//!
//! Two kinds: at moments that look random, and, with the feature `crash-points`, at each single
//! step of each operation (`cargo test -p sidestep --features crash-points --test crash`).

mod common;

#[cfg(feature = "crash-points")]
#[path = "crash/books.rs"]
mod books;
#[cfg(feature = "crash-points")]
#[path = "crash/locks.rs"]
mod locks;
#[cfg(feature = "crash-points")]
#[path = "crash/pipes.rs"]
mod pipes;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::{
    Random, checked, child, drain, holds, is_readable, join, kill_after, message, persist,
    settled_family,
};
use sidestep::channel::{MOST_WATCHERS, QueueOptions};
use sidestep::os::clock::Deadline;
use sidestep::pool::{Delivery, Parcel, Pool};
use sidestep::process::{Child, Exit};
use sidestep::shm::family;
use sidestep::sync::{
    Answer, Arrival, SLICE, SharedBarrier, SharedCondition, SharedEvent, SharedLock,
    SharedSemaphore, Wait,
};

fn main() {
    #[allow(unused_mut)]
    let mut tests: Vec<common::Test> = vec![
        (
            "killed_producers_leave_whole_messages",
            killed_producers_leave_whole_messages,
        ),
        (
            "killed_consumers_take_at_most_one_message_along",
            killed_consumers_take_at_most_one_message_along,
        ),
        (
            "killed_sleeper_does_not_keep_the_wake",
            killed_sleeper_does_not_keep_the_wake,
        ),
        (
            "killed_owner_is_reported_to_waiters",
            killed_owner_is_reported_to_waiters,
        ),
        (
            "killed_owner_is_found_also_if_nobody_reaps_it",
            killed_owner_is_found_also_if_nobody_reaps_it,
        ),
        (
            "lock_of_an_orderly_process_stays_held",
            lock_of_an_orderly_process_stays_held,
        ),
        (
            "lock_of_a_panicking_process_is_abandoned",
            lock_of_a_panicking_process_is_abandoned,
        ),
        (
            "killed_waiter_does_not_get_the_lock",
            killed_waiter_does_not_get_the_lock,
        ),
        (
            "permits_of_a_killed_process_stay_taken",
            permits_of_a_killed_process_stay_taken,
        ),
        (
            "killed_party_breaks_the_barrier",
            killed_party_breaks_the_barrier,
        ),
        (
            "killed_party_is_found_also_if_nobody_reaps_it",
            killed_party_is_found_also_if_nobody_reaps_it,
        ),
        (
            "notify_passes_over_killed_waiters",
            notify_passes_over_killed_waiters,
        ),
        (
            "killed_lockers_never_stop_the_others",
            killed_lockers_never_stop_the_others,
        ),
        (
            "killed_watchers_make_room_for_others",
            killed_watchers_make_room_for_others,
        ),
        (
            "killed_watcher_does_not_hold_producers_up",
            killed_watcher_does_not_hold_producers_up,
        ),
        (
            "killed_workers_lose_the_task_they_ran",
            killed_workers_lose_the_task_they_ran,
        ),
    ];
    #[cfg(feature = "crash-points")]
    {
        everywhere::collect_points();
        tests.extend(everywhere::TESTS);
        tests.extend(locks::TESTS);
        tests.extend(pipes::TESTS);
        tests.extend(books::TESTS);
        tests.push(("death_at_every_point", everywhere::every_point));
    }
    common::run(&tests);
}

fn forever() -> Option<Duration> {
    Some(Duration::from_secs(3600))
}

/// Messages by producer, in the order in which they came.
fn by_producer(messages: &[Vec<u8>]) -> BTreeMap<u32, Vec<u32>> {
    let mut all = BTreeMap::<u32, Vec<u32>>::new();
    for message in messages {
        let (producer, number) = checked(message);
        all.entry(producer).or_default().push(number);
    }
    all
}

fn killed_producers_leave_whole_messages() {
    const SURVIVOR: u32 = 1_000_000;
    let mut random = Random(1);
    let family = settled_family();
    let before = holds(family);
    let queue = QueueOptions::new().create().unwrap();
    for round in 0..200 {
        let mut victim = child(|| {
            for number in 0.. {
                queue.put(&message(round, number)).unwrap();
            }
        });
        let survivor = child(|| {
            for number in 0..200 {
                queue.put(&message(SURVIVOR, number)).unwrap();
            }
        });
        kill_after(&mut victim, Duration::from_micros(random.below(2_000)));
        join(vec![survivor]);
        queue.put(&message(SURVIVOR + 1, 0)).unwrap();
        assert!(queue.len() > 200);
        let mut all = by_producer(&drain(&queue));
        // Each put that returned has committed; the victim's are there in order without a hole.
        let victims = all.remove(&round).unwrap_or_default();
        assert!(
            victims.iter().copied().eq(0..victims.len() as u32),
            "round {round}"
        );
        assert!(
            all.remove(&SURVIVOR).unwrap().into_iter().eq(0..200),
            "round {round}"
        );
        assert_eq!(all.remove(&(SURVIVOR + 1)).unwrap(), [0]);
        assert_eq!(all.len(), 0);
        assert!(queue.is_empty());
    }
    drop(queue);
    assert_eq!(holds(family), before);
}

fn killed_consumers_take_at_most_one_message_along() {
    const COUNT: u32 = 600;
    let mut random = Random(2);
    let family = settled_family();
    let before = holds(family);
    let queue = QueueOptions::new().create().unwrap();
    let got = QueueOptions::new().create().unwrap();
    let mut missing = 0;
    for round in 0..200 {
        let consume = || {
            while let Some(message) = queue.get(None).unwrap() {
                got.put(&message).unwrap();
                if checked(&message).1 == COUNT {
                    return;
                }
            }
        };
        for number in 0..COUNT {
            queue.put(&message(round, number)).unwrap();
        }
        let mut victim = child(consume);
        kill_after(&mut victim, Duration::from_micros(random.below(800)));
        let survivor = child(consume);
        queue.put(&message(round, COUNT)).unwrap();
        join(vec![survivor]);
        assert!(queue.is_empty());
        let taken = by_producer(&drain(&got)).remove(&round).unwrap();
        let distinct: BTreeSet<u32> = taken.iter().copied().collect();
        assert_eq!(
            distinct.len(),
            taken.len(),
            "round {round}: a message came twice"
        );
        let lost = (COUNT + 1) as usize - taken.len();
        assert!(lost <= 1, "round {round}: {lost} messages are missing");
        missing += lost;
    }
    println!("    {missing} of 200 victims had a message in hand");
    drop((queue, got));
    assert_eq!(holds(family), before);
}

fn killed_sleeper_does_not_keep_the_wake() {
    let queue = QueueOptions::new().create().unwrap();
    let got = QueueOptions::new().create().unwrap();
    for number in 0..20 {
        let mut victim = child(|| got.put(&queue.get(None).unwrap().unwrap()).unwrap());
        let survivor = child(|| got.put(&queue.get(None).unwrap().unwrap()).unwrap());
        kill_after(&mut victim, Duration::from_millis(u64::from(number) / 4));
        queue.put(&message(0, number)).unwrap();
        let message = got.get(None).unwrap().unwrap();
        assert_eq!(checked(&message), (0, number));
        join(vec![survivor]);
    }
}

/// A child that takes the lock, says so, and does what it is told then.
fn owner(lock: &SharedLock, then: impl FnOnce()) -> Child {
    let taken = SharedEvent::new().unwrap();
    let owner = child(|| {
        let family = family().unwrap();
        assert_eq!(persist(|| lock.acquire(family, 1, forever)), Wait::Ready);
        taken.set();
        then();
    });
    assert_eq!(persist(|| taken.wait(forever)), Wait::Ready);
    owner
}

fn sleep_for_ever() {
    let never = SharedEvent::new().unwrap();
    let _ = persist(|| never.wait(forever));
}

/// Children that wait for the lock and must be told that it is abandoned.
fn disappointed(lock: &SharedLock, count: usize) -> Vec<Child> {
    let asleep = QueueOptions::new().create().unwrap();
    let children = (0..count)
        .map(|_| {
            child(|| {
                let family = family().unwrap();
                let mut told = false;
                let wait = persist(|| {
                    lock.acquire(family, 1, || {
                        if !std::mem::replace(&mut told, true) {
                            asleep.put(b"now").unwrap();
                        }
                        forever()
                    })
                });
                assert!(matches!(wait, Wait::Abandoned(_)), "{wait:?}");
            })
        })
        .collect();
    for _ in 0..count {
        let _ = asleep.get(None).unwrap();
    }
    children
}

fn killed_owner_is_reported_to_waiters() {
    let family = settled_family();
    for recursive in [false, true] {
        let lock = SharedLock::new(recursive).unwrap();
        let mut victim = owner(&lock, sleep_for_ever);
        let waiters = disappointed(&lock, 3);
        kill_after(&mut victim, Duration::ZERO);
        join(waiters);
        // It stays abandoned until somebody says that the data is right again.
        let attempt = lock.try_acquire(family, 1);
        assert!(matches!(attempt, Some(Wait::Abandoned(_))), "{attempt:?}");
        assert!(lock.recover());
        assert!(!lock.recover());
        assert_eq!(lock.try_acquire(family, 1), Some(Wait::Ready));
        lock.release(family, 1).unwrap();
    }
    let lock = SharedLock::new(false).unwrap();
    let mut victim = owner(&lock, sleep_for_ever);
    kill_after(&mut victim, Duration::ZERO);
    // Releasing it says the same.
    lock.release(family, 1).unwrap();
    assert_eq!(lock.try_acquire(family, 1), Some(Wait::Ready));
}

fn killed_owner_is_found_also_if_nobody_reaps_it() {
    let lock = SharedLock::new(false).unwrap();
    let victim = owner(&lock, sleep_for_ever);
    let waiters = disappointed(&lock, 2);
    victim.kill().unwrap();
    join(waiters);
}

fn lock_of_an_orderly_process_stays_held() {
    let family = settled_family();
    let lock = SharedLock::new(false).unwrap();
    join(vec![owner(&lock, || ())]);
    assert_eq!(lock.try_acquire(family, 1), None);
    lock.release(family, 1).unwrap();
    assert_eq!(lock.try_acquire(family, 1), Some(Wait::Ready));
    // Nobody else can release a recursive lock, so that one is abandoned.
    let lock = SharedLock::new(true).unwrap();
    join(vec![owner(&lock, || ())]);
    assert!(matches!(
        lock.try_acquire(family, 1),
        Some(Wait::Abandoned(_))
    ));
}

fn lock_of_a_panicking_process_is_abandoned() {
    let family = settled_family();
    let lock = SharedLock::new(false).unwrap();
    let mut owner = owner(&lock, || {
        std::panic::set_hook(Box::new(|_| ()));
        panic!("on purpose")
    });
    assert_eq!(owner.wait().unwrap(), Exit::Code(101));
    assert!(matches!(
        lock.try_acquire(family, 1),
        Some(Wait::Abandoned(_))
    ));
}

fn killed_waiter_does_not_get_the_lock() {
    let family = settled_family();
    let lock = SharedLock::new(false).unwrap();
    assert_eq!(lock.try_acquire(family, 1), Some(Wait::Ready));
    let wait = || {
        let family = sidestep::shm::family().unwrap();
        assert_eq!(persist(|| lock.acquire(family, 1, forever)), Wait::Ready);
        lock.release(family, 1).unwrap();
    };
    let (mut victim, survivor) = (child(wait), child(wait));
    kill_after(&mut victim, Duration::from_millis(2));
    lock.release(family, 1).unwrap();
    join(vec![survivor]);
    assert_eq!(lock.try_acquire(family, 1), Some(Wait::Ready));
}

fn permits_of_a_killed_process_stay_taken() {
    let semaphore = SharedSemaphore::new(2, None).unwrap();
    let taken = SharedEvent::new().unwrap();
    let mut victim = child(|| {
        assert!(semaphore.try_acquire());
        taken.set();
        sleep_for_ever();
    });
    assert_eq!(persist(|| taken.wait(forever)), Wait::Ready);
    kill_after(&mut victim, Duration::ZERO);
    assert_eq!(semaphore.value(), 1);
}

/// A child that comes to the barrier and waits there; what it was told is its exit code.
fn party(barrier: &SharedBarrier) -> Child {
    let arrived = SharedEvent::new().unwrap();
    let party = Child::fork(|| {
        let family = family().unwrap();
        let Arrival::Wait(place, _) = barrier.arrive(family) else {
            return 3;
        };
        arrived.set();
        loop {
            match barrier.sleep(place, SLICE) {
                Ok(Answer::Passed) => return 1,
                Ok(Answer::Broken) => return 2,
                Ok(Answer::None) | Err(_) => {}
            }
        }
    })
    .unwrap();
    assert_eq!(persist(|| arrived.wait(forever)), Wait::Ready);
    party
}

/// Comes to the barrier as the last one, which is this number, and lets all go.
fn arrive_last(barrier: &SharedBarrier, number: u32) {
    let family = barrier.family();
    let Arrival::Last(last, round) = barrier.arrive(family) else {
        panic!("not the last one")
    };
    assert_eq!(last, number);
    assert!(barrier.complete(family, round));
}

fn killed_party_breaks_the_barrier() {
    let family = settled_family();
    let barrier = SharedBarrier::new(4).unwrap();
    let mut others = [party(&barrier), party(&barrier)];
    let mut victim = party(&barrier);
    kill_after(&mut victim, Duration::ZERO);
    for other in &mut others {
        assert_eq!(other.wait().unwrap(), Exit::Code(2));
    }
    assert!(barrier.is_broken());
    assert_eq!(barrier.arrive(family), Arrival::Broken);
    barrier.reset(family);
    let mut others = [party(&barrier), party(&barrier), party(&barrier)];
    arrive_last(&barrier, 3);
    for other in &mut others {
        assert_eq!(other.wait().unwrap(), Exit::Code(1));
    }
}

fn killed_party_is_found_also_if_nobody_reaps_it() {
    let barrier = SharedBarrier::new(3).unwrap();
    let mut other = party(&barrier);
    party(&barrier).kill().unwrap();
    assert_eq!(other.wait().unwrap(), Exit::Code(2));
}

fn notify_passes_over_killed_waiters() {
    let family = settled_family();
    for reaped in [true, false] {
        let condition = SharedCondition::new().unwrap();
        let waiter = || {
            let entered = SharedEvent::new().unwrap();
            let waiter = child(|| {
                let family = sidestep::shm::family().unwrap();
                let place = condition.enter(family).unwrap();
                entered.set();
                while let Ok(Answer::None) | Err(_) = condition.sleep(place, SLICE) {}
                assert_eq!(condition.leave(place), Answer::Passed);
            });
            assert_eq!(persist(|| entered.wait(forever)), Wait::Ready);
            waiter
        };
        let (mut first, second) = (waiter(), waiter());
        first.kill().unwrap();
        if reaped {
            let _ = first.wait().unwrap();
        } else {
            // Dead and known to be so, but nobody has cleaned up after it.
            let sentinel = first.sentinel().unwrap();
            assert!(sidestep::os::process::poll_readable(sentinel, None).unwrap());
        }
        assert_eq!(condition.pass(family, 1), 1);
        join(vec![second]);
    }
}

fn killed_lockers_never_stop_the_others() {
    let family = settled_family();
    let mut random = Random(3);
    let lock = SharedLock::new(false).unwrap();
    let mut abandoned = 0;
    for _ in 0..200 {
        let mut victim = child(|| {
            let family = sidestep::shm::family().unwrap();
            loop {
                assert_eq!(persist(|| lock.acquire(family, 1, forever)), Wait::Ready);
                std::hint::black_box((0..100).sum::<u32>());
                lock.release(family, 1).unwrap();
            }
        });
        kill_after(&mut victim, Duration::from_micros(random.below(1_000)));
        match persist(|| lock.acquire(family, 1, forever)) {
            Wait::Ready => lock.release(family, 1).unwrap(),
            Wait::Abandoned(_) => {
                abandoned += 1;
                assert!(lock.recover());
            }
            wait => panic!("{wait:?}"),
        }
    }
    println!("    {abandoned} of 200 victims held the lock");
}

/// A worker's life.
fn work(pool: &Pool, line: u32) {
    let mut task = Vec::new();
    loop {
        task.clear();
        match pool.take(line, &mut task).unwrap() {
            Some(Delivery::Short { number }) => {
                let (producer, id) = checked(&task);
                std::hint::black_box((0..500).fold(0u32, |sum, i| sum ^ i));
                let result = message(producer + 1, id);
                pool.finish(line, number, Parcel::Short(&result)).unwrap();
            }
            Some(_) => panic!("all tasks are short"),
            None if pool.is_closed() => return,
            None => {
                let _ = pool.wait_task(Deadline::NEVER);
                pool.pass_on_tasks();
            }
        }
    }
}

/// Tasks and how each ended.
#[derive(Default)]
struct Outcomes {
    open: BTreeMap<u32, u32>,
    results: usize,
    lost: usize,
}

impl Outcomes {
    fn submit(&mut self, pool: &Pool, id: u32) {
        // No multiple of fifty has a long message.
        let task = message(7, id * 50);
        let number = pool.submit(Parcel::Short(&task)).unwrap();
        assert_eq!(self.open.insert(number, id * 50), None);
    }

    fn collect(&mut self, pool: &Pool) {
        let mut result = Vec::new();
        while let Some(delivery) = pool.collect(&mut result).unwrap() {
            let Delivery::Short { number } = delivery else {
                panic!("all results are short")
            };
            let id = self.open.remove(&number).expect("one outcome per task");
            assert_eq!(checked(&result), (8, id));
            self.results += 1;
            result.clear();
        }
    }

    /// The worker of this line is dead.
    fn bury(&mut self, pool: &Pool, line: u32) {
        self.collect(pool);
        // A result that is there already: the worker died before it could clear its note.
        if let Some(number) = pool.lost(line)
            && self.open.remove(&number).is_some()
        {
            self.lost += 1;
        }
    }
}

fn killed_workers_lose_the_task_they_ran() {
    let family = settled_family();
    let before = holds(family);
    let mut random = Random(4);
    let pool = Pool::new(2).unwrap();
    let survivor = child(|| work(&pool, 1));
    let mut outcomes = Outcomes::default();
    for round in 0..200 {
        let mut victim = child(|| work(&pool, 0));
        for id in 0..100 {
            outcomes.submit(&pool, round * 100 + id);
        }
        kill_after(&mut victim, Duration::from_micros(random.below(1_000)));
        outcomes.bury(&pool, 0);
    }
    while !outcomes.open.is_empty() {
        let _ = pool.wait_result(Deadline::NEVER);
        outcomes.collect(&pool);
    }
    pool.close();
    join(vec![survivor]);
    outcomes.collect(&pool);
    assert_eq!(outcomes.results + outcomes.lost, 20_000);
    println!("    {} tasks were lost to 200 victims", outcomes.lost);
    assert!(outcomes.lost <= 200);
    drop(pool);
    assert_eq!(holds(family), before);
}

/// Death at each step of each operation.
fn killed_watchers_make_room_for_others() {
    let family = settled_family();
    let before = holds(family);
    let queue = QueueOptions::new().create().unwrap();
    let ready = QueueOptions::new().create().unwrap();
    let watchers: Vec<Child> = (0..MOST_WATCHERS)
        .map(|_| {
            child(|| {
                let _watch = queue.watch().unwrap();
                ready.put(b"").unwrap();
                QueueOptions::new()
                    .create()
                    .unwrap()
                    .get(forever())
                    .unwrap();
            })
        })
        .collect();
    for _ in 0..MOST_WATCHERS {
        ready.get(forever()).unwrap();
    }
    let refusal = queue.watch().unwrap_err().to_string();
    assert!(refusal.starts_with("32 processes watch"), "{refusal}");
    for mut watcher in watchers {
        watcher.kill().unwrap();
        assert_eq!(watcher.wait().unwrap(), Exit::Signal(libc::SIGKILL));
    }
    let watch = queue.watch().unwrap();
    queue.put(b"x").unwrap();
    assert!(is_readable(&watch, Duration::ZERO));
    drop((watch, queue, ready));
    family.clean_dead();
    assert_eq!(holds(family), before);
}

fn killed_watcher_does_not_hold_producers_up() {
    let queue = QueueOptions::new().create().unwrap();
    let ready = QueueOptions::new().create().unwrap();
    let watch = queue.watch().unwrap();
    let mut watcher = child(|| {
        let _watch = queue.watch().unwrap();
        ready.put(b"").unwrap();
        queue.get(forever()).unwrap();
        ready.get(forever()).unwrap();
    });
    ready.get(forever()).unwrap();
    watcher.kill().unwrap();
    assert_eq!(watcher.wait().unwrap(), Exit::Signal(libc::SIGKILL));
    for _ in 0..3 {
        queue.put(b"x").unwrap();
        assert!(is_readable(&watch, Duration::ZERO));
        drain(&queue);
        watch.settle();
        assert!(!is_readable(&watch, Duration::ZERO));
    }
}

#[cfg(feature = "crash-points")]
mod everywhere {
    use std::io::Write;
    use std::path::{Path, PathBuf};
    use std::sync::OnceLock;
    use std::sync::atomic::AtomicU32;
    use std::sync::atomic::Ordering::Relaxed;
    use std::time::Instant;

    use super::*;
    use common::{Holds, Test, die};
    use sidestep::channel::{Brief, EnvelopeBox, Put, Queue, Taken, Watch};
    use sidestep::crash;
    use sidestep::shm::{Envelope, Family, Kind, Ref};
    use sidestep::sync::{Population, Stamp};

    pub const TESTS: [Test; 22] = [
        ("death_anywhere_in_put", put),
        (
            "death_anywhere_in_a_put_that_needs_a_segment",
            put_in_a_new_segment,
        ),
        ("death_anywhere_in_put_many", put_many),
        ("death_anywhere_in_put_of_an_envelope", put_envelope),
        ("death_anywhere_in_put_with_a_watcher", put_watched),
        ("death_anywhere_in_watching", watch),
        ("death_anywhere_in_take", take),
        ("death_anywhere_with_brief_messages", brief_messages),
        (
            "record_of_the_last_take_is_right_at_each_step",
            record_of_the_last_take,
        ),
        (
            "death_anywhere_in_take_across_segments",
            take_across_segments,
        ),
        ("death_anywhere_in_take_of_an_envelope", take_envelope),
        (
            "death_anywhere_in_making_and_dropping_a_queue",
            make_and_drop_a_queue,
        ),
        ("death_anywhere_in_creating_memory", create_memory),
        ("death_anywhere_in_opening_a_handle", open_a_handle),
        ("death_anywhere_in_giving_memory_back", give_memory_back),
        ("death_anywhere_in_giving_back_too_soon", give_back_too_soon),
        ("death_anywhere_in_cleaning_up_after_the_dead", clean_up),
        ("death_anywhere_in_fork", fork),
        ("death_anywhere_in_lock_and_release", lock_and_release),
        ("death_anywhere_in_a_barrier", barrier),
        ("death_anywhere_in_running_a_task", run_a_task),
        (
            "slot_freed_by_a_dying_cleaner_serves_the_next",
            slot_of_a_dying_cleaner,
        ),
    ];

    /// Where the tests, each in a process of its own, write the points that were passed, and those
    /// at which something died: lines of a scenario, `died` or `passed`, and a point's name.
    static REACHED: OnceLock<PathBuf> = OnceLock::new();
    /// Counts the scenarios of a test.
    static SCENARIO: AtomicU32 = AtomicU32::new(0);
    /// The process that runs the test; victims are its children.
    static TESTER: AtomicU32 = AtomicU32::new(0);

    /// Before the first test.
    pub fn collect_points() {
        let name = format!("sidestep-crash-{}", sidestep::os::process::pid());
        let _ = REACHED.set(std::env::temp_dir().join(name));
        crash::tell(note_death);
    }

    fn scenario() -> String {
        format!("{}.{}", TESTER.load(Relaxed), SCENARIO.load(Relaxed))
    }

    fn note(text: &str) {
        let path = REACHED.get().expect("collect_points was called");
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path);
        file.unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn note_death(name: &str) {
        if std::env::var_os("TELL").is_some() {
            eprintln!("killed at {name}");
        }
        note(&format!("{} died {name}\n", scenario()));
        note_passed();
    }

    fn note_passed() {
        let scenario = scenario();
        let lines = crash::passed()
            .into_iter()
            .map(|(name, _)| format!("{scenario} passed {name}\n"));
        note(&lines.collect::<String>());
    }

    /// The points that were noted as `what` (in one scenario or in all).
    fn noted(scenario: Option<&str>, what: &str) -> BTreeSet<String> {
        let path = REACHED.get().expect("collect_points was called");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let words = text.lines().map(|line| {
            let mut words = line.splitn(3, ' ');
            [(); 3].map(|()| words.next().unwrap_or_default().to_owned())
        });
        words
            .filter(|[of, is, _]| scenario.is_none_or(|name| name == of) && is == what)
            .map(|[.., name]| name)
            .collect()
    }

    /// Where a victim dies.
    #[derive(Clone, Copy)]
    pub enum Death<'a> {
        /// At the point that it comes to as this one, counted from 1.
        Step(u32),
        /// At the first point of this name.
        At(&'a str),
    }

    impl Death<'_> {
        /// Does what dies, or does not if there are too few points.
        pub fn awaits(self, act: impl FnOnce()) {
            match self {
                Death::Step(step) => crash::arm(step),
                Death::At(name) => crash::arm_at(name, 1),
            }
            act();
            note_passed();
            crash::arm(0);
        }
    }

    impl std::fmt::Display for Death<'_> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            match self {
                Death::Step(step) => write!(f, "step {step}"),
                Death::At(name) => write!(f, "at \"{name}\""),
            }
        }
    }

    /// Runs a scenario with a victim that dies one step later each time, until it survives (the
    /// scenario says whether it died). Where others have a part in it, the steps are not the same
    /// each time, and one may be missed; so points that were only passed follow by their names.
    pub fn until_it_survives(scenario_with: impl Fn(Death) -> bool) {
        const TRIES: u32 = 50;
        TESTER.store(sidestep::os::process::pid(), Relaxed);
        SCENARIO.fetch_add(1, Relaxed);
        let mut step = 1;
        while scenario_with(Death::Step(step)) {
            step += 1;
        }
        assert!(step > 1, "there was no step");
        println!("    {} steps", step - 1);
        let scenario = scenario();
        let died = noted(Some(&scenario), "died");
        for name in noted(Some(&scenario), "passed").difference(&died) {
            println!("    once more for \"{name}\"");
            let _ = (0..TRIES).any(|_| scenario_with(Death::At(name)));
        }
    }

    /// The names of all points, as the engine's source has them.
    fn points_in_source(folder: &Path, names: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                points_in_source(&path, names);
            } else {
                let text = std::fs::read_to_string(&path).unwrap();
                for call in text.split("crash::point(").skip(1) {
                    names.push(call.split('"').nth(1).unwrap_or_default().to_owned());
                }
            }
        }
    }

    /// The last test: those before it have killed a process at each point that there is.
    pub fn every_point() {
        let mut names = Vec::new();
        points_in_source(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
            &mut names,
        );
        let all: BTreeSet<String> = names.iter().cloned().collect();
        assert_eq!(all.len(), names.len(), "two points have the same name");
        let reached = noted(None, "died");
        let _ = std::fs::remove_file(REACHED.get().expect("collect_points was called"));
        println!("    {} of {} points", reached.len(), all.len());
        if std::env::args().len() > 1 {
            println!("    which is no wonder: only some of the tests ran");
            return;
        }
        let missing: Vec<_> = all.difference(&reached).collect();
        assert!(missing.is_empty(), "nothing ever died at {missing:?}");
    }

    fn descriptors() -> usize {
        std::fs::read_dir("/proc/self/fd").unwrap().count()
    }

    /// Waits until the dead have left nothing, however many of them nobody can reap.
    pub fn assert_back_at(family: &'static Family, before: &Holds, what: &str) {
        let started = Instant::now();
        while holds(family) != *before {
            family.clean_dead();
            if started.elapsed() > Duration::from_secs(20) {
                assert_eq!(holds(family), *before, "{what}");
            }
            std::thread::yield_now();
        }
        family.clean_dead();
        assert_eq!(family.audit(), Ok(()), "{what}");
    }

    /// Has a child do `act` and die at its first step, then another at the second, and so on until
    /// one gets through. After each, `check` must find things in order (it is told whether the
    /// child died), and nothing may be left over.
    pub fn at_each_step<S>(setup: impl Fn() -> S, act: impl Fn(&S), check: impl Fn(&S, bool)) {
        at_each_step_after(setup, |_| (), act, check);
    }

    /// As [`at_each_step`]; when the child has been made and before it acts, something happens. (To
    /// make a child repairs the books, if somebody has died over them.)
    pub fn at_each_step_after<S>(
        setup: impl Fn() -> S,
        incident: impl Fn(&S),
        act: impl Fn(&S),
        check: impl Fn(&S, bool),
    ) {
        let family = settled_family();
        until_it_survives(|death| {
            let (before, open) = (holds(family), descriptors());
            let state = setup();
            let happened = SharedEvent::new().unwrap();
            let mut victim = Child::fork(|| {
                let _ = persist(|| happened.wait(forever));
                death.awaits(|| act(&state));
                0
            })
            .unwrap();
            incident(&state);
            happened.set();
            let died = match victim.wait().unwrap() {
                Exit::Signal(libc::SIGKILL) => true,
                Exit::Code(0) => false,
                exit => panic!("{death}: {exit:?}"),
            };
            check(&state, died);
            drop((state, happened, victim));
            assert_back_at(family, &before, &death.to_string());
            assert_eq!(descriptors(), open, "{death}: descriptors");
            died
        });
    }

    /// A queue with `count` messages of producer 0.
    pub fn queue_with(count: u32) -> Queue {
        let queue = QueueOptions::new().create().unwrap();
        (0..count).for_each(|number| queue.put(&message(0, number)).unwrap());
        queue
    }

    /// The queue holds the numbers `0..least` of producer 0, perhaps up to `most`, and works.
    pub fn assert_holds(queue: &Queue, least: u32, most: u32) {
        queue.put(&message(1, 0)).unwrap();
        let len = queue.len();
        let all = by_producer(&drain(queue));
        let numbers = all.get(&0).cloned().unwrap_or_default();
        assert!(
            numbers.iter().copied().eq(0..numbers.len() as u32),
            "{numbers:?}"
        );
        let range = least as usize..=most as usize;
        assert!(
            range.contains(&numbers.len()),
            "{} of {range:?}",
            numbers.len()
        );
        assert_eq!(len as usize, numbers.len() + 1);
        assert_eq!(all[&1], [0]);
        assert!(queue.is_empty());
    }

    fn put() {
        at_each_step(
            || queue_with(3),
            |queue| queue.put(&message(0, 3)).unwrap(),
            |queue, died| assert_holds(queue, if died { 3 } else { 4 }, 4),
        );
        // The same, but consumers come first: what they find has been put, once and for all.
        at_each_step(
            || queue_with(3),
            |queue| queue.put(&message(0, 3)).unwrap(),
            |queue, died| {
                let found = drain(queue).len() as u32;
                assert!(found == 4 || died && found == 3);
                (0..found).for_each(|_| assert!(queue.task_done()));
                assert!(!queue.task_done());
                assert_holds(queue, 0, 0);
                assert_eq!(queue.counts(), (found + 1, found + 1));
            },
        );
    }

    fn put_watched() {
        let watched = || {
            let queue = queue_with(0);
            let watch = queue.watch().unwrap();
            (queue, watch)
        };
        // Whatever is there, who only polls the descriptor must know of it.
        let check = |(queue, watch): &(Queue, Watch), died: bool| {
            let readable = is_readable(watch, Duration::ZERO);
            assert!(readable || queue.is_empty() && died);
            watch.settle();
            assert_eq!(is_readable(watch, Duration::ZERO), !queue.is_empty());
            assert_holds(queue, u32::from(!died), 2);
            watch.settle();
            assert!(!is_readable(watch, Duration::ZERO));
        };
        at_each_step(
            watched,
            |(queue, _)| queue.put(&message(0, 0)).unwrap(),
            check,
        );
        at_each_step(
            watched,
            |(queue, _)| {
                let messages = [message(0, 0), message(0, 1)];
                let done = queue.try_put_many(0, messages.iter().map(Vec::as_slice));
                assert_eq!(done.unwrap(), 2);
            },
            check,
        );
        at_each_step(
            || {
                let (queue, watch) = watched();
                queue.put(&message(0, 0)).unwrap();
                drain(&queue);
                watch.settle();
                (queue, watch)
            },
            |(queue, _)| queue.put(&[7; 40_000]).unwrap(),
            |(queue, watch), died| {
                let readable = is_readable(watch, Duration::ZERO);
                let found = drain(queue).len();
                assert!(readable && found == 1 || died && found == 0);
            },
        );
    }

    fn watch() {
        at_each_step(
            || queue_with(0),
            |queue| drop(queue.watch().unwrap()),
            |queue, _| {
                let watches: Vec<Watch> =
                    (0..MOST_WATCHERS).map(|_| queue.watch().unwrap()).collect();
                queue.put(&message(0, 0)).unwrap();
                for watch in &watches {
                    assert!(is_readable(watch, Duration::ZERO));
                }
                assert_holds(queue, 1, 1);
            },
        );
    }

    fn put_in_a_new_segment() {
        // The first put of all makes the first segment.
        at_each_step(
            || queue_with(0),
            |queue| queue.put(&message(0, 0)).unwrap(),
            |queue, died| assert_holds(queue, u32::from(!died), 1),
        );
        // The first segment has 2 KiB: this is the message that does not fit any more.
        let full = || {
            let queue = queue_with(5);
            while queue.len() < 8 {
                queue.put(&message(0, queue.len())).unwrap();
            }
            queue
        };
        at_each_step(
            full,
            |queue| (8..20).for_each(|number| queue.put(&message(0, number)).unwrap()),
            |queue, died| assert_holds(queue, if died { 8 } else { 20 }, 20),
        );
    }

    fn put_many() {
        at_each_step(
            || queue_with(1),
            |queue| {
                let messages: Vec<_> = (1..30).map(|number| message(0, number)).collect();
                let put = queue.try_put_many(0, messages.iter().map(Vec::as_slice));
                assert_eq!(put.unwrap(), 29);
            },
            |queue, died| assert_holds(queue, if died { 1 } else { 30 }, 30),
        );
    }

    /// An envelope that owns a lock of its own and carries a message.
    pub fn envelope(number: u32) -> Envelope {
        let family = family().unwrap();
        let lock = SharedLock::new(false).unwrap();
        let refs = vec![lock.object().try_clone().unwrap()];
        let message = message(0, number);
        let envelope = Envelope::new(family, message.len() as u64, refs).unwrap();
        envelope.write(0, &message);
        envelope
    }

    /// Dirty memory for the envelopes and queues to come: what is read before it was written must
    /// not look like nothing.
    fn litter() {
        let family = family().unwrap();
        let pieces: Vec<Ref> = [40, 100, 160, 200, 300, 400, 500, 600, 900, 1500]
            .iter()
            .flat_map(|size| {
                (0..3).map(|_| {
                    let piece = family.create(Kind::Memory, *size).unwrap();
                    for at in (0..*size / 8).map(|i| piece.payload() + 8 * i) {
                        family
                            .word(at)
                            .store(sidestep_offset(), std::sync::atomic::Ordering::Relaxed);
                    }
                    piece
                })
            })
            .collect();
        drop(pieces);
    }

    /// What looks most like a reference: the offset of the first block.
    fn sidestep_offset() -> u64 {
        16 << 20
    }

    fn put_envelope() {
        at_each_step(
            || {
                litter();
                queue_with(2)
            },
            |queue| {
                let put = queue.try_put_envelope(0, 0, envelope(2)).unwrap();
                assert_eq!(put.ok(), Some(2));
            },
            |queue, died| assert_holds(queue, if died { 2 } else { 3 }, 3),
        );
    }

    /// Numbers of producer 0 that are left in the queue: from `first` or the one after it.
    fn assert_taken(queue: &Queue, most: u32, died: bool, end: u32) {
        queue.put(&message(0, end)).unwrap();
        let len = queue.len();
        let left = by_producer(&drain(queue)).remove(&0).unwrap();
        assert_eq!(len as usize, left.len());
        let first = left[0];
        assert!(left.iter().copied().eq(first..=end), "{left:?}");
        assert!(first <= most && (died || first == most), "from {first} on");
    }

    fn take() {
        at_each_step(
            || queue_with(3),
            |queue| {
                let message = queue.get(None).unwrap().unwrap();
                assert_eq!(checked(&message), (0, 0));
            },
            |queue, died| assert_taken(queue, 1, died, 3),
        );
    }

    fn brief_messages() {
        let brief = |number| {
            // A message without anything between its numbers and its sum.
            let message = (0..u32::MAX)
                .map(|k| message(0, number + 50 * k))
                .find(|message| message.len() <= Brief::MOST);
            Brief::of(&message.unwrap()).unwrap()
        };
        let first = [brief(0), brief(1), brief(2)];
        let numbers = |queue: &Queue| -> Vec<u32> {
            let all = drain(queue);
            all.iter().map(|message| checked(message).1).collect()
        };
        let number = |message: &Brief| checked(message.as_slice()).1;
        let three = || {
            let queue = QueueOptions::new().create().unwrap();
            for message in &first {
                assert!(matches!(queue.try_put_brief(0, message), Ok(Put::Done(_))));
            }
            queue
        };
        let more = brief(3);
        at_each_step(
            three,
            |queue| assert!(matches!(queue.try_put_brief(0, &more), Ok(Put::Done(3)))),
            |queue, died| {
                let found = numbers(queue);
                assert!(found.len() == 4 || died && found.len() == 3);
                let all = first.iter().chain([&more]).map(number);
                assert_eq!(found, all.take(found.len()).collect::<Vec<_>>());
            },
        );
        at_each_step(
            three,
            |queue| {
                let mut taken = Brief::new();
                assert!(queue.try_take_brief(&mut taken));
                assert_eq!(number(&taken), number(&first[0]));
            },
            |queue, died| {
                let found = numbers(queue);
                assert!(found.len() == 2 || died && found.len() == 3);
                let all: Vec<_> = first.iter().map(number).collect();
                assert_eq!(found, all[3 - found.len()..]);
            },
        );
    }

    fn record_of_the_last_take() {
        // Whatever step the taker died at, its record names what is not in the queue any more.
        type Things = (Queue, Ref);
        let with_a_note_of_the_victim = |queue: Queue| -> Things {
            (queue, family().unwrap().create(Kind::Memory, 8).unwrap())
        };
        let victim_is_me = |(_, victim): &Things| {
            let me = u64::from(victim.family().me().word());
            let word = victim.family().word(victim.payload());
            word.store(me, std::sync::atomic::Ordering::Relaxed);
        };
        let last_taken = |(_, victim): &Things| {
            let word = victim.family().word(victim.payload());
            let stamp = word.load(std::sync::atomic::Ordering::Relaxed) as u32;
            victim.family().last_taken(Stamp::of_word(stamp))
        };
        let check_all = |count: u32, things: &Things, _| {
            let queue = &things.0;
            let gone = count - queue.len();
            let taken = last_taken(things);
            assert_eq!(taken.map_or(0, |take| take.last + 1), gone);
            assert!(taken.is_none_or(|take| take.source == queue.source()));
            drain(queue);
        };
        let check = |things: &Things, died| check_all(3, things, died);
        at_each_step(
            || with_a_note_of_the_victim(queue_with(3)),
            |things| {
                victim_is_me(things);
                drop(things.0.get(None).unwrap());
            },
            check,
        );
        at_each_step(
            || {
                let queue = QueueOptions::new().create().unwrap();
                (0..3u8).for_each(|number| queue.put(&[number]).unwrap());
                with_a_note_of_the_victim(queue)
            },
            |things| {
                victim_is_me(things);
                assert!(things.0.try_take_brief(&mut Brief::new()));
            },
            check,
        );
        // 3 lie in one segment; 100 need several.
        for count in [3, 100] {
            at_each_step(
                || with_a_note_of_the_victim(queue_with(count)),
                |things| {
                    victim_is_me(things);
                    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
                    things
                        .0
                        .try_take_many(count as usize, &mut bytes, &mut ends);
                    assert_eq!(ends.len(), count as usize);
                },
                |things, died| {
                    let gone = count - things.0.len();
                    assert_eq!(last_taken(things).map_or(0, |take| take.count), gone);
                    check_all(count, things, died);
                },
            );
        }
        at_each_step(
            || {
                let queue = QueueOptions::new().create().unwrap();
                for number in 0..3 {
                    let put = queue.try_put_envelope(0, 0, envelope(number)).unwrap();
                    assert_eq!(put.ok(), Some(number));
                }
                with_a_note_of_the_victim(queue)
            },
            |things| {
                victim_is_me(things);
                drop(things.0.get(None).unwrap());
            },
            check,
        );
    }

    fn take_across_segments() {
        at_each_step(
            || queue_with(40),
            |queue| (0..40).for_each(|_| drop(queue.get(None).unwrap())),
            |queue, died| assert_taken(queue, 40, died, 40),
        );
    }

    fn take_envelope() {
        at_each_step(
            || {
                litter();
                let queue = QueueOptions::new().create().unwrap();
                for number in 0..2 {
                    let put = queue.try_put_envelope(0, 0, envelope(number)).unwrap();
                    assert!(put.is_ok());
                }
                queue
            },
            |queue| {
                let Taken::Envelope {
                    envelope: EnvelopeBox(envelope),
                    ..
                } = queue.try_take(&mut Vec::new()).unwrap()
                else {
                    panic!("no envelope")
                };
                let mut bytes = Vec::new();
                envelope.read(0, envelope.len(), &mut bytes);
                assert_eq!(checked(&bytes), (0, 0));
            },
            |queue, died| assert_taken(queue, 1, died, 2),
        );
    }

    fn make_and_drop_a_queue() {
        at_each_step(
            litter,
            |()| {
                let queue = queue_with(20);
                assert!(queue.try_put_envelope(0, 0, envelope(20)).unwrap().is_ok());
                drop(queue);
            },
            |(), _| {
                let queue = queue_with(20);
                assert_holds(&queue, 20, 20);
            },
        );
    }

    fn create_memory() {
        at_each_step(
            || {
                litter();
                // The third of the following does not fit into the table's first chunk.
                let family = family().unwrap();
                (0..117)
                    .map(|_| family.create(Kind::Memory, 8).unwrap())
                    .collect::<Vec<_>>()
            },
            |_| {
                let family = family().unwrap();
                for size in [8, 100, 1000] {
                    std::mem::forget(family.create(Kind::Memory, size).unwrap());
                }
            },
            |_, _| {
                let family = family().unwrap();
                for size in [8, 100, 1000] {
                    let block = family.create(Kind::Memory, size).unwrap();
                    let word = family.word(block.payload());
                    assert_eq!(word.load(std::sync::atomic::Ordering::Relaxed), 0);
                }
            },
        );
    }

    fn open_a_handle() {
        at_each_step(
            || SharedLock::new(false).unwrap(),
            |lock| {
                let other = SharedLock::from_handle(lock.object().handle()).unwrap();
                let third = other.object().try_clone().unwrap();
                drop((other, third));
            },
            |lock, _| {
                let other = SharedLock::from_handle(lock.object().handle()).unwrap();
                let family = other.family();
                assert_eq!(other.try_acquire(family, 1), Some(Wait::Ready));
            },
        );
    }

    fn give_memory_back() {
        at_each_step(
            || {
                let family = family().unwrap();
                let blocks: Vec<_> = (1..4)
                    .map(|i| family.create(Kind::Memory, i << 20).unwrap())
                    .collect();
                for block in &blocks {
                    let word = family.word(block.payload() + 8192);
                    word.store(7, std::sync::atomic::Ordering::Relaxed);
                }
            },
            |()| {
                // More than there is: what is free goes back before that is admitted.
                let family = family().unwrap();
                let limit = family.usage().limit;
                assert!(family.create(Kind::Memory, limit).is_err());
                assert_eq!(family.usage().warm >> 16, 0);
            },
            |(), _| {
                let family = family().unwrap();
                for i in 1..4 {
                    let block = family.create(Kind::Memory, i << 20).unwrap();
                    let word = family.word(block.payload() + 8192);
                    assert_eq!(word.load(std::sync::atomic::Ordering::Relaxed), 0);
                }
            },
        );
    }

    fn give_back_too_soon() {
        let fill = || -> Vec<Ref> {
            let family = family().unwrap();
            let block = || family.create(Kind::Memory, 4 << 20).unwrap();
            (0..3).map(|_| block()).collect()
        };
        at_each_step(
            || (),
            |()| {
                drop(fill());
                drop(fill());
                assert!(family().unwrap().usage().warm > 12 << 20);
            },
            // Where the victim was the last child, the reaping has set things back.
            |(), _| assert!(family().unwrap().usage().warm < 9 << 20),
        );
    }

    /// A dead process that nobody has cleaned up after; to be reaped by the caller.
    fn corpse() -> Child {
        let ready = SharedEvent::new().unwrap();
        let corpse = child(|| {
            let queue = queue_with(10);
            assert!(queue.try_put_envelope(0, 0, envelope(10)).unwrap().is_ok());
            let lock = SharedLock::new(false).unwrap();
            assert_eq!(lock.try_acquire(lock.family(), 1), Some(Wait::Ready));
            ready.set();
            sleep_for_ever();
        });
        assert_eq!(persist(|| ready.wait(forever)), Wait::Ready);
        corpse.kill().unwrap();
        let sentinel = corpse.sentinel().unwrap();
        assert!(sidestep::os::process::poll_readable(sentinel, None).unwrap());
        corpse
    }

    fn clean_up() {
        at_each_step(
            corpse,
            |_| family().unwrap().clean_dead(),
            |corpse, _| {
                let pid = corpse.pid();
                let _ = sidestep::os::process::reap(pid, true);
            },
        );
    }

    fn slot_of_a_dying_cleaner() {
        // As above, but the next process takes the freed slot before anybody looks at the books.
        let family = settled_family();
        until_it_survives(|death| {
            let before = holds(family);
            let mut corpse = corpse();
            let go = SharedEvent::new().unwrap();
            let lock = SharedLock::new(false).unwrap();
            let handle = lock.object().handle();
            // Parent and child both let go of it.
            let lock = std::cell::Cell::new(Some(lock));
            let mut cleaner = Child::fork(|| {
                death.awaits(|| family.clean_dead());
                0
            })
            .unwrap();
            let sentinel = cleaner.sentinel().unwrap();
            assert!(sidestep::os::process::poll_readable(sentinel, None).unwrap());
            let next = child(|| {
                assert_eq!(persist(|| go.wait(forever)), Wait::Ready);
                assert!(family.member(family.me()).is_some());
                // The reference that came with the slot is the last one, and counts.
                assert!(SharedLock::from_handle(handle).is_ok());
                drop(lock.take());
                assert!(SharedLock::from_handle(handle).is_err(), "it was void");
            });
            family.clean_dead();
            drop(lock.take());
            go.set();
            join(vec![next]);
            let died = cleaner.wait().unwrap() != Exit::Code(0);
            let _ = corpse.wait().unwrap();
            drop(go);
            assert_back_at(family, &before, &death.to_string());
            died
        });
    }

    fn fork() {
        at_each_step(
            || (queue_with(2), SharedLock::new(false).unwrap()),
            |(queue, lock)| {
                let mut grandchild = child(|| {
                    assert!(SharedLock::from_handle(lock.object().handle()).is_ok());
                    assert!(!queue.is_empty());
                });
                if grandchild.wait().unwrap() != Exit::Code(0) {
                    die();
                }
            },
            |(queue, _), _| assert_holds(queue, 2, 2),
        );
    }

    fn lock_and_release() {
        for recursive in [false, true] {
            at_each_step(
                || SharedLock::new(recursive).unwrap(),
                |lock| {
                    let family = lock.family();
                    assert_eq!(persist(|| lock.acquire(family, 1, forever)), Wait::Ready);
                    lock.release(family, 1).unwrap();
                },
                |lock, died| {
                    let family = lock.family();
                    let wait = persist(|| lock.acquire(family, 1, forever));
                    if let Wait::Abandoned(_) = wait {
                        assert!(died && lock.recover());
                        assert_eq!(persist(|| lock.acquire(family, 1, forever)), Wait::Ready);
                    } else {
                        assert_eq!(wait, Wait::Ready);
                    }
                    lock.release(family, 1).unwrap();
                },
            );
        }
    }

    fn barrier() {
        at_each_step(
            || {
                let barrier = SharedBarrier::new(2).unwrap();
                let waiter = party(&barrier);
                (barrier, waiter)
            },
            |(barrier, _)| arrive_last(barrier, 1),
            |(barrier, waiter), died| {
                // The other was let through or told; it does not wait for ever.
                let told = sidestep::os::process::reap(waiter.pid(), true).unwrap();
                let passed = told == Some(Exit::Code(1));
                assert!(passed || died && told == Some(Exit::Code(2)), "{told:?}");
                let family = barrier.family();
                family.clean_dead();
                if barrier.is_broken() {
                    barrier.reset(family);
                }
                let mut other = party(barrier);
                arrive_last(barrier, 1);
                assert_eq!(other.wait().unwrap(), Exit::Code(1));
            },
        );
    }

    fn run_a_task() {
        // Whether the survivors look at the board before they go on, or after.
        for board_first in [true, false] {
            at_each_step(
                || {
                    let pool = Pool::new(2).unwrap();
                    let mut outcomes = Outcomes::default();
                    (0..2).for_each(|id| outcomes.submit(&pool, id));
                    (pool, std::cell::RefCell::new(outcomes))
                },
                |(pool, _)| {
                    let mut task = Vec::new();
                    let Ok(Some(Delivery::Short { number })) = pool.take(0, &mut task) else {
                        panic!("no task")
                    };
                    let result = message(8, checked(&task).1);
                    pool.finish(0, number, Parcel::Short(&result)).unwrap();
                },
                |(pool, outcomes), died| {
                    let mut outcomes = outcomes.borrow_mut();
                    let finish_all = || {
                        pool.close();
                        work(pool, 1);
                    };
                    if board_first {
                        outcomes.bury(pool, 0);
                        finish_all();
                        outcomes.collect(pool);
                    } else {
                        outcomes.collect(pool);
                        let lost_later = {
                            finish_all();
                            pool.lost(0)
                        };
                        outcomes.collect(pool);
                        if let Some(number) = lost_later {
                            outcomes.lost += usize::from(outcomes.open.remove(&number).is_some());
                        }
                    }
                    assert!(outcomes.open.is_empty(), "{:?}", outcomes.open);
                    assert!(outcomes.lost <= usize::from(died));
                },
            );
        }
        // A note that was left is of a task that was taken, by nobody else.
        at_each_step(
            || {
                let pool = Pool::new(2).unwrap();
                let number = pool.submit(Parcel::Short(&message(7, 0))).unwrap();
                (pool, number)
            },
            |(pool, _)| {
                let taken = pool.take(0, &mut Vec::new()).unwrap();
                assert!(taken.is_some());
            },
            |(pool, number), _| {
                let other = pool.take(1, &mut Vec::new()).unwrap().is_some();
                let lost = pool.lost(0);
                assert_eq!(lost, (!other).then_some(*number));
            },
        );
    }
}
