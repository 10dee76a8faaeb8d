//! Memory without a name: memfd, its mapping, and what the machine has left.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

use super::call::{Call, call, call_std, text};
use super::limits;

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
    call(Call::Fstat, || {
        // SAFETY: `stat` is large enough.
        unsafe { libc::fstat(fd.as_raw_fd(), stat.as_mut_ptr()) }
    })?;
    // SAFETY: initialised, as the call has succeeded.
    let stat = unsafe { stat.assume_init() };
    Ok((
        Identity {
            device: stat.st_dev,
            inode: stat.st_ino,
        },
        stat.st_size as u64,
    ))
}

/// Another descriptor for the same file, close-on-exec.
///
/// # Errors
/// What fcntl(2), `F_DUPFD_CLOEXEC` says.
pub fn duplicate(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    call_std(Call::Duplicate, || fd.try_clone_to_owned())
}

/// A new anonymous file, empty, close-on-exec, which can be sealed.
///
/// # Errors
/// What `memfd_create(2)` says.
pub fn memfd(name: &core::ffi::CStr) -> io::Result<OwnedFd> {
    // Kernels before 6.3 do not know the no-exec flag; some settings refuse memfds without it.
    const NOEXEC_SEAL: libc::c_uint = 0x8;
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let make = |flags| {
        // SAFETY: `name` is a C string.
        call(Call::MemfdCreate, || unsafe {
            libc::memfd_create(name.as_ptr(), flags)
        })
    };
    let fd = match make(flags | NOEXEC_SEAL) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => make(flags),
        made => made,
    }?;
    // SAFETY: the descriptor is new, and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Forbids for ever that the file shrinks: no member can turn the others' memory into SIGBUS.
///
/// # Errors
/// What fcntl(2), `F_ADD_SEALS` says.
pub fn seal_against_shrinking(fd: BorrowedFd<'_>) -> io::Result<()> {
    call(Call::AddSeals, || {
        // SAFETY: a system call without pointers.
        unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK) }
    })
    .map(drop)
}

/// Has the file grow to at least `size` bytes; sparse, so no memory is taken yet. A file that is
/// larger stays as it is: whoever grew it may have been killed before it could say so.
///
/// # Errors
/// What ftruncate(2) says. `EFBIG`, if the process may have no files of that size, comes without
/// the signal `SIGXFSZ`, which would end a program that does not ignore it.
pub fn grow(fd: BorrowedFd<'_>, size: u64) -> io::Result<()> {
    if identify(fd)?.1 >= size {
        return Ok(());
    }
    if limits::limit(limits::Resource::FileSize).is_some_and(|most| size > most) {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    loop {
        let grown = call(Call::Ftruncate, || {
            // SAFETY: a system call without pointers.
            unsafe { libc::ftruncate(fd.as_raw_fd(), size as libc::off_t) }
        });
        match grown {
            // It is no wait that a signal should end.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            grown => return grown.map(drop),
        }
    }
}

/// Who sees what is written to a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// All that have mapped the file.
    Shared,
    /// This process, from its first write to a page on.
    Private,
}

