"""What is done with bytes from elsewhere in Python: the codec's messages and a manager's requests.

The tests beside this decode what `fuzz/corpus` keeps and some hundred variations of it. For longer:

    python tests/property/decoders.py codec --seconds 60          (make fuzz calls it)
"""

import argparse
import contextlib
import pickle
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sidestep import _sidestep
from sidestep.connection import Client, Connection
from sidestep.managers import SyncManager

CORPUS = Path(__file__).resolve().parents[2] / "fuzz" / "corpus"
FOUND = Path(__file__).resolve().parents[2] / "target" / "fuzz" / "found"

# Where lengths and types change, as seen from a decoder.
EDGES = [0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF]


def kept(name: str) -> list[bytes]:
    """The kept inputs of a target, in the same order everywhere."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


def vary(dice: random.Random, inputs: list[bytes]) -> bytes:
    """One of the inputs, somewhat damaged."""
    data = bytearray(dice.choice(inputs))
    for _ in range(dice.randint(1, 6)):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(5):
            case 0:
                data[at : at + 1] = bytes([dice.choice(EDGES)])
            case 1:
                data[at : at + 1] = dice.randbytes(1)
            case 2:
                del data[at:]
            case 3:
                data[at:at] = dice.randbytes(dice.choice([1, 2, 4, 8]))
            case _:
                other = dice.choice(inputs)
                start = dice.randrange(len(other) + 1)
                data[at:] = other[start:]
    return bytes(data)


def codec(data: bytes) -> None:
    """Decode a message. The first byte says how many buffers came with it.

    Pickles are left out: who can send one can have anything done, there is nothing to be decoded
    safely.
    """
    head = data[1:]
    if not head or head[0] == 0x80:
        return
    buffers = [bytearray(b"\xc3\xa4" * 20_000) for _ in range(data[0] % 4)]
    with contextlib.suppress(pickle.UnpicklingError, UnicodeDecodeError, TypeError):
        value = _sidestep._codec_loads(head, buffers)
        # What was rebuilt is a sound object: it goes round once more.
        again, more = _sidestep._codec_dumps(value)
        buffers = [bytearray(part) for part in more]
        assert repr(_sidestep._codec_loads(again, buffers)) == repr(value)


class Servers:
    """A manager whose server gets anything for a request, from clients that know the key."""

    def __init__(self) -> None:
        self._manager = SyncManager(authkey=b"a key")
        self._manager.start()
        self._honest = self._manager.list([1, 2, 3])
        self._pid = self._manager._process.pid
        self._strange: Connection[Any, Any] | None = None

    def request(self, data: bytes) -> None:
        """Send a request as the first on a connection and as a later one."""
        if b"shutdown" in data:
            return
        with contextlib.suppress(EOFError, OSError):
            with Client(self._manager.address, authkey=b"a key") as conn:
                conn.send_bytes(data)
                if data[:1] and data[-1:] != b"." and conn.poll(0.01):
                    conn.recv_bytes()
            with Client(self._manager.address, authkey=b"a key") as conn:
                conn.send((None, "accept_connection", ("a stranger",), {}))
                conn.recv_bytes()
                conn.send_bytes(data)
        # An honest client is served as before, by the same process.
        assert self._honest._callmethod("__len__") >= 0
        assert self._manager._process.pid == self._pid and self._manager._process.is_alive()

    def close(self) -> None:
        """End the server."""
        del self._honest
        self._manager.shutdown()


@contextlib.contextmanager
def target(name: str) -> Iterator[Callable[[bytes], None]]:
    """The function that gets the inputs of a target."""
    if name == "codec":
        yield codec
        return
    servers = Servers()
    try:
        yield servers.request
    finally:
        servers.close()


def main() -> None:
    """Fuzz for some seconds, and say how many inputs that were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=["codec", "manager"])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    options = parser.parse_args()
    print(f"--seed {options.seed}", flush=True)
    dice = random.Random(options.seed)
    inputs = kept(options.target)
    FOUND.mkdir(parents=True, exist_ok=True)
    last = FOUND / f"{options.target}-last"
    end = time.monotonic() + options.seconds
    count = 0
    with target(options.target) as decode:
        while time.monotonic() < end:
            data = vary(dice, inputs)
            # Here is what it was, should the interpreter not survive it.
            last.write_bytes(data)
            decode(data)
            count += 1
    last.unlink(missing_ok=True)
    print(f"{count} inputs")


if __name__ == "__main__":
    main()
