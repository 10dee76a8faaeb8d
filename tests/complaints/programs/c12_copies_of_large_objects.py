"""Large objects are copied several times, since buffers travel inside of the pickle."""

import multiprocessing
import pickle
from typing import Any

import facts

LARGE = 64 << 20


class Picture:
    """Something with a buffer, as arrays are."""

    def __init__(self, pixels: Any, protocol: int = 0) -> None:
        self.pixels = pixels
        self.protocol = protocol

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        if protocol >= 5:
            return Picture, (pickle.PickleBuffer(self.pixels), protocol)
        return Picture, (bytes(self.pixels), protocol)


def face_buffers_travel_by_themselves() -> None:
    """An object is asked for its buffers, as protocol 5 of pickle knows them."""
    queue: Any = multiprocessing.Queue()
    queue.put(Picture(bytearray(b"pixels" * 10)))
    found = queue.get()
    assert bytes(found.pixels) == b"pixels" * 10
    assert found.protocol >= 5, f"pickled by protocol {found.protocol}"


def peak() -> int:
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM"):
                return int(line.split()[1]) << 10
    raise AssertionError("the kernel does not say")


def face_one_copy_to_send() -> None:
    """What is sent exists twice at most: as the sender's own, and on its way."""
    queue: Any = multiprocessing.Queue()
    receiver = multiprocessing.Process(target=swallow, args=(queue,))
    receiver.start()
    picture = Picture(bytearray(b"x") * LARGE)
    before = peak()
    queue.put(picture)
    receiver.join()
    copies = (peak() - before) / LARGE
    assert copies < 1.5, f"{copies:.1f} copies"


def swallow(queue: Any) -> None:
    assert len(queue.get().pixels) == LARGE


if __name__ == "__main__":
    facts.choose(globals())
