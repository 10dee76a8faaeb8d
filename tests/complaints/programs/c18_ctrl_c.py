"""Ctrl-C prints a traceback for each worker, or does not end the program at all."""

import multiprocessing
import os
import signal
import subprocess
import threading
from typing import Any

import facts


def busy(ready: Any) -> None:
    """Work until somebody ends it."""
    os.write(1, b"busy\n")
    threading.Event().wait()


def role_map() -> None:
    with multiprocessing.Pool(2) as pool:
        pool.map(busy, range(2), chunksize=1)


def role_map_without_with() -> None:
    pool = multiprocessing.Pool(2)
    pool.map(busy, range(2), chunksize=1)


def role_result() -> None:
    pool = multiprocessing.Pool(2)
    results = [pool.apply_async(busy, (0,)) for _ in range(4)]
    pool.close()
    for result in results:
        result.get()


def role_processes() -> None:
    children = [multiprocessing.Process(target=busy, args=(0,)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()


def role_queue() -> None:
    """The children wait for items, and the parent for an answer."""
    requests: Any = multiprocessing.Queue()
    answers: Any = multiprocessing.Queue()
    children = [multiprocessing.Process(target=serve, args=(requests, answers)) for _ in range(2)]
    for child in children:
        child.start()
    answers.get()


def serve(requests: Any, answers: Any) -> None:
    os.write(1, b"busy\n")
    requests.get()


def ends_once(role: str, workers: int = 2) -> None:
    """The whole foreground gets SIGINT, as from a terminal: one traceback, nobody left."""
    facts.adopt()
    with subprocess.Popen(
        facts.command(role),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
    ) as program:
        assert program.stdout is not None and program.stderr is not None
        for _ in range(workers):
            program.stdout.readline()
        for pid in (program.pid, *facts.children(program.pid)):
            facts.asleep(pid)
        os.killpg(program.pid, signal.SIGINT)
        said = program.stderr.read().decode()
        program.wait()
    facts.all_gone()
    assert program.returncode in (-signal.SIGINT, 130), program.returncode
    tracebacks = said.count("Traceback (most recent call last)")
    assert tracebacks == 1, f"{tracebacks} tracebacks"
    assert "KeyboardInterrupt" in said


def face_map() -> None:
    ends_once("role_map")


def face_map_without_with() -> None:
    ends_once("role_map_without_with")


def face_closed_pool() -> None:
    ends_once("role_result")


def face_processes() -> None:
    ends_once("role_processes")


def face_children_at_a_queue() -> None:
    ends_once("role_queue")


if __name__ == "__main__":
    facts.choose(globals())
