//! The family's arena as this process sees it: the mapping, and words by offset.
#![allow(unsafe_code)]

use core::mem::MaybeUninit;
#[cfg(not(shuttle))]
use std::os::fd::FromRawFd;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
#[cfg(not(shuttle))]
use std::sync::OnceLock;
use std::sync::{Mutex, MutexGuard};

use super::alloc::KEPT_WARM;
use super::layout::{EXTENT, HEAP, header};
use super::refs::Table;
use crate::error::{Error, Result};
use crate::os::limits;
use crate::os::memory::{self, Identity, Mapping, Sharing};
use crate::os::robust::RobustWord;
use crate::primitive::{AtomicU32, AtomicU64, Ordering};

/// "sidestep" in ASCII, little endian.
const MAGIC: u64 = u64::from_le_bytes(*b"sidestep");

/// Revision of the layout, and what else members must agree on: libc's robust mutex and the page
/// size.
const REVISION: u64 = 6 << 32 | size_of::<libc::pthread_mutex_t>() as u64;

/// Address space, in bytes, that a small arena takes as well: it costs nothing.
const PLENTY: u64 = 64 << 30;

/// From this size on, fresh memory is written to by a system call.
const BY_CALL: usize = 64 << 10;

#[cfg(not(shuttle))]
static FAMILY: OnceLock<Family> = OnceLock::new();
/// Taken around the making of the arena, and by the hooks around a fork.
static CREATION: Mutex<()> = Mutex::new(());

/// Keeps other threads from founding or joining a family.
pub(super) fn creation() -> MutexGuard<'static, ()> {
    CREATION
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The arena of this process's family, mapped.
pub struct Family {
    mapping: Mapping,
    fd: OwnedFd,
    pub(super) identity: Identity,
    /// Stamp of this process; 0 until it has registered (again, after a fork).
    pub(super) me: AtomicU32,
    /// This process's table of references. See `fork` for how it crosses a fork.
    pub(super) table: Mutex<Table>,
    /// Where words with an impossible offset lead: a damaged arena must not crash its members.
    scratch: AtomicU64,
}

/// How much of the arena is in use, in bytes, and what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of blocks in use, and of free ones that are kept warm. Not of those whose pages were given
    /// back, but for the one with their header.
    pub used: u64,
    /// Of these, bytes of free blocks.
    pub warm: u64,
    /// The ceiling.
    pub limit: u64,
    /// Blocks in use.
    pub blocks: u64,
    /// Processes in the family.
    pub processes: u64,
}

/// How much memory a family that is founded now may use, and what that comes from; in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ceiling {
    /// The ceiling itself.
    pub limit: u64,
    /// What the user has asked for (`SIDESTEP_ARENA_LIMIT`).
    pub asked: Option<u64>,
    /// Memory of the machine.
    pub machine: u64,
    /// Limit of the control group.
    pub group: Option<u64>,
    /// Limit of the address space.
    pub space: Option<u64>,
    /// Limit of the size of a file, such as the arena is.
    pub files: Option<u64>,
}

/// The smallest size of the arena's file: where files have to be smaller there is no arena.
const LEAST: u64 = HEAP + EXTENT;
// So it is called in what users read.
const _: () = assert!(LEAST == 32 << 20);

/// The ceiling of a family that is founded now: what the user asks for, or else half of what the
/// machine or the control group has, and at most an eighth of the address space. No more than a
/// file may hold in any case; 0 if that is too little for an arena.
pub fn ceiling() -> Ceiling {
    let (machine, _) = memory::machine();
    let group = memory::control_group().map(|group| group.limit);
    let space = limits::limit(limits::Resource::AddressSpace);
    let files = limits::limit(limits::Resource::FileSize);
    let asked = bytes_from_environment("SIDESTEP_ARENA_LIMIT");
    let room = match files {
        Some(files) if files < LEAST => 0,
        Some(files) => files - HEAP,
        None => u64::MAX,
    };
    let half = machine.min(group.unwrap_or(u64::MAX)) / 2;
    Ceiling {
        limit: asked
            .unwrap_or_else(|| half.min(space.unwrap_or(u64::MAX) / 8))
            .max(2 * EXTENT)
            .min(room),
        asked,
        machine,
        group,
        space,
        files,
    }
}

