"""Queues between processes; `queue.Queue` between threads copies nothing, and is a reference."""

import time
from contextlib import suppress
from queue import Empty
from typing import Any

from registry import clock, workload
from workloads import (
    children,
    give,
    pass_numbers,
    payload,
    ping_pong,
    send_back,
    take,
    take_and_sum,
    together,
)

THREADS: dict[str, float | None] = {"queue.Queue": None}
MILLION: dict[str, float | None] = {"queue.Queue": 40, "queue.SimpleQueue": 1}
IDLE_S = 1.0


@workload("queue 10^6", 10**6, "10^6 numbers, one writer, one reader", goal=60, beside=MILLION)
@workload("queue 10^5", 10**5, "10^5 numbers, one writer, one reader", goal=30, beside=THREADS)
@workload("queue 10^4", 10**4, "10^4 numbers, one writer, one reader", goal=5, beside=THREADS)
def numbers(mp: Any, n: int) -> float:
    return pass_numbers(mp, n)


@workload("queue 2x2", 2 * 10**5, "two processes put numbers, two get them", goal=20)
def two_by_two(mp: Any, n: int) -> float:
    queue, half = mp.Queue(), n // 2
    takers = [(take, queue.get, half)] * 2
    givers = [(give, queue.put, half)] * 2
    return together(mp, *takers, *givers) / n


def payloads(name: str, kind: str, n: int, goal: float, sentence: str, reader: Any = take) -> None:
    @workload(name, n, sentence, goal=goal)
    def run(mp: Any, n: int) -> float:
        item, queue = payload(kind), mp.Queue()
        with children(mp, (reader, queue.get, n)):
            start = clock()
            for _ in range(n):
                queue.put(item)
        return (clock() - start) / n


payloads("queue 100 B", "100", 50_000, 20, "byte strings of 100 B")
payloads("queue 10 KB", "10000", 20_000, 6, "byte strings of 10 KB")
payloads("queue 1 MB", "1000000", 300, 15, "byte strings of 1 MB")
payloads("queue dict", "dict", 50_000, 12, "dictionaries of five entries")
payloads("queue 8 MB array", "array", 40, 15, "numpy arrays that the reader sums", take_and_sum)


@workload(
    "queue put_many",
    200_000,
    "numbers in batches of 1000 by put_many and get_many; rivals put and get them one by one",
    beside={"single calls": 2},
)
def batches(mp: Any, n: int) -> float:
    queue = mp.Queue()
    with children(mp, (take_batches, queue, n)):
        start = clock()
        give_batches(queue, n)
    return (clock() - start) / n


def give_batches(queue: Any, count: int, size: int = 1000) -> None:
    if not hasattr(queue, "put_many"):
        return give(queue.put, count)
    for first in range(0, count, size):
        queue.put_many(range(first, min(first + size, count)))


def take_batches(queue: Any, count: int, size: int = 1000) -> None:
    if not hasattr(queue, "get_many"):
        return take(queue.get, count)
    while count:
        count -= len(queue.get_many(size))


@workload(
    "queue ping-pong",
    5_000,
    "median lap: a number there by one queue, back by another",
    goal=10,
    beside=THREADS,
)
def queue_ping_pong(mp: Any, n: int) -> float:
    there, back = mp.Queue(), mp.Queue()
    with children(mp, (send_back, there.get, back.put)):
        return ping_pong(n, there.put, back.get)


@workload("queue idle", 1, "CPU seconds per second of waiting for an item", most=0.001)
def idle(mp: Any, n: int) -> float:
    queue = mp.Queue()
    before = time.process_time()
    with suppress(Empty):
        queue.get(timeout=IDLE_S)
    return (time.process_time() - before) / IDLE_S
