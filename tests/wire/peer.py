"""One side of a pairing: a server or a client, with one package and one version of Python.

    peer.py PACKAGE serve FOLDER    prints what it serves as JSON, and ends with its input
    peer.py PACKAGE call            reads servers as JSON, prints the outcome of each check

PACKAGE is `sidestep` or `multiprocessing`. Where it is the latter, sidestep cannot be imported.
"""

import importlib
import importlib.util
import json
import os
import queue
import sys
import threading
from typing import Any

import checks
import goods

KEYS = {"right": b"a key", "long": b"k" * 1000, "empty": b"", "wrong": b"another key"}


def make_manager_class(package: str) -> Any:
    managers = importlib.import_module(f"{package}.managers")

    class Shop(managers.SyncManager):  # type: ignore[misc, name-defined]
        pass

    shared: queue.Queue[Any] = queue.Queue()
    Shop.register("Echo", goods.Echo)
    Shop.register("Keeper", goods.Keeper)
    branches = {"branch": "Branch"}
    Shop.register("Tree", goods.Tree, method_to_typeid=branches)
    Shop.register("Branch", method_to_typeid=branches, create_method=False)
    Shop.register("countdown", goods.countdown, proxytype=managers.IteratorProxy)
    Shop.register("get_queue", callable=lambda: shared)
    return Shop


def answer(listener: Any, refused: tuple[type[Exception], ...]) -> None:
    """Give back what clients send, one client after the other."""
    while True:
        try:
            conn = listener.accept()
        except refused:
            continue
        try:
            while True:
                data = conn.recv_bytes()
                if data == b"an object":
                    conn.send(conn.recv())
                else:
                    conn.send_bytes(data)
        except (EOFError, OSError):
            conn.close()


def serve(package: str, folder: str) -> None:
    multiprocessing = importlib.import_module(package)
    connection = importlib.import_module(f"{package}.connection")
    managers = importlib.import_module(f"{package}.managers")
    # Proxies among the values of others take this key.
    multiprocessing.current_process().authkey = KEYS["right"]
    fork = multiprocessing.get_context("fork")
    Shop = make_manager_class(package)
    name = f"{package}-{os.getpid()}"

    started = []
    served: dict[str, Any] = {"managers": {}, "listeners": {}}
    for kind, address, key in (
        ("tcp", ("127.0.0.1", 0), "right"),
        ("abstract", f"\0{name}-m", "right"),
        ("unix-empty", os.path.join(folder, f"{name}-e"), "empty"),
        ("tcp-long", ("127.0.0.1", 0), "long"),
    ):
        manager = Shop(address, KEYS[key], ctx=fork)
        manager.start()
        started.append(manager)
        served["managers"][kind] = (checks.to_json(manager.address), key)
    blocks = managers.SharedMemoryManager(authkey=KEYS["right"], ctx=fork)
    blocks.start()
    started.append(blocks)
    served["blocks"] = (checks.to_json(blocks.address), "right")

    server = Shop(os.path.join(folder, f"{name}-m"), KEYS["right"]).get_server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    served["managers"]["unix"] = (checks.to_json(server.address), "right")

    refused = (multiprocessing.AuthenticationError, EOFError, OSError)
    listeners: tuple[tuple[str, Any, str | None], ...] = (
        ("tcp", ("127.0.0.1", 0), "right"),
        ("unix", os.path.join(folder, f"{name}-l"), "right"),
        ("abstract", f"\0{name}-l", "right"),
        ("tcp-long", ("127.0.0.1", 0), "long"),
        ("unix-empty", None, "empty"),
        ("unix-none", None, None),
    )
    for kind, address, listener_key in listeners:
        listener = connection.Listener(
            address, authkey=None if listener_key is None else KEYS[listener_key]
        )
        threading.Thread(target=answer, args=(listener, refused), daemon=True).start()
        served["listeners"][kind] = (checks.to_json(listener.address), listener_key)

    print(json.dumps(served), flush=True)
    sys.stdin.read()
    for manager in started:
        manager.shutdown()


def call(package: str) -> None:
    multiprocessing = importlib.import_module(package)
    multiprocessing.current_process().authkey = KEYS["right"]
    Shop = make_manager_class(package)
    outcomes = {}
    for name, server in json.load(sys.stdin).items():
        outcomes[name] = checks.run(checks.Pairing(package, Shop, server, KEYS))
    print(json.dumps(outcomes))


def main() -> None:
    package, role, *rest = sys.argv[1:]
    if package == "multiprocessing" and importlib.util.find_spec("sidestep"):
        sys.exit("this is meant to be an interpreter without sidestep")
    goods.package = package
    if role == "serve":
        serve(package, *rest)
    else:
        call(package)


if __name__ == "__main__":
    main()
