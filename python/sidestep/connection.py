"""Connections between processes: pipes, listeners, clients, and waiting for many at once.

A `Connection` carries messages: bytes, or objects as pickles. `Pipe` makes two that are
connected; `Listener` and `Client` meet at an address, on this machine or on another one, and
speak the standard library's protocol, so either side may be a Python without sidestep.
"""

import hmac
import operator
import os
import select
import socket
import tempfile
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Protocol, Self, SupportsIndex, TypeAlias, cast

from . import _original, _sidestep, context, reduction, util
from .context import AuthenticationError
from .context import BufferTooShort as BufferTooShort
from .queues import _Reader

__all__ = ["Client", "Listener", "Pipe", "wait"]

Address: TypeAlias = str | bytes | tuple[str, int]

default_family = "AF_UNIX"
families = ["AF_INET", "AF_UNIX"]


@_original.descend("connection")
class Connection(_sidestep.Connection):
    """One end of a connection: sends and receives whole messages.

    Made by `Pipe`, `Client` and `Listener.accept`, or from the number of a descriptor, which it
    then owns. Any thread may use it, one at a time for each direction. If the process at the
    other end dies, `recv` raises EOFError once everything that was sent has been read (OSError
    if the last message was cut), and `send` raises BrokenPipeError or ConnectionResetError.

    Same as: `multiprocessing.connection.Connection`. Differs: an exception out of a signal
    handler (Ctrl-C) in the middle of a message does not tear the stream, the next call goes on.
    """

    def __reduce__(self) -> tuple[Callable[..., "Connection"], tuple[Any, ...]]:
        if type(self) is not Connection:
            raise TypeError(
                f"cannot pickle {type(self).__name__}: register a reducer for it with "
                "reduction.register"
            )
        return reduce_connection(self)


class _HasFileno(Protocol):
    def fileno(self) -> int: ...


class _BytesChannel(Protocol):
    """What the handshake needs of a connection."""

    def send_bytes(self, buf: bytes, /) -> None: ...
    def recv_bytes(self, maxlength: int, /) -> bytes: ...


def Pipe(duplex: bool = True) -> tuple[Connection, Connection]:
    """Return two connected connections.

    Args:
        duplex: Both ends send and receive. When false the first one only receives, the second
            one only sends.

    Messages travel through the family's shared memory; about a megabyte may be unread in each
    direction before `send` waits. What was sent is received even if the sender has died since.
    Each end stays open as long as one process holds it: a reader sees the end of the stream
    only after every copy of the other end is closed, or its processes have died.
    """
    first, second = _sidestep.pipe_pair()
    return Connection(first, True, bool(duplex)), Connection(second, bool(duplex), True)


# --- waiting ------------------------------------------------------------------------------

# The longest single wait of poll(2), in milliseconds.
_LONGEST_WAIT = 2**31 - 1
# A pipe or queue is looked at again so often, in milliseconds: a pipe's sender may have been killed
# between a message and the bell, a queue's producer may live in another network namespace.
_LONGEST_SHARED_WAIT = 500


def wait(object_list: Iterable[Any], timeout: float | None = None) -> list[Any]:
    """Wait until at least one object is ready to be read, and return all that are.

    Args:
        object_list: Connections, the `_reader` of queues, sockets, sentinels of processes,
            descriptors, or anything with a `fileno` method; any iterable.
        timeout: Longest wait in seconds; None waits for ever, 0 or less only looks.

    Returns:
        The ready ones, in the order given; empty after the timeout. An object whose other side
        is gone counts as ready.
    """
    objects = list(object_list)
    deadline = None if timeout is None else time.monotonic() + timeout
    poller = select.poll()
    # Whether a pipe or a queue has something is told by its shared memory; its descriptor only
    # wakes us.
    shared: set[int] = set()
    numbers: list[int] = []
    for position, thing in enumerate(objects):
        if isinstance(thing, _Reader) or (
            isinstance(thing, _sidestep.Connection) and thing._ringed
        ):
            shared.add(position)
            number = thing._handle
            if number is None:
                raise OSError("handle is closed")
        else:
            number = _fileno(thing)
        poller.register(number, select.POLLIN)
        numbers.append(number)
    while True:
        ready = {position for position in shared if objects[position]._probe()}
        if ready:
            limit: float | None = 0
        elif deadline is None:
            limit = _LONGEST_SHARED_WAIT if shared else None
        else:
            limit = min(
                max(0.0, deadline - time.monotonic()) * 1000,
                _LONGEST_SHARED_WAIT if shared else _LONGEST_WAIT,
            )
        woken = {number for number, _ in poller.poll(limit)}
        for position, number in enumerate(numbers):
            if number in woken and (position not in shared or objects[position]._probe()):
                ready.add(position)
        if ready:
            return [objects[position] for position in sorted(ready)]
        if deadline is not None and time.monotonic() >= deadline:
            return []


