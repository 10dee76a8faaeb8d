"""One process writes numbers into a queue, another reads them: how long does that take?

    python examples/reader_and_writer.py                     # 10^4, 10^5 and 10^6, both packages
    python examples/reader_and_writer.py 10000               # a size of your own
    python examples/reader_and_writer.py --package sidestep  # one package only

The packages take turns, each in a fresh interpreter, so that neither sees what the other left in
memory. The clock runs from the first `put` until the reader has ended.
"""

import argparse
import importlib
import subprocess
import sys
import time
from typing import Any

PACKAGES = ("multiprocessing", "sidestep")
SIZES = (10**4, 10**5, 10**6)
DONE = "DONE"


def read(queue: Any) -> None:
    """Take numbers out until the writer says that it has finished."""
    while queue.get() != DONE:
        pass


def write(queue: Any, count: int) -> None:
    for number in range(count):
        queue.put(number)
    queue.put(DONE)


def seconds_for(package: str, count: int) -> float:
    """Send `count` numbers by the queue of `package`, in this interpreter."""
    multiprocessing = importlib.import_module(package)
    queue = multiprocessing.Queue()
    reader = multiprocessing.Process(target=read, args=(queue,), daemon=True)
    reader.start()
    start = time.perf_counter()
    write(queue, count)
    reader.join()
    return time.perf_counter() - start


def seconds_in_fresh_interpreter(package: str, count: int) -> float:
    command = [sys.executable, __file__, "--package", package, "--bare", str(count)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a queue between two processes.")
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES, help="how many numbers")
    parser.add_argument("--package", choices=PACKAGES, help="measure this one only")
    parser.add_argument("--bare", action="store_true", help="print the seconds and nothing else")
    options = parser.parse_args()

    if options.bare:
        print(seconds_for(options.package or "sidestep", options.sizes[0]))
        return
    packages = [options.package] if options.package else PACKAGES
    for size in options.sizes:
        times = {}
        for package in packages:
            times[package] = seconds_in_fresh_interpreter(package, size)
            print(f"{size:>9,} numbers  {package:<15} {times[package]:9.4f} s", flush=True)
        if len(times) == 2:
            factor = times["multiprocessing"] / times["sidestep"]
            print(f"{size:>9,} numbers  sidestep is {factor:.1f} times as fast", flush=True)


if __name__ == "__main__":
    main()
