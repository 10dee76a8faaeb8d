"""Large buffers of received objects: memory of the arena, lent to who has received them."""

import gc
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import sidestep
from sidestep import _sidestep

numpy = pytest.importorskip("numpy")

LARGE = 1 << 20  # bytes


@pytest.fixture(params=["fork", "spawn", "forkserver"])
def ctx(request: pytest.FixtureRequest) -> Any:
    return sidestep.get_context(request.param)


@pytest.fixture(params=["queue", "pipe"])
def sent(request: pytest.FixtureRequest) -> Any:
    """A function that sends an object through a queue or a pipe and returns what arrives."""
    context = sidestep.get_context("fork")
    ends: tuple[Any, ...]
    put: Callable[[Any], None]
    get: Callable[[], Any]
    if request.param == "queue":
        queue = context.SimpleQueue()
        ends, put, get = (queue,), queue.put, queue.get
    else:
        reader, writer = context.Pipe(duplex=False)
        ends, put, get = (reader, writer), writer.send, reader.recv

    def through(obj: Any) -> Any:
        # A pipe takes no large message before somebody receives it.
        thread = threading.Thread(target=put, args=(obj,))
        thread.start()
        received = get()
        thread.join()
        return received

    yield through
    for end in ends:
        end.close()


def in_use() -> int:
    """Bytes of the arena that are in use, once the garbage is gone; small blocks come and go."""
    gc.collect()
    sidestep.Lock()  # so that there is an arena
    usage = _sidestep.usage()
    assert usage is not None
    return usage["used"] - usage["warm"]


def is_lent(array: Any) -> bool:
    """Whether it lies in the arena."""
    address = array.ctypes.data
    with open("/proc/self/maps") as maps:
        for line in maps:
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            if start <= address < end:
                return "memfd:sidestep" in line
    return False


def filled(number: int, size: int = LARGE) -> Any:
    return numpy.full(size, number % 251, "u1")


def say(work: Callable[[], bool], code: int = 2) -> None:
    """Ends the process by what `work` says."""
    try:
        code = 0 if work() else 1
    finally:
        os._exit(code)


def in_child(work: Callable[[], bool]) -> bool:
    """What `work` says in a child."""
    child = sidestep.get_context("fork").Process(target=say, args=(work,))
    child.start()
    child.join()
    return child.exitcode == 0


# --- one's own memory -------------------------------------------------------------------------


def test_what_arrives_is_not_copied_and_is_ones_own(sent: Any) -> None:
    before = in_use()
    array = filled(1)
    first, second = sent(array), sent(array)
    assert is_lent(first)
    assert is_lent(second)
    assert in_use() >= before + 2 * LARGE
    first += 1
    assert (first == 2).all()
    assert (second == 1).all()
    assert (array == 1).all()
    view = first[10:20]
    del first
    assert (view == 2).all(), "a view keeps the memory"
    del view, second
    assert in_use() < before + LARGE


def test_several_buffers_of_one_object(sent: Any) -> None:
    sizes = [3, LARGE, 0, 5 * 4096, 2 * LARGE + 1]
    arrays = sent([filled(size, size) for size in sizes])
    assert [array.size for array in arrays] == sizes
    assert [is_lent(array) for array in arrays] == [size >= LARGE for size in sizes]
    for array in arrays:
        array += 1
    for array, size in zip(arrays, sizes, strict=True):
        assert (array == size % 251 + 1).all()


def test_what_is_read_only_stays_so(sent: Any) -> None:
    array = filled(1)
    array.flags.writeable = False
    arrived = sent(array)
    assert not arrived.flags.writeable
    assert (arrived == 1).all()


class Picture:
    """Pickles out of band, and remembers what it was made of."""

    def __init__(self, pixels: Any) -> None:
        self.kind = type(pixels)
        self.pixels = pixels

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Picture, (pickle.PickleBuffer(self.pixels),)


def test_classes_of_a_program_get_views(sent: Any) -> None:
    large, small = sent(Picture(bytearray(LARGE))), sent(Picture(bytearray(1000)))
    assert (large.kind, small.kind) == (memoryview, bytearray)
    for picture in (large, small):
        picture.pixels[0] = 1
    assert bytes(large.pixels) == b"\1" + bytes(LARGE - 1)


def test_it_can_be_sent_on(sent: Any) -> None:
    array = filled(7)
    for _ in range(5):
        array = sent(array)
    assert is_lent(array)
    assert (array == 7).all()


