"""Makes an interpreter whose `multiprocessing` is this package: the running one's *shadow*.

A program's descendants may be started by anybody in any way, with flags that keep the
environment and even site-packages out. All of them, though, begin with the standard library. So
a shadow is a directory of a few small files that looks like an installed Python:

```text
bin/python3.11           -> the real interpreter
pyvenv.cfg               has the interpreter look here for its library
lib/python3.11/os.py     empty: by this file the interpreter recognises its library
lib/python3.11/encodings/__init__.py
                         what every interpreter runs first: puts the real library in this
                         one's place, and the finder that answers for `multiprocessing`
overlay/multiprocessing/__init__.py
                         on PYTHONPATH, for interpreters that are called by their real name
```

Only `sys.executable` and `multiprocessing` are different in it: sys.path, the prefixes, the
virtual environment and `__file__` of every module are the real interpreter's.

Shadows lie in the user's cache and are used again. The name holds a sum of the contents, so one
that exists fits, and several versions do not disturb each other. They may be deleted whenever no
program runs in them.
"""

import binascii
import contextlib
import os
import stat
import sys
import time

from . import _alias

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping

__all__ = ["enter_environment", "interpreter"]

_PACKAGE = os.path.dirname(os.path.abspath(__file__))
_PLACE = os.path.dirname(_PACKAGE)

# What a build that was killed has left is swept by another one after this time.
_BUILD_S = 3600

# Read by any Python from 2.7 on. One that the package does not suit goes without it.
_OVERLAY = """\
import os
import sys
sys.path[:] = [entry for entry in sys.path if entry != {overlay!r}]
sys.path.append({place!r})
try:
    if sys.version_info < (3, 11):
        raise ImportError("the package needs Python 3.11")
    import sidestep
    from sidestep import _alias
except ImportError:
    stand_in = sys.modules.pop("multiprocessing")  # kept: Python 2 would clear these names
    __import__("multiprocessing")
else:
    _alias.install(os.path.dirname(os.path.dirname(os.path.abspath(_alias.__file__))))
    sys.modules["multiprocessing"] = sidestep
finally:
    sys.path.remove({place!r})
"""


def interpreter() -> str:
    """Return the path of the running interpreter's shadow, which is made if there is none.

    In a shadow, return its own path.

    Raises:
        OSError: There is nowhere to make it, or nobody knows where the interpreter is.
    """
    for finder in sys.meta_path:
        if shadow := getattr(finder, "shadow", None):
            return str(shadow)
    if not sys.executable:
        raise OSError("the running interpreter has no path (sys.executable is empty)")
    refusals = []
    for cache in _caches():
        try:
            _own(cache)
            root = _made_in(cache)
        except OSError as refusal:
            refusals.append(str(refusal))
        else:
            return os.path.join(root, "bin", os.path.basename(sys.executable))
    raise OSError(
        "there is no directory to keep a few small files in; set XDG_CACHE_HOME to one that "
        f"only you can write to ({'; '.join(refusals)})"
    )


def enter_environment(shadow: str, environ: "MutableMapping[str, str]") -> None:
    """Change the environment so that interpreters called by other names are caught, too."""
    bin_directory = os.path.dirname(shadow)
    overlay = os.path.join(os.path.dirname(bin_directory), "overlay")
    _prepend("PYTHONPATH", overlay, environ)
    # A program that calls another Python by these names shall get that other one.
    own = os.path.dirname(sys.executable)
    for entry in os.get_exec_path(environ):
        if any(os.access(f"{entry}/{name}", os.X_OK) for name in ("python3", "python")):
            if os.path.samefile(entry, own):
                _prepend("PATH", bin_directory, environ)
            break
    # It would lead past the shadow, which has what it says written down.
    environ.pop("PYTHONHOME", None)


def _prepend(name: str, entry: str, environ: "MutableMapping[str, str]") -> None:
    entries = environ[name].split(os.pathsep) if environ.get(name) else []
    if entries[:1] != [entry]:
        environ[name] = os.pathsep.join([entry, *entries])


# --- where ----------------------------------------------------------------------------------


