//! Scenarios of the real engine in random orders, with deaths at random steps: `make schedules`.
//!
//! Each order has a number. `SCHEDULES=first` or `SCHEDULES=first..last` says which to run; a
//! failing one is named, and running it alone repeats it.
#![cfg(shuttle)]

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, MaxSteps, Runner};
use sidestep::channel::pipe::{self, End, Message, Ready, Received};
use sidestep::channel::stream::Step;
use sidestep::channel::{Queue, QueueOptions};
use sidestep::os::clock::Deadline;
use sidestep::pool::{Delivery, Parcel, Pool};
use sidestep::primitive::{Ordering, nap};
use sidestep::shm::family;
use sidestep::simulated::{Process, world};
use sidestep::sync::{
    Answer, Arrival, Population, SLICE, SharedBarrier, SharedCondition, SharedLock,
    SharedSemaphore, Stamp, Wait,
};

/// Orders of each scenario, where the environment says nothing.
const ORDERS: std::ops::Range<u64> = 0..1000;

fn orders() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("SCHEDULES") else {
        return ORDERS;
    };
    let number = |text: &str| {
        text.trim()
            .parse::<u64>()
            .expect("SCHEDULES=7 or SCHEDULES=0..1000")
    };
    match text.split_once("..") {
        Some((first, last)) => number(first)..number(last),
        None => number(&text)..number(&text) + 1,
    }
}

/// Runs the scenario in many orders; it gets numbers that decide what the order does not.
fn check(name: &'static str, scenario: fn(&mut Dice)) {
    for number in orders() {
        let mut config = Config::new();
        config.max_steps = MaxSteps::FailAfter(400_000);
        config.silence_warnings = true;
        config.failure_persistence = shuttle::FailurePersistence::None;
        // Half of them change tasks at every step, half only now and then.
        let scheduler: Box<dyn Scheduler + Send> = match number % 2 {
            0 => Box::new(RandomScheduler::new_from_seed(number, 1)),
            _ => Box::new(PctScheduler::new_from_seed(number, 4, 1)),
        };
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            Runner::new(scheduler, config).run(move || {
                let mut dice = Dice(number);
                world(|| {
                    scenario(&mut dice);
                    let family = family().unwrap();
                    family.clean_dead();
                    family.audit().unwrap();
                });
            });
        }));
        if let Err(why) = run {
            eprintln!("{name} fails in order {number}: SCHEDULES={number} repeats it");
            std::panic::resume_unwind(why);
        }
    }
}

/// Numbers that follow from the number of the order (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % u64::from(limit)) as u32
    }

    /// When a process is killed: seldom at once, often in the middle, sometimes not at all.
    fn death(&mut self) -> Option<u32> {
        match self.below(4) {
            0 => None,
            1 => Some(1 + self.below(60)),
            _ => Some(1 + self.below(500)),
        }
    }
}

/// What the scenario's processes tell the test; no part of the world.
type Told<T> = Arc<Mutex<Vec<T>>>;

fn tell<T>(told: &Told<T>, what: T) {
    told.lock().unwrap().push(what);
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[..4].try_into().unwrap())
}

/// An item that is short, or long enough to travel as an envelope.
fn item(producer: u32, number_of: u32) -> Vec<u8> {
    let mut item = (producer << 8 | number_of).to_le_bytes().to_vec();
    if number_of % 3 == 2 {
        item.resize(20_000, producer as u8);
    }
    item
}

/// What a consumer got must be whole.
fn checked(item: &[u8]) -> u32 {
    let (producer, number_of) = (number(item) >> 8, number(item) & 0xff);
    assert_eq!(item, self::item(producer, number_of));
    number(item)
}

