"""Each child has a copy of its parent's data in the end, whatever started it.

Under `fork` looking at an object counts its references, which copies the page; other start methods
pickle it. `freeze` puts the object's buffers where all processes read them. The standard library
has no such function: there the object is handed over as it is.
"""

import multiprocessing
import pickle
from typing import Any

import facts

LARGE = 64 << 20
ROW = 1000


class Table:
    """Many numbers, in rows, which lie in one buffer."""

    def __init__(self, numbers: Any) -> None:
        self.numbers = numbers

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        if protocol >= 5:
            return Table, (pickle.PickleBuffer(self.numbers),)
        return Table, (bytes(self.numbers),)

    def rows(self) -> list[memoryview]:
        view = memoryview(self.numbers)
        return [view[start : start + ROW] for start in range(0, LARGE, ROW)]


def private_bytes() -> int:
    """Memory of this process that it does not share with any other."""
    with open("/proc/self/smaps_rollup") as file:
        for line in file:
            if line.startswith("Private_Dirty:"):
                return int(line.split()[1]) << 10
    raise AssertionError("the kernel does not say")


def look(table: Any, queue: Any) -> None:
    table = getattr(table, "get", lambda: table)()
    total = sum(row[0] for row in table.rows())
    queue.put((total, private_bytes()))


def looked_at_by_a_child_of(method: str) -> None:
    freeze: Any = getattr(multiprocessing, "freeze", lambda table: table)
    table = freeze(Table(bytearray(b"\1") * LARGE))
    context: Any = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    child = context.Process(target=look, args=(table, queue))
    child.start()
    total, private = queue.get()
    child.join()
    assert total == len(range(0, LARGE, ROW))
    assert private < LARGE, f"the child has {private >> 20} MB of its own"


def face_fork() -> None:
    looked_at_by_a_child_of("fork")


def face_spawn() -> None:
    looked_at_by_a_child_of("spawn")


def face_forkserver() -> None:
    looked_at_by_a_child_of("forkserver")


ROWS = 200_000


def face_objects_that_are_counted() -> None:
    """A forked child walks over what its parent has made of small objects."""
    freeze: Any = getattr(multiprocessing, "freeze", None)
    rows: Any = [bytes(ROW // 10) for _ in range(ROWS)]
    if freeze is not None:
        # What nobody counts is one buffer; the rows are views of it, made as they are looked at.
        rows = freeze(Table(b"".join(rows)))
    context: Any = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=walk, args=(rows, queue))
    child.start()
    total, grown = queue.get()
    child.join()
    assert total == ROWS * (ROW // 10)
    assert grown < 10 << 20, f"{grown >> 20} MB were copied by looking at them"


def walk(rows: Any, queue: Any) -> None:
    before = private_bytes()
    if hasattr(rows, "get"):
        view = memoryview(rows.get().numbers)
        rows = (view[start : start + ROW // 10] for start in range(0, len(view), ROW // 10))
    total = sum(len(row) for row in rows)
    queue.put((total, private_bytes() - before))


if __name__ == "__main__":
    facts.choose(globals())
