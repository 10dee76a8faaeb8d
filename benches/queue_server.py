"""Serves one queue by TCP until its standard input ends: `queue_server.py PACKAGE`.

Prints its port. A program of its own, since members of one family would take the shorter way
through shared memory.
"""

import queue
import sys
import threading
from typing import Any

from workloads.managers import KEY, queue_manager


def main() -> None:
    manager: Any = queue_manager(sys.argv[1])
    shared: queue.Queue[Any] = queue.Queue()
    manager.register("get_queue", callable=lambda: shared)
    server = manager(address=("127.0.0.1", 0), authkey=KEY).get_server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.address[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
