"""Connections: messages, their limits and errors, signals, and waiting for many at once."""

import array
import contextlib
import gc
import os
import pickle
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from sidestep import _sidestep, connection, reduction, resource_sharer
from sidestep.connection import Connection, Pipe, wait
from sidestep.context import BufferTooShort


def stream_pipe(duplex: bool) -> tuple[Connection, Connection]:
    """As `Pipe`, on bare descriptors: frames instead of shared memory."""
    first, second = _sidestep.stream_pair(duplex)
    return Connection(first, True, duplex), Connection(second, duplex, True)


@pytest.fixture(
    params=[(make, duplex) for make in (Pipe, stream_pipe) for duplex in (True, False)],
    ids=["pipe-duplex", "pipe-simplex", "stream-duplex", "stream-simplex"],
)
def pipe(request: pytest.FixtureRequest) -> Iterator[tuple[Connection, Connection]]:
    """A receiver and a sender."""
    make, duplex = request.param
    receiver, sender = make(duplex)
    with receiver, sender:
        yield receiver, sender


@pytest.fixture
def stream() -> Iterator[tuple[Connection, socket.socket]]:
    """A connection whose other side is a bare socket."""
    ours, theirs = socket.socketpair()
    with Connection(ours.detach()) as conn, theirs:
        yield conn, theirs


