"""joblib on the package: its pool replaces the queues of the original pool by its own."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("joblib") is None, reason="joblib is not installed"
)

SCRIPT = """
import multiprocessing, os
import numpy
from joblib import Parallel, delayed, parallel_config
from joblib.pool import MemmappingPool

def weigh(array, by):
    return float(array.sum()) * by, type(array).__name__

def fail(n):
    raise LookupError(n)

def vanish():
    os.kill(os.getpid(), 9)

if __name__ == "__main__":
    print(multiprocessing.Process.__module__, issubclass(MemmappingPool, multiprocessing.pool.Pool))
    ones = numpy.ones(500_000)
    with parallel_config(backend="multiprocessing"):
        print(Parallel(n_jobs=2)(delayed(weigh)(ones, n) for n in range(5)))
        print(sum(Parallel(n_jobs=2)(delayed(pow)(n, 2) for n in range(10))))
        try:
            Parallel(n_jobs=2)(delayed(fail)(n) for n in range(2))
        except LookupError as error:
            print("LookupError")
        try:
            Parallel(n_jobs=2)(delayed(vanish)() for n in range(2))
        except multiprocessing.ProcessError as error:
            print(type(error).__name__)
"""


def test_parallel_with_the_backend_multiprocessing(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-m", "sidestep", str(script)],
        env={**os.environ, "JOBLIB_TEMP_FOLDER": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    first, weights, squares, error, lost = done.stdout.splitlines()
    assert first == "sidestep.context True"
    assert weights == str([(500_000.0 * n, "memmap") for n in range(5)])
    assert (squares, error, lost) == ("285", "LookupError", "WorkerLostError")