/// This process's family; founded now if there is none.
///
/// # Errors
/// The kernel refuses anonymous files, or there is no address space for the arena.
#[cfg(not(shuttle))]
pub fn family() -> Result<&'static Family> {
    if let Some(family) = FAMILY.get() {
        return Ok(family);
    }
    let _guard = creation();
    if FAMILY.get().is_none() {
        super::fork::install()?;
        let family = Family::found()?;
        let _ = FAMILY.set(family);
    }
    let family = FAMILY.get().ok_or(Error::Foreign("the arena vanished"))?;
    family.register()?;
    Ok(family)
}

/// This process's family, if it has one.
#[cfg(not(shuttle))]
pub fn existing() -> Option<&'static Family> {
    FAMILY.get()
}

#[cfg(shuttle)]
pub use super::simulated::{existing, family};

/// Joins the family whose arena is open at descriptor `fd`, which is taken over.
///
/// # Errors
/// The descriptor is no arena, or one of another version, or this process has a family already.
#[cfg(not(shuttle))]
pub fn attach(fd: RawFd) -> Result<&'static Family> {
    let _guard = creation();
    if let Some(family) = FAMILY.get() {
        // SAFETY: only looked at during this call.
        let there = memory::identify(unsafe { BorrowedFd::borrow_raw(fd) });
        return match there {
            Ok((identity, _)) if identity == family.identity => {
                if fd != family.raw_fd() {
                    // SAFETY: the caller hands the descriptor over.
                    drop(unsafe { OwnedFd::from_raw_fd(fd) });
                }
                Ok(family)
            }
            _ => Err(Error::Foreign("this process has an arena already")),
        };
    }
    super::fork::install()?;
    // SAFETY: only looked at until it is known to be an arena.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let (identity, size) =
        memory::identify(borrowed).map_err(Error::os("cannot look at the arena (fstat)"))?;
    if size < HEAP {
        return Err(Error::Foreign("the descriptor is no arena"));
    }
    let head = Mapping::shared(borrowed, header::END as usize)
        .map_err(Error::os("no address space for the arena (mmap)"))?;
    let head = Family::over(head, borrowed, identity)?;
    if head.word(header::MAGIC).load(Ordering::Acquire) != MAGIC {
        return Err(Error::Foreign("the descriptor is no arena"));
    }
    if head.word(header::REVISION).load(Ordering::Relaxed) != REVISION {
        return Err(Error::Foreign(
            "it was made by another version of sidestep or with another C library",
        ));
    }
    let reserve = head.word(header::RESERVE).load(Ordering::Relaxed) as usize;
    let mapping = Mapping::shared(borrowed, reserve).map_err(Error::os(
        "no address space for the family's arena (mmap; is RLIMIT_AS lower here?)",
    ))?;
    let family = Family::over(mapping, borrowed, identity)?;
    // The arena's own duplicate is close-on-exec; the number that was handed over goes.
    // SAFETY: the caller hands the descriptor over.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    let _ = FAMILY.set(family);
    let family = FAMILY.get().ok_or(Error::Foreign("the arena vanished"))?;
    family.register()?;
    Ok(family)
}

/// An environment variable that holds a number of bytes, with an optional suffix K, M, G or T.
fn bytes_from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let text = text.trim();
    let (digits, shift) = match text.chars().last()?.to_ascii_uppercase() {
        'K' => (&text[..text.len() - 1], 10),
        'M' => (&text[..text.len() - 1], 20),
        'G' => (&text[..text.len() - 1], 30),
        'T' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    digits.trim().parse::<u64>().ok()?.checked_mul(1 << shift)
}