#[test]
fn queue_with_deaths() {
    check("queue_with_deaths", |dice| {
        let limit = dice.below(3);
        let queue = QueueOptions::new().max_items(limit).create().unwrap();
        let handle = queue.object().handle();
        let (put, got): (Told<u32>, Told<(u32, u32)>) = Default::default();
        // At most one kind dies, else a full queue may have no consumer left.
        let producers_die = dice.below(2) == 0;
        let producers: Vec<_> = (1..=2)
            .map(|producer| {
                let put = put.clone();
                let death = if producers_die { dice.death() } else { None };
                Process::start(death, move || {
                    let queue = Queue::from_handle(handle).unwrap();
                    for number in 0..4 {
                        queue.put(&item(producer, number)).unwrap();
                        tell(&put, producer << 8 | number);
                    }
                })
            })
            .collect();
        let consumers: Vec<_> = (1..=3)
            .map(|consumer| {
                let got = got.clone();
                let mortal = !producers_die && consumer < 3;
                let death = if mortal { dice.death() } else { None };
                Process::start(death, move || {
                    let queue = Queue::from_handle(handle).unwrap();
                    while let Some(item) = queue.get(None).unwrap() {
                        tell(&got, (consumer, checked(&item)));
                    }
                })
            })
            .collect();
        let dead_producers = producers.into_iter().map(Process::join);
        let dead_producers = dead_producers.filter(|lived| !lived).count();
        queue.close();
        let lived: Vec<_> = consumers.into_iter().map(Process::join).collect();
        let dead_consumers = lived.iter().filter(|lived| !**lived).count();
        assert!(queue.is_empty());
        let (put, got) = (put.lock().unwrap().clone(), got.lock().unwrap().clone());
        let mut all: Vec<_> = got.iter().map(|(_, item)| *item).collect();
        all.sort_unstable();
        let count = all.len();
        all.dedup();
        assert_eq!(all.len(), count, "an item came twice: {got:?}");
        let lost = put.iter().filter(|item| !all.contains(item)).count();
        assert!(lost <= dead_consumers, "put {put:?}, got {got:?}");
        let unsaid = all.iter().filter(|item| !put.contains(item)).count();
        assert!(unsaid <= dead_producers, "put {put:?}, got {got:?}");
        // What one consumer gets of one producer comes in order.
        let mut last = BTreeMap::new();
        for (consumer, item) in got {
            let before = last.insert((consumer, item >> 8), item);
            assert!(before < Some(item));
        }
        drop(queue);
    });
}

/// A process that puts one message of `len` bytes.
fn putter(queue: &Queue, len: usize) -> Process {
    let handle = queue.object().handle();
    Process::start(None, move || {
        let queue = Queue::from_handle(handle).unwrap();
        queue.put(&vec![1; len]).unwrap();
    })
}

/// A process that takes as many messages.
fn taker(queue: &Queue, count: u32) -> Process {
    let handle = queue.object().handle();
    Process::start(None, move || {
        let queue = Queue::from_handle(handle).unwrap();
        (0..count).for_each(|_| drop(queue.get(None).unwrap().unwrap()));
    })
}

// Nobody dies in these two, so who waits for room has to be woken: no sleep ends by itself.

#[test]
fn full_queue() {
    check("full_queue", |_| {
        let queue = QueueOptions::new().max_items(2).create().unwrap();
        (0..2).for_each(|_| queue.put(b"x").unwrap());
        let producers = [1, 2].map(|len| putter(&queue, len));
        assert!(taker(&queue, 2).join());
        assert!(producers.into_iter().all(Process::join));
        assert_eq!(queue.len(), 2);
    });
}

#[test]
fn queue_full_of_bytes() {
    check("queue_full_of_bytes", |_| {
        let queue = QueueOptions::new().max_bytes(100).create().unwrap();
        (0..2).for_each(|_| queue.put(&[0; 40]).unwrap());
        let [long, short] = [100, 8].map(|len| putter(&queue, len));
        // Room for the short one alone, whoever came first.
        assert!(taker(&queue, 1).join());
        assert!(short.join());
        assert!(taker(&queue, 2).join());
        assert!(long.join());
        assert_eq!(queue.len(), 1);
    });
}

