"""Values and arrays of C types in shared memory.

`RawValue` and `RawArray` make ordinary `ctypes` objects whose memory all processes share that get
the object: as an argument at their start, or through a queue or a pipe of the family. `Value`
and `Array` add a lock around each access.

What other processes see: the same bytes, at once. A raw object has no protection: two processes
that write at the same time may leave half of each. If a process dies, the memory keeps what it
wrote. If it dies inside of `with value:`, the lock says so to the next one that wants it.
"""

from __future__ import annotations

import ctypes
import weakref

from . import _original, _sidestep, get_context, heap
from .reduction import ForkingPickler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, Generic, Literal, Protocol, SupportsIndex, TypeVar, overload

    _T = TypeVar("_T")
    # The type of a `ctypes` object.
    _C = TypeVar("_C")
    # One that arrays can be made of.
    _D = TypeVar("_D", bound="ctypes._SimpleCData[Any] | ctypes.Structure | ctypes.Union")

    class LockLike(Protocol):
        """What `Value` and `Array` need of a lock of one's own."""

        def acquire(self) -> Any: ...
        def release(self) -> Any: ...

else:
    from ._generic import Generic

    _T = _C = None

__all__ = ["Array", "RawArray", "RawValue", "Value", "copy", "synchronized"]

typecode_to_type: dict[Any, Any] = {
    "c": ctypes.c_char,
    "u": ctypes.c_wchar,
    "b": ctypes.c_byte,
    "B": ctypes.c_ubyte,
    "h": ctypes.c_short,
    "H": ctypes.c_ushort,
    "i": ctypes.c_int,
    "I": ctypes.c_uint,
    "l": ctypes.c_long,
    "L": ctypes.c_ulong,
    "q": ctypes.c_longlong,
    "Q": ctypes.c_ulonglong,
    "f": ctypes.c_float,
    "d": ctypes.c_double,
}


# Types that the engine reads and writes by itself, with the letter that it knows them by.
_letters: dict[Any, str] = {type_: code for code, type_ in typecode_to_type.items()}
_letters[ctypes.c_bool] = "?"


# --- without a lock ------------------------------------------------------------------------


if TYPE_CHECKING:

    @overload
    def RawValue(typecode_or_type: type[_C], *args: Any) -> _C: ...
    @overload
    def RawValue(typecode_or_type: str, *args: Any) -> Any: ...


def RawValue(typecode_or_type: Any, *args: Any) -> Any:
    """Make a `ctypes` object in shared memory, without a lock.

    Args:
        typecode_or_type: A `ctypes` type, or one of the letters of the `array` module.
        *args: What the type's constructor takes; without it all bytes are zero.

    Returns:
        An instance of that type. No process sees another's write halfway only where the
        processor writes it in one go: aligned numbers of up to eight bytes.

    Raises:
        MemoryError: The arena is at its limit.
    """
    obj = _allocate(typecode_to_type.get(typecode_or_type, typecode_or_type))
    obj.__init__(*args)
    return obj


if TYPE_CHECKING:

    @overload
    def RawArray(
        typecode_or_type: type[_D], size_or_initializer: int | Sequence[Any]
    ) -> ctypes.Array[_D]: ...
    @overload
    def RawArray(typecode_or_type: str, size_or_initializer: int | Sequence[Any]) -> Any: ...


def RawArray(typecode_or_type: Any, size_or_initializer: int | Sequence[Any]) -> Any:
    """Make a `ctypes` array in shared memory, without a lock.

    Args:
        typecode_or_type: Type of the items: a `ctypes` type or a letter.
        size_or_initializer: Number of items, all zero (zero items are allowed), or the items.

    Returns:
        The array. `numpy.frombuffer(array, dtype=...)` and `memoryview(array)` are views of the
        same memory.

    Raises:
        ValueError: The number is negative.
        MemoryError: The arena is at its limit.
    """
    type_ = typecode_to_type.get(typecode_or_type, typecode_or_type)
    if isinstance(size_or_initializer, int):
        return _allocate(type_ * size_or_initializer)
    length = len(size_or_initializer)
    array = _allocate(type_ * length)
    items: Any = size_or_initializer
    if type(items) not in (list, tuple):
        items = tuple(items)
    letter = _letters.get(type_)
    # What the engine does not know how to store, and whatever is wrong, is up to `ctypes`.
    if (
        letter is None
        or len(items) != length
        or not _sidestep.fill(array._wrapper._block, letter, items)
    ):
        array.__init__(*items)
    return array


