"""Runs an unmodified program: `python -m sidestep script.py` is `python script.py`, and its
`multiprocessing` is this package.

The process goes on, by exec, as the running interpreter's shadow (see `_shadow`) with the
command line that is left. So all that Python makes of it, from `__main__` to tracebacks and
exit statuses, is made by Python itself.
"""

import os
import sys

from . import _shadow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence
    from typing import NoReturn

__all__ = ["main"]

_DESCRIPTION = """\
Run a Python program whose multiprocessing, and that of every process it starts, is sidestep.
What comes after the options is what would come after `python`: a script and its arguments,
-m and a module, -c and a command, - for standard input, also -i or other options of Python's.
"""
_COMMANDS = """\
commands:
  doctor [--json]       say what this machine has and lacks; needed when asking for help
"""


def main() -> int:
    """Do what the command line says; return only with an exit status."""
    own, rest = _split(sys.argv[1:])
    if own:
        options = _parse(own)
        if options.start_method is not None:
            os.environ["SIDESTEP_START_METHOD"] = options.start_method
    if not rest:
        if sys.stdin is None or sys.stdin.isatty():
            _parse(["--help"])
        # A program comes in by standard input, as to python.
        rest = ["-"]
    if rest[0] != "doctor":
        _run(rest)

    from . import _doctor

    return _doctor.main(rest[1:])


def _split(arguments: "Sequence[str]") -> "tuple[list[str], list[str]]":
    """Part our options, of which all but one begin with two hyphens, from what is Python's."""
    at = 0
    while at < len(arguments) and (arguments[at].startswith("--") or arguments[at] == "-h"):
        at += 2 if arguments[at] == "--start-method" else 1
    return list(arguments[:at]), list(arguments[at:])


def _parse(own: "Sequence[str]") -> "Namespace":
    # Not needed in most runs, and then not paid for.
    import argparse

    class ShowVersion(argparse.Action):
        def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
            from ._doctor import version

            print(f"sidestep {version()}")
            parser.exit()

    parser = argparse.ArgumentParser(
        prog="python -m sidestep",
        usage="%(prog)s [options] script.py | -m module | -c command | - [arguments]\n"
        "       %(prog)s doctor [--json]",
        description=_DESCRIPTION,
        epilog=_COMMANDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--start-method",
        choices=("fork", "spawn", "forkserver"),
        help="how the program starts processes unless it says so itself",
    )
    parser.add_argument("--version", action=ShowVersion, nargs=0, help="print it and exit")
    return parser.parse_args(own)


def _run(arguments: "Sequence[str]") -> "NoReturn":
    try:
        shadow = _shadow.interpreter()
        _shadow.enter_environment(shadow, os.environ)
        os.execv(shadow, [shadow, *_flags(), *arguments])
    except OSError as error:
        sys.exit(f"python -m sidestep: {error}")


def _flags() -> "list[str]":
    """The options of Python's that stood before `-m sidestep`, as they were written."""
    count = len(sys.orig_argv) - len(sys.argv[1:])
    *flags, last = sys.orig_argv[1:count]
    if flags and not last.startswith("-"):
        # The module's name, and before it what ends in the option's letter: -m, or -Bm.
        last = flags.pop().removesuffix("m")
    else:
        # Both in one word: -msidestep, or -Bmsidestep.
        last = last[: last.rindex("m" + __package__)]
    return flags if last == "-" else [*flags, last]


if __name__ == "__main__":
    sys.exit(main())
