"""Connections between processes: pipes, listeners, clients, and waiting for many at once.

A `Connection` carries messages: bytes, or objects as pickles. `Pipe` makes two that are
connected; `Listener` and `Client` meet at an address, on this machine or on another one, and
speak the standard library's protocol, so either side may be a Python without sidestep. With
`TLS`, which the standard library has not got, nobody on the way can read along.
"""

from __future__ import annotations

import operator
import os
import select
import socket
import time

from . import _original, _sidestep, context, reduction, util
from .context import AuthenticationError
from .context import BufferTooShort as BufferTooShort
from .queues import _Reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Any, Protocol, Self, SupportsIndex, TypeAlias

    from typing_extensions import TypeVar

    from ._doorkeeper import Doorkeeper

    # What `send` takes and what `recv` returns, for those who want that checked.
    _Sent_contra = TypeVar("_Sent_contra", contravariant=True, default=Any)
    _Received_co = TypeVar("_Received_co", covariant=True, default=Any)

    class _HasFileno(Protocol):
        def fileno(self) -> int: ...

    class _BytesChannel(Protocol):
        """What the handshake needs of a connection."""

        def send_bytes(self, buf: bytes, /) -> None: ...
        def recv_bytes(self, maxlength: int, /) -> bytes: ...

else:
    _Sent_contra = _Received_co = None

__all__ = ["Client", "Listener", "Pipe", "wait"]

# Of IPv6 also (host, port, flow, scope).
Address: TypeAlias = "str | bytes | tuple[Any, ...]"

default_family = "AF_UNIX"
families = ["AF_INET", "AF_UNIX"]

# How many seconds a caller has to prove who it is.
HANDSHAKE_TIMEOUT = 20.0


