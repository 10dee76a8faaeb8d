"""Objects that live in a server process and are used through proxies.

    client thread                                 server process
    -------------                                 --------------
    proxy.append(3)  --- (id, "append", (3,), {}) -->  thread for this connection
                                                       looks the object up, calls it
                     <-- ("#RETURN", None) ----------

A *manager* starts the server or connects to one. Its registered types become methods that make
an object (the *referent*) in the server and return a *proxy* to it. The server keeps a referent
as long as there are proxies: each counts once, in whatever process it lives.

There are two kinds of connections. A short one carries a single call of the server itself
("create", "incref", "shutdown", ...). A long one belongs to one thread of a client and carries
calls of referents. In both, a reply is a pair of a kind and a value:

| kind              | value                                         | the client           |
|-------------------|-----------------------------------------------|----------------------|
| `#RETURN`         | the result                                    | returns it           |
| `#ERROR`          | an exception that the referent raised         | raises it            |
| `#PROXY`          | (exposed names, token) of a new referent      | returns a proxy      |
| `#TRACEBACK`      | text of an error in the server                | raises `RemoteError` |
| `#UNSERIALIZABLE` | text of an error in pickling the result       | raises `RemoteError` |

The messages are the standard library's, so either side may be a program that uses it. Where
both sides are ours, exceptions carry the server's traceback as a note.

If the server dies, calls raise EOFError or another OSError at once. If the program that started
it dies, the server ends, too. References of a client that was killed are not given back.
"""

from __future__ import annotations

import array
import collections
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
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, TypeVar

from . import _original, connection, process, reduction, resource_tracker, shared_memory, util
from .context import ProcessError, get_spawning_popen

if TYPE_CHECKING:
    from .context import BaseContext

__all__ = ["BaseManager", "BaseProxy", "SharedMemoryManager", "SyncManager", "Token"]

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


# --- messages ---------------------------------------------------------------------------------


class Token:
    """Which object, on which server: what a proxy needs to find its referent.

    Args:
        typeid: The registered name of the referent's type.
        address: The server's address.
        id: The server's name for the referent.
    """

    __slots__ = ("address", "id", "typeid")

    def __init__(self, typeid: str, address: Any, id: str) -> None:
        self.typeid = typeid
        self.address = address
        self.id = id

    def __getstate__(self) -> tuple[str, Any, str]:
        return self.typeid, self.address, self.id

    def __setstate__(self, state: tuple[str, Any, str]) -> None:
        self.typeid, self.address, self.id = state

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}"
            f"(typeid={self.typeid!r}, address={self.address!r}, id={self.id!r})"
        )


@_original.descend("managers")
class RemoteError(_original.ErrorRoot):
    """The server could not carry out a call; the text is what it reported."""

    def __str__(self) -> str:
        line = "-" * 75
        return f"\n{line}\n{self.args[0]}{line}"


def convert_to_error(kind: str, result: Any) -> BaseException:
    """The exception that a reply stands for."""
    if kind == "#ERROR":
        if isinstance(result, BaseException):
            return result
        # A serializer other than pickle has taken the exception apart.
        return RemoteError(f"{result!r}\n")
    if kind not in ("#TRACEBACK", "#UNSERIALIZABLE"):
        return ValueError(f"the server sent a reply of the unknown kind {kind!r}")
    if not isinstance(result, str):
        return TypeError(f"a reply of kind {kind!r} holds {result!r}, which is not text")
    return RemoteError(
        f"Unserializable message: {result}\n" if kind == "#UNSERIALIZABLE" else result
    )


def dispatch(
    c: Any, id: str | None, methodname: str, args: Any = (), kwds: _Kwargs = _NO_KWARGS
) -> Any:
    """Make one call over the connection `c` and return its result, or raise its error.

    Args:
        c: A connection to a server.
        id: The referent, or None for a call of the server itself.
        methodname: What to call.
        args: Its positional arguments.
        kwds: Its keyword arguments.
    """
    c.send((id, methodname, args, kwds))
    reply = c.recv()
    try:
        kind, result = reply
        if kind == "#RETURN":
            return result
        raise convert_to_error(kind, result)
    finally:
        # An exception refers to this frame: it must not find itself here.
        result = reply = None


def _call_server(
    client: Callable[..., Any], address: Any, authkey: bytes | None, name: str, *args: Any
) -> Any:
    """Call the server itself over a short connection."""
    with contextlib.closing(client(address, authkey=authkey)) as conn:
        return dispatch(conn, None, name, args)


