"""Locks between processes: words in the family's arena, without a name or a descriptor."""

from __future__ import annotations

import threading
import time

from . import _original, _sidestep, context, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, Protocol, Self, TypeVar

    _T = TypeVar("_T")

    class _Attachable(Protocol):
        def _export(self) -> tuple[int, int]: ...


__all__ = [
    "AbandonedLockError",
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "Event",
    "Lock",
    "RLock",
    "Semaphore",
]

SEM_VALUE_MAX = 2**31 - 1


class AbandonedLockError(context.ProcessError):
    """The process that held the lock was killed, so what the lock guards may be half changed.

    Raised by `acquire` (and by entering) in every process until someone calls the lock's
    `recover` or `release`.

    Attributes:
        lock: A name for the lock, the same in every process.
        pid: The number of the process that held it; None where that is not known.
        exitcode: That process's exit code, or minus the signal that ended it; None where that is
            not known, as somebody else reaped it first.
    """

    def __init__(
        self, lock: str = "lock", pid: int | None = None, exitcode: int | None = None
    ) -> None:
        super().__init__(lock, pid, exitcode)
        self.lock = lock
        self.pid = pid
        self.exitcode = exitcode

    def __str__(self) -> str:
        who = "a process" if self.pid is None else f"process {self.pid}"
        if self.exitcode is None:
            end = "ended"
        elif self.exitcode < 0:
            name = process._name_of(self.exitcode)
            end = f"was killed by {name.lstrip('-')}"
        else:
            end = f"left with exit code {self.exitcode}"
        return (
            f"{who} {end} while it held the {self.lock}; what that guards may be half changed: "
            "check it, then call the lock's recover() to make it usable again"
        )


def _rebuild(cls: Any, name: tuple[int, int], state: dict[str, Any]) -> Any:
    shared = cls.__new__(cls)
    shared._attach(name)
    if state:
        shared.__dict__.update(state)
    return shared


