"""The native module: the engine's objects as Python classes.

Programs use the classes of the package, which build on these: `synchronize`, `queues`,
`connection`, `heap` and `pool`. Names and signatures here are the contract between the package
and the binding; stubtest compares them with the module as it is built.

Locks, semaphores, conditions, events, barriers and queues share a life cycle. `__new__` takes any
arguments and makes nothing, so that subclasses have constructors of their own; then either `_init`
makes the shared object, or `_attach` finds one that another process named with `_export`. The
object lives in the arena for as long as any process, or a message on its way, has a reference;
those of a process that has ended are given back. Every other method raises RuntimeError before
that. Times are seconds of the monotonic clock. Waits happen in the kernel, with the interpreter
released; signal handlers run meanwhile, and one that raises ends the wait.
"""

from collections.abc import Callable, Iterable, Iterator
from types import GenericAlias, TracebackType
from typing import Any, Generic, Self, TypeAlias, final

from _typeshed import ReadableBuffer, WriteableBuffer
from typing_extensions import TypeVar, disjoint_base

# With defaults, so that `Queue` and `Connection` by themselves are annotations, too.
_T = TypeVar("_T", default=Any)
_Sent_contra = TypeVar("_Sent_contra", contravariant=True, default=Any)
_Received_co = TypeVar("_Received_co", covariant=True, default=Any)

_Class = TypeVar("_Class", bound=type[Any])

# Offset and generation of an object in the arena.
_Name: TypeAlias = tuple[int, int]
# Offset and generation of a pipe, and the side of it.
_Place: TypeAlias = tuple[int, int, int]
# Tasks, results and board of a pool, and the number of its lines.
_PoolNames: TypeAlias = tuple[_Name, _Name, _Name, int]
# A number, whether the object could be rebuilt, and the object or the exception.
_Opened: TypeAlias = tuple[int, bool, Any]

# --- family -------------------------------------------------------------------------------

def found() -> None:
    """Make the family's arena if there is none, and room for a process in it: before a start.

    Raises:
        OSError: The kernel refuses anonymous files, or there is no address space for the arena.
    """

def arena_fd() -> int:
    """Return the descriptor of the family's arena, for a child that is about to be exec'd.

    Creates the arena if this process has none. Not inheritable: pass it by `pass_fds`
    (it keeps its number in the child).

    Raises:
        OSError: The kernel refuses the memory, or the descriptor was closed by the program.
    """

def family_name() -> tuple[int, int] | None:
    """Return what tells this process's family from others on this machine; None if it has none."""

def attach(fd: int) -> None:
    """Join the family whose arena is `fd`.

    For a fresh interpreter, before anything is unpickled.

    Raises:
        OSError: There is no such descriptor.
        RuntimeError: The descriptor is no arena, or one of another version; or this process
            belongs to another family already; or the arena has no place for one more process.
    """

def pidfd_open(pid: int) -> int:
    """Return a descriptor that polls readable when the process `pid` has ended (close-on-exec).

    Raises:
        OSError: There is no such process (ESRCH) or the kernel refuses pidfds (ENOSYS, EPERM).
    """

@final
class SignalScope:
    """A block in which a process is started; signals that were held are let through at its end.

    A handler that raises, as that of Ctrl-C does, between the start of a process and the note of
    it would leave a child that nobody knows of.
    """

    def __enter__(self) -> SignalScope: ...
    def __exit__(
        self, _kind: object = None, _error: object = None, _traceback: object = None, /
    ) -> None: ...

def hold_signals() -> None:
    """Have signals for which there is a handler wait for the end of the scope, if there is one.

    A process that is started meanwhile inherits that. Handlers of those that have come already run
    in here, and may raise.
    """

def let_signals_through() -> None:
    """Undo `hold_signals`; in a forked child, too. What has come meanwhile is handled in here."""

def blocked_signals() -> int:
    """Return the signals that this thread has blocked: the bit of signal 1 is the lowest."""

def block_signals(signals: int) -> None:
    """Block `signals`, as told by `blocked_signals`, and no others.

    What has come meanwhile is handled in here, and may raise.
    """

@final
class Fds:
    """Descriptors that the process which made this closes when it is called, or is garbage."""

    def __call__(self, *args: Any) -> None: ...

@final
class LifeLines:
    """The descriptors by which a parent and its child see each other's end.

    Args:
        dies_with_parent: Whether the child may pass `parent_fd` to `die_at_end_of`.
        pidfds: Whether to use pidfds; else it is as where the kernel refuses them.

    Raises:
        OSError: There are no descriptors.
    """

    parent_fd: int
    child_fds: list[int]
    def __new__(cls, dies_with_parent: bool, pidfds: bool = True) -> Self: ...
    def started(self, pid: int) -> tuple[int, Fds]:
        """Keep the parent's part, of a child that has not been reaped.

        Returns:
            The child's sentinel, and what closes all that the parent keeps.
        """

    def started_elsewhere(self, sentinel: int, connection: int) -> Fds:
        """Keep the parent's part, of a child whose `sentinel` somebody else has made.

        It is closed with the rest, and so is `connection`.
        """

    def inherited(self) -> None:
        """In a forked child: close the parent's part, and keep the child's for life."""

    def abandon(self) -> None:
        """Close all: there is no child."""

def socket_pair() -> tuple[int, int]:
    """Return two sockets that are connected to each other: blocking, close-on-exec, the caller's.

    Raises:
        OSError: There are no descriptors.
    """

def send_fds(fd: int, data: bytes, fds: list[int]) -> None:
    """Send `data` over the socket `fd`, and copies of `fds`, at most 64, with it.

    Raises:
        OSError: The receiver is gone (EPIPE, ECONNRESET), or the system refused something.
    """

def receive_fds(fd: int, size: int) -> tuple[bytes, list[int]]:
    """Receive at most `size` bytes over the socket `fd`, and the descriptors that came with them.

    No bytes: the other side is gone.

    Raises:
        OSError: The descriptors found no room (EMFILE) and are gone, as are the bytes; the other
            side is gone and has left something unread (ECONNRESET).
    """

