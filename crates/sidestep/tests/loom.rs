//! Models of the engine's words, run through every order of events that the memory model allows:
//! `RUSTFLAGS="--cfg loom" cargo test -p sidestep --profile models --test loom --target-dir target/loom`.
//!
//! A sleep in a model has no time limit, so each test also says that no wake-up is lost: if one
//! were, loom would find threads that wait for ever. Processes are threads with stamps.
#![cfg(loom)]
#![allow(unsafe_code)]

use std::time::Duration;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use loom::sync::{Arc, Condvar};
use loom::thread;
use sidestep::primitive::{lose_patience_with, store_load_barrier_after_rmw};
use sidestep::sync::{
    Acquired, Answer, Arrival, Barrier, Departed, Event, Gate, Lock, Mutex, Patience, Population,
    ReleaseError, SLICE, Semaphore, Stamp, Wait, Waiters,
};
use sidestep::{bell, cursor};

/// Runs a model; the number of times that a thread is interrupted where it need not be is bounded
/// if `preemptions` says so; two or three find nearly all that there is to find.
fn model(preemptions: Option<usize>, test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(test);
}

/// A process as the others see it.
struct Process<'a> {
    number: u32,
    world: &'a World,
}

/// Who is dead, and what is to be done about it.
struct World {
    dead: AtomicU32,
    lock: Lock,
    mutex: Mutex,
    cell: UnsafeCell<u32>,
}

// SAFETY: the cell is only touched by who holds the mutex or lock; that is what is tested, and
// loom notices if not.
unsafe impl Sync for World {}
// SAFETY: as above.
unsafe impl Send for World {}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            dead: AtomicU32::new(0),
            lock: Lock::new(false),
            mutex: Mutex::new(),
            cell: UnsafeCell::new(0),
        })
    }

    fn process(&self, number: u32) -> Process<'_> {
        Process {
            number,
            world: self,
        }
    }

    /// Adds one as only somebody who is alone can.
    fn count(&self) -> u32 {
        // SAFETY: the caller holds what guards the cell.
        self.cell.with_mut(|cell| unsafe {
            *cell += 1;
            *cell
        })
    }

    /// The process ends here, with all that it holds.
    fn die(&self, number: u32) {
        self.dead.store(number, Ordering::SeqCst);
        lose_patience_with(Stamp::new(number, 1).word());
    }
}

impl Population for Process<'_> {
    fn me(&self) -> Stamp {
        Stamp::new(self.number, 1)
    }

    fn is_dead(&self, stamp: Stamp) -> bool {
        self.world.dead.load(Ordering::SeqCst) == stamp.slot()
    }

    fn bury(&self) {
        let dead = self.world.dead.load(Ordering::SeqCst);
        if dead != 0 {
            self.world.lock.bereave(Departed {
                stamp: Stamp::new(dead, 1),
                pid: 0,
                orderly: false,
                exitcode: None,
            });
        }
    }
}

fn forever() -> Option<Duration> {
    Some(SLICE)
}

#[test]
fn loom_mutex_lets_one_in() {
    model(Some(3), || {
        let world = World::new();
        let others: Vec<_> = (2..4)
            .map(|number| {
                let world = world.clone();
                thread::spawn(move || {
                    let _ = world.mutex.lock(&world.process(number));
                    world.count();
                    world.mutex.unlock();
                })
            })
            .collect();
        let _ = world.mutex.lock(&world.process(1));
        world.count();
        world.mutex.unlock();
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(world.count(), 4);
    });
}

