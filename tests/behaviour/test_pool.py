"""Pools: every task ends, with its result or with an error that says what became of it."""

import contextlib
import gc
import itertools
import os
import pickle
import re
import select
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy
import pytest

import sidestep
from sidestep import context, pool
from sidestep.pool import MaybeEncodingError, RemoteTraceback, ThreadPool, WorkerLostError

# Children are given our sys.path, and so find the module by its name.
sys.path.insert(0, str(Path(__file__).parent))

import pool_tasks as tasks
from pool_ends import end


@pytest.fixture(params=("fork", "spawn", "forkserver"))
def ctx(request: pytest.FixtureRequest) -> context.BaseContext:
    return sidestep.get_context(str(request.param))


@pytest.fixture
def fork() -> context.BaseContext:
    return sidestep.get_context("fork")


@pytest.fixture(params=("processes", "threads"))
def either(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A pool of processes, and one of threads: two workers each."""
    made = sidestep.get_context("fork").Pool(2) if request.param == "processes" else ThreadPool(2)
    with made:
        yield made
    end(made)


@pytest.fixture
def two(fork: Any) -> Iterator[Any]:
    with fork.Pool(2) as made:
        yield made
    end(made)


class Told:
    """A callback that keeps what it is told, and can be waited for."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.thread: threading.Thread | None = None
        self._come = threading.Event()

    def __call__(self, value: Any) -> None:
        self.values.append(value)
        self.thread = threading.current_thread()
        self._come.set()

    def wait(self) -> list[Any]:
        self._come.wait()
        return self.values


# --- the calls ------------------------------------------------------------------------------


def test_the_calls_with_every_start_method(ctx: context.BaseContext) -> None:
    with ctx.Pool(2) as workers:
        assert workers.apply(tasks.add, (1,), {"b": 2}) == 3
        assert workers.map(tasks.square, range(20)) == [n * n for n in range(20)]
        assert workers.starmap(tasks.add, [(1, 2), (3, 4)]) == [3, 7]
        assert list(workers.imap(tasks.square, range(20))) == [n * n for n in range(20)]
        assert sorted(workers.imap_unordered(tasks.square, range(20))) == [n * n for n in range(20)]
        assert workers.apply_async(tasks.add, (5, 6)).get() == 11
        assert workers.map_async(tasks.square, [7, 8]).get() == [49, 64]
        assert workers.starmap_async(tasks.add, [(9, 1)]).get() == [10]
        assert set(workers.map(tasks.pid, range(40))) <= {w.pid for w in workers._pool}
        workers.close()
        workers.join()


@pytest.mark.parametrize("chunksize", [None, 1, 2, 3, 7, 100])
@pytest.mark.parametrize("count", [0, 1, 2, 10, 23])
def test_every_chunk_size_gives_the_same(either: Any, chunksize: int | None, count: int) -> None:
    expected = [n * n for n in range(count)]
    assert either.map(tasks.square, range(count), chunksize) == expected
    assert either.map(tasks.square, iter(range(count)), chunksize) == expected
    assert either.starmap(tasks.add, [(n, n) for n in range(count)], chunksize) == [
        2 * n for n in range(count)
    ]
    lazy = chunksize or 1
    assert list(either.imap(tasks.square, range(count), lazy)) == expected
    assert sorted(either.imap_unordered(tasks.square, iter(range(count)), lazy)) == expected


def test_a_chunk_size_below_one_raises(either: Any) -> None:
    for call in (either.map, either.starmap, either.imap, either.imap_unordered):
        with pytest.raises(ValueError, match="chunksize"):
            call(tasks.square, [1, 2], 0)


class Lying:
    """Has other items than it says."""

    def __init__(self, says: int, has: int) -> None:
        self.says, self.has = says, has

    def __len__(self) -> int:
        return self.says

    def __getitem__(self, index: int) -> int:
        if index >= self.has:
            raise IndexError(index)
        return index


@pytest.mark.parametrize("chunksize", [None, 1, 2, 7])
def test_a_map_of_what_has_fewer_items_than_it_says_ends(
    either: Any, chunksize: int | None
) -> None:
    assert either.map(tasks.square, Lying(5, 3), chunksize) == [0, 1, 4]
    assert either.map(tasks.square, Lying(5, 0), chunksize) == []
    told = Told()
    either.map_async(tasks.square, Lying(500, 3), chunksize, told)
    assert told.wait() == [[0, 1, 4]]


@pytest.mark.parametrize("chunksize", [None, 1, 2, 7])
def test_a_map_takes_no_more_items_than_there_are_said_to_be(
    either: Any, chunksize: int | None
) -> None:
    assert either.map(tasks.square, Lying(3, 100), chunksize) == [0, 1, 4]


def test_empty_iterables(either: Any) -> None:
    told = Told()
    assert either.map(tasks.square, []) == []
    assert either.map_async(tasks.square, [], callback=told).get() == []
    assert list(either.imap(tasks.square, [])) == []
    assert list(either.imap_unordered(tasks.square, [])) == []
    result = either.starmap_async(tasks.add, [])
    result.wait()
    assert result.ready() and result.successful()


def test_imap_gives_results_as_they_come(two: Any) -> None:
    come = threading.Event()

    def items() -> Iterator[int]:
        yield from (1, 2)
        come.wait()

    results = two.imap(tasks.square, items())
    assert [next(results), next(results)] == [1, 4]
    come.set()
    results = two.imap_unordered(tasks.square, [3])
    assert results.next(timeout=60) == 9
    with pytest.raises(StopIteration):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_timeouts(two: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    slow = two.apply_async(tasks.wait_for_gate, (gate,))
    with pytest.raises(sidestep.TimeoutError):
        slow.get(timeout=0.01)
    slow.wait(0.01)
    assert not slow.ready()
    with pytest.raises(ValueError, match="not ready"):
        slow.successful()
    lazy = two.imap(tasks.wait_for_gate, [gate])
    with pytest.raises(sidestep.TimeoutError):
        lazy.next(0.01)
    with open(gate, "w"), open(gate, "w"):
        pass
    assert slow.get() == "open"
    two.terminate()


def test_callbacks(either: Any) -> None:
    good, bad = Told(), Told()
    assert either.apply_async(tasks.add, (1, 2), {}, good, bad).get() == 3
    assert good.wait() == [3] and bad.values == []
    good, bad = Told(), Told()
    result = either.apply_async(tasks.fail, ("no",), callback=good, error_callback=bad)
    assert repr(bad.wait()) == "[LookupError('no')]" and good.values == []
    result.wait()
    assert not result.successful()
    good = Told()
    either.map_async(tasks.square, range(5), callback=good)
    assert good.wait() == [[0, 1, 4, 9, 16]]
    assert good.thread is not threading.main_thread()


@pytest.mark.parametrize("error", [LookupError, SystemExit])
def test_a_callback_that_raises_harms_nobody(
    either: Any, error: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    def callback(value: Any) -> NoReturn:
        raise error("from the callback")

    assert either.apply_async(tasks.add, (1, 2), callback=callback).get() == 3
    assert either.apply(tasks.add, (3, 4)) == 7
    # It is shown when the result is there already. The test's own time limit is the watchdog.
    shown = ""
    while "from the callback" not in shown:
        shown += capsys.readouterr().err
        time.sleep(0.001)


def test_a_callback_that_raises_where_nothing_can_be_shown(
    either: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(os.devnull, "w") as closed:
        pass
    monkeypatch.setattr(sys, "stderr", closed)
    either.apply_async(tasks.add, (1, 2), callback=tasks.fail).get()
    assert either.apply_async(tasks.add, (3, 4)).get() == 7


def test_a_callback_may_submit_more(either: Any) -> None:
    told = Told()

    def more(value: int) -> None:
        either.apply_async(tasks.add, (value, 100), callback=told)

    either.apply_async(tasks.add, (1, 2), callback=more)
    assert told.wait() == [103]


def test_terminate_from_a_callback(two: Any) -> None:
    told = Told()

    def end(value: Any) -> None:
        two.terminate()
        told(value)

    left = two.map_async(signal.sigwait, [[signal.SIGUSR1]])
    two.apply_async(tasks.add, (1, 2), callback=end)
    assert told.wait() == [3]
    with pytest.raises(context.ProcessError, match="terminated"):
        left.get()


def test_results_that_run_code_when_they_go(either: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was collected is dropped when one task fails, and may ask what became of the call."""
    results: list[Any] = []

    def say() -> None:
        gc.collect()
        said.extend(result.ready() for result in results)

    said: list[bool] = []
    monkeypatch.setattr(tasks.Farewell, "say", say)
    results.append(either.map_async(tasks.farewell_or_fail, range(20), 1))
    with pytest.raises(LookupError):
        results[0].get()
    assert said


# --- workers --------------------------------------------------------------------------------


def test_the_initializer_runs_in_every_worker(ctx: context.BaseContext) -> None:
    with ctx.Pool(2, tasks.remember, ("this", 1)) as workers:
        assert set(workers.map(tasks.remembered, range(10), 1)) == {("this", 1)}
        workers.close()
        workers.join()


def test_workers_are_replaced_after_their_tasks(ctx: context.BaseContext) -> None:
    with ctx.Pool(2, maxtasksperchild=3) as workers:
        pids = workers.map(tasks.pid, range(20), 1)
        assert max(pids.count(pid) for pid in set(pids)) <= 3
        assert len(set(pids)) >= 7
        workers.close()
        workers.join()


def test_workers_are_replaced_after_one_task_each(fork: Any) -> None:
    with fork.Pool(3, maxtasksperchild=1) as workers:
        pids = [result.get() for result in [workers.apply_async(tasks.pid, (0,)) for _ in "x" * 30]]
        assert len(set(pids)) == 30
        workers.close()
        workers.join()


def test_workers_are_daemons_named_and_end_with_the_pool(ctx: context.BaseContext) -> None:
    workers = ctx.Pool(2)
    children = list(workers._pool)
    assert all(child.daemon and child.is_alive() for child in children)
    assert all("PoolWorker" in child.name for child in children)
    workers.close()
    workers.join()
    assert [child.exitcode for child in children] == [0, 0]


@pytest.mark.parametrize("arguments", [{"processes": 0}, {"processes": -1}])
def test_a_pool_wants_processes(fork: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        fork.Pool(**arguments)
    with pytest.raises(ValueError, match="maxtasksperchild"):
        fork.Pool(1, maxtasksperchild=0)
    with pytest.raises(TypeError, match="callable"):
        fork.Pool(1, initializer=5)


# --- the end --------------------------------------------------------------------------------


def test_close_lets_all_tasks_end(either: Any) -> None:
    results = [either.apply_async(tasks.square, (n,)) for n in range(50)]
    lazy = either.imap(tasks.square, range(50))
    either.close()
    either.join()
    assert [result.get() for result in results] == [n * n for n in range(50)]
    assert list(lazy) == [n * n for n in range(50)]


def test_a_closed_pool_takes_nothing(either: Any) -> None:
    either.close()
    call: Callable[[], Any]
    for call in (
        lambda: either.apply(tasks.square, (1,)),
        lambda: either.map(tasks.square, [1]),
        lambda: either.imap(tasks.square, [1]),
        lambda: either.__enter__(),
    ):
        with pytest.raises(ValueError, match="not running"):
            call()


def test_join_wants_the_pool_closed(either: Any) -> None:
    with pytest.raises(ValueError, match="still running"):
        either.join()


def test_terminate_ends_all_jobs_with_an_error(two: Any) -> None:
    endless = [[signal.SIGUSR1]] * 4
    results = [two.map_async(signal.sigwait, endless, 1) for _ in range(3)]
    lazy = two.imap(signal.sigwait, endless)
    two.terminate()
    for result in results:
        with pytest.raises(context.ProcessError, match="terminated"):
            result.get()
    with pytest.raises(context.ProcessError, match="terminated"):
        next(lazy)
    with pytest.raises(StopIteration):
        next(lazy)
    two.terminate()


def test_a_context_manager_terminates(fork: Any) -> None:
    with fork.Pool(2) as workers:
        children = list(workers._pool)
        result = workers.map_async(signal.sigwait, [[signal.SIGUSR1]] * 4, 1)
    assert all(child.exitcode is not None for child in children)
    with pytest.raises(context.ProcessError):
        result.get()


def test_a_dropped_pool_warns_and_ends_its_workers(ctx: context.BaseContext) -> None:
    workers = ctx.Pool(2)
    children = list(workers._pool)
    assert workers.apply(tasks.square, (3,)) == 9
    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool"):
        del workers
        gc.collect()
    for child in children:
        child.join()
    assert all(child.exitcode is not None for child in children)


def test_a_result_keeps_a_dropped_pool_alive(fork: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        workers = fork.Pool(1)
        children = list(workers._pool)
        result = workers.map_async(tasks.square, range(10))
        del workers
        gc.collect()
        assert result.get() == [n * n for n in range(10)]
        for child in children:
            child.join()


def test_a_pool_cannot_be_pickled(either: Any) -> None:
    with pytest.raises(NotImplementedError, match="pickled"):
        pickle.dumps(either)


def test_a_pools_repr_says_its_state(either: Any) -> None:
    assert "state=RUN pool_size=2" in repr(either)
    either.terminate()
    assert "state=TERMINATE" in repr(either)


# --- errors of tasks -----------------------------------------------------------------------


def test_an_exception_comes_back_with_the_workers_traceback(ctx: context.BaseContext) -> None:
    with ctx.Pool(1) as workers:
        with pytest.raises(LookupError, match="not there") as caught:
            workers.apply(tasks.fail, ("not there",))
        cause = caught.value.__cause__
        assert isinstance(cause, RemoteTraceback)
        assert "in fail" in str(cause) and "pool_tasks.py" in str(cause)
        for call in (workers.map, workers.starmap):
            with pytest.raises(LookupError):
                call(tasks.fail, [("a",)])
        results = workers.imap(tasks.fail_on_three, range(5))
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(LookupError):
            next(results)
        assert next(results) == 4
        workers.close()
        workers.join()


def test_an_iterable_that_raises(either: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        either.map(tasks.square, tasks.broken_items())
    for kind in (either.imap, either.imap_unordered):
        for chunksize in (1, 2):
            got = []
            with pytest.raises(ZeroDivisionError):
                for value in kind(tasks.square, tasks.broken_items(), chunksize):
                    got.append(value)
            assert set(got) <= {0, 1, 4}
    assert either.apply(tasks.square, (4,)) == 16


def test_unpicklable_arguments_raise_in_the_caller(two: Any) -> None:
    bad = threading.Lock()
    for call in (
        lambda: two.apply(tasks.square, (bad,)),
        lambda: two.map(tasks.square, [1, bad, 2]),
        lambda: two.starmap(tasks.add, [(bad, 1)]),
        lambda: list(two.imap(tasks.square, [1, bad])),
    ):
        with pytest.raises(TypeError, match="pickle"):
            call()
    assert two.map(tasks.square, [1, 2]) == [1, 4]


def test_unpicklable_arguments_of_asynchronous_calls_come_with_the_result(two: Any) -> None:
    submit: Callable[[Any], Any]
    for submit in (
        lambda told: two.apply_async(tasks.square, (threading.Lock(),), error_callback=told),
        lambda told: two.map_async(tasks.square, [threading.Lock()], error_callback=told),
    ):
        told = Told()
        result = submit(told)
        with pytest.raises(TypeError, match="pickle"):
            result.get()
        assert "pickle" in str(told.wait()[0])


def test_a_lazy_map_goes_on_after_an_unpicklable_item(two: Any) -> None:
    results = two.imap(tasks.square, [1, threading.Lock(), 3])
    assert next(results) == 1
    with pytest.raises(TypeError, match="pickle"):
        next(results)
    assert next(results) == 9


def test_an_unpicklable_result_is_an_error_with_its_text(ctx: context.BaseContext) -> None:
    with ctx.Pool(1) as workers:
        with pytest.raises(MaybeEncodingError, match=r"Error sending result: '<unlocked") as caught:
            workers.apply(tasks.make_lock)
        assert "pickle" in caught.value.exc and "lock" in caught.value.value
        assert "Reason:" in str(caught.value) and "MaybeEncodingError" in repr(caught.value)
        assert workers.apply(tasks.square, (3,)) == 9
        workers.close()
        workers.join()


def test_an_unpicklable_exception_is_an_error_with_its_text(ctx: context.BaseContext) -> None:
    with ctx.Pool(1) as workers:
        with pytest.raises(MaybeEncodingError, match="carries a lock") as caught:
            workers.apply(tasks.fail_unpicklably)
        assert "in fail_unpicklably" in str(caught.value.__cause__)
        with pytest.raises(MaybeEncodingError, match="carries a lock"):
            workers.map(tasks.fail_unpicklably, [1, 2])
        assert workers.apply(tasks.square, (3,)) == 9
        workers.close()
        workers.join()


@pytest.mark.parametrize("how", [tasks.fail_with_two_arguments, tasks.fail_and_become_a_string])
def test_an_exception_that_does_not_unpickle_is_an_error_with_its_text(
    two: Any, how: Callable[[], None]
) -> None:
    with pytest.raises(MaybeEncodingError, match="the text") as caught:
        two.apply(how)
    assert f"in {how.__name__}" in str(caught.value.__cause__)
    assert two.apply(tasks.square, (3,)) == 9


def test_a_result_that_does_not_unpickle_is_an_error(two: Any) -> None:
    with pytest.raises(MaybeEncodingError, match="rebuilding failed"):
        two.apply(tasks.make_poison)
    assert two.apply(tasks.square, (3,)) == 9


def test_an_argument_that_does_not_unpickle_is_the_tasks_error(two: Any) -> None:
    with pytest.raises(LookupError, match="rebuilding failed"):
        two.apply(tasks.square, (tasks.Poison(),))
    assert two.apply(tasks.square, (3,)) == 9


# --- workers that die -----------------------------------------------------------------------


def test_exactly_the_task_of_a_killed_worker_is_lost(ctx: context.BaseContext) -> None:
    with ctx.Pool(2) as workers:
        results = [
            workers.apply_async(tasks.kill_myself if n == 7 else tasks.square, (n,))
            for n in range(40)
        ]
        for n, result in enumerate(results):
            if n == 7:
                with pytest.raises(WorkerLostError, match="killed by signal SIGKILL") as caught:
                    result.get()
                assert caught.value.exitcode == -signal.SIGKILL
                assert isinstance(caught.value.pid, int)
                assert str(caught.value.pid) in str(caught.value)
            else:
                assert result.get() == n * n
        workers.close()
        workers.join()


@pytest.mark.parametrize(
    ("task", "code"), [(tasks.leave, 3), (tasks.vanish, 3), (tasks.interrupt, 130)]
)
def test_a_task_that_ends_its_worker(two: Any, task: Callable[..., Any], code: int) -> None:
    told = Told()
    result = two.apply_async(task, (3,), error_callback=told)
    with pytest.raises(WorkerLostError, match=f"exit code {code}") as caught:
        result.get()
    assert caught.value.exitcode == code
    assert told.wait() == [caught.value]
    assert two.map(tasks.square, range(10)) == [n * n for n in range(10)]


def test_a_lost_chunk_fails_its_map_and_no_other(two: Any) -> None:
    bad = two.map_async(tasks.kill_on_three, range(10), 2)
    good = two.map_async(tasks.square, range(10), 2)
    with pytest.raises(WorkerLostError):
        bad.get()
    assert good.get() == [n * n for n in range(10)]
    lazy = two.imap(tasks.kill_on_three, range(5))
    got: list[Any] = []
    for _ in range(5):
        try:
            got.append(next(lazy))
        except WorkerLostError:
            got.append("lost")
    assert got == [0, 1, 2, "lost", 4]


def test_every_task_kills_its_worker(two: Any) -> None:
    results = [two.apply_async(tasks.kill_myself, (n,)) for n in range(12)]
    for result in results:
        with pytest.raises(WorkerLostError):
            result.get()
    assert two.apply(tasks.square, (5,)) == 25


def test_idle_workers_that_are_killed_are_replaced(two: Any) -> None:
    for _ in range(4):
        for worker in list(two._pool):
            # One of the round before, whose end the pool has yet to see, and its fork server saw.
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
        assert two.map(tasks.square, range(10), 1) == [n * n for n in range(10)]


def test_a_lost_worker_error_travels() -> None:
    error = pickle.loads(pickle.dumps(WorkerLostError("gone", 17, -9)))
    assert (str(error), error.pid, error.exitcode) == ("gone", 17, -9)
    text = pickle.loads(pickle.dumps(MaybeEncodingError("why", "what")))
    assert (text.exc, text.value) == ("why", "what")


@pytest.mark.parametrize("how", [tasks.fail, tasks.vanish, tasks.leave])
def test_an_initializer_that_always_fails_ends_the_jobs(
    ctx: context.BaseContext, how: Callable[..., Any]
) -> None:
    with ctx.Pool(2, how, (3,)) as workers:
        endless = itertools.count()
        told = Told()
        results = [
            workers.apply_async(tasks.square, (1,), error_callback=told),
            workers.map_async(tasks.square, range(10), 1),
        ]
        lazy = workers.imap(tasks.square, endless)
        get: Callable[[], Any]
        for get in (results[0].get, results[1].get, lambda: next(lazy)):
            with pytest.raises(WorkerLostError, match="cannot start.*initializer"):
                get()
        assert len(told.wait()) == 1
        with pytest.raises(WorkerLostError, match="cannot start"):
            workers.apply(tasks.square, (1,))
        workers.close()
        workers.join()


def test_an_initializer_that_fails_at_first_does_no_harm(fork: Any, tmp_path: Path) -> None:
    with fork.Pool(1, tasks.fail_twice, (tmp_path,)) as workers:
        assert workers.map(tasks.square, [1, 2]) == [1, 4]
        workers.close()
        workers.join()


# --- much and at once -----------------------------------------------------------------------


def test_arrays_there_and_back(ctx: context.BaseContext) -> None:
    array = numpy.arange(1 << 20, dtype=float)
    with ctx.Pool(2) as workers:
        for n, back in enumerate(workers.starmap(tasks.scale, [(array, n) for n in range(4)], 1)):
            assert back.dtype == array.dtype and (back == array * n).all()
        workers.close()
        workers.join()


def test_a_big_map(two: Any) -> None:
    count = 100_000
    assert two.map(tasks.square, range(count)) == [n * n for n in range(count)]
    assert sum(two.imap(tasks.square, range(5000))) == sum(n * n for n in range(5000))
    assert sum(two.imap_unordered(tasks.square, range(count), 500)) == sum(
        n * n for n in range(count)
    )


def run_in_an_arena_of(limit: str, text: str, program: Path) -> None:
    """Run a program that may use so much shared memory, and the tasks of these tests."""
    program.write_text(text)
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    environment = {**os.environ, "SIDESTEP_ARENA_LIMIT": limit, "PYTHONPATH": path}
    subprocess.run([sys.executable, str(program)], env=environment, check=True)


LARGE_ARGUMENTS = """
import sys
import pool_tasks as tasks
import sidestep

if __name__ == "__main__":
    expected = [(n, 32 << 20) for n in range(1, 13)]
    with sidestep.get_context("fork").Pool(2) as workers:
        items = tasks.Lazy(12, 32 << 20)
        assert workers.map(tasks.first_and_size, items, 1) == expected
        assert list(workers.imap(tasks.first_and_size, items)) == expected
        assert sorted(workers.imap_unordered(tasks.first_and_size, items)) == expected
"""


def test_large_arguments_are_sent_as_results_come(tmp_path: Path) -> None:
    """However many there are: the arena does not hold all of these at once."""
    run_in_an_arena_of("280M", LARGE_ARGUMENTS, tmp_path / "large.py")


SCARCE_MEMORY = """
import sidestep
import pool_tasks as tasks

if __name__ == "__main__":
    context = sidestep.get_context("fork")
    for count, size in [(5, 40 << 20), (150, 900_000)]:
        expected = [(n, size) for n in range(1, count + 1)]
        items = tasks.Lazy(count, size)
        with context.Pool(2) as workers:
            assert workers.map(tasks.first_and_size, items, 1) == expected
            assert list(workers.imap(tasks.first_and_size, items)) == expected
            assert list(workers.imap(tasks.first_and_size, items, buffersize=100)) == expected
            assert sorted(workers.imap_unordered(tasks.first_and_size, items)) == expected
        with context.Pool(2, retries=1) as workers:
            assert workers.map(tasks.first_and_size, items, 1) == expected
"""


def test_a_map_waits_for_memory_that_its_own_tasks_will_give_back(tmp_path: Path) -> None:
    """A single item fits the arena, and two or all of them do not."""
    run_in_an_arena_of("64M", SCARCE_MEMORY, tmp_path / "scarce.py")


def test_close_waits_for_the_rest_of_a_map_of_large_arguments(fork: Any) -> None:
    workers = fork.Pool(1)
    result = workers.map_async(tasks.first_and_size, tasks.Lazy(8, 40 << 20), 1)
    workers.close()
    workers.join()
    assert result.get() == [(n, 40 << 20) for n in range(1, 9)]


def test_terminate_ends_a_map_of_large_arguments(fork: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    workers = fork.Pool(1)
    result = workers.starmap_async(
        tasks.wait_with_load, [(gate, bytes(40 << 20)) for _ in range(8)], 1
    )
    workers.terminate()
    workers.join()
    with pytest.raises(context.ProcessError, match="terminated"):
        result.get()


def test_the_rest_of_a_map_whose_input_fails_ends_it(fork: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with fork.Pool(1) as workers:
        # No task of the map ends before it is submitted as far as there is room.
        first = workers.apply_async(tasks.wait_for_gate, (gate,))
        result = workers.map_async(tasks.first_and_size, tasks.Lazy(8, 40 << 20, fails=6), 1)
        os.close(os.open(gate, os.O_WRONLY))
        assert first.get() == "open"
        with pytest.raises(LookupError, match="item 6"):
            result.get()
        assert workers.apply(tasks.square, (3,)) == 9


def test_many_single_calls(either: Any) -> None:
    results = [either.apply_async(tasks.square, (n,)) for n in range(5000)]
    assert [result.get() for result in results] == [n * n for n in range(5000)]


def test_a_pool_serves_several_threads(either: Any) -> None:
    wrong: list[Any] = []

    def use(first: int) -> None:
        for n in range(first, first + 100):
            if either.apply(tasks.square, (n,)) != n * n:
                wrong.append(n)
            if either.map(tasks.square, [n, n + 1]) != [n * n, (n + 1) ** 2]:
                wrong.append(n)
            if list(either.imap(tasks.square, [n])) != [n * n]:
                wrong.append(n)

    threads = [threading.Thread(target=use, args=(1000 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_forked_child_cannot_use_its_parents_pool(two: Any) -> None:
    queue = sidestep.SimpleQueue()
    pid = os.fork()
    if pid == 0:
        try:
            try:
                two.map(tasks.square, [1, 2])
            except ValueError as error:
                queue.put(str(error))
            with two:
                pass
        finally:
            os._exit(0)
    assert re.search(f"belongs to process {os.getpid()}", queue.get())
    os.waitpid(pid, 0)
    assert two.map(tasks.square, [3, 4]) == [9, 16]


def test_an_argument_that_submits_while_it_is_pickled(two: Any) -> None:
    tasks.Submits.pool = two
    try:
        assert two.apply(tasks.square, (tasks.Submits(7),)) == 49
        assert tasks.Submits.results.pop().get() == 64
    finally:
        tasks.Submits.pool = None


# What a handler raises within a callback of a weak reference, the interpreter drops.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "call",
    [
        lambda workers: workers.apply_async(len, (b"x" * 200_000,)),
        lambda workers: workers.apply(tasks.square, (7,)),
        lambda workers: workers.apply(tasks.Lazy, (7, 8)),
    ],
    ids=["apply_async", "apply", "apply_pickled"],
)
def test_interrupted_calls_do_not_mix_results_up(two: Any, call: Callable[[Any], object]) -> None:
    came: list[int] = []

    def handle(number: int, _: object) -> None:
        came.append(number)
        raise KeyboardInterrupt

    def submit_until_interrupted() -> None:
        # A function of its own: the jump back of a loop is no part of the `try` around it.
        before = len(came)
        timer = threading.Timer(0.002, os.kill, [os.getpid(), signal.SIGUSR1])
        timer.start()
        while len(came) == before:
            call(two)

    usual = signal.signal(signal.SIGUSR1, handle)
    try:
        interrupted = 0
        while interrupted < 20:
            assert len(came) < 100
            try:
                submit_until_interrupted()
            except KeyboardInterrupt:
                interrupted += 1
    finally:
        signal.signal(signal.SIGUSR1, usual)
    assert two.map(tasks.square, range(50), 1) == [n * n for n in range(50)]


# --- threads --------------------------------------------------------------------------------


def test_a_thread_pool_takes_what_cannot_be_pickled() -> None:
    with ThreadPool(2) as workers:
        lock = threading.Lock()
        assert workers.apply(lambda given: given is lock, (lock,))
        assert workers.map(lambda n: n + 1, range(10)) == list(range(1, 11))
        assert workers.apply(threading.current_thread) is not threading.main_thread()
        workers.close()
        workers.join()


def test_a_thread_pools_initializer() -> None:
    seen: list[int] = []
    with ThreadPool(3, seen.append, (1,)) as workers:
        assert workers.map(tasks.square, range(30), 1) == [n * n for n in range(30)]
        workers.close()
        workers.join()
    assert seen == [1, 1, 1]


def test_a_thread_pool_keeps_exceptions_as_they_are() -> None:
    error = LookupError("this very one")

    def fail() -> NoReturn:
        raise error

    with ThreadPool(1) as workers:
        with pytest.raises(LookupError) as caught:
            workers.apply(fail)
        assert caught.value is error
    workers.join()


def test_the_module_knows_its_names() -> None:
    assert set(pool.__all__) == {"Pool", "ThreadPool"}
    assert time.monotonic() and pool.RUN == "RUN"


def fifty_and_an_error() -> Iterator[int]:
    yield from range(50)
    raise KeyError("the input is broken")


@pytest.mark.parametrize("call", ["imap", "imap_unordered"])
def test_an_error_of_the_input_comes_after_the_results_before_it(two: Any, call: str) -> None:
    found = []
    with pytest.raises(KeyError, match="the input is broken"):  # noqa: PT012 the loop raises
        for result in getattr(two, call)(tasks.square, fifty_and_an_error()):
            found.append(result)
    assert sorted(found) == [n * n for n in range(50)]


OWNER = """
import os, sys
import sidestep

if __name__ == "__main__":
    pool = sidestep.get_context(sys.argv[1]).Pool(2)
    pool.map(abs, [1, 2])
    print(*[worker.pid for worker in pool._pool], flush=True)
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_end_when_their_pools_process_was_killed(method: str, tmp_path: Path) -> None:
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    done = subprocess.run(
        [sys.executable, str(script), method], stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == -9
    for pid in map(int, done.stdout.split()):
        try:
            life = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        with os.fdopen(life):
            # Readable when the process has ended; the watchdog of the tests is the limit.
            select.select([life], [], [])


# --- lazy maps that hold back ----------------------------------------------------------------


class Taken:
    """Numbers from 0, endlessly; tells how many were taken."""

    def __init__(self) -> None:
        self.count = 0
        self.changed = threading.Condition()

    def __iter__(self) -> Iterator[int]:
        for number in itertools.count():
            with self.changed:
                self.count += 1
                self.changed.notify_all()
            yield number

    def wait_for(self, count: int) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.count >= count)


@pytest.mark.parametrize("call", ["imap", "imap_unordered"])
@pytest.mark.parametrize("chunksize", [1, 3])
def test_buffersize_limits_what_is_taken_ahead(either: Any, call: str, chunksize: int) -> None:
    taken = Taken()
    results = getattr(either, call)(tasks.square, taken, chunksize, buffersize=4)
    taken.wait_for(4 * chunksize)
    for consumed in range(1, 20):
        next(results)
        # A task's room is free as soon as its first result was asked for.
        most = (4 + -(-consumed // chunksize)) * chunksize
        taken.wait_for(most)
        assert taken.count == most


def test_a_buffersize_counts_what_was_taken_and_not_what_was_returned(either: Any) -> None:
    results = either.imap(tasks.square, itertools.count(), buffersize=1)
    # As if an exception of a signal handler had come before `next` could return it.
    assert results._inbox.next(None) == (True, 0)
    assert next(results) == 1
    assert next(results) == 4
    results.cancel()


def test_a_buffersize_that_is_never_reached_costs_nothing(either: Any) -> None:
    results = either.imap(tasks.square, range(1000), buffersize=2000)
    assert list(results) == [n * n for n in range(1000)]
    assert results._read.qsize() <= 1


def test_lazy_maps_with_a_buffersize_go_on_side_by_side(either: Any) -> None:
    first = either.imap(tasks.square, itertools.count(), buffersize=1)
    second = either.imap(tasks.square, itertools.count(1), buffersize=2)
    third = either.imap(tasks.square, range(3), buffersize=100)
    pairs = list(itertools.islice(zip(first, second, strict=False), 30))
    assert pairs == [(n * n, (n + 1) ** 2) for n in range(30)]
    assert list(third) == [0, 1, 4]


def test_an_error_of_the_input_with_a_buffersize(either: Any) -> None:
    results = either.imap(tasks.square, tasks.broken_items(), buffersize=1)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


@pytest.mark.parametrize("call", ["imap", "imap_unordered"])
def test_a_buffersize_must_be_a_positive_int(either: Any, call: str) -> None:
    for wrong in ("3", 2.0):
        with pytest.raises(TypeError, match="buffersize must be an integer or None"):
            getattr(either, call)(tasks.square, [1], buffersize=wrong)
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="buffersize must be None or > 0"):
            getattr(either, call)(tasks.square, [1], buffersize=wrong)
    with pytest.raises(TypeError, match="positional"):
        getattr(either, call)(tasks.square, [1], 1, 2)


def test_close_lets_a_lazy_map_with_a_buffersize_end(either: Any) -> None:
    results = either.imap(tasks.square, range(50), buffersize=2)
    either.close()
    assert list(results) == [n * n for n in range(50)]
    either.join()


def test_a_dropped_lazy_map_takes_no_more(either: Any) -> None:
    results = either.imap(tasks.square, itertools.count(), buffersize=2)
    assert next(results) == 0
    del results
    either.close()
    either.join()


def test_terminate_ends_a_lazy_map_with_a_buffersize(either: Any) -> None:
    results = either.imap(tasks.square, itertools.count(), buffersize=2)
    assert next(results) == 0
    either.terminate()
    with pytest.raises(context.ProcessError, match="terminated"):
        for _ in range(4):
            next(results)


def test_many_processors_make_many_workers(fork: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """From Python 3.13 on only those count that this process may use."""
    name = "process_cpu_count" if hasattr(os, "process_cpu_count") else "cpu_count"
    monkeypatch.setattr(os, name, lambda: 3)
    with fork.Pool() as workers:
        assert workers._processes == len(workers._pool) == 3
    workers.join()


BIG = """
import sidestep

def much(size):
    return b"x" * size

if __name__ == "__main__":
    with sidestep.get_context("fork").Pool(1) as pool:
        try:
            pool.apply(much, (100_000_000,))
        except MemoryError as error:
            print("limit" in str(error))
        print(len(pool.apply(much, (10,))))
"""


def test_a_result_that_does_not_fit_the_arena_is_a_memory_error(tmp_path: Path) -> None:
    script = tmp_path / "big.py"
    script.write_text(BIG)
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "SIDESTEP_ARENA_LIMIT": str(32 << 20)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stdout == "True\n10\n"
