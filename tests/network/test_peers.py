"""Our listeners and clients with those of the standard library, of any version, in both roles.

Python 3.11 has the older form of the handshake, 3.12 and later ones have the newer one.
"""

import functools
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sidestep.connection import Client, Listener
from sidestep.context import AuthenticationError

FIND = Path(__file__).parents[2] / "scripts" / "find-python"
VERSIONS = ("3.11", "3.12", "3.13")

THEIR_CLIENT = """
import sys
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
address = (sys.argv[1], int(sys.argv[2])) if len(sys.argv) > 2 else sys.argv[1]
try:
    Client(address, authkey=b"another")
except AuthenticationError:
    with Client(address, authkey=b"shared") as conn:
        conn.send(conn.recv() + ["answer"])
"""
THEIR_LISTENER = """
import sys
from multiprocessing import AuthenticationError
from multiprocessing.connection import Listener
with Listener(family=sys.argv[1], authkey=b"shared") as listener:
    address = listener.address
    print(*(address if isinstance(address, tuple) else [address]), flush=True)
    try:
        listener.accept()
    except AuthenticationError:
        with listener.accept() as conn:
            conn.send(conn.recv() + ["answer"])
"""


@functools.cache
def interpreter(version: str) -> str:
    """An interpreter of that version, without our package."""
    told = subprocess.run([FIND, version], capture_output=True, text=True)
    if told.returncode == 0:
        return told.stdout.strip()
    pytest.skip(f"no Python {version} was found")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("family", ["AF_INET", "AF_UNIX"])
def test_their_client_meets_our_listener(version: str, family: str) -> None:
    with Listener(family=family, authkey=b"shared") as listener:
        address: Any = listener.address
        words = map(str, address if isinstance(address, tuple) else [address])
        with subprocess.Popen([interpreter(version), "-I", "-c", THEIR_CLIENT, *words]) as peer:
            with pytest.raises(AuthenticationError):
                listener.accept()
            with listener.accept() as conn:
                conn.send(["question"])
                assert conn.recv() == ["question", "answer"]
            assert peer.wait() == 0


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("family", ["AF_INET", "AF_UNIX"])
def test_our_client_meets_their_listener(version: str, family: str) -> None:
    command = [interpreter(version), "-I", "-c", THEIR_LISTENER, family]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as peer:
        assert peer.stdout is not None
        words = peer.stdout.readline().split()
        address: Any = (words[0], int(words[1])) if len(words) > 1 else words[0]
        with pytest.raises(AuthenticationError):
            Client(address, authkey=b"another")
        with Client(address, authkey=b"shared") as conn:
            conn.send(["question"])
            assert conn.recv() == ["question", "answer"]
        assert peer.wait() == 0
