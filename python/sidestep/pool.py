"""Pools of worker processes, on the engine's tasks, results and board.

Whoever submits serialises a task and puts it into the arena; workers take tasks from there
directly. One thread of the parent, the handler, takes the results, runs callbacks, and looks
after the workers: a dead one is replaced, and the one task that it was running is reported as
lost. `ThreadPool` is the same pool with threads, and with tasks that are not serialised.

A subclass that overrides the workings of the standard library's pool gets those instead, from
`_classic_pool`.
"""

import collections
import contextlib
import itertools
import os
import queue
import reprlib
import signal
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import GenericAlias, TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self

from . import _original, _sidestep, context, reduction, util

if TYPE_CHECKING:
    from ._by_value import Exporter

__all__ = ["Pool", "ThreadPool"]

INIT = "INIT"
RUN = "RUN"
CLOSE = "CLOSE"
TERMINATE = "TERMINATE"

TimeoutError = context.TimeoutError

job_counter = itertools.count()

#: How long the handler waits for results before it looks at the workers, in seconds.
_LOOK_EVERY = 0.1

#: How often all workers of a pool may end before they can take a task, until it gives up.
_STILLBORN = 3


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
        self.value = value if isinstance(value, str) else _safe_repr(value)
        Exception.__init__(self, self.exc, self.value)

    def __str__(self) -> str:
        return f"Error sending result: '{self.value}'. Reason: '{self.exc}'"

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"


class WorkerLostError(context.ProcessError):
    """The worker process ended while it was running the task; every other task goes on.

    Attributes:
        pid: The worker's process id.
        exitcode: How it ended; negative is the number of a signal.
    """

    def __init__(self, message: str, pid: int | None = None, exitcode: int | None = None) -> None:
        super().__init__(message, pid, exitcode)
        self.message, self.pid, self.exitcode = message, pid, exitcode

    def __str__(self) -> str:
        return self.message


#: Makes a task of a function: what to call, with which arguments and keywords.
_Maker = Callable[[Any], tuple[Any, tuple[Any, ...], dict[str, Any]]]


def _of_call(args: tuple[Any, ...], kwds: dict[str, Any]) -> _Maker:
    return lambda function: (function, args, kwds)


def _of_chunk(mapper: Callable[..., Any], chunk: tuple[Any, ...]) -> _Maker:
    return lambda function: (mapper, ((function, chunk),), {})


class _Brief(reprlib.Repr):
    """Tells what a value is like, however large it is: the value may be what did not fit."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 100
        self.maxdeque = self.maxarray = 100
        self.maxstring = self.maxother = self.maxlong = 2000

    def repr_bytes(self, value: bytes, level: int) -> str:
        return repr(value if len(value) <= 500 else value[:500]) + "..." * (len(value) > 500)

    repr_bytearray = repr_bytes


def _safe_repr(value: object) -> str:
    try:
        return _Brief().repr(value)
    except Exception:
        return f"<{type(value).__name__} object whose repr() failed>"


class _Failure:
    """What a worker reports of an exception: its pickle, and its text should that fail."""

    def __init__(self, error: BaseException) -> None:
        self.text = "".join(traceback.format_exception(error))
        self.summary = _safe_repr(error)
        error.__traceback__ = None
        try:
            self.pickle: bytes | None = bytes(reduction.ForkingPickler.dumps(error))
            self.reason = ""
        except Exception as reason:
            self.pickle, self.reason = None, _safe_repr(reason)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _rebuild_failure, (self.pickle, self.text, self.summary, self.reason)


def _rebuild_failure(pickle: bytes | None, text: str, summary: str, reason: str) -> BaseException:
    if pickle is not None:
        try:
            error = reduction.ForkingPickler.loads(pickle)
            if isinstance(error, BaseException):
                error.__cause__ = RemoteTraceback(f'\n"""\n{text}"""')
                return error
            reason = f"its class makes a {type(error).__name__} of it, which is no exception"
        except Exception as failed:
            reason = _safe_repr(failed)
    error = MaybeEncodingError(reason, summary)
    error.__cause__ = RemoteTraceback(f'\n"""\n{text}"""')
    return error


class ExceptionWithTraceback:
    """An exception that takes its traceback along, as text, when it is pickled."""

    def __init__(self, exc: BaseException, tb: TracebackType | None) -> None:
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


class _Core(Protocol):
    """The shared parts of a pool: the engine's, or those of a pool of threads."""

    def submit(self, task: Any, open: dict[int, Any], entry: Any) -> None: ...
    def begin(self, worker: int) -> None: ...
    def begun(self, worker: int) -> int: ...
    def take(self, worker: int) -> tuple[int, bool, Any] | None: ...
    def finish(self, worker: int, number: int, result: Any) -> None: ...
    def collect(self, timeout: float | None) -> Sequence[tuple[int | None, bool, Any]]: ...
    def retire(self, worker: int) -> None: ...
    def nudge(self) -> None: ...
    def lost(self, worker: int) -> int | None: ...
    def close(self) -> None: ...


