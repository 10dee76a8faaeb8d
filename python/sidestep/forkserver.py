"""The fork server: a process that imports what it is told to, and then forks on request.

```text
   clients                                            server
   requests, writing end (all clients share it) ===>  requests, reading end
   connection, one end  <--- one for each child --->  connection, other end
```

A client makes a connection, puts into it what the child is to inherit, and sends the other
end as its request. The server answers with the child's number and pidfd, later with its exit
code. There is no name in any file system by which a stranger could ask.

While nobody asks, the server has the next child forked already: the spare, which waits until it
is told what to be. It ends with the server, and after some seconds without a request.

When all clients have ended, so does the server. If it is killed, its children live on, their
exit codes are lost, and the next start makes a new server.
"""

from __future__ import annotations

# What `signal` wraps to return enumerations: each child would make them, in pages copied for it.
import _signal  # type: ignore[import-not-found]
import _thread
import contextlib
import errno
import os
import pickle
import select
import socket
import struct
import sys
import warnings

from . import _original, _sidestep, popen_fork, process, spawn, util
from .popen_spawn_posix import _memory_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType
    from typing import Any, NoReturn

__all__ = [
    "connect_to_new_process",
    "ensure_running",
    "get_inherited_fds",
    "set_forkserver_preload",
]

# What a server says of modules that it cannot import: characters for each, modules, and bytes.
_LONGEST_REASON = 1000
_MOST_REASONS = 20
_LONGEST_ACCOUNT = 1 << 17
_NUMBER = struct.Struct("q")
# What arguments of children are made of. Those that a client has imported are named in its request.
_COMMON = (
    *("_worker", "connection", "frozen", "heap", "managers", "queues"),
    *("shared_memory", "sharedctypes", "synchronize"),
)
_LONGEST_REQUEST = 1000
# On a single processor, for how long nobody must have asked for anything before a spare is made,
# unless a child has ended just now: to fork takes the time that a fresh child wants for itself.
_SPARE_DELAY_MS = 2
# How long a spare is kept while there are no requests.
_SPARE_KEPT_MS = 10_000
# The engine takes no more at a time.
_MOST_FDS_SENT = 64
_LOST = (
    "the fork server ended before it could start the process; if it was not killed, it has "
    "written the reason on stderr"
)


# --- clients ------------------------------------------------------------------------------------


