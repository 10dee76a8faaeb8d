"""coverage: the lines that only children run are seen."""

import importlib
import sys
from typing import Any


def in_a_child(number: int) -> int:
    """Run the first branch only."""
    if number:
        return number + 1
    return 0


if __name__ == "__main__":
    mp: Any = importlib.import_module(sys.argv[1])
    for method in ("fork", "spawn", "forkserver"):
        child = mp.get_context(method).Process(target=in_a_child, args=(1,))
        child.start()
        child.join()
        print(method, child.exitcode)