#[test]
fn watched_queue() {
    check("watched_queue", |dice| {
        let queue = QueueOptions::new().create().unwrap();
        let handle = queue.object().handle();
        let got: Told<u32> = Told::default();
        let watcher = {
            let got = got.clone();
            Process::start(None, move || {
                let queue = Queue::from_handle(handle).unwrap();
                let watch = queue.watch().unwrap();
                loop {
                    // As an event loop: sleep on the descriptor, then take what there is.
                    poll(watch.fd().as_fd());
                    while let Some(item) = queue.get(Some(Duration::ZERO)).unwrap() {
                        match number(&item) {
                            u32::MAX => return,
                            item => tell(&got, item),
                        }
                    }
                    watch.settle();
                }
            })
        };
        let thief = {
            let (got, death) = (got.clone(), dice.death());
            Process::start(death, move || {
                let queue = Queue::from_handle(handle).unwrap();
                for _ in 0..3 {
                    if let Some(item) = queue.get(Some(Duration::ZERO)).unwrap() {
                        tell(&got, number(&item));
                    }
                }
            })
        };
        let producers: Vec<_> = (1..=2)
            .map(|producer| {
                let death = dice.death();
                Process::start(death, move || {
                    let queue = Queue::from_handle(handle).unwrap();
                    for number in 0..3 {
                        queue.put(&item(producer, number)).unwrap();
                    }
                })
            })
            .collect();
        let alive = producers
            .into_iter()
            .map(Process::join)
            .filter(|lived| *lived);
        let least = 3 * alive.count();
        let thief_lived = thief.join();
        queue.put(&u32::MAX.to_le_bytes()).unwrap();
        assert!(watcher.join());
        let mut all = got.lock().unwrap().clone();
        let count = all.len();
        assert!(count + usize::from(!thief_lived) >= least);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count, "an item came twice");
    });
}

fn poll(fd: std::os::fd::BorrowedFd<'_>) {
    use sidestep::primitive::socket::{Interest, poll};
    while poll(fd, Interest::Read, Some(SLICE)).unwrap().is_none() {}
}

#[test]
fn pool_with_deaths() {
    check("pool_with_deaths", |dice| {
        const TASKS: u32 = 5;
        let pool = Arc::new(Pool::new(2).unwrap());
        let handle = pool.handle();
        for task in 0..TASKS {
            let body = item(1, task);
            assert_eq!(pool.submit(Parcel::Short(&body[..4])).unwrap(), task);
        }
        let start = |line: u32, death: Option<u32>| {
            Process::start(death, move || {
                let pool = Pool::from_handle(handle).unwrap();
                let mut buffer = Vec::new();
                loop {
                    buffer.clear();
                    match pool.take(line, &mut buffer).unwrap() {
                        Some(Delivery::Short { number: task }) => {
                            assert_eq!(number(&buffer), 1 << 8 | task);
                            pool.finish(line, task, Parcel::Short(&buffer)).unwrap();
                        }
                        Some(_) => panic!("no such task was submitted"),
                        None if pool.is_closed() => return,
                        None => drop(pool.wait_task(Deadline::NEVER)),
                    }
                    pool.pass_on_tasks();
                }
            })
        };
        pool.close();
        let mut results = Vec::new();
        let mut lost = Vec::new();
        let collect = |results: &mut Vec<u32>| {
            let mut buffer = Vec::new();
            while let Some(delivery) = pool.collect(&mut buffer).unwrap() {
                match delivery {
                    Delivery::Short { number } => results.push(number),
                    _ => panic!("no such result was sent"),
                }
            }
        };
        // Workers that die are replaced, twice at most; the last ones live.
        for round in 0..3 {
            let workers = [0, 1].map(|line| {
                let death = if round < 2 { dice.death() } else { None };
                start(line, death)
            });
            for (line, worker) in [0, 1].into_iter().zip(workers) {
                if !worker.join() {
                    collect(&mut results);
                    lost.extend(pool.lost(line).filter(|task| !results.contains(task)));
                }
            }
        }
        collect(&mut results);
        let mut all = [results.clone(), lost.clone()].concat();
        all.sort_unstable();
        assert_eq!(
            all,
            (0..TASKS).collect::<Vec<_>>(),
            "{results:?} and lost {lost:?}"
        );
        assert_eq!(pool.waiting(), 0);
    });
}

fn forever() -> Option<Duration> {
    Some(SLICE)
}

fn persist(mut wait: impl FnMut() -> Wait) -> Wait {
    loop {
        match wait() {
            Wait::Interrupted => {}
            done => return done,
        }
    }
}

