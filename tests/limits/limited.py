"""Programs that run into a limit, are told so, and go on: `python limited.py NAME ARGUMENT...`.

Each is a process of its own, as a limit cannot be raised again by whoever has lowered it for good,
and as some of them are about the first thing that a program does. Prints "done" at its end.
"""

import errno
import gc
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import sidestep
from sidestep import _sidestep
from sidestep.connection import Listener
from sidestep.pool import Pool, ThreadPool
from sidestep.resource_tracker import _resource_tracker
from sidestep.shared_memory import SharedMemory

MIB = 1 << 20


def nothing(*_: object) -> None:
    """What a child does that is only to be started."""


def double(number: int) -> int:
    return 2 * number


def usage() -> dict[str, int]:
    found = _sidestep.usage()
    assert found is not None
    return dict(found)


class Replaced(Pool):
    """One that replaces a part of the standard library's pool, and so gets its workings."""

    def _get_sentinels(self) -> list[Any]:
        sentinels: list[Any] = super()._get_sentinels()
        return sentinels


# --- descriptors ------------------------------------------------------------------------------


def open_descriptors() -> dict[int, str]:
    """Without the one that looks."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
    return dict(found)


def leave_free(count: int) -> None:
    """Lower the limit of descriptors so that there are `count` numbers left."""
    taken = open_descriptors()
    most = free = 0
    while free < count or most in taken:
        free += most not in taken
        most += 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard_limit()))


def hard_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def use_process(method: str) -> None:
    child = sidestep.get_context(method).Process(target=nothing)
    child.start()
    child.join()
    code = child.exitcode
    child.close()
    if code != 0:
        # It has the limit, too, and has run into it.
        raise OSError(errno.EMFILE, f"RLIMIT_NOFILE: the child ended with {code}")


def use_pool(method: str) -> None:
    with sidestep.get_context(method).Pool(2) as pool:
        assert pool.map(double, range(4)) == [0, 2, 4, 6]
        pool.close()
        pool.join()


def use_pipe(_: str) -> None:
    with ExitStack() as stack:
        for end in sidestep.Pipe():
            stack.enter_context(end)
        for end in sidestep.Pipe(duplex=False):
            stack.enter_context(end)


def use_queue(_: str) -> None:
    queue: Any = sidestep.Queue()
    try:
        queue.put("item")
        queue._reader.fileno()
        queue._writer.fileno()
        assert queue.get() == "item"
    finally:
        queue.close()


def use_block(_: str) -> None:
    # Each time with a tracker that has to be started.
    try:
        block = SharedMemory(create=True, size=8)
        try:
            SharedMemory(block.name).close()
        finally:
            block.close()
            block.unlink()
    finally:
        _resource_tracker._stop()


def use_listener(_: str) -> None:
    with Listener(None, "AF_UNIX", authkey=None) as listener:
        pass
    del listener


def descriptors(what: str, method: str) -> None:
    """Use something with ever more descriptors to have, until there are enough."""
    use: Callable[[str], None] = globals()[f"use_{what}"]
    # So that the numbers of those that matter are high, and a fresh interpreter has enough.
    fillers = [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(60)]
    # What is made once and kept.
    use(method)
    gc.collect()
    before = open_descriptors()
    refused = 0
    for count in range(60):
        leave_free(count)
        try:
            use(method)
        except OSError as error:
            # Its traceback would keep what could not be made.
            told: OSError | None = error.with_traceback(None)
        else:
            told = None
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit(), hard_limit()))
        gc.collect()
        now = open_descriptors()
        assert now == before, (count, told, sorted(set(now.items()) ^ set(before.items())))
        use(method)
        if told is None:
            break
        refused += 1
        assert told.errno == errno.EMFILE, (count, repr(told))
        assert "RLIMIT_NOFILE" in str(told), (count, repr(told))
    else:
        raise AssertionError(f"never enough: {told!r}")
    assert refused, "it takes no descriptor at all"
    del fillers


# --- address space and processes ---------------------------------------------------------------


def address_space(size: str) -> None:
    """Found a family and share things with hardly any address space left."""
    # Room for the interpreter, which has that much already, and a little more.
    status = Path("/proc/self/status").read_text()
    used = int(status.split("VmSize:")[1].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + int(size) * MIB, resource.RLIM_INFINITY))
    try:
        queue = sidestep.Queue()
        queue.put("item")
        assert queue.get() == "item"
        told = "enough"
    except MemoryError as error:
        told = str(error)
        assert "RLIMIT_AS" in told, told
    print(told)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    queue = sidestep.Queue()
    queue.put("item")
    assert queue.get() == "item"


def file_size(size: str) -> None:
    """Found a family and share things where files may not be large."""
    # As in a program that is not Python's: the signal would end it.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    most = int(size) * MIB
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        use_pool("fork")
    except MemoryError as error:
        print(error)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            SharedMemory(create=True, size=most + 1)
        except OSError as refused:
            assert refused.errno == errno.EFBIG and "ulimit -f" in str(refused), refused
        else:
            raise AssertionError("the limit was not kept")
        assert str(most) in str(error) and "ulimit -f" in str(error), error
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        use_pool("fork")
        return
    assert usage()["limit"] < most
    run_out_of_files()


def file_size_later() -> None:
    """The arena of a family that was founded where files may be large."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    use_pool("fork")
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (48 * MIB, hard))
    run_out_of_files()
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert len(sidestep.RawArray("b", 60 * MIB)) == 60 * MIB


