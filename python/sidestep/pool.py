"""Pools of worker processes, on the engine's tasks, results and board.

Whoever submits serialises a task and puts it into the arena; workers take tasks from there
directly. One thread of the parent, the handler, takes the results, runs callbacks, and looks
after the workers: a dead one is replaced, and the one task that it was running is reported as
lost. `ThreadPool` is the same pool with threads, and with tasks that are not serialised.

A subclass that overrides the workings of the standard library's pool gets those instead, from
`_classic_pool`.
"""

from __future__ import annotations

# The constants, which `signal` makes an enumeration of.
import _signal  # type: ignore[import-not-found]
import collections
import contextlib
import itertools
import os
import queue
import threading
import time
import warnings
import weakref
from functools import partial

from . import _original, _sidestep, context, util
from ._worker import (
    INTERRUPT,
    PREPARING,
    READY,
    STARTING,
    Failure,
    be_thread,
    be_worker,
    mapstar,
    safe_repr,
    starmapstar,
)
from .process import BaseProcess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import TracebackType
    from typing import Any, Generic, NoReturn, Protocol, Self, TypeVar

    from ._by_value import Exporter

    # What a function takes, and what it returns.
    _S = TypeVar("_S")
    _T = TypeVar("_T")
else:
    from ._generic import Generic

    _T = None

__all__ = ["Pool", "ThreadPool"]

INIT = "INIT"
RUN = "RUN"
CLOSE = "CLOSE"
TERMINATE = "TERMINATE"

TimeoutError = context.TimeoutError

job_counter = itertools.count()

#: How long the handler waits for results before it looks at the workers, in seconds.
_LOOK_EVERY = 0.1

#: How many tasks are submitted in one go.
_BATCH = 256

#: How soon it looks again after one of them has died: the next task may kill the next. Then it
#: takes twice as long each time, until that is as long as ever.
_LOOK_AGAIN = 0.001

#: How often all workers of a pool may end before they can take a task, until it gives up: by
#: their own fault, and by anybody's.
_STILLBORN = 3
_ILL_FATED = 30

#: How long workers that were told to end may take for it, in seconds. Then they are killed.
_GRACE = 2.0

# --- errors that cross the border -------------------------------------------------------------


@_original.descend("pool")
class RemoteTraceback(_original.ErrorRoot):
    """The cause of an error that a worker raised: its traceback there, as text."""

    def __init__(self, tb: str) -> None:
        # Not super(): beside the standard library that is the original's.
        Exception.__init__(self, tb)
        self.tb = tb

    def __str__(self) -> str:
        return self.tb


@_original.descend("pool")
class MaybeEncodingError(_original.ErrorRoot):
    """A result, or an exception, could not be brought from the worker to the parent."""

    def __init__(self, exc: object, value: object) -> None:
        self.exc = exc if isinstance(exc, str) else repr(exc)
        self.value = value if isinstance(value, str) else safe_repr(value)
        Exception.__init__(self, self.exc, self.value)

    def __str__(self) -> str:
        return f"Error sending result: '{self.value}'. Reason: '{self.exc}'"

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"


class WorkerLostError(context.ProcessError):
    """The worker process ended while it was running the task; every other task goes on.

    If the worker raised something that ended it, such as SystemExit, that is the `__cause__`.

    Attributes:
        pid: The worker's process id.
        exitcode: How it ended; negative is the number of a signal.
        position: Where the task stands in its map: the index of its item, or the range of them
            if it has several; None for a call that is no map, or for no task in particular.
        out_of_memory: Whether the kernel has probably killed the worker for want of memory.
        tries: How often the task was tried, see `retries` of `Pool`.
    """

    def __init__(
        self,
        message: str,
        pid: int | None = None,
        exitcode: int | None = None,
        position: int | range | None = None,
        out_of_memory: bool = False,
        tries: int = 1,
    ) -> None:
        super().__init__(message, pid, exitcode, position, out_of_memory, tries)
        self.message, self.pid, self.exitcode = message, pid, exitcode
        self.position, self.out_of_memory, self.tries = position, out_of_memory, tries

    @property
    def signal(self) -> str | None:
        """The name of the signal that ended the worker, such as "SIGSEGV", if one did."""
        return None if self.exitcode is None or self.exitcode >= 0 else _signal_name(-self.exitcode)

    def __str__(self) -> str:
        return self.message


class TaskTimeoutError(TimeoutError):
    """The task ran longer than its pool's `task_timeout`, and was ended with its worker.

    A wait for a result whose own `timeout` is over raises TimeoutError and not this.

    Attributes:
        position: As with `WorkerLostError`.
        pid: The process id of the worker that was killed.
    """

    def __init__(
        self, message: str, position: int | range | None = None, pid: int | None = None
    ) -> None:
        super().__init__(message, position, pid)
        self.message, self.position, self.pid = message, position, pid

    def __str__(self) -> str:
        return self.message


class TaskCancelledError(context.ProcessError):
    """The call was ended by `cancel`."""


if TYPE_CHECKING:
    #: Makes a task of a function: what to call, with which arguments and keywords.
    _Maker = Callable[[Any], tuple[Any, tuple[Any, ...], dict[str, Any]]]

    #: What is found among the results: whether there was any; jobs that are to be ended, each
    #: with success and value; entries whose result could not be rebuilt, with the exception;
    #: lines of workers that end in order; lines of workers that end, with their last words.
    _Harvest = tuple[
        bool,
        list[tuple[Any, bool, Any]],
        list[tuple[Any, BaseException]],
        list[int],
        list[tuple[int, Any]],
    ]

    #: Where `feed` has got: the next task's place; the items that could not be submitted, if it
    #: has stopped at that; why not, or None if they find memory once another task of the job is
    #: done; or else what the source has raised; and whether there may be more.
    _Fed = tuple[int, tuple[Any, ...] | None, BaseException | None, bool]

    class _Core(Protocol):
        """The shared parts of a pool: the engine's, or those of a pool of threads."""

        def submit(
            self,
            task: Any,
            open: dict[int, Any],
            inbox: _sidestep.Inbox,
            place: int,
            keeper: Any,
            keep: bool,
        ) -> None: ...
        def submit_again(self, task: Any, open: dict[int, Any], entry: Any) -> None: ...
        def feed(
            self,
            source: Iterator[Any],
            function: Any,
            mapper: Callable[..., Any] | None,
            chunksize: int,
            open: dict[int, Any],
            inbox: _sidestep.Inbox,
            place: int,
            keeper: Any,
            keep: bool,
            most: int,
        ) -> _Fed: ...
        def enter(self, worker: int, stage: int) -> None: ...
        def stage(self, worker: int) -> int: ...
        def take(self, worker: int) -> tuple[int, bool, Any] | None: ...
        def finish(self, worker: int, number: int, result: Any) -> bool: ...
        def last_words(self, worker: int, words: Any) -> None: ...
        def withdraw(self, numbers: set[int]) -> None: ...
        def running(self, worker: int) -> tuple[int, float | None] | None: ...
        def doom(self, worker: int, number: int) -> bool: ...
        def collect(self, timeout: float | None, open: dict[int, Any]) -> _Harvest: ...
        def collect_own(
            self, open: dict[int, Any], inbox: _sidestep.Inbox
        ) -> tuple[bool, Any] | None: ...
        def retire(self, worker: int) -> None: ...
        def nudge(self) -> None: ...
        def lost(self, worker: int) -> int | None: ...
        def close(self) -> None: ...


def _of_call(args: tuple[Any, ...], kwds: dict[str, Any]) -> _Maker:
    return lambda function: (function, args, kwds)


def _of_chunk(mapper: Callable[..., Any], chunk: tuple[Any, ...]) -> _Maker:
    return lambda function: (mapper, ((function, chunk),), {})


