"""The `Process` class, and who the current process, its parent and its children are.

A process object lives in the process that made it. `start` hands it to the `Popen` of its
start method; the child gets its own copy and runs `_bootstrap` on it. Nothing here knows how
a child is made, and nothing reaps a child unasked: an ended child stays a zombie, and its
number stays its own, until `join`, `is_alive`, `exitcode` or `active_children` looks.
"""

from __future__ import annotations

import itertools
import os
import sys
from _weakrefset import WeakSet

from . import _original

# Children import this module while they start, so what is slow to import is left for later.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from .popen_fork import Popen

__all__ = ["BaseProcess", "active_children", "current_process", "parent_process"]

# Where the module's state is, the names in `_STATE`: beside the original, there.
_home: Any = _original.module("process") or sys.modules[__name__]
_STATE = frozenset(
    {
        "ORIGINAL_DIR",
        "_children",
        "_current_process",
        "_dangling",
        "_parent_process",
        "_process_counter",
    }
)


def __getattr__(name: str) -> Any:
    if name in _STATE and _home.__name__ != __name__:
        return getattr(_home, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def current_process() -> BaseProcess:
    """Return the object that stands for this process.

    In a child it is the child's own copy of the object that was started.
    """
    process: BaseProcess = _home._current_process
    return process


def parent_process() -> BaseProcess | None:
    """Return the object that stands for the process that started this one.

    None in the main process. The object's `sentinel`, `is_alive` and `join` see the end of
    the parent, however it came.
    """
    parent: BaseProcess | None = _home._parent_process
    return parent


def active_children() -> list[BaseProcess]:
    """Return the children of this process that have not ended, and reap those that have."""
    _cleanup()
    return list(_home._children)


def _cleanup() -> None:
    """Reap the children that have ended."""
    children = list(_home._children)
    all_run = len(children) > 1 and _all_run()
    for child in children:
        popen = child._popen
        if popen is None or (all_run and popen.method in _OWN_CHILDREN):
            continue
        if popen.poll() is not None:
            _home._children.discard(child)


# The start methods whose children are this process's own for the kernel.
_OWN_CHILDREN = ("fork", "spawn")


def _all_run() -> bool:
    """Tell, by one system call, that no child waits to be reaped; false if in doubt."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


@_original.descend("process")
class BaseProcess(_original.Root):
    """Work that runs in a process of its own, after the manner of `threading.Thread`.

    Args:
        group: Always None.
        target: What `run` calls; None for a subclass that overrides `run`.
        name: A name for messages; by default the class's name and a number.
        args: Positional arguments of `target`.
        kwargs: Keyword arguments of `target`.
        daemon: Whether the process is ended with its parent; None takes the flag of the process
            that makes it.
        dies_with_parent: Whether the kernel kills the process when its parent ends; None takes
            the flag of the process that makes it.

    Process safety: only the process that made the object may start, join or test it.
    """

    _start_method: str | None = None
    _sentinel: int

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Popen:
        raise NotImplementedError(
            f"{type(process_obj).__name__} has no start method; take Process from a context"
        )

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] = {},
        *,
        daemon: bool | None = None,
        dies_with_parent: bool | None = None,
    ) -> None:
        if group is not None:
            raise AssertionError("group must be None: there are no process groups here")
        creator = _home._current_process
        self._identity: tuple[int, ...] = (*creator._identity, next(_home._process_counter))
        self._config: dict[str, Any] = dict(creator._config)
        self._parent_pid: int | None = os.getpid()
        self._parent_name: str = creator.name
        self._popen: Popen | None = None
        self._closed = False
        self._target = target
        self._args = tuple(args)
        self._kwargs = dict(kwargs)
        number = ":".join(map(str, self._identity))
        self._name: str = name or f"{type(self).__name__}-{number}"
        if daemon is not None:
            self.daemon = daemon
        if dies_with_parent is not None:
            self.dies_with_parent = dies_with_parent
        _home._dangling.add(self)

    # --- what the user calls --------------------------------------------------------------

    def run(self) -> None:
        """Call the target. Runs in the child; a subclass may override it."""
        if self._target:
            self._target(*self._args, **self._kwargs)

    def start(self) -> None:
        """Start the child.

        Raises:
            AssertionError: Started before, or made by another process.
            ValueError: The object was closed.
            OSError: The system refused to make a process.
        """
        self._check_closed()
        if self._popen is not None:
            raise AssertionError(
                "cannot start a process twice: make a new Process object for each start"
            )
        if self._parent_pid != os.getpid():
            raise AssertionError("only the process that made a Process object can start it")
        if _home._current_process._config.get("daemon"):
            # It may have children, as none of them can stay behind.
            self._config["dies_with_parent"] = True
        if _home._children:
            _cleanup()
        # Here and not in each forked child.
        _original.tell_logging()
        if _engine is None:
            _load()
        with _engine.SignalScope():
            self._popen = popen = self._Popen(self)
            self._sentinel = popen.sentinel
            # The target may refer to this object; without this the pair would wait for the
            # garbage collector.
            del self._target, self._args, self._kwargs
            _home._children.add(self)

    def join(self, timeout: float | None = None) -> None:
        """Wait until the child has ended, and reap it.

        Waits in the kernel; Ctrl-C interrupts the wait.

        Args:
            timeout: Longest wait in seconds; None waits until the end. Whether the child has
                ended is told by `exitcode`.

        Raises:
            AssertionError: The process was not started, or not by this process.
            ValueError: The object was closed.
            TypeError: The timeout is not a number.
        """
        self._check_closed()
        if self._parent_pid != os.getpid():
            raise AssertionError("can only join a child: another process made this object")
        if self._popen is None:
            raise AssertionError("can only join a started process: call start() first")
        if self._popen.wait(timeout) is not None:
            _home._children.discard(self)

    def is_alive(self) -> bool:
        """Tell whether the process runs; reaps it if it has ended."""
        self._check_closed()
        if self is _home._current_process:
            return True
        if self._parent_pid != os.getpid():
            raise AssertionError("can only test a child: another process made this object")
        if self._popen is None:
            return False
        if self._popen.poll() is None:
            return True
        _home._children.discard(self)
        return False

    def interrupt(self) -> None:
        """Send SIGINT, which the child sees as KeyboardInterrupt unless it says otherwise."""
        import signal

        self._started("interrupt")._send_signal(signal.SIGINT)

    def terminate(self) -> None:
        """Send SIGTERM.

        The child's exit handlers do not run, and its children stay, unless they die with it.
        """
        self._started("terminate").terminate()

    def kill(self) -> None:
        """Send SIGKILL."""
        self._started("kill").kill()

    def close(self) -> None:
        """Free what the object holds, the sentinel's descriptor above all.

        Afterwards most of its methods raise ValueError. May be called again.

        Raises:
            ValueError: The child still runs.
        """
        if self._popen is not None:
            if self._popen.poll() is None:
                raise ValueError(
                    "cannot close a process while it is running: join() or terminate() it first"
                )
            self._popen.close()
            self._popen = None
            del self._sentinel
            _home._children.discard(self)
        self._closed = True

    @property
    def name(self) -> str:
        """The name, for messages only; several processes may have the same."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        if not isinstance(name, str):
            raise AssertionError(f"name must be a string, not {type(name).__name__}")
        _original.tell_logging()
        self._name = name

    @property
    def daemon(self) -> bool:
        """Whether the process is terminated when its parent exits."""
        return bool(self._config.get("daemon", False))

    @daemon.setter
    def daemon(self, daemonic: bool) -> None:
        if self._popen is not None:
            raise AssertionError("daemon must be set before start(): the process has started")
        self._config["daemon"] = daemonic

    @property
    def dies_with_parent(self) -> bool:
        """Whether the kernel kills the process when its parent ends, however that ends.

        So do daemonic processes, and all children of a daemonic process; a child has this from
        the process that makes it, if nothing else is said. A parent that exits in order first
        terminates its daemonic children, and waits for the others.
        """
        return self.daemon or bool(self._config.get("dies_with_parent", False))

    @dies_with_parent.setter
    def dies_with_parent(self, dies: bool) -> None:
        if self._popen is not None:
            raise AssertionError(
                "dies_with_parent must be set before start(): the process has started"
            )
        self._config["dies_with_parent"] = dies

    @property
    def authkey(self) -> bytes:
        """The key that connections between this family's processes are authenticated by."""
        key: bytes = self._config["authkey"]
        return key

    @authkey.setter
    def authkey(self, authkey: bytes) -> None:
        self._config["authkey"] = AuthenticationString(authkey)

    @property
    def exitcode(self) -> int | None:
        """None while the child runs, then its exit status, or minus the signal that ended it.

        255 if the status was lost: somebody else reaped the child, or its fork server was
        killed.
        """
        self._check_closed()
        if self._popen is None:
            return None
        code = self._popen.poll()
        if code is not None:
            _home._children.discard(self)
        return code

    @property
    def ident(self) -> int | None:
        """The process number; None before the start."""
        self._check_closed()
        if self is _home._current_process:
            return os.getpid()
        return None if self._popen is None else self._popen.pid

    @property
    def pid(self) -> int | None:
        """The process number; None before the start."""
        return self.ident

    @property
    def sentinel(self) -> int:
        """A descriptor that polls readable when the process has ended.

        Raises:
            ValueError: The process was not started, or the object was closed.
        """
        self._check_closed()
        try:
            return self._sentinel
        except AttributeError:
            raise ValueError("process not started: it has no sentinel yet") from None

    def __repr__(self) -> str:
        exitcode = None
        if self is _home._current_process:
            status = "started"
        elif self._closed:
            status = "closed"
        elif self._parent_pid != os.getpid():
            status = "unknown"
        elif self._popen is None:
            status = "initial"
        else:
            exitcode = self._popen.poll()
            status = "started" if exitcode is None else "stopped"
        words = [type(self).__name__, f"name={self._name!r}"]
        if self._popen is not None:
            words.append(f"pid={self._popen.pid}")
        words += [f"parent={self._parent_pid}", status]
        if exitcode is not None:
            words.append(f"exitcode={_name_of(exitcode)}")
        if self.daemon:
            words.append("daemon")
        return f"<{' '.join(words)}>"

    # --- inside ---------------------------------------------------------------------------

    def _check_closed(self) -> None:
        if self._closed:
            raise ValueError("process object is closed")

    def _started(self, action: str) -> Popen:
        self._check_closed()
        if self._popen is None:
            # The type is what the standard library happens to raise, and code catches it.
            raise AttributeError(f"cannot {action} a process that was not started")
        return self._popen

    def _bootstrap(self, parent_sentinel: int | None = None) -> int:
        """Be this process: take over the child's state, run, and return the exit status.

        Called through the class in each child, once; tools replace it to wrap a child's life.
        """
        if _engine is None:
            _load()
        util = _util
        if self._start_method is not None:
            _context._force_start_method(self._start_method)
        util._exiting = False
        if (route := self._config.get("log_relay")) is not None:
            route.install()
        beside = _home.__name__ != __name__
        wrapper = beside and _original.replaced("process", "BaseProcess", "_bootstrap")
        if wrapper:
            _engine.let_signals_through()
            # Put there for children of the original's, of which we are. It ends in the
            # original's own function, which does with the state that we share what follows.
            status: int = wrapper(self, parent_sentinel)
            return status
        exitcode = 1
        try:
            self._take_over(parent_sentinel)
            _engine.let_signals_through()
            if util._logger is not None:
                util.info("child process calling self.run()")
            self.run()
            exitcode = 0
        except SystemExit as error:
            exitcode = _status_of(error)
        except KeyboardInterrupt as interrupt:
            _report_interrupt(self.name, interrupt)
        except BaseException:
            import traceback

            _report(f"Process {self.name}:\n{traceback.format_exc()}")
        finally:
            # Joins the threads that are not daemons: they may still use the package.
            threading: Any = sys.modules.get("threading")
            if threading is not None:
                threading._shutdown()
            if util._logger is not None:
                util.info("process exiting with exitcode %d", exitcode)
            util._flush_std_streams()
        return exitcode

    def _take_over(self, parent_sentinel: int | None) -> None:
        """Put this process's state in place of what the child got from its parent."""
        _home._process_counter = itertools.count(1)
        _home._children = set()
        _util._close_stdin()
        before = _home._current_process
        _home._current_process = self
        parent = _as_parent
        if parent._pid != self._parent_pid or parent._name != self._parent_name:
            parent = _ParentProcess(self._parent_name, self._parent_pid)
        if parent_sentinel is not None:
            parent._sentinel = parent_sentinel
        _home._parent_process = parent
        threading: Any = sys.modules.get("threading")
        if getattr(threading, "_HAVE_THREAD_NATIVE_ID", False):
            # It remembers the parent's number over a fork.
            threading.main_thread()._set_native_id()
        executors: Any = sys.modules.get("concurrent.futures.thread")
        if executors is not None:
            # Forked by an executor's thread, which is the main one here: at the end it would be
            # asked to wait for itself.
            getattr(executors, "_threads_queues", {}).pop(threading.current_thread(), None)
        self._after_fork()
        # Kept until here: what it owns may be looked for by the hooks above.
        del before

    @staticmethod
    def _after_fork() -> None:
        _util._finalizer_registry.clear()
        if _util._afterfork_registry:
            _util._run_after_forkers()


_context: Any = None
_engine: Any = None
_util: Any = None


def _load() -> None:
    """Import what only those need who start processes, or are started.

    Once and for all: an import in a forked child has pages copied, though there is nothing to do.
    """
    global _context, _engine, _util
    from . import _sidestep, context, util

    _context, _engine, _util = context, _sidestep, util


def _status_of(error: SystemExit) -> int:
    """The exit status that a SystemExit asks for, its text shown as the interpreter would."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return int(error.code)
    _report(f"{error.code}\n")
    return 1


def _report_interrupt(name: str, interrupt: KeyboardInterrupt) -> None:
    """Write one line for a Ctrl-C: it reaches all processes, and one traceback is enough."""
    place = ""
    trace = interrupt.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        place = f" in {code.co_name} ({code.co_filename}:{trace.tb_lineno})"
        trace = trace.tb_next
    _report(f"Process {name}: KeyboardInterrupt{place}\n")


def _report(text: str) -> None:
    """Write to stderr, which the child may have closed or lost."""
    try:
        sys.stderr.write(text)
    except (AttributeError, OSError, ValueError):
        pass


@_original.same("process")
class AuthenticationString(bytes):
    """An authentication key; it can be pickled only for a child that is being started."""

    def __reduce__(self) -> tuple[type[AuthenticationString], tuple[bytes]]:
        from .context import get_spawning_popen

        if get_spawning_popen() is None:
            raise TypeError(
                "an authentication key is pickled only to start a process, to keep it secret"
            )
        return AuthenticationString, (bytes(self),)


class _ParentProcess(BaseProcess):
    """The parent, seen from its child through a descriptor of its life."""

    def __init__(self, name: str, pid: int | None) -> None:
        self._identity = ()
        self._name = name
        self._pid = pid
        self._parent_pid = None
        self._popen = None
        self._closed = False
        self._config = {}

    def is_alive(self) -> bool:
        """Tell whether the parent runs."""
        from .util import _wait_readable

        return not _wait_readable(self.sentinel, 0)

    @property
    def ident(self) -> int | None:
        """The parent's process number."""
        return self._pid

    def join(self, timeout: float | None = None) -> None:
        """Wait until the parent has ended, at most `timeout` seconds."""
        from .util import _wait_readable

        _wait_readable(self.sentinel, timeout)


# How forked children see this process: made here once, and not in each of them.
_as_parent = _ParentProcess("", None)


def _prepare_parent() -> None:
    global _as_parent
    _as_parent = _ParentProcess(_home._current_process._name, os.getpid())


class _MainProcess(BaseProcess):
    """The process that was not started through the package."""

    def __init__(self) -> None:
        self._identity = ()
        self._name = "MainProcess"
        self._parent_pid = None
        self._popen = None
        self._closed = False
        # Inherited by all descendants. Nothing here has a named semaphore, but libraries
        # that make their own read the prefix.
        self._config = {"authkey": AuthenticationString(os.urandom(32)), "semprefix": "/mp"}

    def close(self) -> None:
        """Do nothing: the main process has no child's resources."""


if _home.__name__ == __name__:
    ORIGINAL_DIR: str | None
    try:
        ORIGINAL_DIR = os.path.abspath(os.getcwd())
    except OSError:
        # The directory was removed under us: children are then given no place for ''.
        ORIGINAL_DIR = None
    _parent_process: BaseProcess | None = None
    _current_process: BaseProcess = _MainProcess()
    _process_counter = itertools.count(1)
    _children: set[BaseProcess] = set()
    # Every process object not yet garbage, for leak checks.
    _dangling: WeakSet[BaseProcess] = WeakSet()

    def _move(theirs: Any) -> None:
        global _home
        for name in _STATE:
            setattr(theirs, name, globals()[name])
        _home = theirs
        for name in _STATE:
            del globals()[name]

    _original.when_imported("process", _move)


def _forget_children() -> None:
    # For forks that are not ours: what are children here are siblings there, and their end is
    # not for a sibling's exit to bring about.
    for child in list(_home._children):
        if isinstance(child, BaseProcess):
            _home._children.discard(child)


os.register_at_fork(after_in_child=_forget_children)


def _name_of(exitcode: int) -> str:
    """An exit code as it is shown: by name, if a signal has ended the process."""
    import signal

    try:
        return f"-{signal.Signals(-exitcode).name}"
    except ValueError:
        return str(exitcode)
