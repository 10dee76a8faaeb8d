//! Every call of the kernel is refused in turn: the operation ends with an error that says so, or
//! goes on without; afterwards it works, and nothing is left behind.
//!
//! A *scenario* uses a part of the engine and puts everything back. For each call that it makes,
//! the first, the second and so on, and for each way in which the kernel refuses such a call, a
//! process of its own runs it with that one call refused, and then twice as if nothing had been
//! (`cargo test -p sidestep --features failure-points --test failures`).
#![allow(unsafe_code)] // the environment is set before there are threads

mod common;

use std::collections::BTreeSet;
use std::error::Error;
use std::io::{IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::time::{Duration, Instant};

use libc::{
    EAGAIN, ECONNRESET, EFAULT, EINTR, EINVAL, EIO, EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSPC,
    ENOSYS, EOPNOTSUPP, EPERM, EPIPE,
};
use sidestep::channel::QueueOptions;
use sidestep::channel::pipe::{self, Message, Received};
use sidestep::channel::porch::{Event, Porch};
use sidestep::channel::stream::{Step, recv_frame, send_frame};
use sidestep::os::call::{self, Call};
use sidestep::os::clock::Deadline;
use sidestep::os::process::{
    Exit, Fork, exit_now, fork_alone, kill, pidfd_open, poll_readable, reap,
};
use sidestep::os::socket::{self, Interest, Wait as Blocking, poll};
use sidestep::os::{doorbell, lifeline, probe};
use sidestep::pool::{Parcel, Pool};
use sidestep::process::Child;
use sidestep::shm::{Envelope, Kind, Loan, attach, existing, family};
use sidestep::sync::{SharedLock, SharedSemaphore, Wait};

type Outcome = Result<(), Box<dyn Error>>;
type Scenario = (&'static str, fn() -> Outcome);

const SCENARIOS: &[Scenario] = &[
    ("founding", founding),
    ("joining", joining),
    ("processes", processes),
    ("waiting", waiting),
    ("growing", growing),
    ("queue", queue),
    ("lending", lending),
    ("watching", watching),
    ("pipe", pipe),
    ("descriptors", descriptors),
    ("frames", frames),
    ("pool", pool),
    ("porch", porch),
    ("probing", probing),
];

fn main() {
    let mut tests: Vec<common::Test> = vec![("every_call_is_reached", every_call_is_reached)];
    tests.extend([
        ("refused_founding", refused::<0> as fn()),
        ("refused_joining", refused::<1>),
        ("refused_processes", refused::<2>),
        ("refused_waiting", refused::<3>),
        ("refused_growing", refused::<4>),
        ("refused_queue", refused::<5>),
        ("refused_lending", refused::<6>),
        ("refused_watching", refused::<7>),
        ("refused_pipe", refused::<8>),
        ("refused_descriptors", refused::<9>),
        ("refused_frames", refused::<10>),
        ("refused_pool", refused::<11>),
        ("refused_porch", refused::<12>),
        ("refused_probing", refused::<13>),
        ("every_call_has_a_name", every_call_has_a_name),
        (
            "fork_without_room_for_the_child_is_an_error",
            fork_without_room_for_the_child_is_an_error,
        ),
        (
            "living_process_is_not_taken_for_dead_when_descriptors_are_short",
            living_process_is_not_taken_for_dead_when_descriptors_are_short,
        ),
    ]);
    assert_eq!(tests.len(), SCENARIOS.len() + 4);
    common::run(&tests);
}

/// How the kernel may refuse the call. Not among them: what would be a lie about other processes.
fn refusals(call: Call) -> &'static [i32] {
    match call {
        Call::AddSeals => &[EPERM],
        Call::AskForSignal => &[EPERM],
        Call::Atfork => &[ENOMEM],
        Call::Bind => &[libc::EADDRINUSE, EPERM],
        Call::Close => &[EIO],
        Call::CloseRange => &[ENOSYS],
        Call::DontDump => &[EINVAL],
        Call::Duplicate => &[EMFILE],
        Call::Eventfd | Call::Pipe | Call::Socket | Call::Socketpair => &[EMFILE, ENFILE],
        Call::Fork => &[EAGAIN, ENOMEM],
        Call::Fstat => &[ENOMEM],
        Call::Ftruncate => &[ENOSPC, ENOMEM, EINTR],
        Call::FutexWait => &[EINTR, EAGAIN, ENOMEM],
        Call::FutexWake => &[EFAULT],
        Call::Getrandom => &[ENOSYS],
        Call::Getrlimit => &[EPERM],
        Call::GiveBack => &[EOPNOTSUPP, EINTR],
        Call::Kill => &[EPERM],
        Call::MapAgain | Call::Mremap => &[ENOMEM],
        Call::MemfdCreate => &[EMFILE, ENFILE, ENOMEM, ENOSYS, EPERM, EINVAL],
        Call::Mmap => &[ENOMEM],
        Call::Munmap => &[ENOMEM],
        Call::OpenAgain => &[EMFILE, ENFILE, libc::ENOENT],
        Call::PidfdOpen => &[EMFILE, ENFILE, ENOSYS, EPERM],
        Call::Poll => &[EINTR, ENOMEM],
        Call::Pwrite => &[ENOSPC, ENOMEM, EINTR],
        Call::Read | Call::Writev => &[EINTR, EIO],
        Call::ReadFile | Call::ReadFolder => &[EMFILE, libc::EACCES, libc::ENOENT],
        Call::Recv => &[EINTR, ENOMEM],
        Call::Recvmsg => &[EINTR, ENOMEM, ECONNRESET],
        Call::Sendmsg => &[EINTR, ENOBUFS, EPIPE],
        Call::Sendto => &[ENOBUFS, EAGAIN, EPERM],
        Call::Shutdown => &[ENOBUFS],
        Call::Sysinfo => &[EPERM],
        Call::Waitid | Call::Waitpid => &[EINTR],
    }
}

// --- the scenarios -----------------------------------------------------------------------------

/// Longer than anything takes here; a wait that lasts so long was in vain.
const LONG: Duration = Duration::from_secs(20);

fn done(wait: Wait) -> Outcome {
    match wait {
        Wait::Ready => Ok(()),
        other => Err(format!("a wait ended as {other:?}").into()),
    }
}

fn ended_well(mut child: Child) -> Outcome {
    match child.wait()? {
        Exit::Code(0) => Ok(()),
        exit => Err(format!("the child ended as {exit:?}").into()),
    }
}

fn code(outcome: Outcome) -> i32 {
    i32::from(outcome.is_err())
}

fn founding() -> Outcome {
    let family = family()?;
    drop(family.create(Kind::Memory, 1000)?);
    Ok(())
}

/// A process that has no family yet is handed one, as a spawned child is.
fn joining() -> Outcome {
    if existing().is_some() {
        return Ok(());
    }
    let (here, there) = socket::socket_pair()?;
    match fork_alone()? {
        Fork::Child => {
            drop(here);
            let lend = || -> Outcome {
                socket::send(there.as_fd(), b"x", &[family()?.fd()?], Blocking::AsSet)?;
                // Until the other side has joined.
                let _ = socket::read(there.as_fd(), &mut [0])?;
                Ok(())
            };
            exit_now(code(lend()))
        }
        Fork::Parent(pid) => {
            drop(there);
            let join = || -> Outcome {
                let (_, mut fds) = socket::receive(here.as_fd(), &mut [0], Blocking::AsSet)?;
                let fd: OwnedFd = fds.pop().ok_or("no descriptor came")?;
                let number = fd.into_raw_fd();
                if let Err(error) = attach(number) {
                    // It is taken over only if it is an arena that can be joined.
                    drop(socket::take_over(number)?);
                    return Err(error.into());
                }
                Ok(())
            };
            let joined = join();
            drop(here);
            reap(pid, true)?;
            joined
        }
    }
}

fn processes() -> Outcome {
    let mut child = Child::fork(|| 0)?;
    child.wait_timeout(LONG)?.ok_or("the child did not end")?;
    let (here, there) = socket::socket_pair()?;
    let mut here = Some(here);
    let mut asleep = Child::fork_linked(|| {
        here = None;
        let _ = socket::read(there.as_fd(), &mut [0]);
        0
    })?;
    let killed = asleep.kill();
    // So that it ends in any case.
    drop((here, there));
    asleep.wait()?;
    Ok(killed?)
}

fn waiting() -> Outcome {
    let family = family()?;
    let lock = SharedLock::new(false)?;
    let (ours, theirs) = (
        SharedSemaphore::new(0, None)?,
        SharedSemaphore::new(0, None)?,
    );
    done(lock.acquire(family, 1, || Some(LONG)))?;
    // Who gives up leaves a mark behind, for which the next release wakes somebody: in any case,
    // whether or not the child below is asleep in time.
    let given_up = SharedSemaphore::new(0, None)?;
    assert_eq!(given_up.acquire(|| None), Wait::TimedOut);
    given_up.release(1)?;
    let child = Child::fork(|| {
        let turn = || -> Outcome {
            done(common::persist(|| theirs.acquire(|| Some(LONG))))?;
            done(common::persist(|| lock.acquire(family, 1, || Some(LONG))))?;
            lock.release(family, 1)?;
            Ok(())
        };
        let outcome = turn();
        // Whatever happened, the parent must not wait in vain.
        let _ = ours.release(1);
        code(outcome)
    })?;
    theirs.release(1)?;
    lock.release(family, 1)?;
    let told = done(common::persist(|| ours.acquire(|| Some(LONG))));
    ended_well(child)?;
    told
}

/// More than there is, large and small, and back again.
fn growing() -> Outcome {
    let family = family()?;
    let mut blocks = Vec::new();
    let full = loop {
        match family.create(Kind::Memory, 3 << 20) {
            Ok(block) => blocks.push(block),
            Err(error) => break error,
        }
    };
    blocks.clear();
    drop(family.create(Kind::Memory, 9 << 20)?);
    match full {
        sidestep::Error::OutOfMemory { .. } => Ok(()),
        other => Err(other.into()),
    }
}

fn queue() -> Outcome {
    let queue = QueueOptions::new().create()?;
    let message = vec![7; 60_000];
    for _ in 0..20 {
        queue.put(&message)?;
    }
    let child = Child::fork(|| {
        let take = || -> Outcome {
            for _ in 0..20 {
                let got = queue.get(Some(LONG))?.ok_or("an item is missing")?;
                assert_eq!(got.len(), 60_000);
            }
            Ok(())
        };
        code(take())
    })?;
    ended_well(child)
}

/// Memory of messages, before and after a fork; where it cannot be lent it is copied.
fn lending() -> Outcome {
    const LEN: usize = 256 << 10;
    let family = family()?;
    let from = 4096 - Envelope::begins_at(0);
    let filled = || -> Result<Envelope, sidestep::Error> {
        let envelope = Envelope::new(family, from + LEN as u64, Vec::new())?;
        envelope.write(from, &[7; LEN]);
        Ok(envelope)
    };
    let bytes = |loan: &Loan| -> &'static mut [u8] {
        let (address, len) = loan.address().expect("it lies in the arena");
        // SAFETY: as long as the loan, which outlives its uses here; only this thread uses it.
        unsafe { std::slice::from_raw_parts_mut(address, len as usize) }
    };
    let own = filled()?.lend(from);
    let envelope = filled()?;
    let other = envelope.try_clone()?;
    let shared = envelope.lend(from);
    let mut loans: Vec<Loan> = own.into_iter().chain(shared).collect();
    let turn = |loans: &[Loan]| -> Outcome {
        let child = Child::fork(|| {
            let found = loans.iter().all(|loan| bytes(loan) == [7; LEN]);
            loans.iter().for_each(|loan| bytes(loan).fill(8));
            code(found.then_some(()).ok_or_else(|| "wrong bytes".into()))
        })?;
        ended_well(child)?;
        assert!(loans.iter().all(|loan| bytes(loan) == [7; LEN]));
        Ok(())
    };
    let first = turn(&loans);
    loans.clear();
    drop(other);
    first?;
    // As a program does that closes all descriptors when it becomes a daemon.
    loans.extend(filled()?.lend(from));
    let (number, kept) = (family.raw_fd(), family.fd()?.try_clone_to_owned()?);
    // SAFETY: a number that is put back below.
    unsafe { libc::close(number) };
    let second = turn(&loans);
    // SAFETY: two descriptors, of which the second one is nobody's.
    let put_back = unsafe { libc::dup3(kept.as_raw_fd(), number, libc::O_CLOEXEC) };
    assert_eq!(put_back, number);
    loans.clear();
    second
}

