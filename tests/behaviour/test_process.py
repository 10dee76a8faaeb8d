"""A process, from start to end, with every start method."""

import errno
import functools
import gc
import json
import math
import os
import pickle
import signal
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import sidestep
from sidestep import (
    _sidestep,
    context,
    forkserver,
    popen_fork,
    popen_forkserver,
    popen_spawn_posix,
    process,
    reduction,
    spawn,
    util,
)

# Children are given our sys.path, and so find the module by its name.
sys.path.insert(0, str(Path(__file__).parent))

import process_children as children

METHODS = ("fork", "spawn", "forkserver")


@pytest.fixture(params=METHODS)
def ctx(request: pytest.FixtureRequest) -> sidestep.context.BaseContext:
    return sidestep.get_context(str(request.param))


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A named pipe for `wait_until_closed`."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    yield path


def run(ctx: context.BaseContext, target: Callable[..., object], *args: object) -> Any:
    child = ctx.Process(target=target, args=args)
    child.start()
    child.join()
    return child


def told(path: Path) -> Any:
    return json.loads(path.read_text())


def fresh_server() -> None:
    """Have the fork server inherit this test's stderr."""
    forkserver._forkserver._stop()


def wait_for(path: Path) -> Any:
    """Wait until a child has told something. The test's own time limit is the watchdog."""
    while not path.exists():
        time.sleep(0.002)
    return told(path)


def open_gate(gate: Path) -> None:
    os.close(os.open(gate, os.O_WRONLY))


def ended(child: process.BaseProcess) -> None:
    """Wait until the child has ended, without reaping it."""
    util._wait_readable(child.sentinel)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


# --- what the child sees --------------------------------------------------------------------


def test_child_gets_arguments_and_knows_who_it_is(ctx: context.BaseContext, tmp_path: Path) -> None:
    child = ctx.Process(
        target=children.who_am_i,
        name="Somebody",
        args=(tmp_path / "told", 1, "two"),
        kwargs={"three": 3.5},
    )
    assert (child.pid, child.exitcode, child.is_alive()) == (None, None, False)
    child.start()
    child.join()
    facts = told(tmp_path / "told")
    me = sidestep.current_process()
    assert child.exitcode == 0
    assert facts == {
        "args": [1, "two"],
        "kwargs": {"three": 3.5},
        "pid": child.pid,
        "really": child.pid,
        "name": "Somebody",
        "daemon": False,
        "identity": list(child._identity),
        "authkey": bytes(me.authkey).hex(),
        "alive": True,
        "native_id": child.pid,
        "start_method": ctx.get_start_method(),
        "parent": [os.getpid(), me.name, True],
        "children": 0,
        "next child": f"Process-{':'.join(map(str, child._identity))}:1",
        "stdin": "",
    }


def test_subclass_overrides_run_and_keeps_its_attributes(
    ctx: context.BaseContext, tmp_path: Path
) -> None:
    child = children.TELLERS[ctx._name](tmp_path / "told")
    child.start()
    child.join()
    assert child.exitcode == 0
    assert told(tmp_path / "told") == {"a": [1, 2]}


@pytest.mark.parametrize(
    ("target", "args", "code"),
    [
        (children.nothing, (), 0),
        (children.leave, (None,), 0),
        (children.leave, (8,), 8),
        (children.leave, (True,), 1),
        (children.vanish, (9,), 9),
        (signal.raise_signal, (signal.SIGKILL,), -signal.SIGKILL),
    ],
)
def test_exit_code_tells_how_the_child_ended(
    ctx: context.BaseContext, target: Callable[..., object], args: tuple[Any, ...], code: int
) -> None:
    assert run(ctx, target, *args).exitcode == code


def test_text_of_system_exit_goes_to_stderr(
    ctx: context.BaseContext, capfd: pytest.CaptureFixture[str]
) -> None:
    fresh_server()
    assert run(ctx, children.leave, "that was all").exitcode == 1
    assert capfd.readouterr().err == "that was all\n"


