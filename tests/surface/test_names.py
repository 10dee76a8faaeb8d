"""The same names, signatures and constants as the interpreter's own multiprocessing.

`surface.py` writes down what a package has, each package in a process of its own. What ours lacks,
has otherwise, or has in addition must be in one of the tables below, which say why, and a
reader finds the same in COMPATIBILITY.md. An entry that is no longer true fails, too.

A signature is the same if every call that the original takes is taken here and means the same:
parameters of the same names and kinds in the same order, with the same defaults. Ours may have
more parameters with defaults after them, and a default where the original wants a value.
"""

import functools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PACKAGES = ("multiprocessing", "sidestep")
HERE = Path(__file__).parent
COMPATIBILITY = HERE.parent.parent / "COMPATIBILITY.md"

# Undocumented names of the original that are not there, by module: they are parts of how it works.
MISSING = {
    "connection": ["BUFSIZE", "CONNECTION_TIMEOUT"],
    "forkserver": ["MAXFDS_TO_SEND", "read_signed", "write_signed"],
    "heap": ["Arena", "Heap.free", "rebuild_arena", "reduce_arena"],
    "managers": ["HAS_SHMEM", "ProcessLocalSet", "rebuild_as_list", "reduce_array"],
    "reduction": ["ACKNOWLEDGE"],
    "resource_tracker": ["cleanup_noop"],
    "spawn": ["WINEXE", "WINSERVICE"],
    "synchronize": ["RECURSIVE_MUTEX", "SEMAPHORE", "SemLock", "sem_unlink"],
    "sharedctypes": ["template"],
}
# Names that a module of the original imports from its sisters: they are there, where they belong.
BORROWED = {
    "heap": ["assert_spawning"],
    "managers": ["get_context"],
    "pool": ["get_context", "wait"],
    "queues": ["Finalize", "debug", "info", "is_exiting", "register_after_fork"],
    "sharedctypes": ["assert_spawning"],
    "spawn": ["get_start_method", "set_start_method"],
}
# Signatures and values that differ, each with its reason.
DIFFERENT = {
    # Set when an instance is made; the original has a property of the class.
    "dummy: Value.value": "on the instance",
    # The native class takes anything, so that subclasses may have constructors of their own; the
    # arguments are checked when it is initialised.
    "connection: Connection.()": "checked in __init__",
    # The original takes anything and needs these.
    "connection: XmlClient": "no *args",
    "reduction: ForkingPickler.()": "file before *args",
    "reduction: AbstractReducer.ForkingPickler": "file before *args",
    # The interpreter's mutable default; None means the same.
    "dummy: DummyProcess.()": "kwargs=None",
    "dummy: Process.()": "kwargs=None",
    # Run in children by the package itself, with what its own parts need.
    "forkserver: main": "inner workings",
    "spawn: spawn_main": "inner workings",
    "heap: Heap.()": "inner workings",
    "managers: MakeProxyType": "inner workings",
    "pool: mapstar": "inner workings",
    "pool: starmapstar": "inner workings",
}
if sys.version_info < (3, 12):
    DIFFERENT["connection: MESSAGE_LENGTH"] = "the longer one of newer versions"
# What ours has in addition on every version that lacks it.
MORE = {
    "interrupt": "processes: SIGINT, as from Python 3.14 on",
    "locked": "locks and semaphores: as from Python 3.14 on",
    "recover": "locks: after their owner was killed",
    "acquire": "locks: methods of the class and not of each object",
    "release": "locks: methods of the class and not of each object",
    "put_many": "queues: several items in one call",
    "get_many": "queues: several items in one call",
    "qsize": "SimpleQueue: it is a queue like others",
    "full": "SimpleQueue: it is a queue like others",
    "clear": "list proxies: as from Python 3.13 on",
    "copy": "list proxies: as from Python 3.13 on",
    "fromkeys": "dict proxies: as from Python 3.14 on",
    "set": "managers: as from Python 3.14 on",
    "AbandonedLockError": "the owner of a lock was killed",
    "WorkerLostError": "a worker of a pool was killed",
    "DupSocket": "sockets by a resource sharer: the same in every system's interpreter",
    "SenderLostError": "the process that lends a descriptor is gone",
    "Barrier": "in synchronize's __all__",
    "Empty": "in the queues' __all__",
    "Full": "in the queues' __all__",
    "getfd": "in the resource tracker's __all__",
}


