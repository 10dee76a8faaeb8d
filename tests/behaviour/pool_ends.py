"""How the tests of pools end them, and see workers end."""

from typing import Any


def end(made: Any) -> None:
    """Wait for the end, and forget the workers: the test still holds the pool."""
    made.join()
    made._crew.workers.clear()
    made._crew.lines.clear()


def ended(worker: Any) -> int:
    """Wait for a worker's end, and return its exit code."""
    worker.join()
    code: int = worker.exitcode
    return code


def worker_with(made: Any, pid: int) -> Any:
    """Return the worker with this process id."""
    (found,) = (worker for worker in made._pool if worker.pid == pid)
    return found
