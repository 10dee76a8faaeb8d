"""How a `Listener` with a key, or with TLS, lets callers in.

The callers stand on the engine's *porch*, which carries on with all of their handshakes at once:
one that says nothing, or says it slowly, keeps nobody else waiting. What becomes of a caller:

| it                                                         | then                             |
|------------------------------------------------------------|----------------------------------|
| knows the key (and has a certificate, if one is asked for) | `accept` returns its connection  |
| speaks the protocol, with another key                      | `accept` raises, and can go on   |
| sends anything else, leaves, takes too long, fails in TLS  | is dropped; one line in the log  |
| is one too many                                            | waits; who was silent longest goes |
| comes when there is no descriptor left                     | waits until one is given back      |
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any

from . import _sidestep, util
from .connection import Connection, _send_at_once
from .context import AuthenticationError

if TYPE_CHECKING:
    import ssl

    from ._tls import Session

__all__ = ["Doorkeeper", "RefusedError"]

# How many callers may be in their handshake at once.
ROOM = 256
# A listener that another thread closes is noticed after so many seconds.
_SLICE_S = 0.5
# There is no descriptor, or no memory, for one more socket.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Doorkeeper:
    """Accepts callers at a listening socket and returns those that prove who they are.

    Args:
        door: The bound socket. It listens from now on, and does not block: where several processes
            serve one socket, a caller may be gone before `accept`.
        backlog: How many callers may wait in the street; at least as many as the porch has room
            for, so that a few strangers do not fill it.
        authkey: What callers have to know; None asks for nothing.
        context: For TLS.
        patience: How many seconds a handshake may take.
    """

    def __init__(
        self,
        door: socket.socket,
        backlog: int,
        authkey: bytes | None,
        context: ssl.SSLContext | None,
        patience: float,
    ) -> None:
        self._door = door
        self._authkey = authkey
        self._context = context
        self._patience = patience
        self._begin()
        door.listen(max(backlog, ROOM))
        os.set_blocking(door.fileno(), False)
        # Who stands on the porch is the parent's concern.
        util.register_after_fork(self, Doorkeeper._begin)

    def _begin(self) -> None:
        self._turn = threading.Lock()
        self._pid = os.getpid()
        self._numbers = itertools.count()
        self._callers: dict[int, tuple[Any, str, Session | None]] = {}
        self._porch = _sidestep.Porch(self._authkey, self._patience, ROOM)

    def admit(self) -> tuple[Connection, Any]:
        """Wait for a caller to be let in; its connection and its address.

        Raises:
            RefusedError: A caller has another key.
            TimeoutError: The socket has a timeout, which is over.
            OSError: The listener is closed, or the machine has no descriptors left.
        """
        if self._pid != os.getpid():
            self._begin()  # after a fork that no hook has seen
        limit = self._door.gettimeout()
        deadline = None if not limit else time.monotonic() + limit
        with self._turn:
            while True:
                door = self._door.fileno()
                if door < 0:
                    raise OSError("listener is closed")
                left = _SLICE_S
                if deadline is not None:
                    left = min(left, max(0.0, deadline - time.monotonic()))
                event, number, handle, why = self._porch.wait(door, left)
                if event == "knock":
                    self._open_door()
                elif event == "timeout":
                    if deadline is not None and time.monotonic() >= deadline:
                        raise TimeoutError("timed out")
                else:
                    address, name, session = self._callers.pop(number)
                    if event == "admitted":
                        return _connection(handle, session), address
                    if event == "refused":
                        raise RefusedError(f"{why} (the caller is {name})", address)
                    util.sub_warning("a listener dropped a caller, %s: %s", name, why)

    def _open_door(self) -> None:
        """Let the next caller in from the street, onto the porch."""
        try:
            caller, address = self._door.accept()
        except (BlockingIOError, ConnectionAbortedError, TimeoutError):
            return  # it has gone on, or another process was faster
        except OSError as error:
            # Those who are here go on, and the next one waits until somebody is gone: who has had
            # time enough to prove something has to go.
            if error.errno in _EXHAUSTED and self._porch.shut(f"it had to go: {error.strerror}"):
                return
            raise
        with caller:
            name = _name(caller, address)
            session = None
            if self._context is not None:
                from ._tls import Session

                session = Session(self._context, server_side=True)
            caller.setblocking(True)
            _send_at_once(caller)
            number = next(self._numbers)
            self._callers[number] = address, name, session
            self._porch.add(number, caller.detach(), session)

    def close(self) -> None:
        """Send away who is on the porch."""
        self._porch.close()
        self._callers.clear()


class RefusedError(AuthenticationError):
    """A caller has another key; with its address."""

    def __init__(self, message: str, address: Any = None) -> None:
        super().__init__(message)
        self.address = address


def _connection(handle: int, session: Session | None) -> Connection:
    if session is None:
        return Connection(handle)
    from ._tls import TlsConnection

    return TlsConnection(handle, session)


def _name(caller: socket.socket, address: Any) -> str:
    """What to call a caller in the log."""
    if caller.family != socket.AF_UNIX:
        return f"{address[0]} port {address[1]}"
    try:
        credentials = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, user, _group = struct.unpack("3i", credentials)
    except OSError:
        return "a local process"
    return f"process {pid} of user {user}"
