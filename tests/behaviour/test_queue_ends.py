"""The ends of queues: waiting for many at once, and what is asked of them as of a pipe's ends."""

import asyncio
import gc
import os
import pickle
import queue as standard
import select
import selectors
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import sidestep
from sidestep import connection, context, queues
from sidestep.reduction import ForkingPickler

sys.path.insert(0, str(Path(__file__).parent))

import actors

KINDS = ("Queue", "JoinableQueue", "SimpleQueue")
# Longer than anything takes: whoever waits so long has missed something.
LONG = 120.0


@pytest.fixture(params=actors.METHODS)
def ctx(request: pytest.FixtureRequest) -> context.BaseContext:
    return sidestep.get_context(str(request.param))


@pytest.fixture
def engage() -> Iterator[Callable[..., actors.Actor]]:
    with actors.stage() as engage:
        yield engage


@pytest.fixture(params=KINDS)
def queue(request: pytest.FixtureRequest) -> Iterator[Any]:
    queue = getattr(sidestep, request.param)()
    yield queue
    # pytest itself still has it when the test's descriptors are counted.
    queue.close()


def is_readable(thing: Any, timeout: float = 0.0) -> bool:
    return bool(select.select([thing], [], [], timeout)[0])


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# --- a descriptor that tells -----------------------------------------------------------------


def test_descriptor_is_readable_while_there_are_items(queue: Any) -> None:
    reader = queue._reader
    assert not is_readable(reader)
    queue.put("one")
    assert is_readable(reader)
    queue.put("two")
    queue.get()
    assert is_readable(reader)
    queue.get()
    assert not is_readable(reader)


def test_items_that_are_there_before_make_it_readable(queue: Any) -> None:
    queue.put("early")
    assert is_readable(queue._reader)


@pytest.mark.parametrize("item", ["short", b"x" * 100_000, threading.Event], ids=str)
def test_every_kind_of_item_makes_it_readable(queue: Any, item: Any) -> None:
    reader = queue._reader
    reader.fileno()
    queue.put(item)
    assert is_readable(reader)
    queue.get()
    assert not is_readable(reader)


def test_several_at_once_make_it_readable_until_the_last_is_taken() -> None:
    queue = sidestep.Queue()
    reader = queue._reader
    reader.fileno()
    queue.put_many(range(5))
    assert is_readable(reader)
    assert queue.get_many(3) == [0, 1, 2]
    assert is_readable(reader)
    assert queue.get_many(3) == [3, 4]
    assert not is_readable(reader)


def test_descriptor_is_made_when_asked_for_and_once() -> None:
    before = descriptors()
    many = [sidestep.Queue() for _ in range(1000)]
    assert descriptors() == before
    number = many[0]._reader.fileno()
    assert many[0]._reader.fileno() == number
    assert descriptors() == before + 1
    many.clear()
    gc.collect()
    assert descriptors() == before


def test_poll_and_epoll_and_selectors_work(queue: Any) -> None:
    reader = queue._reader
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    with select.epoll() as epoll, selectors.DefaultSelector() as selector:
        epoll.register(reader, select.EPOLLIN)
        selector.register(reader, selectors.EVENT_READ)
        assert not poll.poll(0) and not epoll.poll(0) and not selector.select(0)
        queue.put(1)
        assert poll.poll(0) == [(reader.fileno(), select.POLLIN)]
        assert epoll.poll(0) == [(reader.fileno(), select.EPOLLIN)]
        assert [key.fileobj for key, _ in selector.select(0)] == [reader]
        queue.get()
        assert not poll.poll(0) and not epoll.poll(0) and not selector.select(0)


def put_all(queue: Any, items: list[Any]) -> None:
    for item in items:
        queue.put(item)


