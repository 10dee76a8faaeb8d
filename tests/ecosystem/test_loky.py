"""loky and joblib, whose queues reach inside ours, with the package in the original's place.

pip install loky joblib && python -m pytest tests/ecosystem
"""

import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest

needs_loky = pytest.mark.skipif(find_spec("loky") is None, reason="loky is not installed")
needs_joblib = pytest.mark.skipif(find_spec("joblib") is None, reason="joblib is not installed")


def run(tmp_path: Path, program: str) -> list[str]:
    """Run a program for which the package is `multiprocessing`; return the lines it prints."""
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(program))
    done = subprocess.run(
        [sys.executable, "-m", "sidestep", str(script)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@needs_loky
def test_loky_queues_are_classic(tmp_path: Path) -> None:
    assert run(
        tmp_path,
        """
        import multiprocessing.queues
        from loky.backend import queues
        for cls in (queues.Queue, queues.SimpleQueue):
            ours = getattr(multiprocessing.queues, cls.__name__)
            print(cls.__mro__[1].__name__, issubclass(cls, ours))
        """,
    ) == ["ClassicQueue True", "ClassicSimpleQueue True"]


@needs_loky
def test_reusable_executor_of_loky(tmp_path: Path) -> None:
    assert run(
        tmp_path,
        """
        import os
        import signal
        from loky import get_reusable_executor
        from loky.process_executor import TerminatedWorkerError

        def square(x):
            return x * x

        def die():
            os.kill(os.getpid(), signal.SIGKILL)

        if __name__ == "__main__":
            executor = get_reusable_executor(max_workers=2)
            print(sum(executor.map(square, range(200))))
            # By value, by the pickler of its own that its queues use.
            print(executor.submit(lambda x: x + 1, 41).result())
            try:
                executor.submit(die).result()
            except TerminatedWorkerError:
                print("a worker was killed")
            executor = get_reusable_executor(max_workers=2)
            print(executor.submit(square, 3).result())
            executor.shutdown()
        """,
    ) == ["2646700", "42", "a worker was killed", "9"]


@needs_joblib
@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
def test_joblib(tmp_path: Path, backend: str) -> None:
    program = f"""
        from joblib import Parallel, delayed

        def square(x):
            return x * x

        if __name__ == "__main__":
            print(sum(Parallel(2, backend={backend!r})(delayed(square)(n) for n in range(300))))
        """
    assert run(tmp_path, program) == ["8955050"]
