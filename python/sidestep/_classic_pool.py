"""A pool with the workings of the standard library's, for subclasses that replace some of them.

Libraries override single steps of the original pool: where its queues come from, how its workers
are started. Those steps are here, under the names that such libraries know::

    caller ──_taskqueue──▶ _handle_tasks ──_quick_put──▶ _inqueue ──▶ worker
    caller ◀──_cache[job]._set── _handle_results ◀──_quick_get── _outqueue ◀── worker

and a third thread, `_handle_workers`, replaces workers that have ended. All other pools leave
this module alone, see `pool.Pool.__init_subclass__`.

The queues may be anybody's, so nobody can tell which task a killed worker has taken along: every
call that is open then ends with `WorkerLostError`.
"""

from __future__ import annotations

import os
import queue
import threading
from contextlib import suppress
from functools import partial
from types import MethodType

from . import _by_value, _sidestep, connection, process, util
from .pool import (
    _BATCH,
    CLOSE,
    INIT,
    RUN,
    TERMINATE,
    ExceptionWithTraceback,
    MaybeEncodingError,
    Pool,
    ThreadPool,
    _end_all,
    _feed_one_by_one,
    _helper_reraises_exception,
    _lost,
    _print_error,
    _terminated,
    worker,
)
from .synchronize import AbandonedLockError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from .pool import _Maker

__all__ = ["ClassicPool", "work"]

#: How often somebody who waits for another process looks whether it lives, in seconds.
_LOOK_EVERY = 0.5


# --- what workers do ----------------------------------------------------------------------------


def work(
    inqueue: Any,
    outqueue: Any,
    initializer: Callable[..., object] | None,
    initargs: Iterable[Any],
    maxtasks: int | None,
    wrap_exception: bool,
) -> None:
    """The loop of a worker, see `pool.worker`."""
    if maxtasks is not None and not (isinstance(maxtasks, int) and maxtasks >= 1):
        raise AssertionError(f"maxtasks must be a positive int or None, not {maxtasks!r}")
    for end in (getattr(inqueue, "_writer", None), getattr(outqueue, "_reader", None)):
        # Of a pipe: else its other end would never learn that the pool's process is gone.
        if end is not None:
            end.close()
    if initializer is not None:
        initializer(*initargs)
    done = 0
    while maxtasks is None or done < maxtasks:
        try:
            task = _mend(inqueue, "_rlock", partial(_get, inqueue))
        except (EOFError, OSError):
            util.debug("the queue of tasks has ended, and so does this worker")
            break
        if task is None:
            break
        job, index, function, args, kwds = task
        result: tuple[bool, Any]
        try:
            result = (True, function(*args, **kwds))
        except Exception as error:
            wrapped = wrap_exception and function is not _helper_reraises_exception
            result = (
                False,
                ExceptionWithTraceback(error, error.__traceback__) if wrapped else error,
            )
        try:
            _put(outqueue, (job, index, result))
        except Exception as error:
            util.debug("a result could not be sent: %s", error)
            _put(outqueue, (job, index, (False, MaybeEncodingError(error, result[1]))))
        # Neither arguments nor results live longer than their task.
        task = job = result = function = args = kwds = None  # type: ignore[assignment]
        done += 1
    util.debug("worker ends after %d tasks", done)


def _get(inqueue: Any) -> Any:
    """Take a task; raise EOFError when there is nobody left who could send one."""
    if not isinstance(inqueue, _sidestep.Queue):
        return inqueue.get()
    # A queue of the engine does not end with the process that writes to it.
    parent = process.parent_process()
    while True:
        try:
            return inqueue.get(timeout=_LOOK_EVERY)
        except queue.Empty:
            if parent is not None and not parent.is_alive():
                raise EOFError("the pool's process has ended") from None


def _put(outqueue: Any, obj: Any) -> None:
    _mend(outqueue, "_wlock", partial(outqueue.put, obj))


def _mend(on: Any, lock: str, call: Callable[[], Any]) -> Any:
    """Call; if a lock of the queue was left by a process that was killed, free it and try again.

    Messages are sent and taken as a whole, so what such a lock guards is in order.
    """
    while True:
        try:
            return call()
        except AbandonedLockError:
            getattr(on, lock).recover()


