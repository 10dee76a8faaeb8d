"""What workers call. Imports nothing: a child that starts has only its package to import."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def nothing(*_: Any) -> None:
    pass


def cube(number: int) -> int:
    return number * number * number


def changed(array: Any) -> Any:
    """The array itself, with all of it changed."""
    array *= 2
    return array


def doubled(array: Any) -> Any:
    """A new array: some packages lend the one they bring, and it may not be changed."""
    return array * 2
