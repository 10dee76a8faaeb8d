"""Beside packages that are made for one part of it."""

from typing import Any

from registry import clock, workload
from tasks import cube, doubled
from workloads import checked, together, warm_pool

FIFO: dict[str, float | None] = {"faster-fifo": 1}
POOLS: dict[str, float | None] = {"concurrent.futures": 1, "loky": 1, "joblib": 1, "mpire": 1}
# As in faster-fifo's comparisons: tuples of five equal numbers, taken at most 100 at once.
MESSAGE = (7,) * 5
BATCH = 100


def give(queue: Any, count: int) -> None:
    for _ in range(count):
        queue.put(MESSAGE)


def take(queue: Any, count: int) -> None:
    for _ in range(count):
        queue.get()


def give_batches(queue: Any, count: int) -> None:
    if not hasattr(queue, "put_many"):
        return give(queue, count)
    for first in range(0, count, BATCH):
        queue.put_many([MESSAGE] * min(BATCH, count - first))


def take_batches(queue: Any, count: int) -> None:
    if not hasattr(queue, "get_many"):
        return take(queue, count)
    while count:
        count -= len(queue.get_many(min(BATCH, count)))


def fifo(name: str, processes: int, n: int, giving: Any, taking: Any, sentence: str) -> None:
    @workload(name, n, f"tuples of five, {sentence}", beside=FIFO)
    def run(mp: Any, n: int) -> float:
        queue, share = mp.Queue(), max(1, n // processes)
        everybody = [(giving, queue, share), (taking, queue, share)] * processes
        return together(mp, *everybody) / (share * processes)


fifo("one to one", 1, 200_000, give, take, "one writer, one reader")
fifo("one to one, batches", 1, 200_000, give_batches, take_batches, "one to one, 100 at once")
fifo("one to one, get_many", 1, 200_000, give, take_batches, "put one by one, taken 100 at once")
fifo("many to many", 4, 200_000, give, take, "four writers, four readers")
fifo("many to many, batches", 4, 200_000, give_batches, take_batches, "four to four, 100 at once")
fifo("many to many, get_many", 4, 200_000, give, take_batches, "four to four, taken 100 at once")


@workload("map, small", 10**5, "numbers to two workers, each package's own chunks", beside=POOLS)
def small(mp: Any, n: int) -> float:
    with warm_pool(mp) as pool:
        start = clock()
        results = pool.map(cube, range(n))
        return checked((clock() - start) / n, list(results), n)


@workload("map, small, one by one", 5_000, "numbers to two workers, a task each", beside=POOLS)
def one_by_one(mp: Any, n: int) -> float:
    with warm_pool(mp) as pool:
        start = clock()
        results = pool.map(cube, range(n), 1)
        return checked((clock() - start) / n, list(results), n)


@workload("map, 8 MB arrays", 64, "numpy arrays to two workers, changed ones back", beside=POOLS)
def arrays(mp: Any, n: int) -> float:
    import numpy

    items = [numpy.full(10**6, number, "f8") for number in range(n)]
    with warm_pool(mp) as pool:
        start = clock()
        results = list(pool.map(doubled, items))
        elapsed = clock() - start
    if any(result[-1] != 2 * number for number, result in enumerate(results)):
        raise ArithmeticError("the pool returned wrong results")
    return elapsed / n