# --- what the other parts of a pool see ---------------------------------------------------------


class _Cache(dict):  # type: ignore[type-arg]
    """The calls that are open. Tells when there are none left."""

    def __init__(self, notifier: _Notifier) -> None:
        super().__init__()
        self.notifier = notifier

    def pop(self, *args: Any) -> Any:
        """Forget a call that has ended."""
        try:
            return super().pop(*args)
        finally:
            if not self:
                self.notifier.put(None)

    def __delitem__(self, job: int) -> None:
        super().__delitem__(job)
        if not self:
            self.notifier.put(None)


class _Notifier:
    """Wakes the thread that looks after the workers, which waits for descriptors."""

    def __init__(self) -> None:
        self._reader, self._writer = connection.Pipe(duplex=False)

    def put(self, _: None) -> None:
        """Wake it."""
        # At the end of a pool there is nobody left to wake.
        with suppress(OSError):
            self._writer.send_bytes(b"")

    def get(self) -> None:
        """Take a call to wake up."""
        self._reader.recv_bytes()

    def empty(self) -> bool:
        """Tell whether there was no call to wake up."""
        return not self._reader.poll()


class _Crew:
    """What the calls of a `Pool` need of it: a way to send tasks, and its state."""

    exporter: _by_value.Exporter | None
    task_timeout = None

    def __init__(self, pool: ClassicPool) -> None:
        self.pid = os.getpid()
        self.jobs, self._tasks = pool._cache, pool._taskqueue
        self.exporter = pool._make_exporter()
        self.threads: list[Any] = []
        self.workers = pool._pool

    @property
    def state(self) -> str:
        """How far the pool has come."""
        return self.threads[0]._state if self.threads else INIT

    @state.setter
    def state(self, state: str) -> None:
        self.threads[0]._state = state
        self.jobs.notifier.put(None)

    @property
    def has_stopped(self) -> bool:
        """Whether no task will be done any more."""
        return self.state == TERMINATE

    def export(self, func: Any) -> Any:
        """Return what to send for a function, so that the workers have it."""
        if self.exporter is None:
            return func
        sent = self.exporter.export(func)
        if sent is func and isinstance(func, partial | MethodType):
            # The queue may pickle in its own way, and late: this is the time to ask.
            sent = self.exporter.export_refused(func) or func
        return sent

    def send(self, job: Any, index: int, make: _Maker) -> None:
        """Have the task that `make` makes of the job's function put into the queue."""
        self._tasks.put(([(job._job, index, *make(job._function))], None))

    def feed(
        self,
        job: Any,
        source: Iterator[Any],
        mapper: Callable[..., Any] | None,
        chunksize: int,
        place: int,
        most: int = _BATCH,
    ) -> tuple[Iterator[Any], int, BaseException | None, bool]:
        """Have at most `most` tasks made of the items of `source` put into the queue."""

        def send(place: int, make: _Maker) -> None:
            self.send(job, place, make)

        place, _, error, goes_on = _feed_one_by_one(
            source, mapper, chunksize, job._inbox, place, most, send
        )
        return source, place, error, goes_on

    def collect_own(self, job: Any) -> None:
        """Leave it to the thread that takes results."""

    def close(self, owner: Any) -> None:
        """Have the workers end when all is done; the open jobs keep the pool that owns them."""
        self.state = CLOSE

    def end_the_rest(self) -> None:
        """Whoever ends the pool ends them all."""

    def join(self) -> None:
        """Wait for the threads and the workers, which were told to end."""
        for thread in self.threads:
            thread.join()
        for gone in list(self.workers):
            gone.join()

    def cancel(self, job: Any) -> None:
        """Nobody knows where its tasks are."""
        raise NotImplementedError(
            "a pool that replaces parts of the original's cannot cancel a call: terminate() it"
        )

    def fail_late(self) -> None:
        """End what was submitted when all calls had been ended before."""
        if self.has_stopped:
            self.fail(_terminated())

    def fail(self, error: BaseException) -> None:
        """End every call that is open with an error."""
        _fail(self.jobs, error)


