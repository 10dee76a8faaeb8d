"""Rows of COMPATIBILITY.md that no other file of tests is about."""

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import sidestep
from sidestep import shared_memory, util


def test_a_double_fork_keeps_what_was_made_before_it() -> None:
    queue = sidestep.Queue()
    for number in range(50):
        middle = os.fork()
        if middle == 0:
            if os.fork() == 0:
                queue.put(number)
            # Ends, and is reaped, before or after its child has run a single instruction.
            os._exit(0)
        os.waitpid(middle, 0)
        sidestep.active_children()
    assert sorted(queue.get() for _ in range(50)) == list(range(50))


def test_a_raw_fork_shares_what_was_made_before_it() -> None:
    queue, lock = sidestep.Queue(), sidestep.Lock()
    lock.acquire()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            queue.put(lock.acquire(False))
            lock.release()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert queue.get() is False
    assert lock.acquire(False)
    lock.release()


def test_several_permits_are_released_at_once() -> None:
    semaphore: Any = sidestep.Semaphore(0)
    semaphore.release(3)
    assert semaphore.get_value() == 3
    bounded: Any = sidestep.BoundedSemaphore(2)
    bounded.acquire()
    with pytest.raises(ValueError):
        bounded.release(2)


def test_locks_have_no_names_in_the_file_system() -> None:
    names = Path("/dev/shm")
    if not names.is_dir():
        pytest.skip("this machine has no /dev/shm")

    def ours() -> set[str]:
        # Other programs' semaphores come and go; ours would carry this process's mark.
        maps = Path("/proc/self/maps").read_text()
        return {line.split()[-1] for line in maps.splitlines() if "/dev/shm/sem." in line}

    before = ours()
    kept = [sidestep.Lock(), sidestep.Semaphore(2), sidestep.Condition(), sidestep.Event()]
    assert ours() == before
    assert kept


@pytest.mark.parametrize("call", ["map", "starmap", "imap", "imap_unordered", "map_async"])
@pytest.mark.parametrize("chunksize", [0, -1])
def test_a_chunk_has_at_least_one_item(call: str, chunksize: int) -> None:
    with sidestep.Pool(1) as pool:
        with pytest.raises(ValueError, match="chunksize must be 1 or more"):
            getattr(pool, call)(abs, [1, 2], chunksize=chunksize)
        pool.close()
        pool.join()


def test_a_pool_starts_one_thread() -> None:
    before = set(threading.enumerate())
    with sidestep.Pool(2) as pool:
        assert pool.apply(abs, (-1,)) == 1
        assert len(set(threading.enumerate()) - before) == 1
        pool.close()
        pool.join()


@pytest.mark.parametrize("item", [[1], (1,), {}, object(), 1j])
def test_a_shareable_list_says_what_it_can_hold(item: object) -> None:
    before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    with pytest.raises(TypeError, match="int"):
        shared_memory.ShareableList([1, item])
    if before:
        assert not {n for n in os.listdir("/dev/shm") if n.startswith("psm_")} - before


def test_a_shareable_list_takes_iterators_and_subclasses_of_text() -> None:
    class Text(str):
        pass

    class Data(bytes):
        pass

    cases: list[tuple[Iterable[Any], list[Any]]] = [
        (iter([1, "a"]), [1, "a"]),
        ([Text("b"), Data(b"c")], ["b", b"c"]),
    ]
    for items, wanted in cases:
        shared = shared_memory.ShareableList(items)
        try:
            found = list(shared)
            assert found == wanted
            assert [type(item) for item in found] == [type(item) for item in wanted]
        finally:
            shared.shm.close()
            shared.shm.unlink()


class Point(ctypes.Structure):
    _fields_ = (("x", ctypes.c_int),)


class Pixel(Point):
    _fields_ = (("colour", ctypes.c_int),)


def test_a_derived_structure_has_properties_for_all_its_fields() -> None:
    pixel: Any = sidestep.Value(Pixel, 1, 2)
    assert (pixel.x, pixel.colour) == (1, 2)
    pixel.x = 3
    assert pixel.get_obj().x == 3


def test_a_lock_of_the_original_kind_is_entered_by_its_class_too() -> None:
    lock = util.ForkAwareThreadLock()
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock)
        assert not lock.acquire(False)
    with lock:
        assert not lock.acquire(False)
    assert lock.acquire(False)
