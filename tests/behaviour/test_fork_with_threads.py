"""Forks of a program whose other threads are in the middle of everything."""

import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import sidestep

FORKS = 60
PATIENCE_S = 60.0


class Things:
    """What parent and children share."""

    def __init__(self) -> None:
        ctx = sidestep.get_context("fork")
        self.ctx = ctx
        self.lock = ctx.Lock()
        self.semaphore = ctx.Semaphore(3)
        self.event = ctx.Event()
        self.count = ctx.Value("i", 0, lock=False)
        self.mixed: Any = ctx.Queue()
        self.answers: Any = ctx.Queue()

    def use(self, size: int) -> None:
        """Take each lock of the engine and the allocator's, and make and drop objects."""
        with self.lock:
            self.count.value += 1
        with self.semaphore:
            self.event.set()
            self.event.clear()
        self.mixed.put(bytes(size))
        self.mixed.get()
        queue: Any = self.ctx.Queue()
        queue.put(bytes(size))
        assert queue.get() == bytes(size)
        one, other = self.ctx.Pipe()
        with one, other:
            one.send([size])
            assert other.recv() == [size]
        assert len(self.ctx.Array("d", 500)) == 500


def child(things: Things, number: int) -> None:
    things.use(50_000)
    things.answers.put(number)


@contextmanager
def threads_at_work(use: Callable[[int], None], count: int) -> Iterator[list[int]]:
    """Have threads call `use` all the time; the list says at the end how often each did."""
    stop = threading.Event()
    rounds: list[int] = []

    def work() -> int:
        times = 0
        while not stop.is_set():
            use(times * 997 % 70_000)
            times += 1
        return times

    with ThreadPoolExecutor(count) as pool:
        workers = [pool.submit(work) for _ in range(count)]
        try:
            yield rounds
        finally:
            stop.set()
            rounds += [worker.result() for worker in workers]


def test_forks_among_busy_threads_neither_hang_nor_corrupt() -> None:
    things = Things()
    with warnings.catch_warnings(), threads_at_work(things.use, 4) as rounds:
        # Python warns of just this, from 3.12 on.
        warnings.simplefilter("ignore", DeprecationWarning)
        for number in range(FORKS):
            process = things.ctx.Process(target=child, args=(things, number))
            process.start()
            process.join(PATIENCE_S)
            assert process.exitcode == 0
            assert things.answers.get(timeout=PATIENCE_S) == number
            process.close()
    assert things.count.value == sum(rounds) + FORKS
    assert things.mixed.empty()
