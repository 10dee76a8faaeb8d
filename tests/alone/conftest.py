"""How these tests run programs: as a user does, in processes of their own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import sidestep

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the programs' interpreters are kept, for the whole session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def environment(cache: Path) -> dict[str, str]:
    """An environment in which this interpreter finds the package, as the tests do."""
    place = Path(sidestep.__file__).parent.parent
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**inherited, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(place)}


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Run:
    """Run `python -m sidestep ...`, or with `plain` just `python ...`, in an empty directory."""

    def run(
        *arguments: str, plain: bool = False, flags: tuple[str, ...] = (), **options: object
    ) -> "subprocess.CompletedProcess[str]":
        module = () if plain else ("-m", "sidestep")
        defaults = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [sys.executable, *flags, *module, *arguments],
            **{**defaults, **options},  # type: ignore[call-overload]
        )
        return done

    return run


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., str]:
    """Write a program into the directory that `run` runs in, and return its name."""

    def script(text: str, name: str = "program.py") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return name

    return script
