"""Handles: shared objects travel through every channel of the family, at any time."""

import copy
import gc
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sidestep
from sidestep import _sidestep, context, reduction, resource_sharer

# Children are given our sys.path, and so find the module by its name.
sys.path.insert(0, str(Path(__file__).parent))

import actors

Engage = Callable[..., actors.Actor]


# --- one use of each kind: the far side does something, the near side sees it ----------------


def use(kind: str, shared: Any) -> Any:
    """What the receiver does, so that the sender can tell that it is the same object."""
    if kind in ("Lock", "RLock", "Semaphore"):
        return shared.acquire(False)
    if kind == "Condition":
        return shared.acquire(False)
    if kind == "Event":
        return shared.set()
    if kind == "Barrier":
        return shared.abort()
    if kind in ("Queue", "SimpleQueue", "JoinableQueue"):
        return shared.put("used")
    if kind == "Value":
        shared.value = 42
    elif kind == "Array":
        shared[1] = 42
    else:
        shared.send("used")
    return None


def was_used(kind: str, shared: Any) -> bool:
    if kind in ("Lock", "RLock", "Semaphore", "Condition"):
        return not shared.acquire(False)
    if kind == "Event":
        return bool(shared.is_set())
    if kind == "Barrier":
        return bool(shared.broken)
    if kind in ("Queue", "SimpleQueue", "JoinableQueue"):
        return bool(shared.get() == "used")
    if kind == "Value":
        return bool(shared.value == 42)
    if kind == "Array":
        return list(shared) == [0, 42, 0]
    return bool(shared.recv() == "used")


MAKERS: dict[str, Callable[[Any], Any]] = {
    "Lock": lambda ctx: ctx.Lock(),
    "RLock": lambda ctx: ctx.RLock(),
    "Semaphore": lambda ctx: ctx.Semaphore(1),
    "Condition": lambda ctx: ctx.Condition(),
    "Event": lambda ctx: ctx.Event(),
    "Barrier": lambda ctx: ctx.Barrier(2),
    "Queue": lambda ctx: ctx.Queue(),
    "SimpleQueue": lambda ctx: ctx.SimpleQueue(),
    "JoinableQueue": lambda ctx: ctx.JoinableQueue(),
    "Value": lambda ctx: ctx.Value("i", 0),
    "Array": lambda ctx: ctx.Array("i", 3),
}


def use_all(shared: dict[str, Any]) -> None:
    for kind, one in shared.items():
        use(kind, one)


def use_from(channel: Any, method: str, holder: Any) -> None:
    """Take a dictionary of objects out of a channel, use them, and keep them."""
    shared = getattr(channel, method)()
    use_all(shared)
    holder.append(shared)


def use_and_return(kind: str, shared: Any) -> Any:
    use(kind, shared)
    return shared


kept: list[Any] = []


def use_and_keep(channel: Any, method: str) -> None:
    use_from(channel, method, kept)


def unkept() -> None:
    kept.clear()


def make_and_put(channel: Any, kinds: list[str]) -> None:
    """The sender drops what it has sent right away."""
    ctx = sidestep.get_context("fork")
    for kind in kinds:
        channel.put((kind, MAKERS[kind](ctx)))


@pytest.fixture(params=actors.METHODS)
def ctx(request: pytest.FixtureRequest) -> context.BaseContext:
    return sidestep.get_context(str(request.param))


@pytest.fixture
def engage() -> Iterator[Engage]:
    with actors.stage() as engage:
        yield engage
    resource_sharer.stop(timeout=30)  # it hands connections over, and is kept for more


