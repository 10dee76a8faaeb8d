"""Workers that are lost: what is told of it, what is tried again, and when a pool gives up."""

import contextlib
import errno
import gc
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sidestep
from sidestep import _sidestep, context, pool
from sidestep.pool import MaybeEncodingError, RemoteTraceback, ThreadPool, WorkerLostError

sys.path.insert(0, str(Path(__file__).parent))

import pool_tasks as tasks
from pool_ends import end, ended


@pytest.fixture(params=("fork", "spawn", "forkserver"))
def ctx(request: pytest.FixtureRequest) -> context.BaseContext:
    return sidestep.get_context(str(request.param))


@pytest.fixture
def two() -> Iterator[Any]:
    with sidestep.get_context("fork").Pool(2) as made:
        yield made
    end(made)


# --- what is told ---------------------------------------------------------------------------


def test_the_error_says_which_task_and_how_its_worker_ended(ctx: context.BaseContext) -> None:
    with ctx.Pool(2) as workers:
        told = ctx.SimpleQueue()
        with pytest.raises(WorkerLostError) as caught:
            workers.apply(tasks.announce_and_die, (told,))
        error = caught.value
        assert str(error).endswith("ended while it ran this task, killed by signal SIGKILL")
        assert (error.position, error.pid) == (None, told.get()[1])
        assert (error.exitcode, error.signal, error.tries) == (-9, "SIGKILL", 1)
        with pytest.raises(WorkerLostError, match="while it ran task 3 of this map") as caught:
            workers.map(tasks.kill_on_three, range(5), 1)
        assert caught.value.position == 3
        with pytest.raises(WorkerLostError, match="items 2 to 3 of this map") as caught:
            workers.map(tasks.kill_on_three, range(5), 2)
        assert caught.value.position == range(2, 4)
        # The last chunk is shorter than the others.
        with pytest.raises(WorkerLostError, match="items 2 to 3 of this map"):
            workers.map(tasks.kill_on_three, range(4), 2)
        with pytest.raises(WorkerLostError, match="task 3 of this map"):
            workers.map(tasks.kill_on_three, range(4), 3)
        for kind in (workers.imap, workers.imap_unordered):
            with pytest.raises(WorkerLostError) as caught:
                list(kind(tasks.kill_on_three, [3]))
            assert caught.value.position == 0
        with pytest.raises(WorkerLostError) as caught:
            list(workers.imap(tasks.kill_on_three, iter(range(5)), 2))
        assert caught.value.position == range(2, 4)
        workers.close()
        workers.join()


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGTERM", "SIGUSR2"])
def test_signals_have_their_names(two: Any, name: str) -> None:
    with pytest.raises(WorkerLostError, match=f"killed by signal {name}$") as caught:
        two.apply(tasks.end_by, (signal.Signals[name],))
    assert (caught.value.signal, caught.value.out_of_memory) == (name, False)


def test_a_signal_without_a_name(two: Any) -> None:
    with pytest.raises(WorkerLostError, match="killed by signal number 40$") as caught:
        two.apply(tasks.end_by, (40,))
    assert caught.value.signal == "number 40"


def test_the_error_travels_whole() -> None:
    error = pickle.loads(pickle.dumps(WorkerLostError("gone", 17, -9, range(3, 5), True, 4)))
    assert (str(error), error.pid, error.exitcode, error.position) == ("gone", 17, -9, range(3, 5))
    assert (error.signal, error.out_of_memory, error.tries) == ("SIGKILL", True, 4)
    assert WorkerLostError("gone", 17, 3).signal is None


