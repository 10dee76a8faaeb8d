"""What the parent tells a fresh interpreter, and how that becomes the child.

The parent writes two pickles into a file that lives in memory: the preparation data, then
the process object; at its end where the second one begins. The child is an interpreter with the
parent's flags that runs `spawn_main`. The fork server's children come in by `_main`, below that.
"""

from __future__ import annotations

import _frozen_importlib_external as files
import io
import os
import sys
from _pickle import load, loads

from . import _original, _sidestep, process, util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType
    from typing import Any

__all__ = [
    "_main",
    "freeze_support",
    "get_command_line",
    "get_executable",
    "get_preparation_data",
    "import_main_path",
    "set_executable",
]

# Marks the command line of a child; those who freeze programs look for it.
_MARK = "--multiprocessing-fork"
# How the program of a helper process begins, where the executable is frozen.
_HELPER = f"from {__package__}."

# --- the interpreter ----------------------------------------------------------------------------

_python_exe: bytes | None = None


def set_executable(exe: str | bytes | os.PathLike[Any] | None) -> None:
    """Set the interpreter that children run."""
    global _python_exe
    _python_exe = None if exe is None else os.fsencode(exe)


def get_executable() -> bytes | None:
    """Return the interpreter that children run; None where an embedding program has none."""
    return _python_exe


set_executable(sys.executable)


def is_forking(argv: Sequence[str]) -> bool:
    """Tell whether a command line is that of a child."""
    return len(argv) >= 2 and argv[1] == _MARK


def freeze_support() -> None:
    """In a child or a helper process of a frozen executable, do its work and exit; else nothing."""
    if is_forking(sys.argv):
        words = (word.split("=") for word in sys.argv[2:])
        numbers: dict[str, Any] = {
            name: None if value == "None" else int(value) for name, value in words
        }
        spawn_main(**numbers)
    elif _is_frozen() and sys.argv[-2:-1] == ["-c"] and sys.argv[-1].startswith(_HELPER):
        exec(sys.argv[-1], {})
        sys.exit()


def get_command_line(**kwds: int | None) -> list[Any]:
    """Return the command line of a child that calls `spawn_main(**kwds)`."""
    if _is_frozen():
        return [sys.executable, _MARK, *(f"{name}={value!r}" for name, value in kwds.items())]
    arguments = ", ".join(f"{name}={value!r}" for name, value in kwds.items())
    return [*_calling("spawn", "spawn_main", arguments), _MARK]


def _is_frozen() -> bool:
    """Tell whether interpreter and program are one executable, which takes no options."""
    return bool(getattr(sys, "frozen", False))


def _calling(module: str, function: str, arguments: str) -> list[Any]:
    """The command line of a process that calls a function of this package."""
    if _python_exe is None:
        raise RuntimeError(
            "there is no interpreter to run children with (sys.executable is empty): "
            "call set_executable() first"
        )
    program = f"{_HELPER}{module} import {function}; {function}({arguments})"
    if not _is_frozen():
        # The package may lie where a bare interpreter with our flags does not look: sys.path was
        # changed, or -S is among the flags. So its place is added, after all others.
        place = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        program = f"import sys; sys.path.append({place!r}); {program}"
    return [get_executable(), *util._args_from_interpreter_flags(), "-c", program]


# --- in the child -------------------------------------------------------------------------------


def spawn_main(
    pipe_handle: int,
    parent_fd: int | None = None,
    arena_fd: int | None = None,
) -> None:
    """Be the child of a parent that spawned this interpreter, then exit.

    Args:
        pipe_handle: Descriptor of what the parent has written.
        parent_fd: Descriptor that polls readable when the parent has ended.
        arena_fd: The family's arena.
    """
    if not is_forking(sys.argv):
        raise RuntimeError("spawn_main is for children that the package has started")
    if arena_fd is not None:
        # Before anything is unpickled, as anything may refer to it.
        _sidestep.attach(arena_fd)
    sys.exit(_main(pipe_handle, parent_fd))


def _main(fd: int, parent_sentinel: int | None) -> int:
    """Read the process object from `fd`, be that process, and return its exit status."""
    current: Any = process._home._current_process
    current._inheriting = True
    data: dict[str, Any] = {}
    try:
        # A file object takes many pages more, each of which is copied for a forked child.
        written = _read(fd)
        file = os.fdopen(fd, "rb") if written is None else None
        data = loads(written) if file is None else load(file)
        if "blocked_signals" in data:
            _sidestep.block_signals(data["blocked_signals"])
        if data.get("dies_with_parent") and parent_sentinel is not None:
            # Before the main module is imported, which may take as long as it likes.
            _sidestep.die_at_end_of(parent_sentinel)
        prepare(data)
        self: process.BaseProcess
        if file is None:
            self = loads(written[int.from_bytes(written[-_PLACE:], "little") :])
        else:
            with file:
                self = load(file)
    except KeyboardInterrupt as interrupt:
        process._report_interrupt(data.get("name", "starting"), interrupt)
        return 1
    finally:
        del current._inheriting
    return self._bootstrap(parent_sentinel)