impl Family {
    fn over(mapping: Mapping, fd: BorrowedFd<'_>, identity: Identity) -> Result<Self> {
        Ok(Self {
            mapping,
            fd: memory::duplicate(fd)
                .map_err(Error::os("cannot duplicate the arena's descriptor (fcntl)"))?,
            identity,
            me: AtomicU32::new(0),
            table: Mutex::new(Table::default()),
            scratch: AtomicU64::new(0),
        })
    }

    /// The same arena as another process sees it.
    #[cfg(shuttle)]
    pub(super) fn alias(&self) -> Result<Self> {
        Self::over(self.mapping.alias(), self.fd.as_fd(), self.identity)
    }

    /// Lets go of an [`alias`](Self::alias): the mapping is the first one's.
    #[cfg(shuttle)]
    pub(super) fn drop_alias(self) {
        std::mem::forget(self.mapping);
    }

    pub(super) fn found() -> Result<Self> {
        let Ceiling { limit, space, .. } = ceiling();
        // Blocks are recycled by size class only, so address space is spent freely where there is
        // plenty of it. Under a limit the arena takes a quarter, of which half can be in use.
        let wish = bytes_from_environment("SIDESTEP_ARENA_RESERVE").unwrap_or_else(|| {
            space.map_or(limit.saturating_mul(16).max(PLENTY), |space| space / 4)
        });
        let mut reserve = wish.clamp(LEAST + EXTENT, 1 << 42).next_multiple_of(EXTENT);

        let fd = memory::memfd(c"sidestep")
            .map_err(Error::os("cannot make the arena (memfd_create)"))?;
        memory::grow(fd.as_fd(), LEAST).map_err(Error::os(
            "cannot make the arena, a file of 32 MiB at the least (ftruncate)",
        ))?;
        memory::seal_against_shrinking(fd.as_fd())
            .map_err(Error::os("cannot seal the arena (fcntl)"))?;
        let mapping = loop {
            match Mapping::shared(fd.as_fd(), reserve as usize) {
                Ok(mapping) => break mapping,
                Err(error) if reserve <= LEAST + EXTENT => {
                    return Err(Error::os("no address space for the arena (mmap)")(error));
                }
                Err(_) => reserve = (reserve / 2).max(LEAST + EXTENT).next_multiple_of(EXTENT),
            }
        };
        let (identity, _) =
            memory::identify(fd.as_fd()).map_err(Error::os("cannot look at the arena (fstat)"))?;
        let family = Self::over(mapping, fd.as_fd(), identity)?;
        for (at, value) in [
            (header::REVISION, REVISION),
            (header::RESERVE, reserve),
            (header::LIMIT, limit.min(reserve)),
            (header::FILE_END, LEAST),
            (header::TOP, HEAP),
            (header::WARM_MOST, KEPT_WARM),
            (header::MAGIC, MAGIC),
        ] {
            family.word(at).store(value, Ordering::Release);
        }
        Ok(family)
    }

