"""Objects that live in a server process and are used through proxies.

A *manager* starts the server (`_manager_server`) or connects to one. Its registered types become
methods that make an object (the *referent*) in the server and return a *proxy* to it. The server
keeps a referent as long as there are proxies: each counts once, in whatever process it lives.

The messages (`_wire`) are the standard library's, so either side may be a program that uses it.
Where both sides are ours, exceptions have the server's traceback as their cause, references take
no connections of their own, and those of a client that was killed are given back.

If the server dies, calls raise EOFError or another OSError at once. If the program that started
it dies, the server ends, too.
"""

from __future__ import annotations

import array
import contextlib
import os
import queue
import signal
import sys
import threading
import time
import traceback
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Self, SupportsIndex, TypeVar, overload

from . import (
    _original,
    _sidestep,
    connection,
    process,
    reduction,
    resource_tracker,
    shared_memory,
    util,
)
from ._manager_server import GREETING
from ._manager_server import Server as Server
from ._manager_server import all_methods as all_methods
from ._manager_server import public_methods as public_methods
from ._wire import RemoteError as RemoteError
from ._wire import Token, call_server, note_traceback, result_of
from ._wire import convert_to_error as convert_to_error
from ._wire import dispatch as dispatch
from ._wire import listener_client as listener_client
from .connection import ConnectionWrapper
from .context import ProcessError, get_spawning_popen

if TYPE_CHECKING:
    from ._manager_server import _Registry
    from .context import BaseContext

__all__ = [
    "BaseManager",
    "BaseProxy",
    "ServerLostError",
    "SharedMemoryManager",
    "SyncManager",
    "Token",
]

_Kwargs = Mapping[str, Any]
_NO_KWARGS: dict[str, Any] = {}  # only ever read


# --- values that need help to be pickled ------------------------------------------------------


def _reduce_array(value: array.array[Any]) -> tuple[Any, ...]:
    return array.array, (value.typecode, value.tobytes())


def _reduce_view(view: Iterable[Any]) -> tuple[Any, ...]:
    return list, (list(view),)


reduction.register(array.array, _reduce_array)
_empty: dict[Any, Any] = {}
for _view in (type(_empty.keys()), type(_empty.values()), type(_empty.items())):
    reduction.register(_view, _reduce_view)
del _empty, _view


# --- managers ---------------------------------------------------------------------------------


class State:
    """How far a manager is; proxies look at it, too."""

    __slots__ = ["value"]
    INITIAL = 0
    STARTED = 1
    SHUTDOWN = 2

    def __init__(self) -> None:
        self.value = State.INITIAL