def _read(fd: int) -> Any:
    """Return what the parent has written, and close it; None if that is long, or a pipe."""
    size = os.fstat(fd).st_size
    if not 0 < size <= _READ_WHOLE:
        return None
    written = os.pread(fd, size, 0)
    os.close(fd)
    return written


_READ_WHOLE = 1 << 16
# How many bytes tell where the second pickle begins.
_PLACE = 8


def _check_not_importing_main() -> None:
    if getattr(process.current_process(), "_inheriting", False):
        raise RuntimeError(
            "a process was about to be started while this one, itself a child, is still "
            "importing the main module. Children that are not forked from their parent "
            "import the main script first, so whatever starts processes there has to stand "
            "under\n\n"
            '    if __name__ == "__main__":\n'
            "        ...\n\n"
            "or it would run again in every child, and in theirs. In a program that is "
            "frozen into an executable, call freeze_support() first in that place."
        )


# --- preparation --------------------------------------------------------------------------------


def get_preparation_data(name: str) -> dict[str, Any]:
    """Return what a child has to know before it can unpickle its process object.

    Tools replace this function to add entries of their own; all are carried to the child.
    """
    _check_not_importing_main()
    from . import context

    data: dict[str, Any] = {
        "name": name,
        "authkey": process.current_process().authkey,
        "log_to_stderr": util._log_to_stderr,
        "sys_path": [_absolute(entry) for entry in sys.path],
        "sys_argv": sys.argv,
        "orig_dir": process.ORIGINAL_DIR,
        "start_method": context._default_context.get_start_method(),
    }
    if util._logger is not None:
        data["log_level"] = util._logger.getEffectiveLevel()
    # Removed under us, there is no name for it: the child stays where it finds itself.
    try:
        data["dir"] = os.getcwd()
    except FileNotFoundError:
        pass
    data.update(_main_origin())
    wrapper = _original.replaced("spawn", "get_preparation_data")
    if wrapper is not None:
        # A tool has something to say to the original's children: ours are told as well.
        data = {**wrapper(name), **data}
    return data


def _main_origin() -> dict[str, str]:
    """The preparation data's entry that tells where the main module comes from.

    Empty where there is no such place: a prompt, `python -c`, a program on stdin.
    """
    main = sys.modules["__main__"]
    name: str | None = getattr(getattr(main, "__spec__", None), "name", None)
    if name is not None:
        return {"init_main_from_name": name}
    path: str | None = getattr(main, "__file__", None)
    if path is None or path.startswith("<"):
        return {}
    if process.ORIGINAL_DIR is not None:
        path = os.path.join(process.ORIGINAL_DIR, path)
    return {"init_main_from_path": os.path.normpath(path)}


# The main script as it was compiled last, and the state of its file then.
_compiled: tuple[tuple[object, ...], bytes | None] = ((), None)


def _compiled_main(path: str) -> tuple[object, bytes] | None:
    """Return the script at `path` for children that are to run it, and what can read that.

    Compiling takes longer than most children need for all the rest, so this is done once, and
    again when the file has changed. None if there is no such script, or it does not compile: the
    child then says what is wrong.
    """
    global _compiled
    if not path.endswith(".py"):
        return None
    try:
        status = os.stat(path)
        state = (path, status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev)
        if _compiled[0] != state:
            import marshal

            _compiled = (state, None)
            with io.open_code(path) as file:
                code = compile(file.read(), path, "exec", dont_inherit=True)
            _compiled = (state, marshal.dumps(code))
    except (OSError, SyntaxError, ValueError):
        return None
    return None if _compiled[1] is None else (_READER, _compiled[1])


# Who can read compiled code as it is made here: children may run another interpreter.
_READER = (sys.implementation.cache_tag, files.MAGIC_NUMBER, sys.flags.optimize)


def _child_gets_main() -> bool:
    """Tell whether a child of ours will have the main module's functions and classes."""
    origin = _main_origin()
    name, path = origin.get("init_main_from_name"), origin.get("init_main_from_path")
    if name is not None:
        return not _works_when_imported(name)
    return path is not None and not _is_ipython(path)