def test_event_loop_reads_what_other_processes_put(
    ctx: context.BaseContext, engage: Callable[..., actors.Actor]
) -> None:
    queue = ctx.Queue()
    items = list(range(300))
    producers = [engage(ctx) for _ in range(2)]
    got: list[Any] = []

    async def gather() -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def ready() -> None:
            # One item for each call: the loop must be told of the rest again.
            got.append(queue.get_nowait())
            if len(got) == 2 * len(items):
                done.set_result(None)

        loop.add_reader(queue._reader, ready)
        for producer in producers:
            producer.ask(put_all, queue, items)
        await asyncio.wait_for(done, LONG)
        loop.remove_reader(queue._reader)

    asyncio.run(gather())
    assert sorted(got) == sorted(items * 2)
    for producer in producers:
        producer.answer()


def wait_and_take(queue: Any) -> Any:
    assert connection.wait([queue._reader], LONG) == [queue._reader]
    return queue.get(False)


def select_and_take(queue: Any) -> Any:
    assert is_readable(queue._reader, LONG)
    return queue.get(False)


@pytest.mark.parametrize("take", [wait_and_take, select_and_take])
def test_another_process_is_woken(
    ctx: context.BaseContext,
    engage: Callable[..., actors.Actor],
    queue: Any,
    take: Callable[[Any], Any],
) -> None:
    actor = engage(ctx)
    for item in range(3):
        actor.ask(take, queue)
        queue.put(item)
        assert actor.answer() == item


def take_until_sentinel(queue: Any, results: Any) -> None:
    while True:
        assert connection.wait([queue._reader], LONG)
        try:
            item = queue.get_nowait()
        except standard.Empty:
            continue
        if item is None:
            return
        results.put(item)


def test_consumers_that_wait_share_all_items(
    ctx: context.BaseContext, engage: Callable[..., actors.Actor]
) -> None:
    queue, results = ctx.Queue(), ctx.Queue()
    consumers = [engage(ctx) for _ in range(3)]
    for consumer in consumers:
        consumer.ask(take_until_sentinel, queue, results)
    count = 500
    for number in range(count):
        queue.put(number)
    for _ in consumers:
        queue.put(None)
    for consumer in consumers:
        consumer.answer()
    assert sorted(results.get_many(count)) == list(range(count))


def test_what_another_consumer_took_is_not_waited_for_in_vain(
    engage: Callable[..., actors.Actor],
) -> None:
    queue = sidestep.Queue()
    reader = queue._reader
    reader.fileno()
    actor = engage(sidestep.get_context("fork"))
    queue.put("taken by another")
    assert actor.do(take_now, queue) == "taken by another"
    # The bare descriptor cannot know; `wait` looks, and makes it right.
    assert is_readable(reader)
    assert connection.wait([reader], 0) == []
    assert not is_readable(reader)


def take_now(queue: Any) -> Any:
    return queue.get(False)


def test_looking_for_an_item_in_vain_makes_the_descriptor_right(
    engage: Callable[..., actors.Actor],
) -> None:
    queue = sidestep.Queue()
    actor = engage(sidestep.get_context("fork"))
    looks: list[Callable[[], Any]] = [
        queue.empty,
        queue._reader.poll,
        lambda: pytest.raises(standard.Empty, queue.get_nowait),
    ]
    for look in looks:
        assert not is_readable(queue._reader)
        queue.put(1)
        actor.do(take_now, queue)
        assert is_readable(queue._reader)
        look()
        assert not is_readable(queue._reader)


def test_wait_tells_queues_pipes_and_sentinels_apart(ctx: context.BaseContext) -> None:
    first, second = ctx.Queue(), ctx.SimpleQueue()
    here, there = ctx.Pipe()
    process = ctx.Process(target=put_all, args=(second, ["done"]))
    process.start()
    things = [first._reader, second._reader, here, process.sentinel]
    ready: list[Any] = []
    while len(ready) < 2:
        ready = connection.wait(things, LONG)
        assert ready
    assert ready == [second._reader, process.sentinel]
    process.join()
    process.close()
    assert second.get() == "done"
    there.send("hello")
    assert connection.wait([first._reader, second._reader, here], LONG) == [here]
    here.close()
    there.close()


def test_wait_comes_back_when_the_time_is_up(queue: Any) -> None:
    assert connection.wait([queue._reader], 0.01) == []
    assert connection.wait([queue._reader], -1) == []


def watch_then(queue: Any, ready: Any) -> None:
    queue._reader.fileno()
    ready.put(None)
    queue._reader.poll(None)


