"""What programs with annotations look like: they must be typed alike with both packages.

`make check` has mypy look at this file as it is, with the standard library's types, and then at the
same text with `sidestep` in the place of `multiprocessing`, with the package's own. So annotations
that were written for the one keep their meaning with the other. Never run.
"""

import ctypes
import logging
import multiprocessing
import multiprocessing as mp
import multiprocessing.pool
import multiprocessing.shared_memory
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import Pipe, Pool, Process, Queue, cpu_count, get_context, shared_memory
from multiprocessing.connection import Client, Connection, Listener, wait
from multiprocessing.context import BaseContext, ForkContext, ForkServerContext, SpawnContext
from multiprocessing.managers import (
    BaseManager,
    BaseProxy,
    DictProxy,
    ListProxy,
    SharedMemoryManager,
    SyncManager,
    ValueProxy,
)
from multiprocessing.pool import ApplyResult, AsyncResult, MapResult, ThreadPool
from multiprocessing.process import BaseProcess
from multiprocessing.queues import JoinableQueue, SimpleQueue
from multiprocessing.shared_memory import ShareableList, SharedMemory
from multiprocessing.sharedctypes import Synchronized, SynchronizedArray, SynchronizedString
from multiprocessing.synchronize import (
    Barrier,
    BoundedSemaphore,
    Condition,
    Event,
    Lock,
    RLock,
    Semaphore,
)
from queue import Empty, Full
from typing import Any, TypedDict, assert_type


def cube(number: int) -> int:
    return number**3


def scaled(number: int, *, factor: float = 1.0) -> float:
    return number * factor


# --- processes ------------------------------------------------------------------------------


class Worker(Process):
    """Takes numbers from one queue, puts their cubes into another."""

    def __init__(self, inbox: "Queue[int | None]", outbox: "mp.Queue[int]") -> None:
        super().__init__(name="worker", daemon=True)
        self.inbox = inbox
        self.outbox = outbox

    def run(self) -> None:
        for number in iter(self.inbox.get, None):
            self.outbox.put(cube(number))


def start_workers(numbers: Iterable[int], count: int | None = None) -> Iterator[int]:
    inbox: Queue[int | None] = Queue()
    outbox: multiprocessing.Queue[int] = multiprocessing.Queue(maxsize=100)
    workers = [Worker(inbox, outbox) for _ in range(count or cpu_count())]
    for worker in workers:
        worker.start()
    for number in numbers:
        inbox.put(number)
    for _ in workers:
        inbox.put(None)
    try:
        while True:
            yield outbox.get(timeout=1.0)
    except Empty:
        pass
    for worker in workers:
        worker.join(timeout=5)
        assert_type(worker.exitcode, int | None)
        assert_type(worker.is_alive(), bool)


def any_process() -> list[BaseProcess]:
    plain: BaseProcess = Process(target=print, args=("a", 1), kwargs={"sep": "-"})
    assert_type(plain.pid, int | None)
    assert_type(plain.authkey, bytes)
    assert_type(plain.sentinel, int)
    assert_type(plain.daemon, bool)
    parent = mp.parent_process()
    if parent is not None:
        assert_type(parent.name, str)
    assert_type(mp.current_process().name, str)
    plain.kill()
    plain.close()
    return [*mp.active_children(), plain]


def contexts(method: str) -> None:
    spawn: SpawnContext = get_context("spawn")
    assert_type(get_context("fork"), ForkContext)
    assert_type(get_context("forkserver"), ForkServerContext)
    chosen: BaseContext = get_context(method)
    with_context(chosen)
    with_context(spawn)
    with_context(mp.get_context())
    process: mp.process.BaseProcess = spawn.Process(target=cube, args=(1,))
    process.start()
    mp.set_start_method("spawn", force=True)
    assert_type(mp.get_start_method(), str)
    assert_type(mp.get_all_start_methods(), list[str])


