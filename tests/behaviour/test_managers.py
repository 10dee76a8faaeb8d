"""Managers: referents in a server, proxies in any process, and what is left when one dies."""

import array
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import sidestep
from sidestep import managers
from sidestep._wire import call_server
from sidestep.context import AuthenticationError, ProcessError
from sidestep.managers import (
    BaseManager,
    BaseProxy,
    RemoteError,
    ServerLostError,
    SharedMemoryManager,
    SyncManager,
    Token,
)
from sidestep.shared_memory import ShareableList, SharedMemory

METHODS = ["fork", "spawn", "forkserver"]


@pytest.fixture(params=METHODS)
def ctx(request: pytest.FixtureRequest) -> Any:
    return sidestep.get_context(request.param)


@pytest.fixture
def manager() -> Iterator[Any]:
    with SyncManager(ctx=sidestep.get_context("fork")) as started:
        yield started
    started.join()  # lets go of the process, and of its sentinel


class Counter:
    def __init__(self, start: int = 0) -> None:
        self.value = start

    def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value

    def fail(self) -> None:
        raise LookupError("nothing there")

    def leave(self, kind: str) -> None:
        raise {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}[kind]

    def make_lock(self) -> Any:
        return threading.Lock()

    def _secret(self) -> str:
        return "told"


class CounterProxy(BaseProxy):
    _exposed_ = ("add", "_secret")

    def add(self, amount: int = 1) -> Any:
        return self._callmethod("add", (amount,))


def squares(count: int) -> Iterator[int]:
    return (number * number for number in range(count))


class OurManager(BaseManager):
    pass


OurManager.register("Counter", Counter)
OurManager.register("SecretCounter", Counter, exposed=("add", "_secret"))
OurManager.register("ProxiedCounter", Counter, CounterProxy)
OurManager.register("squares", squares, managers.IteratorProxy)
OurManager.register("pair", lambda: (1, 2))


# --- types of one's own -----------------------------------------------------------------------


@pytest.fixture
def ours() -> Iterator[Any]:
    with OurManager(ctx=sidestep.get_context("fork")) as started:
        yield started
    started.join()  # lets go of the process, and of its sentinel


def test_public_methods_are_exposed_unless_others_are_named(ours: Any) -> None:
    counter, secret = ours.Counter(5), ours.SecretCounter()
    assert counter.add(2) == 7
    assert not hasattr(counter, "_secret")
    assert secret._secret() == "told"
    assert not hasattr(secret, "fail")
    with pytest.raises(RemoteError, match="not among those exposed"):
        counter._callmethod("_secret")


def test_proxy_class_decides(ours: Any) -> None:
    counter = ours.ProxiedCounter()
    assert isinstance(counter, CounterProxy)
    assert counter.add(amount=3) == 3
    assert list(ours.squares(4)) == [0, 1, 4, 9]


def test_error_comes_with_the_servers_traceback(ours: Any) -> None:
    with pytest.raises(LookupError, match="nothing there") as caught:
        ours.Counter().fail()
    assert isinstance(caught.value.__cause__, RemoteError)
    assert "in fail" in str(caught.value.__cause__)


def test_result_that_cannot_be_pickled_is_a_remote_error(ours: Any) -> None:
    counter = ours.Counter()
    with pytest.raises(RemoteError, match="Unserializable"):
        counter.make_lock()
    assert counter.add() == 1, "the connection still works"


def test_bad_arguments_are_errors_of_the_method(ours: Any) -> None:
    with pytest.raises(TypeError):
        ours.Counter().add(1, 2, 3)
    with pytest.raises(RemoteError, match="TypeError"):
        ours.Counter(1, 2, 3)


def test_registering_does_not_reach_other_classes() -> None:
    class Another(OurManager):
        pass

    Another.register("extra", Counter)
    assert hasattr(Another, "Counter")
    assert not hasattr(OurManager, "extra")
    with pytest.raises(TypeError, match="not text"):
        Another.register("wrong", Counter, method_to_typeid={"add": 1})  # type: ignore[dict-item]


