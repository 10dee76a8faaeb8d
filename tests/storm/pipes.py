"""Pairs of a writer and a reader: when one is killed the other is told at once, and ends."""

import zlib
from typing import Any

from storm.controller import Hang, Member, Storm
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
        # Of a pair of which one was killed, the other is about to end.
        return [member for pair in self.pairs for member in pair]

    def kill(self, victim: Member) -> None:
        (pair,) = [pair for pair in self.pairs if victim in pair]
        self.pairs.remove(pair)
        self.storm.kill(victim, lambda: self._ended(pair, victim))
        self._start()

    def _ended(self, pair: tuple[Member, Member], killed: Member) -> None:
        """One of a pair was killed, so the other one is told, and ends."""
        for member in pair:
            if member is not killed:
                self.storm.expect_end(member, lambda: self._compare(pair, killed))

    def _compare(self, pair: tuple[Member, Member], killed: Member | None) -> None:
        """Both have ended: compare what they have written down."""
        writer, reader = pair
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
            if any(member in pair for pair in self.pairs):
                self.storm.notes.fault(f"{member.role} {member.pid} ended though none was killed")
                raise Hang("a pair is not complete")

    def finish(self) -> None:
        self.storm.join(self)
        for pair in self.pairs:
            self._compare(pair, None)

    def account(self) -> dict[str, int]:
        return {"sent": self.sent, "received": self.received, "lost with reader": self.lost}
