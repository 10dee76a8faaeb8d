"""The 25 complaints of COMPLAINTS.md: with sidestep each face of each of them is fine.

The programs are plain ones that import `multiprocessing`, each face runs in a process of its own
under `python -m sidestep`. What the standard library does with the same programs is compared by
`make complaints`.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from columns import PATIENCE_SIDESTEP, Face, faces, ours, run_face  # noqa: E402

Check = Callable[[Face], None]


def faces_of(number: int) -> pytest.MarkDecorator:
    """Run the test once for each face of the complaint."""
    chosen = [face for face in faces() if face.number == number]
    return pytest.mark.parametrize("face", chosen, ids=[face.name for face in chosen])


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the programs' interpreters are kept, for the whole session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def is_fine(cache: Path) -> Check:
    def check(face: Face) -> None:
        outcome = run_face(face, *ours(sys.executable, str(cache)), PATIENCE_SIDESTEP)
        if outcome.verdict == "impossible":
            pytest.skip(outcome.said)
        assert outcome.verdict == "fine", outcome.said

    return check


@faces_of(1)
def test_01_pool_with_a_killed_worker(face: Face, is_fine: Check) -> None:
    is_fine(face)


@faces_of(2)
def test_02_killed_with_a_lock(face: Face, is_fine: Check) -> None:
    is_fine(face)


@faces_of(3)
def test_03_join_before_drain(face: Face, is_fine: Check) -> None:
    is_fine(face)


@faces_of(4)
def test_04_fork_among_threads(face: Face, is_fine: Check) -> None:
    is_fine(face)


@faces_of(5)
def test_05_terminate_hangs(face: Face, is_fine: Check) -> None:
    is_fine(face)


@faces_of(6)
def test_06_pool_is_dropped(face: Face, is_fine: Check) -> None:
    is_fine(face)


@faces_of(7)
def test_07_shared_memory_is_taken_away(face: Face, is_fine: Check) -> None:
    is_fine(face)


@faces_of(8)
def test_08_slow_starts(face: Face, is_fine: Check) -> None:
    is_fine(face)


@faces_of(9)
def test_09_leaked_semaphores(face: Face, is_fine: Check) -> None:
    is_fine(face)


@faces_of(10)
def test_10_helper_process(face: Face, is_fine: Check) -> None:
    is_fine(face)


@faces_of(11)
def test_11_lambdas(face: Face, is_fine: Check) -> None:
    is_fine(face)


@faces_of(12)
def test_12_copies_of_large_objects(face: Face, is_fine: Check) -> None:
    is_fine(face)


@faces_of(13)
def test_13_fork_copies_memory(face: Face, is_fine: Check) -> None:
    is_fine(face)


@faces_of(14)
def test_14_imap_is_not_lazy(face: Face, is_fine: Check) -> None:
    is_fine(face)


@faces_of(15)
def test_15_unpicklable_exceptions(face: Face, is_fine: Check) -> None:
    is_fine(face)


@faces_of(16)
def test_16_waiter_was_killed(face: Face, is_fine: Check) -> None:
    is_fine(face)


@faces_of(17)
def test_17_managers(face: Face, is_fine: Check) -> None:
    is_fine(face)


@faces_of(18)
def test_18_ctrl_c(face: Face, is_fine: Check) -> None:
    is_fine(face)


@faces_of(19)
def test_19_orphans(face: Face, is_fine: Check) -> None:
    is_fine(face)


@faces_of(20)
def test_20_nested_pools(face: Face, is_fine: Check) -> None:
    is_fine(face)


@faces_of(21)
def test_21_running_tasks(face: Face, is_fine: Check) -> None:
    is_fine(face)


@faces_of(22)
def test_22_all_or_nothing(face: Face, is_fine: Check) -> None:
    is_fine(face)


@faces_of(23)
def test_23_descriptors_run_out(face: Face, is_fine: Check) -> None:
    is_fine(face)


@faces_of(24)
def test_24_queues_lie(face: Face, is_fine: Check) -> None:
    is_fine(face)


@faces_of(25)
def test_25_logging_and_output(face: Face, is_fine: Check) -> None:
    is_fine(face)
