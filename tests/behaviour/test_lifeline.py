"""Children that die with their parent."""

import os
import select
import signal
import sys
import time
from pathlib import Path

import pytest

import sidestep
from sidestep import context

sys.path.insert(0, str(Path(__file__).parent))

import linked_children as children

PATIENCE_S = 30.0


@pytest.fixture(params=("fork", "spawn", "forkserver"))
def ctx(request: pytest.FixtureRequest) -> context.BaseContext:
    return sidestep.get_context(str(request.param))


def running(place: Path, count: int) -> dict[int, int]:
    """Wait until `count` processes have said that they run: their numbers and pidfds."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        pids = [int(path.name) for path in place.iterdir() if path.name.isdigit()]
        if len(pids) >= count:
            return {pid: os.pidfd_open(pid) for pid in pids}
        assert time.monotonic() < deadline, f"only {len(pids)} of {count} processes came"
        time.sleep(0.005)


def all_end(family: dict[int, int]) -> bool:
    """Whether all of the processes end."""
    ended = []
    for pid, pidfd in family.items():
        readable, _, _ = select.select([pidfd], [], [], PATIENCE_S)
        ended.append(bool(readable))
        if not readable:
            os.kill(pid, signal.SIGKILL)
        os.close(pidfd)
    return all(ended)


@pytest.mark.parametrize("sign", (signal.SIGKILL, signal.SIGTERM))
def test_daemonic_children_die_with_a_killed_parent_and_theirs_with_them(
    ctx: context.BaseContext, tmp_path: Path, sign: signal.Signals
) -> None:
    parent = ctx.Process(target=children.have_generations, args=(tmp_path, ctx._name))
    parent.start()
    family = running(tmp_path, 7)
    assert parent.pid is not None
    os.kill(parent.pid, sign)
    assert all_end(family)
    parent.join()


def test_terminated_daemon_takes_its_children_along(
    ctx: context.BaseContext, tmp_path: Path
) -> None:
    daemon = ctx.Process(target=children.have_children, args=(tmp_path, ctx._name), daemon=True)
    daemon.start()
    family = running(tmp_path, 3)
    daemon.terminate()
    assert all_end(family)
    daemon.join()


def test_other_children_die_with_their_parent_if_they_are_told_to(
    ctx: context.BaseContext, tmp_path: Path
) -> None:
    parent = ctx.Process(target=children.have_linked_child, args=(tmp_path, ctx._name))
    parent.start()
    family = running(tmp_path, 3)
    parent.kill()
    assert all_end(family)
    parent.join()


def test_other_children_outlive_their_parent(ctx: context.BaseContext, tmp_path: Path) -> None:
    parent = ctx.Process(target=children.have_survivor, args=(tmp_path, ctx._name))
    parent.start()
    family = running(tmp_path, 2)
    parent.kill()
    parent.join()
    assert all_end(family)
    assert (tmp_path / "survived").exists()


def test_end_of_the_thread_that_started_a_child_is_not_the_parents_end(
    ctx: context.BaseContext, tmp_path: Path
) -> None:
    parent = ctx.Process(target=children.start_in_thread, args=(tmp_path, ctx._name))
    parent.start()
    parent.join()
    assert parent.exitcode == 0
    assert (tmp_path / "answer").read_text() == '"are you there?"'


def test_line_of_a_program_that_closes_everything_is_made_anew(tmp_path: Path) -> None:
    # By fork, as the others need the arena's descriptor, which is closed as well.
    parent = sidestep.get_context("fork").Process(
        target=children.close_everything, args=(tmp_path,)
    )
    parent.start()
    family = running(tmp_path, 2)
    parent.kill()
    assert all_end(family)
    parent.join()


def test_is_said_before_the_start(ctx: context.BaseContext) -> None:
    child = ctx.Process()
    assert child.dies_with_parent is False
    assert ctx.Process(daemon=True).dies_with_parent is True
    child.dies_with_parent = True
    child.start()
    child.join()
    with pytest.raises(AssertionError, match="before start"):
        child.dies_with_parent = False