@functools.cache
def surface(package: str) -> dict[str, Any]:
    run = subprocess.run(
        [sys.executable, str(HERE / "surface.py"), package],
        check=True,
        capture_output=True,
        text=True,
    )
    result: dict[str, Any] = json.loads(run.stdout)
    return result


def takes_the_same(theirs: list[list[str]], ours: list[list[str]]) -> bool:
    """Whether every call that fits `theirs` fits `ours` and means the same."""
    by_star = {kind for _, kind, _ in ours if kind.startswith("VAR_")}
    named = [parameter for parameter in ours if not parameter[1].startswith("VAR_")]
    position = 0
    for name, kind, default in theirs:
        if kind.startswith("VAR_"):
            if kind not in by_star:
                return False
            continue
        if position == len(named):
            return False
        our_name, our_kind, our_default = named[position]
        position += 1
        if our_kind != kind or default not in ("", our_default):
            return False
        if our_name != name and kind != "POSITIONAL_ONLY":
            return False
    return all(default for _, _, default in named[position:])


def differences(theirs: Any, ours: Any, where: str) -> list[str]:
    """The places below `where` that ours lacks or has otherwise."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        found = []
        for name, value in theirs.items():
            place = f"{where}.{name}" if ": " in where else f"{where}: {name}"
            if name not in ours:
                found.append(place)
            else:
                found += differences(value, ours[name], place)
        return found
    if isinstance(theirs, list) and isinstance(ours, list):
        if where.endswith(".bases"):
            return [] if theirs == ours else [where]
        return [] if takes_the_same(theirs, ours) else [where]
    # An unknown signature, a property where the original has an attribute.
    return [] if None in (theirs, ours) or theirs == ours else [where]


def allowed() -> set[str]:
    places = set(DIFFERENT)
    for table in (MISSING, BORROWED):
        places |= {f"{module}: {name}" for module, names in table.items() for name in names}
    return places


@pytest.fixture(params=surface(PACKAGES[0]))
def module(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_everything_is_there_and_takes_the_same(module: str) -> None:
    theirs, ours = (surface(package)[module] for package in PACKAGES)
    found = differences(theirs["names"], ours["names"], module)
    # Not every version of Python has every name: entries about absent ones say nothing.
    known = {place for place in allowed() if place.startswith(f"{module}: ")}
    assert sorted(set(found) - known) == []
    entries = {place.partition(": ")[2].partition(".")[0] for place in known - set(found)}
    assert sorted(entries & theirs["names"].keys()) == [], "no difference any more"


def test_all_lists_the_same(module: str) -> None:
    theirs, ours = (set(surface(package)[module]["all"]) for package in PACKAGES)
    assert sorted(theirs - ours) == []


def test_what_is_more_is_known(module: str) -> None:
    theirs, ours = (surface(package)[module]["names"] for package in PACKAGES)
    more = set(ours) & set(surface("sidestep")[module]["all"]) - set(theirs)
    for name, members in theirs.items():
        if isinstance(members, dict) and isinstance(ours.get(name), dict):
            more |= set(ours[name]) - set(members)
    # The connections of `dummy` have the methods in the class.
    if module == "dummy.connection":
        return
    assert sorted(more - set(MORE)) == []


def test_the_document_names_tests_that_exist() -> None:
    text = COMPATIBILITY.read_text(encoding="utf-8")
    named = re.findall(r"`(\w+)::(test_\w+)`", text)
    assert named
    for file, function in named:
        (path,) = HERE.parent.glob(f"*/test_{file}.py")
        assert f"\ndef {function}(" in path.read_text(encoding="utf-8"), (file, function)


def test_the_document_has_each_missing_name() -> None:
    text = COMPATIBILITY.read_text(encoding="utf-8")
    documented = set(re.findall(r"`([\w.]+?)(?:\(\))?`", text))
    absent = [
        f"{module}.{name}"
        for module, names in MISSING.items()
        for name in names
        if f"{module}.{name}" not in documented
    ]
    assert absent == []
