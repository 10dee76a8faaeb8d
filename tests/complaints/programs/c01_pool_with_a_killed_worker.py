"""A pool waits for ever for the task of a worker that was killed.

`retries` is an option that the standard library's pools do not have.
"""

import ctypes
import functools
import multiprocessing
import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import facts


def killed_at_three(x: int) -> int:
    return facts.die() if x == 3 else x * x


def exits_at_three(x: int) -> int:
    return os._exit(7) if x == 3 else x * x


def crashes_at_three(x: int) -> int:
    return len(ctypes.string_at(0)) if x == 3 else x * x


def killed_once(folder: str, x: int) -> int:
    if x == 3 and not (Path(folder) / "was here").exists():
        (Path(folder) / "was here").touch()
        facts.die()
    return x * x


def one_is_lost(task: Any, *words: str) -> None:
    """All tasks but number three complete, and its error says what has happened."""
    with multiprocessing.Pool(2) as pool:
        results = [pool.apply_async(task, (x,)) for x in range(8)]
        for x, result in enumerate(results):
            try:
                assert result.get() == x * x and x != 3
            except multiprocessing.ProcessError as error:
                assert x == 3, f"task {x} was blamed for task 3"
                assert any(word in str(error) for word in words), error
        assert pool.map(abs, [-1, -2]) == [1, 2]


def face_killed() -> None:
    one_is_lost(killed_at_three, "SIGKILL", "signal 9")


def face_exits() -> None:
    one_is_lost(exits_at_three, "7")


def face_crashes() -> None:
    one_is_lost(crashes_at_three, "SIGSEGV", "signal 11")


def face_in_imap() -> None:
    """A reader of results in order meets one error, at the right place, and reads on."""
    with multiprocessing.Pool(2) as pool:
        results, found = pool.imap(killed_at_three, range(6)), []
        for _ in range(6):
            try:
                found.append(next(results))
            except multiprocessing.ProcessError:
                found.append(-1)
        assert found == [0, 1, 4, -1, 16, 25]


def face_in_map() -> None:
    """One call for all: the error comes, and the pool works on."""
    with multiprocessing.Pool(2) as pool:
        try:
            pool.map(killed_at_three, range(6))
        except multiprocessing.ProcessError:
            assert pool.map(abs, [-1, -2]) == [1, 2]
        else:
            raise AssertionError("nobody said that a task was lost")


def face_idle() -> None:
    """All workers are killed while they wait for a task: the next call works."""
    with multiprocessing.Pool(2) as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]
        workers = multiprocessing.active_children()
        for worker in workers:
            assert worker.pid is not None
            facts.asleep(worker.pid)
            os.kill(worker.pid, signal.SIGKILL)
        assert pool.map(abs, [-3, -4]) == [3, 4]


def face_run_again() -> None:
    """With `retries`, a task that was lost once is run once more, and comes to its end."""
    options: Any = {"retries": 1}
    with (
        tempfile.TemporaryDirectory() as folder,
        multiprocessing.Pool(2, **options) as pool,
    ):
        task = functools.partial(killed_once, folder)
        assert pool.map(task, range(6)) == [0, 1, 4, 9, 16, 25]


def face_run_again_in_vain() -> None:
    """A task that always kills its worker is given up after so many times."""
    options: Any = {"retries": 2}
    with multiprocessing.Pool(2, **options) as pool:
        results = [pool.apply_async(killed_at_three, (x,)) for x in range(6)]
        for x, result in enumerate(results):
            try:
                assert result.get() == x * x and x != 3
            except multiprocessing.ProcessError:
                assert x == 3


def failing_initializer() -> None:
    raise RuntimeError("no set-up today")


def face_initializer_fails() -> None:
    """Workers that can never begin are not restarted for ever."""
    with multiprocessing.Pool(2, failing_initializer) as pool:
        try:
            pool.map(abs, [-1])
        except multiprocessing.ProcessError:
            pass
        else:
            raise AssertionError("worked without a set-up")


if __name__ == "__main__":
    facts.choose(globals())
