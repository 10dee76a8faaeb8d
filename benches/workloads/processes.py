"""Starting processes and pools."""

import os
from typing import Any

from registry import clock, workload
from tasks import nothing
from workloads import children, each

GIGABYTE = 1 << 30


def starting(method: str, n: int, goal: float, imports: str = "") -> None:
    name, sentence = f"start {method}", f"a Process of method {method} is started and joined"
    if imports:
        name, sentence = f"{name}, {imports}", f"{sentence}; the main module imports {imports}"

    @workload(name, n, sentence, goal=goal)
    def run(mp: Any, n: int) -> float:
        os.environ["BENCH_MAIN_IMPORTS"] = imports
        context = mp.get_context(method)
        return each(n, lambda: start_and_join(context))


def start_and_join(context: Any) -> None:
    with children(context, (nothing,)):
        pass


starting("fork", 100, 1.3)
starting("spawn", 10, 1.5)
starting("spawn", 5, 1.5, "numpy")
starting("forkserver", 20, 8)
starting("forkserver", 10, 8, "numpy")


# "As fast as under a small parent" leaves room for what two runs of the same differ by.
@workload(
    "start under 1 GB",
    20,
    "a Process of method forkserver, in a program that has 1 GB in memory",
    beside={"small parent": 0.95},
)
def large_parent(mp: Any, n: int) -> float:
    ballast = b"s" * getattr(mp, "ballast", GIGABYTE)
    context = mp.get_context("forkserver")
    seconds = each(n, lambda: start_and_join(context))
    del ballast
    return seconds


def pools(method: str, n: int, goal: float) -> None:
    @workload(f"Pool(4) {method}", n, "a Pool is started, used once, closed and joined", goal=goal)
    def run(mp: Any, n: int) -> float:
        context = mp.get_context(method)
        # Once for what is started only once, such as the server that forks.
        start_and_join(context)
        start = clock()
        for _ in range(n):
            with context.Pool(4) as pool:
                pool.map(nothing, range(4))
                pool.close()
                pool.join()
        return (clock() - start) / n


pools("fork", 10, 1.3)
pools("spawn", 3, 1.8)
pools("forkserver", 3, 6)
