//! The pipe of a family: messages in shared memory, and a socket pair for everything else.
//!
//! ```text
//!   side 0 ── chain 0 ──▶ side 1        messages, in the arena
//!   side 0 ◀── chain 1 ── side 1
//!   side 0 ◀═ socket pair ═▶ side 1     bell, life line, carrier of descriptors
//! ```
//!
//! Each side holds one socket. A receiver with nothing to receive sleeps in `poll` on it: it is
//! woken by the bell, and by the kernel when the other side is gone, however it went. Sending
//! rings only if the bell is not rung already, so a receiver that keeps finding messages costs its
//! sender no system call at all.
//!
//! # The bell
//!
//! One word per direction, beside the socket's bytes:
//!
//! | bit | name      | meaning                                                              |
//! |----:|-----------|----------------------------------------------------------------------|
//! |   0 | `RUNG`    | a bell byte lies in the socket                                       |
//! |   1 | `WATCHED` | somebody watches the descriptor itself; sticky                       |
//! |   2 | `UNSURE`  | a byte is being written or taken: if its process died, it may be there |
//!
//! All of it (ringing, publishing, taking the byte) happens under the producers' mutex of the
//! direction's chain, as with those who watch a queue, which gives the same simple rule:
//!
//! > Whenever nobody holds the mutex: if there are messages, there is a bell byte.
//!
//! A sender that finds `RUNG` clear writes the byte *before* it publishes its message. So the
//! descriptor is readable whenever there is a message, whoever is killed. The other way round it takes
//! a receiver: one that finds the chain empty *settles* before it sleeps, which takes the byte.
//! While the descriptor is watched (its number was asked for) receivers settle as soon as they have
//! taken the last message, so that it is readable exactly when there is something to receive.
//!
//! # If a process dies
//!
//! * A sender before its commit: nothing was sent, but the byte may be there. Whoever settles
//!   takes it. If `UNSURE` is left, there may be one byte more than `RUNG` says: then all are taken.
//! * A receiver within settling: the same.
//! * The last process of a side: the other one hangs up. Messages that it had sent are still
//!   received, then comes the end.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::chain::{CHAIN_BYTES, Chain, EnvelopeBox, Put, Taken, take_apart as take_chain_apart};
use super::stream::Step;
use crate::crash;
use crate::error::Error;
use crate::os::clock::Deadline;
use crate::os::socket::{Interest, Wait};
use crate::primitive::{AtomicU64, Instant, Ordering, Wake, fence, process, socket, spin_loop};
use crate::shm::{Envelope, Family, Handle, Kind, Note, Ref, Source, Txn, family};
use crate::sync::SLICE;

/// Unread bytes of a direction above which senders wait.
pub const MAX_UNREAD: u64 = 1 << 20;

/// The byte that wakes. Descriptors travel with other bytes.
const BELL: u8 = 0xb5;

const RUNG: u64 = 1;
const WATCHED: u64 = 2;
const UNSURE: u64 = 4;

/// How old the news may be that the other side is alive, when something is sent to it.
const NEWS_AGE_NS: u64 = 100_000;

/// How long a blocked sender sleeps before it looks whether there is still somebody to read.
const SENDER_SLICE: Duration = Duration::from_millis(50);

/// Waits longer than this are not worth spinning for.
const SPIN_FOR: Duration = Duration::from_micros(20);

/// Offsets in the payload of a pipe, behind the two chains.
///
/// | offset | bytes | field      | written by                 | meaning                                 |
/// |-------:|------:|------------|----------------------------|-----------------------------------------|
/// |      0 |   512 | chain 0    | see `Chain`                | messages from side 0 to side 1          |
/// |    512 |   512 | chain 1    | see `Chain`                | messages from side 1 to side 0          |
/// |   1024 |     8 | bell 0     | see above                  | bell of chain 0                         |
/// |   1032 |     8 | long 0     | sender adds, receiver takes | bytes of unread envelopes, roughly     |
/// |   1152 |     8 | bell 1     | see above                  | bell of chain 1                         |
/// |   1160 |     8 | long 1     | sender adds, receiver takes | bytes of unread envelopes, roughly     |
/// |   1280 |     8 | `CLOSINGS` | whoever closes a socket    | grows: look whether the other side lives |
/// |   1288 |     8 | `STREAM`   | anybody, once              | 1: frames on the socket from now on     |
///
/// `long` may drift when a process is killed between a message and its account; a sender that finds
/// it too high and the chain empty starts anew.
mod layout {
    pub const LINES: u64 = 1024;
    pub const LINE: u64 = 128;
    pub const LONG: u64 = 8;
    pub const CLOSINGS: u64 = 1280;
    pub const STREAM: u64 = 1288;
    pub const BYTES: u64 = 1408;
}
const _: () = assert!(2 * CHAIN_BYTES == layout::LINES);