def mapstar(call: tuple[Callable[..., Any], Iterable[Any]]) -> list[Any]:
    """Call the function with each item of a chunk."""
    function, items = call
    return [function(item) for item in items]


def starmapstar(call: tuple[Callable[..., Any], Iterable[Any]]) -> list[Any]:
    """Call the function with each item of a chunk as its arguments."""
    function, items = call
    return [function(*item) for item in items]


def _work(
    core: _Core,
    line: int,
    initializer: Callable[..., object] | None = None,
    initargs: tuple[Any, ...] = (),
    maxtasks: int | None = None,
    failure: Callable[[BaseException], Any] = _Failure,
) -> None:
    """Run tasks until the pool is closed, or `maxtasks` of them."""
    if initializer is not None:
        initializer(*initargs)
    core.begin(line)
    for _ in itertools.count() if maxtasks is None else range(maxtasks):
        taken = core.take(line)
        if taken is None:
            break
        number, rebuilt, task = taken
        del taken
        result: Any
        try:
            if not rebuilt:
                raise task
            function, args, kwargs = task
            result = (True, function(*args, **kwargs))
        except Exception as error:
            result = (False, failure(error))
        # Neither arguments nor results live longer than their task.
        task = function = args = kwargs = None
        try:
            core.finish(line, number, result)
        except MemoryError as error:
            core.finish(line, number, (False, failure(error)))
        except Exception as error:
            core.finish(line, number, (False, failure(MaybeEncodingError(error, result[1]))))
        result = None
    else:
        core.retire(line)


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
class ApplyResult(_original.Root):
    """The result of an asynchronous call, to come."""

    def __init__(
        self,
        pool: "Pool",
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> None:
        self._pool: Pool | None = pool
        self._event = threading.Event()
        self._job = next(job_counter)
        self._cache = pool._cache
        self._callback = callback
        self._error_callback = error_callback
        self._success = False
        self._value: Any = None
        #: What the tasks refer to, and so has to stay.
        self._function: Any = None
        self._cache[self._job] = self

    def ready(self) -> bool:
        """Tell whether the call has ended."""
        return self._event.is_set()

    def successful(self) -> bool:
        """Tell whether the call ended without an exception.

        Raises:
            ValueError: It has not ended.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._success

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the call has ended, for at most `timeout` seconds."""
        self._event.wait(timeout)

    def get(self, timeout: float | None = None) -> Any:
        """Return the result, or raise the call's exception.

        Raises:
            TimeoutError: It has not ended within `timeout` seconds.
        """
        if not self._event.wait(timeout):
            raise TimeoutError(f"the call has not ended within {timeout} seconds")
        if self._success:
            return self._value
        try:
            raise self._value
        finally:
            del self

    def _set(self, i: int, obj: tuple[bool, Any]) -> None:
        """Take what came of task `i`: success and value."""
        self._finish(*obj)

    def _finish(self, success: bool, value: Any) -> None:
        if self._event.is_set():
            return
        self._success, self._value = success, value
        callback: Callable[[Any], object] | None
        callback = self._callback if success else self._error_callback
        # The pool may end when the last reference to it goes: not before all is told.
        pool, self._pool = self._pool, None
        self._function = self._callback = self._error_callback = None
        self._cache.pop(self._job, None)
        try:
            if callback is not None:
                callback(value)
        finally:
            self._event.set()
            del pool

    __class_getitem__: Any = classmethod(GenericAlias)


AsyncResult = ApplyResult


@_original.descend("pool")
class MapResult(ApplyResult):
    """The results of a map, to come: a list in the order of the items."""

    def __init__(
        self,
        pool: "Pool",
        chunksize: int,
        length: int,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> None:
        super().__init__(pool, callback, error_callback)
        self._chunksize = chunksize
        self._values: list[Any] = [None] * length
        self._left = -(-length // chunksize) if length else 0
        self._error: BaseException | None = None
        if not length:
            self._callback = None
            self._finish(True, [])

    def _set(self, i: int, obj: tuple[bool, Any]) -> None:
        success, value = obj
        if success:
            start = i * self._chunksize
            self._values[start : start + self._chunksize] = value
        elif self._error is None:
            self._error = value
        self._left -= 1
        if self._left == 0:
            if self._error is None:
                self._finish(True, self._values)
            else:
                self._finish(False, self._error)


@_original.descend("pool")
class IMapIterator(_original.Root):
    """The results of a lazy map, in the order of the items, as they come."""

    def __init__(self, pool: "Pool") -> None:
        self._pool: Pool | None = pool
        self._cond = threading.Condition(threading.Lock())
        self._job = next(job_counter)
        self._cache = pool._cache
        self._items: collections.deque[tuple[bool, Any]] = collections.deque()
        self._unsorted: dict[int, tuple[bool, Any]] = {}
        self._index = 0
        self._length: int | None = None
        self._ended = False
        self._function: Any = None
        #: How many more tasks may be taken from the input, if that is limited.
        self._room: queue.SimpleQueue[None] | None = None
        self._cache[self._job] = self

    def __iter__(self) -> Self:
        return self

    def next(self, timeout: float | None = None) -> Any:
        """Return the next result, or raise its exception.

        Raises:
            StopIteration: There are no more.
            TimeoutError: It has not come within `timeout` seconds.
        """
        end = None if timeout is None else time.monotonic() + timeout
        with self._cond:
            while not self._items:
                if self._index == self._length:
                    self._pool = None
                    raise StopIteration
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"no result has come within {timeout} seconds")
                self._cond.wait(left)
            success, value = self._items.popleft()
        if self._room is not None:
            self._room.put(None)
        if success:
            return value
        raise value

    __next__ = next

    def _set(self, i: int, obj: tuple[bool, Any]) -> None:
        """Take what came of task `i`: success and value."""
        with self._cond:
            if self._ended:
                return
            self._unsorted[i] = obj
            while self._index in self._unsorted:
                self._items.append(self._unsorted.pop(self._index))
                self._index += 1
            self._settle()

    def _set_length(self, length: int) -> None:
        with self._cond:
            if self._ended:
                return
            self._length = length
            self._settle()

    def _set_last(self, index: int, error: BaseException) -> None:
        """There are `index` results, and after them this error."""
        self._set(index, (False, error))
        self._set_length(index + 1)

    def _settle(self) -> None:
        if self._index == self._length and self._pool is not None:
            # Dropping the pool may end it, and all jobs that are still known with it.
            self._cache.pop(self._job, None)
            self._pool = self._function = None
        self._cond.notify_all()

    def _finish(self, success: bool, value: Any) -> None:
        """End early, with an error."""
        with self._cond:
            self._ended = True
            self._unsorted.clear()
            self._items.append((success, value))
            self._length = self._index = max(self._index, self._length or 0)
            self._settle()
        if self._room is not None:
            self._room.put(None)


@_original.descend("pool")
class IMapUnorderedIterator(IMapIterator):
    """The results of a lazy map as they come, in any order."""

    _last_error: BaseException | None = None

    def _set(self, i: int, obj: tuple[bool, Any]) -> None:
        with self._cond:
            if self._ended:
                return
            self._items.append(obj)
            self._index += 1
            self._settle()

    def _set_last(self, index: int, error: BaseException) -> None:
        with self._cond:
            self._last_error = error
        self._set_length(index)

    def _settle(self) -> None:
        if self._last_error is not None and self._index == self._length:
            # All that came before is there.
            self._items.append((False, self._last_error))
            self._last_error = None
            self._index = self._length = self._index + 1
        super()._settle()


# --- the workers and who looks after them -----------------------------------------------------


class _Crew:
    """What the handler needs: all of a pool but the pool, so that a dropped pool can end."""

    def __init__(
        self,
        core: _Core,
        lines: int,
        start: Callable[[int], Any],
        exporter: "Exporter | None",
    ) -> None:
        self.core = core
        self.exporter = exporter
        self.size = lines
        self.start = start
        self.workers: list[Any] = []
        self.lines: dict[int, Any] = {}
        self.state = INIT
        self.jobs: dict[int, Any] = {}
        #: The task behind each number that was submitted and not yet reported.
        self.open: dict[int, tuple[Any, int]] = {}
        self.pid = os.getpid()
        #: How many workers of each line had come to take tasks when its present one was started.
        self.begun: dict[int, int] = {}
        #: Workers in a row that ended before they came to that, while no other had.
        self.stillborn = 0
        self.broken: WorkerLostError | None = None
        self.repairing = threading.RLock()
        self.feeding = 0
        self.retiring: set[int] = set()
        # Daemonic, and knows the crew only: it neither keeps the program nor the pool alive.
        self.handler = threading.Thread(
            target=self.handle, name="sidestep-pool-handler", daemon=True
        )

    @property
    def has_stopped(self) -> bool:
        """Whether no task will be done any more."""
        return self.state == TERMINATE or self.broken is not None

    def export(self, func: Callable[..., Any]) -> Any:
        """Return what to send for a function, so that the workers have it."""
        return func if self.exporter is None else self.exporter.export(func)

    def send(self, job: Any, index: int, make: _Maker) -> None:
        """Give the workers the task that `make` makes of the job's function.

        Its result, or the error that keeps it here, goes to `job`.
        """
        try:
            try:
                self.submit(job, index, make(job._function))
            except Exception:
                # Is it the function that cannot be pickled? It can go by value.
                if self.exporter is None:
                    raise
                try:
                    other = self.exporter.export_refused(job._function)
                except Exception:
                    other = None
                if other is None:
                    raise
                job._function = other
                self.submit(job, index, make(other))
        except Exception as error:
            job._set(index, (False, error))

    def submit(self, job: Any, index: int, task: tuple[Any, ...]) -> None:
        """Give a task to the workers; its result goes to `job`."""
        self.core.submit(task, self.open, (job, index))
        # Who ended all jobs did so before or after; in neither case may this one be left over.
        if self.state == TERMINATE:
            self.fail(_terminated())
        elif self.broken is not None:
            self.fail(self.broken)

    def deliver(self, number: int | None, rebuilt: bool, result: Any) -> None:
        """Hand a result to its job. Callbacks run here."""
        if number is None:
            # Not a result: the worker with this line is ending, having done its share.
            self.retiring.add(result)
            return
        entry = self.open.pop(number, None)
        if entry is None:
            return
        job, index = entry
        if rebuilt:
            success, value = result
        else:
            success, value = False, result
            if not isinstance(result, MemoryError):
                value = MaybeEncodingError(result, "the result of a task")
        try:
            job._set(index, (success, value))
        except BaseException:
            # Even SystemExit: without the handler all other jobs would wait for ever.
            traceback.print_exc()

    def deliver_all(self, timeout: float) -> bool:
        """Hand out the results that are there, waiting for one; tell whether there were any."""
        try:
            results = self.core.collect(timeout)
        except MemoryError:
            # The result stays where it is until there is memory to take it.
            time.sleep(_LOOK_EVERY)
            return False
        for result in results:
            self.deliver(*result)
        return bool(results)

    def fill(self) -> None:
        """Start workers until there are as many as there should be."""
        with self.repairing:
            for line in range(self.size):
                if self.state != TERMINATE and line not in self.lines:
                    self.begun[line] = self.core.begun(line)
                    fresh = self.start(line)
                    self.lines[line] = fresh
                    self.workers.append(fresh)

    def dismiss_dead(self) -> bool:
        """Forget workers that have ended, and report the tasks that they took along."""
        with self.repairing:
            dead = [(line, w) for line, w in self.lines.items() if w.exitcode is not None]
            if not dead:
                return False
            # What they reported before they died comes first.
            while self.deliver_all(0):
                pass
            for line, gone in dead:
                lost = self.core.lost(line)
                del self.lines[line]
                self.workers.remove(gone)
                gone.join()
                if lost is not None:
                    self.deliver(lost, True, (False, _lost(gone)))
                # Whoever ends workers with SIGTERM is no initializer that fails.
                self.stillborn += gone.exitcode != -signal.SIGTERM
                if self.has_begun(line) or any(map(self.has_begun, self.lines)):
                    self.stillborn = 0
            return True

    def has_begun(self, line: int) -> bool:
        """Tell whether the worker last started for this line has come to take tasks."""
        return self.core.begun(line) != self.begun[line]

    def handle(self) -> None:
        """The handler's life: results, callbacks, workers."""
        looked = time.monotonic()
        while self.state != TERMINATE:
            self.deliver_all(_LOOK_EVERY)
            done = self.state == CLOSE and not self.open and not self.feeding
            if done:
                self.core.close()
                break
            if self.retiring:
                while self.retiring:
                    if gone := self.lines.get(self.retiring.pop()):
                        gone.join(_LOOK_EVERY)
                self.look_after()
            elif time.monotonic() - looked >= _LOOK_EVERY:
                looked = time.monotonic()
                self.look_after()
        while self.state == CLOSE and self.lines:
            for gone in list(self.lines.values()):
                gone.join(_LOOK_EVERY)
            self.dismiss_dead()

    def look_after(self) -> None:
        """Replace the dead."""
        if not self.dismiss_dead() or self.state not in (RUN, CLOSE):
            return
        if self.state == CLOSE and not self.open and not self.feeding:
            return
        if self.stillborn >= _STILLBORN * self.size:
            self.broken = WorkerLostError(
                f"the pool's workers cannot start: {self.stillborn} in a row ended before they "
                "could take a task; their errors are on stderr (is it the initializer?)"
            )
        if self.broken is not None:
            self.fail(self.broken)
            return
        try:
            self.fill()
        except Exception as error:
            # No process could be started: what waits for one would wait for ever if all are gone.
            if not self.lines:
                self.fail(error)

    def fail(self, error: BaseException) -> None:
        """End every job that is still open with an error."""
        self.open.clear()
        for job in list(self.jobs.values()):
            try:
                job._finish(False, error)
            except Exception:
                traceback.print_exc()

    def close(self) -> None:
        """Have the workers end when all is done."""
        self.state = CLOSE
        self.core.nudge()

    def join(self) -> None:
        """Wait for the handler and the workers, which were told to end."""
        self.handler.join()
        for gone in list(self.workers):
            gone.join()

    def terminate(self) -> None:
        """End the workers at once, and all jobs with an error."""
        self.state = TERMINATE
        self.core.close()
        self.core.nudge()
        with self.repairing:
            for gone in self.workers:
                if gone.exitcode is None:
                    gone.terminate()
            for gone in self.workers:
                gone.join()
        self.fail(_terminated())


def _terminated() -> context.ProcessError:
    return context.ProcessError("the pool was terminated before the task was done")


def _lost(gone: Any, what: str = "while it ran this task") -> WorkerLostError:
    code = gone.exitcode
    how = f"killed by signal {-code}" if code < 0 else f"with exit code {code}"
    return WorkerLostError(
        f"worker {gone.name} (process {gone.pid}) ended {what}, {how}", gone.pid, code
    )


def _drop(crew: _Crew) -> None:
    crew.terminate()


# --- the pool ---------------------------------------------------------------------------------


class _Classic:
    """One of the workings that only a `ClassicPool` has, looked up there."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, pool: "Pool | None", owner: type["Pool"]) -> Any:
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

    If a worker dies, the task that it was running ends with `WorkerLostError`; the worker is
    replaced and all other tasks go on. If the parent dies, so do the workers.
    """

    _wrap_exception = True
    _classic = False
    _crew_type = _Crew
    _failure: Callable[[BaseException], Any] = _Failure

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
    ) -> None:
        if self._classic:
            # The class was called by its name, and not by way of super().
            from ._classic_pool import ClassicPool

            assert isinstance(self, ClassicPool)
            ClassicPool.__init__(self, processes, initializer, initargs, maxtasksperchild, context)
            return
        self._state = INIT
        self._ctx = context or self._default_context()
        self._check_arguments(processes, initializer, initargs, maxtasksperchild)
        core = self._make_core()
        arguments = (initializer, self._initargs, maxtasksperchild, self._failure)
        starter = _Starter(type(self), self._ctx, core, arguments)
        self._crew = self._crew_type(core, self._processes, starter, self._make_exporter())
        self._pool, self._cache = self._crew.workers, self._crew.jobs
        try:
            self._repopulate_pool()
        except BaseException:
            self._crew.core.close()
            for started in self._pool:
                if started.exitcode is None:
                    started.terminate()
            for started in self._pool:
                started.join()
            raise
        self._crew.state = RUN
        self._crew.handler.start()
        self._feeder: queue.SimpleQueue[Callable[[], None] | None] | None = None
        self._terminate = util.Finalize(self, _drop, args=(self._crew,), exitpriority=15)
        self._state = RUN

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

    def _default_context(self) -> Any:
        return context._default_context.get_context()

    def _make_core(self) -> _Core:
        return _sidestep.PoolCore(self._processes)

    def _make_exporter(self) -> "Exporter | None":
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
        self, func: Callable[..., Any], args: Iterable[Any] = (), kwds: dict[str, Any] = {}
    ) -> Any:
        """Call `func(*args, **kwds)` in a worker and return its result."""
        return self.apply_async(func, args, kwds).get()

    def map(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None
    ) -> list[Any]:
        """Call `func` with each item, in chunks; return the results in order."""
        return self._map_async(func, iterable, mapstar, chunksize).get()  # type: ignore[no-any-return]

    def starmap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
    ) -> list[Any]:
        """As `map`; each item holds the arguments of a call."""
        return self._map_async(func, iterable, starmapstar, chunksize).get()  # type: ignore[no-any-return]

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: dict[str, Any] = {},
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> ApplyResult:
        """Have `func(*args, **kwds)` called in a worker.

        `callback` gets the result, `error_callback` the exception, in a thread of this process.
        A task that cannot be serialised ends with that error.
        """
        self._check_running()
        result = ApplyResult(self, callback, error_callback)
        self._start(result, func)
        self._crew.send(result, 0, _of_call(tuple(args), dict(kwds)))
        return result

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> MapResult:
        """As `map`, but return at once what the results will come by."""
        return self._map_async(func, iterable, mapstar, chunksize, callback, error_callback)

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> MapResult:
        """As `starmap`, but return at once what the results will come by."""
        return self._map_async(func, iterable, starmapstar, chunksize, callback, error_callback)

    def imap(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
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
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
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
    ) -> MapResult:
        self._check_running()
        items = iterable if hasattr(iterable, "__len__") else list(iterable)
        length = len(items)  # type: ignore[arg-type]
        if chunksize is None:
            chunksize = -(-length // (self._processes * 4))
        if chunksize < 1:
            if length:
                raise ValueError(f"chunksize must be 1 or more, not {chunksize}")
            chunksize = 1
        result = MapResult(self, chunksize, length, callback, error_callback)
        self._start(result, func)
        for index, (_, chunk) in enumerate(self._get_tasks(func, items, chunksize)):
            self._crew.send(result, index, _of_chunk(mapper, chunk))
        return result

    @staticmethod
    def _get_tasks(func: Any, it: Iterable[Any], size: int) -> Iterator[tuple[Any, Any]]:
        """Cut the items into chunks; give each with the function."""
        iterator = iter(it)
        while chunk := tuple(itertools.islice(iterator, size)):
            yield func, chunk

    def _imap(
        self,
        kind: type[IMapIterator],
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
        self._start(results, func)
        makers = (
            _single_tasks(iterable) if chunksize == 1 else self._chunk_tasks(iterable, chunksize)
        )
        if buffersize is None:
            feed = _Feed(self._crew, results, makers)
            self._feed(feed)
        else:
            feed = _BoundedFeed(self._crew, results, makers, buffersize)
            threading.Thread(target=feed, name="sidestep-pool-feeder", daemon=True).start()
        if chunksize == 1:
            return results
        return (item for chunk in results for item in chunk)

    def _chunk_tasks(self, iterable: Iterable[Any], chunksize: int) -> Iterator[_Maker]:
        for _, chunk in self._get_tasks(None, iterable, chunksize):
            yield _of_chunk(mapstar, chunk)

    def _feed(self, feed: "_Feed") -> None:
        """Have a lazy map's items taken and submitted, by a thread: taking one may block."""
        if self._feeder is None:
            self._feeder = queue.SimpleQueue()
            threading.Thread(
                target=_feed_all,
                args=(self._feeder,),
                name="sidestep-pool-feeder",
                daemon=True,
            ).start()
            weakref.finalize(self, self._feeder.put, None)
        self._feeder.put(feed)

    # --- the end

    def close(self) -> None:
        """Take no more tasks; workers end when all are done."""
        if self._state == RUN:
            self._state = CLOSE
            self._crew.close()

    def terminate(self) -> None:
        """End the workers at once; tasks that are not done end with an error."""
        self._state = TERMINATE
        self._terminate()

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

    def __call__(self, line: int) -> Any:
        fresh = self.pool.Process(self.ctx, target=_work, args=(self.core, line, *self.arguments))
        fresh.name = fresh.name.replace("Process", "PoolWorker")
        fresh.daemon = True
        fresh.start()
        return fresh


class _Feed:
    """One lazy map: its input, and where its results go."""

    def __init__(self, crew: _Crew, results: IMapIterator, makers: Iterator[_Maker]) -> None:
        self._crew, self._makers = crew, makers
        self._results: Callable[[], IMapIterator | None] = lambda: results
        crew.feeding += 1

    def __call__(self) -> None:
        """Take the input and submit it, until it ends or nobody wants the results."""
        count = 0
        error: BaseException | None = None
        try:
            while self._may_go_on():
                try:
                    make = next(self._makers, None)
                except BaseException as raised:
                    # What came before is delivered, then this.
                    make, error = None, raised
                results = self._results()
                if results is None:
                    break
                if make is None:
                    if error is None:
                        results._set_length(count)
                    else:
                        results._set_last(count, error)
                    break
                self._crew.send(results, count, make)
                count += 1
                del results, make
        finally:
            self._crew.feeding -= 1

    def _may_go_on(self) -> bool:
        return not self._crew.has_stopped


class _BoundedFeed(_Feed):
    """A lazy map that takes no more of its input than there is room for.

    It does not keep the iterator over the results alive, and ends when that is dropped.
    """

    def __init__(
        self, crew: _Crew, results: IMapIterator, makers: Iterator[_Maker], size: int
    ) -> None:
        super().__init__(crew, results, makers)
        self._results = weakref.ref(results)
        # A queue, and no semaphore: the garbage collector may call this from anywhere.
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(size):
            self._room.put(None)
        results._room = self._room
        results._cache[results._job] = weakref.proxy(results)
        weakref.finalize(results, self._drop, results._cache, results._job).atexit = False

    def _drop(self, cache: dict[int, Any], job: int) -> None:
        """Nobody can ask for the results any more."""
        cache.pop(job, None)
        self._room.put(None)

    def _may_go_on(self) -> bool:
        self._room.get()
        return self._results() is not None and super()._may_go_on()


def _single_tasks(iterable: Iterable[Any]) -> Iterator[_Maker]:
    for item in iterable:
        yield _of_call((item,), {})


def _feed_all(feeds: "queue.SimpleQueue[Callable[[], None] | None]") -> None:
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
        self._results: queue.SimpleQueue[tuple[int | None, bool, Any] | None] = queue.SimpleQueue()
        self._numbers = itertools.count()
        self._begun: collections.Counter[int] = collections.Counter()

    def submit(self, task: Any, open: dict[int, Any], entry: Any) -> None:
        number = next(self._numbers)
        open[number] = entry
        self._tasks.put((number, task))

    def begin(self, worker: int) -> None:
        self._begun[worker] += 1

    def begun(self, worker: int) -> int:
        return self._begun[worker]

    def take(self, worker: int) -> tuple[int, bool, Any] | None:
        taken = self._tasks.get()
        if taken is None:
            # The word for all: pass it on.
            self._tasks.put(None)
            return None
        return taken[0], True, taken[1]

    def finish(self, worker: int, number: int, result: Any) -> None:
        self._results.put((number, True, result))

    def collect(self, timeout: float | None) -> list[tuple[int | None, bool, Any]]:
        found: list[tuple[int | None, bool, Any]] = []
        with contextlib.suppress(queue.Empty):
            result = self._results.get(timeout != 0, timeout)
            while result is not None:
                found.append(result)
                if len(found) == 256:
                    break
                result = self._results.get_nowait()
        return found

    def retire(self, worker: int) -> None:
        self._results.put((None, True, worker))

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