#[test]
fn loom_mutex_of_a_dead_owner_goes_to_one_survivor() {
    model(Some(3), || {
        let world = World::new();
        let told = Arc::new(AtomicU32::new(0));
        let _ = world.mutex.lock(&world.process(1));
        world.count();
        let survivor = |number| {
            let (world, told) = (world.clone(), told.clone());
            thread::spawn(move || {
                if world.mutex.lock(&world.process(number)) == Acquired::OwnerDied {
                    told.fetch_add(1, Ordering::SeqCst);
                }
                world.count();
                world.mutex.unlock();
            })
        };
        let survivors = [survivor(2), survivor(3)];
        world.die(1);
        for survivor in survivors {
            survivor.join().unwrap();
        }
        assert_eq!(world.count(), 4);
        assert_eq!(told.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn loom_mutex_of_a_dead_successor_is_reported_again() {
    model(Some(3), || {
        let world = World::new();
        let heir = {
            let world = world.clone();
            // Dies before it has repaired anything, whether it was told or not.
            thread::spawn(move || {
                let _ = world.mutex.lock(&world.process(2));
                world.count();
                world.die(2);
            })
        };
        let acquired = world.mutex.lock(&world.process(1));
        world.count();
        world.mutex.unlock();
        heir.join().unwrap();
        // If we came first, the heir died after us and holds it now.
        let again = match acquired {
            Acquired::OwnerDied => Acquired::Clean,
            Acquired::Clean => Acquired::OwnerDied,
        };
        assert_eq!(world.mutex.lock(&world.process(3)), again);
        assert_eq!(world.count(), 3);
    });
}

/// A counter with a gate: what a queue looks like to its sleepers.
struct Shelf {
    items: AtomicU32,
    gate: Gate,
}

impl Shelf {
    fn put(&self) {
        // The read-modify-write is the one that a queue does when it unlocks.
        self.items.fetch_add(1, Ordering::SeqCst);
        store_load_barrier_after_rmw();
        self.gate.wake_one();
    }

    fn take(&self) {
        loop {
            let items = self.items.load(Ordering::Acquire);
            if items > 0 {
                let swap = self.items.compare_exchange(
                    items,
                    items - 1,
                    Ordering::SeqCst,
                    Ordering::Relaxed,
                );
                if swap.is_ok() {
                    return;
                }
                continue;
            }
            let armed = self.gate.arm();
            if self.items.load(Ordering::Acquire) > 0 {
                continue;
            }
            let _ = self.gate.sleep(armed, SLICE);
            if self.items.load(Ordering::Acquire) > 0 {
                self.gate.rearm();
                // As a queue does: one wake may have been for two items.
                self.gate.wake_one();
            }
        }
    }
}

#[test]
fn loom_gate_wakes_the_sleeper() {
    model(None, || {
        let shelf = Arc::new(Shelf {
            items: AtomicU32::new(0),
            gate: Gate::new(),
        });
        let consumer = {
            let shelf = shelf.clone();
            thread::spawn(move || shelf.take())
        };
        shelf.put();
        consumer.join().unwrap();
    });
}

#[test]
fn loom_gate_wakes_two_for_two_items() {
    model(Some(2), || {
        let shelf = Arc::new(Shelf {
            items: AtomicU32::new(0),
            gate: Gate::new(),
        });
        let consumers: Vec<_> = (0..2)
            .map(|_| {
                let shelf = shelf.clone();
                thread::spawn(move || shelf.take())
            })
            .collect();
        shelf.put();
        shelf.put();
        for consumer in consumers {
            consumer.join().unwrap();
        }
    });
}

#[test]
fn loom_lock_lets_one_in_and_wakes_the_next() {
    model(Some(3), || {
        let world = World::new();
        let visit = |world: &World, number| {
            let process = world.process(number);
            assert_eq!(world.lock.acquire(&process, 1, forever), Wait::Ready);
            world.count();
            world.lock.release(&process, 1).unwrap();
        };
        let others: Vec<_> = (2..4)
            .map(|number| {
                let world = world.clone();
                thread::spawn(move || visit(&world, number))
            })
            .collect();
        visit(&world, 1);
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(world.count(), 4);
    });
}

#[test]
fn loom_lock_waiter_that_gives_up_keeps_no_wake() {
    model(Some(2), || {
        let world = World::new();
        let impatient = {
            let world = world.clone();
            thread::spawn(move || {
                let process = world.process(2);
                let mut slices = 1;
                let wait = world.lock.acquire(&process, 1, || {
                    slices -= 1;
                    (slices >= 0).then_some(SLICE)
                });
                if wait == Wait::Ready {
                    world.lock.release(&process, 1).unwrap();
                }
            })
        };
        let patient = {
            let world = world.clone();
            thread::spawn(move || {
                let process = world.process(3);
                assert_eq!(world.lock.acquire(&process, 1, forever), Wait::Ready);
                world.lock.release(&process, 1).unwrap();
            })
        };
        let process = world.process(1);
        for _ in 0..2 {
            if world.lock.try_acquire(&process, 1) == Some(Wait::Ready) {
                world.lock.release(&process, 1).unwrap();
            }
        }
        impatient.join().unwrap();
        patient.join().unwrap();
    });
}

#[test]
fn loom_lock_of_a_killed_owner_is_reported_to_all() {
    model(Some(3), || {
        let world = World::new();
        assert_eq!(
            world.lock.try_acquire(&world.process(1), 1),
            Some(Wait::Ready)
        );
        let waiters: Vec<_> = (2..4)
            .map(|number| {
                let world = world.clone();
                thread::spawn(move || {
                    let wait = world.lock.acquire(&world.process(number), 1, forever);
                    assert_eq!(wait, Wait::Abandoned(Stamp::new(1, 1)));
                })
            })
            .collect();
        world.die(1);
        for waiter in waiters {
            waiter.join().unwrap();
        }
        assert!(world.lock.recover());
        assert_eq!(
            world.lock.try_acquire(&world.process(2), 1),
            Some(Wait::Ready)
        );
    });
}

#[test]
fn loom_semaphore_hands_each_permit_to_one() {
    model(Some(3), || {
        let semaphore = Arc::new(Semaphore::new(0, 10));
        let waiters: Vec<_> = (0..2)
            .map(|_| {
                let semaphore = semaphore.clone();
                thread::spawn(move || {
                    assert_eq!(semaphore.acquire(&Patience::new(), forever), Wait::Ready)
                })
            })
            .collect();
        semaphore.release(1).unwrap();
        semaphore.release(1).unwrap();
        for waiter in waiters {
            waiter.join().unwrap();
        }
        assert_eq!(semaphore.value(), 0);
    });
}

#[test]
fn loom_semaphore_waiter_that_gives_up_keeps_no_wake() {
    model(Some(2), || {
        let semaphore = Arc::new(Semaphore::new(0, 10));
        let impatient = {
            let semaphore = semaphore.clone();
            thread::spawn(move || {
                let mut slices = 1;
                let wait = semaphore.acquire(&Patience::new(), || {
                    slices -= 1;
                    (slices >= 0).then_some(SLICE)
                });
                if wait == Wait::Ready {
                    semaphore.release(1).unwrap();
                }
            })
        };
        let patient = {
            let semaphore = semaphore.clone();
            thread::spawn(move || {
                assert_eq!(semaphore.acquire(&Patience::new(), forever), Wait::Ready);
                semaphore.release(1).unwrap();
            })
        };
        semaphore.release(1).unwrap();
        if semaphore.try_acquire() {
            semaphore.release(1).unwrap();
        }
        patient.join().unwrap();
        impatient.join().unwrap();
        assert_eq!(semaphore.value(), 1);
    });
}

#[test]
fn loom_event_set_reaches_all_waiters() {
    model(Some(3), || {
        let event = Arc::new(Event::new());
        let waiters: Vec<_> = (0..2)
            .map(|_| {
                let event = event.clone();
                thread::spawn(move || {
                    assert_eq!(event.wait(&Patience::new(), forever), Wait::Ready)
                })
            })
            .collect();
        event.set();
        for waiter in waiters {
            waiter.join().unwrap();
        }
        assert!(event.is_set());
    });
}

#[test]
fn loom_event_cleared_at_once_still_reaches_who_waited() {
    model(None, || {
        let event = Arc::new(Event::new());
        let waits = Arc::new(AtomicU32::new(0));
        let waiter = {
            let (event, waits) = (event.clone(), waits.clone());
            thread::spawn(move || {
                let wait = event.wait(&Patience::new(), || {
                    waits.store(1, Ordering::SeqCst);
                    forever()
                });
                assert_eq!(wait, Wait::Ready);
            })
        };
        let waited = waits.load(Ordering::SeqCst) == 1;
        event.set();
        event.clear();
        if !waited {
            // It may have come too late for the first one.
            event.set();
        }
        waiter.join().unwrap();
    });
}

#[test]
fn loom_notify_reaches_exactly_one() {
    model(Some(2), || {
        let world = World::new();
        let waiters = Arc::new(Waiters::default());
        let places = [2, 3].map(|number| waiters.enter(&world.process(number)).unwrap());
        let told = Arc::new(AtomicU32::new(0));
        let threads = places.map(|place| {
            let (waiters, told) = (waiters.clone(), told.clone());
            thread::spawn(move || {
                while waiters.sleep(&Patience::new(), place, SLICE, || false) == Ok(Answer::None) {}
                if waiters.leave(place) == Answer::Passed {
                    told.fetch_add(1, Ordering::SeqCst);
                }
            })
        });
        assert_eq!(waiters.pass(&world.process(1), 1), 1);
        assert!(told.load(Ordering::SeqCst) <= 1);
        // The rest is told that nothing will come.
        waiters.break_all();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(told.load(Ordering::SeqCst), 1);
        assert_eq!(waiters.count(), (0, 0));
    });
}

/// A chain of one segment for three messages of eight bytes: mutexes, cursors and gate as in the
/// real one, and the very functions that it calls.
struct Segment {
    put_lock: Mutex,
    get_lock: Mutex,
    tail: AtomicU64,
    head: AtomicU64,
    items: Gate,
    words: [AtomicU64; 4],
    bodies: [UnsafeCell<u64>; 3],
}

// SAFETY: a body is written before its message is published and read after: that is what is tested.
unsafe impl Sync for Segment {}
// SAFETY: as above.
unsafe impl Send for Segment {}

impl Segment {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            put_lock: Mutex::new(),
            get_lock: Mutex::new(),
            tail: AtomicU64::new(0),
            head: AtomicU64::new(0),
            items: Gate::new(),
            words: core::array::from_fn(|_| AtomicU64::new(0)),
            bodies: core::array::from_fn(|_| UnsafeCell::new(0)),
        })
    }

    fn index(at: u64) -> usize {
        (cursor::position(at) / cursor::footprint(8)) as usize
    }

    fn lock_producers(&self, process: &Process<'_>) {
        if self.put_lock.lock(process) == Acquired::OwnerDied {
            let next = || &self.words[Self::index(self.tail.load(Ordering::Relaxed))];
            while cursor::cover(next(), &self.tail) {}
        }
    }

    /// Puts messages that appear together; `dies` says whether the producer is killed when it has
    /// published them, and before it moves the tail.
    fn put(&self, process: &Process<'_>, bodies: &[u64], dies: bool) {
        self.lock_producers(process);
        let tail = self.tail.load(Ordering::Relaxed);
        let (first, header) = (Self::index(tail), cursor::header(cursor::INLINE, 8, 0));
        let mut next = tail;
        for (index, body) in (first..).zip(bodies) {
            // SAFETY: not published, and we hold the producers' mutex.
            self.bodies[index].with_mut(|cell| unsafe { *cell = *body });
            if index > first {
                self.words[index].store(header, Ordering::Relaxed);
            }
            next = cursor::behind(next, header);
        }
        self.words[Self::index(next)].store(0, Ordering::Relaxed);
        if dies {
            let lost = AtomicU64::new(0);
            cursor::publish(&self.words[first], header, &lost, next);
            return process.world.die(process.number);
        }
        cursor::publish(&self.words[first], header, &self.tail, next);
        self.put_lock.unlock();
        store_load_barrier_after_rmw();
        self.items.wake_one();
    }

    fn may_have_items(&self) -> bool {
        let head = self.head.load(Ordering::Acquire);
        cursor::look(&self.words[Self::index(head)]) != 0
            || self.head.load(Ordering::Acquire) != head
    }

    fn try_take(&self, process: &Process<'_>) -> Option<u64> {
        if !self.may_have_items() {
            return None;
        }
        let _ = self.get_lock.lock(process);
        let head = self.head.load(Ordering::Relaxed);
        let index = Self::index(head);
        let header = cursor::look(&self.words[index]);
        let body = (header != 0).then(|| {
            // SAFETY: published, and we hold the consumers' mutex.
            let body = self.bodies[index].with(|cell| unsafe { *cell });
            cursor::take(&self.head, cursor::behind(head, header));
            body
        });
        self.get_lock.unlock();
        body
    }

    fn take(&self, process: &Process<'_>) -> u64 {
        loop {
            if let Some(body) = self.try_take(process) {
                return body;
            }
            let armed = self.items.arm();
            if !self.may_have_items() {
                let _ = self.items.sleep(armed, SLICE);
                self.items.rearm();
            }
        }
    }
}

#[test]
fn loom_chain_hands_over_whole_messages_in_order() {
    model(Some(3), || {
        let (world, chain) = (World::new(), Segment::new());
        let producer = {
            let (world, chain) = (world.clone(), chain.clone());
            thread::spawn(move || {
                chain.put(&world.process(2), &[10], false);
                chain.put(&world.process(2), &[11], false);
            })
        };
        assert_eq!(chain.take(&world.process(1)), 10);
        assert_eq!(chain.take(&world.process(1)), 11);
        producer.join().unwrap();
        assert_eq!(chain.try_take(&world.process(1)), None);
    });
}

#[test]
fn loom_chain_hands_over_messages_that_appear_together() {
    model(Some(3), || {
        let (world, chain) = (World::new(), Segment::new());
        let producer = {
            let (world, chain) = (world.clone(), chain.clone());
            thread::spawn(move || chain.put(&world.process(2), &[10, 11], false))
        };
        assert_eq!(chain.take(&world.process(1)), 10);
        assert_eq!(chain.try_take(&world.process(3)), Some(11));
        producer.join().unwrap();
    });
}

#[test]
fn loom_chain_keeps_all_that_a_killed_producer_published_together() {
    model(Some(2), || {
        let (world, chain) = (World::new(), Segment::new());
        chain.put(&world.process(2), &[10, 11], true);
        let survivor = {
            let (world, chain) = (world.clone(), chain.clone());
            thread::spawn(move || chain.put(&world.process(3), &[12], false))
        };
        for body in [10, 11, 12] {
            assert_eq!(chain.take(&world.process(1)), body);
        }
        survivor.join().unwrap();
    });
}

#[test]
fn loom_chain_gives_a_message_to_one_consumer() {
    model(Some(2), || {
        let (world, chain) = (World::new(), Segment::new());
        chain.put(&world.process(1), &[10], false);
        let other = {
            let (world, chain) = (world.clone(), chain.clone());
            thread::spawn(move || chain.try_take(&world.process(2)))
        };
        let ours = chain.try_take(&world.process(1));
        let theirs = other.join().unwrap();
        assert!(ours.is_some() != theirs.is_some());
    });
}

#[test]
fn loom_chain_keeps_what_a_killed_producer_published() {
    model(Some(2), || {
        let (world, chain) = (World::new(), Segment::new());
        let victim = {
            let (world, chain) = (world.clone(), chain.clone());
            thread::spawn(move || chain.put(&world.process(2), &[10], true))
        };
        let survivor = {
            let (world, chain) = (world.clone(), chain.clone());
            thread::spawn(move || chain.put(&world.process(3), &[11], false))
        };
        // The consumer may come before the tail has been moved over the dead one's message.
        let mut got = vec![chain.take(&world.process(1))];
        victim.join().unwrap();
        survivor.join().unwrap();
        got.extend(chain.try_take(&world.process(1)));
        got.sort_unstable();
        assert_eq!(got, [10, 11]);
        chain.lock_producers(&world.process(1));
        let (tail, head) = (
            chain.tail.load(Ordering::Relaxed),
            chain.head.load(Ordering::Relaxed),
        );
        assert_eq!(tail, head);
        assert_eq!(cursor::count(tail), 2);
    });
}

/// Bytes in a socket, as far as a bell needs them.
struct Socket {
    bytes: loom::sync::Mutex<u32>,
    changed: Condvar,
}

impl Socket {
    fn write(&self) {
        *self.bytes.lock().unwrap() += 1;
        self.changed.notify_all();
    }

    /// Waits until it is readable.
    fn poll(&self) {
        let mut bytes = self.bytes.lock().unwrap();
        while *bytes == 0 {
            bytes = self.changed.wait(bytes).unwrap();
        }
    }

    fn drain(&self) {
        *self.bytes.lock().unwrap() = 0;
    }

    /// Takes one byte, if there is one, or all.
    fn take(&self, all: bool) -> Result<(), ()> {
        let mut bytes = self.bytes.lock().unwrap();
        *bytes = if all { 0 } else { bytes.saturating_sub(1) };
        Ok(())
    }

    fn len(&self) -> u32 {
        *self.bytes.lock().unwrap()
    }
}

/// A chain's words with a socket that tells of its messages. Mutexes and cursors are the real ones.
struct Channel {
    words: [AtomicU64; 4],
    head: AtomicU64,
    get_lock: Mutex,
    put_lock: Mutex,
    tail: AtomicU32,
    socket: Socket,
}

impl Channel {
    fn new() -> Self {
        Self {
            words: core::array::from_fn(|_| AtomicU64::new(0)),
            head: AtomicU64::new(0),
            get_lock: Mutex::new(),
            put_lock: Mutex::new(),
            tail: AtomicU32::new(0),
            socket: Socket {
                bytes: loom::sync::Mutex::new(0),
                changed: Condvar::new(),
            },
        }
    }

    /// Holding the producers' mutex.
    fn publish(&self) {
        let index = self.tail.load(Ordering::Relaxed);
        self.tail.store(index + 1, Ordering::Relaxed);
        let header = cursor::header(cursor::INLINE, 8, 0);
        let nowhere = AtomicU64::new(0);
        cursor::publish(&self.words[index as usize], header, &nowhere, 0);
    }

    fn has_messages(&self) -> bool {
        let head = self.head.load(Ordering::Acquire);
        cursor::look(&self.words[Segment::index(head)]) != 0
            || self.head.load(Ordering::Acquire) != head
    }

    fn try_take(&self, process: &Process<'_>) -> bool {
        let _ = self.get_lock.lock(process);
        let head = self.head.load(Ordering::Relaxed);
        let header = cursor::look(&self.words[Segment::index(head)]);
        if header != 0 {
            cursor::take(&self.head, cursor::behind(head, header));
        }
        self.get_lock.unlock();
        header != 0
    }
}

/// The rule of who watches a queue, and of a pipe that is watched: ring, publish and settle under
/// the producers' mutex.
struct Watched {
    channel: Channel,
    rung: AtomicU32,
}

impl Watched {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            channel: Channel::new(),
            rung: AtomicU32::new(0),
        })
    }

    /// Holding the producers' mutex.
    fn ring(&self) {
        if self.rung.load(Ordering::Relaxed) == 0 {
            self.channel.socket.write();
            self.rung.store(1, Ordering::Relaxed);
        }
    }

    /// Puts a message; its producer may be killed between the ring and the message.
    fn put(&self, process: &Process<'_>, dies: bool) {
        let _ = self.channel.put_lock.lock(process);
        self.ring();
        if dies {
            return process.world.die(process.number);
        }
        self.channel.publish();
        self.channel.put_lock.unlock();
    }

    /// As `Chain::settle`: whether there are items.
    fn settle(&self, process: &Process<'_>) -> bool {
        let _ = self.channel.put_lock.lock(process);
        let has_items = self.channel.has_messages();
        if has_items {
            self.ring();
        } else {
            self.channel.socket.drain();
            self.rung.store(0, Ordering::Relaxed);
        }
        self.channel.put_lock.unlock();
        has_items
    }

    /// As an event loop does: sleeps on the descriptor first.
    fn take_by_descriptor(&self, process: &Process<'_>) {
        loop {
            self.channel.socket.poll();
            if self.channel.try_take(process) {
                return;
            }
            self.settle(process);
        }
    }
}

