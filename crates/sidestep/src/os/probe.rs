//! What the kernel has to offer here, each feature tried and not guessed from a version: a
//! container or a sandbox may refuse what the kernel knows.
#![allow(unsafe_code)]

use core::sync::atomic::{AtomicU32, Ordering};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::call::{Call, call, text};
use super::memory::{self, Mapping};
use super::robust::{Locked, RobustWord};
use super::{futex, process, socket};

/// A feature of the kernel, and whether it works.
#[derive(Debug)]
pub struct Feature {
    /// The kernel's name for it.
    pub name: &'static str,
    /// Whether nothing works without it.
    pub needed: bool,
    /// What follows where it is missing.
    pub otherwise: &'static str,
    /// How it was refused, if it was.
    pub refused: Option<io::Error>,
}

/// Tries each feature. Harmless: what is made for it is gone at the return.
pub fn features() -> Vec<Feature> {
    let feature = |name, needed, otherwise, result: io::Result<()>| Feature {
        name,
        needed,
        otherwise,
        refused: result.err(),
    };
    vec![
        feature(
            "memfd_create",
            true,
            "there is no memory to share: the package does not work",
            memory::memfd(c"sidestep-probe").map(drop),
        ),
        feature(
            "memfd seals",
            true,
            "the shared memory cannot be protected: the package does not work",
            page().map(drop),
        ),
        feature(
            "shared futex",
            true,
            "processes cannot wait for each other: the package does not work",
            shared_futex(),
        ),
        feature(
            "robust futex",
            true,
            "killed processes are not noticed: their locks stay taken and their memory in use",
            robust_futex(),
        ),
        feature(
            "SCM_RIGHTS",
            true,
            "descriptors cannot be handed over: no fork server, no pipes or sockets in messages",
            descriptor_passing(),
        ),
        feature(
            "pidfd_open",
            false,
            "sentinels are pipes, which processes that a child leaves behind keep open",
            process::pidfd_open(process::pid()).map(drop),
        ),
        feature(
            "MADV_DONTDUMP",
            false,
            "a core dump holds the whole arena",
            page().and_then(|page| page.keep_out_of_dumps()),
        ),
        feature(
            "MADV_REMOVE",
            false,
            "memory that became free is kept for later use and not given back to the machine",
            gives_back(),
        ),
        feature(
            "/proc",
            false,
            "how much memory the machine has left and what a control group may use is not known: \
             the out-of-memory killer may come first, and no error names it; the place of a \
             killed process may be taken for one that lives, if its number is used again",
            text("/proc/self/stat").map(drop),
        ),
        feature(
            "close_range",
            false,
            "starting programs takes longer where the limit of descriptors is high",
            close_range(),
        ),
        feature(
            "abstract sockets",
            false,
            "listeners need addresses in the file system",
            abstract_socket(),
        ),
    ]
}

const PAGE: usize = 4096;

/// A sealed file of one page, mapped.
fn page() -> io::Result<Mapping> {
    let fd = memory::memfd(c"sidestep-probe")?;
    memory::grow(fd.as_fd(), PAGE as u64)?;
    memory::seal_against_shrinking(fd.as_fd())?;
    Mapping::shared(fd.as_fd(), PAGE)
}

fn shared_futex() -> io::Result<()> {
    let page = page()?;
    // SAFETY: the page is mapped, zeroed, aligned, and nobody else's.
    let word = unsafe { &*page.start().cast::<AtomicU32>() };
    word.store(1, Ordering::Relaxed);
    // A kernel without futexes returns at once from each of these.
    let changed = futex::wait(word, 0, Some(Duration::from_millis(1)));
    let timed_out = futex::wait(word, 1, Some(Duration::from_millis(1)));
    match (changed, timed_out) {
        (futex::Wake::Changed, futex::Wake::TimedOut | futex::Wake::Interrupted) => Ok(()),
        found => Err(io::Error::other(format!(
            "two waits ended as {found:?}, not as they should"
        ))),
    }
}

fn robust_futex() -> io::Result<()> {
    let page = page()?;
    // SAFETY: the page is mapped, aligned, large enough, and nobody else's; the word is never used
    // as anything else, since the mapping ends here and its file with it.
    let word = unsafe { &*page.start().cast::<RobustWord>() };
    word.init();
    std::thread::scope(|scope| {
        let owner = std::thread::Builder::new().spawn_scoped(scope, || word.hold())?;
        // The end of the scope is only that of the closure; this is that of the thread.
        owner
            .join()
            .map_err(|_| io::Error::other("a thread did not end in order"))
    })?;
    match word.try_hold() {
        Locked::OwnerDied => {
            word.repair();
            word.release();
            Ok(())
        }
        Locked::Clean => {
            word.release();
            Err(io::Error::other(
                "the end of a lock's owner was not noticed",
            ))
        }
        Locked::Busy => Err(io::Error::other(
            "the end of a lock's owner was not noticed",
        )),
    }
}

fn descriptor_passing() -> io::Result<()> {
    let (ours, theirs) = socket::socket_pair()?;
    socket::send(ours.as_fd(), b"x", &[ours.as_fd()], socket::Wait::Never)?;
    let mut byte = [0; 1];
    let (_, fds) = socket::receive(theirs.as_fd(), &mut byte, socket::Wait::Never)?;
    match fds.len() {
        1 => Ok(()),
        _ => Err(io::Error::other("a descriptor was sent and did not arrive")),
    }
}

fn gives_back() -> io::Result<()> {
    page()?.try_give_back(0, PAGE)
}

fn close_range() -> io::Result<()> {
    let fd = memory::memfd(c"sidestep-probe")?;
    // CLOSE_RANGE_CLOEXEC: marks the one descriptor, which has that mark already.
    const MARK: libc::c_uint = 4;
    let number = fd.as_raw_fd();
    // SAFETY: a system call without pointers, about a descriptor of ours.
    call(Call::CloseRange, || unsafe {
        libc::syscall(libc::SYS_close_range, number, number, MARK)
    })
    .map(drop)
}

fn abstract_socket() -> io::Result<()> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: no memory is handed over.
    let socket = call(Call::Socket, || unsafe {
        libc::socket(libc::AF_UNIX, kind, 0)
    })?;
    // SAFETY: the descriptor is new, and ours alone.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let family = libc::AF_UNIX as libc::sa_family_t;
    // An address of nothing but its family: the kernel chooses an abstract name.
    // SAFETY: the address is live, and its length is that of what is there.
    call(Call::Bind, || unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const family).cast(),
            size_of_val(&family) as libc::socklen_t,
        )
    })
    .map(drop)
}
