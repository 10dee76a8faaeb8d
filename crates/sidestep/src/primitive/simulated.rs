//! Processes as tasks of the `shuttle` scheduler, so that whole scenarios of the real engine run
//! in random orders, with deaths, and every failing order can be repeated.
//!
//! The arena is real. A process has one task. Each step on a word of it is a point at which another task may go on, and at
//! which the process may be killed: it then changes nothing any more. Futexes, time and what the
//! kernel knows of processes are played here. Orders are sequentially consistent (loom tells about
//! weaker ones).
//!
//! While nobody was killed no sleep ends by itself, so a lost wake-up is a deadlock, which the
//! scheduler reports. After a death sleeps may end early at any time: that is what slices are for.

use core::fmt;
use core::sync::atomic as real;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

pub use real::Ordering;

pub use crate::os::futex::Wake;

/// The panic that ends the task of a killed process.
struct Killed;

/// A process, as its task and the others see it.
struct Being {
    pid: u32,
    /// Steps until it is killed.
    left: Option<u32>,
}

struct Sleeper {
    /// What it sleeps on: an address, or 0 for whatever the kernel has to tell.
    key: usize,
    task: usize,
    thread: shuttle::thread::Thread,
}

#[derive(Default)]
struct World {
    beings: BTreeMap<usize, Being>,
    pids: u32,
    ended: Vec<u32>,
    killed: u32,
    sleepers: Vec<Sleeper>,
    clock: Duration,
}

thread_local! {
    // All tasks of an execution run in one thread.
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

fn task() -> usize {
    shuttle::current::me().into()
}

/// Wakes at most `count` of the sleepers.
fn wake(count: u32, which: impl Fn(&Sleeper) -> bool) {
    let mut woken = Vec::new();
    in_world(|world, _| {
        let mut left = count;
        world.sleepers.retain(|sleeper| {
            let wake = left > 0 && which(sleeper);
            if wake {
                left -= 1;
                woken.push(sleeper.thread.clone());
            }
            !wake
        });
    });
    // Others may go on at each of these.
    for thread in woken {
        thread.unpark();
    }
}

/// Does something with the world, if there is one and its process has not been killed.
fn in_world<T>(work: impl FnOnce(&mut World, usize) -> T) -> Option<T> {
    if is_ghost() {
        return None;
    }
    WORLD.with_borrow_mut(|world| world.as_mut().map(|world| work(world, task())))
}

/// Begins a new world, without processes.
pub(crate) fn begin() {
    WORLD.set(Some(World::default()));
}

/// Ends the world: from here on words are plain words.
pub(crate) fn end() {
    WORLD.set(None);
}

/// Makes the calling task a process; it is killed after so many steps.
pub(crate) fn be_born(left: Option<u32>) -> u32 {
    in_world(|world, task| {
        world.pids += 1;
        let pid = world.pids;
        world.beings.insert(task, Being { pid, left });
        pid
    })
    .unwrap_or(0)
}

/// Runs the calling process; whether it came to its end, and was not killed before.
pub(crate) fn live(work: impl FnOnce()) -> bool {
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    let killed = match done {
        Ok(()) => false,
        Err(why) if why.is::<Killed>() => true,
        Err(why) => std::panic::resume_unwind(why),
    };
    in_world(|world, task| {
        if let Some(being) = world.beings.remove(&task) {
            world.ended.push(being.pid);
        }
    });
    kernel_changed();
    !killed
}

/// Whether the calling task's process was killed (or its test has failed): what still runs is the
/// way out of its functions, and changes nothing.
pub(crate) fn is_ghost() -> bool {
    std::thread::panicking()
}

/// Somebody else may go on here, or the process may end. `false`: nothing may be changed.
fn step() -> bool {
    if is_ghost() {
        return false;
    }
    let dies = in_world(|world, task| {
        let being = world.beings.get_mut(&task)?;
        let left = being.left.as_mut()?;
        *left = left.saturating_sub(1);
        if *left > 0 {
            return None;
        }
        world.ended.push(being.pid);
        world.killed += 1;
        Some(())
    });
    match dies {
        None => {}
        Some(None) => shuttle::thread::sleep(Duration::ZERO),
        Some(Some(())) => {
            wake(u32::MAX, |_| true);
            std::panic::resume_unwind(Box::new(Killed));
        }
    }
    true
}

/// Sleeps until somebody wakes who sleeps on `key`. `false`: it has ended by itself, and `limit` has
/// passed.
fn sleep_on(key: usize, limit: Option<Duration>) -> bool {
    let thread = shuttle::thread::current();
    let sleeps = in_world(|world, task| {
        if world.killed == 0 {
            world.sleepers.push(Sleeper { key, task, thread });
        } else {
            world.clock += limit.unwrap_or_default();
        }
        world.killed == 0
    });
    if sleeps != Some(true) {
        // Time passes for the others, too.
        shuttle::thread::yield_now();
        return false;
    }
    let me = task();
    while in_world(|world, _| world.sleepers.iter().any(|sleeper| sleeper.task == me)) == Some(true)
    {
        shuttle::thread::park();
    }
    in_world(|world, _| world.killed) == Some(0)
}

/// See `os::futex::wait`.
pub fn futex_wait(word: &AtomicU32, expected: u32, limit: Option<Duration>) -> Wake {
    step();
    if word.0.load(Ordering::SeqCst) != expected {
        return Wake::Changed;
    }
    match sleep_on(word.as_ptr() as usize, limit) {
        true => Wake::Woken,
        false => Wake::TimedOut,
    }
}

/// See `os::futex::wake`.
pub fn futex_wake(word: &AtomicU32, count: u32) {
    if step() {
        let key = word.as_ptr() as usize;
        wake(count, |sleeper| sleeper.key == key);
    }
}

/// Something has happened that a poll may wait for.
pub(crate) fn kernel_changed() {
    wake(u32::MAX, |sleeper| sleeper.key == 0);
}

/// A step of its own in a loop that looks again and again.
pub fn spin_loop() {
    step();
}

/// Orders are sequentially consistent here.
pub fn fence(_order: Ordering) {}

/// See the real one.
pub fn store_load_barrier_after_rmw() {}

/// Spinning only makes schedules longer.
pub const SPINS: u32 = 0;

/// A moment of the world's clock, which moves when it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(Duration);

impl Instant {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self(
            in_world(|world, _| {
                world.clock += Duration::from_micros(1);
                world.clock
            })
            .unwrap_or_default(),
        )
    }

    /// Time since then.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        Self::now().saturating_duration_since(self)
    }

    /// A later moment.
    #[must_use]
    pub fn checked_add(self, more: Duration) -> Option<Self> {
        self.0.checked_add(more).map(Self)
    }

    /// Time from `earlier` until this.
    #[must_use]
    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Lets the world's clock go on.
