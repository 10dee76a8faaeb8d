//! Descriptors that carry bytes: socket pairs, pipes, waiting for them, and passing them on.
//!
//! Everything made here is close-on-exec. A call that a signal interrupts says so
//! ([`io::ErrorKind::Interrupted`]); nothing is retried here, since only the caller knows
//! whether the signal has a handler that must run first.
#![allow(unsafe_code)] // this file is one of the doors to the kernel

use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::time::Duration;

use super::call::{Call, call};

/// Most descriptors that one message may carry (the kernel's own limit is 253).
pub const MAX_DESCRIPTORS: usize = 64;

fn call_size(name: Call, make: impl FnOnce() -> isize) -> io::Result<usize> {
    call(name, make).map(isize::cast_unsigned)
}

/// Two connected stream sockets: what is written to one is read from the other.
///
/// # References
/// socketpair(2), unix(7)
pub fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut pair = [-1; 2];
    // SAFETY: `pair` has room for the two descriptors that the call stores.
    call(Call::Socketpair, || unsafe {
        libc::socketpair(
            libc::AF_UNIX,
            libc::SOCK_STREAM | libc::SOCK_CLOEXEC,
            0,
            pair.as_mut_ptr(),
        )
    })?;
    Ok(own_pair(pair))
}

/// A pipe: the end to read from, and the end to write to.
///
/// # References
/// pipe(2), pipe(7)
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut pair = [-1; 2];
    // SAFETY: `pair` has room for the two descriptors that the call stores.
    call(Call::Pipe, || unsafe {
        libc::pipe2(pair.as_mut_ptr(), libc::O_CLOEXEC)
    })?;
    Ok(own_pair(pair))
}

fn own_pair([first, second]: [RawFd; 2]) -> (OwnedFd, OwnedFd) {
    // SAFETY: the kernel has just made both descriptors for us, nobody else knows them.
    unsafe { (OwnedFd::from_raw_fd(first), OwnedFd::from_raw_fd(second)) }
}

/// A descriptor that somebody else vouches for, by its number.
///
/// For numbers that come from a programmer (a file number in Python). If it is closed
/// meanwhile, calls fail with `EBADF`, or reach whatever has got the number since: the risk
/// that every program with bare descriptor numbers runs. No memory depends on it.
///
/// # Errors
/// `EBADF` for a negative number.
pub fn vouched<'a>(number: RawFd) -> io::Result<BorrowedFd<'a>> {
    if number < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the number is not -1. That it stays open is the caller's word; when it is
    // broken the kernel refuses the number, see above.
    Ok(unsafe { BorrowedFd::borrow_raw(number) })
}

