//! Memory without a name: memfd, its mapping, and what the machine has left.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

/// Device and inode of an open file: what is behind a descriptor's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// Whether a line of a process's list of mappings is about this file.
    ///
    /// # References
    /// proc(5), `/proc/[pid]/maps`: addresses, rights, offset, device, inode, path.
    pub(super) fn is_in_map(self, line: &str) -> bool {
        let mut fields = line.split_ascii_whitespace().skip(3);
        let (Some(device), Some(inode)) = (fields.next(), fields.next()) else {
            return false;
        };
        let (major, minor) = (libc::major(self.device), libc::minor(self.device));
        inode.parse() == Ok(self.inode) && device == format!("{major:02x}:{minor:02x}")
    }
}

/// The identity and size in bytes of the file behind `fd`.
///
/// # Errors
/// `EBADF`: nothing is open there.
pub fn identify(fd: BorrowedFd<'_>) -> io::Result<(Identity, u64)> {
    let mut stat = core::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `stat` is large enough, and initialised when the call succeeds.
    unsafe {
        if libc::fstat(fd.as_raw_fd(), stat.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let stat = stat.assume_init();
        Ok((
            Identity {
                device: stat.st_dev,
                inode: stat.st_ino,
            },
            stat.st_size as u64,
        ))
    }
}

/// A new anonymous file, empty, close-on-exec, which can be sealed.
///
/// # Errors
/// What `memfd_create(2)` says.
pub fn memfd(name: &core::ffi::CStr) -> io::Result<OwnedFd> {
    // Kernels before 6.3 do not know the no-exec flag; some settings refuse memfds without it.
    const NOEXEC_SEAL: libc::c_uint = 0x8;
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: `name` is a C string; the descriptor returned is ours alone.
    unsafe {
        let mut fd = libc::memfd_create(name.as_ptr(), flags | NOEXEC_SEAL);
        if fd < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) {
            fd = libc::memfd_create(name.as_ptr(), flags);
        }
        if fd < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(OwnedFd::from_raw_fd(fd))
        }
    }
}

/// Forbids for ever that the file shrinks: no member can turn the others' memory into SIGBUS.
///
/// # Errors
/// What fcntl(2), `F_ADD_SEALS` says.
pub fn seal_against_shrinking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: a system call without pointers.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets the file grow to `size` bytes; sparse, so no memory is taken yet.
///
/// # Errors
/// What ftruncate(2) says.
pub fn grow(fd: BorrowedFd<'_>, size: u64) -> io::Result<()> {
    // SAFETY: a system call without pointers.
    match unsafe { libc::ftruncate(fd.as_raw_fd(), size as libc::off_t) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A shared mapping of a file from its start; unmapped on drop.
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is plain memory; who may write which byte is settled by its users.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `fd`, shared and writable. Bytes beyond the end of the file exist as
    /// addresses only, until the file grows. Left out of core dumps, which would otherwise
    /// allocate every hole.
    ///
    /// # Errors
    /// `ENOMEM`: no room in the address space.
    pub fn shared(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        unsafe {
            let base = libc::mmap(
                core::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                fd.as_raw_fd(),
                0,
            );
            if base == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            libc::madvise(base, len, libc::MADV_DONTDUMP);
            NonNull::new(base.cast())
                .map(|base| Self { base, len })
                .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
        }
    }

    /// The same mapping once more. Whichever is dropped first unmaps it for both: drop both at once.
    #[cfg(shuttle)]
    pub(crate) fn alias(&self) -> Self {
        Self {
            base: self.base,
            len: self.len,
        }
    }

    /// The first byte.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is mapped; never the case.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Gives the whole pages within the range back to the machine: they read as zeros again.
    ///
    /// Goes by the mapping, never by a descriptor, whose number may be another file's by now.
    ///
    /// # References
    /// madvise(2), `MADV_REMOVE`.
    pub fn give_back(&self, offset: usize, len: usize) -> bool {
        const PAGE: usize = 4096;
        let start = offset.next_multiple_of(PAGE);
        let end = (offset + len).min(self.len) / PAGE * PAGE;
        if start >= end {
            return false;
        }
        // SAFETY: whole pages inside the mapping, which the caller owns.
        unsafe {
            libc::madvise(
                self.base.as_ptr().add(start).cast(),
                end - start,
                libc::MADV_REMOVE,
            ) == 0
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `shared`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Soft limit of the address space in bytes, if there is one (`RLIMIT_AS`).
pub fn address_space_limit() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a live rlimit.
    let done = unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) };
    (done == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// Memory of the machine and what is available of it, in bytes (`/proc/meminfo`).
pub fn machine() -> (u64, u64) {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_ascii_whitespace()
            .nth(1)?
            .parse::<u64>()
            .ok()
            .map(|kib| kib * 1024)
    };
    let total = field("MemTotal:").unwrap_or(1 << 32);
    (total, field("MemAvailable:").unwrap_or(total))
}

/// Limit and use of the process's memory control group in bytes, version 2 or 1, if it has one.
pub fn control_group() -> Option<(u64, u64)> {
    let read = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let found = if controllers.is_empty() {
            // A container sees its own group as the root of the tree.
            [path, ""].iter().find_map(|path| {
                let dir = format!("/sys/fs/cgroup{path}");
                Some((
                    read(&format!("{dir}/memory.max"))?,
                    read(&format!("{dir}/memory.current"))?,
                ))
            })
        } else if controllers.split(',').any(|name| name == "memory") {
            [path, ""].iter().find_map(|path| {
                let dir = format!("/sys/fs/cgroup/memory{path}");
                Some((
                    read(&format!("{dir}/memory.limit_in_bytes"))?,
                    read(&format!("{dir}/memory.usage_in_bytes"))?,
                ))
            })
        } else {
            None
        };
        // Version 1 says "no limit" by a number near 2^63.
        if let Some((limit, used)) = found.filter(|&(limit, _)| limit < 1 << 60) {
            return Some((limit, used));
        }
    }
    None
}
