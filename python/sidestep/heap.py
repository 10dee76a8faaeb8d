"""Shared memory without a name, for `sharedctypes`.

The engine's arena does the work; this module gives it the shape that programs know.
"""

from __future__ import annotations

import sys

from ._sidestep import Block

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["BufferWrapper"]


class Heap:
    """Where the memory of a `BufferWrapper` comes from: the arena of this family of processes."""

    def malloc(self, size: int) -> Block:
        """Allocate zeroed memory.

        Args:
            size: Bytes, at least one.

        Returns:
            The memory, aligned to 64 bytes. It is free again when no process holds the block,
            a copy of it or a view; a process that dies holds nothing.

        Raises:
            MemoryError: The arena is at its limit. What exists stays usable.
        """
        return Block(size)


class BufferWrapper:
    """Zeroed memory that children of this process may share.

    It can be handed to a process at its start (every start method) and sent through the family's
    queues and pipes: all see the same bytes, and nothing orders their accesses. If one of them dies
    the memory and its contents stay, for as long as any other process holds it.

    Args:
        size: Bytes; zero is allowed.

    Raises:
        ValueError: The size is negative.
        OverflowError: No address space could hold it.
        MemoryError: The arena is at its limit.
    """

    _heap = Heap()

    def __init__(self, size: int) -> None:
        if size < 0:
            raise ValueError(f"a size must not be negative, got {size}")
        if size >= sys.maxsize:
            raise OverflowError(f"a size of {size} bytes is too large")
        self._size = size
        self._block = self._heap.malloc(max(size, 1))

    def create_memoryview(self) -> memoryview:
        """View the memory: writable bytes.

        Returns:
            The view; it keeps the memory alive in this process, also without this object.
        """
        # A memoryview of a block may be longer than asked for only where the size is zero.
        return memoryview(self._block)[: self._size]

    def __reduce__(self) -> tuple[Callable[..., BufferWrapper], tuple[Any, ...]]:
        return _rebuild, (self._block._export(), self._size)


def _rebuild(handle: tuple[int, int, int], size: int) -> BufferWrapper:
    """The wrapper of a block that another process of the family made."""
    wrapper = BufferWrapper.__new__(BufferWrapper)
    wrapper._size = size
    wrapper._block = Block._attach(handle)
    return wrapper
