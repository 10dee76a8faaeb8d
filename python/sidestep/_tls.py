"""Connections through TLS: what `tls=` of listeners, clients and managers means.

OpenSSL does the work, by way of the standard library's `ssl`: a *session* holds its state and
exchanges bytes with it in memory, so that the same session can stand on the porch of a listener
(where the engine moves the bytes) and serve a `TlsConnection` afterwards.

    messages <-> frames <-> session (plain bytes <-> records of TLS) <-> socket
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import ssl
import threading
import time
from typing import Any

from . import _sidestep, reduction, util
from .connection import TLS, Address, Connection, SocketClient, _closed_on_error
from .context import BufferTooShort

__all__ = ["Session", "TlsConnection", "connect", "context_of", "server_name"]

# Most that is encrypted, or read from the socket, at once.
_PIECE = 1 << 16
# The longest wait of poll(2), in milliseconds.
_LONGEST_WAIT = 2**31 - 1
# How each client of TLS begins.
_RECORD_OF_HANDSHAKE = b"\x16"
_SHORT_MAX = 0x7FFFFFFF


def context_of(tls: TLS | ssl.SSLContext, server_side: bool) -> ssl.SSLContext:
    """The OpenSSL context of one side.

    Raises:
        TypeError: `tls` is something else, or a context for the other side.
        ValueError: A listener without a certificate.
        OSError: A file is missing or unreadable, and named in the error, or is no certificate or
            key (`ssl.SSLError`).
    """
    if isinstance(tls, ssl.SSLContext):
        wrong = ssl.PROTOCOL_TLS_CLIENT if server_side else ssl.PROTOCOL_TLS_SERVER
        if tls.protocol == wrong:
            raise TypeError(
                f"tls is a context for a {'client' if server_side else 'server'}, and this is the "
                "other side"
            )
        return tls
    if not isinstance(tls, TLS):
        raise TypeError(
            f"tls must be a sidestep.connection.TLS or an ssl.SSLContext, not {type(tls).__name__}"
        )
    for path in (tls.certfile, tls.keyfile, tls.cafile):
        if path is not None:
            # OpenSSL's error would not say which one.
            open(path, "rb").close()
    if server_side:
        if tls.certfile is None:
            raise ValueError("a listener needs TLS(certfile=...): its callers want to see it")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # A session lives as long as its connection: there is nothing to resume. (A ticket that
        # is never read would reset the connection when the client closes it.)
        context.num_tickets = 0
        if tls.cafile is not None:
            context.load_verify_locations(tls.cafile)
        if tls.wants_certificates:
            context.verify_mode = ssl.CERT_REQUIRED
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if tls.cafile is not None:
            context.load_verify_locations(tls.cafile)
        else:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if tls.certfile is not None:
        context.load_cert_chain(tls.certfile, tls.keyfile)
    # Both sides are new enough, and there is nothing to negotiate that could be weak.
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def server_name(tls: TLS | ssl.SSLContext, context: ssl.SSLContext, address: Address) -> str | None:
    """The name that the server's certificate has to have.

    Raises:
        ValueError: There is none, and the certificate would be checked against it.
    """
    name = tls.hostname if isinstance(tls, TLS) else None
    if name is None and isinstance(address, tuple):
        name = address[0]
    if name is None and context.check_hostname:
        raise ValueError(
            f"{address!r} is no host whose certificate could be checked: say with "
            "TLS(hostname=...) what name it has"
        )
    return name


def connect(address: Address, family: str, tls: TLS | ssl.SSLContext) -> TlsConnection:
    """Connect to a listener and open TLS, as its client.

    Raises:
        OSError: Nobody listens there, or TLS does not come about (`ssl.SSLError`).
    """
    context = context_of(tls, server_side=False)
    session = Session(context, False, server_name(tls, context, address))
    plain = SocketClient(address, family)
    handle, plain._handle = plain._handle, None
    assert handle is not None
    connection = TlsConnection(handle, session)
    with _closed_on_error(connection):
        connection._handshake()
    return connection


class Session:
    """The state of TLS for one connection, with the bytes on either side of it in memory."""

    def __init__(
        self, context: ssl.SSLContext, server_side: bool, hostname: str | None = None
    ) -> None:
        # OpenSSL does not want two threads in one session, and a connection has two directions.
        self.lock = threading.Lock()
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self.incoming, self.outgoing, server_side=server_side, server_hostname=hostname
        )
        self._open = False
        self._early = b""
        self._opening = b""

    def pass_(self, wire: bytes, plain: bytes, wants: int) -> tuple[bytes, bytes, bool, str | None]:
        """One turn of a session whose bytes the engine moves.

        Args:
            wire: Bytes that have come from the socket.
            plain: Bytes to be encrypted.
            wants: How many plain bytes are wanted at most.

        Returns:
            Plain bytes; bytes for the socket; whether the session is open; or why it is not, and
            will not be, as a clause of its own.
        """
        received, fault = b"", None
        self._early += plain
        try:
            self.incoming.write(wire)
            self._opening = self._opening or wire[:1]
            if not self._open:
                self.tls.do_handshake()
                self._open = True
            if self._early:
                self.tls.write(self._early)
                self._early = b""
            if wants:
                received = self.tls.read(wants)
                if not received:
                    fault = "it left within the handshake"
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            fault = f"TLS failed: {error.reason or error}"
            if self._opening != _RECORD_OF_HANDSHAKE:
                fault = "the other side does not speak TLS: is it a client without tls=?"
        return received, self.outgoing.read(), self._open, fault


class _Wire:
    """A session on its socket: what moves between the two.

    Apart from the connection, so that its goodbye can outlive it.
    """

    def __init__(self, session: Session, fd: int) -> None:
        self.session = session
        self.fd = fd
        # Whether nothing can be sent any more; what has come before can still be read.
        self.broken = False
        # One for each direction, and one each that is set between doing something and noting it.
        self._writing, self._reading = threading.Lock(), threading.Lock()
        self._torn_out = self._torn_in = False
        self._unsent = b""
        self._pid = os.getpid()

    def check_process(self) -> None:
        """The keys change with every record: two processes cannot share them."""
        if not self.is_mine():
            raise OSError(
                errno.EINVAL,
                f"a TLS connection can only be used by the process that made it ({self._pid}): "
                "accept or connect where it is used",
            )

    def is_mine(self) -> bool:
        """Whether this process made the connection."""
        return os.getpid() == self._pid

    def flush(self, wait: bool = True) -> None:
        """Send the records that the session has for the peer.

        Without waiting it is no matter if the peer has gone: who sends will be told.
        """
        session = self.session
        while not self.broken and (self._unsent or session.outgoing.pending):
            if not self._writing.acquire(blocking=wait):
                return  # whoever writes takes these along
            try:
                # Taken and sent by one thread at a time: records have an order.
                _refuse_torn(self._torn_out)
                self._torn_out = True
                if not self._unsent:
                    self._unsent = session.outgoing.read(_PIECE)
                # Where it waits is no place where anything is lost: an exception may come there.
                self._torn_out = False
                while self._unsent:
                    if not _poll(self.fd, select.POLLOUT, None if wait else 0):
                        return
                    self._torn_out = True
                    try:
                        self._unsent = self._unsent[_sidestep.send_now(self.fd, self._unsent) :]
                    except OSError as error:
                        if error.errno is None:
                            raise  # a handler's own
                        self.broken, self._torn_out = True, False
                        if wait:
                            raise
                        return
                    self._torn_out = False
            finally:
                self._writing.release()
        if wait and self.broken:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    def fill(self) -> bool:
        """Read what the socket has; never waits. Whether there was anything, or the end."""
        with self._reading:
            _refuse_torn(self._torn_in)
            if not _poll(self.fd, select.POLLIN, 0):
                return False  # another thread was faster
            self._torn_in = True
            try:
                wire = os.read(self.fd, _PIECE)
            except OSError as error:
                self._torn_in = error.errno is None
                raise
            with self.session.lock:
                if wire:
                    self.session.incoming.write(wire)
                else:
                    self.session.incoming.write_eof()
            self._torn_in = False
            return True

    def goodbye(self) -> None:
        """Tell the peer that this is the end, and not an accident; never waits."""
        if not self.is_mine():
            return
        try:
            with self.session.lock:
                try:
                    self.session.tls.unwrap()
                except ssl.SSLWantReadError:
                    pass  # its own goodbye need not be waited for
            self.flush(wait=False)
        except (OSError, ValueError):
            pass  # it is gone already


def _refuse_torn(torn: bool) -> None:
    """Raise if an exception came between doing something and noting it.

    A handler of a signal can raise at any point of Python code. What it has cut would go on as
    garbage.
    """
    if torn:
        raise OSError(
            errno.EIO, "an exception of a signal handler has cut the connection within a message"
        )


def _end_of(error: ssl.SSLError) -> Exception:
    """What it means for a connection that its session can read no more."""
    if isinstance(error, ssl.SSLZeroReturnError):
        return EOFError()
    if isinstance(error, ssl.SSLEOFError):
        return ConnectionResetError(
            errno.ECONNRESET,
            "the connection was cut: the other side was killed, or somebody on the way did it",
        )
    return error.with_traceback(None)


def _anew(end: Exception) -> Exception:
    """The end of a connection to be raised: a kept one would collect tracebacks."""
    error = type(end)(*end.args)
    error.__dict__.update(end.__dict__)
    return error


def _poll(fd: int, events: int, milliseconds: float | None) -> bool:
    poller = select.poll()
    poller.register(fd, events)
    return bool(poller.poll(milliseconds))


class TlsConnection(Connection):
    """A `Connection` whose bytes are encrypted; made by `Client` and `Listener` with `tls=`.

    Used as any other, by one thread at a time for each direction. It belongs to the process that
    made it: it can neither be pickled nor used by a fork. `fileno` is the socket's: what has been
    decrypted ahead does not show there, so wait with `poll` or `connection.wait`.

    If the other side closes, `recv` raises EOFError. If it is killed, or somebody on the way cuts
    the line, that is a ConnectionResetError: nobody but the other side can make an end look
    orderly.
    """

    _reads_ahead = True

    def __init__(self, handle: int, session: Session) -> None:
        super().__init__(handle)
        self._wire = _Wire(session, handle)
        self._received = bytearray()
        self._end: Exception | None = None
        self._half_sent = b""
        # One for each direction, as those of the wire.
        self._torn_in = self._torn_out = False
        self._goodbye = util.Finalize(self, self._wire.goodbye, exitpriority=-100)

    def _handshake(self) -> None:
        """The client's side of opening the session."""
        session = self._wire.session
        while True:
            try:
                with session.lock:
                    session.tls.do_handshake()
            except ssl.SSLWantReadError:
                self._wire.flush()
                _poll(self._wire.fd, select.POLLIN, None)
                self._wire.fill()
                continue
            except ssl.SSLEOFError as error:
                raise ConnectionResetError(
                    errno.ECONNRESET, "the other side closed the connection instead of opening TLS"
                ) from error
            finally:
                self._wire.flush(wait=False)  # an alert, if it failed
            self._wire.flush()
            return

    # Sending.

    def _check(self) -> None:
        """Refuse to go on when closed, or in another process."""
        if self.closed:
            raise OSError("handle is closed")
        self._wire.check_process()

    def _send_frame(self, body: Any) -> None:
        _refuse_torn(self._torn_out)
        try:
            self._refuse_broken()
            self._send_whole(body)
        except OSError:
            if self._wire.broken:
                self._read_ahead()
                self._refuse_broken()
            raise

    def _refuse_broken(self) -> None:
        """Raise if nothing can be sent any more: the reason that the peer gave, if it did."""
        if isinstance(self._end, ssl.SSLError):
            raise _anew(self._end)
        if self._wire.broken:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    def _read_ahead(self) -> None:
        """Take in what came before the line broke: a reason may stand behind the messages."""
        if not _poll(self._wire.fd, select.POLLRDHUP, 0):
            return  # the peer is there: another thread may wait for what comes
        with contextlib.suppress(OSError):  # who receives will be told
            while self._end is None and self._wire.fill():
                while self._end is None and self._decrypt_more():
                    pass

    def _send_whole(self, body: Any) -> None:
        length = len(body)
        if length <= _SHORT_MAX:
            header = length.to_bytes(4, "big")
        else:
            header = b"\xff\xff\xff\xff" + length.to_bytes(8, "big")
        if self._half_sent:
            # An exception out of a signal handler has cut the last message.
            self._send_all(memoryview(self._half_sent))
        first = min(length, _PIECE)
        self._send_all(memoryview(b"%s%s" % (header, body[:first])), body[first:])

    def _send_all(self, *parts: memoryview) -> None:
        session = self._wire.session
        left = list(parts)
        begun = False
        try:
            while left:
                if not left[0]:
                    del left[0]
                    continue
                with session.lock:
                    self._torn_out = True
                    sent = session.tls.write(left[0][:_PIECE])
                    left[0] = left[0][sent:]
                    begun = True
                    self._torn_out = False
                self._wire.flush()
        except BaseException as error:
            if isinstance(error, ssl.SSLError):
                self._torn_out = False  # a reason of its own, which the next call will meet again
            if begun:
                self._half_sent = b"".join(left)
            raise
        self._half_sent = b""

    def send(self, obj: Any) -> None:
        """Send an object; see `Connection.send`."""
        self._check()
        self._send_frame(memoryview(reduction.ForkingPickler.dumps(obj)))

    def send_bytes(self, buf: Any, offset: int = 0, size: int | None = None) -> None:
        """Send bytes of a buffer as one message; see `Connection.send_bytes`."""
        self._check()
        view = memoryview(buf)
        if view.itemsize != 1 or view.ndim != 1:
            view = view.cast("B")
        if offset < 0:
            raise ValueError("offset is negative")
        if len(view) < offset:
            raise ValueError("buffer length < offset")
        if size is None:
            size = len(view) - offset
        elif size < 0:
            raise ValueError("size is negative")
        elif offset + size > len(view):
            raise ValueError("buffer length < offset + size")
        self._send_frame(view[offset : offset + size])

    # Receiving.

    def _decrypt(self) -> bool:
        """Move what the session has to `_received`; whether there is anything, or the end."""
        if self._received or self._end is not None:
            return True
        return self._decrypt_more()

    def _decrypt_more(self) -> bool:
        with self._wire.session.lock:
            _refuse_torn(self._torn_in)
            if self._end is None:
                self._torn_in = True
                try:
                    plain = self._wire.session.tls.read(_PIECE)
                    self._received += plain
                    if not plain:
                        self._end = EOFError()
                    self._torn_in = False
                    return True
                except ssl.SSLWantReadError:
                    self._torn_in = False
                except ssl.SSLError as error:
                    self._end = _end_of(error)
                    self._torn_in = False
                    return True
        self._wire.flush(wait=False)
        return self._end is not None

    def _receive_until(self, count: int) -> None:
        """Wait until that many bytes have come."""
        while True:
            # Looked at first: a thread that sends may add the last bytes, and the end, at any time.
            end = self._end
            if len(self._received) >= count:
                return
            if end is not None:
                if self._received and isinstance(end, EOFError):
                    raise OSError("got end of file during message")
                raise _anew(end)
            if not self._decrypt_more():
                _poll(self._wire.fd, select.POLLIN, None)
                self._fill()

    def _fill(self) -> None:
        try:
            self._wire.fill()
        except OSError as error:
            if error.errno is None:
                raise  # a handler's own
            if self._end is None:
                self._end = error.with_traceback(None)

    def _receive(self, limit: int | None = None) -> bytes:
        self._check()
        self._receive_until(4)
        start = 4
        length = int.from_bytes(self._received[:4], "big", signed=True)
        if length == -1:
            self._receive_until(12)
            start = 12
            length = int.from_bytes(self._received[4:12], "big")
        if length < 0 or (limit is not None and length > limit):
            self.close()
            raise OSError("bad message length")
        # Nothing is set aside for what is announced: the buffer grows with what comes.
        self._receive_until(start + length)
        # A thread that sends may have to read ahead.
        with self._wire.session.lock:
            with memoryview(self._received) as view:
                message = bytes(view[start : start + length])
            del self._received[: start + length]
        return message

    def recv(self) -> Any:
        """Wait for an object; see `Connection.recv`."""
        return reduction.ForkingPickler.loads(self._receive())

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """Wait for a message; see `Connection.recv_bytes`."""
        if maxlength is not None and maxlength < 0:
            raise ValueError("negative maxlength")
        return self._receive(maxlength)

    def recv_bytes_into(self, buf: Any, offset: int = 0) -> int:
        """Wait for a message and put it into a buffer; see `Connection.recv_bytes_into`."""
        self._check()
        with memoryview(buf) as given, given.cast("B") as view:
            if view.readonly:
                raise TypeError("the buffer is read-only")
            if offset < 0:
                raise ValueError("negative offset")
            if offset > len(view):
                raise ValueError("offset too large")
            message = self._receive()
            if offset + len(message) > len(view):
                raise BufferTooShort(message)
            view[offset : offset + len(message)] = message
        return len(message)

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Tell whether there is something to receive; see `Connection.poll`."""
        self._check()
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._decrypt():
            left: float | None = None
            if deadline is not None:
                left = min(max(0.0, deadline - time.monotonic()) * 1000, _LONGEST_WAIT)
            if _poll(self._wire.fd, select.POLLIN, left):
                self._fill()
            elif deadline is not None and time.monotonic() >= deadline:
                return False
        return True

    def _probe(self) -> bool:
        return self.poll(0.0)

    def close(self) -> None:
        """Say goodbye and close the socket; see `Connection.close`."""
        if not self.closed:
            self._goodbye()
        super().close()
