"""What a client tries on a server of another package or version. Runs without any test runner."""

import array
import gc
import importlib
import pickle
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import goods


def to_json(address: Any) -> Any:
    """An address as JSON has it: bytes (an abstract name) as text."""
    return address.decode("latin-1") if isinstance(address, bytes) else address


def from_json(address: Any) -> Any:
    return tuple(address) if isinstance(address, list) else address


class Pairing:
    """A client's package, and a server that it may call."""

    def __init__(self, package: str, Shop: Any, server: Any, keys: dict[str, bytes]) -> None:
        self.package = importlib.import_module(package)
        self.managers = importlib.import_module(f"{package}.managers")
        self.connection = importlib.import_module(f"{package}.connection")
        self.Shop = Shop
        self.keys = keys
        self.server = server
        self.shop = self.manager("unix")

    def manager(self, kind: str, key: str | None = None) -> Any:
        """A manager that is connected to the server's manager of this kind."""
        address, right = self.server["managers"][kind]
        manager = self.Shop(from_json(address), self.keys[key or right])
        manager.connect()
        return manager

    def listener(self, kind: str) -> tuple[Any, bytes | None]:
        """Address and key of the server's listener of this kind."""
        address, key = self.server["listeners"][kind]
        return from_json(address), None if key is None else self.keys[key]


@contextmanager
def raises(*kinds: type[BaseException]) -> Iterator[list[BaseException]]:
    """Fail unless one of these exceptions comes; it is put into the list."""
    caught: list[BaseException] = []
    try:
        yield caught
    except kinds as error:
        caught.append(error)
    else:
        raise AssertionError(f"nothing was raised, not even {kinds}")


Check = Callable[[Pairing], None]
all_checks: dict[str, Check] = {}


def check(function: Check) -> Check:
    all_checks[function.__name__] = function
    return function


def run(pairing: Pairing) -> dict[str, str]:
    """Do all checks; an empty text, or the traceback, for each."""
    outcomes = {}
    for name, function in all_checks.items():
        try:
            function(pairing)
            outcomes[name] = ""
        except BaseException:
            outcomes[name] = traceback.format_exc()
    return outcomes


# --- containers -------------------------------------------------------------------------------


@check
def lists(pairing: Pairing) -> None:
    items = pairing.shop.list([3, 1, 2])
    items.append(5)
    items.extend((7, 6))
    items.insert(0, 9)
    items += [8]
    assert (len(items), 5 in items, items.count(5), items.index(1)) == (8, True, 1, 2)
    items.sort(reverse=True)
    items.reverse()
    assert items[:] == [1, 2, 3, 5, 6, 7, 8, 9]
    items.remove(9)
    assert (items.pop(), items.pop(0), items[-1], items[1:3]) == (8, 1, 7, [3, 5])
    items[0] = 20
    del items[1:]
    items *= 2
    assert items[:] == [20, 20]
    assert items + [1] == [20, 20, 1]
    assert items * 2 == 2 * items == [20] * 4
    assert list(items) == items._getvalue() == [20, 20]
    assert str(items) == "[20, 20]"
    assert repr(items).startswith("<ListProxy object, typeid 'list' at 0x")
    with raises(IndexError):
        items[7]


@check
def dicts(pairing: Pairing) -> None:
    table = pairing.shop.dict({"a": 1}, b=2)
    table["c"] = 3
    table.update(d=4)
    assert sorted(table) == ["a", "b", "c", "d"]
    assert (len(table), "a" in table, table.get("z"), table.get("z", 0)) == (4, True, None, 0)
    assert list(table.keys()) == ["a", "b", "c", "d"]
    assert list(table.values()) == [1, 2, 3, 4]
    assert list(table.items())[0] == ("a", 1)
    assert (table.pop("a"), table.popitem(), table.setdefault("e", 5)) == (1, ("d", 4), 5)
    del table["e"]
    assert table.copy() == table._getvalue() == {"b": 2, "c": 3}
    table.clear()
    assert str(table) == "{}"
    with raises(KeyError):
        table["a"]


@check
def namespaces_values_arrays(pairing: Pairing) -> None:
    space = pairing.shop.Namespace(x=1)
    space.y = [2]
    del space.x
    space._own = 3
    assert space.y == [2] and str(space) == "Namespace(y=[2])"
    with raises(AttributeError):
        _ = space.x
    copy = space._getvalue()
    assert (type(copy), copy.y) == (pairing.managers.Namespace, [2])
    value = pairing.shop.Value("i", 4)
    value.value += 1
    value.set(value.get() + 1)
    assert value.value == 6
    copy = value._getvalue()
    assert (type(copy), copy.value, copy.get()) == (pairing.managers.Value, 6, 6)
    numbers = pairing.shop.Array("d", [1, 2])
    numbers[1] = 2.5
    assert (len(numbers), numbers[1]) == (2, 2.5)
    assert numbers[:] == numbers._getvalue() == array.array("d", [1, 2.5])