#[test]
fn loom_watcher_hears_of_every_item() {
    model(Some(2), || {
        let (world, queue) = (World::new(), Watched::new());
        let producer = {
            let (world, queue) = (world.clone(), queue.clone());
            thread::spawn(move || {
                queue.put(&world.process(2), false);
                queue.put(&world.process(2), false);
            })
        };
        queue.take_by_descriptor(&world.process(1));
        queue.take_by_descriptor(&world.process(1));
        producer.join().unwrap();
        assert!(!queue.settle(&world.process(1)));
        assert_eq!(queue.channel.socket.len(), 0);
    });
}

#[test]
fn loom_watcher_is_rung_while_there_are_items_whoever_dies_or_takes() {
    model(Some(2), || {
        let (world, queue) = (World::new(), Watched::new());
        let producers = {
            let (world, queue) = (world.clone(), queue.clone());
            thread::spawn(move || {
                queue.put(&world.process(2), true);
                queue.put(&world.process(3), false);
            })
        };
        let taken = queue.channel.try_take(&world.process(1));
        let has_items = queue.settle(&world.process(1));
        assert!(!(taken && has_items));
        producers.join().unwrap();
        // Whenever nobody holds the mutex: if there are items, the bell is rung.
        let _ = queue.channel.put_lock.lock(&world.process(1));
        if queue.channel.has_messages() {
            assert!(queue.channel.socket.len() > 0);
        }
    });
}

