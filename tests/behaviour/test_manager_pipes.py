"""Managers whose server and clients are of one family: their calls go through shared memory."""

import array
import contextlib
import multiprocessing.managers
import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import sidestep
from sidestep import _sidestep, managers
from sidestep._wire import dispatch
from sidestep.managers import RemoteError, ServerLostError, SyncManager

METHODS = ["fork", "spawn", "forkserver"]


@pytest.fixture
def manager() -> Iterator[Any]:
    with SyncManager(ctx=sidestep.get_context("fork")) as started:
        yield started
    started.join()


def route(proxy: Any) -> str:
    """How this thread's calls of a proxy travel."""
    proxy._callmethod("__len__")
    return "pipe" if proxy._tls.seat.connection._conn._ringed else "socket"


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- which way --------------------------------------------------------------------------------


def tell_route(items: Any, answers: Any) -> None:
    answers.put(route(items))


@pytest.mark.parametrize("method", METHODS)
def test_members_of_the_family_use_a_pipe(method: str) -> None:
    ctx = sidestep.get_context(method)
    with SyncManager(ctx=ctx) as manager:
        items: Any = manager.list()
        assert route(items) == "pipe"
        answers = ctx.SimpleQueue()
        child = ctx.Process(target=tell_route, args=(items, answers))
        child.start()
        assert answers.get() == "pipe"
        child.join()
        child.close()
        answers.close()
        in_thread: list[str] = []
        thread = threading.Thread(target=lambda: in_thread.append(route(items)))
        thread.start()
        thread.join()
        assert in_thread == ["pipe"]
    manager.join()


def test_networks_are_reached_through_sockets() -> None:
    with SyncManager(("localhost", 0), ctx=sidestep.get_context("fork")) as manager:
        assert route(manager.list()) == "socket"
    manager.join()


def test_xml_stays_xml() -> None:
    context = sidestep.get_context("fork")
    with SyncManager(serializer="xmlrpclib", ctx=context) as manager:
        assert route(manager.list()) == "socket"
    manager.join()


OUTSIDER = """
import sys
import sidestep
from sidestep.managers import SyncManager

sidestep.SimpleQueue()  # this program has a family of its own, or none
manager = SyncManager(sys.argv[1], bytes.fromhex(sys.argv[2]))
manager.connect()
items = manager.list([1, 2])
items.append(3)
assert not items._tls.seat.connection._conn._ringed
print(items[:], flush=True)
sys.stdin.read()
"""


