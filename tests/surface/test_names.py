"""The same names, signatures and constants as the interpreter's own multiprocessing.

`surface.py` writes down what a package has, each package in a process of its own. What ours lacks,
has otherwise, or has in addition must be in the tables of COMPATIBILITY.md's section "Names",
which this test reads; a row there that is not true (any more) fails, too.

A signature is the same if every call that the original takes is taken here and means the same:
parameters of the same names and kinds in the same order, with the same defaults. Ours may have
more parameters with defaults after them, and a default where the original wants a value.
"""

import functools
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

PACKAGES = ("multiprocessing", "sidestep")
HERE = Path(__file__).parent
COMPATIBILITY = HERE.parent.parent / "COMPATIBILITY.md"
MISSING, DIFFERENT, MORE = "Not there", "Otherwise", "In addition"
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"


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


# --- what COMPATIBILITY.md says ---------------------------------------------------------------


@functools.cache
def section(heading: str) -> str:
    """The text below a heading, up to the next one of its rank."""
    text = COMPATIBILITY.read_text(encoding="utf-8")
    (found,) = re.findall(rf"^{heading}\n(.*?)(?=^##? |\Z)", text, re.MULTILINE | re.DOTALL)
    assert isinstance(found, str)
    return found


@functools.cache
def listed(kind: str) -> list[str]:
    """The patterns in the table of that kind which hold for this version of Python.

    Of a row `| name, other name (3.11) | reason |`, the names in code style.
    """
    _, _, rest = section("## Names").partition(f"### {kind}\n")
    rows = [line for line in rest.partition("\n### ")[0].splitlines() if line.startswith("| ")]
    patterns = []
    for row in rows[1:]:
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert len(cells) == 2 and all(cells), f"not a name and a reason: {row}"
        for pattern, versions in re.findall(r"`([^`]+)`(?: \(([\d., ]+)\))?", cells[0]):
            if not versions or VERSION in versions.split(", "):
                patterns.append(pattern)
    assert patterns
    return patterns


def is_listed(kind: str, place: str) -> bool:
    return any(fnmatchcase(place, pattern) for pattern in listed(kind))


# --- what is so -------------------------------------------------------------------------------


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


def place_of(module: str, name: str = "") -> str:
    """How the tables call a name: those of the package, and of objects, stand by themselves."""
    return name if module in ("the package", "objects") else f"{module}.{name}".rstrip(".")


def walk(theirs: Any, ours: Any, place: str) -> Iterator[tuple[str, str]]:
    """(kind, place) of each difference."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for name in {**theirs, **ours}:
            below = place if name == "()" else f"{place}.{name}".lstrip(".")
            if name not in ours:
                yield MISSING, below
            elif name in theirs:
                yield from walk(theirs[name], ours[name], below)
            else:
                yield MORE, below
    elif isinstance(theirs, list) and isinstance(ours, list) and not place.endswith(".bases"):
        if not takes_the_same(theirs, ours):
            yield DIFFERENT, place
        known = {name for name, _, _ in theirs}
        for name, kind, _ in ours:
            if name not in known and not kind.startswith("VAR_") and takes_the_same(theirs, ours):
                yield MORE, f"{place}({name})"
    elif theirs not in ("unknown", ours):
        # Where the original tells no signature, ours may; not the other way round.
        yield DIFFERENT, place


def differences(module: str) -> list[tuple[str, str]]:
    theirs, ours = (surface(package)[module] for package in PACKAGES)
    # What a module of ours has besides the interface is its own affair.
    names = {
        name: value
        for name, value in ours["names"].items()
        if name in theirs["names"] or name in ours["all"]
    }
    start = place_of(module)
    found = list(walk(theirs["names"], names, start))
    found += [
        (MISSING, f"{place_of(module, name)} in __all__")
        for name in sorted(set(theirs["all"]) - set(ours["all"]))
    ]
    return found


@pytest.fixture(params=sorted(surface(PACKAGES[0])))
def module(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_every_difference_is_listed(module: str) -> None:
    assert module in surface("sidestep")
    unlisted = [found for found in differences(module) if not is_listed(*found)]
    assert sorted(unlisted) == []


def test_every_listed_difference_exists() -> None:
    found = [difference for module in surface(PACKAGES[0]) for difference in differences(module)]
    there = set(all_places("multiprocessing"))
    stale = []
    for kind in (MISSING, DIFFERENT, MORE):
        for pattern in listed(kind):
            exists = any(kind == k and fnmatchcase(place, pattern) for k, place in found)
            # Not every version has every name: of one that is absent, or has come, nothing is said.
            of_version = any(fnmatchcase(place, pattern) for place in there) == (kind == MORE)
            if not exists and not of_version:
                stale.append((kind, pattern))
    assert stale == []


def all_places(package: str) -> Iterator[str]:
    for module, content in surface(package).items():
        for name, members in content["names"].items():
            place = place_of(module, name)
            yield place
            if isinstance(members, dict):
                for member, signature in members.items():
                    yield f"{place}.{member}"
                    yield from parameters(f"{place}.{member}".removesuffix(".()"), signature)
            else:
                yield from parameters(place, members)


def parameters(place: str, signature: Any) -> Iterator[str]:
    if isinstance(signature, list):
        yield from (f"{place}({p[0]})" for p in signature if isinstance(p, list))


def test_the_document_names_tests_that_exist() -> None:
    text = COMPATIBILITY.read_text(encoding="utf-8")
    named = re.findall(r"`(\w+)::(test_\w+)`", text)
    assert named
    for file, function in named:
        (path,) = HERE.parent.glob(f"*/test_{file}.py")
        assert f"\ndef {function}(" in path.read_text(encoding="utf-8"), (file, function)


def test_every_module_says_what_it_exports() -> None:
    """The interpreter's own tests ask that of each file beside `__init__.py`."""
    import sidestep

    for path in Path(sidestep.__file__).parent.glob("*.py"):
        if path.stem not in ("__init__", "popen_spawn_win32"):
            module = importlib.import_module(f"sidestep.{path.stem}")
            assert all(hasattr(module, name) for name in module.__all__), path
