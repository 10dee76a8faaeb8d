"""The native module: the engine's objects as Python classes.

Names and signatures here are the contract between the package and the binding.
"""

from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

# --- family -------------------------------------------------------------------------------

def arena_fd() -> int:
    """The descriptor of the family's arena, for a child that is about to be exec'd.

    Creates the arena if this process has none. Not inheritable: pass it by `pass_fds`
    (it keeps its number in the child).
    """

def attach(fd: int) -> None:
    """Join the family whose arena is `fd` (in a fresh interpreter, before anything is unpickled)."""

def pidfd_open(pid: int) -> int:
    """A descriptor that polls readable when the process `pid` has ended (close-on-exec).

    Raises:
        OSError: There is no such process (ESRCH) or the kernel refuses pidfds (ENOSYS, EPERM).
    """

# --- handles in flight ----------------------------------------------------------------------

class Collector:
    """While entered (in this thread), handles of shared objects may be pickled for a child.

    The collector takes a reference to each of them, and keeps it until it is released or
    freed: the parent holds it until the child has ended or has unpickled.
    Outside a collector (and outside `put`/`send` of the engine's channels) pickling a handle
    raises RuntimeError.
    """

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def release(self) -> None:
        """Drop the references. May be called again."""

class Handle:
    """Base of the native classes that live in the arena."""

    def _export(self) -> tuple[int, int]:
        """Offset and generation, for `_attach`. RuntimeError outside a collector or a channel."""

# --- memory ----------------------------------------------------------------------------------

class Block(Handle):
    """Zeroed memory in the arena: `size` bytes, aligned to 64, reference counted by process.

    Supports the writable buffer protocol; freed when no process holds it or a view of it.
    """

    def __new__(cls, size: int) -> Self: ...
    @classmethod
    def _attach(cls, handle: tuple[int, int]) -> Self: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