fn watching() -> Outcome {
    let queue = QueueOptions::new().create()?;
    let watch = queue.watch()?;
    queue.put(b"item")?;
    let ready = poll(watch.fd(), Interest::Read, Some(Duration::ZERO))?;
    let item = queue.get(Some(LONG))?;
    assert!(item.is_some());
    watch.settle();
    let writable = doorbell::always_writable()?;
    poll(writable.as_fd(), Interest::Write, Some(Duration::ZERO))?;
    // A ring that failed is made up for when somebody looks, so it is no error of `put`.
    ready
        .map(drop)
        .ok_or_else(|| "the bell was not rung".into())
}

fn pipe() -> Outcome {
    let [(one, here), (other, there)] = pipe::pair()?;
    other.watch(there.as_fd())?;
    one.try_send(here.as_fd(), 1, Message::Short(&[b"short"]))?;
    poll(there.as_fd(), Interest::Read, Some(LONG))?;
    let mut text = Vec::new();
    let received = other.try_receive(there.as_fd(), &mut text)?;
    assert!(matches!(received, Received::Short { tag: 1 }) && text == b"short");
    let (r, _w) = socket::pipe()?;
    socket::send(here.as_fd(), &[1], &[r.as_fd()], Blocking::AsSet)?;
    loop {
        match other.receive_parcel(there.as_fd())? {
            Step::Interrupted => {}
            Step::Done(parcel) => {
                assert_eq!(parcel.ok_or("no parcel came")?.descriptors.len(), 1);
                return Ok(());
            }
        }
    }
}

