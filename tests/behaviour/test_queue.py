"""Queues: what goes in comes out, in order, once, whoever put it and whatever became of them."""

import gc
import os
import pickle
import queue as standard
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

import sidestep
from sidestep import _sidestep, context, queues

# Children are given our sys.path, and so find the module by its name.
sys.path.insert(0, str(Path(__file__).parent))

import actors

KINDS = ("Queue", "JoinableQueue", "SimpleQueue")
LIMITED = ("Queue", "JoinableQueue")


@pytest.fixture(params=actors.METHODS)
def ctx(request: pytest.FixtureRequest) -> context.BaseContext:
    return sidestep.get_context(str(request.param))


@pytest.fixture
def engage() -> Iterator[Callable[..., actors.Actor]]:
    with actors.stage() as engage:
        yield engage


@pytest.fixture(params=KINDS)
def queue(request: pytest.FixtureRequest) -> Any:
    return getattr(sidestep, request.param)()


@pytest.fixture(params=LIMITED)
def limited(request: pytest.FixtureRequest) -> Any:
    return getattr(sidestep, request.param)


def used() -> int:
    """Bytes of the arena that something holds."""
    usage = _sidestep.usage()
    return 0 if usage is None else usage["used"] - usage["warm"]


# --- one process ----------------------------------------------------------------------------


def test_items_come_out_in_order(queue: Any) -> None:
    items = [None, 1, "two", b"three", 4.5, (5,), [6, [7]], {"8": {9}}, KeyError("ten")]
    for item in items:
        queue.put(item)
    assert [repr(queue.get()) for _ in items] == [repr(item) for item in items]
    assert queue.empty()


def test_many_items_of_growing_size_come_out_in_order(queue: Any) -> None:
    sizes = range(0, 40_000, 97)
    for size in sizes:
        queue.put(b"x" * size)
    assert [len(queue.get()) for _ in sizes] == list(sizes)


def test_get_raises_empty_without_blocking(limited: Any) -> None:
    queue = limited()
    for get in (queue.get_nowait, lambda: queue.get(False), lambda: queue.get(block=False)):
        with pytest.raises(standard.Empty):
            get()
    queue.put("there")
    assert queue.get_nowait() == "there"


@pytest.mark.parametrize("timeout", [0, 0.0, -1, -0.5])
def test_a_timeout_that_is_over_means_now(limited: Any, timeout: float) -> None:
    queue = limited(1)
    with pytest.raises(standard.Empty):
        queue.get(True, timeout)
    queue.put(1, True, timeout)
    with pytest.raises(standard.Full):
        queue.put(2, True, timeout)
    assert queue.get(timeout=timeout) == 1


def test_get_waits_for_its_timeout(limited: Any) -> None:
    queue = limited()
    started = time.monotonic()
    with pytest.raises(standard.Empty):
        queue.get(timeout=0.03)
    assert time.monotonic() - started >= 0.03


def test_put_on_a_full_queue_raises_full(limited: Any) -> None:
    queue = limited(maxsize=2)
    assert not queue.full()
    queue.put(1)
    queue.put_nowait(2)
    assert queue.full() and queue.qsize() == 2
    with pytest.raises(standard.Full):
        queue.put_nowait(3)
    with pytest.raises(standard.Full):
        queue.put(3, False)
    started = time.monotonic()
    with pytest.raises(standard.Full):
        queue.put(3, timeout=0.03)
    assert time.monotonic() - started >= 0.03
    assert [queue.get(), queue.get()] == [1, 2]
    assert queue.empty() and not queue.full()


def test_a_large_item_counts_as_one(limited: Any) -> None:
    queue = limited(1)
    queue.put(bytes(1 << 20))
    with pytest.raises(standard.Full):
        queue.put(bytes(1 << 20), False)
    assert len(queue.get()) == 1 << 20
    queue.put(bytes(1 << 20), False)
    queue.get()


