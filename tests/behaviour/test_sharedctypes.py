"""Values and arrays of C types, shared with children of every start method and sent by queues."""

import array
import ctypes
import functools
import gc
import operator
import pickle
import signal
import struct
import sys
import threading
from collections.abc import Callable
from multiprocessing import sharedctypes as original_sharedctypes
from typing import Any

import pytest

import sidestep
from sidestep import heap, sharedctypes
from sidestep.reduction import ForkingPickler
from sidestep.synchronize import AbandonedLockError


@pytest.fixture(params=["fork", "spawn", "forkserver"])
def ctx(request: pytest.FixtureRequest) -> Any:
    return sidestep.get_context(request.param)


def in_child(ctx: Any, target: Callable[..., None], *args: Any) -> None:
    """Run the function in a child; its asserts count here."""
    child = ctx.Process(target=target, args=args)
    child.start()
    child.join()
    assert child.exitcode == 0
    child.close()


class Pair(ctypes.Structure):
    _fields_ = [("x", ctypes.c_int), ("y", ctypes.c_double)]


class Triple(Pair):
    _fields_ = [("z", ctypes.c_short)]


class Either(ctypes.Union):
    _fields_ = [("number", ctypes.c_uint32), ("bytes", ctypes.c_uint8 * 4)]


SAMPLES: dict[str, Any] = {
    "c": b"x",
    "u": "ß",
    "b": -128,
    "B": 255,
    "h": -32768,
    "H": 65535,
    "i": -(2**31),
    "I": 2**32 - 1,
    "l": -(2**63),
    "L": 2**64 - 1,
    "q": -(2**63),
    "Q": 2**64 - 1,
    "f": 0.5,
    "d": 3.25,
}


# --- in one process ------------------------------------------------------------------------


def test_every_type_code_is_known() -> None:
    assert set(sharedctypes.typecode_to_type) == set(SAMPLES)


@pytest.mark.parametrize("code", SAMPLES)
@pytest.mark.parametrize("lock", [True, False])
def test_value_of_each_type_code(code: str, lock: bool) -> None:
    value = sidestep.Value(code, lock=lock)
    assert value.value == sharedctypes.typecode_to_type[code]().value
    value.value = SAMPLES[code]
    assert value.value == SAMPLES[code]
    assert sidestep.Value(code, SAMPLES[code], lock=lock).value == SAMPLES[code]


@pytest.mark.parametrize("code", SAMPLES)
def test_array_of_each_type_code(code: str) -> None:
    empty = sharedctypes.typecode_to_type[code]().value
    array = sidestep.Array(code, 3)
    assert list(array) == [empty] * 3
    array[1] = SAMPLES[code]
    assert list(array) == [empty, SAMPLES[code], empty]
    assert list(sidestep.Array(code, [SAMPLES[code]] * 2)) == [SAMPLES[code]] * 2


@pytest.mark.parametrize("lock", [True, False])
def test_array_indexes_and_slices(lock: bool) -> None:
    array = sidestep.Array("i", range(10), lock=lock)
    assert len(array) == 10
    assert array[-1] == 9
    assert array[2:5] == [2, 3, 4]
    assert array[::-3] == [9, 6, 3, 0]
    array[0:3] = [7, 7, 7]
    assert array[:] == [7, 7, 7, 3, 4, 5, 6, 7, 8, 9]
    with pytest.raises(IndexError):
        array[10]
    with pytest.raises(IndexError):
        array[10] = 1
    with pytest.raises(ValueError, match="size"):
        array[0:2] = [1]


def test_items_cannot_be_deleted() -> None:
    array: Any = sidestep.Array("i", 3)
    with pytest.raises(AttributeError, match="its length is fixed"):
        del array[0]
    with pytest.raises(AttributeError, match="its length is fixed"):
        del array[:]
    assert array[:] == [0, 0, 0]


