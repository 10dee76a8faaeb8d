"""A pool that nobody holds any more keeps its workers, or hangs the program's end."""

import gc
import multiprocessing
import signal
import time
from typing import Any

import facts


def busy_pool() -> Any:
    """A pool whose workers are busy, and have more to do than they ever will."""
    running: Any = multiprocessing.SimpleQueue()
    pool = multiprocessing.Pool(2, use, (running,))
    result = pool.map_async(endless, range(4), chunksize=1)
    running.get(), running.get()
    return pool, result


def use(queue: Any) -> None:
    global told
    told = queue


def endless(x: int) -> None:
    told.put("here")
    while True:
        time.sleep(1)


def forgotten() -> None:
    pool = multiprocessing.Pool(2)
    assert pool.map(abs, [-1, -2]) == [1, 2]


def workers_are_gone() -> None:
    gc.collect()
    while multiprocessing.active_children():
        time.sleep(0.01)


def face_forgotten() -> None:
    import warnings

    warnings.simplefilter("ignore", ResourceWarning)
    forgotten()
    workers_are_gone()


def face_only_its_iterator_is_held() -> None:
    """Results of a pool that nobody has given a name."""
    assert list(multiprocessing.Pool(2).imap(abs, [-1, -2])) == [1, 2]


def face_only_a_result_is_held() -> None:
    assert multiprocessing.Pool(2).map_async(abs, [-1, -2]).get() == [1, 2]


def face_open_at_the_end() -> None:
    """The program ends with a pool that works."""
    global kept
    kept = busy_pool()


def face_open_at_the_end_with_a_signal_handler() -> None:
    """As before, in a program that handles SIGTERM; its workers have the handler, too."""
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    face_open_at_the_end()


def face_results_unread_at_the_end() -> None:
    """The program ends in the middle of reading."""
    global kept
    pool = multiprocessing.Pool(1)
    results = pool.imap_unordered(abs, range(1000))
    kept = pool, results
    assert next(results) == 0


class Owner:
    """An object that has a pool, and both are part of a cycle."""

    def __init__(self) -> None:
        self.me = self
        self.pool = multiprocessing.Pool(1)
        assert self.pool.apply(abs, (-1,)) == 1


def face_dropped_while_it_works() -> None:
    import warnings

    warnings.simplefilter("ignore", ResourceWarning)
    busy_pool()
    workers_are_gone()


def face_in_a_cycle() -> None:
    import warnings

    warnings.simplefilter("ignore", ResourceWarning)
    Owner()
    workers_are_gone()


kept: Any = None
told: Any = None

if __name__ == "__main__":
    facts.choose(globals())
