"""Pebble: pools whose tasks have time limits, and whose workers may die."""

import concurrent.futures
import importlib
import os
import sys
import time
from typing import Any

from pebble import ProcessExpired, ProcessPool


def square(number: int) -> int:
    """Return the square."""
    return number * number


def hang() -> None:
    """Take too long."""
    time.sleep(1000)


def die(word: str) -> None:
    """End the worker once Pebble knows what runs there: the file `word` says so."""
    while not os.path.exists(word):
        time.sleep(0.01)
    os._exit(3)


if __name__ == "__main__":
    mp: Any = importlib.import_module(sys.argv[1])
    for method in ("fork", "spawn", "forkserver"):
        with ProcessPool(2, context=mp.get_context(method)) as pool:
            print(method, list(pool.map(square, range(5)).result()))
            try:
                pool.schedule(hang, timeout=0.2).result()
            except concurrent.futures.TimeoutError:
                print("too long")
            try:
                future = pool.schedule(die, args=[f"known-{method}"])
                while not future.running():
                    time.sleep(0.01)
                open(f"known-{method}", "w").close()
                future.result()
            except ProcessExpired as error:
                print("expired", error.exitcode)
            print(pool.schedule(square, args=[9]).result())
