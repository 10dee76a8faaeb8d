"""Log records of children, handled in the process that asked for them.

```text
   children, their children, workers of pools                the process that relays
   logger ---> _Handler --- put, committed at once ---> queue ---> thread ---> its own handlers
```

A record is in shared memory when the call that logged it returns, so it is not lost with its
process, however that ends. The receiving thread does not run until there is a child, and not
while the process forks: no child is a copy of a process with a thread in the middle of a handler,
and Python has no second thread to warn of.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import sys
import threading
import time
import traceback

from . import context, process, util
from .queues import Queue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Any

__all__ = ["LogRelay", "relay_logging"]

# What may wait for the receiver. Beyond that a child waits with it, for a second at a time.
_MOST_WAITING = 10_000
_PATIENCE_S = 1.0
# How long a fork waits for a handler to come to its end.
_LONGEST_PAUSE_S = 5.0

# The relay of this process.
_relay: LogRelay | None = None
# Guards its thread, and the threads that are about to fork. Held for an instant only, but a signal
# handler that forks may come in that instant.
_lock = threading.RLock()
_forking: set[int] = set()


class LogRelay:
    """Has the log records of children handled by this process; made by `relay_logging`.

    As a context manager it is closed at the end. At the exit of the process it is closed once the
    children have been waited for.
    """

    def __init__(self, logger: logging.Logger, level: int) -> None:
        global _relay
        self._owner = os.getpid()
        self._queue: Queue[Any] = Queue(_MOST_WAITING, ctx=context._default_context.get_context())
        self._route = _Route(self._queue, logger.name, level)
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        process.current_process()._config["log_relay"] = self._route
        _relay = self
        # After the children: what they log at their end shall get here.
        self._at_exit = util.Finalize(None, self.close, exitpriority=-100)

    def flush(self) -> None:
        """Handle, in this thread, all that children have logged so far.

        After `join` of a child this is all that it has ever logged.
        """
        if self._owner != os.getpid() or _relay is not self:
            return
        ran = self._pause()
        self._handle_all()
        if ran:
            self._resume()

    def close(self) -> None:
        """Handle what children have logged so far, and relay no more.

        Children that are started from now on log as if there had been no relay. What those that
        are still running log later is lost. May be called again.
        """
        global _relay
        if self._owner != os.getpid() or _relay is not self:
            return
        _relay = None
        self._at_exit.cancel()
        config = process.current_process()._config
        if config.get("log_relay") is self._route:
            del config["log_relay"]
        self._pause()
        self._handle_all()
        self._queue.close()

    def __enter__(self) -> LogRelay:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- the receiving thread -------------------------------------------------------------

    def _resume(self) -> None:
        """Start the thread, unless it runs, or some thread forks, or the relay was closed."""
        stop = threading.Event()
        thread = threading.Thread(target=self._receive, args=(stop,), name="log-relay", daemon=True)
        with _lock:
            if self._thread is not None or _forking or _relay is not self:
                return
            # Before it starts: its first record may be handled by a fork, which has to know it.
            self._thread, self._stop = thread, stop
        try:
            thread.start()
        except RuntimeError:  # no thread can be had: flush() and close() do it
            self._forget(thread)

    def _pause(self) -> bool:
        """Have the thread end after the record that it is at; whether there was one."""
        with _lock:
            thread = self._thread
            if thread is None or thread is threading.current_thread():
                return False
            self._stop.set()
        with contextlib.suppress(queue.Full):  # then it does not sleep
            self._queue.put(None, block=False)
        deadline = time.monotonic() + _LONGEST_PAUSE_S
        # Should it be about to start in another thread, it will find that it is to stop.
        with contextlib.suppress(RuntimeError):
            thread.join(_LONGEST_PAUSE_S)
            # For the kernel, whom Python asks for the number of threads, it ends a moment later.
            task = f"/proc/self/task/{thread.native_id}"
            while os.path.exists(task) and time.monotonic() < deadline:
                os.sched_yield()
        self._forget(thread)
        return True

    def _forget(self, thread: threading.Thread) -> None:
        with _lock:
            if self._thread is thread:
                self._thread = None

    def _receive(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                self._handle_next(block=True)
            except BaseException:
                # One for the main thread, such as SystemExit. Here it would end the receiving.
                traceback.print_exc()

    def _handle_all(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._handle_next(block=False)

    def _handle_next(self, block: bool) -> None:
        message = self._queue.get(block)
        if message is None:
            return
        record = logging.makeLogRecord(message)
        try:
            logging.getLogger(record.name).handle(record)
        except Exception:
            # As in logging: an error of a handler or filter ends neither thread nor program.
            if logging.raiseExceptions and sys.stderr is not None:
                traceback.print_exc()


class _Route:
    """Where a child's records go: part of the configuration that all descendants inherit."""

    def __init__(self, queue: Queue[Any], logger: str, level: int) -> None:
        self.queue = queue
        self.logger = logger
        self.level = level
        # Of the loggers below, for children that did not inherit them.
        self.levels: dict[str, int] = {}

    def install(self) -> None:
        """Send from here on what is logged in this process, in place of handling it."""
        top = logging.getLogger(self.logger)
        for name, level in self.levels.items():
            if logging.getLogger(name).level == logging.NOTSET:
                logging.getLogger(name).setLevel(level)
        # Not closed, as they are the parent's as well.
        for logger in _below(top):
            logger.handlers.clear()
            logger.propagate = True
        top.handlers[:] = [_Handler(self.queue)]
        # The receiver's logger passes them on to those above it.
        top.propagate = False
        top.setLevel(self.level)

    def __reduce__(self) -> tuple[Callable[..., _Route | None], tuple[Any, ...]]:
        try:
            self.queue._export()
        except RuntimeError:
            # For a child that will be no member of the family: it has its own handlers.
            return _nowhere, ()
        if _relay is not None and _relay._route is self:
            _relay._resume()
            levels = {
                logger.name: logger.level
                for logger in _below(logging.getLogger(self.logger))
                if logger.level != logging.NOTSET
            }
        else:
            levels = self.levels
        return _rebuild, (self.queue, self.logger, self.level, levels)