# How the messages are written, by name: who listens, who calls.
listener_client: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "pickle": (connection.Listener, connection.Client),
    "xmlrpclib": (connection.XmlListener, connection.XmlClient),
}


def all_methods(obj: object) -> list[str]:
    """Names of everything in `obj` that can be called."""
    return [name for name in dir(obj) if callable(getattr(obj, name))]


def public_methods(obj: object) -> list[str]:
    """Names of the methods of `obj` that do not begin with an underscore."""
    return [name for name in all_methods(obj) if not name.startswith("_")]


# --- the server -------------------------------------------------------------------------------


# What a registered type is: callable, exposed names, result types by method, proxy type.
_Entry = tuple[
    Callable[..., Any] | None, Sequence[str] | None, Mapping[str, str] | None, Callable[..., Any]
]
_Registry = dict[str, _Entry]
# What the server knows of a referent: the object, exposed names, result types by method.
_Record = tuple[Any, set[str], Mapping[str, str] | None]

_REPLIED = object()  # result of a server call that has written its reply itself


@_original.descend("managers")
class Server(_original.Root):
    """Holds referents and serves proxies, one thread for each connection.

    Args:
        registry: The types that clients may create, by name.
        address: Where to listen; None makes up a local one.
        authkey: The secret that clients must know.
        serializer: A key of `listener_client`.

    A proxy can be an item of a referent (a list in a list, both in this server). Such an inner
    proxy counts as a reference, too, as long as it lives.
    """

    public = [
        "shutdown",
        "create",
        "accept_connection",
        "get_methods",
        "debug_info",
        "number_of_objects",
        "dummy",
        "incref",
        "decref",
    ]

    def __init__(self, registry: _Registry, address: Any, authkey: bytes, serializer: str) -> None:
        if not isinstance(authkey, bytes):
            raise TypeError(f"authkey must be bytes, not {type(authkey).__name__}")
        self.registry = registry
        self.authkey = process.AuthenticationString(authkey)
        listener = listener_client[serializer][0]
        # Without the key: the handshake is done in the thread of the connection.
        self.listener = listener(address=address, backlog=128)
        self.address = self.listener.address
        self.stop_event = threading.Event()
        # Guards the tables below. A referent is never created or dropped under it: that runs
        # foreign code.
        self.mutex = threading.Lock()
        self.id_to_obj: dict[str, _Record] = {}
        self.id_to_refcount: dict[str, int] = {}
        self.id_to_local_proxy_obj: dict[str, _Record] = {}
        self._inner_proxies: dict[str, int] = {}
        # Ids of inner proxies that were freed. The garbage collector may add to it at any
        # moment, under the mutex as well, so it is worked off later.
        self._freed: collections.deque[str] = collections.deque()

    def serve_forever(self) -> NoReturn:
        """Serve until a client asks for the end, then leave the process by SystemExit."""
        process.current_process()._manager_server = self  # type: ignore[attr-defined]
        threading.Thread(target=self.accepter, name="manager-accepter", daemon=True).start()
        try:
            self.stop_event.wait()
        except (KeyboardInterrupt, SystemExit):
            pass
        finally:
            self.stop_event.set()
            # A test runner or a notebook may have replaced them, and may be gone by now.
            if sys.stdout is not sys.__stdout__:
                sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        sys.exit(0)

    def accepter(self) -> None:
        """Give each connection a thread, until the end."""
        while not self.stop_event.is_set():
            try:
                conn = self.listener.accept()
            except OSError:
                # A caller that went away; or no descriptor is free, and then pause a little.
                self.stop_event.wait(0.01)
                continue
            threading.Thread(target=self.handle_request, args=(conn,), daemon=True).start()

    def handle_request(self, conn: Any) -> None:
        """Carry out the one server call of a new connection, then close it."""
        with contextlib.suppress(SystemExit), contextlib.closing(conn):
            self._handle_request(conn)

    def _handle_request(self, c: Any) -> None:
        request = None
        try:
            connection.deliver_challenge(c, self.authkey)
            connection.answer_challenge(c, self.authkey)
            request = c.recv()
            _ignored, name, args, kwds = request
            if name not in self.public:
                raise ValueError(f"{name!r} is no call of a manager's server")
            result = getattr(self, name)(c, *args, **kwds)
            if result is _REPLIED:
                return
            message = ("#RETURN", result)
        except Exception:
            message = ("#TRACEBACK", traceback.format_exc())
        try:
            c.send(message)
        except Exception as error:
            with contextlib.suppress(Exception):
                c.send(("#TRACEBACK", traceback.format_exc()))
            util.info("a manager could not answer %r: %r", request, error)

    def serve_client(self, conn: Any) -> None:
        """Carry out calls of referents until the client closes the connection."""
        # The last result is kept until the next request comes: a proxy in it must outlive the
        # moment in which the client makes its own.
        message: tuple[str, Any]
        while not self.stop_event.is_set():
            try:
                ident, name, args, kwds = conn.recv()
            except (EOFError, ConnectionError):
                util.debug("a client of the manager has hung up")
                return
            except Exception:
                message = ("#TRACEBACK", traceback.format_exc())
            else:
                message = self._call(conn, ident, name, args, kwds)
                args = kwds = None
            self._settle_freed()
            try:
                try:
                    conn.send(message)
                except (BrokenPipeError, ConnectionError):
                    raise
                except Exception:
                    conn.send(("#UNSERIALIZABLE", traceback.format_exc()))
            except Exception as error:
                util.info("a manager could not send %r: %r", message, error)
                return

    def _call(
        self, conn: Any, ident: str, name: str, args: Sequence[Any], kwds: _Kwargs
    ) -> tuple[str, Any]:
        """Call a method of a referent; the reply."""
        try:
            obj, exposed, result_types = self._record(ident)
            if name not in exposed:
                fallback = self.fallback_mapping.get(name)
                if fallback is None:
                    raise AttributeError(
                        f"method {name!r} of a {type(obj).__name__} is not among those "
                        f"exposed: {sorted(exposed)}"
                    )
                return "#RETURN", fallback(self, conn, ident, obj, *args, **kwds)
        except Exception:
            return "#TRACEBACK", traceback.format_exc()
        try:
            result = getattr(obj, name)(*args, **kwds)
        except Exception as error:
            _note_traceback(error)
            return "#ERROR", error
        typeid = result_types.get(name) if result_types else None
        if not typeid:
            return "#RETURN", result
        try:
            new_ident, new_exposed = self.create(conn, typeid, result)
        except Exception:
            return "#TRACEBACK", traceback.format_exc()
        # A plain object with the token's attributes: a client that uses the standard library
        # could not unpickle our class.
        token = types.SimpleNamespace(typeid=typeid, address=self.address, id=new_ident)
        return "#PROXY", (new_exposed, token)

    def _record(self, ident: str) -> _Record:
        with self.mutex:
            record = self.id_to_obj.get(ident) or self.id_to_local_proxy_obj.get(ident)
        if record is None:
            raise KeyError(f"this server has no object with id {ident!r} (any more)")
        return record

    def fallback_getvalue(self, conn: Any, ident: str, obj: Any) -> Any:
        """The referent itself, as a copy."""
        return obj

    def fallback_str(self, conn: Any, ident: str, obj: Any) -> str:
        """The referent's `str`."""
        return str(obj)

    def fallback_repr(self, conn: Any, ident: str, obj: Any) -> str:
        """The referent's `repr`."""
        return repr(obj)

    fallback_mapping: dict[str, Callable[..., Any]] = {
        "__str__": fallback_str,
        "__repr__": fallback_repr,
        "#GETVALUE": fallback_getvalue,
    }

    # Server calls: the first argument is the connection.

    def dummy(self, c: Any) -> None:
        """Do nothing: shows that the server is there and the key is right."""

    def debug_info(self, c: Any) -> str:
        """A line or two for each referent: its id, references and beginning."""
        self._settle_freed()
        with self.mutex:
            known = [
                (ident, count, self.id_to_obj[ident][0])
                for ident, count in sorted(self.id_to_refcount.items())
            ]
        return "\n".join(
            f"  {ident}:       refcount={count}\n    {str(obj)[:75]}" for ident, count, obj in known
        )

    def number_of_objects(self, c: Any) -> int:
        """How many referents clients hold."""
        self._settle_freed()
        with self.mutex:
            return len(self.id_to_refcount)

    def shutdown(self, c: Any) -> object:
        """End the server, after an answer to whoever asked for it."""
        try:
            c.send(("#RETURN", None))
        finally:
            self.stop_event.set()
        return _REPLIED

    def create(
        self, c: Any, typeid: str, /, *args: Any, **kwds: Any
    ) -> tuple[str, tuple[str, ...]]:
        """Make a referent with one reference; its id and exposed names."""
        make, exposed, result_types, _proxytype = self.registry[typeid]
        if make is not None:
            obj = make(*args, **kwds)
        elif kwds or len(args) != 1:
            raise ValueError(
                f"type {typeid!r} was registered without a callable: it takes exactly one "
                "argument, the object"
            )
        else:
            obj = args[0]
        if exposed is None:
            exposed = public_methods(obj)
        if result_types is not None:
            if not isinstance(result_types, Mapping):
                raise TypeError(
                    f"method_to_typeid must be a dict, not {type(result_types).__name__}"
                )
            exposed = [*exposed, *result_types]
        # Text, since not every serializer has integers of this size.
        ident = f"{id(obj):x}"
        with self.mutex:
            self.id_to_obj[ident] = (obj, set(exposed), result_types)
            self.id_to_refcount[ident] = self.id_to_refcount.get(ident, 0) + 1
        return ident, tuple(exposed)

    def get_methods(self, c: Any, token: Any) -> tuple[str, ...]:
        """The exposed names of a referent."""
        return tuple(self._record(token.id)[1])

    def accept_connection(self, c: Any, name: str) -> object:
        """Turn this connection into a long one, for the client thread `name`."""
        threading.current_thread().name = name
        c.send(("#RETURN", None))
        self.serve_client(c)
        return _REPLIED

    def incref(self, c: Any, ident: str) -> None:
        """Count one more proxy of a client."""
        with self.mutex:
            if ident not in self.id_to_refcount:
                # Only inner proxies held it so far.
                if ident not in self.id_to_local_proxy_obj:
                    raise KeyError(f"this server has no object with id {ident!r} (any more)")
                self.id_to_obj[ident] = self.id_to_local_proxy_obj[ident]
                self.id_to_refcount[ident] = 0
            self.id_to_refcount[ident] += 1

    def decref(self, c: Any, ident: str) -> None:
        """Count one proxy of a client less; without any the referent is dropped."""
        dropped = None
        with self.mutex:
            count = self.id_to_refcount.get(ident, 0)
            if count > 1:
                self.id_to_refcount[ident] = count - 1
            elif count == 1:
                del self.id_to_refcount[ident]
                dropped = self.id_to_obj.pop(ident)
            elif ident not in self.id_to_local_proxy_obj:
                raise KeyError(f"this server has no object with id {ident!r} (any more)")
        del dropped  # outside of the mutex: its end may run anything
        self._settle_freed()

    # Inner proxies.

    def _hold(self, ident: str) -> None:
        """Count an inner proxy that is about to be made."""
        with self.mutex:
            if ident not in self.id_to_local_proxy_obj:
                if ident not in self.id_to_obj:
                    raise KeyError(f"this server has no object with id {ident!r} (any more)")
                self.id_to_local_proxy_obj[ident] = self.id_to_obj[ident]
            self._inner_proxies[ident] = self._inner_proxies.get(ident, 0) + 1

    def _settle_freed(self) -> None:
        """Drop what only freed inner proxies held, and what that frees in turn."""
        while self._freed:
            try:
                ident = self._freed.popleft()
            except IndexError:  # another thread was faster
                return
            dropped = None
            with self.mutex:
                self._inner_proxies[ident] -= 1
                if not self._inner_proxies[ident]:
                    del self._inner_proxies[ident]
                    dropped = self.id_to_local_proxy_obj.pop(ident)
            del dropped