def test_a_killed_watcher_harms_nobody(
    ctx: context.BaseContext, engage: Callable[..., actors.Actor]
) -> None:
    queue, ready = ctx.Queue(), ctx.Queue()
    victim = engage(ctx)
    victim.ask(watch_then, queue, ready)
    ready.get()
    victim.kill()
    for item in range(3):
        assert not is_readable(queue._reader)
        queue.put(item)
        assert is_readable(queue._reader)
        assert queue.get() == item


def put_endlessly(queue: Any) -> None:
    number = 0
    while True:
        queue.put(number)
        number += 1


def test_a_killed_producer_is_a_delay_and_not_a_hang(
    ctx: context.BaseContext, engage: Callable[..., actors.Actor]
) -> None:
    queue = ctx.Queue()
    for _ in range(5):
        victim = engage(ctx)
        victim.ask(put_endlessly, queue)
        for expected in range(50):
            assert connection.wait([queue._reader], LONG)
            assert queue.get() == expected
        victim.kill()
        while not queue.empty():
            assert is_readable(queue._reader)
            queue.get()
        assert connection.wait([queue._reader], 0) == []


def test_child_of_a_fork_makes_a_descriptor_of_its_own(
    engage: Callable[..., actors.Actor],
) -> None:
    queue = sidestep.Queue()
    reader = queue._reader
    reader.fileno()
    heir = engage(sidestep.get_context("fork"))
    heir.do(watch_and_put, queue, "for the parent")
    assert is_readable(reader)
    assert queue.get() == "for the parent"
    assert not is_readable(reader)
    # What the child finds does not concern the parent's descriptor.
    assert heir.do(take_in_vain, queue)
    heir.do(watch_and_put, queue, "for the parent again")
    assert is_readable(reader)


def watch_and_put(queue: Any, item: Any) -> None:
    reader = queue._reader
    assert not is_readable(reader)
    queue.put(item)
    assert is_readable(reader)


def take_in_vain(queue: Any) -> bool:
    return queue.empty() and connection.wait([queue._reader], 0) == []


def test_too_many_watchers_are_told_so(engage: Callable[..., actors.Actor]) -> None:
    queue = sidestep.Queue()
    # Each object watches for itself, so one process can stand for many.
    objects = [queue]
    channel = sidestep.SimpleQueue()
    with pytest.raises(RuntimeError, match="32 processes watch this queue"):
        for _ in range(40):
            objects[-1]._reader.fileno()
            channel.put(queue)
            objects.append(channel.get())
    objects.pop()
    objects.pop()._reader.close()
    channel.put(queue)
    assert channel.get()._reader.fileno() >= 0


# --- an end like a pipe's --------------------------------------------------------------------


def test_ends_send_and_receive(queue: Any) -> None:
    reader, writer = queue._reader, queue._writer
    assert (reader.readable, reader.writable) == (True, False)
    assert (writer.readable, writer.writable) == (False, True)
    assert not reader.poll()
    writer.send({"a": [1]})
    assert reader.poll() and reader.poll(0.0) and reader.poll(None)
    assert reader.recv() == {"a": [1]}
    with pytest.raises(OSError, match="read-only"):
        reader.send(1)
    with pytest.raises(OSError, match="read-only"):
        reader.send_bytes(b"")
    for refused in (writer.recv, writer.recv_bytes, writer.poll):
        with pytest.raises(OSError, match="write-only"):
            refused()


def test_bytes_at_the_ends_are_pickles(queue: Any) -> None:
    queue.put([1, "two"])
    assert pickle.loads(queue._reader.recv_bytes()) == [1, "two"]
    data = bytes(ForkingPickler.dumps({"x": 1}))
    queue._writer.send_bytes(b"??" + data + b"!", 2, len(data))
    queue._writer.send_bytes(memoryview(data))
    assert queue.get() == queue.get() == {"x": 1}
    queue.put("x" * 100)
    with pytest.raises(OSError, match="maxlength=10"):
        queue._reader.recv_bytes(10)
    with pytest.raises(ValueError, match="negative"):
        queue._reader.recv_bytes(-1)


