"""Lambdas, closures and functions of an interactive program cannot be sent."""

import multiprocessing
import subprocess
import sys
from typing import Any

import facts


def face_map_of_a_lambda() -> None:
    with multiprocessing.Pool(2) as pool:
        assert pool.map(lambda x: x * 2, [1, 2, 3]) == [2, 4, 6]


def face_closure() -> None:
    factor = 3

    def times(x: int) -> int:
        return x * factor

    with multiprocessing.Pool(2) as pool:
        assert pool.map(times, [1, 2, 3]) == [3, 6, 9]


def face_initializer() -> None:
    """Under `spawn` the initializer has to travel, too."""
    with multiprocessing.get_context("spawn").Pool(1, lambda: None) as pool:
        assert pool.apply(abs, (-1,)) == 1


def face_target_of_a_process() -> None:
    context: Any = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    child = context.Process(target=lambda: queue.put(42))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert queue.get() == 42


INTERACTIVE = """\
import multiprocessing

def double(x):
    return x * 2

with multiprocessing.get_context("spawn").Pool(2) as pool:
    print(pool.map(double, [1, 2, 3]))
"""


def face_function_of_an_interactive_program() -> None:
    """What was typed into an interpreter, or a notebook, has no file to import it from."""
    done = subprocess.run([sys.executable, "-"], input=INTERACTIVE, capture_output=True, text=True)
    assert done.stdout == "[2, 4, 6]\n", done.stderr.strip().splitlines()[-1]


if __name__ == "__main__":
    facts.choose(globals())
