"""Contexts: the package's whole interface, bound to a way to start processes.

Each factory imports its module when it is first called, so that importing the package stays
quick and creates nothing.
"""

from __future__ import annotations

import _thread
import os
import sys

from . import _original, process
from . import reduction as reduction

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ctypes
    import logging
    from collections.abc import Callable, Iterable, Sequence
    from types import ModuleType
    from typing import Any, Literal, TypeVar, overload

    from .connection import Connection
    from .frozen import Frozen
    from .log_relay import LogRelay
    from .managers import SyncManager
    from .pool import Pool as PoolType
    from .popen_fork import Popen as PopenType
    from .queues import JoinableQueue as JoinableQueueType
    from .queues import Queue as QueueType
    from .queues import SimpleQueue as SimpleQueueType
    from .sharedctypes import (
        LockLike,
        Synchronized,
        SynchronizedArray,
        SynchronizedString,
    )
    from .synchronize import Barrier as BarrierType
    from .synchronize import BoundedSemaphore as BoundedSemaphoreType
    from .synchronize import Condition as ConditionType
    from .synchronize import Event as EventType
    from .synchronize import Lock as LockType
    from .synchronize import RLock as RLockType
    from .synchronize import Semaphore as SemaphoreType

    _T = TypeVar("_T")
    _C = TypeVar("_C")
    _D = TypeVar("_D", bound=ctypes._SimpleCData[Any] | ctypes.Structure | ctypes.Union)

__all__ = ()


@_original.same("context")
class ProcessError(Exception):
    """Base of the package's own exceptions."""


@_original.same("context")
class BufferTooShort(ProcessError):
    """A message did not fit the buffer given; it is the exception's first argument."""


@_original.same("context")
class TimeoutError(ProcessError):
    """A wait with a time limit came to its limit."""


@_original.same("context")
class AuthenticationError(ProcessError):
    """The other side of a connection does not know the key."""