@check
def nested_proxies(pairing: Pairing) -> None:
    outer, inner = pairing.shop.list(), pairing.shop.list([1])
    table = pairing.shop.dict()
    outer.append(inner)
    outer.append(table)
    table["inner"] = inner
    inner.append(2)
    del inner
    outer[0].append(3)
    assert isinstance(outer[0], pairing.managers.ListProxy)
    assert outer[1]["inner"][:] == outer[0][:] == [1, 2, 3]
    assert str(outer[0]) == "[1, 2, 3]"
    taken = outer.pop(0)
    table.clear()
    assert taken[:] == [1, 2, 3]


# --- locks and queues ---------------------------------------------------------------------------


@check
def queues(pairing: Pairing) -> None:
    for items in (pairing.shop.Queue(2), pairing.shop.JoinableQueue(maxsize=2)):
        items.put("one")
        items.put(item={"two": (2, None)}, block=True, timeout=5)
        assert (items.qsize(), items.full(), items.empty()) == (2, True, False)
        with raises(queue.Full):
            items.put_nowait(3)
        assert items.get() == "one"
        assert items.get(timeout=5) == {"two": (2, None)}
        with raises(queue.Empty):
            items.get(block=False)
        with raises(queue.Empty):
            items.get(timeout=0.01)
        items.task_done()
        items.task_done()
        items.join()
        with raises(ValueError):
            items.task_done()
    first, second = pairing.shop.get_queue(), pairing.shop.get_queue()
    first.put("shared")
    assert second.get() == "shared"


@check
def locks(pairing: Pairing) -> None:
    for lock in (pairing.shop.Lock(), pairing.shop.Semaphore(1), pairing.shop.BoundedSemaphore()):
        with lock:
            assert not lock.acquire(False)
            assert not lock.acquire(blocking=True, timeout=0.01)
        assert lock.acquire()
        lock.release()
    with raises(ValueError):
        pairing.shop.BoundedSemaphore(1).release()
    again = pairing.shop.RLock()
    with again, again:
        others = []
        thread = threading.Thread(target=lambda: others.append(again.acquire(False)))
        thread.start()
        thread.join()
        assert others == [False]
    with raises(RuntimeError):
        again.release()


@check
def conditions_events_barriers(pairing: Pairing) -> None:
    shop = pairing.shop
    condition, event, barrier, seen = shop.Condition(), shop.Event(), shop.Barrier(2), shop.list()

    def other() -> None:
        barrier.wait()
        with condition:
            seen.append("here")
            condition.notify_all()
        event.wait()
        seen.append("woken")

    thread = threading.Thread(target=other)
    thread.start()
    with condition:
        barrier.wait(timeout=30)
        assert condition.wait_for(lambda: len(seen) == 1, timeout=30)
        assert not condition.wait(0.01)
        condition.notify(1)
    assert not event.is_set()
    assert not event.wait(timeout=0.01)
    event.set()
    thread.join()
    event.clear()
    assert seen[:] == ["here", "woken"]
    # The last one through counts itself out after the others have gone on.
    deadline = time.monotonic() + 30
    while barrier.n_waiting and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (2, 0, False)
    barrier.abort()
    with raises(threading.BrokenBarrierError):
        barrier.wait()
    barrier.reset()
    assert not barrier.broken


@check
def pools(pairing: Pairing) -> None:
    with pairing.manager("abstract").Pool(2) as pool:
        assert pool.apply(divmod, (7, 2)) == (3, 1)
        assert pool.map(abs, [-1, 2, -3]) == [1, 2, 3]
        assert pool.starmap(divmod, [(7, 2), (9, 4)]) == [(3, 1), (2, 1)]
        assert list(pool.imap(abs, range(-3, 0), chunksize=2)) == [3, 2, 1]
        assert sorted(pool.imap_unordered(abs, [-1, -2])) == [1, 2]
        result = pool.apply_async(int, ("12",), {"base": 3})
        assert result.get(timeout=30) == 5
        assert result.ready() and result.successful()
        with raises(ZeroDivisionError):
            pool.apply(divmod, (1, 0))


# --- types of one's own -----------------------------------------------------------------------


