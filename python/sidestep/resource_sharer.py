"""Descriptors inside pickled objects: the sender keeps them until the receiver fetches them.

A descriptor cannot lie in shared memory, as the kernel counts it by process. When an object
that holds one is pickled for a queue, the pickle gets a ticket instead: the address of a
background thread in the sending process and a number. Unpickling connects there, and the
thread passes a copy of the descriptor over the socket.

    sender:    DupFd(fd) --> ticket in the pickle        thread: number -> copy of fd
    receiver:  ticket.detach() --- connects ---------------------^   <-- SCM_RIGHTS

The thread is started with the first ticket. A ticket can be redeemed once. An orderly exit of
the sender waits a few seconds for tickets that are still out; where the sender was killed, the
receiver gets a `SenderLostError`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import process, reduction, util

if TYPE_CHECKING:
    from .connection import Connection, Listener

__all__ = ["DupFd", "DupSocket", "SenderLostError", "stop"]

_Ticket = tuple[Any, int]
_Send = Callable[["Connection", int], object]
_Close = Callable[[], object]

# How long an exit waits for tickets that are still out. In the root process all children have
# been joined by then, so only a stranger could still come.
_EXIT_WAIT_CHILD_S = 10.0
_EXIT_WAIT_ROOT_S = 1.0


class SenderLostError(ConnectionError):
    """A descriptor cannot be fetched: the process that sent it has ended or gave it up."""


class DupFd:
    """A descriptor that can be pickled at any time and unpickled once, in any process.

    Args:
        fd: The descriptor. It is duplicated here, so it may be closed at once.

    If the sender dies: `detach` raises SenderLostError in the receiver.
    """

    def __init__(self, fd: int) -> None:
        copy = os.dup(fd)
        try:
            self._id = _resource_sharer.register(
                lambda conn, pid: reduction.send_handle(conn, copy, pid),
                lambda: os.close(copy),
            )
        except BaseException:
            os.close(copy)
            raise
        self._sender = os.getpid()

    def detach(self) -> int:
        """Fetch the descriptor; the caller owns it.

        Raises:
            SenderLostError: The sender has ended, or this ticket was redeemed before.
            OSError: This process has as many descriptors open as it may.
        """
        try:
            with _resource_sharer.get_connection(self._id) as conn:
                return reduction.recv_handle(conn)
        except (OSError, EOFError, RuntimeError) as error:
            if _is_at_limit(error):
                raise
            raise SenderLostError(
                f"a descriptor sent by process {self._sender} cannot be fetched: that process "
                "has ended, or the descriptor was fetched before. The sender has to live "
                "until the item is received"
            ) from error


def _is_at_limit(error: Exception) -> bool:
    """Whether it is this process that can open no more descriptors: no fault of the sender's."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