@_original.descend("connection")
@_sidestep.own_methods
class Connection(_sidestep.Connection[_Sent_contra, _Received_co]):
    """One end of a connection: sends and receives whole messages.

    Made by `Pipe`, `Client` and `Listener.accept`, or from the number of a descriptor, which it
    then owns. Any thread may use it, one at a time for each direction. If the process at the
    other end dies, `recv` raises EOFError once everything that was sent has been read (OSError
    if the last message was cut), and `send` raises BrokenPipeError or ConnectionResetError.

    Same as: `multiprocessing.connection.Connection`. Differs: an exception out of a signal
    handler (Ctrl-C) in the middle of a message does not tear the stream, the next call goes on.
    """

    # Whether `_probe` may know of more than the descriptor shows.
    _reads_ahead = False

    def __reduce__(self) -> tuple[Callable[..., Connection], tuple[Any, ...]]:
        if type(self) is not Connection:
            raise TypeError(
                f"cannot pickle {type(self).__name__}: register a reducer for it with "
                "reduction.register"
            )
        return reduce_connection(self)


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
    try:
        one = Connection(first, True, bool(duplex))
    except BaseException:
        util.close_fds(first, second)
        raise
    try:
        return one, Connection(second, bool(duplex), True)
    except BaseException:
        one.close()
        os.close(second)
        raise


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
    # Whether a pipe or a queue has something is told by its shared memory, and TLS may have
    # decrypted more than it was asked for; the descriptor only wakes us.
    shared: set[int] = set()
    numbers: list[int] = []
    sources = [thing._conn if isinstance(thing, ConnectionWrapper) else thing for thing in objects]
    for position, thing in enumerate(sources):
        if isinstance(thing, _Reader) or (
            isinstance(thing, Connection) and (thing._ringed or thing._reads_ahead)
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
        ready = {position for position in shared if sources[position]._probe()}
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
            if number in woken and (position not in shared or sources[position]._probe()):
                ready.add(position)
        if ready:
            return [objects[position] for position in sorted(ready)]
        if deadline is not None and time.monotonic() >= deadline:
            return []


def _fileno(thing: SupportsIndex | _HasFileno) -> int:
    """The descriptor behind a number or an object with a `fileno` method."""
    fileno = getattr(thing, "fileno", None)
    number: int
    if fileno is not None:
        number = fileno()
    else:
        try:
            index: Any = thing
            number = operator.index(index)
        except TypeError:
            raise ValueError(
                f"cannot wait for {thing!r}: it is no descriptor and has no fileno method"
            ) from None
    if number < 0:
        raise ValueError(f"invalid file descriptor: {number}")
    return number


# --- addresses ----------------------------------------------------------------------------


def arbitrary_address(family: str) -> Address:
    """Return a free address of the given family."""
    if family == "AF_INET":
        return ("localhost", 0)
    if family == "AF_INET6":
        return ("::1", 0)
    if family == "AF_UNIX":
        # Within a directory that only this user can enter, so nobody can take the name.
        directory = util.get_temp_dir()
        # With `random`, `shutil` and the compressors that come along: hardly anybody needs it.
        import tempfile

        names = tempfile._get_candidate_names()  # type: ignore[attr-defined]
        while True:
            path = os.path.join(directory, "listener-" + next(names))
            if not os.path.lexists(path):
                return path
    raise ValueError("unrecognized family")


def address_type(address: Address) -> str:
    """Return the family of an address: "AF_INET", "AF_INET6", "AF_UNIX" or "AF_PIPE"."""
    if isinstance(address, tuple):
        # A colon is in numbers of IPv6 and in no name.
        return "AF_INET6" if address and ":" in str(address[0]) else "AF_INET"
    if isinstance(address, str) and address.startswith("\\\\"):
        return "AF_PIPE"
    if isinstance(address, str) or (
        isinstance(address, bytes) and util.is_abstract_socket_namespace(address)
    ):
        return "AF_UNIX"
    wrong = TypeError if address and not isinstance(address, str | bytes) else ValueError
    raise wrong(f"address type of {address!r} unrecognized")


def _check_family(family: str) -> None:
    if family not in families and family != "AF_INET6":
        raise ValueError(f"Family {family} is not recognized.")


def _check_authkey(authkey: bytes | None) -> None:
    if authkey is not None and not isinstance(authkey, bytes):
        raise TypeError("authkey should be a byte string")


# --- listener and client ------------------------------------------------------------------


class TLS:
    """What TLS needs to know, in a form that can be pickled: names of files.

    Args:
        certfile: The certificate that this side shows, and those that lead to it (PEM). A
            listener needs one.
        keyfile: Its private key; None if it is in `certfile`. Without a password.
        cafile: Certificates of the authorities that the other side's certificate must come
            from (PEM), or that very certificate. For clients None means those that the machine
            trusts.
        hostname: The name that the listener's certificate must have; None takes the host of the
            address. Only clients look at it.
        mutual: Whether a listener wants to see certificates of its clients. None: if it has a
            `cafile`.

    A connection has TLS 1.3, or does not come about. For anything else (passwords, revocation,
    hardware keys) give an `ssl.SSLContext` in place of this; it cannot be pickled.
    """

    def __init__(
        self,
        certfile: str | os.PathLike[str] | None = None,
        keyfile: str | os.PathLike[str] | None = None,
        cafile: str | os.PathLike[str] | None = None,
        *,
        hostname: str | None = None,
        mutual: bool | None = None,
    ) -> None:
        if mutual and cafile is None:
            raise ValueError("mutual=True needs a cafile, which certificates are checked against")
        # Whole paths: a child may stand in another directory.
        self.certfile = None if certfile is None else os.path.abspath(certfile)
        self.keyfile = None if keyfile is None else os.path.abspath(keyfile)
        self.cafile = None if cafile is None else os.path.abspath(cafile)
        self.hostname = hostname
        self.wants_certificates = cafile is not None if mutual is None else mutual

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.certfile!r}, {self.keyfile!r}, {self.cafile!r}, "
            f"hostname={self.hostname!r}, mutual={self.wants_certificates!r})"
        )


class _Encrypted:
    """An address that is reached through TLS; else it is what its other base class is.

    Managers have it: with the address, how it is reached gets to the server, into tokens, and so
    into proxies everywhere.
    """

    tls: TLS

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _arrived, (_plain(self), self.tls)


class _EncryptedHost(_Encrypted, tuple):  # type: ignore[type-arg]
    pass


class _EncryptedPath(_Encrypted, str):
    pass


class _EncryptedName(_Encrypted, bytes):
    pass


_KINDS: dict[type, type] = {tuple: _EncryptedHost, str: _EncryptedPath, bytes: _EncryptedName}

# What this process itself has been told of addresses. It goes before what comes along with one:
# the files that another machine names may not be here.
_told: dict[Any, TLS] = {}


def _plain(address: Any) -> Any:
    return next((kind(address) for kind in _KINDS if isinstance(address, kind)), address)


def _encrypted(address: Any, tls: TLS | None) -> Any:
    """The address as one that is reached through `tls`, if that is not None."""
    if tls is None:
        return address
    plain = _plain(address)
    encrypted = _KINDS[type(plain)](plain)
    encrypted.tls = tls
    return encrypted


