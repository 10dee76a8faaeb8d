"""Who is killed with a lock in its hands stops everybody else.

A lock that may be taken several times has an owner who alone can release it; to free it from a
dead one there is `recover`, which the standard library does not have (and does not get as far).
"""

import multiprocessing
from multiprocessing.connection import Connection
from typing import Any

import facts


def die_holding(lock: Any) -> None:
    lock.acquire()
    facts.die()


def die_holding_the_lock_of(value: Any) -> None:
    with value.get_lock():
        value.value = 1
        facts.die()


def after_a_killed_owner(lock: Any, target: Any, argument: Any, free: str = "release") -> None:
    """The next one is told of the dead owner, and can go on."""
    child = multiprocessing.Process(target=target, args=(argument,))
    child.start()
    child.join()
    try:
        lock.acquire()
    except multiprocessing.ProcessError as error:
        assert str(child.pid) in str(error), error
    else:
        raise AssertionError("nobody said that the owner was killed")
    getattr(lock, free)()
    lock.acquire()
    lock.release()


def face_lock() -> None:
    lock = multiprocessing.Lock()
    after_a_killed_owner(lock, die_holding, lock)


def face_rlock() -> None:
    lock = multiprocessing.RLock()
    after_a_killed_owner(lock, die_holding, lock, "recover")


def face_condition() -> None:
    condition = multiprocessing.Condition(multiprocessing.Lock())
    after_a_killed_owner(condition, die_holding, condition)


def face_value() -> None:
    value = multiprocessing.Value("i")
    lock = value.get_lock()
    after_a_killed_owner(lock, die_holding_the_lock_of, value, "recover")


def take_two(queue: Any, said: Connection) -> None:
    said.send(queue.get())
    queue.get()


def face_waiting_reader() -> None:
    """A consumer is killed while it waits in `get`; others take what comes then."""
    queue: Any = multiprocessing.Queue()
    here, there = multiprocessing.Pipe()
    child = multiprocessing.Process(target=take_two, args=(queue, there))
    child.start()
    queue.put("first")
    assert here.recv() == "first"
    assert child.pid is not None
    facts.asleep(child.pid)
    child.kill()
    child.join()
    queue.put("second")
    assert queue.get() == "second"


LARGE = 10_000_000


def put_and_die(queue: Any, said: Connection) -> None:
    queue.put(bytes(LARGE))
    said.send("put")
    said.recv()
    facts.die()


def face_writer_in_the_middle() -> None:
    """A producer is killed when a pipe would hold half of its item; the queue works on."""
    queue: Any = multiprocessing.Queue()
    here, there = multiprocessing.Pipe()
    child = multiprocessing.Process(target=put_and_die, args=(queue, there))
    child.start()
    assert here.recv() == "put"
    assert child.pid is not None
    facts.asleep(child.pid)
    here.send("die")
    child.join()
    queue.put("after it")
    found = [queue.get(), queue.get()]
    assert found == [bytes(LARGE), "after it"]


def take_and_die(queue: Any) -> None:
    queue.get()
    facts.die()


def face_simple_queue() -> None:
    queue: Any = multiprocessing.SimpleQueue()
    child = multiprocessing.Process(target=take_and_die, args=(queue,))
    child.start()
    queue.put(1)
    child.join()
    second = multiprocessing.Process(target=take_and_die, args=(queue,))
    second.start()
    assert second.pid is not None
    facts.asleep(second.pid)
    second.kill()
    second.join()
    queue.put(2)
    assert queue.get() == 2


if __name__ == "__main__":
    facts.choose(globals())
