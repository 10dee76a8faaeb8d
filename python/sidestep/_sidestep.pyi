"""The native module: the engine's objects as Python classes.

Names and signatures here are the contract between the package and the binding.
"""

from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from _typeshed import ReadableBuffer, WriteableBuffer

# --- family -------------------------------------------------------------------------------

def arena_fd() -> int:
    """The descriptor of the family's arena, for a child that is about to be exec'd.

    Creates the arena if this process has none. Not inheritable: pass it by `pass_fds`
    (it keeps its number in the child).
    """

def attach(fd: int) -> None:
    """Join the family whose arena is `fd` (in a fresh interpreter, before anything is unpickled)."""

def pidfd_open(pid: int) -> int:
    """A descriptor that polls readable when the process `pid` has ended (close-on-exec).

    Raises:
        OSError: There is no such process (ESRCH) or the kernel refuses pidfds (ENOSYS, EPERM).
    """

# --- handles in flight ----------------------------------------------------------------------

class Collector:
    """While entered (in this thread), handles of shared objects may be pickled for a child.

    The collector takes a reference to each of them, and keeps it until it is released or
    freed: the parent holds it until the child has ended or has unpickled.
    Outside a collector (and outside `put`/`send` of the engine's channels) pickling a handle
    raises RuntimeError.
    """

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def release(self) -> None:
        """Drop the references. May be called again."""

class Handle:
    """Base of the native classes that live in the arena."""

    def _export(self) -> tuple[int, int]:
        """Offset and generation, for `_attach`. RuntimeError outside a collector or a channel."""

# --- memory ----------------------------------------------------------------------------------

class Block(Handle):
    """Zeroed memory in the arena: `size` bytes, aligned to 64, reference counted by process.

    Supports the writable buffer protocol; freed when no process holds it or a view of it.
    """

    def __new__(cls, size: int) -> Self: ...
    @classmethod
    def _attach(cls, handle: tuple[int, int]) -> Self: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

# --- connections -----------------------------------------------------------------------------

def stream_pair(duplex: bool) -> tuple[int, int]:
    """Two connected descriptors: a socket pair, or the reading and writing end of a pipe."""

def pipe_pair() -> tuple[int, int]:
    """The sockets of a new pipe in shared memory.

    Connections made on them (or on duplicates, while one of them lives) send through it.
    """

def join_pipe(fd: int, place: tuple[int, int, int]) -> None:
    """Tell this process that `fd` is the socket of the pipe at `place` (see `Connection._place`).

    Raises:
        RuntimeError: No process holds the pipe any more, or this process is of another family.
    """

class Connection:
    """One end of a connection, on a descriptor that it owns.

    Blocking calls let other threads run and run signal handlers; if one raises in the middle of
    a message, the next call goes on with that message.
    """

    def __init__(self, handle: int, readable: bool = True, writable: bool = True) -> None: ...
    _handle: int | None
    @property
    def _ringed(self) -> bool:
        """Messages travel through shared memory."""
    def _probe(self) -> bool:
        """`recv` would return, or raise EOFError, at once."""
    def _export(self) -> tuple[int, int, int]:
        """As `_place`, keeping the pipe alive as handles of shared objects in flight are.

        Raises:
            RuntimeError: Outside of a collector and of a channel.
        """
    def _hold(self) -> object:
        """Keeps the pipe in shared memory alive, without its sockets, until it is freed."""
    def _place(self) -> tuple[int, int, int]:
        """Where the pipe lies in the arena, and which side of it this is."""
    def _to_stream(self) -> None:
        """Turn the pipe into a plain stream, for good: this end leaves the family.

        Raises:
            RuntimeError: There are messages to receive at this end, which would be lost.
        """
    def _recv_handle(self) -> int | None:
        """Receive a descriptor sent by `send_handle`; None: use the socket, there is no pipe."""
    @property
    def closed(self) -> bool:
        """This object was closed (the other side may be open)."""
    @property
    def readable(self) -> bool:
        """Messages can be received."""
    @property
    def writable(self) -> bool:
        """Messages can be sent."""
    def fileno(self) -> int:
        """The descriptor. It polls readable while there is something to receive, and at the end.

        Raises:
            OSError: The connection is closed.
        """
    def close(self) -> None:
        """Close the descriptor; may be called again."""
    def send(self, obj: Any) -> None:
        """Pickle an object and send it; waits while the other side does not read.

        Raises:
            BrokenPipeError, ConnectionResetError: Nobody can receive any more.
            OSError: The connection is closed or read-only.
        """
    def send_bytes(
        self, buf: ReadableBuffer, offset: int = 0, size: int | None = None
    ) -> None:
        """Send `size` bytes of a buffer (default: all), from `offset`, as one message."""
    def recv(self) -> Any:
        """Wait for an object, and return it.

        Raises:
            EOFError: The other side is closed and everything has been read.
            OSError: The other side died within a message, or the connection is write-only.
        """
    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """Wait for a message.

        Raises:
            OSError: It is longer than `maxlength`; nothing can be received any more.
            EOFError: The other side is closed and everything has been read.
        """
    def recv_bytes_into(self, buf: WriteableBuffer, offset: int = 0) -> int:
        """Wait for a message and put it into a buffer at `offset`; returns its size in bytes.

        Raises:
            BufferTooShort: It does not fit; it is the exception's argument.
        """
    def poll(self, timeout: float | None = 0.0) -> bool:
        """Whether there is something to receive (or the end), at the latest after `timeout`
        seconds; None waits for ever."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None: ...
