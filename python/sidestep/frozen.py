"""Objects that lie in shared memory once, and are read there by every process.

Under `fork` children read what their parent has made without copying it, it seems; but each
look at an object changes its reference count, which copies the page. A frozen object's large
buffers have no counts: they lie in the arena, once for all processes, whatever started these.
"""

from __future__ import annotations

import pickle
import weakref

from . import _sidestep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Generic, TypeVar

    _T = TypeVar("_T")
    _T_co = TypeVar("_T_co", covariant=True)
else:
    from ._generic import Generic

    _T_co = None

__all__ = ["Frozen", "freeze"]


class _Core:
    """What the handles of one frozen object share in this process."""

    def __init__(self, block: _sidestep.Frozen) -> None:
        self.block = block
        # Empty, or the object.
        self.built: dict[None, Any] = {}


# By the name of the block, which is good for as long as the core holds the block.
_cores: weakref.WeakValueDictionary[tuple[int, int], _Core] = weakref.WeakValueDictionary()


class Frozen(Generic[_T_co]):
    """A handle of a frozen object; made by `freeze`.

    It can be handed to processes at their start (every start method) and sent through the
    family's queues, pipes and pools: what travels is a name.

    Process safety: any number of threads and processes may use it at once.
    If one dies: the object stays as long as any other process has a handle, a view or an array of
    it, or it is on its way to one.
    """

    __slots__ = ("__weakref__", "_core")
    _core: _Core

    def get(self) -> _T_co:
        """Return the object: the same one each time, as long as this process has a handle.

        The first call in a process rebuilds the object. Arrays and other large buffers are then
        read-only views of the shared memory, which they keep alive, also without the handle.
        Containers, strings and `bytes` are this process's own copies: what one process changes in
        a list that it got, others do not see.

        Raises:
            Exception: What rebuilding the object raised.
        """
        core = self._core
        if not core.built:
            # Should two threads get here, both go on with the object of the first.
            core.built.setdefault(None, core.block._build())
        built: _T_co = core.built[None]
        return built

    @property
    def nbytes(self) -> int:
        """Bytes of shared memory that the object takes, once for all processes."""
        return len(self._core.block)

    def __reduce__(self) -> tuple[Callable[..., Frozen[Any]], tuple[Any, ...]]:
        return _thaw, (self._core.block._export(),)

    def __repr__(self) -> str:
        what = f" of {type(self._core.built[None]).__name__}" if self._core.built else ""
        return f"<{type(self).__name__}{what}, {self.nbytes} bytes>"


def freeze(obj: _T) -> Frozen[_T]:
    """Put an object into shared memory, for many processes to read without a copy each.

    The object is pickled once, with protocol 5. Its large buffers (32 KiB or more: numpy arrays,
    pandas columns, `pickle.PickleBuffer`, anything that pickles out of band) lie in the arena and
    are used in place; the rest is rebuilt in each process that calls `get`. A `bytes` or
    `bytearray` cannot be a view of something; wrap it in `memoryview` to share it.

    Args:
        obj: Anything that can be pickled, or a memoryview. Later changes to it are not seen.

    Returns:
        The handle. When the last process has let go of the last handle and the last view, the
        memory is free.

    Raises:
        MemoryError: The arena is at its limit.
        pickle.PicklingError, TypeError, ...: What pickling the object raised.
    """
    contents = pickle.PickleBuffer(obj) if isinstance(obj, memoryview) else obj
    return _handle(_sidestep.Frozen(contents))


def _handle(block: _sidestep.Frozen) -> Frozen[Any]:
    handle: Frozen[Any] = Frozen.__new__(Frozen)
    handle._core = _cores.setdefault(block._name, _Core(block))
    return handle


def _thaw(name: tuple[int, int]) -> Frozen[Any]:
    """The handle that another process sent."""
    return _handle(_sidestep.Frozen._attach(name))