@check
def keyword_arguments(pairing: Pairing) -> None:
    echo = pairing.shop.Echo()
    assert echo.back(1, two=2, **{"self": 3, "methodname": 4}) == (
        (1,),
        {"two": 2, "self": 3, "methodname": 4},
    )
    assert pairing.shop.Tree(name="oak").name() == "oak"


@check
def errors(pairing: Pairing) -> None:
    echo, remote = pairing.shop.Echo(), pairing.managers.RemoteError
    with raises(goods.Trouble) as caught:
        echo.fail(what="great", size=2)
    assert caught[0].args == ("great", 2)
    with raises(remote) as caught:
        echo.unpicklable()
    assert "Unserializable" in str(caught[0])
    with raises(remote) as caught:
        echo._callmethod("secret")
    assert "AttributeError" in str(caught[0])
    with raises(remote) as caught:
        pairing.shop.Tree(1, 2, 3)
    assert "TypeError" in str(caught[0])
    with raises(TypeError):
        echo.fail(1, 2, 3)
    # An argument that cannot be pickled has sent nothing: the connection is as good as before.
    with raises(TypeError, AttributeError, pickle.PicklingError):
        echo.back(threading.Lock())
    assert echo.back() == ((), {})


@check
def errors_of_the_package(pairing: Pairing) -> None:
    echo = pairing.shop.Echo()
    for name in ("ProcessError", "TimeoutError", "AuthenticationError", "BufferTooShort"):
        with raises(getattr(pairing.package, name)) as caught:
            echo.fail_as_package("context", name, "late")
        assert caught[0].args == ("late",)
    with raises(pairing.managers.RemoteError):
        echo.fail_as_package("managers", "RemoteError", "text")


@check
def classes_of_the_package(pairing: Pairing) -> None:
    echo, managers = pairing.shop.Echo(), pairing.managers
    for thing in (
        managers.Token("list", "/somewhere", "ff"),
        managers.RemoteError("text"),
        managers.Namespace(a=1),
        managers.Value("i", 1),
    ):
        (back,), _ = echo.back(thing)
        assert type(back) is type(thing)
        assert repr(back) == repr(thing)
        assert echo.class_of(thing) == f"managers.{type(thing).__name__}"
    for kind in (managers.ListProxy, managers.BaseProxy, managers.AutoProxy):
        (back,), _ = echo.back(kind)
        assert back is kind


@check
def proxies_as_arguments(pairing: Pairing) -> None:
    keeper, first, second = pairing.shop.Keeper(), pairing.shop.list([1, 2]), pairing.shop.list()
    keeper.keep(first)
    keeper.keep(second)
    second.append(4)
    assert keeper.total() == 7
    kept = keeper.last()
    kept.append(5)
    assert second[:] == [4, 5]
    tree = pairing.shop.Tree("oak")
    keeper.keep(tree)  # of a class that is made up by each side for itself
    assert keeper.last().name() == "oak"
    keeper.drop()
    assert keeper.total() == 0


@check
def results_that_stay_in_the_server(pairing: Pairing) -> None:
    leaf = pairing.shop.Tree("oak").branch("left").branch(name="thin")
    assert leaf.name() == "oak.left.thin"
    assert type(leaf).__name__ == "AutoProxy[Branch]"


@check
def iterators(pairing: Pairing) -> None:
    assert list(pairing.shop.countdown(3)) == [3, 2, 1]
    counting = pairing.shop.countdown(5)
    assert next(counting) == 5
    assert counting.send("hello") == "hello"
    assert next(counting) == 4
    assert counting.throw(LookupError("lost")) == "caught lost"
    counting.close()
    with raises(StopIteration):
        next(counting)


# --- references and processes -----------------------------------------------------------------


@check
def references(pairing: Pairing) -> None:
    manager = pairing.manager("abstract")
    gc.collect()
    before = manager._number_of_objects()
    items = [manager.list(), manager.dict(), manager.Tree("oak")]
    branch = items[2].branch("left")
    items[0].append(items[1])
    assert manager._number_of_objects() == before + 4
    assert f"{items[0]._id}:       refcount=1" in manager._debug_info()
    again = pickle.loads(pickle.dumps(items[0]))
    assert f"{items[0]._id}:       refcount=2" in manager._debug_info()
    del items, again, branch
    gc.collect()
    # A server of the standard library may hold the last result for a moment longer.
    deadline = time.monotonic() + 30
    while manager._number_of_objects() != before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert manager._number_of_objects() == before, manager._debug_info()


def append_from_a_child(items: Any, more: Any) -> None:
    items.append("from a child")
    for other in more:
        other.append("from a child, too")


