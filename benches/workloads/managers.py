"""Calls of managers' objects by one client."""

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from registry import workload
from workloads import each

SERVER = Path(__file__).parents[1] / "queue_server.py"
KEY = b"benches"


def calls(name: str, sentence: str, prepare: Callable[[Any], Callable[[], object]]) -> None:
    @workload(f"manager {name}", 5_000, f"{sentence}, the server on this machine", goal=6)
    def run(mp: Any, n: int) -> float:
        with mp.Manager() as manager:
            return each(n, prepare(manager))


def dict_get(manager: Any) -> Callable[[], object]:
    shared = manager.dict(k=1)
    return lambda: shared["k"]


def dict_set(manager: Any) -> Callable[[], object]:
    shared = manager.dict()
    return lambda: shared.__setitem__("k", 1)


def list_append(manager: Any) -> Callable[[], object]:
    shared = manager.list()
    return lambda: shared.append(1)


def namespace_get(manager: Any) -> Callable[[], object]:
    shared = manager.Namespace(x=1)
    return lambda: shared.x


def queue_put_and_get(manager: Any) -> Callable[[], object]:
    shared = manager.Queue()
    return lambda: (shared.put(1), shared.get())


calls("dict get", "one entry of a dict is read", dict_get)
calls("dict set", "one entry of a dict is set", dict_set)
calls("list append", "a number is appended to a list", list_append)
calls("Namespace", "one attribute of a Namespace is read", namespace_get)
calls("Queue", "a number is put into a Queue and taken out", queue_put_and_get)


@workload(
    "manager over TCP",
    2_000,
    "a number is put into a queue and taken out, server and client of the same package, as "
    "programs that know nothing of each other",
    goal=1.3,
)
def over_tcp(mp: Any, n: int) -> float:
    command = [sys.executable, str(SERVER), mp.package]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        port = int(server.stdout.readline())
        client = queue_manager(mp.package)(address=("127.0.0.1", port), authkey=KEY)
        client.connect()
        queue = client.get_queue()
        return each(n, lambda: (queue.put(1), queue.get()))
    finally:
        # It ends with its standard input.
        server.communicate()


def queue_manager(package: str) -> Any:
    base: Any = importlib.import_module(f"{package}.managers").BaseManager

    class QueueManager(base):  # type: ignore[misc]
        """A manager that has one queue."""

    QueueManager.register("get_queue")
    return QueueManager
