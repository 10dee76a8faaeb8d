"""Starting a child as a fresh interpreter, and the part of it that the fork server shares."""

from __future__ import annotations

import errno
import os
import pickle
import sys
from contextlib import contextmanager

from . import _original, _sidestep, context, popen_fork, process, spawn, util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO, Any

__all__ = ["Popen"]


class _DupFd:
    """A descriptor that a spawned child inherits under its number."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def detach(self) -> int:
        """Return the descriptor, in the child. To be called once."""
        return self.fd


class Popen(popen_fork.Popen):
    """A child that was started as a fresh interpreter.

    The shared objects among its arguments are kept alive here until the child has ended, so
    that it finds them however late it looks.
    """

    method = "spawn"
    DupFd: Any = _DupFd

    def __init__(self, process_obj: process.BaseProcess) -> None:
        self._fds: list[int] = []
        self._refs: _sidestep.Collector | None = None
        super().__init__(process_obj)

    def duplicate_for_child(self, fd: int) -> int:
        """Pass `fd` on to the child, and return what the child will know it by."""
        self._fds.append(fd)
        return fd

    def _ended(self, returncode: int) -> None:
        super()._ended(returncode)
        if self._refs is not None:
            self._refs.release()

    @contextmanager
    def _start_data(self, process_obj: process.BaseProcess) -> Iterator[int]:
        """Give a descriptor of all that the child has to read, ready to be read."""
        with _memory_file() as file:
            # By way of the module: tools replace the function.
            data = spawn.get_preparation_data(process_obj._name)
            data["dies_with_parent"] = process_obj.dies_with_parent
            main_path = data.get("init_main_from_path")
            if self.method == "spawn" and main_path is not None:
                data["main_code"] = spawn._compiled_main(main_path)
            data["blocked_signals"] = _sidestep.blocked_signals()
            # The child goes on with them: one of its own would unlink what others still use.
            data["trackers"] = [
                (name, self.DupFd(self.duplicate_for_child(fd))) for name, fd in _trackers()
            ]
            context.set_spawning_popen(self)
            try:
                reduction_in_force: Any = context.reduction
                reduction_in_force.dump(data, file)
                second = file.tell()
                self._pickle(process_obj, file, reduction_in_force)
                file.write(second.to_bytes(spawn._PLACE, "little"))
            finally:
                context.set_spawning_popen(None)
            file.seek(0)
            yield file.fileno()

    def _pickle(self, obj: process.BaseProcess, file: IO[bytes], using: Any) -> None:
        """Write the process object, by value what cannot go by name."""
        start, fds = file.tell(), len(self._fds)
        child_gets_main = spawn._child_gets_main()

        def by_name(obj: object, file: IO[bytes]) -> None:
            using.dump(obj, file)
            if not child_gets_main:
                # Names out of the main module pass here, and would fail only over there.
                file.seek(start)
                if b"__main__" in file.read():
                    raise pickle.PicklingError(
                        "the process refers to the main module, which the child cannot import: "
                        "it was typed in, or given on the command line"
                    )

        def by_value(obj: object, file: IO[bytes]) -> None:
            from . import _by_value

            _by_value.dump(obj, file, _by_value.Main(forked=False))

        try:
            self._collect(by_name, obj, file)
        except Exception as refusal:
            # Again from the beginning, as if nothing had been collected.
            if self._refs is not None:
                self._refs.release()
            del self._fds[fds:]
            file.seek(start)
            file.truncate()
            try:
                self._collect(by_value, obj, file)
            except Exception:
                # What pickle said is what the programmer knows how to read.
                raise refusal from None

    def _collect(self, dump: Callable[[Any, IO[bytes]], object], obj: Any, file: IO[bytes]) -> None:
        """Write `obj`, and hold on to the shared objects in it."""
        with _sidestep.Collector() as refs:
            self._refs = refs
            dump(obj, file)

    def _launch(self, process_obj: process.BaseProcess) -> None:
        with self._start_data(process_obj) as data_fd:
            # Also for the child: on its way to the program a Ctrl-C would end in a traceback.
            _sidestep.hold_signals()
            lines = popen_fork.LifeLines(process_obj.dies_with_parent)
            try:
                arena_fd = _sidestep.arena_fd()
                command = spawn.get_command_line(
                    pipe_handle=data_fd,
                    parent_fd=lines.parent_fd,
                    arena_fd=arena_fd,
                )
                passed = {data_fd, arena_fd, *lines.child_fds, *self._fds}
                self.pid = util.spawnv_passfds(command[0], command, sorted(passed))
            except BaseException:
                lines.abandon()
                raise
            try:
                self.sentinel, self.finalizer = lines.started(self.pid)
            except BaseException:
                lines.abandon()
                self._take_back()
                raise


def _memory_file() -> IO[bytes]:
    """A file without a name. A pipe would make the parent wait for the child to read."""
    try:
        fd = os.memfd_create("start-of-child", os.MFD_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        import tempfile

        return tempfile.TemporaryFile()
    return open(fd, "w+b")


def _trackers() -> Iterator[tuple[str, int]]:
    """The resource trackers that this process has: the name of the module, and the descriptor."""
    name = f"{__package__}.resource_tracker"
    ours: Any = sys.modules.get(name)
    if ours is not None:
        # If another thread is just importing it, this waits for that.
        __import__(name)
    theirs: Any = _original.module("resource_tracker")
    for module in (ours, theirs):
        fd: int | None = module and module._resource_tracker._fd
        if fd is not None:
            yield module.__name__, fd
