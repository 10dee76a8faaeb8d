"""Queues between processes, on the engine's queue: no feeder thread, no pipe, no descriptor.

Subclasses that reach into the feeder thread, the pipe or the locks that the standard library's
queues are made of find them in `_classic_queue`.
"""

from __future__ import annotations

import operator
import sys
from queue import Empty, Full
from types import CodeType

from . import _original, _sidestep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, Self, SupportsIndex

    from _typeshed import ReadableBuffer
    from typing_extensions import TypeVar

    # With a default, so that `Queue` by itself is an annotation, too.
    _T = TypeVar("_T", default=Any)
else:
    _T = None

__all__ = ["Empty", "Full", "JoinableQueue", "Queue", "SimpleQueue"]

# Tells a feeder thread to end; subclasses with a feeder of their own look for it.
_sentinel = object()


def _rebuild(cls: type[_Queue[Any]], name: tuple[int, int]) -> Any:
    queue = cls.__new__(cls)
    queue._attach(name)
    return queue


class _End:
    """A queue as one end of a pipe, for programs that reach for the standard library's."""

    readable = False
    writable = False

    def __init__(self, queue: _Queue[Any]) -> None:
        self._queue = queue

    @property
    def closed(self) -> bool:
        """Whether this process has closed this end or the queue."""
        return self._queue._end_closed(self.writable)

    def close(self) -> None:
        """Close this end, and its descriptor, in this process; others are not concerned."""
        self._queue._close_end(self.writable)

    def fileno(self) -> int:
        """Return a descriptor to wait on, made by the first call in each process.

        A `_reader`'s is readable while the queue has items. It may be readable without one, if
        another consumer was faster: taking, polling or `connection.wait` make it right again.
        A `_writer`'s is always writable, also while the queue is full. Neither is to be read from
        or written to.

        Raises:
            OSError: This end is closed, or no descriptor is left.
            RuntimeError: Too many processes watch this queue by a descriptor.
        """
        return self._queue._end_fileno(self.writable)

    @property
    def _handle(self) -> int | None:
        return None if self.closed else self.fileno()

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Tell whether an item is there, waiting for at most `timeout` seconds."""
        raise OSError("connection is write-only")

    def recv(self) -> Any:
        """Take the oldest item, waiting for it."""
        raise OSError("connection is write-only")

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """Take the oldest item, waiting for it, as the bytes of a pickle.

        Raises:
            OSError: There are more than `maxlength` bytes. The item is lost.
        """
        raise OSError("connection is write-only")

    def send(self, obj: Any) -> None:
        """Put an item."""
        raise OSError("connection is read-only")

    def send_bytes(
        self, buf: ReadableBuffer, offset: SupportsIndex = 0, size: SupportsIndex | None = None
    ) -> None:
        """Put the item whose pickle these bytes are."""
        raise OSError("connection is read-only")

    def _check_open(self) -> None:
        if self.closed:
            raise OSError("handle is closed")

    def __eq__(self, other: object) -> bool:
        # An end is made anew whenever it is asked for, and must be found in a list of ready ones.
        return type(other) is type(self) and other._queue is self._queue

    def __hash__(self) -> int:
        return hash((type(self), id(self._queue)))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._queue!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Reader(_End):
    """The end to take from."""

    readable = True

    def poll(self, timeout: float | None = 0.0) -> bool:
        self._check_open()
        return self._queue._poll(timeout)

    def recv(self) -> Any:
        self._check_open()
        # Not the method of a subclass, which may be what calls this.
        return _sidestep.Queue.get(self._queue)

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        from .reduction import ForkingPickler

        if maxlength is not None and maxlength < 0:
            raise ValueError("negative maxlength")
        data = bytes(ForkingPickler.dumps(self.recv()))
        if maxlength is not None and len(data) > maxlength:
            raise OSError(f"the item has {len(data)} bytes, more than maxlength={maxlength}")
        return data

    def _probe(self) -> bool:
        """Tell whether an item is there, and make the descriptor say the same."""
        return self._queue._probe()


class _Writer(_End):
    """The end to put to."""

    writable = True

    def send(self, obj: Any) -> None:
        self._check_open()
        _sidestep.Queue.put(self._queue, obj)

    def send_bytes(
        self, buf: ReadableBuffer, offset: SupportsIndex = 0, size: SupportsIndex | None = None
    ) -> None:
        from .reduction import ForkingPickler

        start = operator.index(offset)
        end = None if size is None else start + operator.index(size)
        self.send(ForkingPickler.loads(memoryview(buf).cast("B")[start:end]))


# --- who reaches inside -------------------------------------------------------------------

# What the standard library's queues are made of, and ours are not.
_INTERNALS = frozenset(
    {
        "_after_fork",
        "_buffer",
        "_feed",
        "_finalize_close",
        "_finalize_join",
        "_notempty",
        "_recv_bytes",
        "_reset",
        "_rlock",
        "_sem",
        "_send_bytes",
        "_start_thread",
        "_wlock",
    }
)


def _reaches_inside(cls: type) -> bool:
    """Whether the body of a class overrides or mentions one of the internals."""
    if not _INTERNALS.isdisjoint(vars(cls)):
        return True
    members = [getattr(member, "__func__", member) for member in vars(cls).values()]
    members += [member.fget for member in members if isinstance(member, property)]
    return any(_mentions(getattr(member, "__code__", None)) for member in members)


def _mentions(code: object) -> bool:
    return isinstance(code, CodeType) and (
        not _INTERNALS.isdisjoint(code.co_names) or any(map(_mentions, code.co_consts))
    )


# --- the queues ---------------------------------------------------------------------------


class _Queue(_sidestep.Queue[_T]):
    """What all queues share."""

    # Whether it is made of the standard library's parts: see `_classic_queue`.
    _classic = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls._classic and _reaches_inside(cls):
            from . import _classic_queue

            _classic_queue.adopt(cls)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], Any]:
        return _rebuild, (type(self), self._export()), self.__getstate__()

    def __getstate__(self) -> Any:
        # As in the standard library, what a subclass keeps beside the queue does not travel by
        # itself: it is often something that cannot be pickled.
        return {k: v for k, v in self.__dict__.items() if k in ("_maxsize", "_ignore_epipe")}

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state)

    def _end(self, kind: type[_End]) -> Any:
        # Made when asked for: kept here it would be a cycle, and the queue's memory would wait
        # for the garbage collector. Only what somebody else has put in its place is kept.
        return self.__dict__.get("_ends", {}).get(kind) or kind(self)

    def _set_end(self, kind: type[_End], end: Any) -> None:
        self.__dict__.setdefault("_ends", {})[kind] = end

    _reader: Any = property(
        lambda self: self._end(_Reader), lambda self, end: self._set_end(_Reader, end)
    )
    _writer: Any = property(
        lambda self: self._end(_Writer), lambda self, end: self._set_end(_Writer, end)
    )

    def _put_failed(self, error: BaseException, obj: Any) -> None:
        """Called by `put`, holding nothing, when `obj` could not be serialised."""
        try:
            raise error
        finally:
            # The traceback keeps this frame, and what it refers to until the next collection.
            del error, obj


@_original.descend("queues")
@_sidestep.own_methods
class Queue(_Queue[_T]):
    """A queue, first in, first out, for any number of producers and consumers.

    `put` has committed the item when it returns: it outlives its producer. `put` blocks for
    `maxsize` only; where the arena is at its ceiling it raises MemoryError. If a process dies,
    items that it had taken are lost with it, and nothing else.
    """

    # A program may set it: what it keeps quiet, a feeder writing to a broken pipe, is not here.
    _ignore_epipe = False

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

    def _terminate_broken(self) -> None:
        """Give the queue up in this process, since those at the other side have died."""
        self._reader.close()
        self.close()
        self.join_thread()

    def _put_failed(self, error: BaseException, obj: Any) -> None:
        try:
            if type(self)._on_queue_feeder_error is Queue._on_queue_feeder_error:
                raise error
            self._on_queue_feeder_error(error, obj)
        finally:
            del error, obj

    @staticmethod
    def _on_queue_feeder_error(e: BaseException, obj: Any) -> None:
        """Called when `obj` could not be serialised; an override of it silences `put`."""
        sys.excepthook(type(e), e, e.__traceback__)


@_original.descend("queues")
@_sidestep.own_methods
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
@_sidestep.own_methods
class SimpleQueue(_Queue[_T]):
    """A queue without limits and timeouts."""

    def __init__(self, *, ctx: Any = None) -> None:
        self._init()

    def close(self) -> None:
        """Close both ends in this process: using it then raises OSError, as with a pipe."""
        self._close_end(False)
        self._close_end(True)
