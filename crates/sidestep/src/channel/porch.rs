//! The porch of a listener: where callers stand until they have proved who they are.
//!
//! All of them are served at once by whoever waits in [`Porch::wait`], without threads, so that
//! one who says nothing keeps nobody else out. A caller is let in when its [`Handshake`] is done,
//! turned away when it has another key, and dropped when it sends what no honest caller sends,
//! takes too long, or leaves. When the porch is full, the one that has been silent for longest
//! has to go. When there is no descriptor for one more ([`Porch::shut`]), callers wait in the street
//! until somebody is gone, and only who has had a good share of its time has to make room. A caller
//! costs some hundred bytes here, whatever it announces.
//!
//! The time that a caller has counts only while somebody waits here: a program that is busy
//! between two calls does not lose those who came meanwhile.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::channel::handshake::{Handshake, Refusal};
use crate::channel::stream::Step;
use crate::os::clock::Deadline;
use crate::os::socket::{self, Interest, Wait};

/// Most bytes that are taken from a caller whose handshake is not done (those of TLS with long
/// chains of certificates come to some ten thousand).
const BYTES_MAX: usize = 256 << 10;

/// Most bytes that are read at once through a [`Veil`].
const PIECE: usize = 16 << 10;

/// What a [`Veil`] makes of bytes.
#[derive(Debug, Default)]
pub struct Unveiled {
    /// Plain bytes from the peer, at most as many as were wanted.
    pub plain: Vec<u8>,
    /// Bytes to be sent to the peer as they are.
    pub wire: Vec<u8>,
    /// Whether plain bytes can pass: the veil's own handshake is done.
    pub open: bool,
    /// Why nothing can pass any more, as a clause of its own.
    pub fault: Option<String>,
}

/// What lies between a socket and its plain bytes: TLS.
pub trait Veil: Send {
    /// Takes bytes that came from the socket, and plain bytes that are to be sent, and returns
    /// what comes out on either side. Plain bytes that cannot leave yet are kept for later.
    fn pass(&mut self, wire: &[u8], plain: &[u8], wants: usize) -> Unveiled;
}

/// What has happened on the porch.
#[derive(Debug)]
pub enum Event {
    /// Somebody has knocked: the listening socket has a caller for [`Porch::add`].
    Knock,
    /// This caller knows the key.
    Admitted(u64, OwnedFd),
    /// This caller speaks the protocol, and has not got the key.
    Refused(u64, String),
    /// This caller was dropped, for the reason given: a clause of its own, "it left".
    Dropped(u64, String),
    /// The time is over.
    TimedOut,
}

/// Why a caller has to go.
enum Fault {
    Refusal(Refusal),
    Other(String),
}

struct Caller {
    id: u64,
    socket: OwnedFd,
    handshake: Handshake,
    veil: Option<Box<dyn Veil>>,
    open: bool,
    unsent: Vec<u8>,
    heard: usize,
    until: Instant,
}