# --- the pool -----------------------------------------------------------------------------------


class ClassicPool(Pool):
    """A pool whose every step can be overridden. Subclasses of `Pool` that do so become this."""

    _classic = True
    _crew: Any
    _cache: Any

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
        if retries or task_timeout is not None:
            raise ValueError(
                f"{type(self).__name__} replaces parts of the pool, so nobody knows which worker "
                "runs which task: it can have neither retries nor a task_timeout"
            )
        self._pool: list[Any] = []
        self._state = INIT
        self._ctx = context or self._default_context()
        self._setup_queues()
        self._taskqueue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._change_notifier = _Notifier()
        self._cache = _Cache(self._change_notifier)
        self._feeder = None
        self._check_arguments(processes, initializer, initargs, maxtasksperchild)
        self._crew = _Crew(self)
        try:
            self._repopulate_pool()
            self._start_handlers()
        except BaseException:
            self._abandon()
            raise
        self._state = RUN

    def _start_handlers(self) -> None:
        workers = self._workers()
        # Those of this class, whatever a subclass has under their names: so it is in the original.
        self._worker_handler = self._thread(
            ClassicPool._handle_workers,
            (
                self._cache,
                self._taskqueue,
                *workers,
                self._get_sentinels(),
                self._change_notifier,
            ),
        )
        self._task_handler = self._thread(
            ClassicPool._handle_tasks,
            (self._taskqueue, self._quick_put, self._outqueue, self._pool, self._cache),
        )
        self._result_handler = self._thread(
            ClassicPool._handle_results, (self._outqueue, self._quick_get, self._cache)
        )
        self._terminate = util.Finalize(
            self,
            self._terminate_pool,
            args=(
                self._taskqueue,
                self._inqueue,
                self._outqueue,
                self._pool,
                self._change_notifier,
                self._worker_handler,
                self._task_handler,
                self._result_handler,
                self._cache,
            ),
            exitpriority=15,
        )

    def _abandon(self) -> None:
        """End what was started of a pool that could not be started as a whole."""
        for thread in self._crew.threads:
            thread._state = TERMINATE
        self._change_notifier.put(None)
        self._taskqueue.put(None)
        for thread in self._crew.threads:
            # The last one may not have started.
            if thread.is_alive():
                thread.join()
        if isinstance(self, ThreadPool):
            for _ in self._pool:
                self._inqueue.put(None)
        _end(self._pool)

    def _thread(self, target: Callable[..., None], args: tuple[Any, ...]) -> Any:
        # Daemonic, and without a reference to the pool, which could else never be dropped.
        thread: Any = threading.Thread(target=target, args=args, daemon=True)
        thread._state = RUN
        self._crew.threads.append(thread)
        with util._naming_thread_limits(thread):
            thread.start()
        return thread

    def _default_context(self) -> Any:
        from . import context

        return context._default_context.get_context()

    def _make_exporter(self) -> _by_value.Exporter | None:
        if isinstance(self, ThreadPool):
            return None
        forked = self._ctx.get_start_method() == "fork"
        # The queues need not be the engine's: what lies in the arena might not get through.
        return _by_value.Exporter(forked, in_arena=False)

    # --- the steps, under the names that others override

    def _setup_queues(self) -> None:
        """Make the queues of tasks and results."""
        self._inqueue: Any
        self._outqueue: Any
        if isinstance(self, ThreadPool):
            self._inqueue, self._outqueue = queue.SimpleQueue(), queue.SimpleQueue()
            self._quick_put, self._quick_get = self._inqueue.put, self._outqueue.get
        else:
            self._inqueue, self._outqueue = self._ctx.SimpleQueue(), self._ctx.SimpleQueue()
            self._quick_put = self._inqueue._writer.send
            self._quick_get = self._outqueue._reader.recv

    def _get_sentinels(self) -> list[Any]:
        """What the thread that looks after the workers waits for, besides them."""
        return [self._change_notifier._reader]

    @staticmethod
    def _get_worker_sentinels(workers: list[Any]) -> list[int]:
        """The descriptors that tell when workers end. Threads have none."""
        return [w.sentinel for w in workers if hasattr(w, "sentinel")]

    def _repopulate_pool(self) -> None:
        """Start workers until there are as many as there should be."""
        self._repopulate_pool_static(*self._workers())

    def _workers(self) -> tuple[Any, ...]:
        """What making workers takes: the arguments of `_repopulate_pool_static`."""
        return (
            self._ctx,
            self.Process,
            self._processes,
            self._pool,
            self._inqueue,
            self._outqueue,
            self._initializer,
            self._initargs,
            self._maxtasksperchild,
            self._wrap_exception,
        )

    @staticmethod
    def _repopulate_pool_static(
        ctx: Any,
        Process: Callable[..., Any],
        processes: int,
        pool: list[Any],
        inqueue: Any,
        outqueue: Any,
        initializer: Callable[..., object] | None,
        initargs: Iterable[Any],
        maxtasksperchild: int | None,
        wrap_exception: bool,
    ) -> None:
        """The same, without the pool."""
        arguments = (inqueue, outqueue, initializer, initargs, maxtasksperchild, wrap_exception)
        while len(pool) < processes:
            fresh = Process(ctx, target=worker, args=arguments)
            fresh.name = fresh.name.replace("Process", "PoolWorker")
            fresh.daemon = True
            fresh.start()
            pool.append(fresh)

    @staticmethod
    def _join_exited_workers(pool: list[Any]) -> bool:
        """Forget the workers that have ended; tell whether there were any."""
        gone = [w for w in pool if w.exitcode is not None]
        for w in gone:
            w.join()
            pool.remove(w)
        return bool(gone)

    @classmethod
    def _maintain_pool(
        cls,
        ctx: Any,
        Process: Callable[..., Any],
        processes: int,
        pool: list[Any],
        *rest: Any,
    ) -> None:
        """Replace the workers that have ended."""
        if cls._join_exited_workers(pool):
            cls._repopulate_pool_static(ctx, Process, processes, pool, *rest)

    @staticmethod
    def _wait_for_updates(
        sentinels: list[Any], change_notifier: Any, timeout: float | None = None
    ) -> None:
        """Wait until a worker ends or something has changed."""
        connection.wait(sentinels, timeout=timeout)
        while not change_notifier.empty():
            change_notifier.get()

    @classmethod
    def _handle_workers(
        cls,
        cache: Any,
        taskqueue: Any,
        ctx: Any,
        Process: Callable[..., Any],
        processes: int,
        pool: list[Any],
        inqueue: Any,
        outqueue: Any,
        initializer: Callable[..., object] | None,
        initargs: Iterable[Any],
        maxtasksperchild: int | None,
        wrap_exception: bool,
        sentinels: list[Any],
        change_notifier: Any,
    ) -> None:
        """The life of the thread that looks after the workers."""
        thread: Any = threading.current_thread()
        while thread._state == RUN or (cache and thread._state != TERMINATE):
            before = list(pool)
            cls._maintain_pool(
                ctx,
                Process,
                processes,
                pool,
                inqueue,
                outqueue,
                initializer,
                initargs,
                maxtasksperchild,
                wrap_exception,
            )
            # Asked afterwards: a worker may end at any time, also just before it is forgotten.
            lost = next(
                (w for w in before if w not in pool and _is_lost(w, maxtasksperchild)), None
            )
            if lost is not None and thread._state != TERMINATE:
                _fail(cache, _lost(lost, "with a task that nobody knows"))
            waited = [*cls._get_worker_sentinels(pool), *sentinels]
            cls._wait_for_updates(
                waited, change_notifier, None if hasattr(pool[0], "sentinel") else _LOOK_EVERY
            )
        taskqueue.put(None)

    @staticmethod
    def _handle_tasks(
        taskqueue: Any, put: Callable[[Any], object], outqueue: Any, pool: list[Any], cache: Any
    ) -> None:
        """The life of the thread that hands tasks to the workers."""
        thread: Any = threading.current_thread()
        while (entry := taskqueue.get()) is not None and thread._state == RUN:
            sequence, set_length = entry
            count = 0
            for task in sequence:
                if thread._state != RUN:
                    break
                count = task[1] + 1
                try:
                    put(task)
                except Exception as error:
                    with suppress(KeyError):
                        cache[task[0]]._set(task[1], (False, error))
            else:
                if set_length is not None:
                    set_length(count)
            # Nothing of it is kept while this waits for the next.
            entry = sequence = set_length = task = None
        with suppress(OSError):
            _put(outqueue, None)
            for _ in range(len(pool)):
                put(None)

    @staticmethod
    def _handle_results(outqueue: Any, get: Callable[[], Any], cache: Any) -> None:
        """The life of the thread that hands out results. Callbacks run here."""
        thread: Any = threading.current_thread()
        told = False
        while thread._state != TERMINATE and (cache or not told):
            try:
                result = get()
            except (OSError, EOFError):
                break
            if result is None:
                told = True
                continue
            job, index, obj = result
            try:
                if job in cache and thread._state != TERMINATE:
                    cache[job]._set(index, obj)
            except ReferenceError:
                # A lazy map whose results nobody wants any more.
                pass
            except BaseException:
                # Even SystemExit: without this thread all other jobs would wait for ever.
                _print_error()
            result = job = obj = None

    @classmethod
    def _help_stuff_finish(cls, inqueue: Any, task_handler: Any, size: int) -> None:
        """Make room in the queue of tasks, where the thread that fills it may wait for some."""
        while task_handler.is_alive():
            if not _discard_one(inqueue):
                task_handler.join(0.01)
        if not hasattr(inqueue, "_reader"):
            # For threads: nobody else tells them, and they are to do nothing more.
            while _discard_one(inqueue):
                pass
            for _ in range(size):
                inqueue.put(None)

    @classmethod
    def _terminate_pool(
        cls,
        taskqueue: Any,
        inqueue: Any,
        outqueue: Any,
        pool: list[Any],
        change_notifier: Any,
        worker_handler: Any,
        task_handler: Any,
        result_handler: Any,
        cache: Any,
    ) -> None:
        """End workers and threads at once, and all jobs with an error."""
        here = threading.current_thread()
        for handler in (worker_handler, task_handler, result_handler):
            handler._state = TERMINATE
        change_notifier.put(None)
        taskqueue.put(None)
        # First, so that no worker is started behind our back.
        if here is not worker_handler:
            worker_handler.join()
        if here is not task_handler:
            cls._help_stuff_finish(inqueue, task_handler, len(pool))
        _end(pool)
        if here is not result_handler:
            _put(outqueue, None)
            result_handler.join()
        _fail(cache, _terminated())


