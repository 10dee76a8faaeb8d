"""Where the shadow lies, who may write there, and several programs that make it at once."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Run

PRINT = "import sys, multiprocessing; print(sys.executable); print(multiprocessing.__name__)"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache of this test's own, which does not exist yet."""
    return tmp_path / "home" / "cache"


def executable(done: "subprocess.CompletedProcess[str]") -> Path:
    assert (done.returncode, done.stderr) == (0, "")
    path, name = done.stdout.splitlines()
    assert name == "sidestep"
    return Path(path)


def test_it_is_made_once_and_used_again(run: Run, cache: Path) -> None:
    first = executable(run("-c", PRINT))
    assert first.is_relative_to(cache / "sidestep")
    before = (cache / "sidestep").stat()
    assert stat.S_IMODE(before.st_mode) == 0o700
    assert executable(run("-c", PRINT)) == first
    assert (cache / "sidestep").stat().st_mtime_ns == before.st_mtime_ns
    assert len(list((cache / "sidestep").iterdir())) == 1


def test_programs_that_make_it_at_once_get_one(environment: dict[str, str], cache: Path) -> None:
    command = [sys.executable, "-m", "sidestep", "-c", PRINT]
    programs = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    outputs = {program.communicate()[0] for program in programs}
    assert len(outputs) == 1 and all(program.returncode == 0 for program in programs)
    assert len(list((cache / "sidestep").iterdir())) == 1


def test_a_damaged_one_is_made_anew(run: Run) -> None:
    shadow = executable(run("-c", PRINT)).parent.parent
    (hook,) = shadow.glob("lib*/python*/encodings/__init__.py")
    hook.write_text("1 / 0")
    assert executable(run("-c", PRINT)).parent.parent == shadow
    hook.unlink()
    assert executable(run("-c", PRINT)).parent.parent == shadow


def test_what_a_killed_build_has_left_is_swept(run: Run, cache: Path) -> None:
    (cache / "sidestep").mkdir(parents=True, mode=0o700)
    old, young = cache / "sidestep" / "new-old", cache / "sidestep" / "new-young"
    old.mkdir()
    young.mkdir()
    os.utime(old, (0, 0))
    executable(run("-c", PRINT))
    assert young.exists() and not old.exists()


def test_a_directory_that_others_can_write_to_is_not_used(
    run: Run, environment: dict[str, str], cache: Path, tmp_path: Path
) -> None:
    environment["TMPDIR"] = str(tmp_path)
    (cache / "sidestep").mkdir(parents=True)
    (cache / "sidestep").chmod(0o777)
    fallback = tmp_path / f"sidestep-{os.geteuid()}"
    assert executable(run("-c", PRINT)).is_relative_to(fallback)
    assert stat.S_IMODE(fallback.stat().st_mode) == 0o700

    fallback.chmod(0o777)
    done = run("-c", PRINT)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("python -m sidestep: ") and "XDG_CACHE_HOME" in done.stderr
    assert str(fallback) in done.stderr


def test_a_home_that_cannot_be_written_to_does_not_matter(
    run: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    # Not even by root, which permissions do not stop.
    environment["HOME"] = "/proc/self"
    del environment["XDG_CACHE_HOME"]
    environment["TMPDIR"] = str(tmp_path)
    shadow = executable(run("-c", PRINT))
    assert shadow.is_relative_to(tmp_path / f"sidestep-{os.geteuid()}")


def test_a_virtual_environment_made_by_a_program_outlives_the_shadow(
    run: Run, tmp_path: Path
) -> None:
    text = "import venv; venv.create('new', symlinks=True)"
    assert run("-c", text).returncode == 0
    made = (tmp_path / "new" / "bin" / "python").resolve()
    assert made == Path(sys.executable).resolve()
    assert "cache" not in (tmp_path / "new" / "pyvenv.cfg").read_text().splitlines()[0]
