"""Is the check in conftest.py able to fail? Tests that leave something, in a pytest apart."""

import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"

CULPRITS = {
    "child process": """
        import subprocess, sys
        kept = []
        def test_it():
            kept.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1))
            kept.append(kept[0].stdin.detach())
    """,
    "state Z": """
        import os
        def test_it():
            if os.fork() == 0:
                os._exit(0)
    """,
    "descriptor": """
        import os
        def test_it():
            os.pipe()
    """,
    "/dev/shm/sidestep-leftover-test": """
        import os, pytest
        @pytest.fixture(scope="session", autouse=True)
        def tidy():
            yield
            os.unlink("/dev/shm/sidestep-leftover-test")
        def test_it():
            open("/dev/shm/sidestep-leftover-test", "x").close()
    """,
}


def run(folder: Path, source: str) -> tuple[int, str]:
    lines = source.strip("\n").splitlines()
    (folder / "test_culprit.py").write_text("\n".join(line[8:] for line in lines))
    text = CONFTEST.read_text()
    # The same check with less patience, as here nothing is on its way out.
    assert "PATIENCE_S = 10.0" in text
    (folder / "conftest.py").write_text(text.replace("PATIENCE_S = 10.0", "PATIENCE_S = 0.05"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=100)
    return done.returncode, done.stdout


@pytest.mark.parametrize("what", CULPRITS)
def test_what_a_test_leaves_behind_is_named(what: str, tmp_path: Path) -> None:
    if what.startswith("/dev/shm") and not Path("/dev/shm").is_dir():
        pytest.skip("this machine has no /dev/shm")
    status, output = run(tmp_path, CULPRITS[what])
    assert status == 1
    assert "the test left behind:" in output
    assert what in output


def test_a_tidy_test_passes(tmp_path: Path) -> None:
    status, output = run(
        tmp_path,
        """
        import os, subprocess, sys
        def test_it():
            subprocess.run([sys.executable, "-c", "pass"], check=True)
            for descriptor in os.pipe():
                os.close(descriptor)
        """,
    )
    assert status == 0, output