fn descriptors() -> Outcome {
    let (r, w) = socket::pipe()?;
    socket::identity(r.as_fd())?;
    socket::write_pieces(w.as_fd(), &[IoSlice::new(b"through")])?;
    let mut buffer = Vec::with_capacity(16);
    socket::read_behind(r.as_fd(), &mut buffer, 16)?;
    let (a, b) = socket::socket_pair()?;
    socket::send(a.as_fd(), b"x", &[], Blocking::Never)?;
    socket::peek(b.as_fd(), &mut [0])?;
    socket::shutdown(a.as_fd(), Shutdown::Write)?;
    // A process may well ask to die with itself.
    let line = lifeline::open()?;
    lifeline::die_at_end_of(line.as_raw_fd())?;
    Ok(socket::close(a)?)
}

fn frames() -> Outcome {
    let (a, b) = socket::socket_pair()?;
    send_frame(a.as_fd(), b"a frame")?;
    assert_eq!(recv_frame(b.as_fd(), Some(100))?, b"a frame");
    Ok(())
}

fn pool() -> Outcome {
    let pool = Pool::new(2)?;
    let number = pool.submit(Parcel::Short(b"task"))?;
    let worker = Child::fork(|| {
        let work = || -> Outcome {
            let mut buffer = Vec::new();
            while pool.take(0, &mut buffer)?.is_none() {
                let _ = pool.wait_task(Deadline::after(Some(LONG)));
            }
            pool.finish(0, number, Parcel::Short(b"result"))?;
            Ok(())
        };
        code(work())
    })?;
    ended_well(worker)?;
    pool.collect(&mut Vec::new())?.ok_or("no result came")?;
    Ok(())
}