@_original.descend("managers")
class BaseManager(_original.Root):
    """Starts a server process, or finds one, and makes objects in it.

    Args:
        address: Where the server listens; None makes up a local address.
        authkey: The secret of server and clients; None takes the current process's.
        serializer: "pickle", or "xmlrpclib" for simple values only.
        ctx: The context whose `Process` the server is.
        shutdown_timeout: Seconds to wait for the server at the end, before SIGTERM, and again
            before SIGKILL.
        tls: Encrypt what travels. One description serves both sides: the server shows its
            certificate and, if that is asked for, so do clients. Proxies that are pickled for
            another process take it along.

    Process safety: any thread and process may use the manager's proxies at once.
    If one dies: the server ends with the process that started it; the references of a client
    are given back, unless it used the standard library.
    """

    _registry: _Registry = {}
    _Server: type[Server] = Server

    # Set by `start`: ends the server. May be called again.
    shutdown: Callable[[], object]

    def __init__(
        self,
        address: Any = None,
        authkey: bytes | None = None,
        serializer: str = "pickle",
        ctx: BaseContext | None = None,
        *,
        shutdown_timeout: float = 1.0,
        tls: connection.TLS | None = None,
    ) -> None:
        from . import get_context

        if authkey is None:
            authkey = process.current_process().authkey
        self._address = connection._reached_through(address, tls)
        self._authkey = process.AuthenticationString(authkey)
        self._state = State()
        self._serializer = serializer
        self._Listener, self._Client = listener_client[serializer]
        self._ctx = ctx or get_context()
        self._shutdown_timeout = shutdown_timeout
        self._process: Any = None

    def _must_be_new(self) -> None:
        if self._state.value == State.STARTED:
            raise ProcessError("this manager has a server already")
        if self._state.value == State.SHUTDOWN:
            raise ProcessError("this manager has been shut down; make a new one")

    def get_server(self) -> Server:
        """A server in this process, for its `serve_forever`.

        Raises:
            ProcessError: The manager was started or shut down.
        """
        self._must_be_new()
        return self._Server(self._registry, self._address, self._authkey, self._serializer)

    def connect(self) -> None:
        """Use the server that runs at the manager's address.

        Raises:
            OSError: Nobody listens there.
            AuthenticationError: Its key is another one.
        """
        call_server(self._Client, self._address, self._authkey, "dummy")
        self._state.value = State.STARTED

    def start(
        self, initializer: Callable[..., object] | None = None, initargs: Iterable[Any] = ()
    ) -> None:
        """Start the server process and wait until it listens.

        Args:
            initializer: Called in the server process first.
            initargs: Its arguments.

        Raises:
            ProcessError: The manager was started or shut down before.
            TypeError: `initializer` cannot be called.
            Exception: Whatever hindered the server: OSError where the address is taken,
                RuntimeError where it can have no threads, or what `initializer` raised.
            ssl.SSLCertVerificationError: This program does not believe the server's certificate.
            EOFError: The server process died without a word.
        """
        self._must_be_new()
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        # What the server needs at once: if it is forked, it need not import that itself.
        from . import _doorkeeper  # noqa: F401

        reader, writer = connection.Pipe(duplex=False)
        with reader:
            with writer:
                self._process = self._ctx.Process(
                    target=type(self)._run_server,
                    args=(
                        self._registry,
                        self._address,
                        self._authkey,
                        self._serializer,
                        writer,
                        initializer,
                        initargs,
                    ),
                )
                number = ":".join(str(part) for part in self._process._identity)
                self._process.name = f"{type(self).__name__}-{number}"
                self._process.start()
            try:
                kind, value = reader.recv()
            except EOFError:
                self._process.join()
                raise EOFError(
                    "the manager's server process ended before it could listen, with exit code "
                    f"{self._process.exitcode}"
                ) from None
        if kind != "#RETURN":
            self._process.join()
            raise convert_to_error(kind, value)
        self._address = value
        self._try_address()
        self._state.value = State.STARTED
        self.shutdown = util.Finalize(
            self,
            type(self)._finalize_manager,
            args=(
                self._process,
                self._address,
                self._authkey,
                self._state,
                self._Client,
                self._shutdown_timeout,
            ),
            exitpriority=0,
        )

    def _try_address(self) -> None:
        """Through TLS: find out now whether this program believes its own server."""
        if not isinstance(self._address, connection._Encrypted):
            return
        import ssl  # most managers never need it

        try:
            call_server(self._Client, self._address, self._authkey, "dummy")
        except BaseException as error:
            self._process.terminate()
            self._process.join()
            if isinstance(error, ssl.SSLCertVerificationError):
                raise ssl.SSLCertVerificationError(
                    error.errno,
                    f"the manager does not believe its own server: {error.verify_message}. Its "
                    "TLS describes both sides: cafile= is the authority that the certificate "
                    "comes from, or the certificate itself, and hostname= is the name in it",
                ) from error
            raise

    @classmethod
    def _run_server(
        cls,
        registry: _Registry,
        address: Any,
        authkey: bytes,
        serializer: str,
        writer: Any,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
    ) -> None:
        """The server process: tell the parent the address, or the error, and serve."""
        # Ctrl-C is meant for the program, which may need its objects while it cleans up.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with writer:
            try:
                if initializer is not None:
                    initializer(*initargs)
                server = cls._Server(registry, address, authkey, serializer)
                # Before the parent is told: without its threads this is no server.
                _end_with_parent(server)
                server._begin()
            except Exception as error:
                note_traceback(error)
                try:
                    writer.send(("#ERROR", error))
                except Exception:
                    writer.send(("#TRACEBACK", traceback.format_exc()))
                sys.exit(1)
            writer.send(("#RETURN", server.address))
        util.info("manager serving at %r", server.address)
        server.serve_forever()

    def _create(self, typeid: str, /, *args: Any, **kwds: Any) -> tuple[Token, tuple[str, ...]]:
        """Make a referent; its token, which holds one reference, and its exposed names."""
        assert self._state.value == State.STARTED, "server not yet started"
        line = BaseProxy._line_to(self._address)
        ident, exposed = line.create(self._Client, self._authkey, typeid, *args, **kwds)
        return Token(typeid, self._address, ident), exposed

    def join(self, timeout: float | None = None) -> None:
        """Wait until the server process has ended, at most `timeout` seconds."""
        if self._process is not None:
            self._process.join(timeout)
            if not self._process.is_alive():
                self._process = None

    def _debug_info(self) -> str:
        info: str = call_server(self._Client, self._address, self._authkey, "debug_info")
        return info

    def _number_of_objects(self) -> int:
        number: int = call_server(self._Client, self._address, self._authkey, "number_of_objects")
        return number

    def __enter__(self) -> Self:
        if self._state.value == State.INITIAL:
            self.start()
        if self._state.value == State.SHUTDOWN:
            self._must_be_new()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self.shutdown()

    @staticmethod
    def _finalize_manager(
        process: Any,
        address: Any,
        authkey: bytes,
        state: State,
        client: Callable[..., Any],
        shutdown_timeout: float,
    ) -> None:
        """End the server process: by asking, by SIGTERM, by SIGKILL."""
        if process.is_alive():
            try:
                call_server(client, address, authkey, "shutdown")
            except Exception as error:
                util.info("the manager's server does not answer: %r", error)
            process.join(timeout=shutdown_timeout)
            if process.is_alive():
                util.info("the manager's server is still alive: terminating it")
                process.terminate()
                process.join(timeout=shutdown_timeout)
                if process.is_alive():
                    process.kill()
                    process.join()
        state.value = State.SHUTDOWN
        BaseProxy._address_to_local.pop(_address_key(address), None)

    @property
    def address(self) -> Any:
        """Where the server listens."""
        return self._address

    @classmethod
    def register(
        cls,
        typeid: str,
        callable: Callable[..., Any] | None = None,
        proxytype: Callable[..., Any] | None = None,
        exposed: Sequence[str] | None = None,
        method_to_typeid: Mapping[str, str] | None = None,
        create_method: bool = True,
    ) -> None:
        """Let managers of this class make objects of a type.

        Args:
            typeid: The type's name, and that of the new method of this class.
            callable: Makes the referent, in the server. None for managers that only connect.
            proxytype: The proxies' class; None makes one from what the referent exposes.
            exposed: The names that proxies may call; None takes the proxy class's `_exposed_`,
                or else all public methods.
            method_to_typeid: Methods whose result stays in the server: the type of the proxy
                that is returned in its place, by method.
            create_method: Whether to add the method.
        """
        if "_registry" not in cls.__dict__:
            cls._registry = cls._registry.copy()
        make_proxy = AutoProxy if proxytype is None else proxytype
        exposed = exposed or getattr(make_proxy, "_exposed_", None)
        result_types = method_to_typeid or getattr(make_proxy, "_method_to_typeid_", None)
        for name, result_typeid in (result_types or {}).items():
            if not isinstance(name, str) or not isinstance(result_typeid, str):
                raise TypeError(f"method_to_typeid maps {name!r} to {result_typeid!r}: not text")
        cls._registry[typeid] = (callable, exposed, result_types, make_proxy)
        if not create_method:
            return

        def create(self: BaseManager, /, *args: Any, **kwds: Any) -> Any:
            token, names = self._create(typeid, *args, **kwds)
            return _proxy_for_new(make_proxy, token, self._serializer, self, self._authkey, names)

        create.__name__ = typeid
        create.__qualname__ = f"{cls.__qualname__}.{typeid}"
        create.__doc__ = f"Make a shared object of the type {typeid!r}; returns its proxy."
        setattr(cls, typeid, create)


def _end_with_parent(server: Server) -> None:
    """Stop serving when the process that started this one is gone: nobody would do it then."""
    parent = process.parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        server.stop_event.set()

    threading.Thread(target=watch, name="manager-parent-watch", daemon=True).start()


# --- proxies ----------------------------------------------------------------------------------


_Connect = Callable[..., Any]


class ServerLostError(ConnectionError, EOFError):
    """The server of a manager does not answer any more.

    Raised at once by the calls that wait for it, and by all that follow: when the server has
    ended, however it went, or when the network between has cut the connection. In the second case
    the next call connects again.
    """


