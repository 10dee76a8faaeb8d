"""The server of a manager: holds referents and carries out calls, one thread for each connection.

    client thread                                 server process
    -------------                                 --------------
    proxy.append(3)  --- (id, "append", (3,), {}) -->  thread for this connection
                                                       looks the object up, calls it
                     <-- ("#RETURN", None) ----------

There are two kinds of connections. A short one carries a single call of the server itself
("create", "incref", "shutdown", ...). A long one, which begins as a short one that calls
"accept_connection", belongs to one thread of a client and carries calls of referents, and, from
clients of this package, calls of the server as well: those are requests for the referent None.

Such a client first introduces itself, with a name that all connections of its process give. The
server writes down what references that process has, and gives them back when it has died, even
if a call of it is still being carried out. Over a local socket that is known: the kernel tells
which process is there. Over a network the end of all its connections may also be a cut line, so
they are kept for a while, in which the client may come back. Of a client that uses the standard
library nothing is known: its references come over short connections without a name.

A client of this server's own family of processes then makes a pipe in shared memory for the two
of them (`share_pipe`), through which its calls go from then on. The socket stays: it carries the
pipe's bell, and tells either side of the other's end.
"""

from __future__ import annotations

import collections
import contextlib
import os
import select
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import _original, _sidestep, context, process, util
from ._wire import Token, WireConnection, listener_client, note_traceback
from .connection import Connection

__all__ = ["GREETING", "Server", "all_methods", "public_methods"]

# What our server answers to "accept_connection", where the standard library's says None.
GREETING = "sidestep"


def all_methods(obj: object) -> list[str]:
    """Names of everything in `obj` that can be called."""
    return [name for name in dir(obj) if callable(getattr(obj, name))]


def public_methods(obj: object) -> list[str]:
    """Names of the methods of `obj` that do not begin with an underscore."""
    return [name for name in all_methods(obj) if not name.startswith("_")]


_Kwargs = Mapping[str, Any]

# What a registered type is: callable, exposed names, result types by method, proxy type.
_Entry = tuple[
    Callable[..., Any] | None, Sequence[str] | None, Mapping[str, str] | None, Callable[..., Any]
]
_Registry = dict[str, _Entry]
# What the server knows of a referent: the object, exposed names, result types by method.
_Record = tuple[Any, set[str], Mapping[str, str] | None]

_REPLIED = object()  # result of a server call that has written its reply itself


