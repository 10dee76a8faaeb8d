"""Short runs of the long commands: a few hundred kills, some thousand processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
# Nothing takes that long unless it hangs.
PATIENCE_S = 1200


@pytest.mark.stress
@pytest.mark.timeout(PATIENCE_S + 60)
@pytest.mark.parametrize(
    "command",
    [
        ("storm", "--seed", "1", "--kills", "250"),
        ("storm", "--seed", "2", "--kills", "12", "--start-method", "spawn"),
        ("storm.churn", "--seed", "3", "--processes", "1000"),
    ],
    ids=" ".join,
)
def test_run_finds_nothing_wrong(command: tuple[str, ...]) -> None:
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    ended = subprocess.run(
        [sys.executable, "-m", *command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    print(ended.stdout)
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
