"""Libraries that people use, on this package: beside the original, and alone in its place.

Each program runs by itself, and says what it found. Its argument is the package that it takes
contexts from; a library that has its own ways to `multiprocessing` takes them.
"""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import textwrap
import urllib.request
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "programs"
# How the interpreter is called, and the program's argument.
WAYS = {
    "beside": ([], "sidestep"),
    "alone": (["-m", "sidestep"], "multiprocessing"),
}
SAID = {
    "tqdm": """
        fork 285
        spawn 285
        forkserver 285
    """,
    "joblib": """
        loky 40425 False
        loky [1000000.0, 1000000.0, 1000000.0]
        multiprocessing 40425 False
        multiprocessing [1000000.0, 1000000.0, 1000000.0]
        fork 40425 False
        spawn 40425 False
    """,
    "loky": """
        40425 81
        40425 81
        a worker was killed
        42
    """,
    "sklearn": """
        loky {'C': 10} True
        multiprocessing {'C': 10} True
    """,
    "scipy": """
        fork True
        spawn True
        forkserver True
        2 True
    """,
    "pebble": "".join(
        f"""
        {method} [0, 1, 4, 9, 16]
        too long
        expired 3
        81"""
        for method in ("fork", "spawn", "forkserver")
    ),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> tuple[list[str], str]:
    return WAYS[request.param]


def needs(library: str) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")


def run(command: list[str], directory: Path) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=directory,
        # What libraries keep in temporary files is then here.
        env={**os.environ, "TMPDIR": str(directory), "JOBLIB_TEMP_FOLDER": str(directory)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("library", SAID)
def test_a_library_works(library: str, way: tuple[list[str], str], tmp_path: Path) -> None:
    needs(library)
    options, package = way
    said = run([*options, str(PROGRAMS / f"with_{library}.py"), package], tmp_path)
    assert said.split("\n") == [*textwrap.dedent(SAID[library]).strip().split("\n"), ""]


def test_coverage_sees_children(way: tuple[list[str], str], tmp_path: Path) -> None:
    needs("coverage")
    options, package = way
    program = PROGRAMS / "with_coverage.py"
    settings = tmp_path / "coveragerc"
    settings.write_text(
        f"[run]\nconcurrency = multiprocessing\nparallel = true\ninclude = {program}\n"
    )
    command = ["-m", "coverage", "run", f"--rcfile={settings}", str(program), package]
    assert run([*options, *command], tmp_path).split() == [
        "fork",
        "0",
        "spawn",
        "0",
        *["forkserver", "0"],
    ]
    run(["-m", "coverage", "combine", "-q", f"--rcfile={settings}"], tmp_path)
    report = run(["-m", "coverage", "report", "-m"], tmp_path)
    missed = program.read_text().split("\n").index("    return 0") + 1
    assert re.search(rf"with_coverage.* 9\d% +{missed}$", report, re.MULTILINE), report


@pytest.mark.parametrize(
    ("library", "options"),
    [("uvicorn", ["--workers", "2", "--fd"]), ("hypercorn", ["-w", "2", "-b"])],
)
def test_a_server_has_several_workers(
    library: str, options: list[str], way: tuple[list[str], str], tmp_path: Path
) -> None:
    needs(library)
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        fd = listener.fileno()
        where = str(fd) if library == "uvicorn" else f"fd://{fd}"
        server = subprocess.Popen(
            [sys.executable, *way[0], "-m", library, "with_servers:app", *options, where],
            cwd=PROGRAMS,
            pass_fds=[fd],
            stderr=subprocess.PIPE,
            text=True,
        )
        # The socket listens already: the request waits until a worker takes it.
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
            parent, package = answer.read().decode().split()
        server.send_signal(signal.SIGTERM)
        _, errors = server.communicate()
    assert server.returncode in (0, -signal.SIGTERM), errors
    assert int(parent) == server.pid
    assert package == ("sidestep" if way[0] else "multiprocessing")
