"""A queue for programs on other machines: the server.

    python examples/queue_server.py [--port 50000] [--authkey KEY]    in one terminal
    python examples/queue_client.py put "hello" "world"               in others, where the package
    python examples/queue_client.py get                               is either of the two

The queue lives in this process. Whoever knows the address and the key reaches it by a proxy, be
it with this package or with the standard library, which speak the same protocol. Without the key
nobody gets in, and whoever has it can run code here: keep it as secret as a password.
"""

import argparse
import importlib
import queue
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description="serve a queue until Ctrl-C")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen; '' for everywhere")
    parser.add_argument("--port", type=int, default=50000, help="0 for a free one")
    parser.add_argument("--authkey", default="open sesame")
    parser.add_argument("--package", default="sidestep", help="or multiprocessing")
    options = parser.parse_args()
    managers: Any = importlib.import_module(f"{options.package}.managers")

    class QueueManager(managers.BaseManager):  # type: ignore[misc]
        """Gives every client a proxy to the one queue."""

    waiting: queue.Queue[str] = queue.Queue()
    QueueManager.register("get_queue", callable=lambda: waiting)

    manager = QueueManager((options.host, options.port), options.authkey.encode())
    server = manager.get_server()
    print(f"serving a queue at {server.address[0]}:{server.address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