def change(array: Any) -> Any:
    array += 1
    return array


def test_arguments_and_results_of_pools(ctx: Any) -> None:
    arrays = [filled(number) for number in range(8)]
    with ctx.Pool(2) as pool:
        results = pool.map(change, arrays, 1)
    for number, (array, result) in enumerate(zip(arrays, results, strict=True)):
        assert (array == number).all()
        assert (result == number + 1).all()
        assert is_lent(result)


def die_once(array: Any, path: str) -> int:
    found = int(array[0])
    array += 1
    try:
        pathlib.Path(path).touch(exist_ok=False)
    except FileExistsError:
        return found
    os.kill(os.getpid(), signal.SIGKILL)
    return -1


def test_a_task_that_runs_again_finds_its_arguments_as_they_were(
    ctx: Any, tmp_path: pathlib.Path
) -> None:
    with ctx.Pool(2, retries=1) as pool:
        assert pool.apply(die_once, (filled(5), str(tmp_path / "died"))) == 5


# --- forks ------------------------------------------------------------------------------------


def test_after_a_fork_each_side_has_its_own(sent: Any) -> None:
    array, untouched = sent(filled(1)), sent(filled(2))

    def in_the_child() -> bool:
        nonlocal array
        found = (array == 1).all() and (untouched == 2).all()
        array += 10
        return bool(found and (array == 11).all())

    for _ in range(3):
        assert in_child(in_the_child)
        assert (array == 1).all()
    array += 4
    assert (array == 5).all()
    assert is_lent(array)


def test_what_the_parent_does_is_not_seen_by_a_child(sent: Any) -> None:
    array = sent(filled(1))
    context = sidestep.get_context("fork")
    go_on = context.Event()
    child = context.Process(target=say, args=(lambda: bool(go_on.wait(60) and (array == 1).all()),))
    child.start()
    array += 1
    array = None
    # What the parent receives next must not come to lie where the child still looks.
    for number in range(20):
        assert (sent(filled(number)) == number).all()
    go_on.set()
    child.join()
    assert child.exitcode == 0


