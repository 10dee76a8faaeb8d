"""What a queue says of itself is not so, and errors of `put` turn up somewhere else."""

import multiprocessing
import queue as queues
import threading
from typing import Any

import facts


def face_just_put_and_not_there() -> None:
    """An item can be taken, without waiting, by who has just put it."""
    queue: Any = multiprocessing.Queue()
    for number in range(300):
        queue.put(number)
        assert not queue.empty(), "put an item into an empty queue, and it is still empty"
        assert queue.get_nowait() == number


def face_size() -> None:
    queue: Any = multiprocessing.Queue(3)
    for size in range(3):
        assert queue.qsize() == size and not queue.full()
        queue.put(size)
    assert queue.full() and queue.qsize() == 3
    for _ in range(3):
        queue.get()
    assert queue.empty() and queue.qsize() == 0 and not queue.full()


def face_unpicklable() -> None:
    """Who puts what cannot be pickled is told so; the place in the queue is given back."""
    queue: Any = multiprocessing.Queue(1)
    for _ in range(3):
        try:
            queue.put(threading.Lock())
        except TypeError:
            continue
        raise AssertionError("put returned, and the item is lost")
    queue.put("item")
    assert queue.get() == "item"


def face_changed_after_put() -> None:
    """What was put is what it was then."""
    queue: Any = multiprocessing.Queue()
    changed = 0
    for _ in range(100):
        item: list[Any] = list(range(1000))
        queue.put(item)
        item.append("too late")
        changed += "too late" in queue.get()
    assert changed == 0, f"{changed} of 100 items were changed after put"


def drain(queue: Any, counts: Any) -> None:
    count = 0
    try:
        while True:
            queue.get_nowait()
            count += 1
    except queues.Empty:
        counts.put(count)


def face_empty_means_empty() -> None:
    """Two readers take all that there is, without waiting, and none stops before the end."""
    queue: Any = multiprocessing.Queue()
    counts: Any = multiprocessing.SimpleQueue()
    number = 3000
    for item in range(number):
        queue.put(item)
    while queue.qsize() != number:
        pass
    readers = [multiprocessing.Process(target=drain, args=(queue, counts)) for _ in range(2)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    taken = counts.get() + counts.get()
    assert taken == number, f"{number - taken} items were left in a queue that was 'empty'"


def face_order_of_one_producer() -> None:
    """Items stay in order, small and large."""
    queue: Any = multiprocessing.Queue()
    child = multiprocessing.Process(target=produce, args=(queue,))
    child.start()
    assert [len(queue.get()) for _ in range(60)] == [10, 100_000] * 30
    child.join()


def produce(queue: Any) -> None:
    for _ in range(30):
        queue.put(bytes(10))
        queue.put(bytes(100_000))


if __name__ == "__main__":
    facts.choose(globals())
