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
//! | bit | name      | meaning                                                             |
//! |----:|-----------|---------------------------------------------------------------------|
//! |   0 | `RUNG`    | a bell byte lies in the socket, or its sender is about to write it   |
//! |   1 | `WATCHED` | somebody watches the descriptor itself; sticky                      |
//! |   2 | `WRITING` | a sender is writing the byte: if it was killed, it may be missing    |
//! |   3 | `SURPLUS` | there may be more bytes than `RUNG` says                            |
//!
//! Senders ring holding the producers' mutex of the direction's chain. Receivers take the byte, if
//! there is no message, before they sleep: *settling*. They do so under a mutex of their own.
//!
//! * **Nobody watches.** The sender publishes its message and then rings, so that whoever is woken
//!   finds the message there. A receiver clears `RUNG`, looks for messages once more, and takes the
//!   byte. Sender and receiver wait for each other nowhere. A byte whose sender was slower than its
//!   receiver is one too many: it wakes a receiver for nothing, which takes it off.
//! * **The descriptor is watched**, since its number was asked for. It must be readable exactly when
//!   there is something to receive, for others than us poll it. So the sender rings *before* it
//!   publishes, receivers settle as soon as they have taken the last message, and they hold the
//!   producers' mutex as well:
//!
//!   > Whenever nobody holds the mutexes: if there are messages, there is a bell byte.
//!
//! # If a process dies
//!
//! * A sender before its commit: nothing was sent, but the byte may be there. Whoever settles
//!   takes it.
//! * A sender behind its commit, before the byte (nobody watches): sleepers look again after at most
//!   [`SLICE`]; the next sender finds `RUNG` clear or `WRITING` set and rings; and if it was the
//!   last process of its side, the hang-up wakes them at once. To one who watches the bare
//!   descriptor only later, it is as if that sender had been killed before its commit, until then.
//! * A receiver within settling: a byte more than `RUNG` says, which is found as above.
//! * The last process of a side: the other one hangs up. Messages that it had sent are still
//!   received, then comes the end.
//!
//! Lock order: the receivers' mutex, the producers' mutex, the ledger.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::bell;
use super::brief::Brief;
use super::chain::{
    Announce, CHAIN_BYTES, Chain, EnvelopeBox, Put, Taken, take_apart as take_chain_apart,
};
use super::distance::Distance;
use super::stream::Step;
use crate::crash;
use crate::error::Error;
use crate::os::clock::Deadline;
use crate::os::socket::{Interest, Wait};
use crate::primitive::{AtomicU64, Instant, Ordering, Wake, fence, socket};
use crate::shm::{Envelope, Family, Handle, Kind, Note, Ref, Source, Txn, family};
use crate::sync::{AWAKE_FOR, Acquired, Mutex as SharedMutex, Patience, SLICE};

/// Unread bytes of a direction above which senders wait.
pub const MAX_UNREAD: u64 = 1 << 20;

/// The byte that wakes. Descriptors travel with other bytes.
const BELL: u8 = 0xb5;

/// How old the news may be that the other side is alive, when something is sent to it.
const NEWS_AGE_NS: u64 = 100_000;

/// How long a blocked sender sleeps before it looks whether there is still somebody to read.
const SENDER_SLICE: Duration = Duration::from_millis(50);

/// Offsets in the payload of a pipe, behind the two chains.
///
/// | offset | bytes | field      | written by                 | meaning                                 |
/// |-------:|------:|------------|----------------------------|-----------------------------------------|
/// |      0 |   320 | chain 0    | see `Chain`                | messages from side 0 to side 1          |
/// |    320 |   320 | chain 1    | see `Chain`                | messages from side 1 to side 0          |
/// |    640 |     8 | bell 0     | see above                  | bell of chain 0                         |
/// |    648 |     4 | `TURN` 0   | see [`SharedMutex`]        | receivers of chain 0, settling          |
/// |    656 |     8 | bell 1     | see above                  | bell of chain 1                         |
/// |    664 |     4 | `TURN` 1   | see [`SharedMutex`]        | receivers of chain 1, settling          |
/// |    672 |     8 | `CLOSINGS` | whoever closes a socket    | grows: look whether the other side lives |
/// |    680 |     8 | `STREAM`   | anybody, once              | 1: frames on the socket from now on     |
mod layout {
    pub const BELLS: u64 = 640;
    pub const BELL: u64 = 16;
    pub const TURN: u64 = 8;
    pub const CLOSINGS: u64 = 672;
    pub const STREAM: u64 = 680;
    pub const BYTES: u64 = 688;
}
const _: () = assert!(2 * CHAIN_BYTES == layout::BELLS);

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
    /// Of what this side receives.
    turn: &'static SharedMutex,
    outgoing: &'static Chain,
    parcels: Mutex<VecDeque<Parcel>>,
    /// When the other side was last known to live, in ns of [`now_ns`].
    news: AtomicU64,
    closings_seen: AtomicU64,
    patience: Patience,
    distance: Distance,
    /// Whether sleepers wait for the bell and the end alone.
    soundly: AtomicBool,
}

