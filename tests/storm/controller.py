"""Starts the processes of a storm, kills them, replaces them, and watches the others."""

import contextlib
import os
import random
import select
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sidestep import _sidestep
from storm.notes import PROGRESS, TOKEN, Notes, Row, live

# Who has not moved for so long hangs. Much more than anything takes on a busy machine.
PATIENCE_S = 180.0


class Hang(Exception):
    """Somebody waits for something that does not come."""


@dataclass(eq=False)
class Member:
    """A process of the storm."""

    part: "Part"
    role: str
    process: Any
    row: Row
    pid: int
    arguments: tuple[Any, ...] = ()
    # When it was last seen to have moved (or was killed), and how far it was.
    moved: float = field(default_factory=time.monotonic)
    progress: int = 0


class Part(Protocol):
    """A part of the storm: some processes and what they share."""

    name: str

    def start(self) -> None:
        """Start the processes."""

    def victims(self) -> list[Any]:
        """Who may be killed now: members, or pids of processes that are not our children."""

    def kill(self, victim: Any) -> None:
        """Kill one of the victims, and put another in its place."""

    def tend(self) -> None:
        """Look after those who have ended by themselves."""

    def finish(self) -> None:
        """Wait until everybody has stopped, as `Notes.stopping` tells them to."""

    def account(self) -> dict[str, int]:
        """Compare what was written down; faults go to the notes. Returns figures to show."""