def exit_code(pid: int, block: bool) -> int | None:
    """Return a child's exit code, or minus the signal that has ended it; it stays to be reaped.

    None if it runs and `block` is false. Handlers of signals run while this waits.

    Raises:
        ChildProcessError: Not a child of this process, or reaped already.
    """

def die_at_end_of(fd: int) -> None:
    """Have the kernel kill this process when that ends whose life line (`LifeLines`) `fd` is.

    If that has ended already, this process ends now. `fd` has to stay open.

    Raises:
        OSError: `fd` is not open, or no pipe.
    """

def forked(alive: bool = True) -> int:
    """Return a token for the child that `os.fork` has just made; call it in the parent.

    Hand it to `reaped` when the child has been waited for. Zero if there is no arena.

    Args:
        alive: Whether there is a child; False if `os.fork` has failed.

    Raises:
        MemoryError: The arena has no room for the child's references; the child ends at once.
        RuntimeError: The family has too many processes; the child ends at once.
    """

def inherited() -> bool:
    """Return, in the child of `os.fork`, whether it has what its parent shared; if not, leave."""

def way_out(errno: int, process: bool = False) -> str:
    """Return what to say behind a refusal: the limit that it is about, and what to do.

    Args:
        errno: How the kernel has refused.
        process: Whether it was another process that it refused.

    Returns:
        The end of a sentence, or nothing where there is no limit to name.
    """

def memory_shortage(size: int) -> tuple[bool, int, int] | None:
    """Tell whether `size` more bytes of shared memory are too many.

    A 64th part of the machine and of each memory control group is left alone.

    Returns:
        Whether a control group is too small, or the machine; the bytes that it has left; and of how
        many. None: they are not too many, or the system does not say what it has left.
    """

def reaped(token: int = 0) -> None:
    """Give back what a child held that has been waited for.

    Without it others find out when they next look at the dead child's locks; with it they do so
    now.

    Args:
        token: What `forked` returned for the child; 0 looks at every member of the family.
    """

def leave() -> None:
    """Tell the family that this process ends in order.

    A lock that it still holds then stays locked and is not reported as abandoned.
    """

def own_token() -> int:
    """Return what names the calling process to the engine, as `forked` does for a child."""

def last_taken(token: int = 0) -> tuple[int, int, int] | None:
    """Return what a process took last from a queue or a pipe, also if it has ended since.

    Tasks of a pool do not count: its board knows of those. Threads of a process share one record.
    `get_many` takes in several goes, of which the last is told.

    Args:
        token: What `forked` returned for the process, or its `own_token`; 0 is the caller.

    Returns:
        A word that names the queue, or the direction of a pipe; the number of the last item among
        all ever taken there (from 0, wrapping at 2**32); how many items were taken in the same go.
        None if it took nothing, or its place in the family is another's by now. If it was killed
        while it took something, the answer is certain once someone has looked into the queue.
    """

def features() -> list[tuple[str, bool, str, str | None]]:
    """Try what the engine asks of the kernel; nothing is left of the attempts.

    Returns:
        For each feature its name, whether the engine needs it, what follows where it is missing,
        and how the kernel has refused it, None if it works.
    """

def ceiling() -> tuple[int, int | None, int, int | None, int | None, int | None]:
    """Return how many bytes a new arena may use, 32 MiB at least, and what that comes from.

    Returns:
        The ceiling, 0 if files may not even be as large as the smallest arena; what
        `SIDESTEP_ARENA_LIMIT` says; the machine's memory; the limits of the control group, of the
        address space and of the size of files. None where there is no such limit.
    """

def usage() -> dict[str, int] | None:
    """Return what the arena holds, or None if this process has none.

    Returns:
        `used` bytes, of which `warm` are free and kept for reuse, and their `limit`; the number of
        `blocks` that exist and of `processes` that share them.
    """

def audit() -> str | None:
    """Return what is wrong with the books of the arena, None if they balance.

    To be asked while no other process of the family makes or drops anything.
    """

# --- handles in flight ----------------------------------------------------------------------

@final
class Collector:
    """While entered (in this thread), handles of shared objects may be pickled for a child.

    The collector takes a reference to each of them, and keeps it until it is released or
    freed: the parent holds it until the child has ended or has unpickled.
    Outside a collector (and outside `put` and `send` of the engine's channels) pickling a handle
    raises RuntimeError.
    """

    def __new__(cls) -> Self: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        _kind: type[BaseException] | None = None,
        _error: BaseException | None = None,
        _traceback: TracebackType | None = None,
    ) -> None: ...
    def release(self) -> None:
        """Drop the references. May be called again."""

# --- memory ----------------------------------------------------------------------------------

@disjoint_base
class Block:
    """Zeroed memory in the arena: `size` bytes, aligned to 64.

    Supports the writable buffer protocol. A view keeps the block alive in its process; the memory
    is free again when no process holds the block or a view of it. All processes see the same
    bytes, and nothing orders their accesses. If one of them dies, the bytes stay as they are.

    Raises:
        MemoryError: The arena is at its limit.
    """

    def __new__(cls, size: int) -> Self: ...
    def _export(self) -> tuple[int, int, int]:
        """Return offset, generation and size for `_attach`.

        Raises:
            RuntimeError: Outside of a collector and of a channel.
        """
    @staticmethod
    def _attach(name: tuple[int, int, int]) -> Block:
        """Return the block that `_export` named.

        Raises:
            RuntimeError: It is gone, or this process is not of the same family.
        """
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Frozen:
    """An object as a message in the arena, which any number of processes read in place.

    It is free again when no process holds it or a view of it.

    Raises:
        MemoryError: The arena is at its limit.
        pickle.PicklingError, TypeError, ...: What serialising the object raised.
    """

    def __new__(cls, obj: object) -> Self: ...
    @property
    def _name(self) -> _Name: ...
    def _export(self) -> _Name:
        """Return the name for `_attach`; RuntimeError outside of a collector or channel."""
    @staticmethod
    def _attach(name: _Name) -> Frozen:
        """Return what `_export` named; RuntimeError if it is gone."""
    def _build(self) -> Any:
        """Rebuild the object; its large buffers are read-only views of the arena."""
    def __len__(self) -> int:
        """Bytes of the message."""

