"""What figures belong to: machine, versions, commit, date, command."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

BENCHES = Path(__file__).parent
# Results and documents are changed by the runs themselves.
CODE = ("python", "crates", "Cargo.lock", "benches/*.py", "benches/workloads")
PACKAGES = ("sidestep", "numpy", "faster-fifo", "loky", "joblib", "mpire")


def about(command: list[str]) -> dict[str, str]:
    """Names and values for the reader, as of before the run."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(command),
        "commit": commit(),
        "python": platform.python_version(),
        **{name: version for name in PACKAGES if (version := version_of(name))},
        "kernel": platform.release(),
        "processor": processor(),
        "processors": str(len(os.sched_getaffinity(0))),
    }


def others() -> Callable[[], str]:
    """Watch from now on; the function that is returned says how busy other programs were.

    A sample that did not have the machine for itself says little, and ratios suffer, too: which of
    the contenders was disturbed is chance.
    """
    start, busy, own = time.monotonic(), busy_seconds(), own_seconds()

    def said() -> str:
        taken = busy_seconds() - busy - (own_seconds() - own)
        whole = (time.monotonic() - start) * (os.cpu_count() or 1)
        return f"{max(0.0, taken / whole):.0%} of the processors' time"

    return said


def busy_seconds() -> float:
    """CPU time of all programs since the machine was started."""
    first, *_ = Path("/proc/stat").read_text().splitlines()
    user, nice, system = map(int, first.split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """CPU time of this process and of all that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def commit() -> str:
    """The commit, with a plus if what is measured or what measures differs from it."""
    try:
        name = git("rev-parse", "--short", "HEAD")
        return name + ("+" if git("status", "--porcelain", "--", *CODE) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def git(*arguments: str) -> str:
    command = ["git", "-C", str(BENCHES.parent), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def command_line() -> list[str]:
    return ["python", "benches/run.py", *sys.argv[1:]]
