"""What the engine's channels make of an object equals what pickle makes of it."""

import collections
import contextlib
import copyreg
import enum
import math
import pickle
import struct
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidestep import _sidestep
from sidestep.reduction import ForkingPickler

PICKLE = 0x80
OUT_OF_BAND = 32 * 1024


def round_trip(obj: Any) -> Any:
    """Send and receive: each buffer arrives as memory that the receiver may write to."""
    head, buffers = _sidestep._codec_dumps(obj)
    return _sidestep._codec_loads(head, [bytearray(buffer) for buffer in buffers])


def form(obj: Any) -> int:
    """The first byte of the message."""
    return int(_sidestep._codec_dumps(obj)[0][0])


def shape(obj: Any, seen: dict[int, int] | None = None) -> Any:
    """A description that tells types, bit patterns and sharing of containers apart."""
    seen = {} if seen is None else seen
    kind = type(obj)
    if isinstance(obj, float):
        return kind, struct.pack("d", obj)
    if isinstance(obj, list | tuple | dict | set | frozenset | bytearray) and obj != ():
        if id(obj) in seen:
            return "again", seen[id(obj)]
        seen[id(obj)] = len(seen)
    if isinstance(obj, dict):
        return kind, [(shape(key, seen), shape(value, seen)) for key, value in obj.items()]
    if isinstance(obj, list | tuple):
        return kind, [shape(item, seen) for item in obj]
    if isinstance(obj, set | frozenset):
        return kind, sorted(repr(shape(item, dict(seen))) for item in obj)
    return kind, obj


def check(obj: Any) -> Any:
    """The result has the shape of pickle's result; returns it."""
    result = round_trip(obj)
    assert shape(result) == shape(pickle.loads(pickle.dumps(obj, 5)))
    return result


class SubInt(int):
    pass


class SubStr(str):
    pass


class SubList(list[Any]):
    pass


class SubDict(dict[Any, Any]):
    pass


class SubTuple(tuple[Any, ...]):
    pass


class Point(NamedTuple):
    x: int
    y: Any


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


class Plain:
    def __init__(self, value: Any) -> None:
        self.value = value


atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**63) - 2, -(2**63) + 2)
    | st.integers(2**63 - 2, 2**63 + 2)
    | st.integers(-(2**31) - 2, 2**31 + 2)
    | st.floats()
    | st.text(st.characters())
    | st.text(st.characters(categories=["Cs", "L"]), max_size=4)
    | st.binary()
    | st.binary().map(bytearray)
)
keys = st.none() | st.booleans() | st.integers() | st.text(max_size=30) | st.binary(max_size=5)
subclassed = st.sampled_from(
    [SubInt(3), SubStr("s"), SubList([1]), SubDict(a=1), SubTuple((1,)), Point(1, []), Level.LOW]
)
trees = st.recursive(
    atoms | subclassed,
    lambda inner: (
        st.lists(inner, max_size=8)
        | st.lists(inner, max_size=8).map(tuple)
        | st.dictionaries(keys | st.tuples(keys, keys), inner, max_size=8)
        | st.frozensets(keys, max_size=5)
        | st.sets(keys, max_size=5)
    ),
    max_leaves=100,
)


@given(trees)
@settings(max_examples=400, deadline=None, derandomize=True)
def test_equals_what_pickle_gives(obj: Any) -> None:
    check(obj)


@given(st.data())
@settings(max_examples=200, deadline=None, derandomize=True)
def test_keeps_shared_and_cyclic_references(data: st.DataObject) -> None:
    pool: list[Any] = [[], {}, bytearray(b"x"), [1], {"a": 2}, SubList()]
    for _ in range(data.draw(st.integers(1, 8))):
        target = data.draw(st.sampled_from(pool))
        item = data.draw(st.sampled_from(pool) | atoms)
        if isinstance(target, list):
            target.append(item)
        elif isinstance(target, dict):
            target[len(target)] = item
    root = data.draw(st.sampled_from([pool, pool[:2], tuple(pool[:3]), pool[0], [pool[1]] * 2]))
    check(root)


