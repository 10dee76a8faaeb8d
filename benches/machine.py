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
        # Without what whoever built it has added to its name.
        "kernel": platform.release().partition("-")[0],
        "processor": processor(),
        "processors": str(len(os.sched_getaffinity(0))),
    }


def others() -> Callable[[], str]:
    """Watch from now on; the function that is returned says how busy other programs were.

    A sample that did not have the machine for itself says little, and ratios suffer, too: which of
    the contenders was disturbed is chance. On a virtual machine its neighbours count, too: the time
    that the host gave to them when something was to be done here.
    """
    start, own = time.monotonic(), own_seconds()
    busy, stolen = busy_seconds(), stolen_seconds()

    def said() -> str:
        taken = busy_seconds() - busy - (own_seconds() - own)
        whole = (time.monotonic() - start) * (os.cpu_count() or 1)
        elsewhere = stolen_seconds() - stolen
        return (
            f"{max(0.0, taken / whole):.0%} of the processors' time, "
            f"other machines on the host {elsewhere / whole:.0%}"
        )

    return said


def busy_seconds() -> float:
    """CPU time of all programs since the machine was started."""
    user, nice, system, *_ = processor_times()
    return user + nice + system


def stolen_seconds() -> float:
    """CPU time since the machine was started that its host did not give it."""
    return processor_times()[7]


def processor_times() -> list[float]:
    """Seconds that the processors spent in each of their states, as in proc(5)."""
    first, *_ = Path("/proc/stat").read_text().splitlines()
    return [int(ticks) / os.sysconf("SC_CLK_TCK") for ticks in first.split()[1:]]


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
