"""What figures belong to: machine, versions, commit, date, command."""

import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

BENCHES = Path(__file__).parent
# Results and documents are changed by the runs themselves.
CODE = ("python", "crates", "Cargo.lock", "benches/*.py", "benches/workloads")
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