def run_out_of_files() -> None:
    queue: Any = sidestep.Queue()
    for count in range(100):  # noqa: B007
        try:
            queue.put(bytes(MIB))
        except MemoryError as error:
            assert "RLIMIT_FSIZE" in str(error) and "ulimit -f" in str(error), error
            break
    else:
        raise AssertionError("the limit was not kept")
    assert count > 3
    for _ in range(count):
        assert len(queue.get()) == MIB
    use_pool("fork")


def growing_sizes() -> None:
    """Share ever larger things, one at a time, under a limit of the address space."""
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, resource.RLIM_INFINITY))
    size = 1000
    largest = 0
    limit = 0
    while True:
        try:
            array = sidestep.RawArray("b", size)
        except MemoryError as error:
            assert str(limit) in str(error), error
            break
        limit = usage()["limit"]
        largest = size
        del array
        size = size * 5 // 4
    # A quarter of the limit at the least, although no block is ever merged with another.
    assert largest > limit // 4, (largest, limit)
    assert sidestep.RawArray("b", largest)


def too_many_processes(method: str) -> None:
    """As a user who may have no more processes."""
    context = sidestep.get_context(method)
    # What is made once and kept, by a user who may.
    use_process(method)
    os.setresuid(61234, 61234, 61234)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    before = usage()["processes"]
    for _ in range(3):
        child = context.Process(target=nothing)
        try:
            child.start()
        except BlockingIOError as error:
            assert error.errno == errno.EAGAIN
            assert "RLIMIT_NPROC" in str(error), error
        else:
            raise AssertionError("the limit was not kept")
        assert usage()["processes"] <= before
    # The program goes on.
    use_queue(method)


def no_threads(what: str) -> None:
    """As a user who may start some of what it takes, and not all."""
    makers: dict[str, Callable[[], object]] = {
        "Pool": lambda: sidestep.Pool(2),
        "ThreadPool": lambda: ThreadPool(4),
        "ClassicPool": lambda: Replaced(2),
    }
    refused = 0
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    os.setresuid(61235, 61235, 61235)
    for room in range(2, 20):
        resource.setrlimit(resource.RLIMIT_NPROC, (room, hard))
        try:
            pool: Any = makers[what]()
        except (RuntimeError, BlockingIOError) as error:
            assert "RLIMIT_NPROC" in str(error), error
            refused += "can't start new thread" in str(error)
        else:
            pool.terminate()
            pool.join()
            break
        assert sidestep.active_children() == []
        # Those that were started are ending.
        for thread in threading.enumerate():
            if thread is not threading.current_thread():
                thread.join()
    else:
        raise AssertionError("never enough")
    assert refused, "it takes no thread at all"


def no_feeder(kind: str) -> None:
    """A lazy map that can have no thread for its input."""
    pool = sidestep.Pool(2)
    os.setresuid(61235, 61235, 61235)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    for _ in range(2):
        try:
            pool.imap(double, [1, 2], buffersize=1 if kind == "bounded" else None)
        except RuntimeError as error:
            assert "RLIMIT_NPROC" in str(error), error
        else:
            raise AssertionError("the limit was not kept")
    assert pool.map(double, [1, 2]) == [2, 4]
    pool.close()
    pool.join()


# --- the arena ---------------------------------------------------------------------------------


