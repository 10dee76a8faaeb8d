"""Connections, listeners and managers through TLS."""

import contextlib
import os
import pickle
import signal
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import sidestep
from sidestep import connection
from sidestep.connection import TLS, Client, Connection, Listener, wait
from sidestep.context import AuthenticationError, BufferTooShort
from sidestep.managers import BaseManager, BaseProxy

sys.path.insert(0, os.path.dirname(__file__))
from certificates import Certificates, certificates
from log_lines import log

__all__ = ["certificates", "log"]  # fixtures

KEY = b"the key"
Pair = tuple[Connection, Connection]


class Accepting:
    """One `accept` in a thread."""

    def __init__(self, listener: Listener) -> None:
        self.connection: Any = None
        self.error: BaseException | None = None

        def accept() -> None:
            try:
                self.connection = listener.accept()
            except BaseException as error:
                self.error = error

        self._thread = threading.Thread(target=accept)
        self._thread.start()

    def result(self) -> Any:
        self._thread.join()
        if self.error is not None:
            raise self.error
        return self.connection


def meet(address: Any, server: Any, client: Any, key: bytes | None = KEY) -> Pair:
    with Listener(address, authkey=key, tls=server) as listener:
        accepting = Accepting(listener)
        caller = Client(listener.address, authkey=key, tls=client)
        return accepting.result(), caller


@pytest.fixture
def pair(certificates: Certificates) -> Iterator[Pair]:
    server, client = meet(("localhost", 0), certificates.server_side(), certificates.client_side())
    with server, client:
        yield server, client


# --- what a connection does -------------------------------------------------------------------


def test_objects_and_bytes_travel_both_ways(pair: Pair) -> None:
    for sender, receiver in (pair, pair[::-1]):
        sender.send({"n": [1, 2]})
        assert receiver.recv() == {"n": [1, 2]}
        sender.send_bytes(b"0123456789", 2, 5)
        assert receiver.recv_bytes() == b"23456"
        sender.send_bytes(b"")
        assert receiver.recv_bytes() == b""


def test_messages_are_encrypted(certificates: Certificates) -> None:
    """A peer without TLS on the same socket sees records, and no message."""
    with Listener(("localhost", 0), tls=certificates.server_side()) as listener:
        accepting = Accepting(listener)
        client = Client(listener.address, tls=certificates.client_side())
        with accepting.result() as server, client:
            server.send_bytes(b"plain words")
            peeked = socket.socket(fileno=os.dup(client.fileno()))
            with peeked:
                assert client.poll(None)
                server.send_bytes(b"plain words")
                data = peeked.recv(4096, socket.MSG_PEEK)
            assert data[:3] == b"\x17\x03\x03" and b"plain words" not in data
            assert [client.recv_bytes(), client.recv_bytes()] == [b"plain words"] * 2