#[test]
fn lock_with_deaths() {
    check("lock_with_deaths", |dice| {
        let lock = SharedLock::new(dice.below(2) == 0).unwrap();
        let word = family()
            .unwrap()
            .create(sidestep::shm::Kind::Memory, 8)
            .unwrap();
        let (handle, word_handle) = (lock.object().handle(), word.handle());
        let processes: Vec<_> = (0..3)
            .map(|_| {
                let death = dice.death();
                Process::start(death, move || {
                    let family = family().unwrap();
                    let lock = SharedLock::from_handle(handle).unwrap();
                    let kind = sidestep::shm::Kind::Memory;
                    let word = sidestep::shm::Ref::from_handle(word_handle, kind).unwrap();
                    let word = family.word(word.payload());
                    let me = family.me().word();
                    for _ in 0..3 {
                        match persist(|| lock.acquire(family, 1, forever)) {
                            Wait::Ready => {}
                            Wait::Abandoned(_) => {
                                // One of those who are told repairs and goes on.
                                lock.recover();
                                continue;
                            }
                            other => panic!("{other:?}"),
                        }
                        // Nobody alive is here: who died here has left its number.
                        let before = word.swap(u64::from(me), Ordering::Relaxed);
                        assert!(before == 0 || family.is_dead(Stamp::of_word(before as u32)));
                        assert_eq!(word.swap(0, Ordering::Relaxed), u64::from(me));
                        lock.release(family, 1).unwrap();
                    }
                })
            })
            .collect();
        for process in processes {
            process.join();
        }
    });
}

#[test]
fn condition_and_barrier() {
    check("condition_and_barrier", |dice| {
        let family = family().unwrap();
        let lock = SharedLock::new(false).unwrap();
        let condition = SharedCondition::new().unwrap();
        let barrier = SharedBarrier::new(3).unwrap();
        let turns = SharedSemaphore::new(0, None).unwrap();
        let names = [
            lock.object(),
            condition.object(),
            barrier.object(),
            turns.object(),
        ]
        .map(|object| object.handle());
        let (met, told, ended): (Told<u32>, Told<u32>, Told<bool>) = Default::default();
        // Half of the orders are without deaths: there a lost wake-up is a deadlock.
        let deadly = dice.below(2) == 0;
        let processes: Vec<_> = (0..3)
            .map(|_| {
                let (met, told) = (met.clone(), told.clone());
                let death = if deadly { dice.death() } else { None };
                Process::start(death, move || {
                    let family = self::family().unwrap();
                    let [lock, condition, barrier, turns] = names;
                    let lock = SharedLock::from_handle(lock).unwrap();
                    let condition = SharedCondition::from_handle(condition).unwrap();
                    let barrier = SharedBarrier::from_handle(barrier).unwrap();
                    let turns = SharedSemaphore::from_handle(turns).unwrap();
                    for _ in 0..2 {
                        if meet(family, &barrier) {
                            tell(&met, 1);
                        }
                    }
                    if persist(|| lock.acquire(family, 1, forever)) != Wait::Ready {
                        lock.recover();
                        return;
                    }
                    let place = condition.enter(family).unwrap();
                    lock.release(family, 1).unwrap();
                    turns.release(1).unwrap();
                    while condition.sleep(place, SLICE) == Ok(Answer::None) {}
                    assert_eq!(condition.leave(place), Answer::Passed);
                    tell(&told, 1);
                })
            })
            .collect();
        if deadly {
            let watchers: Vec<_> = processes
                .into_iter()
                .map(|process| {
                    let ended = ended.clone();
                    Process::start(None, move || tell(&ended, process.join()))
                })
                .collect();
            while ended.lock().unwrap().len() < 3 {
                condition.pass(family, 1);
                if ended.lock().unwrap().contains(&false) {
                    // One that never came to the barrier is not missed there.
                    barrier.abort(family);
                }
                nap(SLICE);
            }
            for watcher in watchers {
                watcher.join();
            }
        } else {
            for _ in 0..3 {
                assert_eq!(persist(|| turns.acquire(forever)), Wait::Ready);
            }
            assert_eq!(condition.pass(family, 2), 2);
            assert_eq!(condition.pass(family, 2), 1);
            for process in processes {
                assert!(process.join());
            }
            assert_eq!(met.lock().unwrap().len(), 6);
            assert_eq!(told.lock().unwrap().len(), 3);
        }
        assert_eq!(condition.count(), (0, 0));
    });
}

