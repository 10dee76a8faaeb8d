"""Locks, events, conditions and barriers."""

from typing import Any

from registry import clock, workload
from workloads import WARM_LAPS, children, each, median_lap, together, use

THREADING: dict[str, float | None] = {"threading": 1}


@workload("lock, two calls", 300_000, "acquire() and release() of a free Lock", goal=1.3)
def two_calls(mp: Any, n: int) -> float:
    lock = mp.Lock()
    start = clock()
    for _ in range(n):
        lock.acquire()
        lock.release()
    return (clock() - start) / n


@workload("lock, with", 300_000, "`with` a free Lock", goal=1.8, beside=THREADING)
def with_lock(mp: Any, n: int) -> float:
    lock = mp.Lock()
    start = clock()
    use(lock, n)
    return (clock() - start) / n


@workload("rlock, with", 300_000, "`with` a free RLock")
def with_rlock(mp: Any, n: int) -> float:
    lock = mp.RLock()
    start = clock()
    use(lock, n)
    return (clock() - start) / n


@workload("lock, contended", 200_000, "two processes take one Lock as fast as they can", goal=2)
def contended(mp: Any, n: int) -> float:
    return together(mp, *[(use, mp.Lock(), n // 2)] * 2) / n


@workload("event ping-pong", 3_000, "median lap: two processes wake each other", goal=8)
def events(mp: Any, n: int) -> float:
    ping, pong = mp.Event(), mp.Event()

    def lap() -> None:
        ping.set()
        pong.wait()
        pong.clear()

    with children(mp, (answer_events, ping, pong, WARM_LAPS + n)):
        return median_lap(n, lap)


def answer_events(ping: Any, pong: Any, n: int) -> None:
    for _ in range(n):
        ping.wait()
        ping.clear()
        pong.set()


@workload("condition ping-pong", 3_000, "median lap: two processes notify each other", goal=8)
def conditions(mp: Any, n: int) -> float:
    condition, turn = mp.Condition(), mp.RawValue("i", 0)

    def lap() -> None:
        hand_over(condition, turn, 0)

    with children(mp, (answer_condition, condition, turn, WARM_LAPS + n)):
        with condition:
            return median_lap(n, lap)


def hand_over(condition: Any, turn: Any, mine: int) -> None:
    """Give the turn to the other side, and wait until it comes back."""
    turn.value = 1 - mine
    condition.notify()
    while turn.value != mine:
        condition.wait()


def answer_condition(condition: Any, turn: Any, n: int) -> None:
    with condition:
        for _ in range(n):
            while turn.value != 1:
                condition.wait()
            turn.value = 0
            condition.notify()


@workload("barrier ping-pong", 3_000, "median lap: two processes meet at a Barrier", goal=8)
def barriers(mp: Any, n: int) -> float:
    barrier = mp.Barrier(2)
    with children(mp, (meet, barrier, WARM_LAPS + n)):
        return median_lap(n, barrier.wait)


def meet(barrier: Any, n: int) -> None:
    for _ in range(n):
        barrier.wait()


def creation(name: str, n: int, goal: float) -> None:
    @workload(f"make {name}", n, f"a {name} is made and dropped", goal=goal)
    def run(mp: Any, n: int) -> float:
        arguments = {"Value": ("i",)}.get(name, ())
        return each(n, lambda: getattr(mp, name)(*arguments))


creation("Lock", 1000, 5)
creation("Value", 1000, 5)
creation("Queue", 500, 20)
creation("Event", 500, 20)
creation("Pipe", 1000, 1)