# --- life of the server -----------------------------------------------------------------------


def set_marker(items: Any) -> None:
    items.append(os.getpid())


def test_started_server_serves_and_ends(ctx: Any) -> None:
    with SyncManager(ctx=ctx) as manager:
        items = manager.list([1, 2])
        child = ctx.Process(target=set_marker, args=(items,))
        child.start()
        child.join()
        assert list(items) == [1, 2, child.pid]
        server = manager._process
        assert server.name.startswith("SyncManager-")
        assert manager._number_of_objects() == 1
        assert "refcount=1" in manager._debug_info()
        del items
        assert manager._number_of_objects() == 0
    assert server.exitcode == 0


def test_manager_is_started_once() -> None:
    manager = SyncManager(ctx=sidestep.get_context("fork"))
    with manager:
        with pytest.raises(ProcessError, match="already"):
            manager.start()
        with pytest.raises(ProcessError, match="already"):
            manager.get_server()
        manager.join(0)
    manager.shutdown()
    with pytest.raises(ProcessError, match="shut down"):
        manager.start()
    with pytest.raises(ProcessError, match="shut down"), manager:
        pass
    manager.join()
    assert manager._process is None


def refuse() -> None:
    raise FileNotFoundError("no settings")


def leave() -> None:
    os._exit(7)


def test_failed_start_says_why(ctx: Any) -> None:
    with pytest.raises(TypeError, match="callable"):
        SyncManager(ctx=ctx).start(initializer=3)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="no settings"):
        SyncManager(ctx=ctx).start(initializer=refuse)
    with pytest.raises(EOFError, match="exit code 7"):
        SyncManager(ctx=ctx).start(initializer=leave)


def test_taken_address_is_an_os_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = taken.getsockname()
        with pytest.raises(OSError, match="in use"):
            SyncManager(address, ctx=sidestep.get_context("fork")).start()


def no_more_threads(after: int) -> None:
    """In a server: let so many threads start, and then none."""
    start = threading.Thread.start
    left = iter(range(after))

    def limited(self: threading.Thread) -> None:
        if next(left, None) is None:
            raise RuntimeError("can't start new thread")
        start(self)

    threading.Thread.start = limited  # type: ignore[method-assign]


@pytest.mark.parametrize("after", [0, 1])
def test_a_server_without_threads_is_an_error_of_start(ctx: Any, after: int) -> None:
    manager = SyncManager(ctx=ctx)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        manager.start(initializer=no_more_threads, initargs=(after,))
    manager.join()
    assert manager._process is None


def test_a_caller_that_gets_no_thread_is_told_so(ctx: Any) -> None:
    manager = SyncManager(ctx=ctx)
    # For its parent's end, callers, the first of these, and clients' ends.
    manager.start(initializer=no_more_threads, initargs=(4,))
    items: Any = manager.list()  # this thread's connection
    errors: list[BaseException] = []

    def call() -> None:
        try:
            items.append(1)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    (error,) = errors
    assert type(error) is RuntimeError
    assert "no thread for a caller: can't start new thread" in str(error)
    items.append(2)
    assert list(items) == [2]
    manager._process.kill()  # its own request for an end would want a thread
    manager._process.join()
    manager.shutdown()


def test_calls_fail_when_the_server_was_killed(manager: Any) -> None:
    items = manager.list()
    items.append(1)
    manager._process.kill()
    manager._process.join()
    with pytest.raises((EOFError, OSError)):
        items.append(2)
    assert "failed" in str(items)


