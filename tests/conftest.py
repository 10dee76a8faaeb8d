"""What holds for every test: it leaves no process, no descriptor and no shared name behind."""

import gc
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidestep import _sidestep

# How long something that is on its way out may take. A watchdog only: the checks return as soon
# as nothing is left.
PATIENCE_S = 10.0


def pytest_configure() -> None:
    """Ctrl-C shall work in what the tests start, though it may be ignored where they run."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What has been imported by now stays: the collector need not look at it around each test."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def life_line() -> None:
    """Made at the first need and kept until the process ends: so before the first comparison."""
    _sidestep.LifeLines(True).abandon()


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Compare children, open descriptors and /dev/shm before and after the test."""
    gc.collect()
    children, descriptors, names = own_children(), open_descriptors(), shared_names()
    yield
    left = leftovers(children, descriptors, names)
    deadline = time.monotonic() + PATIENCE_S
    while left and time.monotonic() < deadline:
        # What is left may be ending just now, or may hang on a reference cycle.
        gc.collect()
        time.sleep(0.01)
        left = leftovers(children, descriptors, names)
    if left:
        end_children(own_children().keys() - children.keys() - helper_pids())
        pytest.fail("the test left behind:\n  " + "\n  ".join(left), pytrace=False)


def leftovers(
    children: dict[int, str], descriptors: dict[int, str], names: frozenset[str]
) -> list[str]:
    """One line for each thing that is there now and was not there before the test."""
    helpers = helper_pids()
    kept = helper_descriptors()
    left = [
        f"child process {pid}: {what}"
        for pid, what in own_children().items()
        if pid not in children and pid not in helpers
    ]
    left += [
        f"descriptor {number}: {target}"
        for number, target in open_descriptors().items()
        if descriptors.get(number) != target and number not in kept and not is_arena(target)
    ]
    left += [
        f"/dev/shm/{name}"
        for name in sorted(shared_names() - names)
        if not used_by_strangers(f"/dev/shm/{name}")
    ]
    return left


# --- processes ------------------------------------------------------------------------------


def own_children() -> dict[int, str]:
    """Children of this process, zombies included: pid -> state and command line."""
    found = {}
    own = os.getpid()
    # Without Path, which would take three times as long, twice for each test.
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
                # The command's name stands in brackets and may hold anything, blanks included.
                state, parent = file.read().rpartition(b")")[2].split(None, 2)[:2]
            if int(parent) != own:
                continue
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        except (FileNotFoundError, ProcessLookupError):
            continue
        line = command.decode(errors="replace").strip() or "no command line"
        found[int(pid)] = f"state {state.decode()}, {line}"
    return found


def end_children(pids: set[int]) -> None:
    """Out of the way of the tests that follow; the one that left them has failed already."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def helpers() -> Iterator[tuple[object, str, str]]:
    """The fork server and the tracker of named segments: made once, and kept by design."""
    for package in ("sidestep", "multiprocessing"):
        for module, instance, pid, descriptor in (
            ("forkserver", "_forkserver", "_forkserver_pid", "_forkserver_alive_fd"),
            ("resource_tracker", "_resource_tracker", "_pid", "_fd"),
        ):
            found = sys.modules.get(f"{package}.{module}")
            if found is not None and hasattr(found, instance):
                yield getattr(found, instance), pid, descriptor


def helper_pids() -> set[int]:
    pids = {getattr(helper, pid, None) for helper, pid, _ in helpers()}
    return {pid for pid in pids if isinstance(pid, int)}


# --- descriptors ----------------------------------------------------------------------------


def open_descriptors() -> dict[int, str]:
    """Open descriptors of this process: number -> what it refers to."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the one that listed the folder
            continue
    return found


def helper_descriptors() -> set[int]:
    numbers = {getattr(helper, descriptor, None) for helper, _, descriptor in helpers()}
    numbers |= {getattr(helper, "_folder", (0, None))[1] for helper, _, _ in helpers()}
    return {number for number in numbers if isinstance(number, int)}


def is_arena(target: str) -> bool:
    """The family's memory, which is made at the first need and kept until the process ends."""
    return target.startswith("/memfd:sidestep")


# --- names in /dev/shm ----------------------------------------------------------------------


def shared_names() -> frozenset[str]:
    try:
        # The package makes no semaphores with names: those are other programs', come and go.
        names = {name for name in os.listdir("/dev/shm") if not name.startswith("sem.")}
        # Nor is the tracker's folder of notes left: it lives as long as the tracker.
        return frozenset(
            names - {f"sidestep-{getattr(h, '_folder', (0,))[0]}" for h, _, _ in helpers()}
        )
    except FileNotFoundError:
        return frozenset()


def used_by_strangers(path: str) -> bool:
    """Whether a process that does not descend from this one has the file open or mapped.

    Other programs on the machine make shared memory too; theirs is no fault of the test.
    """
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            mapped = path in (entry / "maps").read_text()
            opened = mapped or any(
                os.readlink(descriptor) == path for descriptor in (entry / "fd").iterdir()
            )
        except OSError:
            continue
        if opened and not descends_from_here(int(entry.name)):
            return True
    return False


def descends_from_here(pid: int) -> bool:
    while pid > 1:
        if pid == os.getpid():
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            return False
    return False
