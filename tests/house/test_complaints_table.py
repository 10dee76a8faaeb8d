"""Does COMPLAINTS.md say what the tests prove? And can its runner fail?"""

import argparse
import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests" / "complaints"


def load_runner() -> Any:
    spec = importlib.util.spec_from_file_location("complaints_columns", TESTS / "columns.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


run = load_runner()
TABLE = re.compile(r"^\| (\d+) \| (.+) \| (.+) \| (.+) \| `(\w+)` \|$", re.MULTILINE)


def test_each_complaint_has_a_row_a_report_a_test_and_programs() -> None:
    rows = TABLE.findall((ROOT / "COMPLAINTS.md").read_text(encoding="utf-8"))
    assert [int(number) for number, *_ in rows] == list(range(1, 26))
    tests = (TESTS / "test_complaints.py").read_text(encoding="utf-8")
    programs = {face.program for face in run.faces()}
    for number, _, reports, _, test in rows:
        assert re.search(r"\(https://\S+\)", reports), f"complaint {number} names no report"
        assert f"@faces_of({number})\ndef test_{test}(" in tests
        assert f"c{test}" in programs
    assert len(programs) == len(rows) == tests.count("@faces_of(")


def test_verdicts_are_written_down_for_every_face_and_shown() -> None:
    for version in ("3.11", "3.12", "3.13"):
        exact, verdicts = run.recorded(version)
        assert exact.startswith(version)
        assert list(verdicts) == sorted(run.faces())
        assert set(verdicts.values()) <= {"fine", "fails", "hangs", run.VARIES}
        # A complaint that the standard library has mended is told apart from one that it has not.
        assert (
            len({it.number for it, what in verdicts.items() if what not in ("fine", run.VARIES)})
            >= 20
        )
    assert run.document()


@pytest.mark.parametrize(
    ("program", "verdict", "said"),
    [
        ("pass", "fine", ""),
        ("raise SystemExit('broken')", "fails", "broken"),
        ("import signal; signal.pause()", "hangs", ""),
        ("import sys; print('no way', file=sys.stderr); sys.exit(77)", "impossible", "no way"),
        (
            "import subprocess; subprocess.Popen(['sleep', '1000'])",
            "fails",
            "left 1 processes behind",
        ),
    ],
)
def test_the_runner_tells_what_a_program_does(
    program: str, verdict: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c01_sample.py").write_text(program)
    monkeypatch.setattr(run, "PROGRAMS", tmp_path)
    monkeypatch.setattr(run, "LEAVING", 0.1)
    patience = 1.0 if verdict == "hangs" else 100.0
    outcome = run.run_face(
        run.Face("c01_sample", "it"), [sys.executable], dict(os.environ), patience
    )
    assert outcome == run.Outcome(verdict, said)


def test_the_runner_fails_where_the_record_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c01_sample.py").write_text("def face_it() -> None: ...\n")
    version = sys.version.split()[0]
    record = tmp_path / f"{version.rpartition('.')[0]}.toml"
    monkeypatch.setattr(run, "PROGRAMS", tmp_path)
    monkeypatch.setattr(run, "VERDICTS", tmp_path)
    arguments = argparse.Namespace(
        jobs=1, column="standard", start_method=None, verbose=False, record=False
    )
    for verdict in ("fine", "hangs"):
        record.write_text(f'python = "{version}"\n[c01_sample]\nit = "{verdict}"\n')
        assert run.judge(sys.executable, run.faces(), arguments) == (verdict == "fine")