def _fileno(thing: SupportsIndex | _HasFileno) -> int:
    """The descriptor behind a number or an object with a `fileno` method."""
    fileno = getattr(thing, "fileno", None)
    number = operator.index(cast(SupportsIndex, thing)) if fileno is None else fileno()
    if number < 0:
        raise ValueError(f"invalid file descriptor: {number}")
    return number


# --- addresses ----------------------------------------------------------------------------


def arbitrary_address(family: str) -> Address:
    """Return a free address of the given family."""
    if family == "AF_INET":
        return ("localhost", 0)
    if family == "AF_UNIX":
        # Within a directory that only this user can enter, so nobody can take the name.
        directory = util.get_temp_dir()
        names = tempfile._get_candidate_names()  # type: ignore[attr-defined]
        while True:
            path = os.path.join(directory, "listener-" + next(names))
            if not os.path.lexists(path):
                return path
    raise ValueError("unrecognized family")


def address_type(address: Address) -> str:
    """Return the family that an address belongs to: "AF_INET", "AF_UNIX" or "AF_PIPE"."""
    if isinstance(address, tuple):
        return "AF_INET"
    if isinstance(address, str) and address.startswith("\\\\"):
        return "AF_PIPE"
    if isinstance(address, str) or (
        isinstance(address, bytes) and util.is_abstract_socket_namespace(address)
    ):
        return "AF_UNIX"
    raise ValueError(f"address type of {address!r} unrecognized")


def _check_family(family: str) -> None:
    if family not in families:
        raise ValueError(f"Family {family} is not recognized.")


def _check_authkey(authkey: bytes | None) -> None:
    if authkey is not None and not isinstance(authkey, bytes):
        raise TypeError("authkey should be a byte string")


# --- listener and client ------------------------------------------------------------------


@_original.descend("connection")
class Listener(_original.Root):
    """A bound socket that waits for clients.

    Args:
        address: Where to listen: (host, port), a path, or an abstract name that begins with a
            null byte. Without one, a free address of `family` is taken.
        family: "AF_INET" or "AF_UNIX"; found from the address by default.
        backlog: How many clients may wait to be accepted.
        authkey: A secret that clients have to prove to know, and we to them. Without one,
            whoever reaches the address can connect, and pickles run code: use it on networks.

    A path is unlinked by `close`, or when the process ends in order.
    """

    def __init__(
        self,
        address: Address | None = None,
        family: str | None = None,
        backlog: int = 1,
        authkey: bytes | None = None,
    ) -> None:
        if not family:
            family = address_type(address) if address else default_family
        _check_family(family)
        _check_authkey(authkey)
        self._listener: SocketListener | None = SocketListener(
            address or arbitrary_address(family), family, backlog
        )
        self._authkey = authkey

    def accept(self) -> Connection:
        """Wait for a client and return the connection to it.

        Raises:
            AuthenticationError: The client does not know the key; the connection is closed.
            OSError: The listener is closed.
        """
        if self._listener is None:
            raise OSError("listener is closed")
        connection = self._listener.accept()
        if self._authkey is not None:
            with _closed_on_error(connection):
                deliver_challenge(connection, self._authkey)
                answer_challenge(connection, self._authkey)
        return connection

    def close(self) -> None:
        """Close the socket, and unlink its path."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    @property
    def address(self) -> Address:
        """Where clients connect to (with the port that was really taken)."""
        return self._open()._address

    @property
    def last_accepted(self) -> Any:
        """The address of the client that was accepted last, or None."""
        return self._open()._last_accepted

    def _open(self) -> "SocketListener":
        if self._listener is None:
            raise AttributeError("listener is closed")
        return self._listener

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def Client(address: Address, family: str | None = None, authkey: bytes | None = None) -> Connection:
    """Connect to the `Listener` at an address.

    Args:
        address: The listener's address.
        family: Found from the address by default.
        authkey: The listener's secret, if it has one.

    Raises:
        AuthenticationError: The keys differ.
        OSError: Nobody listens there (ConnectionRefusedError, FileNotFoundError, ...).
    """
    _check_family(family or address_type(address))
    _check_authkey(authkey)
    connection = SocketClient(address)
    if authkey is not None:
        with _closed_on_error(connection):
            answer_challenge(connection, authkey)
            deliver_challenge(connection, authkey)
    return connection


class _closed_on_error:
    """Closes a connection if the block raises: a client that failed must not hold a slot."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        if kind is not None:
            self._connection.close()


