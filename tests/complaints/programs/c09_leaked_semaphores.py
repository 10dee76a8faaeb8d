"""At the end there are warnings of leaked semaphores, and names in /dev/shm."""

import multiprocessing
import os
import sys
from typing import Any

import facts


def hold(things: Any) -> None:
    with things[0]:
        pass


def role_end(how: str) -> None:
    """A program of locks and queues, under `spawn`, that ends somehow."""
    context: Any = multiprocessing.get_context("spawn")
    things = [context.Lock(), context.Queue(), context.Event(), context.Value("i")]
    child = context.Process(target=hold, args=(things,))
    child.start()
    child.join()
    assert child.exitcode == 0
    if how == "exit":
        os._exit(0)
    if how == "killed":
        facts.die()
    sys.exit()


def quiet(how: str, status: int) -> None:
    facts.adopt()
    done = facts.run("role_end", how)
    facts.all_gone()
    assert done.returncode == status, done.returncode
    assert done.stderr == "", done.stderr.strip().splitlines()[-1]


def face_orderly_end() -> None:
    quiet("orderly", 0)


def face_exit_without_clean_up() -> None:
    quiet("exit", 0)


def face_killed() -> None:
    quiet("killed", -9)


def face_its_maker_has_dropped_it() -> None:
    """A lock that was made for a child alone is there when the child begins."""
    context: Any = multiprocessing.get_context("spawn")
    child = context.Process(target=hold, args=([context.Lock()],))
    child.start()
    child.join()
    assert child.exitcode == 0


if __name__ == "__main__":
    facts.choose(globals())