ORPHAN_SERVER = """
import os, signal, sys
import sidestep
if __name__ == "__main__":
    manager = sidestep.get_context(sys.argv[1]).Manager()
    print(manager._process.pid, flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("method", METHODS)
def test_server_ends_with_a_killed_parent(method: str, tmp_path: Any) -> None:
    script = tmp_path / "script.py"
    script.write_text(ORPHAN_SERVER)
    with subprocess.Popen(
        [sys.executable, str(script), method],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdin is not None and program.stdout is not None
        server = os.pidfd_open(int(program.stdout.readline()))
        program.stdin.write("\n")
        program.stdin.flush()
        ended, _, _ = select.select([server], [], [], 30)
        os.close(server)
    assert program.returncode == -signal.SIGKILL
    assert ended


def test_server_ignores_ctrl_c(manager: Any) -> None:
    os.kill(manager._process.pid, signal.SIGINT)
    assert manager.list([1])[0] == 1


def test_other_managers_connect_with_the_right_key(manager: Any) -> None:
    second: Any = SyncManager(manager.address, authkey=manager._authkey)
    second.connect()
    event = second.Event()
    event.set()
    assert event.is_set()
    del event
    with pytest.raises(AuthenticationError):
        SyncManager(manager.address, authkey=b"wrong").connect()
    with pytest.raises(TypeError, match="bytes"):
        managers.Server({}, None, "text", "pickle")  # type: ignore[arg-type]


# --- the types of a SyncManager ---------------------------------------------------------------


def test_containers(manager: Any) -> None:
    items = manager.list("ab")
    items += ["c"]
    items *= 2
    items.extend([1])
    assert items[1:3] == ["b", "c"]
    assert (len(items), "c" in items, items.count("a")) == (7, True, 2)
    assert str(items) == "['a', 'b', 'c', 'a', 'b', 'c', 1]"
    assert repr(items).startswith("<ListProxy object, typeid 'list' at 0x")
    table = manager.dict(a=1)
    table["b"] = 2
    assert sorted(table) == ["a", "b"]
    assert table.copy() == {"a": 1, "b": 2}
    assert sorted(table.keys()) == ["a", "b"]
    assert table.items() == [("a", 1), ("b", 2)]
    numbers = manager.Array("i", [1, 2])
    numbers[0] = 5
    assert numbers[:] == array.array("i", [5, 2])
    value = manager.Value("d", 1.5)
    value.value += 1
    assert value.get() == 2.5
    space = manager.Namespace(x=1)
    space.y = 2
    del space.x
    space._own = 3
    assert str(space) == "Namespace(y=2)"
    with pytest.raises(AttributeError):
        _ = space.x


def test_newer_methods_of_containers(manager: Any) -> None:
    items = manager.list([1, 2])
    assert items.copy() == [1, 2]
    items.clear()
    assert len(items) == 0
    table = manager.dict(a=1)
    assert (table | {"b": 2}, {"b": 2} | table) == ({"a": 1, "b": 2}, {"b": 2, "a": 1})
    same = table
    table |= {"c": 3}
    assert table is same
    assert list(reversed(table)) == ["c", "a"]
    assert table.fromkeys(["x"], 1) == {"x": 1}
    members = manager.set([1, 2])
    members.add(3)
    assert (len(members), 3 in members, sorted(members)) == (3, True, [1, 2, 3])
    assert (members & {1}, members | {4}, {1, 4} - members) == ({1}, {1, 2, 3, 4}, {4})
    kept = members
    members &= {1, 2}
    members |= {5}
    members -= {1}
    members ^= {5, 6}
    assert members is kept
    assert members.copy() == {2, 6}
    assert members >= {2}
    for kind in (managers.ListProxy, managers.DictProxy, managers.SetProxy, managers.ValueProxy):
        arguments = (str, int) if kind is managers.DictProxy else int
        assert kind[arguments].__origin__ is kind


def test_locks_and_queues(manager: Any) -> None:
    lock = manager.Lock()
    with lock:
        assert not lock.acquire(False)
        assert not lock.acquire(True, 0.01)
    semaphore = manager.BoundedSemaphore(1)
    with pytest.raises(ValueError, match="released"):
        semaphore.release()
    condition = manager.Condition()
    with condition:
        assert not condition.wait_for(lambda: False, 0.01)
        assert condition.wait_for(lambda: "yes") == "yes"
        condition.notify_all()
    barrier = manager.Barrier(1)
    assert (barrier.wait(), barrier.parties, barrier.n_waiting, barrier.broken) == (0, 1, 0, False)
    items = manager.Queue(1)
    items.put(1)
    with pytest.raises(queue.Full):
        items.put_nowait(2)
    assert items.get() == 1
    with pytest.raises(queue.Empty):
        items.get(timeout=0.01)


def wait_for_event(event: Any, items: Any) -> None:
    event.wait()
    items.put("woken")


def test_event_wakes_another_process(ctx: Any, manager: Any) -> None:
    event, items = manager.Event(), manager.Queue()
    child = ctx.Process(target=wait_for_event, args=(event, items))
    child.start()
    event.set()
    assert items.get() == "woken"
    child.join()


def test_pool_in_the_server(manager: Any) -> None:
    pytest.importorskip("sidestep.pool")
    with manager.Pool(2) as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]
        assert pool.apply_async(abs, (-3,)).get() == 3
        assert list(pool.imap(abs, [-4, 5])) == [4, 5]


# --- references -------------------------------------------------------------------------------


def test_inner_proxies_keep_their_referents_and_let_go(manager: Any) -> None:
    outer = manager.list()
    inner = manager.list([1])
    outer.append(inner)
    del inner
    assert manager._number_of_objects() == 1
    again = outer[0]
    again.append(2)
    assert outer[0][1] == 2
    assert manager._number_of_objects() == 2
    del again
    assert manager._number_of_objects() == 1
    taken = outer.pop()
    assert str(taken) == "[1, 2]"
    del taken
    assert manager._number_of_objects() == 1
    outer.append(outer)
    assert outer[0][0]._id == outer._id


def test_server_drops_what_only_inner_proxies_held() -> None:
    class Registered(BaseManager):
        pass

    Registered.register("list", list, managers.ListProxy)
    with Registered(ctx=sidestep.get_context("fork")) as manager:
        outer: Any = manager.list()  # type: ignore[attr-defined]
        for _ in range(3):
            outer.append(manager.list(range(1000)))  # type: ignore[attr-defined]
        assert manager._number_of_objects() == 1
        outer.clear()
        assert outer.copy() == []


def test_server_counts_references_by_itself() -> None:
    registry: Any = {"list": (list, ("append",), None, managers.ListProxy)}
    server = managers.Server(registry, None, b"key", "pickle")
    try:
        ident, exposed = server.create(None, "list", [1])
        assert exposed == ("append",)
        server._hold(ident)
        server.incref(None, ident)
        server.decref(None, ident)
        server.decref(None, ident)
        assert server.number_of_objects(None) == 0
        assert server._record(ident)[0] == [1], "the inner proxy still holds it"
        server.incref(None, ident)
        assert server.number_of_objects(None) == 1
        server.decref(None, ident)
        server._freed.append(ident)
        server._settle_freed()
        for call in (server.incref, server.decref):
            with pytest.raises(KeyError, match="no object with id"):
                call(None, ident)
    finally:
        server.listener.close()


def test_proxy_without_a_manager_makes_further_ones(manager: Any) -> None:
    table = manager.dict(a=1)
    bare: managers.DictProxy[str, int] = managers.DictProxy(
        table._token, "pickle", authkey=manager._authkey
    )
    assert list(bare) == ["a"]
    assert isinstance(iter(bare), managers.IteratorProxy)
    assert manager._number_of_objects() == 1


def test_threads_have_connections_of_their_own(manager: Any) -> None:
    items = manager.list()

    def fill(number: int) -> None:
        for _ in range(20):
            items.append(number)
        items._tls.seat.connection.close()

    threads = [threading.Thread(target=fill, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [items.count(number) for number in range(4)] == [20] * 4


def hold_and_wait(address: Any, key: bytes, ready: Any) -> None:
    manager: Any = SyncManager(address, key)
    manager.connect()
    held = [manager.list(), manager.dict()]
    held[0].append(held[1])

    def in_a_thread() -> None:
        held.append(manager.list())
        held[2].append(1)

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    tasks = manager.Queue()
    threading.Thread(target=tasks.get).start()
    held.append(tasks)
    ready.put(len(held))
    signal.pause()


def test_references_of_a_killed_client_are_given_back(manager: Any) -> None:
    ctx = sidestep.get_context("fork")
    ready = ctx.Queue()
    child = ctx.Process(
        target=hold_and_wait, args=(manager.address, bytes(manager._authkey), ready)
    )
    child.start()
    assert ready.get(timeout=60) == 4
    assert manager._number_of_objects() == 4
    child.kill()
    child.join()
    # Although the server still carries out a call for it.
    until(lambda: manager._number_of_objects() == 0)
    ready.close()


class HastyManager(SyncManager):
    class _Server(managers.Server):
        client_grace = 0.2


def test_references_of_a_killed_client_at_a_network_address_are_given_back_later() -> None:
    ctx = sidestep.get_context("fork")
    with HastyManager(("localhost", 0), ctx=ctx) as manager:
        ready = ctx.Queue()
        key = bytes(manager._authkey)
        child = ctx.Process(target=hold_and_wait, args=(manager.address, key, ready))
        child.start()
        assert ready.get(timeout=60) == 4
        assert manager._number_of_objects() == 4
        child.kill()
        child.join()
        until(lambda: manager._number_of_objects() == 0)
        ready.close()
    manager.join()


@pytest.mark.parametrize("address", [("localhost", 0), None])
def test_a_client_whose_only_connection_was_cut_finds_its_objects_again(address: Any) -> None:
    with SyncManager(address, ctx=sidestep.get_context("fork")) as manager:
        items = manager.list([7])
        for _ in range(2):
            assert items[:] == [7]
            with socket.socket(fileno=os.dup(items._tls.seat.connection.fileno())) as line:
                line.shutdown(socket.SHUT_RDWR)
            with pytest.raises((EOFError, OSError)):
                items[:]
        assert items[:] == [7]
        assert manager._number_of_objects() == 1
        del items
        until(lambda: manager._number_of_objects() == 0)
    manager.join()


def shut(server: Any) -> None:
    """End a server that runs in the test itself, and watches clients."""
    server.stop_event.set()
    with server.mutex:
        server._wake_watch()
    until(lambda: server._epoll is None)
    server.listener.close()


def test_connections_of_a_client_are_counted_until_it_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(managers.Server, "client_grace", 0.0)
    registry: Any = {"list": (list, ("append",), None, managers.ListProxy)}
    server = managers.Server(registry, None, b"key", "pickle")
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    try:
        first, second = object(), object()  # no sockets: nothing is known of their process
        server._introduce(first, "client")
        server._introduce(second, "client")
        ident, _ = server.create(first, "list", [1])
        server._take_leave(first)
        assert server.number_of_objects(None) == 1
        server._take_leave(second)
        until(lambda: server.number_of_objects(None) == 0)
        # One that is given up in the middle of a call has nothing to give back, and keeps nothing.
        server._introduce(ours, "another")
        ident, _ = server.create(ours, "list", [1])
        with server.mutex:
            server._give_up(server._clients["another"])
        with pytest.raises(KeyError, match="this client has no reference"):
            server.decref(ours, ident)
        server.create(ours, "list", [1])
        assert server.number_of_objects(None) == 1
        server._take_leave(ours)
        assert server.number_of_objects(None) == 0
    finally:
        shut(server)
        ours.close()
        theirs.close()


def test_a_method_that_wants_to_exit_ends_neither_connection_nor_client(ours: Any) -> None:
    counter = ours.Counter(1)
    for kind in ("SystemExit", "KeyboardInterrupt"):
        with pytest.raises(RemoteError, match=kind):
            counter.leave(kind)
    assert counter.add() == 2


def test_references_outlive_the_thread_and_the_connection_that_made_them(manager: Any) -> None:
    made: list[Any] = []

    def make() -> None:
        made.append(manager.list([1]))
        assert made[0][0] == 1

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    assert made[0][:] == [1]
    assert manager._number_of_objects() == 1
    made.clear()
    assert manager._number_of_objects() == 0


def test_references_take_no_connections_of_their_own(
    manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    client = manager._Client

    def counting(*args: Any, **kwds: Any) -> Any:
        opened.append(args)
        return client(*args, **kwds)

    monkeypatch.setattr(manager, "_Client", counting)
    monkeypatch.setitem(managers.listener_client, "pickle", (managers.BaseProxy, counting))
    items = [manager.list([number]) for number in range(5)]
    table = manager.dict(a=1)
    assert list(table) == ["a"]
    assert [item[0] for item in items] == [0, 1, 2, 3, 4]
    del items, table
    assert len(opened) == 1


def test_a_call_that_was_interrupted_leaves_no_reply_for_the_next(manager: Any) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(*_: Any) -> None:
        raise Interrupted

    tasks, items = manager.Queue(), manager.list([7])
    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Interrupted):
            tasks.get()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert items[0] == 7
    tasks.put("for whoever waited in the server")
    assert items[:] == [7]


def test_a_signal_handler_may_call_while_its_thread_waits(manager: Any) -> None:
    event, items = manager.Event(), manager.list()

    def set_it(*_: Any) -> None:
        items.append(len(manager.list([1, 2])))
        event.set()

    previous = signal.signal(signal.SIGALRM, set_it)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert event.wait(60)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert items[:] == [2]


def test_a_raw_fork_talks_over_connections_of_its_own(manager: Any) -> None:
    items = manager.list([0])
    items.append(0)  # over a connection that both would have
    children = []
    for _ in range(2):
        child = os.fork()
        if not child:
            status = 1
            try:
                for _ in range(100):
                    items.append(1)
                assert manager.list([2])[:] == [2]
                del items  # a reference of the parent's
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    for _ in range(100):
        items.append(3)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert (items.count(1), items.count(3)) == (200, 100)
    until(lambda: manager._number_of_objects() == 1)


def iterate(table: Any, names: Any) -> None:
    names.extend(sorted(table))


def test_children_iterate_over_dicts(ctx: Any, manager: Any) -> None:
    table, names = manager.dict(b=1, a=2), manager.list()
    child = ctx.Process(target=iterate, args=(table, names))
    child.start()
    child.join()
    assert names[:] == ["a", "b"]


def test_inner_proxies_know_the_key_of_their_server() -> None:
    with SyncManager(authkey=b"only here", ctx=sidestep.get_context("fork")) as manager:
        outer = manager.list([manager.list([1])])
        assert outer[0][0] == 1
        del outer
    manager.join()


def until(true: Any) -> None:
    """Wait for a fact."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- messages ---------------------------------------------------------------------------------


