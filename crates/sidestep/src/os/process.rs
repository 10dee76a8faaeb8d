//! Processes: identity, descriptors of processes, fork, reaping.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::call::{self, Call, call};
use super::memory::Identity;

/// The calling process's id, in its own pid namespace.
pub fn pid() -> u32 {
    // SAFETY: always succeeds.
    unsafe { libc::getpid() as u32 }
}

/// The calling thread's id.
pub fn tid() -> u32 {
    // SAFETY: always succeeds.
    unsafe { libc::syscall(libc::SYS_gettid) as u32 }
}

/// Whether the calling thread is the one that started the process.
pub fn in_main_thread() -> bool {
    tid() == pid()
}

/// How many threads the calling process has.
///
/// # Errors
/// There is no `/proc`.
pub fn threads() -> io::Result<usize> {
    Ok(call::names("/proc/self/task")?.len())
}

/// The number of the first field that [`Fields`] has.
const FIRST: usize = 3;

/// The fields of the line that describes a process, without the first two.
///
/// # References
/// proc(5), `/proc/[pid]/stat`.
struct Fields(String);

impl Fields {
    fn of(pid: u32) -> Option<Self> {
        call::text(&format!("/proc/{pid}/stat")).ok().map(Self)
    }

    fn text(&self, field: usize) -> Option<&str> {
        // The name may contain anything, also blanks and brackets: they count from the last ')'.
        let fields = self.0.rsplit_once(')')?.1;
        fields.split_ascii_whitespace().nth(field - FIRST)
    }

    fn number(&self, field: usize) -> Option<u64> {
        self.text(field)?.parse().ok()
    }
}

/// Start time of a process in clock ticks since boot: with the pid, an identity. 0 if unknown.
///
/// # References
/// proc(5), `/proc/[pid]/stat`, field 22.
pub fn start_time(pid: u32) -> u64 {
    Fields::of(pid)
        .and_then(|fields| fields.number(22))
        .unwrap_or(0)
}

/// How the process ended, if it has and waits to be reaped. A start time of 0 is not known, and
/// neither is an exit code of 0: the kernel shows that to whoever may not look into the process,
/// as after a change of its user.
///
/// # References
/// proc(5), `/proc/[pid]/stat`, fields 3 and 52.
pub fn exit_of(pid: u32, start_time_then: u64) -> Option<Exit> {
    let fields = Fields::of(pid)?;
    let same = start_time_then == 0 || fields.number(22)? == start_time_then;
    let ended = matches!(fields.text(3)?, "Z" | "X");
    let status = fields.number(52)? as i32;
    (same && ended && status != 0).then(|| Exit::of(status))
}

/// A descriptor that polls readable when the process has ended; close-on-exec.
///
/// # Errors
/// `ESRCH`: no such process (it was reaped). `ENOSYS`, `EPERM`: refused by the kernel or a
/// sandbox.
///
/// # References
/// `pidfd_open(2)`.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: a system call without pointers.
    let fd = call(Call::PidfdOpen, || unsafe {
        libc::syscall(libc::SYS_pidfd_open, pid, 0)
    })?;
    // SAFETY: the descriptor is new, and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Whether `fd` becomes readable within `limit` (`None`: for ever).
///
/// # Errors
/// `EINTR` when a signal handler ran; what poll(2) says otherwise.
pub fn poll_readable(fd: BorrowedFd<'_>, limit: Option<Duration>) -> io::Result<bool> {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let millis = limit.map_or(-1, |limit| limit.as_millis().min(i32::MAX as u128) as i32);
    call(Call::Poll, || {
        // SAFETY: one live pollfd.
        unsafe { libc::poll(&raw mut poll, 1, millis) }
    })
    .map(|count| count > 0)
}

/// Whether every thread of the process is gone: by pidfd, else by its number. A start time of 0 is
/// not known. In doubt it has not ended.
pub fn has_ended(pid: u32, start_time_then: u64) -> bool {
    // What cannot be looked up (0) says nothing: descriptors may be short.
    let is_another = || start_time_then != 0 && ![0, start_time_then].contains(&start_time(pid));
    match pidfd_open(pid) {
        Ok(fd) => {
            use std::os::fd::AsFd;
            poll_readable(fd.as_fd(), Some(Duration::ZERO)).unwrap_or(false) || is_another()
        }
        Err(error) if is_no_process(&error) => true,
        // A signal that is none asks whether there is somebody, and needs no descriptor.
        Err(_) => kill(pid, 0).is_err_and(|error| is_no_process(&error)) || is_another(),
    }
}

/// Whether a process other than the calling one, and other than those that `known` tells, has
/// `file` mapped. Processes that this one may not look into count as having not; where looking
/// fails otherwise, as descriptors are short, there may be one.
///
/// # References
/// proc(5), `/proc/[pid]/maps`.
pub fn others_map(file: Identity, known: impl Fn(u32) -> bool) -> bool {
    let Ok(processes) = call::names("/proc") else {
        return true;
    };
    processes
        .iter()
        .filter_map(|name| name.parse().ok())
        .filter(|&other| other != pid() && !known(other))
        .any(|other| match maps(other, file) {
            Ok(maps) => maps,
            Err(error) => matches!(
                error.raw_os_error(),
                Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)
            ),
        })
}

fn maps(pid: u32, file: Identity) -> io::Result<bool> {
    let maps = call::text(&format!("/proc/{pid}/maps"))?;
    Ok(maps.lines().any(|line| file.is_in_map(line)))
}

