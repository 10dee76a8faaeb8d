"""A helper process removes shared memory that others still use."""

import multiprocessing
import subprocess
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import facts


def look(name: str) -> None:
    block = SharedMemory(name)
    assert block.buf is not None and bytes(block.buf[:3]) == b"abc"
    block.close()


def role_look_and_stay(name: str) -> None:
    look(name)
    block = SharedMemory(name)
    print("ready", flush=True)
    input()
    block.close()


def made() -> SharedMemory:
    block = SharedMemory(create=True, size=100)
    assert block.buf is not None
    block.buf[:3] = b"abc"
    return block


def still_there(block: SharedMemory) -> None:
    look(block.name)


def removed(block: SharedMemory) -> None:
    block.close()
    try:
        block.unlink()
    except FileNotFoundError:
        pass


def after_another_program(kill: bool) -> None:
    facts.adopt()
    block = made()
    try:
        with subprocess.Popen(
            facts.command("role_look_and_stay", block.name),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as other:
            assert other.stdout is not None and other.stdin is not None
            assert other.stdout.readline() == b"ready\n"
            helpers = facts.children(other.pid)
            if kill:
                other.kill()
            else:
                other.stdin.write(b"\n")
                other.stdin.close()
            other.wait()
        # What a helper of it does, if it has any, it has done when it is gone.
        for pid in helpers:
            facts.gone(pid)
        still_there(block)
    finally:
        removed(block)


def face_another_program_has_looked() -> None:
    after_another_program(kill=False)


def face_another_program_was_killed() -> None:
    after_another_program(kill=True)


def face_a_child_has_looked() -> None:
    """A child of any start method opens and closes the block; it is its parent's."""
    block = made()
    try:
        for method in multiprocessing.get_all_start_methods():
            context: Any = multiprocessing.get_context(method)
            child = context.Process(target=look, args=(block.name,))
            child.start()
            child.join()
            assert child.exitcode == 0
            still_there(block)
    finally:
        removed(block)


def role_quiet() -> None:
    """Opened by both, removed by the child: nothing is left to say."""
    block = made()
    child = multiprocessing.get_context("spawn").Process(target=look_and_remove, args=(block.name,))
    child.start()
    child.join()
    block.close()


def look_and_remove(name: str) -> None:
    block = SharedMemory(name)
    block.close()
    block.unlink()


def face_no_false_alarm() -> None:
    """Two open it, one removes it: neither warnings nor tracebacks of a helper."""
    done = facts.run("role_quiet")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


if __name__ == "__main__":
    facts.choose(globals())
