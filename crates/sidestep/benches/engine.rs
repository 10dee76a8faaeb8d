//! What the engine's operations cost, without any Python: `make bench-engine`.
//!
//! The operations of `alone` need one process. What one of them does is a function `..._once`, which is
//! not inlined, so that callgrind can count its instructions by name. Those of `between` need two
//! processes, and only their time says something.

use std::time::Duration;

use divan::{Bencher, black_box};
use sidestep::channel::{Queue, QueueOptions, pipe};
use sidestep::process::Child;
use sidestep::shm::{Family, Kind, family};
use sidestep::sync::{SharedEvent, SharedLock, SharedSemaphore, Wait};

/// This program's threads have numbers of its own choice; there is one.
const THREAD: u32 = 1;

fn main() {
    divan::main();
}

fn for_ever() -> Option<Duration> {
    Some(Duration::from_secs(3600))
}

fn queue() -> Queue {
    QueueOptions::new().create().unwrap()
}

/// One process puts and gets, waits for what is there already.
mod alone {
    use std::os::fd::{AsFd, BorrowedFd};

    use sidestep::channel::pipe::{End, Message};

    use super::*;

    #[divan::bench(sample_size = 1000)]
    fn lock(bencher: Bencher<'_, '_>) {
        let lock = SharedLock::new(false).unwrap();
        bencher.bench_local(|| lock_once(&lock));
    }

    #[inline(never)]
    fn lock_once(lock: &SharedLock) {
        assert!(lock.acquire(lock.family(), THREAD, for_ever) == Wait::Ready);
        lock.release(lock.family(), THREAD).unwrap();
    }

    #[divan::bench(sample_size = 1000)]
    fn semaphore(bencher: Bencher<'_, '_>) {
        let semaphore = SharedSemaphore::new(1, None).unwrap();
        bencher.bench_local(|| semaphore_once(&semaphore));
    }

    #[inline(never)]
    fn semaphore_once(semaphore: &SharedSemaphore) {
        assert!(semaphore.acquire(for_ever) == Wait::Ready);
        semaphore.release(1).unwrap();
    }

    #[divan::bench(sample_size = 1000)]
    fn event(bencher: Bencher<'_, '_>) {
        let event = SharedEvent::new().unwrap();
        bencher.bench_local(|| event_once(&event));
    }

    #[inline(never)]
    fn event_once(event: &SharedEvent) {
        event.set();
        assert!(event.wait(for_ever) == Wait::Ready);
        event.clear();
    }

    #[divan::bench(args = [64, 65_536, 1_048_576], sample_size = 100)]
    fn queue(bencher: Bencher<'_, '_>, bytes: usize) {
        let (queue, message) = (super::queue(), vec![7; bytes]);
        bencher.bench_local(|| queue_once(&queue, &message));
    }

    #[inline(never)]
    fn queue_once(queue: &Queue, message: &[u8]) {
        queue.put(message).unwrap();
        black_box(queue.get(None).unwrap());
    }

    #[divan::bench(sample_size = 1000)]
    fn pipe(bencher: Bencher<'_, '_>) {
        let [(near, near_socket), (far, far_socket)] = pipe::pair().unwrap();
        let mut received = Vec::new();
        bencher.bench_local(|| {
            received.clear();
            pipe_once(
                (&near, near_socket.as_fd()),
                (&far, far_socket.as_fd()),
                &mut received,
            );
        });
    }

    #[inline(never)]
    fn pipe_once(
        near: (&End, BorrowedFd<'_>),
        far: (&End, BorrowedFd<'_>),
        received: &mut Vec<u8>,
    ) {
        let sent = near.0.try_send(near.1, 0, Message::Short(&[&[7; 64]]));
        assert!(sent.unwrap().is_none());
        far.0.try_receive(far.1, received).unwrap();
    }

    #[divan::bench(args = [64, 65_536, 1_048_576], sample_size = 100)]
    fn memory(bencher: Bencher<'_, '_>, bytes: u64) {
        let family = family().unwrap();
        bencher.bench_local(|| memory_once(family, bytes));
    }

    #[inline(never)]
    fn memory_once(family: &'static Family, bytes: u64) {
        drop(black_box(family.create(Kind::Memory, bytes).unwrap()));
    }
}

/// Two processes.
mod between {
    use super::*;

    /// One message of 64 bytes there, one back.
    #[divan::bench(sample_size = 100)]
    fn queue_ping_pong(bencher: Bencher<'_, '_>) {
        let (there, back) = (super::queue(), super::queue());
        let mut child = Child::fork(|| {
            while let Ok(Some(message)) = there.get(None) {
                back.put(&message).unwrap();
            }
            0
        })
        .unwrap();
        bencher.bench_local(|| {
            there.put(&[7; 64]).unwrap();
            back.get(None).unwrap()
        });
        there.close();
        child.wait().unwrap();
    }

    /// A thousand messages of 64 bytes; they count as they are put, the last one when it is taken.
    #[divan::bench(sample_size = 10)]
    fn queue_thousand(bencher: Bencher<'_, '_>) {
        let (there, done) = (super::queue(), SharedEvent::new().unwrap());
        let mut child = Child::fork(|| {
            let mut taken = 0;
            while let Ok(Some(_)) = there.get(None) {
                taken += 1;
                if taken % 1000 == 0 {
                    done.set();
                }
            }
            0
        })
        .unwrap();
        bencher.bench_local(|| {
            for _ in 0..1000 {
                there.put(&[7; 64]).unwrap();
            }
            while done.wait(for_ever) != Wait::Ready {}
            done.clear();
        });
        there.close();
        child.wait().unwrap();
    }

    #[divan::bench(sample_size = 100)]
    fn event_ping_pong(bencher: Bencher<'_, '_>) {
        let (ping, pong) = (SharedEvent::new().unwrap(), SharedEvent::new().unwrap());
        let mut child = Child::fork(|| {
            loop {
                while ping.wait(for_ever) != Wait::Ready {}
                ping.clear();
                pong.set();
            }
        })
        .unwrap();
        bencher.bench_local(|| {
            ping.set();
            while pong.wait(for_ever) != Wait::Ready {}
            pong.clear();
        });
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
