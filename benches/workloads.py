"""What is measured. Each workload returns the seconds that its `n` operations took.

A workload gets `mp`, which is a context of one of the packages (or a small namespace of threads),
and does its warming up before it starts the clock.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

DONE = "DONE"
clock = time.perf_counter


@dataclass(frozen=True)
class Workload:
    """A measurement: its sentence, how many operations it does, and whether threads can do it."""

    sentence: str
    n: int
    run: Callable[[Any, int], float]
    threads: bool = False


WORKLOADS: dict[str, Workload] = {}


def workload(
    name: str, n: int, sentence: str, *, threads: bool = False
) -> Callable[[Callable[[Any, int], float]], Callable[[Any, int], float]]:
    """Register a function under `name`; several may be stacked on one function."""

    def register(function: Callable[[Any, int], float]) -> Callable[[Any, int], float]:
        WORKLOADS[name] = Workload(sentence, n, function, threads)
        return function

    return register


@contextmanager
def children(mp: Any, *calls: tuple[Any, ...]) -> Iterator[None]:
    """Processes for `(function, *arguments)`, started before the block and joined after it."""
    started = [mp.Process(target=function, args=arguments) for function, *arguments in calls]
    for child in started:
        child.start()
    yield
    for child in started:
        child.join()


# --- queues ---------------------------------------------------------------------------------


def take_until_done(get: Callable[[], Any]) -> None:
    while get() != DONE:
        pass


def take(get: Callable[[], Any], count: int) -> None:
    for _ in range(count):
        get()


def give(put: Callable[[Any], Any], count: int) -> None:
    for number in range(count):
        put(number)


@workload("queue 10^6", 10**6, "one process puts 10^6 numbers, another gets them", threads=True)
@workload("queue 10^5", 10**5, "one process puts 10^5 numbers, another gets them", threads=True)
@workload("queue 10^4", 10**4, "one process puts 10^4 numbers, another gets them", threads=True)
def queue_numbers(mp: Any, n: int) -> float:
    queue = mp.Queue()
    with children(mp, (take_until_done, queue.get)):
        start = clock()
        give(queue.put, n)
        queue.put(DONE)
    return clock() - start


@workload("queue 2x2", 2 * 10**5, "two processes put numbers, two get them", threads=True)
def queue_two_by_two(mp: Any, n: int) -> float:
    queue, gate = mp.Queue(), mp.Barrier(5)
    half = n // 2
    takers = [(behind, gate, take, queue.get, half)] * 2
    givers = [(behind, gate, give, queue.put, half)] * 2
    with children(mp, *takers, *givers):
        gate.wait()
        start = clock()
    return clock() - start


def behind(gate: Any, function: Callable[..., None], *arguments: Any) -> None:
    """Run `function` once everybody has come."""
    gate.wait()
    function(*arguments)


def payload(kind: str) -> Any:
    if kind == "array":
        import numpy

        return numpy.arange(10**6, dtype="f8")
    if kind == "dict":
        return {"id": 7, "name": "sidestep", "score": 0.5, "ok": True, "tag": None}
    return os.urandom(int(kind))


def payload_workload(name: str, kind: str, n: int, sentence: str) -> None:
    def run(mp: Any, n: int) -> float:
        item, queue = payload(kind), mp.Queue()
        with children(mp, (take, queue.get, n)):
            start = clock()
            for _ in range(n):
                queue.put(item)
        return clock() - start

    workload(name, n, sentence, threads=True)(run)


payload_workload("queue 100 B", "100", 50_000, "byte strings of 100 B through a queue")
payload_workload("queue 10 KB", "10000", 20_000, "byte strings of 10 KB through a queue")
payload_workload("queue 1 MB", "1000000", 300, "byte strings of 1 MB through a queue")
payload_workload("queue dict", "dict", 50_000, "dictionaries of five entries through a queue")
payload_workload("queue 8 MB array", "array", 50, "numpy arrays of 8 MB through a queue")


def echo(receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    while (item := receive()) is not None:
        send(item)


def round_trips(n: int, send: Callable[[Any], Any], receive: Callable[[], Any]) -> float:
    for number in range(100):
        send(number)
        if receive() != number:
            raise ArithmeticError("something else came back")
    start = clock()
    for _ in range(n):
        send(1)
        receive()
    elapsed = clock() - start
    send(None)
    return elapsed


@workload("queue ping-pong", 5_000, "a number there by one queue, back by another", threads=True)
def queue_ping_pong(mp: Any, n: int) -> float:
    there, back = mp.Queue(), mp.Queue()
    with children(mp, (echo, there.get, back.put)):
        return round_trips(n, there.put, back.get)


# --- pipes ----------------------------------------------------------------------------------


@workload("pipe numbers", 10**5, "numbers through a pipe, one way")
def pipe_numbers(mp: Any, n: int) -> float:
    reader, writer = mp.Pipe()
    with children(mp, (take_until_done, reader.recv)):
        start = clock()
        give(writer.send, n)
        writer.send(DONE)
    return clock() - start


@workload("pipe 64 KB", 20_000, "64 KB of bytes through a pipe, one way")
def pipe_bytes(mp: Any, n: int) -> float:
    reader, writer = mp.Pipe(False)
    data = bytes(65_536)
    with children(mp, (take, reader.recv_bytes, n)):
        start = clock()
        for _ in range(n):
            writer.send_bytes(data)
    return clock() - start


@workload("pipe ping-pong", 10_000, "a number there and back through one pipe")
def pipe_ping_pong(mp: Any, n: int) -> float:
    here, there = mp.Pipe()
    with children(mp, (echo, there.recv, there.send)):
        return round_trips(n, here.send, here.recv)


# --- locks, events, values ------------------------------------------------------------------


def use(lock: Any, n: int) -> None:
    for _ in range(n):
        with lock:
            pass


@workload("lock", 300_000, "a Lock taken and released, nobody else wants it")
def lock_alone(mp: Any, n: int) -> float:
    lock = mp.Lock()
    start = clock()
    use(lock, n)
    return clock() - start


@workload("rlock", 300_000, "an RLock taken and released, nobody else wants it")
def rlock_alone(mp: Any, n: int) -> float:
    lock = mp.RLock()
    start = clock()
    use(lock, n)
    return clock() - start


def two_at_once(mp: Any, function: Callable[..., None], *arguments: Any) -> float:
    gate = mp.Barrier(3)
    with children(mp, *[(behind, gate, function, *arguments)] * 2):
        gate.wait()
        start = clock()
    return clock() - start


@workload("lock contended", 200_000, "two processes take the same Lock as fast as they can")
def lock_contended(mp: Any, n: int) -> float:
    return two_at_once(mp, use, mp.Lock(), n // 2)


@workload("event ping-pong", 5_000, "two processes wake each other by two Events")
def event_ping_pong(mp: Any, n: int) -> float:
    ping, pong = mp.Event(), mp.Event()
    with children(mp, (answer, ping, pong, n)):
        start = clock()
        for _ in range(n):
            ping.set()
            pong.wait()
            pong.clear()
        return clock() - start


def answer(ping: Any, pong: Any, n: int) -> None:
    for _ in range(n):
        ping.wait()
        ping.clear()
        pong.set()


def increase(value: Any, n: int) -> None:
    for _ in range(n):
        with value.get_lock():
            value.value += 1


@workload("value", 50_000, "a shared Value is increased under its lock by one process")
def value_alone(mp: Any, n: int) -> float:
    value = mp.Value("i")
    start = clock()
    increase(value, n)
    return clock() - start


@workload("value contended", 100_000, "two processes increase the same Value under its lock")
def value_contended(mp: Any, n: int) -> float:
    value = mp.Value("i")
    elapsed = two_at_once(mp, increase, value, n // 2)
    if value.value != n:
        raise ArithmeticError(f"{n - value.value} updates were lost")
    return elapsed


# --- pools ----------------------------------------------------------------------------------


def cube(number: int) -> int:
    return number * number * number


@contextmanager
def warm_pool(mp: Any) -> Iterator[Any]:
    with mp.Pool(2) as pool:
        pool.map(cube, range(16), 1)
        yield pool


@workload("pool map", 10**5, "Pool(2).map of a cheap function, default chunks")
def pool_map(mp: Any, n: int) -> float:
    with warm_pool(mp) as pool:
        start = clock()
        results = pool.map(cube, range(n))
        elapsed = clock() - start
    return checked(results, n, elapsed)


@workload("pool imap", 10**4, "Pool(2).imap of a cheap function, one task per number")
def pool_imap(mp: Any, n: int) -> float:
    with warm_pool(mp) as pool:
        start = clock()
        results = list(pool.imap(cube, range(n)))
        elapsed = clock() - start
    return checked(results, n, elapsed)


@workload("pool apply", 2_000, "Pool(2).apply of a cheap function, one call after the other")
def pool_apply(mp: Any, n: int) -> float:
    with warm_pool(mp) as pool:
        start = clock()
        results = [pool.apply(cube, (number,)) for number in range(n)]
        elapsed = clock() - start
    return checked(results, n, elapsed)


def checked(results: list[int], n: int, elapsed: float) -> float:
    if results != [number**3 for number in range(n)]:
        raise ArithmeticError("the pool returned wrong results")
    return elapsed


# --- processes ------------------------------------------------------------------------------


def nothing() -> None:
    pass


def start_workload(method: str, n: int) -> None:
    def run(mp: Any, n: int) -> float:
        context = mp.get_context(method)
        with children(context, (nothing,)):
            pass
        start = clock()
        for _ in range(n):
            with children(context, (nothing,)):
                pass
        return clock() - start

    workload(f"start {method}", n, f"a process of method {method} is started and joined")(run)


start_workload("fork", 100)
start_workload("forkserver", 20)
start_workload("spawn", 10)


# --- imports --------------------------------------------------------------------------------

# The clock stands inside of the fresh interpreter: its start is not what is measured.
IMPORT = """
import sys, time
sys.path[:] = {path!r}
start = time.perf_counter()
import {modules}
print(time.perf_counter() - start)
"""
# What programs import soonest, by name or by making a queue, a lock, a value, a pool.
PARTS = ("connection", "queues", "synchronize", "pool", "sharedctypes")


def import_workload(name: str, parts: tuple[str, ...], sentence: str) -> None:
    def run(mp: Any, n: int) -> float:
        package = type(mp).__module__.partition(".")[0]
        modules = ", ".join([package, *(f"{package}.{part}" for part in parts)])
        command = [sys.executable, "-I", "-c", IMPORT.format(path=sys.path, modules=modules)]
        return sum(float(subprocess.check_output(command)) for _ in range(n))

    workload(name, n=10, sentence=sentence)(run)


import_workload("import", (), "the package is imported, in a fresh interpreter")
import_workload("import parts", PARTS, "the package with " + ", ".join(PARTS))
