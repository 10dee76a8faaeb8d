"""Forking from a program that has threads deadlocks, or warns that it may."""

import multiprocessing
import sys
import threading
import warnings
from typing import Any

import facts


def nothing() -> None:
    pass


def face_no_thread_of_its_own() -> None:
    """Who has put something can start a process without a warning."""
    queue: Any = multiprocessing.Queue()
    queue.put(1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        child = multiprocessing.get_context("fork").Process(target=nothing)
        child.start()
    child.join()
    assert child.exitcode == 0
    assert not said, said[0].message
    assert queue.get() == 1


def echo(queue: Any, answers: Any) -> None:
    answers.put(queue.get())


def face_threads_use_queues_during_forks() -> None:
    """Threads put and get all the time, children that are forked meanwhile do too."""
    warnings.simplefilter("ignore", DeprecationWarning)
    context = multiprocessing.get_context("fork")
    busy: Any = context.Queue()
    queue: Any = context.Queue()
    answers: Any = context.Queue()
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            busy.put(b"x" * 100)
            busy.get()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(20):
            child = context.Process(target=echo, args=(queue, answers))
            child.start()
            queue.put(number)
            assert answers.get() == number
            child.join()
            assert child.exitcode == 0
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def use_shared_memory() -> None:
    from multiprocessing.shared_memory import SharedMemory

    block = SharedMemory(create=True, size=1)
    block.close()
    block.unlink()


def face_fork_while_a_thread_makes_shared_memory() -> None:
    """A lock that a thread of the parent holds in the package is free in the child."""
    warnings.simplefilter("ignore", DeprecationWarning)
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            use_shared_memory()

    use_shared_memory()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(40):
            child = multiprocessing.get_context("fork").Process(target=use_shared_memory)
            child.start()
            child.join()
            assert child.exitcode == 0
    finally:
        ended.set()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    facts.choose(globals())
