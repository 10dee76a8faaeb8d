"""Ending a pool hangs: out of a callback, out of a signal handler, while it is busy."""

import itertools
import multiprocessing
import os
import signal
import threading
import time
from typing import Any

import facts


def fails(x: int) -> int:
    raise ValueError(x, bytes(100_000))


def endless(x: int) -> None:
    while True:
        time.sleep(1)


def ends(pool: Any) -> None:
    pool.join()
    assert not multiprocessing.active_children()


def face_from_a_callback() -> None:
    pool = multiprocessing.Pool(2)
    done = threading.Event()

    def finish(_: int) -> None:
        pool.terminate()
        done.set()

    pool.apply_async(abs, (-1,), callback=finish)
    done.wait()
    ends(pool)


def face_from_an_error_callback() -> None:
    """Other workers are just sending what they have, more than a pipe holds."""
    pool = multiprocessing.Pool(2)
    workers = multiprocessing.active_children()
    done = threading.Event()

    def finish(_: BaseException) -> None:
        for worker in workers:
            assert worker.pid is not None
            facts.asleep(worker.pid)
        pool.terminate()
        done.set()

    results = [pool.apply_async(fails, (x,), error_callback=finish) for x in range(100)]
    done.wait()
    ends(pool)
    del results


def face_from_a_signal_handler() -> None:
    """The main thread waits for results when the signal comes."""
    pool = multiprocessing.Pool(2)

    def finish(number: int, frame: object) -> None:
        pool.terminate()
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, finish)
    me = os.getpid()
    threading.Thread(target=facts.signal_when_asleep, args=(me, signal.SIGTERM)).start()
    try:
        pool.map(endless, range(4))
    except KeyboardInterrupt:
        pass
    ends(pool)


def face_while_it_is_fed() -> None:
    """Nobody takes the tasks that come without end, and their pipe would be full."""
    pool = multiprocessing.Pool(1)
    pool.apply_async(endless, (0,))
    pool.imap(len, (bytes(1_000_000) for _ in range(20)))
    time.sleep(0.3)  # the standard library's thread fills its pipe meanwhile
    pool.terminate()
    ends(pool)


def face_results_are_pending() -> None:
    """Who waits for a result when the pool is terminated is told so."""
    pool = multiprocessing.Pool(1)
    result = pool.apply_async(endless, (0,))
    outcome = []

    def wait() -> None:
        try:
            result.get()
        except multiprocessing.ProcessError as error:
            outcome.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    pool.terminate()
    waiter.join()
    assert outcome


def face_at_once_and_often() -> None:
    """Pools that are ended the moment that they have begun to work."""
    for _ in range(10):
        pool = multiprocessing.Pool(2)
        pool.map_async(abs, range(100))
        pool.terminate()
        ends(pool)


def face_a_callback_fails() -> None:
    """An error in a callback harms neither the result nor those that come later."""
    threading.excepthook = lambda _: None
    with multiprocessing.Pool(1) as pool:
        results = [pool.apply_async(abs, (-x,), callback=lambda x: 1 // x) for x in range(3)]
        for result in results:
            result.wait()
        pool.close()
        pool.join()


def face_workers_have_a_signal_handler() -> None:
    """The program handles SIGTERM, and so do the workers that it forks."""
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    running: Any = multiprocessing.SimpleQueue()
    pool = multiprocessing.Pool(2, running.put, ("here",))
    pool.map_async(endless, range(2), chunksize=1)
    for worker in multiprocessing.active_children():
        running.get()
        assert worker.pid is not None
        facts.asleep(worker.pid)
    pool.terminate()
    ends(pool)


def face_after_workers_were_killed() -> None:
    pool = multiprocessing.Pool(2)
    assert pool.map(abs, [-1, -2]) == [1, 2]
    for worker in multiprocessing.active_children():
        assert worker.pid is not None
        facts.asleep(worker.pid)
        os.kill(worker.pid, signal.SIGKILL)
    pool.terminate()
    ends(pool)


def face_closed_with_a_lost_task() -> None:
    """`join` of a closed pool ends, though one of its tasks never can."""
    pool = multiprocessing.Pool(1)
    result = pool.apply_async(killed, (0,))
    pool.close()
    ends(pool)
    assert result.ready()


def killed(x: int) -> None:
    facts.die()


def face_endless_input() -> None:
    pool = multiprocessing.Pool(2)
    options: Any = {}
    if "buffersize" in pool.imap.__code__.co_varnames:
        options["buffersize"] = 100
    results = pool.imap_unordered(abs, itertools.count(), **options)
    assert next(results) >= 0
    pool.terminate()
    ends(pool)


if __name__ == "__main__":
    facts.choose(globals())
