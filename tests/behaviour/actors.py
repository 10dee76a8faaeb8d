"""Processes that do what a test tells them, one thing after the other."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sidestep
from sidestep import connection

METHODS = ("fork", "spawn", "forkserver")


class Actor:
    """A child that calls what it is sent and answers with the result or the exception.

    It keeps whatever it was sent until it ends, as a program keeps its locks.
    """

    def __init__(self, ctx: sidestep.context.BaseContext, keep: bool = True) -> None:
        self.mine, theirs = ctx.Pipe()
        self.process = ctx.Process(target=play, args=(theirs, keep), daemon=True)
        self.process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def ask(self, what: str | Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Have a function called, or the method of that name of the first argument."""
        self.mine.send((what, args, kwargs))

    def answer(self) -> Any:
        done, value = self.mine.recv()
        if not done:
            raise value
        return value

    def do(self, what: str | Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.ask(what, *args, **kwargs)
        return self.answer()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.process.join()

    def leave(self) -> None:
        """End in order."""
        self.mine.send(None)
        self.process.join()
        assert self.process.exitcode == 0

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.process.close()
        self.mine.close()


@contextmanager
def stage() -> Iterator[Callable[..., Actor]]:
    """Makes actors, and ends them all."""
    actors: list[Actor] = []

    def engage(ctx: sidestep.context.BaseContext, keep: bool = True) -> Actor:
        actors.append(Actor(ctx, keep))
        return actors[-1]

    try:
        yield engage
    finally:
        for actor in actors:
            actor.end()


def play(told: connection.Connection, keep: bool) -> None:
    kept = []
    result: Any = None
    answer: Any = None
    while (message := told.recv()) is not None:
        what, args, kwargs = message
        if keep:
            kept.append(args)
        try:
            if isinstance(what, str):
                result = getattr(args[0], what)(*args[1:], **kwargs)
            else:
                result = what(*args, **kwargs)
            answer = (True, result)
        except Exception as error:
            answer = (False, error)
        del message, what, args, kwargs
        told.send(answer)
        result = answer = None
    told.close()


# --- what actors and other children are asked to do ----------------------------------------------


def put_all(queue: Any, items: Any) -> None:
    for item in items:
        queue.put(item)


def put_numbers(queue: Any, start: int, stop: int) -> None:
    for number in range(start, stop):
        queue.put(number)


def take(queue: Any, count: int) -> list[Any]:
    return [queue.get() for _ in range(count)]


def take_until_none(queue: Any, results: Any) -> None:
    taken = []
    while (item := queue.get()) is not None:
        taken.append(item)
    results.put(taken)


def take_and_report(queue: Any, count: int) -> None:
    for _ in range(count):
        queue.get()
        queue.task_done()


def big_array(number: int) -> Any:
    import numpy

    return numpy.full(1 << 20, float(number))


def put_arrays(queue: Any, count: int) -> None:
    for number in range(count):
        queue.put((number, big_array(number)))


def put_bytes(queue: Any, count: int, size: int) -> None:
    for number in range(count):
        queue.put(bytes([number]) * size)


def hold(lock: Any, held: Any, released: Any) -> None:
    """Take the lock, say so, and keep it until told."""
    with lock:
        held.set()
        released.wait()


def take_and_end(lock: Any) -> None:
    assert lock.acquire()


def enter(lock: Any) -> bool:
    with lock:
        return True


def wait_under(condition: Any, timeout: float | None = None) -> bool:
    with condition:
        return bool(condition.wait(timeout))


def wait_for_item(condition: Any, values: Any) -> int:
    with condition:
        return int(condition.wait_for(lambda: values[0]))


def notify(condition: Any, count: int | None = None) -> None:
    with condition:
        if count is None:
            condition.notify_all()
        else:
            condition.notify(count)


def add_under(lock: Any, value: Any, times: int) -> None:
    for _ in range(times):
        with lock:
            value.value += 1


class Rendezvous:
    """An action for a barrier: says which process ran it."""

    def __init__(self, queue: Any) -> None:
        self.queue = queue

    def __call__(self) -> None:
        self.queue.put(os.getpid())


class Stuck:
    """An action for a barrier that never ends."""

    def __init__(self, started: Any) -> None:
        self.started = started

    def __call__(self) -> None:
        self.started.set()
        signal.pause()


class Held:
    """An action for a barrier that says when it runs, and ends, or fails, when it is told to."""

    def __init__(self, started: Any, go: Any, fails: bool = False) -> None:
        self.started, self.go, self.fails = started, go, fails

    def __call__(self) -> None:
        self.started.set()
        self.go.wait()
        if self.fails:
            fail()


def fail() -> None:
    raise LookupError("the action failed")