@pytest.mark.parametrize(
    "obj",
    [
        pytest.param(value, id=name)
        for name, value in {
            "none": None,
            "true": True,
            "small int": -128,
            "long": 2**63 - 1,
            "float": -0.0,
            "str": "größe",
            "bytes": bytes(300),
            "tuple": (1, "two", 3.0),
            "empty tuples": ((), (), ()),
            "list of many ints": list(range(1000)),
            "dict": {"a": [1, {"b": ()}], 2: None},
            "bytearray": bytearray(b"abc"),
            "large bytes": bytes(100_000),
            "large str": "é" * 50_000,
            "large bytearray": bytearray(50_000),
            "large bytes inside": (1, bytes(100_000), [bytes(40_000)]),
        }.items()
    ],
)
def test_plain_objects_take_the_compact_form(obj: Any) -> None:
    assert form(obj) != PICKLE
    check(obj)


def test_an_object_that_a_variable_still_holds_takes_the_compact_form() -> None:
    inner = [1, 2]
    assert form([inner, "x"]) != PICKLE


def _cycle() -> list[Any]:
    cycle: list[Any] = []
    cycle.append(cycle)
    return cycle


@pytest.mark.parametrize(
    "obj",
    [
        pytest.param(value, id=name)
        for name, value in {
            "big int": 2**63,
            "lone surrogate": "\udc80",
            "shared": [[1]] * 2,
            "cycle": _cycle(),
            "shared large bytes": [b"x" * 50_000] * 2,
            "deep": [[[[[[[1]]]]]]],
            "many strings": [str(i) for i in range(100)],
            "many numbers": [None, *range(5000)],
            "large dict": dict.fromkeys(range(300)),
            "set": {1, 2},
            "complex": 1j,
            "type": int,
            "function": math.sqrt,
            "subclass": SubInt(1),
            "subclass inside": [SubStr("a")],
            "namedtuple": Point(1, 2),
            "enum": Colour.RED,
            "ordered": collections.OrderedDict(a=1),
        }.items()
    ],
)
def test_everything_else_goes_to_pickle(obj: Any) -> None:
    assert form(obj) == PICKLE
    check(obj)


def test_nan_keeps_its_bits() -> None:
    strange = struct.unpack("d", struct.pack("Q", 0x7FF8_0000_0000_1234))[0]
    assert struct.pack("d", round_trip(strange)) == struct.pack("d", strange)


def test_shared_list_is_one_list_again() -> None:
    shared: list[int] = []
    result = round_trip({"a": shared, "b": shared})
    assert result["a"] is result["b"]


def test_cycle_is_a_cycle_again() -> None:
    cycle: list[Any] = []
    cycle.append({"self": cycle})
    result = round_trip(cycle)
    assert result[0]["self"] is result


def test_recurring_keys_do_not_get_mixed_up() -> None:
    for number in range(2000):
        obj = {
            f"key{number}": number,
            f"{number}": 1,
            "same": number,
            "": 0,
            "a" * (number % 40): 5,
        }
        assert round_trip(obj) == obj
        assert [type(key) for key in round_trip(obj)] == [str] * len(obj)


# --- reducers -----------------------------------------------------------------------------


class Registered:
    def __reduce__(self) -> Any:
        raise AssertionError("the registered reducer comes first")


class Both(Registered):
    pass


def _rebuild(text: str) -> str:
    return "rebuilt " + text


def test_reducer_registered_with_forking_pickler_applies() -> None:
    round_trip({1})  # A pickler is in use already when the reducer comes.
    ForkingPickler.register(Registered, lambda obj: (_rebuild, ("one",)))
    try:
        assert round_trip([Registered(), 1]) == ["rebuilt one", 1]
        ForkingPickler.register(Registered, lambda obj: (_rebuild, ("two",)))
        assert round_trip(Registered()) == "rebuilt two"
    finally:
        del ForkingPickler._extra_reducers[Registered]
    with pytest.raises(AssertionError):
        round_trip(Registered())


