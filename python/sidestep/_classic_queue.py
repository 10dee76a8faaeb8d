"""Queues made of the parts that the standard library's are made of, for subclasses that use them.

Some libraries subclass a queue and replace what is inside: the thread that feeds the pipe, the
buffer in front of it, the locks at its ends, the tuple that is pickled. The engine's queue has none
of these. A subclass that overrides or mentions one of them (`queues._INTERNALS`) gets a class of
this module as one more base, between itself and `queues.Queue`: to isinstance it is what it was,
`super()` leads here, and here the parts exist, under the names and with the meanings that such
code knows. Everything else stays on the engine's queue.

A classic queue behaves as the original does: `put` leaves the object to the feeder, which pickles
it later, and a process that ends waits for its feeder. If a process is killed in the middle of
`get`, the others learn of its lock (AbandonedLockError); if it is killed in the middle of sending,
the pipe may end with it.
"""

import collections
import copyreg
import errno
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from . import _sidestep, connection, context, queues, util
from .queues import Empty, Full, JoinableQueue, Queue, SimpleQueue, _sentinel
from .reduction import ForkingPickler
from .synchronize import SEM_VALUE_MAX

__all__ = ["ClassicJoinableQueue", "ClassicQueue", "ClassicSimpleQueue", "adopt"]

_T = TypeVar("_T")


def adopt(cls: type["queues._Queue[Any]"]) -> None:
    """Give a subclass of a queue its classic base, in place of the engine's where it names that."""
    bases = [_CLASSIC.get(base, base) for base in cls.__bases__]
    if bases == list(cls.__bases__):
        # The engine's class is further up: the classic one goes in front of it.
        bases.append(next(_CLASSIC[base] for base in cls.__mro__ if base in _CLASSIC))
    cls.__bases__ = tuple(bases)


def _the_context(ctx: Any) -> Any:
    return context._default_context.get_context() if ctx is None else ctx


def _stream() -> tuple[connection.Connection, connection.Connection]:
    """A pipe whose messages are frames on its descriptors, not in shared memory.

    Libraries that reach so deep also bring reducers of their own: they hand the bare numbers to
    processes that they start themselves, which know nothing of a family.
    """
    reader, writer = _sidestep.stream_pair(False)
    return connection.Connection(reader, True, False), connection.Connection(writer, False, True)


