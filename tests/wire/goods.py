"""What the servers of the pairing tests serve: known to all peers, and to no package."""

import importlib
import threading
from collections.abc import Iterator
from typing import Any

package = ""  # the one that this process uses; set by peer.py


class Trouble(Exception):
    """An exception with arguments of its own."""

    def __init__(self, what: str, size: int) -> None:
        super().__init__(what, size)
        self.what = what
        self.size = size


class Echo:
    """Gives back what it gets, or fails with it."""

    def back(self, /, *args: Any, **kwds: Any) -> Any:
        return args, kwds

    def class_of(self, thing: Any) -> str:
        return f"{type(thing).__module__.partition('.')[2]}.{type(thing).__name__}"

    def fail(self, what: str = "", size: int = 0) -> None:
        raise Trouble(what, size)

    def fail_as_package(self, module: str, name: str, *args: Any) -> None:
        raise getattr(importlib.import_module(f"{package}.{module}"), name)(*args)

    def unpicklable(self) -> Any:
        return threading.Lock()

    def block_sum(self, block: Any) -> int:
        return sum(block.buf[:4])


class Keeper:
    """Keeps what it is given, a proxy as a rule, and uses it in the server."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def keep(self, thing: Any) -> None:
        self.kept.append(thing)

    def total(self) -> int:
        return sum(sum(thing[:]) for thing in self.kept)

    def last(self) -> Any:
        return self.kept[-1]

    def drop(self) -> None:
        self.kept.clear()


class Tree:
    """Its branches stay in the server: clients get proxies to them."""

    def __init__(self, name: str) -> None:
        self.title = name

    def name(self) -> str:
        return self.title

    def branch(self, name: str) -> "Tree":
        return Tree(f"{self.title}.{name}")


def countdown(start: int) -> Iterator[Any]:
    """A generator that also tells what is sent or thrown into it."""
    while start:
        try:
            sent = yield start
        except LookupError as error:
            sent = f"caught {error}"
        if sent is not None:
            yield sent
        start -= 1
