//! Runs tests that fork: one after the other, each in a process and a family of its own.
//!
//! The usual harness runs tests in threads, and a copy of a process with threads is a broken one.
//! Here the runner has one thread and no arena. Each test leads a process group, which is killed
//! when the test is over, so that nothing of a failed one goes on.
#![allow(unsafe_code, dead_code)] // each test binary uses a part

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use sidestep::channel::{Queue, Watch};
use sidestep::os::process::{
    Exit, Fork, exit_now, fork_alone, kill, pidfd_open, poll_readable, reap,
};
use sidestep::os::socket::{Interest, poll};
use sidestep::process::Child;
use sidestep::shm::{Family, Usage, family};
use sidestep::sync::Wait;

/// A test: its name and what it does.
pub type Test = (&'static str, fn());

/// Longer than any test takes on the slowest machine; a test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs the tests whose name contains one of the arguments, or all; exits with 1 if one fails.
pub fn run(tests: &[Test]) {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let list = std::env::args().any(|argument| argument == "--list");
    let (mut passed, mut failed, started) = (0, Vec::new(), Instant::now());
    for (name, test) in tests {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        if list {
            println!("{name}: test");
            continue;
        }
        let began = Instant::now();
        match in_own_process(*test) {
            Ok(()) => {
                println!("test {name} ... ok ({} ms)", began.elapsed().as_millis());
                passed += 1;
            }
            Err(why) => {
                println!("test {name} ... FAILED: {why}");
                failed.push(*name);
            }
        }
    }
    if list {
        return;
    }
    let result = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {result}. {passed} passed; {} failed; 0 ignored; 0 measured; 0 filtered \
         out; finished in {:.2}s\n",
        failed.len(),
        started.elapsed().as_secs_f64()
    );
    std::process::exit(i32::from(!failed.is_empty()));
}

fn in_own_process(test: fn()) -> Result<(), String> {
    let pid = match fork_alone().map_err(|error| error.to_string())? {
        Fork::Child => {
            // SAFETY: a system call without pointers.
            unsafe { libc::setpgid(0, 0) };
            let passed = std::panic::catch_unwind(test).is_ok();
            exit_now(i32::from(!passed));
        }
        Fork::Parent(pid) => pid,
    };
    // SAFETY: as above; done on both sides, so that the group exists whoever is first.
    unsafe { libc::setpgid(pid as i32, pid as i32) };
    let ended = pidfd_open(pid)
        .and_then(|fd| poll_readable(fd.as_fd(), Some(PATIENCE)))
        .unwrap_or(true);
    // The group outlives its leader as long as a member or the leader's zombie exists.
    // SAFETY: as above; the group is the test's own.
    unsafe { libc::kill(-(pid as i32), libc::SIGKILL) };
    match reap(pid, true) {
        _ if !ended => Err(format!("it hung for {} s", PATIENCE.as_secs())),
        Ok(Some(Exit::Code(0))) => Ok(()),
        Ok(Some(exit)) => Err(format!("{exit:?}")),
        other => Err(format!("{other:?}")),
    }
}

/// A child that runs `work`.
pub fn child(work: impl FnOnce()) -> Child {
    Child::fork(|| {
        work();
        0
    })
    .unwrap()
}

/// Waits for children that must end well.
pub fn join(children: Vec<Child>) {
    for mut child in children {
        assert_eq!(child.wait().unwrap(), Exit::Code(0));
    }
}

/// What the arena holds, apart from what is kept warm.
#[derive(Debug, PartialEq, Eq)]
pub struct Holds {
    pub bytes: u64,
    pub blocks: u64,
    pub processes: u64,
}

pub fn holds(family: &Family) -> Holds {
    let Usage {
        used,
        warm,
        blocks,
        processes,
        ..
    } = family.usage();
    Holds {
        bytes: used - warm,
        blocks,
        processes,
    }
}

/// The family of the test, with a table that has room, so that what it holds can be compared.
pub fn settled_family() -> &'static Family {
    let family = family().unwrap();
    drop(family.create(sidestep::shm::Kind::Memory, 8).unwrap());
    family
}

/// A message that tells whether it arrived whole: producer, number, length and contents depend on
/// each other.
pub fn message(producer: u32, number: u32) -> Vec<u8> {
    let mut message = Vec::new();
    let mut random = Random(u64::from(producer) << 32 | u64::from(number));
    // Now and then one that does not lie in the queue itself.
    let most = if number % 50 == 49 { 40_000 } else { 300 };
    let len = random.below(most) as usize;
    message.extend_from_slice(&producer.to_le_bytes());
    message.extend_from_slice(&number.to_le_bytes());
    message.extend((0..len).map(|i| (i as u32 ^ number.wrapping_mul(31)) as u8));
    let sum = checksum(&message);
    message.extend_from_slice(&sum.to_le_bytes());
    message
}

/// Producer and number of a message that is whole.
pub fn checked(message: &[u8]) -> (u32, u32) {
    assert!(message.len() >= 16, "torn: {} bytes", message.len());
    let (body, sum) = message.split_at(message.len() - 8);
    assert_eq!(sum, checksum(body).to_le_bytes(), "torn message");
    let word = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().unwrap());
    (word(0), word(4))
}

fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Numbers that look random and are the same each time (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Lets the child run for so long and kills it: a moment of death, not a synchronisation.
pub fn kill_after(child: &mut Child, delay: Duration) {
    let started = Instant::now();
    while started.elapsed() < delay {
        std::thread::yield_now();
    }
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap(), Exit::Signal(libc::SIGKILL));
}

/// Waits again when the kernel has interrupted a wait, which it may do without a signal, too.
pub fn persist(mut wait: impl FnMut() -> Wait) -> Wait {
    loop {
        match wait() {
            Wait::Interrupted => {}
            done => return done,
        }
    }
}

/// All that is in the queue, without waiting.
pub fn drain(queue: &Queue) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(message) = queue.get(Some(Duration::ZERO)).unwrap() {
        all.push(message);
    }
    all
}

/// Whether a descriptor that watches a queue becomes readable in so much time.
pub fn is_readable(watch: &Watch, limit: Duration) -> bool {
    poll(watch.fd(), Interest::Read, Some(limit))
        .unwrap()
        .is_some_and(|ready| ready.readable)
}

/// Kills the calling process on the spot.
pub fn die() -> ! {
    let _ = kill(sidestep::os::process::pid(), libc::SIGKILL);
    unreachable!("a process outlived its own SIGKILL")
}
