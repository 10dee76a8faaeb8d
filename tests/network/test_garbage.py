"""Whoever reaches a listening port cannot stop it, nor keep honest clients waiting."""

import contextlib
import errno
import os
import resource
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sidestep
from sidestep import _sidestep, connection
from sidestep.connection import Client, Connection, Listener
from sidestep.context import AuthenticationError
from sidestep.managers import BaseManager

sys.path.insert(0, os.path.dirname(__file__))
from log_lines import log

__all__ = ["log"]  # a fixture

KEY = b"the key"


class Serving:
    """A listener whose `accept` runs in a thread, over and over; each client gets an echo."""

    def __init__(self, **options: Any) -> None:
        self.listener = Listener(("localhost", 0), authkey=KEY, **options)
        self.errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                with self.listener.accept() as conn:
                    message = conn.recv()
                    if message == "stop":
                        return
                    conn.send(message)
            except (AuthenticationError, EOFError) as error:
                self.errors.append(error)

    def dial(self) -> socket.socket:
        """A stranger's connection."""
        stranger = socket.create_connection(self.listener.address)  # type: ignore[arg-type]
        stranger.settimeout(60)
        return stranger

    def works(self) -> None:
        """An honest client is served."""
        with Client(self.listener.address, authkey=KEY) as client:
            client.send("question")
            assert client.recv() == "question"

    def __enter__(self) -> "Serving":
        return self

    def __exit__(self, *details: object) -> None:
        with Client(self.listener.address, authkey=KEY) as client:
            client.send("stop")
            with contextlib.suppress(EOFError):
                client.recv()
        self._thread.join()
        self.listener.close()


def hung_up(stranger: socket.socket) -> bool:
    """Wait for the end of a connection, whatever comes before it."""
    try:
        while stranger.recv(4096):
            pass
    except ConnectionResetError:
        pass
    return True


def challenge_from(stranger: socket.socket) -> bytes:
    data = b""
    while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
        data += stranger.recv(4096)
    return data[4:]


GARBAGE = {
    "noise": os.urandom(64) + bytes(4),
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "2 GiB - 1": struct.pack("!i", 2**31 - 1),
    "negative": struct.pack("!i", -2),
    "the long form": struct.pack("!iQ", -1, 2**63),
    "257 bytes": struct.pack("!i", 257) + bytes(257),
    "an empty frame": bytes(4),
    "a frame of nonsense": struct.pack("!i", 5) + b"hello",
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_is_dropped_and_logged_once(what: str, log: list[str]) -> None:
    with Serving() as serving, serving.dial() as stranger:
        stranger.sendall(GARBAGE[what])
        assert hung_up(stranger)
        serving.works()
        assert not serving.errors
        port = stranger.getsockname()[1]
    (line,) = [line for line in log if f"port {port}" in line]
    assert "127.0.0.1" in line and "\n" not in line


def test_silence_keeps_nobody_waiting() -> None:
    with Serving() as serving, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(serving.dial()) for _ in range(5)]
        for stranger in silent:
            challenge_from(stranger)  # it has been taken in
        half = stack.enter_context(serving.dial())
        half.sendall(struct.pack("!i", 40) + b"{sha256}")
        for _ in range(3):
            serving.works()


# Each way to be dropped, and how its line in the log ends.
REASONS: dict[bytes, str] = {
    b"": "it left within the handshake",
    struct.pack("!i", 257): (
        "the other side announced a message of 257 bytes, where a handshake has at most 256"
    ),
    struct.pack("!i", -2): (
        "the other side announced a message of -2 bytes, where a handshake has at most 256"
    ),
    struct.pack("!i", 5) + b"hello": (
        'the other side sent neither an old message nor one that names its digest: b"hello"'
    ),
}


