//! Messages on a bare descriptor, in the frames of Python's standard library.
//!
//! A frame is its length, then its bytes. The length is a signed 32-bit number, big-endian;
//! for a message of 2 GiB or more it is -1 and an unsigned 64-bit number follows. Whoever
//! speaks this (a Python process without sidestep, a server on another machine) can be at
//! the other end.
//!
//! ```text
//!   0        4                      0        4              12
//!   +--------+---------- - -        +--------+---------------+---------- - -
//!   | length | bytes                |   -1   |    length     | bytes
//!   +--------+---------- - -        +--------+---------------+---------- - -
//! ```
//!
//! Sending and receiving are states ([`Sending`], [`Receiving`]) that are advanced until they
//! are done. A signal ends one step with [`Step::Interrupted`], and the next step goes on
//! where that one stopped: the caller can run signal handlers in between, and even give up and
//! come back later, without losing a byte.
//!
//! If the other side dies in the middle of a frame, the receiver gets
//! [`StreamError::Truncated`]; at a frame's border it is [`StreamError::EndOfFile`].

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::os::clock::Deadline;
use crate::os::socket::{self, Interest};
use crate::sync::Patience;

/// Longest message whose length fits the short header.
const SHORT_MAX: u64 = i32::MAX as u64;

/// To look whether a descriptor is ready, without a wait.
const NOW: Option<Duration> = Some(Duration::ZERO);

/// A body is reserved at most in pieces of this size, so that a peer that announces much
/// and sends little costs little.
const RESERVE_MAX: usize = 16 << 20;

/// How far one step has brought an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an interrupted operation is not done"]
pub enum Step<T> {
    /// The operation is complete.
    Done(T),
    /// A signal came; nothing is lost, the next step goes on.
    Interrupted,
}

/// Why a frame could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The other side has closed, between two messages.
    #[error("end of file")]
    EndOfFile,
    /// The other side has closed, or died, within a message.
    #[error("got end of file during message")]
    Truncated,
    /// The announced length is negative or above the receiver's limit; nothing was allocated.
    #[error("bad message length")]
    BadLength,
    /// There is no memory for the message.
    #[error("no memory for a message of {0} bytes")]
    OutOfMemory(u64),
    /// The kernel refused.
    #[error(transparent)]
    Os(#[from] io::Error),
}

/// The header of a message of `length` bytes, and how much of the array it takes.
fn header(length: u64) -> ([u8; 12], usize) {
    let mut bytes = [0; 12];
    if length <= SHORT_MAX {
        bytes[..4].copy_from_slice(&(length as u32).to_be_bytes());
        (bytes, 4)
    } else {
        bytes[..4].copy_from_slice(&(-1_i32).to_be_bytes());
        bytes[4..].copy_from_slice(&length.to_be_bytes());
        (bytes, 12)
    }
}

/// After `WouldBlock`: wait, or report it when nothing of the frame has passed yet.
///
/// A descriptor that somebody has set non-blocking must fail at a frame's border, so that the
/// caller can come back; within a frame only going on keeps the stream whole.
fn on_error(
    error: io::Error,
    within: bool,
    descriptor: BorrowedFd<'_>,
    interest: Interest,
) -> Result<Step<()>, StreamError> {
    let error = if error.kind() == io::ErrorKind::WouldBlock && within {
        match socket::poll(descriptor, interest, None) {
            Ok(_) => return Ok(Step::Done(())),
            Err(error) => error,
        }
    } else {
        error
    };
    if error.kind() == io::ErrorKind::Interrupted {
        Ok(Step::Interrupted)
    } else {
        Err(error.into())
    }
}

/// A message on its way out.
#[derive(Debug)]
pub struct Sending<'a> {
    header: [u8; 12],
    header_len: usize,
    body: &'a [u8],
    /// Bytes of header and body that the kernel has taken.
    sent: usize,
}

impl<'a> Sending<'a> {
    /// A frame of `body`, of which nothing has been sent.
    #[must_use]
    pub fn new(body: &'a [u8]) -> Self {
        let (header, header_len) = header(body.len() as u64);
        Self {
            header,
            header_len,
            body,
            sent: 0,
        }
    }