def test_a_blocked_put_goes_on_when_there_is_room(limited: Any) -> None:
    queue = limited(1)
    queue.put(0)
    thread = threading.Thread(target=actors.put_numbers, args=(queue, 1, 200))
    thread.start()
    assert [queue.get() for _ in range(200)] == list(range(200))
    thread.join()


def test_maxsize_of_nothing_means_no_limit(limited: Any) -> None:
    for maxsize in (0, -1):
        queue = limited(maxsize)
        for number in range(1000):
            queue.put(number, False)
        assert queue.qsize() == 1000 and not queue.full()


def test_sizes_are_exact() -> None:
    queue = sidestep.Queue(3)
    seen = [(queue.qsize(), queue.empty(), queue.full())]
    for number in range(3):
        queue.put(number)
        seen.append((queue.qsize(), queue.empty(), queue.full()))
    for _ in range(3):
        queue.get()
        seen.append((queue.qsize(), queue.empty(), queue.full()))
    assert seen == [
        (0, True, False),
        (1, False, False),
        (2, False, False),
        (3, False, True),
        (2, False, False),
        (1, False, False),
        (0, True, False),
    ]


def test_changes_after_put_are_not_seen(queue: Any) -> None:
    item = [1, {"two": 2}]
    array = numpy.zeros(1 << 17)
    data = bytearray(1 << 20)
    queue.put((item, array, data))
    item.append(3)
    array[:] = 1
    data[:] = b"x" * len(data)
    got = queue.get()
    assert got[0] == [1, {"two": 2}] and not got[1].any() and got[2] == bytearray(1 << 20)


def test_what_is_received_can_be_written_to(queue: Any) -> None:
    queue.put((numpy.zeros(1 << 17), bytearray(1 << 18)))
    array, data = queue.get()
    array[0], data[0] = 5, 6
    assert array[0] == 5 and data[0] == 6


# --- many at once ---------------------------------------------------------------------------


@pytest.mark.parametrize("queue_class", [sidestep.Queue, sidestep.SimpleQueue])
def test_a_refused_item_is_kept_by_nobody(queue_class: Any) -> None:
    class Refused:
        def __reduce__(self) -> Any:
            raise ValueError("not this one")

    refused, queue = Refused(), queue_class()
    kept = weakref.ref(refused)
    gc.disable()
    try:
        with pytest.raises(ValueError, match="not this one"):
            queue.put(refused)
        del refused
        # Without a collection: what is in shared memory has to go when its queue does.
        assert kept() is None
    finally:
        gc.enable()


def test_put_many_and_get_many() -> None:
    queue = sidestep.Queue()
    assert queue.put_many(range(5000)) == 5000
    assert queue.get_many(0) == []
    assert queue.get_many(10) == list(range(10))
    assert queue.get_many(100_000) == list(range(10, 5000))
    assert queue.put_many([]) == 0
    assert queue.put_many(iter("ab")) == 2
    assert queue.get_many(2) == ["a", "b"]


@pytest.mark.parametrize("kind", [sidestep.Queue, sidestep.SimpleQueue])
def test_get_many_names_a_limit_that_it_cannot_take(kind: Any) -> None:
    queue = kind()
    queue.put_many("abc")
    with pytest.raises(ValueError, match="limit must be 0 or more, not -1"):
        queue.get_many(-1)
    with pytest.raises(TypeError, match="limit must be an int, not 'two'"):
        queue.get_many("two")
    assert queue.get_many(10**30) == ["a", "b", "c"]


def test_put_many_of_large_items_and_handles_keeps_the_order() -> None:
    queue, inner = sidestep.Queue(), sidestep.Queue()
    lock = sidestep.Lock()
    items = [1, bytes(100_000), inner, 2, 3, numpy.arange(50_000), lock, "end"]
    assert queue.put_many(items) == len(items)
    inner.put("within")
    got = queue.get_many(100)
    assert len(got) == len(items)
    assert got[0] == 1 and got[1] == items[1] and got[3:5] == [2, 3] and got[7] == "end"
    assert got[2].get() == "within"
    assert (got[5] == items[5]).all()
    assert got[6].acquire() and not lock.acquire(False)
    lock.release()


