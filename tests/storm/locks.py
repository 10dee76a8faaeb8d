"""Users of locks, conditions, semaphores, events and barriers.

Each lock guards a pair of counters that are equal whenever nobody is inside. Who is told that the
last owner was killed makes the lock usable again, and who then finds the pair unequal repairs it.
"""

import signal
import threading
from collections.abc import Callable
from typing import Any

from sidestep.synchronize import AbandonedLockError
from storm.controller import Member, Storm
from storm.notes import FREE, PROGRESS, Notes, Row

# How often it found the pair of a lock unequal.
TORN = FREE
# For each lock two words: what a process tried to count, and what it knows to be counted.
FIRST = FREE + 1
LOCKS = 3
# For the users of the condition, what they tried and what they know to be done.
TRIED, DONE = FIRST, FIRST + 1
# For the users of the semaphore.
PERMIT = FREE
NONE, ASKING, HOLDING, GIVING = range(4)


def take(notes: Notes, lock: Any) -> None:
    """Take the lock, also if its owner was killed."""
    while True:
        try:
            lock.acquire()
        except AbandonedLockError as error:
            recover(notes, lock, error)
        else:
            return


def recover(notes: Notes, lock: Any, error: AbandonedLockError) -> None:
    notes.claim(error.pid, "held a lock")
    if error.exitcode not in (None, -signal.SIGKILL):
        notes.fault(f"an error says how process {error.pid} has ended: {error.exitcode}")
    lock.recover()


def guard(notes: Notes, row: Row, locks: list[Any], pairs: Any) -> None:
    """Count under each lock in turn."""
    turn = row.number
    while not notes.stopping:
        turn = (turn + 1) % LOCKS
        lock, tried, pair = locks[turn], FIRST + 2 * turn, 2 * turn
        row.count(tried)
        take(notes, lock)
        if lock is locks[1]:  # the recursive one
            take(notes, lock)
        count(row, pairs, pair)
        if lock is locks[1]:
            lock.release()
        lock.release()
        row.count(tried + 1)
        row.count(PROGRESS)


def count(row: Row, pairs: Any, pair: int) -> None:
    """Count both up; the first one counts."""
    if pairs[pair] != pairs[pair + 1]:
        row.count(TORN)
    pairs[pair] += 1
    pairs[pair + 1] = pairs[pair]


def make(notes: Notes, row: Row, lock: Any, condition: Any, stock: Any) -> None:
    """Add to the stock, and notify."""
    while not notes.stopping:
        row.count(TRIED)
        take(notes, lock)
        stock[0] += 1
        condition.notify()
        lock.release()
        row.count(DONE)
        row.count(PROGRESS)
        if stock[0] - stock[1] > 1000:
            threading.Event().wait(0.001)


def use(notes: Notes, row: Row, lock: Any, condition: Any, stock: Any) -> None:
    """Wait until there is something in stock, and take it."""
    while not notes.stopping:
        row.count(PROGRESS)
        try:
            with condition:
                if not condition.wait_for(lambda: stock[0] > stock[1], 0.1):
                    continue
                row.count(TRIED)
                stock[1] += 1
                row.count(DONE)
                if stock[1] > stock[0]:
                    notes.fault(f"{stock[1]} were taken of {stock[0]}")
        except AbandonedLockError as error:
            recover(notes, lock, error)


def permit(notes: Notes, row: Row, semaphore: Any, event: Any) -> None:
    """Take a permit and give it back; ring the event, or wait for it a little."""
    while not notes.stopping:
        row[PERMIT] = ASKING
        if semaphore.acquire(timeout=0.1):
            row[PERMIT] = HOLDING
            if row.number % 2:
                event.set()
                event.clear()
            else:
                event.wait(0.001)
            row[PERMIT] = GIVING
            semaphore.release()
        row[PERMIT] = NONE
        row.count(PROGRESS)


