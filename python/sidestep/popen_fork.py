"""Starting a child by fork; the base of the other ways to start one.

```text
        parent                                    child
   sentinel  ------ a descriptor of the child's life
                    a descriptor of the parent's life ------  parent_process().sentinel
```

Both are pidfds, the parent's one opened by the parent itself before the start, so that no
recycled number can be taken for either. Where the kernel refuses pidfds, each is the reading
end of a pipe whose writing end the other process keeps for life.

A child that dies with its parent gets a life line for the parent's descriptor: the kernel kills
the child at its end.
"""

from __future__ import annotations

import _thread
import atexit
import os
import sys

from . import _sidestep, process, util
from ._sidestep import LifeLines as LifeLines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["Popen"]

# The module `signal` makes an enumeration of them, which takes longer than all that is done here.
_SIGKILL = 9
_SIGTERM = 15


class Popen:
    """A child that was started by fork.

    Process safety: threads may wait, poll and send signals at once. A child is reaped only by
    `poll` and `wait`, and its exit code is read before, so that it is not lost between them.
    """

    method = "fork"
    pid: int
    sentinel: int

    def __init__(self, process_obj: process.BaseProcess) -> None:
        util._flush_std_streams()
        self.returncode: int | None = None
        # Closes the sentinel and what belongs to it, if nobody else does before.
        self.finalizer: _sidestep.Fds | None = None
        # Taken by the one thread that reaps: once that is done, the number may be another's.
        self._reaping = _thread.allocate_lock()
        self._owner = os.getpid()
        # Names the child to the engine, which gives back what the child held once it has ended.
        self._token = 0
        # Parent and child share one arena only if it exists before they part.
        _sidestep.found()
        try:
            self._launch(process_obj)
        except OSError as error:
            util._name_limits(error, "cannot start a process", process=True)
            raise

    def duplicate_for_child(self, fd: int) -> int:
        """Return what the child will know `fd` by: it inherits all."""
        return fd

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """Return the exit code, or None while the child runs; `flag` 0 waits for its end."""
        if self.returncode is None and self._owner == os.getpid():
            self._reap(flag)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the child's end, at most `timeout` seconds, and return the exit code."""
        if self.returncode is not None:
            return self.returncode
        if timeout is None:
            if self._owner == os.getpid():
                self._reap(0)
            return self.returncode
        # Once the sentinel is readable the end is near, but with a pipe not yet there.
        return self.poll(0) if util._wait_readable(self.sentinel, timeout) else None

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._send_signal(_SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._send_signal(_SIGKILL)

    def close(self) -> None:
        """Close the sentinel and what belongs to it."""
        if self.finalizer is not None:
            self.finalizer()

    # --- inside ---------------------------------------------------------------------------

    def _reap(self, flag: int) -> None:
        """Set the exit code if the child has ended, then let the kernel forget the child."""
        try:
            code = _sidestep.exit_code(self.pid, not flag & os.WNOHANG)
        except ChildProcessError:
            # Reaped by another thread, which has set the code before, or by a stranger, who
            # took the code with him.
            if self.returncode is None and util._wait_readable(self.sentinel, 0):
                self._ended(255)
            return
        if code is None:
            return
        self._ended(code)
        if self._reaping.acquire(blocking=False):
            try:
                os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                pass

    def _ended(self, returncode: int) -> None:
        """Keep the exit code."""
        if self.returncode is None:
            self.returncode = returncode
            _sidestep.reaped(self._token)

    def _send_signal(self, sig: int) -> None:
        if self.returncode is not None:
            return
        try:
            os.kill(self.pid, sig)
        except ProcessLookupError:
            pass
        except PermissionError:
            # A child that changed its user may not be ours to signal; if it has just ended
            # there is nothing to complain about.
            if self.wait(timeout=0.1) is None:
                raise

    def _launch(self, process_obj: process.BaseProcess) -> None:
        util._prepare_stdin()
        if process._as_parent._pid != self._owner:
            process._prepare_parent()
        _sidestep.hold_signals()
        dies_with_parent = process_obj.dies_with_parent
        lines = LifeLines(dies_with_parent)
        # Threads of the parent may be using the streams, and are not here to let go of them.
        alone = len(sys._current_frames()) == 1
        try:
            pid = os.fork()
        except BaseException:
            lines.abandon()
            _sidestep.forked(False)
            raise
        if pid == 0:
            if not _sidestep.inherited():
                os._exit(1)
            lines.inherited()
            _live(process_obj, lines.parent_fd, dies_with_parent, alone)
        self.pid = pid
        try:
            self._token = _sidestep.forked()
            self.sentinel, self.finalizer = lines.started(pid)
        except BaseException:
            lines.abandon()
            self._take_back()
            raise

    def _take_back(self) -> None:
        """End a child whose start has failed after all."""
        try:
            os.kill(self.pid, _SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        _sidestep.reaped(self._token)


def _live(
    process_obj: process.BaseProcess, parent_sentinel: int, dies_with_parent: bool, alone: bool
) -> NoReturn:
    """Live a forked child's life, then leave."""
    code = 1
    try:
        if dies_with_parent:
            _sidestep.die_at_end_of(parent_sentinel)
        if not alone:
            util._renew_streams()
        fresh_exit_functions()
        code = process_obj._bootstrap(parent_sentinel=parent_sentinel)
    except BaseException:
        show_exception()
    finally:
        leave(code)


def fresh_exit_functions() -> None:
    """Forget, in a forked child, the exit functions of the process that it is a copy of."""
    atexit._clear()
    atexit.register(util._exit_function)


def show_exception() -> None:
    """Show the exception that is being handled as the interpreter would at its end."""
    sys.excepthook(*sys.exc_info())


def leave(code: int) -> NoReturn:
    """End a forked child: its exit functions run, the code that its parent was in does not."""
    try:
        atexit._run_exitfuncs()
        util._flush_std_streams()
    finally:
        # Looked up here: tools that must see the end of every process replace it.
        os._exit(code)
