"""Every workload of the benchmarks runs, on a hundredth of its size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / "benches" / "run.py"


def run(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RUN), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == status, done.stdout + done.stderr
    return done


def workloads() -> list[str]:
    lines = run("--list").stdout.splitlines()
    return [line[:18].strip() for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize(
    "area", ["queue", "pipe", "*lock", "event", "value", "pool", "start", "import"]
)
def test_every_workload_gives_a_row(area: str, tmp_path: Path) -> None:
    target = tmp_path / "results.json"
    pattern = f"{area}*"
    arguments = ("--only", pattern, "--rounds", "1", "--scale", "0.01", "--json", str(target))
    lines = run(*arguments).stdout.splitlines()
    listed = run("--only", pattern, "--list").stdout.splitlines()
    assert listed
    assert [line.split("|")[1].strip() for line in lines[2 : 2 + len(listed)]] == [
        line[:18].strip() for line in listed
    ]
    samples = json.loads(target.read_text())["samples"]
    for contenders in samples.values():
        assert {"multiprocessing", "sidestep"} <= contenders.keys()
        for (sample,) in contenders.values():
            assert sample["problem"] == ""
            assert sample["seconds"] > 0


def test_the_areas_above_cover_all_workloads() -> None:
    areas = ("queue", "pipe", "lock", "rlock", "event", "value", "pool", "start", "import")
    assert {name.split()[0] for name in workloads()} == set(areas)


def test_unknown_workload_is_one_sentence() -> None:
    done = run("--only", "nothing", status=2)
    assert done.stderr == "no workload is called like 'nothing'; --list names them\n"
