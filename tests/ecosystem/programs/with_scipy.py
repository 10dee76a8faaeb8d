"""scipy: `workers` as the map of a pool, and as a number."""

import importlib
import sys
from typing import Any

from scipy.optimize import differential_evolution, rosen


def least(workers: Any) -> str:
    """Search the least value of a function of two numbers."""
    found = differential_evolution(
        rosen, [(0, 2)] * 2, workers=workers, updating="deferred", rng=1, maxiter=10, polish=False
    )
    return f"{found.fun:.6f} after {found.nit}"


if __name__ == "__main__":
    mp: Any = importlib.import_module(sys.argv[1])
    expected = least(1)
    for method in ("fork", "spawn", "forkserver"):
        with mp.get_context(method).Pool(2) as pool:
            print(method, least(pool.map) == expected)
    print(2, least(2) == expected)