/// How a sender ends.
#[derive(Clone, Copy)]
enum End {
    None,
    BeforeTheBell,
    WhileRinging,
}

/// A direction of a pipe that nobody watches, or that begins to be watched: the bell is the real one.
struct Direction {
    channel: Channel,
    turn: Mutex,
    bell: AtomicU64,
}

impl Direction {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            channel: Channel::new(),
            turn: Mutex::new(),
            bell: AtomicU64::new(0),
        })
    }

    fn ring(&self) {
        let write = || {
            self.channel.socket.write();
            Ok::<_, ()>(true)
        };
        bell::ring(&self.bell, write).unwrap();
    }

    /// As `pipe::Bell`; the sender may be killed once the message is there.
    fn put(&self, process: &Process<'_>, end: End) {
        let _ = self.channel.put_lock.lock(process);
        if bell::is_watched(&self.bell) {
            self.ring();
        }
        self.channel.publish();
        fence(Ordering::SeqCst);
        if let End::WhileRinging = end {
            self.bell
                .fetch_or(bell::RUNG | bell::WRITING, Ordering::SeqCst);
        }
        if let End::BeforeTheBell | End::WhileRinging = end {
            return process.world.die(process.number);
        }
        self.ring();
        self.channel.put_lock.unlock();
    }

    fn try_take(&self, process: &Process<'_>) -> bool {
        let taken = self.channel.try_take(process);
        if taken && bell::is_watched(&self.bell) {
            self.settle(process, false);
        }
        taken
    }

    /// As `End::take_bell`.
    fn settle(&self, process: &Process<'_>, found: bool) {
        let _ = self.turn.lock(process);
        let has_messages = || self.channel.has_messages();
        if bell::is_watched(&self.bell) {
            let _ = self.channel.put_lock.lock(process);
            let take = |all| self.channel.socket.take(all);
            bell::silence(&self.bell, found, has_messages, take).unwrap();
            self.channel.put_lock.unlock();
        } else {
            let take = || self.channel.socket.take(false);
            bell::hush(&self.bell, found, has_messages, take).unwrap();
        }
        self.turn.unlock();
    }

    fn watch(&self, process: &Process<'_>) {
        let _ = self.turn.lock(process);
        let _ = self.channel.put_lock.lock(process);
        let has_byte = || self.channel.socket.len() > 0;
        let take = |all| self.channel.socket.take(all);
        bell::watch(&self.bell, has_byte, || self.channel.has_messages(), take).unwrap();
        self.channel.put_lock.unlock();
        self.turn.unlock();
    }

    /// As `End::sleep`.
    fn receive(&self, process: &Process<'_>) {
        while !self.try_take(process) {
            if bell::is_rung(&self.bell) && !self.channel.has_messages() {
                self.settle(process, false);
            }
            if self.channel.has_messages() {
                continue;
            }
            self.channel.socket.poll();
            if !self.channel.has_messages() {
                self.settle(process, true);
            }
        }
    }
}