@pytest.mark.parametrize("sent", REASONS)
def test_a_line_in_the_log_is_a_sentence(sent: bytes, log: list[str]) -> None:
    with Serving() as serving:
        with serving.dial() as stranger:
            port = stranger.getsockname()[1]
            challenge_from(stranger)
            stranger.sendall(sent)
            stranger.shutdown(socket.SHUT_WR)
            assert hung_up(stranger)
        serving.works()
    assert f"a listener dropped a caller, 127.0.0.1 port {port}: {REASONS[sent]}" in log


@pytest.mark.parametrize(
    ("challenge", "reason"),
    [
        (b"hello", 'the other side sent b"hello" in place of a challenge'),
        (
            b"#CHALLENGE#{sha256}short",
            "the other side sent a challenge that is too short: 13 bytes",
        ),
    ],
)
def test_what_is_wrong_with_a_challenge_is_a_sentence(
    challenge: bytes, reason: str, log: list[str]
) -> None:
    with Serving() as serving:
        with serving.dial() as stranger:
            stranger.setblocking(True)
            with Connection(os.dup(stranger.fileno())) as conn:
                connection.answer_challenge(conn, KEY)
                conn.send_bytes(challenge)
            assert hung_up(stranger)
        with pytest.raises(AuthenticationError) as caught:
            _sidestep.handshake_answer(KEY, challenge)
        assert str(caught.value) == reason
        serving.works()
    assert any(line.endswith(f": {reason}") for line in log)


def test_silence_ends(log: list[str]) -> None:
    with Serving(handshake_timeout=0.05) as serving, serving.dial() as stranger:
        assert hung_up(stranger)
        serving.works()
    assert any("within 0.05 seconds" in line for line in log)


def test_one_byte_at_a_time_is_no_way_to_stay(log: list[str]) -> None:
    with Serving(handshake_timeout=0.3) as serving, serving.dial() as stranger:
        with contextlib.suppress(ConnectionError):
            stranger.sendall(struct.pack("!i", 200))
            stranger.settimeout(0.01)
            while True:
                stranger.sendall(b"x")
                try:
                    if not stranger.recv(4096):
                        break
                except TimeoutError:
                    pass
        serving.works()
    assert any("within 0.3 seconds" in line for line in log)


def test_a_thousand_callers_that_say_nothing(log: list[str]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 3000:
        pytest.skip(f"needs 3000 descriptors, and the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 3000), hard))
    try:
        with Serving(backlog=128) as serving, contextlib.ExitStack() as stack:
            for _ in range(1000):
                stack.enter_context(serving.dial())
            serving.works()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert any("make room" in line for line in log)


def test_a_reset_within_the_handshake(log: list[str]) -> None:
    with Serving() as serving:
        stranger = serving.dial()
        challenge_from(stranger)
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stranger.close()
        serving.works()
        assert not serving.errors
    assert any("handshake" in line for line in log)


def test_another_key_raises_and_names_the_caller() -> None:
    with Listener(("localhost", 0), authkey=KEY) as listener:
        outcome: list[Any] = []

        def wrong() -> None:
            try:
                Client(listener.address, authkey=b"another")
            except AuthenticationError as error:
                outcome.append(str(error))

        thread = threading.Thread(target=wrong)
        thread.start()
        with pytest.raises(AuthenticationError, match=r"digest received was wrong.*127\.0\.0\.1"):
            listener.accept()
        assert listener.last_accepted[0] == "127.0.0.1"
        thread.join()
        assert outcome == ["digest sent was rejected"]


def test_the_key_is_in_no_message(log: list[str]) -> None:
    with Serving() as serving:
        with pytest.raises(AuthenticationError) as caught:
            Client(serving.listener.address, authkey=b"another secret")
        serving.works()
    told = "".join([*log, str(caught.value), *map(str, serving.errors)])
    assert "the key" not in told and "another secret" not in told


def test_nothing_behind_the_handshake_is_lost() -> None:
    """A client that sends its first message together with its last word."""
    with Listener(("localhost", 0), authkey=KEY) as listener:
        stranger = socket.create_connection(listener.address)  # type: ignore[arg-type]
        conn = Connection(stranger.detach())
        accepted: list[Connection] = []
        thread = threading.Thread(target=lambda: accepted.append(listener.accept()))
        thread.start()
        connection.answer_challenge(conn, KEY)
        message = b"{sha256}" + bytes(40)
        conn.send_bytes(b"#CHALLENGE#" + message)
        connection._verify_challenge(KEY, message, conn.recv_bytes())
        frames = [b"#WELCOME#", b"first", bytes(100_000)]
        blob = b"".join(struct.pack("!i", len(frame)) + frame for frame in frames)
        sender = threading.Thread(target=os.write, args=(conn.fileno(), blob))
        sender.start()
        thread.join()
        with accepted[0] as server:
            assert server.recv_bytes() == b"first"
            assert server.recv_bytes() == bytes(100_000)
        sender.join()
        conn.close()


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Have this process use all that it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir("/proc/self/fd")))
    fillers = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in fillers:
            os.close(number)


