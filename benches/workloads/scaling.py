"""The same work with more of everything: items, processes, bytes, objects that are kept."""

from typing import Any

from registry import clock, sweep
from tasks import cube, nothing
from workloads import (
    checked,
    children,
    each,
    give,
    increase,
    pass_numbers,
    payload,
    take,
    together,
    use,
    warm_pool,
)

# How many operations one sample of the processes' series does, whatever their number.
SHARED_WORK = 100_000


def tenfold(start: int) -> dict[str, int]:
    """One, ten and a hundred times as many, by their labels."""
    return {f"{start * factor:,}": start * factor for factor in (1, 10, 100)}


def all_of(x: int) -> int:
    """As many operations as the size says."""
    return x


# --- items ----------------------------------------------------------------------------------


@sweep("queue, numbers", tenfold(10**4), all_of, "numbers from one process to another")
def queue_numbers(mp: Any, n: int, x: int) -> float:
    return pass_numbers(mp, n)


@sweep("queue, filled first", tenfold(10**4), all_of, "numbers are put, then taken, by one process")
def queue_filled(mp: Any, n: int, x: int) -> float:
    queue = mp.Queue()
    start = clock()
    give(queue.put, n)
    take(queue.get, n)
    return (clock() - start) / n


@sweep("queue, dictionaries", tenfold(10**3), all_of, "dictionaries of five to another process")
def queue_dictionaries(mp: Any, n: int, x: int) -> float:
    item, queue = payload("dict"), mp.Queue()
    with children(mp, (take, queue.get, n)):
        start = clock()
        for _ in range(n):
            queue.put(item)
    return (clock() - start) / n


@sweep("pipe, numbers", tenfold(10**4), all_of, "numbers through a pipe")
def pipe_numbers(mp: Any, n: int, x: int) -> float:
    reader, writer = mp.Pipe(False)
    with children(mp, (take, reader.recv, n)):
        start = clock()
        give(writer.send, n)
    return (clock() - start) / n


@sweep("lock", tenfold(10**4), all_of, "`with` a free Lock")
def lock(mp: Any, n: int, x: int) -> float:
    free = mp.Lock()
    start = clock()
    use(free, n)
    return (clock() - start) / n


@sweep("pool map", tenfold(10**4), all_of, "Pool(2).map of numbers with its own chunks")
def pool_map(mp: Any, n: int, x: int) -> float:
    with warm_pool(mp) as pool:
        start = clock()
        results = pool.map(cube, range(n))
        return checked((clock() - start) / n, results, n)


@sweep("pool imap_unordered", tenfold(10**3), all_of, "Pool(2).imap_unordered, one task each")
def pool_imap_unordered(mp: Any, n: int, x: int) -> float:
    with warm_pool(mp) as pool:
        start = clock()
        results = list(pool.imap_unordered(cube, range(n)))
        return checked((clock() - start) / n, sorted(results), n)


@sweep("manager list append", tenfold(10**3), all_of, "numbers are appended to a list")
def manager_list(mp: Any, n: int, x: int) -> float:
    with mp.Manager() as manager:
        shared = manager.list()
        return each(n, lambda: shared.append(1))


# --- processes ------------------------------------------------------------------------------

PROCESSES = {"1 process": 1, **{f"{count} processes": count for count in (2, 4, 8, 16)}}