#[test]
fn loom_pipe_wakes_its_receiver_for_every_message() {
    model(Some(3), || {
        let (world, pipe) = (World::new(), Direction::new());
        let sender = {
            let (world, pipe) = (world.clone(), pipe.clone());
            thread::spawn(move || {
                pipe.put(&world.process(2), End::None);
                pipe.put(&world.process(2), End::None);
            })
        };
        pipe.receive(&world.process(1));
        pipe.receive(&world.process(1));
        sender.join().unwrap();
    });
}

#[test]
fn loom_pipe_wakes_both_its_receivers() {
    model(Some(2), || {
        let (world, pipe) = (World::new(), Direction::new());
        let other = {
            let (world, pipe) = (world.clone(), pipe.clone());
            thread::spawn(move || pipe.receive(&world.process(2)))
        };
        let sender = {
            let (world, pipe) = (world.clone(), pipe.clone());
            thread::spawn(move || {
                pipe.put(&world.process(3), End::None);
                pipe.put(&world.process(3), End::None);
            })
        };
        pipe.receive(&world.process(1));
        other.join().unwrap();
        sender.join().unwrap();
    });
}

#[test]
fn loom_pipe_is_rung_by_the_next_sender_when_one_was_killed() {
    for end in [End::BeforeTheBell, End::WhileRinging] {
        model(Some(2), move || {
            let (world, pipe) = (World::new(), Direction::new());
            let senders = {
                let (world, pipe) = (world.clone(), pipe.clone());
                thread::spawn(move || {
                    pipe.put(&world.process(2), end);
                    pipe.put(&world.process(3), End::None);
                })
            };
            pipe.receive(&world.process(1));
            pipe.receive(&world.process(1));
            senders.join().unwrap();
        });
    }
}