def copy(obj: Any) -> Any:
    """Copy a `ctypes` object into shared memory of its own.

    Args:
        obj: Any `ctypes` object without a lock around it, shared or not.

    Returns:
        A new shared object of the same type, with the same bytes and no lock.

    Raises:
        MemoryError: The arena is at its limit.
    """
    result = _allocate(type(obj))
    ctypes.memmove(ctypes.addressof(result), ctypes.addressof(obj), ctypes.sizeof(obj))
    return result


# --- with a lock ---------------------------------------------------------------------------


if TYPE_CHECKING:

    @overload
    def Value(
        typecode_or_type: type[ctypes._SimpleCData[_T]],
        *args: Any,
        lock: Literal[True] | LockLike | None = True,
        ctx: Any = None,
    ) -> Synchronized[_T]: ...
    @overload
    def Value(
        typecode_or_type: type[_C], *args: Any, lock: Literal[False], ctx: Any = None
    ) -> _C: ...
    @overload
    def Value(
        typecode_or_type: str,
        *args: Any,
        lock: Literal[True] | LockLike | None = True,
        ctx: Any = None,
    ) -> Synchronized[Any]: ...
    @overload
    def Value(
        typecode_or_type: str | type,
        *args: Any,
        lock: bool | LockLike | None = True,
        ctx: Any = None,
    ) -> Any: ...


def Value(typecode_or_type: Any, *args: Any, lock: Any = True, ctx: Any = None) -> Any:
    """Make a `ctypes` object in shared memory, with a lock around each access.

    `value.value += 1` is two accesses: write `with value:` around it.

    Args:
        typecode_or_type: A `ctypes` type, or one of the letters of the `array` module.
        *args: What the type's constructor takes; without it all bytes are zero.
        lock: True for a new recursive lock, a lock of your own, or False for none at all.
        ctx: The context that makes the lock.

    Returns:
        A `SynchronizedBase` around the object, or with `lock=False` the object itself.

    Raises:
        AttributeError: `lock` is no lock.
        MemoryError: The arena is at its limit.
    """
    return _with_lock(RawValue(typecode_or_type, *args), lock, ctx)


if TYPE_CHECKING:

    @overload
    def Array(
        typecode_or_type: type[ctypes.c_char],
        size_or_initializer: int | Sequence[Any],
        *,
        lock: Literal[True] | LockLike | None = True,
        ctx: Any = None,
    ) -> SynchronizedString: ...
    @overload
    def Array(
        typecode_or_type: type[ctypes._SimpleCData[_T]],
        size_or_initializer: int | Sequence[Any],
        *,
        lock: Literal[True] | LockLike | None = True,
        ctx: Any = None,
    ) -> SynchronizedArray[_T]: ...
    @overload
    def Array(
        typecode_or_type: type[_D],
        size_or_initializer: int | Sequence[Any],
        *,
        lock: Literal[False],
        ctx: Any = None,
    ) -> ctypes.Array[_D]: ...
    @overload
    def Array(
        typecode_or_type: str,
        size_or_initializer: int | Sequence[Any],
        *,
        lock: Literal[True] | LockLike | None = True,
        ctx: Any = None,
    ) -> SynchronizedArray[Any]: ...
    @overload
    def Array(
        typecode_or_type: str | type,
        size_or_initializer: int | Sequence[Any],
        *,
        lock: bool | LockLike | None = True,
        ctx: Any = None,
    ) -> Any: ...