def test_put_many_tells_how_many_found_room() -> None:
    queue = sidestep.Queue(4)
    assert queue.put_many(range(3), block=False) == 3
    assert queue.put_many(range(3, 9), block=False) == 1
    assert queue.put_many(range(3), timeout=0.01) == 0
    assert queue.get_many(10) == [0, 1, 2, 3]
    assert queue.put_many([bytes(50_000)] * 6, timeout=0.01) == 4


def test_put_many_waits_for_room() -> None:
    queue = sidestep.Queue(3)
    done: list[int] = []
    items = [n if n % 7 else bytes(20_000) for n in range(500)]
    thread = threading.Thread(target=lambda: done.append(queue.put_many(items)))
    thread.start()
    got: list[Any] = []
    while len(got) < 500:
        got += queue.get_many(10)
    thread.join()
    assert done == [500] and got == items


def test_get_many_raises_empty_and_waits_for_the_first_only() -> None:
    queue = sidestep.Queue()
    with pytest.raises(standard.Empty):
        queue.get_many(3, False)
    with pytest.raises(standard.Empty):
        queue.get_many(3, timeout=0.01)
    thread = threading.Thread(target=queue.put, args=("late",))
    thread.start()
    assert queue.get_many(3) == ["late"]
    thread.join()


def test_put_many_puts_nothing_if_one_item_cannot_be_serialised() -> None:
    queue = sidestep.Queue()
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        queue.put_many([1, threading.Lock(), 3])
    assert queue.empty()
    queue.put(4)
    assert queue.get() == 4


class Poisoned:
    """Pickles well and cannot be rebuilt."""

    def __reduce__(self) -> Any:
        return rebuild_nothing, ("spoilt",)


def rebuild_nothing(text: str) -> Any:
    raise LookupError(text)


def test_an_item_that_cannot_be_rebuilt_raises_from_get_and_the_next_one_comes(queue: Any) -> None:
    for item in (1, Poisoned(), 2):
        queue.put(item)
    assert queue.get() == 1
    with pytest.raises(LookupError, match="spoilt"):
        queue.get()
    assert queue.get() == 2


def test_get_many_loses_no_item_beside_one_that_cannot_be_rebuilt() -> None:
    queue = sidestep.Queue()
    queue.put_many([1, Poisoned(), 2, Poisoned(), 3])
    got: list[int] = []
    errors = 0
    while errors < 2 or not queue.empty():
        try:
            got += queue.get_many(10, False)
        except LookupError:
            errors += 1
    assert got == [1, 2, 3]


class Interrupting:
    """The first time that it is rebuilt somebody presses Ctrl-C."""

    def __reduce__(self) -> Any:
        return rebuild_at_the_second_try, ()


tries = 0


def rebuild_at_the_second_try() -> str:
    global tries
    tries += 1
    if tries == 1:
        raise KeyboardInterrupt
    return "rebuilt"


def test_get_many_that_is_interrupted_keeps_what_it_has_taken() -> None:
    global tries
    tries = 0
    queue = sidestep.Queue()
    queue.put_many([0, "one", Interrupting(), 3, bytes(100_000), 5])
    with pytest.raises(KeyboardInterrupt):
        queue.get_many(10)
    assert not queue.empty()
    # It was this process that took them.
    child = sidestep.get_context("fork").Process(target=leave_with_the_next, args=(queue,))
    child.start()
    child.join()
    assert child.exitcode == 100
    child.close()
    assert queue.get() == 0
    assert queue.get_many(2) == ["one", "rebuilt"]
    assert queue.get_many(10) == [3, 5]
    assert queue.empty()


def leave_with_the_next(queue: Any) -> None:
    sys.exit(len(queue.get()) // 1000)


# --- between processes ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_items_travel_both_ways(
    ctx: context.BaseContext, kind: str, engage: Callable[..., actors.Actor]
) -> None:
    queue, other = getattr(ctx, kind)(), engage(ctx)
    queue.put({"to": other.pid})
    assert other.do("get", queue) == {"to": other.pid}
    other.ask(actors.put_all, queue, ["back", b"x" * 100_000])
    assert queue.get() == "back" and queue.get() == b"x" * 100_000
    other.answer()


