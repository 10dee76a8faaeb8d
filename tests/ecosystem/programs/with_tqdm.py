"""tqdm: one lock for all bars, taken by workers that show bars of their own."""

import importlib
import sys
from typing import Any

from tqdm import tqdm


def work(number: int) -> int:
    """Square a number under a bar."""
    for _ in tqdm(range(3), position=1 + number % 2, leave=False):
        pass
    return number * number


if __name__ == "__main__":
    mp: Any = importlib.import_module(sys.argv[1])
    for method in ("fork", "spawn", "forkserver"):
        ctx = mp.get_context(method)
        tqdm.set_lock(ctx.RLock())
        with ctx.Pool(2, tqdm.set_lock, (tqdm.get_lock(),)) as pool:
            print(method, sum(tqdm(pool.imap_unordered(work, range(10)), total=10)))
