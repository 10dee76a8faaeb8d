"""What travels between a manager's server and its clients, either of which may not be ours.

A request is a tuple of a referent's id (None for a call of the server itself), a method's name,
its arguments and its keyword arguments. A reply is a pair of a kind and a value:

| kind              | value                                         | the client           |
|-------------------|-----------------------------------------------|----------------------|
| `#RETURN`         | the result                                    | returns it           |
| `#ERROR`          | an exception that the referent raised         | raises it            |
| `#PROXY`          | (exposed names, token) of a new referent      | returns a proxy      |
| `#TRACEBACK`      | text of an error in the server                | raises `RemoteError` |
| `#UNSERIALIZABLE` | text of an error in pickling the result       | raises `RemoteError` |

These are the standard library's, and so are the names in the pickles: a class of this package
goes out as the one of the same name in `multiprocessing`, and what comes in under that name
becomes ours. So a program that has never heard of this package understands ours, and is
understood.

A server and a client of one family of processes need none of this (`introduce`, `share_pipe` in
`_manager_server`): the same requests and replies go through a pipe in shared memory, plain ones
without pickle.
"""

from __future__ import annotations

import contextlib
import functools
import io
import pickle
import pkgutil
import sys
import traceback
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, Self

from . import _original, _sidestep, connection, reduction
from .connection import ConnectionWrapper

__all__ = [
    "RemoteError",
    "Token",
    "WireClient",
    "WireConnection",
    "WireListener",
    "call_server",
    "convert_to_error",
    "dispatch",
    "listener_client",
    "note_traceback",
    "result_of",
]

_NO_KWARGS: dict[str, Any] = {}  # only ever read


# --- names ------------------------------------------------------------------------------------

# The modules whose classes mean the same here and there. Others, such as `connection`, hold what
# belongs to one process and has a protocol of its own.
_MODULES = ("context", "managers", "pool", "process", "shared_memory")
_TO_STANDARD = {f"{__package__}.{name}": f"multiprocessing.{name}" for name in _MODULES}
_TO_OURS = {standard: ours for ours, standard in _TO_STANDARD.items()}
_TO_OURS["multiprocessing"] = str(__package__)


@functools.cache
def _pickler(base: type[pickle.Pickler]) -> type[pickle.Pickler]:
    """A pickler that gives our classes the standard library's names; else it is `base`."""

    class WirePickler(base):  # type: ignore[valid-type, misc]
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, type | FunctionType):
                module, name = obj.__module__, obj.__qualname__
                if module in _TO_STANDARD and getattr(sys.modules[module], name, None) is obj:
                    # Told in words: pickle writes a plain name only if it finds it here, too.
                    return pkgutil.resolve_name, (f"{_TO_STANDARD[module]}:{name}",)
            return super().reducer_override(obj) if has_override else NotImplemented

    has_override = hasattr(base, "reducer_override")
    return WirePickler


class _WireUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("pkgutil", "resolve_name"):
            return _resolve
        ours = _TO_OURS.get(module)
        if ours is not None:
            # Something that only the standard library has works as it is.
            with contextlib.suppress(AttributeError):
                return super().find_class(ours, name)
        return super().find_class(module, name)


def _resolve(path: str) -> Any:
    """Find what a `WirePickler` has told in words."""
    module, _, name = path.partition(":")
    if module in _TO_OURS:
        with contextlib.suppress(AttributeError):
            return pkgutil.resolve_name(f"{_TO_OURS[module]}:{name}")
    return pkgutil.resolve_name(path)


def _dumps(obj: Any) -> Any:
    if _sidestep.is_plain(obj):
        return pickle.dumps(obj)
    # Looked up late: a program may have put another pickler there.
    return _dumps_by(_pickler(reduction.ForkingPickler), obj)


def _dumps_by(pickler: Callable[[io.BytesIO], Any], obj: Any) -> memoryview:
    # Not `dumps` of that class, which may be the original's: that returns the buffer of a file, and
    # a collector that comes upon both of them complains that it cannot close the file.
    buffer = io.BytesIO()
    pickler(buffer).dump(obj)
    return memoryview(buffer.getvalue())


def _loads(message: Any) -> Any:
    # What names nothing that means something else here has been unpickled already.
    if type(message) is bytes:
        return _WireUnpickler(io.BytesIO(message)).load()
    return message


def _dumps_within(obj: Any) -> Any:
    """Within the family classes have one name."""
    return _dumps_by(reduction.ForkingPickler, obj)