/// Writes `bytes` into a file. Pages that the file does not have yet cost half of what they do where
/// a mapping of it is written to: they need no fault each, and are not cleared first.
///
/// # Errors
/// What pwrite(2) says. `EFBIG`, if the process may have no files of that size, comes without the
/// signal `SIGXFSZ`. A part may have been written.
pub fn write_at(fd: BorrowedFd<'_>, bytes: &[u8], offset: u64) -> io::Result<()> {
    let end = offset.saturating_add(bytes.len() as u64);
    if limits::limit(limits::Resource::FileSize).is_some_and(|most| end > most) {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    let mut done = 0;
    while done < bytes.len() {
        let rest = &bytes[done..];
        let written = call(Call::Pwrite, || {
            // SAFETY: the bytes are valid for the length.
            unsafe {
                let at = (offset + done as u64) as libc::off_t;
                libc::pwrite(fd.as_raw_fd(), rest.as_ptr().cast(), rest.len(), at)
            }
        });
        match written {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => done += count as usize,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A shared mapping of a file from its start; unmapped on drop.
pub struct Mapping {
    base: AtomicPtr<u8>,
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
        let mapping = Self {
            base: AtomicPtr::new(Self::place(fd, len)?),
            len,
        };
        // Where that is refused, a core dump is large, and nothing else.
        let _ = mapping.keep_out_of_dumps();
        Ok(mapping)
    }

    /// Maps all of it once more, at another address, where it is from now on. The old mapping stays
    /// as well, for those who have addresses in it.
    ///
    /// # Errors
    /// As [`Mapping::shared`].
    pub fn move_away(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.base.store(Self::place(fd, self.len)?, Relaxed);
        let _ = self.keep_out_of_dumps();
        Ok(())
    }

    fn place(fd: BorrowedFd<'_>, len: usize) -> io::Result<*mut u8> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = call(Call::Mmap, || unsafe {
            libc::mmap(
                core::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                fd.as_raw_fd(),
                0,
            )
        })?;
        Ok(base.cast())
    }

    pub(super) fn keep_out_of_dumps(&self) -> io::Result<()> {
        // SAFETY: the range was mapped by `shared`.
        call(Call::DontDump, || unsafe {
            libc::madvise(self.start().cast(), self.len, libc::MADV_DONTDUMP)
        })
        .map(drop)
    }

    /// Maps whole pages of it again, at the same address.
    ///
    /// # Errors
    /// What mmap(2) says; the old mapping is there as before.
    pub fn map_again(
        &self,
        fd: BorrowedFd<'_>,
        sharing: Sharing,
        offset: usize,
        len: usize,
    ) -> io::Result<()> {
        self.check_pages(offset, len)?;
        let flags = match sharing {
            Sharing::Shared => libc::MAP_SHARED,
            Sharing::Private => libc::MAP_PRIVATE,
        };
        // SAFETY: whole pages inside the mapping; the caller sees to it that nobody is misled by
        // what they show from now on. The kernel does it at once: what other threads write at the
        // same time goes before or behind it.
        call(Call::MapAgain, || unsafe {
            libc::mmap(
                self.start().add(offset).cast(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                flags | libc::MAP_FIXED | libc::MAP_NORESERVE,
                fd.as_raw_fd(),
                offset as libc::off_t,
            )
        })
        .map(drop)
    }

    /// Puts a copy of whole pages in their place, which belongs to this process alone. What other
    /// threads write meanwhile may be lost.
    ///
    /// # Errors
    /// What mmap(2) or mremap(2) says; the old mapping is there as before.
    pub fn replace(&self, offset: usize, len: usize) -> io::Result<()> {
        self.check_pages(offset, len)?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let copy = call(Call::Mmap, || unsafe {
            libc::mmap(
                core::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        })?;
        // SAFETY: both ranges have the length, and do not overlap.
        unsafe {
            let from = self.start().add(offset).cast_const();
            core::ptr::copy_nonoverlapping(from, copy.cast(), len);
        }
        // SAFETY: the new mapping is ours, and goes to where whole pages of this one are.
        let moved = call(Call::Mremap, || unsafe {
            libc::mremap(
                copy,
                len,
                len,
                libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
                self.start().add(offset),
            )
        });
        if moved.is_err() {
            // SAFETY: still where it was made, and known to nobody.
            let _ = call(Call::Munmap, || unsafe { libc::munmap(copy, len) });
        }
        moved.map(drop)
    }

    fn check_pages(&self, offset: usize, len: usize) -> io::Result<()> {
        const PAGE: usize = 4096;
        let end = offset.checked_add(len);
        let whole = offset.is_multiple_of(PAGE) && len.is_multiple_of(PAGE) && len > 0;
        if whole && end.is_some_and(|end| end <= self.len) {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::EINVAL))
        }
    }

    /// The same mapping once more, to be forgotten and not dropped.
    #[cfg(shuttle)]
    pub(crate) fn alias(&self) -> Self {
        Self {
            base: AtomicPtr::new(self.start()),
            len: self.len,
        }
    }

    /// Address of the first byte.
    #[inline]
    pub fn start(&self) -> *mut u8 {
        self.base.load(Relaxed)
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
        self.try_give_back(offset, len).is_ok()
    }

    pub(super) fn try_give_back(&self, offset: usize, len: usize) -> io::Result<()> {
        const PAGE: usize = 4096;
        let start = offset.next_multiple_of(PAGE);
        let end = (offset + len).min(self.len) / PAGE * PAGE;
        if start >= end {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // SAFETY: whole pages inside the mapping, which the caller owns.
        call(Call::GiveBack, || unsafe {
            libc::madvise(
                self.start().add(start).cast(),
                end - start,
                libc::MADV_REMOVE,
            )
        })
        .map(drop)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `shared`.
        let _ = call(Call::Munmap, || unsafe {
            libc::munmap(self.start().cast(), self.len)
        });
    }
}

/// Memory of the machine and what is available of it, in bytes. That is told by /proc/meminfo
/// only: without /proc it is taken for all of it.
pub fn machine() -> (u64, u64) {
    let text = text("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_ascii_whitespace()
            .nth(1)?
            .parse::<u64>()
            .ok()
            .map(|kib| kib * 1024)
    };
    let total = installed()
        .or_else(|| field("MemTotal:"))
        .unwrap_or(1 << 32);
    (total, field("MemAvailable:").unwrap_or(total))
}

/// Memory of the machine in bytes.
///
/// # References
/// sysinfo(2)
fn installed() -> Option<u64> {
    let mut found = core::mem::MaybeUninit::<libc::sysinfo>::uninit();
    call(Call::Sysinfo, || {
        // SAFETY: `found` is large enough.
        unsafe { libc::sysinfo(found.as_mut_ptr()) }
    })
    .ok()?;
    // SAFETY: initialised, as the call has succeeded.
    let found = unsafe { found.assume_init() };
    Some(found.totalram * u64::from(found.mem_unit))
}

/// Memory that a process's control groups leave to it, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// The lowest limit of the group and those that it lies in.
    pub limit: u64,
    /// What the fullest of them has left; files kept in memory make room when it is needed.
    pub available: u64,
}

/// The process's memory control group, version 2 or 1, if it has a limit.
///
/// # References
/// cgroups(7)
pub fn control_group() -> Option<Group> {
    group_of(|path| text(path).ok())
}

fn group_of(read: impl Fn(&str) -> Option<String>) -> Option<Group> {
    let groups = read("/proc/self/cgroup")?;
    groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        if controllers.is_empty() {
            let files = ["memory.max", "memory.current", ""];
            tightest("/sys/fs/cgroup", path, files, &read)
        } else if controllers.split(',').any(|name| name == "memory") {
            let files = ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_"];
            tightest("/sys/fs/cgroup/memory", path, files, &read)
        } else {
            None
        }
    })
}

