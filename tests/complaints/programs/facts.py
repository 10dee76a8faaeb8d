"""What the programs share: the choice of a face, and facts about other processes.

Nothing here knows whose `multiprocessing` is in use.
"""

import ctypes
import itertools
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

PR_SET_CHILD_SUBREAPER = 36

#: The exit status of a face that cannot be tried.
IMPOSSIBLE = 77


def choose(names: dict[str, Any]) -> None:
    """Run the face that the command line names, or all of them in turn.

    A face that returns has found nothing to complain of. Roles are parts of a face that need a
    program of their own.
    """
    # A program that is meant to crash leaves no core file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What a shell has started in the background ignores Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if len(sys.argv) > 1:
        names[sys.argv[1]](*sys.argv[2:])
        return
    for name in [name for name in names if name.startswith("face_")]:
        names[name]()
        print("fine:", name.removeprefix("face_").replace("_", " "))


def command(role: str, *arguments: str) -> list[str]:
    """The command that runs a role of this program in a process of its own."""
    return [sys.executable, sys.argv[0], role, *arguments]


def run(role: str, *arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run a role of this program to its end, and return what it has said."""
    return subprocess.run(command(role, *arguments), capture_output=True, text=True, **options)


def impossible(reason: str) -> NoReturn:
    """End this face: the machine does not allow to try it."""
    print(reason, file=sys.stderr)
    sys.exit(IMPOSSIBLE)


def die() -> NoReturn:
    """End this process as the kernel does when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def asleep(pid: int) -> None:
    """Wait until the process sleeps, and has not run for a while."""
    before, quiet = "", 0
    while quiet < 5:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        with open(f"/proc/{pid}/status") as file:
            switches = "".join(line for line in file if "ctxt_switches" in line)
        # A waiter that looks up now and then counts as asleep: only its time must stand still.
        now = " ".join(fields[11:13]) + switches.partition("nonvoluntary")[2]
        quiet = quiet + 1 if fields[0] == "S" and now == before else 0
        before = now
        time.sleep(0.01)


def signal_when_asleep(pid: int, number: int) -> None:
    asleep(pid)
    os.kill(pid, number)


def adopt() -> None:
    """From now on orphans among the descendants become children of this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def children(pid: int) -> list[int]:
    """The processes that the process has started, or adopted, and not yet buried."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def gone(pid: int) -> None:
    """Wait until the process has ended."""
    try:
        watch = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    select.select([watch], [], [])
    os.close(watch)


def all_gone() -> None:
    """Wait until this process has no child any more, its own or adopted."""
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass


def run_with_shared_memory_of(size: str, role: str) -> "subprocess.CompletedProcess[str]":
    """Run a role with a /dev/shm of its own, of so many bytes, as a container has it."""
    mount = f"mount -t tmpfs -o size={size} none /dev/shm"
    if subprocess.run(["unshare", "-Urm", "sh", "-c", mount], capture_output=True).returncode != 0:
        impossible("no /dev/shm of one's own: unshare or mount is not allowed here")
    inside = ["unshare", "-Urm", "sh", "-c", f'{mount} && exec "$@"', "sh", *command(role)]
    return subprocess.run(inside, capture_output=True, text=True)


@contextmanager
def few_descriptors(number: int) -> Iterator[None]:
    """Let this process open no more than so many descriptors, beyond those that it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {int(name) for name in os.listdir("/proc/self/fd")}
    free = (it for it in itertools.count() if it not in taken)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(itertools.islice(free, number, None)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
