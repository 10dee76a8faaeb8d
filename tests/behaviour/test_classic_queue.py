"""Subclasses that reach inside a queue find what the standard library's is made of."""

import gc
import queue as standard
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sidestep
from sidestep import connection, context, queues

sys.path.insert(0, str(Path(__file__).parent))

import actors
from classic_queues import (
    DeepBelowPlain,
    Mentions,
    MentionsInJoinable,
    MentionsInProperty,
    Number,
    OwnFeeder,
    OwnPickler,
    Plain,
)

LONG = 120.0


@pytest.fixture(params=actors.METHODS)
def ctx(request: pytest.FixtureRequest) -> context.BaseContext:
    return sidestep.get_context(str(request.param))


@pytest.fixture
def closing() -> Iterator[Callable[[Any], Any]]:
    """Closes queues, and waits for their feeders, before the test's descriptors are counted."""
    opened: list[Any] = []

    def keep(queue: Any) -> Any:
        opened.append(queue)
        return queue

    yield keep
    while opened:
        queue = opened.pop()
        queue.close()
        if isinstance(queue, queues.Queue):
            queue.join_thread()
        queue._reader.close()
        queue._writer.close()
    gc.collect()


def is_classic(cls: type) -> bool:
    return any(base.__module__ == "sidestep._classic_queue" for base in cls.__mro__)


# --- who gets it -----------------------------------------------------------------------------


def test_only_who_reaches_inside_is_classic() -> None:
    reach: list[type] = [OwnFeeder, OwnPickler, Mentions, DeepBelowPlain]
    reach += [MentionsInJoinable, MentionsInProperty]
    do_not: list[type] = [queues.Queue, queues.JoinableQueue, queues.SimpleQueue, Plain]
    assert [is_classic(cls) for cls in reach] == [True] * len(reach)
    assert [is_classic(cls) for cls in do_not] == [False] * len(do_not)


def test_a_hook_for_errors_alone_stays_on_the_engine() -> None:
    class Hooked(queues.Queue[Any]):
        def _on_queue_feeder_error(self, e: BaseException, obj: Any) -> None:  # type: ignore[override]
            pass

    assert not is_classic(Hooked)


def test_classic_is_still_what_it_was() -> None:
    assert issubclass(OwnFeeder, queues.Queue)
    assert issubclass(MentionsInJoinable, queues.JoinableQueue)
    assert issubclass(OwnPickler, queues.SimpleQueue)
    assert OwnFeeder.__name__ == "OwnFeeder"
    # The body in the middle still has its say.
    assert DeepBelowPlain.__mro__.index(Plain) < DeepBelowPlain.__mro__.index(queues.Queue)


def test_a_subclass_of_a_classic_one_is_made_once() -> None:
    class Again(OwnFeeder):
        def _start_thread(self) -> None:
            super()._start_thread()

    assert [base.__name__ for base in Again.__mro__].count("ClassicQueue") == 1
    assert Again.__bases__ == (OwnFeeder,)


# --- what it does ----------------------------------------------------------------------------


def test_own_feeder_pickles(closing: Callable[[Any], Any]) -> None:
    queue = closing(OwnFeeder(label="here", ctx=sidestep.get_context()))
    queue.put(Number(1))
    assert queue.get(timeout=LONG) == Number(2)
    assert queue._thread.name == "feeder of here"


def answer(source: Any, target: Any) -> None:
    item = source.get()
    target.put((source.label, item))


def test_own_feeder_between_processes(
    ctx: context.BaseContext, closing: Callable[[Any], Any]
) -> None:
    there = closing(OwnFeeder(3, "there", ctx=ctx))
    back = closing(OwnFeeder(3, "back", ctx=ctx))
    process = ctx.Process(target=answer, args=(there, back))
    process.start()
    there.put(Number(1))
    # Pickled twice, once in each process; the child did not end before it had sent.
    assert back.get(timeout=LONG) == ("there", Number(3))
    process.join()
    assert process.exitcode == 0
    process.close()


