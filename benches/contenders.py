"""Who is measured: each by a namespace that looks like a context of `multiprocessing`."""

import importlib
import math
import os
import queue
import threading
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from registry import OURS, STANDARD


class Variant:
    """A context with some things replaced."""

    def __init__(self, base: Any, **changes: Any) -> None:
        self._base = base
        self.__dict__.update(changes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)


def package(name: str) -> Any:
    # The start method is named, so that a change of the default changes no figure.
    return Variant(importlib.import_module(name).get_context("fork"), package=name)


def threads(queue_type: Any) -> Any:
    """Threads of one process, as far as they have the same names."""
    return SimpleNamespace(
        Process=threading.Thread,
        Queue=queue_type,
        Lock=threading.Lock,
        RLock=threading.RLock,
        Barrier=threading.Barrier,
        Event=threading.Event,
        Condition=threading.Condition,
    )


class SingleCalls:
    """A queue of ours without its calls for many items."""

    def __init__(self, inner: Any) -> None:
        self.put, self.get = inner.put, inner.get


def single_calls() -> Any:
    ours = package(OURS)
    return Variant(ours, Queue=lambda: SingleCalls(ours.Queue()))


# --- programs without a package -------------------------------------------------------------


class InPlace:
    """A pool that is this process."""

    def __init__(self, size: int) -> None:
        pass

    def __enter__(self) -> "InPlace":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, function: Callable[[Any], Any], items: Any, chunksize: int = 1) -> Any:
        return [function(item) for item in items]


class BareProcesses(InPlace):
    """Forks that take the numbers of their items out of a kernel pipe, and return nothing."""

    def __init__(self, size: int) -> None:
        self.size = size

    def map(self, function: Callable[[Any], Any], items: Any, chunksize: int = 1) -> None:
        reader, writer = os.pipe()
        os.write(writer, bytes(range(len(items))))
        os.close(writer)
        children = []
        for _ in range(self.size):
            pid = os.fork()
            if pid == 0:
                while taken := os.read(reader, 1):
                    function(items[taken[0]])
                os._exit(0)
            children.append(pid)
        os.close(reader)
        for pid in children:
            os.waitpid(pid, 0)


# --- other packages -------------------------------------------------------------------------


def faster_fifo() -> Any:
    module = importlib.import_module("faster_fifo")

    class Queue(module.Queue):  # type: ignore[misc, name-defined]
        """Its room is fixed when it is made; the batch has the name of its limit."""

        def __init__(self) -> None:
            super().__init__(64 << 20)

        def get_many(self, limit: int) -> Any:
            return super().get_many(max_messages_to_get=limit)

    return Variant(package(STANDARD), Queue=Queue)


class Executor:
    """An executor in the clothes of a pool."""

    def __init__(self, kind: Callable[[int], Any], size: int) -> None:
        self.inner, self.size = kind(size), size

    def __enter__(self) -> "Executor":
        return self

    def __exit__(self, *_: object) -> None:
        self.inner.shutdown()

    def map(
        self, function: Callable[[Any], Any], items: Any, chunksize: int | None = None
    ) -> list[Any]:
        """By default as many chunks as a pool makes, which is to the executor's advantage."""
        chunksize = chunksize or math.ceil(len(items) / (4 * self.size))
        return list(self.inner.map(function, items, chunksize=chunksize))


def executors(module: str) -> Any:
    kind = importlib.import_module(module).ProcessPoolExecutor
    return SimpleNamespace(Pool=lambda size: Executor(kind, size))


def joblib() -> Any:
    module = importlib.import_module("joblib")

    class Pool:
        def __init__(self, size: int) -> None:
            self.parallel = module.Parallel(n_jobs=size)

        def __enter__(self) -> "Pool":
            self.parallel.__enter__()
            return self

        def __exit__(self, *error: object) -> None:
            self.parallel.__exit__(*error)

        def map(
            self, function: Callable[[Any], Any], items: Iterable[Any], chunksize: int | None = None
        ) -> Any:
            self.parallel.batch_size = chunksize or "auto"
            return self.parallel(module.delayed(function)(item) for item in items)

    return SimpleNamespace(Pool=Pool)


def mpire() -> Any:
    module = importlib.import_module("mpire")

    class Pool(module.WorkerPool):  # type: ignore[misc, name-defined]
        def map(
            self, function: Callable[[Any], Any], items: list[Any], chunksize: int | None = None
        ) -> Any:
            # In tuples, since it takes arrays apart into arguments.
            return super().map(
                function,
                [(item,) for item in items],
                chunk_size=chunksize,
                concatenate_numpy_output=False,
            )

    return SimpleNamespace(Pool=Pool)


CONTENDERS: dict[str, Callable[[], Any]] = {
    STANDARD: lambda: package(STANDARD),
    OURS: lambda: package(OURS),
    "queue.Queue": lambda: threads(queue.Queue),
    "queue.SimpleQueue": lambda: threads(queue.SimpleQueue),
    "threading": lambda: threads(queue.Queue),
    "single calls": single_calls,
    "small parent": lambda: Variant(package(OURS), ballast=0),
    "all of its parts": lambda: Variant(package(STANDARD), with_parts=True),
    "one process": lambda: SimpleNamespace(Pool=InPlace),
    "two bare processes": lambda: SimpleNamespace(Pool=BareProcesses),
    "bare interpreter": lambda: SimpleNamespace(package=""),
    "faster-fifo": faster_fifo,
    "concurrent.futures": lambda: executors("concurrent.futures"),
    "loky": lambda: executors("loky"),
    "joblib": joblib,
    "mpire": mpire,
}