def fill() -> list[Any]:
    """Take all that the arena has."""
    held: list[Any] = []
    size = 8 * MIB
    while size > 16:
        try:
            held.append(sidestep.RawArray("b", size))
        except MemoryError:
            # In steps smaller than those of the arena, which has free blocks of each size.
            size -= max(1, size // 10)
    for _ in range(200):
        try:
            held.append(sidestep.Lock())
        except MemoryError:
            break
    return held


def ceiling(method: str) -> None:
    """Every operation that allocates, with nothing left (SIDESTEP_ARENA_LIMIT is 40M)."""
    context = sidestep.get_context(method)
    queue: Any = sidestep.Queue()
    simple: Any = sidestep.SimpleQueue()
    reader, writer = sidestep.Pipe(duplex=False)
    pool = context.Pool(1)
    assert pool.map(double, [1]) == [2]
    large = bytes(MIB)
    # A pipe's sender stays until the receiver has what is larger than a megabyte.
    half = bytes(MIB // 2)
    operations: dict[str, Callable[[], object]] = {
        "put": lambda: queue.put(large),
        "put_many": lambda: queue.put_many([large, large]),
        "SimpleQueue.put": lambda: simple.put(large),
        "send": lambda: writer.send(half),
        "send_bytes": lambda: writer.send_bytes(half),
        "Queue": lambda: [sidestep.Queue() for _ in range(1000)],
        "Lock": lambda: [sidestep.Lock() for _ in range(1000)],
        "Event": lambda: [sidestep.Event() for _ in range(1000)],
        "Condition": lambda: [sidestep.Condition() for _ in range(1000)],
        "Barrier": lambda: [sidestep.Barrier(2) for _ in range(1000)],
        "Value": lambda: [sidestep.Value("i") for _ in range(1000)],
        "Array": lambda: sidestep.Array("i", 10_000),
        "Pipe": lambda: [sidestep.Pipe() for _ in range(300)],
        "Pool.map": lambda: pool.map(len, [large]),
    }
    for _ in range(2):
        held = fill()
        for name, operate in operations.items():
            try:
                operate()
            except MemoryError as error:
                assert str(usage()["limit"]) in str(error), (name, error)
                assert "SIDESTEP_ARENA_LIMIT" in str(error), (name, error)
            else:
                raise AssertionError(f"{name} found memory where there is none")
        try:
            use_process(method)
        except MemoryError as error:
            assert str(usage()["limit"]) in str(error), error
        del held[:]
        gc.collect()
        assert queue.empty() and simple.empty() and not reader.poll()
        undo: dict[str, Callable[[], object]] = {
            "put": queue.get,
            "put_many": lambda: queue.get_many(2),
            "SimpleQueue.put": simple.get,
            "send": reader.recv,
            "send_bytes": reader.recv_bytes,
        }
        for name, operate in operations.items():
            operate()
            if name in undo:
                assert undo[name]() in (large, half, [large, large])
        use_process(method)
        gc.collect()
    pool.close()
    pool.join()


def unread_queue() -> None:
    """A queue that nobody reads, in a control group that is small."""
    queue: Any = sidestep.Queue()
    item = os.urandom(100_000)
    count = 0
    try:
        while True:
            queue.put(item)
            count += 1
    except MemoryError as error:
        print(error)
        assert "limit" in str(error)
    for _ in range(count):
        assert queue.get() == item
    queue.put(item)


def large_block() -> None:
    """A named block that is too large for a control group, and then one that is not."""
    for size in (400 * MIB, 62 * MIB):
        try:
            SharedMemory(create=True, size=size)
        except OSError as error:
            assert error.errno == errno.ENOMEM
            print(error)
        else:
            raise AssertionError(f"there were {size} bytes")
    block = SharedMemory(create=True, size=20 * MIB)
    block.buf[-1] = 1
    block.close()
    block.unlink()


# --- /dev/shm ----------------------------------------------------------------------------------


def small_shm(method: str) -> None:
    """All but a large named block works whatever /dev/shm has."""
    use_pool(method)
    use_queue(method)
    use_pipe(method)
    with sidestep.get_context(method).Manager() as manager:
        assert manager.list([1, 2])[1] == 2
    array = sidestep.Array("d", 10 * MIB)
    array[-1] = 1.0
    semaphores = [sidestep.Semaphore() for _ in range(1000)]
    del semaphores, array
    assert os.listdir("/dev/shm") in ([], ["full"]), os.listdir("/dev/shm")


# --- churn -------------------------------------------------------------------------------------


def private_bytes() -> int:
    text = Path("/proc/self/smaps_rollup").read_text()
    fields = dict(line.split(":") for line in text.splitlines()[1:])
    return sum(int(fields[name].split()[0]) for name in ("Private_Dirty", "Private_Clean")) * 1024


def state() -> dict[str, int]:
    gc.collect()
    found = usage()
    return {
        "descriptors": len(open_descriptors()),
        "threads": len(os.listdir("/proc/self/task")),
        "processes": found["processes"],
        "blocks": found["blocks"],
        "used": found["used"] - found["warm"],
    }


def more_than(before: dict[str, int]) -> dict[str, int]:
    """What there is more of than before."""
    return {kind: held for kind, held in state().items() if held > before[kind]}


def churn(what: str, method: str, count: str) -> None:
    """Make and drop many, and hold no more in the end than after the first few."""
    makers: dict[str, Callable[[], object]] = {
        "processes": lambda: use_process(method),
        "pools": lambda: use_pool(method),
        "queues": lambda: use_one_queue(),
        "locks": lambda: sidestep.Lock(),
    }
    make = makers[what]
    rounds = int(count)
    for _ in range(max(2, rounds // 10)):
        make()
    before, private = state(), private_bytes()
    for _ in range(rounds):
        make()
    # A thread that was joined is the kernel's for a moment more.
    end = time.monotonic() + 20
    while after := more_than(before):
        assert time.monotonic() < end, (before, after)
        time.sleep(0.01)
    grown = private_bytes() - private
    # Noise of the allocator, whatever the number of rounds.
    assert grown < 4 * MIB, f"{grown} bytes more of private memory"


def use_one_queue() -> None:
    queue: Any = sidestep.Queue()
    queue.put(1)
    assert queue.get() == 1


if __name__ == "__main__":
    # A program that hangs says where.
    import faulthandler

    faulthandler.dump_traceback_later(100, exit=True)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    globals()[sys.argv[1]](*sys.argv[2:])
    print("done")