def test_writer_is_always_writable() -> None:
    queue = sidestep.Queue(1)
    queue.put("full")
    writer = queue._writer
    assert select.select([], [writer], [], 0)[1] == [writer]
    assert writer.fileno() == queue._writer.fileno() != queue._reader.fileno()


def test_an_end_is_equal_to_itself_and_found_in_lists(queue: Any) -> None:
    queue.put(1)
    assert queue._reader in connection.wait([queue._reader])
    assert queue._reader != queue._writer
    assert queue._reader != sidestep.Queue()._reader
    assert len({queue._reader, queue._reader, queue._writer}) == 2
    assert repr(queue) in repr(queue._reader)


def test_a_closed_reader_takes_nothing_and_lets_others_put(queue: Any) -> None:
    reader = queue._reader
    number = reader.fileno()
    with reader:
        assert not reader.closed
        assert reader._handle == number
    assert reader.closed and queue._reader.closed and not queue._writer.closed
    assert reader._handle is None
    queue.put("still works")
    for refused in (reader.fileno, reader.recv, reader.poll, queue.get, queue.empty):
        with pytest.raises(OSError, match="closed"):
            refused()
    with pytest.raises(OSError, match="handle is closed"):
        connection.wait([reader])
    reader.close()


def test_a_closed_writer_puts_nothing_and_lets_others_take(queue: Any) -> None:
    queue.put(1)
    queue._writer.fileno()
    queue._writer.close()
    with pytest.raises(OSError, match="handle is closed"):
        queue.put(2)
    with pytest.raises(OSError, match="handle is closed"):
        queue._writer.fileno()
    assert queue.get() == 1


def test_closing_the_queue_closes_both_ends_and_their_descriptors(queue: Any) -> None:
    before = descriptors()
    queue._reader.fileno(), queue._writer.fileno()
    queue.close()
    assert descriptors() == before
    assert queue._reader.closed and queue._writer.closed


def test_closing_concerns_this_process_only(
    ctx: context.BaseContext, engage: Callable[..., actors.Actor], queue: Any
) -> None:
    actor = engage(ctx)
    actor.do(close_reader, queue)
    queue.put(1)
    assert queue.get() == 1


def close_reader(queue: Any) -> None:
    queue._reader.close()


def test_ends_can_be_put_in_place_of_ours(queue: Any) -> None:
    class Wrapped:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def fileno(self) -> int:
            return int(self.inner.fileno())

    queue._reader = Wrapped(queue._reader)
    queue._writer = Wrapped(queue._writer)
    assert isinstance(queue._reader, Wrapped) and isinstance(queue._writer, Wrapped)
    queue.put(1)
    assert connection.wait([queue._reader], 0) == [queue._reader]


def test_what_a_subclass_keeps_beside_the_queue_does_not_travel() -> None:
    queue = Keeping()
    channel = sidestep.SimpleQueue()
    channel.put(queue)
    copy = channel.get()
    assert type(copy) is Keeping and not hasattr(copy, "lock")
    queue.put("same queue")
    assert copy.get() == "same queue"


class Keeping(queues.Queue[Any]):
    """As executors do: it keeps what cannot be pickled."""

    def __init__(self) -> None:
        super().__init__(ctx=sidestep.get_context())
        self.lock = threading.Lock()


def test_a_broken_queue_is_given_up() -> None:
    queue = sidestep.Queue(2)
    queue._ignore_epipe = True
    queue.put(1)
    queue._terminate_broken()
    assert queue._closed and queue._reader.closed
    with pytest.raises(ValueError, match="is closed"):
        queue.put(2)


# --- the executors of the standard library ---------------------------------------------------


def square(number: int) -> int:
    return number * number


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_executor_delivers_every_result_and_reports_a_killed_worker(
    ctx: context.BaseContext,
) -> None:
    theirs: Any = ctx
    with ProcessPoolExecutor(2, mp_context=theirs) as executor:
        assert list(executor.map(square, range(300))) == [n * n for n in range(300)]
        with pytest.raises(BrokenExecutor):
            executor.submit(die).result(LONG)
