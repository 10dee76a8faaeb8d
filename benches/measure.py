"""Samples: each in a fresh interpreter, the contenders in turns."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from contenders import CONTENDERS
from registry import OURS, Workload, load

SAMPLE = Path(__file__).with_name("sample.py")
LIMIT_S = 180


@dataclass(frozen=True)
class Sample:
    """One run of one workload by one contender.

    Attributes:
        value: What one operation took: seconds, or bytes where the workload says so.
        cpu_seconds: Of all processes of the sample, as far as they were waited for.
        peak_bytes: Resident memory of its largest process at its largest.
        problem: What went wrong, or nothing.
        absent: Whether that is only that the contender is not installed.
    """

    value: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    problem: str = ""
    absent: bool = False


# --- inside a fresh interpreter -------------------------------------------------------------


def measure(suite: str, name: str, contender: str, scale: float) -> Sample:
    """Run one workload here and now."""
    chosen = load(suite)[name]
    try:
        mp = CONTENDERS[contender]()
    except ImportError as error:
        return Sample(problem=f"not installed: {error}", absent=True)
    before = cpu_seconds()
    value = chosen.run(mp, max(2, round(chosen.n * scale)))
    return Sample(value, cpu_seconds() - before, peak_bytes())


def cpu_seconds() -> float:
    """CPU time of this process and of the children that were waited for."""
    return sum(usage.ru_utime + usage.ru_stime for usage in usages())


def peak_bytes() -> int:
    return 1024 * max(usage.ru_maxrss for usage in usages())


def usages() -> list[resource.struct_rusage]:
    return [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]


# --- rounds ---------------------------------------------------------------------------------


def run_rounds(
    suite: str, chosen: Workload, rounds: int, scale: float, show: Callable[[str], None]
) -> dict[str, list[Sample]]:
    """The samples of each contender, one per round; none follows after one that went wrong.

    Each round turns the order of the contenders round, so that whatever else the machine does
    hits all of them alike.
    """
    contenders = [*chosen.rivals, OURS]
    samples: dict[str, list[Sample]] = {contender: [] for contender in contenders}
    for number in range(rounds):
        for contender in contenders[:: 1 if number % 2 == 0 else -1]:
            if any(sample.problem for sample in samples[contender]):
                continue
            show(f"{chosen.name}, round {number + 1}, {contender}")
            samples[contender].append(fresh_sample(suite, chosen.name, contender, scale))
    show("")
    return samples


def fresh_sample(suite: str, name: str, contender: str, scale: float) -> Sample:
    command = [sys.executable, str(SAMPLE), suite, name, contender, str(scale)]
    # A group of its own: a sample that hangs is ended with all its children.
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, errors = child.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, 9)
        child.communicate()
        return Sample(problem=f"not finished after {LIMIT_S} s")
    if child.returncode != 0:
        lines = errors.strip().splitlines() or [f"exit code {child.returncode}"]
        return Sample(problem=lines[-1])
    return Sample(**json.loads(out.splitlines()[-1]))