class ClassicQueue(Queue[_T]):
    """`queues.Queue` as a pipe with a lock at each end, a semaphore, and a thread that feeds it."""

    _classic = True

    # In front of the engine's properties of the same names.
    _reader: Any = None
    _writer: Any = None
    _closed: Any = False

    def __init__(self, maxsize: int = 0, *, ctx: Any = None) -> None:
        ctx = _the_context(ctx)
        self._maxsize = maxsize if maxsize > 0 else SEM_VALUE_MAX
        self._reader, self._writer = _stream()
        self._rlock = ctx.Lock()
        self._wlock = ctx.Lock()
        self._sem = ctx.BoundedSemaphore(self._maxsize)
        self._opid = os.getpid()
        self._ignore_epipe = False
        self._reset()
        util.register_after_fork(self, ClassicQueue._after_fork)

    def __reduce__(self) -> Any:
        return copyreg.__newobj__, (type(self),), self.__getstate__()  # type: ignore[attr-defined]

    def __getstate__(self) -> Any:
        context.assert_spawning(self)
        return (
            self._ignore_epipe,
            self._maxsize,
            self._reader,
            self._writer,
            self._rlock,
            self._wlock,
            self._sem,
            self._opid,
        )

    def __setstate__(self, state: Any) -> None:
        (
            self._ignore_epipe,
            self._maxsize,
            self._reader,
            self._writer,
            self._rlock,
            self._wlock,
            self._sem,
            self._opid,
        ) = state
        self._reset()

    def _after_fork(self) -> None:
        self._reset(after_fork=True)

    def _reset(self, after_fork: bool = False) -> None:
        """What belongs to this process alone. After a fork, none of the parent's is of use."""
        self._notempty = threading.Condition(threading.Lock())
        self._buffer: collections.deque[Any] = collections.deque()
        self._thread: threading.Thread | None = None
        self._jointhread: Callable[[], object] | None = None
        self._joincancelled = False
        self._closed = False
        self._close: Callable[[], object] | None = None
        self._send_bytes = self._writer.send_bytes
        self._recv_bytes = self._reader.recv_bytes
        self._poll = self._reader.poll  # type: ignore[method-assign]

    def put(self, obj: _T, block: bool = True, timeout: float | None = None) -> None:
        """Leave an item to the feeder, which pickles it later; raise `queue.Full` if too many."""
        self._check_open()
        if not self._sem.acquire(block, timeout):
            raise Full
        with self._notempty:
            if self._thread is None:
                self._start_thread()
            self._buffer.append(obj)
            self._notempty.notify()

    def get(self, block: bool = True, timeout: float | None = None) -> _T:
        """Take the oldest item; raise `queue.Empty` if there is none in time."""
        self._check_open()
        limit = timeout if block else 0.0
        deadline = None if limit is None else time.monotonic() + limit
        if not self._rlock.acquire(block, timeout):
            raise Empty
        try:
            if deadline is not None and not self._poll(max(0.0, deadline - time.monotonic())):
                raise Empty
            data = self._recv_bytes()
        finally:
            self._rlock.release()
        self._sem.release()
        item: _T = ForkingPickler.loads(data)
        return item

    def put_many(
        self, items: Iterable[_T], block: bool = True, timeout: float | None = None
    ) -> int:
        """Put several items, one by one; return how many there was room for in time."""
        deadline = None if timeout is None else time.monotonic() + timeout
        done = 0
        for item in items:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                self.put(item, block, left)
            except Full:
                break
            done += 1
        return done

    def get_many(self, limit: int, block: bool = True, timeout: float | None = None) -> list[_T]:
        """Take at most `limit` items, waiting for the first one only."""
        if limit < 0:
            raise ValueError(f"limit must be 0 or more, not {limit}")
        items: list[_T] = []
        while len(items) < limit:
            try:
                items.append(self.get(block and not items, timeout))
            except Empty:
                if not items:
                    raise
                break
        return items

    def qsize(self) -> int:
        """Return the number of items that were put and not taken."""
        used: int = self._maxsize - self._sem._semlock._get_value()
        return used

    def empty(self) -> bool:
        """Tell whether nothing lies in the pipe; the feeder may have something still."""
        return not self._poll()

    def full(self) -> bool:
        """Tell whether as many items as allowed were put and not taken."""
        is_zero: bool = self._sem._semlock._is_zero()
        return is_zero

    def close(self) -> None:
        """Put nothing more; the feeder ends when it has sent what it has."""
        self._closed = True
        close, self._close = self._close, None
        if close is not None:
            close()

    def join_thread(self) -> None:
        """Wait until the feeder has sent everything; call `close` before."""
        super().join_thread()
        if self._jointhread is not None:
            self._jointhread()

    def cancel_join_thread(self) -> None:
        """Let this process end without waiting for its feeder: items may be lost."""
        self._joincancelled = True
        cancel = getattr(self._jointhread, "cancel", None)
        if cancel is not None:
            cancel()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"queue {self!r} is closed")

    # --- the feeder, in the process that puts ---

    # Its functions are looked up on this class, not on `self`: an override of one of them takes
    # effect through an override of `_start_thread`, which alone knows its arguments.

    def _start_thread(self) -> None:
        self._thread = threading.Thread(
            target=ClassicQueue._feed,
            args=(
                self._buffer,
                self._notempty,
                self._send_bytes,
                self._wlock,
                self._reader.close,
                self._writer.close,
                self._ignore_epipe,
                self._on_queue_feeder_error,
                self._sem,
            ),
            name="QueueFeederThread",
            daemon=True,
        )
        self._thread.start()
        if not self._joincancelled:
            self._jointhread = util.Finalize(
                self._thread,
                ClassicQueue._finalize_join,
                [weakref.ref(self._thread)],
                exitpriority=-5,
            )
        # Before the thread is joined, it must be told to end.
        self._close = util.Finalize(
            self,
            ClassicQueue._finalize_close,
            [self._buffer, self._notempty],
            exitpriority=10,
        )

    @staticmethod
    def _finalize_join(reference: "weakref.ref[threading.Thread]") -> None:
        thread = reference()
        if thread is not None:
            thread.join()

    @staticmethod
    def _finalize_close(buffer: "collections.deque[Any]", notempty: threading.Condition) -> None:
        with notempty:
            buffer.append(_sentinel)
            notempty.notify()

    @staticmethod
    def _feed(
        buffer: "collections.deque[Any]",
        notempty: threading.Condition,
        send_bytes: Callable[[Any], object],
        writelock: Any,
        reader_close: Callable[[], object],
        writer_close: Callable[[], object],
        ignore_epipe: bool,
        onerror: Callable[[BaseException, Any], object],
        queue_sem: Any,
    ) -> None:
        """Carry items from the buffer to the pipe until the sentinel comes."""
        while True:
            with notempty:
                while not buffer:
                    notempty.wait()
                item = buffer.popleft()
            if item is _sentinel:
                reader_close()
                writer_close()
                return
            try:
                data = ForkingPickler.dumps(item)
                with writelock:
                    send_bytes(data)
                del data
            except BaseException as error:
                if ignore_epipe and getattr(error, "errno", 0) == errno.EPIPE:
                    return
                if util.is_exiting():
                    # What it works with is being taken down.
                    util.info("a queue's feeder stopped at the end of the process: %s", error)
                    return
                # The item is not in the queue, so it takes no room in it.
                queue_sem.release()
                onerror(error, item)
            # Waiting for the next one, keep nothing of this one alive.
            item = None


