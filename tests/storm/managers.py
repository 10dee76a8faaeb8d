"""Clients of a manager's server: calls are done or in doubt, references of the dead given back."""

from typing import Any

from sidestep.managers import SyncManager
from storm.controller import Storm, wait_for
from storm.notes import FREE, PROGRESS, Notes, Row

TRIED, DONE, SERVER = FREE, FREE + 1, FREE + 2


class Tally:
    """Lives in the server: how many calls each client has made."""

    def __init__(self) -> None:
        self._calls: dict[int, int] = {}

    def add(self, who: int) -> None:
        self._calls[who] = self._calls.get(who, 0) + 1

    def calls(self) -> dict[int, int]:
        return dict(self._calls)


_tally = Tally()


def _the_tally() -> Tally:
    return _tally


class StormManager(SyncManager):
    """A manager with one tally for all."""


StormManager.register("tally", _the_tally, exposed=("add", "calls"))


def call(notes: Notes, row: Row, address: Any, authkey: bytes, server: int) -> None:
    """Make calls until told to stop, or until the server is killed."""
    row[SERVER] = server
    try:
        manager = StormManager(address, authkey)
        manager.connect()
        tally = manager.tally()  # type: ignore[attr-defined]
        while not notes.stopping:
            own = manager.list([row.number])
            for _ in range(20):
                row.count(TRIED)
                tally.add(row.number)
                row.count(DONE)
                row.count(PROGRESS)
            if list(own) != [row.number]:
                notes.fault(f"client {row.number} got the list of another")
            del own
    except (OSError, EOFError):
        if notes.control[1] == server:
            raise


class Managers:
    """A server and its clients."""

    name = "managers"

    def __init__(self, storm: Storm) -> None:
        self.storm = storm
        self.rows: list[Row] = []
        self.calls = self.lost = 0
        self._serve()

    def _serve(self) -> None:
        self.storm.notes.control[1] += 1
        self.manager = StormManager(ctx=self.storm.context)
        self.manager.start()
        self.objects = self.manager._number_of_objects()

    def start(self) -> None:
        for _ in range(3):
            self._start()

    def _start(self) -> None:
        arguments = (self.manager.address, bytes(self.manager._authkey), self._server())
        self.rows.append(self.storm.start(self, call, *arguments).row)

    def _server(self) -> int:
        number: int = self.storm.notes.control[1]
        return number

    def victims(self) -> list[Any]:
        """Mostly clients, now and then the server."""
        return self.storm.of(self) if self.storm.chance.random() < 0.95 else [None]

    def kill(self, victim: Any) -> None:
        if victim is None:
            self._kill_server()
        else:
            self.storm.kill(victim)
            self._start()

    def _kill_server(self) -> None:
        """Kill the server: each client is told at once, and ends."""
        self.storm.notes.control[1] += 1
        process = self.manager._process
        self.storm.count_kill(self, process.pid)
        process.kill()
        process.join()
        for client in self.storm.of(self):
            self.storm.expect_end(client)
        self.manager.shutdown()
        self._serve()
        self.start()

    def tend(self) -> None:
        for member in self.storm.ended(self):
            self.storm.notes.fault(f"client {member.pid} ended by itself")
            self.storm.reap(member)
            self._start()

    def finish(self) -> None:
        self.storm.join(self)
        wait_for(
            lambda: self.manager._number_of_objects() == self.objects,
            "the server to drop what its dead clients had",
        )
        tally = self.manager.tally()  # type: ignore[attr-defined]
        calls = tally.calls()
        del tally
        for row in self.rows:
            if row[SERVER] != self._server():
                self.lost += row[DONE]
            elif not row[DONE] <= calls.pop(row.number, 0) <= row[TRIED]:
                self.storm.notes.fault(f"client {row.number} made {row[DONE]} calls")
            self.calls += row[DONE]
        if calls:
            self.storm.notes.fault(f"calls of clients that never were: {sorted(calls)[:9]}")
        self.manager.shutdown()

    def account(self) -> dict[str, int]:
        return {"calls": self.calls, "lost with server": self.lost}