/// One round at the barrier: whether it was passed.
fn meet(family: &'static sidestep::shm::Family, barrier: &SharedBarrier) -> bool {
    loop {
        match barrier.arrive(family) {
            Arrival::Last(_, round) => return barrier.complete(family, round),
            Arrival::Broken => return false,
            Arrival::Busy => nap(SLICE),
            Arrival::Wait(place, _) => loop {
                match barrier.sleep(place, SLICE) {
                    Ok(Answer::None) | Err(_) => {}
                    Ok(_) => return barrier.leave(place) == Answer::Passed,
                }
            },
        }
    }
}

type Side = (End, OwnedFd);

/// Sends a message; `false`: nobody is left to receive it.
fn send(side: &Side, bytes: &[u8]) -> bool {
    let parts = [bytes];
    let mut message = Message::Short(&parts);
    loop {
        match side.0.try_send(side.1.as_fd(), 0, message) {
            Ok(None) => return true,
            Ok(Some(back)) => message = back,
            Err(_) => return false,
        }
        if side
            .0
            .wait_room(side.1.as_fd(), bytes.len() as u64)
            .is_err()
        {
            return false;
        }
    }
}

/// Receives a message; `None`: nothing will come any more.
fn receive(side: &Side) -> Option<u32> {
    let mut bytes = Vec::new();
    loop {
        if let Received::Short { .. } = side.0.try_receive(side.1.as_fd(), &mut bytes).unwrap() {
            return Some(number(&bytes));
        }
        let ready = side.0.wait(side.1.as_fd(), Deadline::NEVER).unwrap();
        if ready == Step::Done(Ready::HungUp) && !side.0.has_messages() {
            return None;
        }
    }
}

#[test]
fn pipe_both_ways() {
    check("pipe_both_ways", |dice| {
        let [(near, near_socket), (far, far_socket)] = pipe::pair().unwrap();
        let handle = far.object().handle();
        let death = dice.death();
        let watched = dice.below(2) == 0;
        let other = Process::start(death, move || {
            let far = (End::from_handle(handle, 1).unwrap(), far_socket);
            if watched {
                far.0.watch(far.1.as_fd()).unwrap();
            }
            for number in 0..4 {
                if watched {
                    poll(far.1.as_fd());
                }
                assert_eq!(receive(&far), Some(number));
                assert!(send(&far, &(100 + number).to_le_bytes()));
                assert!(send(&far, &(200 + number).to_le_bytes()));
            }
        });
        drop(far);
        let near = (near, near_socket);
        let mut answers = Vec::new();
        let mut sent = 0;
        while sent < 4 && send(&near, &u32::to_le_bytes(sent)) {
            sent += 1;
            // Sometimes two questions are under way.
            if dice.below(2) == 0 {
                answers.extend(receive(&near));
            }
        }
        while let Some(answer) = receive(&near) {
            answers.push(answer);
        }
        let expected: Vec<_> = (0..4)
            .flat_map(|number| [100 + number, 200 + number])
            .collect();
        assert!(expected.starts_with(&answers), "{answers:?}");
        if other.join() {
            assert_eq!(answers, expected);
        }
    });
}

#[test]
fn objects_of_the_dead_come_back() {
    check("objects_of_the_dead_come_back", |dice| {
        let family = family().unwrap();
        let queue = QueueOptions::new().create().unwrap();
        let handle = queue.object().handle();
        // So that the tables have room, and what the arena holds can be compared.
        drop(SharedLock::new(false).unwrap());
        let blocks = |what: &str| {
            family.audit().unwrap_or_else(|why| panic!("{what}: {why}"));
            family.usage().blocks
        };
        let before = blocks("before");
        let processes: Vec<_> = (0..3)
            .map(|process| {
                let death = dice.death();
                Process::start(death, move || {
                    let queue = Queue::from_handle(handle).unwrap();
                    for number in 0..4 {
                        let lock = SharedLock::new(false).unwrap();
                        let again = SharedLock::from_handle(lock.object().handle()).unwrap();
                        drop(lock);
                        if process == 0 {
                            queue.put(&item(1, 2 + 3 * (number & 1))).unwrap();
                        } else {
                            let _ = queue.get(Some(Duration::ZERO)).unwrap();
                        }
                        drop(again);
                    }
                })
            })
            .collect();
        for process in processes {
            process.join();
        }
        while let Some(item) = queue.get(Some(Duration::ZERO)).unwrap() {
            checked(&item);
        }
        drop(queue);
        // The queue itself is gone, too.
        assert_eq!(blocks("after"), before - 1);
    });
}
