"""Helpers that the rest of the package and other libraries lean on.

Logging, clean-up at exit and over forks, starting a program with chosen descriptors. Beside
the standard library, what is registered is kept in the original's module: whichever of the two
ends a process or forks it then calls what was registered with either.
"""

from __future__ import annotations

import _thread
import atexit
import io
import itertools
import os
import sys
import time
import weakref

from . import _original, _sidestep, process

# Children import this module while they start, so what is slow to import is left for later.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    import threading
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

__all__ = [
    "SUBDEBUG",
    "SUBWARNING",
    "Finalize",
    "ForkAwareLocal",
    "ForkAwareThreadLock",
    "close_all_fds_except",
    "debug",
    "get_logger",
    "get_temp_dir",
    "info",
    "is_exiting",
    "log_to_stderr",
    "register_after_fork",
    "sub_debug",
    "sub_warning",
]

# --- logging --------------------------------------------------------------------------------

NOTSET = 0
SUBDEBUG = 5
DEBUG = 10
INFO = 20
SUBWARNING = 25

# The standard library's name: programs fetch the logger by it.
LOGGER_NAME = "multiprocessing"
DEFAULT_LOGGING_FORMAT = "[%(levelname)s/%(processName)s] %(message)s"

_logger: logging.Logger | None = None
_log_to_stderr = False


def _log(level: int, message: str, args: tuple[object, ...]) -> None:
    if _logger is not None:
        # Three frames up is the code that has something to say.
        _logger.log(level, message, *args, stacklevel=3)


def sub_debug(msg: str, *args: object) -> None:
    """Log below the level of DEBUG; nothing unless the program asked for the logger."""
    _log(SUBDEBUG, msg, args)


def debug(msg: str, *args: object) -> None:
    """Log at DEBUG; nothing unless the program asked for the logger."""
    _log(DEBUG, msg, args)


def info(msg: str, *args: object) -> None:
    """Log at INFO; nothing unless the program asked for the logger."""
    _log(INFO, msg, args)


def sub_warning(msg: str, *args: object) -> None:
    """Log between INFO and WARNING; nothing unless the program asked for the logger."""
    _log(SUBWARNING, msg, args)


def get_logger() -> logging.Logger:
    """Return the package's logger. From the first call on, the package logs to it."""
    global _logger
    if _logger is None:
        import logging

        logger = logging.getLogger(LOGGER_NAME)
        logger.propagate = False
        _exit_before_logging()
        _logger = logger
    return _logger


def _exit_before_logging() -> None:
    """Have our exit function called before logging closes its handlers: the last in is first."""
    atexit.unregister(_exit_function)
    atexit.register(_exit_function)


def log_to_stderr(level: int | str | None = None) -> logging.Logger:
    """Show the package's log on stderr, here and in children, and return the logger."""
    global _log_to_stderr
    import logging

    logger = get_logger()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(DEFAULT_LOGGING_FORMAT))
    logger.addHandler(handler)
    if level:
        logger.setLevel(level)
    _log_to_stderr = True
    return logger


# --- waiting --------------------------------------------------------------------------------

# The kernel counts a poll's milliseconds in an int.
_LONGEST_POLL_MS = 1 << 30


def _wait_readable(fd: int, timeout: float | None = None) -> bool:
    """Wait until `fd` is readable or at its end; False if `timeout` seconds passed before.

    Signals interrupt the wait, and it goes on if their handlers return.
    """
    import math
    import select

    deadline = math.inf
    if timeout is not None:
        try:
            deadline = time.monotonic() + timeout
        except TypeError:
            raise TypeError(
                f"timeout must be a number of seconds or None, not {type(timeout).__name__}"
            ) from None
        if math.isnan(deadline):
            raise ValueError("timeout must be a number of seconds, not NaN")
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while True:
        left = deadline - time.monotonic()
        milliseconds = min(max(left, 0.0) * 1000, _LONGEST_POLL_MS)
        for _, event in poll.poll(math.ceil(milliseconds)):
            if event & select.POLLNVAL:
                import errno

                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            return True
        if left <= 0:
            return False


# --- addresses and temporary files ------------------------------------------------------------