/// Takes over a descriptor by its number, under the same conditions as [`vouched`].
///
/// # Errors
/// `EBADF` for a negative number.
pub fn take_over(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the number is not -1, and the caller gives it away.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes a descriptor and says what the kernel said.
///
/// The number is free afterwards, whatever the result (Linux).
///
/// # References
/// close(2)
pub fn close(descriptor: OwnedFd) -> io::Result<()> {
    // SAFETY: the number was owned, and is given up here.
    call(Call::Close, move || unsafe {
        libc::close(descriptor.into_raw_fd())
    })
    .map(drop)
}

/// Reads what is there, up to the length of `buffer`. 0 is the end of the stream.
///
/// # References
/// read(2)
pub fn read(descriptor: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most `len` bytes into memory that is ours.
    call_size(Call::Read, || unsafe {
        libc::read(
            descriptor.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
        )
    })
}

/// Reads what is there behind the bytes of `buffer`, at most `limit` bytes and at most what
/// is reserved. 0 is the end of the stream (or no room at all).
pub fn read_behind(
    descriptor: BorrowedFd<'_>,
    buffer: &mut Vec<u8>,
    limit: usize,
) -> io::Result<usize> {
    let room = buffer.spare_capacity_mut();
    let len = room.len().min(limit);
    // SAFETY: the kernel writes at most `len` bytes into reserved memory of the vector.
    let got = call_size(Call::Read, || unsafe {
        libc::read(descriptor.as_raw_fd(), room.as_mut_ptr().cast(), len)
    })?;
    // SAFETY: `got` bytes behind the old length have just been written.
    unsafe { buffer.set_len(buffer.len() + got) };
    Ok(got)
}

/// Writes what fits, from several pieces at once.
///
/// # References
/// writev(2)
pub fn write_pieces(descriptor: BorrowedFd<'_>, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    let count = libc::c_int::try_from(pieces.len()).unwrap_or(libc::c_int::MAX);
    // SAFETY: `IoSlice` has the layout of `iovec` (std promises it), each for memory that is
    // borrowed during the call.
    call_size(Call::Writev, || unsafe {
        libc::writev(descriptor.as_raw_fd(), pieces.as_ptr().cast(), count)
    })
}

/// Shuts one direction, or both, of a socket; the other side sees the end of the stream.
///
/// # References
/// shutdown(2)
pub fn shutdown(descriptor: BorrowedFd<'_>, how: std::net::Shutdown) -> io::Result<()> {
    let how = match how {
        std::net::Shutdown::Read => libc::SHUT_RD,
        std::net::Shutdown::Write => libc::SHUT_WR,
        std::net::Shutdown::Both => libc::SHUT_RDWR,
    };
    // SAFETY: no memory is handed over.
    call(Call::Shutdown, || unsafe {
        libc::shutdown(descriptor.as_raw_fd(), how)
    })
    .map(drop)
}

/// What identifies the file behind a descriptor, whatever its number: device and inode.
///
/// # References
/// fstat(2)
pub fn identity(descriptor: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    // SAFETY: all zeroes is a valid `stat`.
    let mut facts: libc::stat = unsafe { mem::zeroed() };
    // SAFETY: `facts` is a `stat` of ours.
    call(Call::Fstat, || unsafe {
        libc::fstat(descriptor.as_raw_fd(), &raw mut facts)
    })?;
    Ok((facts.st_dev, facts.st_ino))
}

/// What a descriptor is ready for, or what has become of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// There are bytes to read, or the end of the stream.
    pub readable: bool,
    /// A write would take some bytes.
    pub writable: bool,
    /// The other side is gone (of a socket pair: closed by all who held it).
    pub hung_up: bool,
    /// The number is no descriptor.
    pub invalid: bool,
}

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Bytes to read, or the end of the stream.
    Read,
    /// Room to write.
    Write,
    /// Only that the other side is gone.
    HangUp,
}

/// Waits until a descriptor is ready, gone, or `timeout` has passed (`None`: for ever).
///
/// `None` is returned when the time is over. Rounds up to whole milliseconds, so a wait is
/// never shorter than asked for.
///
/// # References
/// poll(2)
pub fn poll(
    descriptor: BorrowedFd<'_>,
    interest: Interest,
    timeout: Option<Duration>,
) -> io::Result<Option<Readiness>> {
    let mut one = [entry(descriptor, interest)];
    let ready = poll_entries(&mut one, timeout)?;
    Ok(ready.then(|| readiness(&one[0])))
}