def test_unknown_and_wrong_replies_are_errors() -> None:
    assert isinstance(managers.convert_to_error("#NONSENSE", 1), ValueError)
    assert isinstance(managers.convert_to_error("#TRACEBACK", 1), TypeError)
    assert "Unserializable" in str(managers.convert_to_error("#UNSERIALIZABLE", "text\n"))
    assert "KeyError" in str(managers.convert_to_error("#ERROR", {"KeyError": 1}))


def test_server_refuses_calls_that_are_not_public(manager: Any) -> None:
    with pytest.raises(RemoteError, match="is no call of a manager's server"):
        call_server(manager._Client, manager.address, manager._authkey, "serve_forever")


def test_xml_carries_simple_values() -> None:
    manager: Any = SyncManager(
        ("127.0.0.1", 0), serializer="xmlrpclib", ctx=sidestep.get_context("fork")
    )
    with manager:
        items = manager.Queue()
        items.put((1, "two", None))
        assert items.get() == [1, "two", None]
        del items


def test_token_shows_what_it_is() -> None:
    assert repr(Token("list", "/tmp/x", "ff")) == "Token(typeid='list', address='/tmp/x', id='ff')"


# --- shared memory ----------------------------------------------------------------------------


def test_shared_memory_goes_with_its_manager(ctx: Any) -> None:
    with SharedMemoryManager(ctx=ctx) as manager:
        block = manager.SharedMemory(size=16)
        items = manager.ShareableList([1, "two"])
        other = SharedMemory(block.name)
        block.buf[0] = 9
        assert other.buf[0] == 9
        names = [block.name, items.shm.name]
        for memory in (other, block, items.shm):
            memory.close()
    for name in names:
        with pytest.raises(FileNotFoundError):
            SharedMemory(name)
    with pytest.raises(FileNotFoundError):
        ShareableList(name=names[1])