def test_errors_leave_the_lock_free() -> None:
    array = sidestep.Array("i", 1)
    value = sidestep.Value("i")
    with pytest.raises(IndexError):
        array[5]
    with pytest.raises(TypeError):
        value.value = "text"
    lock = sidestep.Lock()
    guarded = sharedctypes.synchronized(sidestep.RawArray("i", 1), lock)
    with pytest.raises(IndexError):
        guarded[5] = 1
    assert lock.acquire(block=False)
    lock.release()


def test_strings() -> None:
    string = sidestep.Array("c", b"hello")
    assert isinstance(string, sharedctypes.SynchronizedString)
    assert string.value == string.raw == b"hello"
    string.value = b"hi"
    assert (string.value, string.raw) == (b"hi", b"hi\0lo")
    string[0:2] = b"HO"
    assert string[:] == b"HO\0lo"


def test_structures_and_unions() -> None:
    pair = sidestep.Value(Pair, 3, 4.5)
    assert (pair.x, pair.y) == (3, 4.5)
    pair.x = 9
    assert pair.get_obj().x == 9
    assert type(pair) is type(sidestep.Value(Pair))
    assert type(pair).__name__ == "SynchronizedPair"
    assert sharedctypes.class_cache[Pair] is type(pair)
    triple = sidestep.Value(Triple, 1, 2.0, 3)
    assert (triple.x, triple.y, triple.z) == (1, 2.0, 3)
    either = sidestep.Value(Either, 0x01020304)
    assert either.bytes[0] in (1, 4)
    pairs = sidestep.Array(Pair, [(1, 2.0), (3, 4.0)])
    assert [(each.x, each.y) for each in pairs] == [(1, 2.0), (3, 4.0)]


def test_wrappers_say_what_they_wrap() -> None:
    assert repr(sidestep.Value("i", 3)) == "<Synchronized wrapper for c_int(3)>"


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_arrays_start_as_zeros(size: int) -> None:
    # The second one may get memory that the first has used.
    for _ in range(2):
        array = sidestep.RawArray("B", size)
        assert bytes(array) == bytes(size)
        ctypes.memset(array, 0xFF, size)
        del array


def test_arrays_without_items() -> None:
    assert sidestep.Array("i", 0)[:] == []
    assert sidestep.RawArray("d", [])[:] == []
    assert len(sidestep.Array("c", b"")) == 0


def test_bad_sizes() -> None:
    with pytest.raises(ValueError):
        sidestep.Array("i", -1)
    with pytest.raises(TypeError):
        sidestep.Array("i", 1.5)  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        sidestep.Value("no such type")


def test_more_memory_than_there_is_is_a_memory_error() -> None:
    with pytest.raises(MemoryError):
        sidestep.RawArray("c", 1 << 60)
    with pytest.raises(MemoryError):
        sidestep.Array("d", 1 << 55)
    assert sidestep.Array("i", [1, 2])[:] == [1, 2]


# --- locks ---------------------------------------------------------------------------------


def test_lock_true_and_none_make_a_recursive_lock() -> None:
    for value in (
        sidestep.Value("i"),
        sidestep.Value("i", lock=True),
        sidestep.Value("i", lock=None),
    ):
        with value, value.get_lock():
            value.value += 1
        assert value.value == 1


def test_a_lock_of_ones_own_is_used() -> None:
    for kind in (sidestep.Lock, sidestep.RLock):
        lock = kind()
        assert sidestep.Value("i", lock=lock).get_lock() is lock
        assert sidestep.Array("i", 3, lock=lock).get_lock() is lock


def test_without_a_lock_it_is_the_object_itself() -> None:
    value, array = sidestep.Value("i", 5, lock=False), sidestep.Array("i", 3, lock=False)
    assert isinstance(value, ctypes.c_int)
    assert isinstance(array, ctypes.Array)
    assert not hasattr(value, "get_lock")
    assert not hasattr(array, "get_obj")


@pytest.mark.parametrize("lock", ["navalue", 5, object(), []])
def test_what_is_no_lock_is_an_attribute_error(lock: object) -> None:
    with pytest.raises(AttributeError, match="acquire"):
        sidestep.Value("i", lock=lock)  # type: ignore[call-overload]
    with pytest.raises(AttributeError, match="acquire"):
        sidestep.Array("i", 3, lock=lock)  # type: ignore[call-overload]


