"""What a workload is, and the list of all of them.

A workload is a function of `mp` and `n`: `mp` is a context of a package, or something that a
contender makes look like one (see `contenders`), and `n` says how many operations to do. It does
its warming up, starts the clock, and returns what one operation took in seconds, or for
workloads of memory, what one thing takes in bytes. Less is better for all.
"""

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

Run = Callable[[Any, int], float]

OURS = "sidestep"
STANDARD = "multiprocessing"
SUITES = {
    "bench": ("queues", "pipes", "locks", "values", "pools", "processes", "managers", "programs"),
    "scaling": ("scaling",),
    "memory": ("memory",),
    "rivals": ("rivals",),
}

clock = time.perf_counter


@dataclass(frozen=True)
class Workload:
    """A measurement.

    Attributes:
        name: What the tables call it.
        sentence: What is done.
        n: How many operations one sample does.
        run: The function that does them.
        rivals: Who is measured beside us, each with the ratio to reach, or None without a goal.
        most: If given, the most that ours may take, whatever the rivals do.
        unit: "s" or "B": seconds or bytes.
        series: Of a workload that is repeated with growing `x`: what they have in common.
        x: How large this one is within its series.
        flat: Whether one operation should take as long however large `x` is.
    """

    name: str
    sentence: str
    n: int
    run: Run
    rivals: dict[str, float | None]
    most: float | None = None
    unit: str = "s"
    series: str = ""
    x: int = 0
    flat: bool = True


WORKLOADS: dict[str, Workload] = {}


def workload(
    name: str,
    n: int,
    sentence: str,
    *,
    goal: float | None = None,
    beside: dict[str, float | None] | None = None,
    **more: Any,
) -> Callable[[Run], Run]:
    """Register a function under `name`; several may be stacked on one function.

    Args:
        name: Unique within the suite.
        n: Operations of one sample.
        sentence: What is done.
        goal: The ratio to the standard library that we want to reach.
        beside: Further contenders, with the ratio to each that we want to reach, or None.
        more: Other attributes of the workload.
    """

    def register(run: Run) -> Run:
        rivals = {STANDARD: goal} | (beside or {})
        WORKLOADS[name] = Workload(name, sentence, n, run, rivals, **more)
        return run

    return register


def sweep(
    series: str,
    sizes: dict[str, int],
    n: int | Callable[[int], int],
    sentence: str,
    **more: Any,
) -> Callable[[Callable[[Any, int, int], float]], Callable[[Any, int, int], float]]:
    """Register a function of `mp`, `n` and `x` once for each of `sizes`, from labels to `x`."""

    def register(run: Callable[[Any, int, int], float]) -> Callable[[Any, int, int], float]:
        for label, x in sizes.items():
            count = n if isinstance(n, int) else n(x)
            about = {"series": series, "x": x, **more}
            workload(f"{series}: {label}", count, sentence, **about)(partial(swapped, run, x))
        return run

    return register


def swapped(run: Callable[[Any, int, int], float], x: int, mp: Any, n: int) -> float:
    return run(mp, n, x)


def load(suite: str) -> dict[str, Workload]:
    """Import the workloads of a suite, one suite per process."""
    for module in SUITES[suite]:
        importlib.import_module(f"workloads.{module}")
    return WORKLOADS