    /// Sends on, until the frame is out or a signal comes. Blocks while the descriptor is full.
    ///
    /// # Errors
    /// [`StreamError::Os`]: among others `EPIPE` or `ECONNRESET` when nobody can read any more.
    pub fn step(&mut self, descriptor: BorrowedFd<'_>) -> Result<Step<()>, StreamError> {
        let whole = self.header_len + self.body.len();
        while self.sent < whole {
            // Header and body leave in one call: no second packet, and an empty message to a
            // closed peer fails instead of half succeeding.
            let in_header = self.sent.min(self.header_len);
            let pieces = [
                IoSlice::new(&self.header[in_header..self.header_len]),
                IoSlice::new(&self.body[self.sent - in_header..]),
            ];
            let pieces = if in_header == self.header_len {
                &pieces[1..]
            } else {
                &pieces[..]
            };
            match socket::write_pieces(descriptor, pieces) {
                Ok(count) => {
                    self.sent += count;
                    if self.sent < whole {
                        // A blocking descriptor takes less than all only when a signal came.
                        return Ok(Step::Interrupted);
                    }
                }
                Err(error) => match on_error(error, self.sent > 0, descriptor, Interest::Write)? {
                    Step::Done(()) => {}
                    Step::Interrupted => return Ok(Step::Interrupted),
                },
            }
        }
        Ok(Step::Done(()))
    }

    /// What has to follow so that the frame is complete; nothing if it never began.
    ///
    /// For a sender that gives up after a signal: sent before the next frame, the stream stays
    /// whole.
    #[must_use]
    pub fn rest(&self) -> Vec<u8> {
        if self.sent == 0 {
            return Vec::new();
        }
        let in_header = self.sent.min(self.header_len);
        let mut rest = self.header[in_header..self.header_len].to_vec();
        rest.extend_from_slice(&self.body[self.sent - in_header..]);
        rest
    }
}

/// Sends bytes that belong to a frame begun earlier; removes from `rest` what was taken.
///
/// # Errors
/// As [`Sending::step`].
pub fn send_rest(descriptor: BorrowedFd<'_>, rest: &mut Vec<u8>) -> Result<Step<()>, StreamError> {
    while !rest.is_empty() {
        match socket::write_pieces(descriptor, &[IoSlice::new(rest)]) {
            Ok(count) => {
                drop(rest.drain(..count));
                if !rest.is_empty() {
                    return Ok(Step::Interrupted);
                }
            }
            Err(error) => match on_error(error, true, descriptor, Interest::Write)? {
                Step::Done(()) => {}
                Step::Interrupted => return Ok(Step::Interrupted),
            },
        }
    }
    Ok(Step::Done(()))
}

/// A message on its way in.
#[derive(Debug, Default)]
pub struct Receiving {
    header: [u8; 12],
    header_got: usize,
    /// Announced length, once the header is complete.
    length: Option<u64>,
    body: Vec<u8>,
}

impl Receiving {
    /// A frame of which nothing has arrived.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a part of the frame has been taken from the descriptor.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.header_got > 0
    }

    /// Receives on, until the frame is complete or a signal comes. Takes nothing that belongs
    /// to the next frame, so several processes may take turns on one descriptor.
    ///
    /// # Errors
    /// [`StreamError::BadLength`] for a message above `limit`, before anything is allocated
    /// for it; its bytes are left in the stream, which is useless from then on.
    /// [`StreamError::EndOfFile`] and [`StreamError::Truncated`] when the other side is gone.
    pub fn step(
        &mut self,
        descriptor: BorrowedFd<'_>,
        limit: Option<u64>,
    ) -> Result<Step<Vec<u8>>, StreamError> {
        let length = loop {
            if let Some(length) = self.length {
                break length;
            }
            if let Some(length) = self.parse_header()? {
                self.length = Some(length);
                continue;
            }
            let end = if self.header_got < 4 { 4 } else { 12 };
            match socket::read(descriptor, &mut self.header[self.header_got..end]) {
                Ok(0) if self.header_got == 0 => return Err(StreamError::EndOfFile),
                Ok(0) => return Err(StreamError::Truncated),
                Ok(count) => self.header_got += count,
                Err(error) => {
                    match on_error(error, self.header_got > 0, descriptor, Interest::Read)? {
                        Step::Done(()) => {}
                        Step::Interrupted => return Ok(Step::Interrupted),
                    }
                }
            }
        };
        if limit.is_some_and(|limit| length > limit) {
            return Err(StreamError::BadLength);
        }
        let out_of_memory = || StreamError::OutOfMemory(length);
        let whole = usize::try_from(length).map_err(|_| out_of_memory())?;
        while self.body.len() < whole {
            let missing = whole - self.body.len();
            if self.body.capacity() == self.body.len() {
                let more = missing.min(RESERVE_MAX.max(self.body.len()));
                self.body
                    .try_reserve_exact(more)
                    .map_err(|_| out_of_memory())?;
            }
            match socket::read_behind(descriptor, &mut self.body, missing) {
                // The header came alone: to the receiver no message has begun to arrive.
                Ok(0) if self.body.is_empty() => return Err(StreamError::EndOfFile),
                Ok(0) => return Err(StreamError::Truncated),
                Ok(_) => {}
                Err(error) => match on_error(error, true, descriptor, Interest::Read)? {
                    Step::Done(()) => {}
                    Step::Interrupted => return Ok(Step::Interrupted),
                },
            }
        }
        let body = std::mem::take(self).body;
        Ok(Step::Done(body))
    }

    /// The announced length, when the header is complete.
    fn parse_header(&self) -> Result<Option<u64>, StreamError> {
        let [a, b, c, d, long @ ..] = self.header;
        match (self.header_got, i32::from_be_bytes([a, b, c, d])) {
            (0..4, _) => Ok(None),
            (4..12, -1) => Ok(None),
            (_, -1) => Ok(Some(u64::from_be_bytes(long))),
            (_, length) => u64::try_from(length)
                .map(Some)
                .map_err(|_| StreamError::BadLength),
        }
    }
}