def _explain_loss(address: Any, error: BaseException) -> None:
    """Raise an error that says it if this one means that the server at `address` is gone."""
    if isinstance(error, EOFError | ConnectionError | FileNotFoundError):
        raise ServerLostError(
            f"the manager's server at {address!r} does not answer: it has ended, or the "
            "network has cut the connection"
        ) from error


class _Seat:
    """What one thread has with a server."""

    __slots__ = ("busy", "call", "connection", "freed", "users")

    def __init__(self) -> None:
        self.connection: Any = None
        # Of a connection through shared memory, the short way: see `WireConnection`.
        self.call: Callable[[str, str, Any, Any], Any] | None = None
        self.users = 0  # how many places in the code want the connection to stay
        self.busy = False  # with a call
        self.freed: list[tuple[Any, ...]] = []  # references that the collector dropped during that


class _Seats(threading.local):
    def __init__(self) -> None:
        self.seat = _Seat()


class _Line:
    """What this process has with one server: a connection for each thread, and references.

    The newest connection stays open while this process has references, even if its thread has
    ended: a client without connections may be dead, and then the server gives its references
    back. If a network cuts the last one, the next call in time makes good for it.

    A forked process, whoever forked it, begins anew. Its copies of the connections are closed
    without a word: two processes on one of them would read each other's replies.
    """

    _all: weakref.WeakSet[_Line] = weakref.WeakSet()

    def __init__(self, address: Any) -> None:
        self.address = address
        self.authkey: bytes | None = None  # what the server has accepted
        self.local = _Seats()
        self._begin()
        _Line._all.add(self)

    @staticmethod
    def _begin_all() -> None:
        """In a child that has just been forked."""
        BaseProxy._mutex._at_fork_reinit()
        for line in list(_Line._all):
            line._begin()

    def _begin(self) -> None:
        """Become a client without connections and references."""
        self.local.seat = _Seat()
        self._name = os.urandom(16).hex()
        self._is_foreign = False  # whether the server is the standard library's
        self._references = 0
        self._lifeline: Any = None
        # Reentrant: the collector may free a proxy at any moment, also under this lock.
        self._mutex = threading.RLock()

    def _open(self, client: _Connect, authkey: bytes | None) -> Any:
        """A new long connection."""
        name = process.current_process().name
        thread = threading.current_thread()
        if thread is not threading.main_thread():
            name = f"{name}|{thread.name}"
        conn = self._reach(client, authkey)
        try:
            greeting = dispatch(conn, None, "accept_connection", (name,))
            self._is_foreign = greeting != GREETING
            if not self._is_foreign:
                family = dispatch(conn, None, "introduce", (self._name,))
                if family is not None and family == _sidestep.family_name():
                    self._share_pipe(conn)
        except BaseException as error:
            conn.close()
            self._explain(error)
            raise
        self.authkey = authkey
        return conn

    def _share_pipe(self, conn: Any) -> None:
        """Go on in shared memory with a connection to a server of this family."""
        try:
            side = _sidestep.PipeSide()
        except MemoryError as error:
            util.info("no pipe to the manager's server: %r", error)  # the socket does as well
            return
        if dispatch(conn, None, "share_pipe", (side.opposite,)):
            conn.enter(side)

    def _reach(self, client: _Connect, authkey: bytes | None) -> Any:
        """A new connection, on which nothing has been said yet."""
        try:
            return client(self.address, authkey=authkey)
        except Exception as error:
            self._explain(error)
            raise

    def _explain(self, error: BaseException) -> None:
        _explain_loss(self.address, error)

    def call(
        self,
        client: _Connect,
        authkey: bytes | None,
        request: tuple[Any, ...],
        answer: Any = None,
    ) -> Any:
        """Send a request and return the reply.

        It goes over this thread's connection. Calls of the server itself, whose requests begin
        with None, take a connection of their own where the server is the standard library's.
        Where the short way has brought an `answer`, nothing is sent.
        """
        seat = self.local.seat
        of_server = request[0] is None
        # Busy: this is a signal handler, while the thread waits for the reply to another request.
        if not (seat.busy or seat.connection is not None or (of_server and self._is_foreign)):
            self._take_seat(seat, client, authkey)
        if seat.busy or (of_server and self._is_foreign):
            with contextlib.closing(
                self._reach(client, authkey) if of_server else self._open(client, authkey)
            ) as conn:
                conn.send(request)
                return conn.recv()
        conn = seat.connection
        seat.busy = True
        unanswered = False
        try:
            if answer is not None:
                pass
            elif isinstance(conn, ConnectionWrapper):
                data = conn._dumps(request)
                unanswered = True
                conn.send_bytes(data)
                answer = conn.recv_bytes()
            else:  # of a kind that a program has added to `listener_client`
                unanswered = True
                conn.send(request)
                answer = conn.recv()
            unanswered = seat.busy = False
            # The reply may hold proxies; they are counted over this connection, which is free
            # again, for the process that it is known to belong to.
            reply = conn._loads(answer) if isinstance(conn, ConnectionWrapper) else answer
        except BaseException as error:
            if unanswered:
                self._lose_reply(seat, error)
            raise
        finally:
            seat.busy = False
        if seat.freed:
            self._work_off(seat)
        return reply

    def _lose_reply(self, seat: _Seat, error: BaseException) -> None:
        """After an error in the middle of a call."""
        self._put_aside(seat, broken=isinstance(error, EOFError | ConnectionError))
        self._explain(error)

    def _work_off(self, seat: _Seat) -> None:
        while seat.freed:
            self.decref(*seat.freed.pop())

    def _take_seat(self, seat: _Seat, client: _Connect, authkey: bytes | None) -> None:
        """Open this thread's connection."""
        seat.busy = True
        try:
            conn = self._open(client, authkey)
        finally:
            seat.busy = False
        seat.connection = conn
        seat.call = getattr(conn, "call", None)
        with self._mutex:
            if self._references:
                self._lifeline = conn  # an older one may have broken unnoticed

    def _put_aside(self, seat: _Seat, broken: bool) -> None:
        """Take another connection from now on: a late reply may still come over this one."""
        conn, seat.connection, seat.call = seat.connection, None, None
        with self._mutex:
            if self._lifeline is conn and (broken or not self._references):
                self._lifeline = None
            elif self._lifeline is None and self._references and not broken:
                self._lifeline = conn
            kept = self._lifeline is conn
        if conn is not None and not kept:
            conn.close()

    def _call_server(
        self, client: _Connect, authkey: bytes | None, name: str, args: Any, kwds: _Kwargs
    ) -> Any:
        return result_of(self.call(client, authkey, (None, name, args, kwds)))

    def create(
        self, client: _Connect, authkey: bytes | None, typeid: str, /, *args: Any, **kwds: Any
    ) -> tuple[str, tuple[str, ...]]:
        """Make a referent; its id, with one reference to it, and exposed names."""
        with self:
            ident, exposed = self._call_server(client, authkey, "create", (typeid, *args), kwds)
            self.count()
        return ident, exposed

    def incref(self, client: _Connect, authkey: bytes | None, ident: str) -> None:
        """Take a reference."""
        with self:
            self._call_server(client, authkey, "incref", (ident,), _NO_KWARGS)
            self.count()

    def decref(
        self,
        client: _Connect,
        authkey: bytes | None,
        ident: str,
        ignored: tuple[type[Exception], ...] = (Exception,),
    ) -> None:
        """Give a reference back; in the middle of another call of this thread, after that.

        What is `ignored` is of nobody's concern.
        """
        seat = self.local.seat
        if seat.busy:
            seat.freed.append((client, authkey, ident))
            return
        with self:
            try:
                self._call_server(client, authkey, "decref", (ident,), _NO_KWARGS)
            except ignored as error:
                util.debug("a reference could not be given back: %r", error)
            finally:
                self.forget()

    def count(self) -> None:
        """Note that the server has counted a reference for this process."""
        with self._mutex:
            self._references += 1
            if self._lifeline is None:
                self._lifeline = self.local.seat.connection

    def forget(self) -> None:
        """Note that a reference is gone, be it with the server."""
        with self, self._mutex:
            self._references -= 1
            if not self._references:
                self._lifeline = None

    def __enter__(self) -> None:
        """Keep this thread's connection open, as a reference may be on its way."""
        self.local.seat.users += 1

    def __exit__(self, *details: object) -> None:
        """Let go of it; without references it is of no more use."""
        seat = self.local.seat
        # A child that was forked meanwhile has a seat that nobody has used yet.
        seat.users = max(0, seat.users - 1)
        self._leave(seat)

    def _leave(self, seat: _Seat) -> None:
        """Close the connection, if it is of no more use."""
        if not self._references and not seat.users:
            conn, seat.connection, seat.call = seat.connection, None, None
            if conn is not None:
                conn.close()