fn porch() -> Outcome {
    // Nobody knocks at this door.
    let (door, _outside) = socket::socket_pair()?;
    let (ours, theirs) = socket::socket_pair()?;
    let mut porch = Porch::new(None, LONG, 4);
    porch.add(1, ours, None)?;
    loop {
        match porch.wait(door.as_fd(), Deadline::after(Some(LONG)))? {
            Step::Interrupted => {}
            Step::Done(event) => {
                drop(theirs);
                return match event {
                    Event::Admitted(..) => Ok(()),
                    other => Err(format!("{other:?}").into()),
                };
            }
        }
    }
}

fn probing() -> Outcome {
    // What is refused is what it returns.
    match probe::features()
        .into_iter()
        .find_map(|feature| feature.refused)
    {
        Some(refusal) => Err(refusal.into()),
        None => Ok(()),
    }
}

// --- running them ------------------------------------------------------------------------------

/// What a process has open and shares.
#[derive(Debug, PartialEq, Eq)]
struct Holds {
    descriptors: usize,
    blocks: u64,
    processes: u64,
    children: bool,
}

fn holds() -> Holds {
    let usage = existing().map(|family| family.usage());
    Holds {
        descriptors: std::fs::read_dir("/proc/self/fd").unwrap().count(),
        blocks: usage.map_or(0, |usage| usage.blocks),
        processes: usage.map_or(0, |usage| usage.processes),
        // SAFETY: a system call without pointers.
        children: unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } != -1,
    }
}