/// Waits until one of several descriptors is ready or gone, or `timeout` has passed, and says
/// what each of them is ready for. Rounds up as [`poll`] does.
///
/// # References
/// poll(2)
pub fn poll_all(
    descriptors: &[(BorrowedFd<'_>, Interest)],
    timeout: Option<Duration>,
) -> io::Result<Vec<Readiness>> {
    let mut entries: Vec<_> = descriptors
        .iter()
        .map(|(descriptor, interest)| entry(*descriptor, *interest))
        .collect();
    poll_entries(&mut entries, timeout)?;
    Ok(entries.iter().map(readiness).collect())
}

fn entry(descriptor: BorrowedFd<'_>, interest: Interest) -> libc::pollfd {
    libc::pollfd {
        fd: descriptor.as_raw_fd(),
        events: match interest {
            Interest::Read => libc::POLLIN,
            Interest::Write => libc::POLLOUT,
            Interest::HangUp => 0,
        },
        revents: 0,
    }
}

fn readiness(entry: &libc::pollfd) -> Readiness {
    let has = |bit: libc::c_short| entry.revents & bit != 0;
    Readiness {
        readable: has(libc::POLLIN | libc::POLLHUP | libc::POLLERR),
        writable: has(libc::POLLOUT | libc::POLLERR),
        hung_up: has(libc::POLLHUP | libc::POLLERR),
        invalid: has(libc::POLLNVAL),
    }
}

/// Whether any of them became ready in time.
fn poll_entries(entries: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<bool> {
    let millis = match timeout {
        None => -1,
        Some(time) => {
            libc::c_int::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(libc::c_int::MAX)
        }
    };
    let count = entries.len() as libc::nfds_t;
    // SAFETY: the entries are ours during the call, and as many as we say.
    Ok(call(Call::Poll, || unsafe {
        libc::poll(entries.as_mut_ptr(), count, millis)
    })? > 0)
}

/// Room for the control message that carries descriptors, aligned as the kernel wants it.
#[repr(C, align(8))]
struct Control([u8; 24 + 4 * MAX_DESCRIPTORS]);

/// Whether a call on a socket may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Wait as the descriptor itself would.
    AsSet,
    /// Fail with [`io::ErrorKind::WouldBlock`] instead.
    Never,
}

impl Wait {
    fn flag(self) -> libc::c_int {
        match self {
            Wait::AsSet => 0,
            Wait::Never => libc::MSG_DONTWAIT,
        }
    }
}

/// Sends bytes over a socket, with descriptors attached to the first of them.
///
/// The receiver gets duplicates; ours stay open. A receiver that is gone is an error
/// (`EPIPE`), never a signal.
///
/// # Errors
/// `EINVAL` for more than [`MAX_DESCRIPTORS`], else the kernel's errors.
///
/// # References
/// sendmsg(2), `SCM_RIGHTS` in unix(7)
pub fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
    wait: Wait,
) -> io::Result<usize> {
    if descriptors.len() > MAX_DESCRIPTORS {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut piece = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: all zeroes is a valid, empty `msghdr`.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    let mut control = Control([0; _]);
    if !descriptors.is_empty() {
        let payload = mem::size_of_val(descriptors);
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: these are computations on sizes; `Control` has room for MAX_DESCRIPTORS
        // (its constant part is the header of 16 bytes and padding).
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(payload as u32) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(payload as u32) as _;
            let numbers: *mut RawFd = libc::CMSG_DATA(header).cast();
            for (index, descriptor) in descriptors.iter().enumerate() {
                numbers.add(index).write_unaligned(descriptor.as_raw_fd());
            }
        }
    }
    let flags = libc::MSG_NOSIGNAL | wait.flag();
    // SAFETY: `message` points to `piece`, `bytes` and `control`, all alive; the kernel only
    // reads them.
    call_size(Call::Sendmsg, || unsafe {
        libc::sendmsg(socket.as_raw_fd(), &raw const message, flags)
    })
}

/// Receives bytes and the descriptors that came with them (close-on-exec).
///
/// Bytes that carry descriptors end a call: the next ones come with the next call.
///
/// # Errors
/// `EMFILE`: there is no room for the descriptors that came. The bytes are taken, and all
/// descriptors that came with them are closed. Else the kernel's errors.
///
/// # References
/// recvmsg(2), `SCM_RIGHTS` in unix(7)
pub fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    wait: Wait,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut piece = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let mut control = Control([0; _]);
    // SAFETY: all zeroes is a valid, empty `msghdr`.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    let flags = libc::MSG_CMSG_CLOEXEC | wait.flag();
    // SAFETY: `message` points to `piece`, `buffer` and `control`, all alive and ours to write.
    let got = call_size(Call::Recvmsg, || unsafe {
        libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags)
    })?;
    let mut descriptors = Vec::new();
    // SAFETY: the kernel filled `control` and set `msg_controllen`; the macros walk within it.
    // Each number in an SCM_RIGHTS record is a new descriptor of this process.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let payload = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let numbers: *const RawFd = libc::CMSG_DATA(header).cast();
                for index in 0..payload / mem::size_of::<RawFd>() {
                    descriptors.push(OwnedFd::from_raw_fd(numbers.add(index).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    // The room for control messages is enough for all that is ever sent: so it was this.
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    Ok((got, descriptors))
}

/// Looks at the bytes that come next, without waiting and without taking them.
///
/// # References
/// `MSG_PEEK` in recv(2)
pub fn peek(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most `len` bytes into memory that is ours.
    call_size(Call::Recv, || unsafe {
        libc::recv(
            socket.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            libc::MSG_PEEK | libc::MSG_DONTWAIT,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn flags_of(descriptor: BorrowedFd<'_>) -> libc::c_int {
        // SAFETY: no memory is handed over.
        unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GETFD) }
    }

    #[test]
    fn new_descriptors_are_close_on_exec() {
        let (a, b) = socket_pair().unwrap();
        let (r, w) = pipe().unwrap();
        for descriptor in [a, b, r, w] {
            assert_eq!(flags_of(descriptor.as_fd()), libc::FD_CLOEXEC);
        }
    }

    #[test]
    fn poll_tells_data_silence_and_hang_up_apart() {
        let (a, b) = socket_pair().unwrap();
        let now = Some(Duration::ZERO);
        assert_eq!(poll(a.as_fd(), Interest::Read, now).unwrap(), None);
        assert_eq!(poll(a.as_fd(), Interest::HangUp, now).unwrap(), None);
        write_pieces(b.as_fd(), &[IoSlice::new(b"x")]).unwrap();
        let ready = poll(a.as_fd(), Interest::Read, None).unwrap().unwrap();
        assert!(ready.readable && !ready.hung_up);
        drop(b);
        let ready = poll(a.as_fd(), Interest::HangUp, None).unwrap().unwrap();
        assert!(ready.hung_up);
    }

    #[test]
    fn descriptors_arrive_with_the_byte_that_carries_them() {
        let (a, b) = socket_pair().unwrap();
        let (r, w) = pipe().unwrap();
        send(a.as_fd(), b"1", &[], Wait::AsSet).unwrap();
        send(a.as_fd(), b"2", &[r.as_fd(), w.as_fd()], Wait::AsSet).unwrap();
        let mut buffer = [0; 16];
        let mut seen = Vec::new();
        let mut passed = Vec::new();
        while seen.len() < 2 {
            let (got, mut more) = receive(b.as_fd(), &mut buffer, Wait::AsSet).unwrap();
            seen.extend_from_slice(&buffer[..got]);
            passed.append(&mut more);
        }
        assert_eq!(seen, b"12");
        assert_eq!(passed.len(), 2);
        assert_eq!(flags_of(passed[0].as_fd()), libc::FD_CLOEXEC);
        assert_eq!(
            identity(passed[0].as_fd()).unwrap(),
            identity(r.as_fd()).unwrap()
        );
        write_pieces(passed[1].as_fd(), &[IoSlice::new(b"through")]).unwrap();
        let got = read(r.as_fd(), &mut buffer).unwrap();
        assert_eq!(&buffer[..got], b"through");
    }

    #[test]
    fn an_empty_socket_would_block_and_a_closed_one_ends() {
        let (a, b) = socket_pair().unwrap();
        let mut buffer = [0; 4];
        let error = receive(a.as_fd(), &mut buffer, Wait::Never).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(b);
        assert_eq!(receive(a.as_fd(), &mut buffer, Wait::Never).unwrap().0, 0);
        let error = send(a.as_fd(), b"x", &[], Wait::AsSet).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_negative_number_is_no_descriptor() {
        assert_eq!(vouched(-1).unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert_eq!(take_over(-5).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