/// Whether the calling process has a living child that has `file` mapped, other than those that
/// `known` tells, by pid and start time. In doubt it has one.
///
/// # References
/// proc(5), `/proc/[pid]/stat`, fields 3, 4 and 22; `/proc/[pid]/maps`.
pub fn has_child_that_maps(file: Identity, known: impl Fn(u32, u64) -> bool) -> bool {
    let Ok(processes) = call::names("/proc") else {
        return true;
    };
    let me = u64::from(pid());
    // One that is not here itself would look for its children among others' processes.
    let mut found_itself = false;
    for other in processes.iter().filter_map(|name| name.parse().ok()) {
        if u64::from(other) == me {
            found_itself = true;
            continue;
        }
        let fields = match call::text(&format!("/proc/{other}/stat")) {
            Ok(text) => Fields(text),
            Err(error) if is_no_process(&error) => continue,
            Err(_) => return true,
        };
        let ended = matches!(fields.text(3), Some("Z" | "X"));
        let known = || fields.number(22).is_some_and(|start| known(other, start));
        if fields.number(4) == Some(me) && !ended && !known() {
            match maps(other, file) {
                Ok(false) => {}
                Err(error) if is_no_process(&error) => {}
                Ok(true) | Err(_) => return true,
            }
        }
    }
    !found_itself
}

/// Whether an error of a file in /proc says that its process is gone.
fn is_no_process(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It left with this code.
    Code(i32),
    /// It was killed by this signal.
    Signal(i32),
}

impl Exit {
    /// Of a status as waitpid(2) tells it.
    fn of(status: i32) -> Self {
        if libc::WIFSIGNALED(status) {
            Self::Signal(libc::WTERMSIG(status))
        } else {
            Self::Code(libc::WEXITSTATUS(status))
        }
    }

    /// The exit code, or minus the signal.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => -signal,
        }
    }
}

/// What [`fork`] returns.
pub enum Fork {
    /// In the parent: the child's pid.
    Parent(u32),
    /// In the child.
    Child,
}

/// Duplicates the process.
///
/// # Errors
/// What fork(2) says.
///
/// # Safety
/// In a program with other threads the child may only call what is safe after fork: a lock that
/// another thread held (the allocator's aside, which libc resets) stays held in the child.
pub unsafe fn fork() -> io::Result<Fork> {
    // SAFETY: the caller's promise.
    match call(Call::Fork, || unsafe { libc::fork() })? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid as u32)),
    }
}

/// As [`fork`], in a process that has one thread and so nothing to fear.
///
/// # Errors
/// The process has other threads; what fork(2) says.
pub fn fork_alone() -> io::Result<Fork> {
    match threads()? {
        // SAFETY: there is no other thread that could hold anything.
        1 => unsafe { fork() },
        count => Err(io::Error::other(format!(
            "the process has {count} threads, and a copy of it would have one"
        ))),
    }
}

/// Whether the child `pid` has ended, or waits for that if `block`; it stays to be reaped.
///
/// # Errors
/// `ECHILD`: not our child, or reaped already.
pub fn wait_end(pid: u32, block: bool) -> io::Result<bool> {
    loop {
        match exit_of_child(pid, block) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done.map(|exit| exit.is_some()),
        }
    }
}

/// How the child `pid` has ended, or `None` if it runs and `block` is false; it stays to be reaped.
///
/// # Errors
/// `ECHILD`: not our child, or reaped already. `EINTR` when a signal handler ran.
pub fn exit_of_child(pid: u32, block: bool) -> io::Result<Option<Exit>> {
    let options = libc::WEXITED | libc::WNOWAIT | if block { 0 } else { libc::WNOHANG };
    let mut info = core::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    call(Call::Waitid, || {
        // SAFETY: `info` has room for what the call writes.
        unsafe { libc::waitid(libc::P_PID, pid, info.as_mut_ptr(), options) }
    })?;
    // SAFETY: zeros are a valid value of it, in which the process is nobody.
    let info = unsafe { info.assume_init() };
    // SAFETY: these fields are what the call fills in.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok(match info.si_code {
        _ if pid == 0 => None,
        libc::CLD_EXITED => Some(Exit::Code(status)),
        _ => Some(Exit::Signal(status)),
    })
}

/// Reaps the child `pid`: how it ended, or `None` if it runs and `block` is false.
///
/// # Errors
/// `ECHILD`: not our child, or reaped already.
pub fn reap(pid: u32, block: bool) -> io::Result<Option<Exit>> {
    let options = if block { 0 } else { libc::WNOHANG };
    let mut status = 0;
    loop {
        // SAFETY: `status` is a live int.
        let done = call(Call::Waitpid, || unsafe {
            libc::waitpid(pid as libc::pid_t, &raw mut status, options)
        });
        return match done {
            Ok(0) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
            Ok(_) => Ok(Some(Exit::of(status))),
        };
    }
}

/// Sends `signal` to the process.
///
/// # Errors
/// What kill(2) says.
pub fn kill(pid: u32, signal: i32) -> io::Result<()> {
    // SAFETY: a system call without pointers.
    call(Call::Kill, || unsafe {
        libc::kill(pid as libc::pid_t, signal)
    })
    .map(drop)
}

/// Leaves the process at once, without handlers of exit.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(code) }
}

/// Says on the standard error why, and leaves the process at once.
pub fn end_with(why: &str) -> ! {
    let line = format!("sidestep: {why}\n");
    // If nobody can be told, nobody is.
    if let Ok(stderr) = super::socket::vouched(libc::STDERR_FILENO) {
        let _ = super::socket::write_pieces(stderr, &[std::io::IoSlice::new(line.as_bytes())]);
    }
    exit_now(255)
}

/// Number of processors that this process could run on when it first asked.
pub fn processors() -> usize {
    static COUNT: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *COUNT.get_or_init(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}