@_original.descend("managers")
class BaseProxy(_original.Root):
    """Stands for an object in a manager's server.

    Subclasses name the referent's methods in `_exposed_` and call them by `_callmethod`. A
    proxy may be pickled for another process, or as an argument of another proxy.

    Args:
        token: The referent.
        serializer: How the server's messages are written.
        manager: The manager, where there is one in this process.
        authkey: The server's secret; None takes the manager's or the current process's.
        exposed: Not used here; part of how proxy types are called.
        incref: Whether this proxy counts as a reference of its own.
        manager_owned: Whether it lives in the referent's own server.
    """

    _exposed_: Sequence[str]
    _method_to_typeid_: Mapping[str, str]
    _isauto = False

    _address_to_local: dict[Any, _Line] = {}  # by server address
    #: A part of the original's; there is nothing here that needs it.
    _mutex = util.ForkAwareThreadLock()

    def __init__(
        self,
        token: Token,
        serializer: str,
        manager: BaseManager | None = None,
        authkey: bytes | None = None,
        exposed: Sequence[str] | None = None,
        incref: bool = True,
        manager_owned: bool = False,
    ) -> None:
        self._line = BaseProxy._line_to(token.address)
        self._tls: Any = self._line.local
        self._token = token
        self._id = token.id
        self._manager = manager
        self._serializer = serializer
        self._Client = listener_client[serializer][1]
        self._owned_by_manager = manager_owned
        if authkey is None:
            # A proxy out of a proxy has come without a key: that of its server is known, then.
            authkey = manager._authkey if manager else self._line.authkey
        if authkey is None:
            authkey = process.current_process().authkey
        self._authkey = process.AuthenticationString(authkey)
        if incref:
            self._incref()
        util.register_after_fork(self, BaseProxy._after_fork)

    @staticmethod
    def _line_to(address: Any) -> _Line:
        # Without a lock: signal handlers and finalizers come here in the middle of it.
        key = _address_key(address)
        line = BaseProxy._address_to_local.get(key)
        return line or BaseProxy._address_to_local.setdefault(key, _Line(address))

    def _connect(self) -> None:
        """Open this thread's connection."""
        self._line._take_seat(self._tls.seat, self._Client, self._authkey)

    def _callmethod(self, methodname: str, args: Any = (), kwds: _Kwargs = _NO_KWARGS) -> Any:
        """Call a method of the referent.

        Args:
            methodname: Its name, which must be exposed.
            args: Its positional arguments.
            kwds: Its keyword arguments.

        Returns:
            A copy of the result, or a proxy to it where the type says so.

        Raises:
            Exception: A copy of what the method raised; its cause is a `RemoteError` with the
                server's traceback.
            RemoteError: The method is not exposed, or its result cannot be pickled.
            ServerLostError: The server has ended.
        """
        seat = self._tls.seat
        line = self._line
        answer = None
        if seat.call is not None and not seat.busy:
            seat.busy = True
            try:
                answer = seat.call(self._id, methodname, args, kwds)
            except BaseException as error:
                line._lose_reply(seat, error)
                raise
            finally:
                seat.busy = False
            if type(answer) is not _sidestep.Other:
                if seat.freed:
                    line._work_off(seat)
                return answer
            # Not plain: pickled there, or to be pickled here.
            answer = answer.message
        request = (self._id, methodname, args, kwds)
        try:
            # Inner proxies have no references, and yet their connections are to last.
            with line if line._references else contextlib.nullcontext():
                kind, result = line.call(self._Client, self._authkey, request, answer)
                if kind == "#PROXY":
                    return self._proxy_for_result(*result)
            if kind == "#RETURN":
                return result
            raise convert_to_error(kind, result)
        finally:
            # An exception refers to this frame: it must not find itself here.
            result = answer = None

    def _proxy_for_result(self, exposed: Sequence[str], received: Any) -> Any:
        self._line.count()
        token = Token(received.typeid, self._token.address, received.id)
        make_proxy: Callable[..., Any] = AutoProxy
        if self._manager is not None:
            make_proxy = self._manager._registry[token.typeid][-1]
        elif token.typeid in SyncManager._registry:
            # A proxy that was pickled or came through a fork does not know its manager's types.
            _, usual, _, usual_proxy = SyncManager._registry[token.typeid]
            if usual is not None and set(usual) == set(exposed):
                make_proxy = usual_proxy
        return _proxy_for_new(
            make_proxy, token, self._serializer, self._manager, self._authkey, exposed
        )

    def _getvalue(self) -> Any:
        """A copy of the referent."""
        return self._callmethod("#GETVALUE")

    def _incref(self) -> None:
        """Have the server count this proxy, until it is freed."""
        if self._owned_by_manager:
            return
        self._line.incref(self._Client, self._authkey, self._id)
        self._close = util.Finalize(
            self,
            BaseProxy._decref,
            args=(
                self._token,
                self._authkey,
                self._manager._state if self._manager else None,
                self._line,
                self._Client,
            ),
            exitpriority=10,
        )

    @staticmethod
    def _decref(
        token: Token, authkey: bytes, state: State | None, line: _Line, client: _Connect
    ) -> None:
        if state is None or state.value == State.STARTED:
            line.decref(client, authkey, token.id)
        else:  # the server has taken it along
            line.forget()

    def _after_fork(self) -> None:
        self._manager = None
        try:
            self._incref()
        except Exception as error:  # the server may have ended long ago
            util.info("a reference could not be counted: %r", error)

    def __reduce__(self) -> tuple[Any, ...]:
        kwds: dict[str, Any] = {}
        if get_spawning_popen() is not None:
            kwds["authkey"] = self._authkey
        if not self._isauto:
            return RebuildProxy, (type(self), self._token, self._serializer, kwds)
        kwds["exposed"] = self._exposed_
        return RebuildProxy, (AutoProxy, self._token, self._serializer, kwds)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self._getvalue()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} object, typeid {self._token.typeid!r} at {id(self):#x}>"

    def __str__(self) -> str:
        """The referent's `repr`, if the server can be reached."""
        try:
            text: str = self._callmethod("__repr__")
        except Exception:
            return f"{repr(self)[:-1]}; '__str__()' failed>"
        return text


os.register_at_fork(after_in_child=_Line._begin_all)


def _proxy_for_new(
    make_proxy: Callable[..., Any],
    token: Token,
    serializer: str,
    manager: BaseManager | None,
    authkey: bytes,
    exposed: Sequence[str],
) -> Any:
    """A proxy for a referent that has just been made, with one reference held for us."""
    try:
        return make_proxy(token, serializer, manager=manager, authkey=authkey, exposed=exposed)
    finally:
        # Other exceptions are those of signal handlers, which are somebody's concern.
        BaseProxy._line_to(token.address).decref(
            listener_client[serializer][1],
            authkey,
            token.id,
            (ConnectionError, FileNotFoundError, EOFError, RemoteError, KeyError),
        )


def RebuildProxy(
    func: Callable[..., Any], token: Token, serializer: str, kwds: dict[str, Any]
) -> Any:
    """Unpickle a proxy; in the referent's own server it becomes an inner one."""
    current = process.current_process()
    server: Server | None = getattr(current, "_manager_server", None)
    # A child that inherits a proxy counts it in its after-fork hook.
    incref = kwds.pop("incref", True) and not getattr(current, "_inheriting", False)
    if server is None or _address_key(server.address) != _address_key(token.address):
        return func(token, serializer, incref=incref, **kwds)
    server._hold(token.id)
    kwds = {"authkey": server.authkey, **kwds, "manager_owned": True}
    try:
        proxy = func(token, serializer, incref=incref, **kwds)
        weakref.finalize(proxy, server._freed.append, token.id).atexit = False
    except BaseException:
        server._freed.append(token.id)
        raise
    return proxy


def _address_key(address: Any) -> Any:
    # The kernel tells an abstract name as bytes, where a program may have given text.
    return os.fsencode(address) if isinstance(address, str) else address


_ProxyClass = TypeVar("_ProxyClass", bound=type[BaseProxy])


def _forwarder(name: str) -> Callable[..., Any]:
    def call(self: BaseProxy, /, *args: Any, **kwds: Any) -> Any:
        return self._callmethod(name, args, kwds)

    call.__name__ = call.__qualname__ = name
    return call


def _forwarding(cls: _ProxyClass) -> _ProxyClass:
    """Class decorator: each exposed method is passed on to the referent."""
    for name in cls._exposed_:
        if name not in cls.__dict__:
            setattr(cls, name, _forwarder(name))
    return cls


_made_types: dict[tuple[str, tuple[str, ...]], type[BaseProxy]] = {}


def MakeProxyType(name: str, exposed: Iterable[str]) -> type[BaseProxy]:
    """The proxy class `name` whose methods are `exposed`; the same one for the same names."""
    names = tuple(exposed)
    made = _made_types.get((name, names))
    if made is None:
        made = _forwarding(type(name, (BaseProxy,), {"_exposed_": names}))
        _made_types[name, names] = made
    return made


def AutoProxy(
    token: Token,
    serializer: str,
    manager: BaseManager | None = None,
    authkey: bytes | None = None,
    exposed: Sequence[str] | None = None,
    incref: bool = True,
    manager_owned: bool = False,
) -> BaseProxy:
    """A proxy of a class that is made up from what the referent exposes."""
    if authkey is None:
        authkey = manager._authkey if manager else BaseProxy._line_to(token.address).authkey
    if authkey is None:
        authkey = process.current_process().authkey
    if exposed is None:
        client = listener_client[serializer][1]
        exposed = call_server(client, token.address, authkey, "get_methods", token)
    proxytype = MakeProxyType(f"AutoProxy[{token.typeid}]", exposed)
    proxy = proxytype(
        token,
        serializer,
        manager=manager,
        authkey=authkey,
        incref=incref,
        manager_owned=manager_owned,
    )
    proxy._isauto = True
    return proxy


# --- the types that a SyncManager makes -------------------------------------------------------

_T = TypeVar("_T")
_K = TypeVar("_K")
_V = TypeVar("_V")

if TYPE_CHECKING:
    # To a type checker the proxies of lists and dicts are what their methods make of them.
    from collections.abc import MutableMapping as _Mapping
    from collections.abc import MutableSequence as _Sequence
    from collections.abc import MutableSet as _Set
else:
    _Mapping = _Sequence = _Set = Generic


class Namespace:
    """An object whose attributes can be set freely."""

    def __init__(self, /, **attributes: Any) -> None:
        self.__dict__.update(attributes)

    def __repr__(self) -> str:
        shown = sorted(
            f"{name}={value!r}" for name, value in self.__dict__.items() if not name.startswith("_")
        )
        return f"{type(self).__name__}({', '.join(shown)})"


class Value:
    """Holds one value of any type; the type code is only remembered."""

    def __init__(self, typecode: Any, value: Any, lock: bool = True) -> None:
        # Under these names, since a copy may become the standard library's `Value`.
        self._typecode = typecode
        self._value = value

    def get(self) -> Any:
        """The value."""
        return self._value

    def set(self, value: Any) -> None:
        """Replace the value."""
        self._value = value

    value = property(get, set)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._typecode!r}, {self._value!r})"


