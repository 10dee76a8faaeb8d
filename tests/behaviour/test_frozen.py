"""Frozen objects: in shared memory once, read by every process in place."""

import gc
import os
import pickle
import signal
from typing import Any

import pytest

import sidestep
from sidestep import _sidestep
from sidestep.frozen import Frozen

SIZE = 1 << 20


@pytest.fixture(params=["fork", "spawn", "forkserver"])
def ctx(request: pytest.FixtureRequest) -> Any:
    return sidestep.get_context(request.param)


def blocks() -> int:
    """Blocks of the arena that are in use, once the garbage is gone."""
    gc.collect()
    sidestep.Lock()  # so that there is an arena
    usage = _sidestep.usage()
    assert usage is not None
    return usage["blocks"]


def lies_in_the_arena(view: memoryview) -> bool:
    import ctypes

    # Not from_buffer, which wants to write.
    address = ctypes.c_void_p()
    numpy = pytest.importorskip("numpy")
    address.value = numpy.frombuffer(view, "u1").ctypes.data
    assert address.value is not None
    with open("/proc/self/maps") as maps:
        for line in maps:
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            if start <= address.value < end:
                return "memfd:sidestep" in line
    return False


def describe(handle: Frozen[Any], answers: Any) -> None:
    found = handle.get()
    view = found["view"]
    answers.put((view.readonly, bytes(view[-3:]), lies_in_the_arena(view), found["list"]))
    found["list"].append(1)


def test_every_process_reads_the_same_memory(ctx: Any) -> None:
    before = blocks()
    handle = ctx.freeze({"view": pickle.PickleBuffer(bytes(SIZE) + b"end"), "list": [0]})
    answers = ctx.SimpleQueue()
    children = [ctx.Process(target=describe, args=(handle, answers)) for _ in range(2)]
    for child in children:
        child.start()
    assert [answers.get() for _ in children] == [(True, b"end", True, [0])] * 2
    for child in children:
        child.join()
        child.close()
    # Containers are each process's own.
    assert handle.get()["list"] == [0]
    assert handle.get() is handle.get()
    answers.close()
    del handle, answers, child, children
    assert blocks() == before


def total(handle: Frozen[Any]) -> int:
    return int(handle.get().sum())


def test_arrays_are_views_in_pools(ctx: Any) -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(SIZE).reshape(4, -1, order="F")
    handle = sidestep.freeze(array)
    # Large buffers begin and end with a page.
    assert handle.nbytes < array.nbytes + 2 * 4096
    with ctx.Pool(2) as pool:
        assert pool.map(total, [handle] * 4) == [int(array.sum())] * 4
    found = handle.get()
    assert not found.flags.writeable
    assert found.flags.f_contiguous
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


def test_views_keep_the_memory_without_the_handle() -> None:
    before = blocks()
    view = sidestep.freeze(memoryview(bytes(SIZE) + b"end")).get()
    assert blocks() == before + 1
    assert bytes(view[-3:]) == b"end"
    part = view[-3:]
    del view
    assert blocks() == before + 1
    part.release()
    del part
    assert blocks() == before


def test_small_and_immutable_things_are_rebuilt() -> None:
    for obj in (None, 1, "text", b"x" * SIZE, bytearray(SIZE), "y" * SIZE, [(1, {2: 3})]):
        found = sidestep.freeze(obj).get()
        assert found == obj
        assert type(found) is type(obj)


def freeze_and_die(answers: Any) -> None:
    answers.put(sidestep.freeze(memoryview(b"from the dead" * SIZE)))
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_has_frozen_stays(ctx: Any) -> None:
    before = blocks()
    answers = ctx.SimpleQueue()
    child = ctx.Process(target=freeze_and_die, args=(answers,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    child.close()
    assert bytes(answers.get().get()[:13]) == b"from the dead"
    answers.close()
    del answers
    assert blocks() == before


def hold(handle: Frozen[Any], ready: Any) -> None:
    view = handle.get()
    ready.set()
    signal.pause()
    del view


def test_a_killed_process_holds_nothing(ctx: Any) -> None:
    before = blocks()
    handle = sidestep.freeze(memoryview(bytes(SIZE)))
    ready = ctx.Event()
    child = ctx.Process(target=hold, args=(handle, ready))
    child.start()
    ready.wait()
    child.kill()
    child.join()
    child.close()
    del handle, ready
    assert blocks() == before


def test_shared_objects_can_be_frozen() -> None:
    queue = sidestep.SimpleQueue()
    shared: dict[str, Any] = {"queue": queue, "lock": sidestep.Lock()}
    handle = sidestep.freeze(shared)
    queue.put("hello")
    assert handle.get()["queue"].get() == "hello"
    with handle.get()["lock"]:
        pass
    queue.close()


def test_handles_of_one_object_share_it() -> None:
    handle = sidestep.freeze([1, 2])
    queue = sidestep.SimpleQueue()
    queue.put([handle, handle])
    queue.put(handle)
    first, second = queue.get()
    assert first.get() is second.get() is handle.get() is queue.get().get()
    queue.close()


def test_errors() -> None:
    with pytest.raises((AttributeError, pickle.PicklingError)):
        sidestep.freeze(lambda: 0)
    with pytest.raises(RuntimeError, match="same family"):
        pickle.dumps(sidestep.freeze(1))
    with pytest.raises(TypeError, match="arena|pickle|refuses"):
        sidestep.freeze(Refuses())
    assert "bytes" in repr(sidestep.freeze(1))


class Refuses:
    def __reduce__(self) -> Any:
        raise TypeError("refuses to be pickled")