/// Makes a pipe: two sides, each with its socket.
///
/// # Errors
/// The arena is at its ceiling, or the process has too many descriptors.
pub fn pair() -> Result<[(End, OwnedFd); 2], PipeError> {
    let (first, second) = socket::socket_pair()?;
    let end = create()?;
    let other = end.object.try_clone()?;
    Ok([(end, first), (End::over(other, 1)?, second)])
}

/// Side 0 of a new pipe for two sockets that are there already, connected to each other. Whoever has
/// the other one takes side 1 by [`End::from_handle`].
///
/// # Errors
/// The arena is at its ceiling.
pub fn create() -> Result<End, Error> {
    let end = End::over(family()?.create(Kind::Pipe, layout::BYTES)?, 0)?;
    end.incoming.init(0, MAX_UNREAD);
    end.outgoing.init(0, MAX_UNREAD);
    Ok(end)
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
        let turn = layout::BELLS + layout::BELL * (1 - side) + layout::TURN;
        Ok(Self {
            incoming: chain(1 - side)?,
            turn: object
                .family()
                .at(object.payload() + turn)
                .ok_or(Error::Foreign("the pipe does not lie in the arena"))?,
            outgoing: chain(side)?,
            side,
            parcels: Mutex::default(),
            news: AtomicU64::new(0),
            closings_seen: AtomicU64::new(0),
            patience: Patience::new(),
            distance: Distance::new(),
            soundly: AtomicBool::new(false),
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
        self.word(layout::BELLS + layout::BELL * (1 - self.side))
    }

    fn bell_out(&self) -> &'static AtomicU64 {
        self.word(layout::BELLS + layout::BELL * self.side)
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
        let bell = Bell { end: self, socket };
        match message {
            Message::Short(parts) => {
                let put = self.outgoing.put(self.family(), own, tag, parts, &bell)?;
                if put == Put::Full {
                    return Ok(Some(Message::Short(parts)));
                }
            }
            Message::Long(envelope) => {
                if let Err(back) =
                    self.outgoing
                        .put_envelope(self.family(), own, tag, 0, envelope, &bell)?
                {
                    return Ok(Some(Message::Long(back)));
                }
            }
        }
        Ok(None)
    }

    /// Sends a brief message. False, and nothing was sent: there is no room, or it is a stream.
    ///
    /// # Errors
    /// As for [`End::try_send`].
    #[inline]
    pub fn try_send_brief(
        &self,
        socket: BorrowedFd<'_>,
        tag: u8,
        message: &Brief,
    ) -> Result<bool, PipeError> {
        if self.is_stream() {
            return Ok(false);
        }
        self.check_other_side(socket)?;
        let own = self.object.payload() + CHAIN_BYTES * self.side;
        let bell = Bell { end: self, socket };
        match self
            .outgoing
            .put_brief(self.family(), own, tag, message, &bell)
        {
            Ok(put) => Ok(put != Put::Full),
            // It has become one before the message was published.
            Err(PipeError::Stream) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether unread messages leave room for one more.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.outgoing.may_have_room()
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

    /// Waits until there may be room for a message of `len` bytes, for a while; then or after a
    /// signal, try again.
    ///
    /// # Errors
    /// `EPIPE` if the other side is gone.
    pub fn wait_room(&self, socket: BorrowedFd<'_>, len: u64) -> Result<Step<()>, PipeError> {
        let room = || self.outgoing.may_have_room_for(len);
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
            } => Received::Long { tag, envelope },
        };
        if bell::is_watched(self.bell_in()) {
            self.settle(socket)?;
        }
        Ok(received)
    }

    /// Takes the oldest message if there is one and it is a brief one: its tag.
    ///
    /// # Errors
    /// The descriptor is no socket any more.
    #[inline]
    pub fn try_receive_brief(
        &self,
        socket: BorrowedFd<'_>,
        message: &mut Brief,
    ) -> Result<Option<u8>, PipeError> {
        let own = self.object.payload() + CHAIN_BYTES * (1 - self.side);
        let source = Source::part(&self.object, 1 - self.side);
        let note = Note::in_slot(self.family(), source);
        let taken = self
            .incoming
            .take_brief(self.family(), own, note, message, |_, _| true);
        if taken.is_some() && bell::is_watched(self.bell_in()) {
            self.settle(socket)?;
        }
        Ok(taken)
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
        if !bell::is_rung(self.bell_in()) || self.has_messages() {
            return Ok(());
        }
        self.take_bell(socket, false)
    }

    /// If there is no message, takes the bell byte; also if `RUNG` is not set, should the socket
    /// have been `found` readable.
    fn take_bell(&self, socket: BorrowedFd<'_>, found: bool) -> Result<(), PipeError> {
        let bell = self.bell_in();
        let has_messages = || self.has_messages();
        self.in_turn(|watched| {
            if watched {
                bell::silence(bell, found, has_messages, |all| {
                    self.take_bytes(socket, all)
                })
            } else {
                bell::hush(bell, found, has_messages, || self.take_bytes(socket, false))
            }
        })
    }

    /// Does something with the bell of what this side receives, which no other receiver touches
    /// meanwhile, nor a sender if it is watched. `work` is told whether it is.
    fn in_turn<T>(&self, work: impl FnOnce(bool) -> T) -> T {
        let family = self.family();
        // What a receiver that was killed in here left is a byte too many, or none.
        let (Acquired::Clean | Acquired::OwnerDied) = self.turn.lock(family);
        let done = if bell::is_watched(self.bell_in()) {
            self.incoming.with_producers_locked(family, || work(true))
        } else {
            work(false)
        };
        self.turn.unlock();
        done
    }

    /// As [`End::in_turn`], with the senders kept out in any case.
    fn in_turn_alone<T>(&self, work: impl FnOnce() -> T) -> T {
        let family = self.family();
        let (Acquired::Clean | Acquired::OwnerDied) = self.turn.lock(family);
        let done = self.incoming.with_producers_locked(family, work);
        self.turn.unlock();
        done
    }

    /// Takes one bell byte off the socket, if there is one, or all; keeps what else lies there.
    fn take_bytes(&self, socket: BorrowedFd<'_>, all: bool) -> Result<(), PipeError> {
        loop {
            // Frames begin with another byte, and are not ours to take.
            if self.is_stream() && !starts_with_bell(socket) {
                return Ok(());
            }
            match self.take_byte(socket)? {
                Byte::Bell if all => {}
                Byte::Other => {}
                Byte::Bell | Byte::None | Byte::End => return Ok(()),
            }
        }
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

    /// Has those who wait at this end sleep without a look every [`SLICE`]: one that waits for long
    /// costs nothing at all. For an end whose other side is one process, so that nobody is left who
    /// would want an answer if it is killed behind its commit, and where no signal handlers run.
    pub fn sleep_soundly(&self) {
        self.soundly.store(true, Ordering::Relaxed);
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
        // A look without a wait, and one at a stream, are not for the messages to come.
        let waits = deadline.slice(AWAKE_FOR).is_some() && !self.is_stream();
        if waits && self.patience.outlasts(|| self.has_messages()) {
            self.distance.keep(|| self.incoming.waiting());
            return Ok(Step::Done(Ready::Message));
        }
        self.sleep(socket, deadline)
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
            let limit = if left == SLICE && self.soundly.load(Ordering::Relaxed) {
                None
            } else {
                Some(left)
            };
            let ready = match socket::poll(socket, Interest::Read, limit) {
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
                // A bell too many, or a parcel that nobody has asked for yet.
                Some(_) => self.take_bell(socket, true)?,
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
        if bell::is_watched(bell) {
            return Ok(());
        }
        self.in_turn_alone(|| {
            bell::watch(
                bell,
                || starts_with_bell(socket),
                || self.has_messages(),
                |all| self.take_bytes(socket, all),
            )
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
            let byte = self.in_turn(|_| {
                let byte = self.take_byte(socket)?;
                if let Byte::Bell = byte {
                    // It lay in front of the parcel. Receivers look at the chain, not at the bell.
                    bell::lost(self.bell_in());
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
        self.in_turn_alone(|| {
            if self.has_messages() {
                return Err(PipeError::Unread);
            }
            bell::silence(
                self.bell_in(),
                true,
                || false,
                |all| self.take_bytes(socket, all),
            )?;
            self.word(layout::STREAM).store(1, Ordering::SeqCst);
            crash::point("pipe: turned into a stream");
            Ok(())
        })
    }
}

/// The bell of what `end` sends.
struct Bell<'a> {
    end: &'a End,
    socket: BorrowedFd<'a>,
}

impl Bell<'_> {
    fn ring(&self) -> Result<(), PipeError> {
        bell::ring(self.end.bell_out(), || {
            loop {
                return match socket::send(self.socket, &[BELL], &[], Wait::Never) {
                    Ok(_) => Ok(true),
                    Err(error) => match error.kind() {
                        io::ErrorKind::Interrupted => continue,
                        // A socket that is full is readable.
                        io::ErrorKind::WouldBlock => Ok(false),
                        _ => Err(error.into()),
                    },
                };
            }
        })
    }
}

impl Announce<PipeError> for Bell<'_> {
    #[inline]
    fn before(&self) -> Result<(), PipeError> {
        if self.end.is_stream() {
            return Err(PipeError::Stream);
        }
        if bell::is_watched(self.end.bell_out()) {
            self.ring()?;
        }
        Ok(())
    }

    #[inline]
    fn after(&self) -> Result<(), PipeError> {
        // [bell-hush] We publish and look at the bell, a receiver clears it and looks for messages.
        fence(Ordering::SeqCst);
        self.ring()
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

/// Whether a bell is the first that lies on the socket. A parcel is not touched before somebody asks
/// for it: its descriptors would take numbers at a moment when nobody expects it.
fn starts_with_bell(socket: BorrowedFd<'_>) -> bool {
    let mut first = [0];
    socket::peek(socket, &mut first).is_ok() && first == [BELL]
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
        assert_eq!(sides[1].0.bell_in().load(Ordering::SeqCst), bell::WATCHED);
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
        let long = || {
            Message::Long(
                Envelope::new(family().unwrap(), MAX_UNREAD / 2 - 64, Vec::new()).unwrap(),
            )
        };
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
        assert_eq!(sides[1].0.bell_in().load(Ordering::SeqCst), bell::WATCHED);
        assert_eq!(bytes_on(&sides[1].1), 0);
    }

    #[test]
    fn a_bell_that_a_killed_receiver_left_is_cleared_away() {
        let sides = pair().unwrap();
        // Cleared `RUNG` and died before it had taken the byte.
        socket::send(sides[0].1.as_fd(), &[BELL], &[], Wait::Never).unwrap();
        let end = Deadline::after(Some(Duration::from_millis(100)));
        let ready = sides[1].0.wait(sides[1].1.as_fd(), end).unwrap();
        assert_eq!(ready, Step::Done(Ready::TimedOut));
        assert_eq!(bytes_on(&sides[1].1), 0);
        assert_eq!(sides[1].0.bell_in().load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_bell_that_a_killed_sender_left_is_taken_with_the_next_one() {
        for (written, watched) in [(false, false), (true, false), (false, true), (true, true)] {
            let sides = pair().unwrap();
            if watched {
                sides[1].0.watch(sides[1].1.as_fd()).unwrap();
            }
            if written {
                socket::send(sides[0].1.as_fd(), &[BELL], &[], Wait::Never).unwrap();
            }
            let left = bell::RUNG | bell::WRITING;
            sides[0].0.bell_out().fetch_or(left, Ordering::SeqCst);
            send(&sides[0], b"next");
            assert!(is_readable(&sides[1].1));
            assert_eq!(receive(&sides[1]).unwrap(), b"next");
            if !watched {
                // One byte too many is found as the receiver is about to sleep.
                let end = Deadline::after(Some(Duration::from_millis(10)));
                let ready = sides[1].0.wait(sides[1].1.as_fd(), end).unwrap();
                assert_eq!(ready, Step::Done(Ready::TimedOut));
            }
            assert!(!is_readable(&sides[1].1));
            send(&sides[0], b"and on");
            assert_eq!(bytes_on(&sides[1].1), 1);
            assert_eq!(receive(&sides[1]).unwrap(), b"and on");
        }
    }

    #[test]
    fn a_sender_that_was_slower_than_its_receiver_leaves_nothing() {
        let sides = pair().unwrap();
        // It had claimed the bell, and its message was taken: now the receiver settles...
        let bell = sides[0].0.bell_out();
        bell.store(bell::RUNG | bell::WRITING, Ordering::SeqCst);
        sides[1].0.settle(sides[1].1.as_fd()).unwrap();
        // ... and the sender goes on.
        socket::send(sides[0].1.as_fd(), &[BELL], &[], Wait::Never).unwrap();
        bell.fetch_and(!bell::WRITING, Ordering::SeqCst);
        let end = Deadline::after(Some(Duration::from_millis(10)));
        let ready = sides[1].0.wait(sides[1].1.as_fd(), end).unwrap();
        assert_eq!(ready, Step::Done(Ready::TimedOut));
        assert_eq!(bytes_on(&sides[1].1), 0);
        assert_eq!(bell.load(Ordering::SeqCst), 0);
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
    fn to_watch_does_not_open_a_parcel() {
        let sides = pair().unwrap();
        let (reading, _writing) = socket::pipe().unwrap();
        socket::send(sides[0].1.as_fd(), &[1], &[reading.as_fd()], Wait::AsSet).unwrap();
        sides[1].0.watch(sides[1].1.as_fd()).unwrap();
        assert!(sides[1].0.parcels().is_empty());
        assert_eq!(bytes_on(&sides[1].1), 1);
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