def _note_traceback(error: BaseException) -> None:
    """Put the server's traceback into the exception, where the client's output shows it."""
    heading = "In the manager's server:"
    if not any(note.startswith(heading) for note in getattr(error, "__notes__", ())):
        error.add_note(f"{heading}\n{''.join(traceback.format_exception(error)).rstrip()}")


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

    Process safety: any thread and process may use the manager's proxies at once.
    If one dies: the server ends with the process that started it; a client leaves its
    references behind.
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
    ) -> None:
        from . import get_context

        if authkey is None:
            authkey = process.current_process().authkey
        self._address = address
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
        _call_server(self._Client, self._address, self._authkey, "dummy")
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
            Exception: Whatever hindered the server: OSError where the address is taken, or
                what `initializer` raised.
            EOFError: The server process died without a word.
        """
        self._must_be_new()
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
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
            except Exception as error:
                _note_traceback(error)
                try:
                    writer.send(("#ERROR", error))
                except Exception:
                    writer.send(("#TRACEBACK", traceback.format_exc()))
                sys.exit(1)
            writer.send(("#RETURN", server.address))
        util.info("manager serving at %r", server.address)
        _end_with_parent(server)
        server.serve_forever()

    def _create(self, typeid: str, /, *args: Any, **kwds: Any) -> tuple[Token, tuple[str, ...]]:
        """Make a referent; its token, which holds one reference, and its exposed names."""
        assert self._state.value == State.STARTED, "server not yet started"
        with contextlib.closing(self._Client(self._address, authkey=self._authkey)) as conn:
            ident, exposed = dispatch(conn, None, "create", (typeid, *args), kwds)
        return Token(typeid, self._address, ident), exposed

    def join(self, timeout: float | None = None) -> None:
        """Wait until the server process has ended, at most `timeout` seconds."""
        if self._process is not None:
            self._process.join(timeout)
            if not self._process.is_alive():
                self._process = None

    def _debug_info(self) -> str:
        info: str = _call_server(self._Client, self._address, self._authkey, "debug_info")
        return info

    def _number_of_objects(self) -> int:
        number: int = _call_server(self._Client, self._address, self._authkey, "number_of_objects")
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
                _call_server(client, address, authkey, "shutdown")
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
        BaseProxy._address_to_local.pop(address, None)

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


class ProcessLocalSet(set[str]):
    """A set that is empty again after a fork."""

    def __init__(self) -> None:
        super().__init__()
        util.register_after_fork(self, ProcessLocalSet.clear)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


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

    # By server address: this thread's connection, and the ids that this process refers to.
    _address_to_local: dict[Any, tuple[Any, ProcessLocalSet]] = {}
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
        with BaseProxy._mutex:
            local = BaseProxy._address_to_local.get(token.address)
            if local is None:
                local = util.ForkAwareLocal(), ProcessLocalSet()
                BaseProxy._address_to_local[token.address] = local
        self._tls: Any = local[0]
        self._idset = local[1]
        self._token = token
        self._id = token.id
        self._manager = manager
        self._serializer = serializer
        self._Client = listener_client[serializer][1]
        self._owned_by_manager = manager_owned
        if authkey is None:
            authkey = manager._authkey if manager else process.current_process().authkey
        self._authkey = process.AuthenticationString(authkey)
        if incref:
            self._incref()
        util.register_after_fork(self, BaseProxy._after_fork)

    def _connect(self) -> None:
        """Open this thread's long connection."""
        name = process.current_process().name
        thread = threading.current_thread()
        if thread is not threading.main_thread():
            name = f"{name}|{thread.name}"
        conn = self._Client(self._token.address, authkey=self._authkey)
        try:
            dispatch(conn, None, "accept_connection", (name,))
        except BaseException:
            conn.close()
            raise
        self._tls.connection = conn

    def _callmethod(self, methodname: str, args: Any = (), kwds: _Kwargs = _NO_KWARGS) -> Any:
        """Call a method of the referent.

        Args:
            methodname: Its name, which must be exposed.
            args: Its positional arguments.
            kwds: Its keyword arguments.

        Returns:
            A copy of the result, or a proxy to it where the type says so.

        Raises:
            Exception: A copy of what the method raised, with the server's traceback as a note.
            RemoteError: The method is not exposed, or its result cannot be pickled.
            EOFError: The server has ended; another OSError is possible, too.
        """
        if not hasattr(self._tls, "connection"):
            self._connect()
        conn = self._tls.connection
        conn.send((self._id, methodname, args, kwds))
        reply = conn.recv()
        try:
            kind, result = reply
            if kind == "#RETURN":
                return result
            if kind == "#PROXY":
                return self._proxy_for_result(*result)
            raise convert_to_error(kind, result)
        finally:
            # An exception refers to this frame: it must not find itself here.
            result = reply = None

    def _proxy_for_result(self, exposed: Sequence[str], received: Any) -> Any:
        token = Token(received.typeid, self._token.address, received.id)
        if self._manager is None:
            _call_server(self._Client, token.address, self._authkey, "decref", token.id)
            raise RuntimeError(
                f"a result of type {token.typeid!r} needs the manager, and this proxy has none: "
                "it was pickled or came through a fork"
            )
        proxytype = self._manager._registry[token.typeid][-1]
        return _proxy_for_new(
            proxytype, token, self._serializer, self._manager, self._authkey, exposed
        )

    def _getvalue(self) -> Any:
        """A copy of the referent."""
        return self._callmethod("#GETVALUE")

    def _incref(self) -> None:
        """Have the server count this proxy, until it is freed."""
        if self._owned_by_manager:
            return
        _call_server(self._Client, self._token.address, self._authkey, "incref", self._id)
        self._idset.add(self._id)
        self._close = util.Finalize(
            self,
            BaseProxy._decref,
            args=(
                self._token,
                self._authkey,
                self._manager._state if self._manager else None,
                self._tls,
                self._idset,
                self._Client,
            ),
            exitpriority=10,
        )

    @staticmethod
    def _decref(
        token: Token,
        authkey: bytes,
        state: State | None,
        tls: Any,
        idset: ProcessLocalSet,
        client: Callable[..., Any],
    ) -> None:
        idset.discard(token.id)
        if state is None or state.value == State.STARTED:
            try:
                _call_server(client, token.address, authkey, "decref", token.id)
            except Exception as error:
                util.debug("a reference could not be given back: %r", error)
        # Nothing of this server is left here: this thread's connection is of no more use.
        if not idset and hasattr(tls, "connection"):
            tls.connection.close()
            del tls.connection

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