def _arrived(address: Any, tls: TLS) -> Any:
    """Unpickle an address."""
    return _encrypted(address, _told.get(address, tls))


def _reached_through(address: Any, tls: TLS | None) -> Any:
    """The address with what the program says of it; None makes one up if it has to say something.

    Raises:
        TypeError: `tls` is not a `TLS`: a context could not be sent anywhere.
    """
    if tls is None:
        return address
    if not isinstance(tls, TLS):
        raise TypeError(
            f"a manager's tls must be a sidestep.connection.TLS, not {type(tls).__name__}: it has "
            "to go to other processes"
        )
    address = address or arbitrary_address(default_family)
    _told[_plain(address)] = tls
    return _encrypted(address, tls)


@_original.descend("connection")
class Listener(_original.Root):
    """A bound socket that waits for clients.

    Args:
        address: Where to listen: (host, port), a path, or an abstract name that begins with a
            null byte. Without one, a free address of `family` is taken.
        family: "AF_INET", "AF_INET6" or "AF_UNIX"; found from the address by default.
        backlog: How many clients may wait to be accepted; at least 256 with a key or TLS.
        authkey: A secret that clients have to prove to know, and we to them. Without one,
            whoever reaches the address can connect, and messages are pickles, which run code.
        tls: Encrypt: a `TLS`, or an `ssl.SSLContext` for servers. The key is asked for inside.
        handshake_timeout: How many seconds a client has to prove who it is.
        open_to_all: Allow what is refused otherwise: an address that other machines may reach,
            without a key and without certificates of clients.

    Raises:
        ValueError: Other machines could connect, and nothing would be asked of them.
        OSError: The address is taken, is not ours, ...

    A path is unlinked by `close`, or when the process ends in order.
    """

    _doorkeeper: Doorkeeper | None

    def __init__(
        self,
        address: Address | None = None,
        family: str | None = None,
        backlog: int = 1,
        authkey: bytes | None = None,
        *,
        tls: TLS | ssl.SSLContext | None = None,
        handshake_timeout: float = HANDSHAKE_TIMEOUT,
        open_to_all: bool = False,
    ) -> None:
        if not family:
            family = address_type(address) if address else default_family
        _check_family(family)
        _check_authkey(authkey)
        self._carried = getattr(address, "tls", None)
        tls = tls or self._carried
        context = None
        if tls is not None:
            from ._tls import context_of

            context = context_of(tls, server_side=True)
        self._listener: SocketListener | None = SocketListener(
            address or arbitrary_address(family), family, backlog
        )
        self._authkey = authkey
        self._doorkeeper = None
        try:
            # The value of ssl.CERT_REQUIRED, which need not be imported for this.
            asks = bool(authkey) or (context is not None and context.verify_mode == 2)
            if not (asks or open_to_all):
                _refuse_network(self._listener._address)
            if authkey is not None or context is not None:
                from ._doorkeeper import Doorkeeper

                self._doorkeeper = Doorkeeper(
                    self._listener._socket, backlog, authkey, context, handshake_timeout
                )
        except BaseException:
            self.close()
            raise

    def accept(self) -> Connection:
        """Wait for a client and return the connection to it.

        With a key or TLS, the handshakes of all clients that have come go on at once: one that
        is silent keeps no other one waiting. One that does not speak the protocol, leaves, or
        takes longer than `handshake_timeout`, is dropped with a line in the log
        (`util.get_logger`).

        Raises:
            AuthenticationError: A client has another key. It was told so and is gone; `accept`
                may be called again.
            OSError: The listener is closed, or no descriptor is free.
        """
        if self._listener is None:
            raise OSError("listener is closed")
        if self._doorkeeper is None:
            return self._listener.accept()
        try:
            connection, self._listener._last_accepted = self._doorkeeper.admit()
        except AuthenticationError as error:
            if self._listener is not None:
                self._listener._last_accepted = getattr(error, "address", None)
            raise
        return connection

    def close(self) -> None:
        """Close the socket, and unlink its path."""
        listener, self._listener = self._listener, None
        if listener is not None:
            if self._doorkeeper is not None:
                self._doorkeeper.close()
            listener.close()

    @property
    def address(self) -> Address:
        """Where clients connect to (with the port that was really taken)."""
        address: Address = _encrypted(self._open()._address, self._carried)
        return address

    @property
    def last_accepted(self) -> Any:
        """The address of the client that was accepted last, or None."""
        return self._open()._last_accepted

    def _open(self) -> SocketListener:
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


