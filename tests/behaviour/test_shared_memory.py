"""Named shared memory: blocks, lists, and the tracker that unlinks what is left behind."""

import contextlib
import mmap
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

import sidestep
from sidestep import resource_tracker
from sidestep.shared_memory import ShareableList, SharedMemory


@pytest.fixture(params=["fork", "spawn", "forkserver"])
def ctx(request: pytest.FixtureRequest) -> Any:
    return sidestep.get_context(request.param)


@pytest.fixture
def block() -> Iterator[SharedMemory]:
    memory = SharedMemory(create=True, size=64)
    yield memory
    memory.close()
    with contextlib.suppress(FileNotFoundError):
        memory.unlink()


@contextlib.contextmanager
def shareable(*items: Any) -> Iterator[ShareableList[Any]]:
    made = ShareableList(items)
    yield made
    made.shm.close()
    made.shm.unlink()


def run_program(source: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, and its tracker's: both write to the same stderr."""
    return subprocess.run(
        [sys.executable, "-c", source, *args], capture_output=True, text=True, timeout=60
    )


# --- blocks -----------------------------------------------------------------------------------


def reverse_in_child(name: str) -> None:
    memory = SharedMemory(name)
    memory.buf[:3] = bytes(memory.buf[:3])[::-1]
    memory.close()


def test_processes_see_the_same_bytes(ctx: Any, block: SharedMemory) -> None:
    block.buf[:3] = b"abc"
    child = ctx.Process(target=reverse_in_child, args=(block.name,))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert bytes(block.buf[:3]) == b"cba"


def test_new_block_is_zeroed_and_has_its_size(block: SharedMemory) -> None:
    assert block.size == len(block.buf) == 64
    assert not any(block.buf)
    assert not block.name.startswith("/")


def test_opening_ignores_the_size(block: SharedMemory) -> None:
    other = SharedMemory(block.name, size=9999)
    assert other.size == 64
    other.close()


def test_creating_a_name_twice_is_refused(block: SharedMemory) -> None:
    with pytest.raises(FileExistsError):
        SharedMemory(block.name, create=True, size=1)


@pytest.mark.parametrize(
    "arguments", [{"create": True}, {"create": True, "size": -1}, {"size": -1}, {}]
)
def test_missing_or_bad_sizes_and_names_are_value_errors(arguments: Any) -> None:
    with pytest.raises(ValueError, match="size|name"):
        SharedMemory(**arguments)


def test_name_that_is_not_there(block: SharedMemory) -> None:
    with pytest.raises(FileNotFoundError):
        SharedMemory(block.name + "x")


def test_closing_twice_is_fine_and_leaves_the_block(block: SharedMemory) -> None:
    block.buf[0] = 7
    block.close()
    block.close()
    assert block.buf is None
    again = SharedMemory(block.name)
    assert again.buf[0] == 7
    again.close()


def test_unlinking_twice_is_an_error(block: SharedMemory) -> None:
    block.unlink()
    with pytest.raises(FileNotFoundError):
        block.unlink()


def test_closing_under_a_view_is_refused(block: SharedMemory) -> None:
    with memoryview(block.buf) as view:
        with pytest.raises(BufferError):
            block.close()
        view[0] = 1


def test_failed_opening_leaves_a_block_of_others_alone(
    block: SharedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise OSError("no room")

    monkeypatch.setattr(mmap, "mmap", fail)
    with pytest.raises(OSError, match="no room"):
        SharedMemory(block.name)
    monkeypatch.undo()
    SharedMemory(block.name).close()


def test_failed_creation_leaves_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(os.listdir("/dev/shm"))

    def fail(*args: Any) -> None:
        raise OSError("no room")

    monkeypatch.setattr(os, "ftruncate", fail)
    with pytest.raises(OSError, match="no room"):
        SharedMemory(create=True, size=8)
    assert {name for name in os.listdir("/dev/shm") if name.startswith("psm_")} <= before


@pytest.mark.parametrize("track", [True, False])
def test_pickled_block_keeps_its_tracking(track: bool) -> None:
    memory = SharedMemory(create=True, size=8, track=track)
    copy = pickle.loads(pickle.dumps(memory))
    assert (copy.name, copy.size, copy._track) == (memory.name, 8, track)
    copy.close()
    memory.close()
    memory.unlink()


# --- lists ------------------------------------------------------------------------------------

ITEMS = ["howdy", b"HoWdY", -273.154, 100, None, True, "Grüße an alle, Łódź", ""]


def test_list_holds_each_type() -> None:
    with shareable(*ITEMS) as items:
        assert list(items) == ITEMS
        assert [type(item) for item in items] == [type(item) for item in ITEMS]
        assert len(items) == len(ITEMS)
        assert items.format == "8s8sdqxxxxxx?xxxxxxxx?24s8s"
        assert items.count(100) == 1
        assert items.index(100) == 3
        with pytest.raises(ValueError, match="not in this container"):
            items.index("nobody")


def test_list_items_change_their_type_within_their_room() -> None:
    with shareable(1, "text") as items:
        items[0] = "12345678"
        items[-1] = 2.5
        assert list(items) == ["12345678", 2.5]
        with pytest.raises(ValueError, match="exceeds available storage"):
            items[0] = "123456789"
        with pytest.raises(TypeError, match="not list"):
            items[0] = []
        assert list(items) == ["12345678", 2.5]


@pytest.mark.parametrize("position", [2, -3])
def test_list_positions_out_of_range(position: int) -> None:
    with shareable(1, 2) as items:
        with pytest.raises(IndexError):
            items[position]
        with pytest.raises(IndexError):
            items[position] = 0


def double_in_child(items: ShareableList[int]) -> None:
    for position, item in enumerate(items):
        items[position] = item * 2
    items.shm.close()


def test_list_is_shared_with_a_child(ctx: Any) -> None:
    with shareable(1, 2, 3) as items:
        child = ctx.Process(target=double_in_child, args=(items,))
        child.start()
        child.join()
        assert list(items) == [2, 4, 6]


READ_WITH_STANDARD_LIBRARY = """
import sys
import tempfile
from multiprocessing import resource_tracker, shared_memory
items = shared_memory.ShareableList(name=sys.argv[1])
resource_tracker.unregister(items.shm._name, "shared_memory")
print(list(items), items.format)
items[0] = "there"
items.shm.close()
"""


def test_list_has_the_layout_of_the_standard_library() -> None:
    plain = ["howdy", b"HoWdY", -273.154, 100, None, True]
    with shareable(*plain) as items:
        other = run_program(READ_WITH_STANDARD_LIBRARY, items.shm.name)
        assert other.stdout == f"{plain} {items.format}\n", other.stderr
        assert items[0] == "there"


# --- the tracker ------------------------------------------------------------------------------

LEAVE_SEGMENT = """
import os, signal, sys
from sidestep.shared_memory import SharedMemory
memory = SharedMemory(create=True, size=8)
print(memory.name, flush=True)
os.kill(os.getpid(), getattr(signal, sys.argv[1]))
"""


@pytest.mark.parametrize("signal_name", ["SIGTERM", "SIGKILL"])
def test_segments_of_a_killed_program_are_unlinked(signal_name: str) -> None:
    program = run_program(LEAVE_SEGMENT, signal_name)
    name = program.stdout.strip()
    assert program.returncode == -getattr(signal, signal_name)
    assert "resource_tracker: There appear to be 1 leaked shared_memory objects" in program.stderr
    with pytest.raises(FileNotFoundError):
        SharedMemory(name)


OPEN_SEGMENT = """
import sys
import tempfile
from sidestep.shared_memory import SharedMemory
SharedMemory(sys.argv[1], track=sys.argv[2] == "tracked").close()
"""


@pytest.mark.parametrize("tracked", ["tracked", "untracked"])
def test_segment_survives_another_program_that_opened_it(block: SharedMemory, tracked: str) -> None:
    program = run_program(OPEN_SEGMENT, block.name, tracked)
    assert program.returncode == 0
    assert ("1 leaked shared_memory objects" in program.stderr) == (tracked == "tracked")
    SharedMemory(block.name).close()


USE_TRACKER = """
import os, signal
from sidestep.resource_tracker import _resource_tracker as tracker
from sidestep.shared_memory import SharedMemory
assert tracker._fd is None
memory = SharedMemory(create=True, size=8)
for number in (signal.SIGINT, signal.SIGTERM):
    os.kill(tracker._pid, number)
memory.close()
memory.unlink()
assert tracker._check_alive()
tracker._stop()
print(tracker._exitcode)
"""


def test_tracker_starts_late_and_ignores_signals_that_end_programs() -> None:
    program = run_program(USE_TRACKER)
    assert (program.stdout, program.stderr) == ("0\n", "")


KILL_TRACKER = """
import os, signal, warnings
from sidestep.resource_tracker import _resource_tracker as tracker
from sidestep.shared_memory import SharedMemory
tracker.ensure_running()
os.kill(tracker._pid, signal.SIGKILL)
os.waitid(os.P_PID, tracker._pid, os.WEXITED | os.WNOWAIT)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    memory = SharedMemory(create=True, size=8)
print([str(warning.message)[:41] for warning in caught])
memory.close()
memory.unlink()
"""


def test_killed_tracker_is_replaced_with_a_warning() -> None:
    program = run_program(KILL_TRACKER)
    assert program.stdout == "['resource_tracker: process died unexpected']\n"
    assert program.stderr == ""


def test_a_block_that_was_only_opened_and_is_gone_is_no_leak(block: SharedMemory) -> None:
    done = run_program(
        "import os, sys\n"
        "from sidestep.shared_memory import SharedMemory\n"
        "other = SharedMemory(sys.argv[1])\n"
        "os.unlink('/dev/shm/' + other.name)\n",
        block.name,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_names_that_do_not_fit_a_message_are_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        resource_tracker.register("a" * 500, "shared_memory")
    with pytest.raises(ValueError, match="line end"):
        resource_tracker.register("a\nb", "shared_memory")


def test_awkward_names_are_tracked_as_they_are() -> None:
    ledger = resource_tracker._Ledger()
    for name in ("/a:b", "/grüße"):
        ledger.take(f"REGISTER:{name}:shared_memory\n".encode())
    assert ledger.names["shared_memory"] == {"/a:b", "/grüße"}
    ledger.take("UNREGISTER:/grüße:shared_memory\n".encode())
    ledger.take(b"UNREGISTER:/a:b:shared_memory\n")
    ledger.take(b"UNREGISTER:/a:b:shared_memory\n")
    assert not ledger.names["shared_memory"]


MAKE_IN_CHILD = """
import sys
import tempfile
import sidestep
from sidestep.shared_memory import SharedMemory
from sidestep.resource_tracker import _resource_tracker as tracker

def make(conn):
    memory = SharedMemory(create=True, size=8)
    memory.buf[0] = 7
    memory.close()
    conn.send((memory.name, tracker._pid))

if __name__ == "__main__":
    ctx = sidestep.get_context(sys.argv[1])
    receiver, sender = ctx.Pipe(False)
    child = ctx.Process(target=make, args=(sender,))
    child.start()
    name, tracker_pid = receiver.recv()
    child.join()
    assert tracker_pid is not None and tracker._fd is None
    memory = SharedMemory(name)
    print(memory.buf[0])
    memory.close()
    memory.unlink()
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_what_a_child_made_outlives_it(method: str, tmp_path: Any) -> None:
    script = tmp_path / "script.py"
    script.write_text(MAKE_IN_CHILD)
    program = subprocess.run(
        [sys.executable, str(script), method], capture_output=True, text=True, timeout=60
    )
    assert (program.stdout, program.stderr) == ("7\n", "")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_segment_of_the_standard_librarys_outlives_our_child_that_opened_it(method: str) -> None:
    # The child goes on with its parent's tracker. One of its own would unlink the segment as soon
    # as the child ends.
    source = """\
import sys
import tempfile
import sidestep
from multiprocessing.shared_memory import SharedMemory

def work(name):
    block = SharedMemory(name)
    block.buf[0] += 1
    block.close()

if __name__ == "__main__":
    block = SharedMemory(create=True, size=1)
    for _ in range(2):
        child = sidestep.get_context(sys.argv[1]).Process(target=work, args=(block.name,))
        child.start()
        child.join()
    print(block.buf[0])
    block.close()
    block.unlink()
"""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(source)
        file.flush()
        done = subprocess.run(
            [sys.executable, file.name, method], capture_output=True, text=True, timeout=60
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")
