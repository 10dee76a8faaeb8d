"""What the machine and the memory control group have left for blocks of `SharedMemory`.

The kernel's killer frees nothing of a file in memory, so it must not come to that: whoever takes
much asks first. The engine does the same for the arena.
"""

from __future__ import annotations

import contextlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["lacking"]

# To ask for less takes longer than to take it; the heap does not ask either.
_LEAST_ASKED_FOR = 1 << 20
# A limit from here on is version 1's way to say that there is none.
_NO_LIMIT = 1 << 60

# Version 2 and version 1 of control groups: where they are, the files of limit and use, and what
# a statistic begins with that counts the groups below, too.
_VERSION_2 = ("/sys/fs/cgroup", "memory.max", "memory.current", "")
_VERSION_1 = (
    "/sys/fs/cgroup/memory",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "total_",
)


def lacking(size: int) -> str | None:
    """Tell why `size` more bytes of memory are too many, and the way out; None if they are not.

    A 64th part of the machine and of each control group is left alone. Where the system does not
    say what it has left, nothing is lacking.
    """
    if size < _LEAST_ASKED_FOR:
        return None
    machine = _fields(_text("/proc/meminfo").replace(":", " ").replace(" kB", ""))
    total, available = machine.get("MemTotal", 0), machine.get("MemAvailable")
    if available is not None and size > _usable(1024 * available, 1024 * total):
        return f"the machine has {1024 * available:,} of {1024 * total:,} bytes left"
    for limit, left in _groups():
        if size > _usable(left, limit):
            return (
                f"the memory control group has {left:,} bytes left of its limit of {limit:,}, "
                "which can be raised (containers: --memory)"
            )
    return None


def _usable(left: int, limit: int) -> int:
    return left - limit // 64


def _groups() -> Iterator[tuple[int, int]]:
    """Limit of this process's memory control group and those that it lies in, and what is left."""
    for line in _text("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            version = _VERSION_2
        elif "memory" in controllers.split(","):
            version = _VERSION_1
        else:
            continue
        root, limit_file, use_file, whole = version
        # A container sees its own group as the root, and a path that may not be there.
        path = path.rstrip("/")
        while True:
            with contextlib.suppress(ValueError):  # "max", or no such file
                limit = int(_text(f"{root}{path}/{limit_file}"))
                if limit < _NO_LIMIT:
                    use = int(_text(f"{root}{path}/{use_file}"))
                    kept = _fields(_text(f"{root}{path}/memory.stat"))
                    # Files kept in memory make room when it is needed.
                    for name in ("active_file", "inactive_file"):
                        use -= kept.get(whole + name, 0)
                    yield limit, limit - max(use, 0)
            if not path:
                break
            path = path.rpartition("/")[0]


def _fields(text: str) -> dict[str, int]:
    """Lines of a name and a number."""
    found = {}
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            name, number = line.split()
            found[name] = int(number)
    return found


def _text(path: str) -> str:
    """What the system says there; nothing if it does not."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
