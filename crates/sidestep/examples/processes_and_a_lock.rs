//! Processes that share a counter, and one that is killed in the middle of counting.
//!
//! `cargo run -p sidestep --example processes_and_a_lock`

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use sidestep::process::Child;
use sidestep::shm::{Kind, family};
use sidestep::sync::{SharedEvent, SharedLock, Wait};

/// This program's threads have numbers of its own choice; there is one.
const THREAD: u32 = 1;

fn for_ever() -> Option<Duration> {
    Some(Duration::from_secs(3600))
}

/// Takes the lock, however often signals interrupt the wait.
fn acquire(lock: &SharedLock) -> Wait {
    loop {
        match lock.acquire(lock.family(), THREAD, for_ever) {
            Wait::Interrupted => {}
            done => return done,
        }
    }
}

/// Counts under a lock, loses a process that holds it, and goes on.
pub fn story() -> sidestep::Result<String> {
    let family = family()?;
    let lock = SharedLock::new(false)?;
    let memory = family.create(Kind::Memory, 8)?;
    let counter = family.word(memory.payload());

    let count = || {
        for _ in 0..1000 {
            if acquire(&lock) == Wait::Ready {
                // Two steps, which would go wrong without the lock.
                counter.store(counter.load(Relaxed) + 1, Relaxed);
                let _ = lock.release(family, THREAD);
            }
        }
        0
    };
    let mut children = [Child::fork(count)?, Child::fork(count)?];
    for child in &mut children {
        child.wait()?;
    }
    let mut story = format!("two processes counted to {}\n", counter.load(Relaxed));

    // This one is killed while it holds the lock: nobody waits for it for ever.
    let inside = SharedEvent::new()?;
    let mut victim = Child::fork(|| {
        let _ = acquire(&lock);
        inside.set();
        loop {
            std::thread::park();
        }
    })?;
    while inside.wait(for_ever) != Wait::Ready {}
    victim.kill()?;
    victim.wait()?;
    if let Wait::Abandoned(_) = acquire(&lock) {
        // Only the program knows whether the data is in order; this counter is.
        lock.recover();
        story += "the lock's owner was killed, and the lock recovered\n";
    }
    count();
    story += &format!("one more process makes {}", counter.load(Relaxed));
    Ok(story)
}

#[allow(dead_code)] // a test includes this file
fn main() -> sidestep::Result<()> {
    println!("{}", story()?);
    Ok(())
}