def _loads_within(message: Any) -> Any:
    return reduction.ForkingPickler.loads(message) if type(message) is bytes else message


# --- connections ------------------------------------------------------------------------------


class WireConnection(ConnectionWrapper):
    """A connection whose objects are pickled as any `multiprocessing` understands them."""

    # The short way for calls, and for answers, see `_sidestep`. Not through TLS.
    call: Callable[[str, str, Any, Any], Any] | None = None
    answer: Callable[[Any], Any] | None = None

    def __init__(self, conn: connection.Connection) -> None:
        super().__init__(conn, _dumps, _loads)
        if type(conn) is connection.Connection:
            self._shorten()

    def _shorten(self) -> None:
        self.call, self.answer = self._conn._call, self._conn._answer
        # What it returns is for `_loads`, as before.
        self.recv_bytes = self._conn._receive  # type: ignore[assignment]

    def enter(self, side: _sidestep.PipeSide, soundly: bool = False) -> None:
        """Have messages go through a pipe in shared memory, as the other side's process does."""
        self._conn._enter(side, soundly)
        self._shorten()
        self._dumps, self._loads = _dumps_within, _loads_within

    def recv(self) -> Any:
        """Receive an object."""
        return self._loads(self.recv_bytes())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()


class WireListener(connection.Listener):
    """A `Listener` whose connections are those of managers."""

    def accept(self) -> Any:
        """Wait for a client and return the connection to it."""
        return WireConnection(super().accept())


def WireClient(*args: Any, **kwds: Any) -> WireConnection:
    """Connect to a `WireListener`, or to a server of the standard library; as `Client` does."""
    return WireConnection(connection.Client(*args, **kwds))


# How the messages are written, by name: who listens, who calls. A program may add to it.
listener_client: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "pickle": (WireListener, WireClient),
    "xmlrpclib": (connection.XmlListener, connection.XmlClient),
}


# --- messages ---------------------------------------------------------------------------------


class Token:
    """Which object, on which server: what a proxy needs to find its referent.

    Args:
        typeid: The registered name of the referent's type.
        address: The server's address.
        id: The server's name for the referent.
    """

    __slots__ = ("address", "id", "typeid")

    __module__ = f"{__package__}.managers"  # its public place, by which it is pickled

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

    __module__ = f"{__package__}.managers"  # its public place, by which it is pickled

    def __str__(self) -> str:
        line = "-" * 75
        return f"\n{line}\n{self.args[0]}{line}"


_NOTE = "In the manager's server:\n"


def note_traceback(error: BaseException) -> None:
    """Put the server's traceback into an exception that goes to a client.

    As a note: the standard library's clients show it, and ours make a cause of it.
    """
    if not any(note.startswith(_NOTE) for note in getattr(error, "__notes__", ())):
        error.add_note(_NOTE + "".join(traceback.format_exception(error)).rstrip())


def convert_to_error(kind: str, result: Any) -> BaseException:
    """The exception that a reply stands for."""
    if kind == "#ERROR":
        if not isinstance(result, BaseException):
            # A serializer other than pickle has taken the exception apart.
            return RemoteError(f"{result!r}\n")
        notes = getattr(result, "__notes__", [])
        for note in notes:
            if note.startswith(_NOTE):
                notes.remove(note)
                result.__cause__ = RemoteError(note.removeprefix(_NOTE) + "\n")
                break
        return result
    if kind not in ("#TRACEBACK", "#UNSERIALIZABLE"):
        return ValueError(f"the server sent a reply of the unknown kind {kind!r}")
    if not isinstance(result, str):
        return TypeError(f"a reply of kind {kind!r} holds {result!r}, which is not text")
    return RemoteError(
        f"Unserializable message: {result}\n" if kind == "#UNSERIALIZABLE" else result
    )


def dispatch(
    c: Any, id: str | None, methodname: str, args: Any = (), kwds: Mapping[str, Any] = _NO_KWARGS
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
    return result_of(c.recv())


def result_of(reply: Any) -> Any:
    """What a reply other than `#PROXY` brings, or raise the error in it."""
    try:
        kind, result = reply
        if kind == "#RETURN":
            return result
        raise convert_to_error(kind, result)
    finally:
        # An exception refers to this frame: it must not find itself here.
        result = reply = None


def call_server(
    client: Callable[..., Any], address: Any, authkey: bytes | None, name: str, *args: Any
) -> Any:
    """Call the server itself over a connection for this one call."""
    with contextlib.closing(client(address, authkey=authkey)) as conn:
        return dispatch(conn, None, name, args)
