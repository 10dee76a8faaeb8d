"""Workers of a pool, and daemonic processes, may not have children."""

import multiprocessing
import os
import threading
from typing import Any

import facts


def sum_in_a_pool(number: int) -> int:
    with multiprocessing.Pool(2) as pool:
        return sum(pool.map(abs, range(number)))


def face_pool_in_a_pool() -> None:
    with multiprocessing.Pool(2) as pool:
        assert pool.map(sum_in_a_pool, [3, 4]) == [3, 6]


def sum_in_a_process(queue: Any, number: int) -> None:
    queue.put(sum(range(number)))


def by_a_child(number: int) -> int:
    queue: Any = multiprocessing.SimpleQueue()
    child = multiprocessing.Process(target=sum_in_a_process, args=(queue, number))
    child.start()
    child.join()
    found: int = queue.get()
    return found


def face_process_in_a_pool() -> None:
    with multiprocessing.Pool(2) as pool:
        assert pool.map(by_a_child, [3, 4]) == [3, 6]


def two_levels(number: int) -> int:
    with multiprocessing.Pool(1) as pool:
        return pool.apply(sum_in_a_pool, (number,))


def face_three_levels() -> None:
    with multiprocessing.Pool(1) as pool:
        assert pool.apply(two_levels, (4,)) == 6


def pool_in_a_daemon(queue: Any) -> None:
    queue.put(sum_in_a_pool(4))


def face_pool_in_a_daemonic_process() -> None:
    queue: Any = multiprocessing.SimpleQueue()
    child = multiprocessing.Process(target=pool_in_a_daemon, args=(queue,), daemon=True)
    child.start()
    child.join()
    assert child.exitcode == 0
    assert queue.get() == 6


def endless(queue: Any) -> None:
    queue.put(os.getpid())
    threading.Event().wait()


def die_with_a_child(queue: Any) -> None:
    multiprocessing.Process(target=endless, args=(queue,)).start()
    threading.Event().wait()


def face_killed_worker_takes_its_children_along() -> None:
    facts.adopt()
    queue: Any = multiprocessing.SimpleQueue()
    worker = multiprocessing.Process(target=die_with_a_child, args=(queue,), daemon=True)
    worker.start()
    pid = queue.get() if worker.is_alive() else 0
    worker.kill()
    worker.join()
    facts.gone(pid)


def terminated_pool(queue: Any) -> None:
    pool = multiprocessing.Pool(1)
    pool.apply_async(endless, (queue,))
    threading.Event().wait()


def face_terminated_worker_takes_its_pool_along() -> None:
    facts.adopt()
    queue: Any = multiprocessing.SimpleQueue()
    worker = multiprocessing.Process(target=terminated_pool, args=(queue,), daemon=True)
    worker.start()
    pid = queue.get()
    worker.terminate()
    worker.join()
    facts.gone(pid)


if __name__ == "__main__":
    facts.choose(globals())