#[test]
fn loom_pipe_that_begins_to_be_watched_is_readable_while_it_has_messages() {
    model(Some(2), || {
        let (world, pipe) = (World::new(), Direction::new());
        let sender = {
            let (world, pipe) = (world.clone(), pipe.clone());
            thread::spawn(move || {
                pipe.put(&world.process(2), End::None);
                pipe.put(&world.process(2), End::None);
            })
        };
        pipe.watch(&world.process(1));
        let mut taken = 0;
        while taken < 2 {
            pipe.channel.socket.poll();
            if pipe.try_take(&world.process(1)) {
                taken += 1;
            } else {
                // Woken by a bell whose message is about to follow.
                pipe.settle(&world.process(1), true);
            }
        }
        sender.join().unwrap();
        assert_eq!(pipe.channel.socket.len(), 0);
    });
}

#[test]
fn loom_recursive_lock_is_its_owners_alone() {
    model(Some(3), || {
        let lock = Arc::new(Lock::new(true));
        let world = World::new();
        let visit = |lock: &Lock, world: &World, number| {
            let process = world.process(number);
            assert_eq!(lock.acquire(&process, 7, forever), Wait::Ready);
            // The same thread number in another process is another thread.
            assert_eq!(lock.try_acquire(&process, 7), Some(Wait::Ready));
            world.count();
            lock.release(&process, 7).unwrap();
            world.count();
            lock.release(&process, 7).unwrap();
        };
        let other = {
            let (lock, world) = (lock.clone(), world.clone());
            thread::spawn(move || visit(&lock, &world, 2))
        };
        visit(&lock, &world, 1);
        let stranger = lock.release(&world.process(3), 7);
        assert_eq!(stranger, Err(ReleaseError::NotOwner));
        other.join().unwrap();
        assert_eq!(world.count(), 5);
        assert_eq!(lock.depth(), 0);
    });
}