def test_own_pickler_between_processes(
    ctx: context.BaseContext, closing: Callable[[Any], Any]
) -> None:
    there = closing(OwnPickler("there", ctx=ctx))
    back = closing(OwnPickler("back", ctx=ctx))
    process = ctx.Process(target=answer, args=(there, back))
    process.start()
    there.put(Number(1))
    assert connection.wait([back._reader], LONG) == [back._reader]
    assert not back.empty()
    assert back.get() == ("there", Number(3))
    assert back.empty()
    process.join()
    assert process.exitcode == 0
    process.close()


def put_until_full(queue: Any) -> None:
    for number in range(4):
        queue.put(number, timeout=LONG)


def test_limits_counts_and_order(ctx: context.BaseContext, closing: Callable[[Any], Any]) -> None:
    queue = closing(Mentions(4, ctx=ctx))
    assert queue.room() == 4 and queue.empty() and not queue.full()
    process = ctx.Process(target=put_until_full, args=(queue,))
    process.start()
    process.join()
    process.close()
    assert queue.room() == 0 and queue.full() and not queue.empty() and queue.qsize() == 4
    with pytest.raises(standard.Full):
        queue.put("more", False)
    with pytest.raises(standard.Full):
        queue.put("more", timeout=0.01)
    assert [queue.get() for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(standard.Empty):
        queue.get_nowait()
    with pytest.raises(standard.Empty):
        queue.get(timeout=0.01)


def test_many_at_once(closing: Callable[[Any], Any]) -> None:
    queue = closing(Mentions(3, ctx=sidestep.get_context()))
    assert queue.put_many(range(5), timeout=0.01) == 3
    assert queue.get() == 0
    assert queue._reader.poll(LONG)
    assert queue.get_many(10, timeout=LONG)[0] == 1
    with pytest.raises(standard.Empty):
        while True:
            queue.get_many(1, False)
    assert queue.get_many(0) == []


def do_tasks(queue: Any) -> None:
    while queue.get() is not None:
        queue.task_done()
    queue.task_done()


def test_joinable(ctx: context.BaseContext, closing: Callable[[Any], Any]) -> None:
    queue = closing(MentionsInJoinable(ctx=ctx))
    queue.join()
    process = ctx.Process(target=do_tasks, args=(queue,))
    process.start()
    for item in (1, 2, None):
        queue.put(item)
    queue.join()
    with pytest.raises(ValueError, match="more often"):
        queue.task_done()
    process.join()
    assert process.exitcode == 0
    process.close()


class Complaining(Mentions):
    def __init__(self) -> None:
        super().__init__(1, ctx=sidestep.get_context())
        self.complaints: standard.Queue[tuple[BaseException, Any]] = standard.Queue()

    def _on_queue_feeder_error(self, e: BaseException, obj: Any) -> None:  # type: ignore[override]
        self.complaints.put((e, obj))


def test_what_cannot_be_pickled_is_reported_and_takes_no_room(
    closing: Callable[[Any], Any],
) -> None:
    queue = closing(Complaining())
    bad = threading.Lock()
    queue.put(bad)
    error, obj = queue.complaints.get(timeout=LONG)
    assert isinstance(error, TypeError) and obj is bad
    queue.put("good", timeout=LONG)
    assert queue.get(timeout=LONG) == "good"


def test_after_close_nothing_is_put_or_taken() -> None:
    queue = Mentions(ctx=sidestep.get_context())
    with pytest.raises(AssertionError, match="call close"):
        queue.join_thread()
    queue.put(1)
    queue.cancel_join_thread()
    queue.close()
    queue.close()
    for refused in (queue.get, lambda: queue.put(2)):
        with pytest.raises(ValueError, match="is closed"):
            refused()
    queue.join_thread()
    feeder: Any = vars(queue)["_thread"]
    feeder.join(LONG)
    # The feeder closes both ends when it has nothing left to send.
    assert queue._writer.closed and queue._reader.closed


def test_state_travels_at_the_start_of_processes_only(closing: Callable[[Any], Any]) -> None:
    channel = sidestep.SimpleQueue()
    for queue in (
        closing(Mentions(ctx=sidestep.get_context())),
        closing(OwnPickler(ctx=sidestep.get_context())),
    ):
        with pytest.raises(RuntimeError, match="inheritance"):
            channel.put(queue)
