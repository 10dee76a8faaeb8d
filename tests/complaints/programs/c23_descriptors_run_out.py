"""Processes, queues and locks take descriptors and semaphores until there are none."""

import errno
import multiprocessing
import os
from typing import Any

import facts


def nothing(things: Any = None) -> None:
    pass


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def face_processes_come_and_go() -> None:
    """Many more processes, one after the other, than there are descriptors for them."""
    with facts.few_descriptors(20):
        for _ in range(40):
            child = multiprocessing.Process(target=nothing)
            child.start()
            child.join()
            assert child.exitcode == 0


def face_many_queues() -> None:
    with facts.few_descriptors(40):
        queues: list[Any] = [multiprocessing.Queue() for _ in range(300)]
        for number, queue in enumerate(queues):
            queue.put(number)
        assert [queue.get() for queue in queues] == list(range(300))


def role_many_locks() -> None:
    context = multiprocessing.get_context("spawn")
    locks = [context.Lock() for _ in range(1000)]
    assert not os.listdir("/dev/shm"), f"{len(os.listdir('/dev/shm'))} files in /dev/shm"
    del locks


def face_many_locks_in_a_container() -> None:
    """Locks for all start methods, where /dev/shm has one megabyte."""
    done = facts.run_with_shared_memory_of("1m", "role_many_locks")
    assert done.returncode == 0, done.stderr.strip().splitlines()[-1]


def role_large_arrays() -> None:
    array: Any = multiprocessing.Array("d", 10_000_000)
    queue: Any = multiprocessing.Queue()
    queue.put(bytes(10_000_000))
    array[9_999_999] = 1.0
    assert sum(array[-5:]) == 1.0 and len(queue.get()) == 10_000_000


def face_large_arrays_in_a_container() -> None:
    done = facts.run_with_shared_memory_of("1m", "role_large_arrays")
    assert done.returncode == 0, done.stderr.strip().splitlines()[-1]


def face_a_pool_needs_few() -> None:
    before = descriptors()
    with multiprocessing.Pool(8) as pool:
        pool.map(abs, range(8))
        assert descriptors() - before <= 24, f"{descriptors() - before} for 8 workers"


def face_too_few_is_an_error() -> None:
    """Where a descriptor is needed and there is none: an error that says so, and no more."""
    with facts.few_descriptors(0):
        try:
            multiprocessing.Process(target=nothing).start()
        except OSError as error:
            assert error.errno == errno.EMFILE, error
        else:
            raise AssertionError("started a process without any descriptor")
    child = multiprocessing.Process(target=nothing)
    child.start()
    child.join()
    assert child.exitcode == 0


def send_pipes(connection: Any) -> None:
    connection.send([multiprocessing.Pipe() for _ in range(50)])
    connection.recv()


def face_received_connections_do_not_fit() -> None:
    """A message brings more connections than there are descriptors: an error, and no hang."""
    here, there = multiprocessing.Pipe()
    child = multiprocessing.Process(target=send_pipes, args=(there,))
    child.start()
    assert here.poll(None)
    try:
        with facts.few_descriptors(20):
            here.recv()
    except OSError as error:
        assert error.errno == errno.EMFILE, error
    else:
        raise AssertionError("a hundred descriptors where twenty are allowed")
    finally:
        here.send("seen")
        child.join()


if __name__ == "__main__":
    facts.choose(globals())