@pytest.mark.parametrize(
    ("task", "args", "kind", "text"),
    [
        (tasks.leave, (3,), SystemExit, "sys.exit(code)"),
        (tasks.interrupt, (3,), KeyboardInterrupt, "raise KeyboardInterrupt"),
        (tasks.give_up, (), GeneratorExit, "GeneratorExit: given up"),
        (tasks.make_quitter, (), SystemExit, "not to be pickled"),
        (tasks.square, (tasks.QuitsWhenRebuilt(),), SystemExit, "not to be rebuilt"),
    ],
)
def test_what_ended_the_worker_is_the_cause(
    two: Any, task: Callable[..., Any], args: Any, kind: type[BaseException], text: str
) -> None:
    told: list[BaseException] = []
    result = two.apply_async(task, args, error_callback=told.append)
    with pytest.raises(WorkerLostError, match="with exit code") as caught:
        result.get()
    assert told == [caught.value]
    cause = caught.value.__cause__
    assert type(cause) is kind
    assert isinstance(cause.__cause__, RemoteTraceback) and text in str(cause.__cause__)
    assert two.map(tasks.square, range(10)) == [n * n for n in range(10)]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_threads_survive_what_their_tasks_raise(error: type[BaseException]) -> None:
    def fail(n: int) -> int:
        if n == 1:
            raise error("this")
        return n

    with ThreadPool(1) as workers:
        with pytest.raises(error, match="this"):
            workers.apply(fail, (1,))
        assert workers.map(fail, [2, 3]) == [2, 3]
    workers.join()


# --- results that cannot be had -------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "text"),
    [
        (tasks.fail_unpicklably, "carries a lock"),
        (tasks.fail_with_two_arguments, "the text"),
        (tasks.fail_and_become_a_string, "the text"),
        (tasks.fail_and_quit_when_rebuilt, "the text"),
        (tasks.make_lock, "_thread.lock"),
        (tasks.make_poison, "rebuilding failed"),
        (tasks.make_late_quitter, "not to be rebuilt"),
    ],
)
def test_what_cannot_be_brought_over_is_an_error_everywhere(
    two: Any, task: Callable[[], Any], text: str
) -> None:
    told: list[BaseException] = []
    result = two.apply_async(task, error_callback=told.append)
    with pytest.raises(MaybeEncodingError, match=text) as caught:
        result.get()
    assert told == [caught.value]
    with pytest.raises(MaybeEncodingError, match=text):
        two.map(tasks.call, [task, task], 1)
    for kind in (two.imap, two.imap_unordered):
        results = kind(tasks.call, [task, os.getpid])
        outcomes = []
        for _ in range(2):
            try:
                outcomes.append(type(next(results)))
            except MaybeEncodingError as error:
                outcomes.append(type(error))
        assert set(outcomes) == {MaybeEncodingError, int}


def test_the_cause_shows_where_it_was_raised(two: Any) -> None:
    with pytest.raises(MaybeEncodingError) as caught:
        two.apply(tasks.fail_and_quit_when_rebuilt)
    text = str(caught.value.__cause__)
    assert "in fail_and_quit_when_rebuilt" in text and "QuittingError: the text" in text
    with pytest.raises(MaybeEncodingError) as caught:
        two.apply(tasks.make_lock)
    assert "TypeError: cannot pickle" in str(caught.value.__cause__)
    with pytest.raises(MaybeEncodingError) as caught:
        two.apply(tasks.make_poison)
    assert isinstance(caught.value.__cause__, LookupError)


# --- out of memory --------------------------------------------------------------------------


def test_a_risen_counter_speaks_of_memory(two: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kills = two._crew.oom_kills
    monkeypatch.setattr(_sidestep, "oom_kills", lambda: kills + 1)
    with pytest.raises(WorkerLostError, match="SIGSEGV$"):
        two.apply(tasks.end_by, (signal.SIGSEGV,))
    with pytest.raises(WorkerLostError, match=r"SIGKILL \(probably out of memory\)$") as caught:
        two.apply(tasks.kill_myself, (0,))
    assert caught.value.out_of_memory
    # It has not risen since.
    with pytest.raises(WorkerLostError, match="SIGKILL$") as caught:
        two.apply(tasks.kill_myself, (0,))
    assert not caught.value.out_of_memory


def memory_groups() -> Iterator[tuple[Path, str]]:
    """This process's memory control groups, of version 2 and 1, and the file of their limit."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield Path(f"/sys/fs/cgroup{path}"), "memory.max"
        elif "memory" in controllers.split(","):
            yield Path(f"/sys/fs/cgroup/memory{path}"), "memory.limit_in_bytes"


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A memory control group of 64 MB."""
    for parent, limit in memory_groups():
        group = parent / f"sidestep-test-{os.getpid()}"
        if not (parent / "cgroup.procs").exists():
            continue
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(64 << 20))
        except OSError:
            group.rmdir()
            continue
        yield group
        group.rmdir()
        return
    pytest.skip("no memory control group can be made here: neither version 2 nor 1 lets us")


