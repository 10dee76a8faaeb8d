"""Data of the parent are copied into each forked child, since looking at objects counts references.

`freeze` puts an object where nobody counts. The standard library has no such function: there the
child looks at what it has inherited.
"""

import multiprocessing
from typing import Any

import facts

NUMBER = 2_000_000


def private_bytes() -> int:
    """Memory of this process that it does not share with any other."""
    with open("/proc/self/smaps_rollup") as file:
        for line in file:
            if line.startswith("Private_Dirty:"):
                return int(line.split()[1]) << 10
    raise AssertionError("the kernel does not say")


def freeze(table: Any) -> Any:
    make = getattr(multiprocessing, "freeze", None)
    return table if make is None else make(table)


def look(table: Any, queue: Any) -> None:
    table = getattr(table, "get", lambda: table)()
    before = private_bytes()
    total = 0.0
    for number in table:
        total += number
    queue.put((total, private_bytes() - before))


def face_looking_at_numbers() -> None:
    """A child adds up a table of its parent's; its own memory stays what it was."""
    table = make_table()
    queue: Any = multiprocessing.SimpleQueue()
    child = multiprocessing.get_context("fork").Process(target=look, args=(freeze(table), queue))
    child.start()
    total, grown = queue.get()
    child.join()
    assert total == NUMBER * (NUMBER - 1) / 2
    assert grown < 4 << 20, f"{grown >> 20} MB were copied by looking at them"


def make_table() -> Any:
    """Numbers as a library of arrays has them when it can, and as a list otherwise."""
    return [float(number) for number in range(NUMBER)]


if __name__ == "__main__":
    facts.choose(globals())
