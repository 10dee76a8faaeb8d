"""Listeners and clients: addresses, the handshake in both forms, and the errors of both."""

import hashlib
import hmac
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sidestep import connection
from sidestep.connection import Client, Connection, Listener, Pipe
from sidestep.context import AuthenticationError

FAMILIES = ["AF_INET", "AF_UNIX"]


class InThread:
    """A call in another thread; its result or exception is handed over by `result`."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self._outcome: tuple[bool, Any] | None = None

        def run() -> None:
            try:
                self._outcome = True, call(*arguments)
            except BaseException as error:
                self._outcome = False, error

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def result(self) -> Any:
        self._thread.join()
        assert self._outcome is not None
        good, value = self._outcome
        if not good:
            raise value
        return value


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param


# --- addresses


def test_objects_travel_over_any_family(family: str) -> None:
    with Listener(family=family) as listener:
        with Client(listener.address) as client, listener.accept() as server:
            client.send({"n": 1})
            assert server.recv() == {"n": 1}
            server.send_bytes(b"back")
            assert client.recv_bytes() == b"back"


def test_a_second_listener_at_an_address_is_refused(family: str) -> None:
    with Listener(family=family) as listener, pytest.raises(OSError):
        Listener(listener.address, family)


def test_an_abstract_name_needs_no_file() -> None:
    name = f"\0sidestep-test-{os.getpid()}"
    with Listener(name) as listener:
        with Client(listener.address) as client, listener.accept() as server:
            client.send(1)
            assert server.recv() == 1


def test_a_path_is_unlinked_by_close() -> None:
    listener = Listener()
    path = listener.address
    assert isinstance(path, str) and os.path.exists(path)
    listener.close()
    listener.close()
    assert not os.path.exists(path)
    with pytest.raises(OSError, match="listener is closed"):
        listener.accept()
    with pytest.raises(FileNotFoundError):
        Client(path)


def test_last_accepted_is_the_address_of_the_client() -> None:
    with Listener(("localhost", 0)) as listener:
        before = listener.last_accepted
        with Client(listener.address), listener.accept():
            assert listener.last_accepted[0] == "127.0.0.1"
        assert before is None


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (("host", 1), "AF_INET"),
        ("/some/path", "AF_UNIX"),
        ("\0abstract", "AF_UNIX"),
        (b"\0abstract", "AF_UNIX"),
        (r"\\.\pipe\x", "AF_PIPE"),
    ],
)
def test_address_type(address: Any, expected: str) -> None:
    assert connection.address_type(address) == expected


@pytest.mark.parametrize("address", [3, ["host", 1]])
def test_an_address_of_no_known_type_is_refused(address: Any) -> None:
    with pytest.raises(TypeError, match="unrecognized"):
        connection.address_type(address)


@pytest.mark.parametrize("address", [b"path", None])
def test_what_is_no_address_at_all_is_refused(address: Any) -> None:
    with pytest.raises(ValueError, match="unrecognized"):
        connection.address_type(address)


def test_an_unknown_family_is_refused() -> None:
    for call in (
        lambda: Listener(r"\\.\pipe"),
        lambda: Listener(family="AF_NONSENSE"),
        lambda: Client(r"\\.\pipe"),
        lambda: connection.arbitrary_address("AF_PIPE"),
    ):
        with pytest.raises(ValueError, match="recognized"):
            call()


def test_the_default_timeout_of_sockets_does_not_reach_connections(family: str) -> None:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(0.01)
    try:
        with Listener(family=family) as listener:
            client = InThread(Client, listener.address)
            with listener.accept() as server, client.result() as other:
                assert server.poll(0.05) is False
                assert os.get_blocking(server.fileno()) and os.get_blocking(other.fileno())
    finally:
        socket.setdefaulttimeout(before)


# --- authentication


@pytest.mark.parametrize("key", [b"secret", b""])
def test_equal_keys_meet(family: str, key: bytes) -> None:
    with Listener(family=family, authkey=key) as listener:
        client = InThread(lambda: Client(listener.address, authkey=key))
        with listener.accept() as server, client.result() as other:
            other.send("in")
            assert server.recv() == "in"


def test_different_keys_fail_on_both_sides() -> None:
    with Listener(authkey=b"one") as listener:
        client = InThread(lambda: Client(listener.address, authkey=b"two"))
        with pytest.raises(AuthenticationError, match="digest received was wrong"):
            listener.accept()
        with pytest.raises(AuthenticationError, match="rejected"):
            client.result()
        # The listener is not harmed.
        client = InThread(lambda: Client(listener.address, authkey=b"one"))
        listener.accept().close()
        client.result().close()


@pytest.mark.parametrize("key", ["text", 1, bytearray(b"k")])
def test_a_key_that_is_not_bytes_is_refused(key: Any) -> None:
    with pytest.raises(TypeError, match="byte string"):
        Listener(authkey=key)
    with Listener() as listener, pytest.raises(TypeError, match="byte string"):
        Client(listener.address, authkey=key)
    for handshake in (connection.deliver_challenge, connection.answer_challenge):
        with pytest.raises(ValueError, match="must be bytes"):
            handshake(None, key)  # type: ignore[arg-type]


def old_deliver(conn: Connection, key: bytes) -> bool:
    """The server's half of the handshake, as Python 3.11 and older do it."""
    message = os.urandom(20)
    conn.send_bytes(b"#CHALLENGE#" + message)
    good = conn.recv_bytes(256) == hmac.new(key, message, "md5").digest()
    conn.send_bytes(b"#WELCOME#" if good else b"#FAILURE#")
    return good


