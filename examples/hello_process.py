"""The smallest program: another process says hello.

    python examples/hello_process.py [NAME]

A child runs `greet` in an interpreter of its own; `join` waits for its end and `exitcode` tells
how it went.
"""

import os
import sys

import sidestep as multiprocessing


def greet(name: str, parent: int) -> None:
    """Say hello, and whether this is really another process."""
    other = "another process" if os.getpid() != parent else "the same process"
    print(f"hello {name}, from {other}", flush=True)


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "world"
    child = multiprocessing.Process(target=greet, args=(name, os.getpid()), name="greeter")
    child.start()
    child.join()
    print(f"{child.name} ended with exit code {child.exitcode}")


if __name__ == "__main__":
    main()