def test_exception_shows_its_traceback_on_stderr(
    ctx: context.BaseContext, capfd: pytest.CaptureFixture[str]
) -> None:
    fresh_server()
    child = run(ctx, children.fail)
    assert child.exitcode == 1
    shown = capfd.readouterr().err
    assert shown.startswith(f"Process {child.name}:\nTraceback (most recent call last):\n")
    assert 'raise ZeroDivisionError("as planned")' in shown
    assert shown.endswith("ZeroDivisionError: as planned\n")


@pytest.mark.parametrize("action", ["terminate", "kill"])
def test_terminate_and_kill_end_the_child(
    ctx: context.BaseContext, action: str, tmp_path: Path
) -> None:
    child = ctx.Process(target=children.wait_for_ever, args=(tmp_path / "ready",), daemon=True)
    child.start()
    wait_for(tmp_path / "ready")
    getattr(child, action)()
    child.join()
    sent = {"terminate": signal.SIGTERM, "kill": signal.SIGKILL}[action]
    assert child.exitcode == -sent
    assert f"exitcode=-{sent.name}" in repr(child)
    # Nobody has that number any more: no signal goes out.
    getattr(child, action)()


def test_interrupt_is_keyboard_interrupt_in_the_child(
    ctx: context.BaseContext, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fresh_server()
    child = ctx.Process(target=children.wait_for_ever, args=(tmp_path / "ready",), daemon=True)
    child.start()
    wait_for(tmp_path / "ready")
    child.interrupt()
    child.join()
    assert child.exitcode == 1
    # Not a page from each process that a Ctrl-C reaches.
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"Process {child.name}: KeyboardInterrupt in wait_for_ever (")


# --- waiting --------------------------------------------------------------------------------


def test_join_with_a_time_limit_leaves_a_running_child_alone(
    ctx: context.BaseContext, gate: Path
) -> None:
    child = ctx.Process(target=children.wait_until_closed, args=(gate,))
    child.start()
    for timeout in (0, -1, 0.001, False):
        child.join(timeout)
        assert child.exitcode is None
    assert child.is_alive()
    assert child in sidestep.active_children()
    assert not util._wait_readable(child.sentinel, 0)
    open_gate(gate)
    child.join(math.inf)
    assert child.exitcode == 0
    assert util._wait_readable(child.sentinel, 0)
    assert child not in sidestep.active_children()
    child.join()


def test_ended_child_stays_a_zombie_until_somebody_looks(ctx: context.BaseContext) -> None:
    child = ctx.Process(target=children.nothing)
    child.start()
    ended(child)
    if ctx._name != "forkserver":  # there the server is the parent, and reaps
        assert child.pid is not None
        assert state_of(child.pid) == "Z"
        os.kill(child.pid, 0)
    assert child.exitcode == 0


def test_threads_join_one_child_at_once(ctx: context.BaseContext, gate: Path) -> None:
    child = ctx.Process(target=children.wait_until_closed, args=(gate,))
    child.start()
    seen: list[int | None] = []

    def join() -> None:
        child.join()
        seen.append(child.exitcode)

    threads = [threading.Thread(target=join) for _ in range(4)]
    for thread in threads:
        thread.start()
    open_gate(gate)
    for thread in threads:
        thread.join()
    assert seen == [0, 0, 0, 0]


def test_signal_handler_may_look_at_the_child_that_is_joined(
    ctx: context.BaseContext, gate: Path
) -> None:
    child = ctx.Process(target=children.wait_until_closed, args=(gate,))
    child.start()
    looks: list[bool] = []

    def look(number: int, frame: object) -> None:
        looks.append(child.is_alive())
        open_gate(gate)

    before = signal.signal(signal.SIGALRM, look)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        child.join()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert looks == [True]
    assert child.exitcode == 0


