"""Named shared memory of programs that were killed with their tracker, and of full machines."""

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidestep import _notes, _sidestep, resource_tracker, shared_memory
from sidestep.shared_memory import ShareableList, SharedMemory

SHM = Path("/dev/shm")

FAMILY = """
import os, sys
from sidestep.resource_tracker import _resource_tracker as tracker
from sidestep.shared_memory import SharedMemory
"""
CREATE = FAMILY + "memory = SharedMemory(*sys.argv[1:], create=True, size=8)\n"
OPEN = FAMILY + "memory = SharedMemory(sys.argv[1])\n"
REPORT = """
print(memory.name, tracker._pid, tracker._folder[0], flush=True)
sys.stdin.read()
"""


class Family:
    """A program that has a block open, and waits."""

    def __init__(self, source: str, *args: str) -> None:
        self.program = subprocess.Popen(
            [sys.executable, "-c", source + REPORT, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.program.stdout is not None
        words = self.program.stdout.readline().split()
        assert words, self.program.communicate()[1]
        self.block = SHM / words[0]
        self.tracker = int(words[1])
        self.notes = SHM / f"sidestep-{words[2]}"

    def kill_tracker(self) -> None:
        # Before the program, as what is killed last in one instant could still clean up.
        pidfd = os.pidfd_open(self.tracker)
        os.kill(self.tracker, signal.SIGKILL)
        wait_for_end(pidfd)

    def kill_all(self) -> None:
        self.kill_tracker()
        self.program.kill()
        self.program.communicate()

    def end(self) -> str:
        return self.program.communicate("")[1]


def wait_for_end(pidfd: int) -> None:
    import select

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll()
    os.close(pidfd)


def run(source: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", FAMILY + textwrap.dedent(source), *args],
        capture_output=True,
        text=True,
        timeout=60,
    )


def sweep_by_another_program() -> None:
    done = run("memory = SharedMemory(create=True, size=8); memory.close(); memory.unlink()")
    assert (done.returncode, done.stderr) == (0, "")


def test_names_of_a_family_killed_with_its_tracker_are_swept_by_the_next_program() -> None:
    killed = Family(CREATE)
    killed.kill_all()
    assert killed.block.exists()
    assert run("import sidestep, sidestep.shared_memory").returncode == 0
    assert killed.block.exists()  # an import stays cheap
    sweep_by_another_program()
    assert not killed.block.exists()
    assert not killed.notes.exists()


def test_a_name_of_a_killed_family_can_be_taken_at_once() -> None:
    name = f"sidestep-test-name-{os.getpid()}"
    Family(CREATE, name).kill_all()
    memory = SharedMemory(name, create=True, size=16)
    assert memory.size == 16
    memory.close()
    memory.unlink()


def test_blocks_of_a_living_family_are_never_swept() -> None:
    living = Family(CREATE)
    living.kill_tracker()
    sweep_by_another_program()
    assert living.block.exists()
    living.program.kill()
    living.program.communicate()
    sweep_by_another_program()
    assert not living.block.exists()


def test_blocks_that_another_family_uses_are_swept_after_its_end() -> None:
    maker = Family(CREATE)
    user = Family(OPEN, maker.block.name)
    maker.kill_all()
    sweep_by_another_program()
    assert maker.block.exists()
    user.end()
    sweep_by_another_program()
    assert not maker.block.exists()
    assert not maker.notes.exists()


@pytest.mark.parametrize("how", ["swept", "tracked"])
def test_a_name_that_another_program_has_reused_is_its_own(how: str) -> None:
    family = Family(CREATE)
    # Kept open, or the file system may give its inode number to the next one.
    with family.block.open():
        family.block.unlink()
        family.block.write_text("somebody else's")
        if how == "swept":
            family.kill_all()
        else:
            assert "leaked" not in family.end()
        sweep_by_another_program()
    assert family.block.read_text() == "somebody else's"
    family.block.unlink()
    assert not family.notes.exists()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_in_the_middle_of_creation_loses_nothing(moment: str) -> None:
    source = """
        import signal
        name = sys.argv[1]
        tracker.ensure_running()
        print(tracker._pid, flush=True)
        link = os.link
        def link_and_die(*args, **kwargs):
            if sys.argv[2] == "after":
                link(*args, **kwargs)
            os.kill(tracker._pid, signal.SIGKILL)
            os.waitpid(tracker._pid, 0)
            os.kill(os.getpid(), signal.SIGKILL)
        os.link = link_and_die
        SharedMemory(name, create=True, size=8)
    """
    name = f"sidestep-test-kill-{os.getpid()}"
    assert run(source, name, moment).returncode == -signal.SIGKILL
    assert (SHM / name).exists() == (moment == "after")
    sweep_by_another_program()
    assert not (SHM / name).exists()


def test_blocks_that_the_program_gave_up_tracking_are_left_alone() -> None:
    done = run("""
        from sidestep import resource_tracker
        kept = SharedMemory(create=True, size=8)
        resource_tracker.unregister(kept._name, "shared_memory")
        resource_tracker.register = lambda name, kind: None
        hidden = SharedMemory(create=True, size=8)
        print(kept.name, hidden.name)
    """)
    assert done.stderr == ""
    sweep_by_another_program()
    for name in done.stdout.split():
        (SHM / name).unlink()


def test_a_replaced_tracker_removes_what_only_the_killed_one_knew() -> None:
    done = run("""
        import signal, warnings
        warnings.simplefilter("ignore")
        first = SharedMemory(create=True, size=8)
        os.kill(tracker._pid, signal.SIGKILL)
        os.waitid(os.P_PID, tracker._pid, os.WEXITED | os.WNOWAIT)
        second = SharedMemory(create=True, size=8)
        print(first.name, second.name)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    assert "1 leaked shared_memory objects" in done.stderr
    assert [name for name in done.stdout.split() if (SHM / name).exists()] == []


def test_folders_that_others_can_write_to_are_no_notes() -> None:
    folder = SHM / "sidestep-0"
    folder.mkdir()
    folder.chmod(0o755)
    victim = SHM / f"sidestep-test-victim-{os.getpid()}"
    victim.write_text("")
    (folder / str(victim.stat().st_ino)).symlink_to(victim.name)
    sweep_by_another_program()
    assert victim.exists()
    victim.unlink()
    shutil.rmtree(folder)


def test_without_notes_the_tracker_does_its_work() -> None:
    done = run("""
        import signal
        from sidestep import _notes
        def refuse(*args, **kwargs):
            raise PermissionError(13, "not here")
        os.mkdir = refuse
        memory = SharedMemory(create=True, size=8)
        print(memory.name, tracker._folder[1])
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    name, folder = done.stdout.split()
    assert folder == "None"
    assert "1 leaked shared_memory objects" in done.stderr
    assert not (SHM / name).exists()


def test_file_systems_without_nameless_files_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "no such thing here")
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    memory = SharedMemory(create=True, size=8)
    with pytest.raises(FileExistsError):
        SharedMemory(memory.name, create=True, size=8)
    memory.buf[7] = 1
    memory.close()
    memory.unlink()


def test_blocks_are_made_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "_DESCRIPTORS", "/nowhere")
    for name in (None, "sidestep-test-no-proc"):
        memory = SharedMemory(name, create=True, size=8)
        other = SharedMemory(memory.name)
        memory.buf[0] = 1
        assert other.buf[0] == 1
        other.close()
        memory.close()
        memory.unlink()


def test_a_bad_name_is_refused_by_its_own_name() -> None:
    before = set(os.listdir(SHM))
    name = "n" * 256
    with pytest.raises(OSError, match="nnn") as caught:
        SharedMemory(name, create=True, size=8)
    assert caught.value.filename == "/" + name
    assert caught.value.filename2 is None
    # As the standard library says it. Made, it could neither be opened nor unlinked.
    with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
        SharedMemory("\udc80", create=True, size=8)
    assert not any("n" * 256 in name or "\udc80" in name for name in set(os.listdir(SHM)) - before)


def test_an_unlinked_block_leaves_no_note() -> None:
    memory = SharedMemory(create=True, size=8)
    folder = resource_tracker._resource_tracker._folder[1]
    assert folder is not None
    assert memory.name in _notes.inodes(folder)
    memory.close()
    memory.unlink()
    assert memory.name not in _notes.inodes(folder)


def test_no_tracker_where_no_name_was_made() -> None:
    done = run("""
        memory = SharedMemory(create=True, size=8, track=False)
        try:
            SharedMemory(memory.name, create=True, size=8)
        except FileExistsError:
            print(tracker._fd)
        memory.close()
        memory.unlink()
    """)
    assert (done.stdout, done.stderr) == ("None\n", "")


NOTHING_NAMED = """
import sys
import sidestep

def work(queue, lock, value):
    with lock:
        value.value += 1
    queue.put(value.value)

if __name__ == "__main__":
    ctx = sidestep.get_context(sys.argv[1])
    queue, lock, value = ctx.Queue(), ctx.Lock(), ctx.Value("i")
    child = ctx.Process(target=work, args=(queue, lock, value))
    child.start()
    queue.get()
    child.join()
    with ctx.Pool(1) as pool, ctx.Manager() as manager:
        pool.map(abs, manager.list([1]))
    for name in ("sidestep", "multiprocessing"):
        module = sys.modules.get(f"{name}.resource_tracker")
        print(module and module._resource_tracker._fd)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_no_tracker_for_anything_without_a_name(method: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(NOTHING_NAMED)
    done = subprocess.run(
        [sys.executable, str(script), method], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "None\nNone\n", "")


def test_the_tracker_is_reaped_by_the_program_that_started_it() -> None:
    done = run("""
        import ctypes, subprocess
        # What a program leaves becomes this one's child.
        ctypes.CDLL(None).prctl(36, 1)
        source = "from sidestep.shared_memory import SharedMemory, resource_tracker;"
        source += "resource_tracker._resource_tracker._patience_ms = 60_000;"
        source += "m = SharedMemory(create=True, size=8); m.close(); m.unlink()"
        print(subprocess.run([sys.executable, "-c", source]).returncode)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            print("nobody")
    """)
    assert (done.stdout, done.stderr) == ("0\nnobody\n", "")


def test_a_raw_fork_that_holds_the_pipe_does_not_keep_its_parent() -> None:
    program = Family(
        FAMILY
        + """
memory = SharedMemory(create=True, size=8)
memory.unlink()
if os.fork() == 0:
    sys.stdin.read()
    os._exit(0)
print(memory.name, tracker._pid, tracker._folder[0], flush=True)
sys.exit()
"""
    ).program
    assert program.wait() == 0  # the child still reads
    assert program.communicate("")[1] == ""


# --- no room ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_machine() -> list[str]:
    """What makes /dev/shm one of 1 MB for the command that follows."""
    command = ["unshare", "--mount", "sh", "-c"]
    script = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'
    try:
        attempt = subprocess.run([*command, script, "sh", "true"], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    if attempt.returncode:
        pytest.skip(f"no mount namespace of our own: {attempt.stderr.strip()}")
    return [*command, script, "sh"]


TOO_LARGE = """
import os, sys
from sidestep.managers import SharedMemoryManager
from sidestep.shared_memory import ShareableList, SharedMemory
before = set(os.listdir("/dev/shm"))

def attempt(what):
    try:
        what()
    except OSError as error:
        print(error.errno, error.strerror)

if __name__ == "__main__":
    attempt(lambda: SharedMemory(create=True, size=2 << 20))
    attempt(lambda: SharedMemory("name", create=True, size=2 << 20))
    attempt(lambda: ShareableList([b"x" * (2 << 20)]))
    fits = SharedMemory(create=True, size=1 << 19)
    fits.buf[-1] = 1
    attempt(lambda: SharedMemory(create=True, size=(1 << 19) + 1))
    fits.close()
    fits.unlink()
    with SharedMemoryManager() as manager:
        attempt(lambda: manager.SharedMemory(2 << 20))
        attempt(lambda: manager.ShareableList([b"x" * (2 << 20)]))
        small = manager.SharedMemory(8)
        small.buf[0] = 1
        small.close()
"""


def test_what_does_not_fit_says_so(small_machine: list[str]) -> None:
    done = subprocess.run(
        [*small_machine, sys.executable, "-c", TOO_LARGE],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    for line in lines:
        assert line.startswith("28 a shared memory block of ")
        assert "of 1,048,576 bytes are free in /dev/shm" in line
        assert "--shm-size" in line
    assert lines[0].startswith(
        "28 a shared memory block of 2,097,152 bytes does not fit: 1,048,576"
    )


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("nameless", [True, False])
def test_memory_that_goes_meanwhile_gives_back_what_was_taken(
    monkeypatch: pytest.MonkeyPatch, steps: int, nameless: bool
) -> None:
    asked: list[int] = []

    def lacking(size: int) -> str | None:
        asked.append(size)
        return "nothing is left" if len(asked) > steps else None

    monkeypatch.setattr(shared_memory, "_lacking", lacking)
    if not nameless:
        monkeypatch.setattr(shared_memory, "_DESCRIPTORS", "/nowhere")
    before = set(os.listdir(SHM))
    with pytest.raises(OSError, match="48,000,000 bytes does not fit: nothing is left; make"):
        SharedMemory("sidestep-test-short", create=True, size=48_000_000)
    assert asked == [48_000_000 - (step << 24) for step in range(steps + 1)]
    assert {name for name in set(os.listdir(SHM)) - before if "short" in name} == set()


def test_the_one_that_lacks_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    lacks: dict[int, tuple[bool, int, int]] = {
        24 << 20: (True, 24 << 20, 64 << 20),
        500 << 20: (False, 500 << 20, 1000 << 20),
    }
    monkeypatch.setattr(_sidestep, "memory_shortage", lacks.get)
    assert shared_memory._lacking(23 << 20) is None
    assert shared_memory._lacking(24 << 20) == (
        "the memory control group has 25,165,824 bytes left of its limit of 67,108,864, which can "
        "be raised (containers: --memory)"
    )
    assert shared_memory._lacking(500 << 20) == (
        "the machine has 524,288,000 of 1,048,576,000 bytes left"
    )


def test_reserving_survives_a_storm_of_signals() -> None:
    ticks = []
    before = signal.signal(signal.SIGALRM, lambda *_: ticks.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        memory = SharedMemory(create=True, size=64 << 20)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert os.fstat(memory._fd).st_blocks * 512 >= 64 << 20
    memory.close()
    memory.unlink()


# --- use after close --------------------------------------------------------------------------


@pytest.fixture
def block() -> Iterator[SharedMemory]:
    memory = SharedMemory(create=True, size=4096)
    yield memory
    memory.close()
    with contextlib.suppress(FileNotFoundError):
        memory.unlink()


def test_a_numpy_array_outlives_close(block: SharedMemory) -> None:
    numpy = pytest.importorskip("numpy")
    # Such an array uses the memory without exporting a view.
    array = numpy.ndarray((4096,), dtype="u1", buffer=block.buf)
    array[:] = 7
    block.close()
    assert array.sum() == 7 * 4096
    array[0] = 8
    again = SharedMemory(block.name)
    assert again.buf[0] == 8
    again.close()


def test_a_view_that_was_kept_says_that_it_is_released(block: SharedMemory) -> None:
    view = block.buf
    block.close()
    with pytest.raises(ValueError, match="released"):
        view[0]


def test_a_closed_list_says_so() -> None:
    items = ShareableList([1, 2, 3])
    items.shm.close()
    for use in (lambda: items[0], lambda: items.__setitem__(0, 1), lambda: len(items)):
        with pytest.raises(ValueError, match="is closed"):
            use()
    items.shm.unlink()


def test_garbage_with_views_leaves_no_descriptor_and_no_traceback(
    block: SharedMemory, capsys: pytest.CaptureFixture[str]
) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    other = SharedMemory(block.name)
    view = memoryview(other.buf)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del other
        gc.collect()
    view[0] = 9
    assert block.buf[0] == 9
    view.release()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert capsys.readouterr().err == ""


def test_the_module_makes_names_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = SharedMemory(create=True, size=8)
    names = iter([taken._name, f"/sidestep-test-free-{os.getpid()}"])
    monkeypatch.setattr(shared_memory, "_make_filename", lambda: next(names))
    memory = SharedMemory(create=True, size=8)
    assert memory.name == f"sidestep-test-free-{os.getpid()}"
    for one in (memory, taken):
        one.close()
        one.unlink()