def _refuse_network(address: Address) -> None:
    """Raise if other machines may reach a bound address."""
    if not isinstance(address, tuple):
        return
    host = str(address[0]).partition("%")[0]
    if ":" in host:
        number = socket.inet_pton(socket.AF_INET6, host)
        home = number == bytes(15) + b"\1" or number[:13] == bytes(10) + b"\xff\xff\x7f"
    else:
        home = socket.inet_pton(socket.AF_INET, host)[0] == 127
    if not home:
        raise ValueError(
            f"a listener at {address!r} without an authkey would let every machine that reaches "
            "it run code here (messages are pickles): give it authkey=, or listen on a loopback "
            "address such as 'localhost', or say open_to_all=True"
        )


def Client(
    address: Address,
    family: str | None = None,
    authkey: bytes | None = None,
    *,
    tls: TLS | ssl.SSLContext | None = None,
) -> Connection:
    """Connect to the `Listener` at an address.

    Args:
        address: The listener's address.
        family: Found from the address by default.
        authkey: The listener's secret, if it has one.
        tls: If the listener has TLS: a `TLS`, or an `ssl.SSLContext` for clients.

    Raises:
        AuthenticationError: The keys differ.
        OSError: Nobody listens there (ConnectionRefusedError, FileNotFoundError, ...), or TLS
            does not come about (`ssl.SSLError`).
        EOFError: The listener has hung up within the handshake.
    """
    family = family or address_type(address)
    _check_family(family)
    _check_authkey(authkey)
    tls = tls or getattr(address, "tls", None)
    if tls is None:
        connection = SocketClient(address, family)
    else:
        from ._tls import connect

        connection = connect(address, family, tls)
    if authkey is not None:
        with _closed_on_error(connection):
            try:
                answer_challenge(connection, authkey)
                deliver_challenge(connection, authkey)
            except EOFError as error:
                hint = ": is it a listener with TLS, which wants tls=...?" if tls is None else ""
                raise EOFError(
                    f"the other side closed the connection during the handshake{hint}"
                ) from error
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
        with util._naming_limits("cannot listen"):
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
        with util._naming_limits("cannot accept a connection"):
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


def SocketClient(address: Address, family: str | None = None) -> Connection:
    """Connect to a socket, without any handshake."""
    with util._naming_limits("cannot connect"):
        peer = socket.socket(getattr(socket, family or address_type(address)))
    with peer:
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
# The protocol, in both of its forms, is told in the engine (channel/handshake.rs of the crate
# sidestep). Listeners leave their side of it to the engine; these functions do one half of it
# each, over any connection.

CHALLENGE = _CHALLENGE = b"#CHALLENGE#"
WELCOME = _WELCOME = b"#WELCOME#"
FAILURE = _FAILURE = b"#FAILURE#"

MESSAGE_LENGTH = 40
# Nothing longer is read from a peer that has not proved anything yet.
_LONGEST_MESSAGE = 256


def _create_response(authkey: bytes, message: bytes) -> bytes:
    """Answer a challenge, in the form and with the digest that it asks for."""
    return _sidestep.handshake_response(authkey, message)


def _verify_challenge(authkey: bytes, message: bytes, response: bytes) -> None:
    """Check the answer to our challenge.

    Raises:
        AuthenticationError: It was not made with the key, or by a digest that we do not have.
    """
    _sidestep.handshake_verify(authkey, message, response)


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
    challenge = connection.recv_bytes(_LONGEST_MESSAGE)
    connection.send_bytes(_sidestep.handshake_answer(authkey, challenge))
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
    address: Address,
    family: str | None = None,
    authkey: bytes | None = None,
    *,
    tls: TLS | ssl.SSLContext | None = None,
) -> ConnectionWrapper:
    """Connect to an `XmlListener`."""
    return ConnectionWrapper(Client(address, family, authkey, tls=tls), _xml_dumps, _xml_loads)


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


_Place: TypeAlias = "tuple[int, int, int]"


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
            OSError: This process has as many descriptors open as it may.
        """
        from . import resource_sharer

        try:
            with resource_sharer._resource_sharer.get_connection(self._ticket) as link:
                fd = reduction.recv_handle(link)
                _joined(fd, self._place)
                link.send_bytes(b"")
        except (OSError, EOFError) as error:
            if resource_sharer._is_at_limit(error):
                raise
            raise resource_sharer.SenderLostError(
                "the end of a pipe cannot be fetched: the process that sent it has ended, or it "
                "was fetched before"
            ) from error
        return fd


reduction.register(Connection, reduce_connection)
