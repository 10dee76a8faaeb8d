"""Mixed work for ten minutes, in which no process may grow.

    make soak SOAK="--minutes 10"

Processes that last do what those of the storm do; others come and go all the time, by each start
method, with pools, managers and named shared memory of their own. Once a second each process that
lasts is measured. The verdict is about each series of measurements, warm-up left out. The rest is
cut into thirty stretches; what leaks shows in the least value of a stretch, whatever comes and goes
meanwhile. The median of the slopes between all pairs of stretches (after Theil and Sen), times the
length of the run, must stay below a tolerance.
"""

import argparse
import contextlib
import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import sidestep
from sidestep import _sidestep, shared_memory
from storm.controller import Hang, Storm, children_of
from storm.locks import Locks
from storm.managers import StormManager, call
from storm.notes import PROGRESS, Notes, Row
from storm.pipes import read, write
from storm.pools import own_pool, square
from storm.queues import check, produce

# Of each quantity: how much of growth over the whole run, in its unit and as a part of its median,
# passes for noise. `own` is what belongs to the process alone. `rss` and `pss` are shown but not
# judged for a single process: they count the pages of the arena that it has touched so far, more
# the longer it works, up to all of them. What the arena holds is judged for itself; its file grows
# until there have once been enough blocks of each size. A process that starts others may have
# some of their descriptors whenever it is looked at; one lost per turn would be hundreds.
TOLERANCES = {
    "own kB": (512, 0.02),
    "arena file kB": (16384, 0.05),
    "descriptors": (8, 0.02),
    "threads": (1, 0.02),
    "arena kB": (2048, 0.05),
    "arena blocks": (20, 0.05),
    "processes": (2, 0.1),
}
FIELDS = {"Anonymous": "own kB", "Pss": "pss kB", "Rss": "rss kB"}
STRETCHES = 30
# The part of the run in which pools fill, caches warm and modules are imported.
WARM_UP = 0.1

# By process and quantity: the least value in each stretch. No more is kept: the one who measures
# must not grow either.
Series = dict[tuple[str, str], dict[int, float]]


def main() -> int:
    options = parse_arguments()
    context = sidestep.get_context("fork")
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        storm = Storm(context, random.Random(options.seed), Path(folder), rows=100)
        try:
            series = run(storm, options.minutes * 60)
        except Hang as hang:
            print(f"HANG: {hang}\n{storm.describe()}")
            storm.end_all()
            return 1
        faults = storm.notes.read("faults")
    grown = show(series, options.minutes)
    for fault in faults:
        print(f"FAULT: {fault}")
    if grown or faults:
        print(f"FAILED; again: python -m storm.soak --minutes {options.minutes}")
        return 1
    print("flat from the first minute to the last")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=7)
    return parser.parse_args()


# --- the work --------------------------------------------------------------------------------


def swallow(notes: Notes, row: Row, queue: Any) -> None:
    """Take items and forget them, until the mark of the end."""
    while (item := queue.get()) is not None:
        check(notes, item)
        row.count(PROGRESS)


def come_and_go(notes: Notes, row: Row, method: str) -> None:
    """Start and join processes, one after the other; now and then a pool or a manager."""
    context: Any = sidestep.get_context(method)
    turn = 0
    while not notes.stopping:
        turn += 1
        if turn % 7 == 0:
            with context.Pool(2) as pool:
                if pool.map(square, range(10)) != [square(number) for number in range(10)]:
                    notes.fault("a pool mixed its results up")
        elif turn % 7 == 3:
            with context.Manager() as manager:
                shared = manager.dict(a=1)
                child = context.Process(target=shared.update, kwargs={"b": 2})
                child.start()
                child.join()
                if shared.copy() != {"a": 1, "b": 2}:
                    notes.fault(f"a manager's dictionary holds {shared}")
        elif turn % 7 == 5:
            segment = shared_memory.SharedMemory(create=True, size=100_000)
            segment.buf[:5] = b"hello"
            segment.close()
            segment.unlink()
        else:
            queue, lock = context.Queue(), context.Lock()
            child = context.Process(target=visit, args=(queue, lock))
            child.start()
            if queue.get() != b"x" * 40_000:
                notes.fault("an item is not what was put")
            child.join()
            if child.exitcode:
                notes.fault(f"a child by {method} ended with {child.exitcode}")
            child.close()
        row.count(PROGRESS)


def visit(queue: Any, lock: Any) -> None:
    with lock:
        queue.put(b"x" * 40_000)