/// Runs `work` in a process of its own: what it wrote, or why it did not end well.
fn apart(work: impl FnOnce() -> Vec<u8>) -> Result<Vec<u8>, String> {
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    let pid = match fork_alone().unwrap() {
        Fork::Child => {
            drop(reader);
            let text = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            let written = text.is_ok_and(|text| writer.write_all(&text).is_ok());
            exit_now(i32::from(!written));
        }
        Fork::Parent(pid) => pid,
    };
    drop(writer);
    let ended = poll_readable(pidfd_open(pid).unwrap().as_fd(), Some(LONG)).unwrap();
    if !ended {
        let _ = kill(pid, libc::SIGKILL);
    }
    let exit = reap(pid, true).unwrap();
    let mut text = Vec::new();
    reader.read_to_end(&mut text).unwrap();
    match exit {
        _ if !ended => Err("it hung".into()),
        Some(Exit::Code(0)) => Ok(text),
        exit => Err(format!("it ended as {exit:?}")),
    }
}

/// Small enough to be filled by a test.
fn with_a_small_arena() {
    // SAFETY: the process has one thread.
    unsafe { std::env::set_var("SIDESTEP_ARENA_LIMIT", "40M") };
}

/// How often the scenario makes each call, in a process of its own.
fn calls_of(scenario: fn() -> Outcome) -> Vec<(Call, u32)> {
    let text = apart(|| {
        call::count();
        scenario().unwrap();
        Call::ALL
            .iter()
            .flat_map(|call| call::made(*call).to_le_bytes())
            .collect()
    })
    .unwrap();
    let counts = text
        .chunks(4)
        .map(|word| u32::from_le_bytes(word.try_into().unwrap()));
    Call::ALL.iter().copied().zip(counts).collect()
}