def test_several_producers_and_consumers(ctx: context.BaseContext) -> None:
    queue, results = ctx.Queue(50), ctx.SimpleQueue()
    each, count = 1000, 3
    producers = [
        ctx.Process(target=actors.put_numbers, args=(queue, n * each, (n + 1) * each))
        for n in range(count)
    ]
    consumers = [ctx.Process(target=actors.take_until_none, args=(queue, results)) for _ in "ab"]
    for child in producers + consumers:
        child.start()
    for child in producers:
        child.join()
    for _ in consumers:
        queue.put(None)
    taken = [results.get() for _ in consumers]
    for child in consumers:
        child.join()
    assert sorted(sum(taken, [])) == list(range(count * each))
    for part in taken:
        for n in range(count):
            mine = [number for number in part if n * each <= number < (n + 1) * each]
            assert mine == sorted(mine), "one producer's items were reordered"


def test_arrays_of_8_mb_arrive_whole(ctx: context.BaseContext) -> None:
    queue = ctx.Queue()
    child = ctx.Process(target=actors.put_arrays, args=(queue, 4))
    child.start()
    child.join()
    for number in range(4):
        got, array = queue.get()
        assert got == number and array.shape == (1 << 20,)
        assert array.dtype == float and (array == number).all()


def test_bytes_of_10_mb_arrive_whole(ctx: context.BaseContext) -> None:
    queue = ctx.SimpleQueue()
    child = ctx.Process(target=actors.put_bytes, args=(queue, 3, 10_000_000))
    child.start()
    assert [queue.get() == bytes([n]) * 10_000_000 for n in range(3)] == [True] * 3
    child.join()


@pytest.mark.parametrize("kind", KINDS)
def test_joining_a_producer_before_draining_ends(ctx: context.BaseContext, kind: str) -> None:
    queue = getattr(ctx, kind)()
    child = ctx.Process(target=actors.put_numbers, args=(queue, 0, 20_000))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert [queue.get() for _ in range(20_000)] == list(range(20_000))


def put_and_vanish(queue: Any) -> None:
    queue.put_many(["small", b"x" * 1_000_000])
    queue.put("last")
    os._exit(0)


def put_and_be_killed(queue: Any) -> None:
    queue.put_many(["small", b"x" * 1_000_000])
    queue.put("last")
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("target", [put_and_vanish, put_and_be_killed])
def test_items_outlive_their_producer(target: Callable[..., None]) -> None:
    ctx = sidestep.get_context("fork")
    queue = ctx.Queue()
    child = ctx.Process(target=target, args=(queue,))
    child.start()
    child.join()
    assert queue.get_many(2) == ["small", b"x" * 1_000_000]
    assert queue.get(timeout=0) == "last"


def test_forked_children_share_the_queue() -> None:
    queue, results = sidestep.Queue(), sidestep.SimpleQueue()
    queue.put_many(range(10))
    pids = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            try:
                results.put([queue.get() for _ in range(5)])
            finally:
                os._exit(0)
        pids.append(pid)
    taken = results.get() + results.get()
    for pid in pids:
        os.waitpid(pid, 0)
    assert sorted(taken) == list(range(10)) and queue.empty()


def test_threads_share_the_queue() -> None:
    queue, results = sidestep.Queue(10), standard.SimpleQueue[list[int]]()
    threads = [
        threading.Thread(target=actors.put_numbers, args=(queue, n * 500, (n + 1) * 500))
        for n in range(3)
    ]
    takers = [threading.Thread(target=actors.take_until_none, args=(queue, results)) for _ in "ab"]
    for thread in threads + takers:
        thread.start()
    for thread in threads:
        thread.join()
    queue.put_many([None, None])
    for thread in takers:
        thread.join()
    assert sorted(results.get() + results.get()) == list(range(1500))