@_original.descend("connection")
class SocketListener(_original.Root):
    """The listening socket behind a `Listener`."""

    def __init__(self, address: Address, family: str, backlog: int = 1) -> None:
        self._family = family
        self._last_accepted: Any = None
        self._unlink: Callable[[], object] | None = None
        self._socket = socket.socket(getattr(socket, family))
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # The default timeout of the socket module must not reach into connections.
            self._socket.setblocking(True)
            self._socket.bind(address)
            self._socket.listen(backlog)
            self._address: Address = self._socket.getsockname()
        except OSError:
            self._socket.close()
            raise
        if isinstance(address, str | bytes) and not util.is_abstract_socket_namespace(address):
            self._unlink = util.Finalize(self, os.unlink, args=(address,), exitpriority=0)

    def accept(self) -> Connection:
        """Wait for a client."""
        peer, self._last_accepted = self._socket.accept()
        peer.setblocking(True)
        _send_at_once(peer)
        return Connection(peer.detach())

    def close(self) -> None:
        """Close the socket and unlink its path."""
        unlink, self._unlink = self._unlink, None
        try:
            self._socket.close()
        finally:
            if unlink is not None:
                unlink()


def SocketClient(address: Address) -> Connection:
    """Connect to a socket, without any handshake."""
    with socket.socket(getattr(socket, address_type(address))) as peer:
        peer.setblocking(True)
        peer.connect(address)
        _send_at_once(peer)
        return Connection(peer.detach())


def _send_at_once(peer: socket.socket) -> None:
    """Have the kernel not wait for more: a handshake and a first request are short messages."""
    if peer.family != socket.AF_UNIX:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


# --- authentication -----------------------------------------------------------------------
#
# Both sides prove, one after the other, that they know the key, without sending it:
#
#     server                                client
#     #CHALLENGE# + message       ->        MAC = HMAC(key, message)
#     compare                     <-        {digest} + MAC
#     #WELCOME# or #FAILURE#      ->
#
# A message begins with the name of the digest, as in {sha256}, which is part of what is signed:
# nobody on the way can make the two agree on a weaker one. Python up to 3.11 knows only MD5: it
# sends messages of exactly 20 bytes, and answers anything with a bare MAC of 16 bytes. Nothing
# in the newer form has one of these lengths, so the form is told by the length.

CHALLENGE = _CHALLENGE = b"#CHALLENGE#"
WELCOME = _WELCOME = b"#WELCOME#"
FAILURE = _FAILURE = b"#FAILURE#"

MESSAGE_LENGTH = 40
_OLD_CHALLENGE_LENGTH = 20
_OLD_RESPONSE_LENGTH = 16
_ALLOWED_DIGESTS = frozenset({"md5", "sha256", "sha384", "sha3_256", "sha3_384"})
# Nothing longer is read from a peer that has not proved anything yet.
_LONGEST_MESSAGE = 256