def test_copyreg_applies_after_forking_pickler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(copyreg.dispatch_table, Both, lambda obj: (_rebuild, ("copyreg",)))
    assert round_trip(Both()) == "rebuilt copyreg"
    monkeypatch.setitem(ForkingPickler._extra_reducers, Both, lambda obj: (_rebuild, ("forking",)))
    assert round_trip(Both()) == "rebuilt forking"


class UnhashableType(type):
    def __hash__(cls) -> int:
        raise ZeroDivisionError("no hash")


class OfUnhashableType(metaclass=UnhashableType):
    pass


def test_error_in_the_look_up_of_reducers_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        round_trip([OfUnhashableType()])


class Refuses:
    def __reduce__(self) -> Any:
        raise LookupError("not me")


class RefusesToComeBack:
    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise LookupError("not here")


def test_errors_of_the_objects_own_code_are_raised_and_nothing_is_left_behind() -> None:
    for _ in range(3):
        with pytest.raises(LookupError, match="not me"):
            round_trip([1, Refuses()])
        with pytest.raises(LookupError, match="not here"):
            round_trip(RefusesToComeBack())
        with pytest.raises((pickle.PicklingError, AttributeError)):
            round_trip(lambda: None)
        check({1, 2})


class PicklesAnother:
    """Its reducer sends something by the same codec."""

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def __reduce__(self) -> Any:
        inner = round_trip(PicklesAnother(self.depth - 1)) if self.depth else {0}
        return _join, ({self.depth}, inner)


def _join(a: set[int], b: set[int]) -> set[int]:
    return a | b


def test_pickling_may_come_back_to_the_codec() -> None:
    assert round_trip(PicklesAnother(3)) == {0, 1, 2, 3}
    assert round_trip(PicklesAnother(1)) == {0, 1}


def test_memo_does_not_outlive_a_message() -> None:
    shared = {1, 2}
    first, _ = _sidestep._codec_dumps(shared)
    second, _ = _sidestep._codec_dumps(shared)
    assert first == second
    assert _sidestep._codec_loads(second, []) == shared


# --- buffers ------------------------------------------------------------------------------