def test_child_that_a_stranger_reaped_has_ended(gate: Path) -> None:
    child = sidestep.get_context("fork").Process(target=children.vanish, args=(3,))
    child.start()
    assert child.pid is not None
    os.waitpid(child.pid, 0)
    child.join()
    assert not child.is_alive()
    assert child.exitcode == 255


def test_child_has_ended_where_the_kernel_reaps(ctx: context.BaseContext) -> None:
    if ctx._name == "forkserver":
        forkserver.ensure_running()
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        child = run(ctx, children.leave, 3)
    finally:
        signal.signal(signal.SIGCHLD, before)
    # The kernel has forgotten the code; only the server, which has its own setting, knows it.
    assert child.exitcode == (3 if ctx._name == "forkserver" else 255)
    assert sidestep.active_children() == []


def test_exit_of_a_bare_fork_leaves_its_siblings_alone(gate: Path) -> None:
    child = sidestep.get_context("fork").Process(
        target=children.wait_until_closed, args=(gate,), daemon=True
    )
    child.start()
    pid = os.fork()
    if pid == 0:
        try:
            util._exit_function()
        finally:
            os._exit(7 if sidestep.active_children() else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert child.is_alive()
    open_gate(gate)
    child.join()
    assert child.exitcode == 0


def test_active_children_lists_those_that_run(ctx: context.BaseContext, gate: Path) -> None:
    waiting = ctx.Process(target=children.wait_until_closed, args=(gate,))
    waiting.start()
    quick = ctx.Process(target=children.nothing)
    quick.start()
    ended(quick)
    assert sidestep.active_children() == [waiting]
    open_gate(gate)
    waiting.join()
    assert sidestep.active_children() == []
    quick.join()


@pytest.mark.parametrize("method", METHODS)
def test_a_start_reaps_those_that_have_ended_whoever_started_them(method: str, gate: Path) -> None:
    # For the kernel a fork server's children are not ours, so it has none of ours that ended.
    waiting = sidestep.get_context("fork").Process(target=children.wait_until_closed, args=(gate,))
    waiting.start()
    quick = sidestep.get_context(method).Process(target=children.nothing)
    quick.start()
    ended(quick)
    other = sidestep.get_context("fork").Process(target=children.nothing)
    other.start()
    assert quick not in process._home._children
    other.join()
    open_gate(gate)
    waiting.join()
    quick.join()


# --- parents and daemons --------------------------------------------------------------------


def test_main_process_has_no_parent() -> None:
    assert sidestep.parent_process() is None
    assert sidestep.current_process().name == "MainProcess"


def test_child_sees_its_parent_killed(ctx: context.BaseContext, tmp_path: Path) -> None:
    found, alive = tmp_path / "found", tmp_path / "alive"
    middle = ctx.Process(target=children.be_middle, args=(found, alive, ctx._name))
    middle.start()
    assert wait_for(alive) is True
    middle.kill()
    middle.join()
    assert wait_for(found) == [False, True]


def test_daemon_flag_is_inherited_unless_it_is_given(ctx: context.BaseContext) -> None:
    assert ctx.Process().daemon is False
    assert ctx.Process(daemon=True).daemon is True
    child = ctx.Process()
    child.daemon = True
    assert "daemon" in repr(child)


# --- misuse ---------------------------------------------------------------------------------


def test_process_that_was_not_started_can_only_be_started(ctx: context.BaseContext) -> None:
    child = ctx.Process(target=children.nothing)
    with pytest.raises(AssertionError, match="can only join a started process"):
        child.join()
    with pytest.raises(ValueError, match="process not started"):
        _ = child.sentinel
    for action in (child.terminate, child.kill, child.interrupt):
        with pytest.raises(AttributeError, match="was not started"):
            action()
    assert "initial" in repr(child)


def test_process_starts_once(ctx: context.BaseContext) -> None:
    child = run(ctx, children.nothing)
    with pytest.raises(AssertionError, match="cannot start a process twice"):
        child.start()
    with pytest.raises(AssertionError, match="before start"):
        child.daemon = True


def test_closed_process_says_so(ctx: context.BaseContext, gate: Path) -> None:
    child = ctx.Process(target=children.wait_until_closed, args=(gate,))
    child.start()
    with pytest.raises(ValueError, match="while it is running"):
        child.close()
    open_gate(gate)
    child.join()
    child.close()
    child.close()
    for use in (child.join, child.is_alive, child.terminate, child.kill, child.start):
        with pytest.raises(ValueError, match="closed"):
            use()
    with pytest.raises(ValueError, match="closed"):
        _ = child.exitcode
    assert "closed" in repr(child)
    ref = weakref.ref(child)
    del child, use
    gc.collect()
    assert ref() is None


@pytest.mark.parametrize("timeout", ["1", b"1", [], object()])
def test_timeout_that_is_not_a_number_is_a_type_error(timeout: Any, gate: Path) -> None:
    child = sidestep.get_context("fork").Process(target=children.wait_until_closed, args=(gate,))
    child.start()
    with pytest.raises(TypeError, match="timeout must be a number of seconds or None"):
        child.join(timeout)
    with pytest.raises(ValueError, match="NaN"):
        child.join(math.nan)
    open_gate(gate)
    child.join()


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(AssertionError, match="group must be None"):
        sidestep.Process(group=1)  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="name must be a string"):
        sidestep.Process().name = 3  # type: ignore[assignment]
    with pytest.raises(TypeError):
        sidestep.Process(args=1)  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError, match="no start method"):
        process.BaseProcess().start()