class Work:
    """The part of all that lasts; nobody is killed."""

    name = "soak"

    def __init__(self, storm: Storm) -> None:
        self.storm = storm
        context = storm.context
        self.queues = [context.Queue(), context.Queue(20)]
        self.manager = StormManager(ctx=context)

    def start(self) -> None:
        start = self.storm.start
        self.manager.start()
        for queue in self.queues:
            start(self, produce, queue)
            start(self, swallow, queue)
        reader, writer = self.storm.context.Pipe(duplex=False)
        start(self, write, reader, writer)
        start(self, read, reader, writer)
        reader.close()
        writer.close()
        start(self, own_pool, self.storm.context)
        for _ in range(2):
            start(self, call, self.manager.address, bytes(self.manager._authkey), 0)
        for method in ("fork", "spawn", "forkserver"):
            start(self, come_and_go, method)

    def victims(self) -> list[Any]:
        return []

    def kill(self, victim: Any) -> None:
        raise AssertionError(f"{victim} is not to be killed")

    def tend(self) -> None:
        for member in self.storm.ended(self):
            self.storm.notes.fault(f"{member.role} ended by itself")
            self.storm.reap(member)

    def finish(self) -> None:
        for member in self.storm.of(self, "produce"):
            member.process.join()
        for queue in self.queues:
            queue.put(None)
        self.storm.join(self)
        self.manager.shutdown()

    def account(self) -> dict[str, int]:
        return {}


def run(storm: Storm, seconds: float) -> Series:
    """Let all work for so long, and measure."""
    work, locks = Work(storm), Locks(storm)
    work.start()
    locks.start()
    series: Series = defaultdict(dict)
    began = time.monotonic()
    due = began
    while (now := time.monotonic()) - began < seconds:
        done = (now - began) / seconds
        if done >= WARM_UP:
            stretch = int((done - WARM_UP) / (1 - WARM_UP) * STRETCHES)
            measure(series, stretch, storm, work)
        storm.look_for_hangs()
        work.tend()
        locks.tend()
        due = max(due + 1, now)
        time.sleep(due - now)
    storm.notes.control[0] = 1
    work.finish()
    locks.finish()
    locks.account()
    return series


# --- measurements ----------------------------------------------------------------------------


def measure(series: Series, stretch: int, storm: Storm, work: Work) -> None:
    def note(who: str, what: str, value: float) -> None:
        least = series[who, what]
        least[stretch] = min(value, least.get(stretch, value))

    lasting = {f"{member.role} {member.pid}": member.pid for member in storm.members.values()}
    lasting["manager's server"] = work.manager._process.pid
    lasting["the root"] = os.getpid()
    for member in storm.of(work, "own_pool"):
        for pid in children_of(member.pid):
            lasting[f"worker of a pool {pid}"] = pid
    for who, pid in lasting.items():
        with contextlib.suppress(OSError):
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            for line in rollup.splitlines():
                field, _, value = line.partition(":")
                if field in FIELDS:
                    note(who, FIELDS[field], int(value.split()[0]))
            note(who, "descriptors", len(os.listdir(f"/proc/{pid}/fd")))
            note(who, "threads", len(os.listdir(f"/proc/{pid}/task")))
    usage = _sidestep.usage() or {}
    note("the arena", "arena kB", (usage["used"] - usage["warm"]) / 1024)
    note("the arena", "arena file kB", os.fstat(_sidestep.arena_fd()).st_blocks / 2)
    note("the arena", "arena blocks", usage["blocks"])
    note("the arena", "processes", usage["processes"])


def show(series: Series, minutes: float) -> int:
    """Print one line for each process: how many quantities have grown."""
    grown = 0
    table: dict[str, list[str]] = defaultdict(list)
    for (who, what), stretches in sorted(series.items()):
        if len(stretches) < 3:
            continue
        median = statistics.median(stretches.values())
        growth = slope(stretches) * STRETCHES
        absolute, part = TOLERANCES.get(what, (math.inf, 0))
        verdict = ""
        if growth > max(absolute, part * median):
            grown += 1
            verdict = " GROWS"
        table[who].append(f"{what} {median:.0f} {growth:+.1f}{verdict}")
    print(f"{minutes:g} minutes: median, and growth over the run by the robust slope")
    for who, cells in table.items():
        print(f"  {who:<28} {',  '.join(cells)}")
    return grown


def slope(stretches: dict[int, float]) -> float:
    """The slope after Theil and Sen: per stretch."""
    points = sorted(stretches.items())
    return statistics.median(
        (value - earlier_value) / (number - earlier)
        for place, (number, value) in enumerate(points)
        for earlier, earlier_value in points[:place]
    )


if __name__ == "__main__":
    sys.exit(main())