def test_other_families_and_the_standard_library_are_served_beside(manager: Any) -> None:
    table = manager.dict(a=1)
    assert route(table) == "pipe"
    key = bytes(manager._authkey)
    stranger: Any = multiprocessing.managers.SyncManager(manager.address, key)
    stranger.connect()
    theirs = stranger.dict(b=[2])
    with subprocess.Popen(
        [sys.executable, "-c", OUTSIDER, manager.address, key.hex()],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as outsider:
        assert outsider.stdout is not None
        assert outsider.stdout.readline() == "[1, 2, 3]\n"
        assert theirs["b"] == [2]
        table["c"] = 3
        assert table.copy() == {"a": 1, "c": 3}
        assert manager._number_of_objects() == 3
        outsider.kill()
    until(lambda: manager._number_of_objects() == 2)
    del theirs, stranger
    multiprocessing.managers.BaseProxy._address_to_local.pop(manager.address)


def test_without_room_for_a_pipe_the_socket_stays(
    manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*args: object) -> None:
        raise MemoryError("the arena is full")

    with monkeypatch.context() as patch:
        patch.setattr(_sidestep, "PipeSide", no_room)
        items = manager.list([1])
        assert route(items) == "socket"
    assert items[0] == 1
    # A server that cannot find the pipe says so, and goes on over the socket as well.
    conn = items._tls.seat.connection
    assert dispatch(conn, None, "share_pipe", ((1 << 40, 1, 1),)) is False
    assert items[0] == 1
    assert route(items) == "socket"


# --- the same results -------------------------------------------------------------------------


class Echo:
    def same(self, *args: Any, **kwds: Any) -> Any:
        return args, kwds

    def first(self, value: Any) -> Any:
        return value

    def is_one(self, pair: Any) -> bool:
        return pair[0] is pair[1]

    def types(self, *args: Any, **kwds: Any) -> Any:
        return [type(value).__name__ for value in (*args, *kwds.values())]

    def fail(self, error: BaseException) -> None:
        raise error

    def lock(self) -> Any:
        return threading.Lock()

    def proxies(self, items: Any) -> int:
        items.append("from the server")
        return len(items)


class EchoManager(SyncManager):
    pass


EchoManager.register("Echo", Echo)


class Text(str):
    __slots__ = ()


@pytest.fixture(params=["pipe", "socket"])
def echoes(request: pytest.FixtureRequest) -> Iterator[Any]:
    address = None if request.param == "pipe" else ("localhost", 0)
    with EchoManager(address, ctx=sidestep.get_context("fork")) as started:
        yield started
    started.join()


VALUES = [
    None,
    True,
    -1,
    2**80,
    1.5,
    "text",
    "\udc80 alone",
    "a" * 100_000,
    "a name such as multiprocessing.managers",
    b"",
    b"b" * 3_000_000,
    bytearray(b"c" * 70_000),
    (),
    (1, (2, [3, {"four": (5,)}])),
    [[], [[]], [[[[[]]]]]],
    {"a": {"b": {1, 2}}, 3: None},
    list(range(10_000)),
    ["x"] * 1000,
    pathlib.PurePath("a", "b"),
    ValueError("as a value"),
]


def test_values_arrive_as_they_were_sent(echoes: Any) -> None:
    echo = echoes.Echo()
    for value in VALUES:
        for _ in range(2):
            result = echo.first(value)
            assert type(result) is type(value)
            assert repr(result) == repr(value)
    assert echo.same() == ((), {})
    assert echo.same(1, two=2) == ((1,), {"two": 2})
    assert echo._callmethod("same", [1, 2]) == ((1, 2), {}), "arguments in a list"
    assert echo.first(array.array("i", [1, 2])) == array.array("i", [1, 2])
    assert echo.types(Text("a"), True, x=1) == ["Text", "bool", "int"]
    shared = [1]
    assert echo.is_one((shared, shared)), "what is one object stays one"
    assert not echo.is_one(([1], [1]))


def test_errors_and_proxies_travel_as_well(echoes: Any) -> None:
    echo = echoes.Echo()
    with pytest.raises(KeyError, match="gone") as caught:
        echo.fail(KeyError("gone"))
    assert isinstance(caught.value.__cause__, RemoteError)
    with pytest.raises(RemoteError, match="Unserializable"):
        echo.lock()
    with pytest.raises(TypeError, match="pickle"):
        echo.first(threading.Lock())
    with pytest.raises(RemoteError, match="not among those exposed"):
        echo._callmethod("unheard_of")
    items = echoes.list()
    assert echo.proxies(items) == 1
    assert items[:] == ["from the server"]
    inner = echo.first(items)
    inner.append(2)
    assert len(items) == 2
    assert list(iter(echoes.dict(a=1))) == ["a"], "a result that stays in the server"
    del inner
    assert echoes._number_of_objects() == 2


def test_references_freed_in_the_middle_of_a_call_are_given_back(echoes: Any) -> None:
    echo = echoes.Echo()

    class Dropping:
        def __init__(self) -> None:
            self.items: Any = echoes.list()

        def __reduce__(self) -> Any:
            self.items = None
            return str, ("dropped",)

    for _ in range(3):
        assert echo.first(Dropping()) == "dropped"
    assert echoes._number_of_objects() == 1


# --- many at once, and deaths -----------------------------------------------------------------


def check_echoes(echo: Any, name: str, rounds: int) -> int:
    return sum(echo.first((name, number)) != (name, number) for number in range(rounds))


def check_and_tell(echo: Any, name: str, answers: Any) -> None:
    answers.put(check_echoes(echo, name, 200))


@pytest.mark.parametrize("method", METHODS)
def test_threads_and_children_never_get_each_others_replies(method: str) -> None:
    ctx = sidestep.get_context(method)
    with EchoManager(ctx=ctx) as started:
        manager: Any = started
        echo = manager.Echo()
        wrong: list[int] = []
        over = threading.Event()

        def work(name: str) -> None:
            while not over.is_set():
                wrong.append(check_echoes(echo, name, 20))

        threads = [threading.Thread(target=work, args=(f"thread {n}",)) for n in range(3)]
        for thread in threads:
            thread.start()
        answers = ctx.SimpleQueue()
        children = [
            ctx.Process(target=check_and_tell, args=(echo, f"child {n}", answers)) for n in range(3)
        ]
        for child in children:
            child.start()
            assert check_echoes(echo, "main", 20) == 0
        assert [answers.get() for _ in children] == [0, 0, 0]
        over.set()
        for thread in threads:
            thread.join()
        for child in children:
            child.join()
            child.close()
        answers.close()
        assert sum(wrong) == 0
        assert manager._number_of_objects() == 1
    manager.join()


def test_a_client_that_waits_hears_at_once_of_a_killed_server(manager: Any) -> None:
    tasks = manager.Queue()
    began = threading.Event()
    errors: list[BaseException] = []

    def take() -> None:
        tasks.put(1)
        tasks.get()
        assert tasks._tls.seat.connection._conn._ringed
        began.set()
        try:
            tasks.get()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=take)
    thread.start()
    began.wait()
    manager._process.kill()
    thread.join()
    assert [type(error) for error in errors] == [ServerLostError]


