"""Pools whose workers are killed, and whose owners are killed with the workers still there."""

import contextlib
import os
import signal
import time
from typing import Any

from sidestep.pool import WorkerLostError
from storm.controller import (
    PATIENCE_S,
    Hang,
    Member,
    Storm,
    children_of,
    parent_of,
    readable,
)
from storm.notes import FREE, PROGRESS, Notes, Row

DONE, LOST = FREE, FREE + 1
WORKERS = 3


def square(number: int) -> tuple[int, bytes]:
    sum(range(5000 * (number % 4)))
    return number * number, bytes(number % 50_000)


def own_pool(notes: Notes, row: Row, context: Any) -> None:
    """Keep a pool busy; each task ends with its result, or with the error that its worker died."""
    with context.Pool(WORKERS) as pool:
        first = 0
        while not notes.stopping:
            numbers = range(first, first + 40)
            first += 40
            results = [(n, pool.apply_async(square, (n,))) for n in numbers]
            for number, result in results:
                try:
                    if result.get() != (number * number, bytes(number % 50_000)):
                        notes.fault(f"the result of task {number} is another's")
                    row.count(DONE)
                except WorkerLostError as error:
                    notes.claim(error.pid, "was a pool's worker")
                    row.count(LOST)
                row.count(PROGRESS)
        pool.close()
        pool.join()


class Pools:
    """Pools, each in a process of its own."""

    name = "pools"

    def __init__(self, storm: Storm) -> None:
        self.storm = storm
        self.rows: list[Row] = []
        # Workers whose owner was killed, and until when they must have ended.
        self._orphans: list[tuple[int, float]] = []

    def start(self) -> None:
        for _ in range(2):
            self._start()

    def _start(self) -> None:
        member = self.storm.start(self, own_pool, self.storm.context)
        self.rows.append(member.row)

    def victims(self) -> list[Any]:
        """Mostly workers, now and then an owner."""
        owners = self.storm.of(self)
        workers = [(owner.pid, pid) for owner in owners for pid in children_of(owner.pid)]
        return workers if workers and self.storm.chance.random() < 0.9 else list(owners)

    def kill(self, victim: Any) -> None:
        if isinstance(victim, Member):
            self._kill_owner(victim)
            return
        owner, worker = victim
        with contextlib.suppress(ProcessLookupError):
            # The number may be another's by now, but not while we hold the descriptor.
            descriptor = os.pidfd_open(worker)
            try:
                if parent_of(worker) == owner:
                    self.storm.count_kill(self, worker)
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            finally:
                os.close(descriptor)

    def _kill_owner(self, owner: Member) -> None:
        """Kill a pool's owner: its workers must end by themselves."""
        deadline = time.monotonic() + PATIENCE_S
        for pid in children_of(owner.pid):
            with contextlib.suppress(ProcessLookupError):
                self._orphans.append((os.pidfd_open(pid), deadline))
        self.storm.kill(owner)
        self._start()

    def tend(self) -> None:
        for orphan, deadline in list(self._orphans):
            if readable([orphan], 0):
                os.close(orphan)
                self._orphans.remove((orphan, deadline))
            elif time.monotonic() > deadline:
                raise Hang(f"a worker has outlived the owner of its pool by {PATIENCE_S:.0f} s")
        for member in self.storm.ended(self):
            self.storm.notes.fault(f"the owner {member.pid} of a pool ended by itself")
            self.storm.reap(member)
            self._start()

    def finish(self) -> None:
        self.storm.join(self)
        while self._orphans:
            self.tend()
            time.sleep(0.01)

    def account(self) -> dict[str, int]:
        return {
            "tasks done": sum(row[DONE] for row in self.rows),
            "lost with worker": sum(row[LOST] for row in self.rows),
        }