def test_object_of_another_process_is_not_ours_to_use(tmp_path: Path) -> None:
    child = sidestep.get_context("fork").Process(target=children.nothing)
    child._parent_pid = os.getppid()
    for use in (child.start, child.join, child.is_alive):
        with pytest.raises(AssertionError):
            use()
    assert "unknown" in repr(child)


def test_authentication_key_is_not_pickled_by_chance() -> None:
    key = sidestep.current_process().authkey
    assert isinstance(key, bytes)
    assert len(key) == 32
    with pytest.raises(TypeError, match="secret|security"):
        pickle.dumps(key)


# --- what is handed over --------------------------------------------------------------------


def test_lambdas_and_closures_are_handed_over_by_value(
    ctx: context.BaseContext, tmp_path: Path
) -> None:
    path, word = tmp_path / "told", "captured"

    def inner(other: str) -> None:
        children.tell(path, [word, other])

    assert run(ctx, inner, "given").exitcode == 0
    assert told(path) == ["captured", "given"]
    assert run(ctx, lambda: children.tell(path, word)).exitcode == 0
    assert told(path) == "captured"
    assert run(ctx, children.call, lambda: children.tell(path, 3)).exitcode == 0
    assert told(path) == 3


def test_closure_takes_shared_objects_along(ctx: context.BaseContext) -> None:
    lock, (receiver, sender) = ctx.Lock(), ctx.Pipe(duplex=False)
    with receiver, sender:

        def inner() -> None:
            sender.send(lock.acquire(block=False))

        with lock:
            assert run(ctx, inner).exitcode == 0
        assert receiver.recv() is False


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_argument_that_cannot_be_pickled_leaves_nothing_started(method: str) -> None:
    child = sidestep.get_context(method).Process(target=children.nothing, args=(threading.Lock(),))
    with pytest.raises(TypeError, match="cannot pickle '_thread.lock' object"):
        child.start()
    assert context.get_spawning_popen() is None
    assert child.pid is None
    assert child not in sidestep.active_children()


def test_start_drops_the_references_to_its_arguments(ctx: context.BaseContext) -> None:
    argument = children.Recorder()
    ref = weakref.ref(argument)
    child = ctx.Process(target=children.nothing, args=(argument,))
    del argument
    child.start()
    child.join()
    gc.collect()
    assert (child.exitcode, ref()) == (0, None)