/// Stays awake for a moment, if nothing has come yet and that may be worth it: to be started by the
/// kernel takes longer than a quick answer does.
pub fn stay_awake(descriptor: BorrowedFd<'_>, patience: &Patience) {
    // Of a bad descriptor the read that follows says what is wrong.
    let told = || !matches!(socket::poll(descriptor, Interest::Read, NOW), Ok(None));
    patience.outlasts(told);
}

/// Waits until the descriptor has something to read, or its end; false when `deadline` has
/// passed.
///
/// # Errors
/// [`StreamError::Os`] with `EBADF` if the number is no descriptor.
pub fn wait_readable(
    descriptor: BorrowedFd<'_>,
    deadline: Deadline,
) -> Result<Step<bool>, StreamError> {
    loop {
        let left = deadline.left();
        match socket::poll(descriptor, Interest::Read, left) {
            Ok(Some(ready)) if ready.invalid => {
                return Err(io::Error::from_raw_os_error(libc::EBADF).into());
            }
            Ok(Some(_)) => return Ok(Step::Done(true)),
            // The kernel's longest wait may be shorter than ours.
            Ok(None) if left.is_some_and(|left| left > Duration::from_secs(1 << 20)) => {}
            Ok(None) => return Ok(Step::Done(false)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                return Ok(Step::Interrupted);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Sends one message, whatever signals come. For Rust programs that handle none.
///
/// # Errors
/// As [`Sending::step`].
pub fn send_frame(descriptor: BorrowedFd<'_>, body: &[u8]) -> Result<(), StreamError> {
    let mut sending = Sending::new(body);
    while sending.step(descriptor)? == Step::Interrupted {}
    Ok(())
}

/// Receives one message, whatever signals come. For Rust programs that handle none.
///
/// # Errors
/// As [`Receiving::step`].
pub fn recv_frame(descriptor: BorrowedFd<'_>, limit: Option<u64>) -> Result<Vec<u8>, StreamError> {
    let mut receiving = Receiving::new();
    loop {
        if let Step::Done(body) = receiving.step(descriptor, limit)? {
            return Ok(body);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::thread;
    use std::time::Instant;

    fn raw(descriptor: BorrowedFd<'_>, bytes: &[u8]) {
        assert_eq!(
            socket::write_pieces(descriptor, &[IoSlice::new(bytes)]).unwrap(),
            bytes.len()
        );
    }

    #[test]
    fn frames_look_as_the_standard_library_writes_them() {
        let (a, b) = socket::socket_pair().unwrap();
        send_frame(a.as_fd(), b"abc").unwrap();
        send_frame(a.as_fd(), b"").unwrap();
        let mut seen = [0; 32];
        let got = socket::read(b.as_fd(), &mut seen).unwrap();
        assert_eq!(&seen[..got], b"\0\0\0\x03abc\0\0\0\0");
    }

    #[test]
    fn the_long_header_begins_at_two_gibibytes() {
        assert_eq!(
            header(0x7fff_ffff),
            ([0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0], 4)
        );
        let (bytes, len) = header(0x8000_0000);
        assert_eq!(
            (&bytes[..len], len),
            (&b"\xff\xff\xff\xff\0\0\0\0\x80\0\0\0"[..], 12)
        );
    }

    #[test]
    fn a_long_header_is_understood_for_any_length() {
        let (a, b) = socket::socket_pair().unwrap();
        raw(a.as_fd(), b"\xff\xff\xff\xff\0\0\0\0\0\0\0\x02hi");
        assert_eq!(recv_frame(b.as_fd(), None).unwrap(), b"hi");
    }

    #[test]
    fn messages_larger_than_the_socket_pass_whole() {
        let (a, b) = socket::socket_pair().unwrap();
        let message: Vec<u8> = (0..5_000_000_u32).map(|i| (i % 251) as u8).collect();
        thread::scope(|scope| {
            scope.spawn(|| {
                send_frame(a.as_fd(), &message).unwrap();
                send_frame(a.as_fd(), b"next").unwrap();
            });
            assert!(recv_frame(b.as_fd(), None).unwrap() == message);
            assert_eq!(recv_frame(b.as_fd(), None).unwrap(), b"next");
        });
    }

    #[test]
    fn a_message_above_the_limit_is_refused_by_its_header() {
        let (a, b) = socket::socket_pair().unwrap();
        raw(a.as_fd(), b"\0\0\x01\x01");
        assert!(matches!(
            recv_frame(b.as_fd(), Some(256)),
            Err(StreamError::BadLength)
        ));
    }

    #[test]
    fn a_negative_length_is_refused() {
        let (a, b) = socket::socket_pair().unwrap();
        raw(a.as_fd(), b"\xff\xff\xff\xfe");
        assert!(matches!(
            recv_frame(b.as_fd(), None),
            Err(StreamError::BadLength)
        ));
    }

    #[test]
    fn a_huge_announcement_with_nothing_behind_it_costs_nothing() {
        let (a, b) = socket::socket_pair().unwrap();
        raw(a.as_fd(), b"\xff\xff\xff\xff\0\0\x7f\0\0\0\0\0x");
        drop(a);
        assert!(matches!(
            recv_frame(b.as_fd(), None),
            Err(StreamError::Truncated)
        ));
    }

    #[test]
    fn the_end_is_told_apart_from_a_torn_message() {
        let torn: [(&[u8], bool); 4] = [
            (b"", false),
            (b"\0\0", true),
            (b"\0\0\0\x05", false),
            (b"\0\0\0\x05abc", true),
        ];
        for (sent, truncated) in torn {
            let (a, b) = socket::socket_pair().unwrap();
            if !sent.is_empty() {
                raw(a.as_fd(), sent);
            }
            drop(a);
            let error = recv_frame(b.as_fd(), None).unwrap_err();
            assert_eq!(
                matches!(error, StreamError::Truncated),
                truncated,
                "{sent:?}"
            );
            assert_eq!(
                matches!(error, StreamError::EndOfFile),
                !truncated,
                "{sent:?}"
            );
        }
    }

    #[test]
    fn a_frame_given_up_half_way_is_completed_by_its_rest() {
        let (a, b) = socket::socket_pair().unwrap();
        let body = b"hello";
        for sent in 0..=9 {
            let mut sending = Sending::new(body);
            sending.sent = sent;
            raw(a.as_fd(), &b"\0\0\0\x05hello"[..sent]);
            let mut rest = sending.rest();
            assert_eq!(send_rest(a.as_fd(), &mut rest).unwrap(), Step::Done(()));
            if sent > 0 {
                assert_eq!(recv_frame(b.as_fd(), None).unwrap(), body);
            }
        }
        let mut nothing = [0; 1];
        assert!(socket::receive(b.as_fd(), &mut nothing, socket::Wait::Never).is_err());
    }

    #[test]
    fn a_deadline_ends_the_wait_and_data_ends_it_sooner() {
        let (a, b) = socket::socket_pair().unwrap();
        let began = Instant::now();
        let end = Deadline::after(Some(Duration::from_millis(20)));
        assert_eq!(wait_readable(b.as_fd(), end).unwrap(), Step::Done(false));
        assert!(began.elapsed() >= Duration::from_millis(20));
        send_frame(a.as_fd(), b"").unwrap();
        assert_eq!(
            wait_readable(b.as_fd(), Deadline::NEVER).unwrap(),
            Step::Done(true)
        );
    }
}