def _reduce(shared: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return _rebuild, (type(shared), shared._export(), shared.__dict__)


class _RandomNames:
    """The standard library's random names, of which `tempfile` and much else is made."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        import tempfile

        names = tempfile._get_candidate_names()  # type: ignore[attr-defined]
        name: str = next(names)
        return name


class SemLock:
    """What all of them share: they are pickled by their name in the arena."""

    # Of the standard library's base class; some programs put a name-maker of their own in its
    # place. No lock here has a name in the file system.
    _rand = _RandomNames()

    __reduce__ = _reduce

    @staticmethod
    def _make_name() -> str:
        return f"/sidestep-{next(SemLock._rand)}"

    @property
    def _semlock(self) -> Self:
        """The object itself: others look for the lock's state behind this name."""
        return self


@_original.descend("synchronize")
@_sidestep.own_methods
class Lock(SemLock, _sidestep.Lock):
    """A lock that is not recursive: any thread of any process may release it.

    If the process that holds it is killed, `acquire` raises `AbandonedLockError` in all others;
    if it ends in order, the lock stays held until someone releases it.
    """

    def __init__(self, *, ctx: Any = None) -> None:
        self._init()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(owner={self._owner()})>"

    def _owner(self) -> str:
        holder = self._holder()
        if holder == "me":
            name: str = process.current_process().name
            thread = threading.current_thread()
            return name if thread is threading.main_thread() else f"{name}|{thread.name}"
        return {"none": "None", "thread": "SomeOtherThread", "process": "SomeOtherProcess"}[holder]


@_original.descend("synchronize")
@_sidestep.own_methods
class RLock(SemLock, _sidestep.RLock):
    """A lock that its owner, one thread of one process, may take again.

    If the owner's process ends while it holds the lock, however that was, `acquire` raises
    `AbandonedLockError` in all others.
    """

    def __init__(self, *, ctx: Any = None) -> None:
        self._init()

    def __repr__(self) -> str:
        holder = self._holder()
        count: int | str = self._count() if holder in ("me", "none") else "nonzero"
        return f"<{type(self).__name__}({Lock._owner(self)}, {count})>"  # type: ignore[arg-type]


@_original.descend("synchronize")
@_sidestep.own_methods
class Semaphore(SemLock, _sidestep.Semaphore):
    """A counter of permits; `acquire` waits while it is zero.

    Permits have no owners: those that a killed process had taken are not given back by
    themselves. `lost` counts them, `recover` gives them back.
    """

    def __init__(self, value: int = 1, *, ctx: Any = None) -> None:
        self._init(value, False)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(value={self.get_value()}{self._missing()})>"

    def _missing(self) -> str:
        lost = self.lost()
        return f", lost={lost}" if lost else ""


@_original.descend("synchronize")
@_sidestep.own_methods
class BoundedSemaphore(Semaphore):
    """A semaphore that cannot be released more often than it was acquired."""

    def __init__(self, value: int = 1, *, ctx: Any = None) -> None:
        self._init(value, True)
        self._maxvalue = value

    def __repr__(self) -> str:
        value = f"value={self.get_value()}, maxvalue={self._maxvalue}"
        return f"<{type(self).__name__}({value}{self._missing()})>"


class _Count:
    """A number about a condition that is looked up when asked for."""

    def __init__(self, look: Callable[[], int]) -> None:
        self.get_value = look


@_original.descend("synchronize")
class Condition(SemLock, _sidestep.Condition):
    """A condition variable: wait, under a lock, until another thread or process notifies.

    `notify` never waits for the woken, and skips waiters that are dead. `lock` is a Lock or an
    RLock; without one it is a new RLock.
    """

    _lock: Any

    def __init__(self, lock: Any = None, *, ctx: Any = None) -> None:
        if isinstance(lock, _sidestep.Semaphore):
            raise TypeError(
                f"a Condition cannot use a {type(lock).__name__}: a semaphore has no owner, so "
                "nobody could tell who may wait or notify; give it a Lock or an RLock"
            )
        self._init()
        self._lock = RLock(ctx=ctx) if lock is None else lock
        self._lend()

    def _lend(self) -> None:
        self.acquire = self._lock.acquire
        self.release = self._lock.release

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        state = {k: v for k, v in self.__dict__.items() if k not in ("acquire", "release")}
        return _rebuild_condition, (type(self), self._export(), state)

    def __enter__(self) -> Any:
        return self._lock.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Any:
        return self._lock.__exit__(kind, error, traceback)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}({self._lock}, {self._waiting()[0]})>"

    def wait(self, timeout: float | None = None) -> bool:
        """Let go of the lock, wait for a notification, and take the lock again.

        Returns:
            False if `timeout` seconds passed without one.
        """
        return self._wait(self._lock, timeout)

    def wait_for(self, predicate: Callable[[], _T], timeout: float | None = None) -> _T:
        """Wait until `predicate()` is true, for at most `timeout` seconds; return its value."""
        result = predicate()
        if timeout is None:
            while not result:
                self.wait()
                result = predicate()
            return result
        end = time.monotonic() + timeout
        while not result:
            left = end - time.monotonic()
            if left <= 0:
                break
            self.wait(left)
            result = predicate()
        return result

    def recover(self) -> bool:
        """Free the condition's lock if its owner was killed; tell whether that was so."""
        return self._lock.recover()  # type: ignore[no-any-return]

    def notify(self, n: int = 1) -> None:
        """Wake `n` of those who wait, the earliest first; fewer if there are fewer."""
        self._notify(self._lock, n)

    def notify_all(self) -> None:
        """Wake all who wait."""
        self._notify(self._lock, 2**31)

    @property
    def _sleeping_count(self) -> _Count:
        return _Count(lambda: sum(self._waiting()))

    @property
    def _woken_count(self) -> _Count:
        return _Count(lambda: self._waiting()[1])

    @property
    def _wait_semaphore(self) -> _Count:
        return _Count(lambda: 0)


def _rebuild_condition(cls: type[Any], name: tuple[int, int], state: dict[str, Any]) -> Any:
    condition = _rebuild(cls, name, state)
    condition._lend()
    return condition


@_original.descend("synchronize")
class Event(SemLock, _sidestep.Event):
    """A flag that threads and processes wait for."""

    def __init__(self, *, ctx: Any = None) -> None:
        self._init()

    def __repr__(self) -> str:
        status = "set" if self.is_set() else "unset"
        return f"<{type(self).__qualname__} at {id(self):#x} {status}>"


@_original.descend("synchronize")
class Barrier(SemLock, _sidestep.Barrier):
    """A place where `parties` threads or processes wait until all of them have come.

    A process that is killed while it waits here breaks the barrier for the others.
    """

    def __init__(
        self,
        parties: int,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
        *,
        ctx: Any = None,
    ) -> None:
        self._init(parties)
        self._action = action
        self._timeout = timeout

    def wait(self, timeout: float | None = None) -> int:
        """Come to the barrier and wait for the others.

        The last one runs the action. `timeout` is about the others' arrival: it neither begins
        before the action of an earlier round is done, nor ends a wait while that of this one runs.

        Returns:
            A number from 0 to `parties` - 1, another one for each.

        Raises:
            threading.BrokenBarrierError: The barrier is or was broken, or reset, or the time was
                up (which breaks it). A reset while the action runs does not wait for it: the party
                that ran it gets the error, too, when it is done.
        """
        return self._arrive(self._timeout if timeout is None else timeout, self._action)

    def __repr__(self) -> str:
        state = "broken" if self.broken else f"waiters={self.n_waiting}/{self.parties}"
        return f"<{type(self).__qualname__} at {id(self):#x}: {state}>"
