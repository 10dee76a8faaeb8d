"""What a program sees: its start, and pictures, which keep the processors busy."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from registry import clock, workload
from tasks import nothing

# The clock stands inside of the fresh interpreter: its start is not what is measured.
IMPORT = """
import sys, time
sys.path[:] = {path!r}
start = time.perf_counter()
import {modules}
print(time.perf_counter() - start)
"""
# What programs import soonest, by name or by making a queue, a lock, a value, a pool.
PARTS = ("connection", "queues", "synchronize", "pool", "sharedctypes")


def imported(mp: Any, n: int, parts: tuple[str, ...]) -> float:
    modules = ", ".join([mp.package, *(f"{mp.package}.{part}" for part in parts)])
    command = [sys.executable, "-I", "-c", IMPORT.format(path=sys.path, modules=modules)]
    return sum(float(subprocess.check_output(command)) for _ in range(n)) / n


@workload(
    "import",
    10,
    "the package is imported in a fresh interpreter; the goal is the standard library with what "
    "it loads on first use",
    beside={"all of its parts": 1},
)
def import_package(mp: Any, n: int) -> float:
    return imported(mp, n, PARTS if getattr(mp, "with_parts", False) else ())


@workload("import parts", 10, "the package with " + ", ".join(PARTS), goal=1)
def import_parts(mp: Any, n: int) -> float:
    return imported(mp, n, PARTS)


@workload(
    "pictures",
    20,
    "photographs are developed by two workers; two bare forks show what the machine can do, and "
    "one process what twice as fast would be",
    beside={"two bare processes": 0.95, "one process": None},
)
def pictures(mp: Any, n: int) -> float:
    # The work is the demo's.
    sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "pictures"))
    from darkroom import Job, develop  # type: ignore[import-not-found, unused-ignore]
    from gather import sample_pictures  # type: ignore[import-not-found, unused-ignore]

    sources = sorted(sample_pictures(), key=lambda path: -path.stat().st_size)[:n]
    with tempfile.TemporaryDirectory() as folder:
        jobs = [Job(path, Path(folder, f"{path.stem}.jpg"), (1200, 800)) for path in sources]
        with mp.Pool(2) as pool:
            pool.map(nothing, range(2))
            start = clock()
            pool.map(develop, jobs, 1)
            elapsed = clock() - start
    return elapsed / len(jobs)