def test_a_blocked_get_wakes_for_an_item(
    ctx: context.BaseContext, engage: Callable[..., actors.Actor]
) -> None:
    queue, other = ctx.Queue(), engage(ctx)
    other.ask("get", queue)
    queue.put("wake up")
    assert other.answer() == "wake up"


def test_a_blocked_put_wakes_for_room(
    ctx: context.BaseContext, engage: Callable[..., actors.Actor]
) -> None:
    queue, other = ctx.Queue(1), engage(ctx)
    queue.put(1)
    other.ask("put", queue, 2)
    assert [queue.get(), queue.get()] == [1, 2]
    assert other.answer() is None


def test_a_queue_in_a_queue(ctx: context.BaseContext, engage: Callable[..., actors.Actor]) -> None:
    outer, other = ctx.Queue(), engage(ctx)
    outer.put(ctx.Queue())
    inner = other.do("get", outer)
    other.ask("put", inner, "deep")
    assert inner.get() == "deep"
    other.answer()


def test_a_queue_in_itself_does_not_disturb() -> None:
    queue = sidestep.Queue()
    queue.put(queue)
    again = queue.get()
    again.put("round")
    assert queue.get() == "round"


# --- joinable -------------------------------------------------------------------------------


def test_join_waits_for_every_item(
    ctx: context.BaseContext, engage: Callable[..., actors.Actor]
) -> None:
    queue, other = ctx.JoinableQueue(), engage(ctx)
    queue.join()
    queue.put_many(range(100))
    other.ask(actors.take_and_report, queue, 100)
    queue.join()
    assert queue.empty()
    other.answer()


def test_task_done_too_often_raises() -> None:
    queue = sidestep.JoinableQueue()
    queue.put(1)
    queue.get()
    queue.task_done()
    with pytest.raises(ValueError, match=r"task_done\(\) was called more often"):
        queue.task_done()


def test_join_waits_while_a_task_is_under_way() -> None:
    queue = sidestep.JoinableQueue()
    queue.put("task")
    queue.get()
    joined = threading.Event()

    def join() -> None:
        queue.join()
        joined.set()

    thread = threading.Thread(target=join)
    thread.start()
    assert not joined.wait(0.02)
    queue.task_done()
    thread.join()
    assert joined.is_set()


# --- the end of a queue ---------------------------------------------------------------------


def test_a_closed_queue_raises(queue: Any) -> None:
    queue.put(1)
    queue.close()
    queue.close()
    expected = OSError if isinstance(queue, queues.SimpleQueue) else ValueError
    for call in (lambda: queue.put(2), queue.get, lambda: queue.get_many(2)):
        with pytest.raises(expected, match="is closed"):
            call()
    with pytest.raises(OSError, match="is closed"):
        queue.empty()


def test_close_concerns_this_process_only(
    ctx: context.BaseContext, engage: Callable[..., actors.Actor]
) -> None:
    queue, other = ctx.Queue(), engage(ctx)
    assert other.do("qsize", queue) == 0
    queue.put("left")
    other.ask("get", queue)
    assert other.answer() == "left"
    queue.close()
    queue.join_thread()


def test_join_thread_wants_the_queue_closed() -> None:
    queue = sidestep.Queue()
    queue.cancel_join_thread()
    with pytest.raises(AssertionError, match="not closed"):
        queue.join_thread()
    queue.close()
    queue.join_thread()


def test_a_freed_queue_gives_its_memory_back() -> None:
    gc.collect()
    sidestep.Queue()  # what the process itself needs in the arena is there afterwards
    before = used()
    for _ in range(3):
        queue = sidestep.Queue()
        queue.put_many([bytes(1_000_000)] * 5)
        queue.put(sidestep.Queue())
        queue.put_many(range(10_000))
        assert used() > before + 5_000_000
        del queue
        gc.collect()
        assert used() <= before