# --- values ----------------------------------------------------------------------------------

@disjoint_base
class Guarded:
    """An object of `ctypes` and the lock that guards it; base of the wrappers of `sharedctypes`.

    `__new__` takes any arguments; everything but `_guard` raises RuntimeError before that was
    called. Where the lock is an engine's, and its class has not put methods of its own in place of
    the engine's, it is taken and released natively; its methods are called otherwise.

    If one dies: as with the lock. The memory keeps what was written.

    Same as: `multiprocessing.sharedctypes.SynchronizedBase`.
    """

    def __new__(cls, *_args: object, **_kwargs: object) -> Self: ...
    def _guard(self, object: object, lock: object, memory: tuple[Block, str, int] | None) -> None:
        """Hold an object and its lock.

        Args:
            object: The object.
            lock: The lock: it has methods `acquire` and `release`.
            memory: Where the object lies, the letter of its type (or of its items'), and how many
                there are; None leaves each access to the object.

        Raises:
            RuntimeError: It holds one already.
            ValueError: So many items do not fit the block.
        """
    @property
    def _obj(self) -> Any: ...
    @property
    def _lock(self) -> Any: ...
    def get_obj(self) -> Any:
        """Return the object itself: whoever uses it must think of the lock."""
    def get_lock(self) -> Any:
        """Return the lock, for more than one access at a time."""
    @property
    def acquire(self) -> Any:
        """The lock's own method."""
    @property
    def release(self) -> Any:
        """The lock's own method."""
    def __enter__(self) -> Any: ...
    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> Any: ...

class GuardedValue(Guarded):
    """One number or character."""

    def __new__(cls, *args: object, **kwargs: object) -> Self: ...
    @property
    def value(self) -> Any: ...
    @value.setter
    def value(self, value: Any) -> None: ...

class GuardedArray(Guarded):
    """An array: each index, slice or assignment is one access under the lock."""

    def __new__(cls, *args: object, **kwargs: object) -> Self: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: Any, /) -> Any: ...
    def __setitem__(self, index: Any, value: Any, /) -> None: ...

class GuardedString(GuardedArray):
    """An array of characters that are bytes."""

    def __new__(cls, *args: object, **kwargs: object) -> Self: ...
    @property
    def value(self) -> bytes: ...
    @value.setter
    def value(self, value: bytes) -> None: ...
    @property
    def raw(self) -> bytes: ...
    @raw.setter
    def raw(self, value: bytes) -> None: ...

def fill(block: Block, letter: str, values: list[Any] | tuple[Any, ...]) -> bool:
    """Write the items, whose type `letter` names, into a block of their length.

    Returns:
        Whether that was all. If not, some may be written, and `ctypes` has to be asked.

    Raises:
        ValueError: They do not fit.
    """

# --- locks -----------------------------------------------------------------------------------

@disjoint_base
class Lock:
    """A lock that any thread of any process may release; base of the recursive one.

    If one dies: when the process that holds it was killed, `acquire` raises `AbandonedLockError` in
    every other process until somebody calls `recover` or `release`. If its holder ended in
    order, it stays locked. A process that is killed while it waits leaves nothing behind.

    Same as: `multiprocessing.synchronize.Lock`. Differs: as said, and `locked` on all versions.
    """

    def __new__(cls, *_args: object, **_kwargs: object) -> Self: ...
    def _init(self) -> None:
        """Make the shared object. Called again it changes nothing."""
    def _export(self) -> _Name:
        """Return the name for `_attach`; RuntimeError outside of a collector or channel."""
    def _attach(self, name: _Name) -> None:
        """Take the object that `_export` named; RuntimeError if it is gone."""
    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take the lock.

        Args:
            block: Wait for it. When false, `timeout` is ignored.
            timeout: Longest wait in seconds; None waits for ever, a negative number not at all.

        Returns:
            Whether the lock was taken.

        Raises:
            sidestep.synchronize.AbandonedLockError: Its holder was killed.

        Same as: `multiprocessing.synchronize.Lock.acquire`.
        """
    def release(self) -> None:
        """Let the lock go; wakes one of those who wait, in any process.

        Raises:
            ValueError: Nobody holds it.

        Same as: `multiprocessing.synchronize.Lock.release`.
        """
    def __enter__(self) -> bool: ...
    def __exit__(
        self,
        _kind: type[BaseException] | None = None,
        _error: BaseException | None = None,
        _traceback: TracebackType | None = None,
    ) -> None: ...
    def recover(self) -> bool:
        """Free the lock if its holder was killed: the caller has looked at what it guards.

        Returns:
            Whether there was anything to free. Of several callers one gets true.
        """
    def locked(self) -> bool:
        """Tell whether anybody holds the lock, at the moment of the call."""
    def _is_mine(self) -> bool: ...
    def _is_zero(self) -> bool: ...
    def _get_value(self) -> int: ...
    def _count(self) -> int:
        """Return how many times this process holds the lock, 0 if another one does."""
    def _holder(self) -> str:
        """Return who holds it: "none", "me", "thread" (another one here) or "process"."""

class RLock(Lock):
    """A lock that its owner, one thread of one process, may take again.

    Only the owner may release it, as often as it has taken it: others get AssertionError.
    If one dies: an owner that has ended, killed or in order, makes `acquire` raise
    `AbandonedLockError` in all others, as nobody else could have released the lock.

    Same as: `multiprocessing.synchronize.RLock`. Differs: as said.
    """

    def __new__(cls, *_args: object, **_kwargs: object) -> Self: ...

@disjoint_base
class Semaphore:
    """A counter of permits, with a bound or without.

    If one dies: permits have no owner, so those of a dead process are not given back by
    themselves. Those that killed processes had taken and not released are counted.

    Same as: `multiprocessing.synchronize.Semaphore` and `BoundedSemaphore`. Differs: `release` may
    give back several permits at once, `locked` exists on all versions, `lost` and `recover`.
    """

    def __new__(cls, *_args: object, **_kwargs: object) -> Self: ...
    def _init(self, value: int, bounded: bool) -> None:
        """Make the shared object with `value` permits, which bound it or not.

        Raises:
            ValueError: `value` is negative or above 2**31 - 1.
        """
    def _export(self) -> _Name:
        """Return the name for `_attach`; RuntimeError outside of a collector or channel."""
    def _attach(self, name: _Name) -> None:
        """Take the object that `_export` named; RuntimeError if it is gone."""
    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take one permit.

        Args:
            block: Wait for it. When false, `timeout` is ignored.
            timeout: Longest wait in seconds; None waits for ever, a negative number not at all.

        Returns:
            Whether a permit was taken.

        Same as: `multiprocessing.synchronize.Semaphore.acquire`.
        """
    def release(self, n: int = 1) -> None:
        """Give back `n` permits, and wake as many of those who wait.

        Raises:
            ValueError: The semaphore would exceed its bound (or 2**31 - 1), or `n` is below 1;
                then nothing was given back.
        """
    def __enter__(self) -> bool: ...
    def __exit__(
        self,
        _kind: type[BaseException] | None = None,
        _error: BaseException | None = None,
        _traceback: TracebackType | None = None,
    ) -> None: ...
    def get_value(self) -> int:
        """Return the number of permits, at the moment of the call."""
    def locked(self) -> bool:
        """Tell whether there is no permit left, at the moment of the call."""
    def lost(self) -> int:
        """Return how many permits killed processes had acquired and not released.

        At most what is missing from the first value: where one process acquires and another
        releases, a permit that was acquired is not one that is held. Up to 14 processes that
        hold permits at once are told apart; a kill between taking a permit and noting it is not
        counted.
        """
    def recover(self) -> int:
        """Give those permits back, wake as many of those who wait, and return how many."""
    def _is_zero(self) -> bool: ...
    def _get_value(self) -> int: ...