def test_without_descriptors_silent_strangers_go_first(log: list[str]) -> None:
    with Listener(("localhost", 0), authkey=KEY, backlog=16, handshake_timeout=5) as listener:
        address: Any = listener.address
        silent = [socket.create_connection(address) for _ in range(3)]
        listener._listener._socket.settimeout(0.05)  # type: ignore[union-attr]
        with pytest.raises(TimeoutError):
            listener.accept()  # they are on the porch now
        honest = socket.create_connection(address)
        honest.settimeout(0)
        with no_descriptors():
            # As soon as they have had a tenth of their time, which counts within `accept` only.
            challenge = b""
            while not challenge:
                with pytest.raises(TimeoutError):
                    listener.accept()
                with contextlib.suppress(BlockingIOError):
                    challenge = honest.recv(4096)
            assert b"#CHALLENGE#" in challenge
        for peer in (*silent, honest):
            peer.close()
    assert sum("had to go" in line for line in log) == 1


def test_without_descriptors_those_in_their_handshake_are_spared(log: list[str]) -> None:
    """The next caller waits, and does not keep the processor busy, until there is room."""
    with Listener(("localhost", 0), authkey=KEY, backlog=16, handshake_timeout=1e6) as listener:
        address: Any = listener.address
        early = [socket.create_connection(address) for _ in range(3)]
        listener._listener._socket.settimeout(0.05)  # type: ignore[union-attr]
        with pytest.raises(TimeoutError):
            listener.accept()
        late = socket.create_connection(address)
        late.settimeout(0)
        with no_descriptors():
            listener._listener._socket.settimeout(0.5)  # type: ignore[union-attr]
            before = time.thread_time()
            with pytest.raises(TimeoutError):
                listener.accept()
            assert time.thread_time() - before < 0.25
            with pytest.raises(BlockingIOError):
                late.recv(1)
            assert all(challenge_from(each).startswith(b"#CHALLENGE#") for each in early)
            # The end of one of them is the other's turn.
            early.pop().close()
            with pytest.raises(TimeoutError):
                listener.accept()
            late.settimeout(60)
            assert challenge_from(late).startswith(b"#CHALLENGE#")
        for peer in (*early, late):
            peer.close()
    assert not any("had to go" in line for line in log)


def test_without_descriptors_and_strangers_accept_says_so() -> None:
    with Listener(("localhost", 0), authkey=KEY) as listener:
        caller = socket.create_connection(listener.address)  # type: ignore[arg-type]
        with no_descriptors(), pytest.raises(OSError) as caught:
            listener.accept()
        assert caught.value.errno == errno.EMFILE
        caller.close()


def test_a_listener_that_another_thread_closes_is_an_error() -> None:
    listener = Listener(("localhost", 0), authkey=KEY)
    caught: list[BaseException] = []
    begun = threading.Event()

    def accept() -> None:
        begun.set()
        try:
            listener.accept()
        except OSError as error:
            caught.append(error)

    thread = threading.Thread(target=accept)
    thread.start()
    begun.wait()
    listener.close()
    thread.join()
    assert len(caught) == 1


