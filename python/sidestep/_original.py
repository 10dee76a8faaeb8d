"""The standard library's `multiprocessing`, where it is within reach: the only module that knows.

The package is either *alone*: it goes by the name of `multiprocessing` and the original cannot
be imported; or it stands *beside* the original. Then other libraries must recognise our objects
as the standard library's: they test `isinstance`, replace methods of its classes, register
reducers with its pickler and ask it which process this is. So our classes descend from its
classes, and who is running, what is registered and which errors there are is kept in one place
for both: its own. No behaviour is taken from it.
"""

import importlib
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any, TypeVar

    _Class = TypeVar("_Class", bound=type[Any])

__all__ = [
    "BESIDE",
    "ErrorRoot",
    "Root",
    "descend",
    "loaded",
    "module",
    "replaced",
    "same",
    "when_imported",
]

_NAME = "multiprocessing"


def _is_beside() -> bool:
    try:
        found = importlib.import_module(_NAME)
    except ImportError:
        return False
    # Where this package goes by the name, what is found is the package itself, or the stand-in
    # that is just importing it and has nothing in it yet.
    return found.__name__ == _NAME and hasattr(found, "Process")


BESIDE = _is_beside()


def module(name: str) -> "ModuleType | None":
    """Return the original's module `name`, importing it; None if the package is alone."""
    return importlib.import_module(f"{_NAME}.{name}") if BESIDE else None


def loaded(name: str) -> "ModuleType | None":
    """Return the original's module `name` if the program has imported it, else None."""
    return sys.modules.get(f"{_NAME}.{name}") if BESIDE else None


def replaced(name: str, *path: str) -> "Any":
    """Return what somebody has put in place of a function of the original's, or None.

    Tools that measure or trace children replace what starts them, in the original only.

    Args:
        name: The module of the original.
        path: Where the function is: its name, or the class's and its own.
    """
    found: Any = loaded(name)
    for part in path:
        found = getattr(found, part, None)
    if found is None or getattr(found, "__module__", None) == f"{_NAME}.{name}":
        return None
    return found


# --- one thing for both ------------------------------------------------------------------------


def same(name: str) -> "Callable[[_Class], _Class]":
    """Put the original's class in place of the decorated one, which serves only alone.

    For what must be one thing for both packages: errors that are caught, registries.
    """

    def decorate(cls: "_Class") -> "_Class":
        found: _Class = getattr(module(name), cls.__name__) if BESIDE else cls
        return found

    return decorate


# --- what waits for the original ------------------------------------------------------------------

# By module of the original that was not imported yet: what is to be done when it is.
_waiting: "dict[str, list[Callable[[Any], object]]]" = {}


def when_imported(name: str, act: "Callable[[Any], object]") -> None:
    """Have `act` called with the original's module `name` when it is imported, at once if it was.

    Importing costs time, and nobody can have to do with a module that is not imported.
    """
    if not BESIDE:
        return
    if loaded(name) is not None:
        # If another thread is just importing it, this waits for that.
        act(module(name))
        return
    if not _waiting:
        sys.meta_path.insert(0, _Finder)
    _waiting.setdefault(f"{_NAME}.{name}", []).append(act)


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


class _Finder:
    """Finds modules of the original as the others do, and acts once they have run."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        if fullname not in _waiting:
            return None
        for finder in sys.meta_path:
            if finder is cls:
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                _act_after(spec.loader)
                return spec
        return None


def _act_after(loader: "Any") -> None:
    """Have the loader, once it has run its module, do what waits for it."""
    run = loader.exec_module

    def exec_module(module: "ModuleType") -> None:
        run(module)
        for act in _waiting.pop(module.__name__, ()):
            act(module)

    loader.exec_module = exec_module