def Array(
    typecode_or_type: Any,
    size_or_initializer: int | Sequence[Any],
    *,
    lock: Any = True,
    ctx: Any = None,
) -> Any:
    """Make a `ctypes` array in shared memory, with a lock around each access.

    Args:
        typecode_or_type: Type of the items: a `ctypes` type or a letter.
        size_or_initializer: Number of items, all zero (zero items are allowed), or the items.
        lock: True for a new recursive lock, a lock of your own, or False for none at all.
        ctx: The context that makes the lock.

    Returns:
        A `SynchronizedArray` (of `c_char` a `SynchronizedString`), or with `lock=False` the array
        itself. `numpy.frombuffer(array.get_obj(), dtype=...)` is a view of the same memory, which
        the lock does not guard.

    Raises:
        AttributeError: `lock` is no lock.
        MemoryError: The arena is at its limit.
    """
    return _with_lock(RawArray(typecode_or_type, size_or_initializer), lock, ctx)


if TYPE_CHECKING:

    @overload
    def synchronized(
        obj: ctypes._SimpleCData[_T], lock: Any = None, ctx: Any = None
    ) -> Synchronized[_T]: ...
    @overload
    def synchronized(
        obj: ctypes.Array[ctypes.c_char], lock: Any = None, ctx: Any = None
    ) -> SynchronizedString: ...
    @overload
    def synchronized(
        obj: ctypes.Array[Any], lock: Any = None, ctx: Any = None
    ) -> SynchronizedArray[Any]: ...
    @overload
    def synchronized(obj: _C, lock: Any = None, ctx: Any = None) -> SynchronizedBase[_C]: ...


def synchronized(obj: Any, lock: Any = None, ctx: Any = None) -> Any:
    """Put a lock around a `ctypes` object.

    Args:
        obj: A `ctypes` object, in general from `RawValue` or `RawArray`.
        lock: The lock; None for a new recursive one.
        ctx: The context that makes the new lock.

    Returns:
        A wrapper whose attributes and items are the object's, each access under the lock.
    """
    assert not isinstance(obj, SynchronizedBase), "the object has a lock around it already"
    kind: type[SynchronizedBase[Any]]
    if isinstance(obj, ctypes._SimpleCData):
        kind = Synchronized
    elif isinstance(obj, ctypes.Array):
        kind = SynchronizedString if obj._type_ is ctypes.c_char else SynchronizedArray
    else:
        kind = _wrapper_class(type(obj))
    return kind(obj, lock, ctx)


def _with_lock(obj: Any, lock: Any, ctx: Any) -> Any:
    if lock is False:
        return obj
    if lock is True:
        lock = None
    if lock is not None and not hasattr(lock, "acquire"):
        raise AttributeError(f"{lock!r} is no lock: it has no method 'acquire'")
    return synchronized(obj, lock, ctx=ctx)


@_original.descend("sharedctypes")
class SynchronizedBase(_sidestep.Guarded, Generic[_C]):
    """A `ctypes` object and the lock that guards it.

    As a context manager it holds the lock: several accesses become one to the others.

    Args:
        obj: The `ctypes` object.
        lock: Its lock; None for a new recursive one.
        ctx: The context that makes the new lock; None for the default one.
    """

    def __init__(self, obj: _C, lock: Any = None, ctx: Any = None) -> None:
        self._guard(obj, lock if lock else (ctx or get_context()).RLock(), _memory(obj))

    if TYPE_CHECKING:

        def get_obj(self) -> _C: ...

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # The lock first: outside of the family it raises a RuntimeError that says why, where the
        # pickler would stumble over the type of an array.
        return _rebuild_synchronized, (self._lock, self._obj)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} wrapper for {self._obj}>"


prop_cache: dict[str, property] = {}
class_cache: weakref.WeakKeyDictionary[type, type[SynchronizedBase[Any]]] = (
    weakref.WeakKeyDictionary()
)


def make_property(name: str) -> property:
    """The property of a wrapper that reads and writes its object's `name` under the lock."""
    known = prop_cache.get(name)
    if known is not None:
        return known

    def read(self: SynchronizedBase[Any]) -> Any:
        self.acquire()
        try:
            return getattr(self._obj, name)
        finally:
            self.release()

    def write(self: SynchronizedBase[Any], value: Any) -> None:
        self.acquire()
        try:
            setattr(self._obj, name, value)
        finally:
            self.release()

    return prop_cache.setdefault(name, property(read, write))