abstract_sockets_supported = sys.platform in ("linux", "android")


def is_abstract_socket_namespace(address: str | bytes | None) -> bool:
    """Tell whether a socket's address is a name in Linux's abstract name space."""
    if not address:
        return False
    if isinstance(address, bytes):
        return address.startswith(b"\0")
    if isinstance(address, str):
        return address.startswith("\0")
    raise TypeError(f"a socket's address is str or bytes, not {type(address).__name__}")


def _remove_temp_dir(remove: Callable[[str], object], path: str) -> None:
    # `remove` is handed in: imports no longer work late in an interpreter's life.
    remove(path)
    process.current_process()._config["tempdir"] = None


# Of the 107 bytes that a socket's path may have, the rest is for its name in the directory.
_LONGEST_DIRECTORY = 80


def get_temp_dir() -> str:
    """Return a directory for temporary files, made at the first call, removed at exit.

    Children started afterwards share it. Where the usual place has so long a path that no socket
    could have a name in it, the directory is in /tmp.
    """
    config = process.current_process()._config
    path: str | None = config.get("tempdir")
    if path is None:
        import shutil
        import tempfile

        path = tempfile.mkdtemp(prefix="pymp-")
        if len(os.fsencode(path)) > _LONGEST_DIRECTORY and os.access("/tmp", os.W_OK | os.X_OK):
            os.rmdir(path)
            path = tempfile.mkdtemp(prefix="pymp-", dir="/tmp")
        info("created temp directory %s", path)
        Finalize(None, _remove_temp_dir, args=(shutil.rmtree, path), exitpriority=-100)
        config["tempdir"] = path
    return path


# --- resets in forked children ----------------------------------------------------------------

_afterfork_registry: weakref.WeakValueDictionary[tuple[int, int, Callable[[Any], object]], Any]
_afterfork_registry = weakref.WeakValueDictionary()
_afterfork_counter = itertools.count()


def register_after_fork(obj: Any, func: Callable[[Any], object]) -> None:
    """Have `func(obj)` called in children of this process that are forked for the package.

    In the order of registration; `obj` is held weakly.
    """
    _afterfork_registry[next(_afterfork_counter), id(obj), func] = obj


def _run_after_forkers() -> None:
    hooks = sorted(_afterfork_registry.items(), key=lambda item: item[0][0])
    for (_, _, func), obj in hooks:
        try:
            func(obj)
        except Exception as error:
            info("after forker raised exception %s", error)


