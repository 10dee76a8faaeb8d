"""What processes, items and objects take, and what is given back.

The sum over the process and all that descend from it. Memory that several share counts once: the
kernel's proportional share of each process, but for shared files without a name in their place
all that they hold, since that also has pages which nobody has mapped now.
"""

import gc
import os
import re
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from registry import workload
from tasks import nothing
from workloads import children, take

WORKERS = 4
MB = 1 << 20
# What is left of a burst is never less than a page, so that there is something to compare.
PAGE = 4096
# So often the kernel's memory is looked at while objects are made.
BATCHES = 5


def family() -> list[int]:
    """This process and all that descend from it."""
    found = [os.getpid()]
    for pid in found:
        for file in Path(f"/proc/{pid}/task").glob("*/children"):
            found += map(int, file.read_text().split())
    return found


def memory() -> int:
    """Bytes of the whole family."""
    shares = in_files = 0
    held: dict[tuple[int, int], int] = {}
    for pid in family():
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        shares += entry(rollup, "Pss")
        in_files += entry(rollup, "Pss_Shmem")
        held |= shared_files(pid)
    return shares - in_files + max(in_files, sum(held.values()))


def entry(rollup: str, name: str) -> int:
    """Bytes that a line like `Pss:   1234 kB` names."""
    found = re.search(rf"^{name}: +(\d+) kB$", rollup, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def shared_files(pid: int) -> dict[tuple[int, int], int]:
    """Bytes in files of memory that the process has open, by device and number."""
    found = {}
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        # That of the listing itself is gone already.
        with suppress(FileNotFoundError):
            if os.readlink(descriptor).startswith(("/memfd:", "/dev/shm/")):
                about = descriptor.stat()
                found[about.st_dev, about.st_ino] = about.st_blocks * 512
    return found


def settled() -> int:
    gc.collect()
    return memory()


# --- processes ------------------------------------------------------------------------------


@contextmanager
def bare_interpreters() -> Iterator[None]:
    command = [sys.executable, "-c", "print(flush=True); input()"]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(WORKERS)
    ]
    for child in started:
        assert child.stdout is not None
        child.stdout.readline()
    yield
    for child in started:
        child.communicate(b"\n")


def idle_worker(method: str) -> None:
    @workload(
        f"idle worker, {method}",
        WORKERS,
        f"memory per worker of a Pool(4) of method {method}, with the servers that belong to it",
        goal=1,
        beside={"bare interpreter": None},
        unit="B",
    )
    def run(mp: Any, n: int) -> float:
        before = settled()
        if not mp.package:
            with bare_interpreters():
                return (settled() - before) / WORKERS
        with mp.get_context(method).Pool(WORKERS) as pool:
            pool.map(nothing, range(WORKERS), 1)
            return (settled() - before) / WORKERS


for _method in ("fork", "spawn", "forkserver"):
    idle_worker(_method)


# --- items and objects ----------------------------------------------------------------------


@workload("queued number", 10**6, "memory per number of a million in a queue", goal=1, unit="B")
def queued_numbers(mp: Any, n: int) -> float:
    queue = mp.Queue()
    queue.put(0)
    before = settled()
    fill(queue, n)
    used = settled() - before
    drain(queue, n + 1)
    return used / n


@workload(
    "left of a million numbers",
    10**6,
    "memory that is still held after a million numbers were put and taken by one process",
    goal=1,
    unit="B",
)
def left_of_numbers(mp: Any, n: int) -> float:
    queue = mp.Queue()
    queue.put(0)
    queue.get()
    before = settled()
    fill(queue, n)
    drain(queue, n)
    return max(PAGE, settled() - before)


@workload(
    "left of 100 strings of 8 MB",
    100,
    "memory that is still held after so many went through a queue of four to another process",
    goal=1,
    unit="B",
)
def left_of_bytes(mp: Any, n: int) -> float:
    queue, data = mp.Queue(4), bytes(8 * MB)
    before = settled()
    with children(mp, (take, queue.get, n)):
        for _ in range(n):
            queue.put(data)
    return max(PAGE, settled() - before)


@workload(
    "left of a queued gigabyte",
    128,
    "memory that is still held after strings of 8 MB lay in a queue all at once and were taken",
    goal=1,
    unit="B",
)
def left_of_gigabyte(mp: Any, n: int) -> float:
    queue, data = mp.Queue(), bytes(8 * MB)
    before = settled()
    for _ in range(n):
        queue.put(data)
    drain(queue, n)
    return max(PAGE, settled() - before)


@workload(
    "left of a pool's results",
    32,
    "memory that is still held after strings of 8 MB came back from a pool, which is closed",
    goal=1,
    unit="B",
)
def left_of_pool(mp: Any, n: int) -> float:
    before = settled()
    with mp.Pool(2) as pool:
        pool.map(bytes, [8 * MB] * n, 1)
        pool.close()
        pool.join()
    return max(PAGE, settled() - before)


def fill(queue: Any, n: int) -> None:
    for number in range(n):
        queue.put(number)


def drain(queue: Any, n: int) -> None:
    for _ in range(n):
        queue.get()


def live(name: str, n: int, make: Callable[[Any], Any]) -> None:
    @workload(f"one {name}", n, f"memory per {name} of {n:,} that are kept", goal=1, unit="B")
    def run(mp: Any, n: int) -> float:
        kept = [make(mp)]
        before = settled()
        kept += [make(mp) for _ in range(n)]
        return (settled() - before) / n


live("Lock", 10_000, lambda mp: mp.Lock())
live("Event", 5_000, lambda mp: mp.Event())
live("Value", 10_000, lambda mp: mp.Value("i"))
live("Queue", 1_000, lambda mp: mp.Queue())
live("Pipe", 1_000, lambda mp: mp.Pipe())


@workload(
    "one Pipe and its sockets",
    5_000,
    "memory per Pipe of 5,000 that are kept, with what the kernel has for it (growth of Slab)",
    goal=1,
    unit="B",
)
def pipes_and_sockets(mp: Any, n: int) -> float:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    kept, batch, in_kernel = [mp.Pipe()], max(1, n // BATCHES), []
    before = settled()
    for _ in range(BATCHES):
        slab = kernel_memory()
        kept += [mp.Pipe() for _ in range(batch)]
        in_kernel.append((kernel_memory() - slab) / batch)
    # The median, since the kernel's objects are those of the whole machine.
    return (settled() - before) / (len(kept) - 1) + statistics.median(in_kernel)


def kernel_memory() -> int:
    """Bytes that the kernel of the machine has for its objects, sockets among them."""
    return entry(Path("/proc/meminfo").read_text(), "Slab")
