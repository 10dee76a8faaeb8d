"""One death breaks a whole executor, many tasks or a limit for each worker deadlock it."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import facts


def die_at_three(x: int) -> int:
    return facts.die() if x == 3 else x


def face_one_death_is_one_tasks_problem() -> None:
    """Tasks before and after it complete, and those that are submitted later do."""
    with multiprocessing.Pool(2) as pool:
        results = [pool.apply_async(die_at_three, (x,)) for x in range(50)]
        lost = 0
        for x, result in enumerate(results):
            try:
                assert result.get() == x
            except multiprocessing.ProcessError:
                lost += 1
        assert lost == 1
        assert pool.map(abs, range(10)) == list(range(10))


def pid_of_worker(x: int) -> int:
    return os.getpid()


def face_workers_with_a_limit() -> None:
    """Workers that are replaced after a few tasks, under every start method."""
    for method in multiprocessing.get_all_start_methods():
        with multiprocessing.get_context(method).Pool(2, maxtasksperchild=3) as pool:
            pids = pool.map(pid_of_worker, range(10), chunksize=1)
        assert len(set(pids)) >= 4
        assert all(pids.count(pid) <= 3 for pid in pids)


def face_many_tasks() -> None:
    """More than a pipe holds, submitted at once, and many of them large."""
    with multiprocessing.Pool(2) as pool:
        results = [pool.apply_async(len, (bytes(10_000),)) for _ in range(2000)]
        assert {result.get() for result in results} == {10_000}


def face_executor_of_many_tasks() -> None:
    """The executor of `concurrent.futures`, on the pieces of this package."""
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context()) as executor:
        futures = [executor.submit(abs, -x) for x in range(3000)]
        assert [future.result() for future in futures] == list(range(3000))


def face_executor_says_that_it_is_broken() -> None:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context()) as executor:
        futures = [executor.submit(die_at_three, x) for x in range(20)]
        try:
            for future in futures:
                future.result()
        except BrokenProcessPool:
            pass
        else:
            raise AssertionError("nobody said that a worker was killed")


if __name__ == "__main__":
    facts.choose(globals())
