"""Code by value: functions and classes that another process would not find under their names.

That is lambdas, functions within functions, and what was typed in at a prompt or in a notebook.
cloudpickle takes their code, defaults and closures along. What is decided here is which of them
need that, and which globals they meet over there:

- Code of a module that can be imported meets the globals of that module.
- Code of the main module meets the globals of the main module over there. Those that it uses come
  along if the other process lacks them; what the other process has set for itself, as in an
  initializer, stays.
"""

from __future__ import annotations

import copyreg
import functools
import importlib
import io
import itertools
import os
import pickle
import sys
import threading
import weakref
from collections import ChainMap
from types import FunctionType

from . import _sidestep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import IO, Any

    from .heap import BufferWrapper

__all__ = ["Carried", "Exporter", "Main", "dump"]

_MAIN = ("__main__", "__mp_main__")


# --- what the other side has --------------------------------------------------------------------


class Main:
    """What another process has, or will have, of this process's main module.

    Args:
        forked: It is a fork of this process as it is now. Otherwise it imports the main module,
            if that can be imported.
    """

    def __init__(self, forked: bool) -> None:
        from . import spawn

        self.forked = forked
        #: The module has no file that a child could import: it is typed in as we go.
        self.typed_in = not spawn._child_gets_main()
        self._noted = {} if not forked else {k: _note(v) for k, v in _main_globals().items()}

    def has(self, obj: Any) -> bool:
        """Tell whether `obj`, a function or class, is there under its name, and is the same."""
        module = getattr(obj, "__module__", None)
        if module not in _MAIN:
            found = sys.modules.get(str(module))
            return found is not None and _find(vars(found), obj)
        if not _find(_main_globals(), obj):
            return False
        return self.has_global(obj.__qualname__.partition(".")[0])

    def has_global(self, name: str) -> bool:
        """Tell whether the other process certainly has what is here under this name.

        For a child that imports the module that holds for functions and classes only, and not
        for values, which may have been set where it does not come by.
        """
        if not self.forked:
            return not self.typed_in
        noted = self._noted.get(name, _ABSENT)
        if isinstance(noted, weakref.ref):
            noted = noted()
        return noted is _SOMETHING or noted is _main_globals().get(name, _SOMETHING)


_SOMETHING, _ABSENT = object(), object()


def _note(value: Any) -> Any:
    """Something to know `value` by, later. It does not keep anything large alive."""
    if value is None or isinstance(value, int | float | str | bytes):
        return value
    try:
        return weakref.ref(value)
    except TypeError:
        # A list, say: it counts as the same as long as the name is there.
        return _SOMETHING


def _main_globals() -> dict[str, Any]:
    return vars(sys.modules["__main__"])


def _find(namespace: Mapping[str, Any], obj: Any) -> bool:
    first, *rest = obj.__qualname__.split(".")
    found = namespace.get(first, _ABSENT)
    for part in rest:
        found = getattr(found, part, _ABSENT)
    return found is obj


class _NotFoundThereError(pickle.PicklingError):
    """The name of a function or class says nothing to the other process."""


class _NameChecker(pickle.Pickler):
    """A pickler that refuses names of the main module which the other process has not."""

    def __init__(self, main: Main) -> None:
        from . import reduction

        # Buffers are left out: it is about the names only.
        super().__init__(io.BytesIO(), 5, buffer_callback=lambda _: None)
        self.dispatch_table: Any = ChainMap(
            reduction.ForkingPickler._extra_reducers,
            copyreg.dispatch_table,
        )
        self._main = main

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type | FunctionType) and not self._main.has(obj):
            raise _NotFoundThereError(f"the other process does not have {obj!r} under its name")
        return NotImplemented


def _names_hold(obj: Any, main: Main) -> bool:
    """Tell whether `obj` can be pickled, and all names in its pickle are known over there."""
    with _sidestep.Collector() as refs:
        try:
            _NameChecker(main).dump(obj)
        except Exception:
            return False
        finally:
            refs.release()
    return True


# --- writing ------------------------------------------------------------------------------------


def dump(obj: Any, file: IO[bytes], main: Main) -> None:
    """Write a pickle of `obj` that carries the code which `main` does not have.

    Raises:
        ImportError: cloudpickle is not installed.
        Exception: What pickle and the objects' own methods raise.
    """
    _pickler_class()(file, main).dump(obj)


@functools.cache
def _pickler_class() -> type[Any]:
    cloudpickle: Any = importlib.import_module("cloudpickle")
    from . import reduction

    class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc]
        dispatch_table = ChainMap(
            reduction.ForkingPickler._extra_reducers,
            cloudpickle.Pickler.dispatch_table,
        )

        def __init__(self, file: IO[bytes], main: Main) -> None:
            super().__init__(file)
            self._main = main

        def reducer_override(self, obj: Any) -> Any:
            if not isinstance(obj, type | FunctionType):
                return super().reducer_override(obj)
            if getattr(obj, "__module__", None) in _MAIN and self._main.has(obj):
                # By name: else the other process would have two of it.
                return NotImplemented
            reduced = super().reducer_override(obj)
            if not isinstance(obj, FunctionType) or not isinstance(reduced, tuple):
                return reduced
            return _meet_globals(obj, reduced, self._main)

    return ByValuePickler