class CountingLock:
    """Counts; has no more than the two methods that a lock must have."""

    def __init__(self) -> None:
        self.taken = self.held = 0

    def acquire(self) -> None:
        self.taken += 1
        self.held += 1

    def release(self) -> None:
        self.held -= 1


def test_each_access_takes_the_lock_once() -> None:
    lock: Any = CountingLock()
    value = sidestep.Value("i", lock=lock)
    value.value = value.value + 1
    assert (lock.taken, lock.held) == (2, 0)
    array = sidestep.Array("i", 3, lock=lock)
    array[0] = array[1]
    array[:] = array[:]
    assert (lock.taken, lock.held) == (6, 0)


def test_synchronized_refuses_what_has_a_lock_already() -> None:
    with pytest.raises(AssertionError):
        sharedctypes.synchronized(sidestep.Value("i"))


# --- memory --------------------------------------------------------------------------------


def test_copy_is_another_object_with_the_same_contents() -> None:
    original = sharedctypes.RawValue(Pair, 2, 5.0)
    other = sharedctypes.copy(original)
    original.x = 7
    assert (other.x, other.y) == (2, 5.0)
    plain = (ctypes.c_int * 3)(1, 2, 3)
    shared = sharedctypes.copy(plain)
    assert type(shared) is type(plain)
    assert shared[:] == [1, 2, 3]


def test_memory_lives_as_long_as_a_view_of_it() -> None:
    view = memoryview(sidestep.RawArray("i", [1, 2, 3])).cast("B").cast("i")
    wrapped = heap.BufferWrapper(8).create_memoryview()
    gc.collect()
    others = [sidestep.RawArray("i", [9] * 3) for _ in range(100)]
    assert view.tolist() == [1, 2, 3]
    assert bytes(wrapped) == bytes(8)
    del others


def test_buffer_wrapper() -> None:
    buffer = heap.BufferWrapper(12)
    view = buffer.create_memoryview()
    assert len(view) == 12
    assert not view.readonly
    struct.pack_into("i", view, 4, 42)
    assert view.cast("i").tolist() == [0, 42, 0]
    assert len(heap.BufferWrapper(0).create_memoryview()) == 0
    with pytest.raises(ValueError):
        heap.BufferWrapper(-1)
    with pytest.raises(OverflowError):
        heap.BufferWrapper(sys.maxsize)


def test_numpy_sees_the_same_memory() -> None:
    numpy = pytest.importorskip("numpy")
    array = sidestep.Array("d", 6)
    view = numpy.frombuffer(array.get_obj(), dtype="d").reshape(2, 3)
    view[1, 0] = 5
    assert array[3] == 5
    array[0] = 7
    assert view[0, 0] == 7
    assert numpy.shares_memory(numpy.ctypeslib.as_array(array.get_obj()), view)
    raw = sidestep.RawArray("i", 3)
    numpy.asarray(raw)[:] = [1, 2, 3]
    assert raw[:] == [1, 2, 3]


def test_pickling_outside_of_a_start_or_a_channel_is_refused() -> None:
    for obj in (sidestep.Value("i"), sidestep.RawValue("i"), heap.BufferWrapper(4)):
        with pytest.raises(RuntimeError):
            pickle.dumps(obj)


def test_objects_that_are_not_shared_still_go_by_value() -> None:
    sidestep.RawValue(Pair)
    plain = Pair(1, 2.0)
    copy = pickle.loads(ForkingPickler.dumps(plain))
    plain.x = 9
    assert (copy.x, copy.y) == (1, 2.0)


# --- side by side with the standard library ------------------------------------------------


class Number(int):
    pass


class Index:
    def __index__(self) -> int:
        return 1


class Real:
    def __float__(self) -> float:
        return 2.5


class Letter(ctypes.c_int):
    """Arrays of it have items of this class, not ints."""


