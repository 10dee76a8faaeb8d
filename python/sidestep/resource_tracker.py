"""Unlinks the named shared memory that a program leaves behind.

Everything of the engine lives in one anonymous file that the kernel frees with its last
process. Only `SharedMemory` has names, which outlive everybody, so they need a witness: the
tracker, a small process that is started with the first named segment and never before. It
reads lines from a pipe whose other end all members of the family hold:

    members  --- "REGISTER:/psm_1a2b:shared_memory\\n" --->  tracker

The kernel closes a dead process's descriptors however it dies, so end of file means that the
last member is gone. The tracker then warns about the names that are still registered and
unlinks them. Ctrl-C and SIGTERM do not end it, and it has a session of its own, so that a
signal to the program's process group does not take it away first.

A child that was started when its parent had no tracker starts one of its own. What the child
made may be meant for the parent, so that tracker does not clean up before the parent has ended.

If the tracker itself is killed, the next registration starts another one and warns. What only
the killed one knew is removed when the family has ended, by the new one or by any later program's:
each segment is also noted beside the segments themselves (see `_notes`).
"""

from __future__ import annotations

import _posixshmem
import contextlib
import os
import select
import signal
import sys
import threading
import time
import warnings

from . import _notes, process, util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

__all__ = ["ensure_running", "getfd", "register", "unregister"]

# A write of up to this many bytes to a pipe is atomic on every POSIX system, so that the lines
# of several processes cannot be mixed.
_LONGEST_LINE = 512

# How often, at most, a tracker tries to remove its family's notes at the end.
_MOST_SWEEPS = 100
_BETWEEN_SWEEPS_S = 0.01

_SHIELDED_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _refuse_noop(name: str) -> NoReturn:
    raise RuntimeError(f"{name!r} is of type 'noop', which stands for probes and owns nothing")


_CLEANUP_FUNCS: dict[str, Callable[[str], object]] = {
    "noop": _refuse_noop,
    "shared_memory": _posixshmem.shm_unlink,
}


class ReentrantCallError(RuntimeError):
    """The tracker was called while this very thread was in the middle of starting it."""