class ForkServer:
    """The fork server as its clients see it.

    Process safety: children of the server ask the same server; any thread may ask.
    """

    def __init__(self) -> None:
        self._forkserver_pid: int | None = None
        # Also what keeps the server alive: it sees the end of the last copy.
        self._forkserver_alive_fd: int | None = None
        # The one that started the server, and can reap it.
        self._starter_pid: int | None = None
        self._inherited_fds: list[int] | None = None
        self._preload_modules: Sequence[str] = ["__main__"]
        # A server of ours has yet to tell what it could not import.
        self._preloading = False
        # The modules that the server was told to import.
        self._told: set[str] = set()
        # Not by way of `threading`, whose hooks would take a third of each fork of the server.
        self._lock = _thread.allocate_lock()
        os.register_at_fork(after_in_child=self._lock._at_fork_reinit)  # type: ignore[attr-defined]

    def set_forkserver_preload(self, modules_names: Sequence[str]) -> None:
        """Set which modules a server that starts from now on imports before its first child.

        A module that cannot be imported is passed over: the first `start` gives a RuntimeWarning
        that names it and says why. Any other error in a module ends the server, which shows it on
        stderr, and `start` raises EOFError.

        Raises:
            TypeError: Not a sequence of strings.
        """
        if not all(type(name) is str for name in modules_names):
            raise TypeError("module_names must be a list of strings")
        self._preload_modules = list(modules_names)

    def get_inherited_fds(self) -> list[int] | None:
        """Return the descriptors that came with this process's arguments.

        None if the process was not started by a fork server.
        """
        return self._inherited_fds

    def ensure_running(self) -> None:
        """Start a server unless there is one."""
        with self._lock:
            if not self._runs():
                self._forget()
                self._start()

    def connect_to_new_process(self, fds: Sequence[int]) -> int:
        """Ask for a child that inherits `fds`: what it reads, the parent's end, and others.

        Returns:
            The descriptor of the connection by which the child's number and exit code come.

        Raises:
            EOFError: The server ends before it can be asked.
            OSError: The system refused something.
        """
        # Killed between our look and our request it did not get the request, so that a new
        # server may be asked. Once is enough: a second one that ends at once always will.
        for _ in range(2):
            self.ensure_running()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                return self._ask(fds)
        raise EOFError(_LOST)

    def _ask(self, fds: Sequence[int]) -> int:
        ours, theirs = _sidestep.socket_pair()
        try:
            with self._lock:
                server = self._forkserver_alive_fd
                if server is None:
                    raise BrokenPipeError(errno.EPIPE, "another thread has stopped the fork server")
                if self._preloading and self._starter_pid == os.getpid():
                    self._hear_of_preloading(server)
                # All into the connection first: the server then never waits for a client.
                _send_all(ours, [server, *fds])
                news = [
                    name
                    for name in _COMMON
                    if name not in self._told and f"{__package__}.{name}" in sys.modules
                ]
                # A request is never empty: that is the end of all requests.
                request = " ".join(["child", *news]).encode()
                _sidestep.send_fds(server, request, [theirs])
                self._told.update(news)
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        return ours

    def _hear_of_preloading(self, server: int) -> None:
        """Wait until the server has imported its modules, and warn of those that it could not.

        No child can be there earlier, and none is yet, should warnings be errors.
        """
        answer = b""
        with _borrowed(server) as sock, contextlib.suppress(ConnectionResetError):
            # It stays there, for whoever asks again after an exception out of a signal handler.
            answer = sock.recv(_LONGEST_ACCOUNT, socket.MSG_PEEK)
        if not answer:
            raise EOFError(_LOST)
        self._preloading = False
        for name, error in pickle.loads(answer):
            warnings.warn(
                f"the fork server cannot preload the module {name!r}, and goes on without it: "
                f"{error}",
                RuntimeWarning,
                stacklevel=2,
            )

    def _runs(self) -> bool:
        fd = self._forkserver_alive_fd
        if fd is None:
            return False
        poll = select.poll()
        poll.register(fd, 0)
        # No matter whether there is something to read: what is reported is the other end's end.
        return not poll.poll(0)

    def _forget(self) -> None:
        """Free what belongs to a server that has ended."""
        if self._forkserver_alive_fd is not None:
            os.close(self._forkserver_alive_fd)
        if self._forkserver_pid is not None and self._starter_pid == os.getpid():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._forkserver_pid, 0)
        self._forkserver_alive_fd = self._forkserver_pid = self._starter_pid = None

    def _start(self) -> None:
        arena_fd = _sidestep.arena_fd()
        preparation: dict[str, Any] = {}
        if self._preload_modules:
            everything = spawn.get_preparation_data("forkserver")
            wanted = ("sys_path", "sys_argv", "dir", "init_main_from_name", "init_main_from_path")
            preparation = {key: everything[key] for key in wanted if key in everything}
        with _memory_file() as file:
            pickle.dump((list(self._preload_modules), preparation), file)
            file.seek(0)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with ours, theirs:
                # One file description for all clients, and blocking whatever the program
                # says of its own sockets.
                ours.settimeout(None)
                theirs.settimeout(None)
                arguments = f"{theirs.fileno()}, {file.fileno()}, {arena_fd}"
                command = spawn._calling("forkserver", "main", arguments)
                passed = [theirs.fileno(), file.fileno(), arena_fd]
                self._forkserver_pid = util.spawnv_passfds(command[0], command, passed)
                self._starter_pid = os.getpid()
                self._forkserver_alive_fd = ours.detach()
                self._preloading = True
                self._told.clear()

    def _stop(self) -> None:
        """End the server: for tests, which end it once its children have ended."""
        with self._lock:
            self._forget()


