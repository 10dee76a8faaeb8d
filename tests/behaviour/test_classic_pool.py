"""Subclasses that replace parts of the original pool, in the ways in which libraries do it."""

import contextlib
import gc
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sidestep
from sidestep import context, pool
from sidestep.pool import Pool, ThreadPool, WorkerLostError

# Children are given our sys.path, and so find the module by its name.
sys.path.insert(0, str(Path(__file__).parent))

import classic_pools as classic
import pool_tasks as tasks


@pytest.fixture(params=("fork", "spawn", "forkserver"))
def ctx(request: pytest.FixtureRequest) -> context.BaseContext:
    return sidestep.get_context(request.param)


KINDS = [classic.OwnQueues, classic.OwnWorkers]


@pytest.fixture(params=[*KINDS, classic.OwnThreads], ids=lambda kind: kind.__name__)
def workers(request: pytest.FixtureRequest) -> Iterator[Any]:
    kind = request.param
    with (
        kind(2) if kind is classic.OwnThreads else make(kind, sidestep.get_context("fork")) as made
    ):
        yield made
    end(made)


def make(kind: type[Pool], ctx: Any, processes: int = 2, **more: Any) -> Any:
    return kind(processes, context=ctx, **more)


def end(made: Any) -> None:
    """Wait for the end, and forget everything: the test still holds the pool."""
    made.join()
    vars(made).clear()


def test_who_replaces_a_part_gets_the_original_workings() -> None:
    for kind in (*KINDS, classic.OwnThreads):
        assert issubclass(kind, Pool)
        assert kind._classic
    assert issubclass(classic.OwnThreads, ThreadPool)
    assert not classic.Plain._classic
    assert not ThreadPool._classic

    class Heir(classic.Plain):
        def _setup_queues(self) -> None:
            super()._setup_queues()

    class Mixed(classic.QueuesMixin, Pool):
        pass

    assert Heir._classic and Heir.__mro__[1] is classic.Plain
    assert Mixed._classic and Mixed.__mro__[1] is classic.QueuesMixin
    assert not classic.Plain._classic
    assert not Pool._classic


@pytest.mark.parametrize("kind", KINDS)
def test_the_calls_with_every_start_method(kind: type[Pool], ctx: context.BaseContext) -> None:
    with make(kind, ctx) as workers:
        assert isinstance(workers, Pool)
        squares = [n * n for n in range(20)]
        assert workers.map(tasks.square, range(20)) == squares
        assert workers.starmap(tasks.add, [(1, 2)]) == [3]
        assert workers.apply(tasks.add, (1,), {"b": 2}) == 3
        assert workers.map_async(tasks.square, range(20), 3).get() == squares
        assert list(workers.imap(tasks.square, range(20))) == squares
        assert list(workers.imap(tasks.square, range(20), 7)) == squares
        assert sorted(workers.imap_unordered(tasks.square, range(20))) == squares
        assert list(workers.imap(tasks.square, range(20), buffersize=3)) == squares
        assert workers.map(lambda n: n * n, range(20)) == squares
        with pytest.raises(LookupError, match="the text") as caught:
            workers.apply(tasks.fail, ("the text",))
        assert "in fail" in str(caught.value.__cause__)
        with pytest.raises(pool.MaybeEncodingError, match="lock"):
            workers.apply(tasks.make_lock)
        with pytest.raises(Exception, match="pickle"):
            workers.apply(tasks.square, (threading.Lock(),))
        workers.close()
        workers.join()


def test_what_is_replaced_is_used(ctx: context.BaseContext) -> None:
    with make(classic.OwnQueues, ctx) as workers:
        # Its queues double whatever goes through them.
        assert workers.apply(tasks.square, (classic.Marked(3),)) == 36
        assert isinstance(workers._inqueue, classic.MarkingQueue)
        workers.close()
        workers.join()
    with make(classic.OwnWorkers, ctx) as workers:
        assert workers.apply(tasks.remembered, (None,)) == ("by the worker's function",)
        workers.close()
        workers.join()


def test_it_can_be_called_by_its_name(ctx: context.BaseContext) -> None:
    made = classic.Named.__new__(classic.Named)
    Pool.__init__(made, 1, context=ctx)
    assert made.map(tasks.square, [2]) == [4]
    Pool.close(made)
    Pool.join(made)


def test_initializers_and_workers_that_have_done_their_share(ctx: context.BaseContext) -> None:
    with make(
        classic.OwnQueues,
        ctx,
        initializer=tasks.remember,
        initargs=("what",),
        maxtasksperchild=2,
    ) as workers:
        assert workers.map(tasks.remembered, range(6), 1) == [("what",)] * 6
        assert len(set(workers.map(tasks.pid, range(8), 1))) >= 3
        workers.close()
        workers.join()