def test_socket_is_handed_over(ctx: context.BaseContext) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            child = ctx.Process(target=children.send_back, args=(theirs,))
            child.start()
        ours.sendall(b"abc")
        assert ours.recv(100) == b"cba"
        child.join()
    assert child.exitcode == 0


def test_large_arguments_do_not_wait_for_the_child(tmp_path: Path) -> None:
    # The "interpreter" never reads what is for it; a pipe would be full.
    sidestep.set_executable("/bin/false")
    try:
        child = run(sidestep.get_context("spawn"), children.nothing, bytes(1 << 20))
    finally:
        sidestep.set_executable(sys.executable)
    assert child.exitcode == 1


def test_interpreter_that_is_not_there_is_an_error_of_start() -> None:
    child = sidestep.get_context("spawn").Process(target=children.nothing)
    sidestep.set_executable("/nowhere/python")
    try:
        with pytest.raises(FileNotFoundError, match="/nowhere/python"):
            child.start()
    finally:
        sidestep.set_executable(sys.executable)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_children_inherit_few_descriptors(method: str, tmp_path: Path) -> None:
    ctx = sidestep.get_context(method)
    with open(os.devnull) as file:
        high = os.dup(file.fileno())
        os.set_inheritable(high, True)
        beyond = os.open(os.devnull, os.O_RDONLY)
        os.dup2(beyond, 60, inheritable=True)
        try:
            run(ctx, children.is_open, tmp_path / "open", 60)
        finally:
            for fd in (high, beyond, 60):
                os.close(fd)
    assert told(tmp_path / "open") == errno.EBADF
    counts = []
    for number in range(3):
        run(ctx, children.open_descriptors, tmp_path / f"{number}")
        counts.append(told(tmp_path / f"{number}"))
    assert counts[0] == counts[1] == counts[2]
    # The streams, the arena, one or two life lines, what unpickling reads from, /proc itself; and
    # a line to the resource tracker of each package, if other tests have started them.
    assert len(counts[0]) <= 10


# --- state and exit -------------------------------------------------------------------------


