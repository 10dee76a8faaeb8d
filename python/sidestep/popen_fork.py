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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

__all__ = ["Popen"]

# The module `signal` makes an enumeration of them, which takes longer than all that is done here.
_SIGKILL = 9
_SIGTERM = 15


class LifeLines:
    """The descriptors by which a parent and its child see each other's end."""

    def __init__(self, process_obj: process.BaseProcess) -> None:
        self._ours: list[int] = []
        self._child_r: int | None = None
        self.child_fds: list[int] = []
        try:
            self._open(process_obj.dies_with_parent)
        except BaseException:
            self.abandon()
            raise

    def _open(self, dies_with_parent: bool) -> None:
        try:
            self.parent_fd = _sidestep.pidfd_open(os.getpid())
            self.child_fds.append(self.parent_fd)
            # Keeps a place for the sentinel: once there is a child it is too late for an error.
            self._ours.append(os.dup(self.parent_fd))
        except OSError as error:
            import errno

            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise
            self.parent_fd, parent_w = os.pipe()
            self._ours.append(parent_w)
            self.child_fds.append(self.parent_fd)
            self._child_r, child_w = os.pipe()
            self._ours.append(self._child_r)
            self.child_fds.append(child_w)
        if dies_with_parent:
            try:
                line = _sidestep.life_line()
            except FileNotFoundError:
                # There is no /proc, by which a line is opened: the child is on its own.
                return
            os.dup2(line, self.parent_fd, inheritable=False)
            os.close(line)

    def started(self, pid: int) -> tuple[int, list[int]]:
        """Keep the parent's part, of a child that has not been reaped.

        Returns:
            The child's sentinel, and all that the parent has to close in the end.
        """
        self._close(self.child_fds)
        if self._child_r is not None:
            return self._child_r, self._ours
        self._close(self._ours)
        try:
            sentinel = _sidestep.pidfd_open(pid)
        except ProcessLookupError:
            # Ended, and reaped by somebody else, or by the kernel as SIGCHLD is ignored:
            # a pipe at its end says so too.
            sentinel, child_w = os.pipe()
            os.close(child_w)
        return sentinel, [sentinel]

    def started_elsewhere(self, sentinel: int) -> tuple[int, list[int]]:
        """Keep the parent's part, of a child whose `sentinel` somebody else has made."""
        self._close(self.child_fds)
        if self._child_r is not None:
            return sentinel, [sentinel, *self._ours]
        self._close(self._ours)
        return sentinel, [sentinel]

    def forget_ours(self) -> None:
        """Close the parent's part, in a forked child."""
        self._close(self._ours)

    def abandon(self) -> None:
        """Close all: there is no child."""
        self._close(self.child_fds)
        self._close(self._ours)

    @staticmethod
    def _close(fds: list[int]) -> None:
        # Each is forgotten first: closed twice, after an exception in between, it might be the
        # number of somebody else's.
        while fds:
            os.close(fds.pop())


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
        self.finalizer: util.Finalize | None = None
        # Taken by the one thread that reaps: once that is done, the number may be another's.
        self._reaping = _thread.allocate_lock()
        self._owner = os.getpid()
        # Names the child to the engine, which gives back what the child held once it has ended.
        self._token = 0
        # Parent and child share one arena only if it exists before they part.
        _sidestep.found()
        with util._naming_limits("cannot start a process", process=True):
            self._launch(process_obj)

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
            return self.poll(0)
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
            end = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | flag)
        except ChildProcessError:
            # Reaped by another thread, which has set the code before, or by a stranger, who
            # took the code with him.
            if self.returncode is None and util._wait_readable(self.sentinel, 0):
                self._ended(255)
            return
        if end is None:
            return
        exited = end.si_code == os.CLD_EXITED
        self._ended(end.si_status if exited else -end.si_status)
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

    def _keep(self, fds: Sequence[int]) -> None:
        """Close the descriptors when this object is closed or garbage."""
        self.finalizer = util.Finalize(self, util.close_fds, fds)

    def _launch(self, process_obj: process.BaseProcess) -> None:
        util.hold_signals()
        lines = LifeLines(process_obj)
        try:
            pid = os.fork()
        except BaseException:
            lines.abandon()
            _sidestep.forked(False)
            raise
        if pid == 0:
            if not _sidestep.inherited():
                os._exit(1)
            lines.forget_ours()
            _live(process_obj, lines.parent_fd)
        self.pid = pid
        try:
            self._token = _sidestep.forked()
            self.sentinel, ours = lines.started(pid)
        except BaseException:
            lines.abandon()
            self._take_back()
            raise
        self._keep(ours)

    def _take_back(self) -> None:
        """End a child whose start has failed after all."""
        try:
            os.kill(self.pid, _SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        _sidestep.reaped(self._token)


def _live(process_obj: process.BaseProcess, parent_sentinel: int) -> NoReturn:
    """Live a forked child's life, then leave."""
    code = 1
    try:
        if process_obj.dies_with_parent:
            _sidestep.die_at_end_of(parent_sentinel)
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