def _caches() -> "Iterator[str]":
    """Directories for shadows, the best one first."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):
        cache = os.path.expanduser("~/.cache")
    yield os.path.join(cache, "sidestep")

    import tempfile

    yield os.path.join(tempfile.gettempdir(), f"sidestep-{os.geteuid()}")


def _own(cache: str) -> None:
    """Make the directory, or see that the one that is there is ours and nobody else's.

    Raises:
        OSError: It is not, or cannot be made.
    """
    os.makedirs(os.path.dirname(cache), exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(cache, 0o700)
    found = os.lstat(cache)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(f"{cache!r} is not a directory that only this user can write to")


# --- what -----------------------------------------------------------------------------------


def _contents(root: str) -> "dict[str, tuple[Callable[[str], str], str]]":
    """What a shadow at `root` consists of: each file's path, how to read it, what it says."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    library = f"{sys.platlibdir}/{version}"
    stdlib = f"{sys.base_prefix}/{library}"
    facts = {
        "root": root + os.sep,
        "place": _PLACE,
        "executable": sys.executable,
        "library": [
            f"{sys.base_prefix}/{sys.platlibdir}/{version.replace('.', '')}.zip",
            stdlib,
            f"{sys.base_exec_prefix}/{library}/lib-dynload",
        ],
        "stdlib": stdlib,
        "prefixes": [sys.base_prefix, sys.base_exec_prefix],
    }
    overlay = f"{root}/overlay"
    texts = {
        "pyvenv.cfg": f"home = {root}/bin\n",
        f"{library}/os.py": "",
        f"{library}/lib-dynload/README": "By this directory the interpreter knows its library.\n",
        f"{library}/encodings/__init__.py": f"{_read(_alias.__file__)}\n\nenter(**{facts!r})\n",
        "overlay/multiprocessing/__init__.py": _OVERLAY.format(overlay=overlay, place=_PLACE),
    }
    own = os.path.realpath(sys.executable)
    bin_directory, name = os.path.split(sys.executable)
    names = {"python", f"python{sys.version_info[0]}", version, name}
    links = {
        f"bin/{name}": own
        for name in sorted(names)
        if os.path.realpath(f"{bin_directory}/{name}") == own
    }
    return {
        **{path: (_read, text) for path, text in texts.items()},
        **{path: (os.readlink, target) for path, target in links.items()},
    }


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def _is_made(root: str) -> bool:
    try:
        return all(
            read(f"{root}/{path}") == expected for path, (read, expected) in _contents(root).items()
        )
    except (OSError, ValueError):
        return False


def _made_in(cache: str) -> str:
    """Return the shadow in the directory `cache`, after making or mending it if need be."""
    said = {path: expected for path, (_, expected) in _contents("").items()}
    root = f"{cache}/{binascii.crc32(repr(said).encode('utf-8', 'surrogateescape')):08x}"
    if not _is_made(root):
        _sweep(cache)
        import tempfile

        new = tempfile.mkdtemp(prefix="new-", dir=cache)
        try:
            _write(new, root)
            _put(new, root)
        finally:
            _remove(new)
    return root


def _write(new: str, root: str) -> None:
    """Write at `new` what shall be a shadow at `root`."""
    for path, (read, expected) in _contents(root).items():
        os.makedirs(os.path.dirname(f"{new}/{path}"), exist_ok=True)
        if read is os.readlink:
            os.symlink(expected, f"{new}/{path}")
        else:
            with open(f"{new}/{path}", "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(expected)


def _put(new: str, root: str) -> None:
    """Move `new` to `root`, unless another process has been there meanwhile."""
    try:
        os.rename(new, root)
    except OSError:
        if not _is_made(root):
            # Damaged, so that nothing can be running in it.
            _remove(root)
            os.rename(new, root)


def _sweep(cache: str) -> None:
    """Remove what builds that were killed have left."""
    with os.scandir(cache) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.name.startswith("new-") and (
                    entry.stat(follow_symlinks=False).st_mtime < time.time() - _BUILD_S
                ):
                    _remove(entry.path)


def _remove(directory: str) -> None:
    # Needed for a build only: a run shall not wait for the import.
    import shutil

    shutil.rmtree(directory, ignore_errors=True)