@disjoint_base
class Condition:
    """Those who wait for a condition; its lock is another object, given to each call.

    At most 510 threads may wait at once. If one dies: a waiter that was killed is passed over, its
    notification goes to the next.
    """

    def __new__(cls, *_args: object, **_kwargs: object) -> Self: ...
    def _init(self) -> None:
        """Make the shared object. Called again it changes nothing."""
    def _export(self) -> _Name:
        """Return the name for `_attach`; RuntimeError outside of a collector or channel."""
    def _attach(self, name: _Name) -> None:
        """Take the object that `_export` named; RuntimeError if it is gone."""
    def _wait(self, lock: Lock, timeout: float | None) -> bool:
        """Let `lock` go, wait for a notification, take `lock` again, as deep as it was held.

        Returns:
            Whether a notification came within `timeout` seconds (None: for ever).

        Raises:
            AssertionError: This thread does not hold `lock`.
            RuntimeError: Too many wait.
            sidestep.synchronize.AbandonedLockError: Whoever held `lock` meanwhile was killed.
        """
    def _notify(self, lock: Lock, n: int) -> None:
        """Wake at most `n` of those who wait, the earliest first; never waits for them.

        Raises:
            AssertionError: This thread does not hold `lock`.
        """
    def _waiting(self) -> tuple[int, int]:
        """Return how many wait, and how many were notified and have not left yet."""