def Array(typecode: str, sequence: Iterable[Any], lock: bool = True) -> array.array[Any]:
    """An `array.array`; one call of its proxy is atomic, whatever `lock` says."""
    return array.array(typecode, sequence)


def _make_pool(*args: Any, **kwds: Any) -> Any:
    from .pool import Pool  # most managers never need it

    return Pool(*args, **kwds)


@_original.descend("managers")
class IteratorProxy(BaseProxy):
    """An iterator or generator in the server."""

    _exposed_ = ("__next__", "send", "throw", "close")

    def __iter__(self) -> Self:
        return self

    def __next__(self, *args: Any) -> Any:
        return self._callmethod("__next__", args)

    def send(self, *args: Any) -> Any:
        """Resume a generator with a value."""
        return self._callmethod("send", args)

    def throw(self, *args: Any) -> Any:
        """Resume a generator with an exception."""
        return self._callmethod("throw", args)

    def close(self, *args: Any) -> Any:
        """End a generator."""
        return self._callmethod("close", args)


@_original.descend("managers")
class AcquirerProxy(BaseProxy):
    """A lock or semaphore in the server.

    Its owner, where it has one, is this thread of this process. If that is killed it stays
    taken: the server cannot know.
    """

    _exposed_: Sequence[str] = ("acquire", "release")

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Take it; False if that was not possible at once, or in `timeout` seconds."""
        args = (blocking,) if timeout is None else (blocking, timeout)
        taken: bool = self._callmethod("acquire", args)
        return taken

    def release(self) -> Any:
        """Give it back."""
        return self._callmethod("release")

    def __enter__(self) -> Any:
        return self._callmethod("acquire")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self._callmethod("release")


@_original.descend("managers")
class ConditionProxy(AcquirerProxy):
    """A condition in the server."""

    _exposed_ = ("acquire", "release", "wait", "notify", "notify_all")

    def wait(self, timeout: float | None = None) -> Any:
        """Give the lock back, sleep until notified, take it again; False after `timeout`."""
        return self._callmethod("wait", (timeout,))

    def notify(self, n: int = 1) -> Any:
        """Wake up to `n` of the waiting."""
        return self._callmethod("notify", (n,))

    def notify_all(self) -> Any:
        """Wake all the waiting."""
        return self._callmethod("notify_all")

    def wait_for(self, predicate: Callable[[], _T], timeout: float | None = None) -> _T:
        """Wait until `predicate`, called in this process, is true; its last result."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not (result := predicate()):
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0.0:
                break
            self.wait(left)
        return result


