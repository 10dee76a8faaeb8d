"""Pools of two workers, most with a function that does nearly nothing."""

from typing import Any

from registry import clock, workload
from tasks import changed, cube
from workloads import checked, warm_pool


@workload("pool apply", 2_000, "apply(), one call after the other", goal=6)
def apply(mp: Any, n: int) -> float:
    with warm_pool(mp) as pool:
        start = clock()
        results = [pool.apply(cube, (number,)) for number in range(n)]
        return checked((clock() - start) / n, results, n)


@workload("pool map, chunks of 1", 10**4, "map() with chunksize 1", goal=8)
def map_one_by_one(mp: Any, n: int) -> float:
    with warm_pool(mp) as pool:
        start = clock()
        results = pool.map(cube, range(n), 1)
        return checked((clock() - start) / n, results, n)


@workload("pool imap", 10**4, "imap(), one task per number")
def imap(mp: Any, n: int) -> float:
    with warm_pool(mp) as pool:
        start = clock()
        results = list(pool.imap(cube, range(n)))
        return checked((clock() - start) / n, results, n)


@workload("pool imap_unordered", 10**4, "imap_unordered(), one task per number", goal=8)
def imap_unordered(mp: Any, n: int) -> float:
    with warm_pool(mp) as pool:
        start = clock()
        results = list(pool.imap_unordered(cube, range(n)))
        return checked((clock() - start) / n, sorted(results), n)


@workload("pool map, 10^5", 10**5, "map() of 10^5 numbers with its own chunks", goal=1.5)
def map_default(mp: Any, n: int) -> float:
    with warm_pool(mp) as pool:
        start = clock()
        results = pool.map(cube, range(n))
        return checked((clock() - start) / n, results, n)


@workload("pool 8 MB arrays", 64, "numpy arrays to a pool by map(), changed ones back", goal=10)
def arrays(mp: Any, n: int) -> float:
    import numpy

    items = [numpy.full(10**6, number, "f8") for number in range(n)]
    with warm_pool(mp) as pool:
        start = clock()
        results = pool.map(changed, items)
        elapsed = clock() - start
    if any(result[-1] != 2 * number for number, result in enumerate(results)):
        raise ArithmeticError("the pool returned wrong results")
    return elapsed / n
