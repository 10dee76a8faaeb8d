"""The benchmarks' own tools: every workload runs, tiny; results become tables and plots."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHES = Path(__file__).parents[2] / "benches"
SUITES = ("bench", "scaling", "memory", "rivals")

# All workloads of a suite by us, in one interpreter, since fresh ones are what takes the time.
# Payloads of megabytes and parents of a gigabyte are measured by nobody here.
TINY = """
import json, sys
sys.path.insert(0, {benches!r})
from measure import measure
from registry import OURS, load
suite, part = sys.argv[1:]
for name, workload in list(load(suite).items()):
    if not name.endswith(("MB", "1 GB")):
        sample = measure(suite, name, OURS, float(part))
        assert not sample.problem, (name, sample.problem)
        # Bytes of one interpreter may well be fewer afterwards; seconds are not.
        assert workload.unit == "B" or sample.value >= 0, (name, sample.value)
        print(name)
"""


def run(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == status, done.stdout + done.stderr
    return done


def benches(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    return run(str(BENCHES / "run.py"), *arguments, status=status)


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_every_workload_runs(suite: str, tmp_path: Path) -> None:
    program = tmp_path / "tiny.py"
    # Spawned children import the program again; nothing may happen then.
    text = TINY.format(benches=str(BENCHES)).replace("\n", "\n    ")
    program.write_text(f"if __name__ == '__main__':\n    {text}\n")
    names = run(str(program), suite, "0.0001").stdout.splitlines()
    assert len(names) >= {"bench": 55, "scaling": 60, "memory": 11, "rivals": 9}[suite]


def measured(tmp_path: Path, suite: str, *patterns: str) -> tuple[str, dict[str, Any]]:
    """What a run prints, and the results that it has written."""
    target = tmp_path / f"{suite}.json"
    picks = [word for pattern in patterns for word in ("--only", pattern)]
    arguments = (suite, *picks, "--rounds", "2", "--scale", "0.001", "--json", str(target))
    return benches(*arguments).stdout, json.loads(target.read_text())


@pytest.mark.slow
def test_contenders_take_turns_and_the_table_has_a_row_for_each_rival(tmp_path: Path) -> None:
    printed, results = measured(tmp_path, "bench", "lock, with", "queue idle")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines()[2:5]]
    assert [row[:2] for row in rows] == [
        ["queue idle", "multiprocessing"],
        ["lock, with", "multiprocessing"],
        ["lock, with", "threading"],
    ]
    assert [row[6] for row in rows] == ["at most 1 ms", "1.8x", "1x"]
    assert all(row[7] in ("met", "short") for row in rows)
    for contenders in results["samples"].values():
        for samples in contenders.values():
            assert [sample["problem"] for sample in samples] == ["", ""]
    assert {"date", "command", "commit", "python", "processor"} <= results["about"].keys()


@pytest.mark.slow
def test_a_rival_that_is_not_installed_is_said_and_harms_nothing(tmp_path: Path) -> None:
    shutil.copytree(BENCHES, tmp_path / "benches")
    contenders = tmp_path / "benches" / "contenders.py"
    contenders.write_text(contenders.read_text().replace('"faster_fifo"', '"no_such_module"'))
    arguments = ("rivals", "--only", "one to one", "--rounds", "1", "--scale", "0.001")
    printed = run(str(tmp_path / "benches" / "run.py"), *arguments).stdout
    assert (
        "Not measured: one to one beside faster-fifo: not installed: "
        "No module named 'no_such_module'." in printed
    )


@pytest.mark.slow
def test_results_become_tables_and_plots_which_depend_on_them_alone(tmp_path: Path) -> None:
    house = tmp_path / "benches"
    shutil.copytree(BENCHES, house, ignore=shutil.ignore_patterns("plots", "results"))
    (house / "results").mkdir()
    document = tmp_path / "BENCHMARKS.md"
    suites = {"bench": "lock, with", "scaling": "lock: *"}
    marks = "before\n<!-- figures: {} -->\nold\n<!-- end of figures -->\nafter\n"
    document.write_text("".join(map(marks.format, suites)))
    for suite, pattern in suites.items():
        _, results = measured(house / "results", suite, pattern)
    made = []
    for _ in range(2):
        run(str(house / "figures.py"))
        plots = [(plot.name, plot.read_bytes()) for plot in sorted((house / "plots").iterdir())]
        made.append((document.read_text(), plots))
    assert made[0] == made[1]
    text, plots = made[0]
    assert [name for name, _ in plots] == ["ratios.svg", "scaling.svg", "short.svg"]
    assert text.count("before\n") == text.count("after\n") == 2
    assert "old" not in text
    assert "| lock, with " in text
    assert results["about"]["commit"] in text


def test_what_is_kept_is_what_the_documents_show() -> None:
    files = sorted((BENCHES / "results").glob("*.json"))
    newest = {results["suite"]: results for results in map(json.loads, map(Path.read_text, files))}
    text = (BENCHES.parent / "BENCHMARKS.md").read_text()
    for suite, results in newest.items():
        shown = text.partition(f"<!-- figures: {suite} -->")[2].partition("<!-- end")[0]
        assert (
            f"command {results['about']['command']}, commit {results['about']['commit']}" in shown
        )


def test_unknown_workload_is_one_sentence() -> None:
    done = benches("--only", "nothing", status=2)
    assert done.stderr == "no workload of bench is called like nothing; --list names them\n"