class _Client:
    """What the server knows of a process that has introduced itself."""

    def __init__(self, name: str, process: int | None) -> None:
        self.name = name
        self.process = process  # a descriptor of it, if it is known
        # Those that have not been hung up, with the descriptors by which they are watched.
        self.connections: dict[Any, int] = {}
        self.references: collections.Counter[str] = collections.Counter()
        self.deadline: float | None = None  # when to give up on it


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

    If a client dies: its references are given back, if it is one of this package. At once, if it
    came over a local socket, or `client_grace` seconds after its last connection has ended.
    """

    # How long a client that is not on this machine, or came over TCP, may be out of reach before
    # its references are given back. A subclass, in a manager's `_Server`, may say otherwise.
    client_grace = 60.0

    # How long a caller that cannot be served may take to say what it wants, in seconds.
    _request_patience = 1.0

    # In the package's public place: programs know it from there.
    __module__ = f"{__package__}.managers"

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
        self.listener = listener(address=address, backlog=128, authkey=self.authkey)
        self.address = self.listener.address
        self.stop_event = threading.Event()
        self._begun = False
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
        self._clients: dict[str, _Client] = {}  # by the name that they give themselves
        self._client_of: dict[Any, _Client] = {}  # by connection
        # What the thread that looks after clients watches, by descriptor: connections, and for
        # None the process itself. There is no such thread before the first client.
        self._watched: dict[int, tuple[_Client, Any]] = {}
        self._epoll: select.epoll | None = None
        self._wake = -1

    def _begin(self) -> None:
        """Take callers from now on, in a thread; an error if there can be none."""
        if self._begun:
            return
        process.current_process()._manager_server = self  # type: ignore[attr-defined]
        threading.Thread(target=self.accepter, name="manager-accepter", daemon=True).start()
        self._begun = True

    def serve_forever(self) -> None:
        """Serve until a client asks for the end, then leave the process by SystemExit."""
        self._begin()
        try:
            self.stop_event.wait()
        except (KeyboardInterrupt, SystemExit):
            pass
        finally:
            self.stop_event.set()
            with self.mutex:
                self._wake_watch()
            # A test runner or a notebook may have replaced them, and may be gone by now.
            if sys.stdout is not sys.__stdout__:
                sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        sys.exit(0)

    def accepter(self) -> None:
        """Give each connection a thread, until the end. Callers prove themselves before that."""
        while not self.stop_event.is_set():
            try:
                conn = self.listener.accept()
            except context.AuthenticationError as error:
                util.sub_warning("a manager turned a caller away: %s", error)
                continue
            except Exception as error:
                # A caller that went away; or no descriptor is free, and then pause a little.
                util.sub_warning("a manager could not take a caller: %r", error)
                self.stop_event.wait(0.1)
                continue
            thread = threading.Thread(target=self.handle_request, args=(conn,), daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                util.sub_warning("a manager could not serve a caller: %s", error)
                self._turn_away(conn, f"the manager's server has no thread for a caller: {error}")

    def _turn_away(self, conn: Any, reason: str) -> None:
        """Answer the one request of a new connection with an error."""
        with contextlib.suppress(Exception), contextlib.closing(conn):
            # Taken first: what nobody has read would cut the line under the answer.
            if conn.poll(self._request_patience):
                conn.recv()
                conn.send(("#ERROR", RuntimeError(reason)))

    def handle_request(self, conn: Any) -> None:
        """Carry out the one server call of a new connection, then close it."""
        with contextlib.suppress(SystemExit), contextlib.closing(conn):
            self._handle_request(conn)

    def _handle_request(self, c: Any) -> None:
        request = None
        try:
            request = c.recv()
            _ignored, name, args, kwds = request
            if name not in self.public:
                raise ValueError(f"{name!r} is no call of a manager's server")
            result = getattr(self, name)(c, *args, **kwds)
            if result is _REPLIED:
                return
            message = ("#RETURN", result)
        except BaseException:  # see `_call`
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
        request = None
        answer = getattr(conn, "answer", None)
        try:
            while not self.stop_event.is_set():
                try:
                    if request is None:
                        request = conn.recv()
                    elif type(request) is bytes:
                        request = conn._loads(request)
                    ident, name, args, kwds = request
                except (EOFError, ConnectionError):
                    util.debug("a client of the manager has hung up")
                    return
                except Exception:
                    message = ("#TRACEBACK", traceback.format_exc())
                else:
                    if ident is None:
                        message = self._call_itself(conn, name, args, kwds)
                    else:
                        message = self._call(conn, ident, name, args, kwds)
                request = args = kwds = None
                if self._freed:
                    self._settle_freed()
                if message[1] is _REPLIED:
                    continue
                try:
                    try:
                        if answer is not None and message[0] == "#RETURN":
                            try:
                                request = answer(message[1])
                            except EOFError:
                                util.debug("a client of the manager has hung up")
                                return
                        if request is None:
                            conn.send(message)
                    except (BrokenPipeError, ConnectionError):
                        raise
                    except Exception:
                        conn.send(("#UNSERIALIZABLE", traceback.format_exc()))
                except Exception as error:
                    util.info("a manager could not send %r: %r", message, error)
                    return
        finally:
            self._take_leave(conn)

    def _call_itself(
        self, conn: Any, name: str, args: Sequence[Any], kwds: _Kwargs | None
    ) -> tuple[str, Any]:
        """Carry out a call of the server over a long connection; the reply."""
        try:
            if name == "introduce":
                return "#RETURN", self._introduce(conn, *args)
            if name == "share_pipe":
                return "#RETURN", self._share_pipe(conn, *args)
            if name not in self.public or name == "accept_connection":
                raise ValueError(f"{name!r} is no call of a manager's server")
            return "#RETURN", getattr(self, name)(conn, *args, **(kwds or {}))
        except BaseException:  # see `_call`
            return "#TRACEBACK", traceback.format_exc()

    def _call(
        self, conn: Any, ident: str, name: str, args: Sequence[Any], kwds: _Kwargs | None
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
                return "#RETURN", fallback(self, conn, ident, obj, *args, **(kwds or {}))
        except Exception:
            return "#TRACEBACK", traceback.format_exc()
        try:
            method = getattr(obj, name)
            result = method(*args, **kwds) if kwds else method(*args)
        except Exception as error:
            if conn not in self._client_of:
                error = _known_everywhere(error)
            note_traceback(error)
            return "#ERROR", error
        except BaseException:
            # SystemExit and its like are meant for this thread at most. Raised in the client they
            # would end that, and ending the connection would leave it without a word.
            return "#TRACEBACK", traceback.format_exc()
        typeid = result_types.get(name) if result_types else None
        if not typeid:
            return "#RETURN", result
        try:
            new_ident, new_exposed = self.create(conn, typeid, result)
        except Exception:
            return "#TRACEBACK", traceback.format_exc()
        return "#PROXY", (new_exposed, Token(typeid, self.address, new_ident))

    def _record(self, ident: str) -> _Record:
        record = self.id_to_obj.get(ident)
        if record is not None:
            return record
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
            self._count_for(c, ident, 1)
        return ident, tuple(exposed)

    def get_methods(self, c: Any, token: Any) -> tuple[str, ...]:
        """The exposed names of a referent."""
        return tuple(self._record(token.id)[1])

    def accept_connection(self, c: Any, name: str) -> object:
        """Turn this connection into a long one, for the client thread `name`."""
        threading.current_thread().name = name
        c.send(("#RETURN", GREETING))
        self.serve_client(c)
        return _REPLIED

    # Clients that have introduced themselves.

    def _introduce(self, c: Any, name: str) -> tuple[int, int] | None:
        """Take note that this long connection belongs to the process that calls itself `name`.

        The result is the family whose members may call `share_pipe` now.
        """
        with self.mutex:
            if self._epoll is None:
                self._begin_watch()
            client = self._clients.get(name)
            if client is None:
                client = self._clients[name] = _Client(name, _process_of(c))
                if client.process is not None:
                    self._watch(client.process, select.EPOLLIN, client)
            client.deadline = None
            self._client_of[c] = client
            client.connections[c] = c.fileno() if hasattr(c, "fileno") else -1
            if client.connections[c] >= 0:
                self._watch(client.connections[c], select.EPOLLRDHUP, client, c)
            local = client.process is not None
        if local and isinstance(c, WireConnection) and type(c._conn) is Connection:
            return _sidestep.family_name()
        return None

    def _share_pipe(self, c: Any, place: tuple[int, int, int]) -> Any:
        """Go on with this connection in the pipe at `place`; False: stay on the socket."""
        try:
            side = _sidestep.PipeSide(place)
        except (MemoryError, RuntimeError) as error:
            util.info("a manager cannot join a client's pipe: %r", error)
            return False
        c.send(("#RETURN", True))
        c.enter(side, soundly=True)
        return _REPLIED

    def _take_leave(self, conn: Any) -> None:
        """Take note that nobody serves this connection any more."""
        with self.mutex:
            client = self._client_of.pop(conn, None)
            if client is None:
                return
            dropped = self._lose(client, conn)
            if self._clients.get(client.name) is not client:
                # Given up during its last call, whose result may have been one more reference.
                dropped += self._give_back(client)
        self._drop(dropped)

    def _lose(self, client: _Client, conn: Any) -> list[_Record | None]:
        """Under the mutex: one connection less. What is dropped if there is nothing to wait for."""
        descriptor = client.connections.pop(conn, -1)
        if self._watched.get(descriptor) == (client, conn):
            self._unwatch(descriptor)
        if client.connections or self._clients.get(client.name) is not client:
            return []
        if not client.references:
            return self._give_up(client)
        if client.process is None:
            client.deadline = time.monotonic() + self.client_grace
            self._wake_watch()
        return []

    def _give_up(self, client: _Client) -> list[_Record | None]:
        """Under the mutex: forget a client that is dead or as good as dead; what is dropped."""
        del self._clients[client.name]
        if client.process is not None:
            self._unwatch(client.process)
            os.close(client.process)
        return self._give_back(client)

    def _give_back(self, client: _Client) -> list[_Record | None]:
        """Under the mutex: count down all that a client has; what is dropped."""
        left = list(client.references.elements())
        client.references.clear()
        return [self._count_down(ident) for ident in left if ident in self.id_to_refcount]

    def _begin_watch(self) -> None:
        """Under the mutex: look after clients from now on."""
        watching = threading.Thread(
            target=self._look_after_clients, name="manager-clients", daemon=True
        )
        try:
            self._epoll = select.epoll()
            self._wake = os.eventfd(0)
            self._epoll.register(self._wake, select.EPOLLIN)
            watching.start()
        except BaseException:
            # The next client tries again.
            if self._wake >= 0:
                os.close(self._wake)
            if self._epoll is not None:
                self._epoll.close()
            self._epoll, self._wake = None, -1
            raise

    def _wake_watch(self) -> None:
        """Under the mutex: have the thread look at deadlines and the end again."""
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    def _watch(self, descriptor: int, events: int, client: _Client, conn: Any = None) -> None:
        assert self._epoll is not None
        self._epoll.register(descriptor, events)
        self._watched[descriptor] = client, conn

    def _unwatch(self, descriptor: int) -> None:
        del self._watched[descriptor]
        if self._epoll is not None:
            with contextlib.suppress(OSError):  # an error may have closed it
                self._epoll.unregister(descriptor)

    def _look_after_clients(self) -> None:
        """Give up clients that have died, or have been out of reach for too long."""
        epoll = self._epoll
        assert epoll is not None
        timeout: float | None = None
        while not self.stop_event.is_set():
            epoll.poll(timeout)
            dropped = []
            with self.mutex:
                # Asked once more: by now a descriptor may have another meaning.
                for descriptor, _ in epoll.poll(0):
                    if descriptor == self._wake:
                        os.eventfd_read(descriptor)
                        continue
                    if descriptor not in self._watched:
                        continue
                    client, conn = self._watched[descriptor]
                    if conn is None:
                        dropped += self._give_up(client)
                    else:
                        # Its thread may be in the middle of a call. What else the client has sent
                        # is still read: it keeps being this client's connection.
                        dropped += self._lose(client, conn)
                now = time.monotonic()
                timeout = None
                for client in list(self._clients.values()):
                    if client.deadline is None:
                        continue
                    left = client.deadline - now
                    if left <= 0:
                        dropped += self._give_up(client)
                    elif timeout is None or left < timeout:
                        timeout = left
            self._drop(dropped)
        with self.mutex:
            for client in self._clients.values():
                if client.process is not None:
                    self._unwatch(client.process)
                    os.close(client.process)
                    client.process = None
            os.close(self._wake)
            self._wake = -1
            epoll.close()
            self._epoll = None

    def _drop(self, dropped: list[_Record | None]) -> None:
        """Not under the mutex: let go of what a client has left; its end may run anything."""
        if dropped:
            util.info("a client of the manager has left %d references behind", len(dropped))
        dropped.clear()
        self._settle_freed()

    def _count_for(self, conn: Any, ident: str, number: int) -> None:
        """Under the mutex: write a reference down for whoever is at the other end."""
        client = self._client_of.get(conn)
        if client is not None:
            client.references[ident] += number
            if client.references[ident] <= 0:
                del client.references[ident]

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
            self._count_for(c, ident, 1)

    def decref(self, c: Any, ident: str) -> None:
        """Count one proxy of a client less; without any the referent is dropped."""
        with self.mutex:
            client = self._client_of.get(c)
            if client is not None and not client.references[ident]:
                raise KeyError(f"this client has no reference to an object with id {ident!r}")
            dropped = self._count_down(ident)
            self._count_for(c, ident, -1)
        del dropped  # outside of the mutex: its end may run anything
        self._settle_freed()

    def _count_down(self, ident: str) -> _Record | None:
        """Under the mutex: count one less; the referent's record, if that was the last."""
        count = self.id_to_refcount.get(ident, 0)
        if count > 1:
            self.id_to_refcount[ident] = count - 1
        elif count == 1:
            del self.id_to_refcount[ident]
            return self.id_to_obj.pop(ident)
        elif ident not in self.id_to_local_proxy_obj:
            raise KeyError(f"this server has no object with id {ident!r} (any more)")
        return None

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


def _process_of(conn: Any) -> int | None:
    """A descriptor of the process at the other end of a local socket, None for other sockets."""
    try:
        with socket.socket(fileno=os.dup(conn.fileno())) as peer:
            if peer.family != socket.AF_UNIX:
                return None
            size = struct.calcsize("3i")
            who = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        return os.pidfd_open(struct.unpack("3i", who)[0])
    except (AttributeError, OSError):
        # No socket at all, a process that is gone already, or one out of another container.
        return None


def _known_everywhere(error: Exception) -> Exception:
    """The error, or where only this package has its class, the nearest one that all have."""
    standard = ("ProcessError", "BufferTooShort", "TimeoutError", "AuthenticationError")
    kind = type(error)
    ours = kind.__module__.partition(".")[0] == __package__
    if ours and isinstance(error, context.ProcessError) and kind.__name__ not in standard:
        return context.ProcessError(f"{kind.__name__}: {error}").with_traceback(error.__traceback__)
    return error