def meet(notes: Notes, row: Row, barrier: Any) -> None:
    """Meet the others at the barrier, again and again."""
    while not notes.stopping:
        try:
            barrier.wait()
        except threading.BrokenBarrierError:
            if not notes.stopping:
                barrier.reset()
        row.count(PROGRESS)


class Locks:
    """Everything that is waited for without a message."""

    name = "locks"

    def __init__(self, storm: Storm) -> None:
        self.storm = storm
        context = storm.context
        self.value = context.Value("q", 0)
        self.locks = [context.Lock(), context.RLock(), self.value.get_lock()]
        self.pairs = context.RawArray("Q", 2 * LOCKS)
        self.condition = context.Condition(context.RLock())
        self.stock = context.RawArray("Q", 2)
        self.semaphore = context.Semaphore(2)
        self.event = context.Event()
        self.barrier = context.Barrier(3)
        self.in_doubt = self.recovered = 0
        stocked = (self.condition._lock, self.condition, self.stock)
        self.roles: dict[str, tuple[Callable[..., None], tuple[Any, ...], int]] = {
            "guard": (guard, (self.locks, self.pairs), 4),
            "make": (make, stocked, 2),
            "use": (use, stocked, 2),
            "permit": (permit, (self.semaphore, self.event), 3),
            "meet": (meet, (self.barrier,), 3),
        }
        self.rows: dict[str, list[Row]] = {role: [] for role in self.roles}

    def start(self) -> None:
        for role, (_, _, count) in self.roles.items():
            for _ in range(count):
                self._start(role)

    def _start(self, role: str) -> None:
        target, arguments, _ = self.roles[role]
        self.rows[role].append(self.storm.start(self, target, *arguments).row)

    def victims(self) -> list[Member]:
        return self.storm.of(self)

    def kill(self, victim: Member) -> None:
        self.storm.kill(victim, lambda: self._give_back(victim))
        self._start(victim.role)

    def _give_back(self, dead: Member) -> None:
        """Permits have no owners: those that the dead had taken are given back by hand."""
        if dead.role == "permit":
            self.recovered += self.semaphore.recover()
            if dead.row[PERMIT] in (ASKING, GIVING):
                self.in_doubt += 1

    def tend(self) -> None:
        for member in self.storm.ended(self):
            self.storm.notes.fault(f"{member.role} {member.pid} ended by itself")
            self.storm.reap(member)

    def finish(self) -> None:
        # Whoever waits at the barrier waits for parties that have stopped.
        self.storm.join(self, push=self.barrier.abort)

    def account(self) -> dict[str, int]:
        fault = self.storm.notes.fault
        counted = 0
        for turn in range(LOCKS):
            tried = sum(row[FIRST + 2 * turn] for row in self.rows["guard"])
            done = sum(row[FIRST + 2 * turn + 1] for row in self.rows["guard"])
            if not done <= self.pairs[2 * turn] <= tried:
                fault(f"lock {turn} counted {self.pairs[2 * turn]}: {done} done, {tried} tried")
            counted += self.pairs[2 * turn]
        torn = sum(row[TORN] for row in self.rows["guard"])
        if torn > self.storm.kills[self.name]:
            fault(f"the pair of a lock was unequal {torn} times")
        for word, role in enumerate(("make", "use")):
            tried = sum(row[TRIED] for row in self.rows[role])
            done = sum(row[DONE] for row in self.rows[role])
            if not done <= self.stock[word] <= tried:
                fault(f"{role} counted {self.stock[word]}: {done} done, {tried} tried")
        self.recovered += self.semaphore.recover()
        permits = self.semaphore.get_value()
        if not 2 - self.in_doubt <= permits <= 2:
            fault(f"the semaphore has {permits} of 2 permits, {self.in_doubt} in doubt")
        return {
            "counted": counted,
            "repaired": torn,
            "passed on": self.stock[1],
            "permits recovered": self.recovered,
        }