def test_a_child_forked_by_an_executors_thread_ends_well(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def start() -> int | None:
        child = sidestep.get_context("fork").Process(target=int)
        child.start()
        child.join()
        return child.exitcode

    with ThreadPoolExecutor() as executor:
        assert executor.submit(start).result() == 0
    assert capfd.readouterr().err == ""


def test_forked_child_starts_with_state_of_its_own(tmp_path: Path, gate: Path) -> None:
    ctx = sidestep.get_context("fork")
    recorder = children.Recorder()
    other = children.Recorder()
    util.register_after_fork(recorder, lambda obj: obj.calls.append("first"))
    util.register_after_fork(recorder, lambda obj: obj.calls.append("second"))
    util.register_after_fork(other, lambda obj: 1 / 0)
    finalizer = util.Finalize(recorder, print, exitpriority=1)
    sibling = ctx.Process(target=children.wait_until_closed, args=(gate,))
    sibling.start()
    assert run(ctx, children.inherited_state, tmp_path / "told", recorder).exitcode == 0
    assert told(tmp_path / "told") == {
        "hooks": ["first", "second"],
        "finalizers": 0,
        "children": 0,
        "exiting": False,
    }
    assert recorder.calls == []
    finalizer.cancel()
    open_gate(gate)
    sibling.join()


def test_exit_functions_of_the_child_run_and_the_parents_do_not(
    ctx: context.BaseContext, tmp_path: Path
) -> None:
    import atexit

    ours = tmp_path / "ours"
    atexit.register(ours.touch)
    try:
        assert run(ctx, children.exit_later, tmp_path / "told").exitcode == 0
    finally:
        atexit.unregister(ours.touch)
    # Registered before the finalizers ran, and the package's own comes first of all.
    assert told(tmp_path / "told") == ["run"]
    assert not ours.exists()


# --- what tools replace ---------------------------------------------------------------------


def test_bootstrap_is_called_through_the_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A forked child has the replacement; how others get it is tested in tests/beside.
    ctx = sidestep.get_context("fork")
    original = process.BaseProcess._bootstrap

    def wrapped(self: process.BaseProcess, *args: Any, **kwargs: Any) -> int:
        try:
            return original(self, *args, **kwargs)
        finally:
            (tmp_path / "wrapped").touch()

    monkeypatch.setattr(process.BaseProcess, "_bootstrap", wrapped)
    assert run(ctx, children.leave, 4).exitcode == 4
    assert (tmp_path / "wrapped").exists()


def test_fork_and_exit_are_looked_up_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fork, leave = os.fork, os._exit
    forks = []

    def our_fork() -> int:
        forks.append(1)
        return fork()

    def our_exit(code: int) -> None:
        (tmp_path / "exit").touch()
        leave(code)

    monkeypatch.setattr(os, "fork", our_fork)
    monkeypatch.setattr(os, "_exit", our_exit)
    assert run(sidestep.get_context("fork"), children.nothing).exitcode == 0
    assert forks == [1]
    assert (tmp_path / "exit").exists()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_unknown_preparation_data_reaches_the_child(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = spawn.get_preparation_data

    def with_stowaway(name: str) -> dict[str, Any]:
        return {**original(name), "stowaway": Stowaway(tmp_path / "aboard")}

    monkeypatch.setattr(spawn, "get_preparation_data", with_stowaway)
    assert run(sidestep.get_context(method), children.nothing).exitcode == 0
    assert (tmp_path / "aboard").exists()


class Stowaway:
    """Does its work by being unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_command_line_and_spawn_are_looked_up_late(monkeypatch: pytest.MonkeyPatch) -> None:
    lines, spawned = [], []
    command_line, spawnv = spawn.get_command_line, util.spawnv_passfds

    def our_line(**kwds: Any) -> list[Any]:
        lines.append(sorted(kwds))
        return command_line(**kwds)

    def our_spawn(path: Any, args: Any, fds: Any) -> int:
        spawned.append(path)
        return spawnv(path, args, fds)

    monkeypatch.setattr(spawn, "get_command_line", our_line)
    monkeypatch.setattr(util, "spawnv_passfds", our_spawn)
    assert run(sidestep.get_context("spawn"), children.nothing).exitcode == 0
    assert lines == [["arena_fd", "parent_fd", "pipe_handle"]]
    assert spawned == [spawn.get_executable()]


# --- without what the kernel may refuse -----------------------------------------------------


def test_pipes_stand_in_for_pidfds(
    ctx: context.BaseContext, tmp_path: Path, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_pidfds = functools.partial(_sidestep.LifeLines, pidfds=False)
    monkeypatch.setattr(popen_fork, "LifeLines", without_pidfds)
    monkeypatch.setattr(popen_forkserver, "LifeLines", without_pidfds)
    child = ctx.Process(target=children.wait_until_closed, args=(gate,))
    child.start()
    child.join(0)
    assert child.is_alive()
    assert not util._wait_readable(child.sentinel, 0)
    open_gate(gate)
    ended(child)
    child.join(60)
    assert child.exitcode == 0
    assert run(ctx, children.leave, 5).exitcode == 5
    found, alive = tmp_path / "found", tmp_path / "alive"
    middle = ctx.Process(target=children.be_middle, args=(found, alive, ctx._name))
    middle.start()
    assert wait_for(alive) is True
    middle.kill()
    middle.join()
    assert wait_for(found) == [False, True]


def test_files_stand_in_for_memory_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, flags: int) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "memfd_create", refuse)
    with popen_spawn_posix._memory_file() as file:
        file.write(b"abc")
        file.seek(0)
        assert file.read() == b"abc"


# --- helpers --------------------------------------------------------------------------------


def test_finalizers_run_by_priority_and_once() -> None:
    kept = dict(util._finalizer_registry)
    util._finalizer_registry.clear()
    try:
        calls: list[object] = []
        owner = children.Recorder()
        by_object = util.Finalize(owner, calls.append, args=("object",))
        util.Finalize(None, calls.append, args=("low",), exitpriority=-5)
        util.Finalize(None, calls.append, args=("first of two",), exitpriority=3)
        util.Finalize(None, calls.append, args=("second of two",), exitpriority=3)
        cancelled = util.Finalize(None, calls.append, args=("never",), exitpriority=9)
        cancelled.cancel()
        assert (by_object.still_active(), cancelled.still_active()) == (True, False)
        assert "dead" in repr(cancelled)
        assert "callback=append, args=('object',)" in repr(by_object)
        util._run_finalizers(0)
        assert calls == ["second of two", "first of two"]
        del owner
        gc.collect()
        assert calls[2:] == ["object"]
        by_object()
        util._run_finalizers()
        assert calls[3:] == ["low"]
        assert util._finalizer_registry == {}
        with pytest.raises(ValueError, match="exitpriority"):
            util.Finalize(None, print)
        with pytest.raises(TypeError, match="exitpriority"):
            util.Finalize(None, print, exitpriority="1")  # type: ignore[arg-type]
    finally:
        util._finalizer_registry.update(kept)


def test_handles_travel_over_sockets() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, open(os.devnull) as file:
        reduction.send_handle(ours, file.fileno(), None)
        copy = reduction.recv_handle(theirs)
        assert os.path.samestat(os.fstat(copy), os.fstat(file.fileno()))
        assert not os.get_inheritable(copy)
        os.close(copy)
        ours.send(b"\0")
        with pytest.raises(RuntimeError, match="descriptors"):
            reduction.recv_handle(theirs)
        ours.close()
        with pytest.raises(EOFError):
            reduction.recv_handle(theirs)


def test_forking_pickler_takes_registered_reducers() -> None:
    class Odd:
        pass

    before = dict(reduction.ForkingPickler._extra_reducers)
    try:
        reduction.ForkingPickler.register(Odd, lambda odd: (str, ("odd",)))
        data = reduction.ForkingPickler.dumps([Odd(), "abc".upper])
        odd, upper = reduction.ForkingPickler.loads(data)
        assert (odd, upper()) == ("odd", "ABC")
    finally:
        reduction.ForkingPickler._extra_reducers.clear()
        reduction.ForkingPickler._extra_reducers.update(before)


# --- signals in the middle of a start ---------------------------------------------------------


class Interruption(Exception):
    """What a handler raises."""


@pytest.fixture
def signal_in_fork() -> Iterator[None]:
    """Each fork of this thread meets a signal whose handler raises."""

    def interrupt(*_: object) -> None:
        raise Interruption

    before = signal.signal(signal.SIGUSR1, interrupt)
    in_fork.wanted = True
    try:
        yield
    finally:
        in_fork.wanted = False
        signal.signal(signal.SIGUSR1, before)


class in_fork:  # noqa: N801  (a switch, as hooks of forks stay for ever)
    wanted = False

    @classmethod
    def send(cls) -> None:
        if cls.wanted:
            os.kill(os.getpid(), signal.SIGUSR1)


os.register_at_fork(before=in_fork.send)


def test_an_exception_out_of_a_handler_loses_no_child(signal_in_fork: None) -> None:
    child = sidestep.get_context("fork").Process(target=children.nothing)
    with pytest.raises(Interruption):
        child.start()
    # It runs, and is known.
    assert child in sidestep.active_children() or child.exitcode == 0
    in_fork.wanted = False
    child.join()
    assert child.exitcode == 0
    assert signal.SIGUSR1 not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_children_start_with_their_parents_blocked_signals(
    ctx: context.BaseContext, tmp_path: Path
) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        run(ctx, children.blocked_signals, tmp_path / "blocked")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert told(tmp_path / "blocked") == sorted(before | {signal.SIGUSR2})