@_original.descend("context")
class BaseContext(_original.Root):
    """The interface that all contexts share."""

    _name: str
    Process: type[process.BaseProcess]

    ProcessError = ProcessError
    BufferTooShort = BufferTooShort
    TimeoutError = TimeoutError
    AuthenticationError = AuthenticationError

    current_process = staticmethod(process.current_process)
    parent_process = staticmethod(process.parent_process)
    active_children = staticmethod(process.active_children)

    def cpu_count(self) -> int:
        """Return how many processors the machine has; not all may be ours to use."""
        count = os.cpu_count()
        if count is None:
            raise NotImplementedError("the system does not say how many processors it has")
        return count

    # --- shared objects -------------------------------------------------------------------

    def Manager(self) -> SyncManager:
        """Start a server process for shared objects and return its manager."""
        from .managers import SyncManager

        manager = SyncManager(ctx=self.get_context())
        manager.start()
        return manager

    def Pipe(self, duplex: bool = True) -> tuple[Connection, Connection]:
        """Return the two ends of a pipe; with `duplex` false, the first only receives."""
        from .connection import Pipe

        return Pipe(duplex)

    def Lock(self) -> LockType:
        """Return a lock that any process may release."""
        from .synchronize import Lock

        return Lock(ctx=self.get_context())

    def RLock(self) -> RLockType:
        """Return a lock that its owner may take again."""
        from .synchronize import RLock

        return RLock(ctx=self.get_context())

    def Condition(self, lock: LockType | RLockType | None = None) -> ConditionType:
        """Return a condition on `lock`, or on a new RLock."""
        from .synchronize import Condition

        return Condition(lock, ctx=self.get_context())

    def Semaphore(self, value: int = 1) -> SemaphoreType:
        """Return a semaphore with `value` permits."""
        from .synchronize import Semaphore

        return Semaphore(value, ctx=self.get_context())

    def BoundedSemaphore(self, value: int = 1) -> BoundedSemaphoreType:
        """Return a semaphore that refuses more releases than acquires."""
        from .synchronize import BoundedSemaphore

        return BoundedSemaphore(value, ctx=self.get_context())

    def Event(self) -> EventType:
        """Return a flag that processes can wait for."""
        from .synchronize import Event

        return Event(ctx=self.get_context())

    def Barrier(
        self,
        parties: int,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
    ) -> BarrierType:
        """Return a barrier that opens when `parties` processes or threads have come."""
        from .synchronize import Barrier

        return Barrier(parties, action, timeout, ctx=self.get_context())

    def Queue(self, maxsize: int = 0) -> QueueType[Any]:
        """Return a queue; `maxsize` 0 means no limit of items."""
        from .queues import Queue

        return Queue(maxsize, ctx=self.get_context())

    def JoinableQueue(self, maxsize: int = 0) -> JoinableQueueType[Any]:
        """Return a queue that can be joined until all its items are done."""
        from .queues import JoinableQueue

        return JoinableQueue(maxsize, ctx=self.get_context())

    def SimpleQueue(self) -> SimpleQueueType[Any]:
        """Return a queue with few methods."""
        from .queues import SimpleQueue

        return SimpleQueue(ctx=self.get_context())

    def Pool(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        *,
        retries: int = 0,
        task_timeout: float | None = None,
    ) -> PoolType:
        """Return a pool of worker processes.

        The arguments are explained with `pool.Pool`.
        """
        from .pool import Pool

        return Pool(
            processes,
            initializer,
            initargs,
            maxtasksperchild,
            context=self.get_context(),
            retries=retries,
            task_timeout=task_timeout,
        )

    if TYPE_CHECKING:

        @overload
        def RawValue(self, typecode_or_type: type[_C], *args: Any) -> _C: ...
        @overload
        def RawValue(self, typecode_or_type: str, *args: Any) -> Any: ...

    def RawValue(self, typecode_or_type: Any, *args: Any) -> Any:
        """Return a shared ctypes object without a lock."""
        from .sharedctypes import RawValue

        return RawValue(typecode_or_type, *args)

    if TYPE_CHECKING:

        @overload
        def RawArray(
            self, typecode_or_type: type[_D], size_or_initializer: int | Sequence[Any]
        ) -> ctypes.Array[_D]: ...
        @overload
        def RawArray(
            self, typecode_or_type: str, size_or_initializer: int | Sequence[Any]
        ) -> Any: ...

    def RawArray(self, typecode_or_type: Any, size_or_initializer: Any) -> Any:
        """Return a shared ctypes array without a lock."""
        from .sharedctypes import RawArray

        return RawArray(typecode_or_type, size_or_initializer)

    if TYPE_CHECKING:

        @overload
        def Value(
            self,
            typecode_or_type: type[ctypes._SimpleCData[_T]],
            *args: Any,
            lock: Literal[True] | LockLike | None = True,
        ) -> Synchronized[_T]: ...
        @overload
        def Value(self, typecode_or_type: type[_C], *args: Any, lock: Literal[False]) -> _C: ...
        @overload
        def Value(
            self, typecode_or_type: str, *args: Any, lock: Literal[True] | LockLike | None = True
        ) -> Synchronized[Any]: ...
        @overload
        def Value(
            self, typecode_or_type: str | type, *args: Any, lock: bool | LockLike | None = True
        ) -> Any: ...

    def Value(self, typecode_or_type: Any, *args: Any, lock: Any = True) -> Any:
        """Return a shared ctypes object, with a lock around it unless `lock` is false."""
        from .sharedctypes import Value

        return Value(typecode_or_type, *args, lock=lock, ctx=self.get_context())

    if TYPE_CHECKING:

        @overload
        def Array(
            self,
            typecode_or_type: type[ctypes.c_char],
            size_or_initializer: int | Sequence[Any],
            *,
            lock: Literal[True] | LockLike | None = True,
        ) -> SynchronizedString: ...
        @overload
        def Array(
            self,
            typecode_or_type: type[ctypes._SimpleCData[_T]],
            size_or_initializer: int | Sequence[Any],
            *,
            lock: Literal[True] | LockLike | None = True,
        ) -> SynchronizedArray[_T]: ...
        @overload
        def Array(
            self,
            typecode_or_type: type[_D],
            size_or_initializer: int | Sequence[Any],
            *,
            lock: Literal[False],
        ) -> ctypes.Array[_D]: ...
        @overload
        def Array(
            self,
            typecode_or_type: str,
            size_or_initializer: int | Sequence[Any],
            *,
            lock: Literal[True] | LockLike | None = True,
        ) -> SynchronizedArray[Any]: ...
        @overload
        def Array(
            self,
            typecode_or_type: str | type,
            size_or_initializer: int | Sequence[Any],
            *,
            lock: bool | LockLike | None = True,
        ) -> Any: ...

    def Array(self, typecode_or_type: Any, size_or_initializer: Any, *, lock: Any = True) -> Any:
        """Return a shared ctypes array, with a lock around it unless `lock` is false."""
        from .sharedctypes import Array

        return Array(typecode_or_type, size_or_initializer, lock=lock, ctx=self.get_context())

    def freeze(self, obj: _T) -> Frozen[_T]:
        """Put an object into shared memory, for many processes to read without a copy each."""
        from .frozen import freeze

        return freeze(obj)

    # --- settings -------------------------------------------------------------------------

    def freeze_support(self) -> None:
        """In a child of a frozen executable, do the child's work and exit; else do nothing."""
        if getattr(sys, "frozen", False):
            from .spawn import freeze_support

            freeze_support()

    def get_logger(self) -> Any:
        """Return the package's logger, which is made at the first call."""
        from .util import get_logger

        return get_logger()

    def log_to_stderr(self, level: int | str | None = None) -> Any:
        """Show the package's log on stderr, from `level` up, and return the logger."""
        from .util import log_to_stderr

        return log_to_stderr(level)

    def relay_logging(
        self, logger: logging.Logger | str | None = None, level: int | str | None = None
    ) -> LogRelay:
        """Have the log records of children handled by the handlers of this process."""
        from .log_relay import relay_logging

        return relay_logging(logger, level)

    def allow_connection_pickling(self) -> None:
        """Make connections and sockets picklable for other processes."""
        # Importing the module registers the reducers.
        from . import connection  # noqa: F401

    def set_executable(self, executable: str | bytes | os.PathLike[Any] | None) -> None:
        """Set the interpreter that children of spawn and forkserver run."""
        from .spawn import set_executable

        set_executable(executable)

    def set_forkserver_preload(self, module_names: Sequence[str]) -> None:
        """Set which modules the fork server imports before its first child.

        "__main__" stands for the main module. A module that cannot be imported is left out.
        """
        from .forkserver import set_forkserver_preload

        set_forkserver_preload(module_names)

    def get_context(self, method: str | None = None) -> BaseContext:
        """Return the context of a start method; without one, this context itself.

        Raises:
            ValueError: There is no such start method.
        """
        if method is None:
            return self
        try:
            found = _concrete_contexts[method]
        except KeyError:
            raise ValueError(
                f"cannot find context for {method!r}; there are {', '.join(_concrete_contexts)}"
            ) from None
        found._check_available()
        return found

    def get_start_method(self, allow_none: bool = False) -> str | None:
        """Return the name of the start method."""
        return self._name

    def set_start_method(self, method: str | None, force: bool = False) -> None:
        """Refuse: only the default context has a start method to set."""
        raise ValueError("cannot set start method of concrete context")

    @property
    def reducer(self) -> ModuleType:
        """The module (or object) that turns process objects into bytes."""
        return reduction

    @reducer.setter
    def reducer(self, replacement: ModuleType) -> None:
        globals()["reduction"] = replacement

    def _check_available(self) -> None:
        pass


