//! Death at each step of what is done with a pipe.

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use sidestep::channel::pipe::{End, Message, PipeError, Ready, Received, pair};
use sidestep::channel::stream::Step;
use sidestep::os::clock::Deadline;
use sidestep::os::socket::{self, Interest};
use sidestep::shm::{Envelope, family};

use super::by_producer;
use super::common::{Test, checked, child, join, message};
use super::everywhere::{at_each_step, envelope};

pub const TESTS: [Test; 8] = [
    ("death_anywhere_in_sending", sending),
    ("death_anywhere_in_receiving", receiving),
    ("death_anywhere_of_the_last_of_a_side", last_of_a_side),
    (
        "death_anywhere_beside_another_writer",
        beside_another_writer,
    ),
    ("death_anywhere_in_a_full_pipe", full),
    (
        "death_anywhere_with_descriptors_on_their_way",
        descriptors_on_their_way,
    ),
    ("death_anywhere_in_turning_into_a_stream", into_a_stream),
    ("death_anywhere_in_watching_a_pipe", watching),
];

type Side = (End, OwnedFd);

fn sides() -> [Side; 2] {
    pair().unwrap()
}

/// Sends message `number` of producer 0; `owning` one that owns a lock.
fn send(from: &Side, number: u32, owning: bool) {
    send_of(from, 0, number, owning);
}

fn send_of(from: &Side, producer: u32, number: u32, owning: bool) {
    let bytes = message(producer, number);
    let parts = [&bytes[..]];
    let mut message = if owning {
        Message::Long(envelope(number))
    } else if bytes.len() > sidestep::channel::pipe::INLINE_MAX {
        let long = Envelope::new(family().unwrap(), bytes.len() as u64, Vec::new()).unwrap();
        long.write(0, &bytes);
        Message::Long(long)
    } else {
        Message::Short(&parts)
    };
    while let Some(back) = from.0.try_send(from.1.as_fd(), 0, message).unwrap() {
        let _ = from.0.wait_room(from.1.as_fd(), bytes.len() as u64);
        message = back;
    }
}

/// The next message, if there is one.
fn receive_now(at: &Side) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    match at.0.try_receive(at.1.as_fd(), &mut bytes).unwrap() {
        Received::Short { .. } => Some(bytes),
        Received::Long { envelope, .. } => {
            envelope.read(0, envelope.len(), &mut bytes);
            Some(bytes)
        }
        Received::Empty => None,
    }
}

/// The next message, or `None` at the end.
fn receive(at: &Side) -> Option<Vec<u8>> {
    loop {
        if let Some(bytes) = receive_now(at) {
            return Some(bytes);
        }
        match at.0.wait(at.1.as_fd(), Deadline::NEVER).unwrap() {
            Step::Done(Ready::HungUp) if !at.0.has_messages() => return None,
            _ => {}
        }
    }
}

/// Numbers of producer 0 that are there.
fn numbers(at: &Side) -> Vec<u32> {
    std::iter::from_fn(|| receive_now(at))
        .map(|message| checked(&message).1)
        .collect()
}

fn is_readable(at: &Side) -> bool {
    socket::poll(at.1.as_fd(), Interest::Read, Some(Duration::ZERO))
        .unwrap()
        .is_some()
}

/// Nothing is there, and after a look nothing pretends to be; the way from `from` to `to` works.
fn assert_works(from: &Side, to: &Side) {
    let now = || Deadline::after(Some(Duration::ZERO));
    let nothing = |ready| matches!(ready, Step::Done(Ready::TimedOut));
    assert!(nothing(to.0.wait(to.1.as_fd(), now()).unwrap()));
    assert!(!is_readable(to));
    for number in 1000..1003 {
        send(from, number, number == 1001);
        // Also who only polls the descriptor must know of it.
        assert!(is_readable(to));
        send(from, number + 10, false);
        assert_eq!(checked(&receive(to).unwrap()), (0, number));
        assert_eq!(checked(&receive(to).unwrap()), (0, number + 10));
    }
    assert!(nothing(to.0.wait(to.1.as_fd(), now()).unwrap()));
    assert!(!is_readable(to));
}

