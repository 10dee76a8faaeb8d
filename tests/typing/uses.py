"""Typical uses of the package, for `mypy --strict`: what people write has the types they mean.

Never run. `assert_type` fails the check where a type is another one; each `type: ignore` stands at
a mistake that a type checker must find (an ignore that is not needed is an error, too).
"""

import ctypes
from collections.abc import Callable, MutableMapping, MutableSequence
from multiprocessing import shared_memory as original
from queue import Empty
from typing import Any, assert_type

import sidestep
import sidestep as multiprocessing
from sidestep import connection, managers, pool, queues, shared_memory, sharedctypes, synchronize
from sidestep.connection import Client, Connection, Listener, Pipe, wait
from sidestep.context import BaseContext


def work(number: int, *, scale: float = 1.0) -> float:
    return number * scale


def processes() -> None:
    child = sidestep.Process(target=work, args=(1,), kwargs={"scale": 2.0}, name="a", daemon=True)
    child.start()
    child.join(timeout=1.5)
    assert_type(child.exitcode, int | None)
    assert_type(child.pid, int | None)
    assert_type(child.is_alive(), bool)
    assert_type(child.name, str)
    assert_type(child.sentinel, int)
    ready = wait([child.sentinel], timeout=1)
    print(len(ready))
    child.terminate()
    child.close()


class Worker(multiprocessing.Process):
    """A process by subclassing."""

    def __init__(self, inbox: "queues.Queue[int]") -> None:
        super().__init__(name="worker")
        self.inbox = inbox

    def run(self) -> None:
        assert_type(self.inbox.get(), int)


def contexts() -> None:
    context = sidestep.get_context("spawn")
    takes_context(context)
    child = context.Process(target=work, args=(1,))
    child.start()
    sidestep.set_start_method("forkserver", force=True)
    sidestep.set_forkserver_preload(["json"])
    assert_type(sidestep.get_all_start_methods(), list[str])
    assert_type(sidestep.cpu_count(), int)


def takes_context(context: BaseContext) -> None:
    Worker(context.Queue()).start()


def typed_queues(numbers: "queues.Queue[int]", jobs: "queues.JoinableQueue[str]") -> None:
    numbers.put(1)
    numbers.put("one")  # type: ignore[arg-type]
    assert_type(numbers.get(timeout=0.5), int)
    assert_type(numbers.get_nowait(), int)
    assert_type(numbers.put_many([1, 2, 3]), int)
    assert_type(numbers.get_many(100, block=False), list[int])
    assert_type(numbers.qsize(), int)
    try:
        jobs.get(block=False)
    except Empty:
        jobs.task_done()
    jobs.join()
    jobs.close()
    jobs.join_thread()


def new_queues() -> None:
    inferred: queues.Queue[int] = sidestep.Queue(maxsize=3)
    typed_queues(inferred, sidestep.JoinableQueue())
    simple: queues.SimpleQueue[bytes] = sidestep.SimpleQueue()
    simple.put(b"")
    assert_type(simple.get(), bytes)


class Numbered(queues.Queue[tuple[int, str]]):
    """A queue of one's own."""

    def __init__(self) -> None:
        super().__init__(10, ctx=sidestep.get_context())
        self.count = 0


def own_queue() -> None:
    item = Numbered().get()
    assert_type(item, tuple[int, str])


def locks() -> None:
    lock = sidestep.Lock()
    with lock:
        pass
    assert_type(lock, synchronize.Lock)
    assert_type(lock.acquire(timeout=1), bool)
    try:
        lock.acquire(False)
    except synchronize.AbandonedLockError:
        assert_type(lock.recover(), bool)
    lock.release()
    recursive: synchronize.RLock = sidestep.RLock()
    condition = sidestep.Condition(recursive)
    with condition:
        assert_type(condition.wait(0.1), bool)
        condition.notify()
        condition.notify_all()
    semaphore = sidestep.BoundedSemaphore(2)
    assert_type(semaphore.get_value(), int)
    event = sidestep.Event()
    assert_type(event.wait(1), bool)
    barrier = sidestep.Barrier(2, action=event.set, timeout=1.0)
    assert_type(barrier.wait(), int)


