"""Kill thousands of processes while all others work at full speed, then make up the account.

    make storm STORM="--seed 7 --kills 10000"

The storm comes in rounds, so that what is wrong shows early; after each round nothing may be left.
The seed decides who is killed and when, but not what the moment hits: no two runs are the same.
"""

import argparse
import contextlib
import gc
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import sidestep
from sidestep import _sidestep
from storm.controller import Hang, Part, Storm, children_of
from storm.locks import Locks
from storm.managers import Managers
from storm.pipes import Pipes
from storm.pools import Pools
from storm.queues import Queues

PARTS = {part.name: part for part in (Queues, Locks, Pools, Pipes, Managers)}
KILLS_PER_ROUND = 500
# More than this process holds at once in any round.
MOST_REFERENCES = 1000
# How long what was just dropped may take to be gone.
PATIENCE_S = 30.0


def main() -> int:
    options = parse_arguments()
    context = sidestep.get_context(options.start_method)
    chance = random.Random(options.seed)
    total = Total()
    began = time.monotonic()
    # What one round needs once and for all (tables, a resource tracker) is not its fault.
    faults = run_round(context, chance, 0, options, Total()) and ["the first round failed"]
    # Nor is this process's own table of references: it is as long as it ever had to be.
    most = [context.Lock() for _ in range(MOST_REFERENCES)]
    most.clear()
    before = remains()
    while not faults and total.kills.total() < options.kills:
        wanted = min(KILLS_PER_ROUND, options.kills - total.kills.total())
        faults = run_round(context, chance, wanted, options, total)
        faults += what_is_left(before)
        print(f"{total.kills.total()} kills, {time.monotonic() - began:.0f} s", file=sys.stderr)
    total.show(options, time.monotonic() - began)
    for fault in faults:
        print(f"FAULT: {fault}")
    if faults:
        print(
            f"FAILED; again: python -m storm --seed {options.seed} --kills {options.kills} "
            f"--start-method {options.start_method} --parts {','.join(options.parts)}"
        )
        return 1
    print("all accounts are exact, nothing hangs and nothing is left")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="storm", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--kills", type=int, default=10_000, help="how many processes to kill")
    parser.add_argument(
        "--start-method", default="fork", choices=("fork", "spawn", "forkserver"), help="how"
    )
    parser.add_argument(
        "--parts", type=lambda text: text.split(","), default=list(PARTS), help=", ".join(PARTS)
    )
    parser.add_argument("--pace", type=float, default=0.01, help="seconds between two kills")
    return parser.parse_args()


class Total:
    """What all rounds come to."""

    def __init__(self) -> None:
        self.kills: Counter[str] = Counter()
        self.young = 0
        self.claims = 0
        self.figures: dict[str, Counter[str]] = defaultdict(Counter)

    def show(self, options: argparse.Namespace, seconds: float) -> None:
        print(
            f"seed {options.seed}, {options.start_method}, {self.kills.total()} kills in "
            f"{seconds:.0f} s, {self.young} of them in the victim's first milliseconds"
        )
        for name, figures in self.figures.items():
            what = ", ".join(f"{number} {figure}" for figure, number in figures.items())
            print(f"  {name:<9} {self.kills[name]:>6} kills   {what}")
        print(f"  {self.claims} errors named a process as killed, and it was")


def run_round(
    context: Any, chance: random.Random, kills: int, options: argparse.Namespace, total: Total
) -> list[str]:
    """One round: what was wrong."""
    with tempfile.TemporaryDirectory(prefix="storm-") as folder:
        storm = Storm(context, chance, Path(folder), rows=200 + 4 * kills)
        try:
            parts: list[Part] = [PARTS[name](storm) for name in options.parts]
            storm.run(parts, kills, options.pace)
            for part in parts:
                total.figures[part.name].update(part.account())
        except Hang as hang:
            storm.notes.fault(f"HANG: {hang}\n{storm.describe()}")
            storm.end_all()
        total.kills.update(storm.kills)
        total.young += storm.young
        claims = Counter(storm.notes.read("claims"))
        total.claims += claims.total()
        for claim in claims:
            if int(claim.split()[0].replace("None", "0")) not in storm.killed:
                storm.notes.fault(f"an error says that {claim}, but it was not killed")
        return storm.notes.read("faults")


# --- what is left ----------------------------------------------------------------------------


def remains() -> dict[str, Any]:
    """What may not grow from round to round."""
    gc.collect()
    _sidestep.reaped()
    usage = _sidestep.usage() or {}
    return {
        "processes": len(children_of(os.getpid())),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "names in /dev/shm": len(own_names()),
        "members of the family": usage.get("processes", 0),
        "bytes of the arena": usage.get("used", 0) - usage.get("warm", 0),
        "blocks of the arena": usage.get("blocks", 0),
    }


def own_names() -> list[str]:
    """Names in /dev/shm that nobody uses, unless we do; other programs make some, too."""
    # The package makes no semaphores with names.
    names = {f"/dev/shm/{n}" for n in os.listdir("/dev/shm") if not n.startswith("sem.")}
    for maps in Path("/proc").glob("[0-9]*/maps") if names else ():
        if int(maps.parent.name) != os.getpid():
            with contextlib.suppress(OSError):
                text = maps.read_text()
                names -= {name for name in names if name in text}
    return sorted(names)


def what_is_left(before: dict[str, Any]) -> list[str]:
    """What there is now and was not before the round; it may be on its way out just now."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        now = remains()
        left = [
            f"left behind: {now[what]} {what}, before {before[what]}"
            for what in now
            if now[what] > before[what]
        ]
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    if problem := _sidestep.audit():
        left.append(f"the books of the arena: {problem}")
    return left


if __name__ == "__main__":
    sys.exit(main())