@disjoint_base
class Event:
    """A flag that threads and processes wait for. If one dies, nothing changes.

    Same as: `multiprocessing.synchronize.Event`.
    """

    def __new__(cls, *_args: object, **_kwargs: object) -> Self: ...
    def _init(self) -> None:
        """Make the shared object. Called again it changes nothing."""
    def _export(self) -> _Name:
        """Return the name for `_attach`; RuntimeError outside of a collector or channel."""
    def _attach(self, name: _Name) -> None:
        """Take the object that `_export` named; RuntimeError if it is gone."""
    def is_set(self) -> bool:
        """Tell whether the flag is set."""
    def set(self) -> None:
        """Set the flag and wake all who wait, in every process."""
    def clear(self) -> None:
        """Clear the flag. Whoever waited at an earlier `set` returns true all the same."""
    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the flag is set.

        Args:
            timeout: Longest wait in seconds; None waits for ever.

        Returns:
            False if the time was up.

        Same as: `multiprocessing.synchronize.Event.wait`.
        """

@disjoint_base
class Barrier:
    """A place where a fixed number of threads or processes wait until all have come.

    At most 510 of them. If one dies: a party that is killed while it waits breaks the barrier, and
    the others get `threading.BrokenBarrierError`.

    Same as: `multiprocessing.synchronize.Barrier`. Differs: as said.
    """

    def __new__(cls, *_args: object, **_kwargs: object) -> Self: ...
    def _init(self, parties: int) -> None:
        """Make the shared object.

        Raises:
            ValueError: `parties` does not lie between 1 and 510.
        """
    def _export(self) -> _Name:
        """Return the name for `_attach`; RuntimeError outside of a collector or channel."""
    def _attach(self, name: _Name) -> None:
        """Take the object that `_export` named; RuntimeError if it is gone."""
    def _arrive(self, timeout: float | None, action: Callable[[], object] | None) -> int:
        """Come to the barrier and wait for the others; the last one runs `action` instead.

        `timeout` counts while this party waits in its round: neither the action of the round
        before nor that of its own, which runs when all are here, makes it break the barrier.

        Returns:
            The number of this arrival.

        Raises:
            threading.BrokenBarrierError: The barrier is broken, was reset, or the time was up
                (which breaks it). Also for the last one, if the barrier was reset or broken while
                the action ran; the next round is left alone then.
            Exception: What the action raised, which breaks the round that it ran for.
        """
    def reset(self) -> None:
        """Make the barrier empty and whole; those who wait get BrokenBarrierError.

        So does the party that runs the action at this moment, when the action has ended.

        Same as: `multiprocessing.synchronize.Barrier.reset`.
        """
    def abort(self) -> None:
        """Break the barrier for those who wait and those who come.

        Same as: `multiprocessing.synchronize.Barrier.abort`.
        """
    @property
    def parties(self) -> int:
        """How many must come."""
    @property
    def n_waiting(self) -> int:
        """How many wait, at the moment of the call."""
    @property
    def broken(self) -> bool:
        """Whether the barrier is broken."""

# --- queues ----------------------------------------------------------------------------------

@disjoint_base
class Queue(Generic[_T]):
    """Objects, first in, first out, from any number of producers to any number of consumers.

    An object is serialised by `put`, in the caller, and has been committed when `put` returns.
    If one dies: what it had put stays, what it had taken is lost with it, the queue stays usable.

    Same as: `multiprocessing.queues.Queue`. Differs: no thread carries items, see there.
    """

    def __new__(cls, *_args: object, **_kwargs: object) -> Self: ...
    @classmethod
    def __class_getitem__(cls, item: Any) -> GenericAlias: ...
    def _init(self, maxsize: int = 0, max_bytes: int = 0) -> None:
        """Make the shared queue.

        Args:
            maxsize: Most items; 0 or less: no limit.
            max_bytes: Most unread bytes, which `put` waits for; 0: no limit but the arena's.
        """
    def _export(self) -> _Name:
        """Return the name for `_attach`; RuntimeError outside of a collector or channel."""
    def _attach(self, name: _Name) -> None:
        """Take the queue that `_export` named; RuntimeError if it is gone."""
    def put(self, obj: _T, block: bool = True, timeout: float | None = None) -> None:
        """Serialise an object and put it at the end.

        Args:
            obj: Anything that can be pickled. Later changes to it do not reach the queue.
            block: Wait for room. When false, `timeout` is ignored.
            timeout: Longest wait in seconds; None waits for ever.

        Raises:
            queue.Full: No room in time; the queue is as it was.
            ValueError: This process has closed the queue.
            MemoryError: The arena is at its limit; the queue is as it was.
            pickle.PicklingError, TypeError, ...: What serialising the object raised.

        Process safety: any number of threads and processes may call this at once.
        Same as: `multiprocessing.queues.Queue.put`. Differs: errors are raised here, and the item
        is in the queue when the call returns.
        """
    def get(self, block: bool = True, timeout: float | None = None) -> _T:
        """Remove and return the oldest item, rebuilt here in the calling process.

        Args:
            block: Wait for an item. When false, `timeout` is ignored.
            timeout: Longest wait in seconds; None waits for ever.

        Raises:
            queue.Empty: No item in time.
            ValueError: This process has closed the queue.
            Exception: What rebuilding the object raised; the item is gone.

        Process safety: any number of threads and processes may call this at once.
        Same as: `multiprocessing.queues.Queue.get`.
        """
    def put_many(
        self, items: Iterable[_T], block: bool = True, timeout: float | None = None
    ) -> int:
        """Put several objects, in order; others may put theirs in between.

        All are serialised before the first is put: if one cannot be, none was put.

        Args:
            items: The objects.
            block: Wait for room. When false, put as many as there is room for.
            timeout: Longest wait in seconds, for all together; None waits for ever.

        Returns:
            How many were put; fewer than all only if there was no room in time. An error on the
            way (MemoryError at the arena's limit, or what a signal handler raised) has a note that
            says how many were put before.
        """
    def get_many(self, limit: int, block: bool = True, timeout: float | None = None) -> list[_T]:
        """Remove and return what is there: at least one item, at most `limit`, oldest first.

        Args:
            limit: Most items.
            block: Wait for the first one. When false, `timeout` is ignored.
            timeout: Longest wait for the first one in seconds; None waits for ever.

        What was taken when somebody wants the call to end (Ctrl-C while an item is rebuilt) comes
        with the calls that follow, in this process.

        Raises:
            queue.Empty: No item in time.
            ValueError: `limit` is negative.
        """
    def _poll(self, timeout: float | None = 0.0) -> bool:
        """Tell whether an item is there, waiting for at most `timeout` seconds."""
    def qsize(self) -> int:
        """Return the number of items put and not taken, exactly, at the moment of the call."""
    def empty(self) -> bool:
        """Tell whether there is no item, at the moment of the call.

        Raises:
            OSError: This process has used and closed the queue.
        """
    def full(self) -> bool:
        """Tell whether there is no room, at the moment of the call."""
    def close(self) -> None:
        """Stop using the queue in this process; others are not concerned."""
    @property
    def _closed(self) -> bool: ...
    def _end_closed(self, writer: bool) -> bool:
        """Tell whether this process closed the queue, or its end to put to or to take from."""
    def _close_end(self, writer: bool) -> None:
        """Close one end, and its descriptor, in this process; others are not concerned."""
    def _end_fileno(self, writer: bool) -> int:
        """Return the descriptor of one end, made by the first call in a process.

        The one to take from is readable while there are items. It may be readable without one if
        another consumer was faster; a look for items by this object makes it right again. The one
        to put to is always writable. What can be read from either means nothing.

        Raises:
            OSError: The end is closed, or no descriptor is left.
            RuntimeError: Too many processes watch the queue.
        """
    def _probe(self) -> bool:
        """Tell whether there is an item, and make the descriptor say the same."""
    def _task_done(self) -> bool:
        """Count one item as done; false if all were already."""
    def _join(self) -> None:
        """Wait until every item that was put has been counted as done."""

# --- pools -----------------------------------------------------------------------------------

def oom_kills() -> int:
    """Return how many processes the kernel has killed since boot for want of memory.

    Those of this process's memory control group, or where nobody counts them, of the machine.
    """

@final
class PackedTask:
    """A serialised task, see `PoolCore.submit`."""

@final
class Inbox:
    """What came of the tasks of a job, until the job asks for it.

    Args:
        job: The job; it is not kept alive.
        tasks: How many tasks there are; None: `expect` will say it.
        whole: All results are asked for at once, when the last one has come. Otherwise one by one.
        chunked: Each value is a list, and the whole is a list of what is in them.
        ordered: One by one, but in the order of the tasks and not as they come.
    """

    def __new__(
        cls,
        job: Any,
        tasks: int | None,
        *,
        whole: bool,
        chunked: bool = False,
        ordered: bool = True,
    ) -> Self: ...
    def put(self, place: int, success: Any, value: Any) -> tuple[bool, Any] | None:
        """Take what came of the task at this place.

        Returns:
            If it was the last one, what to end the job with: success and value, or the exception
            that came first.
        """
    def expect(self, tasks: int, error: BaseException | None = None) -> tuple[bool, Any] | None:
        """There are so many tasks, and after their results an `error`, if one is given.

        Returns:
            What to end the job with if all results have come: success, and the value or exception.
        """
    def claim(self) -> bool:
        """Ask to end the job; False if somebody else does that, or all results have come."""
    @property
    def claimed(self) -> bool:
        """Whether somebody ends the job, or has done it, or all results have come."""
    def end(self, success: bool, value: Any) -> None:
        """End the job: all at once with this outcome, or with an exception after what is there."""
    @property
    def ended(self) -> bool:
        """Whether the job was ended."""
    def outcome(self) -> tuple[bool, Any] | None:
        """Return what came of a whole: success and value, or exception; None before the end."""
    def has_room(self, made: int) -> bool:
        """Tell whether one more task may be submitted when `made` were: large ones wait for it."""
    def wait_room(self, made: int) -> None:
        """Wait until one more task may be submitted when `made` were, or none is needed."""
    def count(self, items: int) -> None:
        """Note that a task with so many items was made."""
    @property
    def items(self) -> int:
        """How many items there are in the tasks so far."""
    @property
    def handed(self) -> int:
        """How many results were taken out one by one."""
    @property
    def latest(self) -> int:
        """The number of the task that was submitted last."""
    @property
    def job(self) -> Any:
        """The job, or None if nobody has it any more."""
    def wait(self, timeout: float | None) -> bool:
        """Wait at most `timeout` seconds for the job's end; tell whether it has come."""
    def next(self, timeout: float | None) -> tuple[bool, Any] | None:
        """Take the next result out: success, and the value or exception.

        Returns:
            None if it has not come within `timeout` seconds.

        Raises:
            StopIteration: There are no more.
        """

@final
class PoolCore:
    """The shared parts of a pool: tasks, results, and a board that says who runs what.

    The parent submits and collects; a worker has a *line*, a number below `lines`, under which it
    takes tasks and reports what came of them. If a worker dies, `lost` tells which task it was
    running. Task numbers are reused once their result has been collected.
    """

    def __new__(cls, lines: int) -> Self: ...
    def _export(self) -> _PoolNames:
        """Return the names for `_attach`; RuntimeError outside of a collector or channel."""
    @staticmethod
    def _attach(names: _PoolNames) -> PoolCore:
        """Return the core that `_export` named; RuntimeError if it is gone."""
    def submit(
        self,
        task: Any,
        open: dict[int, Any],
        inbox: Inbox,
        place: int,
        keeper: Any,
        keep: bool,
    ) -> None:
        """Serialise a task, put it in line, and note it under its number in `open`.

        No result can be collected in between, and no signal handler can part the two.

        Args:
            task: What to call, its arguments, its keywords.
            open: Gets an entry under the task's number: inbox, place, the serialised task or None,
                1 for how often it was submitted, keeper.
            inbox: Where its result goes.
            place: Its place among the tasks of its job.
            keeper: Kept until the result has come; None: the job may go before.
            keep: Keep the serialised task, so that `submit_again` can be called.

        Raises:
            Exception: What serialising raised; nothing was submitted.
        """
    def submit_again(self, task: PackedTask, open: dict[int, Any], entry: Any) -> None:
        """Submit a task that was kept once more, and note `entry` under its number in `open`."""
    def feed(
        self,
        source: Iterator[Any],
        function: Any,
        mapper: Any,
        chunksize: int,
        open: dict[int, Any],
        inbox: Inbox,
        place: int,
        keeper: Any,
        keep: bool,
        most: int,
    ) -> tuple[int, tuple[Any, ...] | None, BaseException | None, bool]:
        """Make tasks of the items of `source`, from `place` on, and submit them.

        Args:
            source: The items.
            function: What to call, with each item, or by the mapper.
            mapper: Called with a pair: the function and a tuple of items; None for no mapper.
            chunksize: How many items the mapper is called with.
            open: As with `submit`, and so are the others.
            inbox: It counts the items as well. Once it is claimed nothing more is submitted.
            place: The place of the first task.
            keeper: As with `submit`.
            keep: As with `submit`.
            most: Return after so many tasks.

        Returns:
            The place of the next task; the items that could not be submitted, if it has stopped at
            that; why not, or None if they find memory once another task of the job is done; or else
            what the source has raised; whether there may be more. It
            returns early once the inbox has no room.
        """
    def enter(self, worker: int, stage: int) -> None:
        """Say how far a worker has come: 0 it is starting, 1 preparing, 2 ready to take tasks."""
    def stage(self, worker: int) -> int:
        """Return how far the worker of this line has come, see `enter`."""
    def take(self, worker: int) -> _Opened | None:
        """Take a task, waiting for one.

        Returns:
            Its number, whether it could be rebuilt, and the task or the exception that rebuilding
            raised; None when the pool is closed and nothing is left to do.
        """
    def finish(self, worker: int, number: int, result: Any) -> bool:
        """Report what came of task `number`.

        Returns:
            Whether the worker may take another task; False: it will be killed, see `doom`.

        Raises:
            Exception: What serialising the result raised; the task is still to be reported.
        """
    def collect(
        self, timeout: float | None, entries: dict[int, Any]
    ) -> tuple[
        bool,
        list[tuple[Any, bool, Any]],
        list[tuple[Any, BaseException]],
        list[int],
        list[tuple[int, Any]],
    ]:
        """Take the results that are there to their inboxes, at most 256, waiting for the first one.

        Args:
            timeout: Longest wait in seconds; None waits for ever. `nudge` ends it as well.
            entries: The `open` of `submit`. The entries of what is taken leave it.

        Returns:
            Whether there was anything; jobs whose last result has come, with success and value;
            entries whose result could not be rebuilt, with the exception; lines of workers that
            called `retire`; lines with what their workers gave to `last_words`.
        """
    def collect_own(self, entries: dict[int, Any], inbox: Inbox) -> tuple[bool, Any] | None:
        """Take the result of the task of `inbox` submitted last, if it comes within a moment.

        Only a short and plain one; for another, or a later one, there is `collect`.

        Args:
            entries: As with `collect`.
            inbox: Where the result goes.

        Returns:
            What to end the job with, if that was its last result: success and value.
        """
    def retire(self, worker: int) -> None:
        """Say that a worker has done its share and is about to end; `collect` returns."""
    def last_words(self, worker: int, words: Any) -> None:
        """Send `collect` what a worker has to say about its end."""
    def withdraw(self, numbers: set[int]) -> None:
        """Take tasks back that nobody has taken: they will not be run."""
    def running(self, worker: int) -> tuple[int, float | None] | None:
        """Return which task a worker is running, and since when by `time.monotonic`.

        None for the time: it has not come to say so. None: it runs none.
        """
    def doom(self, worker: int, number: int) -> bool:
        """Have a worker take nothing more after task `number`; False if it has done that.

        The caller then kills the worker, and no other task goes with it.
        """
    def nudge(self) -> None:
        """Let `collect` return, in whichever process waits there."""
    def lost(self, worker: int) -> int | None:
        """Return the number of the task that a dead worker was running, if it was running one.

        To be called when the worker is dead and all results have been collected.
        """
    def done(self, worker: int) -> int:
        """Return how many tasks the workers of this line have done."""
    def close(self) -> None:
        """Say that no task will come any more: workers that find none stop."""

# --- connections -----------------------------------------------------------------------------

def stream_pair(duplex: bool) -> tuple[int, int]:
    """Return two connected descriptors: a socket pair, or a pipe's reading and writing end."""

def pipe_pair() -> tuple[int, int]:
    """Return the sockets of a new pipe in shared memory.

    Connections made on them (or on duplicates, while one of them lives) send through it.
    """

@final
class PipeSide:
    """A side of a pipe in shared memory, for `Connection._enter`.

    Args:
        place: Where the other side's process says that it is; None makes a pipe.

    Raises:
        RuntimeError: No process holds the pipe any more, or this process is of another family.
        MemoryError: The family's arena is at its ceiling.
    """

    def __new__(cls, place: _Place | None = None) -> Self: ...
    @property
    def opposite(self) -> _Place:
        """Where the pipe's other side is."""

@final
class Other:
    """What `Connection._call` returns in place of a result."""

    @property
    def message(self) -> Any:
        """Another answer, as `Connection._receive` returns it. None: the call was not sent."""

def join_pipe(fd: int, place: _Place) -> None:
    """Tell this process that `fd` is the socket of the pipe at `place` (see `Connection._place`).

    Raises:
        RuntimeError: No process holds the pipe any more, or this process is of another family.
    """

@final
class Porch:
    """Callers of a listener that have not proved who they are, served all at once.

    Args:
        authkey: What they have to know; None asks for nothing.
        patience: How many seconds each has for its handshake, while somebody waits.
        room: How many there may be.
    """

    def __new__(cls, authkey: bytes | None, patience: float, room: int) -> Self: ...
    def add(self, number: int, fd: int, session: Any) -> None:
        """Take a caller in, under a number, with its session of TLS or None."""
    def shut(self, why: str) -> bool:
        """Say that there is no descriptor for who has knocked; False if nobody is here.

        Who has had a good share of its time has to go, else nobody knocks for a moment.
        """
    def wait(self, door: int, timeout: float | None) -> tuple[str, int, int, str]:
        """Serve the callers until something happens: what, to which one, its descriptor, why.

        What happens is "knock" (somebody waits at the listening socket `door`), "admitted",
        "refused" (another key), "dropped" or "timeout".
        """
    def close(self) -> None:
        """Send all callers away."""

def handshake_response(authkey: bytes, message: bytes) -> bytes:
    """Return the answer to the message of a challenge, with the digest that it names.

    Raises:
        AuthenticationError: It names none that is known.
    """

def handshake_answer(authkey: bytes, challenge: bytes) -> bytes:
    """Return the answer to a whole challenge.

    Raises:
        AuthenticationError: It is no challenge, or one that must not be answered.
    """

def handshake_verify(authkey: bytes, message: bytes, response: bytes) -> None:
    """Check the answer to the message of a challenge.

    Raises:
        AuthenticationError: It was made with another key, or is no answer.
    """

def send_now(fd: int, data: bytes) -> int:
    """Send what the socket takes without waiting, and return how many bytes that was."""

@final
class Hold:
    """Keeps a pipe in shared memory alive until it is freed; see `Connection._hold`."""

@disjoint_base
class Connection(Generic[_Sent_contra, _Received_co]):
    """One end of a connection, on a descriptor that it owns.

    Blocking calls let other threads run and run signal handlers; if one raises in the middle of
    a message, the next call goes on with that message. One thread at a time for each direction.
    If the process at the other end dies, what it had sent completely can still be received.

    Same as: `multiprocessing.connection.Connection`.
    """

    def __new__(cls, *_args: object, **_kwargs: object) -> Self: ...
    def __init__(self, handle: int, readable: bool = True, writable: bool = True) -> None: ...
    _handle: int | None
    @property
    def _ringed(self) -> bool:
        """Messages travel through shared memory."""
    def _probe(self) -> bool:
        """Tell whether `recv` would return, or raise EOFError, at once."""
    def _export(self) -> _Place:
        """Return as `_place`, keeping the pipe alive as handles of shared objects in flight are.

        Raises:
            RuntimeError: Outside of a collector and of a channel.
        """
    def _hold(self) -> Hold:
        """Return what keeps the pipe in shared memory alive, without its sockets."""
    def _place(self) -> _Place:
        """Return where the pipe lies in the arena, and which side of it this is."""
    def _enter(self, side: PipeSide, soundly: bool = False) -> None:
        """Have messages go through a pipe in shared memory; the socket becomes its life line.

        The other side's process has to do the same before anything is sent.

        Args:
            side: This side.
            soundly: Whether waiting here for long costs nothing at all. Only for threads that
                handle no signals, and if the other side is one process.
        """
    def _call(self, object: str, method: str, args: Any, kwds: Any) -> Any:
        """Make a call, for a manager's proxy, and return its result.

        Or an `Other`: the call is not plain (see `is_plain`), or the answer is no plain result.
        Without a pipe it goes as a frame that any `multiprocessing` reads.
        """
    def _answer(self, result: object) -> Any:
        """Answer a `_call` by its result, and return the next message, as `_receive`.

        None, and nothing was sent, if the result is not plain. After any error an answer is due.
        """
    def _receive(self) -> Any:
        """Return the next message as it was sent: bytes, or an object.

        That is (object, method, args, kwds) for a `_call`, through a pipe None in place of no
        keywords, and ("#RETURN", result) for an `_answer`. Frames come as bytes where more has to
        be known to unpickle them: longer ones, names of `multiprocessing`, errors.
        """
    def _to_stream(self) -> None:
        """Turn the pipe into a plain stream, for good: this end leaves the family.

        Raises:
            RuntimeError: There are messages to receive at this end, which would be lost.
        """
    def _recv_handle(self) -> int | None:
        """Receive a descriptor sent by `send_handle`; None: use the socket, there is no pipe."""
    @property
    def closed(self) -> bool:
        """This object was closed (the other side may be open)."""
    @property
    def readable(self) -> bool:
        """Messages can be received."""
    @property
    def writable(self) -> bool:
        """Messages can be sent."""
    def fileno(self) -> int:
        """Return the descriptor. It polls readable while there is something to receive, and at
        the end.

        Raises:
            OSError: The connection is closed.
        """
    def close(self) -> None:
        """Close the descriptor; may be called again.

        The other side sees the end once every copy of this one is closed, in all processes.
        """
    @classmethod
    def __class_getitem__(cls, item: Any) -> GenericAlias: ...
    def send(self, obj: _Sent_contra) -> None:
        """Pickle an object and send it; waits while the other side does not read.

        Raises:
            BrokenPipeError, ConnectionResetError: Nobody can receive any more.
            OSError: The connection is closed or read-only.

        Same as: `multiprocessing.connection.Connection.send`.
        """
    def send_bytes(self, buf: ReadableBuffer, offset: int = 0, size: int | None = None) -> None:
        """Send `size` bytes of a contiguous buffer, from byte `offset`, as one message.

        Args:
            buf: What to send. It has been copied when the call returns.
            offset: First byte.
            size: Number of bytes; None sends all from `offset` on.

        Raises:
            ValueError: `offset` or `size` is negative or beyond the buffer.
            BrokenPipeError, ConnectionResetError: Nobody can receive any more.

        Same as: `multiprocessing.connection.Connection.send_bytes`.
        """
    def recv(self) -> _Received_co:
        """Wait for an object, and return it.

        Raises:
            EOFError: The other side is closed and everything has been read.
            OSError: The other side died within a message, or the connection is write-only.

        Same as: `multiprocessing.connection.Connection.recv`.
        """
    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """Wait for a message.

        Args:
            maxlength: Most bytes that are accepted; None: any number.

        Raises:
            OSError: It is longer than `maxlength`; nothing can be received any more.
            EOFError: The other side is closed and everything has been read.

        Same as: `multiprocessing.connection.Connection.recv_bytes`.
        """
    def recv_bytes_into(self, buf: WriteableBuffer, offset: int = 0) -> int:
        """Wait for a message and put it into a buffer, from byte `offset`.

        Returns:
            The size of the message in bytes.

        Raises:
            BufferTooShort: It does not fit; it is the exception's argument.

        Same as: `multiprocessing.connection.Connection.recv_bytes_into`.
        """
    def poll(self, timeout: float | None = 0.0) -> bool:
        """Tell whether there is something to receive (or the end).

        Args:
            timeout: Longest wait for it in seconds; None waits for ever.

        Same as: `multiprocessing.connection.Connection.poll`.
        """
    def __enter__(self) -> Self: ...
    def __exit__(self, *_details: object) -> None: ...

# --- methods --------------------------------------------------------------------------------------

def own_methods(class_: _Class) -> _Class:
    """Give a class derived from a native one the most called methods of that as its own.

    The interpreter calls these faster than inherited ones. What the class's body defines stays.

    Returns:
        The class, so that it serves as a decorator.
    """

# --- objects as bytes ----------------------------------------------------------------------------

def is_plain(obj: object) -> bool:
    """Tell whether pickle would find only built-in types in an object, and few of them.

    No reducer and no class then has a say in how it is pickled.
    """

# For tests:

def _codec_dumps(obj: Any, is_task: bool = False) -> tuple[bytes, list[bytes]]:
    """Serialise an object as channels do: the head, and a copy of each out-of-band buffer."""

def _codec_loads(head: bytes, buffers: list[Any]) -> Any:
    """Rebuild what `_codec_dumps` made; the buffers become the property of the result."""

def _codec_copy(obj: Any) -> Any:
    """Serialise an object and rebuild it."""