@contextlib.contextmanager
def on_alarm(
    seconds: float, handler: object, when: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Run a signal handler in the main thread after `when` has returned and a while has passed,
    and again until the block ends."""
    before = signal.signal(signal.SIGUSR1, handler)  # type: ignore[arg-type]
    over = threading.Event()

    def alarm() -> None:
        when()
        while not over.wait(seconds):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    thread = threading.Thread(target=alarm)
    thread.start()
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        over.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)


class Handled(Exception):
    pass


def raise_handled(signum: int, frame: object) -> None:
    # Once: the next one might come while the test cleans up.
    signal.signal(signum, signal.SIG_IGN)
    raise Handled


# --- messages


@pytest.mark.parametrize("obj", [None, 1, "text", [1, (2.5, b"x")], {"a": {1}}, b"x" * 3_000_000])
def test_objects_arrive_equal(pipe: tuple[Connection, Connection], obj: object) -> None:
    receiver, sender = pipe
    thread = threading.Thread(target=sender.send, args=(obj,))
    thread.start()
    assert receiver.recv() == obj
    thread.join()


def test_messages_keep_their_borders_and_order(pipe: tuple[Connection, Connection]) -> None:
    receiver, sender = pipe
    sent = [b"a", b"", b"bc", b"", b"def"]
    for message in sent:
        sender.send_bytes(message)
    assert [receiver.recv_bytes() for _ in sent] == sent


def test_duplex_ends_talk_both_ways_at_once() -> None:
    a, b = Pipe()
    with a, b:
        a.send("to b")
        b.send("to a")
        assert (a.recv(), b.recv()) == ("to a", "to b")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [((), b"abcdef"), ((2,), b"cdef"), ((2, 3), b"cde"), ((6,), b""), ((6, 0), b"")],
)
def test_send_bytes_sends_a_part(
    pipe: tuple[Connection, Connection], arguments: tuple[int, ...], part: bytes
) -> None:
    receiver, sender = pipe
    sender.send_bytes(b"abcdef", *arguments)
    assert receiver.recv_bytes() == part


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((-1,), "offset is negative"),
        ((7,), "buffer length < offset"),
        ((0, -1), "size is negative"),
        ((4, 3), r"buffer length < offset \+ size"),
        ((6, 1), r"buffer length < offset \+ size"),
    ],
)
def test_send_bytes_refuses_a_part_outside(
    pipe: tuple[Connection, Connection], arguments: tuple[int, ...], words: str
) -> None:
    receiver, sender = pipe
    with pytest.raises(ValueError, match=words):
        sender.send_bytes(b"abcdef", *arguments)
    assert not receiver.poll()


def test_any_buffer_is_sent_and_filled_by_bytes(pipe: tuple[Connection, Connection]) -> None:
    receiver, sender = pipe
    sender.send_bytes(array.array("i", [1, 2, 3]))
    target = array.array("i", [0] * 5)
    assert receiver.recv_bytes_into(target, 2 * target.itemsize) == 3 * target.itemsize
    assert target.tolist() == [0, 0, 1, 2, 3]


def test_an_object_that_is_no_buffer_is_refused(pipe: tuple[Connection, Connection]) -> None:
    _, sender = pipe
    with pytest.raises(TypeError):
        sender.send_bytes("text")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not contiguous"):
        sender.send_bytes(memoryview(b"abcdef")[::2])


def test_a_short_buffer_gives_the_message_with_the_error(
    pipe: tuple[Connection, Connection],
) -> None:
    receiver, sender = pipe
    sender.send_bytes(b"longer than four")
    target = bytearray(4)
    with pytest.raises(BufferTooShort) as caught:
        receiver.recv_bytes_into(target)
    assert caught.value.args == (b"longer than four",)
    assert target == bytes(4)
    sender.send_bytes(b"next")
    assert receiver.recv_bytes_into(target) == 4
    assert target == b"next"


@pytest.mark.parametrize(
    ("target", "offset", "error"),
    [
        (bytearray(4), -1, ValueError),
        (bytearray(4), 5, ValueError),
        (bytes(4), 0, TypeError),
        ("text", 0, TypeError),
    ],
)
def test_recv_bytes_into_a_wrong_place_costs_no_message(
    pipe: tuple[Connection, Connection], target: object, offset: int, error: type[Exception]
) -> None:
    receiver, sender = pipe
    sender.send_bytes(b"kept")
    with pytest.raises(error):
        receiver.recv_bytes_into(target, offset)  # type: ignore[arg-type]
    assert receiver.recv_bytes() == b"kept"


def test_an_unpicklable_object_sends_nothing(pipe: tuple[Connection, Connection]) -> None:
    receiver, sender = pipe
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        sender.send(lambda: None)
    sender.send("next")
    assert receiver.recv() == "next"


# --- limits


def test_a_message_above_maxlength_ends_a_simplex_connection() -> None:
    receiver, sender = Pipe(duplex=False)
    with receiver, sender:
        sender.send_bytes(b"12345")
        sender.send_bytes(b"123456")
        assert receiver.recv_bytes(5) == b"12345"
        with pytest.raises(OSError, match="bad message length"):
            receiver.recv_bytes(5)
        assert receiver.closed


def test_a_message_above_maxlength_ends_only_reading_of_a_duplex_one() -> None:
    a, b = Pipe()
    with a, b:
        b.send_bytes(b"123456")
        with pytest.raises(OSError, match="bad message length"):
            a.recv_bytes(5)
        assert (a.closed, a.readable, a.writable) == (False, False, True)
        a.send("still works")
        assert b.recv() == "still works"


def test_a_negative_maxlength_is_refused(pipe: tuple[Connection, Connection]) -> None:
    receiver, _ = pipe
    with pytest.raises(ValueError, match="negative maxlength"):
        receiver.recv_bytes(-1)


# --- the standard library's frames


def test_frames_on_a_socket_are_the_standard_librarys(
    stream: tuple[Connection, socket.socket],
) -> None:
    conn, theirs = stream
    conn.send_bytes(b"abc")
    assert theirs.recv(100) == b"\0\0\0\x03abc"
    conn.send(["obj"])
    (length,) = struct.unpack("!i", theirs.recv(4))
    assert pickle.loads(theirs.recv(length)) == ["obj"]
    theirs.sendall(struct.pack("!iQ", -1, 2) + b"ab" + struct.pack("!i", 1) + b"c")
    assert conn.recv_bytes() == b"ab"
    assert conn.recv_bytes() == b"c"


@pytest.mark.parametrize("torn", [b"\0", b"\0\0\0\x05abc"])
def test_a_torn_message_is_an_error_not_an_end(
    stream: tuple[Connection, socket.socket], torn: bytes
) -> None:
    conn, theirs = stream
    theirs.sendall(torn)
    theirs.close()
    with pytest.raises(OSError, match="got end of file during message"):
        conn.recv_bytes()


def test_an_announcement_without_a_message_does_not_take_memory(
    stream: tuple[Connection, socket.socket],
) -> None:
    conn, theirs = stream
    theirs.sendall(struct.pack("!iQ", -1, 1 << 62))
    theirs.close()
    with pytest.raises((EOFError, MemoryError)):
        conn.recv_bytes()


# --- ends


def test_the_end_comes_after_the_last_message(pipe: tuple[Connection, Connection]) -> None:
    receiver, sender = pipe
    sender.send(1)
    sender.close()
    assert receiver.poll()
    assert receiver.recv() == 1
    assert receiver.poll(None)
    for receive in (receiver.recv, receiver.recv_bytes):
        with pytest.raises(EOFError):
            receive()


def test_sending_to_nobody_is_an_error(pipe: tuple[Connection, Connection]) -> None:
    receiver, sender = pipe
    receiver.close()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        sender.send_bytes(b"")


def test_a_killed_sender_ends_the_wait_of_its_receiver() -> None:
    receiver, sender = Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        receiver.close()
        sender.send("alive")
        signal.pause()
        os._exit(1)
    sender.close()
    with receiver:
        assert receiver.recv() == "alive"
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(EOFError):
            receiver.recv()
    os.waitpid(pid, 0)


# --- states


def test_directions_and_closing() -> None:
    receiver, sender = Pipe(duplex=False)
    assert (receiver.readable, receiver.writable) == (True, False)
    assert (sender.readable, sender.writable) == (False, True)
    with pytest.raises(OSError, match="read-only"):
        receiver.send(1)
    with pytest.raises(OSError, match="write-only"):
        sender.recv()
    with pytest.raises(OSError, match="write-only"):
        sender.poll()
    number = receiver.fileno()
    assert number == receiver._handle
    for conn in (receiver, sender):
        with conn as same:
            assert same is conn and not conn.closed
        conn.close()
        assert conn.closed and conn._handle is None
        for call in (conn.fileno, conn.recv, conn.recv_bytes, conn.poll, lambda: conn.send(1)):
            with pytest.raises(OSError, match="handle is closed"):
                call()
    with pytest.raises(OSError):
        os.fstat(number)


def test_a_dropped_connection_closes_its_descriptor() -> None:
    receiver, sender = Pipe(duplex=False)
    del sender
    gc.collect()
    with pytest.raises(EOFError):
        receiver.recv()
    receiver.close()


def test_constructor_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="invalid handle"):
        Connection(-1)
    with pytest.raises(ValueError, match="at least one of"):
        Connection(0, readable=False, writable=False)
    with pytest.raises(TypeError):
        Connection(1.5)  # type: ignore[arg-type]


def test_a_number_that_is_no_descriptor_fails_at_its_use() -> None:
    conn = Connection(44977608)
    with pytest.raises(OSError):
        conn.poll()
    with pytest.raises(OSError):
        conn.recv()
    conn._handle = None
    assert conn.closed


def test_subclasses_may_have_a_constructor_of_their_own() -> None:
    class Named(Connection):
        def __init__(self, name: str, handle: int) -> None:
            super().__init__(handle, writable=False)
            self.name = name

    reading, writing = os.pipe()
    with Named("n", reading) as named, Connection(writing, readable=False) as sender:
        sender.send("hello")
        assert (named.name, named.recv(), named.writable) == ("n", "hello", False)
        with pytest.raises(TypeError, match="reducer"):
            pickle.dumps(named)


# --- poll


def test_poll_waits_at_least_its_timeout(pipe: tuple[Connection, Connection]) -> None:
    receiver, sender = pipe
    assert receiver.poll() is False
    assert receiver.poll(-1) is False
    began = time.monotonic()
    assert receiver.poll(0.05) is False
    assert time.monotonic() - began >= 0.05
    sender.send_bytes(b"")
    for timeout in (0, 1e300, None):
        assert receiver.poll(timeout) is True


def test_poll_refuses_what_is_no_time(pipe: tuple[Connection, Connection]) -> None:
    receiver, _ = pipe
    with pytest.raises(TypeError):
        receiver.poll("1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="number"):
        receiver.poll(float("nan"))


def test_poll_takes_nothing_of_the_message(pipe: tuple[Connection, Connection]) -> None:
    receiver, sender = pipe
    sender.send_bytes(b"first")
    pid = os.fork()
    if pid == 0:
        os._exit(0 if receiver.poll(None) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert receiver.recv_bytes() == b"first"


# --- signals


def test_handlers_run_while_recv_waits_and_the_wait_goes_on(
    pipe: tuple[Connection, Connection],
) -> None:
    receiver, sender = pipe
    calls = []

    def handler(signum: int, frame: object) -> None:
        calls.append(signum)
        if len(calls) == 3:
            sender.send("after three")

    with on_alarm(0.01, handler):
        assert receiver.recv() == "after three"
    assert len(calls) >= 3


@pytest.mark.parametrize("call", ["recv", "poll", "recv_bytes"])
def test_an_exception_of_a_handler_ends_the_wait(
    pipe: tuple[Connection, Connection], call: str
) -> None:
    receiver, sender = pipe
    with pytest.raises(Handled), on_alarm(0.01, raise_handled):
        receiver.poll(None) if call == "poll" else getattr(receiver, call)()
    sender.send("next")
    assert receiver.recv() == "next"


def test_a_message_cut_by_an_exception_is_received_by_the_next_call(
    stream: tuple[Connection, socket.socket],
) -> None:
    conn, theirs = stream
    whole = b"\0\0\0\x05hello"
    for cut in range(1, len(whole)):
        theirs.sendall(whole[:cut])
        with pytest.raises(Handled), on_alarm(0.002, raise_handled):
            conn.recv_bytes()
        theirs.sendall(whole[cut:])
        assert conn.recv_bytes() == b"hello"


def test_one_signal_is_enough_to_interrupt_a_message_on_its_way_out() -> None:
    receiver, sender = stream_pipe(duplex=False)
    with receiver, sender:
        before = signal.signal(signal.SIGUSR1, raise_handled)

        def full() -> bool:
            return not select.select([], [sender], [], 0)[1]

        def alarm() -> None:
            receiver.poll(None)
            # The sender stands in the system call when the kernel takes no more.
            while not (full() and is_asleep(main)):
                pass
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

        main = threading.get_native_id()
        thread = threading.Thread(target=alarm)
        thread.start()
        try:
            with pytest.raises(Handled):
                sender.send_bytes(bytes(10_000_000))
        finally:
            thread.join()
            signal.signal(signal.SIGUSR1, before)


def is_asleep(thread: int) -> bool:
    """Whether the kernel has put the thread to sleep."""
    stat = Path(f"/proc/self/task/{thread}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] == "S"


def test_a_message_cut_on_its_way_out_is_completed_before_the_next() -> None:
    receiver, sender = stream_pipe(duplex=False)
    message = bytes(range(256)) * 40_000
    with receiver, sender:
        begun = partial(receiver.poll, None)
        with pytest.raises(Handled), on_alarm(0.01, raise_handled, begun):
            sender.send_bytes(message)
        thread = threading.Thread(target=sender.send_bytes, args=(b"next",))
        thread.start()
        assert receiver.recv_bytes() == message
        assert receiver.recv_bytes() == b"next"
        thread.join()


def test_a_forked_child_does_not_complete_its_parents_message() -> None:
    receiver, sender = stream_pipe(duplex=False)
    other_receiver, other_sender = stream_pipe(duplex=False)
    message = b"x" * 4_000_000
    with receiver, sender, other_receiver, other_sender:
        begun = partial(receiver.poll, None)
        with pytest.raises(Handled), on_alarm(0.01, raise_handled, begun):
            sender.send_bytes(message)
        pid = os.fork()
        if pid == 0:
            os.dup2(other_sender.fileno(), sender.fileno())
            sender.send_bytes(b"mine")
            os._exit(0)
        assert other_receiver.recv_bytes() == b"mine"
        os.waitpid(pid, 0)


# --- wait


def test_wait_takes_connections_sockets_and_numbers_from_any_iterable() -> None:
    a, b = Pipe()
    left, right = socket.socketpair()
    reading, writing = os.pipe()
    everything = [a, left, reading]
    try:
        assert wait(iter(everything), 0) == []
        b.send(1)
        assert wait((thing for thing in everything), 5) == [a]
        right.send(b"x")
        os.write(writing, b"x")
        assert wait(everything) == everything
        assert wait([reading, a, reading]) == [reading, a, reading]
    finally:
        for thing in (a, b, left, right):
            thing.close()
        os.close(reading)
        os.close(writing)


def test_wait_reports_ends_as_ready(pipe: tuple[Connection, Connection]) -> None:
    receiver, sender = pipe
    assert wait([receiver], -1) == []
    sender.close()
    assert wait([receiver]) == [receiver]


def test_wait_waits_at_least_its_timeout(pipe: tuple[Connection, Connection]) -> None:
    receiver, _ = pipe
    began = time.monotonic()
    assert wait([receiver], 0.05) == []
    assert time.monotonic() - began >= 0.05
    assert wait([], 0.01) == []


def test_wait_refuses_what_has_no_descriptor() -> None:
    with pytest.raises(ValueError, match="has no fileno method"):
        wait([object()], 0)
    with pytest.raises(ValueError, match="invalid file descriptor"):
        wait([-1], 0)
    receiver, sender = Pipe(False)
    sender.close()
    receiver.close()
    with pytest.raises(OSError, match="closed"):
        wait([receiver], 0)


# --- pipes in shared memory


def test_unread_bytes_are_bounded_and_a_blocked_sender_is_interruptible() -> None:
    receiver, sender = Pipe(duplex=False)
    with receiver, sender:
        sent = 0
        begun = partial(receiver.poll, None)
        with pytest.raises(Handled), on_alarm(0.05, raise_handled, begun):
            while sent < 1_000_000:
                sender.send_bytes(b"%08d" % sent + bytes(1000))
                sent += 1
        assert sent < 5_000
        for number in range(sent):
            assert receiver.recv_bytes()[:8] == b"%08d" % number
        assert not receiver.poll()


def test_a_blocked_sender_learns_that_its_receiver_was_killed() -> None:
    receiver, sender = Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        sender.close()
        signal.pause()
        os._exit(1)
    receiver.close()
    killer = threading.Timer(0.1, os.kill, (pid, signal.SIGKILL))
    killer.start()
    with sender, pytest.raises(BrokenPipeError):
        while True:
            sender.send_bytes(bytes(10_000))
    killer.join()
    os.waitpid(pid, 0)


def test_what_a_killed_sender_had_sent_is_received() -> None:
    receiver, sender = Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        receiver.close()
        for number in range(100):
            sender.send(number)
        os.kill(os.getpid(), signal.SIGKILL)
    sender.close()
    os.waitpid(pid, 0)
    with receiver:
        assert [receiver.recv() for _ in range(100)] == list(range(100))
        with pytest.raises(EOFError):
            receiver.recv()


def test_objects_and_bytes_mix_as_on_a_stream(pipe: tuple[Connection, Connection]) -> None:
    receiver, sender = pipe
    for obj in ([1, "two"], list(range(5000)), {"large": b"x" * 300_000}):
        sending = threading.Thread(target=sender.send, args=(obj,))
        sending.start()
        assert pickle.loads(receiver.recv_bytes()) == obj
        sending.join()
        sending = threading.Thread(target=sender.send_bytes, args=(pickle.dumps(obj),))
        sending.start()
        assert receiver.recv() == obj
        sending.join()


def test_the_descriptor_is_readable_exactly_when_there_is_a_message(
    pipe: tuple[Connection, Connection],
) -> None:
    receiver, sender = pipe
    sender.send("before")
    poller = select.poll()
    poller.register(receiver, select.POLLIN)
    assert poller.poll(0)
    assert receiver.recv() == "before"
    for _ in range(3):
        assert not poller.poll(0)
        sender.send(1)
        sender.send(2)
        assert poller.poll(0)
        assert receiver.recv() == 1
        assert poller.poll(0)
        assert receiver.recv() == 2
    sender.close()
    assert poller.poll(0)


def test_wait_is_not_fooled_by_a_bell_that_is_still_lying_there() -> None:
    a, b = Pipe()
    with a, b:
        b.send(1)
        assert a.recv() == 1
        assert wait([a], 0) == []
        assert wait([a, b], 0.02) == []
        b.send(2)
        a.send(3)
        assert wait([a, b]) == [a, b]


def test_wait_is_woken_by_a_message_and_by_an_end() -> None:
    pipes = [Pipe(duplex=False) for _ in range(3)]
    sending = threading.Timer(0.05, pipes[1][1].send, ("x",))
    sending.start()
    readers = [receiver for receiver, _ in pipes]
    assert wait(readers) == [pipes[1][0]]
    sending.join()
    closing = threading.Timer(0.05, pipes[2][1].close)
    closing.start()
    pipes[1][0].recv()
    assert wait(readers) == [pipes[2][0]]
    closing.join()
    for ends in pipes:
        for end in ends:
            end.close()


def test_a_connection_made_from_the_number_of_an_end_joins_the_pipe() -> None:
    a, b = Pipe()
    with a, b:
        twin = Connection(os.dup(a.fileno()))
        with twin:
            twin.send("from the twin")
            assert b.recv() == "from the twin"
            b.send("to either")
            assert twin.recv() == "to either"


def test_descriptors_travel_beside_messages() -> None:
    a, b = Pipe()
    reading, writing = os.pipe()
    with a, b:
        a.send("first")
        reduction.send_handle(a, writing, None)
        a.send("second")
        assert b.recv() == "first"
        assert b.recv() == "second"
        passed = reduction.recv_handle(b)
        os.write(passed, b"through")
        assert os.read(reading, 10) == b"through"
        assert not b.poll()
        os.write(a.fileno(), b"\0")
        with pytest.raises(RuntimeError):
            reduction.recv_handle(b)
    for number in (reading, writing, passed):
        os.close(number)


def test_ends_of_pipes_travel_through_pipes_and_are_closed_by_their_sender() -> None:
    a, b = Pipe()
    inner, outer = Pipe()
    with a, b, outer:
        pid = os.fork()
        if pid == 0:
            outer.close()
            a.close()
            inner.close()
            with b.recv() as received:
                received.send(received.recv() + 1)
            os._exit(0)
        outer.send(41)
        a.send(inner)
        inner.close()
        assert outer.recv() == 42
        with pytest.raises(EOFError):
            outer.recv()
        assert os.waitpid(pid, 0)[1] == 0
    resource_sharer.stop(timeout=10)


def test_many_senders_and_receivers_in_processes_lose_nothing() -> None:
    receiver, sender = Pipe(duplex=False)
    back, results = Pipe(duplex=False)
    count = 2000
    children = []
    for role in ("send", "send", "receive", "receive"):
        pid = os.fork()
        if pid == 0:
            if role == "send":
                for number in range(count):
                    sender.send(number)
            else:
                results.send([receiver.recv() for _ in range(count)])
            os._exit(0)
        children.append(pid)
    got = back.recv() + back.recv()
    assert sorted(got) == sorted(list(range(count)) * 2)
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    for end in (receiver, sender, back, results):
        end.close()


def test_a_pipe_whose_end_leaves_the_family_becomes_a_stream() -> None:
    a, b = Pipe()
    with a, b:
        b.send("unread")
        with pytest.raises(RuntimeError, match="unread"):
            a._to_stream()
        assert a.recv() == "unread"
        a.send("still in the ring")
        a._to_stream()
        a.send("in a frame")
        foreign = socket.socket(fileno=os.dup(a.fileno()))
        foreign.sendall(struct.pack("!i", 3) + b"raw")
        assert b.recv() == "still in the ring"
        assert b.poll()
        assert b.recv() == "in a frame"
        assert b.recv_bytes() == b"raw"
        b.send_bytes(b"answer")
        assert foreign.recv(100) == b"\0\0\0\x06answer"
        foreign.close()


def test_public_names() -> None:
    assert sorted(connection.__all__) == ["Client", "Listener", "Pipe", "wait"]