class ResourceTracker:
    """This process's end of a tracker process: starts it when needed and sends it names."""

    # How long the end of a process waits for that of its tracker.
    _patience_ms = 1000

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._starting = False
        # The writable end of the pipe. The start-up of a child sets it from outside.
        self._fd: int | None = None
        # None also where another member of the family has started the tracker.
        self._pid: int | None = None
        self._exitcode: int | None = None
        self._starter: int | None = None
        # The inode of the tracker's pipe, and the folder of the family's notes, locked.
        self._folder: tuple[int, int | None] = (0, None)
        # Those of trackers that were killed stay open: their blocks may be in use.
        self._older: list[int] = []
        util.register_after_fork(self, ResourceTracker._after_fork)

    def _after_fork(self) -> None:
        # Another thread of the parent may have held the lock, and that thread is not here.
        self._lock = threading.RLock()
        self._starting = False

    def __del__(
        self,
        getpid: Callable[[], int] = os.getpid,
        close: Callable[[int], None] = os.close,
        pidfd_open: Callable[[int], int] = os.pidfd_open,
        make_poll: Callable[[], Any] = select.poll,
        waitpid: Callable[[int, int], object] = os.waitpid,
    ) -> None:
        # At the end of the interpreter, when modules are empty already. Nobody else may ever reap
        # our child: not every container has a process for that. Not waited for long, as others
        # may hold the pipe: then it stays.
        if self._pid is None or self._fd is None or self._starter != getpid():
            return
        try:
            for folder in (self._folder[1], *self._older):
                if folder is not None:
                    close(folder)  # or the tracker could not remove it
            close(self._fd)
            pidfd = pidfd_open(self._pid)
            poll = make_poll()
            poll.register(pidfd)
            if poll.poll(self._patience_ms):
                waitpid(self._pid, 0)
            close(pidfd)
        except OSError:
            pass  # somebody has reaped it

    def getfd(self) -> int:
        """The descriptor to write to, for a child that shall share this tracker; starts it."""
        self.ensure_running()
        assert self._fd is not None
        return self._fd

    def ensure_running(self) -> None:
        """Start the tracker unless this family has a living one.

        A child writes to the tracker that its parent had at the time of the start. If that
        tracker was killed, a new one is started here, with a warning: what only the old one
        knew is not cleaned up.
        """
        with self._lock:
            if self._starting:
                raise ReentrantCallError(
                    "the resource tracker was called from a finalizer or signal handler while "
                    "it was being started"
                )
            if self._fd is not None:
                if self._check_alive():
                    return
                self._forget()
                warnings.warn(
                    "resource_tracker: process died unexpectedly, relaunching.  "
                    "Some resources might leak.",
                    stacklevel=2,
                )
            self._starting = True
            try:
                # Modules that are imported by then need descriptors, too.
                with util._naming_limits("cannot start the resource tracker", process=True):
                    self._launch()
            finally:
                self._starting = False

    def register(self, name: str, rtype: str) -> None:
        """Have `name` cleaned up when the family has ended without unregistering it.

        Args:
            name: The name as the kernel knows it, with its slash.
            rtype: A key of the table of clean-up functions: "shared_memory".

        Raises:
            ValueError: The name is too long for one message, or contains a line end.
        """
        self._send("REGISTER", name, rtype)

    def unregister(self, name: str, rtype: str) -> None:
        """Take back `register`: somebody has cleaned up, or wants it to stay."""
        self._send("UNREGISTER", name, rtype)
        folder = self._join_family()
        if folder is not None:
            _notes.forget_name(folder, name.lstrip("/"))

    def _note(self, name: str, inode: int) -> None:
        """Note a segment that is about to get its name, for when even the tracker is killed."""
        self.ensure_running()
        folder = self._join_family()
        if folder is not None:
            _notes.add(folder, inode, name)

    def _strike_note(self, inode: int) -> None:
        """Take back `_note`, where this family has made one."""
        folder = self._join_family()
        if folder is not None:
            _notes.forget(folder, inode)

    def _join_family(self) -> int | None:
        """The folder of the family's notes; while we have it open, nobody sweeps there."""
        with self._lock:
            if self._fd is None:
                return None
            pipe = os.fstat(self._fd).st_ino
            if self._folder[0] != pipe:
                self._change_folder(pipe, _notes.join(self._fd))
            return self._folder[1]

    def _check_alive(self) -> bool:
        """Whether anybody reads what we write."""
        if self._fd is None:
            return False
        try:
            os.write(self._fd, b"PROBE:0:noop\n")
        except OSError:
            return False
        return True

    def _stop(self) -> None:
        """Let go of the tracker and wait until it has ended, if it is our child.

        It ends when no other process holds the pipe. Its exit status is kept in `_exitcode`.
        """
        with self._lock:
            if self._fd is None:
                return
            (_, folder), self._folder = self._folder, (0, None)
            if folder is not None:
                os.close(folder)
            status = self._forget()
            if status is not None:
                self._exitcode = os.waitstatus_to_exitcode(status)

    def _forget(self) -> int | None:
        """Close our end and reap the process; its wait status if it was ours to reap."""
        assert self._fd is not None
        fd, pid = self._fd, self._pid
        self._fd = self._pid = self._exitcode = None
        os.close(fd)
        if pid is None:
            return None
        try:
            return os.waitpid(pid, 0)[1]
        except ChildProcessError:  # forked after the start: it is our parent's child
            return None

    def _launch(self) -> None:
        from . import spawn

        _notes.sweep()
        reader, writer = os.pipe()
        folder = _notes.begin(writer)
        try:
            inherited = [reader]
            # Replaced or closed it may be: then the tracker warns into the void.
            with contextlib.suppress(Exception):
                inherited.append(sys.stderr.fileno())
            sentinel = _parent_sentinel()
            # One lock for both: there is no instant at which nobody holds it.
            inherited += [fd for fd in (sentinel, folder) if fd is not None]
            call = f"{reader}, {sentinel}, {folder}"
            arguments = spawn._calling("resource_tracker", "main", call)
            # The mask is inherited: until the tracker ignores these signals they wait.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, _SHIELDED_SIGNALS)
            try:
                self._pid = util.spawnv_passfds(arguments[0], arguments, inherited)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        except BaseException:
            os.close(writer)
            if folder is not None:
                os.close(folder)
            raise
        finally:
            os.close(reader)
        self._fd, self._starter = writer, os.getpid()
        self._change_folder(os.fstat(writer).st_ino, folder)

    def _change_folder(self, pipe: int, folder: int | None) -> None:
        if self._folder[1] is not None:
            self._older.append(self._folder[1])
        self._folder = (pipe, folder)

    def _send(self, command: str, name: str, rtype: str) -> None:
        if "\n" in name:
            raise ValueError(f"the name {name!r} contains a line end")
        line = f"{command}:{name}:{rtype}\n".encode("utf-8", "surrogateescape")
        if len(line) > _LONGEST_LINE:
            raise ValueError(
                f"the name is too long for the resource tracker: {len(line)} bytes with its "
                f"command, and {_LONGEST_LINE} are possible"
            )
        self.ensure_running()
        assert self._fd is not None
        os.write(self._fd, line)


def _parent_sentinel() -> int | None:
    """The descriptor that polls readable when our parent has ended; None in the root process."""
    parent = process.parent_process()
    if parent is None:
        return None
    try:
        sentinel: int = parent.sentinel
        os.fstat(sentinel)
    except (OSError, ValueError):  # the child has closed what it does not know
        return None
    return sentinel