class _OfTheLock:
    """A method of the lock that an object is made of.

    A function in Python, which would call it, can be left by an exception of a signal handler
    between taking the lock and returning.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Callable[..., Any]:
        if instance is None:
            return lambda lock, *details: getattr(lock._lock, self._name)(*details)
        method: Callable[..., Any] = getattr(instance._lock, self._name)
        return method


@_original.descend("util")
class ForkAwareThreadLock(_original.Root):
    """A thread lock that is free in a forked child, whoever held it in the parent."""

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self.acquire = self._lock.acquire
        self.release = self._lock.release
        register_after_fork(self, ForkAwareThreadLock._at_fork_reinit)

    def _at_fork_reinit(self) -> None:
        self._lock._at_fork_reinit()  # type: ignore[attr-defined]

    __enter__ = _OfTheLock()
    __exit__ = _OfTheLock()


class ForkAwareLocal(_thread._local):
    """Thread-local attributes that a forked child starts without."""

    def __init__(self) -> None:
        register_after_fork(self, lambda local: local.__dict__.clear())

    def __reduce__(self) -> tuple[type[ForkAwareLocal], tuple[()]]:
        return type(self), ()


# --- finalizers -------------------------------------------------------------------------------

# Key: exit priority and number of registration.
_finalizer_registry: dict[tuple[int | None, int], Finalize] = {}
_finalizer_counter = itertools.count()


@_original.descend("util")
class Finalize(_original.Root):
    """A callback for the end of an object or of the process, called once at most.

    Args:
        obj: The object whose end is meant; None for the end of the process only.
        callback: What to call, in the process that made the finalizer and in no other.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        exitpriority: At exit, higher ones are called first; None means not at exit.
    """

    def __init__(
        self,
        obj: object,
        callback: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        exitpriority: int | None = None,
    ) -> None:
        if exitpriority is not None and not isinstance(exitpriority, int):
            raise TypeError(f"exitpriority must be None or int, not {type(exitpriority).__name__}")
        if obj is None and exitpriority is None:
            raise ValueError("without an object, exitpriority cannot be None")
        self._key = (exitpriority, next(_finalizer_counter))
        self._pid = os.getpid()
        # One attribute, so that whoever empties it does so at once.
        self._call: tuple[Callable[..., Any], Sequence[Any], Mapping[str, Any]] | None
        self._call = (callback, args, kwargs or {})
        self._weakref = None if obj is None else weakref.ref(obj, self)
        # Late in an interpreter's life this module's own name for it is gone.
        self._registry = _finalizer_registry
        _finalizer_registry[self._key] = self

    def __call__(self, wr: object = None) -> Any:
        """Call the callback, unless it was called or cancelled before."""
        # Popping decides between threads, and between a thread and the garbage collector.
        if self._registry.pop(self._key, None) is None or self._call is None:
            return None
        callback, args, kwargs = self._call
        self._call = self._weakref = None
        if self._pid != os.getpid():
            sub_debug("finalizer ignored because different process")
            return None
        sub_debug("finalizer calling %s with args %s and kwargs %s", callback, args, kwargs)
        return callback(*args, **kwargs)

    def cancel(self) -> None:
        """Forget the callback."""
        if self._registry.pop(self._key, None) is not None:
            self._call = self._weakref = None

    def still_active(self) -> bool:
        """Tell whether the callback still waits to be called."""
        return self._key in self._registry

    def __repr__(self) -> str:
        if self._call is None:
            return f"<{type(self).__name__} object, dead>"
        callback, args, kwargs = self._call
        words = [f"callback={getattr(callback, '__name__', callback)}"]
        if args:
            words.append(f"args={args}")
        if kwargs:
            words.append(f"kwargs={kwargs}")
        if self._key[0] is not None:
            words.append(f"exitpriority={self._key[0]}")
        return f"<{type(self).__name__} object, {', '.join(words)}>"


def _run_finalizers(minpriority: int | None = None) -> None:
    """Call the finalizers that have an exit priority, of at least `minpriority` if given.

    Higher priorities first, younger ones first among equals. Without `minpriority` the other
    finalizers are then forgotten.
    """
    # Copied in one step: the collector and other threads change the registry meanwhile.
    keys = list(_finalizer_registry)
    chosen = [
        (priority, number)
        for priority, number in keys
        if priority is not None and (minpriority is None or priority >= minpriority)
    ]
    for key in sorted(chosen, reverse=True):
        finalizer = _finalizer_registry.get(key)
        if finalizer is None:
            continue
        sub_debug("calling %s", finalizer)
        try:
            finalizer()
        except Exception:
            import traceback

            traceback.print_exc()
    if minpriority is None:
        _finalizer_registry.clear()


_exiting = False


def is_exiting() -> bool:
    """Tell whether this process is shutting down."""
    theirs: Any = _original.loaded("util")
    return _exiting or (theirs is not None and theirs.is_exiting())


def _exit_function() -> None:
    """End this process's part in the package: finalizers, then children, then the rest.

    Children that are daemons are terminated, all are waited for. Done once for a process.
    """
    global _exiting
    if _exiting:
        return
    _exiting = True
    if _logger is not None:
        info("process shutting down")
        debug('running all "atexit" finalizers with priority >= 0')
    # Most children have neither, and each page that their code touches has to be copied.
    if _finalizer_registry:
        _run_finalizers(0)
    if process._home._children:
        for child in process.active_children():
            if child.daemon:
                info("calling terminate() for daemon %s", child.name)
                child._started("terminate").terminate()
        for child in process.active_children():
            info("calling join() for process %s", child.name)
            child.join()
    if _logger is not None:
        debug('running the remaining "atexit" finalizers')
    if _finalizer_registry:
        _run_finalizers()
    # Locks that are still held stay held from here on: their owner was not killed.
    _sidestep.leave()


atexit.register(_exit_function)

# --- one register for both packages --------------------------------------------------------------


def _register_with(theirs: Any) -> None:
    """Move what is registered here to the original's registers, and keep to those from now on."""
    global _afterfork_counter, _afterfork_registry, _finalizer_counter, _finalizer_registry
    finalizers = [_finalizer_registry[key] for key in sorted(_finalizer_registry, key=_number)]
    hooks = sorted(_afterfork_registry.items(), key=lambda item: item[0][0])
    _afterfork_counter = theirs._afterfork_counter
    _afterfork_registry = theirs._afterfork_registry
    _finalizer_counter = theirs._finalizer_counter
    _finalizer_registry = theirs._finalizer_registry
    for (_, _, func), obj in hooks:
        register_after_fork(obj, func)
    for finalizer in finalizers:
        finalizer._key = (finalizer._key[0], next(_finalizer_counter))
        finalizer._registry = _finalizer_registry
        _finalizer_registry[finalizer._key] = finalizer


