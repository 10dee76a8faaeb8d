"""Functions that workers would not find under their name go to them by value."""

import functools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

import sidestep
from sidestep import context
from sidestep.pool import Pool

# Children are given our sys.path, and so find the module by its name.
sys.path.insert(0, str(Path(__file__).parent))

import pool_tasks as tasks


@pytest.fixture(params=("fork", "spawn", "forkserver"))
def ctx(request: pytest.FixtureRequest) -> context.BaseContext:
    return sidestep.get_context(request.param)


@pytest.fixture
def workers(ctx: Any) -> Iterator[Pool]:
    with ctx.Pool(2) as made:
        yield made
    made.join()
    made._crew.workers.clear()
    made._crew.lines.clear()


class Local:
    """Found by its name; its methods need not be."""

    def __init__(self, n: int) -> None:
        self.n = n

    def plus(self, other: int) -> int:
        return self.n + other


def test_every_call_takes_any_function(workers: Pool) -> None:
    two = 2

    def double(n: int) -> int:
        return two * n

    def power(n: int, exponent: int) -> int:
        return n if exponent == 1 else n * power(n, exponent - 1)

    class Inner:
        def __call__(self, n: int) -> int:
            return n - 1

        def double(self, n: int) -> int:
            return double(n)

    doubled = [0, 2, 4, 6]
    for function in (
        double,
        lambda n: n + n,
        Inner().double,
        functools.partial(lambda a, b: a * b, 2),
    ):
        assert workers.map(function, range(4)) == doubled
        assert workers.map_async(function, range(4), 3).get() == doubled
        assert list(workers.imap(function, range(4))) == doubled
        assert list(workers.imap(function, range(4), 3)) == doubled
        assert sorted(workers.imap_unordered(function, range(4))) == doubled
        assert workers.apply(function, (4,)) == 8
        assert workers.apply_async(function, (4,)).get() == 8
    assert workers.starmap(power, [(2, 3), (3, 2)]) == [8, 9]
    assert workers.starmap_async(lambda a, b: a + b, [(2, 3)]).get() == [5]
    assert workers.apply(lambda *, key: key, (), {"key": "word"}) == "word"
    assert workers.map(Inner(), [1]) == [0]
    assert workers.map(Local(3).plus, [4]) == [7]


def test_initializers_and_their_arguments(ctx: context.BaseContext) -> None:
    word = "captured"

    def start(call: Any, *rest: Any) -> None:
        tasks.remember(call(*rest), word)

    with ctx.Pool(1, start, (lambda a: a + 1, 2)) as workers:
        assert workers.apply(tasks.remembered, (None,)) == (3, "captured")
    workers.join()
    with ctx.Pool(1, functools.partial(start, lambda: 5)) as workers:
        assert workers.apply(tasks.remembered, (None,)) == (5, "captured")
    workers.join()


def test_globals_are_those_of_the_worker(ctx: context.BaseContext) -> None:
    """As for functions that go by name: what an initializer has set is there."""
    with ctx.Pool(1, set_global, ("by the initializer",)) as workers:
        assert workers.apply(lambda: _set) == "by the initializer"
        assert workers.apply(get_global) == "by the initializer"
    workers.join()


_set = "here"


def set_global(value: str) -> None:
    global _set
    _set = value


def get_global() -> str:
    return _set


class Counts:
    """Counts how often it is pickled, here, and rebuilt, in each process."""

    pickled = 0
    rebuilt = 0

    def __reduce__(self) -> Any:
        Counts.pickled += 1
        return rebuild_counts, ()


def rebuild_counts() -> Counts:
    Counts.rebuilt += 1
    return Counts()


@pytest.mark.parametrize("size", [0, 1_000_000])
def test_a_map_serialises_once_and_rebuilds_once_in_each_worker(workers: Pool, size: int) -> None:
    counts, ballast = Counts(), b"x" * size
    before = Counts.pickled

    def rebuilt(_: int) -> tuple[int, int, int]:
        assert isinstance(counts, Counts)
        return os.getpid(), Counts.rebuilt, len(ballast)

    found = set(workers.map(rebuilt, range(40), 1))
    assert Counts.pickled == before + 1
    assert {(count, length) for _, count, length in found} == {(1, size)}
    assert {pid for pid, *_ in found} <= {worker.pid for worker in workers._pool}


def test_a_worker_keeps_a_few_functions_only(workers: Pool) -> None:
    from sidestep import _by_value

    for n in range(12):
        assert workers.map(functools.partial(lambda n, m: m + n, n), range(8), 1) == [
            m + n for m in range(8)
        ]
    kept = workers.map(lambda _: len(_by_value._kept), range(8), 1)
    assert all(1 <= count <= _by_value._KEPT for count in kept)


def test_closures_take_shared_objects_along(ctx: Any, workers: Pool) -> None:
    lock, queue, array = ctx.Lock(), ctx.Queue(), ctx.Array("i", 4)

    def note(n: int) -> bool:
        array[n] = n + 1
        queue.put(n)
        return bool(lock.acquire(False))

    with lock:
        assert workers.map(note, range(4), 1) == [False] * 4
    assert list(array) == [1, 2, 3, 4]
    assert sorted(queue.get() for _ in range(4)) == [0, 1, 2, 3]