def _proxy_for_new(
    make_proxy: Callable[..., Any],
    token: Token,
    serializer: str,
    manager: BaseManager,
    authkey: bytes,
    exposed: Sequence[str],
) -> Any:
    """A proxy for a referent that has just been made, with one reference held for us."""
    try:
        return make_proxy(token, serializer, manager=manager, authkey=authkey, exposed=exposed)
    finally:
        _call_server(manager._Client, token.address, authkey, "decref", token.id)


def RebuildProxy(
    func: Callable[..., Any], token: Token, serializer: str, kwds: dict[str, Any]
) -> Any:
    """Unpickle a proxy; in the referent's own server it becomes an inner one."""
    current = process.current_process()
    server: Server | None = getattr(current, "_manager_server", None)
    # A child that inherits a proxy counts it in its after-fork hook.
    incref = kwds.pop("incref", True) and not getattr(current, "_inheriting", False)
    if server is None or server.address != token.address:
        return func(token, serializer, incref=incref, **kwds)
    server._hold(token.id)
    try:
        proxy = func(token, serializer, incref=incref, **{**kwds, "manager_owned": True})
        weakref.finalize(proxy, server._freed.append, token.id).atexit = False
    except BaseException:
        server._freed.append(token.id)
        raise
    return proxy


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
        authkey = manager._authkey if manager else process.current_process().authkey
    if exposed is None:
        # See Server._call for why this is not the token itself.
        plain = types.SimpleNamespace(typeid=token.typeid, address=token.address, id=token.id)
        client = listener_client[serializer][1]
        exposed = _call_server(client, token.address, authkey, "get_methods", plain)
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
else:
    _Mapping = _Sequence = Generic


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
        self._typecode = typecode
        self.value = value

    def get(self) -> Any:
        """The value."""
        return self.value

    def set(self, value: Any) -> None:
        """Replace the value."""
        self.value = value

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._typecode!r}, {self.value!r})"


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
        "__iter__",
        "__len__",
        "__setitem__",
        "clear",
        "copy",
        "get",
        "items",
        "keys",
        "pop",
        "popitem",
        "setdefault",
        "update",
        "values",
    )
    _method_to_typeid_ = {"__iter__": "Iterator"}

    if TYPE_CHECKING:

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
        """A new block of `size` bytes that ends with this manager."""
        block = shared_memory.SharedMemory(create=True, size=size)
        self._track(block)
        return block

    def ShareableList(self, sequence: Iterable[Any]) -> shared_memory.ShareableList[Any]:
        """A new list with these items that ends with this manager."""
        items = shared_memory.ShareableList(sequence)
        self._track(items.shm)
        return items

    def _track(self, block: shared_memory.SharedMemory) -> None:
        try:
            _call_server(self._Client, self._address, self._authkey, "track_segment", block.name)
        except BaseException:
            block.unlink()
            raise
