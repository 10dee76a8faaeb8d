"""The tests' own build of the native module, in which calls of the kernel can be made to fail."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sidestep

ROOT = Path(__file__).parents[2]
FEATURES = "crash-points,failure-points"


@pytest.fixture(scope="session")
def failing_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH: the package as it is, with that module."""
    if shutil.which("cargo") is None:
        pytest.skip("cargo is not there to build the module with points of failure")
    build = ["cargo", "build", "--locked", "-p", "sidestep-python", "--features", FEATURES]
    done = subprocess.run(
        build,
        cwd=ROOT,
        env={"PYO3_PYTHON": sys.executable} | os.environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path_factory.mktemp("failing")
    package = folder / "sidestep"
    shutil.copytree(
        Path(sidestep.__file__).parent,
        package,
        ignore=shutil.ignore_patterns("*.so", "__pycache__"),
    )
    shutil.copy(ROOT / "target/debug/lib_sidestep.so", package / "_sidestep.abi3.so")
    return folder
