"""What the children of the process tests do. A module of its own, so that children find it."""

import atexit
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import sidestep
from sidestep import _sidestep, process, util


def tell(path: Path, fact: object) -> None:
    """Write `fact` so that whoever finds the file finds all of it."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(fact))
    part.rename(path)


def who_am_i(path: Path, *args: object, **kwargs: object) -> None:
    me, parent = sidestep.current_process(), sidestep.parent_process()
    assert parent is not None
    tell(
        path,
        {
            "args": args,
            "kwargs": kwargs,
            "pid": me.pid,
            "really": os.getpid(),
            "name": me.name,
            "daemon": me.daemon,
            "identity": me._identity,
            "authkey": bytes(me.authkey).hex(),
            "alive": me.is_alive(),
            "native_id": threading.main_thread().native_id,
            "start_method": sidestep.get_start_method(),
            "parent": [parent.pid, parent.name, parent.is_alive()],
            "children": len(sidestep.active_children()),
            "next child": sidestep.Process().name,
            "stdin": sys.stdin.read(),
        },
    )


class Teller(process.BaseProcess):
    """Overrides run, and carries attributes of its own."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.extra = {"a": [1, 2]}

    def run(self) -> None:
        tell(self.path, self.extra)


class ForkTeller(Teller, sidestep.context.ForkProcess):
    pass


class SpawnTeller(Teller, sidestep.context.SpawnProcess):
    pass


class ServerTeller(Teller, sidestep.context.ForkServerProcess):
    pass


TELLERS: dict[str, type[Teller]] = {
    "fork": ForkTeller,
    "spawn": SpawnTeller,
    "forkserver": ServerTeller,
}


def nothing(*args: object) -> None:
    pass


def leave(code: object) -> None:
    sys.exit(code)  # type: ignore[arg-type]


def vanish(code: int) -> None:
    os._exit(code)


def fail() -> None:
    raise ZeroDivisionError("as planned")


def wait_until_closed(path: Path, ready: Path | None = None) -> None:
    """Wait for the end of a named pipe, that is until a writer came and went."""
    if ready is not None:
        tell(ready, os.getpid())
    path.read_bytes()


def wait_for_ever(ready: Path) -> NoReturn:
    # A shell's background job, and what it starts, ignores the signal otherwise.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Whoever has read it and interrupts us finds us in here, and in no function in Python.
    interrupt = 1 << (signal.SIGINT - 1)
    _sidestep.block_signals(interrupt)
    tell(ready, os.getpid())
    _sidestep.block_signals(0)
    while True:
        signal.pause()


def watch_parent(found: Path, alive: Path) -> None:
    parent = sidestep.parent_process()
    assert parent is not None
    tell(alive, parent.is_alive())
    parent.join()
    tell(found, [parent.is_alive(), util._wait_readable(parent.sentinel, 0)])


def be_middle(found: Path, alive: Path, method: str) -> NoReturn:
    sidestep.get_context(method).Process(target=watch_parent, args=(found, alive)).start()
    while True:
        signal.pause()


def open_descriptors(path: Path) -> None:
    names = os.listdir("/proc/self/fd")
    tell(path, [int(name) for name in names if os.path.exists(f"/proc/self/fd/{name}")])


def is_open(path: Path, fd: int) -> None:
    try:
        os.fstat(fd)
    except OSError as error:
        tell(path, error.errno)
    else:
        tell(path, 0)


def send_back(sock: Any) -> None:
    with sock:
        sock.sendall(sock.recv(100)[::-1])


def exit_later(path: Path) -> None:
    """Register exit functions of both kinds; the one of `atexit` runs last."""
    order: list[str] = []
    atexit.register(lambda: tell(path, order))
    util.Finalize(None, order.append, args=("finalizer",), exitpriority=1)
    order.append("run")


class Recorder:
    """Notes the hooks that ran for it."""

    def __init__(self) -> None:
        self.calls: list[str] = []


def inherited_state(path: Path, recorder: Recorder) -> None:
    tell(
        path,
        {
            "hooks": recorder.calls,
            "finalizers": len(util._finalizer_registry),
            "children": len(process._children),
            "exiting": util.is_exiting(),
        },
    )


def call(function: Callable[..., object], *args: object) -> None:
    function(*args)


def main_file(path: Path) -> None:
    tell(path, getattr(sys.modules["__main__"], "__file__", None))


def is_imported(path: Path, name: str) -> None:
    tell(path, [name in sys.modules, os.getppid()])


def nest(path: Path, method: str, depth: int) -> None:
    if depth == 0:
        tell(path, sidestep.current_process()._identity)
        return
    child = sidestep.get_context(method).Process(target=nest, args=(path, method, depth - 1))
    child.start()
    child.join()
    sys.exit(child.exitcode)


def count(dups: tuple[Any, ...], path: Path) -> None:
    """Unpickled by the child: how many different open descriptors came."""
    fds = {dup.detach() for dup in dups}
    for fd in fds:
        os.fstat(fd)
    tell(path, len(fds))


def blocked_signals(path: Path) -> None:
    tell(path, sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
