"""Objects from several processes through one queue.

    python examples/pass_by_queue.py

Three children each put a parcel: a number, nothing at all, a list, whatever pickles. The parent
takes them out in the order in which they arrived, which may differ from run to run, and sorts
them by sender. A parcel is in the queue when `put` returns, so joining the children before
reading is safe.
"""

from typing import Any

import sidestep as multiprocessing
from sidestep.queues import Queue

PARCELS: dict[str, Any] = {
    "ann": 42,
    "bob": None,
    "cid": ["hello", {"answer": (4, 2)}],
}


def send(queue: "Queue[tuple[str, Any]]", sender: str) -> None:
    queue.put((sender, PARCELS[sender]))


def main() -> None:
    queue: Queue[tuple[str, Any]] = multiprocessing.Queue()
    children = [multiprocessing.Process(target=send, args=(queue, name)) for name in PARCELS]
    for child in children:
        child.start()
    for child in children:
        child.join()

    arrived = [queue.get() for _ in children]
    for sender, parcel in sorted(arrived, key=lambda pair: pair[0]):
        print(f"{sender} sent {parcel!r}")
    print(f"the queue is empty: {queue.empty()}")


if __name__ == "__main__":
    main()