def call_for_ever(items: Any, payload: Any, ready: Any) -> None:
    ready.release()
    while True:
        items[0] = payload
        payload = items[0]


@pytest.mark.parametrize("payload", [7, b"x" * 300_000, {"set": {1}}])
def test_clients_killed_in_the_middle_of_calls_leave_nothing_behind(
    manager: Any, payload: Any
) -> None:
    ctx = sidestep.get_context("fork")
    ready = ctx.Semaphore(0)
    items, other = manager.list([payload]), manager.list()
    for _ in range(5):
        child = ctx.Process(target=call_for_ever, args=(items, payload, ready))
        child.start()
        ready.acquire()
        other.append(items[0] == payload)  # while the child's calls go on
        child.kill()
        child.join()
        child.close()
    assert items[0] == payload
    assert other[:] == [True] * 5
    assert manager._number_of_objects() == 2


def test_a_slow_call_keeps_nobody_else_waiting(manager: Any) -> None:
    event, items = manager.Event(), manager.list()
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(event.wait()))
    thread.start()
    for number in range(100):
        items.append(number)
    assert len(items) == 100
    event.set()
    thread.join()
    assert answers == [True]


def switches(pid: int) -> dict[str, str]:
    """How often each thread of a process has gone to sleep so far."""
    counts = {}
    for status in pathlib.Path(f"/proc/{pid}/task").glob("*/status"):
        for line in status.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                counts[status.parent.name] = line
    return counts


def test_idle_connections_cost_nothing(manager: Any) -> None:
    items = manager.list()
    enough, over = threading.Barrier(9), threading.Event()

    def client() -> None:
        items.append(1)
        enough.wait()
        over.wait()

    threads = [threading.Thread(target=client) for _ in range(8)]
    for thread in threads:
        thread.start()
    enough.wait()
    before = switches(manager._process.pid)

    def sleepers() -> int:
        nonlocal before
        time.sleep(1.2)  # those who look around by themselves do so twice a second
        earlier, before = before, switches(manager._process.pid)
        return sum(before[thread] == earlier.get(thread) for thread in before)

    # One for each of the threads here, main included; the server has a few of its own.
    until(lambda: sleepers() >= 9)
    over.set()
    for thread in threads:
        thread.join()
    assert len(items) == 8


def test_a_raw_fork_has_a_pipe_of_its_own(manager: Any) -> None:
    items = manager.list()
    assert route(items) == "pipe"
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            for number in range(100):
                items.append(("child", number))
            os.write(writer, route(items).encode())
        os._exit(0)
    for number in range(100):
        items.append(("parent", number))
    os.waitpid(pid, 0)
    os.close(writer)
    assert os.read(reader, 100) == b"pipe"
    os.close(reader)
    assert [number for who, number in items[:] if who == "child"] == list(range(100))
    assert [number for who, number in items[:] if who == "parent"] == list(range(100))


def test_a_manager_that_the_program_serves_itself_has_pipes_too() -> None:
    server = SyncManager(ctx=sidestep.get_context("fork")).get_server()
    sidestep.SimpleQueue().close()  # the family exists from here on
    server._begin()
    try:
        client: Any = managers.SyncManager(server.address, bytes(server.authkey))
        client.connect()
        assert client_route(client, server) == "pipe"
    finally:
        server.stop_event.set()
        with server.mutex:
            server._wake_watch()
        server.listener.close()
        del sidestep.current_process()._manager_server  # type: ignore[attr-defined]


def client_route(client: Any, server: Any) -> str:
    line = managers.BaseProxy._line_to(server.address)
    with line:
        line._call_server(client._Client, client._authkey, "dummy", (), {})
        return "pipe" if line.local.seat.connection._conn._ringed else "socket"
