//! The one way to the kernel: each call has a name, by which a test can make it fail.
//!
//! [`call`] runs a system call and turns its refusal into an error. With the feature
//! `failure-points` a test may have the nth call of a name refused without being made; without it
//! nothing of that exists. Calls that cannot fail (the process's own id, leaving) need no name, nor
//! do those of libc's mutexes, whose answers are states and not refusals.

use std::io::{self, Read};

macro_rules! calls {
    ($($variant:ident = $name:literal,)*) => {
        /// A call that the kernel may refuse.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs)] // each is named like its page of the manual
        pub enum Call {
            $($variant,)*
        }

        impl Call {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// What it is called in the manual, or in words where it is one use of many.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

calls! {
    AddSeals = "fcntl(F_ADD_SEALS)",
    AskForSignal = "fcntl(O_ASYNC)",
    Atfork = "pthread_atfork",
    Bind = "bind",
    Close = "close",
    CloseRange = "close_range",
    DontDump = "madvise(MADV_DONTDUMP)",
    Duplicate = "fcntl(F_DUPFD_CLOEXEC)",
    Eventfd = "eventfd",
    Fork = "fork",
    Fstat = "fstat",
    Ftruncate = "ftruncate",
    FutexWait = "futex(FUTEX_WAIT)",
    FutexWake = "futex(FUTEX_WAKE)",
    Getrandom = "getrandom",
    Getrlimit = "getrlimit",
    GiveBack = "madvise(MADV_REMOVE)",
    Kill = "kill",
    MapAgain = "mmap(MAP_FIXED)",
    MemfdCreate = "memfd_create",
    Mmap = "mmap",
    Mremap = "mremap",
    Munmap = "munmap",
    OpenAgain = "opening /proc/self/fd",
    PidfdOpen = "pidfd_open",
    Pipe = "pipe2",
    Poll = "poll",
    Pwrite = "pwrite",
    Read = "read",
    ReadFile = "reading a file of the kernel's",
    ReadFolder = "listing a folder of the kernel's",
    Recv = "recv",
    Recvmsg = "recvmsg",
    Sendmsg = "sendmsg",
    Sendto = "sendto",
    Shutdown = "shutdown",
    Socket = "socket",
    Socketpair = "socketpair",
    Sysinfo = "sysinfo",
    Waitid = "waitid",
    Waitpid = "waitpid",
    Writev = "writev",
}

/// What a call returns, and which values of it mean that it was refused.
pub(super) trait Returned: Copy {
    fn refused(self) -> bool;
}

impl Returned for i32 {
    #[inline]
    fn refused(self) -> bool {
        self < 0
    }
}

impl Returned for i64 {
    #[inline]
    fn refused(self) -> bool {
        self < 0
    }
}

impl Returned for isize {
    #[inline]
    fn refused(self) -> bool {
        self < 0
    }
}

impl Returned for *mut libc::c_void {
    #[inline]
    fn refused(self) -> bool {
        self == libc::MAP_FAILED
    }
}

/// Makes the call `name`, which says by its value whether it was refused, and by `errno` why.
#[inline]
pub(super) fn call<T: Returned>(name: Call, make: impl FnOnce() -> T) -> io::Result<T> {
    refused_on_purpose(name)?;
    let returned = make();
    if returned.refused() {
        Err(io::Error::last_os_error())
    } else {
        Ok(returned)
    }
}

/// Makes a call that returns the number of its error, or 0.
pub(super) fn call_by_number(name: Call, make: impl FnOnce() -> i32) -> io::Result<()> {
    refused_on_purpose(name)?;
    match make() {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

/// Makes a call by way of the standard library.
pub(super) fn call_std<T>(name: Call, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    refused_on_purpose(name)?;
    make()
}

/// The text of a file of the kernel's.
pub(super) fn text(path: &str) -> io::Result<String> {
    call_std(Call::ReadFile, || {
        // Their size is not told, so asking for it and feeling for it are calls for nothing.
        let mut text = String::with_capacity(1024);
        std::fs::File::open(path)?
            .take(u64::MAX)
            .read_to_string(&mut text)?;
        Ok(text)
    })
}

/// The names in a folder of the kernel's.
pub(super) fn names(path: &str) -> io::Result<Vec<String>> {
    let folder = call_std(Call::ReadFolder, || std::fs::read_dir(path))?;
    Ok(folder
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect())
}

#[cfg(feature = "failure-points")]
mod armed {
    use std::io;
    use std::sync::atomic::{AtomicI32, AtomicU32, Ordering::Relaxed};

    use super::Call;

    /// How often each call was made since the last [`fail`] or [`count`].
    static MADE: [AtomicU32; Call::ALL.len()] = [const { AtomicU32::new(0) }; Call::ALL.len()];
    /// Which call is to fail, plus 1; 0: none.
    static WHICH: AtomicU32 = AtomicU32::new(0);
    static FIRST: AtomicU32 = AtomicU32::new(0);
    static LAST: AtomicU32 = AtomicU32::new(0);
    static ERRNO: AtomicI32 = AtomicI32::new(0);

    /// Has the `first` to `last` call of `name` from now on fail with `errno`, in this process and
    /// in those that it forks.
    pub fn fail(name: Call, first: u32, last: u32, errno: i32) {
        count();
        FIRST.store(first, Relaxed);
        LAST.store(last, Relaxed);
        ERRNO.store(errno, Relaxed);
        WHICH.store(name as u32 + 1, Relaxed);
    }

    /// No call fails any more on purpose; [`made`] counts from here.
    pub fn count() {
        WHICH.store(0, Relaxed);
        for made in &MADE {
            made.store(0, Relaxed);
        }
    }

    /// How often the call was made, or refused on purpose, since then.
    pub fn made(name: Call) -> u32 {
        MADE[name as usize].load(Relaxed)
    }

    pub(super) fn refused_on_purpose(name: Call) -> io::Result<()> {
        let number = MADE[name as usize].fetch_add(1, Relaxed) + 1;
        let chosen = WHICH.load(Relaxed) == name as u32 + 1;
        if chosen && (FIRST.load(Relaxed)..=LAST.load(Relaxed)).contains(&number) {
            return Err(io::Error::from_raw_os_error(ERRNO.load(Relaxed)));
        }
        Ok(())
    }
}

#[cfg(feature = "failure-points")]
use armed::refused_on_purpose;
#[cfg(feature = "failure-points")]
pub use armed::{count, fail, made};

/// Never, in what users build.
#[cfg(not(feature = "failure-points"))]
#[inline(always)]
fn refused_on_purpose(_name: Call) -> io::Result<()> {
    Ok(())
}