@_original.descend("managers")
class EventProxy(BaseProxy):
    """An event in the server."""

    _exposed_ = ("is_set", "set", "clear", "wait")

    def is_set(self) -> Any:
        """Whether it is set."""
        return self._callmethod("is_set")

    def set(self) -> Any:
        """Set it and wake all the waiting."""
        return self._callmethod("set")

    def clear(self) -> Any:
        """Take it back."""
        return self._callmethod("clear")

    def wait(self, timeout: float | None = None) -> Any:
        """Sleep until it is set; False after `timeout` seconds."""
        return self._callmethod("wait", (timeout,))


@_original.descend("managers")
class BarrierProxy(BaseProxy):
    """A barrier in the server."""

    _exposed_ = ("__getattribute__", "wait", "abort", "reset")

    def wait(self, timeout: float | None = None) -> Any:
        """Wait for the other parties; this one's number among them."""
        return self._callmethod("wait", (timeout,))

    def abort(self) -> Any:
        """Break it: the waiting get BrokenBarrierError."""
        return self._callmethod("abort")

    def reset(self) -> Any:
        """Make it whole and empty again."""
        return self._callmethod("reset")

    @property
    def parties(self) -> Any:
        """How many must come."""
        return self._callmethod("__getattribute__", ("parties",))

    @property
    def n_waiting(self) -> Any:
        """How many have come."""
        return self._callmethod("__getattribute__", ("n_waiting",))

    @property
    def broken(self) -> Any:
        """Whether it is broken."""
        return self._callmethod("__getattribute__", ("broken",))


@_original.descend("managers")
class NamespaceProxy(BaseProxy):
    """An object in the server whose attributes are used as if they were the proxy's.

    Names that begin with an underscore are the proxy's own.
    """

    _exposed_ = ("__getattribute__", "__setattr__", "__delattr__")

    def __getattr__(self, key: str) -> Any:
        if key.startswith("_"):
            return object.__getattribute__(self, key)
        return self._callmethod("__getattribute__", (key,))

    def __setattr__(self, key: str, value: Any) -> None:
        if key.startswith("_"):
            object.__setattr__(self, key, value)
        else:
            self._callmethod("__setattr__", (key, value))

    def __delattr__(self, key: str) -> None:
        if key.startswith("_"):
            object.__delattr__(self, key)
        else:
            self._callmethod("__delattr__", (key,))


@_original.descend("managers")
class ValueProxy(BaseProxy, Generic[_T]):
    """A `Value` in the server."""

    _exposed_ = ("get", "set")

    def get(self) -> _T:
        """The value."""
        value: _T = self._callmethod("get")
        return value

    def set(self, value: _T) -> None:
        """Replace the value."""
        self._callmethod("set", (value,))

    @property
    def value(self) -> _T:
        """The value."""
        return self.get()

    @value.setter
    def value(self, value: _T) -> None:
        self.set(value)


