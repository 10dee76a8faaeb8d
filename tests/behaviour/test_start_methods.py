"""Contexts, the choice of a start method, and the fork server's life."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

import sidestep
from sidestep import connection, context, forkserver, process, spawn, util

# Children are given our sys.path, and so find the module by its name.
sys.path.insert(0, str(Path(__file__).parent))

import process_children as children
from test_process import open_gate, run, told, wait_for

METHODS = ("fork", "spawn", "forkserver")


@pytest.fixture(params=METHODS)
def ctx(request: pytest.FixtureRequest) -> Any:
    return sidestep.get_context(request.param)


def python(program: str, *flags: str) -> str:
    """Run a program in an interpreter of its own and return what it printed."""
    done = subprocess.run(
        [sys.executable, *flags, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# --- contexts -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_context_of_a_method_is_fixed(method: str) -> None:
    ctx = sidestep.get_context(method)
    assert ctx.get_start_method() == method
    assert ctx.get_context() is ctx
    assert sidestep.get_context(method) is ctx
    assert ctx.Process.__name__.lower() == f"{method}process"
    assert isinstance(ctx, context.BaseContext)
    with pytest.raises(ValueError, match="cannot set start method"):
        ctx.set_start_method("spawn")


@pytest.mark.parametrize("usual", [True, False])
def test_a_forked_child_has_no_input_left_of_what_its_parent_has_read_ahead(usual: bool) -> None:
    # One line is taken, and the stream has the second one in its buffer.
    program = f"""
        import io, os, sys, sidestep
        class Unusual(io.TextIOWrapper):
            pass
        def look():
            before.append(sys.stdin.read())
            try:
                sys.__stdin__.read()
            except ValueError:
                before.append("closed")
            empty = os.fstat(sys.stdin.fileno()).st_rdev == os.stat(os.devnull).st_rdev
            print(*map(repr, before), empty)
        if not {usual}:
            sys.stdin = sys.__stdin__ = Unusual(sys.stdin.detach())
        before = [sys.stdin.readline()]
        for _ in range(2):
            child = sidestep.get_context("fork").Process(target=look)
            child.start()
            child.join()
        print(repr(sys.stdin.readline()))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        input="one\ntwo\n",
        capture_output=True,
        text=True,
        check=False,
    )
    child = "'one\\n' '' 'closed' True\n"
    assert (done.stderr, done.stdout) == ("", f"{child}{child}'two\\n'\n")


def test_unknown_method_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="cannot find context for 'thread'; there are fork, spawn"):
        sidestep.get_context("thread")
    with pytest.raises(ValueError, match="cannot find context"):
        sidestep.set_start_method("thread", force=True)


def test_start_method_is_set_once() -> None:
    program = """
        import sidestep
        assert sidestep.get_start_method(allow_none=True) is None
        sidestep.set_start_method("spawn")
        assert sidestep.get_start_method() == "spawn"
        assert type(sidestep.get_context()).__name__ == "SpawnContext"
        try:
            sidestep.set_start_method("fork")
        except RuntimeError as error:
            print(error)
        sidestep.set_start_method("forkserver", force=True)
        print(sidestep.get_start_method())
        sidestep.set_start_method(None, force=True)
        print(sidestep.get_start_method(allow_none=True))
    """
    assert python(program) == "context has already been set\nforkserver\nNone\n"


def test_defaults_are_those_of_the_interpreters_own_package() -> None:
    program = """
        import {} as mp
        print(mp.get_all_start_methods(), mp.get_start_method())
    """
    assert python(program.format("sidestep")) == python(program.format("multiprocessing"))


def test_public_names_are_those_of_the_interpreters_own_package() -> None:
    import multiprocessing

    assert set(multiprocessing.__all__) <= set(sidestep.__all__)
    assert all(hasattr(sidestep, name) for name in sidestep.__all__)
    assert len(set(sidestep.__all__)) == len(sidestep.__all__)


def test_import_creates_nothing_and_loads_little() -> None:
    program = """
        import os, sys, threading
        fds = len(os.listdir("/proc/self/fd"))
        import sidestep
        print(len(os.listdir("/proc/self/fd")) - fds, len(os.listdir("/proc/self/task")))
        print("multiprocessing.util" in sys.modules, "logging" in sys.modules)
        print(sorted(name for name in sys.modules if name.startswith("sidestep.")))
    """
    lines = python(program).splitlines()
    assert lines[:2] == ["0 1", "False False"]
    names = ("_later", "_original", "context", "process", "reduction")
    assert lines[2] == str([f"sidestep.{name}" for name in names])


