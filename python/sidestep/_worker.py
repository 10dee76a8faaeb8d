"""The life of a pool's worker.

Workers that are fresh interpreters import this and not `pool`, which takes several times as long,
most of it for what the parent does. Whatever a worker may need in the end is imported there.
"""

from __future__ import annotations

# What `signal` wraps to return enumerations: each worker would make them, in pages copied for it.
import _signal  # type: ignore[import-not-found]
import itertools
import reprlib

from . import _sidestep, reduction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType
    from typing import Any

    from .pool import _Core

__all__ = [
    "INTERRUPT",
    "PREPARING",
    "READY",
    "STARTING",
    "Failure",
    "be_thread",
    "be_worker",
    "mapstar",
    "safe_repr",
    "starmapstar",
]

#: How far a worker has come, as the engine says it.
STARTING, PREPARING, READY = range(3)


# --- what goes to and fro ------------------------------------------------------------------------


class _Brief(reprlib.Repr):
    """Tells what a value is like, however large it is: the value may be what did not fit."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 100
        self.maxdeque = self.maxarray = 100
        self.maxstring = self.maxother = self.maxlong = 2000

    def repr_bytes(self, value: bytes, level: int) -> str:
        return repr(value if len(value) <= 500 else value[:500]) + "..." * (len(value) > 500)

    repr_bytearray = repr_bytes


def safe_repr(value: object) -> str:
    """Return the value's repr, shortened, or what can be said if that fails."""
    try:
        return _Brief().repr(value)
    except Exception:
        return f"<{type(value).__name__} object whose repr() failed>"


class Failure:
    """What a worker reports of an exception: its pickle, and its text should that fail."""

    def __init__(self, error: BaseException) -> None:
        import traceback

        self.text = "".join(traceback.format_exception(error))
        self.summary = safe_repr(error)
        error.__traceback__ = None
        try:
            self.pickle: bytes | None = bytes(reduction.ForkingPickler.dumps(error))
            self.reason = ""
        except Exception as reason:
            self.pickle, self.reason = None, safe_repr(reason)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _rebuild_failure, (self.pickle, self.text, self.summary, self.reason)


def _rebuild_failure(pickle: bytes | None, text: str, summary: str, reason: str) -> BaseException:
    from .pool import MaybeEncodingError, RemoteTraceback

    if pickle is not None:
        try:
            error = reduction.ForkingPickler.loads(pickle)
            if isinstance(error, BaseException):
                error.__cause__ = RemoteTraceback(f'\n"""\n{text}"""')
                return error
            reason = f"its class makes a {type(error).__name__} of it, which is no exception"
        except BaseException as failed:
            # Even SystemExit: it comes out of the exception's own code, and says nothing to us.
            reason = safe_repr(failed)
    error = MaybeEncodingError(reason, summary)
    error.__cause__ = RemoteTraceback(f'\n"""\n{text}"""')
    return error


def mapstar(call: tuple[Callable[..., Any], Iterable[Any]]) -> list[Any]:
    """Call the function with each item of a chunk."""
    function, items = call
    return [function(item) for item in items]


def starmapstar(call: tuple[Callable[..., Any], Iterable[Any]]) -> list[Any]:
    """Call the function with each item of a chunk as its arguments."""
    function, items = call
    return [function(*item) for item in items]


# --- its life -----------------------------------------------------------------------------------


class _Shield:
    """A worker's answer to SIGINT: the task that it runs gets a KeyboardInterrupt, itself nothing.

    Ctrl-C reaches all processes of a program, and it is for the parent to say what becomes of the
    pool. What a task, an initializer or the parent of a fork has put in its place stays there.
    """

    def __init__(self) -> None:
        self.is_lowered = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.is_lowered:
            _signal.default_int_handler(number, frame)

    def raise_up(self, unblock: bool) -> None:
        """Take over from the interpreter; let the signal through, which waits since the start."""
        handler = _signal.getsignal(_signal.SIGINT)
        if handler is _signal.default_int_handler or isinstance(handler, _Shield):
            _signal.signal(_signal.SIGINT, self)
        _unblock_interrupts(unblock)


#: The bit of SIGINT in what `_sidestep.blocked_signals` returns.
INTERRUPT = 1 << _signal.SIGINT - 1


def _unblock_interrupts(unblock: bool) -> None:
    """Undo, in the worker, what its parent did before the start; not if that changed nothing."""
    if unblock:
        _sidestep.block_signals(_sidestep.blocked_signals() & ~INTERRUPT)


def be_worker(core: _Core, line: int, unblock: bool, *arguments: Any) -> None:
    """The life of a worker process."""
    shield = _Shield()
    shield.raise_up(unblock)
    try:
        _work(core, line, Exception, shield, *arguments)
    except KeyboardInterrupt:
        # The parent knows the traceback, and shows its own; the shell's code for it will do.
        raise SystemExit(128 + _signal.SIGINT) from None


def be_thread(core: _Core, line: int, unblock: bool, *arguments: Any) -> None:
    """The life of a worker thread. It survives everything that a task may raise."""
    # What its tasks start shall hear of a Ctrl-C.
    _unblock_interrupts(unblock)
    _work(core, line, BaseException, _Shield(), *arguments)


def _work(
    core: _Core,
    line: int,
    survived: type[BaseException],
    shield: _Shield,
    initializer: Callable[..., object] | None = None,
    initargs: tuple[Any, ...] = (),
    maxtasks: int | None = None,
    failure: Callable[[BaseException], Any] = Failure,
) -> None:
    """Run tasks until the pool is closed, or `maxtasks` of them."""
    try:
        if initializer is not None:
            core.enter(line, PREPARING)
            initializer(*initargs)
        core.enter(line, READY)
        _run_tasks(core, line, survived, shield, maxtasks, failure)
    except BaseException as error:
        shield.is_lowered = False
        trace = error.__traceback__
        try:
            core.last_words(line, failure(error))
        except Exception:
            pass
        error.__traceback__ = trace
        raise


def _run_tasks(
    core: _Core,
    line: int,
    survived: type[BaseException],
    shield: _Shield,
    maxtasks: int | None,
    failure: Callable[[BaseException], Any],
) -> None:
    for _ in itertools.count() if maxtasks is None else range(maxtasks):
        taken = core.take(line)
        if taken is None:
            break
        number, rebuilt, task = taken
        del taken
        result: Any
        try:
            if not rebuilt:
                raise task
            function, args, kwargs = task
            shield.is_lowered = True
            try:
                result = (True, function(*args, **kwargs))
            finally:
                shield.is_lowered = False
        except survived as error:
            result = (False, failure(error))
        # Neither arguments nor results live longer than their task.
        task = function = args = kwargs = None
        try:
            may_go_on = core.finish(line, number, result)
        except MemoryError as error:
            may_go_on = core.finish(line, number, (False, failure(error)))
        except Exception as error:
            from .pool import MaybeEncodingError

            refused = MaybeEncodingError(error, result[1])
            refused.__cause__ = error
            may_go_on = core.finish(line, number, (False, failure(refused)))
            del refused
        result = None
        if not may_go_on:
            # About to be killed: the parent has given the task up, too late.
            break
    else:
        core.retire(line)
