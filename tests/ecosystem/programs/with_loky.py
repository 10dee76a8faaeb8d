"""loky: its executor, used again, and one whose worker is killed."""

import os
import signal

from loky import get_reusable_executor
from loky.process_executor import TerminatedWorkerError


def square(number: int) -> int:
    """Return the square."""
    return number * number


def die() -> None:
    """End as a process does that the system kills."""
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    for workers in (2, 3):
        executor = get_reusable_executor(max_workers=workers)
        print(
            sum(executor.map(square, range(50), chunksize=7)), executor.submit(square, 9).result()
        )
    try:
        executor.submit(die).result()
    except TerminatedWorkerError:
        print("a worker was killed")
    executor = get_reusable_executor(max_workers=2)
    print(executor.submit(lambda: 42).result())
    executor.shutdown()