def with_context(context: BaseContext) -> None:
    assert_type(context.Lock(), Lock)
    assert_type(context.RLock(), RLock)
    assert_type(context.Event(), Event)
    assert_type(context.Condition(), Condition)
    assert_type(context.Semaphore(2), Semaphore)
    assert_type(context.BoundedSemaphore(), BoundedSemaphore)
    assert_type(context.Barrier(2), Barrier)
    assert_type(context.Pool(2), multiprocessing.pool.Pool)
    assert_type(context.Manager(), SyncManager)
    numbers: Queue[int] = context.Queue()
    jobs: JoinableQueue[str] = context.JoinableQueue(3)
    simple: SimpleQueue[bytes] = context.SimpleQueue()
    queues(numbers, jobs, simple)


# --- queues, pipes ----------------------------------------------------------------------------


def queues(numbers: "Queue[int]", jobs: "JoinableQueue[str]", simple: "SimpleQueue[bytes]") -> None:
    try:
        numbers.put(1, block=False)
        numbers.put_nowait(2)
        numbers.put("three")  # type: ignore[arg-type]
    except Full:
        print(numbers.qsize(), numbers.empty(), numbers.full())
    assert_type(numbers.get(), int)
    assert_type(jobs.get_nowait(), str)
    jobs.task_done()
    jobs.join()
    jobs.close()
    jobs.join_thread()
    simple.put(b"")
    assert_type(simple.get(), bytes)


class Message(TypedDict):
    """What goes through the pipe below."""

    number: int


def pipes() -> None:
    first, second = Pipe(duplex=False)
    one_way(first, second)
    receiver: Connection
    receiver, sender = mp.Pipe()
    serve(receiver, sender)
    ready = wait([receiver, sender], timeout=1)
    assert_type(len(ready), int)
    assert_type(receiver.poll(0.1), bool)
    assert_type(receiver.recv_bytes(), bytes)
    sender.send_bytes(b"abc", 1)
    receiver.close()


def one_way(receiver: "Connection[Any, Message]", sender: "Connection[Message, Any]") -> None:
    sender.send({"number": 1})
    sender.send("text")  # type: ignore[arg-type]
    assert_type(receiver.recv(), Message)


def serve(*connections: Connection) -> None:
    with Listener(("localhost", 0), authkey=b"secret") as listener, listener.accept() as peer:
        peer.send(connections)
        print(listener.address, listener.last_accepted)
    with Client("path", family="AF_UNIX", authkey=b"secret") as client:
        print(client.recv())
        assert_type(client.fileno(), int)


# --- locks ------------------------------------------------------------------------------------


class Account:
    """Holds a lock, as objects do that go to processes."""

    lock: Lock
    changed: Event
    ready: "mp.synchronize.Condition"

    def __init__(self) -> None:
        self.lock = mp.Lock()
        self.changed = mp.Event()
        self.ready = mp.Condition(mp.RLock())
        self.slots: BoundedSemaphore = mp.BoundedSemaphore(3)
        self.balance = mp.Value("d", 0.0)

    def add(self, amount: float) -> None:
        with self.lock, self.balance.get_lock():
            self.balance.value += amount
        if self.lock.acquire(timeout=0.5):
            self.lock.release()
        if self.slots.acquire(False):
            self.slots.release()
        with self.ready:
            self.ready.notify_all()
            assert_type(self.ready.wait_for(lambda: True, timeout=1), bool)
        self.changed.set()
        assert_type(self.changed.is_set(), bool)
        assert_type(self.changed.wait(0.1), bool)


def meet(barrier: Barrier) -> int:
    try:
        return barrier.wait(timeout=1)
    finally:
        barrier.abort()


# --- pools ------------------------------------------------------------------------------------


