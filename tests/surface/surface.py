"""Prints the public surface of a package that is built like multiprocessing, as JSON.

Run by itself, once per package, so that neither sees the other:
`python surface.py multiprocessing`.
"""

import importlib
import inspect
import json
import sys
from types import ModuleType
from typing import Any

MODULES = (
    "",
    "connection",
    "context",
    "dummy",
    "dummy.connection",
    "forkserver",
    "heap",
    "managers",
    "pool",
    "process",
    "queues",
    "reduction",
    "resource_sharer",
    "resource_tracker",
    "shared_memory",
    "sharedctypes",
    "spawn",
    "synchronize",
    "util",
)
# Made by these, to see what the objects themselves have: some get their methods when they are made.
FACTORIES: dict[str, tuple[Any, ...]] = {
    "Array": ("i", 1),
    "Barrier": (1,),
    "BoundedSemaphore": (),
    "Condition": (),
    "Event": (),
    "JoinableQueue": (),
    "Lock": (),
    "Process": (),
    "Queue": (),
    "RLock": (),
    "Semaphore": (),
    "SimpleQueue": (),
    "Value": ("i",),
}


def signature(function: Any) -> list[list[str]] | None:
    """Name, kind and default ("" for none) of each parameter but `self` and `cls`.

    None: unknown, as for many functions in C.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
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
    """Public methods with their signatures, other members with None; and the constructor."""
    members: dict[str, Any] = {"()": signature(cls)}
    if issubclass(cls, BaseException):
        members["bases"] = [
            base.__name__ for base in cls.__mro__ if not base.__module__.endswith("._original")
        ]
    for name in filter(is_public, dir(cls)):
        value = inspect.getattr_static(cls, name)
        function = value.__func__ if isinstance(value, staticmethod | classmethod) else value
        members[name] = signature(function) if callable(function) else None
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
            names[name] = repr(value) if isinstance(value, int | str | float) else None
    return {"all": sorted(listed), "names": names}


def main(package: str) -> None:
    surface: dict[str, Any] = {}
    for name in MODULES:
        module = importlib.import_module(f"{package}.{name}" if name else package)
        surface[name or "the package"] = of_module(module, package)
    root = importlib.import_module(package)
    objects = {name: getattr(root, name)(*args) for name, args in FACTORIES.items()}
    receiver, sender = root.Pipe()
    objects["Pipe()[0]"] = receiver
    instances = {name: {n: None for n in dir(o) if is_public(n)} for name, o in objects.items()}
    receiver.close()
    sender.close()
    surface["objects"] = {"all": [], "names": instances}
    json.dump(surface, sys.stdout)


if __name__ == "__main__":
    if sys.argv[1] != "multiprocessing":
        # Out of reach, so that nothing is seen which comes from there.
        sys.modules["multiprocessing"] = ModuleType("multiprocessing")
    main(sys.argv[1])