def _fail(cache: dict[int, Any], error: BaseException) -> None:
    raised: BaseException | None = None
    for job in list(cache.values()):
        try:
            job._finish(False, error)
        except Exception:
            _print_error()
        except BaseException as stop:
            raised = raised or stop
    if raised is not None:
        raise raised


def _is_lost(gone: Any, maxtasks: int | None) -> bool:
    """Tell whether a worker has ended, and not since it had done its share."""
    return gone.exitcode is not None and (gone.exitcode != 0 or maxtasks is None)


def _end(workers: list[Any]) -> None:
    """End processes. Threads end by themselves, and nobody waits for their tasks."""
    _end_all([w for w in workers if hasattr(w, "terminate")])


def _discard_one(inqueue: Any) -> bool:
    """Take a task out of the queue if there is one and no worker is at it."""
    if isinstance(inqueue, queue.SimpleQueue | _sidestep.Queue):
        with suppress(queue.Empty):
            inqueue.get(False)
            return True
        return False
    reader: Any = inqueue._reader
    lock: Any = getattr(inqueue, "_rlock", None)
    try:
        if lock is not None and not lock.acquire(False):
            return False
    except AbandonedLockError:
        lock.recover()
        return False
    try:
        if not reader.poll():
            return False
        reader.recv()
        return True
    finally:
        if lock is not None:
            lock.release()