@_forwarding
@_original.descend("managers")
class BaseListProxy(BaseProxy, _Sequence[_T]):
    """What a `ListProxy` passes on."""

    _exposed_ = (
        "__add__",
        "__contains__",
        "__delitem__",
        "__getitem__",
        "__imul__",
        "__len__",
        "__mul__",
        "__reversed__",
        "__rmul__",
        "__setitem__",
        "append",
        "clear",
        "copy",
        "count",
        "extend",
        "index",
        "insert",
        "pop",
        "remove",
        "reverse",
        "sort",
    )

    if TYPE_CHECKING:

        def __add__(self, other: list[_T], /) -> list[_T]: ...
        def __mul__(self, count: int, /) -> list[_T]: ...
        def __rmul__(self, count: int, /) -> list[_T]: ...
        def __len__(self) -> int: ...
        @overload
        def __getitem__(self, index: SupportsIndex, /) -> _T: ...
        @overload
        def __getitem__(self, index: slice, /) -> list[_T]: ...
        def __getitem__(self, index: Any, /) -> Any: ...
        def __setitem__(self, index: Any, value: Any, /) -> None: ...
        def __delitem__(self, index: Any, /) -> None: ...
        def insert(self, index: Any, value: _T, /) -> None: ...
        def copy(self) -> list[_T]: ...
        def sort(
            self, *, key: Callable[[_T], Any] | None = None, reverse: bool = False
        ) -> None: ...


@_original.descend("managers")
class ListProxy(BaseListProxy[_T]):
    """A list in the server. Items come out as copies; proxies among them stay proxies."""

    # Unlike `+` and `*`, whose results are lists here, these give the proxy itself.
    def __iadd__(self, value: Iterable[Any]) -> Self:  # type: ignore[override, misc]
        self._callmethod("extend", (value,))
        return self

    def __imul__(self, value: int) -> Self:  # type: ignore[override]
        self._callmethod("__imul__", (value,))
        return self


@_forwarding
class _BaseDictProxy(BaseProxy, _Mapping[_K, _V]):
    _exposed_ = (
        "__contains__",
        "__delitem__",
        "__getitem__",
        "__ior__",
        "__iter__",
        "__len__",
        "__or__",
        "__reversed__",
        "__ror__",
        "__setitem__",
        "clear",
        "copy",
        "fromkeys",
        "get",
        "items",
        "keys",
        "pop",
        "popitem",
        "setdefault",
        "update",
        "values",
    )
    _method_to_typeid_ = {"__iter__": "Iterator", "__reversed__": "Iterator"}

    if TYPE_CHECKING:

        def __or__(self, other: Mapping[Any, Any], /) -> dict[Any, Any]: ...
        def __ror__(self, other: Mapping[Any, Any], /) -> dict[Any, Any]: ...
        def __reversed__(self) -> Iterator[_K]: ...

        def __len__(self) -> int: ...
        def __iter__(self) -> Iterator[_K]: ...
        def __getitem__(self, key: _K, /) -> _V: ...
        def __setitem__(self, key: _K, value: _V, /) -> None: ...
        def __delitem__(self, key: _K, /) -> None: ...
        def copy(self) -> dict[_K, _V]: ...
        # The server's views do not travel: lists do.
        def keys(self) -> list[_K]: ...  # type: ignore[override]
        def values(self) -> list[_V]: ...  # type: ignore[override]
        def items(self) -> list[tuple[_K, _V]]: ...  # type: ignore[override]


@_original.descend("managers")
class DictProxy(_BaseDictProxy[_K, _V]):
    """A dict in the server. Values come out as copies; proxies among them stay proxies."""

    # Unlike `|`, whose result is a dict here, this gives the proxy itself.
    def __ior__(self, other: Any) -> Self:  # type: ignore[override, misc, unused-ignore]
        self._callmethod("update", (other,))
        return self


@_forwarding
class _BaseSetProxy(BaseProxy, _Set[_T]):
    _exposed_ = (
        "__and__",
        "__contains__",
        "__ge__",
        "__gt__",
        "__iand__",
        "__ior__",
        "__isub__",
        "__iter__",
        "__ixor__",
        "__le__",
        "__len__",
        "__lt__",
        "__or__",
        "__rand__",
        "__ror__",
        "__rsub__",
        "__rxor__",
        "__sub__",
        "__xor__",
        "add",
        "clear",
        "copy",
        "difference",
        "difference_update",
        "discard",
        "intersection",
        "intersection_update",
        "isdisjoint",
        "issubset",
        "issuperset",
        "pop",
        "remove",
        "symmetric_difference",
        "symmetric_difference_update",
        "union",
        "update",
    )
    _method_to_typeid_ = {"__iter__": "Iterator"}

    if TYPE_CHECKING:

        def __contains__(self, item: object, /) -> bool: ...
        def __iter__(self) -> Iterator[_T]: ...
        def __len__(self) -> int: ...
        def add(self, value: _T, /) -> None: ...
        def discard(self, value: _T, /) -> None: ...
        def copy(self) -> set[_T]: ...


class SetProxy(_BaseSetProxy[_T]):
    """A set in the server. The results of operators are sets here."""

    def __iand__(self, other: Any) -> Self:  # type: ignore[override, misc, unused-ignore]
        self._callmethod("intersection_update", (other,))
        return self

    def __ior__(self, other: Any) -> Self:  # type: ignore[override, misc, unused-ignore]
        self._callmethod("update", (other,))
        return self

    def __isub__(self, other: Any) -> Self:  # type: ignore[override, misc, unused-ignore]
        self._callmethod("difference_update", (other,))
        return self

    def __ixor__(self, other: Any) -> Self:  # type: ignore[override, misc, unused-ignore]
        self._callmethod("symmetric_difference_update", (other,))
        return self


@_forwarding
@_original.descend("managers")
class ArrayProxy(BaseProxy):
    """An array in the server."""

    _exposed_ = ("__len__", "__getitem__", "__setitem__")

    if TYPE_CHECKING:

        def __len__(self) -> int: ...
        def __getitem__(self, index: Any, /) -> Any: ...
        def __setitem__(self, index: Any, value: Any, /) -> None: ...


@_forwarding
@_original.descend("managers")
class BasePoolProxy(BaseProxy):
    """What a `PoolProxy` passes on."""

    _exposed_ = (
        "apply",
        "apply_async",
        "close",
        "imap",
        "imap_unordered",
        "join",
        "map",
        "map_async",
        "starmap",
        "starmap_async",
        "terminate",
    )
    _method_to_typeid_ = {
        "apply_async": "AsyncResult",
        "map_async": "AsyncResult",
        "starmap_async": "AsyncResult",
        "imap": "Iterator",
        "imap_unordered": "Iterator",
    }


