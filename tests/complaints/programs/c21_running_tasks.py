"""A task that runs can be neither cancelled nor given a time limit.

`task_timeout` and `cancel` are ours: the standard library's pools have no such thing.
"""

import multiprocessing
import os
import threading
from typing import Any

import facts


def endless(x: int) -> int:
    if x == 1:
        threading.Event().wait()
    return x


def endless_with_a_child(queue: Any) -> None:
    child: Any = multiprocessing.Process(target=tell_and_stay, args=(queue,), daemon=True)
    child.start()
    child.join()


def tell_and_stay(queue: Any) -> None:
    queue.put(os.getpid())
    threading.Event().wait()


def face_time_limit() -> None:
    """The task ends with an error, all others complete, the pool works on."""
    options: Any = {"task_timeout": 0.3}
    with multiprocessing.Pool(2, **options) as pool:
        results = [pool.apply_async(endless, (x,)) for x in range(6)]
        for x, result in enumerate(results):
            try:
                assert result.get() == x and x != 1
            except multiprocessing.TimeoutError:
                assert x == 1
        assert pool.map(abs, [-1, -2]) == [1, 2]


def face_cancel() -> None:
    """A task that hangs is cancelled: who waits is told, the others complete."""
    with multiprocessing.Pool(2) as pool:
        results: Any = [pool.apply_async(endless, (x,)) for x in range(6)]
        for x in (0, 2, 3, 4, 5):
            assert results[x].get() == x
        results[1].cancel()
        try:
            results[1].get()
        except multiprocessing.ProcessError:
            pass
        else:
            raise AssertionError("was not cancelled")
        assert pool.map(abs, [-1, -2]) == [1, 2]


def face_cancel_before_it_runs() -> None:
    """What nobody has begun never begins."""
    with multiprocessing.Pool(1) as pool:
        first: Any = pool.apply_async(endless, (1,))
        second: Any = pool.apply_async(endless, (2,))
        second.cancel()
        first.cancel()
        assert pool.apply(endless, (3,)) == 3
        for result in first, second:
            try:
                result.get()
            except multiprocessing.ProcessError:
                continue
            raise AssertionError("was not cancelled")


def face_cancel_takes_children_along() -> None:
    facts.adopt()
    queue: Any = multiprocessing.SimpleQueue()
    with multiprocessing.Pool(1) as pool:
        result: Any = pool.apply_async(endless_with_a_child, (queue,))
        pid = None
        while pid is None:
            if not queue.empty():
                pid = queue.get()
            elif result.ready():
                result.get()
        result.cancel()
        facts.gone(pid)


if __name__ == "__main__":
    facts.choose(globals())
