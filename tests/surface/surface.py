"""Prints the public surface of a package that is built like multiprocessing, as JSON.

Run by itself, once per package, so that neither sees the other:
`python surface.py multiprocessing`.
"""

import importlib
import inspect
import json
import pkgutil
import sys
from types import ModuleType
from typing import Any

# Not for this system, in either package.
ELSEWHERE = "popen_spawn_win32"
# What is neither a class nor can be called, and what can be called but tells no signature.
VALUE = "a value"
UNKNOWN = "unknown"
# Made by these, to see what the objects themselves have: some get their methods when they are made.
FACTORIES: dict[str, tuple[Any, ...]] = {
    "Array": ("i", 1),
    "Barrier": (1,),
    "BoundedSemaphore": (),
    "Condition": (),
    "Event": (),
    "JoinableQueue": (),
    "Lock": (),
    "Pool": (1,),
    "Process": (),
    "Queue": (),
    "RLock": (),
    "Semaphore": (),
    "RawArray": ("i", 1),
    "RawValue": ("i",),
    "SimpleQueue": (),
    "Value": ("i",),
    "current_process": (),
    "get_context": ("spawn",),
    "get_logger": (),
}


def modules(package: str) -> list[str]:
    """The names of the package's modules, without its own; "" is the package itself."""
    root = importlib.import_module(package)
    found = pkgutil.walk_packages(root.__path__, f"{package}.")
    names = (module.name.removeprefix(f"{package}.") for module in found)
    return ["", *sorted(n for n in names if not n.startswith("_") and n != ELSEWHERE)]


def signature(function: Any) -> list[list[str]] | str:
    """Name, kind and default ("" for none) of each parameter but `self` and `cls`."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return UNKNOWN
    if parameters and parameters[0].name in ("self", "cls"):
        del parameters[0]
    return [
        [p.name, p.kind.name, "" if p.default is p.empty else default(p.default)]
        for p in parameters
    ]


def default(value: Any) -> str:
    """A default as text; of an object that is no plain value only the class is compared."""
    if value == () or isinstance(value, None | bool | int | float | str | bytes):
        return repr(value)
    return type(value).__name__


def is_public(name: str) -> bool:
    return not name.startswith("_")


def of_class(cls: type) -> dict[str, Any]:
    """Public methods with their signatures, other members as values; and the constructor."""
    members: dict[str, Any] = {"()": signature(cls)}
    if issubclass(cls, BaseException):
        members["bases"] = [
            base.__name__ for base in cls.__mro__ if not base.__module__.endswith("._original")
        ]
    for name in filter(is_public, dir(cls)):
        value = inspect.getattr_static(cls, name)
        function = value.__func__ if isinstance(value, staticmethod | classmethod) else value
        members[name] = signature(function) if callable(function) else VALUE
    return members


def of_module(module: ModuleType, package: str) -> dict[str, Any]:
    """`__all__`, and each public name that the module has of itself or lists there."""
    listed = list(getattr(module, "__all__", ()))
    names: dict[str, Any] = {}
    for name in sorted(set(listed) | set(filter(is_public, vars(module)))):
        value = getattr(module, name)
        home = getattr(value, "__module__", package) or package
        ours = home.split(".")[0] in (package, "_" + package, "__main__")
        if isinstance(value, ModuleType) or not (name in listed or ours):
            continue
        if name == "TYPE_CHECKING":
            continue
        if inspect.isclass(value):
            names[name] = of_class(value)
        elif callable(value):
            names[name] = signature(value)
        else:
            names[name] = repr(value) if isinstance(value, int | str | float) else VALUE
    return {"all": sorted(listed), "names": names}


def main(package: str) -> None:
    surface: dict[str, Any] = {}
    for name in modules(package):
        module = importlib.import_module(f"{package}.{name}" if name else package)
        surface[name or "the package"] = of_module(module, package)
    root = importlib.import_module(package)
    objects = {name: getattr(root, name)(*args) for name, args in FACTORIES.items()}
    receiver, sender = root.Pipe()
    objects["Pipe()[0]"] = receiver
    instances = {name: of_object(made) for name, made in objects.items()}
    objects["Pool"].terminate()
    receiver.close()
    sender.close()
    surface["objects"] = {"all": [], "names": instances}
    json.dump(surface, sys.stdout)


def of_object(made: Any) -> dict[str, Any]:
    """What one can reach through an object: its methods are bound, and some are its very own."""
    members = {}
    for name in filter(is_public, dir(made)):
        try:
            value = getattr(made, name)
        except Exception:  # a property that this object, in this state, cannot tell
            value = None
        members[name] = signature(value) if callable(value) else VALUE
    return members


if __name__ == "__main__":
    if sys.argv[1] != "multiprocessing":
        # Out of reach, so that nothing is seen which comes from there.
        sys.modules["multiprocessing"] = ModuleType("multiprocessing")
    main(sys.argv[1])
