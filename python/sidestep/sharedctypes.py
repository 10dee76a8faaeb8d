"""Values and arrays of C types in shared memory.

`RawValue` and `RawArray` make ordinary `ctypes` objects whose memory all processes share that get
the object: as an argument at their start, or through a queue or a pipe of the family. `Value`
and `Array` add a lock around each access.

What other processes see: the same bytes, at once. A raw object has no protection: two processes
that write at the same time may leave half of each. If a process dies, the memory keeps what it
wrote. If it dies inside of `with value:`, the lock says so to the next one that wants it.
"""

import ctypes
import weakref
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from . import _original, get_context, heap
from .reduction import ForkingPickler

__all__ = ["Array", "RawArray", "RawValue", "Value", "copy", "synchronized"]

_T = TypeVar("_T")
# The type of a `ctypes` object.
_C = TypeVar("_C")

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


# --- without a lock ------------------------------------------------------------------------


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
    array = _allocate(type_ * len(size_or_initializer))
    array.__init__(*size_or_initializer)
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


@overload
def synchronized(
    obj: "ctypes._SimpleCData[_T]", lock: Any = None, ctx: Any = None
) -> "Synchronized[_T]": ...
@overload
def synchronized(
    obj: "ctypes.Array[ctypes.c_char]", lock: Any = None, ctx: Any = None
) -> "SynchronizedString": ...
@overload
def synchronized(
    obj: "ctypes.Array[Any]", lock: Any = None, ctx: Any = None
) -> "SynchronizedArray[Any]": ...
@overload
def synchronized(obj: _C, lock: Any = None, ctx: Any = None) -> "SynchronizedBase[_C]": ...
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
class SynchronizedBase(Generic[_C]):
    """A `ctypes` object and the lock that guards it.

    As a context manager it holds the lock: several accesses become one to the others.

    Args:
        obj: The `ctypes` object.
        lock: Its lock; None for a new recursive one.
        ctx: The context that makes the new lock; None for the default one.
    """

    def __init__(self, obj: _C, lock: Any = None, ctx: Any = None) -> None:
        self._obj = obj
        self._lock = lock if lock else (ctx or get_context()).RLock()
        # Bound here, once: they are the greater part of an access.
        self.acquire = self._lock.acquire
        self.release = self._lock.release

    def __enter__(self) -> Any:
        return self._lock.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Any:
        return self._lock.__exit__(kind, error, traceback)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # The lock first: outside of the family it raises a RuntimeError that says why, where the
        # pickler would stumble over the type of an array.
        return _rebuild_synchronized, (self._lock, self._obj)

    def get_obj(self) -> _C:
        """The object itself: whoever uses it must think of the lock."""
        return self._obj

    def get_lock(self) -> Any:
        """The lock, for more than one access at a time."""
        return self._lock

    def __repr__(self) -> str:
        return f"<{type(self).__name__} wrapper for {self._obj}>"


prop_cache: dict[str, property] = {}
class_cache: "weakref.WeakKeyDictionary[type, type[SynchronizedBase[Any]]]" = (
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
class Synchronized(SynchronizedBase["ctypes._SimpleCData[_T]"], Generic[_T]):
    """A number or a character with its lock."""

    if TYPE_CHECKING:
        value: _T
    else:
        value = make_property("value")


@_original.descend("sharedctypes")
class SynchronizedArray(SynchronizedBase["ctypes.Array[Any]"], Generic[_T]):
    """An array with its lock; each index, slice or assignment is one access."""

    def __len__(self) -> int:
        return len(self._obj)

    def __getitem__(self, index: Any) -> Any:
        self.acquire()
        try:
            return self._obj[index]
        finally:
            self.release()

    def __setitem__(self, index: Any, value: Any) -> None:
        self.acquire()
        try:
            self._obj[index] = value
        finally:
            self.release()


@_original.descend("sharedctypes")
class SynchronizedString(SynchronizedArray[bytes]):
    """An array of `c_char` with its lock; `value` ends at the first zero byte, `raw` does not."""

    value: Any = make_property("value")
    raw: Any = make_property("raw")


# --- memory and pickling -------------------------------------------------------------------


def _allocate(type_: Any) -> Any:
    """An instance of the type in new shared memory, all bytes zero."""
    return rebuild_ctype(type_, heap.BufferWrapper(ctypes.sizeof(type_)), None)


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
