"""Bad use gets the documented exception, and a sentence that helps."""

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sidestep
from sidestep import context
from sidestep.pool import MaybeEncodingError

# Children are given our sys.path, and so find the module by its name.
sys.path.insert(0, str(Path(__file__).parent))

import pool_tasks as tasks


@pytest.fixture(params=("fork", "spawn", "forkserver"))
def ctx(request: pytest.FixtureRequest) -> context.BaseContext:
    return sidestep.get_context(str(request.param))


# --- processes ------------------------------------------------------------------------------


def test_join_before_start(ctx: context.BaseContext) -> None:
    with pytest.raises(
        AssertionError, match=r"can only join a started process: call start\(\) first"
    ):
        ctx.Process(target=len).join()


def test_start_twice(ctx: context.BaseContext) -> None:
    child = ctx.Process(target=tasks.square, args=(2,))
    child.start()
    for _ in ("running", "ended"):
        with pytest.raises(AssertionError, match="cannot start a process twice"):
            child.start()
        child.join()


# --- queues and locks -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_put_on_a_closed_queue(kind: str) -> None:
    queue = getattr(sidestep, kind)()
    queue.close()
    expected = OSError if kind == "SimpleQueue" else ValueError
    with pytest.raises(expected, match=rf"queue <.*{kind} .*>") as caught:
        queue.put(1)
    assert "is closed" in str(caught.value)


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (sidestep.Lock, ValueError, "the lock was released too many times: nobody holds it"),
        (
            sidestep.RLock,
            AssertionError,
            "attempt to release a recursive lock that this thread does not hold",
        ),
        (
            sidestep.BoundedSemaphore,
            ValueError,
            "the semaphore was released too many times: it is at its limit",
        ),
    ],
)
def test_release_of_what_is_not_held(
    make: Callable[[], Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        make().release()


@pytest.mark.parametrize(
    "call",
    [
        lambda timeout: sidestep.Lock().acquire(timeout=timeout),
        lambda timeout: sidestep.RLock().acquire(timeout=timeout),
        lambda timeout: sidestep.Semaphore().acquire(timeout=timeout),
        lambda timeout: sidestep.Event().wait(timeout),
        lambda timeout: sidestep.Barrier(2).wait(timeout),
        lambda timeout: sidestep.Queue().get(timeout=timeout),
        lambda timeout: sidestep.Queue().put(1, timeout=timeout),
        lambda timeout: sidestep.Queue().get_many(1, timeout=timeout),
        lambda timeout: sidestep.Queue().put_many([1], timeout=timeout),
    ],
)
def test_a_timeout_that_is_not_a_number(call: Callable[[Any], Any]) -> None:
    for timeout in ("1", [1], 1j):
        with pytest.raises(TypeError, match=r"timeout.*(real number|float)|must be real number"):
            call(timeout)


def test_a_timeout_of_a_connection_that_is_not_a_number() -> None:
    one, other = sidestep.Pipe()
    with one, other, pytest.raises(TypeError, match="real number|float"):
        one.poll("1")  # type: ignore[arg-type]


def test_an_unpicklable_object_in_a_queue_or_pipe() -> None:
    bad = threading.Lock()
    one, other = sidestep.Pipe()
    with one, other:
        for send in (sidestep.Queue().put, sidestep.SimpleQueue().put, one.send):
            with pytest.raises(TypeError, match="cannot pickle '_thread.lock' object"):
                send({"deep": [bad]})
        one.send("and on")
        assert other.recv() == "and on"


# --- pools ----------------------------------------------------------------------------------


def test_an_unpicklable_object_in_a_pool() -> None:
    bad = threading.Lock()
    sentence = "cannot pickle '_thread.lock' object"
    with sidestep.get_context("fork").Pool(1) as pool:
        for call in (
            lambda: pool.apply(tasks.square, (bad,)),
            lambda: pool.map(tasks.square, [bad]),
            lambda: pool.starmap(tasks.add, [(bad, 1)]),
        ):
            with pytest.raises(TypeError, match=sentence):
                call()
        told: list[BaseException] = []
        result = pool.apply_async(tasks.square, (bad,), error_callback=told.append)
        with pytest.raises(TypeError, match=sentence):
            result.get()
        assert [str(error) for error in told] == [str(told[0])]
        assert pool.apply(tasks.square, (2,)) == 4
        pool.close()
        pool.join()


def test_a_worker_function_whose_exception_cannot_be_pickled() -> None:
    with sidestep.get_context("fork").Pool(1) as pool:
        with pytest.raises(
            MaybeEncodingError,
            match=r"Error sending result: 'Unpicklable\('carries a lock', .*'\. "
            r"Reason: '.*cannot pickle '_thread.lock' object",
        ) as caught:
            pool.apply(tasks.fail_unpicklably)
        assert "in fail_unpicklably" in str(caught.value.__cause__)
        pool.close()
        pool.join()


def test_an_abandoned_lock_says_what_to_do() -> None:
    fork = sidestep.get_context("fork")
    lock = fork.Lock()
    child = fork.Process(target=take_and_be_killed, args=(lock,))
    child.start()
    child.join()
    with pytest.raises(
        sidestep.synchronize.AbandonedLockError,
        match=rf"process {child.pid} was killed by SIGKILL while it held.* the lock's recover\(\)",
    ):
        lock.acquire()


def take_and_be_killed(lock: Any) -> None:
    lock.acquire()
    os.kill(os.getpid(), 9)


# --- the arena's ceiling --------------------------------------------------------------------


def at_the_ceiling(program: str) -> None:
    """Run it in a process whose arena takes 64 MB at most."""
    prelude = """
        import re, sys
        import sidestep
        LIMIT = 64 << 20

        def refused(call):
            try:
                call()
            except MemoryError as error:
                text = str(error)
                used, limit = re.search(r"uses (\\d+) of its limit of (\\d+)", text).groups()
                assert int(limit) == LIMIT and 0 < int(used) <= LIMIT, text
                assert "SIDESTEP_ARENA_LIMIT" in text, text
                return True
            return False
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(program)],
        env={**os.environ, "SIDESTEP_ARENA_LIMIT": "64M", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_queue_at_the_ceiling_raises_and_works_on() -> None:
    at_the_ceiling(
        """
        queue, lock, event = sidestep.Queue(), sidestep.Lock(), sidestep.Event()
        put = 0
        while not refused(lambda: queue.put(bytes([put]) * 1_000_000)):
            put += 1
        assert 30 < put < 64, put
        # Nothing is lost, and what exists works.
        assert queue.qsize() == put
        with lock:
            event.set()
        assert refused(lambda: queue.put(bytes(1_000_000)))
        for turn in range(3):
            for number in range(put):
                assert queue.get() == bytes([number]) * 1_000_000
            assert queue.empty()
            for number in range(put):
                queue.put(bytes([number]) * 1_000_000)
        """
    )


def test_a_queue_of_small_items_at_the_ceiling() -> None:
    at_the_ceiling(
        """
        queue = sidestep.Queue()
        put = 0
        while not refused(lambda: queue.put(put)):
            put += 1
        assert put > 1_000_000, put
        assert queue.qsize() == put
        got = 0
        while not queue.empty():
            for item in queue.get_many(10_000):
                assert item == got
                got += 1
        assert got == put
        for number in range(1000):
            queue.put(number)
        assert queue.get_many(2000) == list(range(1000))
        """
    )


def test_memory_that_was_given_back_serves_other_sizes() -> None:
    at_the_ceiling(
        """
        queue = sidestep.Queue()
        for size in (20_000, 100_000, 9_000, 1_000_000, 30_000, 300_000, 20_000):
            put = 0
            while not refused(lambda: queue.put(bytes(size))):
                put += 1
            assert put * size > 25_000_000, (size, put)
            for _ in range(put):
                assert len(queue.get()) == size
        """
    )


def test_put_many_at_the_ceiling_says_how_many_were_put() -> None:
    at_the_ceiling(
        """
        queue = sidestep.Queue()
        try:
            queue.put_many(b"x" * 10_000 for _ in range(10_000))
        except MemoryError as error:
            (note,) = error.__notes__
            count = int(re.fullmatch(r"(\\d+) of 10000 items were put before", note)[1])
        assert count == queue.qsize() > 3000
        assert sum(map(len, queue.get_many(10_000))) == count * 10_000
        assert queue.empty()
        """
    )


def test_values_and_locks_at_the_ceiling() -> None:
    at_the_ceiling(
        """
        arrays = []
        while not refused(lambda: arrays.append(sidestep.Array("d", 1 << 17, lock=False))):
            pass
        assert len(arrays) > 30
        arrays[0][5] = 2.5
        locks = []
        while not refused(lambda: locks.append(sidestep.Lock())):
            pass
        with locks[0]:
            pass
        assert refused(lambda: sidestep.Queue())
        assert arrays[0][5] == 2.5
        del arrays[10:], locks[10:]
        sidestep.Queue().put(bytes(10_000_000))
        """
    )


def test_a_pipe_at_the_ceiling() -> None:
    at_the_ceiling(
        """
        one, other = sidestep.Pipe()
        arrays = []
        while not refused(lambda: arrays.append(sidestep.Array("d", 1 << 17, lock=False))):
            pass
        one.send("small")
        assert other.recv() == "small"
        """
    )


def test_a_pool_at_the_ceiling() -> None:
    at_the_ceiling(
        """
        with sidestep.get_context("fork").Pool(2) as pool:
            assert refused(lambda: pool.apply(len, (bytes(100_000_000),)))
            assert refused(pool.apply_async(len, (bytes(100_000_000),)).get)
            assert refused(lambda: pool.apply(bytes, (100_000_000,)))
            assert pool.map(abs, range(-50, 0)) == list(range(50, 0, -1))
            assert len(pool.apply(bytes, (10_000_000,))) == 10_000_000
            pool.close()
            pool.join()
        """
    )
