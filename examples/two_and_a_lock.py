"""Two processes, one counter, one lock.

    python examples/two_and_a_lock.py

Both processes run the same function. Whoever gets the lock first counts to 300 and prints each
number, the other goes on from there to 600. Nobody decides who comes first, yet the 600 numbers
come out in order, each exactly once: the counter is shared, and the lock keeps the second one out
until the first has finished and flushed what it printed.
"""

import sys
from typing import Any

import sidestep as multiprocessing
from sidestep.synchronize import Lock

STEP = 300


def climb(lock: Lock, counter: Any) -> None:
    with lock:
        goal = counter.value + STEP
        while counter.value < goal:
            counter.value += 1
            print(counter.value)
        sys.stdout.flush()


def main() -> None:
    lock = multiprocessing.Lock()
    # The lock above guards the counter too, so it needs none of its own.
    counter = multiprocessing.RawValue("i", 0)
    climbers = [multiprocessing.Process(target=climb, args=(lock, counter)) for _ in range(2)]
    for climber in climbers:
        climber.start()
    for climber in climbers:
        climber.join()
    print(f"the counter stands at {counter.value}")


if __name__ == "__main__":
    main()