def _borrowed(fd: int) -> socket.socket:
    """A socket object for a copy of `fd`."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=os.dup(fd))
    sock.settimeout(None)
    return sock


def _send_all(sock: int, fds: list[int]) -> None:
    """Send descriptors, the first of them with how many there are."""
    _sidestep.send_fds(sock, _NUMBER.pack(len(fds)), fds[:_MOST_FDS_SENT])
    for first in range(_MOST_FDS_SENT, len(fds), _MOST_FDS_SENT):
        _sidestep.send_fds(sock, b"+", fds[first : first + _MOST_FDS_SENT])


def _receive_all(sock: int) -> list[int]:
    data, fds = _sidestep.receive_fds(sock, _NUMBER.size)
    try:
        if len(data) < _NUMBER.size:
            raise EOFError("the other side of the connection is gone")
        (count,) = _NUMBER.unpack(data)
        while len(fds) < count:
            data, more = _sidestep.receive_fds(sock, 1)
            if not data:
                raise EOFError("the other side of the connection is gone")
            fds += more
    except BaseException:
        util.close_fds(*fds)
        raise
    return fds


def _receive_child(sock: int) -> tuple[int, int | None]:
    """Receive a child's number, and a pidfd of it if the kernel has them."""
    try:
        data, fds = _sidestep.receive_fds(sock, _NUMBER.size)
    except ConnectionResetError:
        data, fds = b"", []
    if len(data) < _NUMBER.size:
        raise EOFError(_LOST)
    number: int = _NUMBER.unpack(data)[0]
    if number < 0:
        raise OSError(-number, f"the fork server says: {os.strerror(-number)}")
    return number, (fds[0] if fds else None)


def _receive_exit_code(fd: int) -> int | None:
    """Wait for a child's exit code on its connection; None if the server was lost.

    The code stays in the connection: several threads may ask, in any order.
    """
    # Not by a duplicate: a program that has no descriptor left can still wait for its children.
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fd)
    try:
        sock.settimeout(None)
        data = sock.recv(_NUMBER.size, socket.MSG_PEEK | socket.MSG_WAITALL)
    except ConnectionResetError:
        return None
    finally:
        sock.detach()
    if len(data) < _NUMBER.size:
        return None
    code: int = _NUMBER.unpack(data)[0]
    return code


# --- the server ---------------------------------------------------------------------------------


def main(requests_fd: int, preload_fd: int, arena_fd: int) -> None:
    """Be the fork server, until the last client has ended."""
    _sidestep.attach(arena_fd)
    with os.fdopen(preload_fd, "rb") as file:
        modules, preparation = pickle.load(file)
    failures = _preload(modules, preparation)
    # Here and not in each child.
    _original.tell_logging()
    process._load()
    util._close_stdin()
    with _borrowed(requests_fd) as sock:
        # Unless all clients have ended.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.send(pickle.dumps(failures[:_MOST_REASONS]))
    _Server(requests_fd).serve()


def _preload(modules: Sequence[str], preparation: dict[str, Any]) -> list[tuple[str, str]]:
    """Import the modules, the main one first, where it is asked for.

    Returns:
        Those that could not be imported, and why.
    """
    failures = []
    main_module = {
        key: preparation.pop(key) for key in list(preparation) if key.startswith("init_main")
    }
    spawn.prepare(preparation)
    if "__main__" in modules:
        current: Any = process.current_process()
        current._inheriting = True
        try:
            spawn.prepare(main_module)
        except (Exception, SystemExit):
            # Each child will import it itself, and show what is wrong on its own stderr.
            pass
        finally:
            del current._inheriting
    for name in modules:
        try:
            __import__(name)
        except ImportError as error:
            # As documented the list is a hint; but who gave it wants to know.
            failures.append(
                (name[:_LONGEST_REASON], f"{type(error).__name__}: {error}"[:_LONGEST_REASON])
            )
        except SystemExit as end:
            # Other errors end the server, too, and say more.
            raise RuntimeError(
                f"the module {name!r}, which the fork server was to import, asks for an exit"
            ) from end
    # Or each child would print again what the modules have printed.
    util._flush_std_streams()
    return failures


