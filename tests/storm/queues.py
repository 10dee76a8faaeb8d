"""Producers and consumers: each item is delivered once and whole, or lost with its taker."""

import random
import time
import zlib
from collections import defaultdict
from typing import Any

from sidestep import _sidestep
from storm.controller import Member, Storm
from storm.notes import FREE, PROGRESS, Notes, Row

# What a producer tried to put, and what it knows to be put: numbers of items.
TRIED, DONE = FREE, FREE + 1
# Most items that one queue carries in a round.
LOG_WORDS = 1 << 21
# A producer does not let a queue without a limit grow for ever.
BACKLOG = 2000


def produce(notes: Notes, row: Row, queue: Any) -> None:
    chance = random.Random(row.number)
    number = 0
    while not notes.stopping:
        if number % 64 == 0 and queue.qsize() > BACKLOG:
            time.sleep(0.001)
        else:
            size = chance.choice((0, 10, 100, 100, 1000, 5000))
            if number % 100 == 99:
                size = chance.choice((16_300, 40_000, 300_000))
            body = bytes([number & 0xFF]) * size
            row[TRIED] = number + 1
            queue.put((row.number, number, body, zlib.crc32(body)))
            number += 1
            row[DONE] = number
        row.count(PROGRESS)


def consume(notes: Notes, row: Row, queue: Any, log: Any) -> None:
    while True:
        item = queue.get()
        taken = _sidestep.last_taken()
        assert taken is not None
        # The one store by which the item is delivered: before it the item is in our hands.
        log[taken[1]] = check(notes, item)
        row.count(PROGRESS)


def check(notes: Notes, item: tuple[int, int, bytes, int]) -> int:
    """Return the item's identity as one word that is not 0."""
    who, number, body, checksum = item
    if zlib.crc32(body) != checksum or body.strip(bytes([number & 0xFF])):
        notes.fault(f"item {number} of producer {who} is torn")
    return who << 32 | number


class Traffic:
    """One queue with its producers and consumers."""

    def __init__(self, storm: Storm, queue: Any) -> None:
        self.queue = queue
        self.log = storm.context.RawArray("Q", LOG_WORDS)
        # Numbers of items that killed consumers had taken last.
        self.in_hand: list[int] = []
        self.rows: list[Row] = []
        # An item of our own tells what the engine's records call the queue.
        queue.put(None)
        queue.get()
        taken = _sidestep.last_taken()
        assert taken is not None
        self.key, self.first = taken[0], taken[1] + 1


class Queues:
    """Three kinds of queues, each with two producers and two consumers."""

    name = "queues"

    def __init__(self, storm: Storm) -> None:
        self.storm = storm
        context = storm.context
        kinds = (context.Queue(), context.Queue(20), context.JoinableQueue(0))
        self.traffic = [Traffic(storm, queue) for queue in kinds]

    def start(self) -> None:
        for traffic in self.traffic:
            for _ in range(2):
                self._start(traffic, "produce")
                self._start(traffic, "consume")

    def _start(self, traffic: Traffic, role: str) -> None:
        if role == "produce":
            member = self.storm.start(self, produce, traffic.queue)
            traffic.rows.append(member.row)
        else:
            self.storm.start(self, consume, traffic.queue, traffic.log)

    def victims(self) -> list[Member]:
        return self.storm.of(self)

    def kill(self, victim: Member, replace: bool = True) -> None:
        (traffic,) = [t for t in self.traffic if t.queue is victim.arguments[0]]
        taken = self.storm.kill(victim, taker=victim.role == "consume")
        if taken is not None and taken[0] == traffic.key:
            traffic.in_hand.append(taken[1])
        if replace:
            self._start(traffic, victim.role)

    def tend(self) -> None:
        for member in self.storm.ended(self):
            self.storm.notes.fault(f"{member.role} {member.pid} ended by itself")
            self.storm.reap(member)

    def finish(self) -> None:
        self.storm.join(self, "produce")
        for consumer in self.storm.of(self, "consume"):
            self.kill(consumer, replace=False)
        self.storm.join(self)

    def account(self) -> dict[str, int]:
        total: dict[str, int] = defaultdict(int)
        for traffic in self.traffic:
            for name, number in self._account(traffic).items():
                total[name] += number
        return total

    def _account(self, traffic: Traffic) -> dict[str, int]:
        """The books of one queue, by the numbers that items have in it."""
        fault = self.storm.notes.fault
        left = self._drain(traffic)
        # The numbers go on: that of an item of our own tells how many there were before it.
        traffic.queue.put(None)
        traffic.queue.get()
        end = (_sidestep.last_taken() or (0, 0, 0))[1]
        identities = list(traffic.log[traffic.first : end])
        delivered = sum(1 for identity in identities if identity)
        for number, identity in left.items():
            if identities[number - traffic.first]:
                fault(f"item {number} was delivered, and then it was in the queue still")
            identities[number - traffic.first] = identity
        lost = {traffic.first + i for i, identity in enumerate(identities) if not identity}
        if unexplained := lost - set(traffic.in_hand):
            fault(f"items {sorted(unexplained)[:9]} are lost, and no killed consumer had them")
        missing, maybe = self._compare(traffic, identities)
        # An item whose producer was killed inside `put` may have been committed, and then lost.
        if not missing <= len(lost) <= missing + maybe:
            fault(f"{missing} items did not arrive ({maybe} in doubt), but {len(lost)} were lost")
        if delivered + len(lost) + len(left) != end - traffic.first:
            fault(f"{end - traffic.first} items are not {delivered} + {len(lost)} + {len(left)}")
        return {
            "committed": end - traffic.first,
            "delivered": delivered,
            "lost with owner": len(lost),
            "left": len(left),
        }

    def _drain(self, traffic: Traffic) -> dict[int, int]:
        left = {}
        while not traffic.queue.empty():
            item = traffic.queue.get()
            number = (_sidestep.last_taken() or (0, 0, 0))[1]
            left[number] = check(self.storm.notes, item)
        return left

    def _compare(self, traffic: Traffic, identities: list[int]) -> tuple[int, int]:
        """How many committed items did not arrive, and how many of those in doubt."""
        arrived: dict[int, list[int]] = defaultdict(list)
        for identity in filter(None, identities):
            arrived[identity >> 32].append(identity & 0xFFFF_FFFF)
        missing = maybe = 0
        for row in traffic.rows:
            numbers = arrived.pop(row.number, [])
            if any(a >= b for a, b in zip(numbers, numbers[1:], strict=False)):
                self.storm.notes.fault(f"producer {row.number}: an item came twice or out of order")
            if numbers and numbers[-1] >= row[TRIED]:
                self.storm.notes.fault(f"producer {row.number}: an item that was never put")
            missing += row[DONE] - sum(1 for number in numbers if number < row[DONE])
            maybe += row[TRIED] - row[DONE] - sum(1 for number in numbers if number >= row[DONE])
        if arrived:
            self.storm.notes.fault(f"items of producers that never were: {sorted(arrived)[:9]}")
        return missing, maybe
