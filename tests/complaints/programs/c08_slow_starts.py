"""spawn and forkserver start slowly: preloading does nothing, and says nothing."""

import multiprocessing
import os
import stat
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any

import facts

# Each process that runs this file adds a letter; the children of a face run it, too.
if "SIDE_COUNT" in os.environ:
    with open(os.environ["SIDE_COUNT"], "a") as file:
        file.write("m" if __name__ == "__main__" else "c")


def nothing(data: bytes = b"") -> None:
    pass


def face_main_module_is_preloaded() -> None:
    """The fork server runs the main module once, and not each of its children again."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SIDE_COUNT"] = count = os.path.join(folder, "count")
        context = multiprocessing.get_context("forkserver")
        for _ in range(3):
            child = context.Process(target=nothing)
            child.start()
            child.join()
            assert child.exitcode == 0
        assert Path(count).read_text() == "c", f"ran {len(Path(count).read_text())} times"


def tell_the_pid_of(module: str, queue: Any) -> None:
    queue.put(__import__(module).pid)


def face_preload_from_the_path_of_the_program() -> None:
    """A module that only the program's `sys.path` leads to is imported by the server."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "preloaded_one.py").write_text("import os\npid = os.getpid()\n")
        sys.path.insert(0, folder)
        multiprocessing.set_forkserver_preload(["preloaded_one"])
        context: Any = multiprocessing.get_context("forkserver")
        queue = context.SimpleQueue()
        pids = set()
        for _ in range(2):
            child = context.Process(target=tell_the_pid_of, args=("preloaded_one", queue))
            child.start()
            pids.add(queue.get())
            child.join()
        assert len(pids) == 1, "each child has imported the module by itself"


def face_failed_preload_is_told() -> None:
    """A preload that cannot be imported is a warning; here warnings are errors."""
    warnings.simplefilter("error", RuntimeWarning)
    multiprocessing.set_forkserver_preload(["there_is_no_such_module"])
    child = multiprocessing.get_context("forkserver").Process(target=nothing)
    try:
        child.start()
    except Exception as error:
        assert "there_is_no_such_module" in str(error), error
    else:
        child.join()
        raise AssertionError("the failed preload was passed over in silence")


def face_start_waits_for_no_reader() -> None:
    """`start` returns before the child has read its arguments, however large they are."""
    with tempfile.TemporaryDirectory() as folder:
        gate = os.path.join(folder, "gate")
        os.mkfifo(gate)
        # An interpreter that begins when somebody has opened the gate.
        slow = Path(folder, "slow-python")
        slow.write_text(f'#!/bin/sh\nread line <"{gate}"\nexec "{sys.executable}" "$@"\n')
        slow.chmod(slow.stat().st_mode | stat.S_IXUSR)
        context = multiprocessing.get_context("spawn")
        context.set_executable(str(slow))
        child = context.Process(target=nothing, args=(bytes(10_000_000),))
        child.start()
        Path(gate).write_text("go\n")
        child.join()
        assert child.exitcode == 0


def face_many_threads_start_children() -> None:
    """Children that are started by several threads at once do not wait for each other's data."""
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=nothing, args=(bytes(1_000_000),)) for _ in range(4)]
    threads = [threading.Thread(target=child.start) for child in children]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for child in children:
        child.join()
        assert child.exitcode == 0


if __name__ == "__main__":
    facts.choose(globals())