class Exporter:
    """Gives its memory to pickle as a buffer, as arrays do."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Exporter, (pickle.PickleBuffer(self.memory),)


@pytest.mark.parametrize("size", [0, 1, OUT_OF_BAND - 1, OUT_OF_BAND, 1_000_000])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_buffers_from_pickle(kind: type[bytes] | type[bytearray], size: int) -> None:
    memory = kind(bytes(range(256)) * (size // 256 + 1))[:size]
    head, buffers = _sidestep._codec_dumps([Exporter(memory), {1}])
    assert len(buffers) == (size >= OUT_OF_BAND)
    assert len(head) < size + 200
    result = round_trip([Exporter(memory), {1}])[0].memory
    assert bytes(result) == bytes(memory)
    if size >= OUT_OF_BAND:
        assert memoryview(result).readonly == (kind is bytes)


def test_buffers_keep_their_order() -> None:
    sizes = [OUT_OF_BAND + number for number in range(5)]
    result = round_trip([Exporter(bytearray([size % 256]) * size) for size in sizes])
    assert [len(each.memory) for each in result] == sizes
    assert [each.memory[0] for each in result] == [size % 256 for size in sizes]


def test_buffer_is_released_with_the_message() -> None:
    memory = bytearray(OUT_OF_BAND)
    _sidestep._codec_dumps([Exporter(memory), {1}])
    _sidestep._codec_dumps([memory])
    memory.append(1)  # Raises BufferError while the memory is exported.


def test_received_bytearray_is_not_the_senders() -> None:
    memory = bytearray(OUT_OF_BAND)
    result = _sidestep._codec_copy(memory)
    result[0] = 1
    result.append(2)
    assert memory == bytes(OUT_OF_BAND)


def test_numpy_arrays() -> None:
    numpy = pytest.importorskip("numpy")
    for array in (
        numpy.arange(100_000, dtype="f8"),
        numpy.arange(60_000, dtype="i4").reshape(200, 300).T,
        numpy.arange(100_000)[::2],
        numpy.arange(10),
        numpy.zeros((0, 3)),
        numpy.array(["a", "b"], dtype=object),
    ):
        result = round_trip({"array": array})["array"]
        assert result.dtype == array.dtype and result.shape == array.shape
        assert (result == array).all()
        assert result.flags.writeable
        assert result.flags.f_contiguous == numpy.array(array, order="K").flags.f_contiguous
    fixed = numpy.arange(100_000)
    fixed.flags.writeable = False
    assert not round_trip(fixed).flags.writeable
    assert len(_sidestep._codec_dumps(fixed)[0]) < 1000


# --- bad bytes -----------------------------------------------------------------------------


@given(st.binary(max_size=60).filter(lambda head: head[:1] < b"\x80"), st.integers(0, 3))
@settings(max_examples=1000, deadline=None, derandomize=True)
@example(b"", 0)
@example(b"\x11\xff\xff\xff\xff", 0)
@example(b"\x13\xff\xff\xff\x7f\x01", 0)
@example(b"\x09\xff\xff\xff\xff", 0)
@example(b"\x12\x01" * 30 + b"\x01", 0)
@example(b"\x14\x01\x12\x00\x01", 0)
@example(b"\x0a", 1)
def test_bad_bytes_raise(head: bytes, buffers: int) -> None:
    with contextlib.suppress(pickle.UnpicklingError, UnicodeDecodeError, TypeError):
        _sidestep._codec_loads(head, [bytearray(b"\xff\xfe")] * buffers)


@given(trees, st.data())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_damaged_messages_raise_or_give_something_else(obj: Any, data: st.DataObject) -> None:
    head, buffers = _sidestep._codec_dumps(obj)
    if head[0] >= PICKLE:
        return
    cut = data.draw(st.integers(0, len(head)))
    noise = data.draw(st.binary(max_size=4))
    damaged = head[:cut] + noise + head[cut + data.draw(st.integers(0, 4)) :]
    if damaged[:1] < b"\x80":
        with contextlib.suppress(pickle.UnpicklingError, UnicodeDecodeError, TypeError):
            _sidestep._codec_loads(damaged, buffers)


@pytest.mark.parametrize("head", [b"", b"\x00", b"\x7f", b"\x01\x01", b"\x04", b"\x08\x05ab"])
def test_what_is_no_message_is_an_unpickling_error(head: bytes) -> None:
    with pytest.raises(pickle.UnpicklingError):
        _sidestep._codec_loads(head, [])


def test_buffers_too_many_or_too_few_are_an_unpickling_error() -> None:
    head, buffers = _sidestep._codec_dumps(bytes(OUT_OF_BAND))
    for wrong in ([], buffers * 2):
        with pytest.raises(pickle.UnpicklingError):
            _sidestep._codec_loads(head, wrong)


# --- many numbers -------------------------------------------------------------------------------


@given(
    st.lists(st.integers(-(2**70), 2**70), min_size=10, max_size=40)
    | st.lists(st.integers(-(2**31), 2**31 - 1), min_size=10, max_size=40)
    | st.lists(st.integers(-(2**63), 2**63 - 1), min_size=10, max_size=40)
    | st.lists(st.floats(), min_size=10, max_size=40)
    | st.lists(st.integers() | st.floats() | st.booleans(), min_size=10, max_size=40)
)
@example([2**31 - 1] * 16)
@example([-(2**31)] * 16)
@example([2**31] * 16)
@example([-(2**63)] * 16)
@example([2**63] * 16)
@example([1.5, *[math.nan] * 20, -0.0])
@example([*range(15), True])
@example([*range(15), SubInt(3)])
def test_numbers_in_a_row(numbers: list[Any]) -> None:
    check(numbers)
    check(tuple(numbers))
    check({"key": [numbers, tuple(numbers)]})
    assert [type(number) for number in round_trip(numbers)] == [type(number) for number in numbers]


@pytest.mark.parametrize("count", [5000, 1 << 20, (1 << 20) + 1])
def test_so_many_numbers(count: int) -> None:
    assert (form(list(range(count))) < PICKLE) == (count <= 1 << 20)
    assert round_trip(tuple(range(count))) == tuple(range(count))


@pytest.mark.parametrize("bad", [b"\x02\x04", b"\x00\x05", b"\x01\x08", b"\x00\x88\xff\xff"])
def test_a_row_that_makes_no_sense_is_refused(bad: bytes) -> None:
    head, _ = _sidestep._codec_dumps(list(range(16)))
    for message in (head[:1] + bad + head[1 + len(bad) :], head[: 1 + len(bad)], head[:-1]):
        with pytest.raises(pickle.UnpicklingError):
            _sidestep._codec_loads(message, [])


# --- tasks of pools: functions and classes by their names ------------------------------------


def mapped(call: tuple[Any, Any]) -> Any:
    return call


def called(*_: Any) -> None: ...


class Meta(type):
    """A class of classes has a say in how they are pickled."""


class WithMeta(metaclass=Meta):
    pass


def task_round_trip(task: Any) -> tuple[int, Any]:
    """The form that the task goes in, and what arrives."""
    head, buffers = _sidestep._codec_dumps(task, True)
    return head[0], _sidestep._codec_loads(head, [bytearray(buffer) for buffer in buffers])


@pytest.mark.parametrize(
    "task",
    [
        (called, (1, "two", b"3"), {}),
        (called, (), {"key": [4.5, None]}),
        (int, ("5",), {}),
        (WithMeta.mro, (), {}),
        (mapped, ((called, ((1,), (2,), (3,))),), {}),
        (mapped, ((int, (1, 2, 3)),), {}),
        (mapped, ((called, (called, 2, 3)),), {}),
        (mapped, ((len, (called, 2, 3)),), {}),
        (WithMeta, (), {}),
        (called, (called, 1), {"also": called}),
        (called, (Meta,), {}),
    ],
)
def test_a_task_arrives_as_pickle_brings_it(task: Any) -> None:
    assert task_round_trip(task)[1] == pickle.loads(pickle.dumps(task, 5))


def test_plain_tasks_need_no_pickle() -> None:
    task: tuple[Any, ...]
    for task in (
        (called, (1, (2, [3, {4: "5"}])), {"six": 7}),
        (mapped, ((called, ((1, 2), (3, 4))),), {}),
        (mapped, ((float, (1, 2)),), {}),
    ):
        assert task_round_trip(task)[0] < PICKLE
    for task in ((called, (SubInt(1),), {}), (WithMeta, (), {}), (called, (Meta,), {})):
        assert task_round_trip(task)[0] == PICKLE


def test_a_function_that_is_not_what_its_name_says_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = called
    monkeypatch.setitem(globals(), "called", mapped)
    with pytest.raises(pickle.PicklingError, match="not the same object"):
        task_round_trip((original, (), {}))


def test_a_name_that_is_missing_on_arrival_is_told_as_pickle_tells_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task: tuple[Any, ...] = (called, (1,), {})
    pickled = pickle.dumps(task, 5)
    head, _ = _sidestep._codec_dumps(task, True)
    assert head[0] < PICKLE
    monkeypatch.delitem(globals(), "called")
    with pytest.raises(AttributeError) as expected:
        pickle.loads(pickled)
    with pytest.raises(AttributeError) as found:
        _sidestep._codec_loads(head, [])
    assert str(found.value) == str(expected.value)


def test_a_module_that_answers_for_its_names_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As modules may that load their parts late."""
    head, _ = _sidestep._codec_dumps((called, (1,), {}), True)
    monkeypatch.setitem(globals(), "__getattr__", lambda name: (name, "made late"))
    monkeypatch.delitem(globals(), "called")
    assert _sidestep._codec_loads(head, []) == (("called", "made late"), (1,), {})
