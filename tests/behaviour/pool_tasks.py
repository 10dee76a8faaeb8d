"""What the workers of the pool tests do. A module of its own, so that workers find it."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

_memory: Any = None


def square(n: Any) -> Any:
    return n * n


def add(a: Any, b: Any) -> Any:
    return a + b


def pid(_: object) -> int:
    return os.getpid()


def remember(*what: object) -> None:
    global _memory
    _memory = what


def remembered(_: object) -> Any:
    return _memory


def scale(array: Any, by: float) -> Any:
    return array * by


def wait_for_gate(path: Path) -> str:
    """Wait until somebody has opened and closed the named pipe."""
    with open(path) as gate:
        gate.read()
    return "open"


def broken_items() -> Iterator[int]:
    yield from range(3)
    raise ZeroDivisionError


def fail(text: object) -> NoReturn:
    raise LookupError(text)


def fail_on_three(n: int) -> int:
    if n == 3:
        raise LookupError(n)
    return n


def fail_twice(folder: Path) -> None:
    """Fail in the first two processes that call it."""
    for name in ("first", "second"):
        try:
            (folder / name).touch(exist_ok=False)
        except FileExistsError:
            continue
        raise LookupError(name)


def kill_myself(_: object) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def kill_on_three(n: int) -> int:
    if n == 3:
        kill_myself(n)
    return n


def leave(code: int) -> NoReturn:
    sys.exit(code)


def vanish(code: int) -> NoReturn:
    os._exit(code)


def interrupt(_: object) -> NoReturn:
    raise KeyboardInterrupt


def make_lock() -> Any:
    return threading.Lock()


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("carries a lock", threading.Lock())


def fail_unpicklably(_: object = None) -> NoReturn:
    raise Unpicklable


class TwoArguments(Exception):
    """Pickles, and then cannot be made from its one argument."""

    def __init__(self, text: str, more: int) -> None:
        super().__init__(text)


def fail_with_two_arguments() -> NoReturn:
    raise TwoArguments("the text", 2)


class Changeling(Exception):
    def __reduce__(self) -> Any:
        return str, ("no exception",)


def fail_and_become_a_string() -> NoReturn:
    raise Changeling("the text")


class Poison:
    """Pickles well and cannot be rebuilt."""

    def __reduce__(self) -> Any:
        return refuse, ()


def refuse() -> NoReturn:
    raise LookupError("rebuilding failed")


def make_poison() -> Poison:
    return Poison()


class Submits:
    """Submits a task of its own while it is being pickled, and arrives as a number."""

    pool: Any = None
    results: list[Any] = []

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        self.results.append(self.pool.apply_async(square, (self.number + 1,)))
        return int, (self.number,)