def pipes() -> None:
    receiver, sender = Pipe(duplex=False)
    assert_type(receiver, Connection)
    sender.send({"any": "thing"})
    sender.send_bytes(memoryview(b"abc"), 1, 1)
    assert_type(receiver.recv_bytes(maxlength=10), bytes)
    assert_type(receiver.recv_bytes_into(bytearray(10)), int)
    assert_type(receiver.poll(None), bool)
    with Listener(("localhost", 0), authkey=b"secret") as listener, listener.accept() as peer:
        peer.send(1)
    with Client("socket", authkey=b"secret") as client:
        assert_type(client, connection.Connection)


def pools() -> None:
    with sidestep.Pool(processes=2, initializer=print, initargs=("hello",)) as workers:
        assert_type(workers, pool.Pool)
        results: list[float] = workers.map(work, range(10), chunksize=2)
        later = workers.apply_async(work, (1,), {"scale": 2.0}, callback=print)
        value: float = later.get(timeout=1)
        print(results, value, later.ready(), later.successful())
        for item in workers.imap_unordered(work, range(10)):
            print(item)
        print(workers.starmap(divmod, [(1, 2)]))
        assert_type(later.cancel(), bool)
    with sidestep.get_context("spawn").Pool(2, retries=1, task_timeout=2.5) as workers:
        try:
            workers.map(work, [1])
        except pool.TaskTimeoutError as late:
            assert_type(late.position, int | range | None)
        except pool.WorkerLostError as lost:
            assert_type(lost.position, int | range | None)
            assert_type(lost.signal, str | None)
            assert_type(lost.out_of_memory, bool)
    with pool.ThreadPool(2) as threads:
        threads.map(work, [1])


def values() -> None:
    number = sidestep.Value("i", 0)
    with number.get_lock():
        number.value += 1
    array = sidestep.Array(ctypes.c_double, [1.0, 2.0], lock=False)
    array[0] = 2.0
    count: sharedctypes.Synchronized[int] = sidestep.Value("i")
    assert_type(count.value, int)
    wrapped = sharedctypes.synchronized(ctypes.c_int(1))
    assert_type(wrapped.value, int)


def managed() -> None:
    with sidestep.Manager() as manager:
        assert_type(manager, managers.SyncManager)
        table: managers.DictProxy[str, int] = manager.dict(a=1)
        takes_mapping(table)
        assert_type(table["a"], int)
        items = manager.list([1, 2])
        assert_type(items, managers.ListProxy[int])
        takes_sequence(items)
        items += [3]
        manager.Namespace(x=1).x = 2
        assert_type(manager.Value("i", 1).value, int)
        with manager.Lock():
            pass


def takes_mapping(mapping: MutableMapping[str, int]) -> None:
    mapping["a"] += 1


def takes_sequence(sequence: MutableSequence[int]) -> None:
    sequence.append(1)


class Counter:
    """An object for a manager."""

    def more(self) -> int:
        return 1


class CounterManager(managers.BaseManager):
    """A manager of one's own."""


CounterManager.register("Counter", Counter, exposed=["more"])


def blocks() -> None:
    block = shared_memory.SharedMemory(create=True, size=10)
    block.buf[:3] = b"abc"
    assert_type(block.name, str)
    block.close()
    block.unlink()
    names = shared_memory.ShareableList(["a", "b"])
    assert_type(names[0], str)
    # Its own class, and not the standard library's.
    other: original.SharedMemory = block  # type: ignore[assignment]
    print(other)


def callbacks(then: Callable[[Any], object]) -> None:
    with sidestep.Pool() as workers:
        workers.map_async(work, [1], callback=then, error_callback=print).wait()