#[test]
fn loom_lock_released_by_another_wakes_the_next() {
    model(Some(3), || {
        let world = World::new();
        let _ = world.lock.try_acquire(&world.process(1), 1);
        let waiter = {
            let world = world.clone();
            thread::spawn(move || {
                let process = world.process(2);
                assert_eq!(world.lock.acquire(&process, 1, forever), Wait::Ready);
                world.count();
                world.lock.release(&process, 1).unwrap();
            })
        };
        let other = {
            let world = world.clone();
            thread::spawn(move || {
                world.count();
                world.lock.release(&world.process(3), 1).unwrap();
            })
        };
        waiter.join().unwrap();
        other.join().unwrap();
        assert_eq!(world.count(), 3);
        let once_more = world.lock.release(&world.process(1), 1);
        assert_eq!(once_more, Err(ReleaseError::NotHeld));
    });
}

#[test]
fn loom_abandoned_lock_is_recovered_once_and_never_under_its_next_owner() {
    model(Some(3), || {
        let world = World::new();
        let _ = world.lock.try_acquire(&world.process(1), 1);
        world.die(1);
        world.process(2).bury();
        let heir = |number| {
            let world = world.clone();
            thread::spawn(move || {
                let process = world.process(number);
                world.lock.recover();
                if world.lock.acquire(&process, 1, forever) == Wait::Ready {
                    world.count();
                    world.lock.release(&process, 1).unwrap();
                }
            })
        };
        let heirs = [heir(2), heir(3)];
        for heir in heirs {
            heir.join().unwrap();
        }
        assert_eq!(world.count(), 3);
    });
}

#[test]
fn loom_notify_is_not_spent_on_the_dead() {
    model(Some(2), || {
        let world = World::new();
        let waiters = Arc::new(Waiters::default());
        // The first in the list is killed at some moment, and cleaned up after.
        let _ = waiters.enter(&world.process(2)).unwrap();
        let place = waiters.enter(&world.process(3)).unwrap();
        world.die(2);
        let cleaner = {
            let waiters = waiters.clone();
            thread::spawn(move || waiters.bereave(Stamp::new(2, 1)))
        };
        let waiter = {
            let waiters = waiters.clone();
            thread::spawn(move || {
                while waiters.sleep(&Patience::new(), place, SLICE, || false) == Ok(Answer::None) {}
                assert_eq!(waiters.leave(place), Answer::Passed);
            })
        };
        assert_eq!(waiters.pass(&world.process(1), 1), 1);
        waiter.join().unwrap();
        cleaner.join().unwrap();
        assert_eq!(waiters.count(), (0, 0));
    });
}

