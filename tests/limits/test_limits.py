"""Out of descriptors, address space, processes, shared memory: the right exception, which names the
limit and a way out, and the program goes on.

Each test is a program of `limited.py` in a process of its own. `SIDESTEP_CHURN` multiplies how
much the tests of churn make and drop (`make thousands` does).
"""

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

import sidestep

PROGRAMS = Path(__file__).with_name("limited.py")
METHODS = ("fork", "spawn", "forkserver")
CHURN = int(os.environ.get("SIDESTEP_CHURN", "1"))


def run(*arguments: object, prefix: tuple[str, ...] = (), **environment: str) -> str:
    """Run a program to its end and return what it has said before "done"."""
    package = Path(sidestep.__file__).parents[1]
    command = [*prefix, sys.executable, str(PROGRAMS), *map(str, arguments)]
    ended = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": str(package)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1000 * CHURN,
    )
    assert ended.returncode == 0, ended.stdout
    assert ended.stdout.endswith("done\n"), ended.stdout
    return ended.stdout.removesuffix("done\n")


# --- descriptors ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_no_descriptors_for_a_process(method: str) -> None:
    run("descriptors", "process", method)


def test_no_descriptors_for_a_pool() -> None:
    run("descriptors", "pool", "fork")


@pytest.mark.parametrize("what", ["pipe", "queue", "listener", "block"])
def test_no_descriptors_for_a_channel(what: str) -> None:
    run("descriptors", what, "fork")


# --- address space and processes ---------------------------------------------------------------


def test_no_address_space_for_the_arena() -> None:
    told = run("address_space", 5)
    assert "no address space for the arena" in told


def test_ever_larger_things_under_a_limit_of_the_address_space() -> None:
    run("growing_sizes")


@pytest.mark.parametrize("size", [0, 31])
def test_files_too_small_for_an_arena(size: int) -> None:
    told = run("file_size", size)
    assert "32 MiB at the least" in told and "RLIMIT_FSIZE" in told


@pytest.mark.parametrize("size", [32, 40, 61])
def test_files_that_limit_the_arena(size: int) -> None:
    assert run("file_size", size) == ""


def test_files_that_may_not_grow_any_more() -> None:
    run("file_size_later")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_no_more_processes_for_this_user(method: str) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become the user whose limit is tested")
    run("too_many_processes", method)


@pytest.mark.parametrize("what", ["Pool", "ThreadPool", "ClassicPool"])
def test_no_more_threads_for_this_user(what: str) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become the user whose limit is tested")
    run("no_threads", what)


@pytest.mark.parametrize("kind", ["unbounded", "bounded"])
def test_no_more_threads_for_a_lazy_map(kind: str) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become the user whose limit is tested")
    run("no_feeder", kind)


# --- the arena and the memory of the machine ---------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_no_memory_in_the_arena(method: str) -> None:
    run("ceiling", method, SIDESTEP_ARENA_LIMIT="40M")


@contextlib.contextmanager
def memory_group(limit: int) -> Iterator[Path]:
    """A control group that may have `limit` bytes, of version 2 or 1; gone at the end."""
    name = f"sidestep-test-{uuid.uuid4().hex[:12]}"
    for root, file in (
        ("/sys/fs/cgroup", "memory.max"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        ("/sys/fs/cgroup/memory/process_api", "memory.limit_in_bytes"),
    ):
        group = Path(root, name)
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / file).exists():
                try:
                    (group / file).write_text(str(limit))
                except OSError:
                    continue
                yield group
                return
        finally:
            group.rmdir()
    pytest.skip("no control group for memory can be made here")


def test_queue_that_nobody_reads_in_a_small_control_group() -> None:
    with memory_group(64 << 20) as group:
        enter = f'echo $$ > {group}/cgroup.procs && exec "$@"'
        told = run("unread_queue", prefix=("sh", "-c", enter, "sh"))
        assert "limit of" in told


def test_block_that_is_too_large_for_its_control_group() -> None:
    with memory_group(64 << 20) as group:
        enter = f'echo $$ > {group}/cgroup.procs && exec "$@"'
        told = run("large_block", prefix=("sh", "-c", enter, "sh"))
        assert "the memory control group has" in told
        assert f"left of its limit of {64 << 20:,}" in told


# --- /dev/shm ----------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [False, True], ids=["small", "full"])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_dev_shm_does_not_matter(method: str, full: bool) -> None:
    if os.getuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root can have a /dev/shm of its own, by unshare")
    prepare = "mount -t tmpfs -o size=1m tmpfs /dev/shm"
    if full:
        prepare += " && ! cat /dev/zero >/dev/shm/full 2>/dev/null"
    tried = subprocess.run(["unshare", "-m", "sh", "-c", prepare], capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"this machine gives nobody a /dev/shm of his own: {tried.stderr}")
    shell = f'{prepare} && exec "$@"'
    run("small_shm", method, prefix=("unshare", "-m", "sh", "-c", shell, "sh"))


# --- churn -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "method", "count"),
    [
        ("processes", "fork", 10),
        ("processes", "spawn", 10),
        ("processes", "forkserver", 10),
        ("pools", "fork", 10),
        ("queues", "fork", 100),
        ("locks", "fork", 1000),
    ],
)
def test_nothing_grows(what: str, method: str, count: int) -> None:
    run("churn", what, method, count * CHURN)


def test_this_process_may_have_enough_for_the_tests() -> None:
    """So that a limit that is met is the one that a test has set."""
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 256