def _wrapper_class(type_: type) -> type[SynchronizedBase[Any]]:
    """The wrapper of a structure or union: one property per field, inherited ones included."""
    known = class_cache.get(type_)
    if known is None:
        fields = {
            field[0]: make_property(field[0])
            for base in reversed(type_.__mro__)
            for field in vars(base).get("_fields_", ())
        }
        known = type("Synchronized" + type_.__name__, (SynchronizedBase,), fields)
        class_cache[type_] = known
    return known


@_original.descend("sharedctypes")
@_sidestep.own_methods
class Synchronized(
    SynchronizedBase["ctypes._SimpleCData[_T]"], _sidestep.GuardedValue, Generic[_T]
):
    """A number or a character with its lock."""

    if TYPE_CHECKING:
        value: _T


@_original.descend("sharedctypes")
@_sidestep.own_methods
class SynchronizedArray(SynchronizedBase["ctypes.Array[Any]"], _sidestep.GuardedArray, Generic[_T]):
    """An array with its lock; each index, slice or assignment is one access."""

    if TYPE_CHECKING:
        # By length and index, as with the original; each item is one access.
        def __iter__(self) -> Iterator[_T]: ...

        @overload
        def __getitem__(self, index: SupportsIndex) -> _T: ...
        @overload
        def __getitem__(self, index: slice) -> list[_T]: ...
        def __getitem__(self, index: Any) -> Any: ...


@_original.descend("sharedctypes")
@_sidestep.own_methods
class SynchronizedString(SynchronizedArray[bytes], _sidestep.GuardedString):
    """An array of `c_char` with its lock; `value` ends at the first zero byte, `raw` does not."""

    if TYPE_CHECKING:

        def __getitem__(self, index: SupportsIndex | slice) -> bytes: ...  # type: ignore[override]


# --- memory and pickling -------------------------------------------------------------------


def _allocate(type_: Any) -> Any:
    """An instance of the type in new shared memory, all bytes zero."""
    return rebuild_ctype(type_, heap.BufferWrapper(ctypes.sizeof(type_)), None)


def _memory(obj: Any) -> tuple[_sidestep.Block, str, int] | None:
    """Where the object lies, the letter of its items and their number, if the engine knows it."""
    wrapper = getattr(obj, "_wrapper", None)
    if wrapper is None:
        return None
    type_: Any = type(obj)
    length = 1
    if isinstance(obj, ctypes.Array):
        length = type_._length_
        # A class of somebody's own may do all things in its own way.
        if type_ is not type_._type_ * length:
            return None
        type_ = type_._type_
    letter = _letters.get(type_)
    return None if letter is None else (wrapper._block, letter, length)


def _rebuild_synchronized(lock: Any, obj: Any) -> Any:
    return synchronized(obj, lock)


def rebuild_ctype(
    type_: Any, wrapper: heap.BufferWrapper, length: int | tuple[int, ...] | None
) -> Any:
    """The `ctypes` object that lives in the memory of `wrapper`.

    Args:
        type_: Its type, or for an array the type of the items.
        wrapper: The memory.
        length: Number of items of an array, of one in arrays the innermost first; else None.

    Returns:
        An instance that keeps the memory alive, and can itself be sent to other processes.
    """
    if length is not None:
        for dimension in (length,) if isinstance(length, int) else length:
            type_ = type_ * dimension
    # Found by exact type, so each new type must be told, here and in the process that receives it.
    ForkingPickler.register(type_, reduce_ctype)
    obj = type_.from_buffer(wrapper.create_memoryview())
    obj._wrapper = wrapper
    return obj


def reduce_ctype(obj: Any) -> Any:
    """How `ForkingPickler` and the engine's channels send a `ctypes` object.

    Shared ones go as a reference to their memory, all others of the same type by value.
    """
    wrapper = getattr(obj, "_wrapper", None)
    if wrapper is None:
        return obj.__reduce_ex__(2)
    type_: Any = type(obj)
    dimensions: list[int] = []
    # An array type that an expression made has no name that pickle could find it by.
    while issubclass(type_, ctypes.Array) and type_ is type_._type_ * type_._length_:
        dimensions.insert(0, type_._length_)
        type_ = type_._type_
    if len(dimensions) == 1:
        return rebuild_ctype, (type_, wrapper, dimensions[0])
    return rebuild_ctype, (type_, wrapper, tuple(dimensions) or None)
