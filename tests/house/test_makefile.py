"""On a machine that lacks something, the first line of output says what."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("bash", "sh", "make", "sed", "find", "dirname", "rm", "mkdir", "touch", "echo")


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder of programs that is the whole PATH: everything that is needed, to take away from."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        if found is not None:  # echo may be known to the shell alone
            (programs / tool).symlink_to(found)
    script(programs / "cargo", "echo cargo 1.88.0")
    script(programs / "cc", "exit 0")
    script(programs / "python3", f'exec "{sys.executable}" "$@"')
    return programs


OLD_PYTHON = """case "$2" in
*sys.exit*) exit 1 ;;
*print*) echo 3.9 ;;
esac"""


def first_line(machine: Path, target: str, *arguments: str) -> str:
    """What `make` says first; it must fail, and soon."""
    # A fresh copy of what make reads, so that the stamps of this working copy play no part.
    copy = machine.parent / "clone"
    if not copy.exists():
        copy.mkdir()
        for file in ROOT.iterdir():
            if file.is_file():
                shutil.copy(file, copy)
        shutil.copytree(ROOT / "scripts", copy / "scripts")
        (copy / "crates").mkdir()
        (copy / "python").mkdir()
    environment = {"PATH": str(machine), "HOME": str(machine.parent), "LC_ALL": "C"}
    done = subprocess.run(
        ["make", "--no-print-directory", target, *arguments],
        cwd=copy,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert not (copy / ".venv").exists()
    return done.stdout.splitlines()[0]


@pytest.mark.parametrize("target", ["demo", "test", "check", "bench"])
def test_without_cargo(machine: Path, target: str) -> None:
    (machine / "cargo").unlink()
    assert first_line(machine, target).startswith("cargo is missing: install Rust 1.")


def test_with_an_old_cargo(machine: Path) -> None:
    script(machine / "cargo", "echo cargo 1.70.0")
    assert first_line(machine, "demo").startswith("Rust is too old: cargo is 1.70, and ")


def test_without_a_compiler(machine: Path) -> None:
    (machine / "cc").unlink()
    assert first_line(machine, "demo").startswith("A C compiler is missing: ")


def test_without_python(machine: Path) -> None:
    (machine / "python3").unlink()
    assert first_line(machine, "demo").startswith("Python is missing: ")


@pytest.mark.parametrize("arguments", [(), ("PY=python3",)])
def test_with_an_old_python(machine: Path, arguments: tuple[str, ...]) -> None:
    script(machine / "python3", OLD_PYTHON)
    line = first_line(machine, "test", *arguments)
    assert line.startswith("Python is too old: 'python3' is 3.9, and sidestep needs 3.11 or newer")


def test_a_newer_python_beside_an_old_one_is_found(machine: Path) -> None:
    (machine / "python3").rename(machine / "python3.11")
    script(machine / "python3", OLD_PYTHON)
    done = subprocess.run(
        [str(ROOT / "scripts" / "find-python")],
        env={"PATH": str(machine), "HOME": str(machine)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = os.path.realpath(done.stdout.strip())
    assert found == os.path.realpath(sys.executable)


def test_a_python_that_cannot_make_environments(machine: Path) -> None:
    script(machine / "python3", 'case "$2" in *print*) echo 3.12 ;; *ensurepip*) exit 1 ;; esac')
    line = first_line(machine, "demo", "PY=python3")
    assert line.startswith("Python 3.12 cannot make virtual environments: ")