fn sending() {
    for (side, watched, before, owning) in [
        (0, false, 0, false),
        (1, true, 0, false),
        (0, true, 2, false),
        (0, true, 0, true),
        (1, false, 1, true),
    ] {
        at_each_step(
            || {
                let sides = sides();
                if watched {
                    sides[1 - side].0.watch(sides[1 - side].1.as_fd()).unwrap();
                }
                (0..before).for_each(|number| send(&sides[side], number, false));
                sides
            },
            |sides| send(&sides[side], before, owning),
            |sides, died| {
                let (from, to) = (&sides[side], &sides[1 - side]);
                if died && !watched {
                    // Who only begins to poll the descriptor hears of it by the next message.
                    send(from, 99, false);
                }
                assert!(is_readable(to) || !to.0.has_messages());
                let mut found = numbers(to);
                if died && !watched {
                    assert_eq!(found.pop(), Some(99));
                }
                let whole = before + u32::from(found.len() as u32 > before);
                assert!(found.iter().copied().eq(0..whole), "{found:?}");
                assert!(died || whole == before + 1);
                assert_works(from, to);
                assert_works(to, from);
            },
        );
    }
}

fn receiving() {
    for (watched, owning) in [(false, false), (true, false), (false, true), (true, true)] {
        at_each_step(
            || {
                let sides = sides();
                if watched {
                    sides[1].0.watch(sides[1].1.as_fd()).unwrap();
                }
                (0..3).for_each(|number| send(&sides[0], number, owning));
                sides
            },
            |sides| {
                while receive_now(&sides[1]).is_some() {}
                sides[1].0.settle(sides[1].1.as_fd()).unwrap();
            },
            |sides, died| {
                let to = &sides[1];
                assert!(is_readable(to) || !to.0.has_messages());
                let found = numbers(to);
                let first = 3 - found.len() as u32;
                assert!(found.iter().copied().eq(first..3), "{found:?}");
                assert!(died || found.is_empty());
                assert_works(&sides[0], &sides[1]);
            },
        );
    }
}

fn last_of_a_side() {
    at_each_step(
        || {
            let [first, second] = sides();
            (RefCell::new(Some(first)), second)
        },
        |(first, _)| {
            let first = first.take().unwrap();
            send(&first, 0, false);
            send(&first, 1, true);
            let (end, socket) = first;
            drop(socket);
            end.note_closing();
        },
        |(first, second), died| {
            drop(first.take());
            let found: Vec<u32> = std::iter::from_fn(|| receive(second))
                .map(|message| checked(&message).1)
                .collect();
            assert!(found.iter().copied().eq(0..found.len() as u32), "{found:?}");
            assert!(died || found.len() == 2);
            let bytes = message(0, 0);
            let parts = [&bytes[..]];
            let sent = second
                .0
                .try_send(second.1.as_fd(), 0, Message::Short(&parts));
            assert!(matches!(sent, Err(PipeError::Os(_))), "{:?}", sent.is_ok());
        },
    );
}

fn beside_another_writer() {
    at_each_step(
        || {
            let sides = sides();
            let other = child(|| (0..40).for_each(|number| send_of(&sides[0], 7, number, false)));
            (sides, RefCell::new(Some(other)))
        },
        |(sides, _)| (0..3).for_each(|number| send(&sides[0], number, number == 1)),
        |(sides, other), died| {
            join(other.take().into_iter().collect());
            let all = std::iter::from_fn(|| receive_now(&sides[1])).collect::<Vec<_>>();
            let all = by_producer(&all);
            assert!(all[&7].iter().copied().eq(0..40), "{all:?}");
            let ours = all.get(&0).cloned().unwrap_or_default();
            assert!(ours.iter().copied().eq(0..ours.len() as u32), "{all:?}");
            assert!(died || ours.len() == 3);
            assert_works(&sides[0], &sides[1]);
        },
    );
}

/// Sends 10,000 bytes, if there is room.
fn send_much(from: &Side, byte: u8) -> bool {
    let bytes = [byte; 10_000];
    let parts = [&bytes[..]];
    let message = Message::Short(&parts);
    let back = from.0.try_send(from.1.as_fd(), 0, message).unwrap();
    back.is_none()
}

/// Sends until there is no room; how many messages there was room for.
fn fill(from: &Side) -> usize {
    (0..).take_while(|_| send_much(from, 7)).count()
}