def _meet_globals(function: FunctionType, reduced: tuple[Any, ...], main: Main) -> Any:
    """Have a function, as cloudpickle has taken it apart, meet the globals of its module."""
    if len(reduced) != 6:
        return reduced
    make, (code, _, *rest), (attributes, slots), *_, set_state = reduced
    if function.__globals__ is _main_globals():
        name = "__main__"
        used = slots["__globals__"]
        brought = {k: v for k, v in used.items() if not (main.forked and main.has_global(k))}
    else:
        name = function.__module__
        module = sys.modules.get(name)
        if (
            module is None
            or vars(module) is not function.__globals__
            or getattr(module, "__spec__", None) is None
        ):
            return reduced
        brought = {}
    slots["__globals__"] = {}
    state = (set_state, attributes, slots, brought, main.forked)
    return make, (code, _Globals(name), *rest), state, None, None, _complete


class _Globals(dict):  # type: ignore[type-arg]
    """Stands for the globals of a module, and arrives as those of the process where it does."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _globals_of, (self._name,)


# --- reading ------------------------------------------------------------------------------------

#: Globals that came along with code, as they came.
_came: dict[str, Any] = {}


def _globals_of(name: str) -> dict[str, Any]:
    return vars(importlib.import_module(name))


def _complete(function: FunctionType, state: tuple[Any, ...]) -> None:
    set_state, attributes, slots, brought, newer = state
    set_state(function, (attributes, slots))
    namespace = function.__globals__
    for name, value in brought.items():
        # A name that is here already is this process's own, unless it came this way and was not
        # changed since. Towards a fork only what has changed there is sent: it is newer.
        if newer or name not in namespace or namespace[name] is _came.get(name, _ABSENT):
            namespace[name] = _came[name] = value


# --- functions that go to the workers of a pool -------------------------------------------------

#: A longer pickle lies in the arena once, and not in the message of each task.
_INLINE = 16 * 1024

#: How many functions a worker keeps, for the tasks to come.
_KEPT = 4

_numbers = itertools.count()


class Carried:
    """A function that goes to workers by value: pickled once, and unpickled once in each of them.

    It keeps the shared objects that it refers to until it is dropped.

    Args:
        function: Anything that can be called.
        main: What the workers have of the main module.
        in_arena: It goes through the engine's own channels, and may leave a long pickle in the
            arena.
    """

    def __init__(self, function: Any, main: Main, in_arena: bool = True) -> None:
        file = io.BytesIO()
        with _sidestep.Collector() as self._refs:
            dump(function, file, main)
        self._key = (os.getpid(), next(_numbers))
        self._pickle: Any = file.getvalue()
        if in_arena and len(self._pickle) > _INLINE:
            from .heap import BufferWrapper

            block = BufferWrapper(len(self._pickle))
            block.create_memoryview()[:] = self._pickle
            self._pickle = block

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _unpack, (self._key, self._pickle)


_kept: dict[tuple[int, int], Any] = {}
_keeping = threading.Lock()


def _unpack(key: tuple[int, int], data: bytes | BufferWrapper) -> Any:
    with _keeping:
        if key in _kept:
            return _kept[key]
    function = pickle.loads(data if isinstance(data, bytes) else data.create_memoryview())
    with _keeping:
        while len(_kept) >= _KEPT:
            del _kept[next(iter(_kept))]
        _kept[key] = function
    return function


class Exporter:
    """Brings the functions that a pool is given into a form in which its workers can have them.

    Args:
        forked: The workers are forks of this process.
        in_arena: As for `Carried`.
    """

    def __init__(self, forked: bool, in_arena: bool = True) -> None:
        self._main = Main(forked)
        self._in_arena = in_arena

    def export(self, function: Any) -> Any:
        """Return `function` itself if its name will do, or it by value."""
        if isinstance(function, FunctionType | type):
            named = self._main.has(function)
        else:
            # What pickle says is known when the task is submitted, so it is not asked here; but
            # it would not refuse a name out of a main module that was typed in.
            named = not self._main.typed_in or _names_hold(function, self._main)
        return function if named else self._carry(function)

    def export_refused(self, function: Any) -> Any:
        """Return `function` by value if it cannot go otherwise; None if that is not the matter."""
        if isinstance(function, Carried) or _names_hold(function, self._main):
            return None
        return self._carry(function)

    def _carry(self, function: Any) -> Any:
        try:
            return Carried(function, self._main, self._in_arena)
        except ImportError:
            # Without cloudpickle: pickle then says what it has against the function.
            return function