/// Limit and room of the group `path` under `root` and of those above it. A container sees its own
/// group as the root, and a path that may not be there. `files` are the names of limit and use, and
/// what a statistic begins with that counts the groups below, too.
fn tightest(
    root: &str,
    path: &str,
    [limit, usage, whole]: [&str; 3],
    read: impl Fn(&str) -> Option<String>,
) -> Option<Group> {
    let mut found: Option<Group> = None;
    for group in Path::new(path).ancestors() {
        let folder = format!("{root}{}", group.display());
        let folder = folder.trim_end_matches('/');
        let number = |file| read(&format!("{folder}/{file}"))?.trim().parse().ok();
        // Version 1 says "no limit" by a number near 2^63.
        let Some(limit) = number(limit).filter(|&limit: &u64| limit < 1 << 60) else {
            continue;
        };
        let Some(used) = number(usage) else {
            continue;
        };
        let statistics = read(&format!("{folder}/memory.stat")).unwrap_or_default();
        let files: u64 = statistics
            .lines()
            .filter_map(|line| line.strip_prefix(whole)?.split_once(' '))
            .filter(|(name, _)| matches!(*name, "active_file" | "inactive_file"))
            .filter_map(|(_, bytes)| bytes.parse::<u64>().ok())
            .sum();
        let available = limit.saturating_sub(used.saturating_sub(files));
        let so_far = found.unwrap_or(Group { limit, available });
        found = Some(Group {
            limit: limit.min(so_far.limit),
            available: available.min(so_far.available),
        });
    }
    found
}

/// Who has too little memory left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// The machine: what it has, and what is available of it, in bytes.
    Machine {
        /// All of it.
        total: u64,
        /// What could be taken.
        available: u64,
    },
    /// A memory control group of the process.
    Group(Group),
}

/// Whether `size` more bytes of shared memory are too many, and for whom. A 64th part of the
/// machine and of its control group is left alone: the kernel's out-of-memory killer frees nothing
/// of a file in memory, so it must not come to that. Where the system does not say what it has
/// left, there is no shortage.
pub fn shortage(size: u64) -> Option<Shortage> {
    let (total, available) = machine();
    if size > available.saturating_sub(total / 64) {
        return Some(Shortage::Machine { total, available });
    }
    control_group()
        .filter(|group| size > group.available.saturating_sub(group.limit / 64))
        .map(Shortage::Group)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A limit of 64 MiB in a group above the process's, use of 60, of which 20 are files.
    fn assert_has_24_left(files: &[(&str, &str)]) {
        let read = |path: &str| {
            let (_, text) = files.iter().find(|(name, _)| *name == path)?;
            Some((*text).to_owned())
        };
        let left = Group {
            limit: 64 << 20,
            available: 24 << 20,
        };
        assert_eq!(group_of(read), Some(left));
    }

    #[test]
    fn files_that_are_kept_in_memory_count_as_room() {
        assert_has_24_left(&[
            ("/proc/self/cgroup", "0::/outer/inner\n"),
            ("/sys/fs/cgroup/outer/inner/memory.max", "max\n"),
            ("/sys/fs/cgroup/outer/memory.max", "67108864\n"),
            ("/sys/fs/cgroup/outer/memory.current", "62914560\n"),
            (
                "/sys/fs/cgroup/outer/memory.stat",
                "anon 7\nactive_file 20971520\ninactive_file 0\n",
            ),
        ]);
        assert_has_24_left(&[
            (
                "/proc/self/cgroup",
                "5:cpu:/\n4:hugetlb,memory:/gone\n0::/\n",
            ),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "67108864\n"),
            ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "62914560\n"),
            (
                "/sys/fs/cgroup/memory/memory.stat",
                "active_file 5\ntotal_inactive_file 20971520\n",
            ),
        ]);
    }

    #[test]
    fn a_process_without_control_groups_has_no_limit() {
        assert_eq!(group_of(|_| None), None);
        assert_eq!(
            group_of(|path| (path == "/proc/self/cgroup").then(|| "0::/\n".to_owned())),
            None
        );
    }

    #[test]
    fn the_machine_lacks_what_it_does_not_have() {
        let (total, _) = machine();
        assert!(shortage(2 * total).is_some());
        assert_eq!(shortage(1), None);
    }
}
