"""What the processes of a storm write down in shared memory, so that it outlives them."""

import faulthandler
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sidestep import _sidestep

# Words in a row.
WIDTH = 16
PROGRESS, TOKEN = 0, 1
# From here on the words belong to the part of the storm that the process plays in.
FREE = 2


class Notes:
    """One row of words for each process that ever lives, and two logs.

    A word is written by one process and by one store, so it is never half written. The logs are
    files that are only appended to.

    Attributes:
        control: Word 0 tells all to stop; word 1 counts the servers of the manager.
    """

    def __init__(self, context: Any, rows: int, folder: Path) -> None:
        self._words = context.RawArray("Q", rows * WIDTH)
        self.control = context.RawArray("Q", 2)
        self._folder = folder
        self._used = 0

    @property
    def stopping(self) -> bool:
        return bool(self.control[0])

    def new_row(self) -> "Row":
        """Return the row of a process that is about to be started."""
        self._used += 1
        return Row(self._words, self._used)

    def fault(self, sentence: str) -> None:
        """Say that something is not as it must be."""
        self._append("faults", sentence.replace("\n", "\n    "))

    def claim(self, pid: int | None, what: str) -> None:
        """Say that an error has named the process `pid` as one that was killed."""
        self._append("claims", f"{pid} {what}")

    def read(self, log: str) -> list[str]:
        path = self._folder / log
        return path.read_text().splitlines() if path.exists() else []

    def _append(self, log: str, line: str) -> None:
        file = os.open(self._folder / log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, f"{line}\n".encode())
        finally:
            os.close(file)


class Row:
    """The words of one process."""

    def __init__(self, words: Any, number: int) -> None:
        self._words = words
        self._start = (number - 1) * WIDTH
        self.number = number

    def __getitem__(self, word: int) -> int:
        value: int = self._words[self._start + word]
        return value

    def __setitem__(self, word: int, value: int) -> None:
        self._words[self._start + word] = value

    def count(self, word: int = PROGRESS) -> None:
        """Add one to a word of our own."""
        self._words[self._start + word] += 1


def live(target: Callable[..., None], notes: Notes, row: Row, *args: Any) -> None:
    """Be a process of the storm: do `target`; anything that it raises is a fault."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    row[TOKEN] = _sidestep.own_token()
    # The one who kills must get its turn among thirty who never rest.
    os.nice(10)
    try:
        target(notes, row, *args)
    except Exception:
        notes.fault(f"{target.__name__} in {os.getpid()}: {traceback.format_exc()}")
        sys.exit(1)