def test_several_threads_may_accept() -> None:
    with Listener(("localhost", 0), authkey=KEY, backlog=16) as listener:
        served: list[Any] = []

        def accept() -> None:
            with listener.accept() as conn:
                served.append(conn.recv())

        threads = [threading.Thread(target=accept) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(4):
            with Client(listener.address, authkey=KEY) as client:
                client.send(number)
                assert client.poll(None)  # the end
        for thread in threads:
            thread.join()
        assert sorted(served) == [0, 1, 2, 3]


def serve_one(listener: Listener, answers: Any) -> None:
    with listener.accept() as conn:
        answers.put(conn.recv())


def test_several_processes_may_accept_at_one_socket() -> None:
    context = sidestep.get_context("fork")
    answers = context.SimpleQueue()
    with Listener(("localhost", 0), authkey=KEY, backlog=16) as listener:
        # One caller stands on the parent's porch; it is not the children's concern.
        address: Any = listener.address
        silent = socket.create_connection(address)
        listener._listener._socket.settimeout(0.05)  # type: ignore[union-attr]
        with pytest.raises(TimeoutError):
            listener.accept()
        listener._listener._socket.settimeout(None)  # type: ignore[union-attr]
        os.set_blocking(listener._listener._socket.fileno(), False)  # type: ignore[union-attr]
        children = [context.Process(target=serve_one, args=(listener, answers)) for _ in range(3)]
        for child in children:
            child.start()
        for number in range(3):
            with Client(address, authkey=KEY) as client:
                client.send(number)
                client.poll(None)
        for child in children:
            child.join()
            assert child.exitcode == 0
        silent.close()
    assert sorted(answers.get() for _ in range(3)) == [0, 1, 2]
    answers.close()


# --- any bytes --------------------------------------------------------------------------------


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    pieces=st.lists(
        st.one_of(
            st.binary(max_size=300),
            st.binary(max_size=300).map(lambda body: struct.pack("!i", len(body)) + body),
            st.sampled_from([b"#CHALLENGE#", b"#WELCOME#", b"{sha256}", b"{md5}", bytes(16)]).map(
                lambda body: struct.pack("!i", len(body)) + body
            ),
        ),
        max_size=4,
    )
)
def test_no_bytes_get_in_or_stop_the_porch(pieces: list[bytes]) -> None:
    here, there = socket.socketpair()
    door, street = socket.socketpair()
    with there, door, street:
        porch = _sidestep.Porch(KEY, 100.0, 4)
        porch.add(1, here.detach(), None)
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                there.sendall(piece)
        there.shutdown(socket.SHUT_WR)
        event, number, _handle, why = porch.wait(door.fileno(), None)
        assert event in ("dropped", "refused") and number == 1 and "\n" not in why
        porch.close()


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=64), limit=st.integers(0, 300))
def test_the_frame_reader_takes_any_bytes(data: bytes, limit: int) -> None:
    here, there = socket.socketpair()
    with there, Connection(here.detach()) as conn:
        there.sendall(data)
        there.shutdown(socket.SHUT_WR)
        try:
            message = conn.recv_bytes(limit)
        except EOFError:
            # Nothing, or nothing but a header.
            assert len(data) in (0, 4, 12)
        except OSError:
            pass
        else:
            assert len(message) <= limit
            assert data.startswith(struct.pack("!i", len(message)) + message) or data[:4] == (
                b"\xff\xff\xff\xff"
            )


@settings(max_examples=200, deadline=None)
@given(challenge=st.binary(max_size=256))
def test_any_challenge_is_answered_or_refused(challenge: bytes) -> None:
    for answer in (_sidestep.handshake_answer, connection._create_response):
        with contextlib.suppress(AuthenticationError):
            assert 16 <= len(answer(KEY, challenge)) <= 64
    with pytest.raises(AuthenticationError):
        connection._verify_challenge(KEY, b"{sha256}" + bytes(40), challenge)


