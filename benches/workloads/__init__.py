"""The workloads, by what they use, and what several of them need."""

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from registry import clock
from tasks import cube

DONE = "DONE"


@contextmanager
def children(mp: Any, *calls: tuple[Any, ...]) -> Iterator[None]:
    """Processes for `(function, *arguments)`, started before the block and joined after it."""
    started = [mp.Process(target=function, args=arguments) for function, *arguments in calls]
    for child in started:
        child.start()
    yield
    for child in started:
        child.join()


def together(mp: Any, *calls: tuple[Any, ...]) -> float:
    """Seconds from a common start of processes for `(function, *arguments)` to the end of all."""
    gate = mp.Barrier(len(calls) + 1)
    with children(mp, *[(behind, gate, *call) for call in calls]):
        gate.wait()
        start = clock()
    return clock() - start


def behind(gate: Any, function: Callable[..., None], *arguments: Any) -> None:
    """Run `function` once everybody has come."""
    gate.wait()
    function(*arguments)


def each(n: int, work: Callable[[], object]) -> float:
    """Seconds per call of `work`, which has been called once before."""
    work()
    start = clock()
    for _ in range(n):
        work()
    return (clock() - start) / n


WARM_LAPS = 100


def median_lap(n: int, lap: Callable[[], object]) -> float:
    """The median time of `lap`, of which the first few do not count."""
    laps = []
    for _ in range(WARM_LAPS + n):
        start = clock()
        lap()
        laps.append(clock() - start)
    return statistics.median(laps[WARM_LAPS:])


def payload(kind: str) -> Any:
    """Something to send: an array of 8 MB, a dictionary of five, or so many bytes."""
    if kind == "array":
        import numpy

        return numpy.arange(10**6, dtype="f8")
    if kind == "dict":
        return {"id": 7, "name": "sidestep", "score": 0.5, "ok": True, "tag": None}
    return b"s" * int(kind)


def take(get: Callable[[], Any], count: int) -> None:
    for _ in range(count):
        get()


def take_and_sum(get: Callable[[], Any], count: int) -> None:
    for _ in range(count):
        get().sum()


def take_until_done(get: Callable[[], Any]) -> None:
    while get() != DONE:
        pass


def pass_numbers(mp: Any, n: int) -> float:
    """Seconds per number from this process to another one."""
    queue = mp.Queue()
    with children(mp, (take_until_done, queue.get)):
        start = clock()
        give(queue.put, n)
        queue.put(DONE)
    return (clock() - start) / n


def give(put: Callable[[Any], Any], count: int) -> None:
    for number in range(count):
        put(number)


def send_back(receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    while (item := receive()) is not None:
        send(item)


def ping_pong(n: int, send: Callable[[Any], Any], receive: Callable[[], Any]) -> float:
    """The median lap with a process that sends back; it ends afterwards."""

    def lap() -> None:
        send(1)
        receive()

    median = median_lap(n, lap)
    send(None)
    return median


def use(lock: Any, n: int) -> None:
    for _ in range(n):
        with lock:
            pass


def increase(value: Any, n: int) -> None:
    for _ in range(n):
        with value.get_lock():
            value.value += 1


@contextmanager
def warm_pool(mp: Any, size: int = 2) -> Iterator[Any]:
    with mp.Pool(size) as pool:
        pool.map(cube, range(8 * size), 1)
        yield pool


def checked(value: float, results: list[int], n: int) -> float:
    """`value`, if the results are the cubes of the first `n` numbers."""
    if results != [number**3 for number in range(n)]:
        raise ArithmeticError("the pool returned wrong results")
    return value
