//! Everything at once, by threads and by processes with threads: what the sanitizers run
//! (`make sanitize`), in which nothing is killed.
//!
//! `STRESS_ROUNDS` makes it longer.
#![cfg(not(any(loom, shuttle)))]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use sidestep::channel::pipe::{self, End, Message, Ready, Received};
use sidestep::channel::stream::Step;
use sidestep::channel::{Queue, QueueOptions};
use sidestep::os::clock::Deadline;
use sidestep::pool::{Delivery, Parcel, Pool};
use sidestep::process::{Child, Exit};
use sidestep::shm::{Envelope, Handle, Kind, family};
use sidestep::sync::{SLICE, SharedLock, SharedSemaphore, Wait};

fn rounds() -> u64 {
    let text = std::env::var("STRESS_ROUNDS");
    text.map_or(1, |text| text.parse().expect("STRESS_ROUNDS is a number"))
}

/// Does `work` in children, each of which has two threads for it, and in two threads of this
/// process.
fn everywhere(work: impl Fn(u64) + Sync) {
    let in_threads = |first: u64| {
        thread::scope(|scope| {
            let threads = [first, first + 1].map(|number| {
                let work = &work;
                scope.spawn(move || work(number))
            });
            // The end of the scope would wait, too, but in a way that the thread sanitizer does
            // not see.
            for thread in threads {
                thread.join().unwrap();
            }
        });
    };
    // Where a tool has threads of its own, forking is refused: then threads must do.
    let children: Vec<_> = (1..3)
        .filter_map(|child| {
            Child::fork(|| {
                in_threads(2 * child);
                0
            })
            .ok()
        })
        .collect();
    in_threads(0);
    for mut child in children {
        assert_eq!(child.wait().unwrap(), Exit::Code(0));
    }
}

fn persist(mut wait: impl FnMut() -> Wait) {
    while wait() != Wait::Ready {}
}

fn forever() -> Option<Duration> {
    Some(SLICE)
}

/// A message that tells whether it is whole.
fn message(number: u64) -> Vec<u8> {
    let len = if number % 50 == 49 {
        20_000
    } else {
        8 + number % 200
    };
    let mut message = vec![number as u8; len as usize];
    message[..8].copy_from_slice(&number.to_le_bytes());
    message
}

fn checked(bytes: &[u8]) -> u64 {
    let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert!(bytes == message(number), "torn: {number}");
    number
}

/// A word of shared memory.
fn word(handle: Handle) -> &'static AtomicU64 {
    let family = family().unwrap();
    family.word(handle.offset + 64)
}

fn queue() {
    let queue = QueueOptions::new().max_items(20).create().unwrap();
    let memory = family().unwrap().create(Kind::Memory, 8).unwrap();
    let sum = memory.handle();
    everywhere(|_| {
        for number in 0..300 * rounds() {
            queue.put(&message(number)).unwrap();
            let got = checked(&queue.get(None).unwrap().unwrap());
            word(sum).fetch_add(number.wrapping_sub(got), Ordering::Relaxed);
        }
    });
    assert_eq!(word(sum).load(Ordering::Relaxed), 0);
    assert!(queue.is_empty());
}