def test_cpu_count_is_the_systems() -> None:
    assert sidestep.cpu_count() == os.cpu_count()


def test_reducer_can_be_replaced(tmp_path: Path) -> None:
    ctx = sidestep.get_context("spawn")
    original: Any = ctx.reducer
    dumped = []

    class Noting:
        @staticmethod
        def dump(obj: object, file: Any, protocol: int | None = None) -> None:
            dumped.append(type(obj).__name__)
            original.dump(obj, file, protocol)

    ctx.reducer = Noting  # type: ignore[assignment]
    try:
        assert run(ctx, children.nothing).exitcode == 0
    finally:
        ctx.reducer = original
    assert dumped == ["dict", "SpawnProcess"]


def test_contexts_of_other_packages_can_be_added() -> None:
    class Loud(context.SpawnContext):
        _name = "loud"

    context._concrete_contexts["loud"] = Loud()
    try:
        assert sidestep.get_context("loud").get_start_method() == "loud"
    finally:
        del context._concrete_contexts["loud"]


@pytest.mark.parametrize("outer", METHODS)
@pytest.mark.parametrize("inner", METHODS)
def test_children_start_children(outer: str, inner: str, tmp_path: Path) -> None:
    child = sidestep.get_context(outer).Process(
        target=children.nest, args=(tmp_path / "told", inner, 2)
    )
    child.start()
    child.join()
    assert child.exitcode == 0
    assert told(tmp_path / "told") == [*child._identity, 1, 1]


FIRST_STARTS = """
import sys
import threading
import sidestep

def nothing(load):
    pass

def start(child):
    together.wait()
    child.start()

if __name__ == "__main__":
    sys.setswitchinterval(1e-6)
    context = sidestep.get_context(sys.argv[1])
    together = threading.Barrier(4)
    children = [context.Process(target=nothing, args=(bytes(100_000),)) for _ in range(4)]
    threads = [threading.Thread(target=start, args=(child,)) for child in children]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for child in children:
        child.join()
        assert child.exitcode == 0
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_first_children_may_be_started_by_many_threads(method: str, tmp_path: Path) -> None:
    """What the first start imports is there for all of them."""
    script = tmp_path / "first_starts.py"
    script.write_text(FIRST_STARTS)
    subprocess.run([sys.executable, str(script), method], check=True)


def test_logging_tells_the_life_of_a_child() -> None:
    program = """
        import sidestep, logging
        if __name__ == "__main__":
            logger = sidestep.log_to_stderr(logging.INFO)
            assert logger is sidestep.get_logger()
            child = sidestep.get_context("spawn").Process(name="Kid", target=print)
            child.start()
            child.join()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines() == [
        "[INFO/Kid] child process calling self.run()",
        "[INFO/Kid] process exiting with exitcode 0",
        "[INFO/Kid] process shutting down",
        "[INFO/MainProcess] process shutting down",
    ]


def test_a_main_script_is_compiled_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    text = """
        import sidestep, sys
        VERSION = 1
        def say(asked):
            print(VERSION, asked is 1, flush=True)
        def start():
            child = sidestep.get_context("spawn").Process(target=say, args=(1,))
            child.start()
            child.join()
        if __name__ == "__main__":
            start()
            start()
            with open(__file__) as file:
                text = file.read()
            with open(__file__, "w") as file:
                file.write(text.replace("VERSION = 1", "VERSION = 2 # other"))
            start()
    """
    script.write_text(textwrap.dedent(text))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "True", "1", "True", "2", "True"]
    # When the program starts, and once for each state that its children are to run.
    assert done.stderr.count("SyntaxWarning") == 3


def test_a_child_compiles_what_its_parent_cannot(tmp_path: Path) -> None:
    assert spawn._compiled_main(str(tmp_path / "absent.py")) is None
    assert spawn._compiled_main(str(tmp_path)) is None
    script = tmp_path / "script.py"
    script.write_text("what is this?")
    assert spawn._compiled_main(str(script)) is None
    script.write_text("GREETING = 'hello'")
    compiled = spawn._compiled_main(str(script))
    assert compiled is not None
    for given in (None, compiled, ("another interpreter", b"its code")):
        assert spawn._run_path(str(script), given)["GREETING"] == "hello"