_resource_tracker = ResourceTracker()
ensure_running = _resource_tracker.ensure_running
register = _resource_tracker.register
unregister = _resource_tracker.unregister
getfd = _resource_tracker.getfd


class _Ledger:
    """What the tracker process has been told, and its exit status.

    The status is 0, or 1 if something was left behind, 2 if that could not be removed, 3 if a
    message made no sense; the last such event counts.
    """

    def __init__(self) -> None:
        self.names: dict[str, set[str]] = {rtype: set() for rtype in _CLEANUP_FUNCS}
        # Segments that the family only opened. They are somebody else's to remove.
        self.foreign: dict[str, set[str]] = {rtype: set() for rtype in _CLEANUP_FUNCS}
        self.exit_code = 0

    def take(self, line: bytes) -> None:
        """Carry out one message."""
        text = line.removesuffix(b"\n").decode("utf-8", "surrogateescape")
        command, rest = text.split(":", 1)
        name, rtype = rest.rsplit(":", 1)
        if rtype not in self.names:
            raise ValueError(f"{name!r} cannot be tracked: {rtype!r} is no known resource type")
        if command == "REGISTER":
            self.names[rtype].add(name)
            self.foreign[rtype].discard(name)
        elif command == "ATTACH":
            if name not in self.names[rtype]:
                self.foreign[rtype].add(name)
        elif command == "UNREGISTER":
            # Twice is once: a process may take back what another one has taken back already.
            if name in self.foreign[rtype]:
                self.foreign[rtype].remove(name)
            else:
                self.names[rtype].discard(name)
        elif command != "PROBE":
            raise ValueError(f"unknown command {command!r}")

    def forget_vanished(self, names: set[str]) -> None:
        """Strike off the segments that somebody has removed without telling us."""
        for name in sorted(names):
            try:
                os.close(_posixshmem.shm_open(name, os.O_RDONLY, mode=0o600))
            except FileNotFoundError:
                names.remove(name)
            except OSError:  # it exists, and that is what counts
                pass

    def forget_replaced(self, noted: dict[str, set[int]]) -> None:
        """Strike off the names that are now those of other programs' segments."""
        for name in sorted(self.names["shared_memory"]):
            ours = noted.get(name.lstrip("/"))
            with contextlib.suppress(OSError):
                if ours and os.stat(_notes.FOLDER + "/" + name.lstrip("/")).st_ino not in ours:
                    self.names["shared_memory"].remove(name)

    def settle(self) -> None:
        """Warn about what is left and remove it, unless it belongs to another family."""
        for rtype, names in self.names.items():
            left = names | self.foreign[rtype]
            if left:
                self.exit_code = 1
                warnings.warn(
                    f"resource_tracker: There appear to be {len(left)} leaked {rtype} objects "
                    f"to clean up at shutdown: {sorted(left)}",
                    stacklevel=2,
                )
            for name in sorted(names):
                try:
                    _CLEANUP_FUNCS[rtype](name)
                except Exception as error:
                    self.exit_code = 2
                    warnings.warn(f"resource_tracker: {name!r}: {error}", stacklevel=2)


def main(fd: int, parent_sentinel: int | None = None, folder: int | None = None) -> NoReturn:
    """Be the tracker: read messages from `fd` until the last writer is gone, then clean up.

    Args:
        fd: Where messages come in.
        parent_sentinel: Where a child started us: wait also for the end of the child's parent,
            which this descriptor tells.
        folder: The folder of the family's notes, locked as long as we live.
    """
    for number in _SHIELDED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SHIELDED_SIGNALS)
    # Refused to the leader of a group, which we are only if somebody started us by hand.
    with contextlib.suppress(OSError):
        os.setsid()
    # Whoever reads our program's output must see its end when the program ends, not when we do.
    for stream in (sys.stdin, sys.stdout):
        with contextlib.suppress(Exception):
            stream.close()
    ledger = _Ledger()
    notes = _notes.path(fd)
    try:
        with open(fd, "rb") as lines:
            for line in lines:
                try:
                    ledger.take(line)
                except Exception:
                    ledger.exit_code = 3
                    sys.excepthook(*sys.exc_info())
        if parent_sentinel is not None and any(ledger.names.values()):
            util._wait_readable(parent_sentinel)
            ledger.forget_vanished(ledger.names["shared_memory"])
        ledger.forget_vanished(ledger.foreign["shared_memory"])
        if folder is not None:
            ledger.forget_replaced(_notes.inodes(folder))
    finally:
        ledger.settle()
    if folder is not None:
        os.close(folder)
    # The notes of this family, and what a killed predecessor of this tracker knew. The last member
    # may be in the middle of its exit, with the pipe closed and the folder not yet.
    for _ in range(_MOST_SWEEPS):
        _notes.sweep()
        if not os.path.lexists(notes):
            break
        time.sleep(_BETWEEN_SWEEPS_S)
    sys.exit(ledger.exit_code)
