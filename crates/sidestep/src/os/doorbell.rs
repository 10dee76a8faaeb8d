//! Doorbells: descriptors that other processes make readable by name, without holding them.
//!
//! A doorbell is a datagram socket with a name in the abstract namespace: no file anywhere, and
//! the kernel forgets the name with the last descriptor, however its process ends. The name is
//! random, so nobody rings by accident. Whoever rings on purpose can make a descriptor readable
//! without a reason, and nothing else: what lies in the socket is never looked at.
//!
//! Abstract names belong to the network namespace: a process in another one cannot ring.
#![allow(unsafe_code)] // this file is one of the doors to the kernel

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::call::{Call, call};

/// What a doorbell is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name(pub u64);

impl Name {
    /// A name that nobody has or guesses.
    ///
    /// # References
    /// getrandom(2)
    fn random() -> io::Result<Self> {
        let mut bytes = [0; 8];
        // So few bytes come at once or not at all.
        call(Call::Getrandom, || {
            // SAFETY: the kernel writes at most 8 bytes into memory that is ours.
            unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) }
        })?;
        Ok(Self(u64::from_ne_bytes(bytes)))
    }

    /// The address and its length. Its first byte is 0, which makes it abstract.
    fn address(self) -> (libc::sockaddr_un, libc::socklen_t) {
        // SAFETY: all zeroes is a valid `sockaddr_un`.
        let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
        address.sun_family = libc::AF_UNIX as libc::sa_family_t;
        let text = format!("sidestep-{:016x}", self.0);
        for (to, byte) in address.sun_path[1..].iter_mut().zip(text.bytes()) {
            *to = byte.cast_signed() as libc::c_char;
        }
        let len = mem::offset_of!(libc::sockaddr_un, sun_path) + 1 + text.len();
        (address, len as libc::socklen_t)
    }
}

fn socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no memory is handed over.
    let fd = call(Call::Socket, || unsafe {
        libc::socket(libc::AF_UNIX, kind, 0)
    })?;
    // SAFETY: the descriptor is new, and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A new doorbell, close-on-exec, and its name.
///
/// # Errors
/// No descriptor is left, or a rule of the machine forbids such sockets.
///
/// # References
/// bind(2), abstract addresses in unix(7)
pub fn hang() -> io::Result<(OwnedFd, Name)> {
    let bell = socket()?;
    let name = Name::random()?;
    let (address, len) = name.address();
    call(Call::Bind, || {
        // SAFETY: `address` is a `sockaddr_un` of ours, of which `len` bytes are meant.
        unsafe { libc::bind(bell.as_raw_fd(), (&raw const address).cast(), len) }
    })?;
    Ok((bell, name))
}

/// Makes the doorbell readable. Never waits.
///
/// # Errors
/// `ECONNREFUSED`: nobody has that name (any more), in this network namespace. Other errors say
/// that the kernel had no room for it.
///
/// # References
/// sendto(2)
pub fn ring(name: Name) -> io::Result<()> {
    // A socket for each ring: one that is kept would be a descriptor in every producer, which
    // children inherit and programs that close everything close. Rings are rare.
    let socket = socket()?;
    let (address, len) = name.address();
    // SAFETY: one byte to read, and an address of which `len` bytes are meant.
    let sent = call(Call::Sendto, || unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            [0u8].as_ptr().cast(),
            1,
            libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
            (&raw const address).cast(),
            len,
        )
    });
    match sent {
        // It is so full that it must be readable.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        sent => sent.map(drop),
    }
}

/// Takes all rings off the doorbell: it is not readable afterwards. Never waits.
///
/// # References
/// recv(2)
pub fn silence(bell: BorrowedFd<'_>) {
    let mut byte = 0u8;
    // A bound, so that somebody who rings without end does not keep us here.
    for _ in 0..64 {
        // SAFETY: the kernel writes at most one byte into memory that is ours.
        let got = call(Call::Recv, || unsafe {
            libc::recv(
                bell.as_raw_fd(),
                (&raw mut byte).cast(),
                1,
                libc::MSG_DONTWAIT,
            )
        });
        if got.is_err() {
            return;
        }
    }
}

/// A descriptor, close-on-exec, that always polls writable and never readable.
///
/// # Errors
/// No descriptor is left.
///
/// # References
/// eventfd(2)
pub fn always_writable() -> io::Result<OwnedFd> {
    // SAFETY: no memory is handed over.
    let fd = call(Call::Eventfd, || unsafe {
        libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)
    })?;
    // SAFETY: the descriptor is new, and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::socket::{Interest, poll};
    use std::os::fd::AsFd;
    use std::time::Duration;

    fn is_readable(fd: &OwnedFd) -> bool {
        poll(fd.as_fd(), Interest::Read, Some(Duration::ZERO))
            .unwrap()
            .is_some_and(|ready| ready.readable)
    }

    #[test]
    fn a_ring_makes_it_readable_until_it_is_silenced() {
        let (bell, name) = hang().unwrap();
        assert!(!is_readable(&bell));
        for _ in 0..50 {
            ring(name).unwrap();
        }
        assert!(is_readable(&bell));
        silence(bell.as_fd());
        assert!(!is_readable(&bell));
    }

    #[test]
    fn a_bell_that_is_gone_refuses() {
        let (bell, name) = hang().unwrap();
        drop(bell);
        let error = ring(name).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn an_always_writable_descriptor_is() {
        let fd = always_writable().unwrap();
        let now = Some(Duration::ZERO);
        let ready = poll(fd.as_fd(), Interest::Write, now).unwrap().unwrap();
        assert!(ready.writable && !is_readable(&fd));
    }
}