def test_big_closures(workers: Pool) -> None:
    big = numpy.arange(500_000)
    assert workers.map(lambda n: int(big[n] + big.sum()), range(8), 1) == [
        n + int(big.sum()) for n in range(8)
    ]


def test_arguments_and_results_keep_the_rules_of_pickle(workers: Pool) -> None:
    with pytest.raises(Exception, match="pickle"):
        workers.apply(tasks.square, (lambda: 1,))
    with pytest.raises(Exception, match="pickle"):
        workers.map(lambda call: call(), [lambda: 1])
    with pytest.raises(sidestep.pool.MaybeEncodingError, match="lambda"):
        workers.apply(lambda: lambda: 1)
    assert workers.apply(lambda: 1) == 1


def test_a_function_that_cannot_go_at_all_is_the_calls_error(workers: Pool) -> None:
    lock = threading.Lock()
    with pytest.raises(Exception, match="pickle|local object"):
        workers.apply(lambda: lock)
    with pytest.raises(Exception, match="pickle|local object"):
        workers.map(functools.partial(lambda lock: lock, lock), range(3))
    result = workers.map_async(lambda _: lock, range(3))
    with pytest.raises(Exception, match="pickle|local object"):
        result.get()
    assert workers.map(tasks.square, [3]) == [9]


PLAIN = """
import functools, operator, sys
import sidestep

def double(n):
    return n + n

class Thing:
    def triple(self, n):
        return 3 * n
    def __call__(self, n):
        return n - 1

def loaded(_):
    return "cloudpickle" in sys.modules

if __name__ == "__main__":
    with sidestep.get_context(sys.argv[1]).Pool(1) as pool:
        for function in double, functools.partial(operator.add, 1), Thing().triple, Thing():
            print(*pool.map(function, [1]), end=" ")
        print(*pool.map(abs, [-1]), *pool.map("{}".format, [1]), *pool.map(str, [1]))
        print(*pool.map(loaded, [1]), loaded(1))
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_plain_functions_go_by_name_and_need_no_cloudpickle(method: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(PLAIN)
    assert run(str(script), method).splitlines() == ["2 2 3 0 1 1 1", "False False"]


def run(*arguments: str, source: str | None = None) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        input=source,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    return done.stdout


TYPED_IN = """
import functools, sys
import sidestep

factor = 3
data = None

def init(given):
    global data
    data = given

def look_up(n):
    return data[n]

def times(n):
    return factor * n

def twice_times(n):
    return times(times(n))

def factorial(n):
    return 1 if n < 2 else n * factorial(n - 1)

class Adder:
    def __init__(self, n):
        self.n = n
    def add(self, n):
        return self.n + n
    def __call__(self, n):
        return self.n - n

pool = sidestep.get_context({method!r}).Pool(2, init, ([7, 8, 9],))
print(pool.map(times, range(3)), pool.map(twice_times, [1]), pool.map(factorial, [5]))
print(pool.map(Adder(3).add, [1]), list(pool.imap(Adder(3), [1])))
print(pool.map(functools.partial(times), [2]), pool.apply(lambda n: times(n) + factor, (1,)))
print(pool.map(look_up, range(3)), pool.map(lambda n: data[n], range(3)))

# Another cell, later.
factor = 10
def newer(n):
    return n + factor
exec("def times(n): return -factor * n", globals())
print(pool.map(newer, range(3)), pool.map(times, [1]), pool.map(lambda n: times(n), [2]))
print(pool.map(look_up, range(3)))
pool.close()
pool.join()
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("how", ["typed in", "from the command line"])
def test_functions_of_a_main_module_without_a_file(method: str, how: str) -> None:
    source = TYPED_IN.format(method=method)
    found = run("-", source=source) if how == "typed in" else run("-c", source)
    assert found.splitlines() == [
        "[0, 3, 6] [9] [120]",
        "[4] [2]",
        "[6] 6",
        "[7, 8, 9] [7, 8, 9]",
        "[10, 11, 12] [-10] [-20]",
        "[7, 8, 9]",
    ]


SCRIPT = """
import sys
import sidestep

table = {"a": 1}
guarded = None

def fill():
    table["a"] = 2

def find(key):
    return table[key]

if __name__ == "__main__":
    new = 5
    with sidestep.get_context(sys.argv[1]).Pool(1, fill) as pool:
        print(pool.map(find, "a"), pool.map(lambda key: table[key], "a"))
        print(pool.map(lambda n: n + new, [1]))
        exec("def later(n): return n * new", globals())
        try:
            print(pool.map(later, [2]))
        except AttributeError:
            # The worker has the script's functions as they were when it imported it.
            print("not there")
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_functions_by_value_meet_the_globals_of_the_script(method: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    last = "[10]" if method == "fork" else "not there"
    assert run(str(script), method).splitlines() == ["[2] [2]", "[6]", last]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_take_lambdas_of_a_main_module_without_a_file(method: str) -> None:
    source = (
        "import sidestep\n"
        f"ctx = sidestep.get_context({method!r})\n"
        "queue = ctx.SimpleQueue()\n"
        "def target(call, n): queue.put(call(n))\n"
        "child = ctx.Process(target=target, args=(lambda n: n + 1, 2))\n"
        "child.start()\n"
        "print(queue.get())\n"
        "child.join()\n"
        "print(child.exitcode)\n"
    )
    assert run("-", source=source) == "3\n0\n"