/// Why sending or receiving failed.
#[derive(Debug, thiserror::Error)]
pub enum PipeError {
    /// The arena refused.
    #[error(transparent)]
    Arena(#[from] Error),
    /// The kernel refused; `EPIPE` when nobody can receive any more.
    #[error(transparent)]
    Os(#[from] io::Error),
    /// The pipe has become a stream: use frames on the socket.
    #[error("the pipe carries frames on its socket now")]
    Stream,
    /// There are unread messages that only a member of the family can read.
    #[error("the pipe holds unread messages, so it cannot go to a process outside of the family")]
    Unread,
}

/// What to send.
pub enum Message<'a> {
    /// At most [`INLINE_MAX`] bytes, in parts.
    Short(&'a [&'a [u8]]),
    /// A long message, or one with references.
    Long(Envelope),
}

impl Message<'_> {
    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Message::Short(parts) => parts.iter().map(|part| part.len() as u64).sum(),
            Message::Long(envelope) => envelope.len(),
        }
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Longest [`Message::Short`].
pub const INLINE_MAX: usize = super::chain::INLINE_MAX;

/// What was received.
pub enum Received {
    /// A short message; it was appended to the buffer.
    Short {
        /// What the sender tagged it with.
        tag: u8,
    },
    /// A long message.
    Long {
        /// What the sender tagged it with.
        tag: u8,
        /// The message.
        envelope: Envelope,
    },
    /// Nothing there yet.
    Empty,
}

/// How a wait for something to receive ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// There may be a message.
    Message,
    /// The other side is gone; a message may be left.
    HungUp,
    /// The deadline has passed.
    TimedOut,
    /// The pipe has become a stream.
    Stream,
}

/// Bytes that were on the socket and no bell: descriptors under way, with their byte.
pub struct Parcel {
    /// The byte that carried them.
    pub byte: u8,
    /// The descriptors.
    pub descriptors: Vec<OwnedFd>,
}

/// One side of a pipe, in this process. The socket is its owner's: every call is given it.
pub struct End {
    object: Ref,
    side: u64,
    incoming: &'static Chain,
    outgoing: &'static Chain,
    parcels: Mutex<VecDeque<Parcel>>,
    /// When the other side was last known to live, in ns of [`now_ns`].
    news: AtomicU64,
    closings_seen: AtomicU64,
    /// How long recent waits took, in ns: decides whether spinning is worth it.
    recent_wait_ns: AtomicU64,
}

/// Makes a pipe: two sides, each with its socket.
///
/// # Errors
/// The arena is at its ceiling, or the process has too many descriptors.
pub fn pair() -> Result<[(End, OwnedFd); 2], PipeError> {
    let (first, second) = socket::socket_pair()?;
    let object = family()?.create(Kind::Pipe, layout::BYTES)?;
    let other = object.try_clone()?;
    let first_end = End::over(object, 0)?;
    first_end.incoming.init(0, MAX_UNREAD);
    first_end.outgoing.init(0, MAX_UNREAD);
    Ok([(first_end, first), (End::over(other, 1)?, second)])
}

fn now_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    // Not 0, which means "never".
    1 + START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

impl End {
    fn over(object: Ref, side: u64) -> Result<Self, Error> {
        let chain = |number: u64| {
            object
                .family()
                .at::<Chain>(object.payload() + CHAIN_BYTES * number)
                .ok_or(Error::Foreign("the pipe does not lie in the arena"))
        };
        let side = side & 1;
        Ok(Self {
            incoming: chain(1 - side)?,
            outgoing: chain(side)?,
            side,
            parcels: Mutex::default(),
            news: AtomicU64::new(0),
            closings_seen: AtomicU64::new(0),
            recent_wait_ns: AtomicU64::new(0),
            object,
        })
    }

    /// Side `side` of the pipe that `handle` names.
    ///
    /// # Errors
    /// It is gone.
    pub fn from_handle(handle: Handle, side: u64) -> Result<Self, Error> {
        Self::over(Ref::from_handle(handle, Kind::Pipe)?, side)
    }

    /// The reference, to name the pipe elsewhere.
    pub fn object(&self) -> &Ref {
        &self.object
    }

    /// Which side this is: 0 or 1.
    pub fn side(&self) -> u64 {
        self.side
    }

