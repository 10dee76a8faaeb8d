"""What the children of the life line tests do."""

import os
import signal
import threading
from pathlib import Path
from typing import NoReturn

from process_children import tell

import sidestep


def sleep(place: Path) -> NoReturn:
    """Say that the process runs, as a file whose name is its number."""
    tell(place / str(os.getpid()), sidestep.current_process().name)
    while True:
        signal.pause()


def have_children(place: Path, method: str) -> NoReturn:
    """Have two children, whatever this process is."""
    ctx = sidestep.get_context(method)
    for daemon in (False, True):
        ctx.Process(target=sleep, args=(place,), daemon=daemon).start()
    sleep(place)


def have_generations(place: Path, method: str) -> NoReturn:
    """Have two daemonic children with two children each."""
    ctx = sidestep.get_context(method)
    for _ in range(2):
        ctx.Process(target=have_children, args=(place, method), daemon=True).start()
    sleep(place)


def have_linked_child(place: Path, method: str) -> NoReturn:
    """Have a child of no daemonic kind which wants to go with its parent, and one of its own."""
    ctx = sidestep.get_context(method)
    ctx.Process(target=have_heir, args=(place, method), dies_with_parent=True).start()
    sleep(place)


def have_heir(place: Path, method: str) -> NoReturn:
    child = sidestep.get_context(method).Process(target=sleep, args=(place,))
    assert child.dies_with_parent
    assert not child.daemon
    child.start()
    sleep(place)


def survive(place: Path) -> None:
    """Outlive the parent, and say so."""
    tell(place / str(os.getpid()), "runs")
    parent = sidestep.parent_process()
    assert parent is not None
    parent.join()
    tell(place / "survived", os.getpid())


def have_survivor(place: Path, method: str) -> NoReturn:
    ctx = sidestep.get_context(method)
    ctx.Process(target=survive, args=(place,)).start()
    sleep(place)


def start_in_thread(place: Path, method: str) -> None:
    """Let the thread that starts the child end, and ask the child for a sign of life then."""
    ctx = sidestep.get_context(method)
    ours, theirs = ctx.Pipe()
    child = ctx.Process(target=echo, args=(theirs,), daemon=True)
    thread = threading.Thread(target=child.start)
    thread.start()
    thread.join()
    ours.send("are you there?")
    tell(place / "answer", ours.recv())
    ours.close()
    child.join()


def echo(connection: "sidestep.connection.Connection") -> None:
    connection.send(connection.recv())


def close_everything(place: Path) -> NoReturn:
    """Become a daemon in the old way, with a child before and one after it."""
    ctx = sidestep.get_context("fork")
    ctx.Process(target=signal.pause, daemon=True).start()
    os.closerange(3, 1024)
    # Not to be taken for the line's numbers.
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]
    ctx.Process(target=sleep, args=(place,), daemon=True).start()
    assert all(os.readlink(f"/proc/self/fd/{fd}") == os.devnull for fd in files)
    sleep(place)
