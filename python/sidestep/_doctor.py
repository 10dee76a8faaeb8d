"""`python -m sidestep doctor`: what a person needs when asking for help, or when giving it."""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from . import _shadow, _sidestep, get_all_start_methods, get_context

__all__ = ["main", "version"]

_LIMITS = ("RLIMIT_AS", "RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_FSIZE")

# What the engine's books take of the arena's file, in bytes.
_HEAD = 16 << 20

# Run by the shadow: with nothing but the standard library, is it us?
_CHECK = "import multiprocessing.pool, sys; sys.exit(multiprocessing.__name__ != 'sidestep')"


def version() -> str:
    """Return the package's version as it was installed."""
    try:
        return metadata.version("sidestep")
    except metadata.PackageNotFoundError:
        return "not installed, run from its source"


def main(arguments: Sequence[str]) -> int:
    """Print the report.

    Returns:
        The exit status: 0 if everything works, 1 if something is missing.
    """
    parser = argparse.ArgumentParser(
        prog="python -m sidestep doctor",
        description="Say what this machine has and lacks. Nothing is sent anywhere.",
    )
    parser.add_argument("--json", action="store_true", help="for programs to read")
    options = parser.parse_args(arguments)
    report = _report()
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print("\n".join(_lines(report)))
    return 1 if report["problems"] else 0


def _report() -> dict[str, Any]:
    features = [
        {"name": name, "needed": needed, "refused": refused, "otherwise": otherwise}
        for name, needed, otherwise, refused in _sidestep.features()
    ]
    problems = [
        f"{feature['name']} is missing ({feature['refused']}): {feature['otherwise']}"
        for feature in features
        if feature["refused"] is not None
    ]
    shadow, shadow_problem = _shadow_state()
    if shadow_problem is not None:
        problems.append(f"{shadow_problem}: programs cannot be run by `python -m sidestep`")
    shm = _shared_names()
    if shm is None:
        problems.append("there is no /dev/shm: SharedMemory does not work, the rest does")
    arena = _arena()
    if arena["ceiling"] == 0:
        problems.append(
            f"no arena can be made ({arena['reason']}): nothing can be shared; raise the limit "
            "(ulimit -f)"
        )
    return {
        "versions": {
            "sidestep": version(),
            "python": sys.version,
            "kernel": f"{platform.system()} {platform.release()}",
            "libc": " ".join(platform.libc_ver()) or "not known",
            "machine": platform.machine(),
        },
        "executable": sys.executable,
        "package": os.path.dirname(__file__),
        "shadow": shadow,
        "start_methods": get_all_start_methods(),
        "default_start_method": get_context().get_start_method(),
        "processors": len(os.sched_getaffinity(0)),
        "limits": {name: _limit(name) for name in _LIMITS},
        "dev_shm": shm,
        "arena": arena,
        "features": features,
        "problems": problems,
    }


def _shadow_state() -> tuple[str | None, str | None]:
    """The shadow's path, and a sentence if it does not work."""
    try:
        shadow = _shadow.interpreter()
        done = subprocess.run(
            [shadow, "-I", "-S", "-c", _CHECK], capture_output=True, text=True, check=False
        )
    except OSError as error:
        return None, f"there is no interpreter to run them ({error})"
    if done.returncode == 0:
        return shadow, None
    last = done.stderr.strip().rpartition("\n")[2] or f"exit status {done.returncode}"
    return shadow, f"{shadow} does not work ({last})"


def _limit(name: str) -> int | None:
    soft, _ = resource.getrlimit(getattr(resource, name))
    return None if soft == resource.RLIM_INFINITY else soft


def _shared_names() -> dict[str, int] | None:
    try:
        found = os.statvfs("/dev/shm")
    except OSError:
        return None
    return {"size": found.f_blocks * found.f_frsize, "free": found.f_bavail * found.f_frsize}


def _arena() -> dict[str, Any]:
    ceiling, asked, machine, group, space, files = _sidestep.ceiling()
    if files is not None and ceiling == 0:
        reason = "the arena is a file of 32 MiB at the least, and RLIMIT_FSIZE allows none"
    elif files is not None and ceiling == files - _HEAD:
        reason = "what fits into a file (RLIMIT_FSIZE) behind the arena's books"
    elif asked is not None:
        reason = "SIDESTEP_ARENA_LIMIT says so"
    elif space is not None and ceiling == space // 8:
        reason = "an eighth of the limit of the address space (RLIMIT_AS)"
    elif group is not None and group < machine:
        reason = "half of what the control group may use"
    else:
        reason = "half of the machine's memory"
    return {"ceiling": ceiling, "reason": reason, "machine": machine, "control_group": group}


# --- for people -----------------------------------------------------------------------------


def _lines(report: dict[str, Any]) -> list[str]:
    arena, shm = report["arena"], report["dev_shm"]
    methods = (
        f"{name} (default)" if name == report["default_start_method"] else name
        for name in report["start_methods"]
    )
    facts: dict[str, object] = {
        **report["versions"],
        "executable": report["executable"],
        "package": report["package"],
        "shadow": report["shadow"] or "none",
        "start methods": ", ".join(methods),
        "processors": report["processors"],
        **{
            name: _size(limit) if name in ("RLIMIT_AS", "RLIMIT_FSIZE") else _count(limit)
            for name, limit in report["limits"].items()
        },
        "machine's memory": _size(arena["machine"]),
        "control group": _size(arena["control_group"]),
        "arena's ceiling": f"{_size(arena['ceiling'])}: {arena['reason']}",
        "/dev/shm": f"{_size(shm['size'])}, {_size(shm['free'])} free" if shm else "missing",
        **{
            feature["name"]: "works" if feature["refused"] is None else "MISSING"
            for feature in report["features"]
        },
    }
    lines = [f"{name:<18}{str(fact).replace(chr(10), ' ')}" for name, fact in facts.items()]
    return [*lines, "", *(report["problems"] or ["everything works"])]


def _size(number: int | None) -> str:
    if number is None:
        return "no limit"
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < 10_240:
            return f"{number} {unit}"
        number //= 1024
    return f"{number} TiB"


def _count(number: int | None) -> str:
    return "no limit" if number is None else str(number)