def test_blocks_that_are_gone_do_not_hinder_the_end() -> None:
    with SharedMemoryManager(ctx=sidestep.get_context("fork")) as manager:
        block = manager.SharedMemory(size=16)
        block.close()
        block.unlink()
        server = manager._process
    assert server.exitcode == 0


def test_no_blocks_from_a_server_that_was_killed() -> None:
    manager = SharedMemoryManager(ctx=sidestep.get_context("fork"))
    manager.start()
    manager._process.kill()
    manager._process.join()
    with pytest.raises(ServerLostError, match="does not answer"):
        manager.SharedMemory(16)
    with pytest.raises(ServerLostError, match="does not answer"):
        manager.ShareableList([1])
    manager.shutdown()


def test_blocks_of_another_programs_manager_are_no_leaks_of_this_one(tmp_path: Any) -> None:
    with SharedMemoryManager(ctx=sidestep.get_context("fork"), authkey=b"key") as manager:
        program = (
            "import sys\n"
            "from sidestep.managers import SharedMemoryManager\n"
            "manager = SharedMemoryManager(sys.argv[1], b'key')\n"
            "manager.connect()\n"
            "print(manager.SharedMemory(16).name)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, manager.address], capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        name = done.stdout.strip()
        SharedMemory(name, track=False).close()
    manager.join()
    with pytest.raises(FileNotFoundError):
        SharedMemory(name)


# --- exceptions of signal handlers ----------------------------------------------------------------


def test_a_proxy_is_made_whoever_was_interrupted_in_making_one(manager: Any) -> None:
    # As a handler leaves it that raises, or that makes a proxy itself.
    with managers.BaseProxy._mutex:
        assert list(manager.list([1, 2])) == [1, 2]


def test_an_exception_of_a_handler_comes_out_of_making_a_proxy(
    manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = managers._Line._call_server

    def interrupted(line: Any, client: Any, authkey: Any, method: str, *args: Any) -> Any:
        found = call(line, client, authkey, method, *args)
        if method == "decref":
            raise TimeoutError("from the handler")
        return found

    with monkeypatch.context() as patched:
        patched.setattr(managers._Line, "_call_server", interrupted)
        with pytest.raises(TimeoutError, match="from the handler"):
            manager.list()
    assert list(manager.list([1])) == [1]


def test_clients_are_watched_once_there_is_a_thread_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = managers.Server({}, ("localhost", 0), b"key", "pickle")
    try:
        with monkeypatch.context() as patched:

            def refuse(thread: threading.Thread) -> None:
                raise RuntimeError("can't start new thread")

            patched.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="new thread"):
                server._begin_watch()
        assert server._epoll is None
        server._begin_watch()
    finally:
        shut(server)
