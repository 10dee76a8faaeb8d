"""Pools as libraries make them. A module of its own, so that workers find the classes."""

import copyreg
import io
import pickle
from collections.abc import Callable
from typing import Any

import pool_tasks as tasks

from sidestep import context, pool


class Marked:
    """A number that arrives doubled, by the reducer of `MarkingQueue`."""

    def __init__(self, number: int) -> None:
        self.number = number


def _reduce_marked(marked: Marked) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return int, (2 * marked.number,)


class MarkingQueue:
    """A queue on a pipe with two locks, and reducers of its own."""

    def __init__(self, ctx: Any) -> None:
        self._reader, self._writer = ctx.Pipe(duplex=False)
        self._rlock, self._wlock = ctx.Lock(), ctx.Lock()

    def __getstate__(self) -> Any:
        context.assert_spawning(self)
        return self._reader, self._writer, self._rlock, self._wlock

    def __setstate__(self, state: Any) -> None:
        self._reader, self._writer, self._rlock, self._wlock = state

    def get(self) -> Any:
        with self._rlock:
            return self._reader.recv()

    def send(self, obj: Any) -> None:
        buffer = io.BytesIO()
        pickler = pickle.Pickler(buffer)
        pickler.dispatch_table = {**copyreg.dispatch_table, Marked: _reduce_marked}
        pickler.dump(obj)
        self._writer.send_bytes(buffer.getvalue())

    def put(self, obj: Any) -> None:
        with self._wlock:
            self.send(obj)


class QueuesMixin:
    _ctx: Any

    def _setup_queues(self) -> None:
        self._inqueue = MarkingQueue(self._ctx)
        self._outqueue = MarkingQueue(self._ctx)
        self._quick_put = self._inqueue.send
        self._quick_get = self._outqueue._reader.recv


class OwnQueues(pool.Pool):
    """Brings its own queues, as joblib does."""

    def _setup_queues(self) -> None:
        QueuesMixin._setup_queues(self)  # type: ignore[arg-type]


class Named(OwnQueues):
    """Calls the base class by its name."""


def _work(*args: Any) -> None:
    tasks.remember("by the worker's function")
    pool.worker(*args)


class OwnWorkers(pool.Pool):
    """Starts its own workers, as torch does."""

    def _setup_queues(self) -> None:
        self._inqueue = self._ctx.SimpleQueue()
        self._outqueue = self._ctx.SimpleQueue()
        self._quick_put = self._inqueue._writer.send
        self._quick_get = self._outqueue._reader.recv

    def _repopulate_pool(self) -> None:
        for _ in range(self._processes - len(self._pool)):
            args = (
                self._inqueue,
                self._outqueue,
                self._initializer,
                self._initargs,
                self._maxtasksperchild,
                self._wrap_exception,
            )
            fresh = self.Process(self._ctx, target=_work, args=args)
            fresh.name = fresh.name.replace("Process", "PoolWorker")
            fresh.daemon = True
            fresh.start()
            self._pool.append(fresh)


class OwnThreads(pool.ThreadPool):
    """A pool of threads with a part replaced."""

    def _setup_queues(self) -> None:
        super()._setup_queues()


class Plain(pool.Pool):
    """Replaces nothing that matters."""

    def map(self, *args: Any, **kwargs: Any) -> Any:
        return super().map(*args, **kwargs)