pub fn nap(time: Duration) {
    if step() {
        in_world(|world, _| world.clock += time);
        shuttle::thread::yield_now();
    }
}

/// What the kernel knows of processes: see `os::process`.
pub mod process {
    use super::{in_world, task};
    use crate::os::memory::Identity;
    use crate::os::process::Exit;

    /// The calling process.
    pub fn pid() -> u32 {
        in_world(|world, _| world.beings.get(&task()).map_or(0, |being| being.pid)).unwrap_or(0)
    }

    /// All began at once.
    pub fn start_time(_pid: u32) -> u64 {
        1
    }

    /// Whether it was killed or has come to its end.
    pub fn has_ended(pid: u32, _start_time: u64) -> bool {
        in_world(|world, _| world.ended.contains(&pid)).unwrap_or(false)
    }

    /// Nobody asks how it ended.
    pub fn exit_of(_pid: u32, _start_time: u64) -> Option<Exit> {
        None
    }

    /// No witness is held: the kernel's robust words belong to real threads.
    pub fn in_main_thread() -> bool {
        false
    }

    /// Every process is a member from its first step on.
    pub fn others_map(_file: Identity, _known: impl Fn(u32) -> bool) -> bool {
        false
    }

    /// Nobody forks.
    pub fn has_child_that_maps(_file: Identity, _known: impl Fn(u32, u64) -> bool) -> bool {
        false
    }

    /// Nobody spins on one processor.
    pub fn processors() -> usize {
        1
    }
}

/// Sockets are real, but nobody waits in the kernel: see `os::socket`.
pub mod socket {
    use super::{kernel_changed, sleep_on, step};
    pub use crate::os::socket::*;
    use std::io;
    use std::os::fd::BorrowedFd;
    use std::time::Duration;