def _split_digest(message: bytes) -> tuple[str, bytes]:
    """The digest that a message names (empty in the old form), and what follows the name."""
    if len(message) in (_OLD_CHALLENGE_LENGTH, _OLD_RESPONSE_LENGTH):
        return "", message
    name, brace, payload = message[1:].partition(b"}")
    if message[:1] == b"{" and brace:
        digest = name.decode("ascii", "replace")
        if digest in _ALLOWED_DIGESTS:
            return digest, payload
    raise AuthenticationError(
        "the other side sent neither an old message nor one with a supported digest "
        f"({', '.join(sorted(_ALLOWED_DIGESTS))}): {message!r}"
    )


def _create_response(authkey: bytes, message: bytes) -> bytes:
    """Answer a challenge, in the form and with the digest that it asks for."""
    digest, _ = _split_digest(message)
    if not digest:
        try:
            return hmac.digest(authkey, message, "md5")
        except ValueError:
            # No MD5 on a machine with strict rules: the one thing left to try.
            digest = "sha256"
    return b"{%s}%s" % (digest.encode("ascii"), hmac.digest(authkey, message, digest))


def _verify_challenge(authkey: bytes, message: bytes, response: bytes) -> None:
    """Check the answer to our challenge.

    Raises:
        AuthenticationError: It was not made with the key, or by a digest that we do not have.
    """
    digest, mac = _split_digest(response)
    digest = digest or "md5"
    try:
        expected = hmac.digest(authkey, message, digest)
    except ValueError:
        raise AuthenticationError(f"digest {digest!r} is not available here") from None
    if len(mac) != len(expected):
        raise AuthenticationError(
            f"expected a {digest} digest of {len(expected)} bytes, got {len(mac)}"
        )
    if not hmac.compare_digest(mac, expected):
        raise AuthenticationError("digest received was wrong")


def _check_handshake_key(authkey: bytes) -> None:
    if not isinstance(authkey, bytes):
        raise ValueError(f"Authkey must be bytes, not {type(authkey)}")


def deliver_challenge(
    connection: _BytesChannel, authkey: bytes, digest_name: str = "sha256"
) -> None:
    """Let the other side prove that it knows the key.

    Raises:
        AuthenticationError: It could not; it has been told so.
    """
    _check_handshake_key(authkey)
    message = b"{%s}%s" % (digest_name.encode("ascii"), os.urandom(MESSAGE_LENGTH))
    connection.send_bytes(_CHALLENGE + message)
    response = connection.recv_bytes(_LONGEST_MESSAGE)
    try:
        _verify_challenge(authkey, message, response)
    except AuthenticationError:
        connection.send_bytes(_FAILURE)
        raise
    connection.send_bytes(_WELCOME)


def answer_challenge(connection: _BytesChannel, authkey: bytes) -> None:
    """Prove to the other side that we know the key.

    Raises:
        AuthenticationError: The other side did not accept it, or does not speak the protocol.
    """
    _check_handshake_key(authkey)
    message = connection.recv_bytes(_LONGEST_MESSAGE)
    if not message.startswith(_CHALLENGE):
        raise AuthenticationError(f"expected a challenge, got {message!r}")
    message = message[len(_CHALLENGE) :]
    # A short challenge would let whoever picks it replay an answer heard earlier.
    if len(message) < _OLD_CHALLENGE_LENGTH:
        raise AuthenticationError(f"the challenge is too short: {len(message)} bytes")
    connection.send_bytes(_create_response(authkey, message))
    if connection.recv_bytes(_LONGEST_MESSAGE) != _WELCOME:
        raise AuthenticationError("digest sent was rejected")


# --- XML instead of pickles ---------------------------------------------------------------


@_original.descend("connection")
class ConnectionWrapper(_original.Root):
    """A connection whose objects are serialised by two given functions."""

    def __init__(
        self,
        conn: Connection,
        dumps: Callable[[Any], bytes],
        loads: Callable[[bytes], Any],
    ) -> None:
        self._conn = conn
        self._dumps = dumps
        self._loads = loads
        self.fileno = conn.fileno
        self.close = conn.close
        self.poll = conn.poll
        self.recv_bytes = conn.recv_bytes
        self.send_bytes = conn.send_bytes

    def send(self, obj: Any) -> None:
        """Serialise an object and send it."""
        self._conn.send_bytes(self._dumps(obj))

    def recv(self) -> Any:
        """Receive an object."""
        return self._loads(self._conn.recv_bytes())