def _rebuild(queue: Queue[Any], logger: str, level: int, levels: dict[str, int]) -> _Route:
    route = _Route(queue, logger, level)
    route.levels = levels
    return route


def _nowhere() -> None:
    return None


def _below(top: logging.Logger) -> Iterator[logging.Logger]:
    """The loggers whose records get to `top`, without `top` itself."""
    prefix = "" if top is logging.root else top.name + "."
    for logger in list(logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger) and logger.name.startswith(prefix):
            yield logger


class _Handler(logging.Handler):
    """Puts records on their way. Needs no lock: the queue is safe, also in a forked child."""

    def __init__(self, queue: Queue[Any]) -> None:
        super().__init__()
        self._queue = queue
        self._lost = 0

    def createLock(self) -> None:  # noqa: N802 - the name is logging's
        self.lock = None

    def handle(self, record: logging.LogRecord) -> Any:
        found: Any = self.filter(record)
        if found:
            # A filter may have made another record.
            self.emit(record if found is True else found)
        return found

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._lost:
                self._queue.put(self._account(record), block=False)
                self._lost = 0
            self._queue.put(_portable(record), timeout=_PATIENCE_S)
        except queue.Full:
            # Nobody takes them: the receiver is gone, or stuck. The program comes first.
            self._lost += 1
        except Exception:
            self.handleError(record)

    def _account(self, record: logging.LogRecord) -> dict[str, Any]:
        text = f"{self._lost} log records of this process were lost: their receiver was too slow"
        notice = logging.LogRecord(record.name, logging.WARNING, __file__, 0, text, None, None)
        return _portable(notice)


_formatter = logging.Formatter()


def _portable(record: logging.LogRecord) -> dict[str, Any]:
    """What a record says, in nothing but plain data: the receiver may lack the rest's classes."""
    content = dict(record.__dict__)
    content["msg"] = record.getMessage()
    content["args"] = None
    if record.exc_info:
        content["exc_text"] = record.exc_text or _formatter.formatException(record.exc_info)
        content["exc_info"] = None
    return {name: _text_or_plain(value) for name, value in content.items()}


def _text_or_plain(value: Any) -> Any:
    """As `_plain`; of what cannot be told, or contains itself, as much as can be told."""
    for tell in (_plain, repr):
        try:
            return tell(value)
        except Exception:
            continue
    return f"<{type(value).__name__} whose repr fails>"


def _plain(value: Any) -> Any:
    """Plain data as it is, anything else as its text."""
    kind = type(value)
    if value is None or kind in (str, int, float, bool, bytes):
        return value
    if kind in (list, tuple, set, frozenset):
        return kind(map(_plain, value))
    if kind is dict:
        return {_plain(key): _plain(item) for key, item in value.items()}
    return repr(value)


# --- forks ----------------------------------------------------------------------------------------


def _before_fork() -> None:
    with _lock:
        _forking.add(threading.get_ident())
    if _relay is not None and _relay._owner == os.getpid():
        _relay._pause()


def _after_fork_in_parent() -> None:
    with _lock:
        _forking.discard(threading.get_ident())
    if _relay is not None and _relay._owner == os.getpid():
        _relay._resume()


def _after_fork_in_child() -> None:
    global _relay, _lock
    _relay = None
    _lock = threading.RLock()
    _forking.clear()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)


def relay_logging(
    logger: logging.Logger | str | None = None, level: int | str | None = None
) -> LogRelay:
    """Have the log records of children handled by the handlers of this process.

    Children that are started from now on, by any start method, workers of pools, and children of
    children send what they log to this process. There it goes to the logger of the same name, once,
    in the order in which each child has logged it, and also what a child logged just before it was
    killed. In the child, the handlers that it starts with are taken off `logger` and the loggers
    below; such as it adds by itself stay its own.

    Text is made in the child: of the message and its arguments, of an exception, and of extra
    attributes that are no plain data. If the receiver stands still, children wait for it once
    10,000 records wait, but a second at most; then they drop records, and say how many later.

    Args:
        logger: The logger whose records, and those of the loggers below it, are relayed; the
            root logger by default.
        level: The least level that children send; by default that of the logger.

    Returns:
        The relay, to be closed earlier than at the exit of the process.

    Raises:
        RuntimeError: This process relays already.
        ValueError: There is no such level.
    """
    if _relay is not None:
        raise RuntimeError("this process relays log records already: close() that relay first")
    top = logger if isinstance(logger, logging.Logger) else logging.getLogger(logger)
    # Checked as setLevel would do it, and made a number.
    least = top.getEffectiveLevel() if level is None else logging.Handler(level).level
    util._exit_before_logging()
    return LogRelay(top, least)
