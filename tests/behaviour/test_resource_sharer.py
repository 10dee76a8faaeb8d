"""Descriptors that travel in pickled objects, and what becomes of them when processes end."""

import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import sidestep
from sidestep import connection, resource_sharer, util
from sidestep.resource_sharer import DupFd, DupSocket, SenderLostError


@pytest.fixture(params=["fork", "spawn", "forkserver"])
def ctx(request: pytest.FixtureRequest) -> Any:
    return sidestep.get_context(request.param)


@pytest.fixture(autouse=True)
def stopped_at_the_end() -> Iterator[None]:
    yield
    resource_sharer.stop(timeout=30)


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    """Both ends of an operating system's pipe."""
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


# --- handing over -----------------------------------------------------------------------------


def write_into_ticket(conn: Any) -> None:
    fd = pickle.loads(conn.recv_bytes()).detach()
    os.write(fd, b"from the child")
    os.close(fd)


def test_descriptor_reaches_another_process(ctx: Any, ends: tuple[int, int]) -> None:
    ours, theirs = ctx.Pipe()
    with ours, theirs:
        child = ctx.Process(target=write_into_ticket, args=(theirs,))
        child.start()
        ours.send_bytes(pickle.dumps(DupFd(ends[1])))
        assert os.read(ends[0], 100) == b"from the child"
        child.join()


def test_ticket_holds_a_copy_so_the_original_may_be_closed() -> None:
    reader, writer = os.pipe()
    ticket = DupFd(writer)
    os.close(writer)
    fetched = ticket.detach()
    os.write(fetched, b"x")
    os.close(fetched)
    assert os.read(reader, 2) == b"x"
    assert os.read(reader, 2) == b"", "the sharer has let go of its copy"
    os.close(reader)


def test_ticket_can_be_redeemed_once(ends: tuple[int, int]) -> None:
    ticket = DupFd(ends[1])
    os.close(ticket.detach())
    with pytest.raises(SenderLostError, match="fetched before"):
        ticket.detach()


def test_socket_keeps_its_family_and_its_peer() -> None:
    here, there = socket.socketpair()
    with here:
        ticket = DupSocket(there)
        there.close()
        with pickle.loads(pickle.dumps(ticket)).detach() as fetched:
            assert fetched.family == socket.AF_UNIX
            fetched.sendall(b"hello")
            assert here.recv(10) == b"hello"


def test_caller_who_says_nothing_does_not_block_the_others(ends: tuple[int, int]) -> None:
    ticket = DupFd(ends[1])
    with connection.Client(ticket._id[0]):
        os.close(ticket.detach())


def test_stranger_gets_nothing(ends: tuple[int, int]) -> None:
    ticket = DupFd(ends[1])
    with pytest.raises(sidestep.AuthenticationError):
        connection.Client(ticket._id[0], authkey=b"a wrong key")
    os.close(ticket.detach())


# --- the sender's thread ----------------------------------------------------------------------


def sharer_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "sidestep-resource-sharer"]


def test_thread_is_lazy_named_and_stops(ends: tuple[int, int]) -> None:
    assert sharer_threads() == []
    DupFd(ends[1])
    DupFd(ends[1])
    (thread,) = sharer_threads()
    assert thread.daemon
    resource_sharer.stop(timeout=30)
    assert sharer_threads() == []
    resource_sharer.stop()
    os.close(DupFd(ends[1]).detach())
    assert len(sharer_threads()) == 1


def test_stopping_gives_up_what_nobody_fetched() -> None:
    reader, writer = os.pipe()
    ticket = DupFd(writer)
    os.close(writer)
    resource_sharer.stop(timeout=30)
    assert os.read(reader, 1) == b"", "no copy is left"
    os.close(reader)
    with pytest.raises(SenderLostError):
        ticket.detach()


def report_own_tickets(conn: Any) -> None:
    sharer = resource_sharer._resource_sharer
    conn.send((len(sharer._cache), sharer._thread is None))


def test_forked_child_does_not_keep_the_parents_tickets(ends: tuple[int, int]) -> None:
    ctx = sidestep.get_context("fork")
    ticket = DupFd(ends[1])
    receiver, sender = ctx.Pipe(False)
    with receiver, sender:
        child = ctx.Process(target=report_own_tickets, args=(sender,))
        child.start()
        assert receiver.recv() == (0, True)
        child.join()
    os.close(ticket.detach())


# --- ends -------------------------------------------------------------------------------------


def send_ticket_and_end(conn: Any, reports: Any) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"late")
    conn.send_bytes(pickle.dumps(DupFd(reader)))
    # Called when the process is on its way out, before the sharer's own part in that.
    util.Finalize(None, reports.send, args=("leaving",), exitpriority=0)


def test_orderly_exit_waits_for_the_receiver(ctx: Any) -> None:
    receiver, sender = ctx.Pipe(False)
    reports, reporter = ctx.Pipe(False)
    with receiver, sender, reports, reporter:
        child = ctx.Process(target=send_ticket_and_end, args=(sender, reporter))
        child.start()
        ticket = pickle.loads(receiver.recv_bytes())
        assert reports.recv() == "leaving"
        fd = ticket.detach()
        child.join()
        assert child.exitcode == 0
        assert os.read(fd, 10) == b"late"
        os.close(fd)


def send_ticket_and_sleep(conn: Any) -> None:
    conn.send_bytes(pickle.dumps(DupFd(0)))
    threading.Event().wait()


def test_killed_sender_is_a_clear_error(ctx: Any) -> None:
    receiver, sender = ctx.Pipe(False)
    with receiver, sender:
        child = ctx.Process(target=send_ticket_and_sleep, args=(sender,))
        child.start()
        ticket = pickle.loads(receiver.recv_bytes())
        child.kill()
        child.join()
        with pytest.raises(SenderLostError, match=f"process {child.pid} cannot be fetched"):
            ticket.detach()
    assert issubclass(SenderLostError, OSError)


LEAVE_TICKET = """
import os
from sidestep.resource_sharer import DupFd
DupFd(0)
"""


def test_exit_does_not_wait_for_ever() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAVE_TICKET], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