def pools(then: Callable[[int], object]) -> None:
    with Pool(4, initializer=print, initargs=("hello",), maxtasksperchild=10) as pool:
        assert_type(pool.map(cube, range(10)), list[int])
        assert_type(pool.apply(cube, (1,)), int)
        assert_type(pool.starmap(scaled, [(7,)]), list[float])
        later: AsyncResult[float] = pool.apply_async(scaled, (1,), {"factor": 2.0})
        assert_type(later.get(timeout=1), float)
        again: ApplyResult[int] = pool.apply_async(cube, (1,), callback=then, error_callback=print)
        assert_type(again.successful(), bool)
        many: MapResult[int] = pool.map_async(cube, [1, 2], chunksize=1)
        assert_type(many.get(), list[int])
        for item in pool.imap_unordered(cube, range(10), chunksize=2):
            assert_type(item, int)
        assert_type(next(pool.imap(cube, [1])), int)
        use(pool)
    with ThreadPool(2) as threads:
        use(threads)
    pool.close()
    pool.join()


def use(pool: multiprocessing.pool.Pool) -> None:
    try:
        pool.apply_async(cube, (1,)).get(1)
    except mp.TimeoutError:
        pool.terminate()


# --- shared values ----------------------------------------------------------------------------


def values() -> None:
    number: Synchronized[int] = mp.Value("i", 0)
    with number.get_lock():
        number.value += 1
    assert_type(mp.Value(ctypes.c_int, 1), Synchronized[int])
    array: SynchronizedArray[float] = mp.Array("d", 3)
    assert_type(array[0], float)
    assert_type(array[:], list[float])
    assert_type(mp.Array(ctypes.c_int, [1, 2]), SynchronizedArray[int])
    text: SynchronizedString = mp.Array(ctypes.c_char, b"abc")
    assert_type(text.value, bytes)
    raw: ctypes.Array[ctypes.c_double] = mp.RawArray(ctypes.c_double, 3)
    assert_type(mp.RawValue(ctypes.c_int, 1), ctypes.c_int)
    print(raw[0])


def blocks(name: str | None = None) -> None:
    block: SharedMemory = shared_memory.SharedMemory(name=name, create=True, size=10)
    if block.buf is not None:
        block.buf[:3] = b"abc"
    assert_type(block.name, str)
    assert_type(block.size, int)
    block.close()
    block.unlink()
    words: ShareableList[str] = multiprocessing.shared_memory.ShareableList(["a", "b"])
    assert_type(words[0], str)
    with SharedMemoryManager() as manager:
        assert_type(manager.SharedMemory(10), SharedMemory)


# --- managers ---------------------------------------------------------------------------------


def managed() -> None:
    with mp.Manager() as manager:
        table: DictProxy[str, int] = manager.dict(a=1)
        table["b"] = 2
        assert_type(table.get("c"), int | None)
        assert_type(table.keys(), list[str])
        items: ListProxy[int] = manager.list([1, 2])
        items.append(3)
        items += [4]
        assert_type(items[0], int)
        value: ValueProxy[int] = manager.Value("i", 1)
        value.value += 1
        with manager.Lock():
            manager.Event().set()
        queue = manager.Queue(3)
        queue.put(1)
        address: str | bytes | tuple[str, int] | None = manager.address
        print(address)


class Counter:
    """An object for a manager."""

    def more(self) -> int:
        return 1


class CounterProxy(BaseProxy):
    """What others hold of it."""

    _exposed_ = ("more",)

    def more(self) -> Any:
        return self._callmethod("more")


class CounterManager(BaseManager):
    """A manager of one's own."""


CounterManager.register("Counter", Counter, CounterProxy)


def remote() -> None:
    manager = CounterManager(address=("localhost", 0), authkey=b"secret")
    manager.start()
    manager.connect()
    manager.get_server().serve_forever()
    manager.shutdown()


def errors() -> None:
    try:
        mp.log_to_stderr(logging.DEBUG).info("hello")
    except (mp.ProcessError, mp.BufferTooShort, mp.AuthenticationError) as error:
        print(error.args)
    mp.freeze_support()