class Storm:
    """One round: all parts at work, until enough were killed; then the account."""

    def __init__(self, context: Any, chance: random.Random, folder: Path, rows: int) -> None:
        self.context = context
        self.chance = chance
        self.notes = Notes(context, rows, folder)
        self.members: dict[int, Member] = {}
        self._ending: list[tuple[Member, Callable[[], object]]] = []
        self.killed: set[int] = set()
        self.kills: Counter[str] = Counter()
        self.young = 0

    # --- for the parts --------------------------------------------------------------------

    def start(self, part: Part, target: Callable[..., None], *args: Any) -> Member:
        """Start a process that does `target(notes, row, *args)`."""
        row = self.notes.new_row()
        process = self.context.Process(
            target=live, args=(target, self.notes, row, *args), daemon=True
        )
        process.start()
        member = Member(part, target.__name__, process, row, process.pid, args)
        self.members[member.pid] = member
        return member

    def kill(
        self, member: Member, then: Callable[[], object] = lambda: None, taker: bool = False
    ) -> tuple[int, int, int] | None:
        """Kill a member.

        Args:
            member: The process.
            then: Called when it has ended, and nothing is left of it but its notes.
            taker: Ask the engine what it took last.

        Returns:
            What a taker took last, see `_sidestep.last_taken`.
        """
        taken = None
        if taker:
            # The record stays until another process gets the place in the family, which may be at
            # once. So the process is stopped wherever it is, looked at, and killed there.
            os.kill(member.pid, signal.SIGSTOP)
            wait_for(lambda: state_of(member.pid) in "TtZX", f"{member.pid} to stop")
            taken = _sidestep.last_taken(member.row[TOKEN]) if member.row[TOKEN] else None
        os.kill(member.pid, signal.SIGKILL)
        self.count_kill(member.part, member.pid)
        self.expect_end(member, then)
        return taken

    def expect_end(self, member: Member, then: Callable[[], object] = lambda: None) -> None:
        """A member is about to end; `then` is called when it has."""
        if self.members.pop(member.pid, None):
            member.moved = time.monotonic()
            self._ending.append((member, then))

    def bury(self) -> None:
        """See which of those that are about to end have ended."""
        ending, self._ending = self._ending, []
        for member, then in ending:
            if member.process.exitcode is not None:
                self.reap(member)
                then()
            elif time.monotonic() - member.moved > PATIENCE_S:
                self.members[member.pid] = member
                raise Hang(f"{member.role} {member.pid} does not end")
            else:
                self._ending.append((member, then))

    def count_kill(self, part: Part, pid: int) -> None:
        self.killed.add(pid)
        self.kills[part.name] += 1

    def reap(self, member: Member) -> int:
        """Close the books of a member that has ended: its exit code."""
        code: int = member.process.exitcode
        self.members.pop(member.pid, None)
        member.process.close()
        if code not in (0, -signal.SIGKILL):
            self.notes.fault(f"{member.role} ended with {code}")
        return code

    def ended(self, part: Part) -> list[Member]:
        """The members of the part that have ended by themselves and were not looked after."""
        return [
            member
            for member in self.members.values()
            if member.part is part and member.process.exitcode is not None
        ]

    def of(self, part: Part, *roles: str) -> list[Member]:
        """The part's members, those with one of these roles if any are named."""
        return [
            member
            for member in self.members.values()
            if member.part is part and (not roles or member.role in roles)
        ]

    def join(self, part: Part, *roles: str, push: Callable[[], object] = lambda: None) -> None:
        """Wait for members that are told to stop, calling `push` again and again."""
        for member in self.of(part, *roles):
            self.expect_end(member)
        while self._ending:
            push()
            readable([member.process.sentinel for member, _ in self._ending], 0.05)
            self.bury()

    # --- the round ------------------------------------------------------------------------

    def run(self, parts: list[Part], kills: int, pace_s: float) -> None:
        """Start the parts, kill so many processes, and let the rest come to an end."""
        for part in parts:
            part.start()
        looked = time.monotonic()
        while self.kills.total() < kills:
            time.sleep(min(0.25, self.chance.expovariate(1 / pace_s)))
            part = self.chance.choice(parts)
            if victims := part.victims():
                victim = self.chance.choice(victims)
                part.kill(victim)
                if self.chance.random() < 0.25:
                    self._kill_young(part, victims)
            self.bury()
            for part in parts:
                part.tend()
            if time.monotonic() - looked > 1:
                looked = time.monotonic()
                self.look_for_hangs()
        self.notes.control[0] = 1
        for part in parts:
            part.finish()

    def _kill_young(self, part: Part, known: list[Any]) -> None:
        """Kill the one that has just been started, in the first milliseconds of its life."""
        young = [
            victim
            for victim in part.victims()
            if isinstance(victim, Member) and victim not in known
        ]
        if young:
            time.sleep(self.chance.uniform(0, 0.004))
            part.kill(young[0])
            self.young += 1

    def look_for_hangs(self) -> None:
        """Raise `Hang` if a member has not moved for long."""
        now = time.monotonic()
        for member in self.members.values():
            if member.row[PROGRESS] != member.progress:
                member.progress, member.moved = member.row[PROGRESS], now
            elif now - member.moved > PATIENCE_S:
                raise Hang(f"{member.role} {member.pid} has not moved for {PATIENCE_S:.0f} s")

    def describe(self) -> str:
        """Who waits where: for a hang. Each process also shows its stack on stderr."""
        lines = []
        for member in list(self.members.values()):
            where = [f"{member.role} {member.pid} {state_of(member.pid)}"]
            for name in ("wchan", "syscall"):
                with contextlib.suppress(OSError):
                    where.append(Path(f"/proc/{member.pid}/{name}").read_text().strip())
            words = [member.row[word] for word in range(8)]
            lines.append("  ".join(where) + f"  notes {words}")
        for member in list(self.members.values()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(member.pid, signal.SIGUSR1)
        time.sleep(1)
        return "\n".join(lines)

    def end_all(self) -> None:
        """After a failure: leave no process behind."""
        for member in [*self.members.values(), *(member for member, _ in self._ending)]:
            member.process.kill()
            member.process.join()


# --- facts about processes -------------------------------------------------------------------


def state_of(pid: int) -> str:
    """The kernel's letter for the state of a process; X if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def children_of(pid: int) -> list[int]:
    """The children of a process, whichever thread has started them."""
    found: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, file.read_text().split())
    return found


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def readable(descriptors: list[int], limit_s: float) -> bool:
    """Wait until one of the descriptors is readable: whether one is."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(limit_s * 1000))


def wait_for(fact: Callable[[], bool], what: str) -> None:
    """Wait until something is so that nobody tells us of."""
    deadline = time.monotonic() + PATIENCE_S
    while not fact():
        if time.monotonic() > deadline:
            raise Hang(f"waited in vain for {what}")
        time.sleep(0.0005)