TYPES: list[Any] = [*sharedctypes.typecode_to_type.values(), ctypes.c_bool]
# Types of which the engine knows nothing.
OTHERS: list[Any] = [ctypes.c_longdouble, ctypes.c_int.__ctype_be__, Letter]
ANYTHING: list[Any] = [
    *(sign * 2**bits + near for bits in (0, 7, 8, 15, 16, 31, 32, 63, 64, 2000)
      for sign in (1, -1) for near in (-1, 0, 1)),
    *(True, False, None, Number(7), Index(), Real()),
    *(0.0, -0.0, 1.5, -2.25, 1e300, 1e-320, float("nan"), float("inf"), -float("inf")),
    *("", "x", "xy", "ß", "\U0001f600", "\ud800"),
    *(b"", b"x", b"\0", b"xy", bytearray(b"x"), bytearray()),
    *(ctypes.c_int(3), ctypes.c_double(2.5), ctypes.c_char(b"q"), ctypes.c_bool(True)),
]  # fmt: skip
PLACES: list[Any] = [
    *range(-7, 8), True, Index(), 2**100, -(2**100), 1.0, None, "1", Number(2),
    *(slice(*parts) for parts in (
        (None,), (2,), (1, 4), (None, None, 2), (None, None, -1), (4, 0, -2), (10, 20), (-3, None),
        (3, 1), (None, None, 0), (2**80,), (Index(), None), ("a",), (-100, 100, 3), (1, 1),
    )),
]  # fmt: skip


def outcome(act: Callable[[], Any]) -> Any:
    """What comes of it, or what is raised: with types, and texts of errors."""
    try:
        result = act()
    except Exception as error:
        return type(error), str(error)
    if isinstance(result, list):
        return [(type(item), _plain(item)) for item in result]
    if isinstance(result, ctypes.Array):
        return type(result), bytes(result)
    return type(result), _plain(result)


def _plain(value: Any) -> str:
    return repr(value.value if isinstance(value, ctypes._SimpleCData) else value)


def original(obj: Any) -> Any:
    lock: Any = threading.RLock()
    return original_sharedctypes.synchronized(obj, lock)


def put(obj: Any, name: str, value: Any) -> Any:
    """What comes of writing an attribute."""
    return outcome(lambda: setattr(obj, name, value))


@pytest.mark.parametrize("type_", TYPES + OTHERS, ids=lambda type_: str(type_.__name__))
def test_a_value_takes_and_gives_what_the_original_does(type_: Any) -> None:
    ours, theirs = sidestep.Value(type_), original(type_())
    for value in ANYTHING:
        for each in (ours, theirs):
            each.get_obj().__init__()
        assert put(ours, "value", value) == put(theirs, "value", value), value
        assert outcome(lambda: ours.value) == outcome(lambda: theirs.value), value
        if type_ is not ctypes.c_longdouble:  # whose last bytes are anything
            assert bytes(ours.get_obj()) == bytes(theirs.get_obj()), value