impl Caller {
    /// Goes on as far as it can without waiting; whether it may come in.
    fn advance(&mut self) -> Result<bool, Fault> {
        // With a veil, what it holds is looked at first: one piece from the socket may bring
        // several parts of the handshake.
        let mut piece = Vec::new();
        loop {
            if let Some(veil) = &mut self.veil {
                let plain = self.handshake.take_outgoing();
                let passed = veil.pass(&piece, &plain, self.handshake.wants());
                piece.clear();
                self.open = passed.open;
                self.unsent.extend_from_slice(&passed.wire);
                if let Some(fault) = passed.fault {
                    return Err(Fault::Other(fault));
                }
                if !passed.plain.is_empty() {
                    self.hear(&passed.plain)?;
                    continue;
                }
            } else {
                self.unsent.extend(self.handshake.take_outgoing());
            }
            if !self.flush().map_err(left)? {
                return Ok(false);
            }
            if self.open && self.handshake.is_done() {
                return Ok(true);
            }
            let limit = match self.veil {
                Some(_) => PIECE,
                None => self.handshake.wants(),
            };
            piece.resize(limit, 0);
            match socket::receive(self.socket.as_fd(), &mut piece, Wait::Never) {
                Ok((0, _)) => return Err(Fault::Other("it left within the handshake".to_owned())),
                Ok((count, _)) => {
                    self.heard += count;
                    if self.heard > BYTES_MAX {
                        return Err(Fault::Other(format!(
                            "it sent {} bytes without an end of the handshake",
                            self.heard
                        )));
                    }
                    piece.truncate(count);
                    if self.veil.is_none() {
                        self.hear(&piece)?;
                        piece.clear();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => piece.clear(),
                Err(error) => return Err(left(error)),
            }
        }
    }

    fn hear(&mut self, plain: &[u8]) -> Result<(), Fault> {
        self.handshake.feed(plain).map_err(Fault::Refusal)
    }

    /// Sends what there is; whether all of it is out.
    fn flush(&mut self) -> io::Result<bool> {
        while !self.unsent.is_empty() {
            match socket::send(self.socket.as_fd(), &self.unsent, &[], Wait::Never) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Tells the caller what it can be told, if it takes it at once.
    fn say_goodbye(&mut self) {
        let plain = self.handshake.take_outgoing();
        match &mut self.veil {
            Some(veil) if self.open => self.unsent.extend(veil.pass(&[], &plain, 0).wire),
            Some(_) => {}
            None => self.unsent.extend(plain),
        }
        // Whether it arrives is the caller's concern.
        let _ = self.flush();
    }

    fn was_slow(&self, patience: Duration) -> Fault {
        // Without TLS it is the listener that speaks first: both wait for each other.
        let hint = match self.veil {
            Some(_) if self.heard == 0 => ", and sent nothing: is it a client without tls=?",
            _ => "",
        };
        Fault::Other(format!(
            "it did not complete the handshake within {} seconds{hint}",
            patience.as_secs_f64()
        ))
    }

    fn interest(&self) -> Interest {
        if self.unsent.is_empty() {
            Interest::Read
        } else {
            Interest::Write
        }
    }
}

fn left(error: io::Error) -> Fault {
    Fault::Other(format!("it was lost within the handshake: {error}"))
}

/// How long nobody has to make room: a crowd of honest callers, each of which is served in an
/// instant if the others let it, needs no more, and a crowd of silent ones gains nothing by it.
const UNDISTURBED: Duration = Duration::from_millis(250);

/// Where there is no descriptor for one more, nobody has to make room before this part of its time
/// is over. Longer than with a full porch, whose room is a number that we have chosen: all who
/// stand here may be honest, and slowed down by the same crowd.
const SHARE: u32 = 10;

/// How long a door stays shut if nobody leaves the porch: descriptors are given back elsewhere, too.
const SHUT: Duration = Duration::from_millis(20);

/// Callers of one listener that have not proved who they are.
pub struct Porch {
    key: Option<Arc<[u8]>>,
    patience: Duration,
    room: usize,
    callers: Vec<Caller>,
    /// Since when nobody waits here.
    deserted: Instant,
    /// Until when the door is shut, if it is.
    shut: Option<Instant>,
    /// Who was dropped, or came in, since the last event.
    events: Vec<Event>,
}

impl Porch {
    /// A porch for callers that have to know `key`, if any; each has `patience` for its
    /// handshake, and there is room for `room` of them.
    #[must_use]
    pub fn new(key: Option<&[u8]>, patience: Duration, room: usize) -> Self {
        Self {
            key: key.map(Into::into),
            patience,
            room: room.max(1),
            callers: Vec::new(),
            deserted: Instant::now(),
            shut: None,
            events: Vec::new(),
        }
    }

    /// Takes a caller in, under a number that its events will have. It is challenged at once.
    ///
    /// # Errors
    /// No randomness, which closes the socket.
    pub fn add(&mut self, id: u64, socket: OwnedFd, veil: Option<Box<dyn Veil>>) -> io::Result<()> {
        let handshake = Handshake::new(self.key.clone()).map_err(io::Error::other)?;
        while self.callers.len() >= self.room {
            self.evict("it had to make room for others");
        }
        let mut caller = Caller {
            id,
            socket,
            handshake,
            open: veil.is_none(),
            veil,
            unsent: Vec::new(),
            heard: 0,
            until: Instant::now() + self.patience,
        };
        let outcome = caller.advance();
        self.settle(caller, outcome);
        Ok(())
    }

    /// Says that whoever has knocked could not be taken in, for a reason that somebody's end may
    /// remove: no descriptor is left. False if nobody stands here.
    ///
    /// If one of the callers has had a good share of its time it is dropped, and
    /// [`Self::wait`] will report it; else there is no [`Event::Knock`] until one has gone, or for
    /// a moment.
    pub fn shut(&mut self, why: &str) -> bool {
        if self.callers.is_empty() {
            return false;
        }
        let old = |caller: &Caller| {
            let left = caller.until.saturating_duration_since(Instant::now());
            self.patience.saturating_sub(left) >= self.patience / SHARE
        };
        let mut callers = self.callers.iter();
        let silent = callers.position(|caller| caller.heard == 0 && old(caller));
        match silent.or_else(|| self.callers.iter().position(old)) {
            Some(next) => self.drop_caller(next, why),
            None => self.shut = Some(Instant::now() + SHUT),
        }
        true
    }

    /// Drops the caller that has been silent for longest, else the one that has been here for
    /// longest, if there is one.
    fn evict(&mut self, why: &str) {
        if let Some(next) = self.next_to_go() {
            self.drop_caller(next, why);
        }
    }

    fn drop_caller(&mut self, index: usize, why: &str) {
        let caller = self.callers.remove(index);
        self.shut = None;
        self.events.push(Event::Dropped(caller.id, why.to_owned()));
    }

    fn next_to_go(&self) -> Option<usize> {
        let silent = self.callers.iter().position(|caller| caller.heard == 0);
        silent.or((!self.callers.is_empty()).then_some(0))
    }

    /// Takes an event back that could not be dealt with: the next wait returns it.
    pub fn put_back(&mut self, event: Event) {
        self.events.insert(0, event);
    }

    /// How many callers stand here.
    #[must_use]
    pub fn len(&self) -> usize {
        self.callers.len()
    }

    /// Whether nobody stands here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.callers.is_empty()
    }

    /// Serves the callers until something has happened, or `deadline` has passed.
    ///
    /// # Errors
    /// The kernel's, of which `EBADF` says that the listening socket is closed.
    pub fn wait(&mut self, door: BorrowedFd<'_>, deadline: Deadline) -> io::Result<Step<Event>> {
        let absent = self.deserted.elapsed();
        for caller in &mut self.callers {
            caller.until += absent;
        }
        let outcome = self.serve(door, deadline);
        self.deserted = Instant::now();
        outcome
    }

    fn serve(&mut self, door: BorrowedFd<'_>, deadline: Deadline) -> io::Result<Step<Event>> {
        loop {
            if !self.events.is_empty() {
                return Ok(Step::Done(self.events.remove(0)));
            }
            let now = Instant::now();
            let patience = self.callers.iter().map(|caller| caller.until).min();
            let patience = patience.map(|until| until.saturating_duration_since(now));
            let closed = self.closed_for(now);
            let timeout = [deadline.left(), patience, closed]
                .into_iter()
                .flatten()
                .min();
            // With nobody to be let in the door is watched for its end only.
            let knocks = closed.map_or(Interest::Read, |_| Interest::HangUp);
            let watched: Vec<_> = std::iter::once((door, knocks))
                .chain(
                    self.callers
                        .iter()
                        .map(|caller| (caller.socket.as_fd(), caller.interest())),
                )
                .collect();
            let ready = match socket::poll_all(&watched, timeout) {
                Ok(ready) => ready,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    return Ok(Step::Interrupted);
                }
                Err(error) => return Err(error),
            };
            if ready[0].invalid {
                return Err(io::Error::from_raw_os_error(libc::EBADF));
            }
            // First those who are here, so that a crowd at the door does not keep them.
            let now = Instant::now();
            let callers = std::mem::take(&mut self.callers);
            for (mut caller, ready) in callers.into_iter().zip(&ready[1..]) {
                let outcome = if *ready != socket::Readiness::default() {
                    caller.advance()
                } else if caller.until <= now {
                    Err(caller.was_slow(self.patience))
                } else {
                    Ok(false)
                };
                self.settle(caller, outcome);
            }
            if self.events.is_empty() {
                if ready[0].readable {
                    return Ok(Step::Done(Event::Knock));
                }
                if deadline.left().is_some_and(|left| left.is_zero()) {
                    return Ok(Step::Done(Event::TimedOut));
                }
            }
        }
    }

    /// How long nobody can be let in; none if somebody can.
    fn closed_for(&self, now: Instant) -> Option<Duration> {
        let shut = self.shut.map(|until| until.saturating_duration_since(now));
        self.full_for(now).max(shut.filter(|left| !left.is_zero()))
    }

    /// How long it takes until somebody has to make room; none if there is some, or if it is time.
    fn full_for(&self, now: Instant) -> Option<Duration> {
        if self.callers.len() < self.room {
            return None;
        }
        let first = &self.callers[self.next_to_go()?];
        let came = first.until.checked_sub(self.patience)?;
        let left = (came + UNDISTURBED).saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    fn settle(&mut self, mut caller: Caller, outcome: Result<bool, Fault>) {
        self.events.push(match outcome {
            Ok(false) => return self.callers.push(caller),
            Ok(true) => Event::Admitted(caller.id, caller.socket),
            Err(fault) => {
                caller.say_goodbye();
                self.shut = None;
                match fault {
                    Fault::Refusal(refusal) if refusal.is_about_the_key() => {
                        Event::Refused(caller.id, refusal.to_string())
                    }
                    Fault::Refusal(refusal) => Event::Dropped(caller.id, refusal.to_string()),
                    Fault::Other(why) => Event::Dropped(caller.id, why),
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::handshake::{answer, verify};
    use crate::channel::stream::{recv_frame, send_frame};
    use std::io::IoSlice;

    const KEY: &[u8] = b"the key";
    const LONG: Duration = Duration::from_secs(100);

    fn porch(patience: Duration, room: usize) -> Porch {
        Porch::new(Some(KEY), patience, room)
    }

    /// A listening socket that nobody knocks at.
    fn door() -> (OwnedFd, OwnedFd) {
        socket::socket_pair().unwrap()
    }

    fn event(porch: &mut Porch, door: &OwnedFd) -> Event {
        loop {
            if let Step::Done(event) = porch.wait(door.as_fd(), Deadline::NEVER).unwrap() {
                return event;
            }
        }
    }

    fn nothing(porch: &mut Porch, door: &OwnedFd) {
        let now = Deadline::after(Some(Duration::ZERO));
        assert!(matches!(
            porch.wait(door.as_fd(), now).unwrap(),
            Step::Done(Event::TimedOut)
        ));
    }

    fn raw(socket: &OwnedFd, bytes: &[u8]) {
        socket::write_pieces(socket.as_fd(), &[IoSlice::new(bytes)]).unwrap();
    }

    /// The calling side, each step when the porch has had its turn.
    fn greet(porch: &mut Porch, door: &OwnedFd, socket: &OwnedFd, key: &[u8]) {
        let challenge = recv_frame(socket.as_fd(), None).unwrap();
        send_frame(socket.as_fd(), &answer(key, &challenge).unwrap()).unwrap();
        let turn = Deadline::after(Some(Duration::ZERO));
        let _ = porch.wait(door.as_fd(), turn).map(|step| {
            if let Step::Done(event @ Event::Refused(..)) = step {
                porch.events.push(event);
            }
        });
        if recv_frame(socket.as_fd(), None).unwrap() != b"#WELCOME#" {
            return;
        }
        let message = [b"{sha256}", &[3; 40][..]].concat();
        send_frame(socket.as_fd(), &[b"#CHALLENGE#", &message[..]].concat()).unwrap();
        nothing(porch, door);
        verify(key, &message, &recv_frame(socket.as_fd(), None).unwrap()).unwrap();
        send_frame(socket.as_fd(), b"#WELCOME#").unwrap();
        send_frame(socket.as_fd(), b"first message").unwrap();
    }

    #[test]
    fn a_caller_with_the_key_comes_in_past_silent_ones() {
        let (door, _street) = door();
        let mut porch = porch(LONG, 10);
        let mut silent = Vec::new();
        for id in 0..5 {
            let (here, there) = socket::socket_pair().unwrap();
            porch.add(id, here, None).unwrap();
            silent.push(there);
        }
        let (here, there) = socket::socket_pair().unwrap();
        porch.add(5, here, None).unwrap();
        greet(&mut porch, &door, &there, KEY);
        let Event::Admitted(admitted, socket) = event(&mut porch, &door) else {
            panic!("not admitted");
        };
        assert_eq!(admitted, 5);
        // Nothing behind the handshake was taken.
        assert_eq!(recv_frame(socket.as_fd(), None).unwrap(), b"first message");
        assert_eq!(porch.len(), 5);
    }

    #[test]
    fn a_caller_with_another_key_is_refused_and_told() {
        let (door, _street) = door();
        let mut porch = porch(LONG, 10);
        let (here, there) = socket::socket_pair().unwrap();
        porch.add(1, here, None).unwrap();
        greet(&mut porch, &door, &there, b"another");
        assert!(matches!(event(&mut porch, &door), Event::Refused(1, why)
            if why == "digest received was wrong"));
        assert!(porch.is_empty());
    }

    #[test]
    fn noise_is_dropped() {
        let noise: [&[u8]; 4] = [
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x7f\xff\xff\xff",
            b"\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff",
            b"\0\0\0\x05hello",
        ];
        let (door, _street) = door();
        let mut porch = porch(LONG, 10);
        for (index, bytes) in noise.into_iter().enumerate() {
            let (here, there) = socket::socket_pair().unwrap();
            porch.add(index as u64, here, None).unwrap();
            raw(&there, bytes);
            let Event::Dropped(id, why) = event(&mut porch, &door) else {
                panic!("not dropped: {bytes:?}");
            };
            assert_eq!(id, index as u64);
            assert!(!why.contains('\n'), "{why}");
        }
        assert!(porch.is_empty());
    }

    #[test]
    fn one_who_leaves_is_dropped() {
        let (door, _street) = door();
        let mut porch = porch(LONG, 10);
        let (here, there) = socket::socket_pair().unwrap();
        porch.add(1, here, None).unwrap();
        raw(&there, b"\0\0");
        drop(there);
        assert!(matches!(event(&mut porch, &door), Event::Dropped(1, _)));
    }

    #[test]
    fn patience_ends_also_for_one_who_sends_a_byte_now_and_then() {
        let (door, _street) = door();
        let mut porch = porch(Duration::from_millis(30), 10);
        let (here, there) = socket::socket_pair().unwrap();
        porch.add(1, here, None).unwrap();
        raw(&there, b"\0");
        assert!(matches!(event(&mut porch, &door), Event::Dropped(1, why)
            if why.contains("0.03 seconds")));
    }

    #[test]
    fn time_counts_only_while_somebody_waits() {
        let (door, _street) = door();
        let mut porch = porch(Duration::from_millis(500), 10);
        let (here, there) = socket::socket_pair().unwrap();
        porch.add(1, here, None).unwrap();
        // As if the program had been busy for a while.
        porch.callers[0].until -= Duration::from_secs(5);
        porch.deserted -= Duration::from_secs(5);
        nothing(&mut porch, &door);
        assert_eq!(porch.len(), 1);
        drop(there);
    }

    #[test]
    fn the_one_who_has_been_silent_for_longest_makes_room() {
        let (door, _street) = door();
        let mut porch = porch(LONG, 3);
        let mut peers = Vec::new();
        for id in 1..=3 {
            let (here, there) = socket::socket_pair().unwrap();
            porch.add(id, here, None).unwrap();
            peers.push(there);
        }
        // The first one has begun to speak.
        raw(&peers[0], b"\0");
        nothing(&mut porch, &door);
        for expected in [2, 3] {
            let (here, there) = socket::socket_pair().unwrap();
            porch.add(expected + 2, here, None).unwrap();
            raw(&there, b"\0");
            peers.push(there);
            assert!(matches!(event(&mut porch, &door), Event::Dropped(id, _) if id == expected));
            nothing(&mut porch, &door);
        }
        porch.evict("all speak: the first one goes");
        assert!(matches!(event(&mut porch, &door), Event::Dropped(1, _)));
    }

    #[test]
    fn a_full_porch_lets_nobody_in_for_a_moment() {
        let (door, street) = door();
        raw(&street, b"knock");
        let mut porch = porch(LONG, 1);
        assert!(matches!(event(&mut porch, &door), Event::Knock));
        let (here, peer) = socket::socket_pair().unwrap();
        porch.add(1, here, None).unwrap();
        nothing(&mut porch, &door);
        porch.callers[0].until -= UNDISTURBED;
        assert!(matches!(event(&mut porch, &door), Event::Knock));
        // And at once if the one who is there leaves.
        porch.callers[0].until += UNDISTURBED;
        drop(peer);
        assert!(matches!(event(&mut porch, &door), Event::Dropped(1, _)));
        assert!(matches!(event(&mut porch, &door), Event::Knock));
    }

    #[test]
    fn without_descriptors_callers_are_spared_for_a_share_of_their_time() {
        let (door, street) = door();
        raw(&street, b"knock");
        let mut porch = porch(LONG, 10);
        assert!(!porch.shut("nobody is here"));
        let mut peers = Vec::new();
        for id in 1..=3 {
            let (here, there) = socket::socket_pair().unwrap();
            porch.add(id, here, None).unwrap();
            peers.push(there);
        }
        // All are young: nobody has to go, and nobody comes in.
        assert!(porch.shut("there is no descriptor"));
        assert_eq!(porch.len(), 3);
        porch.shut = Some(Instant::now() + LONG);
        nothing(&mut porch, &door);
        // One has left, and with it a descriptor.
        drop(peers.remove(0));
        assert!(matches!(event(&mut porch, &door), Event::Dropped(1, _)));
        assert!(matches!(event(&mut porch, &door), Event::Knock));
        // Descriptors may come from elsewhere: it is tried again soon.
        assert!(porch.shut("there is no descriptor"));
        assert!(matches!(event(&mut porch, &door), Event::Knock));
        assert_eq!(porch.len(), 2);
        // One who has been silent for long goes, and not who came before it and has spoken.
        raw(&peers[0], b"\0");
        assert!(matches!(event(&mut porch, &door), Event::Knock));
        for caller in &mut porch.callers {
            caller.until -= LONG / SHARE;
        }
        assert!(porch.shut("it had its time"));
        assert!(matches!(event(&mut porch, &door), Event::Dropped(3, why) if why.contains("time")));
        assert!(porch.shut("it had its time"));
        assert!(matches!(event(&mut porch, &door), Event::Dropped(2, _)));
        assert!(matches!(event(&mut porch, &door), Event::Knock));
    }
}