/// Comes to the barrier: whether all came.
fn meet(barrier: &Barrier, process: &Process<'_>) -> bool {
    loop {
        match barrier.arrive(process) {
            Arrival::Last(_, round) => return barrier.complete(process, round),
            Arrival::Broken => return false,
            Arrival::Busy => thread::yield_now(),
            Arrival::Wait(place, _) => loop {
                match barrier.sleep(&Patience::new(), place, SLICE) {
                    Ok(Answer::None) | Err(_) => {}
                    Ok(_) => return barrier.leave(place) == Answer::Passed,
                }
            },
        }
    }
}

#[test]
fn loom_barrier_lets_all_go_on() {
    model(Some(2), || {
        let world = World::new();
        let barrier = Arc::new(Barrier::default());
        barrier.init(2);
        let other = {
            let (world, barrier) = (world.clone(), barrier.clone());
            thread::spawn(move || meet(&barrier, &world.process(2)))
        };
        assert!(meet(&barrier, &world.process(1)));
        assert!(other.join().unwrap());
        assert_eq!(barrier.waiting(), 0);
        assert!(!barrier.is_broken());
    });
}

#[test]
fn loom_barrier_reset_while_the_last_one_acts() {
    model(Some(2), || {
        let world = World::new();
        let barrier = Arc::new(Barrier::default());
        barrier.init(2);
        let Arrival::Wait(first, _) = barrier.arrive(&world.process(2)) else {
            panic!("not waiting")
        };
        let Arrival::Last(_, round) = barrier.arrive(&world.process(3)) else {
            panic!("not the last one")
        };
        let actor = {
            let (world, barrier) = (world.clone(), barrier.clone());
            thread::spawn(move || barrier.complete(&world.process(3), round))
        };
        barrier.reset(&world.process(1));
        // The next round has begun, and nobody else comes to it.
        let Arrival::Wait(second, _) = barrier.arrive(&world.process(1)) else {
            panic!("not waiting")
        };
        let all_went_on = actor.join().unwrap();
        let told = barrier.leave(first);
        assert_eq!(all_went_on, told == Answer::Passed);
        assert_ne!(told, Answer::None);
        assert_eq!(barrier.waiting(), 1);
        assert_eq!(barrier.leave(second), Answer::None);
    });
}

#[test]
fn loom_barrier_time_is_up_as_the_last_one_comes() {
    model(Some(2), || {
        let world = World::new();
        let barrier = Arc::new(Barrier::default());
        barrier.init(2);
        let Arrival::Wait(place, _) = barrier.arrive(&world.process(2)) else {
            panic!("not waiting")
        };
        let last = {
            let (world, barrier) = (world.clone(), barrier.clone());
            thread::spawn(move || {
                let process = world.process(3);
                match barrier.arrive(&process) {
                    // Nobody gives up any more.
                    Arrival::Last(_, round) => {
                        assert!(barrier.complete(&process, round));
                        true
                    }
                    arrival => {
                        assert_eq!(arrival, Arrival::Broken);
                        false
                    }
                }
            })
        };
        let process = world.process(2);
        if !barrier.abort_unless_acting(&process, place) {
            while barrier.sleep(&Patience::new(), place, SLICE) == Ok(Answer::None) {}
        }
        let passed = barrier.leave(place) == Answer::Passed;
        assert_eq!(last.join().unwrap(), passed);
        assert_eq!(barrier.is_broken(), !passed);
    });
}

#[test]
fn loom_barrier_breaks_only_the_round_of_the_dead() {
    model(Some(2), || {
        let world = World::new();
        let barrier = Arc::new(Barrier::default());
        barrier.init(2);
        // One waits, and is killed there; somebody else resets the barrier before the clean-up.
        let _ = barrier.arrive(&world.process(2));
        world.die(2);
        let cleaner = {
            let barrier = barrier.clone();
            thread::spawn(move || barrier.bereave(Stamp::new(2, 1)))
        };
        let other = world.process(1);
        barrier.reset(&other);
        // Who waits for the next round is not told of this one.
        let Arrival::Wait(place, 0) = barrier.arrive(&other) else {
            panic!("not the first")
        };
        assert!(!barrier.is_broken());
        cleaner.join().unwrap();
        assert!(!barrier.is_broken());
        assert_eq!(barrier.waiting(), 1);
        assert_eq!(barrier.leave(place), Answer::None);
    });
}

#[test]
fn loom_barrier_broken_tells_who_waits_and_who_comes() {
    model(Some(2), || {
        let world = World::new();
        let barrier = Arc::new(Barrier::default());
        barrier.init(3);
        // One waits, and is killed there.
        let _ = barrier.arrive(&world.process(2));
        let waiter = {
            let (world, barrier) = (world.clone(), barrier.clone());
            thread::spawn(move || meet(&barrier, &world.process(3)))
        };
        world.die(2);
        barrier.bereave(Stamp::new(2, 1));
        assert!(!waiter.join().unwrap());
        assert!(barrier.is_broken());
        barrier.reset(&world.process(1));
        assert!(!barrier.is_broken());
        assert_eq!(barrier.waiting(), 0);
    });
}