def test_a_bare_fork_is_one_as_well(sent: Any) -> None:
    array = sent(filled(1))
    child = os.fork()
    if child == 0:
        array += 1
        say(lambda: bool((array == 2).all()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (array == 1).all()
    assert in_child(lambda: True), "what the other child held is given back with that of this one"


def test_a_child_gives_its_share_back(sent: Any) -> None:
    array = sent(filled(3))

    def in_the_child() -> bool:
        nonlocal array
        array += 1
        array = None
        # The same blocks again, now shared as before.
        return all((sent(filled(number)) == number).all() for number in range(20))

    assert in_child(in_the_child)
    assert (array == 3).all()


def test_no_write_of_another_thread_is_lost_by_a_fork(sent: Any) -> None:
    array = sent(numpy.zeros(LARGE, "u8"))
    rounds = 40

    def count() -> None:
        for _ in range(rounds):
            numpy.add(array, 1, out=array)  # without the interpreter's lock

    thread = threading.Thread(target=count)
    thread.start()
    while thread.is_alive():
        assert in_child(lambda: True)
    thread.join()
    assert (array == rounds).all()


def test_a_daemon_that_has_closed_all_descriptors_forks_as_well() -> None:
    script = f"""
import os
import numpy
import sidestep

queue = sidestep.SimpleQueue()
queue.put(numpy.full({LARGE}, 1, "u1"))
array = queue.get()
os.closerange(3, 1000)
child = os.fork()
if child == 0:
    found = (array == 1).all()
    array += 1
    os._exit(0 if found else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert (array == 1).all()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


# --- limits -----------------------------------------------------------------------------------


def test_one_half_of_the_arena_is_for_others() -> None:
    script = f"""
import numpy
import sidestep
from sidestep import _sidestep

queue = sidestep.SimpleQueue()
kept = []
for number in range(100):
    queue.put(numpy.full({LARGE}, number, "u1"))
    kept.append(queue.get())
usage = _sidestep.usage()
assert usage["used"] - usage["warm"] < usage["limit"] * 0.6, usage
assert all((array == number).all() for number, array in enumerate(kept))
"""
    environment = {**os.environ, "SIDESTEP_ARENA_LIMIT": "64M"}
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, env=environment)


def test_more_than_can_be_lent_is_copied(sent: Any) -> None:
    size = 256 << 10
    arrays = [sent(filled(number, size)) for number in range(1100)]
    assert sum(is_lent(array) for array in arrays[::100]) >= 10
    assert not is_lent(arrays[-1])

    def all_there() -> bool:
        return all((array == number % 251).all() for number, array in enumerate(arrays))

    assert in_child(all_there)
    assert all_there()


def hold(queue: Any, told: Any) -> None:
    array = queue.get()
    told.send(is_lent(array))
    signal.pause()


def test_a_killed_receiver_leaves_nothing(ctx: Any) -> None:
    queue = ctx.SimpleQueue()
    before = in_use()
    reader, writer = ctx.Pipe(duplex=False)
    child = ctx.Process(target=hold, args=(queue, writer))
    child.start()
    queue.put(filled(1))
    assert reader.recv()
    assert in_use() >= before + LARGE
    child.kill()
    child.join()
    child.close()
    del child
    reader.close()
    writer.close()
    del reader, writer
    assert in_use() < before + LARGE
    queue.close()


def test_a_family_at_rest_gives_memory_back() -> None:
    def warm() -> int:
        usage = _sidestep.usage()
        assert usage is not None
        return usage["warm"]

    with sidestep.get_context("fork").Pool(2) as pool:
        # What was given back and is wanted again stays from then on.
        for _ in range(2):
            results = pool.map(filled, range(40), 1)
            del results
            gc.collect()
        assert warm() > 30 * LARGE
        # Its idle workers do it.
        while warm() > 10 << 20:
            time.sleep(0.05)
        assert all((pool.map(filled, [1, 2], 1)[1] == 2).tolist())


def test_what_children_used_goes_back_when_the_last_one_has_ended() -> None:
    # A program of its own: in this one a fork server may still run.
    script = f"""
import sidestep
from sidestep import _sidestep

def take(queue):
    for _ in range(40):
        queue.get()

queue = sidestep.Queue()
for _ in range(40):
    queue.put(bytes({LARGE}))
child = sidestep.get_context("fork").Process(target=take, args=(queue,))
child.start()
child.join()
assert _sidestep.usage()["warm"] < 10 << 20, _sidestep.usage()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


# --- forks that cannot hand references over -----------------------------------------------------

NO_MEMORY_TO_PART = f"""
import os, resource, sys
import numpy
import sidestep

queue = sidestep.SimpleQueue()
arrays = []
for number in range(3):
    queue.put(numpy.full({8 * LARGE}, number, "u1"))
    arrays.append(queue.get())
with open("/proc/self/status") as file:
    (data,) = [int(line.split()[1]) << 10 for line in file if line.startswith("VmData")]
resource.setrlimit(resource.RLIMIT_DATA, (data + {4 * LARGE}, -1))
child = os.fork()
if child == 0:
    for array in arrays:
        array[:] = 42
    os._exit(0)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert all((array == number).all() for number, array in enumerate(arrays))
print(code)
"""


def test_a_child_that_would_share_what_its_parent_received_ends_and_says_why() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_MEMORY_TO_PART],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "255\n"
    assert "this child of a fork ends, as there is no memory to keep what" in done.stderr


FULL_ARENA = f"""
import os
import numpy
import sidestep

queue = sidestep.SimpleQueue()
arrays, locks = [], []
for number in range(12):
    queue.put(numpy.full({LARGE}, number, "u1"))
    arrays.append(queue.get())
for make in (lambda: queue.put(numpy.zeros({LARGE}, "u1")), lambda: locks.append(sidestep.Lock())):
    try:
        while True:
            make()
    except MemoryError:
        pass
r, w = os.pipe()
child = os.fork()
if child == 0:
    os.read(r, 1)
    fine = all((array == number).all() for number, array in enumerate(arrays))
    own = sidestep.SimpleQueue()
    for number in range(20):
        own.put(numpy.full({LARGE}, number, "u1"))
    fine = fine and all((own.get() == number).all() for number in range(20))
    os._exit(0 if fine else 1)
locks.clear()
arrays.clear()
while not queue.empty():
    queue.get()
for number in range(5):
    queue.put(numpy.full({LARGE}, 99, "u1"))
os.write(w, b"x")
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def test_a_child_of_a_full_arena_keeps_what_its_parent_received_and_can_receive() -> None:
    environment = {**os.environ, "SIDESTEP_ARENA_LIMIT": "40M"}
    subprocess.run([sys.executable, "-c", FULL_ARENA], check=True, timeout=60, env=environment)