def _maker(mapper: Callable[..., Any] | None, items: tuple[Any, ...]) -> _Maker:
    return _of_call(items, {}) if mapper is None else _of_chunk(mapper, items)


class ExceptionWithTraceback:
    """An exception that takes its traceback along, as text, when it is pickled."""

    def __init__(self, exc: BaseException, tb: TracebackType | None) -> None:
        import traceback

        text = "".join(traceback.format_exception(type(exc), exc, tb))
        self.exc, self.tb = exc, f'\n"""\n{text}"""'
        # Frames keep their variables alive, and cannot be pickled.
        exc.__traceback__ = None

    def __reduce__(self) -> tuple[Callable[..., BaseException], tuple[BaseException, str]]:
        return rebuild_exc, (self.exc, self.tb)


def rebuild_exc(exc: BaseException, tb: str) -> BaseException:
    """Return the exception, with the text of its traceback as the cause."""
    exc.__cause__ = RemoteTraceback(tb)
    return exc


def _helper_reraises_exception(ex: BaseException) -> NoReturn:
    """The task that stands for an item which could not be taken from a lazy map's input."""
    raise ex


# --- what workers do --------------------------------------------------------------------------


def worker(
    inqueue: Any,
    outqueue: Any,
    initializer: Callable[..., object] | None = None,
    initargs: Iterable[Any] = (),
    maxtasks: int | None = None,
    wrap_exception: bool = False,
) -> None:
    """Take tasks from one queue and put results into another, until there comes None.

    For subclasses of `Pool` that start workers of their own.

    Args:
        inqueue: Tasks come from its `get`: job, index, function, arguments, keywords.
        outqueue: Results go to its `put`: job, index, and a pair of success and value.
        initializer: Called first, with `initargs`.
        maxtasks: End after so many tasks.
        wrap_exception: Send exceptions with their traceback as text.

    Raises:
        AssertionError: `maxtasks` is not a positive int.
    """
    from ._classic_pool import work

    work(inqueue, outqueue, initializer, initargs, maxtasks, wrap_exception)


# --- results in the parent --------------------------------------------------------------------


