"""Starting a child through the fork server."""

import os
import time

from . import forkserver, popen_spawn_posix, process, util
from .popen_fork import LifeLines

__all__ = ["Popen"]

# How long who does not want to wait stays for a code that is on its way, as it nearly always is: a
# program that has seen the sentinel expects it. Later it comes only from a server that is stopped
# or has much to do.
_ON_ITS_WAY_S = 1.0


class _DupFd:
    """A descriptor that a child of the fork server gets under another number."""

    def __init__(self, ind: int) -> None:
        self.ind = ind

    def detach(self) -> int:
        """Return the descriptor, in the child. To be called once."""
        fds = forkserver.get_inherited_fds()
        if fds is None:
            raise RuntimeError("only a child of the fork server can take this descriptor")
        return fds[self.ind]


class Popen(popen_spawn_posix.Popen):
    """A child of the fork server.

    Its parent, for the kernel, is the server. So its end is seen here, by a pidfd, but its
    exit code has to come from the server; it is 255 if the server was lost.
    """

    method = "forkserver"
    DupFd = _DupFd

    def duplicate_for_child(self, fd: int) -> int:
        """Pass `fd` on to the child, and return what the child will know it by."""
        self._fds.append(fd)
        return len(self._fds) - 1

    def _launch(self, process_obj: process.BaseProcess) -> None:
        with self._start_data(process_obj) as data_fd:
            lines = LifeLines(process_obj.dies_with_parent)
            try:
                connection = forkserver.connect_to_new_process(
                    [data_fd, lines.parent_fd, *self._fds]
                )
                try:
                    self.pid, pidfd = forkserver._receive_child(connection)
                    # Without pidfds the exit code on its way is what tells of the end.
                    sentinel = os.dup(connection) if pidfd is None else pidfd
                except BaseException:
                    os.close(connection)
                    raise
                self._connection = connection
            except BaseException:
                lines.abandon()
                raise
        self.sentinel = sentinel
        self.finalizer = lines.started_elsewhere(sentinel, self._connection)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the child's end, at most `timeout` seconds, and return the exit code."""
        if self.returncode is not None or timeout is None:
            return super().wait()
        start = time.monotonic()
        if not util._wait_readable(self.sentinel, timeout):
            return None
        left = max(0.0, start + timeout - time.monotonic())
        return self.poll() if util._wait_readable(self._connection, left) else None

    def _reap(self, flag: int) -> None:
        block = not flag & os.WNOHANG
        if util._wait_readable(self.sentinel, None if block else 0) and (
            block or util._wait_readable(self._connection, _ON_ITS_WAY_S)
        ):
            code = forkserver._receive_exit_code(self._connection)
            self._ended(255 if code is None else code)
