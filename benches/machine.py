"""What figures belong to: machine, versions, commit, date, command."""

import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

BENCHES = Path(__file__).parent
PACKAGES = ("sidestep", "numpy", "faster-fifo", "loky", "joblib", "mpire")


def about(command: list[str]) -> dict[str, str]:
    """Names and values for the reader; the load is the one before the run."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(command),
        "commit": commit(),
        "python": platform.python_version(),
        **{name: version for name in PACKAGES if (version := version_of(name))},
        "kernel": platform.release(),
        "processor": processor(),
        "processors": str(len(os.sched_getaffinity(0))),
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


def version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def commit() -> str:
    # What it says is about the code that is measured, not about results that a run writes.
    command = ["git", "-C", str(BENCHES.parent), "describe", "--always", "--dirty"]
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


def command_line() -> list[str]:
    return ["python", "benches/run.py", *sys.argv[1:]]