/// Runs the scenario with every call that it makes refused in every way, one at a time.
fn refused<const SCENARIO: usize>() {
    with_a_small_arena();
    let (name, scenario) = SCENARIOS[SCENARIO];
    let calm = apart(|| {
        scenario().unwrap();
        scenario().unwrap();
        format!("{:?}", holds()).into_bytes()
    })
    .unwrap();
    let mut failures = Vec::new();
    for (call, count) in calls_of(scenario) {
        for errno in refusals(call) {
            // The first ones and the last: those between are of the same place.
            let numbers: BTreeSet<u32> = (1..=count.min(8))
                .chain([count])
                .filter(|n| *n > 0)
                .collect();
            for number in numbers {
                let case = format!("{name}: call {number} of {}, errno {errno}", call.name());
                let found = apart(|| {
                    call::fail(call, number, number, *errno);
                    let outcome = scenario();
                    call::count();
                    if let Err(error) = outcome {
                        assert_told(call, *errno, error.as_ref());
                    }
                    for _ in 0..2 {
                        scenario().unwrap();
                    }
                    if let Some(family) = existing() {
                        family.audit().unwrap();
                    }
                    format!("{:?}", holds()).into_bytes()
                });
                match found {
                    Ok(found) if found == calm => {}
                    Ok(found) => failures.push(format!(
                        "{case}: left {} and not {}",
                        String::from_utf8_lossy(&found),
                        String::from_utf8_lossy(&calm)
                    )),
                    Err(why) => failures.push(format!("{case}: {why}")),
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The error is about the call that was refused, or about what came of it in another process.
fn assert_told(call: Call, errno: i32, error: &(dyn Error + 'static)) {
    let text = error.to_string();
    let about_it = text.contains(&format!("os error {errno}"));
    // Of bare errors of the kernel it is the caller who knows what to say.
    let names_limit = !error.is::<sidestep::Error>()
        || match errno {
            EMFILE => text.contains("RLIMIT_NOFILE"),
            ENFILE => text.contains("fs.file-max"),
            _ => true,
        };
    let elsewhere = [
        "the child ended as",
        "no descriptor came",
        "no parcel came",
        "the bell was not rung",
        "two waits ended as",
        "Dropped",
    ];
    assert!(
        about_it && names_limit || elsewhere.iter().any(|start| text.contains(start)),
        "{} refused with {errno}: {text}",
        call.name()
    );
}

// --- single tests ------------------------------------------------------------------------------

fn every_call_is_reached() {
    with_a_small_arena();
    let reached: BTreeSet<&str> = SCENARIOS
        .iter()
        .flat_map(|(_, scenario)| calls_of(*scenario))
        .filter(|(_, count)| *count > 0)
        .map(|(call, _)| call.name())
        .collect();
    for call in Call::ALL {
        assert!(
            reached.contains(call.name()),
            "no scenario makes {}",
            call.name()
        );
    }
}

/// Whoever adds a call of the kernel gives it a name: a look into the source.
fn every_call_has_a_name() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/os");
    // They cannot fail, or are computations.
    let free = [
        "CMSG_",
        "WIF",
        "WEXIT",
        "WTERM",
        "getpid(",
        "clock_gettime(",
        "_exit(",
        "major(",
        "minor(",
        "pthread_mutex",
        "pthread_sigmask(",
        "sigaction(",
        "sigaddset(",
        "sigemptyset(",
        "sigismember(",
        "SYS_gettid",
    ];
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let source = std::fs::read_to_string(&path).unwrap();
        let source = source.split("#[cfg(test)]").next().unwrap();
        let lines: Vec<&str> = source.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap();
            let calls_libc = code.match_indices("libc::").any(|(at, _)| {
                let rest = &code[at + 6..];
                let name = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                name.is_some_and(|end| rest[end..].starts_with('('))
                    && !free.iter().any(|free| code.contains(free))
            });
            let by_std = ["fs::read", "try_clone_to_owned"]
                .iter()
                .any(|call| code.contains(call));
            if calls_libc || by_std {
                let before = lines[at.saturating_sub(4)..=at].join("\n");
                let named = before.contains("Call::") || before.contains("SYS_gettid");
                let is_gettid = lines[at..]
                    .iter()
                    .take(2)
                    .any(|line| line.contains("SYS_gettid"));
                assert!(named || is_gettid, "{}:{}: no name", path.display(), at + 1);
            }
        }
    }
}

fn fork_without_room_for_the_child_is_an_error() {
    with_a_small_arena();
    let family = family().unwrap();
    let mut blocks = Vec::new();
    let mut size = 8 << 20;
    while size > 64 {
        match family.create(Kind::Memory, size) {
            Ok(block) => blocks.push(block),
            Err(_) => size /= 2,
        }
    }
    let started = Instant::now();
    let error = Child::fork(|| 0).unwrap_err();
    assert!(error.to_string().contains("no shared memory"), "{error}");
    assert!(started.elapsed() < LONG);
    blocks.truncate(blocks.len() / 2);
    ended_well(Child::fork(|| 0).unwrap()).unwrap();
    drop(blocks);
    let processes = family.usage().processes;
    assert_eq!(processes, 1);
    family.audit().unwrap();
}

fn living_process_is_not_taken_for_dead_when_descriptors_are_short() {
    let (here, there) = socket::socket_pair().unwrap();
    let mut here = Some(here);
    let child = common::child(|| {
        here = None;
        let _ = socket::read(there.as_fd(), &mut [0]);
    });
    let then = sidestep::os::process::start_time(child.pid());
    for refused in [Call::PidfdOpen, Call::ReadFile] {
        call::fail(refused, 1, u32::MAX, EMFILE);
        assert!(!sidestep::os::process::has_ended(child.pid(), then));
    }
    call::count();
    drop((here, there));
    common::join(vec![child]);
}