class ClassicJoinableQueue(ClassicQueue[_T], JoinableQueue[_T]):
    """`queues.JoinableQueue`, with a semaphore that counts what is not done."""

    def __init__(self, maxsize: int = 0, *, ctx: Any = None) -> None:
        ctx = _the_context(ctx)
        super().__init__(maxsize, ctx=ctx)
        self._unfinished_tasks = ctx.Semaphore(0)
        self._cond = ctx.Condition()

    def __getstate__(self) -> Any:
        return (*super().__getstate__(), self._cond, self._unfinished_tasks)

    def __setstate__(self, state: Any) -> None:
        *rest, self._cond, self._unfinished_tasks = state
        super().__setstate__(tuple(rest))

    def put(self, obj: _T, block: bool = True, timeout: float | None = None) -> None:
        """As `ClassicQueue.put`; the item counts as unfinished."""
        with self._cond:
            super().put(obj, block, timeout)
            self._unfinished_tasks.release()

    def task_done(self) -> None:
        """Report one item done.

        Raises:
            ValueError: More items were reported than were put.
        """
        with self._cond:
            if not self._unfinished_tasks.acquire(False):
                raise ValueError("task_done() was called more often than items were put")
            if self._unfinished_tasks._semlock._is_zero():
                self._cond.notify_all()

    def join(self) -> None:
        """Wait until every item ever put was reported done."""
        with self._cond:
            while not self._unfinished_tasks._semlock._is_zero():
                self._cond.wait()


class ClassicSimpleQueue(SimpleQueue[_T]):
    """`queues.SimpleQueue` as a pipe with a lock at each end."""

    _classic = True

    _reader: Any = None
    _writer: Any = None

    def __init__(self, *, ctx: Any = None) -> None:
        ctx = _the_context(ctx)
        self._reader, self._writer = _stream()
        self._rlock = ctx.Lock()
        self._wlock = ctx.Lock()

    def __reduce__(self) -> Any:
        return copyreg.__newobj__, (type(self),), self.__getstate__()  # type: ignore[attr-defined]

    def __getstate__(self) -> Any:
        context.assert_spawning(self)
        return (self._reader, self._writer, self._rlock, self._wlock)

    def __setstate__(self, state: Any) -> None:
        (self._reader, self._writer, self._rlock, self._wlock) = state

    def _poll(self, timeout: float | None = 0.0) -> bool:
        ready: bool = self._reader.poll(timeout)
        return ready

    def get(self, block: bool = True, timeout: float | None = None) -> _T:
        """Take the oldest item, waiting for it."""
        with self._rlock:
            data = self._reader.recv_bytes()
        item: _T = ForkingPickler.loads(data)
        return item

    def put(self, obj: _T, block: bool = True, timeout: float | None = None) -> None:
        """Pickle an item and send it."""
        data = ForkingPickler.dumps(obj)
        with self._wlock:
            self._writer.send_bytes(data)

    def empty(self) -> bool:
        """Tell whether nothing lies in the pipe."""
        return not self._poll()

    def close(self) -> None:
        """Close both ends in this process."""
        self._reader.close()
        self._writer.close()


# Which class stands in for which.
_CLASSIC: dict[type, type] = {
    JoinableQueue: ClassicJoinableQueue,
    Queue: ClassicQueue,
    SimpleQueue: ClassicSimpleQueue,
}
