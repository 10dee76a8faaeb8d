"""Shared values and arrays."""

from array import array
from typing import Any

from registry import clock, workload
from workloads import each, increase, together

LENGTH = 10**6


@workload("value", 50_000, "a Value is increased under its lock by one process", goal=5)
def alone(mp: Any, n: int) -> float:
    value = mp.Value("i")
    start = clock()
    increase(value, n)
    return (clock() - start) / n


@workload("value, contended", 100_000, "two processes increase a Value under its lock", goal=3)
def contended(mp: Any, n: int) -> float:
    value, half = mp.Value("i"), n // 2
    elapsed = together(mp, *[(increase, value, half)] * 2)
    if value.value != 2 * half:
        raise ArithmeticError(f"{2 * half - value.value} updates were lost")
    return elapsed / n


@workload("array element, read", 100_000, "one element of an Array is read", goal=5)
def element_read(mp: Any, n: int) -> float:
    shared = mp.Array("d", 100)
    start = clock()
    for _ in range(n):
        shared[7]
    return (clock() - start) / n


@workload("array element, write", 100_000, "one element of an Array is written", goal=5)
def element_write(mp: Any, n: int) -> float:
    shared = mp.Array("d", 100)
    start = clock()
    for _ in range(n):
        shared[7] = 0.5
    return (clock() - start) / n


@workload("array 10^6, made", 10, "an Array of 10^6 doubles is made and dropped", goal=30)
def made(mp: Any, n: int) -> float:
    return each(n, lambda: mp.Array("d", LENGTH))


@workload("array 10^6, from a list", 5, "an Array of 10^6 doubles is filled from a list", goal=2)
def from_list(mp: Any, n: int) -> float:
    numbers = list(map(float, range(LENGTH)))
    return filled(mp, n, lambda shared: shared.__setitem__(slice(None), numbers))


@workload("array 10^6, from numpy", 5, "a new Array of 10^6 doubles is filled from numpy")
def from_numpy(mp: Any, n: int) -> float:
    import numpy

    numbers = numpy.arange(LENGTH, dtype="f8")
    return filled(
        mp, n, lambda shared: numpy.frombuffer(shared.get_obj()).__setitem__(slice(None), numbers)
    )


def filled(mp: Any, n: int, fill: Any) -> float:
    """Seconds to fill one Array; each is a new one, since the first touch of memory costs."""
    seconds = 0.0
    for _ in range(n):
        shared = mp.Array("d", LENGTH)
        start = clock()
        fill(shared)
        seconds += clock() - start
    return seconds / n


@workload("array 10^6, slice", 5, "10^6 different doubles are read as a slice", goal=2)
def read_slice(mp: Any, n: int) -> float:
    shared = mp.Array("d", LENGTH)
    shared[:] = array("d", range(LENGTH))
    return each(n, lambda: shared[:])
