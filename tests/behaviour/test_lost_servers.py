"""Managers whose server is killed, crowds of clients, and proxies that everybody uses at once."""

import os
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import sidestep
from sidestep.managers import ServerLostError, SyncManager

# The error that the standard library gives, whatever it is, is caught by programs.
USUAL = (EOFError, ConnectionError)


@pytest.fixture(params=["unix", "tcp"])
def manager(request: pytest.FixtureRequest) -> Iterator[Any]:
    address = None if request.param == "unix" else ("127.0.0.1", 0)
    started = SyncManager(address, ctx=sidestep.get_context("fork"))
    started.start()
    yield started
    started.shutdown()
    started.join()


def kill(manager: Any) -> None:
    manager._process.kill()
    manager._process.join()


def error_of(call: Callable[[], object]) -> BaseException | None:
    try:
        call()
    except BaseException as error:
        return error
    return None


def report(proxy: Any, ready: Any, go: Any, answers: Any) -> None:
    """In a child: a call before, and one after the server's death."""
    proxy.append(1)
    ready.release()
    go.wait()
    answers.put([type(error_of(lambda: proxy.append(2))).__name__ for _ in range(2)])


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_every_proxy_hears_at_once_of_a_killed_server(method: str, manager: Any) -> None:
    ctx = sidestep.get_context(method)
    items, tasks, table = manager.list(), manager.Queue(), manager.dict(a=1, b=2)
    ready, go, answers = ctx.Semaphore(0), ctx.Event(), ctx.SimpleQueue()
    child = ctx.Process(target=report, args=(items, ready, go, answers))
    child.start()
    ready.acquire()
    iterator = iter(table)
    assert next(iterator) == "a"
    errors: dict[str, Any] = {}
    used, killed = threading.Event(), threading.Event()

    def blocked() -> None:
        errors["blocked"] = error_of(tasks.get)

    def another_thread() -> None:
        items.append(2)
        used.set()
        killed.wait()
        errors["another thread"] = error_of(lambda: items.append(3))

    def new_thread() -> None:
        errors["new thread"] = error_of(lambda: items.append(4))

    threads = [threading.Thread(target=work) for work in (blocked, another_thread)]
    for thread in threads:
        thread.start()
    used.wait()
    kill(manager)
    killed.set()
    threads.append(threading.Thread(target=new_thread))
    threads[-1].start()
    go.set()
    errors["next call"] = error_of(lambda: items.append(5))
    errors["second call"] = error_of(lambda: items.append(6))
    errors["iterating"] = error_of(lambda: next(iterator))
    errors["new object"] = error_of(manager.list)
    errors["other proxy"] = error_of(lambda: table["a"])
    for thread in threads:
        thread.join()
    assert {
        name for name, error in errors.items() if not isinstance(error, ServerLostError)
    } == set()
    assert all(isinstance(error, kind) for error in errors.values() for kind in USUAL)
    assert answers.get() == ["ServerLostError"] * 2
    assert "the manager's server at " in str(errors["next call"])
    child.join()
    child.close()
    answers.close()


def fill(address: Any, key: bytes, threads: int, start: Any, done: Any) -> None:
    """Connect in many threads at one instant, and make an object in each."""
    answers: list[int | str] = []

    def client() -> None:
        manager: Any = SyncManager(address, key)
        start.wait()
        try:
            manager.connect()
            items = manager.list([os.getpid()])
            items.append(1)
            answers.append(len(items))
        except Exception as error:
            answers.append(repr(error))

    workers = [threading.Thread(target=client) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    done.put(answers)


def test_two_hundred_clients_at_once_are_all_served(manager: Any) -> None:
    ctx = sidestep.get_context("fork")
    start, done = ctx.Barrier(200), ctx.SimpleQueue()
    children = [
        ctx.Process(target=fill, args=(manager.address, bytes(manager._authkey), 50, start, done))
        for _ in range(4)
    ]
    for child in children:
        child.start()
    answers = [answer for _ in children for answer in done.get()]
    for child in children:
        child.join()
        child.close()
    done.close()
    assert answers == [2] * 200
    assert manager._number_of_objects() == 0


class Echo:
    """Gives back what it gets, with a checksum that it makes by itself."""

    def echo(self, data: bytes) -> tuple[int, bytes]:
        return zlib.crc32(data), data


class EchoManager(SyncManager):
    pass


EchoManager.register("Echo", Echo)


def talk(echo: Any, name: str, rounds: int) -> list[str]:
    """Call with messages of all sizes that nobody else sends; the replies that were not ours."""
    wrong = []
    for number in range(rounds):
        data = f"{name} {os.getpid()} {threading.get_ident()} {number}".encode() * (1 + number**2)
        if echo.echo(data) != (zlib.crc32(data), data):
            wrong.append(f"{name} {number}")
    return wrong


def talk_in_threads(echo: Any, name: str, answers: Any) -> None:
    wrong: list[str] = []
    threads = [
        threading.Thread(target=lambda n=n: wrong.extend(talk(echo, f"{name}.{n}", 40)))
        for n in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers.put(wrong)


def test_replies_are_never_mixed() -> None:
    ctx = sidestep.get_context("fork")
    answers = ctx.SimpleQueue()
    with EchoManager(ctx=ctx) as manager:
        echo: Any = manager.Echo()  # type: ignore[attr-defined]
        stop = threading.Event()
        wrong: list[str] = []

        def chatter(name: str) -> None:
            while not stop.is_set():
                wrong.extend(talk(echo, name, 20))

        threads = [threading.Thread(target=chatter, args=(f"parent {n}",)) for n in range(3)]
        for thread in threads:
            thread.start()
        children = []
        for number in range(4):  # forked in the middle of calls
            child = ctx.Process(target=talk_in_threads, args=(echo, f"child {number}", answers))
            child.start()
            children.append(child)
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    code = 1 if talk(echo, "raw", 10) else 0
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        for _ in children:
            wrong += answers.get()
        stop.set()
        for thread in threads:
            thread.join()
        for child in children:
            child.join()
            child.close()
        assert wrong == []
    manager.join()
    answers.close()