def test_a_spawned_child_writes_what_is_left_in_its_files(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    text = """
        import sidestep
        class Log:
            pass
        if __name__ != "__main__":
            log = open("global", "w")
        def work():
            log.write("kept")
            Log.file = open("class", "w")
            Log.file.write("kept")
        if __name__ == "__main__":
            child = sidestep.get_context("spawn").Process(target=work)
            child.start()
            child.join()
    """
    script.write_text(textwrap.dedent(text))
    subprocess.run([sys.executable, script], check=True, cwd=tmp_path)
    assert (tmp_path / "global").read_text() == "kept"
    assert (tmp_path / "class").read_text() == "kept"


@pytest.mark.parametrize("method", METHODS)
def test_exit_terminates_daemons_and_waits_for_the_others(method: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
            import signal, sys
            from pathlib import Path
            import sidestep

            def daemon(path):
                path.touch()
                while True:
                    signal.pause()

            def other(path, word):
                path.read_bytes()
                sys.stdout.write(word); sys.stdout.flush()

            if __name__ == "__main__":
                here = Path(sys.argv[1])
                ctx = sidestep.get_context("{method}")
                children = [
                    ctx.Process(target=daemon, args=(here / "ready",), daemon=True),
                    ctx.Process(target=other, args=(here / "gate", "waited ")),
                ]
                for child in children:
                    child.start()
                while not (here / "ready").exists():
                    pass
                (here / "gate").write_bytes(b"")
                sys.stdout.write("leaving "); sys.stdout.flush()
        """)
    )
    os.mkfifo(tmp_path / "gate")
    done = subprocess.run(
        [sys.executable, script, tmp_path], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.split()) == ["leaving", "waited"]


# --- the fork server ------------------------------------------------------------------------

SERVER = sidestep.get_context("forkserver")


def kill_server(signum: int) -> int:
    """Send the server a signal and wait until it has ended of it."""
    pid = forkserver._forkserver._forkserver_pid
    assert pid is not None
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signum)
    util._wait_readable(pidfd)
    os.close(pidfd)
    return pid


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_killed_server_is_started_again(signum: int) -> None:
    assert run(SERVER, children.leave, 3).exitcode == 3
    before = kill_server(signum)
    assert run(SERVER, children.leave, 4).exitcode == 4
    assert forkserver._forkserver._forkserver_pid != before


def test_server_does_not_mind_ctrl_c() -> None:
    forkserver.ensure_running()
    assert run(SERVER, children.nothing).exitcode == 0
    pid = forkserver._forkserver._forkserver_pid
    assert pid is not None
    os.kill(pid, signal.SIGINT)
    assert run(SERVER, children.leave, 6).exitcode == 6
    assert forkserver._forkserver._forkserver_pid == pid


def test_server_that_does_not_come_up_is_an_error_of_start() -> None:
    forkserver._forkserver._stop()
    sidestep.set_executable("/bin/false")
    try:
        with pytest.raises(EOFError, match="the fork server ended before"):
            SERVER.Process(target=children.nothing).start()
    finally:
        sidestep.set_executable(sys.executable)
    assert run(SERVER, children.nothing).exitcode == 0


def test_child_survives_its_server_and_its_exit_code_does_not(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    child = SERVER.Process(target=children.wait_until_closed, args=(gate, tmp_path / "ready"))
    child.start()
    wait_for(tmp_path / "ready")
    kill_server(signal.SIGKILL)
    assert child.is_alive()
    assert child.exitcode is None
    open_gate(gate)
    child.join()
    assert not child.is_alive()
    assert child.exitcode == 255


def test_a_server_that_is_stopped_holds_nobody_up() -> None:
    child = sidestep.get_context("forkserver").Process(target=time.sleep, args=(100,))
    child.start()
    server = forkserver._forkserver._forkserver_pid
    assert server is not None
    os.kill(server, signal.SIGSTOP)
    try:
        child.kill()
        assert connection.wait([child.sentinel])
        # How it ended is for the server to say.
        child.join(0.1)
        assert child.is_alive() and child.exitcode is None
    finally:
        os.kill(server, signal.SIGCONT)
    child.join()
    assert child.exitcode == -signal.SIGKILL
    child.close()


def test_server_ends_with_its_last_client(tmp_path: Path) -> None:
    program = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import sidestep, process_children
        from sidestep import forkserver
        child = sidestep.get_context("forkserver").Process(target=process_children.nothing)
        child.start()
        child.join()
        print(forkserver._forkserver._forkserver_pid)
    """
    pid = int(python(program))
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    util._wait_readable(pidfd)
    os.close(pidfd)


def children_of(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if entry.name.isdigit():
                # The command's name stands in brackets and may hold anything, blanks included.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == parent:
                    found.append(int(entry.name))
    return found


def spare() -> int:
    """Return the number of the child that the server has forked before it was asked for it."""
    assert run(SERVER, children.nothing).exitcode == 0
    server = forkserver._forkserver._forkserver_pid
    assert server is not None
    while not (found := children_of(server)):
        time.sleep(0.001)
    (pid,) = found
    return pid


def test_the_next_child_is_there_before_it_is_asked_for() -> None:
    # Unless the machine stands still for the seconds for which it is kept.
    assert any(spare() == run(SERVER, children.nothing).pid for _ in range(5))


def test_those_that_are_asked_for_at_once_are_each_who_it_should_be() -> None:
    spare()
    started = [SERVER.Process(target=children.leave, args=(code,)) for code in range(8)]
    for child in started:
        child.start()
    for child in started:
        child.join()
    assert [child.exitcode for child in started] == list(range(8))


def test_a_spare_does_not_mind_ctrl_c_and_its_child_hears_it(tmp_path: Path) -> None:
    pid = spare()
    os.kill(pid, signal.SIGINT)
    child = SERVER.Process(target=children.wait_for_ever, args=(tmp_path / "ready",))
    child.start()
    wait_for(tmp_path / "ready")
    assert child.pid is not None
    os.kill(child.pid, signal.SIGINT)
    child.join()
    # Python ends so after a KeyboardInterrupt in a process's target.
    assert child.exitcode == 1


def test_a_spare_that_was_killed_is_nobody_s_child() -> None:
    pid = spare()
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    util._wait_readable(pidfd)
    os.close(pidfd)
    child = run(SERVER, children.leave, 5)
    assert (child.exitcode, child.pid != pid) == (5, True)


def test_a_spare_ends_with_its_server() -> None:
    pid = spare()
    server = forkserver._forkserver._forkserver_pid
    assert server is not None
    pidfd = os.pidfd_open(pid)
    forkserver._forkserver._stop()
    # The server has waited for it.
    assert util._wait_readable(pidfd, 0)
    os.close(pidfd)
    pidfd = os.pidfd_open(spare())
    kill_server(signal.SIGKILL)
    util._wait_readable(pidfd)
    os.close(pidfd)


def test_a_spare_has_no_descriptor_of_its_time(tmp_path: Path) -> None:
    spare()
    run(SERVER, children.open_descriptors, tmp_path / "first")
    forkserver._forkserver._stop()
    run(SERVER, children.open_descriptors, tmp_path / "second")
    assert len(told(tmp_path / "first")) == len(told(tmp_path / "second"))


def test_a_spare_needs_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    forkserver._forkserver._stop()
    with monkeypatch.context() as patch:
        patch.chdir(home)
        assert run(SERVER, children.nothing).exitcode == 0
    home.rmdir()
    assert any(spare() == run(SERVER, children.nothing).pid for _ in range(5))
    forkserver._forkserver._stop()


def test_server_imports_what_arguments_are_made_of(tmp_path: Path) -> None:
    forkserver._forkserver._stop()
    names = ["sidestep.queues", "sidestep.pool"]
    SERVER.Queue()
    with SERVER.Pool(1) as pool:
        pool.apply(children.nothing)
    # What is typical of arguments, but not all that the parent has imported.
    for name, expected in zip(names, (True, False), strict=True):
        run(SERVER, children.is_imported, tmp_path / name, name)
        assert told(tmp_path / name)[0] is expected


def test_many_children_at_once(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    crowd = [SERVER.Process(target=children.leave, args=(number,)) for number in range(20)]
    for child in crowd:
        child.start()
    assert len({child.pid for child in crowd}) == 20
    for child in crowd:
        child.join()
    assert [child.exitcode for child in crowd] == list(range(20))


def test_server_imports_what_it_is_told_before_the_first_child(tmp_path: Path) -> None:
    (tmp_path / "preloaded_module.py").write_text("import os\npid = os.getpid()\n")
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import os, sys
            import sidestep

            imported_by = os.getpid()

            def child():
                import preloaded_module
                print(preloaded_module.pid == os.getppid(), imported_by == os.getppid())

            if __name__ == "__main__":
                ctx = sidestep.get_context("forkserver")
                ctx.set_forkserver_preload(["__main__", "preloaded_module", "not_there"])
                for _ in range(2):
                    process = ctx.Process(target=child)
                    process.start()
                    process.join()
                    print(process.exitcode, flush=True)
        """)
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.stdout == "True True\n0\n" * 2
    # Once, though there are two children.
    assert re.findall("RuntimeWarning: .*", done.stderr) == [
        "RuntimeWarning: the fork server cannot preload the module 'not_there', and "
        "goes on without it: ModuleNotFoundError: No module named 'not_there'"
    ]


def test_a_module_that_cannot_be_preloaded_is_an_error_where_warnings_are(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        textwrap.dedent("""
            import os, sidestep, warnings

            if __name__ == "__main__":
                warnings.simplefilter("error")
                ctx = sidestep.get_context("forkserver")
                ctx.set_forkserver_preload(["not_there"])
                try:
                    ctx.Process(target=print, args=("not to be started",)).start()
                except RuntimeWarning as warning:
                    print(warning)
                child = ctx.Process(target=os._exit, args=(3,))
                child.start()
                child.join()
                print(child.exitcode)
        """)
    )
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True)
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert "cannot preload the module 'not_there'" in first
    assert second == "3"


class Waits:
    """Takes its time to be unpickled."""

    def __init__(self, gate: Any) -> None:
        self.gate = gate

    def __setstate__(self, state: dict[str, Any]) -> None:
        state["gate"].wait()


def take(*things: Any) -> None:
    pass


def test_starts_do_not_wait_for_children_that_read_slowly(ctx: Any) -> None:
    # With a pipe, which holds 64 KB, start would not return before the child reads.
    gate = ctx.Event()
    crowd = [ctx.Process(target=take, args=(Waits(gate), bytes(1 << 20))) for _ in range(4)]
    for child in crowd:
        child.start()
    gate.set()
    for child in crowd:
        child.join()
        assert child.exitcode == 0
        child.close()


@pytest.mark.parametrize(
    ("text", "reason"),
    [("1 / 0", "ZeroDivisionError"), ("raise SystemExit(3)", "'broken_module', which the fork")],
)
def test_an_error_in_a_module_to_preload_is_an_error_of_start(
    tmp_path: Path, text: str, reason: str
) -> None:
    (tmp_path / "broken_module.py").write_text(text)
    (tmp_path / "script.py").write_text(
        textwrap.dedent("""
            import sidestep

            if __name__ == "__main__":
                ctx = sidestep.get_context("forkserver")
                ctx.set_forkserver_preload(["broken_module"])
                ctx.Process(target=print).start()
        """)
    )
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True)
    assert done.returncode == 1
    assert reason in done.stderr
    assert "EOFError: the fork server ended before it could start the process" in done.stderr


def test_preload_takes_names_only() -> None:
    with pytest.raises(TypeError, match="module_names must be a list of strings"):
        SERVER.set_forkserver_preload([1, 2])  # type: ignore[list-item]


def test_default_time_limit_of_sockets_does_not_matter() -> None:
    import socket

    forkserver._forkserver._stop()
    socket.setdefaulttimeout(0.000001)
    try:
        child = run(SERVER, children.leave, 2)
    finally:
        socket.setdefaulttimeout(None)
    assert child.exitcode == 2


def test_more_descriptors_than_fit_one_message(tmp_path: Path) -> None:
    from sidestep.reduction import DupFd

    class Many:
        """Three hundred times the same file."""

        def __reduce__(self) -> Any:
            fd = os.open(os.devnull, os.O_RDONLY)
            opened.append(fd)
            return children.count, (tuple(DupFd(fd) for _ in range(300)), tmp_path / "told")

    opened: list[int] = []
    try:
        assert run(SERVER, children.nothing, Many()).exitcode == 0
    finally:
        for fd in opened:
            os.close(fd)
    assert told(tmp_path / "told") == 300


def test_process_state_of_the_main_process_is_its_own() -> None:
    assert process.current_process()._identity == ()
    assert process._parent_process is None
