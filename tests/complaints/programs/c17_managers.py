"""Managers lose connections, mix replies, and keep what the dead have held."""

import multiprocessing
import os
import threading
from multiprocessing.managers import SyncManager
from typing import Any

import facts


def face_proxy_used_on_both_sides_of_a_fork() -> None:
    """A child of a bare fork waits for a queue's item, which its parent then puts."""
    with multiprocessing.Manager() as manager:
        queue = manager.Queue()
        queue.put("before")
        assert queue.get() == "before"
        child = os.fork()
        if child == 0:
            os._exit(0 if queue.get() == "item" else 1)
        facts.asleep(child)
        queue.put("item")
        _, status = os.waitpid(child, 0)
        assert status == 0


def face_many_clients_at_once() -> None:
    """A hundred threads make their first call in the same moment."""
    with multiprocessing.Manager() as manager:
        shared = manager.dict()
        start = threading.Barrier(100)
        served = []

        def call(number: int) -> None:
            start.wait()
            shared[number] = number
            served.append(shared[number])

        threads = [threading.Thread(target=call, args=(number,)) for number in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(served) == list(range(100)) == sorted(shared.keys())


def face_nested_with_a_key_of_its_own() -> None:
    manager = SyncManager(authkey=b"neither default nor secret")
    manager.start()
    outer = manager.dict()
    outer["inner"] = manager.list([1, 2])
    outer["inner"].append(3)
    assert list(outer["inner"]) == [1, 2, 3]
    manager.shutdown()


def use_and_wait(shared: Any, ready: Any) -> None:
    """Hold objects of the manager until somebody ends this process."""
    held = shared["made"]
    held.append(1)
    ready.set()
    threading.Event().wait()


def face_references_of_a_killed_client() -> None:
    with multiprocessing.Manager() as manager:
        number: Any = manager._number_of_objects  # type: ignore[attr-defined]
        shared, ready = manager.dict(), multiprocessing.Event()
        shared["made"] = manager.list()
        child = multiprocessing.Process(target=use_and_wait, args=(shared, ready))
        child.start()
        ready.wait()
        assert number() == 2
        child.kill()
        child.join()
        del shared["made"]
        while number() != 1:
            pass


def iterate(shared: Any, queue: Any) -> None:
    queue.put(sorted(iter(shared)))


def face_iteration_in_a_child() -> None:
    with multiprocessing.Manager() as manager:
        shared, queue = manager.dict({1: 2, 3: 4}), manager.Queue()
        child = multiprocessing.Process(target=iterate, args=(shared, queue))
        child.start()
        child.join()
        assert child.exitcode == 0
        assert queue.get() == [1, 3]


class Fails:
    def method(self) -> None:
        self.place_of_the_error()

    def place_of_the_error(self) -> None:
        raise ValueError("no")


class Own(SyncManager):
    pass


Own.register("Fails", Fails)


def face_where_an_error_came_from() -> None:
    """An error of a shared object tells which line of the server has raised it."""
    import traceback

    with Own() as manager:
        try:
            manager.Fails().method()  # type: ignore[attr-defined]
        except ValueError as error:
            assert "place_of_the_error" in "".join(traceback.format_exception(error)), (
                "its traceback ends in this process"
            )


def face_killed_server() -> None:
    """Every thread that uses it, waiting or not, is told at once."""
    manager: Any = multiprocessing.Manager()
    queue, shared, outcomes = manager.Queue(), manager.dict(), []
    waiting = threading.Event()

    def wait() -> None:
        queue.qsize()
        waiting.set()
        try:
            queue.get()
        except (EOFError, OSError) as error:
            outcomes.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.wait()
    (server,) = multiprocessing.active_children()
    server.kill()
    thread.join()
    try:
        shared[1] = 1
    except (EOFError, OSError) as error:
        outcomes.append(error)
    assert len(outcomes) == 2


if __name__ == "__main__":
    facts.choose(globals())
