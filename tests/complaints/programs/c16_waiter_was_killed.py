"""Waking others hangs when one that waited was killed, or when a signal handler does it."""

import multiprocessing
import os
import signal
import threading
from multiprocessing.process import BaseProcess
from typing import Any

import facts


def wait_for_condition(condition: Any) -> None:
    with condition:
        condition.wait()


def wait_for(thing: Any) -> None:
    thing.wait()


def killed_while_it_waits(target: Any, thing: Any) -> None:
    child: BaseProcess = multiprocessing.Process(target=target, args=(thing,))
    child.start()
    assert child.pid is not None
    facts.asleep(child.pid)
    child.kill()
    child.join()


def face_condition() -> None:
    condition: Any = multiprocessing.Condition()
    killed_while_it_waits(wait_for_condition, condition)
    other = multiprocessing.Process(target=wait_for_condition, args=(condition,))
    other.start()
    assert other.pid is not None
    facts.asleep(other.pid)
    with condition:
        condition.notify_all()
    other.join()
    assert other.exitcode == 0


def face_notify_of_one() -> None:
    """The dead one does not swallow a notification that is for one."""
    condition: Any = multiprocessing.Condition()
    killed_while_it_waits(wait_for_condition, condition)
    other = multiprocessing.Process(target=wait_for_condition, args=(condition,))
    other.start()
    assert other.pid is not None
    facts.asleep(other.pid)
    with condition:
        condition.notify()
    other.join()


def face_event() -> None:
    event: Any = multiprocessing.Event()
    killed_while_it_waits(wait_for, event)
    event.set()
    assert event.wait() and event.is_set()


def face_barrier() -> None:
    barrier: Any = multiprocessing.Barrier(2)
    killed_while_it_waits(wait_for, barrier)
    try:
        barrier.wait()
    except threading.BrokenBarrierError:
        barrier.reset()
    else:
        raise AssertionError("met a dead process")
    other = multiprocessing.Process(target=wait_for, args=(barrier,))
    other.start()
    barrier.wait()
    other.join()


def face_set_in_a_signal_handler() -> None:
    """A program waits for an event that its own signal handler sets."""
    event: Any = multiprocessing.Event()
    signal.signal(signal.SIGUSR1, lambda number, frame: event.set())
    me = os.getpid()
    threading.Thread(target=facts.signal_when_asleep, args=(me, signal.SIGUSR1)).start()
    event.wait()


def set_often(event: Any, ready: Any) -> None:
    signal.signal(signal.SIGUSR1, lambda number, frame: event.set())
    ready.set()
    while not event.is_set():
        pass
    for _ in range(20_000):
        event.set()
    # At its end the interpreter takes handlers back, and the signals still come.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def face_set_interrupted_by_set() -> None:
    """The handler sets the very event that the program is just setting."""
    event: Any = multiprocessing.Event()
    ready: Any = multiprocessing.Event()
    child = multiprocessing.Process(target=set_often, args=(event, ready))
    child.start()
    ready.wait()
    assert child.pid is not None
    while child.is_alive():
        try:
            os.kill(child.pid, signal.SIGUSR1)
        except ProcessLookupError:
            break
    child.join()
    assert child.exitcode == 0


if __name__ == "__main__":
    facts.choose(globals())