def old_answer(conn: Connection, key: bytes) -> bool:
    """The client's half, as Python 3.11 and older do it."""
    message = conn.recv_bytes(256)
    assert message.startswith(b"#CHALLENGE#")
    conn.send_bytes(hmac.new(key, message[11:], "md5").digest())
    return conn.recv_bytes(256) == b"#WELCOME#"


@pytest.mark.parametrize("key", [b"right", b"wrong"])
def test_old_peers_are_understood_in_both_roles(key: bytes) -> None:
    for ours, theirs in (
        (connection.answer_challenge, old_deliver),
        (connection.deliver_challenge, old_answer),
    ):
        here, there = Pipe()
        with here, there:
            peer = InThread(theirs, there, key)
            if key == b"right":
                ours(here, b"right")
            else:
                with pytest.raises(AuthenticationError):
                    ours(here, b"right")
            assert peer.result() is (key == b"right")


# The standard library itself, in an interpreter of its own.
PLAIN_CLIENT = """
import sys
from multiprocessing.connection import Client
with Client(sys.argv[1], authkey=b"shared") as conn:
    conn.send(conn.recv() + ["answer"])
    conn.send_bytes(conn.recv_bytes() * 2)
"""
PLAIN_LISTENER = """
from multiprocessing.connection import Listener
with Listener(authkey=b"shared") as listener:
    print(listener.address, flush=True)
    with listener.accept() as conn:
        conn.send(conn.recv() + ["answer"])
        conn.send_bytes(conn.recv_bytes() * 2)
"""


def exchange(conn: Connection) -> None:
    conn.send(["question"])
    assert conn.recv() == ["question", "answer"]
    large = bytes(1_000_000)
    conn.send_bytes(large)
    assert conn.recv_bytes() == large * 2


def test_a_client_of_the_standard_library_is_served() -> None:
    with Listener(authkey=b"shared") as listener:
        command = [sys.executable, "-c", PLAIN_CLIENT, str(listener.address)]
        with subprocess.Popen(command) as peer:
            with listener.accept() as conn:
                exchange(conn)
            assert peer.wait() == 0


def test_a_listener_of_the_standard_library_is_reached() -> None:
    command = [sys.executable, "-c", PLAIN_LISTENER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as peer:
        assert peer.stdout is not None
        address = peer.stdout.readline().strip()
        with Client(address, authkey=b"shared") as conn:
            exchange(conn)
        assert peer.wait() == 0


@pytest.mark.parametrize("digest", ["md5", "sha256", "sha384", "sha3_256", "sha3_384"])
def test_a_challenge_names_its_digest_and_signs_the_name(digest: str) -> None:
    here, there = Pipe()
    with here, there:
        answer = InThread(connection.answer_challenge, there, b"key")
        connection.deliver_challenge(here, b"key", digest)
        answer.result()
    message = b"{%s}" % digest.encode() + bytes(40)
    response = connection._create_response(b"key", message)
    expected = hmac.new(b"key", message, getattr(hashlib, digest)).digest()
    assert response == b"{%s}%s" % (digest.encode(), expected)
    connection._verify_challenge(b"key", message, response)


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"something bogus",
        b"{sha256}",
        b"{sha256}" + bytes(31),
        b"{sha256}" + bytes(32),
        b"{sha1}" + bytes(20),
        b"{" + bytes(40),
        b"{\xff\xfe}" + bytes(40),
        bytes(16),
        bytes(33),
    ],
)
def test_a_wrong_response_is_refused(response: bytes) -> None:
    with pytest.raises(AuthenticationError):
        connection._verify_challenge(b"key", b"{sha256}" + bytes(40), response)


@pytest.mark.parametrize(
    "challenge", [b"", b"hello", b"#CHALLENGE#", b"#CHALLENGE#short", b"#CHALLENGE#" + bytes(25)]
)
def test_a_peer_that_speaks_something_else_is_refused(challenge: bytes) -> None:
    here, there = Pipe()
    with here, there:
        there.send_bytes(challenge)
        with pytest.raises(AuthenticationError):
            connection.answer_challenge(here, b"key")


def test_nothing_long_is_read_before_the_peer_has_proved_itself() -> None:
    here, there = Pipe()
    with here, there:
        there.send_bytes(bytes(257))
        with pytest.raises(OSError, match="bad message length"):
            connection.deliver_challenge(here, b"key")


# --- XML


def test_xml_connections_carry_plain_values() -> None:
    with connection.XmlListener() as listener:
        client = connection.XmlClient(listener.address)
        server = listener.accept()
        client.send(["a", 1, {"b": 2.5}])
        assert server.recv() == ["a", 1, {"b": 2.5}]
        client.close()
        server.close()