def _number(key: tuple[int | None, int]) -> int:
    return key[1]


_original.when_imported("util", _register_with)

# --- descriptors and streams --------------------------------------------------------------------

try:
    MAXFD = os.sysconf("SC_OPEN_MAX")
except (OSError, ValueError):
    MAXFD = 256


def close_all_fds_except(fds: Iterable[int]) -> None:
    """Close every descriptor of this process but those in `fds`."""
    first = 0
    for kept in sorted(set(fds)):
        if kept >= MAXFD:
            raise AssertionError(f"descriptor {kept} is beyond the limit of {MAXFD}")
        os.closerange(first, kept)
        first = kept + 1
    os.closerange(first, MAXFD)


def close_fds(*fds: int) -> None:
    """Close each of the descriptors."""
    for fd in fds:
        os.close(fd)


class _naming_limits:
    """A block that adds to an error of the system's the limit that it is about, and a way out.

    Args:
        what: What cannot be done, for the beginning of the sentence.
        process: Whether it is another process that is asked for.
    """

    def __init__(self, what: str, *, process: bool = False) -> None:
        self._what = what
        self._process = process

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            _name_limits(error, self._what, process=self._process)


def _name_limits(error: OSError, what: str, *, process: bool = False) -> None:
    """Raise an error as `_naming_limits` does, or return if there is nothing to add to this one."""
    number, text = error.errno, error.strerror
    way_out = number and _sidestep.way_out(number, process)
    # What the engine refuses says so already.
    if number and text and way_out and way_out not in text:
        raise OSError(number, f"{what}: {text}{way_out}") from error


class _naming_thread_limits:
    """A block that adds to the error of a thread that cannot be had the limits it may be about."""

    def __init__(self, thread: threading.Thread) -> None:
        self._thread = thread

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # Others are that it runs already, or that the interpreter is at its end.
        if not isinstance(error, RuntimeError) or str(error) != "can't start new thread":
            return
        import errno
        import resource

        # The interpreter does not say which limit it is. A thread takes address space, too.
        way_out = _sidestep.way_out(errno.EAGAIN, True)
        if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
            way_out += _sidestep.way_out(errno.ENOMEM)
        name = self._thread.name
        raise RuntimeError(f"cannot start the thread {name}: {error}{way_out}") from error


# What children have in place of their input, and what this process has there if it is one.
_empty_stdin: Any = None
_own_empty_stdin: Any = None
# What this process has had as its input when it last forked, and whether that is of the usual kind.
_known_stdin: Any = None
_is_usual_stdin = False


def _prepare_stdin() -> None:
    """Make, in the parent, what its forked children have in place of their input.

    In each of them it would take as much as all the rest of taking over.
    """
    global _empty_stdin, _known_stdin, _is_usual_stdin
    if sys.stdin is not _known_stdin:
        stdin = _known_stdin = sys.stdin
        buffer = _buffer_of(stdin) if type(stdin) is io.TextIOWrapper else None
        _is_usual_stdin = buffer is not None and type(buffer.raw) is io.FileIO
    if _empty_stdin is None:
        try:
            with open(os.devnull, "rb") as file:
                # By a number that is no file's soon: each child gives it one of its own.
                _empty_stdin = open(file.fileno(), encoding="utf-8", closefd=False)  # noqa: SIM115
        except OSError:
            pass


