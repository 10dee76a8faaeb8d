"""Methods that classes have as their own, since the interpreter calls these faster."""

import inspect
import queue
from typing import Any

import pytest

import sidestep
from sidestep import queues, synchronize

LOCKS: list[type[Any]] = [
    synchronize.Lock,
    synchronize.RLock,
    synchronize.Semaphore,
    synchronize.BoundedSemaphore,
]
QUEUES: list[type[Any]] = [queues.Queue, queues.JoinableQueue, queues.SimpleQueue]
OWN = [(cls, name) for cls in LOCKS for name in ("acquire", "release", "__enter__", "__exit__")]
OWN += [(cls, name) for cls in QUEUES for name in ("put", "get")]


@pytest.mark.parametrize(("cls", "name"), OWN)
def test_the_class_has_the_method_itself_as_its_native_class_describes_it(
    cls: type[Any], name: str
) -> None:
    own = cls.__dict__[name]
    inherited = [base.__dict__[name] for base in cls.__mro__[1:] if name in base.__dict__]
    native = next(method for method in inherited if "_sidestep" in method.__objclass__.__module__)
    assert own.__objclass__ is cls
    assert inspect.signature(own) == inspect.signature(native)
    assert own.__doc__ == native.__doc__
    assert own.__qualname__ == f"{cls.__qualname__}.{name}"


@pytest.mark.parametrize("cls", LOCKS)
def test_calls_with_and_without_arguments_mean_the_same(cls: type[Any]) -> None:
    lock = cls(ctx=sidestep)
    assert lock.acquire() is True
    lock.release()
    assert lock.acquire(True, 0.0) is True
    lock.release()
    assert lock.acquire(block=False) is True
    lock.release()
    assert lock.acquire(timeout=None, block=True) is True
    lock.release()
    with lock as taken:
        assert taken is True
    with pytest.raises(TypeError, match="unexpected keyword argument 'wait'"):
        lock.acquire(wait=True)
    with pytest.raises(TypeError):
        lock.acquire(True, None, None)


@pytest.mark.parametrize("cls", LOCKS)
def test_a_lock_whose_constructor_was_not_called_says_so(cls: type[Any]) -> None:
    new: Any = cls.__new__
    lock = new(cls)
    for call in (lock.acquire, lock.release, lock.__enter__):
        with pytest.raises(RuntimeError, match="not initialised"):
            call()


@pytest.mark.parametrize("cls", [*LOCKS, *QUEUES])
def test_the_method_wants_an_object_of_the_class(cls: type[Any]) -> None:
    name = "get" if cls in QUEUES else "release"
    with pytest.raises(TypeError):
        getattr(cls, name)(object())


@pytest.mark.parametrize("cls", [queues.Queue, queues.JoinableQueue])
def test_queues_take_arguments_in_any_way(cls: type[Any]) -> None:
    q = cls(2, ctx=sidestep)
    q.put(1)
    q.put(obj={"two": 2}, timeout=1.0)
    with pytest.raises(queue.Full):
        q.put(3, False)
    assert q.get(timeout=1.0) == 1
    assert q.get() == {"two": 2}
    with pytest.raises(queue.Empty):
        q.get(block=False)
    with pytest.raises(TypeError):
        q.put()
    q.close()
    with pytest.raises(ValueError, match="closed"):
        q.put(1)
    with pytest.raises(ValueError, match="closed"):
        q.get()


@pytest.mark.parametrize(
    "item",
    [0, -1, 127, 128, -129, 2**31 - 1, 2**31, -(2**31) - 1, 2**63 - 1, 2**63, True, None, 0.5]
    + ["", "x" * 68, "x" * 69, "x" * 70, "x" * 71, "x" * 72, "ü" * 35, b"", b"y" * 70, b"y" * 71],
)
def test_brief_items_and_those_just_too_long_come_out_as_they_went_in(item: object) -> None:
    q: Any = sidestep.SimpleQueue()
    for _ in range(3):
        q.put(item)
        q.put([item])
    for _ in range(3):
        out = q.get()
        assert out == item
        assert type(out) is type(item)
        assert q.get() == [item]


def test_an_override_calls_the_inherited_method() -> None:
    class Counting(queues.Queue[Any]):
        calls = 0

        def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
            self.calls += 1
            super().put(obj, block, timeout)

    q = Counting(ctx=sidestep)
    q.put(1)
    q.put_nowait(2)
    assert (q.get(), q.get(), q.calls) == (1, 2, 2)
