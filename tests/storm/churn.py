"""A hundred thousand processes come and go by kill; the family's memory stays as it was.

    make churn CHURN="--seed 7 --processes 100000"

In each round a root forks children, which fork no more but make, share and drop objects for as
long as they live. All are killed: in some rounds the root first, in some the children, in some all
at once. The one who watches belongs to the family and outlives it all. After each round nothing
of it may be there; in the end the arena's file is as large as it was after the first rounds, and
the places in the family's list have been used again and again.
"""

import argparse
import contextlib
import ctypes
import os
import random
import select
import signal
import sys
import time
import traceback
from typing import Any, NoReturn

import sidestep
from sidestep import _sidestep

PR_SET_CHILD_SUBREAPER = 36
# Bytes by which the arena's memory in the last tenth of the rounds may be above that in the first:
# children make what chance tells them, so the first may not have seen the most that is needed. A
# block that each process left behind would come to more.
TOLERANCE = 4 << 20


def main() -> int:
    options = parse_arguments()
    # Children of a killed root become ours, so that we know when they have ended.
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    chance = random.Random(options.seed)
    began = time.monotonic()
    # Readable for the roots when this process has ended.
    life = os.pipe()
    before: dict[str, int] = {}
    sizes: list[int] = []
    processes = highest = 0
    problems: list[str] = []
    while processes < options.processes and not problems:
        highest = max(highest, run_round(chance, options.children, life))
        processes += 1 + options.children
        sizes.append(arena_bytes())
        if len(sizes) % 100 == 0:
            print(f"{processes} processes, {time.monotonic() - began:.0f} s", file=sys.stderr)
        usage = settled_usage()
        before = before or usage
        if usage != before:
            problems.append(f"round {len(sizes)} left {usage}, and before it was {before}")
        if problem := _sidestep.audit():
            problems.append(f"the books of the arena: {problem}")
    tenth = max(10, len(sizes) // 10)
    early, late = max(sizes[:tenth]), max(sizes[-tenth:])
    if late > early + TOLERANCE:
        problems.append(f"the arena has grown from {early} to {late} bytes")
    # Besides a round's own there may be places whose process is not known to be dead yet.
    if highest > 4 * options.children + 16:
        problems.append(f"the family's list has become {highest} places long")
    print(
        f"seed {options.seed}: {processes} processes in {len(sizes)} rounds and "
        f"{time.monotonic() - began:.0f} s; arena {early} bytes early and {late} late; "
        f"{highest} places in the family's list"
    )
    for problem in problems:
        print(f"FAULT: {problem}")
    print("FAILED" if problems else "the arena is flat, and all places were used again")
    return 1 if problems else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="churn", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--processes", type=int, default=100_000)
    parser.add_argument("--children", type=int, default=40, help="of one root")
    return parser.parse_args()


def run_round(chance: random.Random, children: int, life: tuple[int, int]) -> int:
    """Found a root with children, and kill them all: the highest place that one of them had."""
    seed = chance.random()
    inherited: list[Any] = [sidestep.Queue(), sidestep.Lock(), sidestep.RawArray("Q", 1000)]
    inherited[0].put(bytes(100))
    reading, writing = os.pipe()
    root = os.fork()
    if root == 0:
        os.close(reading)
        be_root(children, seed, inherited, writing, life)
    os.close(writing)
    order = chance.choice(("root first", "children first", "all at once"))
    with open(reading) as report:
        pids, places = [], [_sidestep.forked() & 0xFFFF]
        for line in report:
            pid, token = map(int, line.split())
            pids.append(pid)
            places.append(token & 0xFFFF)
            if len(pids) == children:
                break
        time.sleep(chance.uniform(0, 0.005))
        if order == "root first":
            os.kill(root, signal.SIGKILL)
        elif order == "children first":
            for pid in chance.sample(pids, len(pids)):
                os.kill(pid, signal.SIGKILL)
        # All of them lead no group but the root's.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(root, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, 0)
            if status != signal.SIGKILL:
                raise RuntimeError(f"process {pid} of the round has ended with status {status}")
    return max(places)


def be_root(
    children: int, seed: float, inherited: list[Any], report: int, life: tuple[int, int]
) -> NoReturn:
    """Fork the children, and live until killed; if the watcher ends, all end."""
    os.setpgid(0, 0)
    os.close(life[1])
    own: list[Any] = [sidestep.Queue(), sidestep.Condition()]
    own[0].put(own[1])
    for number in range(children):
        pid = os.fork()
        if pid == 0:
            os.close(report)
            be_child(random.Random(seed + number), [*inherited, *own], life[0])
        os.write(report, f"{pid} {_sidestep.forked()}\n".encode())
    os.read(life[0], 1)
    os.killpg(0, signal.SIGKILL)
    raise RuntimeError("a process has outlived its own SIGKILL")


def be_child(chance: random.Random, inherited: list[Any], life: int) -> NoReturn:
    """Make and drop, take and leave, until killed."""
    # Those who fork and kill must get their turn.
    os.nice(15)
    try:
        work(chance, inherited, life)
    except BaseException:
        traceback.print_exc()
    # Nobody ends but by a kill: the root's group is told to end, and the round is a failure.
    os._exit(1)


def work(chance: random.Random, inherited: list[Any], life: int) -> None:
    kept: list[Any] = []
    # The root may be dead already when the watcher ends.
    while not select.select([life], [], [], 0)[0]:
        queue = sidestep.Queue()
        queue.put((chance.random(), sidestep.Semaphore(3), bytes(chance.choice((10, 50_000)))))
        kept.append(chance.choice((queue, sidestep.RawArray("Q", chance.randrange(1, 5000)))))
        inherited[0].put(bytes(chance.randrange(1000)))
        inherited[0].get()
        with contextlib.suppress(sidestep.ProcessError), inherited[1]:
            inherited[2][0] += 1
        if len(kept) > 5:
            del kept[: chance.randrange(6)]
        if chance.random() < 0.01:
            # The root's own: the reference that came with the fork goes.
            inherited[3:] = [queue]


def arena_bytes() -> int:
    """Memory behind the arena's file."""
    return os.fstat(_sidestep.arena_fd()).st_blocks * 512


def settled_usage() -> dict[str, int]:
    """What the arena holds when the dead have left it."""
    deadline = time.monotonic() + 20
    while True:
        _sidestep.reaped()
        usage = _sidestep.usage() or {}
        if usage["processes"] == 1 or time.monotonic() > deadline:
            return {
                "bytes": usage["used"] - usage["warm"],
                "blocks": usage["blocks"],
                "processes": usage["processes"],
            }
        time.sleep(0.001)


if __name__ == "__main__":
    sys.exit(main())