    /// See `os::socket::send`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn send(
        socket: BorrowedFd<'_>,
        bytes: &[u8],
        descriptors: &[BorrowedFd<'_>],
        wait: Wait,
    ) -> io::Result<usize> {
        step();
        let sent = crate::os::socket::send(socket, bytes, descriptors, wait);
        kernel_changed();
        sent
    }

    /// See `os::socket::receive`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn receive(
        socket: BorrowedFd<'_>,
        bytes: &mut [u8],
        wait: Wait,
    ) -> io::Result<(usize, Vec<std::os::fd::OwnedFd>)> {
        step();
        crate::os::socket::receive(socket, bytes, wait)
    }

    /// See `os::socket::poll`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn poll(
        descriptor: BorrowedFd<'_>,
        interest: Interest,
        timeout: Option<Duration>,
    ) -> io::Result<Option<Readiness>> {
        loop {
            step();
            let now = crate::os::socket::poll(descriptor, interest, Some(Duration::ZERO))?;
            if now.is_some() || timeout == Some(Duration::ZERO) || !sleep_on(0, timeout) {
                return Ok(now);
            }
        }
    }
}

/// Doorbells are real, and waited for as sockets are: see `os::doorbell`.
pub mod doorbell {
    use super::{kernel_changed, step};
    pub use crate::os::doorbell::*;
    use std::io;

    /// See `os::doorbell::ring`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ring(name: Name) -> io::Result<()> {
        step();
        let rung = crate::os::doorbell::ring(name);
        kernel_changed();
        rung
    }
}

macro_rules! atomic {
    ($name:ident, $real:ident, $number:ty) => {
        /// A real word, each use of which is a step of the schedule.
        #[repr(transparent)]
        #[derive(Default)]
        pub struct $name(real::$real);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        #[allow(missing_docs)]
        impl $name {
            pub const fn new(value: $number) -> Self {
                Self(real::$real::new(value))
            }

            pub fn as_ptr(&self) -> *mut $number {
                self.0.as_ptr()
            }

            pub fn load(&self, _: Ordering) -> $number {
                step();
                self.0.load(Ordering::SeqCst)
            }

            pub fn store(&self, value: $number, _: Ordering) {
                if step() {
                    self.0.store(value, Ordering::SeqCst);
                }
            }

            fn change(&self, next: impl Fn($number) -> $number) -> $number {
                let alive = step();
                let value = self.0.load(Ordering::SeqCst);
                if alive {
                    self.0.store(next(value), Ordering::SeqCst);
                }
                value
            }

            pub fn swap(&self, value: $number, _: Ordering) -> $number {
                self.change(|_| value)
            }

            pub fn fetch_add(&self, more: $number, _: Ordering) -> $number {
                self.change(|value| value.wrapping_add(more))
            }

            pub fn fetch_sub(&self, less: $number, _: Ordering) -> $number {
                self.change(|value| value.wrapping_sub(less))
            }

            pub fn fetch_or(&self, bits: $number, _: Ordering) -> $number {
                self.change(|value| value | bits)
            }

            pub fn fetch_and(&self, bits: $number, _: Ordering) -> $number {
                self.change(|value| value & bits)
            }

            pub fn fetch_max(&self, least: $number, _: Ordering) -> $number {
                self.change(|value| value.max(least))
            }

            pub fn compare_exchange(
                &self,
                expected: $number,
                next: $number,
                _: Ordering,
                _: Ordering,
            ) -> Result<$number, $number> {
                if !step() {
                    // Whoever was killed does not care, and must not try again for ever.
                    return Ok(expected);
                }
                self.0
                    .compare_exchange(expected, next, Ordering::SeqCst, Ordering::SeqCst)
            }

            pub fn compare_exchange_weak(
                &self,
                expected: $number,
                next: $number,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$number, $number> {
                self.compare_exchange(expected, next, success, failure)
            }

            pub fn fetch_update(
                &self,
                _: Ordering,
                _: Ordering,
                mut next: impl FnMut($number) -> Option<$number>,
            ) -> Result<$number, $number> {
                let alive = step();
                let value = self.0.load(Ordering::SeqCst);
                match next(value) {
                    Some(next) if alive => {
                        self.0.store(next, Ordering::SeqCst);
                        Ok(value)
                    }
                    Some(_) => Ok(value),
                    None => Err(value),
                }
            }
        }
    };
}

atomic!(AtomicU32, AtomicU32, u32);
atomic!(AtomicU64, AtomicU64, u64);
