"""What Python programs see when the kernel refuses a call; see `refusals.py`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REFUSALS = Path(__file__).with_name("refusals.py")

pytestmark = pytest.mark.timeout(600)  # for the first test, which waits for a build


@pytest.mark.parametrize(
    "scenario", ["process", "queue", "watched", "pipe", "locks", "pool", "calls"]
)
def test_refused_calls(scenario: str, failing_package: Path) -> None:
    ended = subprocess.run(
        [sys.executable, str(REFUSALS), scenario],
        env=os.environ | {"PYTHONPATH": str(failing_package)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1000,
    )
    assert ended.returncode == 0, ended.stdout
    assert ended.stdout.endswith("done\n"), ended.stdout