    fn family(&self) -> &'static Family {
        self.object.family()
    }

    fn word(&self, offset: u64) -> &'static AtomicU64 {
        self.family().word(self.object.payload() + offset)
    }

    /// The bell of what this side receives.
    fn bell_in(&self) -> &'static AtomicU64 {
        self.word(layout::LINES + layout::LINE * (1 - self.side))
    }

    fn bell_out(&self) -> &'static AtomicU64 {
        self.word(layout::LINES + layout::LINE * self.side)
    }

    fn long_in(&self) -> &'static AtomicU64 {
        self.word(layout::LINES + layout::LINE * (1 - self.side) + layout::LONG)
    }

    fn long_out(&self) -> &'static AtomicU64 {
        self.word(layout::LINES + layout::LINE * self.side + layout::LONG)
    }

    /// Held for a few moves only.
    fn parcels(&self) -> MutexGuard<'_, VecDeque<Parcel>> {
        self.parcels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the pipe carries frames on its socket (sticky).
    #[inline]
    pub fn is_stream(&self) -> bool {
        self.word(layout::STREAM).load(Ordering::Acquire) != 0
    }

    // --- sending --------------------------------------------------------------------------

    /// Sends a message, if there is room for it; gives it back otherwise.
    ///
    /// # Errors
    /// `EPIPE` if the other side is gone (a side that is killed may be noticed a tenth of a
    /// millisecond late), [`PipeError::Stream`], or the arena is at its ceiling.
    pub fn try_send<'a>(
        &self,
        socket: BorrowedFd<'_>,
        tag: u8,
        message: Message<'a>,
    ) -> Result<Option<Message<'a>>, PipeError> {
        if self.is_stream() {
            return Err(PipeError::Stream);
        }
        self.check_other_side(socket)?;
        let own = self.object.payload() + CHAIN_BYTES * self.side;
        let ring = || self.ring(socket);
        match message {
            Message::Short(parts) => {
                let put = self.outgoing.put(self.family(), own, tag, parts, ring)?;
                if put == Put::Full {
                    return Ok(Some(Message::Short(parts)));
                }
            }
            Message::Long(envelope) => {
                if !self.has_room_for_long() {
                    return Ok(Some(Message::Long(envelope)));
                }
                let len = envelope.len();
                if let Err(back) =
                    self.outgoing
                        .put_envelope(self.family(), own, tag, 0, envelope, ring)?
                {
                    return Ok(Some(Message::Long(back)));
                }
                crash::point("pipe: long message sent, not accounted for");
                self.long_out().fetch_add(len, Ordering::Relaxed);
            }
        }
        Ok(None)
    }

    /// Whether unread messages leave room for one more.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.outgoing.may_have_room() && self.has_room_for_long()
    }

    fn has_room_for_long(&self) -> bool {
        let fits = self.long_out().load(Ordering::Relaxed) < MAX_UNREAD;
        if !fits && !self.outgoing.may_have_items(self.family()) {
            // What is accounted for was received by somebody who was killed.
            self.long_out().store(0, Ordering::Relaxed);
            return true;
        }
        fits
    }

    /// Fails if nobody is left to receive. Asks the kernel only if the last news is old, or
    /// somebody has closed a socket of this pipe since.
    #[inline]
    fn check_other_side(&self, socket: BorrowedFd<'_>) -> Result<(), PipeError> {
        let closings = self.word(layout::CLOSINGS).load(Ordering::Acquire);
        let now = now_ns();
        let news = self.news.load(Ordering::Relaxed);
        let fresh = news != 0 && now.saturating_sub(news) < NEWS_AGE_NS;
        if fresh && closings == self.closings_seen.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.ask_for_news(socket, closings, now)
    }

    #[cold]
    fn ask_for_news(
        &self,
        socket: BorrowedFd<'_>,
        closings: u64,
        now: u64,
    ) -> Result<(), PipeError> {
        if hung_up(socket)? {
            return Err(io::Error::from_raw_os_error(libc::EPIPE).into());
        }
        self.closings_seen.store(closings, Ordering::Relaxed);
        self.news.store(now, Ordering::Relaxed);
        Ok(())
    }

    /// A message is about to be committed: makes the other side's socket readable, unless it is
    /// already. Holding the producers' mutex.
    #[inline]
    fn ring(&self, socket: BorrowedFd<'_>) -> Result<(), PipeError> {
        match self.bell_out().load(Ordering::Relaxed) {
            word if word & RUNG != 0 => Ok(()),
            word => self.write_bell(socket, word),
        }
    }

    #[cold]
    fn write_bell(&self, socket: BorrowedFd<'_>, word: u64) -> Result<(), PipeError> {
        if self.is_stream() {
            return Err(PipeError::Stream);
        }
        let bell = self.bell_out();
        bell.store(word | UNSURE, Ordering::Relaxed);
        crash::point("pipe: about to ring");
        let sent = loop {
            match socket::send(socket, &[BELL], &[], Wait::Never) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => break sent,
            }
        };
        crash::point("pipe: rung, not noted");
        match sent {
            Ok(_) => bell.store(word | RUNG, Ordering::Relaxed),
            Err(error) => {
                bell.store(word, Ordering::Relaxed);
                // A socket that is full is readable.
                if error.kind() != io::ErrorKind::WouldBlock {
                    return Err(error.into());
                }
            }
        }
        crash::point("pipe: ring noted");
        Ok(())
    }

    /// Waits until there may be room for a message of `len` bytes, for a while; then or after a
    /// signal, try again.
    ///
    /// # Errors
    /// `EPIPE` if the other side is gone.
    pub fn wait_room(&self, socket: BorrowedFd<'_>, len: u64) -> Result<Step<()>, PipeError> {
        let room = || self.outgoing.may_have_room_for(len) && self.has_room_for_long();
        let gate = self.outgoing.space();
        let armed = gate.arm();
        if !room() && gate.sleep(armed, SENDER_SLICE) == Wake::Interrupted {
            return Ok(Step::Interrupted);
        }
        if room() {
            // Several may have waited, and one was woken.
            gate.rearm();
        } else if hung_up(socket)? {
            return Err(io::Error::from_raw_os_error(libc::EPIPE).into());
        }
        Ok(Step::Done(()))
    }

    // --- receiving ------------------------------------------------------------------------

    /// Takes the oldest message, if there is one; a short one is appended to `to`.
    ///
    /// # Errors
    /// No memory for the reference to a long message: it stays.
    #[inline]
    pub fn try_receive(
        &self,
        socket: BorrowedFd<'_>,
        to: &mut Vec<u8>,
    ) -> Result<Received, PipeError> {
        let own = self.object.payload() + CHAIN_BYTES * (1 - self.side);
        let source = Source::part(&self.object, 1 - self.side);
        let note = Note::in_slot(self.family(), source);
        let received = match self.incoming.take(self.family(), own, to, note)? {
            Taken::Empty => return Ok(Received::Empty),
            Taken::Bytes { tag, .. } => Received::Short { tag },
            Taken::Envelope {
                tag,
                envelope: EnvelopeBox(envelope),
                ..
            } => {
                let len = envelope.len();
                let less = |long: u64| Some(long.saturating_sub(len));
                crash::point("pipe: long message received, not accounted for");
                let _ = self
                    .long_in()
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
                crash::point("pipe: long message accounted for");
                // Once more after the account, which the sender looks at, too.
                fence(Ordering::SeqCst);
                self.incoming.space().wake_one();
                Received::Long { tag, envelope }
            }
        };
        if self.bell_in().load(Ordering::Relaxed) & (RUNG | WATCHED) == RUNG | WATCHED {
            self.settle(socket)?;
        }
        Ok(received)
    }

    /// Whether there may be a message; `false` is certain.
    #[inline]
    pub fn has_messages(&self) -> bool {
        self.incoming.may_have_items(self.family())
    }

    /// If there is no message, takes the bell byte off the socket. See the module's description.
    ///
    /// # Errors
    /// The descriptor is no socket any more.
    pub fn settle(&self, socket: BorrowedFd<'_>) -> Result<(), PipeError> {
        if self.bell_in().load(Ordering::SeqCst) & RUNG == 0 || self.has_messages() {
            return Ok(());
        }
        let family = self.family();
        self.incoming
            .with_producers_locked(family, || self.take_bell(socket, false))
    }

    /// If there is no message, takes the bell byte; `all` takes every byte that lies on the socket.
    /// Holding the producers' mutex of what this side receives.
    fn take_bell(&self, socket: BorrowedFd<'_>, all: bool) -> Result<(), PipeError> {
        let bell = self.bell_in();
        let word = bell.load(Ordering::Relaxed);
        let nothing_to_do = !all && word & (RUNG | UNSURE) == 0;
        if nothing_to_do || self.has_messages() {
            return Ok(());
        }
        let all = all || word & UNSURE != 0;
        bell.store(word & WATCHED | UNSURE, Ordering::Relaxed);
        crash::point("pipe: about to take the bell");
        loop {
            // Frames begin with another byte, and are not ours to take.
            let mut first = [0];
            let mut is_bell = || socket::peek(socket, &mut first).is_ok() && first == [BELL];
            if self.is_stream() && !is_bell() {
                break;
            }
            match self.take_byte(socket)? {
                Byte::Bell if all => {}
                Byte::Other => {}
                Byte::Bell | Byte::None | Byte::End => break,
            }
        }
        crash::point("pipe: bell taken, not noted");
        bell.store(word & WATCHED, Ordering::Relaxed);
        crash::point("pipe: settled");
        Ok(())
    }

    /// Takes one byte off the socket, without waiting; keeps it if it is no bell.
    fn take_byte(&self, socket: BorrowedFd<'_>) -> Result<Byte, PipeError> {
        let mut byte = [0];
        loop {
            return match socket::receive(socket, &mut byte, Wait::Never) {
                Ok((0, _)) => Ok(Byte::End),
                Ok((_, descriptors)) if descriptors.is_empty() && byte[0] == BELL => Ok(Byte::Bell),
                Ok((_, descriptors)) => {
                    self.parcels().push_back(Parcel {
                        byte: byte[0],
                        descriptors,
                    });
                    Ok(Byte::Other)
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => continue,
                    io::ErrorKind::WouldBlock => Ok(Byte::None),
                    // The other side closed without reading its bells.
                    io::ErrorKind::ConnectionReset => Ok(Byte::End),
                    _ => Err(error.into()),
                },
            };
        }
    }

    /// The socket is readable and there is no message: takes off what lies there, a bell that a
    /// killed process left or a parcel that nobody has asked for yet.
    fn clear_away(&self, socket: BorrowedFd<'_>) -> Result<(), PipeError> {
        let family = self.family();
        self.incoming
            .with_producers_locked(family, || self.take_bell(socket, true))
    }

    /// Waits until there may be something to receive. A signal ends it with
    /// [`Step::Interrupted`].
    ///
    /// # Errors
    /// The descriptor is no socket any more.
    pub fn wait(
        &self,
        socket: BorrowedFd<'_>,
        deadline: Deadline,
    ) -> Result<Step<Ready>, PipeError> {
        let started = Instant::now();
        if self.spin(started, deadline) {
            return Ok(Step::Done(Ready::Message));
        }
        let ready = self.sleep(socket, deadline)?;
        let took = (started.elapsed().as_nanos() as u64).min(1 << 30);
        let before = self.recent_wait_ns.load(Ordering::Relaxed);
        self.recent_wait_ns
            .store(before - before / 4 + took / 4, Ordering::Relaxed);
        Ok(ready)
    }

    fn spin(&self, started: Instant, deadline: Deadline) -> bool {
        let limit = SPIN_FOR.as_nanos() as u64;
        if self.has_messages() {
            return true;
        }
        if self.is_stream()
            || self.recent_wait_ns.load(Ordering::Relaxed) > limit
            || process::processors() < 2
            || deadline.slice(SPIN_FOR).is_none()
        {
            return false;
        }
        while started.elapsed() < SPIN_FOR {
            for _ in 0..16 {
                if self.has_messages() {
                    return true;
                }
                spin_loop();
            }
        }
        false
    }

    fn sleep(&self, socket: BorrowedFd<'_>, deadline: Deadline) -> Result<Step<Ready>, PipeError> {
        loop {
            if self.has_messages() {
                return Ok(Step::Done(Ready::Message));
            }
            // Before the first frame may lie the bell of the last message.
            self.settle(socket)?;
            if self.is_stream() && !self.has_messages() {
                return Ok(Step::Done(Ready::Stream));
            }
            if self.has_messages() {
                return Ok(Step::Done(Ready::Message));
            }
            let (left, last) = match deadline.slice(SLICE) {
                Some(left) => (left, false),
                None => (Duration::ZERO, true),
            };
            let ready = match socket::poll(socket, Interest::Read, Some(left)) {
                Ok(ready) => ready,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    return Ok(Step::Interrupted);
                }
                Err(error) => return Err(error.into()),
            };
            match ready {
                Some(ready) if ready.invalid => {
                    return Err(io::Error::from_raw_os_error(libc::EBADF).into());
                }
                Some(ready) if ready.hung_up => return Ok(Step::Done(Ready::HungUp)),
                // Back to the top, which finds the message.
                Some(_) if self.has_messages() || self.is_stream() => {}
                Some(_) => self.clear_away(socket)?,
                None if last => return Ok(Step::Done(Ready::TimedOut)),
                // A signal may have come just before the sleep: let the caller look.
                None if left == SLICE => return Ok(Step::Interrupted),
                None => {}
            }
        }
    }

    /// From now on the descriptor itself is readable exactly when there is something to receive.
    ///
    /// # Errors
    /// The descriptor is no socket any more.
    pub fn watch(&self, socket: BorrowedFd<'_>) -> Result<(), PipeError> {
        let bell = self.bell_in();
        if bell.load(Ordering::Relaxed) & WATCHED != 0 {
            return Ok(());
        }
        self.incoming.with_producers_locked(self.family(), || {
            bell.store(bell.load(Ordering::Relaxed) | WATCHED, Ordering::SeqCst);
            crash::point("pipe: watched");
            self.take_bell(socket, false)
        })
    }

    // --- the socket -----------------------------------------------------------------------

    /// After a socket of this side was closed: the other side shall look before it sends on.
    pub fn note_closing(&self) {
        self.word(layout::CLOSINGS).fetch_add(1, Ordering::Release);
        crash::point("pipe: closing noted");
    }

    /// Takes the oldest parcel, waiting for it. `None`: the other side is gone.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn receive_parcel(
        &self,
        socket: BorrowedFd<'_>,
    ) -> Result<Step<Option<Parcel>>, PipeError> {
        loop {
            if let Some(parcel) = self.parcels().pop_front() {
                return Ok(Step::Done(Some(parcel)));
            }
            let family = self.family();
            let byte = self.incoming.with_producers_locked(family, || {
                let byte = self.take_byte(socket)?;
                if let Byte::Bell = byte {
                    // It lay in front of the parcel. Receivers look at the chain, not at the bell.
                    self.bell_in().fetch_and(!RUNG, Ordering::SeqCst);
                }
                Ok::<_, PipeError>(byte)
            });
            match byte? {
                Byte::Other | Byte::Bell => {}
                Byte::End => return Ok(Step::Done(None)),
                Byte::None => match socket::poll(socket, Interest::Read, None) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                        return Ok(Step::Interrupted);
                    }
                    Err(error) => return Err(error.into()),
                },
            }
        }
    }

    /// Turns the pipe into a stream for good, so that this side can go to a process outside of
    /// the family. What this side has sent before is still received by the other one.
    ///
    /// # Errors
    /// [`PipeError::Unread`]: this side has messages to receive, which nobody could read there.
    pub fn turn_into_stream(&self, socket: BorrowedFd<'_>) -> Result<(), PipeError> {
        self.incoming.with_producers_locked(self.family(), || {
            if self.has_messages() {
                return Err(PipeError::Unread);
            }
            self.take_bell(socket, false)?;
            self.word(layout::STREAM).store(1, Ordering::SeqCst);
            crash::point("pipe: turned into a stream");
            Ok(())
        })
    }
}

