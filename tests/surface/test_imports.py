"""Importing the package costs little more than importing the original.

Counted in modules, as that is the same on every machine; `make bench` has the milliseconds.
"""

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest

import sidestep

PLACE = str(Path(sidestep.__file__).parent.parent)
MODULES = ("", "connection", "pool", "queues", "shared_memory", "sharedctypes", "synchronize")

IMPORT = """
import importlib, json, sys
before = set(sys.modules)
sys.path.append(sys.argv[1])
importlib.import_module(sys.argv[2])
print(json.dumps(sorted(set(sys.modules) - before)))
"""

# What may be imported beyond the original's imports. Each has a reason to come with any program:
# `contextlib` is small and comes with nearly everything, `weakref` keeps the set of children,
# `hmac` (and what it needs) is what connections are made of; ends of queues can be waited for
# beside them.
SMALL = {"__future__", "contextlib", "weakref"}
BEYOND = {
    "connection": {"_blake2", "_hashlib", "hashlib", "hmac", "_heapq", "_queue", "heapq", "queue"},
}


@functools.cache
def imported(name: str) -> frozenset[str]:
    """The modules that a bare interpreter has after an import, without those it had before."""
    # Without site-packages: what lies there may import anything at the start.
    command = [sys.executable, "-I", "-S", "-c", IMPORT, PLACE, name]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return frozenset(json.loads(run.stdout))


@pytest.mark.parametrize("module", MODULES)
def test_an_import_brings_no_heavy_modules(module: str) -> None:
    theirs = imported(f"multiprocessing.{module}".rstrip("."))
    ours = imported(f"sidestep.{module}".rstrip("."))
    foreign = {
        name for name in ours if name.partition(".")[0] not in ("multiprocessing", "sidestep")
    }
    assert sorted(foreign - theirs - SMALL - BEYOND.get(module, set())) == []


def test_the_package_alone_brings_few_modules_of_its_own() -> None:
    ours = {name for name in imported("sidestep") if name.startswith("sidestep")}
    beside = {"sidestep._later", "sidestep._original"}
    expected = {f"sidestep.{name}" for name in ("context", "process", "reduction")}
    assert ours - beside == expected | {"sidestep"}


def test_the_package_alone_loads_no_engine() -> None:
    assert "sidestep._sidestep" not in imported("sidestep")


def test_a_worker_brings_only_what_it_needs_to_run_tasks() -> None:
    worker = imported("sidestep._worker")
    assert "sidestep._worker" in worker
    assert not worker & {"sidestep.pool", "sidestep.queues", "contextlib", "enum", "threading"}


def test_types_for_readers_are_not_imported() -> None:
    for module in MODULES:
        assert "typing" not in imported(f"sidestep.{module}".rstrip(".")), module