@check
def children_of_the_client(pairing: Pairing) -> None:
    items, more = pairing.shop.list(), pairing.shop.list()
    outer = pairing.shop.list([more])
    child = pairing.package.get_context("fork").Process(
        target=append_from_a_child, args=(items, [outer[0]])
    )
    child.start()
    child.join()
    assert child.exitcode == 0
    assert (items[:], more[:]) == (["from a child"], ["from a child, too"])


@check
def threads(pairing: Pairing) -> None:
    items, echo = pairing.shop.list(), pairing.shop.Echo()
    wrong = []

    def talk(number: int) -> None:
        for turn in range(25):
            said = (number, turn)
            if echo.back(said) != ((said,), {}):
                wrong.append(said)
        items.append(number)

    talkers = [threading.Thread(target=talk, args=(number,)) for number in range(4)]
    for talker in talkers:
        talker.start()
    for talker in talkers:
        talker.join()
    assert not wrong
    assert sorted(items) == [0, 1, 2, 3]


# --- addresses and keys -----------------------------------------------------------------------


@check
def managers_of_all_addresses_and_keys(pairing: Pairing) -> None:
    for kind in pairing.server["managers"]:
        manager = pairing.manager(kind)
        items = manager.list([1])
        items.append(kind)
        assert items[:] == [1, kind]
        for key in pairing.keys:
            if key != pairing.server["managers"][kind][1]:
                with raises(pairing.package.AuthenticationError):
                    pairing.manager(kind, key)
        assert items[0] == 1


@check
def listeners_of_all_addresses(pairing: Pairing) -> None:
    for kind in ("tcp", "unix", "abstract", "tcp-long", "unix-none"):
        address, key = pairing.listener(kind)
        with pairing.connection.Client(address, authkey=key) as conn:
            for data in (b"", b"short", bytes(range(256)) * 5000):
                conn.send_bytes(data)
                assert conn.recv_bytes() == data
            for thing in (None, [1, {"two": (3.0, b"4")}], goods.Trouble("great", 2)):
                conn.send_bytes(b"an object")
                conn.send(thing)
                back = conn.recv()
                assert (type(back), str(back)) == (type(thing), str(thing))


@check
def listeners_refuse_wrong_keys(pairing: Pairing) -> None:
    for kind in ("tcp", "unix", "abstract", "tcp-long"):
        address, right = pairing.listener(kind)
        for key in pairing.keys.values():
            if key != right:
                with raises(pairing.package.AuthenticationError):
                    pairing.connection.Client(address, authkey=key)
        pairing.connection.Client(address, authkey=right).close()


@check
def an_empty_key_is_a_key(pairing: Pairing) -> None:
    address, key = pairing.listener("unix-empty")
    if pairing.server["empty_key_is_none"]:
        key = None
    else:
        with raises(pairing.package.AuthenticationError):
            pairing.connection.Client(address, authkey=b"not empty")
    with pairing.connection.Client(address, authkey=key) as conn:
        conn.send_bytes(b"through")
        assert conn.recv_bytes() == b"through"


@check
def long_messages_end_a_handshake(pairing: Pairing) -> None:
    for kind in ("tcp", "unix"):
        address, key = pairing.listener(kind)
        with pairing.connection.Client(address) as conn:
            assert conn.recv_bytes().startswith(b"#CHALLENGE#")
            conn.send_bytes(b"x" * 257)
            with raises(EOFError, OSError):
                conn.recv_bytes()
        pairing.connection.Client(address, authkey=key).close()


# --- shared memory ----------------------------------------------------------------------------


@check
def shared_memory(pairing: Pairing) -> None:
    address, key = pairing.server["blocks"]
    blocks = pairing.managers.SharedMemoryManager(from_json(address), pairing.keys[key])
    blocks.connect()
    block, items = blocks.SharedMemory(size=64), blocks.ShareableList([1, "two", None])
    block.buf[:4] = bytes([1, 2, 3, 4])
    with pairing.managers.listener_client["pickle"][1](
        from_json(address), authkey=pairing.keys[key]
    ) as conn:
        names = pairing.managers.dispatch(conn, None, "list_segments")
    assert {block.name, items.shm.name} <= set(names)
    for memory in (block, items.shm):
        memory.close()
        with pairing.managers.listener_client["pickle"][1](
            from_json(address), authkey=pairing.keys[key]
        ) as conn:
            pairing.managers.dispatch(conn, None, "release_segment", (memory.name,))
        with raises(FileNotFoundError):
            type(memory)(memory.name)