@sweep("queue, writers and readers", PROCESSES, SHARED_WORK, "so many writers, as many readers")
def queue_crowd(mp: Any, n: int, x: int) -> float:
    queue, share = mp.Queue(), max(1, n // x)
    crowd = [(give, queue.put, share), (take, queue.get, share)] * x
    return together(mp, *crowd) / (share * x)


@sweep("lock, wanted by all", PROCESSES, SHARED_WORK, "processes take one Lock all the time")
def lock_crowd(mp: Any, n: int, x: int) -> float:
    share = max(1, n // x)
    return together(mp, *[(use, mp.Lock(), share)] * x) / (share * x)


@sweep("value, increased by all", PROCESSES, SHARED_WORK, "processes increase one Value")
def value_crowd(mp: Any, n: int, x: int) -> float:
    value, share = mp.Value("i"), max(1, n // x)
    return together(mp, *[(increase, value, share)] * x) / (share * x)


@sweep("pool, workers", PROCESSES, 10_000, "tasks of one number each to so many workers")
def pool_workers(mp: Any, n: int, x: int) -> float:
    with warm_pool(mp, x) as pool:
        start = clock()
        results = pool.map(cube, range(n), 1)
        return checked((clock() - start) / n, results, n)


@sweep("manager, clients", PROCESSES, 10_000, "so many clients set an entry of one dict")
def manager_clients(mp: Any, n: int, x: int) -> float:
    with mp.Manager() as manager:
        share = max(1, n // x)
        return together(mp, *[(set_entry, manager.dict(), share)] * x) / (share * x)


def set_entry(shared: Any, n: int) -> None:
    for _ in range(n):
        shared["k"] = 1


@sweep("start fork, at once", PROCESSES, 32, "so many processes are started, then joined")
def start_crowd(mp: Any, n: int, x: int) -> float:
    bursts = max(1, n // x)
    start = clock()
    for _ in range(bursts):
        with children(mp, *[(nothing,)] * x):
            pass
    return (clock() - start) / (bursts * x)


# --- bytes ----------------------------------------------------------------------------------

KB, MB = 1 << 10, 1 << 20
PAYLOADS = {
    "8 B": 8,
    "64 B": 64,
    "1 KB": KB,
    "16 KB": 16 * KB,
    "256 KB": 256 * KB,
    "4 MB": 4 * MB,
    "64 MB": 64 * MB,
    "256 MB": 256 * MB,
}


def as_many_as_fit(x: int) -> int:
    """About half a gigabyte, but not more than 50,000 of them."""
    return max(2, min(50_000, 512 * MB // x))


@sweep("queue, bytes", PAYLOADS, as_many_as_fit, "byte strings through a queue", flat=False)
def queue_bytes(mp: Any, n: int, x: int) -> float:
    queue, data = mp.Queue(4), bytes(x)
    with children(mp, (take, queue.get, n)):
        start = clock()
        for _ in range(n):
            queue.put(data)
    return (clock() - start) / n


@sweep("pipe, bytes", PAYLOADS, as_many_as_fit, "byte strings by send_bytes", flat=False)
def pipe_bytes(mp: Any, n: int, x: int) -> float:
    (reader, writer), data = mp.Pipe(False), bytes(x)
    with children(mp, (take, reader.recv_bytes, n)):
        start = clock()
        for _ in range(n):
            writer.send_bytes(data)
    return (clock() - start) / n


# --- objects --------------------------------------------------------------------------------


@sweep("locks, made", tenfold(10**3), all_of, "so many Locks are made, and all are kept")
def live_locks_made(mp: Any, n: int, x: int) -> float:
    start = clock()
    kept = [mp.Lock() for _ in range(n)]
    return (clock() - start) / len(kept)


@sweep("locks, used", tenfold(10**3), all_of, "each of so many Locks is taken and released")
def live_locks_used(mp: Any, n: int, x: int) -> float:
    kept = [mp.Lock() for _ in range(n)]
    start = clock()
    for one in kept:
        with one:
            pass
    return (clock() - start) / n


@sweep("queues, made", tenfold(10**2), all_of, "so many Queues are made, and all are kept")
def live_queues_made(mp: Any, n: int, x: int) -> float:
    start = clock()
    kept = [mp.Queue() for _ in range(n)]
    return (clock() - start) / len(kept)


@sweep("queues, used", tenfold(10**2), all_of, "a number goes into each of so many and out again")
def live_queues_used(mp: Any, n: int, x: int) -> float:
    kept = [mp.SimpleQueue() for _ in range(n)]
    start = clock()
    for one in kept:
        one.put(1)
        one.get()
    return (clock() - start) / n