    /// The descriptor of the arena, for a process that joins by [`attach`].
    ///
    /// # Errors
    /// Somebody closed the number, or it is another file by now: this process can share what it
    /// has, but start no more members by exec.
    pub fn fd(&self) -> Result<BorrowedFd<'_>> {
        match memory::identify(self.fd.as_fd()) {
            Ok((identity, _)) if identity == self.identity => Ok(self.fd.as_fd()),
            Err(error) if error.raw_os_error() != Some(libc::EBADF) => {
                Err(Error::os("cannot look at the arena (fstat)")(error))
            }
            _ => Err(Error::Foreign(
                "the arena's descriptor was closed by this program (a daemonising close-all?); \
                 start processes before that, or by fork",
            )),
        }
    }

    /// The descriptor's number.
    pub fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// The word at `offset`, which must be a multiple of 8. Offsets that lie outside of the arena
    /// lead to a word that means nothing.
    #[inline]
    pub fn word(&self, offset: u64) -> &AtomicU64 {
        self.at(offset).unwrap_or(&self.scratch)
    }

    /// The `T` at `offset`, or `None` if it does not lie in the arena or is not aligned.
    #[inline]
    pub(crate) fn at<T: Shared>(&self, offset: u64) -> Option<&T> {
        let fits = offset as usize <= self.mapping.len() - size_of::<T>();
        (fits && (offset as usize).is_multiple_of(align_of::<T>())).then(|| {
            // SAFETY: inside the mapping, which lives as long as `self`; aligned; `T` promises
            // that any bytes are a valid value and that it is changed through atomics only.
            unsafe { &*self.mapping.start().add(offset as usize).cast::<T>() }
        })
    }

    /// Address of `offset`, for memory that is handed out whole (values, arrays, messages).
    pub fn address(&self, offset: u64, len: u64) -> Option<*mut u8> {
        let end = offset.checked_add(len)?;
        (end <= self.mapping.len() as u64)
            // SAFETY: inside the mapping.
            .then(|| unsafe { self.mapping.start().add(offset as usize) })
    }

    /// Copies `bytes` into the arena. The caller owns the range until it is published.
    #[inline]
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) {
        if let Some(to) = self.address(offset, bytes.len() as u64) {
            // SAFETY: both ranges are valid for the length and cannot overlap: `bytes` is private
            // memory or another object's; nobody reads the target before it is published.
            unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        }
    }

    /// Copies `bytes` into the arena where it has no pages yet: to have the kernel do that for many pages at
    /// once costs less than to touch each of them. The caller owns the range.
    pub fn write_fresh(&self, offset: u64, bytes: &[u8]) {
        let written = bytes.len() >= BY_CALL
            && offset.saturating_add(bytes.len() as u64) <= self.mapping.len() as u64
            && self
                .fd()
                .is_ok_and(|fd| memory::write_at(fd, bytes, offset).is_ok());
        if !written {
            self.write(offset, bytes);
        }
    }

    /// Appends `len` bytes from the arena to `to`. The range was published and is the caller's.
    #[inline]
    pub(crate) fn read(&self, offset: u64, len: usize, to: &mut Vec<u8>) {
        // In this order: a length that a damaged arena makes up must not ask for memory.
        if let Some(from) = self.address(offset, len as u64) {
            to.reserve(len);
            // SAFETY: `to` has room for `len` more bytes, which are initialised by the copy; the
            // range is not written while the caller owns it.
            unsafe {
                core::ptr::copy_nonoverlapping(from, to.as_mut_ptr().add(to.len()), len);
                to.set_len(to.len() + len);
            }
        }
    }

    /// As [`Family::write`], for a few words.
    #[inline]
    pub(crate) fn write_words(&self, offset: u64, words: &[u64]) {
        if let Some(to) = self.address(offset, size_of_val(words) as u64) {
            for (at, word) in words.iter().enumerate() {
                // SAFETY: as in `write`.
                unsafe { to.cast::<u64>().add(at).write_unaligned(*word) };
            }
        }
    }

    /// As [`Family::read`], for a few words; zeros outside of the arena.
    #[inline]
    pub(crate) fn read_words(&self, offset: u64, to: &mut [MaybeUninit<u64>]) {
        match self.address(offset, size_of_val(to) as u64) {
            Some(from) => {
                for (at, word) in to.iter_mut().enumerate() {
                    // SAFETY: as in `read`.
                    word.write(unsafe { from.cast::<u64>().add(at).read_unaligned() });
                }
            }
            None => to.fill(MaybeUninit::new(0)),
        }
    }

    /// Fills a range with zeros.
    pub(crate) fn zero(&self, offset: u64, len: u64) {
        if let Some(to) = self.address(offset, len) {
            // SAFETY: inside the mapping; the range is the caller's alone.
            unsafe { core::ptr::write_bytes(to, 0, len as usize) };
        }
    }

    /// Has the file grow to at least `size` bytes.
    pub(super) fn grow_file(&self, size: u64) -> Result<()> {
        memory::grow(self.fd()?, size)
            .map_err(Error::os("cannot make the arena larger (fstat, ftruncate)"))
    }

    /// Gives the pages of the range back to the machine.
    pub(super) fn give_back(&self, offset: u64, len: u64) -> bool {
        self.mapping.give_back(offset as usize, len as usize)
    }

    /// Maps the range copy-on-write, so that what is written there stays in this process. Where that is
    /// refused, a copy takes its place.
    pub(super) fn make_private(&self, offset: u64, len: u64) -> Result<()> {
        let (offset, len) = (offset as usize, len as usize);
        let mapped = self.fd().is_ok_and(|fd| {
            self.mapping
                .map_again(fd, Sharing::Private, offset, len)
                .is_ok()
        });
        if mapped {
            Ok(())
        } else {
            self.mapping
                .replace(offset, len)
                .map_err(Error::os("no memory for what was received (mmap)"))
        }
    }

    /// Puts a copy of this process's own where the range was.
    pub(super) fn make_own(&self, offset: u64, len: u64) -> Result<()> {
        self.mapping
            .replace(offset as usize, len as usize)
            .map_err(Error::os("no memory for what was received (mmap)"))
    }

    /// Has this process see all of the arena as all others do, somewhere else; what was made its own stays
    /// where it is.
    pub(super) fn move_away(&self) -> Result<()> {
        self.mapping
            .move_away(self.fd()?)
            .map_err(Error::os("no address space for the arena (mmap)"))
    }

    /// Maps the range as all others see it.
    pub(super) fn make_shared(&self, offset: u64, len: u64) -> Result<()> {
        self.mapping
            .map_again(self.fd()?, Sharing::Shared, offset as usize, len as usize)
            .map_err(Error::os("cannot map a message's memory again (mmap)"))
    }

    /// The witness in slot memory at `offset`.
    pub(super) fn witness(&self, offset: u64) -> Option<&RobustWord> {
        self.at::<RobustWord>(offset)
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What the arena holds.
    pub fn usage(&self) -> Usage {
        let word = |at| self.word(at).load(Ordering::Relaxed);
        Usage {
            used: word(header::USED).saturating_sub(word(header::COLD_REST)),
            warm: word(header::WARM) + word(header::SMALL),
            limit: word(header::LIMIT),
            blocks: word(header::LIVE_BLOCKS),
            processes: self.processes(),
        }
    }
}

/// Types that may lie in the arena.
///
/// # Safety
/// Every bit pattern is a valid value, all-zero included; there are no pointers inside; after the
/// object is published, every change goes through atomics or a kernel-made word.
pub(crate) unsafe trait Shared {}

// SAFETY: plain atomics.
unsafe impl Shared for AtomicU64 {}
// SAFETY: plain atomics.
unsafe impl Shared for AtomicU32 {}
// SAFETY: one atomic word.
unsafe impl Shared for crate::sync::Mutex {}
// SAFETY: one atomic word.
unsafe impl Shared for crate::sync::Gate {}
// SAFETY: atomic words.
unsafe impl Shared for crate::sync::Lock {}
// SAFETY: atomic words.
unsafe impl Shared for crate::sync::CountedSemaphore {}
// SAFETY: one atomic word.
unsafe impl Shared for crate::sync::Event {}
// SAFETY: atomic words.
unsafe impl Shared for crate::sync::Waiters {}
// SAFETY: atomic words.
unsafe impl Shared for crate::sync::Barrier {}
// SAFETY: atomic words.
unsafe impl Shared for crate::channel::Chain {}
// SAFETY: initialised before its first use, changed by libc and the kernel only.
unsafe impl Shared for RobustWord {}
