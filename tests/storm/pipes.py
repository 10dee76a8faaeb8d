"""Pairs of a writer and a reader: when one is killed the other is told at once, and ends."""

import zlib
from typing import Any

from storm.controller import Member, Storm
from storm.notes import FREE, PROGRESS, Notes, Row

TRIED, DONE = FREE, FREE + 1
RECEIVED = FREE


def write(notes: Notes, row: Row, reader: Any, writer: Any) -> None:
    """Send until told to stop, or until nobody reads any more."""
    reader.close()
    number = 0
    while not notes.stopping:
        body = bytes([number & 0xFF]) * (40_000 if number % 100 == 99 else number % 1000)
        row[TRIED] = number + 1
        try:
            writer.send((number, body, zlib.crc32(body)))
        except (BrokenPipeError, ConnectionResetError):
            return
        number += 1
        row[DONE] = number
        row.count(PROGRESS)


def read(notes: Notes, row: Row, reader: Any, writer: Any) -> None:
    """Receive until nobody can write any more."""
    writer.close()
    while True:
        try:
            number, body, checksum = reader.recv()
        except EOFError:
            return
        if zlib.crc32(body) != checksum or number != row[RECEIVED]:
            notes.fault(f"message {number} is torn or out of order: {row[RECEIVED]} expected")
        row[RECEIVED] = number + 1
        row.count(PROGRESS)


class Pipes:
    """Some pairs of a writer and a reader."""

    name = "pipes"

    def __init__(self, storm: Storm) -> None:
        self.storm = storm
        self.pairs: list[tuple[Member, Member]] = []
        self.sent = self.received = self.lost = 0

    def start(self) -> None:
        for _ in range(2):
            self._start()

    def _start(self) -> None:
        reader, writer = self.storm.context.Pipe(duplex=False)
        pair = tuple(self.storm.start(self, target, reader, writer) for target in (write, read))
        reader.close()
        writer.close()
        self.pairs.append((pair[0], pair[1]))

    def victims(self) -> list[Member]:
        return self.storm.of(self)

    def kill(self, victim: Member) -> None:
        self.storm.kill(victim)
        (pair,) = [pair for pair in self.pairs if victim in pair]
        self.pairs.remove(pair)
        self._end(pair, victim)
        self._start()

    def _end(self, pair: tuple[Member, Member], killed: Member | None) -> None:
        """Wait for the end of those who are left, and compare what both have written down."""
        writer, reader = pair
        for member in pair:
            if member is not killed:
                self.storm.reap(member)
        tried, done, received = writer.row[TRIED], writer.row[DONE], reader.row[RECEIVED]
        if received > tried:
            self.storm.notes.fault(f"{received} messages were received of {tried}")
        if killed is not reader and received < done:
            self.storm.notes.fault(f"{received} messages were received of {done} sent")
        self.sent += done
        self.received += received
        self.lost += max(0, done - received)

    def tend(self) -> None:
        for member in self.storm.ended(self):
            self.storm.notes.fault(f"{member.role} {member.pid} ended though nobody was killed")

    def finish(self) -> None:
        for pair in self.pairs:
            self._end(pair, None)

    def account(self) -> dict[str, int]:
        return {"sent": self.sent, "received": self.received, "lost with reader": self.lost}
