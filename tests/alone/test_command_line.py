"""The command line of `python -m sidestep`, and its doctor."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Run


def test_help_and_version(run: Run) -> None:
    done = run("--help")
    assert done.returncode == 0 and "--start-method" in done.stdout and "doctor" in done.stdout
    assert run("-h").stdout == done.stdout
    assert run("--version").stdout.startswith("sidestep ")


def test_a_wrong_option_is_refused(run: Run) -> None:
    done = run("--start-method", "threads", "program.py")
    assert done.returncode == 2 and "'threads'" in done.stderr and "forkserver" in done.stderr
    assert run("--start", "fork", "program.py").returncode == 2
    assert run("--unknown").returncode == 2


def test_without_arguments_the_program_comes_from_standard_input(run: Run) -> None:
    done = run(input="import multiprocessing; print(multiprocessing.__name__)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "sidestep\n", "")


def test_both_ways_to_write_the_module_option(run: Run) -> None:
    for flags in (("-msidestep",), ("-Bm", "sidestep"), ("-Bmsidestep",), ("-B", "-msidestep")):
        done = run(
            "-c", "import sys; print(sys.flags.dont_write_bytecode)", plain=True, flags=flags
        )
        expected = (
            "1" if "B" in "".join(flags) or os.environ.get("PYTHONDONTWRITEBYTECODE") else "0"
        )
        assert (done.stdout.strip(), done.stderr) == (expected, "")


def test_a_wrong_start_method_in_the_environment_is_named(
    run: Run, environment: dict[str, str]
) -> None:
    environment["SIDESTEP_START_METHOD"] = "thread"
    done = run("-c", "import sidestep", plain=True)
    assert done.returncode == 1 and "SIDESTEP_START_METHOD says 'thread'" in done.stderr


def test_the_doctor_finds_all_in_order(run: Run) -> None:
    done = run("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\neverything works\n")
    assert os.uname().release in done.stdout

    done = run("doctor", "--json")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert report["problems"] == []
    assert report["versions"]["python"] == sys.version
    assert report["start_methods"][0] == report["default_start_method"]
    assert all(feature["refused"] is None for feature in report["features"])
    assert {"memfd_create", "pidfd_open", "robust futex"} <= {
        feature["name"] for feature in report["features"]
    }
    assert Path(report["shadow"]).exists()


def test_the_doctor_says_where_the_ceiling_comes_from(
    run: Run, environment: dict[str, str]
) -> None:
    environment["SIDESTEP_ARENA_LIMIT"] = "64M"
    arena = json.loads(run("doctor", "--json").stdout)["arena"]
    assert arena["ceiling"] == 64 << 20
    assert "SIDESTEP_ARENA_LIMIT" in arena["reason"]

    del environment["SIDESTEP_ARENA_LIMIT"]
    limit = 2 << 30

    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    done = run("doctor", "--json", preexec_fn=little_room)
    report = json.loads(done.stdout)
    assert report["limits"]["RLIMIT_AS"] == limit
    assert report["arena"]["ceiling"] == limit // 8
    assert "address space" in report["arena"]["reason"]


def test_the_doctor_heeds_the_size_of_files(run: Run) -> None:
    def files_of(size: int) -> Callable[[], None]:
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    assert run("-c", "pass").returncode == 0
    report = json.loads(run("doctor", "--json", preexec_fn=files_of(40 << 20)).stdout)
    assert report["problems"] == []
    assert report["arena"]["ceiling"] == 24 << 20
    assert "RLIMIT_FSIZE" in report["arena"]["reason"]

    report = json.loads(run("doctor", "--json", preexec_fn=files_of(31 << 20)).stdout)
    assert report["arena"]["ceiling"] == 0
    assert any("ulimit -f" in problem for problem in report["problems"])


def test_the_doctor_misses_proc(environment: dict[str, str], tmp_path: Path) -> None:
    if os.getuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root can be without /proc, by unshare")
    without = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs tmpfs /proc && exec "$@"', "sh")
    options: Any = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    tried = subprocess.run([*without, "true"], **options)
    if tried.returncode != 0:
        pytest.skip(f"this machine hides /proc from nobody: {tried.stderr}")
    doctor = [sys.executable, "-m", "sidestep", "doctor", "--json"]
    done = subprocess.run([*without, *doctor], **options)
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    (problem,) = report["problems"]
    assert problem.startswith("/proc is missing") and "memory" in problem
    # The kernel tells it, without /proc, too.
    known = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert abs(report["arena"]["machine"] - known) <= known // 10


def test_the_doctor_says_what_is_missing_and_what_follows(run: Run) -> None:
    def no_files() -> None:
        # Where no file can grow there is no arena. The shadow exists: `cache` is the session's.
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    assert run("-c", "pass").returncode == 0
    done = run("doctor", preexec_fn=no_files)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert any(line.startswith("memfd seals") and "MISSING" in line for line in lines)
    assert any("File too large" in line and "does not work" in line for line in lines)