@pytest.mark.parametrize("arguments", [{"processes": 0}, {"maxtasksperchild": 0}])
def test_wrong_arguments(ctx: context.BaseContext, arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1|positive"):
        make(classic.OwnQueues, ctx, **arguments)
    with pytest.raises(TypeError, match="initializer"):
        make(classic.OwnQueues, ctx, initializer="no function")


def test_callbacks_and_errors_of_the_input(workers: Any) -> None:
    told: list[Any] = []
    workers.apply_async(tasks.square, (3,), callback=told.append).get()
    workers.map_async(tasks.square, range(3), callback=told.append).wait()
    with pytest.raises(LookupError):
        workers.apply_async(tasks.fail, ("text",), error_callback=told.append).get()
    assert told[:2] == [9, [0, 1, 4]]
    assert isinstance(told[2], LookupError)
    results = workers.imap(tasks.square, tasks.broken_items())
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert workers._cache == {}


@pytest.mark.parametrize("error", [LookupError, SystemExit])
def test_a_callback_that_raises_harms_nobody(
    workers: Any, error: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> None:
        raise error("in the callback")

    workers.apply_async(tasks.square, (1,), callback=fail).wait()
    assert workers.apply(tasks.square, (2,)) == 4
    assert "in the callback" in capsys.readouterr().err


def test_terminate_from_a_callback_ends_all(workers: Any) -> None:
    done = threading.Event()

    def stop(_: object) -> None:
        workers.terminate()
        done.set()

    workers.apply_async(tasks.square, (1,), callback=stop)
    assert done.wait()
    with pytest.raises(ValueError, match="not running"):
        workers.apply(tasks.square, (1,))


@pytest.mark.parametrize("kind", KINDS)
def test_terminate_ends_open_calls(kind: type[Pool], ctx: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    workers = make(kind, ctx)
    stuck = workers.map_async(tasks.wait_for_gate, [gate] * 10, 1)
    lazy = workers.imap(tasks.wait_for_gate, [gate] * 10, buffersize=1)
    workers.terminate()
    for wait in (stuck.get, lazy.next):
        with pytest.raises(context.ProcessError, match="terminated"):
            wait()
    end(workers)


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_worker_ends_the_open_calls(kind: type[Pool], ctx: Any) -> None:
    with make(kind, ctx) as workers:
        for task in (tasks.kill_myself, tasks.leave):
            with pytest.raises(WorkerLostError, match="ended with a task that nobody knows"):
                workers.apply(task, (1,))
            assert workers.map(tasks.square, range(20), 1) == [n * n for n in range(20)]
    end(workers)


@pytest.mark.parametrize("kind", KINDS)
def test_idle_workers_that_are_killed_are_replaced(kind: type[Pool], ctx: Any) -> None:
    """One of them holds the lock of the queue of tasks while it waits."""
    with make(kind, ctx) as workers:
        workers.map(tasks.square, range(20), 1)
        for _ in range(3):
            for worker in list(workers._pool):
                # The pool may not have noticed all deaths of the round before.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGKILL)
                worker.join()
            # Whether a call is already open when the pool finds out is nobody's to say.
            try:
                assert workers.map(tasks.square, range(20), 1) == [n * n for n in range(20)]
            except WorkerLostError:
                continue
    end(workers)


def test_an_initializer_that_always_fails_ends_the_calls(ctx: Any, capfd: Any) -> None:
    with make(classic.OwnQueues, ctx, initializer=tasks.vanish, initargs=(3,)) as workers:
        with pytest.raises(WorkerLostError):
            workers.apply(tasks.square, (2,))
    end(workers)
    capfd.readouterr()


def test_a_dropped_pool_warns_and_ends_its_workers(ctx: context.BaseContext) -> None:
    workers = make(classic.OwnQueues, ctx)
    children = list(workers._pool)
    assert workers.apply(tasks.square, (3,)) == 9
    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool"):
        del workers
        gc.collect()
    for child in children:
        child.join()
    assert all(child.exitcode is not None for child in children)


def test_a_lazy_map_that_is_dropped_keeps_nobody_waiting(workers: Any) -> None:
    results = workers.imap(tasks.square, range(1000), buffersize=2)
    assert next(results) == 0
    del results
    workers.close()
    workers.join()
    assert workers._cache == {}


def test_pickling_and_names(workers: Any) -> None:
    with pytest.raises(NotImplementedError, match="pickled"):
        pickle.dumps(workers)
    assert "state=RUN pool_size=2" in repr(workers)
    assert callable(Pool._handle_tasks) and callable(Pool._get_tasks)


OWNER = """
import os, sys
sys.path.insert(0, {folder!r})
import sidestep, classic_pools

if __name__ == "__main__":
    pool = classic_pools.{kind}(2, context=sidestep.get_context({method!r}))
    pool.map(abs, [1, 2])
    print(*[worker.pid for worker in pool._pool], flush=True)
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("kind", [kind.__name__ for kind in KINDS])
def test_workers_end_when_their_pools_process_was_killed(
    kind: str, method: str, tmp_path: Path
) -> None:
    script = tmp_path / "owner.py"
    folder = str(Path(__file__).parent)
    script.write_text(OWNER.format(folder=folder, kind=kind, method=method))
    done = subprocess.run(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, check=False
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


def test_worker_functions_check_their_limit() -> None:
    with pytest.raises(AssertionError, match="maxtasks"):
        pool.worker(None, None, maxtasks=0)


def test_exceptions_travel_with_their_traceback() -> None:
    try:
        tasks.fail("text")
    except LookupError as raised:
        error = pickle.loads(
            pickle.dumps(pool.ExceptionWithTraceback(raised, raised.__traceback__))
        )
    assert isinstance(error, LookupError)
    assert isinstance(error.__cause__, pool.RemoteTraceback)
    assert "in fail" in str(error.__cause__)
    call: Callable[[BaseException], Any] = pool._helper_reraises_exception
    with pytest.raises(LookupError):
        call(error)
