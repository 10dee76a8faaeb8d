"""A hundred cubes from a pool, one call at a time and all at once.

    python examples/cubes.py [HOW_MANY]

`apply` hands over one task and waits for it: simple, and never two workers busy. `map` spreads
the whole list over the workers. The results are the same, in the same order.
"""

import sys

import sidestep as multiprocessing


def cube(number: int) -> int:
    return number * number * number


def main() -> None:
    how_many = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    numbers = range(1, how_many + 1)
    with multiprocessing.Pool(processes=4) as pool:
        one_by_one = [pool.apply(cube, (number,)) for number in numbers]
        at_once = pool.map(cube, numbers)
    print(f"apply: {one_by_one[:4]} ... {one_by_one[-1]}")
    print(f"map:   {at_once[:4]} ... {at_once[-1]}")
    print(f"the same: {one_by_one == at_once}")


if __name__ == "__main__":
    main()