def _close_stdin() -> None:
    """Leave the terminal to the parent: reading stdin finds its end at once."""
    global _own_empty_stdin
    stdin = sys.stdin
    if stdin is None or (stdin is _own_empty_stdin and not stdin.closed):
        return
    try:
        if stdin is _known_stdin and _is_usual_stdin:
            # What closes all of it, without the ways there.
            stdin.buffer.raw.close()
        else:
            stdin.close()
    except (OSError, ValueError):
        pass
    try:
        fd = os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return
    try:
        if _empty_stdin is None:
            sys.stdin = open(fd, encoding="utf-8", closefd=False)  # noqa: SIM115 - for good
        else:
            _empty_stdin.buffer.raw.__init__(fd, "r", closefd=False)
            sys.stdin = _empty_stdin
        _own_empty_stdin = sys.stdin
    except (OSError, ValueError):
        os.close(fd)


def _renew_streams() -> None:
    """Make streams usable in a forked child, whoever was using them in the parent.

    A thread that was in the middle of output (or waiting for input) at the fork holds the lock
    of the stream's buffer, and it is not here to let go. What such a buffer still holds is the
    parent's to write.
    """
    streams = [sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__]
    logging: Any = sys.modules.get("logging")
    if logging is not None:
        streams += [getattr(handler(), "stream", None) for handler in logging._handlerList]
    for buffer in {id(found): found for found in map(_buffer_of, streams) if found}.values():
        # Initialised once more, a buffer has a new lock; everybody's reference to it stays good.
        try:
            if not buffer.raw.closed:
                type(buffer).__init__(buffer, buffer.raw)
        except (OSError, ValueError):
            pass


def _buffer_of(stream: Any) -> Any:
    found = getattr(stream, "buffer", None)
    return found if type(found) in (io.BufferedReader, io.BufferedWriter) else None


def _flush_std_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        # A stream may have been closed, or replaced by something less, None included.
        try:
            stream.flush()
        except (AttributeError, ValueError):
            pass


def _args_from_interpreter_flags() -> list[str]:
    """Return the command line arguments that give another interpreter our flags."""
    import subprocess

    args: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return args


def spawnv_passfds(
    path: str | bytes | os.PathLike[Any],
    args: Sequence[str | bytes | os.PathLike[Any]],
    passfds: Iterable[int],
) -> int:
    """Start a program that inherits `passfds` under their numbers and the standard streams.

    Returns:
        The process number of the child, which the caller has to reap.

    Raises:
        OSError: The program could not be run.
    """
    # Looked up at each call: debuggers replace the function in its module.
    import _posixsubprocess
    import subprocess

    fork_exec: Any = _posixsubprocess.fork_exec

    error_r, error_w = os.pipe()
    kept = tuple(sorted({error_w, *map(int, passfds)}))
    try:
        try:
            pid: int = fork_exec(
                args, [os.fsencode(path)], True, kept, None, None,
                -1, -1, -1, -1, -1, -1, error_r, error_w,
                False, False, -1, None, None, None, -1, None,
                getattr(subprocess, "_USE_VFORK", True),
            )  # fmt: skip
        except BaseException:
            # It tries fork after vfork: what the engine made for that child is not needed.
            _sidestep.forked(False)
            raise
        finally:
            os.close(error_w)
        # Empty once the program runs; otherwise a name, an error number in hexadecimal and
        # a note, separated by colons.
        failure = os.read(error_r, 4096)
    finally:
        os.close(error_r)
    if failure:
        os.waitpid(pid, 0)
        number = int(failure.split(b":")[1] or b"0", 16)
        raise OSError(number, os.strerror(number), os.fsdecode(path))
    return pid


def _cleanup_tests() -> None:
    """Leave nothing behind; CPython's test suite calls this at its end."""
    from test import support

    from . import forkserver, resource_tracker

    process._cleanup()
    forkserver._forkserver._stop()
    resource_tracker._resource_tracker._stop()
    _run_finalizers()
    support.gc_collect()
    support.reap_children()