# --- managers ---------------------------------------------------------------------------------


class Manager(BaseManager):
    pass


Manager.register("make_list", list, exposed=["append", "__len__"])


@pytest.fixture
def manager() -> Iterator[Any]:
    with Manager(("localhost", 0), authkey=KEY, ctx=sidestep.get_context("fork")) as started:
        yield started
    started.join()


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_does_not_harm_a_manager(what: str, manager: Any) -> None:
    with socket.create_connection(manager.address) as stranger:
        stranger.sendall(GARBAGE[what])
        assert hung_up(stranger)
    assert manager.make_list()._callmethod("__len__") == 0


def test_neither_silence_nor_another_key_harms_a_manager(manager: Any) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(socket.create_connection(manager.address))
        with pytest.raises(AuthenticationError):
            Client(manager.address, authkey=b"another")
        # Behind the key, too: what is no request costs its connection only.
        with Client(manager.address, authkey=KEY) as client:
            client.send_bytes(b"no pickle")
            assert client.recv()[0] == "#TRACEBACK"
        assert manager.make_list()._callmethod("__len__") == 0


def few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))


def test_a_crowd_of_clients_is_served_by_a_manager_with_few_descriptors() -> None:
    started: Any = Manager(("localhost", 0), authkey=KEY, ctx=sidestep.get_context("fork"))
    started.start(few_descriptors)
    with started:
        shared = started.make_list()
        outcomes: list[object] = []

        def use() -> None:
            try:
                outcomes.append(shared._callmethod("append", (1,)))
            except BaseException as error:
                outcomes.append(error)

        # Each has a connection of its own, which it gives back at its end.
        threads = [threading.Thread(target=use) for _ in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes == [None] * 100
        assert shared._callmethod("__len__") == 100
    started.join()


def test_a_manager_at_a_network_address_has_a_key() -> None:
    started: Any = Manager(("0.0.0.0", 0), ctx=sidestep.get_context("fork"))
    with started:
        assert started.make_list()._callmethod("__len__") == 0
    started.join()
    with pytest.raises(ValueError, match="authkey"):
        Manager(("0.0.0.0", 0), authkey=b"").get_server()


# --- network addresses ------------------------------------------------------------------------

NETWORK: dict[str, Callable[..., Listener]] = {
    "all": lambda **more: Listener(("0.0.0.0", 0), **more),
    "empty host": lambda **more: Listener(("", 0), **more),
    "all of IPv6": lambda **more: Listener(("::", 0), **more),
}


@pytest.mark.parametrize("where", NETWORK)
def test_a_network_address_wants_a_key(where: str) -> None:
    for key in (None, b""):
        with pytest.raises(ValueError, match=r"authkey=.*localhost.*open_to_all=True"):
            NETWORK[where](authkey=key)
    NETWORK[where](authkey=KEY).close()
    NETWORK[where](open_to_all=True).close()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
def test_a_loopback_address_needs_none(host: str) -> None:
    Listener((host, 0)).close()


def test_ipv6_addresses_are_understood() -> None:
    with Listener(family="AF_INET6", authkey=KEY) as listener:
        assert connection.address_type(listener.address) == "AF_INET6"
        accepted: list[Connection] = []
        thread = threading.Thread(target=lambda: accepted.append(listener.accept()))
        thread.start()
        with Client(listener.address, authkey=KEY) as client:
            client.send(1)
            thread.join()
            assert accepted[0].recv() == 1
        accepted[0].close()


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_the_time_for_a_handshake_is_a_positive_number(seconds: float) -> None:
    with pytest.raises(ValueError, match="positive number of seconds"):
        Listener(authkey=KEY, handshake_timeout=seconds)
