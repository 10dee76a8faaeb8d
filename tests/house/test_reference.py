"""Is the run of the interpreter's own suite able to fail? And are its expectations in the open?"""

import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

REFERENCE = Path(__file__).parents[1] / "reference"
COMPATIBILITY = Path(__file__).parents[2] / "COMPATIBILITY.md"


def load_runner() -> Any:
    spec = importlib.util.spec_from_file_location("reference_run", REFERENCE / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


run = load_runner()

SUITE = """
import os, signal, subprocess, sys, unittest

class Sample(unittest.TestCase):
    def test_1_passes(self): pass
    def test_2_fails(self): self.fail("on purpose")
    def test_3_dies(self): os._exit(3)
    def test_4_hangs(self): signal.pause()
    def test_5_skips(self): self.skipTest("no reason")
    def test_6_fails_in_a_subtest(self):
        with self.subTest(): self.fail("inside")
    def test_7_leaves_a_process(self):
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    def test_8_receives_the_interrupt(self):
        with self.assertRaises(KeyboardInterrupt): signal.raise_signal(signal.SIGINT)

class Fixture(unittest.TestCase):
    @classmethod
    def setUpClass(cls): raise OSError("no set-up")
    def test_it(self): pass

class Ending(unittest.TestCase):
    def test_it(self):
        import atexit
        atexit.register(os._exit, 5)
"""


@pytest.fixture
def worker(tmp_path: Path) -> list[str]:
    """A command like `python -m sidestep worker.py` that finds the suite above."""
    (tmp_path / "suite.py").write_text(SUITE)
    start = tmp_path / "start.py"
    start.write_text(
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "del sys.argv[0]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    return [sys.executable, str(start), str(REFERENCE / "worker.py")]


def outcomes(worker: list[str], name: str, *tests: str) -> dict[str, str]:
    # The limit is for the test that hangs; starting the interpreter stays far below it.
    case = run.Case("fork", "suite", name, tests)
    return {result.test: result.outcome for result in run.run_case(worker, case, 8)}


@pytest.mark.slow
def test_every_way_to_fail_is_told(worker: list[str]) -> None:
    names = [line.split()[1] for line in SUITE.splitlines() if "def test_" in line]
    tests = [name.partition("(")[0] for name in names if name[5].isdigit()]
    found = outcomes(worker, "Sample", *tests)
    assert list(found.values()) == [
        *("passed", "failed", "died", "hung"),
        *("skipped", "failed", "passed", "passed"),
    ]


def test_what_fails_outside_of_tests_is_told(worker: list[str]) -> None:
    assert outcomes(worker, "Fixture", "test_it") == {"(set-up)": "failed", "test_it": "died"}
    assert outcomes(worker, "Ending", "test_it") == {"test_it": "passed", "(end)": "died"}


def judged(outcome: str, text: str = "") -> str:
    table = {"tests": ["Case.test_differs"]}
    expected = run.Expected(("known *",), (table,))
    complaint: str = expected.complaint(
        run.Result(run.Case("fork", "m", "Case", ()), "test_differs", outcome, text)
    )
    return complaint


def test_a_difference_must_occur() -> None:
    assert judged("failed") == judged("hung") == judged("died") == ""
    assert "although expected.toml says that it fails" in judged("passed")
    assert "although expected.toml says that it fails" in judged("skipped", "known reason")


def test_a_skip_for_an_unknown_reason_is_an_error() -> None:
    expected = run.Expected(("known *",), ())
    case = run.Case("fork", "m", "Case", ())
    assert not expected.complaint(run.Result(case, "test", "skipped", "known reason"))
    assert "no such module" in expected.complaint(
        run.Result(case, "test", "skipped", "no such module")
    )


def test_an_expectation_without_a_test_is_stale() -> None:
    expected = run.Expected((), ({"tests": ["Case.test_old", "Case.test_?", "Other.test"]},))
    assert expected.stale([run.Case("fork", "m", "Case", ("test_1",))]) == ["Case.test_old"]


def test_every_expected_difference_says_why() -> None:
    rows = {
        line.split(" | ")[0].removeprefix("| ")
        for line in COMPATIBILITY.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ")
    }
    for entry in tomllib.loads(run.EXPECTED.read_text(encoding="utf-8"))["difference"]:
        assert entry["kind"] in ("private", "difference")
        assert re.search(r"\w+ \w+", entry["reason"])
        assert (entry.get("row") in rows) == (entry["kind"] == "difference"), entry["tests"]


def test_an_interpreter_without_the_suite_is_one_sentence(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho '[\"3.11.2\", true, false]'\n")
    python.chmod(0o755)
    with pytest.raises(SystemExit, match="comes without the standard library's tests"):
        run.check_interpreter(str(python))
