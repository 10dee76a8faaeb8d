"""A pool ends when it is told to, wherever that comes from; and Ctrl-C ends it once."""

import gc
import itertools
import os
import select
import signal
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import sidestep
from sidestep import context, dummy, pool
from sidestep.pool import WorkerLostError

sys.path.insert(0, str(Path(__file__).parent))

import pool_tasks as tasks
from pool_ends import end, ended, worker_with

TERMINATED = "terminated before"


class InParts(pool.Pool):
    """A pool with the workings of the standard library's."""

    def _repopulate_pool(self) -> None:
        super()._repopulate_pool()


@pytest.fixture(params=("fork", "spawn", "forkserver"))
def ctx(request: pytest.FixtureRequest) -> context.BaseContext:
    return sidestep.get_context(str(request.param))


@pytest.fixture
def busy() -> Iterator[tuple[Any, Any]]:
    """A pool of two workers that both stay at a task, and the map that they run."""
    fork = sidestep.get_context("fork")
    with fork.Pool(2) as made:
        told = fork.SimpleQueue()
        running = made.starmap_async(tasks.announce_and_stay, [(told, n) for n in range(6)], 1)
        told.get()
        told.get()
        yield made, running
    end(made)


def check_ended(made: Any, running: Any) -> None:
    with pytest.raises(context.ProcessError, match=TERMINATED):
        running.get()
    assert all(worker.exitcode is not None for worker in made._pool)


# --- terminate from anywhere ----------------------------------------------------------------


def test_terminate_from_an_error_callback() -> None:
    fork = sidestep.get_context("fork")
    with fork.Pool(2) as made:
        told = fork.SimpleQueue()
        running = made.apply_async(tasks.announce_and_stay, (told,))
        told.get()
        over = threading.Event()

        def end_it(error: BaseException) -> None:
            made.terminate()
            over.set()

        failed = made.apply_async(tasks.fail, ("this",), error_callback=end_it)
        over.wait()
        check_ended(made, running)
        with pytest.raises(LookupError, match="this"):
            failed.get()
    end(made)


def test_terminate_from_the_callback_of_what_it_ends(busy: Any) -> None:
    made, running = busy
    told: list[BaseException] = []

    def end_it_again(error: BaseException) -> None:
        made.terminate()
        told.append(error)

    second = made.apply_async(tasks.square, (1,), error_callback=end_it_again)
    made.terminate()
    check_ended(made, running)
    with pytest.raises(context.ProcessError, match=TERMINATED):
        second.get()
    assert len(told) == 1


def on_alarm(action: Callable[[], object], during: Callable[[], object]) -> None:
    """Interrupt a call of this thread by signals, the first of which runs the action."""
    left = [action]

    def handle(number: int, frame: object) -> None:
        if left:
            left.pop()()

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.01)
    try:
        during()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("what", ["get", "next", "next_unordered", "wait", "join"])
def test_terminate_from_a_signal_handler(busy: Any, what: str) -> None:
    made, running = busy

    def during() -> None:
        if what == "join":
            made.close()
            made.join()
        elif what == "wait":
            running.wait()
        else:
            waits = {
                "get": running.get,
                "next": lambda: next(made.imap(tasks.square, range(3))),
                "next_unordered": lambda: next(made.imap_unordered(tasks.square, range(3))),
            }
            # On a slow machine the signal may come before the call.
            with pytest.raises((context.ProcessError, ValueError), match="terminated|not running"):
                waits[what]()

    on_alarm(made.terminate, during)
    check_ended(made, running)


def test_terminate_from_a_signal_handler_in_the_midst_of_things() -> None:
    # Signals come at any instruction of what submits, waits and takes.
    fork = sidestep.get_context("fork")

    def use(made: Any) -> None:
        try:
            while True:
                made.map(tasks.square, range(3), 1)
                list(made.imap(tasks.square, range(3)))
                made.apply_async(tasks.square, (1,)).wait()
        except (context.ProcessError, ValueError):
            # Terminated meanwhile, or before.
            return

    for _ in range(10):
        made = fork.Pool(2)
        on_alarm(made.terminate, partial(use, made))
        end(made)


def test_terminate_from_a_finalizer_and_a_weak_reference(busy: Any) -> None:
    made, running = busy

    class Owner:
        def __del__(self) -> None:
            made.terminate()

    owner: Any = Owner()
    owner.itself = owner
    seen = weakref.finalize(owner, made.terminate)
    del owner
    gc.collect()
    assert not seen.alive
    check_ended(made, running)


