"""Four workers read one large array, which lies in memory once.

python examples/frozen_numbers.py [MEGABYTES]
"""

import sys
from array import array

import sidestep as multiprocessing
from sidestep.frozen import Frozen
from sidestep.synchronize import Barrier

WORKERS = 4


def proportional_megabytes() -> float:
    """Memory of this process, what is shared divided by those that share it."""
    with open("/proc/self/smaps_rollup") as lines:
        for line in lines:
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


def look(
    numbers: Frozen[memoryview],
    everybody: Barrier,
    answers: "multiprocessing.SimpleQueue[tuple[int, float]]",
) -> None:
    """Add up the array, and measure when all have done so."""
    total = sum(numbers.get().cast("q"))
    everybody.wait()
    answers.put((total, proportional_megabytes()))
    everybody.wait()


def main(megabytes: int) -> None:
    """Freeze the array and let the workers look at it."""
    before = proportional_megabytes()
    numbers = multiprocessing.freeze(memoryview(array("q", [1]) * (megabytes << 17)).cast("B"))
    everybody = multiprocessing.Barrier(WORKERS)
    answers: multiprocessing.SimpleQueue[tuple[int, float]] = multiprocessing.SimpleQueue()
    workers = [
        multiprocessing.Process(target=look, args=(numbers, everybody, answers))
        for _ in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    found = [answers.get() for _ in workers]
    for worker in workers:
        worker.join()
    print(f"each worker counted {found[0][0]} ones in {megabytes} MB")
    print(
        f"memory of the workers: {sum(size for _, size in found):.0f} MB together, "
        f"of the parent before: {before:.0f} MB"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
