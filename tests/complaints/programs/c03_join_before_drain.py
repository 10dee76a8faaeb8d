"""A producer cannot end before its items were taken, or takes them along."""

import multiprocessing
import os
from typing import Any

import facts

LARGE = 1_000_000


def produce(queue: Any, number: int) -> None:
    for _ in range(number):
        queue.put(bytes(LARGE))


def produce_and_leave(queue: Any) -> None:
    produce(queue, 3)
    os._exit(0)


def face_joined_before_it_is_drained() -> None:
    queue: Any = multiprocessing.Queue()
    child = multiprocessing.Process(target=produce, args=(queue, 3))
    child.start()
    child.join()
    assert [len(queue.get()) for _ in range(3)] == [LARGE] * 3


def face_nobody_reads() -> None:
    """The program ends, although nobody has taken what it has put."""
    queue: Any = multiprocessing.Queue()
    produce(queue, 3)


def face_producer_leaves_at_once() -> None:
    """What was put is there, even if the producer ends without any clean-up."""
    queue: Any = multiprocessing.Queue()
    child = multiprocessing.Process(target=produce_and_leave, args=(queue,))
    child.start()
    child.join()
    assert [len(queue.get()) for _ in range(3)] == [LARGE] * 3


def face_producer_is_terminated() -> None:
    """Nor does it matter if somebody ends the producer."""
    queue: Any = multiprocessing.Queue()
    ready: Any = multiprocessing.Event()
    child = multiprocessing.Process(target=produce_and_wait, args=(queue, ready))
    child.start()
    ready.wait()
    child.terminate()
    child.join()
    assert [len(queue.get()) for _ in range(3)] == [LARGE] * 3


def produce_and_wait(queue: Any, ready: Any) -> None:
    produce(queue, 3)
    ready.set()
    multiprocessing.Event().wait()


if __name__ == "__main__":
    facts.choose(globals())