def test_the_kernels_kill_for_want_of_memory(small_group: Path) -> None:
    program = textwrap.dedent(
        """
        import os, sys
        with open(sys.argv[1], "w") as members:
            members.write(str(os.getpid()))
        import sidestep

        def eat(n):
            with open("/proc/self/oom_score_adj", "w") as score:
                score.write("1000")
            return len(bytearray(os.urandom(1 << 20)) * 512)

        with sidestep.get_context("fork").Pool(1) as pool:
            try:
                pool.map(eat, [1])
            except sidestep.pool.WorkerLostError as error:
                print(error.out_of_memory, error.signal, error)
            print(pool.apply(len, ([1],)))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program, small_group / "cgroup.procs"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    first, second = done.stdout.splitlines()
    assert first.startswith("True SIGKILL worker ForkPoolWorker-1 ")
    assert first.endswith("task 0 of this map, killed by signal SIGKILL (probably out of memory)")
    assert second == "1"


# --- another try ----------------------------------------------------------------------------


def runs(folder: Path) -> dict[int, int]:
    """How often each item was run."""
    counts: dict[int, int] = {}
    for path in folder.iterdir():
        item = int(path.name.partition("-")[0])
        counts[item] = counts.get(item, 0) + 1
    return counts


def test_a_task_whose_worker_was_lost_is_run_again(
    ctx: context.BaseContext, tmp_path: Path
) -> None:
    dying = frozenset({2, 5})
    with ctx.Pool(2, retries=2) as workers:
        items = [(tmp_path, n, dying, 2) for n in range(8)]
        assert workers.starmap(tasks.note_and_die_at_first, items, 1) == [n * n for n in range(8)]
        assert runs(tmp_path) == {n: 3 if n in dying else 1 for n in range(8)}
        workers.close()
        workers.join()


def test_lazy_maps_keep_their_order_with_retries(tmp_path: Path) -> None:
    fork = sidestep.get_context("fork")
    with fork.Pool(2, retries=1) as workers:
        for number, kind in enumerate((workers.imap, workers.imap_unordered)):
            folder = tmp_path / str(number)
            folder.mkdir()
            items = [(folder, n, frozenset({0, 3}), 1) for n in range(6)]
            results = list(kind(tasks.note_and_die_with, items))
            expected = [n * n for n in range(6)]
            assert (results if number == 0 else sorted(results)) == expected
            assert runs(folder) == {n: 2 if n in (0, 3) else 1 for n in range(6)}
        workers.close()
        workers.join()


def test_a_task_that_always_kills_its_worker_ends_with_the_error(ctx: context.BaseContext) -> None:
    with ctx.Pool(2, retries=2) as workers:
        told = ctx.SimpleQueue()
        lost = workers.apply_async(tasks.announce_and_die, (told,))
        others = workers.map_async(tasks.square, range(30), 1)
        with pytest.raises(WorkerLostError, match="all 2 tries before") as caught:
            lost.get()
        assert caught.value.tries == 3
        pids = [told.get()[1] for _ in range(3)]
        assert told.empty() and len(set(pids)) == 3 and caught.value.pid == pids[-1]
        assert others.get() == [n * n for n in range(30)]
        workers.close()
        workers.join()


def test_large_arguments_are_there_for_each_try_and_no_objects(tmp_path: Path) -> None:
    class Data(bytearray):
        """Can be referred to weakly."""

    fork = sidestep.get_context("fork")
    with fork.Pool(1, retries=1) as workers:
        data = [Data(b"x" * 300_000) for _ in range(2)]
        gone = [weakref.ref(each) for each in data]
        result = workers.starmap_async(
            tasks.die_first_then_measure, [(tmp_path, bytes(each)) for each in data], 1
        )
        del data
        gc.collect()
        assert [ref() for ref in gone] == [None, None]
        assert result.get() == [300_000, 300_000]
        assert not workers._crew.open
        workers.close()
        workers.join()


@pytest.mark.parametrize("wish", [-1, 1.5, None, True, "x", float("nan")])
def test_retries_are_a_number(wish: Any) -> None:
    with pytest.raises(ValueError, match="retries must be"):
        sidestep.get_context("fork").Pool(1, retries=wish)


# --- workers that never come to work --------------------------------------------------------


def test_the_initializers_exception_is_the_cause(ctx: context.BaseContext) -> None:
    with ctx.Pool(2, tasks.fail, ("not today",)) as workers:
        with pytest.raises(WorkerLostError, match="cannot start.*not today") as caught:
            workers.map(tasks.square, range(10))
        cause = caught.value.__cause__
        assert isinstance(cause, LookupError) and "in fail" in str(cause.__cause__)
        # So it is for all that comes later.
        with pytest.raises(WorkerLostError, match="cannot start"):
            workers.apply(tasks.square, (1,))
        workers.close()
        workers.join()


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGKILL"])
def test_an_initializer_that_is_killed_each_time_ends_the_pool(name: str) -> None:
    fork = sidestep.get_context("fork")
    with fork.Pool(2, tasks.end_by, (signal.Signals[name],)) as workers:
        with pytest.raises(WorkerLostError, match=f"{name}, in the initializer$") as caught:
            workers.apply(tasks.square, (1,))
        assert caught.value.signal == name
        workers.close()
        workers.join()


def test_fresh_workers_that_others_kill_do_not_end_the_pool() -> None:
    # Stopped while they start, so that none of them can have come to work.
    spawn = sidestep.get_context("spawn")
    with spawn.Pool(1) as workers:
        for _ in range(2 * pool._STILLBORN + 1):
            victim = workers._pool[0]
            os.kill(victim.pid, signal.SIGKILL)
            assert ended(victim) == -signal.SIGKILL
            while victim in workers._pool or not workers._pool:
                workers._repopulate_pool()
        assert workers.map(tasks.square, range(5)) == [n * n for n in range(5)]
        workers.close()
        workers.join()


def test_idle_and_busy_workers_die_in_rows_and_nothing_else_is_lost(two: Any) -> None:
    told = sidestep.SimpleQueue()
    for _ in range(4):
        stays = two.apply_async(tasks.announce_and_stay, (told,))
        _, pid = told.get()
        results = [two.apply_async(tasks.square, (n,)) for n in range(10)]
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerLostError) as caught:
            stays.get()
        assert caught.value.pid == pid
        assert [result.get() for result in results] == [n * n for n in range(10)]


def test_a_waiting_thread_hears_of_the_loss(two: Any) -> None:
    heard: list[BaseException] = []

    def wait(result: Any) -> None:
        try:
            result.get()
        except WorkerLostError as error:
            heard.append(error)

    result = two.apply_async(tasks.kill_myself, (1,))
    threads = [threading.Thread(target=wait, args=(result,)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(heard) == 5


def test_a_thread_pool_whose_initializer_fails_ends_its_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The interpreter would show each thread's error.
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    with ThreadPool(2, tasks.fail, ("not today",)) as workers:
        with pytest.raises(WorkerLostError, match="cannot start.*not today") as caught:
            workers.apply(tasks.square, (1,))
        assert isinstance(caught.value.__cause__, LookupError)
    workers.join()


def test_what_threads_start_hears_of_interrupts() -> None:
    with ThreadPool(1) as workers:
        assert signal.SIGINT not in workers.apply(signal.pthread_sigmask, (signal.SIG_BLOCK, ()))
    workers.join()


def test_a_worker_that_cannot_be_replaced_at_once_is_replaced_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with sidestep.get_context("fork").Pool(1) as workers:
        refused = threading.Event()

        def refuse_once(line: int) -> Any:
            monkeypatch.undo()
            refused.set()
            raise BlockingIOError(errno.EAGAIN, "no process to be had")

        monkeypatch.setattr(workers._crew, "start", refuse_once)
        with pytest.raises(WorkerLostError):
            workers.apply(tasks.vanish, (3,))
        refused.wait()
        result = None
        while result is None:
            # What was submitted before that refusal was told ends with it.
            with contextlib.suppress(BlockingIOError):
                result = workers.apply_async(tasks.square, (3,)).get()
        assert result == 9
