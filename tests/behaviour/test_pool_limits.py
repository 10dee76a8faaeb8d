"""Tasks that are given up: by a limit of their time, or by who asked for them."""

import os
import pickle
import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sidestep
from sidestep import context, pool
from sidestep.pool import Pool, TaskCancelledError, TaskTimeoutError, ThreadPool

sys.path.insert(0, str(Path(__file__).parent))

import pool_tasks as tasks
from pool_ends import end, ended, worker_with

#: Long for a task that does nothing, on however slow a machine.
LIMIT_S = 2.0


@pytest.fixture(params=("fork", "spawn", "forkserver"))
def ctx(request: pytest.FixtureRequest) -> context.BaseContext:
    return sidestep.get_context(str(request.param))


@pytest.fixture
def one() -> Iterator[Any]:
    with sidestep.get_context("fork").Pool(1) as made:
        yield made
    end(made)


# --- time -----------------------------------------------------------------------------------


def test_a_task_that_runs_too_long_is_ended_and_no_other(ctx: context.BaseContext) -> None:
    with ctx.Pool(2, task_timeout=LIMIT_S) as workers:
        first = list(workers._pool)
        told = ctx.SimpleQueue()
        items: list[Any] = [(tasks.square, n) for n in range(20)]
        items[7:7] = [(tasks.announce_and_stay, told)]
        result = workers.starmap_async(tasks.call, items)
        others = workers.map_async(tasks.square, range(50))
        with pytest.raises(TaskTimeoutError, match=r"task 7 of this map ran longer") as caught:
            result.get()
        _, pid = told.get()
        assert (caught.value.position, caught.value.pid) == (7, pid)
        assert others.get() == [n * n for n in range(50)]
        assert [ended(w) for w in first if w.pid == pid] == [-signal.SIGKILL]
        workers.close()
        workers.join()


def test_a_wait_that_is_over_is_no_task_that_is(one: Any) -> None:
    late = one.apply_async(signal.sigwait, ([signal.SIGUSR1],))
    with pytest.raises(sidestep.TimeoutError) as caught:
        late.get(timeout=0.01)
    assert not isinstance(caught.value, TaskTimeoutError)
    assert issubclass(TaskTimeoutError, sidestep.TimeoutError)


def test_a_lazy_map_goes_on_after_a_task_that_ran_too_long() -> None:
    fork = sidestep.get_context("fork")
    with fork.Pool(2, task_timeout=LIMIT_S) as workers:
        results = workers.imap(tasks.stay_on_three, range(6))
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(TaskTimeoutError, match="task 3 of this map"):
            next(results)
        assert list(results) == [4, 5]
        workers.close()
        workers.join()


def test_a_chunk_is_one_task_and_a_limit_makes_it_one_item() -> None:
    fork = sidestep.get_context("fork")
    with fork.Pool(1, task_timeout=LIMIT_S) as workers:
        with pytest.raises(TaskTimeoutError, match="items 2 to 3 of this map") as caught:
            workers.map(tasks.stay_on_three, range(6), 2)
        assert caught.value.position == range(2, 4)
        with pytest.raises(TaskTimeoutError, match="task 3 of this map"):
            workers.map(tasks.stay_on_three, range(6))
        workers.close()
        workers.join()


def test_a_task_that_waits_its_turn_is_not_timed() -> None:
    fork = sidestep.get_context("fork")
    with fork.Pool(1, task_timeout=LIMIT_S) as workers:
        # The second one is submitted at once, and its turn comes after the limit.
        first = workers.apply_async(signal.sigwait, ([signal.SIGUSR1],))
        second = workers.apply_async(tasks.square, (3,))
        with pytest.raises(TaskTimeoutError):
            first.get()
        assert second.get() == 9
        workers.close()
        workers.join()


@pytest.mark.parametrize("limit", [0, -1, float("nan"), True, "x", "3", 1j, [1]])
def test_a_limit_is_a_number_above_zero(limit: Any) -> None:
    said = re.escape(f"must be a number of seconds above 0 or None, not {limit!r}")
    with pytest.raises(ValueError, match=f"^task_timeout {said}$"):
        sidestep.get_context("fork").Pool(1, task_timeout=limit)


def test_errors_of_tasks_that_were_given_up_travel() -> None:
    error = pickle.loads(pickle.dumps(TaskTimeoutError("too long", range(2, 4), 17)))
    assert (str(error), error.position, error.pid) == ("too long", range(2, 4), 17)
    assert str(pickle.loads(pickle.dumps(TaskCancelledError("no more")))) == "no more"


# --- cancelling -----------------------------------------------------------------------------