def test_taken_items_give_their_memory_back() -> None:
    queue = sidestep.Queue()
    queue.put(0)
    queue.get()
    before = used()
    for _ in range(20):
        queue.put(bytes(2_000_000))
        queue.get()
    assert used() - before < 1_000_000


# --- mistakes -------------------------------------------------------------------------------


def test_an_unpicklable_object_raises_from_put_and_the_queue_works_on(queue: Any) -> None:
    queue.put("before")
    with pytest.raises((TypeError, pickle.PicklingError), match="pickle"):
        queue.put([threading.Lock()])
    queue.put("after")
    assert [queue.get(), queue.get()] == ["before", "after"]
    assert queue.empty()


def test_an_unpicklable_object_takes_no_place() -> None:
    queue = sidestep.Queue(1)
    with pytest.raises(TypeError):
        queue.put(threading.Lock())
    queue.put(1, False)
    assert queue.full()


class Quiet(queues.Queue[Any]):
    """Takes care of objects that cannot be serialised."""

    def __init__(self, told: list[Any]) -> None:
        super().__init__(ctx=None)
        self.told = told

    def _on_queue_feeder_error(self, e: BaseException, obj: Any) -> None:  # type: ignore[override]
        self.told.append((type(e), obj))


def test_an_overridden_error_hook_silences_put() -> None:
    told: list[Any] = []
    queue = Quiet(told)
    lock = threading.Lock()
    queue.put(lock)
    queue.put(1)
    assert told == [(TypeError, lock)]
    assert queue.get() == 1


def test_a_reducer_that_puts_on_the_same_queue_does_not_deadlock() -> None:
    queue = sidestep.Queue()
    queue.put(PutsWhilePickled(queue))
    assert [queue.get(), queue.get()] == ["from within", "rebuilt"]


class PutsWhilePickled:
    def __init__(self, queue: Any) -> None:
        self.queue = queue

    def __reduce__(self) -> Any:
        self.queue.put("from within")
        return str, ("rebuilt",)


@pytest.mark.parametrize("call", ["get", "put", "join", "get_many"])
def test_a_signal_interrupts_a_blocked_call(call: str) -> None:
    queue = sidestep.JoinableQueue(1)
    if call in ("put", "join"):
        queue.put(1)
    calls: dict[str, Callable[[], Any]] = {
        "get": queue.get,
        "put": lambda: queue.put(2),
        "join": queue.join,
        "get_many": lambda: queue.get_many(5),
    }
    timer = threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        calls[call]()
    timer.join()
    # The queue is as it was.
    if call in ("put", "join"):
        assert queue.get() == 1
    queue.put("on", False)
    assert queue.get() == "on"


def test_a_handler_that_returns_does_not_interrupt() -> None:
    queue = sidestep.Queue()
    seen: list[int] = []

    def handler(number: int, frame: Any) -> None:
        seen.append(number)
        queue.put("from the handler")

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        timer = threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGUSR1])
        timer.start()
        assert queue.get() == "from the handler"
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [signal.SIGUSR1]


def test_an_uninitialised_subclass_says_so() -> None:
    class Forgetful(queues.Queue[int]):
        def __init__(self) -> None:
            pass

    with pytest.raises(RuntimeError, match=r"super\(\).__init__\(\)"):
        Forgetful().put(1)


# --- as an end of a pipe --------------------------------------------------------------------


def test_the_ends_of_a_queue_work_as_connections(queue: Any) -> None:
    assert not queue._reader.poll()
    queue._writer.send("through")
    assert queue._reader.poll(1)
    assert queue._reader.recv() == "through"


def test_block_is_taken_for_true_or_false_as_if_would() -> None:
    queue: Any = sidestep.Queue(1)
    queue.put("item", 1)
    with pytest.raises(standard.Full):
        queue.put("too much", 0)
    assert queue.get(1) == "item"
    with pytest.raises(standard.Empty):
        queue.get(0)
    lock: Any = sidestep.Lock()
    assert lock.acquire(1)
    assert not lock.acquire(0)
    assert not lock.acquire([])
    lock.release()