impl std::fmt::Debug for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("End")
            .field("object", &self.object)
            .field("side", &self.side)
            .finish()
    }
}

/// What lay on the socket.
enum Byte {
    Bell,
    /// It was kept.
    Other,
    None,
    End,
}

fn hung_up(socket: BorrowedFd<'_>) -> io::Result<bool> {
    match socket::poll(socket, Interest::HangUp, Some(Duration::ZERO)) {
        Ok(Some(ready)) if ready.invalid => Err(io::Error::from_raw_os_error(libc::EBADF)),
        Ok(ready) => Ok(ready.is_some_and(|ready| ready.hung_up)),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes the two chains of a doomed pipe apart: whether they are empty now.
pub(crate) fn take_apart(txn: &mut Txn<'_>, payload: u64) -> bool {
    take_chain_apart(txn, payload) && take_chain_apart(txn, payload + CHAIN_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::thread;

    type Sides = [(End, OwnedFd); 2];

    fn send(from: &(End, OwnedFd), bytes: &[u8]) {
        let parts = [bytes];
        let mut message = Message::Short(&parts);
        while let Some(back) = from.0.try_send(from.1.as_fd(), 7, message).unwrap() {
            let _ = from
                .0
                .wait_room(from.1.as_fd(), bytes.len() as u64)
                .unwrap();
            message = back;
        }
    }

    fn receive(at: &(End, OwnedFd)) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        loop {
            match at.0.try_receive(at.1.as_fd(), &mut bytes).unwrap() {
                Received::Short { tag } => {
                    assert_eq!(tag, 7);
                    return Some(bytes);
                }
                Received::Long { envelope, .. } => {
                    envelope.read(0, envelope.len(), &mut bytes);
                    return Some(bytes);
                }
                Received::Empty => {}
            }
            match at.0.wait(at.1.as_fd(), Deadline::NEVER).unwrap() {
                Step::Done(Ready::HungUp) if !at.0.has_messages() => return None,
                _ => {}
            }
        }
    }

    fn bytes_on(socket: &OwnedFd) -> usize {
        socket::peek(socket.as_fd(), &mut [0; 64]).unwrap_or(0)
    }

    fn is_readable(socket: &OwnedFd) -> bool {
        socket::poll(socket.as_fd(), Interest::Read, Some(Duration::ZERO))
            .unwrap()
            .is_some()
    }

    #[test]
    fn both_directions_keep_order() {
        let sides: Sides = pair().unwrap();
        for number in 0..100_u8 {
            send(&sides[0], &[number]);
            send(&sides[1], &[number, number]);
        }
        for number in 0..100 {
            assert_eq!(receive(&sides[1]).unwrap(), [number]);
            assert_eq!(receive(&sides[0]).unwrap(), [number, number]);
        }
    }

    #[test]
    fn many_messages_cost_one_bell() {
        let sides = pair().unwrap();
        for _ in 0..50 {
            send(&sides[0], b"x");
        }
        assert_eq!(bytes_on(&sides[1].1), 1);
        for _ in 0..50 {
            receive(&sides[1]).unwrap();
        }
        sides[1].0.settle(sides[1].1.as_fd()).unwrap();
        assert!(!is_readable(&sides[1].1));
        send(&sides[0], b"x");
        assert!(is_readable(&sides[1].1));
    }

    #[test]
    fn a_watched_socket_is_readable_exactly_when_there_is_a_message() {
        let sides = pair().unwrap();
        send(&sides[0], b"before");
        receive(&sides[1]).unwrap();
        sides[1].0.watch(sides[1].1.as_fd()).unwrap();
        for _ in 0..3 {
            assert!(!is_readable(&sides[1].1));
            send(&sides[0], b"1");
            send(&sides[0], b"2");
            assert!(is_readable(&sides[1].1));
            receive(&sides[1]).unwrap();
            assert!(is_readable(&sides[1].1));
            receive(&sides[1]).unwrap();
        }
        assert_eq!(sides[1].0.bell_in().load(Ordering::SeqCst), WATCHED);
    }

    #[test]
    fn messages_sent_before_the_end_arrive_before_it() {
        let [first, second] = pair().unwrap();
        send(&first, b"last words");
        drop(first);
        assert_eq!(receive(&second).unwrap(), b"last words");
        assert_eq!(receive(&second), None);
        let parts: [&[u8]; 1] = [b"x"];
        let sent = second
            .0
            .try_send(second.1.as_fd(), 7, Message::Short(&parts));
        assert!(
            matches!(sent, Err(PipeError::Os(error)) if error.kind() == io::ErrorKind::BrokenPipe)
        );
    }

    #[test]
    fn a_closing_is_noticed_by_the_next_send() {
        let [first, second] = pair().unwrap();
        send(&second, b"x");
        let (end, socket) = first;
        drop(socket);
        end.note_closing();
        let parts: [&[u8]; 1] = [b"x"];
        assert!(
            second
                .0
                .try_send(second.1.as_fd(), 7, Message::Short(&parts))
                .is_err()
        );
    }

    #[test]
    fn a_full_direction_blocks_its_sender_until_it_is_read() {
        let sides = pair().unwrap();
        let count = 3 * MAX_UNREAD / 1000;
        thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..count {
                    let mut message = [0; 1000];
                    message[..8].copy_from_slice(&number.to_le_bytes());
                    send(&sides[0], &message);
                }
            });
            for number in 0..count {
                assert_eq!(receive(&sides[1]).unwrap()[..8], number.to_le_bytes());
            }
        });
    }

    #[test]
    fn long_messages_are_bounded_by_their_bytes() {
        let sides = pair().unwrap();
        let long =
            || Message::Long(Envelope::new(family().unwrap(), MAX_UNREAD / 2, Vec::new()).unwrap());
        let socket = sides[0].1.as_fd();
        for _ in 0..2 {
            assert!(sides[0].0.try_send(socket, 7, long()).unwrap().is_none());
        }
        assert!(sides[0].0.try_send(socket, 7, long()).unwrap().is_some());
        receive(&sides[1]).unwrap();
        assert!(sides[0].0.try_send(socket, 7, long()).unwrap().is_none());
    }

    #[test]
    fn a_message_above_the_bound_goes_alone() {
        let sides = pair().unwrap();
        let family = family().unwrap();
        let long = Envelope::new(family, 4 * MAX_UNREAD, Vec::new()).unwrap();
        let socket = sides[0].1.as_fd();
        assert!(
            sides[0]
                .0
                .try_send(socket, 7, Message::Long(long))
                .unwrap()
                .is_none()
        );
        assert_eq!(receive(&sides[1]).unwrap().len() as u64, 4 * MAX_UNREAD);
    }

    #[test]
    fn a_sleeper_is_woken_by_message_and_by_hang_up() {
        for hang_up in [false, true] {
            let [first, second] = pair().unwrap();
            thread::scope(|scope| {
                let waiter = scope.spawn(|| receive(&second));
                if hang_up {
                    drop(first);
                    assert_eq!(waiter.join().unwrap(), None);
                } else {
                    send(&first, b"wake");
                    assert_eq!(waiter.join().unwrap().unwrap(), b"wake");
                }
            });
        }
    }

    #[test]
    fn several_receivers_and_senders_lose_nothing_and_leave_the_bell_in_order() {
        let sides = pair().unwrap();
        sides[1].0.watch(sides[1].1.as_fd()).unwrap();
        let each = 5_000_u32;
        let sum = thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for number in 1..=each {
                        send(&sides[0], &number.to_le_bytes());
                    }
                });
            }
            let receivers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        (0..each)
                            .map(|_| {
                                let bytes = receive(&sides[1]).unwrap();
                                u64::from(u32::from_le_bytes(bytes.try_into().unwrap()))
                            })
                            .sum::<u64>()
                    })
                })
                .collect();
            receivers
                .into_iter()
                .map(|receiver| receiver.join().unwrap())
                .sum::<u64>()
        });
        assert_eq!(sum, u64::from(each) * u64::from(each + 1));
        let end = Deadline::after(Some(Duration::ZERO));
        let ready = sides[1].0.wait(sides[1].1.as_fd(), end).unwrap();
        assert_eq!(ready, Step::Done(Ready::TimedOut));
        assert_eq!(sides[1].0.bell_in().load(Ordering::SeqCst), WATCHED);
        assert_eq!(bytes_on(&sides[1].1), 0);
    }

    #[test]
    fn a_bell_that_a_killed_receiver_left_is_cleared_away() {
        let sides = pair().unwrap();
        // Cleared `RUNG` and died before it had taken the byte.
        socket::send(sides[0].1.as_fd(), &[BELL], &[], Wait::Never).unwrap();
        sides[1].0.bell_in().store(UNSURE, Ordering::SeqCst);
        let end = Deadline::after(Some(Duration::from_millis(100)));
        let ready = sides[1].0.wait(sides[1].1.as_fd(), end).unwrap();
        assert_eq!(ready, Step::Done(Ready::TimedOut));
        assert_eq!(bytes_on(&sides[1].1), 0);
        assert_eq!(sides[1].0.bell_in().load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_bell_that_a_killed_sender_left_is_taken_with_the_next_one() {
        for written in [false, true] {
            let sides = pair().unwrap();
            if written {
                socket::send(sides[0].1.as_fd(), &[BELL], &[], Wait::Never).unwrap();
            }
            sides[0].0.bell_out().store(UNSURE, Ordering::SeqCst);
            send(&sides[0], b"next");
            assert!(is_readable(&sides[1].1));
            assert_eq!(receive(&sides[1]).unwrap(), b"next");
            sides[1].0.settle(sides[1].1.as_fd()).unwrap();
            assert!(!is_readable(&sides[1].1));
            assert_eq!(sides[1].0.bell_in().load(Ordering::SeqCst), 0);
        }
    }

    #[test]
    fn descriptors_pass_between_bells() {
        let sides = pair().unwrap();
        let (reading, writing) = socket::pipe().unwrap();
        send(&sides[0], b"m");
        socket::send(sides[0].1.as_fd(), &[1], &[reading.as_fd()], Wait::AsSet).unwrap();
        assert_eq!(receive(&sides[1]).unwrap(), b"m");
        sides[1].0.settle(sides[1].1.as_fd()).unwrap();
        send(&sides[0], b"n");
        let Step::Done(Some(parcel)) = sides[1].0.receive_parcel(sides[1].1.as_fd()).unwrap()
        else {
            panic!("no parcel");
        };
        assert_eq!((parcel.byte, parcel.descriptors.len()), (1, 1));
        assert_eq!(receive(&sides[1]).unwrap(), b"n");
        drop(writing);
    }

    #[test]
    fn a_parcel_does_not_keep_a_waiting_receiver_busy_and_is_not_lost() {
        let sides = pair().unwrap();
        let (reading, _writing) = socket::pipe().unwrap();
        socket::send(sides[0].1.as_fd(), &[1], &[reading.as_fd()], Wait::AsSet).unwrap();
        let end = Deadline::after(Some(Duration::from_millis(20)));
        let ready = sides[1].0.wait(sides[1].1.as_fd(), end).unwrap();
        assert_eq!(ready, Step::Done(Ready::TimedOut));
        let parcel = sides[1].0.receive_parcel(sides[1].1.as_fd()).unwrap();
        assert!(matches!(parcel, Step::Done(Some(parcel)) if parcel.descriptors.len() == 1));
    }

    #[test]
    fn a_pipe_turns_into_a_stream_only_when_its_side_has_read_everything() {
        let sides = pair().unwrap();
        send(&sides[0], b"unread");
        let turned = sides[1].0.turn_into_stream(sides[1].1.as_fd());
        assert!(matches!(turned, Err(PipeError::Unread)));
        receive(&sides[1]).unwrap();
        sides[1].0.turn_into_stream(sides[1].1.as_fd()).unwrap();
        assert!(!is_readable(&sides[1].1));
        let parts: [&[u8]; 1] = [b"x"];
        let sent = sides[0]
            .0
            .try_send(sides[0].1.as_fd(), 7, Message::Short(&parts));
        assert!(matches!(sent, Err(PipeError::Stream)));
        let ready = sides[0]
            .0
            .wait(sides[0].1.as_fd(), Deadline::NEVER)
            .unwrap();
        assert_eq!(ready, Step::Done(Ready::Stream));
    }
}
