"""The interface of this package with threads instead of processes.

For code that is written for processes and waits for input and output most of the time, and for
tests. Everything lives in one process: objects pass by reference, locks are `threading`'s, and
a "process" ends when its function returns; it cannot be killed.
"""

from __future__ import annotations

import array
import builtins
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from queue import Queue
from threading import Barrier, BoundedSemaphore, Condition, Event, Lock, RLock, Semaphore
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .. import util
from .connection import Pipe

if TYPE_CHECKING:
    from ..pool import ThreadPool

__all__ = [
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "Event",
    "JoinableQueue",
    "Lock",
    "Manager",
    "Pipe",
    "Pool",
    "Process",
    "Queue",
    "RLock",
    "Semaphore",
    "active_children",
    "current_process",
    "freeze_support",
]

JoinableQueue = Queue
current_process = threading.current_thread

# A manager has these as methods, and `Manager()` below is this module.
dict = builtins.dict
list = builtins.list


class DummyProcess(threading.Thread):
    """A thread that looks like a `Process`: it has a parent, and an exit code when it ends."""

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] = {},
        *,
        daemon: bool | None = None,
    ) -> None:
        super().__init__(group, target, name, args, kwargs, daemon=daemon)
        self._pid: int | None = None
        self._children: weakref.WeakKeyDictionary[DummyProcess, None]
        self._children = weakref.WeakKeyDictionary()
        self._start_called = False
        self._parent = current_process()

    def start(self) -> None:
        """Start the thread. Only the thread that made the object may do so.

        Raises:
            RuntimeError: Another thread has made it, or it was started before.
        """
        if self._parent is not current_process():
            raise RuntimeError(
                f"{self.name} was made by {self._parent!r} and can only be started there, "
                f"not in {current_process()!r}"
            )
        with util._naming_thread_limits(self):
            super().start()
        self._start_called = True
        _children_of(self._parent)[self] = None

    @property
    def exitcode(self) -> int | None:
        """0 once the thread has ended, however it did; None before."""
        return 0 if self._start_called and not self.is_alive() else None


Process = DummyProcess


def _children_of(thread: threading.Thread) -> weakref.WeakKeyDictionary[DummyProcess, None]:
    # Threads that did not start here (the main thread among them) get their table when needed.
    children: weakref.WeakKeyDictionary[DummyProcess, None] | None
    children = getattr(thread, "_children", None)
    if children is None:
        children = weakref.WeakKeyDictionary()
        thread._children = children  # type: ignore[attr-defined]
    return children


def active_children() -> builtins.list[DummyProcess]:
    """The living `Process` threads that the calling thread has started."""
    children = _children_of(current_process())
    for child in tuple(children):
        if not child.is_alive():
            children.pop(child, None)
    return [*children]


def freeze_support() -> None:
    """Do nothing: threads need no help in a frozen program."""


class Namespace:
    """An object whose attributes can be set freely."""

    def __init__(self, /, **attributes: Any) -> None:
        self.__dict__.update(attributes)

    def __repr__(self) -> str:
        shown = sorted(
            f"{name}={value!r}" for name, value in self.__dict__.items() if not name.startswith("_")
        )
        return f"{type(self).__name__}({', '.join(shown)})"


def Array(typecode: str, sequence: Iterable[Any], lock: bool = True) -> array.array[Any]:
    """An `array.array`; it has no lock of its own, whatever `lock` says."""
    return array.array(typecode, sequence)


class Value:
    """An object with a `value`; it has no lock of its own, whatever `lock` says."""

    def __init__(self, typecode: Any, value: Any, lock: bool = True) -> None:
        self._typecode = typecode
        self.value = value

    def __repr__(self) -> str:
        return f"<{type(self).__name__}({self._typecode!r}, {self.value!r})>"


def Manager() -> ModuleType:
    """This module, which has what a manager has: threads can share any object directly."""
    return sys.modules[__name__]


def shutdown() -> None:
    """Do nothing: there is no server to end. A manager has this method."""


def Pool(
    processes: int | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: Iterable[Any] = (),
) -> ThreadPool:
    """A pool of threads."""
    from ..pool import ThreadPool

    return ThreadPool(processes, initializer, initargs)
