//! What is done with bytes from elsewhere, whatever they are: neither a panic nor a wait without
//! end, and nobody comes in who does not know the key.
//!
//! The fuzzer calls these, and so does `crates/sidestep/tests/corpus.rs` with what is kept in
//! `corpus`.

use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sidestep::channel::handshake::{Handshake, answer, respond, verify};
use sidestep::channel::porch::{Event, Porch};
use sidestep::channel::stream::{Step, recv_frame};
use sidestep::channel::{Queue, QueueOptions, pipe};
use sidestep::os::clock::Deadline;
use sidestep::os::socket;
use sidestep::shm::{Handle, Kind, Ref, family};
use sidestep::sync::{
    SharedBarrier, SharedCondition, SharedEvent, SharedLock, SharedSemaphore, Wait,
};

const KEY: &[u8] = b"a key that no corpus knows";

/// More would not fit into a socket whose other side does not read.
const MOST: usize = 60_000;

fn write(to: &OwnedFd, bytes: &[u8]) -> bool {
    bytes.is_empty() || socket::write_pieces(to.as_fd(), &[IoSlice::new(bytes)]).is_ok()
}

/// Frames on a socket whose other side is gone.
pub fn frames(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(MOST)];
    let (near, far) = socket::socket_pair().unwrap();
    assert!(write(&far, bytes));
    drop(far);
    let mut taken = 0;
    // A limit, as listeners have one: memory is asked for only as bytes arrive.
    while let Ok(frame) = recv_frame(near.as_fd(), Some(1 << 20)) {
        taken += 4 + frame.len();
        assert!(taken <= bytes.len());
    }
}

/// Both sides of a handshake. The first byte says which, and how much of it goes well.
pub fn handshake(bytes: &[u8]) {
    let Some((&mode, bytes)) = bytes.split_first() else {
        return;
    };
    // The side that answers.
    let _ = answer(KEY, bytes);
    if let Ok(response) = respond(KEY, bytes) {
        verify(KEY, bytes, &response).unwrap();
        assert!(verify(b"another key", bytes, &response).is_err());
    }
    let (message, claim) = bytes.split_at(bytes.len() / 2);
    assert!(verify(KEY, message, claim).is_err());
    // The side that listens.
    let mut handshake = Handshake::new(Some(Arc::from(KEY))).unwrap();
    let challenge = handshake.take_outgoing();
    if mode & 1 == 1 {
        let response = answer(KEY, &challenge[4..]).unwrap();
        let frame = [&(response.len() as u32).to_be_bytes()[..], &response].concat();
        feed(&mut handshake, &frame).unwrap();
    }
    let complete = feed(&mut handshake, bytes).is_ok() && handshake.is_done();
    // With the right answer to the first challenge, the rest can be guessed.
    assert!(!complete || mode & 1 == 1);
}

/// Feeds bytes as a socket would that is only read as far as is wanted.
fn feed(
    handshake: &mut Handshake,
    mut bytes: &[u8],
) -> Result<(), sidestep::channel::handshake::Refusal> {
    while !bytes.is_empty() && handshake.wants() > 0 {
        assert!(handshake.wants() <= 4 + 256);
        let (now, later) = bytes.split_at(handshake.wants().min(bytes.len()));
        handshake.feed(now)?;
        bytes = later;
    }
    Ok(())
}

/// Three callers on a porch for two, none of whom knows the key.
pub fn porch(bytes: &[u8]) {
    let mut porch = Porch::new(Some(KEY), Duration::from_secs(1000), 2);
    let (door, _knocker) = socket::socket_pair().unwrap();
    let mut callers = Vec::new();
    for id in 0..3 {
        let (near, far) = socket::socket_pair().unwrap();
        porch.add(id, near, None).unwrap();
        callers.push(Some(far));
    }
    // Each piece: to whom (or whose end), how many bytes, and those.
    let mut rest = &bytes[..bytes.len().min(MOST)];
    while let [who, len, after @ ..] = rest {
        let (piece, after) = after.split_at(after.len().min(usize::from(*len)));
        rest = after;
        let caller = &mut callers[usize::from(who % 3)];
        if who & 0x80 != 0 {
            *caller = None;
        } else if let Some(socket) = caller {
            // It may have been dropped.
            let _ = socket::send(socket.as_fd(), piece, &[], socket::Wait::Never);
        }
        serve(&mut porch, &door);
    }
    callers.clear();
    serve(&mut porch, &door);
    assert!(porch.is_empty());
}

fn serve(porch: &mut Porch, door: &OwnedFd) {
    let now = Deadline::after(Some(Duration::ZERO));
    loop {
        match porch.wait(door.as_fd(), now).unwrap() {
            Step::Done(Event::TimedOut | Event::Knock) => return,
            Step::Done(Event::Admitted(..)) => panic!("somebody came in without the key"),
            _ => {}
        }
    }
}

/// Names of objects, as messages carry them: a kind, where it is to lie, and a generation.
pub fn handles(bytes: &[u8]) {
    struct Kept(Vec<(Kind, Handle)>, #[allow(dead_code)] Vec<Ref>);
    static KEPT: OnceLock<Kept> = OnceLock::new();
    let Kept(kept, _) = KEPT.get_or_init(|| {
        let queue = QueueOptions::new().create().unwrap();
        queue.put(b"short").unwrap();
        queue.put(&[1; 20_000]).unwrap();
        let lock = SharedLock::new(true).unwrap();
        let [(end, _), _] = pipe::pair().unwrap();
        let memory = family().unwrap().create(Kind::Memory, 8).unwrap();
        let refs = [
            (Kind::Queue, queue.object()),
            (Kind::Lock, lock.object()),
            (Kind::Pipe, end.object()),
            (Kind::Memory, &memory),
        ]
        .map(|(kind, object)| (kind, object.try_clone().unwrap()));
        let names = refs.iter().map(|(kind, object)| (*kind, object.handle()));
        Kept(
            names.collect(),
            refs.into_iter().map(|pair| pair.1).collect(),
        )
    });
    for piece in bytes.chunks_exact(18) {
        let word = |at: usize| u64::from_le_bytes(piece[at..at + 8].try_into().unwrap());
        // Far away, or near something that is there.
        let near = kept[usize::from(piece[1] >> 1) % kept.len()];
        let handle = match piece[1] & 1 {
            0 => Handle {
                offset: word(2),
                generation: word(10),
            },
            _ => Handle {
                offset: near
                    .1
                    .offset
                    .wrapping_add_signed(word(2).cast_signed() >> 40),
                generation: near.1.generation.wrapping_add(word(10) >> 60),
            },
        };
        let found = match piece[0] % 8 {
            0 => Queue::from_handle(handle).is_ok_and(|queue| queue.len() < 10),
            1 => SharedLock::from_handle(handle)
                .is_ok_and(|lock| lock.try_acquire(family().unwrap(), 1) == Some(Wait::Ready)),
            2 => SharedSemaphore::from_handle(handle).is_ok(),
            3 => SharedCondition::from_handle(handle).is_ok(),
            4 => SharedEvent::from_handle(handle).is_ok(),
            5 => SharedBarrier::from_handle(handle).is_ok(),
            6 => pipe::End::from_handle(handle, word(2)).is_ok_and(|end| !end.has_messages()),
            _ => Ref::from_handle(handle, Kind::Memory).is_ok(),
        };
        assert!(!found || kept.iter().any(|(_, there)| *there == handle));
    }
}
