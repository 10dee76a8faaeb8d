"""One script, run with the standard library's pools and with ours: it must say the same."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = '''
import importlib, sys, threading, time

mp = importlib.import_module(sys.argv[1])
pool_module = importlib.import_module(sys.argv[1] + ".pool")
method = sys.argv[2]

def square(n):
    return n * n

def add(a, b=1):
    return a + b

def fail_on_even(n):
    if n % 2 == 0:
        raise LookupError("even", n)
    return n

class Number(int):
    """Results keep their class."""

def make_number(n):
    return Number(n)

def make_lock(_):
    return threading.Lock()

def make_error(n):
    return ValueError(n)

def items_that_fail():
    yield from (1, 3)
    raise KeyError("input")

def ask(call):
    """What the call returns; the original may need to be asked again.

    It divides by the number of its workers to find the size of a chunk. That number is 0 for an
    instant when all have done as many tasks as they may and none is replaced yet.
    """
    while True:
        try:
            return call()
        except ZeroDivisionError:
            if mp.__name__ != "multiprocessing":
                raise
            time.sleep(0.01)

def outcome(call):
    try:
        return repr(ask(call))
    except BaseException as error:
        cause = type(error.__cause__).__name__
        if isinstance(error, pool_module.MaybeEncodingError):
            return "MaybeEncodingError"
        return f"{type(error).__name__} {error.args} {cause}"

def drain(iterator):
    found = []
    while True:
        try:
            found.append(repr(next(iterator)))
        except StopIteration:
            return found
        except Exception as error:
            found.append(f"{type(error).__name__} {error.args}")

def show(what, call):
    print(what, outcome(call))

def run(pool, wraps):
    for count in (0, 1, 2, 7, 30):
        for chunksize in (None, 1, 2, 5, 100):
            show(("map", count, chunksize), lambda: pool.map(square, range(count), chunksize))
            show(("starmap", count, chunksize),
                 lambda: pool.starmap(add, [(n, n) for n in range(count)], chunksize))
    for chunksize in (1, 2, 5):
        for name in ("imap", "imap_unordered"):
            order = sorted if name == "imap_unordered" else list
            call = getattr(pool, name)
            show((name, chunksize), lambda: order(call(square, iter(range(9)), chunksize)))
            if chunksize == 1:
                print(name, order(drain(call(fail_on_even, [1, 2, 3]))))
                print(name, order(drain(call(square, items_that_fail()))))
            show(name, lambda: call(square, [1], 0))
    show("not iterable", lambda: pool.map(square, 5))
    print(drain(pool.imap(square, 5)))
    show("wrong arguments", lambda: pool.starmap(square, [(1, 2)]))
    show("no items", lambda: pool.starmap(square, [1]))
    show("error", lambda: pool.map(fail_on_even, [1, 2, 3], 1))
    show("first error", lambda: pool.apply(fail_on_even, (4,)))
    show("keywords", lambda: pool.apply(add, (1,), {"b": 5}))
    show("generator", lambda: pool.map(square, (n for n in range(5))))
    show("dict", lambda: pool.map(square, {1: 2, 3: 4}))
    show("set", lambda: sorted(pool.map(square, {1, 2})))
    show("string", lambda: pool.map(str.upper, "abc"))
    show("class", lambda: [type(n).__name__ for n in pool.map(make_number, range(3))])
    show("function is a class", lambda: pool.map(int, ["1", "2"]))
    show("exception as value", lambda: pool.apply(make_error, (3,)))
    if wraps:
        show("lock", lambda: pool.map(make_lock, [1]))
        show("lock as item", lambda: pool.apply(square, (threading.Lock(),)))
        show("lock in a map", lambda: pool.map(square, [1, threading.Lock(), 3], 1))
        print(drain(pool.imap(square, [1, threading.Lock(), 3])))

    told = []
    for start in (
        lambda: pool.apply_async(square, (3,), callback=lambda v: told.append(("apply", v)),
                         error_callback=lambda e: told.append(("wrong", e))),
        lambda: pool.apply_async(fail_on_even, (2,), callback=lambda v: told.append(("wrong", v)),
                         error_callback=lambda e: told.append(("error", e.args))),
        lambda: pool.map_async(square, range(3), callback=lambda v: told.append(("map", v))),
        lambda: pool.map_async(square, [], callback=lambda v: told.append(("empty", v))),
        lambda: pool.map_async(fail_on_even, [1, 2, 3], 1,
                       error_callback=lambda e: told.append(("map error", e.args))),
        lambda: pool.starmap_async(add, [(1, 2)], callback=lambda v: told.append(("starmap", v))),
    ):
        # One after the other: between two workers any order is right.
        job = ask(start)
        job.wait()
        print(type(job).__name__, job.ready(), job.successful(), outcome(job.get), told)
    print(isinstance(job, pool_module.ApplyResult), pool_module.AsyncResult.__name__)

    lazy = pool.imap(square, range(3))
    print(type(lazy).__name__, lazy.next(), lazy.next(timeout=60), next(lazy), iter(lazy) is lazy)
    show("end", lambda: next(lazy))
    show("timeout", lambda: event_result(pool))
    show("pickle", lambda: __import__("pickle").dumps(pool))
    show("join", pool.join)
    pool.close()
    show("closed", lambda: pool.map(square, [1]))
    show("closed", lambda: pool.apply_async(square, (1,)))
    show("closed", lambda: pool.imap(square, [1]))
    show("enter", pool.__enter__)
    pool.join()
    print(pool._state)

def event_result(pool):
    try:
        pool.apply_async(time.sleep, (0.2,)).get(timeout=0)
    except mp.TimeoutError:
        return "in time"

if __name__ == "__main__":
    print([name for name in ("RUN", "CLOSE", "TERMINATE", "INIT")
           if getattr(pool_module, name) == name])
    ctx = mp.get_context(method)
    for arguments in ({"processes": 0}, {"maxtasksperchild": 0}, {"initializer": 1}):
        try:
            ctx.Pool(**{"processes": 1, **arguments})
        except (ValueError, TypeError) as error:
            print(type(error).__name__)
    run(ctx.Pool(2), True)
    run(ctx.Pool(2, maxtasksperchild=3), True)
    run(pool_module.ThreadPool(2), False)
'''


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_both_say_the_same(method: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    said = []
    for package in ("multiprocessing", "sidestep"):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(script), package, method],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.splitlines())
    theirs, ours = said
    differ = [pair for pair in zip(theirs, ours, strict=False) if pair[0] != pair[1]]
    assert [pair for pair in differ if not is_listed(*pair)] == []
    assert len(theirs) == len(ours)


def is_listed(theirs: str, ours: str) -> bool:
    """Whether it is the words of an error only that differ, and not its class or its cause."""
    words = re.compile(r"(Error )\(.*\)")
    return words.sub(r"\1", theirs) == words.sub(r"\1", ours) != ours
