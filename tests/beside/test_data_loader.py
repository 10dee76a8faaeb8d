"""What torch's DataLoader asks of a `multiprocessing_context` and does with it.

torch is too large to install for this: the steps below are the ones its loader takes.
"""

import multiprocessing
import queue
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

import sidestep

# Children are given our sys.path, and so find the module by its name.
sys.path.insert(0, str(Path(__file__).parent))

import beside_children as children


@pytest.fixture(params=["fork", "spawn", "forkserver"])
def ctx(request: pytest.FixtureRequest) -> Any:
    return sidestep.get_context(request.param)


def test_the_context_is_accepted(ctx: Any) -> None:
    assert isinstance(ctx, multiprocessing.context.BaseContext)
    assert ctx.get_start_method() in multiprocessing.get_all_start_methods()


def test_a_round_through_the_loader(ctx: Any) -> None:
    results, done = ctx.Queue(), ctx.Event()
    workers, orders = [], []
    for _ in range(2):
        order = ctx.Queue()
        order.cancel_join_thread()
        worker = ctx.Process(target=children.load, args=(order, results, done))
        worker.daemon = True
        worker.start()
        assert isinstance(worker.pid, int)
        orders.append(order)
        workers.append(worker)
    for index in range(10):
        orders[index % 2].put((index, list(range(index))))
    found: dict[int, list[int]] = {}
    while len(found) < 10:
        try:
            index, batch = results.get(timeout=5.0)
        except queue.Empty:
            assert all(worker.is_alive() for worker in workers)
        else:
            found[index] = batch
    assert found == {index: [n * n for n in range(index)] for index in range(10)}
    done.set()
    for order, worker in zip(orders, workers, strict=True):
        order.put(None)
        worker.join(timeout=60.0)
        order.cancel_join_thread()
        order.close()
    assert [worker.exitcode for worker in workers] == [0, 0]
    results.cancel_join_thread()
    results.close()


# Not forkserver: its children are the server's, and no SIGCHLD comes here for them.
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_killed_worker_is_seen_by_the_loaders_signal_handler(method: str) -> None:
    ctx: Any = sidestep.get_context(method)
    caught = []

    def handler(number: int, frame: object) -> None:
        caught.append([worker for worker in workers if not worker.is_alive()])

    workers: list[Any] = []
    previous = signal.signal(signal.SIGCHLD, handler)
    try:
        order, results, done = ctx.Queue(), ctx.Queue(), ctx.Event()
        workers.append(ctx.Process(target=children.load, args=(order, results, done), daemon=True))
        workers[0].start()
        workers[0].kill()
        with pytest.raises(queue.Empty):
            results.get(timeout=0.2)
        workers[0].join()
    finally:
        signal.signal(signal.SIGCHLD, previous)
    assert caught[-1] == workers
