"""Logging, output, paths and views of memory: deadlocks and noise in odd places."""

import contextlib
import logging
import logging.handlers
import multiprocessing
import os
import sys
import tempfile
import threading
import warnings
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import facts


def nothing() -> None:
    pass


def role_print_all_the_time() -> None:
    warnings.simplefilter("ignore", DeprecationWarning)
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            sys.stdout.write("x" * 1000)
            sys.stdout.flush()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(60):
            child = multiprocessing.get_context("fork").Process(target=nothing)
            child.start()
            child.join()
            assert child.exitcode == 0
    finally:
        ended.set()


def face_output_during_a_fork() -> None:
    """Threads write all the time; the children, forked meanwhile, flush at their end."""
    done = facts.run("role_print_all_the_time")
    assert done.returncode == 0, done.stderr


def log_and_end(queue: Any) -> None:
    logger = multiprocessing.get_logger()
    logger.addHandler(logging.handlers.QueueHandler(queue))
    logger.setLevel(logging.DEBUG)
    logger.info("from the child")


def face_the_packages_own_log_through_a_queue() -> None:
    """What the package itself logs goes through a queue of the package."""
    queue: Any = multiprocessing.Queue()
    child = multiprocessing.Process(target=log_and_end, args=(queue,))
    child.start()
    child.join()
    assert child.exitcode == 0
    messages = []
    while not queue.empty():
        messages.append(queue.get().getMessage())
    assert "from the child" in messages


def log_much(queue: Any) -> None:
    logger = logging.getLogger("child")
    logger.propagate = False
    logger.addHandler(logging.handlers.QueueHandler(queue))
    for number in range(2000):
        logger.warning("%d %s", number, "x" * 100)


def face_log_records_that_nobody_reads_yet() -> None:
    queue: Any = multiprocessing.Queue()
    children = [multiprocessing.Process(target=log_much, args=(queue,)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert sum(1 for _ in range(4000) if queue.get()) == 4000


def log_once(text: str) -> None:
    logging.getLogger("child").warning(text)


def face_records_of_children_reach_the_parent() -> None:
    """The handlers of the parent get what its children log, whatever started them."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    methods = multiprocessing.get_all_start_methods()
    # The option that the standard library does not have.
    with getattr(multiprocessing, "relay_logging", contextlib.nullcontext)():
        for method in methods:
            context: Any = multiprocessing.get_context(method)
            child = context.Process(target=log_once, args=(method,))
            child.start()
            child.join()
    assert sorted(said) == sorted(methods), said


def long_path() -> None:
    """Make the directory for temporary files one of a long name."""
    tempfile.tempdir = os.path.join(tempfile.gettempdir(), "x" * 120)
    os.mkdir(tempfile.tempdir)


def face_long_path_for_temporary_files() -> None:
    """A manager starts, wherever temporary files are."""
    long_path()
    with multiprocessing.Manager() as manager:
        assert list(manager.list([1, 2])) == [1, 2]


def face_long_path_and_fork_server() -> None:
    long_path()
    child = multiprocessing.get_context("forkserver").Process(target=nothing)
    child.start()
    child.join()
    assert child.exitcode == 0


def role_view() -> None:
    block = SharedMemory(create=True, size=10)
    block.unlink()
    assert block.buf is not None
    view = block.buf[2:4]
    view[:] = b"ab"
    del block
    assert bytes(view) == b"ab"


def face_view_that_outlives_its_block() -> None:
    """A view of shared memory stays good, and the end of its block makes no noise."""
    done = facts.run("role_view")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr.strip().splitlines()[-1]


if __name__ == "__main__":
    facts.choose(globals())