@pytest.mark.parametrize("channel", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_handles_travel_through_a_queue_to_a_process_started_before(
    ctx: context.BaseContext, engage: Engage, channel: str
) -> None:
    other = engage(ctx)
    queue = getattr(ctx, channel)()
    shared = {kind: make(ctx) for kind, make in MAKERS.items()}
    queue.put(shared)
    other.do(use_and_keep, queue, "get")
    assert {kind: was_used(kind, one) for kind, one in shared.items()} == dict.fromkeys(
        MAKERS, True
    )


@pytest.mark.parametrize("duplex", [True, False])
def test_handles_travel_through_a_pipe_to_a_process_started_before(
    ctx: context.BaseContext, engage: Engage, duplex: bool
) -> None:
    other = engage(ctx)
    reader, writer = ctx.Pipe(duplex)
    with reader, writer:
        shared = {kind: make(ctx) for kind, make in MAKERS.items()}
        writer.send(shared)
        other.do(use_and_keep, reader, "recv")
        assert {kind: was_used(kind, one) for kind, one in shared.items()} == dict.fromkeys(
            MAKERS, True
        )


def test_handles_are_arguments_of_a_process(ctx: context.BaseContext) -> None:
    shared = {kind: make(ctx) for kind, make in MAKERS.items() if kind != "RLock"}
    del shared["Condition"]  # its lock is an RLock, which ends abandoned
    child = ctx.Process(target=use_all, args=(shared,))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert all(was_used(kind, one) for kind, one in shared.items())


def test_handles_are_arguments_and_results_of_a_pools_tasks(ctx: context.BaseContext) -> None:
    with ctx.Pool(1) as pool:
        for kind, make in MAKERS.items():
            shared = make(ctx)
            back = pool.apply(use_and_return, (kind, shared))
            if kind in ("RLock", "Condition"):
                assert not shared.acquire(False), kind
            else:
                assert was_used(kind, back), kind
        pool.close()
        pool.join()


def test_a_connection_travels_through_queue_pipe_and_pool(
    ctx: context.BaseContext, engage: Engage
) -> None:
    other = engage(ctx)
    queue = ctx.Queue()
    for send, receive in ((queue.put, "get"), (None, "recv")):
        mine, theirs = ctx.Pipe()
        reader, writer = ctx.Pipe(False)
        with mine, theirs, reader, writer:
            if send is not None:
                send({"Connection": theirs})
                other.do(use_and_keep, queue, receive)
            else:
                writer.send({"Connection": theirs})
                other.do(use_and_keep, reader, receive)
            assert was_used("Connection", mine)
        other.do(unkept)
    with ctx.Pool(1) as pool:
        mine, theirs = ctx.Pipe()
        with mine, theirs:
            pool.apply(use, ("Connection", theirs))
            assert was_used("Connection", mine)
        pool.close()
        pool.join()


def test_handles_travel_within_containers(ctx: context.BaseContext, engage: Engage) -> None:
    other, queue = engage(ctx), ctx.Queue()
    lock, event = ctx.Lock(), ctx.Event()
    queue.put({"deep": [(lock, {"deeper": event})], "data": b"x" * 50_000})
    got = other.do("get", queue)
    again, other_event = got["deep"][0][0], got["deep"][0][1]["deeper"]
    assert again.acquire() and not lock.acquire(False)
    other_event.set()
    assert event.is_set() and got["data"] == b"x" * 50_000


def test_the_same_object_twice_in_one_message_arrives_as_one() -> None:
    queue = sidestep.Queue()
    lock = sidestep.Lock()
    queue.put([lock, lock])
    first, second = queue.get()
    assert first is second


def test_the_sender_may_drop_its_object_after_sending() -> None:
    ctx = sidestep.get_context("fork")
    queue = ctx.Queue()
    make_and_put(queue, list(MAKERS))
    gc.collect()
    # New objects in between would take the place of those that were freed too early.
    others = [make(ctx) for make in MAKERS.values() for _ in range(3)]
    for kind in MAKERS:
        got, shared = queue.get()
        assert got == kind
        if kind not in ("RLock", "Condition"):
            use(kind, shared)
            assert was_used(kind, shared)
    del others


def test_the_sender_may_end_after_sending(ctx: context.BaseContext) -> None:
    queue = ctx.SimpleQueue()
    child = ctx.Process(target=make_and_put, args=(queue, list(MAKERS)))
    child.start()
    child.join()
    assert child.exitcode == 0
    for kind in MAKERS:
        got, shared = queue.get()
        assert got == kind
        if kind not in ("RLock", "Condition"):
            use(kind, shared)
            assert was_used(kind, shared)


def make_put_and_be_killed(queue: Any) -> None:
    import os
    import signal

    make_and_put(queue, list(MAKERS))
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_sender_may_be_killed_after_sending() -> None:
    ctx = sidestep.get_context("fork")
    queue = ctx.Queue()
    child = ctx.Process(target=make_put_and_be_killed, args=(queue,))
    child.start()
    child.join()
    for kind in MAKERS:
        got, shared = queue.get()
        assert got == kind
        if kind not in ("RLock", "Condition"):
            use(kind, shared)
            assert was_used(kind, shared)


def test_the_receiver_may_send_handles_on(ctx: context.BaseContext, engage: Engage) -> None:
    first, second = engage(ctx), engage(ctx)
    one, two = ctx.Queue(), ctx.Queue()
    lock = ctx.Lock()
    one.put(lock)
    first.ask(forward, one, two)
    again = second.do("get", two)
    first.answer()
    assert again.acquire() and not lock.acquire(False)


def forward(source: Any, target: Any) -> None:
    target.put(source.get())


def test_objects_of_one_context_go_to_processes_of_another(engage: Engage) -> None:
    for made in actors.METHODS:
        lock = sidestep.get_context(made).Lock()
        for started in actors.METHODS:
            other = engage(sidestep.get_context(started))
            assert other.do("acquire", lock)
            assert not lock.acquire(False)
            lock.release()


@pytest.mark.parametrize("kind", list(MAKERS))
def test_pickling_outside_of_the_family_raises(kind: str) -> None:
    shared = MAKERS[kind](sidestep)
    for dump in (pickle.dumps, reduction.ForkingPickler.dumps, copy.deepcopy):
        with pytest.raises(RuntimeError, match="should only be shared between processes"):
            dump(shared)


def test_a_message_that_is_never_taken_frees_its_handles() -> None:
    gc.collect()
    queue = sidestep.Queue()
    queue.put(sidestep.Lock())
    queue.get()
    usage = _sidestep.usage()
    assert usage is not None
    before = usage["blocks"]
    queue = sidestep.Queue()
    for _ in range(50):
        queue.put([sidestep.Lock(), sidestep.Queue(), sidestep.Value("i", 1)])
    del queue
    gc.collect()
    usage = _sidestep.usage()
    assert usage is not None
    assert usage["blocks"] <= before
