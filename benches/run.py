"""Measure the package beside the standard library.

    make bench
    python benches/run.py --only 'queue*' --rounds 9
    python benches/run.py --list

Each sample runs in a fresh interpreter. Within a round the contenders take turns, and the next
round turns their order round, so that whatever else the machine does hits all of them alike. The
table gives the median time of one operation; `±` is half the distance between the quartiles in
percent of the median; the ratio is the median of the rounds' own ratios. CPU seconds are those of
all processes of a sample together. Queues between threads of one process (`queue.Queue`) stand
beside as a reference: they copy nothing.
"""

import argparse
import fnmatch
import importlib
import json
import os
import platform
import queue
import resource
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from workloads import WORKLOADS

CONTENDERS = ("multiprocessing", "sidestep")
THREADS = "threads"
RESULTS = Path(__file__).parent / "results"
SAMPLE_LIMIT_S = 180


@dataclass(frozen=True)
class Sample:
    """One run of one workload: seconds per operation, CPU seconds in all, or what went wrong."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    problem: str = ""


def main() -> int:
    options = parse_arguments()
    if options.sample:
        name, contender = options.sample
        print(json.dumps(asdict(measure(name, contender, options.scale))))
        return 0
    chosen = [name for name in WORKLOADS if fnmatch.fnmatch(name, options.only)]
    if options.list:
        for name in chosen:
            print(f"{name:<18} {WORKLOADS[name].sentence}")
        return 0
    if not chosen:
        print(f"no workload is called like {options.only!r}; --list names them", file=sys.stderr)
        return 2
    results: dict[str, dict[str, list[Sample]]] = {}
    for name in chosen:
        results[name] = run_rounds(name, options.rounds, options.scale)
    about = machine()
    print(table(results))
    print()
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    RESULTS.mkdir(exist_ok=True)
    target = options.json or RESULTS / f"{about['date']}-python{about['python']}.json"
    target.write_text(json.dumps({"about": about, "samples": plain(results)}, indent=1) + "\n")
    print(f"written to {target}")
    failed = any(s.problem for row in results.values() for many in row.values() for s in many)
    return 1 if failed else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure sidestep beside multiprocessing.")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="workloads to run")
    parser.add_argument("--rounds", type=int, default=5, help="samples of each contender")
    parser.add_argument("--scale", type=float, default=1.0, help="do this part of each workload")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the samples go")
    parser.add_argument("--list", action="store_true", help="name the workloads and end")
    parser.add_argument("--sample", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


# --- inside a fresh interpreter -------------------------------------------------------------


def measure(name: str, contender: str, scale: float) -> Sample:
    """Run one workload here and now; the seconds are those of one operation."""
    mp: Any
    if contender == THREADS:
        mp = SimpleNamespace(Process=threading.Thread, Queue=queue.Queue, Barrier=threading.Barrier)
    else:
        # The start method is named, so that a change of the default changes no figure.
        mp = importlib.import_module(contender).get_context("fork")
    chosen = WORKLOADS[name]
    before = cpu_seconds()
    n = max(2, round(chosen.n * scale))
    seconds = chosen.run(mp, n) / n
    return Sample(seconds, cpu_seconds() - before)


def cpu_seconds() -> float:
    """CPU time of this process and of the children that were waited for."""
    usages = (
        resource.getrusage(resource.RUSAGE_SELF),
        resource.getrusage(resource.RUSAGE_CHILDREN),
    )
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


# --- rounds ---------------------------------------------------------------------------------


def run_rounds(name: str, rounds: int, scale: float) -> dict[str, list[Sample]]:
    contenders = [*CONTENDERS, THREADS] if WORKLOADS[name].threads else list(CONTENDERS)
    samples: dict[str, list[Sample]] = {contender: [] for contender in contenders}
    for number in range(rounds):
        order = contenders if number % 2 == 0 else contenders[::-1]
        for contender in order:
            show(f"{name}, round {number + 1}, {contender}")
            samples[contender].append(sample_in_fresh_interpreter(name, contender, scale))
    show("")
    return samples


def show(progress: str) -> None:
    """Replace the line at the foot of a terminal; nothing when stderr goes to a file."""
    if sys.stderr.isatty():
        print(f"\r\033[K{progress}", end="", file=sys.stderr, flush=True)


def sample_in_fresh_interpreter(name: str, contender: str, scale: float) -> Sample:
    command = [sys.executable, __file__, "--scale", str(scale), "--sample", name, contender]
    # A group of its own: a sample that hangs is ended with all its children.
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, errors = child.communicate(timeout=SAMPLE_LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, 9)
        child.communicate()
        return Sample(problem=f"not finished after {SAMPLE_LIMIT_S} s")
    if child.returncode != 0:
        lines = errors.strip().splitlines() or [f"exit code {child.returncode}"]
        return Sample(problem=lines[-1])
    return Sample(**json.loads(out))


# --- the table ------------------------------------------------------------------------------


def table(results: dict[str, dict[str, list[Sample]]]) -> str:
    standard, ours = CONTENDERS
    rows = [
        ["workload", standard, ours, "ratio", f"CPU s {standard}", f"CPU s {ours}", THREADS],
        ["---", "---:", "---:", "---:", "---:", "---:", "---:"],
    ]
    for name, samples in results.items():
        rows.append(
            [
                name,
                per_operation(samples[standard]),
                per_operation(samples[ours]),
                ratio(samples[standard], samples[ours]),
                cpu(samples[standard]),
                cpu(samples[ours]),
                per_operation(samples[THREADS]) if THREADS in samples else "",
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def good(samples: list[Sample]) -> list[Sample]:
    return [sample for sample in samples if not sample.problem]


def per_operation(samples: list[Sample]) -> str:
    times = [sample.seconds for sample in good(samples)]
    if not times:
        return samples[0].problem.replace("|", "/")[:40]
    middle = statistics.median(times)
    lost = len(samples) - len(times)
    return with_unit(middle) + spread(times, middle) + (f", {lost} failed" if lost else "")


def with_unit(seconds: float) -> str:
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def spread(times: list[float], middle: float) -> str:
    if len(times) < 3:
        return ""
    low, _, high = statistics.quantiles(times, n=4, method="inclusive")
    return f" ±{50 * (high - low) / middle:.0f}%"


def ratio(standard: list[Sample], ours: list[Sample]) -> str:
    pairs = [
        a.seconds / b.seconds
        for a, b in zip(standard, ours, strict=True)
        if not (a.problem or b.problem)
    ]
    return f"{statistics.median(pairs):.2f}x" if pairs else "-"


def cpu(samples: list[Sample]) -> str:
    values = [sample.cpu_seconds for sample in good(samples)]
    return f"{statistics.median(values):.3g}" if values else "-"


# --- what the figures belong to -------------------------------------------------------------


def machine() -> dict[str, str]:
    return {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "sidestep": package_version(),
        "commit": commit(),
        "kernel": platform.release(),
        "processor": processor(),
        "processors": str(len(os.sched_getaffinity(0))),
    }


def package_version() -> str:
    try:
        return metadata.version("sidestep")
    except metadata.PackageNotFoundError:
        return "not installed"


def commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def plain(results: dict[str, dict[str, list[Sample]]]) -> dict[str, Any]:
    return {
        name: {contender: [asdict(sample) for sample in many] for contender, many in row.items()}
        for name, row in results.items()
    }


if __name__ == "__main__":
    sys.exit(main())