def _xml_dumps(obj: Any) -> bytes:
    import xmlrpc.client

    return xmlrpc.client.dumps((obj,), None, None, None, True).encode("utf-8")


def _xml_loads(data: bytes) -> Any:
    import xmlrpc.client

    (obj,), _ = xmlrpc.client.loads(data.decode("utf-8"))
    return obj


@_original.descend("connection")
class XmlListener(Listener):
    """A `Listener` whose connections carry objects as XML-RPC does, not as pickles."""

    def accept(self) -> Any:
        """Wait for a client and return the connection to it."""
        return ConnectionWrapper(super().accept(), _xml_dumps, _xml_loads)


def XmlClient(
    address: Address, family: str | None = None, authkey: bytes | None = None
) -> ConnectionWrapper:
    """Connect to an `XmlListener`."""
    return ConnectionWrapper(Client(address, family, authkey), _xml_dumps, _xml_loads)


# --- pickling -----------------------------------------------------------------------------


def reduce_connection(
    conn: Connection,
) -> tuple[Callable[..., Connection], tuple[Any, ...]]:
    """Pickle a connection as a duplicate of its descriptor, for a child or another process.

    The end of a pipe also tells where the pipe lies in shared memory. A child that is started by
    somebody else's code does not belong to the family: for it the pipe turns into a plain stream.
    """
    if not conn._ringed:
        return rebuild_connection, (reduction.DupFd(conn.fileno()), conn.readable, conn.writable)
    popen = context.get_spawning_popen()
    if popen is None:
        return _rebuild_end, (_PipeTicket(conn), None, conn.readable, conn.writable)
    handle = conn._handle
    assert handle is not None  # `_ringed` is false for a closed connection
    try:
        place = conn._export()
    except RuntimeError:
        conn._to_stream()
        return rebuild_connection, (reduction.DupFd(handle), conn.readable, conn.writable)
    return _rebuild_end, (reduction.DupFd(handle), place, conn.readable, conn.writable)


def rebuild_connection(df: Any, readable: bool, writable: bool) -> Connection:
    """Take the duplicate, in the process that unpickles."""
    return Connection(df.detach(), readable, writable)


_Place: TypeAlias = tuple[int, int, int]


def _rebuild_end(df: Any, place: _Place | None, readable: bool, writable: bool) -> Connection:
    """Take the duplicate of a pipe's socket, and join the pipe."""
    fd = df.detach()
    if place is not None:
        _joined(fd, place)
    return Connection(fd, readable, writable)


def _joined(fd: int, place: _Place) -> None:
    try:
        _sidestep.join_pipe(fd, place)
    except BaseException:
        os.close(fd)
        raise


class _PipeTicket:
    """The end of a pipe inside a pickle: the sender keeps it until the receiver fetches it."""

    def __init__(self, conn: Connection) -> None:
        handle = conn._handle
        assert handle is not None
        copy = os.dup(handle)
        held = [conn._hold()]
        self._place = conn._place()

        def send(link: Connection, pid: int) -> None:
            reduction.send_handle(link, copy, pid)
            # Not before the receiver has joined the pipe may our hold on it end.
            link.recv_bytes(1)

        def close() -> None:
            os.close(copy)
            held.clear()

        from . import resource_sharer

        try:
            self._ticket = resource_sharer._resource_sharer.register(send, close)
        except BaseException:
            close()
            raise

    def detach(self) -> int:
        """Fetch the socket and join the pipe.

        Raises:
            SenderLostError: The sender has ended, or this ticket was redeemed before.
        """
        from . import resource_sharer

        try:
            with resource_sharer._resource_sharer.get_connection(self._ticket) as link:
                fd = reduction.recv_handle(link)
                _joined(fd, self._place)
                link.send_bytes(b"")
        except (OSError, EOFError) as error:
            raise resource_sharer.SenderLostError(
                "the end of a pipe cannot be fetched: the process that sent it has ended, or it "
                "was fetched before"
            ) from error
        return fd


reduction.register(Connection, reduce_connection)
