"""Turning objects into bytes for other processes, and handing over descriptors."""

from __future__ import annotations

import copyreg
import io
import os
from _pickle import Pickler, loads
from abc import ABCMeta

from . import _later, _original

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable
    from typing import IO, Any, ClassVar, Protocol

    Reducer = Callable[[Any], Any]

    class _HasFileno(Protocol):
        def fileno(self) -> int: ...


__all__ = [
    "DupFd",
    "ForkingPickler",
    "dump",
    "recv_handle",
    "recvfds",
    "register",
    "send_handle",
    "sendfds",
]

HAVE_SEND_HANDLE = True


def _take_over(theirs: Any) -> None:
    for kind, reduce in theirs._extra_reducers.items():
        ForkingPickler._extra_reducers.setdefault(kind, reduce)


@_original.same("reduction", _take_over)
class ForkingPickler(Pickler):
    """A pickler with reducers of its own, for whatever goes to another process."""

    _extra_reducers: ClassVar[dict[type, Reducer]] = {}
    _copyreg_dispatch_table: ClassVar[dict[type, Reducer]] = copyreg.dispatch_table

    def __init__(self, file: IO[bytes], *args: Any) -> None:
        super().__init__(file, *args)
        # A copy, and not a chain of the two: the pickler written in C is much quicker with
        # a real dictionary.
        self.dispatch_table = {**self._copyreg_dispatch_table, **self._extra_reducers}

    @classmethod
    def register(cls, type: type, reduce: Reducer) -> None:
        """Use `reduce` for objects whose class is exactly `type`."""
        cls._extra_reducers[type] = reduce

    @classmethod
    def dumps(cls, obj: Any, protocol: int | None = None) -> memoryview:
        """Return the object's pickle."""
        buffer = io.BytesIO()
        cls(buffer, protocol).dump(obj)
        # Not `getbuffer()`: a collector that comes upon both frees them in the wrong order.
        return memoryview(buffer.getvalue())

    loads = staticmethod(loads)


register = ForkingPickler.register
_original.when_imported("reduction", lambda theirs: _original.put(theirs, "register", register))


def dump(obj: Any, file: IO[bytes], protocol: int | None = None) -> None:
    """Write the object's pickle to `file`."""
    ForkingPickler(file, protocol).dump(obj)


# --- descriptors over sockets -------------------------------------------------------------------


def sendfds(sock: socket.socket, fds: Iterable[int]) -> None:
    """Send descriptors over a Unix socket, with one byte that says how many."""
    import socket
    from array import array

    numbers = array("i", fds)
    sock.sendmsg([bytes([len(numbers) % 256])], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)])


def recvfds(sock: socket.socket, size: int) -> list[int]:
    """Receive at most `size` descriptors that were sent by `sendfds`.

    They are new descriptors of this process, closed when it runs another program.

    Raises:
        EOFError: The other side is gone.
        OSError: This process may open no more descriptors; those that came are gone.
        RuntimeError: Something else was sent.
    """
    import socket
    from array import array

    numbers = array("i")
    space = socket.CMSG_SPACE(numbers.itemsize * size)
    data, ancillary, flags, _ = sock.recvmsg(1, space, socket.MSG_CMSG_CLOEXEC)
    if not data and not ancillary:
        raise EOFError("the other side of the socket is gone")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            whole = len(content) - len(content) % numbers.itemsize
            numbers.frombytes(content[:whole])
    if flags & socket.MSG_CTRUNC or not numbers or data != bytes([len(numbers) % 256]):
        for fd in numbers:
            os.close(fd)
        if flags & socket.MSG_CTRUNC and data == bytes([size % 256]):
            import errno

            # They were sent, and fit the space: the kernel could not open them here.
            reason = "this process has as many descriptors open as it may (see `ulimit -n`)"
            raise OSError(errno.EMFILE, f"{size} more came over the socket, but {reason}")
        raise RuntimeError("no descriptors came over the socket, but other data")
    return numbers.tolist()


def send_handle(conn: _HasFileno, handle: int, destination_pid: int | None) -> None:
    """Send a descriptor over a connection. The process number is for other systems."""
    with _borrowed(conn) as sock:
        sendfds(sock, [handle])


def recv_handle(conn: _HasFileno) -> int:
    """Receive a descriptor that was sent by `send_handle`."""
    # On the socket of a pipe in shared memory descriptors lie between other bytes.
    pick_out = getattr(conn, "_recv_handle", None)
    if pick_out is not None and (handle := pick_out()) is not None:
        number: int = handle
        return number
    with _borrowed(conn) as sock:
        return recvfds(sock, 1)[0]


def _borrowed(conn: _HasFileno) -> socket.socket:
    import socket

    sock = socket.fromfd(conn.fileno(), socket.AF_UNIX, socket.SOCK_STREAM)
    # A default time limit for the program's own sockets is not meant for this one.
    sock.settimeout(None)
    return sock


def DupFd(fd: int) -> Any:
    """Return something picklable whose `detach()`, in the receiver, is a copy of `fd`.

    While a process is being started the child inherits it; otherwise this process has to
    live until the receiver has asked for it.
    """
    from . import context

    popen: Any = context.get_spawning_popen()
    if popen is not None:
        return popen.DupFd(popen.duplicate_for_child(fd))
    from . import resource_sharer

    return resource_sharer.DupFd(fd)


def _rebuild_socket(dup: Any, family: int, kind: int, proto: int) -> socket.socket:
    import socket

    return socket.socket(family, kind, proto, fileno=dup.detach())


def _reduce_socket(sock: socket.socket) -> tuple[Callable[..., socket.socket], tuple[Any, ...]]:
    return _rebuild_socket, (DupFd(sock.fileno()), sock.family, sock.type, sock.proto)


# Bound methods, method descriptors and functools.partial need no reducer: pickle itself knows
# them since Python 3.4.
_later.when_imported("socket", lambda module: register(module.socket, _reduce_socket))


@_original.descend("reduction")
class AbstractReducer(_original.Root, metaclass=ABCMeta):  # noqa: B024 - nothing has to be overridden
    """Base for an object to set as a context's `reducer`: override what is to be different."""

    ForkingPickler = ForkingPickler
    register = staticmethod(register)
    dump = staticmethod(dump)
    send_handle = staticmethod(send_handle)
    recv_handle = staticmethod(recv_handle)
    sendfds = staticmethod(sendfds)
    recvfds = staticmethod(recvfds)
    DupFd = staticmethod(DupFd)

    _reduce_socket = staticmethod(_reduce_socket)
    _rebuild_socket = staticmethod(_rebuild_socket)

    def __init__(self, *args: Any) -> None:
        import socket

        register(socket.socket, _reduce_socket)