# --- the default context ------------------------------------------------------------------


@_original.descend("context")
class Process(process.BaseProcess):
    """A process of the default context: its start method is looked up at `start`."""

    _start_method = None

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> PopenType:
        concrete: Any = _default_context.get_context().Process
        popen: PopenType = concrete._Popen(process_obj)
        return popen

    @staticmethod
    def _after_fork() -> None:
        _default_context.get_context().Process._after_fork()


@_original.descend("context")
class DefaultContext(BaseContext):
    """The context behind the package's own names; its start method can be set once."""

    Process = Process

    def __init__(self, context: BaseContext) -> None:
        self._default_context = context
        self._actual_context: BaseContext | None = None

    if TYPE_CHECKING:

        @overload
        def get_context(self, method: Literal["fork"]) -> ForkContext: ...
        @overload
        def get_context(self, method: Literal["spawn"]) -> SpawnContext: ...
        @overload
        def get_context(self, method: Literal["forkserver"]) -> ForkServerContext: ...
        @overload
        def get_context(self, method: str | None = None) -> BaseContext: ...

    def get_context(self, method: str | None = None) -> BaseContext:
        """Return the context of a start method; without one, the one in force.

        Asking fixes it: `set_start_method` then needs `force`.
        """
        if method is not None:
            return super().get_context(method)
        if self._actual_context is None:
            self._actual_context = self._default_context
        return self._actual_context

    def set_start_method(self, method: str | None, force: bool = False) -> None:
        """Set the start method for this program.

        Raises:
            RuntimeError: It was set or used before, and `force` is false.
            ValueError: There is no such start method.
        """
        if self._actual_context is not None and not force:
            raise RuntimeError("context has already been set")
        if method is None and force:
            self._actual_context = None
        else:
            self._actual_context = self.get_context(method)

    if TYPE_CHECKING:

        @overload
        def get_start_method(self, allow_none: Literal[False] = False) -> str: ...
        @overload
        def get_start_method(self, allow_none: bool = False) -> str | None: ...

    def get_start_method(self, allow_none: bool = False) -> str | None:
        """Return the start method's name; None if `allow_none` and none was set or used."""
        if self._actual_context is None and allow_none:
            return None
        return self.get_context().get_start_method()

    def get_all_start_methods(self) -> list[str]:
        """Return the names of the start methods, the default first."""
        first = self._default_context._name
        return [first, *(name for name in ("fork", "spawn", "forkserver") if name != first)]