fn locks() {
    let lock = SharedLock::new(true).unwrap();
    let semaphore = SharedSemaphore::new(1, Some(1)).unwrap();
    let memory = family().unwrap().create(Kind::Memory, 16).unwrap();
    let family = family().unwrap();
    let turns = family.word(memory.payload());
    let visits = family.word(memory.payload() + 8);
    everywhere(|number| {
        for _ in 0..500 * rounds() {
            persist(|| lock.acquire(family, number as u32 + 1, forever));
            // Nobody else is here: no other order than this one is needed.
            turns.store(turns.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            lock.release(family, number as u32 + 1).unwrap();
            persist(|| semaphore.acquire(forever));
            visits.store(visits.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            semaphore.release(1).unwrap();
        }
    });
    let turns = turns.load(Ordering::Relaxed);
    assert_eq!(turns, visits.load(Ordering::Relaxed));
    assert!(turns >= 2 * 500 * rounds());
}

fn allocator() {
    let family = family().unwrap();
    drop(family.create(Kind::Memory, 8).unwrap());
    let before = family.usage().blocks;
    everywhere(|number| {
        for round in 0..100 * rounds() {
            let refs = (1..5)
                .map(|size| {
                    let bytes = size * (round * 997 + number * 131) % 50_000 + 8;
                    let memory = family.create(Kind::Memory, bytes).unwrap();
                    assert_eq!(family.word(memory.payload()).load(Ordering::Relaxed), 0);
                    family
                        .word(memory.payload())
                        .store(number + 1, Ordering::Relaxed);
                    memory
                })
                .collect();
            let envelope = Envelope::new(family, 8, refs).unwrap();
            envelope.write(0, &number.to_le_bytes());
            let mut body = Vec::new();
            envelope.read(0, 8, &mut body);
            assert_eq!(body, number.to_le_bytes());
        }
    });
    family.clean_dead();
    assert_eq!(family.usage().blocks, before);
}

fn pool() {
    let pool = Pool::new(6).unwrap();
    let tasks = 600 * rounds() as u32;
    for task in 0..tasks {
        let body = message(u64::from(task));
        let parcel = if body.len() <= Pool::SHORT {
            Parcel::Short(&body)
        } else {
            let envelope = Envelope::new(family().unwrap(), body.len() as u64, Vec::new()).unwrap();
            envelope.write(0, &body);
            Parcel::Long(envelope)
        };
        assert_eq!(pool.submit(parcel).unwrap(), task);
    }
    pool.close();
    everywhere(|worker| {
        let mut buffer = Vec::new();
        loop {
            buffer.clear();
            let number = match pool.take(worker as u32, &mut buffer).unwrap() {
                Some(Delivery::Short { number }) => number,
                Some(Delivery::Long { number, envelope }) => {
                    envelope.read(0, envelope.len(), &mut buffer);
                    number
                }
                _ => return,
            };
            assert_eq!(checked(&buffer), u64::from(number));
            let answer = Parcel::Short(&buffer[..8]);
            pool.finish(worker as u32, number, answer).unwrap();
        }
    });
    let mut done = vec![false; tasks as usize];
    let mut buffer = Vec::new();
    while let Some(delivery) = pool.collect(&mut buffer).unwrap() {
        let Delivery::Short { number } = delivery else {
            panic!("no such result was sent");
        };
        assert!(!std::mem::replace(&mut done[number as usize], true));
    }
    assert!(done.into_iter().all(|done| done));
}

type Side = (End, OwnedFd);

fn send(side: &Side, number: u64) {
    let bytes = message(number);
    let parts = [&bytes[..bytes.len().min(pipe::INLINE_MAX)]];
    let mut message = Message::Short(&parts);
    let socket = side.1.as_fd();
    while let Some(back) = side.0.try_send(socket, 0, message).unwrap() {
        let _ = side.0.wait_room(socket, bytes.len() as u64).unwrap();
        message = back;
    }
}

fn receive(side: &Side) -> Option<u64> {
    let mut bytes = Vec::new();
    loop {
        match side.0.try_receive(side.1.as_fd(), &mut bytes).unwrap() {
            Received::Empty => {}
            _ => return Some(u64::from_le_bytes(bytes[..8].try_into().unwrap())),
        }
        let ready = side.0.wait(side.1.as_fd(), Deadline::NEVER).unwrap();
        if ready == Step::Done(Ready::HungUp) && !side.0.has_messages() {
            return None;
        }
    }
}

fn pipes() {
    let [near, far] = pipe::pair().unwrap();
    // What is made once is made here: std orders it in a way that the thread sanitizer does not see.
    send(&near, 7);
    assert_eq!(receive(&far), Some(7));
    let _ = sidestep::os::process::processors();
    let count = 2000 * rounds();
    let echo = |far: &Side| {
        for _ in 0..count {
            send(far, receive(far).unwrap());
        }
    };
    let ask = |near: &Side| {
        thread::scope(|scope| {
            let sender = scope.spawn(|| (0..count).for_each(|number| send(near, number)));
            for number in 0..count {
                assert_eq!(receive(near), Some(number));
            }
            sender.join().unwrap();
        });
    };
    match Child::fork(|| {
        echo(&far);
        0
    }) {
        Ok(mut child) => {
            ask(&near);
            assert_eq!(child.wait().unwrap(), Exit::Code(0));
        }
        Err(_) => thread::scope(|scope| {
            let other = scope.spawn(|| echo(&far));
            ask(&near);
            other.join().unwrap();
        }),
    }
    drop(far);
    assert_eq!(receive(&near), None);
}

fn handover() {
    // References travel while their senders let go of them.
    let queue = Arc::new(QueueOptions::new().max_items(4).create().unwrap());
    let name = queue.object().handle();
    everywhere(|number| {
        let queue = Queue::from_handle(name).unwrap();
        for _ in 0..100 * rounds() {
            let lock = SharedLock::new(false).unwrap();
            let handle = lock.object().handle();
            let refs = vec![lock.object().try_clone().unwrap()];
            let mut envelope = Envelope::new(family().unwrap(), 16, refs).unwrap();
            envelope.write(0, &handle.offset.to_le_bytes());
            envelope.write(8, &handle.generation.to_le_bytes());
            drop(lock);
            while let Err(back) = queue.try_put_envelope(0, number, envelope).unwrap() {
                envelope = back;
                let _ = queue.wait_space(16, Deadline::NEVER);
            }
            let mut buffer = Vec::new();
            let taken = loop {
                match queue.try_take(&mut buffer).unwrap() {
                    sidestep::channel::Taken::Envelope { envelope, .. } => break envelope.0,
                    _ => drop(queue.wait_items(Deadline::NEVER)),
                }
            };
            taken.read(0, 16, &mut buffer);
            let word = |at: usize| u64::from_le_bytes(buffer[at..at + 8].try_into().unwrap());
            let handle = Handle {
                offset: word(0),
                generation: word(8),
            };
            let lock = SharedLock::from_handle(handle).unwrap();
            drop(taken);
            let family = family().unwrap();
            assert_eq!(lock.try_acquire(family, 1), Some(Wait::Ready));
        }
    });
    assert!(queue.is_empty());
}

fn main() {
    for (name, test) in [
        ("queue", queue as fn()),
        ("locks", locks),
        ("allocator", allocator),
        ("pool", pool),
        ("pipes", pipes),
        ("handover", handover),
    ] {
        test();
        println!("test {name} ... ok");
    }
    println!("test result: ok. 6 passed; 0 failed");
}