@_original.descend("pool")
class ApplyResult(_original.Root, Generic[_T]):
    """The result of an asynchronous call, to come."""

    def __init__(
        self,
        pool: Pool,
        callback: Callable[[_T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> None:
        self._pool: Pool | None = pool
        self._inbox = self._make_inbox()
        self._job = next(job_counter)
        self._cache = pool._cache
        self._callback = callback
        self._error_callback = error_callback
        #: What the tasks refer to, and so has to stay.
        self._function: Any = None
        self._cache[self._job] = self

    def _make_inbox(self) -> _sidestep.Inbox:
        return _sidestep.Inbox(self, 1, whole=True)

    def ready(self) -> bool:
        """Tell whether the call has ended."""
        return self._inbox.ended

    def successful(self) -> bool:
        """Tell whether the call ended without an exception.

        Raises:
            ValueError: It has not ended.
        """
        outcome = self._inbox.outcome()
        if outcome is None:
            raise ValueError(f"{self!r} not ready")
        return outcome[0]

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the call has ended, for at most `timeout` seconds."""
        self._inbox.wait(timeout)

    def get(self, timeout: float | None = None) -> _T:
        """Return the result, or raise the call's exception.

        Raises:
            TimeoutError: It has not ended within `timeout` seconds.
        """
        if not self._inbox.wait(timeout):
            raise TimeoutError(f"the call has not ended within {timeout} seconds")
        outcome = self._inbox.outcome()
        assert outcome is not None
        if outcome[0]:
            value: _T = outcome[1]
            return value
        try:
            raise outcome[1]
        finally:
            del self, outcome

    def cancel(self) -> bool:
        """End the call with `TaskCancelledError`, if it has not ended.

        What nobody has begun to run is never run. A worker that is running a task of the call is
        killed and replaced, its children with it; the tasks of other calls are not harmed. (In a
        pool of threads the task goes on, and what comes of it is dropped.)

        Returns:
            Whether that has ended it. The `error_callback` was called then, in this thread.

        Raises:
            NotImplementedError: The pool has the workings of the standard library's.
        """
        pool = self._pool
        if pool is None:
            return False
        pool._crew.cancel(self)
        return self._finish(False, _cancelled())

    def _keeper(self) -> ApplyResult[_T] | None:
        """What the open tasks hold of the call: itself only if it has somebody to call.

        Otherwise, once nobody holds the result, nothing holds the pool.
        """
        return self if self._callback is not None or self._error_callback is not None else None

    def _forget(self) -> None:
        """Have nobody wait for the call's end: it was interrupted, and has no result."""
        self._inbox.claim()
        self._cache.pop(self._job, None)
        self._pool = None

    def _position(self, index: int) -> int | range | None:
        """Where task `index` stands among the items of a map."""
        return None

    def _set(self, i: int, obj: tuple[bool, Any]) -> None:
        """Take what came of task `i`: success and value."""
        outcome = self._inbox.put(i, *obj)
        if outcome is not None:
            self._conclude(*outcome)

    def _finish(self, success: bool, value: Any) -> bool:
        """End the call; False if it has ended before."""
        if not self._inbox.claim():
            return False
        self._conclude(success, value)
        return True

    def _conclude(self, success: bool, value: Any) -> None:
        """End the call, which is for this thread to do."""
        self._cache.pop(self._job, None)
        callback: Callable[[Any], object] | None
        callback = self._callback if success else self._error_callback
        # The pool may end when the last reference to it goes: not before all is told.
        pool, self._pool = self._pool, None
        self._function = self._callback = self._error_callback = None
        try:
            if callback is not None:
                callback(value)
        finally:
            self._inbox.end(success, value)
            del pool


AsyncResult = ApplyResult


@_original.descend("pool")
class MapResult(ApplyResult[list[_T]]):
    """The results of a map, to come: a list in the order of the items."""

    def __init__(
        self,
        pool: Pool,
        chunksize: int,
        length: int,
        callback: Callable[[list[_T]], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> None:
        self._chunksize, self._length = chunksize, length
        super().__init__(pool, callback, error_callback)
        if not length:
            self._callback = None
            self._finish(True, [])

    def _make_inbox(self) -> _sidestep.Inbox:
        tasks = -(-self._length // self._chunksize)
        return _sidestep.Inbox(self, tasks, whole=True, chunked=True)

    def _position(self, index: int) -> int | range | None:
        return _items(index, self._chunksize, self._length)

    def _set_length(self, length: int) -> None:
        """There are `length` tasks: as many as the input had items for, whatever it said."""
        outcome = self._inbox.expect(length)
        if outcome is not None:
            self._conclude(*outcome)


@_original.descend("pool")
class IMapIterator(_original.Root, Generic[_T]):
    """The results of a lazy map, in the order of the items, as they come."""

    _ordered = True

    def __init__(self, pool: Pool) -> None:
        self._pool: Pool | None = pool
        self._inbox = _sidestep.Inbox(self, None, whole=False, ordered=self._ordered)
        self._job = next(job_counter)
        self._cache = pool._cache
        self._function: Any = None
        #: Items in a task.
        self._chunksize = 1
        #: Wakes who takes the input as far as results were asked for, if that is so.
        self._read: queue.SimpleQueue[None] | None = None
        self._cache[self._job] = self

    def __iter__(self) -> Self:
        return self

    def next(self, timeout: float | None = None) -> _T:
        """Return the next result, or raise its exception.

        Raises:
            StopIteration: There are no more.
            TimeoutError: It has not come within `timeout` seconds.
        """
        # Before as well: an exception of a signal handler may have come in between the last time.
        bounded = self._read is not None
        if bounded:
            self._tell_read()
        found = self._inbox.next(timeout)
        if bounded:
            self._tell_read()
        if found is None:
            raise TimeoutError(f"no result has come within {timeout} seconds")
        success, value = found
        del found
        if not success:
            try:
                raise value
            finally:
                del self, value
        result: _T = value
        return result

    __next__ = next

    def _tell_read(self) -> None:
        """Have who takes the input look how many results were taken out."""
        if self._read is not None and self._read.empty():
            self._read.put(None)

    def _keeper(self) -> None:
        """What the open tasks hold of the map: nothing, so that it ends if nobody asks any more."""

    def cancel(self) -> bool:
        """As `ApplyResult.cancel`: what has arrived in its turn is still handed out before.

        Where `chunksize` is above 1 the iterator is a generator, and has no such method.
        """
        pool = self._pool
        if pool is None:
            return False
        pool._crew.cancel(self)
        return self._finish(False, _cancelled())

    def _position(self, index: int) -> int | range | None:
        return _items(index, self._chunksize, self._inbox.items)

    def _set(self, i: int, obj: tuple[bool, Any]) -> None:
        """Take what came of task `i`: success and value."""
        outcome = self._inbox.put(i, *obj)
        if outcome is not None:
            self._conclude(*outcome)

    def _set_length(self, length: int) -> None:
        """There are `length` tasks."""
        outcome = self._inbox.expect(length)
        if outcome is not None:
            self._conclude(*outcome)

    def _set_last(self, length: int, error: BaseException) -> None:
        """There are `length` tasks, and after their results this error."""
        outcome = self._inbox.expect(length, error)
        if outcome is not None:
            self._conclude(*outcome)

    def _conclude(self, success: bool, value: Any) -> None:
        """Let go of the pool: nothing is to come any more."""
        # Dropping the pool may end it, and all jobs that are still known with it.
        self._cache.pop(self._job, None)
        self._pool = self._function = None

    def _finish(self, success: bool, value: Any) -> bool:
        """End early, with an error; False if all results are there, or an error was."""
        if not self._inbox.claim():
            return False
        self._inbox.end(success, value)
        self._conclude(success, value)
        if self._read is not None:
            self._read.put(None)
        return True


@_original.descend("pool")
class IMapUnorderedIterator(IMapIterator[_T]):
    """The results of a lazy map as they come, in any order."""

    _ordered = False


def _items(index: int, chunksize: int, length: int) -> int | range:
    """Return which items make task `index` of a map: one, or a range."""
    items = range(index * chunksize, min((index + 1) * chunksize, length))
    return items if len(items) > 1 else index * chunksize


# --- the workers and who looks after them -----------------------------------------------------


class _Crew:
    """What the handler needs: all of a pool but the pool, so that a dropped pool can end."""

    def __init__(
        self,
        core: _Core,
        lines: int,
        start: Callable[[int], Any],
        exporter: Exporter | None,
        retries: int = 0,
        task_timeout: float | None = None,
    ) -> None:
        self.core = core
        self.exporter = exporter
        self.size = lines
        self.start = start
        self.retries, self.task_timeout = retries, task_timeout
        self.workers: list[Any] = []
        self.lines: dict[int, Any] = {}
        self.state = INIT
        #: The jobs that have not ended. What a job waits for keeps it: its tasks, the taking of its
        #: input, who submits it. One that nothing of that is left of, since the call that made it
        #: was interrupted, is gone from here by itself.
        self.jobs: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        #: Behind each number that was submitted and not yet reported: the job's inbox, the task's
        #: place in the job, the task itself if it may be needed again, how often it was submitted,
        #: and the job if it has to be kept.
        self.open: dict[int, tuple[_sidestep.Inbox, int, Any, int, Any]] = {}
        self.pid = os.getpid()
        #: Workers in a row that ended before they came to take tasks, while no other had: all, and
        #: those that have nobody else to blame.
        self.stillborn = self.at_fault = 0
        #: What workers had to say about their end.
        self.words: dict[int, BaseException] = {}
        self.oom_kills = _sidestep.oom_kills()
        #: Tasks that were cancelled after somebody had taken them.
        self.condemned: collections.deque[set[int]] = collections.deque()
        #: Which task each line was seen with, and since when it runs there.
        self.seen: dict[int, tuple[int, float]] = {}
        #: When to look next whether a task has run too long.
        self.due = 0.0
        self.broken: WorkerLostError | None = None
        # Not for `terminate`, which may come from anywhere.
        self.repairing = threading.RLock()
        self.retiring: set[int] = set()
        #: The pool, once it was closed and until all is done: nobody else may hold it.
        self.owner: Any = None
        # Daemonic, and knows the crew only: it neither keeps the program nor the pool alive.
        self.handler = threading.Thread(
            target=self.handle, name="sidestep-pool-handler", daemon=True
        )

    @property
    def has_stopped(self) -> bool:
        """Whether no task will be done any more."""
        return self.state == TERMINATE or self.broken is not None

    @property
    def is_idle(self) -> bool:
        """Whether there are no tasks, nor a map that may have more of them."""
        if self.open or any(not job._inbox.claimed for job in self.list_jobs()):
            return False
        # The last one may have come before its map's input was found to be at its end.
        return not self.open

    def list_jobs(self) -> list[Any]:
        """Return the jobs that have not ended."""
        # Made of a list: others may add to the jobs in the meantime.
        return [job for known in self.jobs.valuerefs() if (job := known()) is not None]

    def export(self, func: Callable[..., Any]) -> Any:
        """Return what to send for a function, so that the workers have it."""
        return func if self.exporter is None else self.exporter.export(func)

    def send(self, job: Any, index: int, make: _Maker) -> None:
        """Give the workers the task that `make` makes of the job's function.

        Its result, or the error that keeps it here, goes to `job`.
        """
        try:
            self.submit(job, index, make(job._function))
        except Exception as error:
            self.send_by_value(job, index, make, error)

    def send_by_value(self, job: Any, index: int, make: _Maker, error: Exception) -> None:
        """Send a task whose function may be what was refused: that can go by value."""
        try:
            other = None if self.exporter is None else self.exporter.export_refused(job._function)
        except Exception:
            other = None
        if other is not None:
            job._function = other
            try:
                self.submit(job, index, make(other))
                return
            except Exception as failed:
                error = failed
        job._set(index, (False, error))

    def submit(self, job: Any, index: int, task: tuple[Any, ...]) -> None:
        """Give a task to the workers; its result goes to `job`."""
        keep = self.retries > 0
        self.core.submit(task, self.open, job._inbox, index, job._keeper(), keep)
        self.fail_late()

    def feed(
        self,
        job: Any,
        source: Iterator[Any],
        mapper: Callable[..., Any] | None,
        chunksize: int,
        place: int,
        most: int = _BATCH,
    ) -> tuple[Iterator[Any], int, BaseException | None, bool]:
        """Give the workers at most `most` tasks made of the items of `source`.

        Args:
            job: Whose tasks they are.
            source: The items.
            mapper: Called with the job's function and the items of a chunk; None: the function is
                called with each item.
            chunksize: How many items make a task, if there is a mapper.
            place: The place of the first task in the job.
            most: How many tasks, at most.

        Returns:
            The source from here on; the place of the next task; what the source has raised, if it
            did; whether it may have more items.
        """
        place, refused, error, goes_on = self.core.feed(
            source,
            job._function,
            mapper,
            chunksize,
            self.open,
            job._inbox,
            place,
            job._keeper(),
            self.retries > 0,
            most,
        )
        if refused is not None:
            if isinstance(error, Exception):
                self.send_by_value(job, place, _maker(mapper, refused), error)
                place, error = place + 1, None
            else:
                # There is no memory for them now: they come first once there is.
                source = source if isinstance(source, _Returnable) else _Returnable(source)
                source.returned.extend(refused)
        self.fail_late()
        return source, place, error, goes_on

    def fail_late(self) -> None:
        """End what was submitted when all jobs had been ended before."""
        if self.state == TERMINATE:
            self.fail(_terminated())
        elif self.broken is not None:
            self.fail(self.broken)

    def hand_over(self, entry: tuple[Any, ...], success: bool, value: Any) -> None:
        """Give a job what came of one of its tasks; nobody may wait for it any more."""
        if (job := _job_of(entry)) is not None:
            self.run(job._set, entry[1], (success, value))

    def run(self, call: Callable[..., object], *args: Any) -> None:
        """Call what may call back the program."""
        try:
            call(*args)
        except BaseException:
            # Even SystemExit: without the handler all other jobs would wait for ever.
            _print_error()

    def collect_own(self, job: ApplyResult[Any]) -> None:
        """Take the result of a job of one task, if it comes at once: quicker than by the handler.

        For the thread that waits for it, and holds the job alone: it may be interrupted.
        """
        outcome = self.core.collect_own(self.open, job._inbox)
        if outcome is not None:
            job._conclude(*outcome)

    def deliver_all(self, timeout: float) -> bool:
        """Hand out the results that are there, waiting for one; tell whether there were any.

        Callbacks run here.
        """
        try:
            any_, ended, unreadable, retired, words = self.core.collect(timeout, self.open)
        except MemoryError:
            # The result stays where it is until there is memory to take it.
            time.sleep(_LOOK_EVERY)
            return False
        self.retiring.update(retired)
        self.words.update(words)
        for entry, error in unreadable:
            if isinstance(error, MemoryError):
                self.hand_over(entry, False, error)
            else:
                refused = MaybeEncodingError(error, "the result of a task")
                refused.__cause__ = error
                self.hand_over(entry, False, refused)
        for job, success, value in ended:
            self.run(job._conclude, success, value)
        return any_

    def fill(self) -> None:
        """Start workers until there are as many as there should be."""
        with self.repairing:
            for line in range(self.size):
                if self.state != TERMINATE and line not in self.lines:
                    self.core.enter(line, STARTING)
                    self.words.pop(line, None)
                    fresh = self.start(line)
                    self.lines[line] = fresh
                    self.workers.append(fresh)
                    if self.state == TERMINATE:
                        # Who ended the others may not have seen it.
                        _end_all([fresh])

    def dismiss_dead(self) -> bool:
        """Forget workers that have ended, and report the tasks that they took along."""
        with self.repairing:
            dead = [(line, w) for line, w in self.lines.items() if w.exitcode is not None]
            if not dead:
                return False
            # What they reported before they died comes first.
            while self.deliver_all(0):
                pass
            kills = self.oom_kills
            if any(gone.exitcode == -_signal.SIGKILL for _, gone in dead):
                self.oom_kills = _sidestep.oom_kills()
            for line, gone in dead:
                starved = gone.exitcode == -_signal.SIGKILL and self.oom_kills > kills
                lost = self.core.lost(line)
                del self.lines[line]
                self.workers.remove(gone)
                gone.join()
                self.count_stillborn(line, gone.exitcode, starved)
                if lost is not None:
                    self.report_lost(lost, gone, starved, self.words.get(line))
                self.give_up_if_hopeless(line, gone, starved)
            return True

    def report_lost(
        self, number: int, gone: Any, starved: bool, words: BaseException | None
    ) -> None:
        """Run a task once more whose worker has died, or report it as lost."""
        entry = self.open.pop(number, None)
        if entry is None:
            return
        inbox, place, packed, tries, keeper = entry
        error: Exception
        if tries <= self.retries and not self.has_stopped:
            try:
                self.core.submit_again(packed, self.open, (inbox, place, packed, tries + 1, keeper))
                return
            except Exception as failed:
                error = failed
        else:
            job = _job_of(entry)
            position = None if job is None else job._position(place)
            what = f"while it ran {_name_of(position)}"
            error = _lost(gone, what, position, starved, tries)
            error.__cause__ = words
        self.hand_over(entry, False, error)

    def count_stillborn(self, line: int, exitcode: int, starved: bool) -> None:
        """Take note if the dead worker of this line never came to take tasks."""
        if any(map(self.has_begun, (line, *self.lines))):
            self.stillborn = self.at_fault = 0
            return
        self.stillborn += 1
        # Whoever kills workers from outside is no initializer that fails.
        from_outside = exitcode == -_signal.SIGTERM or (
            exitcode == -_signal.SIGKILL and not starved and self.core.stage(line) != PREPARING
        )
        self.at_fault += not from_outside

    def give_up_if_hopeless(self, line: int, gone: Any, starved: bool) -> None:
        """Let the pool end if workers do nothing but end."""
        if self.at_fault < _STILLBORN * self.size and self.stillborn < _ILL_FATED * self.size:
            return
        words = self.words.get(line)
        why = f"the last one {_how(gone.exitcode, starved)}"
        if words is not None:
            why += f", as the initializer raised {safe_repr(words)}"
        elif self.core.stage(line) == PREPARING:
            why += ", in the initializer"
        self.broken = WorkerLostError(
            f"the pool's workers cannot start: {self.stillborn} in a row ended before they "
            f"could take a task, {why}",
            getattr(gone, "pid", None),
            gone.exitcode,
            None,
            starved,
        )
        self.broken.__cause__ = words

    def has_begun(self, line: int) -> bool:
        """Tell whether the worker last started for this line has come to take tasks."""
        return self.core.stage(line) == READY

    def numbers_of(self, job: Any) -> set[int]:
        """Return the numbers of the open tasks of a job."""
        inbox = job._inbox
        latest = inbox.latest
        entry = self.open.get(latest)
        if type(job) is ApplyResult and entry is not None and entry[0] is inbox:
            # It has no other.
            return {latest}
        return {number for number, entry in list(self.open.items()) if entry[0] is inbox}

    def cancel(self, job: Any) -> None:
        """Have no task of the job run any more."""
        numbers = self.numbers_of(job)
        for number in numbers:
            self.open.pop(number, None)
        # From here on each of them will never be taken, or is on the board, or is done.
        self.core.withdraw(numbers)
        self.condemned.append(numbers)
        self.core.nudge()

    def end_tasks(self) -> None:
        """Kill the workers whose task was cancelled, or runs for too long."""
        condemned: set[int] = set()
        while self.condemned:
            condemned |= self.condemned.popleft()
        now = time.monotonic()
        self.due = now + (self.task_timeout or 0)
        with self.repairing:
            for line, at_it in list(self.lines.items()):
                running = self.core.running(line)
                if running is None:
                    continue
                number, since = running
                if number in condemned:
                    self.end_task(line, at_it, number)
                elif self.task_timeout is not None:
                    if self.seen.get(line, (None,))[0] != number:
                        self.seen[line] = (number, now if since is None else since)
                    end = self.seen[line][1] + self.task_timeout
                    if now < end:
                        self.due = min(self.due, end)
                    elif self.end_task(line, at_it, number):
                        self.report_overrun(number, at_it)

    def end_task(self, line: int, at_it: Any, number: int) -> bool:
        """Kill the worker of this line if it is still at this task."""
        if not self.core.doom(line, number):
            return False
        at_it.kill()
        self.retiring.add(line)
        return True

    def report_overrun(self, number: int, killed: Any) -> None:
        """Report a task that ran for too long."""
        entry = self.open.pop(number, None)
        job = None if entry is None else _job_of(entry)
        if entry is not None and job is not None:
            position = job._position(entry[1])
            error = TaskTimeoutError(
                f"{_name_of(position)} ran longer than {self.task_timeout} seconds: its worker "
                f"{killed.name} (process {killed.pid}) was killed",
                position,
                killed.pid,
            )
            self.hand_over(entry, False, error)

    def handle(self) -> None:
        """The handler's life."""
        try:
            self.serve()
        finally:
            self.owner = None

    def serve(self) -> None:
        """Hand out results, call back, look after the workers."""
        looked = time.monotonic()
        look_every = _LOOK_EVERY
        while self.state != TERMINATE:
            patience = look_every
            if self.task_timeout is not None:
                patience = min(patience, max(self.due - time.monotonic(), 0))
            self.deliver_all(patience)
            done = self.state == CLOSE and self.is_idle
            if self.condemned or (self.task_timeout is not None and time.monotonic() >= self.due):
                self.end_tasks()
            if done and not self.retiring:
                self.core.close()
                break
            if self.retiring:
                while self.retiring:
                    if gone := self.lines.get(self.retiring.pop()):
                        gone.join(_LOOK_EVERY)
                self.look_after()
            elif time.monotonic() - looked >= look_every:
                found = self.look_after()
                look_every = _LOOK_AGAIN if found else min(2 * look_every, _LOOK_EVERY)
                looked = time.monotonic()
        while self.state == CLOSE and self.lines:
            if self.condemned:
                self.end_tasks()
            for gone in list(self.lines.values()):
                gone.join(_LOOK_EVERY)
            self.dismiss_dead()

    def look_after(self) -> bool:
        """Replace the dead; tell whether there were any."""
        found = self.dismiss_dead()
        # Also of those who died before, and could not be replaced then.
        missing = len(self.lines) < self.size
        if not missing or self.state not in (RUN, CLOSE) or (self.state == CLOSE and self.is_idle):
            return found
        if self.broken is not None:
            self.run(self.fail, self.broken)
            return found
        try:
            self.fill()
        except Exception as error:
            # No process could be started: what waits for one would wait for ever if all are gone.
            if not self.lines:
                self.run(self.fail, error)
        return found

    def fail(self, error: BaseException) -> None:
        """End every job that is still open with an error.

        Raises:
            BaseException: What a callback has raised that is no `Exception`; all jobs have ended.
        """
        # Listed first: what is open may be all that keeps them.
        jobs = self.list_jobs()
        self.open.clear()
        raised: BaseException | None = None
        for job in jobs:
            try:
                job._finish(False, error)
            except Exception:
                _print_error()
            except BaseException as stop:
                raised = raised or stop
        if raised is not None:
            raise raised

    def close(self, owner: Any) -> None:
        """Have the workers end when all is done, which keeps the pool that owns them."""
        if self.pid == os.getpid():
            self.owner = owner
        self.state = CLOSE
        self.core.nudge()

    def join(self) -> None:
        """Wait for the handler and the workers, which were told to end."""
        self.handler.join()
        for gone in list(self.workers):
            gone.join()

    def end_the_rest(self) -> None:
        """End the workers that `terminate` has left, if any."""
        if self.pid == os.getpid() and any(
            each.exitcode is None for each in list(self.lines.values())
        ):
            self.terminate()

    def terminate(self) -> None:
        """End the workers at once, and all jobs with an error.

        Takes no lock that anybody may hold for long, so it may be called from anywhere; but in a
        forked child it is none of its business.
        """
        if self.pid != os.getpid():
            return
        self.state = TERMINATE
        self.core.close()
        try:
            # A worker that is started just now is ended by whoever starts it.
            _end_all(list(self.lines.values()))
        finally:
            self.core.nudge()
            self.fail(_terminated())


def _print_error() -> None:
    """Show the exception that is being handled, which has nowhere to go."""
    import traceback

    # There may be nobody to show it to.
    with contextlib.suppress(Exception):
        traceback.print_exc()


def _job_of(entry: tuple[Any, ...]) -> Any:
    """The job of an open task, or None if nobody waits for it any more."""
    inbox, *_, keeper = entry
    return inbox.job if keeper is None else keeper


def _end_all(processes: Iterable[Any]) -> None:
    """End processes, which may be stopped, or deaf."""
    left = [each for each in processes if each.exitcode is None]
    for each in left:
        each.terminate()
    end = time.monotonic() + _GRACE
    # Of a foreign context's processes no more is known than that they end and can be joined.
    ours = [each for each in left if isinstance(each, BaseProcess)]
    try:
        for each in ours:
            each.join(max(0.0, end - time.monotonic()))
    finally:
        # Also if a signal handler has had enough.
        for each in ours:
            if each.exitcode is None:
                each.kill()
    for each in left:
        each.join()


def _terminated() -> context.ProcessError:
    return context.ProcessError("the pool was terminated before the task was done")


def _cancelled() -> TaskCancelledError:
    return TaskCancelledError("the call was cancelled before it was done")


def _name_of(position: int | range | None) -> str:
    if position is None:
        return "this task"
    if isinstance(position, int):
        return f"task {position} of this map"
    return f"items {position[0]} to {position[-1]} of this map"


def _signal_name(number: int) -> str:
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"number {number}"


def _how(exitcode: int, starved: bool = False) -> str:
    """Say how a process has ended."""
    if exitcode >= 0:
        return f"with exit code {exitcode}"
    how = f"killed by signal {_signal_name(-exitcode)}"
    return f"{how} (probably out of memory)" if starved else how


def _lost(
    gone: Any,
    what: str,
    position: int | range | None = None,
    starved: bool = False,
    tries: int = 1,
) -> WorkerLostError:
    text = f"worker {gone.name} (process {gone.pid}) ended {what}, {_how(gone.exitcode, starved)}"
    if tries > 1:
        text += f"; so did the workers of all {tries - 1} tries before"
    return WorkerLostError(text, gone.pid, gone.exitcode, position, starved, tries)


def _start(thread: threading.Thread) -> None:
    with util._naming_thread_limits(thread):
        thread.start()


def _drop(crew: _Crew) -> None:
    crew.terminate()


# --- the pool ---------------------------------------------------------------------------------


class _Classic:
    """One of the workings that only a `ClassicPool` has, looked up there."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, pool: Pool | None, owner: type[Pool]) -> Any:
        from ._classic_pool import ClassicPool

        return vars(ClassicPool)[self._name].__get__(pool, owner)


#: Who overrides one of these replaces a part of the original pool, and becomes a ClassicPool.
#: Other names of the original have no effect when they are overridden.
_REPLACEABLE = frozenset(
    {"_setup_queues", "_repopulate_pool", "_get_sentinels", "_help_stuff_finish", "_terminate_pool"}
)


@_original.descend("pool")
class Pool(_original.Root):
    """Worker processes that call functions.

    Functions, initializers and their arguments may be anything that can be called, also lambdas,
    closures, and what was typed in at a prompt: what workers would not find under its name goes
    to them by value, once for each call of a method. Arguments and results are pickled.

    If a worker dies, the task that it was running ends with `WorkerLostError`, or is run again if
    there are `retries`; the worker is replaced and all other tasks go on. If the parent dies, so
    do the workers, and with them their children.

    Args:
        processes: How many workers; None for as many as there are processors.
        initializer: Called in each worker first, with `initargs`. If it fails in every worker
            again and again, all calls end with `WorkerLostError`, whose cause is its exception.
        initargs: The arguments of the initializer.
        maxtasksperchild: A worker is replaced after so many tasks.
        context: Makes the processes.
        retries: How often a task is run again whose worker was lost. Only for tasks that do no
            harm when they have been run in part before.
        task_timeout: How many seconds a task may run. One that takes longer has its worker killed
            and replaced, and ends with `TaskTimeoutError`. What a map calls a chunk is one task,
            so here it holds one item unless `chunksize` says otherwise.
    """

    _wrap_exception = True
    _classic = False
    _crew_type = _Crew
    _life: Callable[..., None] = staticmethod(be_worker)
    _failure: Callable[[BaseException], Any] = Failure

    # The workings of the standard library's pool, which only a ClassicPool uses.
    _setup_queues = _Classic()
    _repopulate_pool_static = _Classic()
    _maintain_pool = _Classic()
    _join_exited_workers = _Classic()
    _handle_workers = _Classic()
    _handle_tasks = _Classic()
    _handle_results = _Classic()
    _wait_for_updates = _Classic()
    _get_sentinels = _Classic()
    _get_worker_sentinels = _Classic()
    _help_stuff_finish = _Classic()
    _terminate_pool = _Classic()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls._classic:
            return
        known = {*Pool.__mro__, *globals().get("ThreadPool", Pool).__mro__}
        replaced = {name for base in cls.__mro__ if base not in known for name in vars(base)}
        if not replaced.isdisjoint(_REPLACEABLE):
            from ._classic_pool import ClassicPool

            bases = tuple(ClassicPool if base is Pool else base for base in cls.__bases__)
            cls.__bases__ = bases if ClassicPool in bases else (*bases, ClassicPool)

    @staticmethod
    def Process(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        """Make a worker's process."""
        return ctx.Process(*args, **kwargs)

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
        *,
        retries: int = 0,
        task_timeout: float | None = None,
    ) -> None:
        if self._classic:
            # The class was called by its name, and not by way of super().
            from ._classic_pool import ClassicPool

            assert isinstance(self, ClassicPool)
            ClassicPool.__init__(
                self,
                processes,
                initializer,
                initargs,
                maxtasksperchild,
                context,
                retries=retries,
                task_timeout=task_timeout,
            )
            return
        self._state = INIT
        self._ctx = context or self._default_context()
        self._check_arguments(processes, initializer, initargs, maxtasksperchild)
        self._check_limits(retries, task_timeout)
        core = self._make_core()
        arguments = (initializer, self._initargs, maxtasksperchild, self._failure)
        starter = _Starter(type(self), self._ctx, core, arguments)
        exporter = self._make_exporter()
        self._crew = self._crew_type(
            core, self._processes, starter, exporter, retries, task_timeout
        )
        self._pool, self._cache = self._crew.workers, self._crew.jobs
        self._feeder: queue.SimpleQueue[Callable[[], None] | None] | None = None
        try:
            self._repopulate_pool()
            self._crew.state = RUN
            _start(self._crew.handler)
            self._terminate = util.Finalize(self, _drop, args=(self._crew,), exitpriority=15)
            self._state = RUN
        except BaseException:
            # An exception of a signal handler may have come before the crew had this one.
            line, known = starter.latest
            fresh = known()
            if getattr(fresh, "ident", None) is not None:
                self._crew.lines.setdefault(line, fresh)
            self._crew.terminate()
            raise

    def _check_arguments(
        self,
        processes: int | None,
        initializer: Callable[..., object] | None,
        initargs: Iterable[Any],
        maxtasksperchild: int | None,
    ) -> None:
        self._processes = processes if processes is not None else _processors()
        self._initializer = initializer
        self._initargs = tuple(initargs)
        self._maxtasksperchild = maxtasksperchild
        if self._processes < 1:
            raise ValueError(f"a pool needs at least 1 process, not {self._processes}")
        if maxtasksperchild is not None and (
            not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0
        ):
            raise ValueError(
                f"maxtasksperchild must be a positive int or None, not {maxtasksperchild!r}"
            )
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a callable, not {initializer!r}")

    @staticmethod
    def _check_limits(retries: int, task_timeout: Any) -> None:
        if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
            raise ValueError(f"retries must be an int of 0 or more, not {retries!r}")
        if task_timeout is not None and (
            isinstance(task_timeout, bool)
            # Strings become floats as well, but are no numbers.
            or not hasattr(task_timeout, "__float__")
            or not float(task_timeout) > 0
        ):
            raise ValueError(
                f"task_timeout must be a number of seconds above 0 or None, not {task_timeout!r}"
            )

    def _default_context(self) -> Any:
        return context._default_context.get_context()

    def _make_core(self) -> _Core:
        return _sidestep.PoolCore(self._processes)

    def _make_exporter(self) -> Exporter | None:
        # Imported here: workers need it only if something comes to them by value.
        from ._by_value import Exporter

        return Exporter(self._ctx.get_start_method() == "fork")

    def _repopulate_pool(self) -> None:
        self._crew.dismiss_dead()
        self._crew.fill()

    def __del__(self, _warn: Any = warnings.warn, RUN: str = RUN) -> None:
        if getattr(self, "_state", None) == RUN:
            _warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self)
            crew = getattr(self, "_crew", None)
            if crew is not None and crew.state == RUN:
                # The finalizer's weak reference ends the workers.
                crew.state = CLOSE

    def __repr__(self) -> str:
        name = f"{type(self).__module__}.{type(self).__qualname__}"
        return f"<{name} state={self._state} pool_size={len(getattr(self, '_pool', ()))}>"

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    # --- calls

    def _check_running(self) -> None:
        if self._state != RUN:
            raise ValueError("Pool not running")
        if self._crew.pid != os.getpid():
            raise ValueError(
                f"Pool not running here: it belongs to process {self._crew.pid}, of which this "
                "one is a fork"
            )

    def apply(
        self, func: Callable[..., _T], args: Iterable[Any] = (), kwds: Mapping[str, Any] = {}
    ) -> _T:
        """Call `func(*args, **kwds)` in a worker and return its result."""
        result = self.apply_async(func, args, kwds)
        if isinstance(result, ApplyResult):
            self._crew.collect_own(result)
        return result.get()

    def map(
        self, func: Callable[[_S], _T], iterable: Iterable[_S], chunksize: int | None = None
    ) -> list[_T]:
        """Call `func` with each item, in chunks; return the results in order."""
        return self._map_async(func, iterable, mapstar, chunksize).get()

    def starmap(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
    ) -> list[_T]:
        """As `map`; each item holds the arguments of a call."""
        return self._map_async(func, iterable, starmapstar, chunksize).get()

    def apply_async(
        self,
        func: Callable[..., _T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[_T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> ApplyResult[_T]:
        """Have `func(*args, **kwds)` called in a worker.

        `callback` gets the result, `error_callback` the exception, in a thread of this process.
        A task that cannot be serialised ends with that error.
        """
        self._check_running()
        result: ApplyResult[_T] = ApplyResult(self, callback, error_callback)
        try:
            # Once more: who closes the pool in between has not seen the call.
            self._check_running()
            self._start(result, func)
            self._crew.send(result, 0, _of_call(tuple(args), dict(kwds)))
            return result
        except BaseException:
            result._forget()
            raise

    def map_async(
        self,
        func: Callable[[_S], _T],
        iterable: Iterable[_S],
        chunksize: int | None = None,
        callback: Callable[[list[_T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> MapResult[_T]:
        """As `map`, but return at once what the results will come by."""
        return self._map_async(func, iterable, mapstar, chunksize, callback, error_callback)

    def starmap_async(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[_T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> MapResult[_T]:
        """As `starmap`, but return at once what the results will come by."""
        return self._map_async(func, iterable, starmapstar, chunksize, callback, error_callback)

    def imap(
        self,
        func: Callable[[_S], _T],
        iterable: Iterable[_S],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
    ) -> Iterator[_T]:
        """Call `func` with each item; return an iterator over the results, in order.

        Args:
            func: What to call.
            iterable: The items, taken by a thread of this process.
            chunksize: How many items make a task.
            buffersize: How many tasks may be taken from `iterable` whose results were not yet
                asked for; None takes everything at once. The pool waits with `join` until all
                results were asked for or the iterator was dropped.

        Returns:
            An iterator whose `next` takes a timeout, if `chunksize` is 1.

        Raises:
            ValueError: `chunksize` or `buffersize` is below 1, or the pool does not run.
            TypeError: `buffersize` is no int.
        """
        return self._imap(IMapIterator, func, iterable, chunksize, buffersize)

    def imap_unordered(
        self,
        func: Callable[[_S], _T],
        iterable: Iterable[_S],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
    ) -> Iterator[_T]:
        """As `imap`, but give the results as they come."""
        return self._imap(IMapUnorderedIterator, func, iterable, chunksize, buffersize)

    def _start(self, job: Any, func: Callable[..., Any]) -> None:
        """Give a job its function, in the form in which it goes to the workers."""
        try:
            job._function = self._crew.export(func)
        except Exception:
            # It goes as it is, and what pickle says against it is the job's error.
            job._function = func

    def _map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        mapper: Callable[..., Any],
        chunksize: int | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> MapResult[Any]:
        self._check_running()
        items = iterable if hasattr(iterable, "__len__") else list(iterable)
        length = len(items)  # type: ignore[arg-type]
        if chunksize is None and self._crew.task_timeout is not None:
            # A task may take so long, and not as many of them as come to share a chunk.
            chunksize = 1
        if chunksize is None:
            chunksize = -(-length // (self._processes * 4))
        if chunksize < 1:
            if length:
                raise ValueError(f"chunksize must be 1 or more, not {chunksize}")
            chunksize = 1
        result: MapResult[Any] = MapResult(self, chunksize, length, callback, error_callback)
        try:
            self._check_running()
            self._start(result, func)
            # No more than it says that it has: each task's result has its place.
            source: Iterator[Any] = itertools.islice(items, length)
            place, goes_on = 0, length > 0
            while goes_on:
                source, place, raised, goes_on = self._crew.feed(
                    result, source, mapper, chunksize, place
                )
                if raised is not None:
                    raise raised
                if goes_on and not result._inbox.has_room(place):
                    rest = partial(_feed_rest, self._crew, result, source, mapper, place)
                    _start(threading.Thread(target=rest, name="sidestep-pool-feeder", daemon=True))
                    break
            if not goes_on:
                result._set_length(place)
            return result
        except BaseException:
            result._forget()
            raise

    @staticmethod
    def _get_tasks(func: Any, it: Iterable[Any], size: int) -> Iterator[tuple[Any, Any]]:
        """Cut the items into chunks; give each with the function."""
        iterator = iter(it)
        while chunk := tuple(itertools.islice(iterator, size)):
            yield func, chunk

    def _imap(
        self,
        kind: type[IMapIterator[Any]],
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int,
        buffersize: int | None,
    ) -> Iterator[Any]:
        self._check_running()
        if chunksize < 1:
            raise ValueError(f"chunksize must be 1 or more, not {chunksize}")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError(f"buffersize must be an integer or None, not {buffersize!r}")
        if buffersize is not None and buffersize < 1:
            raise ValueError(f"buffersize must be None or > 0, not {buffersize}")
        results = kind(self)
        try:
            self._check_running()
            self._start(results, func)
            results._chunksize = chunksize
            if buffersize is None:
                self._feed(_Feed(self._crew, results, iterable))
            else:
                feed = _BoundedFeed(self._crew, results, iterable, buffersize)
                _start(threading.Thread(target=feed, name="sidestep-pool-feeder", daemon=True))
            if chunksize == 1:
                return results
            return (item for chunk in results for item in chunk)
        except BaseException:
            # Nobody will ask for them, and whoever keeps the exception keeps them.
            results._finish(False, _cancelled())
            raise

    def _feed(self, feed: _Feed) -> None:
        """Have a lazy map's items taken and submitted, by a thread: taking one may block."""
        feeder = self._feeder
        if feeder is None:
            feeder = queue.SimpleQueue()
            thread = threading.Thread(
                target=_feed_all, args=(feeder,), name="sidestep-pool-feeder", daemon=True
            )
            try:
                _start(thread)
                weakref.finalize(self, feeder.put, None)
                self._feeder = feeder
            except BaseException:
                # An exception of a signal handler may come when it runs already.
                self._feeder = None
                feeder.put(None)
                raise
        feeder.put(feed)

    # --- the end

    def close(self) -> None:
        """Take no more tasks; workers end when all are done."""
        if self._state == RUN:
            self._state = CLOSE
            self._crew.close(self)

    def terminate(self) -> None:
        """End the workers at once; tasks that are not done end with an error."""
        self._state = TERMINATE
        self._terminate()
        # Again if an exception of a signal handler has cut the first time short.
        self._crew.end_the_rest()

    def join(self) -> None:
        """Wait until the workers have ended.

        Raises:
            ValueError: Neither `close` nor `terminate` was called.
        """
        if self._state == RUN:
            raise ValueError("Pool is still running: call close() or terminate() before join()")
        self._crew.join()

    def __enter__(self) -> Self:
        self._check_running()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.terminate()


class _Starter:
    """Starts workers, without a reference to the pool."""

    def __init__(
        self,
        pool: type[Pool],
        ctx: Any,
        core: _Core,
        arguments: tuple[Any, ...],
    ) -> None:
        self.pool, self.ctx, self.core, self.arguments = pool, ctx, core, arguments
        #: The line of the worker that was started last, and a reference that does not keep it.
        self.latest: tuple[int, Callable[[], Any]] = 0, lambda: None

    def __call__(self, line: int) -> Any:
        # Asked for first: a handler's exception may come once the signal is blocked.
        before = _sidestep.blocked_signals()
        try:
            # A worker inherits it, and lets the signal through once it is ready for it: on its
            # way there a Ctrl-C would end in a traceback.
            _sidestep.block_signals(before | INTERRUPT)
            fresh = self.pool.Process(
                self.ctx,
                target=self.pool._life,
                args=(self.core, line, not before & INTERRUPT, *self.arguments),
            )
            fresh.name = fresh.name.replace("Process", "PoolWorker")
            fresh.daemon = True
            self.latest = line, weakref.ref(fresh)
            fresh.start()
        finally:
            _sidestep.block_signals(before)
        return fresh


class _Feed:
    """One lazy map: its input, and where its results go."""

    #: How many tasks are made before it looks whether to go on.
    _most = _BATCH

    def __init__(self, crew: _Crew, results: IMapIterator[Any], iterable: Iterable[Any]) -> None:
        self._crew, self._iterable = crew, iterable
        self._results: Callable[[], IMapIterator[Any] | None] = lambda: results

    def __call__(self) -> None:
        """Take the input and submit it, until it ends or nobody wants the results."""
        source: Iterator[Any] | None = None
        count = 0
        while self._may_go_on(count):
            goes_on = False
            error: BaseException | None
            results = self._results()
            if results is None or results._inbox.claimed:
                return
            mapper = mapstar if results._chunksize > 1 else None
            try:
                source = iter(self._iterable) if source is None else source
                before, goes_on, error = count, True, None
                while goes_on and error is None and count == before:
                    # Again if there is no memory for the next task before another one is done.
                    results._inbox.wait_room(count)
                    source, count, error, goes_on = self._crew.feed(
                        results, source, mapper, results._chunksize, count, self._most
                    )
            except BaseException as raised:
                error = raised
            if error is not None:
                # What came before is delivered, then this.
                results._set_last(count, error)
                return
            if not goes_on:
                results._set_length(count)
                return
            del results
        self._crew.fail_late()

    def _may_go_on(self, made: int) -> bool:
        """Tell whether more tasks are wanted when `made` are."""
        results = self._results()
        return results is not None and not results._inbox.claimed and not self._crew.has_stopped


class _Returnable:
    """An iterator that takes items back."""

    def __init__(self, source: Iterator[Any]) -> None:
        self.source = source
        self.returned: collections.deque[Any] = collections.deque()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return self.returned.popleft() if self.returned else next(self.source)


class _BoundedFeed(_Feed):
    """A lazy map that takes no more of its input than there is room for.

    It does not keep the iterator over the results alive, and ends when that is dropped.
    """

    _most = 1

    def __init__(
        self, crew: _Crew, results: IMapIterator[Any], iterable: Iterable[Any], size: int
    ) -> None:
        super().__init__(crew, results, iterable)
        self._results = weakref.ref(results)
        self._size = size
        # A queue, and no semaphore: the garbage collector may call this from anywhere.
        self._read: queue.SimpleQueue[None] = queue.SimpleQueue()
        results._read = self._read
        cache: Any = results._cache
        if isinstance(cache, dict):
            # That of a ClassicPool, which would keep them.
            cache[results._job] = weakref.proxy(results)
        weakref.finalize(results, self._drop, cache, results._job).atexit = False

    def _drop(self, cache: Any, job: int) -> None:
        """Nobody can ask for the results any more."""
        cache.pop(job, None)
        self._read.put(None)

    def _may_go_on(self, made: int) -> bool:
        while super()._may_go_on(made):
            results = self._results()
            if results is not None and made - results._inbox.handed < self._size:
                return True
            del results
            self._read.get()
        return False


def _feed_rest(
    crew: _Crew,
    job: MapResult[Any],
    source: Iterator[Any],
    mapper: Callable[..., Any],
    place: int,
) -> None:
    """Submit the rest of a map whose tasks are large, as its results come."""
    goes_on = True
    while goes_on:
        job._inbox.wait_room(place)
        error: BaseException | None
        try:
            source, place, error, goes_on = crew.feed(job, source, mapper, job._chunksize, place)
        except BaseException as raised:
            error = raised
        if error is not None:
            job._finish(False, error)
            return
    job._set_length(place)


def _feed_one_by_one(
    source: Iterator[Any],
    mapper: Callable[..., Any] | None,
    chunksize: int,
    inbox: _sidestep.Inbox,
    place: int,
    most: int,
    submit: Callable[[int, _Maker], object],
) -> _Fed:
    """As the engine's `feed`, for tasks that go elsewhere."""
    for at in range(place, place + most):
        if inbox.claimed:
            return at, None, None, False
        try:
            items = tuple(itertools.islice(source, 1 if mapper is None else chunksize))
        except BaseException as error:
            return at, None, error, False
        if not items:
            return at, None, None, False
        inbox.count(len(items))
        submit(at, _maker(mapper, items))
    return place + most, None, None, True


def _feed_all(feeds: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (feed := feeds.get()) is not None:
        feed()
        del feed


def _processors() -> int:
    count = getattr(os, "process_cpu_count", os.cpu_count)
    return count() or 1


# --- the same with threads --------------------------------------------------------------------


class _LocalCore:
    """The core of a pool of threads: tasks and results are passed by reference."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[tuple[int, Any] | None] = queue.SimpleQueue()
        #: Numbers with success and value; lines of workers, or with last words; None to nudge.
        self._results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._numbers = itertools.count()
        self._stages: dict[int, int] = {}
        self._withdrawn: set[int] = set()

    def submit(
        self,
        task: Any,
        open: dict[int, Any],
        inbox: _sidestep.Inbox,
        place: int,
        keeper: Any,
        keep: bool,
    ) -> None:
        number = next(self._numbers)
        open[number] = inbox, place, None, 1, keeper
        self._tasks.put((number, task))

    def submit_again(self, task: Any, open: dict[int, Any], entry: Any) -> NoReturn:
        raise NotImplementedError("tasks of threads are not lost")

    def feed(
        self,
        source: Iterator[Any],
        function: Any,
        mapper: Callable[..., Any] | None,
        chunksize: int,
        open: dict[int, Any],
        inbox: _sidestep.Inbox,
        place: int,
        keeper: Any,
        keep: bool,
        most: int,
    ) -> _Fed:
        def submit(place: int, make: _Maker) -> None:
            self.submit(make(function), open, inbox, place, keeper, keep)

        return _feed_one_by_one(source, mapper, chunksize, inbox, place, most, submit)

    def enter(self, worker: int, stage: int) -> None:
        self._stages[worker] = stage

    def stage(self, worker: int) -> int:
        return self._stages[worker]

    def take(self, worker: int) -> tuple[int, bool, Any] | None:
        while (taken := self._tasks.get()) is not None:
            if taken[0] not in self._withdrawn:
                return taken[0], True, taken[1]
            self._withdrawn.discard(taken[0])
        # The word for all: pass it on.
        self._tasks.put(None)
        return None

    def finish(self, worker: int, number: int, result: Any) -> bool:
        # If it was cancelled in the meantime nobody asks for it.
        self._withdrawn.discard(number)
        self._results.put((number, result))
        return True

    def last_words(self, worker: int, words: Any) -> None:
        self._results.put((None, (worker, words)))

    def withdraw(self, numbers: set[int]) -> None:
        self._withdrawn |= numbers

    def running(self, worker: int) -> tuple[int, float | None] | None:
        return None

    def doom(self, worker: int, number: int) -> bool:
        return False

    def collect(self, timeout: float | None, open: dict[int, Any]) -> _Harvest:
        ended: list[tuple[Any, bool, Any]] = []
        retired: list[int] = []
        words: list[tuple[int, Any]] = []
        count = 0
        with contextlib.suppress(queue.Empty):
            found = self._results.get(timeout != 0, timeout)
            while found is not None:
                count += 1
                number, result = found
                if number is None:
                    (retired if isinstance(result, int) else words).append(result)
                elif (entry := open.pop(number, None)) and (job := _job_of(entry)) is not None:
                    outcome = entry[0].put(entry[1], *result)
                    if outcome is not None:
                        ended.append((job, *outcome))
                # Nothing of it is kept while this waits.
                entry = job = result = outcome = None
                if count == _BATCH:
                    break
                found = self._results.get_nowait()
        return count > 0, ended, [], retired, words

    def collect_own(self, open: dict[int, Any], inbox: _sidestep.Inbox) -> None:
        """Threads leave that to the handler."""

    def retire(self, worker: int) -> None:
        self._results.put((None, worker))

    def nudge(self) -> None:
        self._results.put(None)

    def lost(self, worker: int) -> int | None:
        return None

    def close(self) -> None:
        self._tasks.put(None)

    def discard(self) -> None:
        """Forget the tasks that nobody has taken."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._tasks.get_nowait()


def _as_it_is(error: BaseException) -> BaseException:
    return error


class _ThreadCrew(_Crew):
    def terminate(self) -> None:
        """Have the threads end after the tasks that they are running, which cannot be stopped."""
        self.state = TERMINATE
        assert isinstance(self.core, _LocalCore)
        self.core.discard()
        self.core.close()
        self.fail(_terminated())

    def end_the_rest(self) -> None:
        """Threads end when they come to it."""

    def join(self) -> None:
        """Wait for the threads; after `terminate` nobody waits for one that is in a task."""
        self.handler.join()
        if self.state == CLOSE:
            super().join()


@_original.descend("pool")
class ThreadPool(Pool):
    """A pool of threads with the interface of `Pool`."""

    _wrap_exception = False
    _crew_type = _ThreadCrew
    _life = staticmethod(be_thread)
    _failure = staticmethod(_as_it_is)

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
    ) -> None:
        super().__init__(processes, initializer, initargs)

    @staticmethod
    def Process(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        """Make a worker's thread."""
        from .dummy import Process

        return Process(*args, **kwargs)

    def _make_core(self) -> _Core:
        return _LocalCore()

    def _make_exporter(self) -> None:
        return None
