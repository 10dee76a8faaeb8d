"""Acting on imports that others do: what a program does not import costs nothing here."""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

__all__ = ["loaded", "when_imported"]

# By module that was not imported yet: what is to be done when it is.
_waiting: "dict[str, list[Callable[[Any], object]]]" = {}


def loaded(name: str) -> "ModuleType | None":
    """Return the module `name` if the program has imported it, else None.

    None, too, if the name leads to another module: this package goes by the name of another one.
    """
    found = sys.modules.get(name)
    return found if getattr(found, "__name__", None) == name else None


def when_imported(name: str, act: "Callable[[Any], object]") -> None:
    """Have `act` called with the module `name` when it is imported, at once if it was."""
    if loaded(name) is not None:
        # If another thread is just importing it, this waits for that.
        __import__(name)
        act(sys.modules[name])
        return
    if not _waiting:
        sys.meta_path.insert(0, _Finder)
    _waiting.setdefault(name, []).append(act)


class _Finder:
    """Finds the modules that are waited for as the others do, and acts once they have run."""

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
            if spec is None:
                continue
            # Where one of ours goes by the name, there is no place that it comes from.
            if spec.loader is None or spec.origin is None:
                return None
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