def test_a_call_that_is_cancelled_before_its_turn_never_runs(one: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    told = sidestep.SimpleQueue()
    errors: list[BaseException] = []
    first = one.apply_async(tasks.wait_for_gate, (gate,))
    # One that lies in the queue itself, one that lies in the arena, and some of a map.
    short = one.apply_async(tasks.announce, (told, 1), error_callback=errors.append)
    long = one.apply_async(tasks.announce, (told, b"x" * 100_000))
    many = one.starmap_async(tasks.announce, [(told, n) for n in range(10)], 1)
    last = one.apply_async(tasks.announce, (told, "last"))
    assert short.cancel() and long.cancel() and many.cancel()
    for result in (short, long, many):
        assert result.ready() and not result.successful()
        with pytest.raises(TaskCancelledError):
            result.get()
        assert not result.cancel()
    assert [type(error) for error in errors] == [TaskCancelledError]
    with open(gate, "w"):
        pass
    assert first.get() == "open"
    assert last.get() == "last"
    assert told.get()[0] == "last" and told.empty()


def test_a_call_that_is_cancelled_while_it_runs_costs_its_worker_only(
    ctx: context.BaseContext,
) -> None:
    with ctx.Pool(2) as workers:
        told = ctx.SimpleQueue()
        running = workers.apply_async(tasks.announce_and_stay, (told,))
        _, pid = told.get()
        victim = worker_with(workers, pid)
        others = workers.map_async(tasks.square, range(50), 1)
        assert running.cancel()
        with pytest.raises(TaskCancelledError, match="cancelled"):
            running.get()
        assert ended(victim) == -signal.SIGKILL
        assert others.get() == [n * n for n in range(50)]
        assert set(workers.map(tasks.pid, range(20), 1)) <= {w.pid for w in workers._pool}
        workers.close()
        workers.join()


def test_a_map_that_is_cancelled_stops_all_its_workers() -> None:
    fork = sidestep.get_context("fork")
    with fork.Pool(2) as workers:
        told = fork.SimpleQueue()
        running = workers.starmap_async(tasks.announce_and_stay, [(told, n) for n in range(6)], 1)
        pids = {told.get()[1] for _ in range(2)}
        victims = [worker_with(workers, pid) for pid in pids]
        assert running.cancel()
        assert [ended(victim) for victim in victims] == [-signal.SIGKILL] * 2
        assert workers.map(tasks.square, range(10)) == [n * n for n in range(10)]
        assert told.empty()
        workers.close()
        workers.join()


def test_a_lazy_map_that_is_cancelled(one: Any) -> None:
    for kind in (one.imap, one.imap_unordered):
        results = kind(tasks.stay_on_three, range(10))
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        assert results.cancel()
        with pytest.raises(TaskCancelledError):
            next(results)
        assert list(results) == []
        assert not results.cancel()
    assert one.apply(tasks.square, (3,)) == 9


def test_what_has_ended_cannot_be_cancelled(one: Any) -> None:
    done = one.apply_async(tasks.square, (3,))
    assert done.get() == 9
    assert not done.cancel()
    assert done.get() == 9
    results = one.imap(tasks.square, range(3))
    assert list(results) == [0, 1, 4]
    assert not results.cancel()


def test_many_are_cancelled_while_workers_take_them() -> None:
    fork = sidestep.get_context("fork")
    with fork.Pool(3) as workers:
        for n in range(30):
            cancelled = [workers.apply_async(tasks.square, (i,)) for i in range(20)]
            kept = [workers.apply_async(tasks.square, (i,)) for i in range(20)]
            won = [result.cancel() for result in reversed(cancelled)]
            assert [result.get() for result in kept] == [i * i for i in range(20)]
            for i, (result, gone) in enumerate(zip(cancelled, reversed(won), strict=True)):
                if gone:
                    with pytest.raises(TaskCancelledError):
                        result.get()
                else:
                    assert result.get() == i * i, n
        workers.close()
        workers.join()


def test_a_pool_can_be_closed_with_cancelled_tasks_in_it() -> None:
    fork = sidestep.get_context("fork")
    with fork.Pool(1) as workers:
        results = [workers.apply_async(signal.sigwait, ([signal.SIGUSR1],)) for _ in range(5)]
        workers.close()
        assert all(result.cancel() for result in results)
        workers.join()


def test_threads_finish_what_was_cancelled_and_nobody_hears_of_it() -> None:
    begun, go_on = threading.Event(), threading.Event()
    seen: list[int] = []

    def work(n: int) -> None:
        begun.set()
        go_on.wait()
        seen.append(n)

    with ThreadPool(1) as workers:
        running = workers.apply_async(work, (1,))
        waiting = workers.apply_async(work, (2,))
        begun.wait()
        assert running.cancel() and waiting.cancel()
        go_on.set()
        assert workers.apply(len, ([1],)) == 1
        for result in (running, waiting):
            with pytest.raises(TaskCancelledError):
                result.get()
    workers.join()
    assert seen == [1]


# --- pools that replace parts of the original's -----------------------------------------------


class WithOwnQueues(Pool):
    def _setup_queues(self) -> None:
        super()._setup_queues()


def test_a_pool_of_replaced_parts_says_what_it_cannot_do() -> None:
    fork = sidestep.get_context("fork")
    for wish in ({"retries": 1}, {"task_timeout": 1.0}):
        with pytest.raises(ValueError, match="neither retries nor a task_timeout"):
            WithOwnQueues(1, context=fork, **wish)
    with WithOwnQueues(1, context=fork) as workers:
        result = workers.apply_async(signal.sigwait, ([signal.SIGUSR1],))
        with pytest.raises(NotImplementedError, match="cannot cancel"):
            result.cancel()
    workers.join()


def test_after_a_death_the_next_is_looked_for_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    deliver_all = pool._Crew.deliver_all

    def deliver(crew: Any, timeout: float) -> bool:
        waits.append(timeout)
        return deliver_all(crew, timeout)

    monkeypatch.setattr(pool._Crew, "deliver_all", deliver)
    with sidestep.get_context("fork").Pool(1) as made:
        with pytest.raises(pool.WorkerLostError):
            made.apply(os._exit, (3,))
        # Delivered by a wait that was begun after the worker was replaced.
        assert made.apply(tasks.square, (3,)) == 9
        made.close()
        made.join()
    assert waits[0] == pool._LOOK_EVERY
    assert pool._LOOK_AGAIN in waits
