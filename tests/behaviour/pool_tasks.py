"""What the workers of the pool tests do. A module of its own, so that workers find it."""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
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


def wait_with_load(path: Path, load: bytes) -> int:
    wait_for_gate(path)
    return len(load)


class Lazy(Sequence[bytes]):
    """Large items, numbered from 1 in each of their bytes, which exist only while they are used."""

    def __init__(self, count: int, size: int, fails: int | None = None) -> None:
        self.length, self.size, self.fails = count, size, fails

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, n: Any) -> Any:
        if n >= self.length:
            raise IndexError(n)
        if n == self.fails:
            raise LookupError(f"item {n}")
        return bytes([n + 1]) * self.size


def first_and_size(load: bytes) -> tuple[int, int]:
    return load[0], len(load)


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


def announce(queue: Any, what: object) -> object:
    """Say which process does it."""
    queue.put((what, os.getpid()))
    return what


def announce_and_stay(queue: Any, what: object = None) -> NoReturn:
    """Say which process does it, and stay there until a signal handler raises."""
    announce(queue, what)
    while True:
        signal.pause()


def announce_and_die(queue: Any, what: object = None) -> NoReturn:
    announce(queue, what)
    kill_myself(what)


def be_deaf(*signals: signal.Signals) -> None:
    for number in signals:
        signal.signal(number, signal.SIG_IGN)


def note_and_die_at_first(folder: Path, item: int, dying: frozenset[int], times: int) -> int:
    """Note each run of an item; those that are dying kill their worker the first few times."""
    name = f"{item}-{len(list(folder.glob(f'{item}-*')))}"
    (folder / name).touch(exist_ok=False)
    if item in dying and not name.endswith(f"-{times}"):
        kill_myself(item)
    return item * item


def give_up() -> NoReturn:
    raise GeneratorExit("given up")


class QuitsWhenPickled:
    def __reduce__(self) -> Any:
        sys.exit("not to be pickled")


def make_quitter() -> QuitsWhenPickled:
    return QuitsWhenPickled()


class QuitsWhenRebuilt:
    def __reduce__(self) -> Any:
        return sys.exit, ("not to be rebuilt",)


def make_late_quitter() -> QuitsWhenRebuilt:
    return QuitsWhenRebuilt()


class QuittingError(Exception):
    def __reduce__(self) -> Any:
        return sys.exit, ("no such error",)


def fail_and_quit_when_rebuilt() -> NoReturn:
    raise QuittingError("the text")


def wait_for_interrupt(queue: Any) -> str:
    """Have a Ctrl-C end the work, not the worker."""
    try:
        announce_and_stay(queue)
    except KeyboardInterrupt:
        return "interrupted"


def squares_in_a_pool(count: int) -> list[int]:
    """Use a pool within a worker."""
    import sidestep

    with sidestep.get_context("fork").Pool(2) as inner:
        return inner.map(square, range(count))


def stay_in_a_pool(queue: Any) -> None:
    """Have workers of a worker stay at their tasks."""
    import sidestep

    with sidestep.get_context("fork").Pool(2) as inner:
        inner.starmap(announce_and_stay, [(queue,), (queue,)], 1)


def call(function: Any, *args: Any) -> Any:
    return function(*args)


def stay_on_three(n: int) -> int:
    if n == 3:
        signal.sigwait([signal.SIGUSR1])
    return n


def note_and_die_with(item: Any) -> int:
    return note_and_die_at_first(*item)


def end_by(number: signal.Signals) -> None:
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def die_first_then_measure(folder: Path, data: bytes) -> int:
    """Kill the first process that comes here."""
    try:
        (folder / "first").touch(exist_ok=False)
    except FileExistsError:
        return len(data)
    kill_myself(data)


def announce_and_stay_until(queue: Any, number: signal.Signals) -> str:
    """Say which process does it, once the signal can be waited for."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (number,))
    announce(queue, None)
    return signal.Signals(signal.sigwait([number])).name
