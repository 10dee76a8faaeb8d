"""What the children of test_identities.py run."""

import logging
import multiprocessing
import os
import sys
from typing import Any

import sidestep


def names(queue: Any, go: Any) -> None:
    """Say who this process is, as everybody would who asks, once it may `go`."""
    go.wait()
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "", (), None)
    parent: Any = multiprocessing.parent_process()
    ours: Any = sidestep
    queue.put(
        (
            record.processName,
            multiprocessing.current_process().name,
            sidestep.current_process().name,
            multiprocessing.current_process() is ours.current_process(),
            parent is sidestep.parent_process() and parent is not None and parent.pid,
            multiprocessing.active_children() == ours.active_children() == [],
        )
    )


def add(lock: Any, value: Any, times: int) -> None:
    """Count up under a lock."""
    for _ in range(times):
        with lock:
            value.value += 1


def finalize(directory: str) -> None:
    """Register with both packages what is to be done at the end."""
    from multiprocessing.util import Finalize as Theirs

    from sidestep.util import Finalize as Ours

    for cls, name in ((Theirs, "theirs"), (Ours, "ours")):
        cls(None, open, args=(os.path.join(directory, name), "w"), exitpriority=1)


def square(number: int) -> tuple[int, str]:
    """A task that tells where it ran."""
    return number * number, multiprocessing.current_process().name


def say(queue: Any) -> None:
    """Say what a tool has put into the preparation data and around the process."""
    queue.put((sys.__dict__.get("_stowaway"), sys.__dict__.get("_wrapped", 0)))


class Stowaway:
    """Preparation data of a tool's own: works when the child unpickles it."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        sys.__dict__["_stowaway"] = state["note"]
        wrap()


def wrap() -> None:
    """Wrap the life of the original's children, as tools that measure coverage do."""
    from multiprocessing.process import BaseProcess

    inner: Any = BaseProcess._bootstrap  # type: ignore[attr-defined]

    def outer(self: Any, *args: Any, **kwargs: Any) -> Any:
        sys.__dict__["_wrapped"] = sys.__dict__.get("_wrapped", 0) + 1
        return inner(self, *args, **kwargs)

    BaseProcess._bootstrap = outer  # type: ignore[attr-defined]


def load(order: Any, results: Any, done: Any) -> None:
    """Make batches as a data loader's worker does, until there is an order of None."""
    while (task := order.get()) is not None:
        if not done.is_set():
            index, numbers = task
            results.put((index, [number * number for number in numbers]))
    results.cancel_join_thread()
    results.close()
