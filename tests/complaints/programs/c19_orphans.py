"""The children of a killed program live on."""

import multiprocessing
import os
import subprocess
import threading
from typing import Any

import facts


def endless(number: int = 0) -> None:
    os.write(1, b"here\n")
    threading.Event().wait()


def with_a_child() -> None:
    child = multiprocessing.Process(target=endless, daemon=True)
    child.start()
    endless()


def wait_for_tasks() -> None:
    os.write(1, b"here\n")


def stay() -> None:
    os.write(1, b"here\n")
    threading.Event().wait()


def role_daemon() -> None:
    multiprocessing.Process(target=endless, daemon=True).start()
    stay()


def role_busy_pool() -> None:
    pool = multiprocessing.Pool(2)
    pool.map_async(endless, range(2), chunksize=1)
    stay()


def role_idle_pool() -> None:
    pool: Any = multiprocessing.Pool(2, wait_for_tasks)
    assert pool.map(abs, [-1, -2]) == [1, 2]
    stay()


def role_manager() -> None:
    manager: Any = multiprocessing.Manager()
    shared = manager.dict()
    os.write(1, b"here\n")
    shared[1] = 1
    stay()


def role_grandchild() -> None:
    child: Any = multiprocessing.Process(target=with_a_child)
    child.daemon = False
    child.start()
    child.join()


def role_every_method() -> None:
    for method in multiprocessing.get_all_start_methods():
        context: Any = multiprocessing.get_context(method)
        context.Process(target=endless, daemon=True).start()
    stay()


def nobody_stays(role: str, number: int) -> None:
    facts.adopt()
    with subprocess.Popen(facts.command(role), stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        for _ in range(number):
            assert program.stdout.readline() == b"here\n"
        program.kill()
        program.wait()
        # Whoever has the pipe still holds it open.
        facts.all_gone()


def face_daemonic_child() -> None:
    nobody_stays("role_daemon", 2)


def face_busy_workers() -> None:
    nobody_stays("role_busy_pool", 3)


def face_idle_workers() -> None:
    nobody_stays("role_idle_pool", 3)


def face_server_of_a_manager() -> None:
    nobody_stays("role_manager", 2)


def face_every_start_method() -> None:
    nobody_stays("role_every_method", 4)


def face_killed_in_the_middle() -> None:
    """Root, child and grandchild: the one in the middle is killed, its child goes with it."""
    facts.adopt()
    with subprocess.Popen(facts.command("role_grandchild"), stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        for _ in range(2):
            assert program.stdout.readline() == b"here\n"
        for pid in facts.children(program.pid):
            os.kill(pid, 9)
        program.wait()
        facts.all_gone()


if __name__ == "__main__":
    facts.choose(globals())