def _popens(name: str) -> Any:
    """The module of a way to start processes; looked up without the machinery of an import."""
    found = _known_popens.get(name)
    if found is None:
        # If another thread is just importing it, this waits for that.
        __import__(f"{__package__}.{name}")
        found = _known_popens[name] = sys.modules[f"{__package__}.{name}"]
    return found


_known_popens: dict[str, Any] = {}


# --- one context for each start method ----------------------------------------------------


@_original.descend("context")
class ForkProcess(process.BaseProcess):
    """A process that starts as a copy of its parent."""

    _start_method = "fork"

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> PopenType:
        popen: PopenType = _popens("popen_fork").Popen(process_obj)
        return popen


@_original.descend("context")
class SpawnProcess(process.BaseProcess):
    """A process that starts as a fresh interpreter."""

    _start_method = "spawn"

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> PopenType:
        popen: PopenType = _popens("popen_spawn_posix").Popen(process_obj)
        return popen

    @staticmethod
    def _after_fork() -> None:
        # A fresh interpreter has inherited nothing that needs a reset.
        pass


@_original.descend("context")
class ForkServerProcess(process.BaseProcess):
    """A process that starts as a copy of a small server."""

    _start_method = "forkserver"

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> PopenType:
        popen: PopenType = _popens("popen_forkserver").Popen(process_obj)
        return popen


@_original.descend("context")
class ForkContext(BaseContext):
    """Children are copies of their parent."""

    _name = "fork"
    Process = ForkProcess


@_original.descend("context")
class SpawnContext(BaseContext):
    """Children are fresh interpreters."""

    _name = "spawn"
    Process = SpawnProcess


@_original.descend("context")
class ForkServerContext(BaseContext):
    """Children are copies of a server that has done little else."""

    _name = "forkserver"
    Process = ForkServerProcess


# Other packages add contexts of their own.
_concrete_contexts: dict[str, BaseContext] = {
    "fork": ForkContext(),
    "spawn": SpawnContext(),
    "forkserver": ForkServerContext(),
}


def _default_start_method() -> str:
    """What the user asks for, or else the running interpreter's own default."""
    asked = os.environ.get("SIDESTEP_START_METHOD")
    if asked:
        if asked not in _concrete_contexts:
            raise ValueError(
                f"the environment variable SIDESTEP_START_METHOD says {asked!r}, which is none of "
                f"{', '.join(_concrete_contexts)}"
            )
        return asked
    # Forking became opt-in with Python 3.14.
    return "fork" if sys.version_info < (3, 14) else "forkserver"


_default_context = DefaultContext(_concrete_contexts[_default_start_method()])


def _force_start_method(method: str) -> None:
    concrete = _concrete_contexts.get(method)
    if concrete is None:
        # It says so.
        _default_context.set_start_method(method, force=True)
    _default_context._actual_context = concrete


# --- whether this thread is pickling a process for its start -------------------------------

# The same for both packages: a lock or queue of the one goes to children of the other.
_tls: Any = getattr(_original.module("context"), "_tls", None) or _thread._local()
_original.when_imported("context", lambda theirs: _original.put(theirs, "_tls", _tls))


def get_spawning_popen() -> PopenType | None:
    """Return the Popen that this thread is pickling a process object for, or None."""
    popen: PopenType | None = getattr(_tls, "spawning_popen", None)
    return popen


def set_spawning_popen(popen: PopenType | None) -> None:
    """Say for which Popen this thread pickles from now on; None ends it."""
    _tls.spawning_popen = popen


def assert_spawning(obj: object) -> None:
    """Raise RuntimeError unless this thread is pickling a process object for its start."""
    if get_spawning_popen() is None:
        raise RuntimeError(
            f"{type(obj).__name__} objects should only be shared between processes through "
            "inheritance: hand them to Process(args=...)"
        )