class _Server:
    """The loop of the fork server: requests in, exit codes out.

    With bare descriptors: what a child has to close takes objects' pages otherwise.
    """

    def __init__(self, requests_fd: int) -> None:
        self._requests = requests_fd
        # The children's connections, by number.
        self._children: dict[int, int] = {}
        self._tokens: dict[int, int] = {}
        # The number of the spare, and what it waits at.
        self._spare: tuple[int, int] | None = None
        self._wants_spare = False
        self._has_rehearsed = False
        # Where there are several processors, the one that waits for a child has left its own.
        self._is_alone = len(os.sched_getaffinity(0)) < 2
        self._rehearsal = _make_rehearsal()
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_r, False)
        os.set_blocking(self._wake_w, False)
        # A terminal's Ctrl-C is for the program's own processes: the children get it too.
        self._before: dict[int, Any] = {
            number: _signal.signal(number, answer)
            for number, answer in (
                (_signal.SIGCHLD, _wake_up_only),
                (_signal.SIGINT, _signal.SIG_IGN),
            )
        }
        # By the pipe, so that a signal between two steps of the loop is not missed.
        _signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Serve until the last client has ended."""
        poll = select.poll()
        poll.register(self._requests, select.POLLIN)
        poll.register(self._wake_r, select.POLLIN)
        has_reported = False
        while True:
            ready = [fd for fd, _ in poll.poll(self._patience(has_reported))]
            if not ready:
                self._see_to_spare()
            has_reported = self._wake_r in ready
            if has_reported:
                os.read(self._wake_r, 65536)
                self._report_ends()
            if self._requests in ready and not self._take_request():
                break
        util.close_fds(self._requests, self._rehearsal)
        self._dismiss_spare()

    def _patience(self, has_reported: bool) -> int | None:
        """How long to wait for something to do until the spare is seen to, in milliseconds."""
        if self._wants_spare:
            return _SPARE_DELAY_MS if self._is_alone and not has_reported else 0
        if self._spare is None:
            return None
        return _SPARE_KEPT_MS if self._has_rehearsed else 0

    def _see_to_spare(self) -> None:
        """Take the next step with the spare, as nobody wants anything else."""
        if self._wants_spare:
            self._make_spare()
        elif self._has_rehearsed:
            self._dismiss_spare()
        else:
            self._rehearse()

    def _report_ends(self) -> None:
        if self._spare is not None and self._exit_code(self._spare[0]) is not None:
            self._dismiss_spare()
        # One by one, since modules that were imported may have children of their own.
        for pid in list(self._children):
            code = self._exit_code(pid)
            if code is not None:
                self._reap(pid)
                client = self._children.pop(pid)
                _send_unless_gone(client, code, [])
                os.close(client)

    @staticmethod
    def _exit_code(pid: int, block: bool = False) -> int | None:
        """The code of a child that has ended, or is about to if `block`; None if it runs."""
        try:
            return _sidestep.exit_code(pid, block)
        except ChildProcessError:
            return 255

    def _reap(self, pid: int) -> None:
        # Before the kernel forgets how it ended: waiters for its locks are told that.
        _sidestep.reaped(self._tokens.pop(pid, 0))
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)

    def _take_request(self) -> bool:
        """Start a child; False if nobody is left to ask for one."""
        try:
            request, received = _sidestep.receive_fds(self._requests, _LONGEST_REQUEST)
        except ConnectionResetError:
            # Since nobody takes away the account of what was preloaded.
            return False
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            # It did not fit into this process; its client sees the end of its connection.
            return True
        if not request:
            return False
        if not received:
            return True
        (client,) = received
        fds: list[int] = []
        try:
            fds = _receive_all(client)
            self._import(request.decode().split()[1:])
            pid = self._hand_over(fds) or self._fork(client, fds)
        except (EOFError, MemoryError, OSError, RuntimeError) as error:
            if not isinstance(error, EOFError):
                number = error.errno if isinstance(error, OSError) else errno.EAGAIN
                _send_unless_gone(client, -(number or errno.EAGAIN), [])
            os.close(client)
            return True
        finally:
            util.close_fds(*fds)
        try:
            # Before the child can be reaped, so that the number is still its own.
            pidfds = [_sidestep.pidfd_open(pid)]
        except OSError:
            pidfds = []
        self._children[pid] = client
        _send_unless_gone(client, pid, pidfds)
        util.close_fds(*pidfds)
        self._wants_spare = True
        return True

    def _import(self, names: Sequence[str]) -> None:
        """Import what children would have to import, each for itself, for their arguments."""
        for name in names:
            if name in _COMMON and f"{__package__}.{name}" not in sys.modules:
                # What is wrong is for those to say who cannot do without.
                with contextlib.suppress(Exception):
                    __import__(f"{__package__}.{name}")
                # It is from before.
                self._dismiss_spare()

    def _fork(self, client: int, fds: list[int] | None, *others: int) -> int:
        """Fork a child and return its number.

        Args:
            client: Its connection.
            fds: What it starts with; None if that is to come by the connection.
            others: What it has to close.
        """
        try:
            pid = os.fork()
        except BaseException:
            _sidestep.forked(False)
            raise
        if pid == 0:
            if not _sidestep.inherited():
                os._exit(1)
            self._be_child(client, fds, others)
        try:
            self._tokens[pid] = _sidestep.forked()
        except (MemoryError, RuntimeError):
            os.waitpid(pid, 0)
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from None
        return pid

    def _make_spare(self) -> None:
        """Fork the next child, if that is possible, while there is nothing else to do."""
        self._wants_spare = self._has_rehearsed = False
        with contextlib.suppress(OSError):
            ours, theirs = _sidestep.socket_pair()
            try:
                self._spare = self._fork(theirs, None, ours), ours
            finally:
                os.close(theirs)
                if self._spare is None:
                    os.close(ours)

    def _rehearse(self) -> None:
        """Have the spare read what it is to be, for practice: nobody has asked for it yet."""
        self._has_rehearsed = True
        if self._spare is not None:
            # If it was killed, that will be seen as any end.
            with contextlib.suppress(OSError):
                _send_all(self._spare[1], [self._rehearsal])

    def _hand_over(self, fds: list[int]) -> int | None:
        """Have the spare be the child, and return its number; None if there is no spare."""
        if self._spare is None:
            return None
        pid, job = self._spare
        try:
            _send_all(job, fds)
        except OSError:
            # Somebody has killed it.
            self._dismiss_spare()
            return None
        self._spare = None
        os.close(job)
        return pid

    def _dismiss_spare(self) -> None:
        if self._spare is not None:
            pid, job = self._spare
            self._spare = None
            os.close(job)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, _signal.SIGKILL)
            self._exit_code(pid, block=True)
            self._reap(pid)

    def _be_child(self, client: int, fds: list[int] | None, others: tuple[int, ...]) -> NoReturn:
        """Live a child's life, with the descriptors given, or those that come from `client`."""
        code = 1
        try:
            _signal.set_wakeup_fd(-1)
            util.close_fds(
                *(self._wake_r, self._wake_w, self._rehearsal, self._requests),
                *self._children.values(),
                *others,
            )
            popen_fork.fresh_exit_functions()
            self._give_back(_signal.SIGCHLD)
            if fds is None:
                try:
                    fds = _receive_all(client)
                    if len(fds) == 1:
                        spawn.prepare(pickle.loads(spawn._read(fds[0])))
                        fds = _receive_all(client)
                except (EOFError, ConnectionResetError):
                    # There is no server any more.
                    os._exit(0)
            os.close(client)
            # Until the child knows whether who asked for it has the signal blocked.
            _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGINT,))
            self._give_back(_signal.SIGINT)
            code = _serve_one(fds)
        except BaseException:
            popen_fork.show_exception()
        finally:
            popen_fork.leave(code)

    def _give_back(self, number: int) -> None:
        """Undo, in a child, what the server does with a signal."""
        handler = self._before[number]
        _signal.signal(number, _signal.SIG_DFL if handler is None else handler)


