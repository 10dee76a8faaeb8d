"""Numbers that several processes see: `Value` and `Array`.

    python examples/shared_values.py

Four children add to one shared number and each fills its own stretch of one shared array. The
array is plain memory: numpy, where it is installed, looks at it without a copy.
"""

from typing import Any

import sidestep as multiprocessing

CHILDREN = 4
STRETCH = 5
ROUNDS = 1_000


def work(number: int, total: Any, squares: Any) -> None:
    for _ in range(ROUNDS):
        # `+=` reads and then writes; the lock makes one step of the two.
        with total.get_lock():
            total.value += 1
    first = number * STRETCH
    squares[first : first + STRETCH] = [i * i for i in range(first, first + STRETCH)]


def main() -> None:
    total = multiprocessing.Value("i", 0)
    squares = multiprocessing.Array("d", CHILDREN * STRETCH)
    children = [
        multiprocessing.Process(target=work, args=(number, total, squares))
        for number in range(CHILDREN)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()

    print(f"{CHILDREN} children counted to {total.value}")
    print(f"squares: {[int(square) for square in squares[:]]}")
    try:
        import numpy
    except ImportError:
        return
    view = numpy.ctypeslib.as_array(squares.get_obj())
    view *= 2  # writes into the shared memory itself
    print(f"doubled by numpy, without a copy: the last one is now {squares[-1]:.0f}")


if __name__ == "__main__":
    main()