@_original.descend("managers")
class PoolProxy(BasePoolProxy):
    """A pool in the server; its workers are the server's children."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self._callmethod("terminate")


@_original.descend("managers")
class SyncManager(BaseManager):
    """Makes locks, queues, lists, dicts and the like that any process can use by proxy.

    `Manager()` of this package returns one that has been started.
    """

    if TYPE_CHECKING:
        # Registered below.

        def Queue(self, maxsize: int = 0) -> queue.Queue[Any]: ...
        def JoinableQueue(self, maxsize: int = 0) -> queue.Queue[Any]: ...
        def Event(self) -> EventProxy: ...
        def Lock(self) -> AcquirerProxy: ...
        def RLock(self) -> AcquirerProxy: ...
        def Semaphore(self, value: int = 1) -> AcquirerProxy: ...
        def BoundedSemaphore(self, value: int = 1) -> AcquirerProxy: ...
        def Condition(self, lock: Any = None) -> ConditionProxy: ...
        def Barrier(
            self,
            parties: int,
            action: Callable[[], object] | None = None,
            timeout: float | None = None,
        ) -> BarrierProxy: ...
        def Pool(
            self,
            processes: int | None = None,
            initializer: Callable[..., object] | None = None,
            initargs: Iterable[Any] = (),
            maxtasksperchild: int | None = None,
        ) -> Any: ...
        def Value(self, typecode: Any, value: _T, lock: bool = True) -> ValueProxy[_T]: ...
        def Array(
            self, typecode: str, sequence: Iterable[Any], lock: bool = True
        ) -> ArrayProxy: ...
        def Namespace(self, /, **attributes: Any) -> NamespaceProxy: ...
        # Last, as their names hide the types.
        def list(self, items: Iterable[_T] = (), /) -> ListProxy[_T]: ...
        def set(self, items: Iterable[_T] = (), /) -> SetProxy[_T]: ...
        def dict(self, /, *args: Any, **kwds: Any) -> DictProxy[Any, Any]: ...


for _typeid, _make, _proxy in (
    ("Queue", queue.Queue, None),
    ("JoinableQueue", queue.Queue, None),
    ("Event", threading.Event, EventProxy),
    ("Lock", threading.Lock, AcquirerProxy),
    ("RLock", threading.RLock, AcquirerProxy),
    ("Semaphore", threading.Semaphore, AcquirerProxy),
    ("BoundedSemaphore", threading.BoundedSemaphore, AcquirerProxy),
    ("Condition", threading.Condition, ConditionProxy),
    ("Barrier", threading.Barrier, BarrierProxy),
    ("Pool", _make_pool, PoolProxy),
    ("list", list, ListProxy),
    ("dict", dict, DictProxy),
    ("set", set, SetProxy),
    ("Value", Value, ValueProxy),
    ("Array", Array, ArrayProxy),
    ("Namespace", Namespace, NamespaceProxy),
):
    SyncManager.register(_typeid, _make, _proxy)
del _typeid, _make, _proxy

# What methods of other types return.
SyncManager.register("Iterator", proxytype=IteratorProxy, create_method=False)
SyncManager.register("AsyncResult", create_method=False)


# --- shared memory ----------------------------------------------------------------------------


class _Segments:
    """Names of shared memory blocks that go when the server goes."""

    def __init__(self, name: str) -> None:
        self.shared_memory_context_name = name
        self.segment_names: list[str] = []

    def register_segment(self, name: str) -> None:
        self.segment_names.append(name)

    def destroy_segment(self, name: str) -> None:
        """Unlink one block, which may be gone already."""
        self.segment_names.remove(name)
        with contextlib.suppress(FileNotFoundError):
            segment = shared_memory.SharedMemory(name)
            segment.close()
            segment.unlink()

    def unlink(self) -> None:
        """Unlink all of them."""
        for name in self.segment_names[:]:
            self.destroy_segment(name)


@_original.descend("managers")
class SharedMemoryServer(Server):
    """A server that also remembers blocks of shared memory, to unlink them at its end."""

    public = [*Server.public, "track_segment", "release_segment", "list_segments"]

    def __init__(self, *args: Any, **kwds: Any) -> None:
        super().__init__(*args, **kwds)
        address = self.address
        if isinstance(address, bytes):
            address = os.fsdecode(address)
        self.shared_memory_context = _Segments(f"shm_{address}_{os.getpid()}")

    def create(
        self, c: Any, typeid: str, /, *args: Any, **kwds: Any
    ) -> tuple[str, tuple[str, ...]]:
        """Make a referent; one whose proxy type asks for it gets the table of blocks."""
        if hasattr(self.registry[typeid][-1], "_shared_memory_proxy"):
            kwds["shared_memory_context"] = self.shared_memory_context
        return super().create(c, typeid, *args, **kwds)

    def shutdown(self, c: Any) -> object:
        """Unlink the blocks, then end."""
        self.shared_memory_context.unlink()
        return super().shutdown(c)

    def track_segment(self, c: Any, segment_name: str) -> None:
        """Unlink this block at the end."""
        self.shared_memory_context.register_segment(segment_name)

    def release_segment(self, c: Any, segment_name: str) -> None:
        """Unlink this block now."""
        self.shared_memory_context.destroy_segment(segment_name)

    def list_segments(self, c: Any) -> list[str]:
        """The names of the blocks."""
        return self.shared_memory_context.segment_names


@_original.descend("managers")
class SharedMemoryManager(BaseManager):
    """Makes shared memory blocks and lists that are unlinked when the manager is shut down.

    The blocks are mapped by whoever uses them; only their names are kept in the server.
    If the server dies: the resource tracker unlinks them when the program ends.
    """

    _Server = SharedMemoryServer

    def __init__(self, *args: Any, **kwds: Any) -> None:
        # Before the server starts: it shall use our tracker, and not start a second one.
        resource_tracker.ensure_running()
        super().__init__(*args, **kwds)

    def SharedMemory(self, size: int) -> shared_memory.SharedMemory:
        """A new block of `size` bytes that ends with this manager.

        Raises:
            ServerLostError: The server has ended; there is no block then.
            OSError: It does not fit.
        """
        block = shared_memory.SharedMemory(create=True, size=size)
        self._track(block)
        return block

    def ShareableList(self, sequence: Iterable[Any]) -> shared_memory.ShareableList[Any]:
        """A new list with these items that ends with this manager; errors as above."""
        items = shared_memory.ShareableList(sequence)
        self._track(items.shm)
        return items

    def _track(self, block: shared_memory.SharedMemory) -> None:
        try:
            call_server(self._Client, self._address, self._authkey, "track_segment", block.name)
        except BaseException as error:
            block.unlink()
            _explain_loss(self._address, error)
            raise
        if self._process is None:
            # The server of another program unlinks it, which this program's tracker never learns.
            resource_tracker.unregister(f"/{block.name}", "shared_memory")
            block._track = False