def _make_rehearsal() -> int:
    """Return a descriptor of what a spare reads as if it were for a child, and changes nothing.

    What a child touches on the way to its program is copied for it, page by page, which takes
    longer than all the rest. A spare has done that before it is asked for.
    """
    # Not where to go, which may be gone by then.
    data: dict[str, Any] = {
        "name": __name__,
        "sys_path": sys.path,
        "sys_argv": sys.argv,
        "orig_dir": process.ORIGINAL_DIR,
        "start_method": "forkserver",
    }
    with _memory_file() as file:
        pickle.dump(data, file)
        file.flush()
        return os.dup(file.fileno())


def _wake_up_only(number: int, frame: FrameType | None) -> None:
    """Take a signal that otherwise would not wake anybody."""


def _send_unless_gone(client: int, number: int, fds: list[int]) -> None:
    try:
        _sidestep.send_fds(client, _NUMBER.pack(number), fds)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ECONNRESET):
            raise


def _serve_one(fds: list[int]) -> int:
    """Live the life of a child of the server."""
    _forkserver._forkserver_alive_fd, data_fd, parent_fd, *others = fds
    _forkserver._inherited_fds = others
    return spawn._main(data_fd, parent_fd)


_forkserver = ForkServer()
ensure_running = _forkserver.ensure_running
get_inherited_fds = _forkserver.get_inherited_fds
connect_to_new_process = _forkserver.connect_to_new_process
set_forkserver_preload = _forkserver.set_forkserver_preload
