"""Answers every import of `multiprocessing` with this package.

This text has two readers. Inside the package it is a module. A shadow (see `_shadow`) has a copy
of it as the very first thing that an interpreter runs, when there is nothing to import but what
is built in: so it imports nothing else.
"""

import _frozen_importlib as machinery
import _frozen_importlib_external as files
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

_ORIGINAL = "multiprocessing"
_PACKAGE = "sidestep"


class Alias:
    """Finder and loader: `multiprocessing.X` is the very module `sidestep.X`, no copy of it."""

    # Where the package lies: it is found whatever sys.path holds, and no other one is.
    place: str
    # The shadow's interpreter, or None outside of one.
    shadow: "str | None" = None

    @classmethod
    def find_spec(
        cls, fullname: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "machinery.ModuleSpec | None":
        """Claim `multiprocessing`, all that is below it, and the package itself."""
        if fullname == _PACKAGE:
            return files.PathFinder.find_spec(fullname, [cls.place])
        if fullname == "sitecustomize" and cls.shadow is not None:
            # The module `site` has done its part: see `enter`.
            sys.executable = cls.shadow
        if fullname.partition(".")[0] == _ORIGINAL:
            return machinery.ModuleSpec(fullname, cls)  # type: ignore[arg-type]
        return None

    @staticmethod
    def create_module(spec: "machinery.ModuleSpec") -> "ModuleType":
        """Return the package's module."""
        name = _PACKAGE + spec.name.removeprefix(_ORIGINAL)
        __import__(name)
        module = sys.modules[name]
        # The import system is about to put `spec` in its place.
        spec.loader_state = module.__spec__
        return module

    @staticmethod
    def exec_module(module: "ModuleType") -> None:
        """Give the module, which has run already, its own spec back."""
        spec = module.__spec__
        assert spec is not None
        module.__spec__ = spec.loader_state


def install(place: str) -> None:
    """Answer imports of `multiprocessing` from now on.

    Args:
        place: The directory that the package lies in.
    """
    Alias.place = place
    sys.meta_path.insert(0, Alias)


def enter(
    root: str, place: str, executable: str, library: "list[str]", stdlib: str, prefixes: "list[str]"
) -> None:
    """Turn the shadow's interpreter that has just started into the one it is the shadow of.

    Paths, prefixes and packages become those of the original, as if it had been started itself.
    What stays different is `sys.executable`, so that children are shadows too.

    Args:
        root: The shadow's directory.
        place: The directory that the package lies in.
        executable: The original interpreter.
        library: Entries of its sys.path for the standard library.
        stdlib: Its directory of Python modules.
        prefixes: Its base prefix, and that for what depends on the machine.
    """
    sys.path[:] = [entry for entry in sys.path if not entry.startswith(root)] + library
    sys.path_importer_cache.clear()
    for module in sys.modules.values():
        # Frozen into the interpreter, yet they say where they would lie in its library.
        file: str = getattr(module, "__file__", "")
        if file.startswith(root):
            module.__file__ = stdlib + file.removeprefix(sys._stdlib_dir)  # type: ignore[attr-defined]
    sys._stdlib_dir = stdlib  # type: ignore[attr-defined]
    sys.prefix, sys.exec_prefix = sys.base_prefix, sys.base_exec_prefix = prefixes
    install(place)
    if sys.executable.startswith(root):
        Alias.shadow = sys.executable
        if not sys.flags.no_site:
            # The module `site`, which runs next, finds a virtual environment by this.
            sys.executable = executable
    # The original of the module that this runs in place of.
    del sys.modules["encodings"]
    __import__("encodings")