class DupSocket:
    """A socket that can be pickled at any time and unpickled once, in any process.

    Args:
        sock: The socket. It is duplicated here, so it may be closed at once.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._fd = DupFd(sock.fileno())

    def detach(self) -> socket.socket:
        """Fetch the socket; the caller owns it.

        Raises:
            SenderLostError: The sender has ended, or this ticket was redeemed before.
        """
        return socket.socket(fileno=self._fd.detach())


class _ResourceSharer:
    """The sender's side: tickets that are out, and the thread that redeems them."""

    def __init__(self) -> None:
        # Guards the fields below; `_changed` is notified when a ticket was redeemed.
        self._changed = threading.Condition(threading.Lock())
        self._last_key = 0
        self._cache: dict[int, tuple[_Send, _Close]] = {}
        self._handovers = 0
        self._listener: Listener | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        util.register_after_fork(self, _ResourceSharer._after_fork)

    def register(self, send: _Send, close: _Close) -> _Ticket:
        """Keep a resource for one receiver.

        Args:
            send: Called with the receiver's connection and pid.
            close: Called once, after `send` or when the resource is given up.

        Returns:
            The ticket: our address and a number.
        """
        with self._changed:
            if self._listener is None:
                self._start()
            assert self._listener is not None
            self._last_key += 1
            self._cache[self._last_key] = (send, close)
            return self._listener.address, self._last_key

    @staticmethod
    def get_connection(ticket: _Ticket) -> Connection:
        """Connect to the process that holds the resource and show the ticket."""
        from .connection import Client

        address, key = ticket
        conn: Connection = Client(address, authkey=process.current_process().authkey)
        try:
            conn.send((key, os.getpid()))
        except BaseException:
            conn.close()
            raise
        return conn

    def stop(self, timeout: float | None = None) -> None:
        """End the background thread and give up what nobody has fetched.

        Args:
            timeout: Longest wait for the thread in seconds; None waits until it has ended.
        """
        from .connection import Client

        with self._changed:
            listener, thread = self._listener, self._thread
            self._listener = self._thread = None
            given_up = list(self._cache.values())
            self._cache.clear()
            self._stopping.set()
        for _send, close in given_up:
            close()
        if listener is None or thread is None:
            return
        # The thread sleeps in accept(); a caller that says nothing wakes it.
        with contextlib.suppress(OSError):
            Client(listener.address).close()
        thread.join(timeout)
        if thread.is_alive():
            util.sub_warning("the resource sharer's thread did not stop when asked")
        listener.close()

    def _start(self) -> None:
        from .connection import Listener

        util.debug("starting the thread that hands out descriptors")
        # An abstract name leaves no file behind and stays until the socket is closed, while a
        # path is unlinked early in an orderly exit, when descriptors are still to be fetched.
        # Without a key: the listener would shake hands inside accept(), where one silent
        # caller could block all the others. Each caller is authenticated in its own thread.
        address = f"\0sidestep-descriptors-{secrets.token_hex(16)}"
        self._listener = Listener(address, "AF_UNIX", backlog=128)
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._accept_loop,
            args=(self._listener, self._stopping),
            name="sidestep-resource-sharer",
            daemon=True,
        )
        # The mask is inherited: signals belong to the threads of the program.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        # A priority below zero: behind the joining of children, which may be about to fetch.
        util.Finalize(None, self._leave, exitpriority=-5)

    def _accept_loop(self, listener: Listener, stopping: threading.Event) -> None:
        while not stopping.is_set():
            try:
                conn: Connection = listener.accept()
            except OSError:
                if stopping.is_set():
                    return
                if not util.is_exiting():
                    sys.excepthook(*sys.exc_info())
                time.sleep(0.05)  # out of descriptors, say: do not spin until some are free
                continue
            if stopping.is_set():
                conn.close()
                return
            handover = threading.Thread(
                target=self._redeem, args=(conn,), name="sidestep-resource-handover", daemon=True
            )
            try:
                handover.start()
            except RuntimeError:
                # From 3.12 on an interpreter at its end starts no thread. A caller that says
                # nothing then keeps the others waiting, but no longer than the exit waits.
                self._redeem(conn)

    def _redeem(self, conn: Connection) -> None:
        from .connection import answer_challenge, deliver_challenge

        try:
            with conn:
                key = process.current_process().authkey
                deliver_challenge(conn, key)
                answer_challenge(conn, key)
                number, receiver = conn.recv()
                with self._changed:
                    send, close = self._cache.pop(number)
                    self._handovers += 1
                try:
                    send(conn, receiver)
                finally:
                    close()
                    with self._changed:
                        self._handovers -= 1
                        self._changed.notify_all()
        except Exception as error:
            # The receiver died, is a stranger, or came twice. It finds its own connection
            # closed and raises; there is nobody else to tell.
            util.info("a descriptor was not handed over: %r", error)

    def _leave(self) -> None:
        """Wait for the tickets that are out, then stop."""
        limit = _EXIT_WAIT_ROOT_S if process.parent_process() is None else _EXIT_WAIT_CHILD_S
        with self._changed:
            if not self._changed.wait_for(self._all_handed_over, limit):
                util.sub_warning(
                    f"{len(self._cache)} descriptors were sent and not fetched in time"
                )
        self.stop(timeout=limit)

    def _all_handed_over(self) -> bool:
        return not self._cache and not self._handovers

    def _after_fork(self) -> None:
        # The thread and the tickets are the parent's; what we hold are mere copies.
        for _send, close in self._cache.values():
            close()
        self._cache.clear()
        self._handovers = 0
        self._changed = threading.Condition(threading.Lock())
        if self._listener is not None:
            self._listener.close()  # our copy of the socket
        self._listener = self._thread = None


_resource_sharer = _ResourceSharer()
stop = _resource_sharer.stop