fn full() {
    // Another one waits for room, and the victim is the one that makes it.
    at_each_step(
        || {
            let sides = sides();
            fill(&sides[0]);
            let other = child(|| send(&sides[0], 3, false));
            (sides, RefCell::new(Some(other)))
        },
        |(sides, _)| (0..30).for_each(|_| drop(receive_now(&sides[1]))),
        |(sides, other), _| {
            while receive(&sides[1]).unwrap() != message(0, 3) {}
            join(other.take().into_iter().collect());
            assert_works(&sides[0], &sides[1]);
        },
    );
    // The victim is the one that waits.
    at_each_step(
        || {
            let sides = sides();
            let count = fill(&sides[0]);
            (sides, count)
        },
        |(sides, _)| {
            let side = &sides[0];
            assert!(!send_much(side, 8));
            receive_now(&sides[1]).unwrap();
            let _ = side.0.wait_room(side.1.as_fd(), 10_000).unwrap();
            assert!(send_much(side, 8));
        },
        |(sides, count), died| {
            let found: Vec<_> = std::iter::from_fn(|| receive_now(&sides[1])).collect();
            let sent = found.last().is_some_and(|message| message[0] == 8);
            let left = found.len() - usize::from(sent);
            assert!(left == count - 1 || died && left == *count);
            assert!(sent || died);
            assert_works(&sides[0], &sides[1]);
        },
    );
}

fn descriptors_on_their_way() {
    at_each_step(
        sides,
        |sides| {
            let (reading, _writing) = socket::pipe().unwrap();
            let socket = sides[0].1.as_fd();
            send(&sides[0], 0, false);
            let carried = [reading.as_fd()];
            socket::send(socket, &[1], &carried, socket::Wait::AsSet).unwrap();
            send(&sides[0], 1, false);
        },
        |sides, died| {
            let found = numbers(&sides[1]);
            assert!(found.iter().copied().eq(0..found.len() as u32), "{found:?}");
            let (reading, _writing) = socket::pipe().unwrap();
            let socket = sides[0].1.as_fd();
            let carried = [reading.as_fd()];
            socket::send(socket, &[2], &carried, socket::Wait::AsSet).unwrap();
            let parcels: Vec<u8> = std::iter::from_fn(|| {
                let parcel = sides[1].0.receive_parcel(sides[1].1.as_fd()).unwrap();
                let Step::Done(Some(parcel)) = parcel else {
                    panic!("no parcel")
                };
                assert_eq!(parcel.descriptors.len(), 1);
                (parcel.byte != 2).then_some(parcel.byte)
            })
            .collect();
            assert!(parcels == [1] || died && parcels.is_empty());
            assert!(found.len() < 2 || parcels == [1]);
            assert_works(&sides[0], &sides[1]);
        },
    );
}

fn into_a_stream() {
    at_each_step(
        || {
            let sides = sides();
            send(&sides[1], 0, false);
            send(&sides[0], 0, false);
            receive_now(&sides[1]).unwrap();
            sides
        },
        |sides| sides[1].0.turn_into_stream(sides[1].1.as_fd()).unwrap(),
        |sides, died| {
            // What had been sent before is received in any case.
            assert_eq!(numbers(&sides[0]), [0]);
            sides[0].0.settle(sides[0].1.as_fd()).unwrap();
            assert!(!is_readable(&sides[0]));
            if sides[0].0.is_stream() {
                let bytes = message(0, 0);
                let parts = [&bytes[..]];
                let sent = sides[0]
                    .0
                    .try_send(sides[0].1.as_fd(), 0, Message::Short(&parts));
                assert!(matches!(sent, Err(PipeError::Stream)));
                // Frames, then: no bell lies in front of the first one.
                socket::send(sides[1].1.as_fd(), b"f", &[], socket::Wait::AsSet).unwrap();
                let mut first = [0];
                socket::receive(sides[0].1.as_fd(), &mut first, socket::Wait::AsSet).unwrap();
                assert_eq!(&first, b"f");
            } else {
                assert!(died);
                assert_works(&sides[0], &sides[1]);
                assert_works(&sides[1], &sides[0]);
            }
        },
    );
}

fn watching() {
    at_each_step(
        || {
            let sides = sides();
            send(&sides[0], 0, false);
            receive_now(&sides[1]).unwrap();
            sides
        },
        |sides| sides[1].0.watch(sides[1].1.as_fd()).unwrap(),
        |sides, _| {
            sides[1].0.watch(sides[1].1.as_fd()).unwrap();
            assert_works(&sides[0], &sides[1]);
        },
    );
}
