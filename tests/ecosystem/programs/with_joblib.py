"""joblib: its default backend (loky), its multiprocessing backend, and a context of ours in it."""

import importlib
import os
import sys
from typing import Any

import numpy as np
from joblib import Parallel, delayed, parallel_config


def square(number: int) -> tuple[int, int]:
    """Tell where a number was squared, too."""
    return number * number, os.getpid()


def total(array: Any) -> float:
    """Sum an array, which came as a memory map."""
    return float(array.sum())


if __name__ == "__main__":
    mp: Any = importlib.import_module(sys.argv[1])
    large = np.ones(1_000_000)
    for backend in ("loky", "multiprocessing"):
        with parallel_config(backend, n_jobs=2):
            squares = Parallel()(delayed(square)(number) for number in range(50))
            print(backend, sum(s for s, _ in squares), os.getpid() in {pid for _, pid in squares})
            print(backend, Parallel(max_nbytes=1000)(delayed(total)(large) for _ in range(3)))
    for method in ("fork", "spawn"):
        with parallel_config("multiprocessing", n_jobs=2, context=mp.get_context(method)):
            squares = Parallel()(delayed(square)(number) for number in range(50))
            print(method, sum(s for s, _ in squares), os.getpid() in {pid for _, pid in squares})
