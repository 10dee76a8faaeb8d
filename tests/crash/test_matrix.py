"""A sample of the crash matrix: see `matrix.py`. All of it runs with `make matrix`."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Changed now and then, other points are tried.
SEED = 1


@pytest.mark.stress
@pytest.mark.timeout(600)
def test_survivors_work_on_wherever_a_process_dies() -> None:
    if shutil.which("cargo") is None:
        pytest.skip("cargo is not there to build the package with crash points")
    matrix = subprocess.Popen(
        [ROOT / "scripts/matrix", sys.executable, "--sample", "3", "--seed", str(SEED)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = matrix.communicate()
    finally:
        if matrix.returncode is None:
            os.killpg(matrix.pid, signal.SIGKILL)
            matrix.communicate()
    assert matrix.returncode == 0, output
    assert output.splitlines()[-1].split(",")[1] == " 0 bad"
