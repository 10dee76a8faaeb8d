"""Threads behind the interface of processes."""

import subprocess
import sys
import threading
from typing import Any

import pytest

from sidestep import dummy
from sidestep.context import BufferTooShort
from sidestep.dummy import connection


def test_importing_it_leaves_the_standard_library_alone() -> None:
    program = "import sys, sidestep.dummy; print('multiprocessing.dummy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n"


# --- processes --------------------------------------------------------------------------------


def test_life_of_a_process() -> None:
    go = dummy.Event()
    seen: list[Any] = []

    def add(a: int, b: int) -> None:
        go.wait()
        seen.append(a + b)

    child = dummy.Process(target=add, args=(1,), kwargs={"b": 2})
    assert child.exitcode is None
    child.start()
    assert child.is_alive()
    assert child.exitcode is None
    assert child in dummy.active_children()
    go.set()
    child.join()
    assert child.exitcode == 0
    assert dummy.active_children() == []
    assert seen == [3]


def test_only_the_maker_may_start_a_process() -> None:
    made: list[dummy.DummyProcess] = []
    maker = threading.Thread(target=lambda: made.append(dummy.Process()))
    maker.start()
    maker.join()
    with pytest.raises(RuntimeError, match="can only be started there"):
        made[0].start()


def test_children_belong_to_the_thread_that_started_them() -> None:
    counts: list[int] = []
    go = dummy.Event()

    def parent() -> None:
        child = dummy.Process(target=go.wait)
        child.start()
        counts.append(len(dummy.active_children()))
        go.set()
        child.join()

    thread = threading.Thread(target=parent)
    thread.start()
    thread.join()
    assert counts == [1]
    assert dummy.active_children() == []


def test_process_class_can_be_subclassed() -> None:
    class Child(dummy.Process):
        result = 0

        def run(self) -> None:
            self.result = 7

    child = Child(name="worker", daemon=True)
    assert (child.name, child.daemon) == ("worker", True)
    child.start()
    child.join()
    assert child.result == 7


# --- connections ------------------------------------------------------------------------------


def test_pipe_passes_objects_themselves_both_ways() -> None:
    first, second = dummy.Pipe()
    item = object()
    first.send(item)
    assert second.recv() is item
    second.send(item)
    assert first.recv() is item


def test_bytes_are_copied() -> None:
    first, second = dummy.Pipe(duplex=False)
    data = bytearray(b"0123456789")
    second.send_bytes(data)
    second.send_bytes(data, 2)
    second.send_bytes(data, 2, 3)
    data[:] = b"x" * 10
    assert [first.recv_bytes() for _ in range(3)] == [b"0123456789", b"23456789", b"234"]


@pytest.mark.parametrize("place", [(11,), (-1,), (0, 11), (0, -1)])
def test_places_outside_of_the_buffer_are_refused(place: tuple[int, ...]) -> None:
    first, _second = dummy.Pipe()
    with pytest.raises(ValueError, match="outside"):
        first.send_bytes(b"0123456789", *place)


def test_receiving_into_a_buffer() -> None:
    first, second = dummy.Pipe()
    buffer = bytearray(6)
    first.send_bytes(b"abc")
    assert second.recv_bytes_into(buffer, 2) == 3
    assert buffer == b"\0\0abc\0"
    first.send_bytes(b"too long for it")
    with pytest.raises(BufferTooShort) as caught:
        second.recv_bytes_into(buffer)
    assert caught.value.args == (b"too long for it",)
    first.send_bytes(b"abc")
    with pytest.raises(OSError, match="exceeds"):
        second.recv_bytes(2)


def test_poll_waits_for_something_to_come() -> None:
    first, second = dummy.Pipe()
    assert not second.poll()
    assert not second.poll(0.01)
    assert not second.poll(-1)
    sender = threading.Thread(target=first.send, args=(1,))
    sender.start()
    assert second.poll(None)
    assert second.recv() == 1
    sender.join()


def test_poll_and_a_reader_are_both_woken() -> None:
    first, second = dummy.Pipe()
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda: answers.append(second.poll(None))),
        threading.Thread(target=lambda: answers.append(second.recv())),
    ]
    for thread in threads:
        thread.start()
    first.send("item")
    first.send("another")  # whoever is first, one item stays for the other
    for thread in threads:
        thread.join()
    assert sorted(map(str, answers)) in (["True", "another"], ["True", "item"])


def test_listener_and_client() -> None:
    with connection.Listener() as listener:
        server = threading.Thread(target=lambda: listener.accept().send("hello"))
        server.start()
        assert listener.address is not None
        with connection.Client(listener.address) as client:
            assert client.recv() == "hello"
        server.join()
    with pytest.raises(OSError, match="closed"):
        listener.accept()


# --- the rest ---------------------------------------------------------------------------------


def test_manager_has_what_a_manager_has() -> None:
    manager: Any = dummy.Manager()
    assert manager.list([1]) == [1]
    assert manager.dict(a=1) == {"a": 1}
    assert manager.Value("i", 3).value == 3
    assert repr(manager.Value("i", 3)) == "<Value('i', 3)>"
    assert manager.Array("i", [1, 2])[1] == 2
    assert repr(manager.Namespace(b=2, a=1, _c=3)) == "Namespace(a=1, b=2)"
    queue = manager.JoinableQueue()
    queue.put(1)
    assert queue.get() == 1
    queue.task_done()
    queue.join()
    for name in ("Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition"):
        with getattr(manager, name)():
            pass
    assert manager.Barrier(1).wait() == 0
    manager.freeze_support()
    manager.shutdown()


def test_everything_promised_is_there() -> None:
    for module in (dummy, connection):
        assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_pool_of_threads() -> None:
    pytest.importorskip("sidestep.pool")
    with dummy.Pool(2) as pool:
        assert pool.map(abs, [-1, 2, -3]) == [1, 2, 3]