@pytest.mark.parametrize("type_", TYPES + OTHERS, ids=lambda type_: str(type_.__name__))
def test_an_array_takes_and_gives_what_the_original_does(type_: Any) -> None:
    ours: Any = sidestep.Array(type_, 6)
    theirs = original((type_ * 6)())
    size = ctypes.sizeof(ours.get_obj())
    assert len(ours) == len(theirs)

    def both(act: Callable[..., Any], *args: Any) -> None:
        assert outcome(lambda: act(ours, *args)) == outcome(lambda: act(theirs, *args)), args
        assert bytes(ours.get_obj()) == bytes(theirs.get_obj()), args

    for start in (b"\0" * size, bytes(range(33, 33 + 6)) * (size // 6), b"\xff" * size):
        for place in PLACES:
            for items in (ours, theirs):
                ctypes.memmove(items.get_obj(), start, size)
            both(operator.getitem, place)
            for values in ([], [1, 2, 3], (1.5, 2.5, 3.5), [1, None, 3], "abc", b"abc", range(3)):
                both(operator.setitem, place, values)
        both(list)
    for value in ANYTHING:
        both(operator.setitem, 1, value)
        both(operator.setitem, -1, value)
        both(operator.setitem, slice(None), [value] * 6)
        both(operator.getitem, -1)
    for name in ("value", "raw"):
        assert hasattr(ours, name) == hasattr(theirs, name)


@pytest.mark.parametrize("type_", TYPES + OTHERS, ids=lambda type_: str(type_.__name__))
def test_an_array_is_filled_as_ctypes_would(type_: Any) -> None:
    for value in ANYTHING:
        for items in ([value], (value, value), [value, 1], ["x", value]):
            made = outcome(functools.partial(sidestep.RawArray, type_, items))
            expected = outcome(functools.partial(type_ * len(items), *items))
            assert made == expected, items
    assert sidestep.RawArray("i", array.array("i", [1, 2]))[:] == [1, 2]


LONG = 70_001


@pytest.mark.parametrize("code", ["b", "H", "i", "d", "q"])
@pytest.mark.parametrize("kind", [list, tuple])
def test_a_long_fill_of_new_memory_reaches_each_item(code: str, kind: Any) -> None:
    items = kind(number % 100 for number in range(LONG))
    shared = sidestep.Array(code, LONG + 2)
    # Neither a page nor a chunk begins here.
    shared[1:-1] = items
    assert (shared[0], shared[-1]) == (0, 0)
    assert shared[1:-1] == list(items)
    # Once more, now that the memory has been touched.
    shared[1:-1] = items[::-1]
    assert shared[1:-1] == list(items[::-1])
    assert sidestep.Array(code, items)[:] == list(items)


def test_a_long_fill_that_fails_does_what_ctypes_does() -> None:
    items: list[Any] = list(range(LONG))
    items[LONG // 2] = "no number"
    shared, plain = sidestep.Array("i", LONG), (ctypes.c_int * LONG)()
    with pytest.raises(TypeError):
        shared[:] = items
    with pytest.raises(TypeError):
        plain[:] = items
    assert shared[:] == plain[:]
    shared[:] = list(range(LONG))
    assert shared[:] == list(range(LONG))


def test_strings_take_and_give_what_the_original_does() -> None:
    ours: Any = sidestep.Array("c", 4)
    theirs = original((ctypes.c_char * 4)())
    for value in (b"", b"ab", b"abcd", b"abcde", b"a\0b", "text", None, bytearray(b"xy")):
        for name in ("value", "raw"):
            assert put(ours, name, value) == put(theirs, name, value)
            assert (ours.value, ours.raw) == (theirs.value, theirs.raw)


def test_a_class_of_ones_own_does_things_in_its_own_way() -> None:
    class Loud(ctypes.c_int * 2):  # type: ignore[misc]
        def __getitem__(self, index: Any) -> Any:
            return ("loud", super().__getitem__(index))

    wrapped = sharedctypes.synchronized(sharedctypes.copy(Loud(1, 2)))
    assert wrapped[1] == ("loud", 2)

    class Doubled(sharedctypes.Synchronized[int]):
        @property  # type: ignore[misc]
        def value(self) -> int:  # type: ignore[override]
            return 2 * super().value

    raw = sidestep.RawValue("i", 4)
    assert Doubled(raw).value == 8

    class Entered(sharedctypes.SynchronizedArray[int]):
        def __getitem__(self, index: Any) -> Any:
            with self:
                return super().__getitem__(index)

        def __len__(self) -> int:
            return 1

    entered = Entered(sidestep.RawArray("i", [5, 6]))
    assert (len(entered), entered[1]) == (1, 6)


def test_an_access_from_within_an_access() -> None:
    counter = sidestep.Value("i", 3)

    class Reads:
        def __float__(self) -> float:
            return float(counter.value) + 0.5

    real = sidestep.Value("d", lock=counter.get_lock())
    real.value = Reads()
    assert real.value == 3.5
    assert repr(counter.get_lock()).endswith("(None, 0)>")


def test_a_lock_with_methods_of_its_own_is_asked() -> None:
    calls = []

    class Spy(type(sidestep.RLock())):  # type: ignore[misc]
        def acquire(self, *args: Any) -> Any:
            calls.append("acquire")
            return super().acquire(*args)

        def release(self) -> None:
            calls.append("release")
            super().release()

        def __enter__(self) -> Any:
            calls.append("enter")
            return super().__enter__()

    value = sidestep.Value("i", lock=Spy())
    value.value = 5
    assert calls == ["acquire", "release"]
    with value:
        calls.clear()
    assert value.acquire()
    value.release()
    assert calls == ["acquire", "release"]


def test_a_lock_that_is_not_recursive_is_held_once() -> None:
    lock = sidestep.Lock()
    array = sidestep.Array("i", [1, 2, 3], lock=lock)
    array[0] = array[1] + sum(array[:]) + len(array)
    array[:] = [7, 8, 9]
    with pytest.raises(TypeError):
        array[0] = "x"
    assert not lock.locked()
    with lock:
        assert array.get_obj()[:] == [7, 8, 9]


def test_a_wrapper_without_its_parts_says_so() -> None:
    class Forgetful(sharedctypes.SynchronizedArray[int]):
        def __init__(self) -> None:
            pass

    for act in (len, list, lambda array: array.get_lock(), lambda array: array.acquire):
        with pytest.raises(RuntimeError, match="initialised"):
            act(Forgetful())


def test_the_parts_of_a_wrapper_stay_what_they_are() -> None:
    value: Any = sidestep.Value("i")
    for name in ("_obj", "_lock", "acquire", "release"):
        with pytest.raises(AttributeError):
            setattr(value, name, None)
    with pytest.raises(RuntimeError, match="already"):
        value.__init__(sidestep.RawValue("i"))


def test_large_memory_is_zeros_again() -> None:
    for _ in range(3):
        items = sidestep.RawArray("B", 3_000_001)
        assert not any(memoryview(items).cast("B")[::509])
        assert bytes(items) == bytes(3_000_001)
        ctypes.memset(items, 0xFF, 3_000_001)
        del items


def test_objects_that_are_not_shared_can_have_a_lock() -> None:
    plain = (ctypes.c_int * 2)()
    wrapped = sharedctypes.synchronized(plain)
    wrapped[1] = 5
    assert plain[1] == wrapped[1] == 5
    assert wrapped.get_obj() is plain


# --- with other processes ------------------------------------------------------------------


def _double(number: Any, real: Any, pair: Any, array: Any, string: Any) -> None:
    number.value *= 2
    real.value *= 2
    pair.x *= 2
    pair.y *= 2
    string.value *= 2
    for index in range(len(array)):
        array[index] *= 2


@pytest.mark.parametrize("lock", [True, False])
def test_child_and_parent_see_the_same_memory(ctx: Any, lock: bool) -> None:
    number = ctx.Value("i", 7, lock=lock)
    real = ctx.Value(ctypes.c_double, 1 / 3, lock=lock)
    pair = ctx.Value(Pair, 3, 2.5, lock=lock)
    array = ctx.Array("d", range(10), lock=lock)
    string = ctx.Array("c", 20, lock=lock)
    string.value = b"hello"
    in_child(ctx, _double, number, real, pair, array, string)
    assert number.value == 14
    assert real.value == 2 / 3
    assert (pair.x, pair.y) == (6, 5.0)
    assert array[:] == [2.0 * index for index in range(10)]
    assert string.value == b"hellohello"


def _fill(*objects: Any) -> None:
    values, nested, empty, table = objects
    for code, value in values.items():
        value.value = SAMPLES[code]
    nested[1][2] = 5
    assert len(empty) == 0
    table[1].y = 2.5


def test_every_type_reaches_a_child(ctx: Any) -> None:
    values = {code: ctx.Value(code, lock=False) for code in SAMPLES}
    nested = ctx.RawArray(ctypes.c_int * 3, 2)
    table = ctx.RawArray(Pair, 2)
    in_child(ctx, _fill, values, nested, ctx.Array("i", 0), table)
    assert {code: value.value for code, value in values.items()} == SAMPLES
    assert nested[1][2] == 5
    assert table[1].y == 2.5


def _count(value: Any, array: Any, times: int) -> None:
    for _ in range(times):
        with value:
            value.value += 1
        with array.get_lock():
            array[0] += 1


def test_no_count_is_lost_under_the_lock(ctx: Any) -> None:
    value, array = ctx.Value("i"), ctx.Array("i", 1)
    children = [ctx.Process(target=_count, args=(value, array, 200)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert (value.value, array[0]) == (600, 600)


def _same_lock(first: Any, second: Any, lock: Any) -> None:
    assert first.get_lock() is second.get_lock() is lock
    with first:
        second.get_obj().value = 1


def test_a_shared_lock_is_one_lock_in_the_child_too(ctx: Any) -> None:
    lock = ctx.RLock()
    first, second = ctx.Value("i", lock=lock), ctx.Value("i", lock=lock)
    in_child(ctx, _same_lock, first, second, lock)
    assert second.value == 1


def _wrapper_child(buffer: heap.BufferWrapper) -> None:
    buffer.create_memoryview()[:3] = b"abc"


def test_buffer_wrapper_reaches_a_child(ctx: Any) -> None:
    buffer = heap.BufferWrapper(5)
    in_child(ctx, _wrapper_child, buffer)
    assert bytes(buffer.create_memoryview()) == b"abc\0\0"


def _grandchild(array: Any) -> None:
    array[1] = 2


def _child_with_child(method: str, array: Any) -> None:
    array[0] = 1
    in_child(sidestep.get_context(method), _grandchild, array)


def test_grandchildren_share_too(ctx: Any) -> None:
    array = ctx.Array("i", 2)
    in_child(ctx, _child_with_child, ctx.get_start_method(), array)
    assert array[:] == [1, 2]


def _answer(requests: Any, answers: Any) -> None:
    for obj in iter(requests.get, None):
        if isinstance(obj, sharedctypes.SynchronizedArray):
            obj[0] += 1
        elif isinstance(obj, ctypes.Array):
            obj[-1] += 1
        else:
            obj.value += 1
        answers.put(True)
    made_here = sidestep.Value("i", 5)
    answers.put(made_here)
    answers.put(True)


def test_objects_made_after_the_start_travel_through_queues(ctx: Any) -> None:
    requests, answers = ctx.Queue(), ctx.Queue()
    child = ctx.Process(target=_answer, args=(requests, answers))
    child.start()
    value, array, raw = ctx.Value("i", 1), ctx.Array("d", [1, 2]), ctx.RawArray("i", [1, 2])
    for obj in (value, array, raw):
        requests.put(obj)
        assert answers.get() is True
    assert (value.value, array[:], raw[:]) == (2, [2, 2], [1, 3])
    requests.put(None)
    theirs = answers.get()
    answers.get()
    child.join()
    assert child.exitcode == 0
    # Its maker has ended, the value has not.
    theirs.value += 1
    assert theirs.value == 6


def _die_inside(value: Any) -> None:
    class Deadly:
        def __float__(self) -> float:
            signal.raise_signal(signal.SIGKILL)
            return 0.0

    value.value = Deadly()


def test_who_is_killed_inside_of_an_access_leaves_an_abandoned_lock(ctx: Any) -> None:
    value, items = ctx.Value("d", 1.5), ctx.Array("d", 3)
    child = ctx.Process(target=_die_inside, args=(value,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    shared = sidestep.Value("d", lock=value.get_lock())
    for act in (
        lambda: value.value,
        lambda: setattr(value, "value", 2.5),
        lambda: shared.value,
        lambda: value.__enter__(),
        lambda: value.acquire(),
    ):
        with pytest.raises(AbandonedLockError) as caught:
            act()
        assert caught.value.pid == child.pid
    assert value.get_lock().recover()
    assert value.value == 1.5
    assert items[:] == [0.0] * 3
