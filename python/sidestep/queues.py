"""Queues between processes, on the engine's queue: no feeder thread, no pipe, no descriptor."""

import sys
from collections.abc import Callable
from queue import Empty, Full
from typing import Any, TypeVar

from . import _original, _sidestep

__all__ = ["Empty", "Full", "JoinableQueue", "Queue", "SimpleQueue"]


_T = TypeVar("_T")


def _rebuild(cls: type["_Queue[Any]"], name: tuple[int, int], state: dict[str, Any]) -> Any:
    queue = cls.__new__(cls)
    queue._attach(name)
    queue.__setstate__(state)
    return queue


class _End:
    """A queue as one end of a pipe, for programs that reach for the standard library's."""

    def __init__(self, queue: _sidestep.Queue[Any]) -> None:
        self._queue = queue

    @property
    def closed(self) -> bool:
        """Whether this process has closed the queue."""
        return self._queue._closed

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Tell whether an item is there, waiting for at most `timeout` seconds."""
        return self._queue._poll(timeout)

    def recv(self) -> Any:
        """Take the oldest item, waiting for it."""
        return self._queue.get()

    def send(self, obj: Any) -> None:
        """Put an item."""
        self._queue.put(obj)

    def close(self) -> None:
        """Do nothing: a queue has no descriptor, and is closed as a whole."""


class _Queue(_sidestep.Queue[_T]):
    """What all queues share."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _rebuild, (type(self), self._export(), self.__getstate__())

    def __getstate__(self) -> Any:
        return {k: v for k, v in self.__dict__.items() if k not in ("_ends",)}

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state)

    def _end(self, name: str) -> Any:
        # Made when asked for: kept here it would be a cycle, and the queue's memory would wait
        # for the garbage collector. Only what somebody else has put in its place is kept.
        return self.__dict__.get("_ends", {}).get(name) or _End(self)

    def _set_end(self, name: str, end: Any) -> None:
        self.__dict__.setdefault("_ends", {})[name] = end

    _reader = property(
        lambda self: self._end("_reader"), lambda self, end: self._set_end("_reader", end)
    )
    _writer = property(
        lambda self: self._end("_writer"), lambda self, end: self._set_end("_writer", end)
    )

    def _put_failed(self, error: BaseException, obj: Any) -> None:
        """Called by `put`, holding nothing, when `obj` could not be serialised."""
        raise error


@_original.descend("queues")
class Queue(_Queue[_T]):
    """A queue, first in, first out, for any number of producers and consumers.

    `put` has committed the item when it returns: it outlives its producer. `put` blocks for
    `maxsize` only; where the arena is at its ceiling it raises MemoryError. If a process dies,
    items that it had taken are lost with it, and nothing else.
    """

    def __init__(self, maxsize: int = 0, *, ctx: Any = None) -> None:
        self._init(maxsize)
        self._maxsize = maxsize if maxsize > 0 else 2**31 - 1

    def put_nowait(self, obj: _T) -> None:
        """Put an item if there is room, or raise `queue.Full`."""
        self.put(obj, False)

    def get_nowait(self) -> _T:
        """Take an item if there is one, or raise `queue.Empty`."""
        return self.get(False)

    def join_thread(self) -> None:
        """Return at once: what was put is in the queue already, and no thread carries it there.

        Raises:
            AssertionError: The queue was not closed before.
        """
        assert self._closed, f"queue {self!r} not closed: call close() before join_thread()"

    def cancel_join_thread(self) -> None:
        """Do nothing: an ending process never waits for its queues."""

    def _put_failed(self, error: BaseException, obj: Any) -> None:
        if type(self)._on_queue_feeder_error is Queue._on_queue_feeder_error:
            raise error
        self._on_queue_feeder_error(error, obj)

    @staticmethod
    def _on_queue_feeder_error(e: BaseException, obj: Any) -> None:
        """Called when `obj` could not be serialised; an override of it silences `put`."""
        sys.excepthook(type(e), e, e.__traceback__)


@_original.descend("queues")
class JoinableQueue(Queue[_T]):
    """A queue that counts its items until they are reported done."""

    def task_done(self) -> None:
        """Report one item done.

        Raises:
            ValueError: More items were reported than were put.
        """
        if not self._task_done():
            raise ValueError("task_done() was called more often than items were put")

    def join(self) -> None:
        """Wait until every item ever put was reported done."""
        self._join()


@_original.descend("queues")
class SimpleQueue(_Queue[_T]):
    """A queue without limits and timeouts."""

    def __init__(self, *, ctx: Any = None) -> None:
        self._init()
