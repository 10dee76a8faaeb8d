"""`Pipe`, `Listener` and `Client` between threads of one process, on queues.

Objects pass by reference: nothing is pickled or copied, except the bytes of `send_bytes`. An
end may be used by several threads, which share it, so closing it in one thread would take it
away from the others: `close` does nothing, and nobody ever sees an end of file.
"""

from __future__ import annotations

import time
from queue import Queue
from types import TracebackType
from typing import Any, Self

__all__ = ["Client", "Listener", "Pipe"]

families = [None]

_Items = Queue[Any]


class Connection:
    """One end of a pipe between threads."""

    closed = False
    readable = True
    writable = True

    def __init__(self, _in: _Items, _out: _Items) -> None:
        self._in = _in
        self._out = _out

    def send(self, obj: Any) -> None:
        """Pass `obj` itself to the other end. Never blocks."""
        self._out.put(obj)

    def recv(self) -> Any:
        """The next object, in order; blocks until there is one."""
        return self._in.get()

    def send_bytes(self, buf: Any, offset: int = 0, size: int | None = None) -> None:
        """Send a copy of `size` bytes of `buf`, from `offset` on.

        An object that is no buffer is passed on itself: whoever hands on what `recv_bytes`
        returned may meet one, as the other end may have used `send`.
        """
        try:
            view = memoryview(buf).cast("B")
        except TypeError:
            self._out.put(buf)
            return
        if offset < 0 or offset > len(view):
            raise ValueError(f"offset {offset} lies outside of the buffer of {len(view)} bytes")
        if size is None:
            size = len(view) - offset
        elif size < 0 or offset + size > len(view):
            raise ValueError(f"size {size} reaches outside of the buffer of {len(view)} bytes")
        self._out.put(bytes(view[offset : offset + size]))

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """The next message: bytes, or an object that was sent by `send`.

        Raises:
            OSError: The message is longer than `maxlength` bytes; it is lost.
        """
        if maxlength is not None and maxlength < 0:
            raise ValueError("maxlength is negative")
        message: bytes = self._in.get()
        if maxlength is not None and isinstance(message, bytes) and len(message) > maxlength:
            raise OSError(f"a message of {len(message)} bytes exceeds maxlength {maxlength}")
        return message

    def recv_bytes_into(self, buf: Any, offset: int = 0) -> int:
        """Copy the next message into `buf` at byte `offset`; its length in bytes."""
        view = memoryview(buf).cast("B")
        if offset < 0 or offset > len(view):
            raise ValueError(f"offset {offset} lies outside of the buffer of {len(view)} bytes")
        message: bytes = self._in.get()
        if offset + len(message) > len(view):
            from ..context import BufferTooShort

            raise BufferTooShort(message)
        view[offset : offset + len(message)] = message
        return len(message)

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Whether there is something to receive, waiting up to `timeout` seconds for it."""
        arrived = self._in.not_empty
        deadline = None if timeout is None else time.monotonic() + max(timeout, 0.0)
        with arrived:
            while not self._in._qsize():
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0.0:
                    return False
                arrived.wait(left)
            # A reader that was woken by the same item must not sleep on beside it.
            arrived.notify()
            return True

    def close(self) -> None:
        """Do nothing: the end belongs to all threads that use it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Listener:
    """Waits for `Client` calls from other threads; its address is an object, not a name."""

    def __init__(self, address: object = None, family: object = None, backlog: int = 1) -> None:
        self._backlog_queue: _Items | None = Queue(backlog)

    def accept(self) -> Connection:
        """Our end of the next caller's pipe; blocks until there is one."""
        if self._backlog_queue is None:
            raise OSError("listener is closed")
        incoming, outgoing = self._backlog_queue.get()
        return Connection(incoming, outgoing)

    def close(self) -> None:
        """Take no more callers."""
        self._backlog_queue = None

    @property
    def address(self) -> _Items | None:
        """What `Client` needs; None when closed."""
        return self._backlog_queue

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def Client(address: _Items) -> Connection:
    """Call the listener with this address; blocks while its backlog is full."""
    there: _Items = Queue()
    back: _Items = Queue()
    address.put((there, back))
    return Connection(back, there)


def Pipe(duplex: bool = True) -> tuple[Connection, Connection]:
    """Two connected ends. Both always send and receive, whatever `duplex` says."""
    there: _Items = Queue()
    back: _Items = Queue()
    return Connection(there, back), Connection(back, there)
