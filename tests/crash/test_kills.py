"""Producers, consumers and pool workers are killed at random moments while all run at full speed.

What must hold for the survivors: nobody hangs, nothing arrives torn or twice, and everything that
a survivor committed arrives. Moments are drawn from a seed, but what they hit is left to chance:
every run tries others.
"""

import collections
import contextlib
import os
import queue as standard
import random
import signal
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import sidestep
from sidestep.pool import WorkerLostError

KILLS = 200
# Nothing takes that long unless it hangs.
PATIENCE_S = 60.0

fork = sidestep.get_context("fork")


# --- items that tell whether they are whole --------------------------------------------------


def make_item(who: int, number: int, chance: random.Random) -> tuple[Any, ...]:
    """Mostly short; some fill segments, some travel as envelopes, some carry a handle."""
    size = chance.choice((0, 10, 100, 100, 1000, 5000, 16_300, 40_000, 300_000))
    body = bytes([number & 0xFF]) * size
    handle = sidestep.Semaphore(number % 1000) if chance.random() < 0.1 else None
    return who, number, body, zlib.crc32(body), handle


def check_item(item: tuple[Any, ...]) -> tuple[int, int]:
    who, number, body, checksum, handle = item
    assert zlib.crc32(body) == checksum and body == bytes([number & 0xFF]) * len(body)
    assert handle is None or handle.get_value() == number % 1000
    return who, number


def produce(queue: Any, who: int, seed: int, stop: Any, committed: Any, begun: Any = None) -> None:
    """Put items until told to stop; then say how many there were. Say when the first is in."""
    chance = random.Random(seed)
    number = 0
    while not stop.is_set():
        if chance.random() < 0.2:
            number += queue.put_many([make_item(who, number + i, chance) for i in range(5)])
        else:
            queue.put(make_item(who, number, chance))
            number += 1
        if begun is not None:
            begun.set()
    committed.put((who, number))
    queue.put(None)


def consume(queue: Any, taken: Any) -> None:
    """Take items and say which, one after the other; to the end mark."""
    while (item := queue.get()) is not None:
        taken.put(check_item(item))
    taken.put(None)


@contextmanager
def running(target: Callable[..., None], *args: Any) -> Iterator[Any]:
    child = fork.Process(target=target, args=args, daemon=True)
    child.start()
    try:
        yield child
    finally:
        child.kill()
        child.join()
        child.close()


def kill(child: Any) -> None:
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert child.exitcode == -signal.SIGKILL


# --- the three victims -----------------------------------------------------------------------


@pytest.mark.stress
@pytest.mark.parametrize(("maxsize", "seed"), [(0, 1), (50, 2)])
def test_killed_producers_leave_whole_items_or_none(maxsize: int, seed: int) -> None:
    chance = random.Random(seed)
    queue, committed, stop = fork.Queue(maxsize), fork.SimpleQueue(), fork.Event()
    never = fork.Event()
    got: dict[int, list[int]] = collections.defaultdict(list)

    def take_until(moment: float) -> None:
        while (left := moment - time.monotonic()) > 0:
            try:
                who, number = check_item(queue.get(timeout=left))
            except standard.Empty:
                return
            got[who].append(number)

    with running(produce, queue, -1, seed, stop, committed):
        for victim in range(KILLS // 2):
            begun = fork.Event()
            with running(produce, queue, victim, victim, never, committed, begun) as child:
                # Every other one lives until it has put something, however slow the machine is.
                if victim % 2:
                    while maxsize and not begun.is_set():
                        take_until(time.monotonic() + 0.01)
                    assert begun.wait(PATIENCE_S)
                take_until(time.monotonic() + chance.uniform(0.0, 0.02))
                kill(child)
        stop.set()
        while (item := queue.get(timeout=PATIENCE_S)) is not None:
            who, number = check_item(item)
            got[who].append(number)
        who, count = committed.get()
    assert queue.empty() and committed.empty()
    # Per producer: no hole, nothing twice, in order.
    assert {who: numbers == list(range(len(numbers))) for who, numbers in got.items()} == (
        dict.fromkeys(got, True)
    )
    assert (who, len(got[-1])) == (-1, count)
    assert len(got) > KILLS // 4


@pytest.mark.stress
@pytest.mark.parametrize(("maxsize", "seed"), [(0, 3), (50, 4)])
def test_killed_consumers_take_nothing_but_what_they_held(maxsize: int, seed: int) -> None:
    chance = random.Random(seed)
    queue, committed, stop = fork.Queue(maxsize), fork.SimpleQueue(), fork.Event()
    taken = fork.SimpleQueue()
    with (
        running(produce, queue, 0, seed, stop, committed),
        running(consume, queue, taken) as survivor,
    ):
        seen: list[int] = []

        def collect() -> None:
            while not taken.empty():
                report = taken.get()
                assert report is not None, "the survivor ended early"
                seen.append(report[1])

        for _ in range(KILLS // 2):
            with running(consume, queue, taken) as child:
                time.sleep(chance.uniform(0.0, 0.02))
                kill(child)
            collect()
        stop.set()
        while (report := taken.get()) is not None:
            seen.append(report[1])
        survivor.join()
        _, count = committed.get()
    assert queue.empty() and taken.empty()
    assert len(set(seen)) == len(seen), "an item was delivered twice"
    lost = set(range(count)) - set(seen)
    # Each victim may have taken one item that it had not yet told of.
    assert len(lost) <= KILLS // 2 and len(seen) + len(lost) == count


def work(number: int, body: bytes, checksum: int, log: Any) -> tuple[int, bytes, int]:
    log.put(number)
    assert zlib.crc32(body) == checksum
    answer = body[::-1] + bytes([number & 0xFF]) * 10
    return number, answer, zlib.crc32(answer)


@pytest.mark.stress
def test_killed_workers_lose_the_task_that_they_ran_and_nothing_else() -> None:
    chance = random.Random(5)
    log = fork.SimpleQueue()
    lost = done = number = kills = 0
    logged: list[int] = []
    waiting: collections.deque[tuple[int, Any]] = collections.deque()

    def settle() -> None:
        nonlocal lost, done
        submitted, result = waiting.popleft()
        try:
            back, answer, checksum = result.get(timeout=PATIENCE_S)
        except WorkerLostError as error:
            assert error.exitcode == -signal.SIGKILL
            lost += 1
        else:
            assert back == submitted and zlib.crc32(answer) == checksum
            done += 1

    with fork.Pool(4) as pool:
        due = time.monotonic()
        while kills < KILLS:
            body = bytes([number & 0xFF]) * chance.choice((0, 100, 1000, 20_000, 200_000))
            task = (number, body, zlib.crc32(body), log)
            waiting.append((number, pool.apply_async(work, task)))
            number += 1
            if len(waiting) > 100:
                settle()
            if time.monotonic() >= due:
                alive = [worker for worker in list(pool._pool) if worker.exitcode is None]
                # The pool may dismiss one in between that has just died of the kill before.
                with contextlib.suppress(ProcessLookupError):
                    if alive:
                        os.kill(chance.choice(alive).pid, signal.SIGKILL)
                        kills += 1
                due = time.monotonic() + chance.uniform(0.0, 0.03)
            while not log.empty():
                logged.append(log.get())
        while waiting:
            settle()
        assert pool.apply(len, ("on",)) == 2
        pool.close()
        pool.join()
    while not log.empty():
        logged.append(log.get())
    assert lost + done == number and lost <= kills
    assert len(set(logged)) == len(logged), "a task ran twice"
    assert len(logged) >= done