def test_terminate_from_several_threads_at_once(busy: Any) -> None:
    made, running = busy
    together = threading.Barrier(4)

    def end_it() -> None:
        together.wait()
        made.terminate()

    threads = [threading.Thread(target=end_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check_ended(made, running)


def test_terminate_while_others_submit(busy: Any) -> None:
    made, running = busy
    begun = threading.Semaphore(0)

    def submit() -> None:
        with pytest.raises((context.ProcessError, ValueError)):
            while True:
                begun.release()
                made.apply_async(len, (b"x" * 100_000,)).get(0.001)

    def submit_until_the_end() -> None:
        while made._state == pool.RUN:
            try:
                submit()
            except sidestep.TimeoutError:
                pass

    threads = [threading.Thread(target=submit_until_the_end) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        begun.acquire()
    made.terminate()
    for thread in threads:
        thread.join()
    check_ended(made, running)


def test_terminate_with_workers_that_are_stopped(busy: Any) -> None:
    made, running = busy
    for pid in [worker.pid for worker in made._pool]:
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
    made.terminate()
    check_ended(made, running)
    assert {worker.exitcode for worker in made._pool} <= {-signal.SIGTERM, -signal.SIGKILL}


def test_terminate_with_workers_that_are_deaf() -> None:
    fork = sidestep.get_context("fork")
    with fork.Pool(2, tasks.be_deaf, (signal.SIGTERM, signal.SIGINT)) as made:
        told = fork.SimpleQueue()
        running = made.starmap_async(tasks.announce_and_stay, [(told,)] * 2, 1)
        told.get()
        told.get()
        made.terminate()
        check_ended(made, running)
        assert [worker.exitcode for worker in made._pool] == [-signal.SIGKILL] * 2
    end(made)


def test_terminate_with_much_in_line(busy: Any) -> None:
    made, running = busy
    results = [made.apply_async(len, (b"x" * 10_000,)) for _ in range(2000)]
    made.terminate()
    check_ended(made, running)
    for result in results:
        with pytest.raises(context.ProcessError, match=TERMINATED):
            result.get()


def test_terminate_in_a_forked_child_is_none_of_its_business() -> None:
    fork = sidestep.get_context("fork")
    with fork.Pool(2) as made:
        workers = list(made._pool)
        assert made.apply(tasks.square, (2,)) == 4
        for ending in (made.terminate, made.close):
            child = fork.Process(target=ending)
            child.start()
            child.join()
            assert child.exitcode == 0
            child.close()
        assert made.map(tasks.square, range(100), 1) == [n * n for n in range(100)]
        assert made._pool == workers
    end(made)


@pytest.mark.parametrize("call", ["apply_async", "map_async", "imap"])
def test_a_call_that_the_end_of_the_pool_overtakes_is_refused(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sidestep.get_context("fork").Pool(1) as made:

        class ClosesThePool:
            def __next__(self) -> int:
                made.close()
                made.join()
                return -1

        monkeypatch.setattr(pool, "job_counter", ClosesThePool())
        with pytest.raises(ValueError, match="not running"):
            getattr(made, call)(tasks.square, [3])
        assert not made._cache


def test_a_callback_that_leaves_keeps_no_other_call_from_its_end(busy: Any) -> None:
    made, running = busy

    def leave(_: BaseException) -> None:
        sys.exit(3)

    calls = [made.apply_async(tasks.square, (n,), error_callback=leave) for n in range(3)]
    with pytest.raises(SystemExit):
        made.terminate()
    check_ended(made, running)
    for call in calls:
        with pytest.raises(context.ProcessError, match=TERMINATED):
            call.get()


def test_terminate_that_is_cut_short_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    fork = sidestep.get_context("fork")
    told = fork.SimpleQueue()
    made = fork.Pool(2, tasks.be_deaf, (signal.SIGTERM,))
    running = made.starmap_async(tasks.announce_and_stay, [(told, n) for n in range(2)], 1)
    told.get()
    told.get()
    children = list(made._pool)

    def interrupted(timeout: float | None = None) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(children[0], "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made.terminate()
    with pytest.raises(context.ProcessError, match=TERMINATED):
        running.get()
    for child in children:
        ended(child)
    made.terminate()
    end(made)
    assert [child.exitcode for child in children] == [-signal.SIGKILL] * 2


def test_terminate_leaves_threads_of_replaced_parts_nothing_to_do() -> None:
    class ThreadsInParts(pool.ThreadPool):
        def _repopulate_pool(self) -> None:
            super()._repopulate_pool()

    begun, done = threading.Event(), threading.Event()
    ran = []

    def work(n: int) -> None:
        ran.append(n)
        begun.set()
        done.wait()

    made = ThreadsInParts(2)
    running = made.map_async(work, range(100), 1)
    begun.wait()
    made.terminate()
    done.set()
    made.join()
    assert len(ran) <= 2
    with pytest.raises(context.ProcessError, match=TERMINATED):
        running.get()


# --- pools that nobody ends -----------------------------------------------------------------


def test_a_dropped_pool_in_a_cycle_ends_its_workers(ctx: context.BaseContext) -> None:
    made: Any = ctx.Pool(2)
    children = list(made._pool)
    made.itself = made
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del made
        gc.collect()
    for child in children:
        ended(child)


@pytest.mark.parametrize("kind", ["processes", "threads"])
@pytest.mark.parametrize("call", ["starmap_async", "apply_async", "imap"])
def test_a_pool_that_was_closed_does_all_that_it_was_given(kind: str, call: str) -> None:
    fork = sidestep.get_context("fork")
    told = fork.SimpleQueue()
    made: Any = fork.Pool(2) if kind == "processes" else dummy.Pool(2)
    children = list(made._pool)
    if call == "starmap_async":
        made.starmap_async(tasks.announce, [(told, n) for n in range(20)], 1)
    elif call == "imap":
        made.imap(partial(tasks.announce, told), range(20))
    else:
        for n in range(20):
            made.apply_async(tasks.announce, (told, n))
    made.close()
    gone = weakref.ref(made)
    del made
    gc.collect()
    assert sorted(told.get()[0] for _ in range(20)) == list(range(20))
    for child in children:
        child.join()
    while gone() is not None:
        gc.collect()


#: Starts a pool whose workers stay at tasks or are idle, says who they are, and leaves somehow.
LEAVER = """
import os, sys
import sidestep

def stay(n):
    import signal
    signal.sigwait([signal.SIGUSR1])

def leave(how, method):
    pool = sidestep.get_context(method).Pool(3)
    # One of them is at a task, the others are idle.
    busy = pool.apply_async(stay, (1,))
    pool.map(len, [[1]] * 10)
    print(*(worker.pid for worker in pool._pool), flush=True)
    if how == "cycle":
        pool.itself = pool
    if how == "_exit":
        os._exit(3)
    if how == "kill":
        os.kill(os.getpid(), 9)
    return pool

if __name__ == "__main__":
    how, method = sys.argv[1:]
    if how == "child":
        child = sidestep.get_context("fork").Process(target=leave, args=("_exit", method))
        child.start()
        child.join()
    else:
        kept = leave(how, method)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("how", ["return", "cycle", "_exit", "kill", "child"])
def test_a_program_that_just_leaves_takes_its_workers_along(
    tmp_path: Path, how: str, method: str
) -> None:
    program = tmp_path / "leaver.py"
    program.write_text(LEAVER)
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", program, how, method], stdout=subprocess.PIPE, text=True
    ) as leaver:
        assert leaver.stdout is not None
        workers = [pidfd(int(pid)) for pid in leaver.stdout.readline().split()]
        try:
            assert len(workers) == 3
            for worker in workers:
                wait_for_end(worker)
        finally:
            for worker in workers:
                os.close(worker)
    assert leaver.returncode == {"_exit": 3, "kill": -9}.get(how, 0)


def pidfd(pid: int) -> int:
    """A descriptor of a process; one that is at its end if the process is gone already."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        reader, writer = os.pipe()
        os.close(writer)
        return reader


def wait_for_end(process: int) -> None:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    poll.poll()


# --- Ctrl-C ---------------------------------------------------------------------------------

PRESSED = """
import sys, time
import sidestep

def stay(queue):
    queue.put("here")
    time.sleep(1000)

if __name__ == "__main__":
    how, method = sys.argv[1:]
    ctx = sidestep.get_context(method)
    queue = ctx.SimpleQueue()
    with ctx.Pool(3) as pool:
        if how != "start":
            pool.map(len, [[1]] * 30, 1)
        if how in ("start", "idle"):
            print("ready", flush=True)
            time.sleep(1000)
        results = {"map": pool.map_async, "join": pool.map_async, "get": pool.map_async}.get(
            how, pool.imap
        )(stay, [queue] * 2, 1)
        queue.get(), queue.get()
        print("ready", flush=True)
        if how == "join":
            pool.close()
            pool.join()
        elif how == "imap":
            next(results)
        else:
            results.get()
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("how", ["start", "idle", "get", "imap", "join"])
def test_ctrl_c_ends_a_program_once_with_its_own_traceback_only(
    tmp_path: Path, how: str, method: str
) -> None:
    program = tmp_path / "pressed.py"
    program.write_text(PRESSED)
    with subprocess.Popen(
        [sys.executable, program, how, method],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as pressed:
        assert pressed.stdout is not None
        assert pressed.stdout.readline() == "ready\n"
        # As a terminal does.
        os.killpg(pressed.pid, signal.SIGINT)
        # Ends when all that has stderr open has ended.
        _, text = pressed.communicate()
    assert pressed.returncode == -signal.SIGINT
    assert text.count("KeyboardInterrupt") == 1 and text.endswith("\nKeyboardInterrupt\n")
    assert "Worker" not in text


def test_an_idle_worker_does_not_care_for_an_interrupt(ctx: context.BaseContext) -> None:
    with ctx.Pool(2) as made:
        made.map(tasks.square, range(10))
        before = {worker.pid for worker in made._pool}
        for pid in before:
            os.kill(pid, signal.SIGINT)
        assert set(made.map(tasks.pid, range(20), 1)) <= before
        made.close()
        made.join()


def test_a_task_sees_the_interrupt(ctx: context.BaseContext) -> None:
    with ctx.Pool(1) as made:
        told = ctx.SimpleQueue()
        caught = made.apply_async(tasks.wait_for_interrupt, (told,))
        _, pid = told.get()
        os.kill(pid, signal.SIGINT)
        assert caught.get() == "interrupted"
        uncaught = made.apply_async(tasks.announce_and_stay, (told,))
        assert told.get() == (None, pid)
        os.kill(pid, signal.SIGINT)
        with pytest.raises(WorkerLostError, match="exit code 130") as lost:
            uncaught.get()
        assert isinstance(lost.value.__cause__, KeyboardInterrupt)
        made.close()
        made.join()


def test_an_initializer_may_ignore_interrupts(ctx: context.BaseContext) -> None:
    with ctx.Pool(1, tasks.be_deaf, (signal.SIGINT,)) as made:
        told = ctx.SimpleQueue()
        result = made.apply_async(tasks.announce_and_stay_until, (told, signal.SIGTERM))
        _, pid = told.get()
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
        assert result.get() == "SIGTERM"
        made.close()
        made.join()


def test_a_parent_that_ignores_interrupts_has_workers_that_do() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        fork = sidestep.get_context("fork")
        with fork.Pool(1) as made:
            assert made.apply(signal.getsignal, (signal.SIGINT,)) == signal.SIG_IGN
            made.close()
            made.join()
    finally:
        signal.signal(signal.SIGINT, before)


def test_who_blocks_interrupts_has_workers_that_do(ctx: context.BaseContext) -> None:
    def blocked(made: Any) -> bool:
        return signal.SIGINT in made.apply(signal.pthread_sigmask, (signal.SIG_BLOCK, ()))

    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        with ctx.Pool(1) as made:
            assert blocked(made)
            made.close()
            made.join()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    with ctx.Pool(1, maxtasksperchild=1) as made:
        # Also those that another thread has started.
        assert [blocked(made) for _ in range(3)] == [False] * 3
        made.close()
        made.join()


# --- pools in pools -------------------------------------------------------------------------


def test_workers_have_pools_of_their_own(ctx: context.BaseContext) -> None:
    with ctx.Pool(2) as made:
        assert made.map(tasks.squares_in_a_pool, [3, 5], 1) == [[0, 1, 4], [0, 1, 4, 9, 16]]
        made.close()
        made.join()


@pytest.mark.parametrize("how", ["kill", "cancel", "terminate"])
def test_workers_take_their_workers_along(ctx: context.BaseContext, how: str) -> None:
    with ctx.Pool(1) as made:
        told = ctx.SimpleQueue()
        outer = made._pool[0].pid
        running = made.apply_async(tasks.stay_in_a_pool, (told,))
        inner = [pidfd(told.get()[1]) for _ in range(2)]
        try:
            if how == "kill":
                os.kill(worker_with(made, outer).pid, signal.SIGKILL)
                with pytest.raises(WorkerLostError):
                    running.get()
            elif how == "cancel":
                assert running.cancel()
            else:
                made.terminate()
            for process in inner:
                wait_for_end(process)
        finally:
            for process in inner:
                os.close(process)
        made.close()
        made.join()


# --- an exception of a signal handler, anywhere -----------------------------------------------


class Interruption(Exception):
    """What a signal handler raises."""


def interrupt(call: Callable[[], object], moment: int) -> bool:
    """Raise at a place in the pool's own code where a signal's handler may run, the nth of them.

    Returns:
        Whether the call has so many.
    """
    left = moment

    def watch(frame: FrameType, event: str, _: object) -> None:
        nonlocal left
        caller = frame.f_back
        at = caller if event == "return" and caller is not None else frame
        if at.f_code.co_filename == pool.__file__ and event in ("call", "return", "c_return"):
            if not left:
                raise Interruption
            left -= 1

    # What the collector calls has nobody to raise to.
    gc.disable()
    sys.setprofile(watch)
    try:
        call()
    except Interruption:
        return True
    finally:
        sys.setprofile(None)
        gc.enable()
    return False


def forget_feeder(made: Any) -> None:
    """Have the pool start another one with the next lazy map."""
    if made._feeder is not None:
        made._feeder.put(None)
        made._feeder = None


@pytest.mark.parametrize(
    "call",
    [
        lambda made: made.imap(tasks.square, range(3)),
        lambda made: made.imap_unordered(tasks.square, range(3), 2),
        lambda made: made.imap(tasks.square, range(3), buffersize=2),
        lambda made: made.map_async(tasks.square, range(3), 1),
        lambda made: made.apply_async(tasks.square, (3,)),
    ],
    ids=["imap", "imap_chunks", "imap_bounded", "map_async", "apply_async"],
)
def test_a_call_that_is_interrupted_anywhere_does_no_harm(call: Callable[[Any], object]) -> None:
    made = sidestep.get_context("fork").Pool(1)
    for moment in itertools.count():
        forget_feeder(made)
        if not interrupt(partial(call, made), moment):
            break
        assert list(made.imap(tasks.square, [2])) == [4]
    assert moment >= 8
    made.close()
    made.join()
    assert not made._cache
    assert not made._crew.open
    gone = weakref.ref(made)
    del made
    gc.collect()
    assert gone() is None


# One that was interrupted when it was made already is a pool that nobody has closed.
@pytest.mark.filterwarnings("ignore:unclosed running:ResourceWarning")
@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_a_pool_whose_making_is_interrupted_anywhere_leaves_nothing(kind: str) -> None:
    # That no worker is left is checked after each test.
    before = threading.active_count()
    fork = sidestep.get_context("fork")
    made: list[Any] = []
    for moment in itertools.count():
        if not interrupt(
            lambda: made.append(fork.Pool(1) if kind == "processes" else pool.ThreadPool(1)),
            moment,
        ):
            break
    assert moment > 10
    made[0].terminate()
    made[0].join()
    made.clear()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    for thread in threading.enumerate():
        if thread.name.startswith("sidestep-pool") or isinstance(thread, dummy.Process):
            thread.join()
    assert threading.active_count() <= before


@pytest.fixture(params=("fails", "is interrupted"))
def no_new_thread(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """Have no thread of a pool start, or have its start end in an exception."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if request.param == "is interrupted":
            start(thread)
        raise Interruption

    return lambda: monkeypatch.setattr(threading.Thread, "start", refuse)


@pytest.mark.parametrize("buffersize", [None, 2])
def test_a_lazy_map_whose_thread_cannot_start(
    no_new_thread: Callable[[], None], monkeypatch: pytest.MonkeyPatch, buffersize: int | None
) -> None:
    made = sidestep.get_context("fork").Pool(1)
    no_new_thread()
    # Whoever keeps the exception keeps the frames of the call.
    with pytest.raises(Interruption) as kept:
        made.imap(tasks.square, itertools.count(), buffersize=buffersize)
    monkeypatch.undo()
    assert list(made.imap(tasks.square, [2, 3], buffersize=buffersize)) == [4, 9]
    made.close()
    made.join()
    assert kept.value is not None


@pytest.mark.parametrize("made_by", [sidestep.get_context("fork").Pool, InParts, pool.ThreadPool])
def test_a_pool_whose_thread_cannot_start_leaves_no_worker(
    no_new_thread: Callable[[], None], monkeypatch: pytest.MonkeyPatch, made_by: Any
) -> None:
    no_new_thread()
    with pytest.raises(Interruption):
        made_by(1)
    monkeypatch.undo()
    assert not sidestep.active_children()


def test_a_map_whose_input_fails_is_forgotten() -> None:
    class Broken(Sequence[int]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, n: Any) -> Any:
            if n == 2:
                raise Interruption
            return n

    with sidestep.get_context("fork").Pool(1) as made:
        with pytest.raises(Interruption):
            made.map(tasks.square, Broken(), 1)
        assert not made._cache
        made.close()
        made.join()