def _absolute(entry: Any) -> Any:
    """An entry of sys.path, '' replaced by the directory that it meant at the start."""
    return process.ORIGINAL_DIR if entry == "" and process.ORIGINAL_DIR is not None else entry


# What was __main__ before: its functions may still run, and would find their globals gone.
old_main_modules: list[ModuleType] = []


def prepare(data: dict[str, Any]) -> None:
    """Make this process like the one that the preparation data comes from.

    Entries that it does not know are left alone: unpickling them was their point.
    """
    current = process._home._current_process
    if "name" in data:
        # As its property would, in fewer steps.
        if not _original._logging_told:
            _original.tell_logging()
        current._name = data["name"]
    if "authkey" in data:
        current.authkey = data["authkey"]
    if data.get("log_to_stderr"):
        util.log_to_stderr()
    if "log_level" in data:
        util.get_logger().setLevel(data["log_level"])
    if "sys_path" in data:
        sys.path = data["sys_path"]
    if "sys_argv" in data:
        sys.argv = data["sys_argv"]
    if "dir" in data:
        os.chdir(data["dir"])
    if "orig_dir" in data:
        process._home.ORIGINAL_DIR = data["orig_dir"]
    for name, descriptor in data.get("trackers", ()):
        _module(name)._resource_tracker._fd = descriptor.detach()
    if "start_method" in data:
        if process._context is None:
            process._load()
        process._context._force_start_method(data["start_method"])
    if "init_main_from_name" in data:
        _fixup_main_from_name(data["init_main_from_name"])
    elif "init_main_from_path" in data:
        _fixup_main_from_path(data["init_main_from_path"], data.get("main_code"))


def _module(name: str) -> Any:
    __import__(name)
    return sys.modules[name]


def _fixup_main_from_name(mod_name: str) -> None:
    """Have the module `mod_name` as the main one, as `python -m` gave it to the parent."""
    if _works_when_imported(mod_name):
        return
    # Set already where the fork server has preloaded it.
    if getattr(sys.modules["__main__"].__spec__, "name", None) != mod_name:
        import runpy

        _set_main(runpy.run_module(mod_name, run_name="__mp_main__", alter_sys=True))


def _fixup_main_from_path(main_path: str, compiled: tuple[object, bytes] | None = None) -> None:
    """Have the script at `main_path`, which may come `compiled`, as the main module."""
    if getattr(sys.modules["__main__"], "__file__", None) == main_path:
        # The fork server has preloaded it.
        return
    if not _is_ipython(main_path):
        _set_main(_run_path(main_path, compiled))


def _run_path(main_path: str, compiled: tuple[object, bytes] | None) -> dict[str, Any]:
    """Run what is at `main_path` as a main module, and return its globals."""
    if not main_path.endswith(".py") or not os.path.isfile(main_path):
        # A folder, an archive, compiled code or who knows what.
        import runpy

        return runpy.run_path(main_path, run_name="__mp_main__")
    # As there, without what it imports for all the other cases: each child would wait for it.
    if compiled is not None and compiled[0] == _READER:
        import marshal

        code = marshal.loads(compiled[1])
    else:
        with io.open_code(main_path) as file:
            code = compile(file.read(), main_path, "exec", dont_inherit=True)
    module = type(sys)("__mp_main__")
    content = vars(module)
    content.update(__file__=main_path, __cached__=None, __package__="")
    argv, main = sys.argv[:1], sys.modules.get("__mp_main__")
    sys.argv[:1], sys.modules["__mp_main__"] = [main_path], module
    try:
        exec(code, content)
    finally:
        sys.argv[:1] = argv
        if main is not None:
            sys.modules["__mp_main__"] = main
    return content


def _works_when_imported(mod_name: str) -> bool:
    """Tell whether it is a package's __main__.py: those have no guard, and no other part."""
    return mod_name.rpartition(".")[2] == "__main__"


def _is_ipython(main_path: str) -> bool:
    """Tell whether it is the ipython launcher, which in old versions has no guard either."""
    return os.path.splitext(os.path.basename(main_path))[0] == "ipython"


def _set_main(content: dict[str, Any]) -> None:
    """Have a module with `content` as the main one.

    It runs under a name other than "__main__", which keeps what is under its guard from
    running, and answers to both names.
    """
    old_main_modules.append(sys.modules["__main__"])
    module = type(sys)("__mp_main__")
    vars(module).update(content)
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module


def import_main_path(main_path: str) -> None:
    """Have the script at `main_path` as the main module."""
    _fixup_main_from_path(main_path)
