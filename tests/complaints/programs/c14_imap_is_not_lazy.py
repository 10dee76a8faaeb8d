"""imap takes its whole input at once, however slowly its results are read.

Needs `buffersize`, which the standard library's pools up to Python 3.13 do not have: without it
`imap` is called as it is.
"""

import multiprocessing
from collections.abc import Iterator
from typing import Any

import facts

AHEAD = 50


def counted(taken: list[int]) -> Iterator[int]:
    for number in range(100_000):
        taken.append(number)
        yield number


def takes_no_more_than_it_may(call: Any) -> None:
    taken: list[int] = []
    options = {"buffersize": AHEAD} if "buffersize" in call.__code__.co_varnames else {}
    results = call(abs, counted(taken), **options)
    for _ in range(10):
        next(results)
        assert len(taken) <= 10 + AHEAD + 1, f"took {len(taken)} items for 10 results"
    # Now it has all the time that it wants.
    pool = multiprocessing.Pool(1)
    assert pool.map(abs, range(1000)) == list(range(1000))
    pool.terminate()
    pool.join()
    assert len(taken) <= 10 + AHEAD + 1, f"took {len(taken)} items for 10 results"


def face_imap() -> None:
    with multiprocessing.Pool(2) as pool:
        takes_no_more_than_it_may(pool.imap)


def face_imap_unordered() -> None:
    with multiprocessing.Pool(2) as pool:
        takes_no_more_than_it_may(pool.imap_unordered)


if __name__ == "__main__":
    facts.choose(globals())