@pytest.mark.parametrize("size", [16384, 16385, 1 << 20, 10_000_000])
def test_large_messages_pass_in_both_directions_at_once(pair: Pair, size: int) -> None:
    blob = os.urandom(1024) * (size // 1024) + bytes(size % 1024)
    received: dict[int, bytes] = {}

    def receive(index: int) -> None:
        received[index] = pair[index].recv_bytes()

    threads = [threading.Thread(target=receive, args=(index,)) for index in (0, 1)]
    threads += [threading.Thread(target=pair[index].send_bytes, args=(blob,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert received == {0: blob, 1: blob}


def test_many_threads_of_messages(pair: Pair) -> None:
    count = 3000
    seen: dict[int, list[Any]] = {0: [], 1: []}

    def send(index: int) -> None:
        for number in range(count):
            pair[index].send((number, "x" * (number % 500)))

    def receive(index: int) -> None:
        for _ in range(count):
            seen[index].append(pair[index].recv()[0])

    threads = [threading.Thread(target=send, args=(index,)) for index in (0, 1)]
    threads += [threading.Thread(target=receive, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {0: list(range(count)), 1: list(range(count))}


def test_poll_and_wait_know_what_was_decrypted_ahead(pair: Pair) -> None:
    server, client = pair
    assert not client.poll() and not client.poll(0.01)
    assert wait([client, server], 0) == []
    for number in range(3):
        server.send(number)  # three messages in what may be one piece
    for number in range(3):
        assert wait([server, client]) == [client]
        assert client.poll() and client.poll(None)
        assert client.recv() == number
    assert not client.poll()
    assert wait(iter([client, server]), 0.01) == []


def test_wait_mixes_kinds(pair: Pair) -> None:
    server, client = pair
    here, there = connection.Pipe()
    first, second = socket.socketpair()
    with here, there, first, second:
        everything = [client, here, first, first.fileno()]
        assert wait((thing for thing in everything), 0) == []
        server.send(1)
        assert wait(everything) == [client]
        there.send(1)
        second.send(b"x")
        assert wait(everything) == everything


def test_poll_wakes_for_a_message_of_another_thread(pair: Pair) -> None:
    server, client = pair
    thread = threading.Timer(0.02, server.send, ["later"])
    thread.start()
    assert client.poll(60)
    assert client.recv() == "later"
    thread.join()


def test_receiving_into_a_buffer(pair: Pair) -> None:
    server, client = pair
    buffer = bytearray(b"." * 10)
    server.send_bytes(b"abc")
    assert client.recv_bytes_into(buffer, 2) == 3
    assert buffer == b"..abc....."
    server.send_bytes(bytes(11))
    with pytest.raises(BufferTooShort) as caught:
        client.recv_bytes_into(buffer)
    assert caught.value.args == (bytes(11),)
    wrong: list[tuple[Callable[[], object], type[Exception]]] = [
        (lambda: client.recv_bytes_into(buffer, -1), ValueError),
        (lambda: client.recv_bytes_into(buffer, 11), ValueError),
        (lambda: client.recv_bytes_into(b"fixed"), TypeError),
        (lambda: client.recv_bytes(-1), ValueError),
        (lambda: client.send_bytes(b"abc", -1), ValueError),
        (lambda: client.send_bytes(b"abc", 4), ValueError),
        (lambda: client.send_bytes(b"abc", 1, 3), ValueError),
        (lambda: client.send_bytes(b"abc", 1, -1), ValueError),
    ]
    for call, error in wrong:
        with pytest.raises(error):
            call()
    server.send("still whole")
    assert client.recv() == "still whole"


def test_a_message_above_the_limit_closes(pair: Pair) -> None:
    server, client = pair
    server.send_bytes(bytes(100))
    with pytest.raises(OSError, match="bad message length"):
        client.recv_bytes(99)
    assert client.closed


def test_an_orderly_end_is_the_end_of_file(pair: Pair) -> None:
    server, client = pair
    server.send("last")
    server.close()
    assert server.closed
    assert wait([client]) == [client]
    assert client.recv() == "last"
    assert client.poll()
    for _ in range(2):
        with pytest.raises(EOFError):
            client.recv()
    for call in (client.close, server.close):  # once more does no harm
        call()
    with pytest.raises(OSError, match="closed"):
        client.send(1)


def test_a_connection_that_is_only_dropped_says_goodbye(certificates: Certificates) -> None:
    server, client = meet(("localhost", 0), certificates.server_side(), certificates.client_side())
    del server
    with client, pytest.raises(EOFError):
        client.recv()


def test_a_cut_line_is_no_orderly_end(pair: Pair) -> None:
    server, client = pair
    with socket.socket(fileno=os.dup(server.fileno())) as line:
        line.shutdown(socket.SHUT_WR)
    assert client.poll(None)
    with pytest.raises(ConnectionResetError, match="cut"):
        client.recv()


def reset_at_close(line: Connection) -> None:
    """Have the line reset when it is closed, whatever was said."""
    linger = struct.pack("ii", 1, 0)
    with socket.socket(fileno=os.dup(line.fileno())) as line_socket:
        line_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


def fail_to_send(conn: Connection) -> OSError:
    """Send until that fails: a first message may still leave before the answer comes."""
    with pytest.raises(OSError) as caught:  # noqa: PT012
        while True:
            conn.send_bytes(bytes(1 << 20))
    return caught.value


@pytest.mark.parametrize("address", [("localhost", 0), None])
def test_a_farewell_is_received_after_a_failed_send(
    certificates: Certificates, address: Any
) -> None:
    client_side = certificates.client_side(hostname="the-listener")
    server, client = meet(address, certificates.server_side(), client_side)
    with client:
        server.send("farewell")
        server.send_bytes(b"in two parts")
        server.close()
        assert isinstance(fail_to_send(client), BrokenPipeError | ConnectionResetError)
        for _ in range(3):
            with pytest.raises(BrokenPipeError):
                client.send(1)
        assert wait([client]) == [client] and client.poll()
        assert client.recv() == "farewell"
        with pytest.raises(BrokenPipeError):
            client.send(1)
        assert client.recv_bytes() == b"in two parts"
        for _ in range(2):
            with pytest.raises(EOFError):
                client.recv()


def test_a_receiving_thread_gets_all_while_another_one_fails_to_send(
    certificates: Certificates,
) -> None:
    # A local socket: it holds what was sent, whereas TCP may still have it at the sender's.
    client_side = certificates.client_side(hostname="the-listener")
    server, client = meet(None, certificates.server_side(), client_side)
    received: list[Any] = []

    def receive() -> None:
        # A reset, if what the other thread sends comes just before the other side is closed.
        with contextlib.suppress(EOFError, ConnectionResetError):
            while True:
                received.append(client.recv())

    with client:
        thread = threading.Thread(target=receive)
        thread.start()
        for number in range(200):
            server.send((number, "x" * (number * 10)))
        server.close()
        fail_to_send(client)
        thread.join()
    assert [number for number, _ in received] == list(range(200))


def test_after_a_cut_line_neither_direction_blames_a_handler(
    certificates: Certificates,
) -> None:
    server, client = meet(("localhost", 0), certificates.server_side(), certificates.client_side())
    with client:
        reset_at_close(server)
        server.close()
        assert isinstance(fail_to_send(client), BrokenPipeError | ConnectionResetError)
        with pytest.raises(BrokenPipeError):
            client.send(1)
        with pytest.raises((ConnectionResetError, EOFError)):
            client.recv()


def test_a_failed_send_tells_the_reason_that_the_other_side_gave(
    certificates: Certificates,
) -> None:
    server_side = certificates.server_side(cafile=certificates.authority)
    with Listener(("localhost", 0), tls=server_side) as listener:
        accepting = Accepting(listener)
        with Client(listener.address, tls=certificates.client_side()) as client:
            for error in (fail_to_send(client), fail_to_send(client)):
                assert isinstance(error, ssl.SSLError)
                assert error.reason == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
            with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
                client.recv()
        known = TLS(certificates.client, cafile=certificates.authority)
        with Client(listener.address, tls=known), accepting.result():
            pass


def send_and_end(listener: Listener, how: str) -> None:
    conn = listener.accept()
    conn.send("hello")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("how", ["killed", "in order"])
def test_the_end_of_the_other_process(certificates: Certificates, how: str) -> None:
    context = sidestep.get_context("fork")
    with Listener(("localhost", 0), authkey=KEY, tls=certificates.server_side()) as listener:
        child = context.Process(target=send_and_end, args=(listener, how))
        child.start()
        with Client(listener.address, authkey=KEY, tls=certificates.client_side()) as client:
            assert client.recv() == "hello"
            with pytest.raises(ConnectionResetError if how == "killed" else EOFError):
                client.recv()
        child.join()
        child.close()


def test_a_message_cut_by_a_handler_goes_on(pair: Pair) -> None:
    """Ctrl-C in the middle of a message, on either side, does not tear the stream."""
    server, client = pair
    blob = os.urandom(1 << 20) * 8

    class Cut(Exception):
        pass

    def handler(number: int, frame: object) -> None:
        raise Cut

    before = signal.signal(signal.SIGALRM, handler)
    received: list[bytes] = []
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Cut):
            server.send_bytes(blob)  # nobody reads: it waits
        thread = threading.Thread(
            target=lambda: received.extend([client.recv_bytes(), client.recv_bytes()])
        )
        thread.start()
        server.send_bytes(b"next")
        thread.join()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert received == [blob, b"next"]


def test_a_connection_stays_in_its_process(pair: Pair) -> None:
    server, client = pair
    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(client)
    reader, writer = sidestep.Pipe(duplex=False)

    def child() -> None:
        try:
            client.send("from the child")
        except OSError as error:
            writer.send(str(error))
        client.close()

    forked = sidestep.get_context("fork").Process(target=child)
    with reader, writer:
        forked.start()
        assert "process that made it" in reader.recv()
        forked.join()
        forked.close()
    client.send("from the parent")
    assert server.recv() == "from the parent"


# --- who is let in ----------------------------------------------------------------------------


@pytest.mark.parametrize("key", [KEY, None])
def test_contexts_of_ones_own(certificates: Certificates, key: bytes | None) -> None:
    server, client = meet(
        ("localhost", 0), certificates.server_context(), certificates.client_context(), key
    )
    with server, client:
        client.send(1)
        assert server.recv() == 1
        server.send(2)
        assert client.recv() == 2


@pytest.mark.parametrize("address", ["\0sidestep-tls-test", None])
def test_local_addresses_need_a_name(certificates: Certificates, address: str | None) -> None:
    if address:
        address += str(os.getpid())
    with Listener(address, tls=certificates.server_side()) as listener:
        with pytest.raises(ValueError, match="hostname="):
            Client(listener.address, tls=certificates.client_side())
    server, client = meet(
        address, certificates.server_side(), certificates.client_side(hostname="the-listener")
    )
    with server, client:
        client.send(1)
        assert server.recv() == 1


@pytest.mark.parametrize("which", ["certfile", "keyfile", "cafile"])
@pytest.mark.parametrize("side", ["listener", "client"])
def test_a_file_that_is_missing_is_named(certificates: Certificates, which: str, side: str) -> None:
    files: dict[str, Any] = {"certfile": certificates.server, which: "/nosuch.pem"}
    with pytest.raises(FileNotFoundError) as caught:  # noqa: PT012
        if side == "listener":
            Listener(("localhost", 0), tls=TLS(**files))
        else:
            Client(("localhost", 1), tls=TLS(**files))
    assert caught.value.filename == "/nosuch.pem" and "/nosuch.pem" in str(caught.value)


def test_another_server_is_not_believed(certificates: Certificates) -> None:
    with Listener(("localhost", 0), authkey=KEY, tls=TLS(certificates.stranger)) as listener:
        accepting = Accepting(listener)
        with pytest.raises(ssl.SSLCertVerificationError):
            Client(listener.address, authkey=KEY, tls=certificates.client_side())
        # That is no reason for the listener to stop.
        trusting = TLS(cafile=certificates.other_authority)
        with Client(listener.address, authkey=KEY, tls=trusting), accepting.result():
            pass


def test_a_name_that_the_certificate_has_not_got(certificates: Certificates) -> None:
    with Listener(("localhost", 0), tls=certificates.server_side()) as listener:
        accepting = Accepting(listener)
        with pytest.raises(ssl.SSLCertVerificationError, match="mismatch|doesn't match|not valid"):
            Client(listener.address, tls=certificates.client_side(hostname="somebody-else"))
        with Client(listener.address, tls=certificates.client_side()), accepting.result():
            pass


def test_another_key_is_refused_inside(certificates: Certificates) -> None:
    with Listener(("localhost", 0), authkey=KEY, tls=certificates.server_side()) as listener:
        accepting = Accepting(listener)
        with pytest.raises(AuthenticationError, match="rejected"):
            Client(listener.address, authkey=b"another", tls=certificates.client_side())
        with pytest.raises(AuthenticationError, match="wrong"):
            accepting.result()


def test_clients_show_certificates_if_that_is_asked_for(certificates: Certificates) -> None:
    server_side = certificates.server_side(cafile=certificates.authority)
    known = TLS(certificates.client, cafile=certificates.authority)
    unknown = TLS(certificates.stranger, cafile=certificates.authority)
    # With certificates of clients, a network address needs no key.
    with Listener(("0.0.0.0", 0), tls=server_side) as listener:
        address: Any = ("localhost", listener.address[1])
        accepting = Accepting(listener)
        for tls in (certificates.client_side(), unknown):
            with pytest.raises(OSError):  # noqa: PT012 - the alert may come with either call
                with Client(address, tls=tls) as client:
                    client.recv()
        with Client(address, tls=known) as client, accepting.result() as server:
            client.send("it is me")
            assert server.recv() == "it is me"
    with pytest.raises(ValueError, match="authkey"):
        Listener(("0.0.0.0", 0), tls=certificates.server_side())


@pytest.mark.parametrize(
    "noise",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(300_000), b"\0\0\0\x05hello"],
)
def test_garbage_instead_of_tls_is_dropped(certificates: Certificates, noise: bytes) -> None:
    with Listener(("localhost", 0), authkey=KEY, tls=certificates.server_side()) as listener:
        accepting = Accepting(listener)
        address: Any = listener.address
        with socket.create_connection(address) as stranger, contextlib.suppress(ConnectionError):
            stranger.sendall(noise)
            while stranger.recv(4096):
                pass
        with socket.create_connection(address):  # and one who is silent
            with Client(address, authkey=KEY, tls=certificates.client_side()):
                accepting.result().close()


def call_without_tls(listener: Listener, key: bytes | None, log: list[str]) -> BaseException:
    """What a client gets that has forgotten TLS; its line will be in the log."""
    caught: list[BaseException] = []

    def call() -> None:
        try:
            with Client(listener.address, authkey=key) as client:
                client.send("a message at once")
                while True:
                    client.recv_bytes()
        except (EOFError, OSError) as error:
            caught.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    listener._listener._socket.settimeout(0.05)  # type: ignore[union-attr]
    while not log:
        with pytest.raises(TimeoutError):
            listener.accept()
    thread.join()
    return caught[0]


def test_who_forgets_tls_and_waits_is_told_on_both_sides(
    certificates: Certificates, log: list[str]
) -> None:
    server_side = certificates.server_side()
    with Listener(
        ("localhost", 0), authkey=KEY, tls=server_side, handshake_timeout=0.05
    ) as listener:
        error = call_without_tls(listener, KEY, log)
    assert isinstance(error, EOFError)
    assert str(error) == (
        "the other side closed the connection during the handshake: is it a listener with TLS, "
        "which wants tls=...?"
    )
    assert log[0].endswith(
        ": it did not complete the handshake within 0.05 seconds, and sent nothing: is it a "
        "client without tls=?"
    )


def test_who_forgets_tls_and_sends_is_told_in_the_log(
    certificates: Certificates, log: list[str]
) -> None:
    with Listener(("localhost", 0), tls=certificates.server_side()) as listener:
        call_without_tls(listener, None, log)
    assert log[0].endswith(": the other side does not speak TLS: is it a client without tls=?")


def test_a_failure_of_tls_is_a_sentence_in_the_log(
    certificates: Certificates, log: list[str]
) -> None:
    with Listener(("localhost", 0), authkey=KEY, tls=TLS(certificates.stranger)) as listener:
        accepting = Accepting(listener)
        with pytest.raises(ssl.SSLCertVerificationError):
            Client(listener.address, authkey=KEY, tls=certificates.client_side())
        trusting = TLS(cafile=certificates.other_authority)
        with Client(listener.address, authkey=KEY, tls=trusting), accepting.result():
            pass
    (line,) = (line for line in log if "dropped" in line)
    assert line.endswith(": TLS failed: TLSV1_ALERT_UNKNOWN_CA")


def test_a_client_with_tls_finds_a_listener_without(certificates: Certificates) -> None:
    with Listener(("localhost", 0), authkey=KEY, handshake_timeout=0.2) as listener:
        accepting = Accepting(listener)
        with pytest.raises(OSError):
            Client(listener.address, authkey=KEY, tls=certificates.client_side())
        with Client(listener.address, authkey=KEY), accepting.result():
            pass


def test_a_client_without_tls_finds_a_listener_with_it(certificates: Certificates) -> None:
    options: Any = {"tls": certificates.server_side(), "handshake_timeout": 0.2}
    with Listener(("localhost", 0), authkey=KEY, **options) as listener:
        accepting = Accepting(listener)
        with pytest.raises((EOFError, OSError)):
            Client(listener.address, authkey=KEY)
        with Client(listener.address, authkey=KEY, tls=certificates.client_side()):
            accepting.result().close()


def test_wrong_descriptions_are_errors_at_once(certificates: Certificates) -> None:
    server, client = certificates.server_context(), certificates.client_context()
    wrong: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: Listener(tls="yes"), TypeError, "TLS or an ssl.SSLContext"),  # type: ignore
        (lambda: Listener(tls=client), TypeError, "the other side"),
        (lambda: Client(("localhost", 1), tls=server), TypeError, "the other side"),
        (lambda: Listener(tls=TLS()), ValueError, "certfile"),
        (lambda: TLS(mutual=True), ValueError, "cafile"),
        (lambda: Listener(tls=TLS("/nowhere/at/all")), FileNotFoundError, "No such file"),
        (lambda: BaseManager(tls=server), TypeError, "other processes"),  # type: ignore[arg-type]
    ]
    for call, error, text in wrong:
        with pytest.raises(error, match=text):
            call()


def test_a_description_survives_pickling(certificates: Certificates) -> None:
    tls = TLS(certificates.server, hostname="the-listener")
    assert repr(pickle.loads(pickle.dumps(tls))) == repr(tls)


def test_xml_through_tls(certificates: Certificates) -> None:
    with connection.XmlListener(authkey=KEY, tls=certificates.server_side()) as listener:
        accepting = Accepting(listener)
        client = connection.XmlClient(
            listener.address, authkey=KEY, tls=certificates.client_side(hostname="localhost")
        )
        server = accepting.result()
        client.send([1, "two"])
        assert wait([server]) == [server]
        assert server.recv() == [1, "two"]
        client.close()
        server.close()


# --- managers ---------------------------------------------------------------------------------


class Manager(BaseManager):
    pass


class Holder:
    def __init__(self) -> None:
        self.held: list[Any] = []

    def hold(self, thing: Any) -> int:
        self.held.append(thing)
        return len(self.held)

    def first(self) -> Any:
        return self.held[0]

    def make(self) -> list[int]:
        return [1, 2, 3]


Manager.register("Plain", list, exposed=["append", "__len__"])
Manager.register(
    "Holder", Holder, exposed=["hold", "first", "make"], method_to_typeid={"make": "Plain"}
)


def append_to(proxy: BaseProxy, value: int) -> None:
    proxy._callmethod("append", (value,))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("address", [("localhost", 0), None])
def test_a_managers_proxies_reach_it_through_tls_from_everywhere(
    certificates: Certificates, method: str, address: Any
) -> None:
    tls = TLS(certificates.server, cafile=certificates.authority, hostname="localhost")
    context = sidestep.get_context(method)
    manager = Manager(address, authkey=KEY, ctx=context, tls=tls)
    with manager:
        # Without TLS there is no way in, and not so much as a challenge.
        plain: Any = connection._plain(manager.address)
        family = socket.AF_INET if isinstance(plain, tuple) else socket.AF_UNIX
        with socket.socket(family) as stranger:
            stranger.connect(plain)
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while data := stranger.recv(100):
                    answer += data
            assert b"#CHALLENGE#" not in answer
        shared: Any = manager.Plain()  # type: ignore[attr-defined]
        child = context.Process(target=append_to, args=(shared, 1))
        child.start()
        child.join()
        assert child.exitcode == 0
        child.close()
        assert shared._callmethod("__len__") == 1
        # A bare fork, whose copy of the connection is of no use.
        forked = os.fork()
        if not forked:
            try:
                append_to(shared, 1)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(forked, 0)[1] == 0
        assert shared._callmethod("__len__") == 2
        assert shared._callmethod("append", (1,)) is None
        # A proxy in the server, and one for a result.
        holder: Any = manager.Holder()  # type: ignore[attr-defined]
        assert holder._callmethod("hold", (shared,)) == 1
        again = holder._callmethod("first")
        again._callmethod("append", (2,))
        assert shared._callmethod("__len__") == 4
        made = holder._callmethod("make")
        assert made._callmethod("__len__") == 3
        # A manager that connects, with a description of its own.
        other = Manager(
            connection._plain(manager.address),
            authkey=KEY,
            tls=TLS(certificates.client, cafile=certificates.authority, hostname="localhost"),
        )
        other.connect()
        assert other.Plain()._callmethod("__len__") == 0  # type: ignore[attr-defined]
        del shared, holder, again, made, other
    manager.join()


@pytest.mark.parametrize("missing", ["cafile", "hostname"])
def test_a_manager_that_does_not_believe_itself_does_not_start(
    certificates: Certificates, missing: str
) -> None:
    if missing == "cafile":
        tls = TLS(certificates.server)
    else:
        tls = TLS(certificates.server, cafile=certificates.authority, hostname="another")
    manager = Manager(("localhost", 0), authkey=KEY, ctx=sidestep.get_context("fork"), tls=tls)
    with pytest.raises(ssl.SSLCertVerificationError, match="cafile=.*hostname="):
        manager.start()
    manager.join()
    assert manager._process is None


def test_what_is_told_of_an_address_goes_before_what_comes_with_it() -> None:
    theirs, ours = TLS(cafile="theirs"), TLS(cafile="ours")
    carried = connection._encrypted(("somewhere", 1), theirs)
    assert carried == ("somewhere", 1) and hash(carried) == hash(("somewhere", 1))
    assert pickle.loads(pickle.dumps(carried)).tls.cafile == theirs.cafile
    connection._reached_through(("somewhere", 1), ours)
    try:
        assert pickle.loads(pickle.dumps(carried)).tls.cafile == ours.cafile
    finally:
        del connection._told["somewhere", 1]
