"""The standard library's `multiprocessing`, where it is within reach: the only module that knows.

The package is either *alone*: it goes by the name of `multiprocessing` and the original cannot
be imported; or it stands *beside* the original. Then other libraries must recognise our objects
as the standard library's: they test `isinstance`, replace methods of its classes, register
reducers with its pickler and ask it which process this is. So our classes descend from its
classes, and who is running, what is registered and which errors there are is one thing for
both. No behaviour is taken from it.

Nothing of it is imported here, as that would take longer than all the rest. A program that has
imported it before finds its things used here, and one that does so later finds ours there.
"""

import sys

from . import _later

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any, TypeVar

    _Class = TypeVar("_Class", bound=type[Any])

__all__ = [
    "ErrorRoot",
    "Root",
    "descend",
    "loaded",
    "module",
    "put",
    "replaced",
    "same",
    "tell_logging",
    "when_imported",
]

_NAME = "multiprocessing"


def loaded(name: str) -> "ModuleType | None":
    """Return the original's module `name` if the program has imported it, else None."""
    return _later.loaded(f"{_NAME}.{name}")


def module(name: str) -> "ModuleType | None":
    """Return what `loaded` does; if another thread is just importing it, wait for that."""
    if loaded(name) is not None:
        __import__(f"{_NAME}.{name}")
    return loaded(name)


def when_imported(name: str, act: "Callable[[Any], object]") -> None:
    """Have `act` called with the original's module `name` when it is imported, at once if it was.

    Nobody can have to do with a module that is not imported.
    """
    _later.when_imported(f"{_NAME}.{name}", act)


def replaced(name: str, *path: str) -> "Any":
    """Return what somebody has put in place of a function of the original's, or None.

    Tools that measure or trace children replace what starts them, in the original only.

    Args:
        name: The module of the original.
        path: Where the function is: its name, or the class's and its own.
    """
    found: Any = sys.modules.get(f"{_NAME}.{name}")
    if found is None or found.__name__ != f"{_NAME}.{name}":
        return None
    for part in path:
        found = getattr(found, part, None)
    if found is None or getattr(found, "__module__", None) == f"{_NAME}.{name}":
        return None
    return found


def tell_logging() -> None:
    """Have log records name this process and its children, from now on.

    `logging` asks the original for the name, but only where somebody has imported that.
    """
    global _logging_told
    if not _logging_told:
        _logging_told = True
        _later.when_imported("logging", lambda _: __import__(_NAME))


_logging_told = False


# --- one thing for both ------------------------------------------------------------------------


def same(
    name: str, take_over: "Callable[[Any], object] | None" = None
) -> "Callable[[_Class], _Class]":
    """Have one class for both packages: the original's, or the decorated one if that came first.

    For errors that are caught, and for registries.

    Args:
        name: The module of the original.
        take_over: Called with the original's class when ours takes its place.
    """

    def decorate(cls: "_Class") -> "_Class":
        theirs: Any = module(name)
        if theirs is not None:
            found: _Class = getattr(theirs, cls.__name__)
            return found

        def take_its_place(theirs: "Any") -> None:
            if take_over is not None:
                take_over(getattr(theirs, cls.__name__))
            put(theirs, cls.__name__, cls)

        when_imported(name, take_its_place)
        return cls

    return decorate


def put(theirs: "ModuleType", name: str, ours: object) -> None:
    """Put `ours` in place of what the original's module and its classes have under `name`."""
    classes = [cls for cls in vars(theirs).values() if isinstance(cls, type)]
    for namespace in (theirs, *(cls for cls in classes if cls.__module__ == theirs.__name__)):
        if name in vars(namespace):
            setattr(namespace, name, ours)


class Root:
    """Base of a class that descends and has no other: only such can get a parent later."""


class ErrorRoot(Exception):
    """The same for exceptions."""


def descend(name: str, parent: str | None = None) -> "Callable[[_Class], _Class]":
    """Make the decorated class a subclass of its counterpart in the original.

    Args:
        name: The module of the original.
        parent: The counterpart's name; the class's own by default.
    """

    def decorate(cls: "_Class") -> "_Class":
        when_imported(name, lambda found: _adopt(cls, getattr(found, parent or cls.__name__)))
        return cls

    return decorate


def _adopt(cls: "type[Any]", theirs: "type[Any]") -> None:
    # Last, so that whatever we define comes first.
    cls.__bases__ = (*cls.__bases__, theirs)
    if getattr(cls, "__del__", None) is getattr(theirs, "__del__", None) is not None:
        # It would look for what only its own objects have.
        cls.__del__ = _nothing


def _nothing(self: object) -> None:
    pass
