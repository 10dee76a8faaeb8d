"""A queue for programs on other machines: the client. See queue_server.py.

python examples/queue_client.py [--port 50000] [--authkey KEY] put WORD...
python examples/queue_client.py [--port 50000] [--authkey KEY] get [COUNT]
"""

import argparse
import importlib
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description="put words into a served queue, or get them")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=50000)
    parser.add_argument("--authkey", default="open sesame")
    parser.add_argument("--package", default="sidestep", help="or multiprocessing")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("put").add_argument("words", nargs="+")
    actions.add_parser("get").add_argument("count", nargs="?", type=int, default=1)
    options = parser.parse_args()
    managers: Any = importlib.import_module(f"{options.package}.managers")

    class QueueManager(managers.BaseManager):  # type: ignore[misc]
        """Only connects: what `get_queue` makes is known to the server."""

    QueueManager.register("get_queue")

    manager = QueueManager((options.host, options.port), options.authkey.encode())
    manager.connect()
    waiting = manager.get_queue()
    if options.action == "put":
        for word in options.words:
            waiting.put(word)
        print(f"{waiting.qsize()} in the queue")
    else:
        for _ in range(options.count):
            print(waiting.get())


if __name__ == "__main__":
    main()
